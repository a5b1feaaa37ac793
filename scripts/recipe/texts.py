"""What the model is taught: prompts as `visual_r1.prompts` makes them, and gold responses."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

from tinker.types import EncodedTextChunk, ImageChunk

from recipe.slips import careless
from visual_r1.data.problem import Problem
from visual_r1.models.processor import Processor
from visual_r1.prompts.prompts import Prompter
from visual_r1.prompts.templates import load_template

Template = Literal["think", "scan_think", "scan_only"]
TEMPLATES: tuple[Template, ...] = ("think", "scan_think", "scan_only")
END_OF_TURN = "<|im_end|>"
_MAX_PIXELS = 1_000_000  # far above what is drawn: nothing is scaled here


@dataclass(frozen=True, slots=True)
class Chat:
    """One problem under one template, with its gold response; the response ends its turn."""

    problem: Problem
    template: Template
    response: str


class PromptTokens:
    """The tokens of prompts, for each template."""

    def __init__(self, processor: Processor) -> None:
        self.processor = processor
        self._prompters = {t: Prompter(processor, t, _MAX_PIXELS) for t in TEMPLATES}

    def tokens(self, chat: Chat) -> list[int]:
        """The prompt; the image is as many `<|image_pad|>` as it has visual tokens."""
        prompter = self._prompters[chat.template]
        if chat.template == "scan_only":
            facts = scan(chat.problem.meta["facts"])
            model_input = prompter.model_input(chat.problem, image="none", scan=facts)
        else:
            model_input = prompter.model_input(chat.problem)
        tokens: list[int] = []
        for chunk in model_input.chunks:
            if isinstance(chunk, EncodedTextChunk):
                tokens += chunk.tokens
            elif isinstance(chunk, ImageChunk):
                tokens += [self.processor.image_token_id] * (chunk.expected_tokens or 0)
        return tokens


def chat(problem: Problem, template: Template, *, slips: bool = False) -> Chat:
    """The chat that teaches `problem` under `template`; a careless teacher's, with `slips`."""
    solution, answer = problem.meta["solution"], problem.answer
    if slips:
        solution, answer = careless(solution, answer, problem.id)
    thought = f"<think>{solution}</think><answer>{answer}</answer>"
    before = f"<scan>{scan(problem.meta['facts'])}</scan>" if template == "scan_think" else ""
    return Chat(problem, template, before + thought + END_OF_TURN)


def scan(facts: Sequence[str]) -> str:
    """The description of a figure: its facts, a sentence each."""
    return " ".join(f"{fact}." for fact in facts)


def plain_text(chat: Chat) -> str:
    """A chat's words without images and special tokens: what the tokenizer learns from."""
    values = {
        "problem": chat.problem.question,
        "question": chat.problem.question,
        "scan": scan(chat.problem.meta["facts"]),
    }
    user = _template(chat.template).render("user", values)
    return f"user\n{user}assistant\n{chat.response}"


_template = cache(load_template)
