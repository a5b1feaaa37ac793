"""The answer out of a response.

What stands inside `<think>` is ignored, tags included. After it: exactly one `<answer>`, its
`\\boxed{}` unwrapped; else, where there is no `<answer>` at all, exactly one `\\boxed{}`; else
none. All scans are linear in the length of the response.
"""

import re
from itertools import islice

from visual_r1.grading.spelling import matching_brace, unboxed

_OPEN, _CLOSE = "<think>", "</think>"
_BOX = re.compile(r"\\boxed\s*\{")


def extract_answer(response: str) -> str | None:
    """The text of the answer in `response`, stripped; None where there is none or more than one.

    A response to a prompt that already opened `<think>` starts inside it: what stands before a
    `</think>` without a `<think>` is ignored as well.
    """
    spoken = _after_thinking(response)
    if spoken is None:
        return None
    if "<answer>" in spoken or "</answer>" in spoken:
        if spoken.count("<answer>") != 1 or spoken.count("</answer>") != 1:
            return None
        _, _, after = spoken.partition("<answer>")
        inside, closed, _ = after.partition("</answer>")
        return (unboxed(inside.strip()) or None) if closed else None
    boxes = list(islice(_BOX.finditer(spoken), 2))
    if len(boxes) != 1:
        return None
    start = boxes[0].end()
    end = matching_brace(spoken, start)
    return None if end is None else spoken[start:end].strip() or None


def is_all_thought(response: str) -> bool:
    """Whether the last thought of `response` never ends: it was cut off before anything was said.

    A response that begins inside a thought has to be given with its `<think>`.
    """
    return response.rfind(_OPEN) > response.rfind(_CLOSE)


def _after_thinking(response: str) -> str | None:
    """What follows the last thought; None where it never ends, or an answer stands before it."""
    opened, closed = response.find(_OPEN), response.find(_CLOSE)
    start = 0
    if closed >= 0 and (opened < 0 or closed < opened):
        start = closed + len(_CLOSE)
    said: list[str] = []
    while (opened := response.find(_OPEN, start)) >= 0:
        said.append(response[start:opened])
        closed = response.find(_CLOSE, opened)
        if closed < 0:
            return None
        start = closed + len(_CLOSE)
    rest = response[start:]
    if _CLOSE in rest:  # a thought inside a thought: only what follows the outer one is spoken
        inside, _, rest = rest.rpartition(_CLOSE)
        said.append(inside)
    if any("<answer>" in text or "</answer>" in text for text in said):
        return None
    return rest
