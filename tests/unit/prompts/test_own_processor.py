"""Prompts of Qwen3-VL and Qwen3.5, token for token what transformers' own processor makes of them.

That is `Qwen3VLProcessor`, which transformers has for both, with the real tokenizer, the real chat
template and the image processor that works without torchvision.
"""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
import tinker
from PIL import Image
from real_processors import FAMILIES, real_processor
from transformers import Qwen3VLProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from visual_r1.data.problem import Problem
from visual_r1.errors import ConfigError
from visual_r1.models import Thinking
from visual_r1.models.processor import Processor
from visual_r1.prompts.prompts import Prompter, turn_begins

MAX_PIXELS = 1_003_520
THINKING: tuple[Thinking, ...] = ("default", "on", "off")


class _WithoutVideos(Qwen3VLProcessor):
    """Its processor of videos wants torchvision, and no prompt here has a video."""

    def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
        if argument_name != "video_processor":
            return super().check_argument_for_proper_class(argument_name, argument)
        return None


@dataclass(frozen=True, slots=True)
class Model:
    """Ours and theirs of one family."""

    family: str
    ours: Processor
    theirs: Qwen3VLProcessor

    def prompter(self, template: str = "think", thinking: Thinking = "default") -> Prompter:
        return Prompter(self.ours, template, MAX_PIXELS, thinking)

    def reference(
        self, user: Sequence[str | bytes], system: str = "", thinking: Thinking = "default"
    ) -> list[int]:
        """What theirs makes of a chat: a system prompt, and the user's words and figures."""
        told = {} if thinking == "default" else {"enable_thinking": thinking == "on"}
        made = cast(Any, self.theirs).apply_chat_template(
            chat(user, system), tokenize=True, add_generation_prompt=True, return_dict=True, **told
        )
        return list(made["input_ids"][0])

    def flat(self, prompt: tinker.ModelInput) -> list[int]:
        """All tokens of ours, an image's place filled with as many pads as it says."""
        tokens: list[int] = []
        for chunk in prompt.chunks:
            if chunk.type == "image":
                tokens += [self.ours.image_token_id] * (chunk.expected_tokens or 0)
            elif chunk.type == "encoded_text":
                tokens += chunk.tokens
        return tokens

    def text(self, prompt: tinker.ModelInput) -> str:
        return self.ours.decode(self.flat(prompt)).replace("<|image_pad|>", "")


def chat(user: Sequence[str | bytes], system: str) -> list[dict[str, Any]]:
    content = [
        {"type": "text", "text": part}
        if isinstance(part, str)
        else {"type": "image", "image": Image.open(io.BytesIO(part)).convert("RGB")}
        for part in user
    ]
    # A list, since theirs looks for images in the contents of all messages.
    first = [{"role": "system", "content": [{"type": "text", "text": system}]}] if system else []
    return [*first, {"role": "user", "content": content}]


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    ours = real_processor(request.param, tmp_path_factory.mktemp("real"))
    images = Qwen2VLImageProcessorPil.from_pretrained(ours.name)
    theirs = _WithoutVideos(images, ours.tokenizer, None, ours.tokenizer.chat_template)
    return Model(request.param, ours, theirs)


