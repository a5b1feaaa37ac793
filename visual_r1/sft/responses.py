"""A problem's response as the tokens that the policy would have sampled.

The text is tokenised as it stands, `<think>` and the other added tokens that are not special as
themselves, and ends with the model's stop token. Where the prompt opens the thought already, a
response need not, and may not, open it again. The name of a special token in a response
(`<|im_end|>`, an image's place) would be control that nobody meant: such a row is left out.

The worked solutions of generated problems (`meta.solution`) have no tags. They are learnt in those
that the prompt template asks for, with the answer in its own; see `Responses`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import cast

from visual_r1.data.problem import Problem
from visual_r1.grading import extract_answer
from visual_r1.policy.policy import Policy
from visual_r1.rewards import RewardInput, format_ok
from visual_r1.rewards.grounding import opened
from visual_r1.rewards.scoring import grade_of
from visual_r1.sft.settings import name_in_meta

_THINK = "<think>"
_SOLUTION = "solution"


@dataclass(frozen=True, slots=True)
class Look:
    """What a response is, held against its problem.

    `fault` says why it cannot be learnt from, and is empty where it can; only then the others say
    something. `formed`: it has the tags of the prompt template, as the format reward wants them.
    `answered`: the grader finds an answer in it. `another`: and that is not the gold one.
    """

    fault: str = ""
    formed: bool = True
    answered: bool = True
    another: bool = False


class Responses:
    """Reads the responses of a run's problems; `column` is that of `sft.responses`.

    `in_tags` puts the worked solutions of generated problems into the tags that the prompt template
    asks for; without it they are learnt bare, as every other response is learnt as it stands.
    """

    def __init__(self, policy: Policy, column: str, *, in_tags: bool) -> None:
        self._policy, self._column = policy, column
        self._in_tags = in_tags and name_in_meta(column) == _SOLUTION
        added = policy.processor.tokenizer.added_tokens_decoder
        self._control = [str(token) for token in added.values() if token.special]

    @property
    def form(self) -> str:
        """What the prompt template asks a response to look like."""
        return "".join(f"<{tag}>…</{tag}>" for tag in self._policy.prompter.tags)

    def text(self, problem: Problem) -> str:
        """What the policy is to write behind the prompt; empty where there is no text."""
        found = self._stored(problem)
        if not isinstance(found, str):
            return ""
        if self._in_tags and problem.source == "procedural":
            found = _in_tags(found, problem, self._policy.prompter.tags)
        if self._policy.prompter.opens_think:
            found = found.lstrip().removeprefix(_THINK).lstrip("\n")
        return found

    def tokens(self, problem: Problem) -> list[int]:
        """The n >= 2 tokens of the response, the stop token last; `fault` must be empty."""
        processor = self._policy.processor
        return [*processor.encode(self.text(problem)), processor.stop_token_ids[0]]

    def fault(self, problem: Problem) -> str:
        """Why the problem cannot be learnt from; empty where it can."""
        stored = self._stored(problem)
        if stored is not None and not isinstance(stored, str):
            return (
                f"its response is {_kind(stored)} and no text (sft.responses {self._column}): "
                "keep what the policy should write as text"
            )
        if not (text := self.text(problem)).strip():
            return f"it has no response (sft.responses {self._column})"
        if named := [name for name in self._control if name in text]:
            return f"its response names {named[0]}, which this model reads as control"
        most = self._policy.config.sampling.max_new_tokens
        if (count := len(self.tokens(problem))) > most:
            return f"its response has {count} tokens, more than sampling.max_new_tokens ({most})"
        return ""

    def look(self, problem: Problem) -> Look:
        """The response held against the form that the template asks for, and the gold answer."""
        if fault := self.fault(problem):
            return Look(fault)
        prompter, text = self._policy.prompter, self.text(problem)
        opens = prompter.opens_think
        answered = extract_answer(opened(text, opens)) is not None
        sample = RewardInput(problem, text, opens_think=opens, tags=prompter.tags)
        verdict = grade_of(self._policy.config.reward, sample).verdict
        return Look(
            formed=format_ok(text, prompter.tags, opens),
            answered=answered,
            another=answered and verdict == "wrong",
        )

    def _stored(self, problem: Problem) -> object:
        return problem.meta.get(name_in_meta(self._column))


@dataclass(slots=True)
class Tally:
    """What was found of all responses that are learnt.

    `unformed`, `unanswered` and `another` count those of `count` that lack what `Look` calls so;
    `first_*` are the ids of the first of them.
    """

    count: int = 0
    unformed: int = 0
    unanswered: int = 0
    another: int = 0
    first_unformed: str = ""
    first_unanswered: str = ""
    first_another: str = ""

    def add(self, id: str, look: Look) -> None:
        """Count the response of problem `id`, which has no fault."""
        self.count += 1
        if not look.formed:
            self.unformed += 1
            self.first_unformed = self.first_unformed or id
        if not look.answered:
            self.unanswered += 1
            self.first_unanswered = self.first_unanswered or id
        if look.another:
            self.another += 1
            self.first_another = self.first_another or id

    def in_words(self, form: str) -> str:
        """What is not as it should be, in a sentence without its full stop; empty: nothing."""
        found = [
            (self.unformed, self.first_unformed, f"not the form {form} of the prompt template"),
            (self.unanswered, self.first_unanswered, "no answer that the grader finds"),
            (self.another, self.first_another, "another answer than the gold one"),
        ]
        parts = [
            f"{count} {'has' if count == 1 else 'have'} {what} ({id!r} first)"
            for count, id, what in found
            if count
        ]
        return f"of {self.count} responses {_listed(parts)}" if parts else ""


def _listed(parts: list[str]) -> str:
    return ", ".join(parts[:-1]) + " and " + parts[-1] if len(parts) > 1 else parts[0]


def _in_tags(solution: str, problem: Problem, tags: Iterable[str]) -> str:
    """A worked solution as the policy should write it; bare where a tag wants what nobody has, or
    none wants the working."""
    facts = cast("list[str]", problem.meta.get("facts", []))
    inside = {
        "scan": " ".join(f"{fact}." for fact in facts),
        "think": solution,
        "answer": problem.answer,
    }
    asked = list(tags)
    if "think" not in asked or not inside.keys() >= set(asked) or not solution.strip():
        return solution
    return "".join(f"<{tag}>{inside[tag]}</{tag}>" for tag in asked)


def _kind(value: object) -> str:
    """What a value is that stands where a text should."""
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return f"a number ({value})"
    items = cast("list[object]", value) if isinstance(value, list) else [value]
    if items and isinstance(items[0], Mapping) and "role" in items[0]:
        return "a chat of messages"
    return "a list" if isinstance(value, list) else "a record"
