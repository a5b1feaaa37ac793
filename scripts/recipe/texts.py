"""Prompts and responses of the three templates, as chat text."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jinja2

import visual_r1.prompts
from visual_r1.data.problem import IMAGE_MARKER, Problem

Template = Literal["think", "scan_think", "scan_only"]
TEMPLATES: tuple[Template, ...] = ("think", "scan_think", "scan_only")
END_OF_TURN = "<|im_end|>"


@dataclass(frozen=True, slots=True)
class Example:
    """One chat: the messages of the prompt, the response, and the problem it is about."""

    problem: Problem
    template: Template
    messages: list[dict[str, Any]]
    response: str


def example(problem: Problem, template: Template) -> Example:
    """The chat that teaches `problem` under `template`; the response ends its turn."""
    return Example(problem, template, messages(problem, template), response(problem, template))


def messages(problem: Problem, template: Template) -> list[dict[str, Any]]:
    """The prompt as chat messages; `scan_only` gets the figure's facts and no image."""
    folder = Path(visual_r1.prompts.__file__).parent / "templates"
    source = (folder / f"{template}.txt").read_text(encoding="utf-8")
    user = re.split(r"^\[user\]\n", source, flags=re.MULTILINE)[1]
    text = (
        jinja2.Environment(autoescape=False)
        .from_string(user)
        .render(
            problem=problem.problem, question=problem.question, scan=scan(problem.meta["facts"])
        )
    )
    parts: list[dict[str, Any]] = []
    for index, piece in enumerate(text.strip().split(IMAGE_MARKER)):
        if index > 0:
            parts.append({"type": "image"})
        if piece:
            parts.append({"type": "text", "text": piece})
    return [{"role": "user", "content": parts}]


def scan(facts: Sequence[str]) -> str:
    """The description of a figure: its facts, a sentence each."""
    return " ".join(f"{fact}." for fact in facts)


def response(problem: Problem, template: Template) -> str:
    """The gold response, with the end of the turn."""
    thought = f"<think>{problem.meta['solution']}</think><answer>{problem.answer}</answer>"
    before = f"<scan>{scan(problem.meta['facts'])}</scan>" if template == "scan_think" else ""
    return before + thought + END_OF_TURN