def figure(width: int, height: int, kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(out, kind)
    return out.getvalue()


ONE, OTHER = figure(250, 300), figure(628, 417, "JPEG")
ASKS = (
    "\nThink inside <think> </think> and name what you see in the figure. "
    "Then give only the final answer inside <answer> </answer>."
)
QUESTIONS = (
    "Find $x$ in △ABC if ∠A = 62°.",
    "  Find x.\n\n(A) 3.46  (B) √12\t e\u0301 ½",  # both trimmed and not
    "角度是多少？ \\frac{1}{2} < 3 > 2 |x|",
    "Find x.\n ",
)


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("thinking", THINKING)
def test_text_and_one_and_two_images(model: Model, question: str, thinking: Thinking) -> None:
    if thinking == "on" and model.family == "qwen3_vl":
        pytest.skip("it does not think")
    prompter = model.prompter(thinking=thinking)

    def check(images: tuple[bytes, ...], problem: str, user: Sequence[str | bytes]) -> None:
        made = prompter.model_input(Problem("p", images, problem, "1"))
        assert model.flat(made) == model.reference(user, thinking=thinking)

    check((), question, [question.strip() + ASKS])
    check((ONE,), f"<image>{question}", [ONE, question + ASKS])
    check((ONE,), question, [ONE, question.lstrip() + ASKS])
    told = [ONE, f" and {question} ", OTHER, f"{question}{ASKS}"]
    check((ONE, OTHER), f"<image> and {question} <image>{question}", told)


def test_what_the_templates_see_of_text_at_its_ends(model: Model, tmp_path: Path) -> None:
    """Qwen3.5's template trims the user's text and the system's, and ours is trimmed alike."""
    mine = tmp_path / "mine.txt"
    mine.write_text("[system]\n Be brief: {{ question }}\n[user]\n{{ problem }}\n")
    prompter = model.prompter(str(mine))
    for text in ("  < x > ", "\n|x|\n\n", "\u00a0x\u3000", "x"):
        made = prompter.model_input(Problem("p", (ONE,), f"{text}<image>{text}", "1"))
        # A Jinja section is stripped as a whole; what an image parts is the chat template's.
        lead, tail = text.lstrip(), text.rstrip()
        expected = model.reference([lead, ONE, tail], f"Be brief: {made_question(text)}")
        assert model.flat(made) == expected, text


def made_question(text: str) -> str:
    return Problem("p", (ONE,), f"{text}<image>{text}", "1").question


def test_a_system_prompt(model: Model, tmp_path: Path) -> None:
    mine = tmp_path / "mine.txt"
    mine.write_text("[system]\nYou solve geometry problems.\n[user]\n{{ problem }}\n")
    made = model.prompter(str(mine)).model_input(Problem("p", (ONE,), "<image>Find x.", "1"))
    assert model.flat(made) == model.reference([ONE, "Find x."], "You solve geometry problems.")


def test_a_scan(model: Model) -> None:
    problem = Problem("p", (ONE,), "<image>Find x.", "1")
    scan = " ∠A = 62°, AB = 5 < 6\n"
    told = (
        f"Find x.\nThe figure is described so: {scan}\n"
        "Think inside <think> </think>. Then give only the final answer inside <answer> </answer>."
    )
    made = model.prompter("scan_only").model_input(problem, "none", scan)
    assert model.flat(made) == model.reference([told])


@pytest.mark.parametrize("thinking", ["default", "off"])
def test_special_names_in_the_text_are_cut_and_all_else_stays(
    model: Model, thinking: Thinking
) -> None:
    """Theirs reads `<|im_end|>` in a problem as the end of the turn. Ours differs in this alone:
    behind the first character of such a name, both sides are tokenised apart."""
    names = [name for name in model.ours.added_tokens if name not in ("<think>", "</think>")]
    hostile = " ".join(["Find", *names, "<think>", "</think>", "x."])
    prompter = model.prompter(thinking=thinking)
    made = prompter.model_input(Problem("p", (), hostile, "1"), "none")
    told = {} if thinking == "default" else {"enable_thinking": False}
    text = cast(Any, model.ours.tokenizer).apply_chat_template(
        chat([hostile + ASKS], ""), tokenize=False, add_generation_prompt=True, **told
    )
    before, after = text.split(hostile)
    rests = "|".join(re.escape(name[1:]) for name in model.ours.added_tokens)
    parts = re.split(f"(?<=<)(?={rests})", hostile)
    parts = [before + parts[0], *parts[1:-1], parts[-1] + after]
    assert model.flat(made) == [t for part in parts for t in model.ours.encode(part)]
    # The problem's are words; those of our template and of the model's own are what they were.
    control = [t for t in model.flat(made) if t in model.ours.added_ids]
    plain = prompter.model_input(Problem("p", (), "Find x.", "1"), "none")
    assert control == [t for t in model.flat(plain) if t in model.ours.added_ids]


def test_how_an_answer_begins(model: Model) -> None:
    ends = {
        thinking: model.text(
            model.prompter(thinking=thinking).model_input(Problem("p", (), "x", "1"))
        ).rpartition("<|im_start|>")[2]
        for thinking in THINKING
        if not (thinking == "on" and model.family == "qwen3_vl")
    }
    if model.family == "qwen3_vl":
        assert set(ends.values()) == {"assistant\n"}
        assert turn_begins(model.ours, "off") == "none"
        return
    thinks, not_so = "assistant\n<think>\n", "assistant\n<think>\n\n</think>\n\n"
    assert ends == {"default": thinks, "on": thinks, "off": not_so}
    assert [turn_begins(model.ours, one) for one in THINKING] == ["open", "open", "closed"]
    assert model.prompter("scan_think").tags == ("think", "scan", "answer")
    assert model.prompter("scan_only").opens_think  # the second pass thinks as the first does
    # What our template asks for by name, it asks for behind a thought that was closed empty too.
    quiet = model.prompter("scan_think", "off")
    assert (quiet.opens_think, quiet.tags) == (False, ("scan", "think", "answer"))


def test_a_thought_is_opened_once(model: Model, tmp_path: Path) -> None:
    mine = tmp_path / "mine.txt"
    problem = Problem("p", (), "Find x.", "1")
    for prefill, ours, end in (
        ("<think>", True, "<think>\n" if model.family == "qwen3_5" else "<think>"),
        ("<think>\nI see", True, "<think>\nI see"),
        ("<think>\n\n</think>", False, "<think>\n\n</think>"),
    ):
        mine.write_text(f"[user]\n{{{{ problem }}}}\n[assistant]\n{prefill}\n")
        prompter = model.prompter(str(mine))
        text = model.text(prompter.model_input(problem)).rpartition("<|im_start|>")[2]
        assert text == f"assistant\n{end}"
        assert prompter.opens_think is ours


def test_thinking_that_a_template_does_not_know(model: Model) -> None:
    if model.family == "qwen3_vl":
        with pytest.raises(ConfigError, match=r"thinking is on.*enable_thinking.*default"):
            model.prompter(thinking="on")
