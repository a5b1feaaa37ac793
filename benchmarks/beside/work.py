"""The work that we and a peer do: the same tokens, the same images, answers of the same lengths.

It is written to a file once; both sides read it, each in an environment of its own.
"""

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any, Literal

import tinker
from PIL import Image, ImageDraw

from visual_r1.data.problem import IMAGE_MARKER, Problem
from visual_r1.data.procedural import generate
from visual_r1.models import model_path
from visual_r1.models.processor import load_processor
from visual_r1.prompts.prompts import Prompter

Figures = Literal["procedural", "geometry3k"]

Cache = Literal["dynamic", "static", "compiled", "continuous"]
"""How transformers keeps what was read: growing, or in its full size from the start (on a card such
a step is compiled, elsewhere only where it is "compiled"), or in pages, for token ids alone."""

MAX_PIXELS = 1_003_520
TEMPLATE = "think"

GEOMETRY3K = (
    (250, 251), (336, 257), (282, 150), (628, 453), (214, 303),
    (569, 383), (353, 212), (316, 230), (556, 447), (301, 116),
)  # fmt: skip
"""Width and height of ten of Geometry3K's figures, which many are drawn of here."""

ANSWER_TOKENS = (30, 66)
"""From so many to so many tokens has an answer of the quickstart's."""


@dataclass(frozen=True)
class Part:
    """A stretch of tokens, or an encoded image and how many tokens it takes."""

    tokens: tuple[int, ...] = ()
    image: str = ""
    visual_tokens: int = 0


@dataclass(frozen=True)
class Prompt:
    """The parts of a prompt, and the right answer to it."""

    parts: tuple[Part, ...]
    answer: str = ""

    @property
    def length(self) -> int:
        """In tokens, those of images too."""
        return sum(len(part.tokens) + part.visual_tokens for part in self.parts)


@dataclass(frozen=True)
class Lora:
    """An adapter on modules by the ends of their names, and on experts by parameter."""

    rank: int = 16
    alpha: int = 32
    modules: tuple[str, ...] = (
        "q_proj", "k_proj", "v_proj", "o_proj", "qkv", "attn.proj",
        "gate_proj", "up_proj", "down_proj", "linear_fc1", "linear_fc2", "lm_head",
    )  # fmt: skip
    parameters: tuple[str, ...] = ()


@dataclass(frozen=True)
class Work:
    """Prompts, and how each is answered `group` times, or which answers are learnt from."""

    model: str
    """A folder, or a name that the engine knows."""
    prompts: tuple[Prompt, ...]
    group: int
    new_tokens: int
    lora: Lora | None = None
    answers: tuple[tuple[tuple[int, ...], ...], ...] = ()
    """Of each prompt those that are learnt from, by token."""
    device: str = "cpu"
    threads: int = 1
    micro_batch: int = 16
    checkpointing: bool = False
    """Whether the peer computes activations anew in its backward pass, as recipes for cards do."""
    cache: Cache = "dynamic"
    """Of the peer, where it samples."""
    image_token: int = 0
    folder: str = ""

    def write(self, file: Path) -> Path:
        """As JSON, for a program in another environment."""
        whole = asdict(self) | {
            "folder": model_path(self.model),
            "image_token": image_token_of(self.model),
        }
        file.write_text(json.dumps(whole))
        return file


def read(work: dict[str, Any]) -> Work:
    """The work as `write` left it."""
    prompts = tuple(
        Prompt(
            tuple(Part(tuple(p["tokens"]), p["image"], p["visual_tokens"]) for p in one["parts"]),
            one["answer"],
        )
        for one in work["prompts"]
    )
    lora = Lora(**work["lora"]) if work["lora"] else None
    answers = tuple(tuple(map(tuple, group)) for group in work["answers"])
    return Work(**{**work, "prompts": prompts, "lora": lora, "answers": answers})


def prompts_of(model: str, count: int, figures: Figures = "procedural") -> tuple[Prompt, ...]:
    """The prompts of `count` problems as a run of ours sends them to `model`."""
    prompter = Prompter(load_processor(model), TEMPLATE, MAX_PIXELS)
    problems: Sequence[Problem]
    if figures == "procedural":
        problems = list(generate(0, "train", count))
    else:
        problems = [_drawn(number) for number in range(count)]
    return tuple(_prompt(prompter.model_input(one), one.answer) for one in problems)


def answers_for(
    prompts: Sequence[Prompt], group: int, tokens: tuple[int, int] = ANSWER_TOKENS, seed: int = 0
) -> tuple[tuple[tuple[int, ...], ...], ...]:
    """Answers to be learnt from, of a number of random tokens from `tokens[0]` to `tokens[1]`.

    Which tokens they are changes no cost.
    """
    draw = Random(seed)
    return tuple(
        tuple(
            tuple(draw.randrange(3, 250) for _ in range(draw.randint(*tokens)))
            for _ in range(group)
        )
        for _ in prompts
    )


def model_inputs(prompts: Sequence[Prompt]) -> list[tinker.ModelInput]:
    """As the SDK takes them."""
    return [
        tinker.ModelInput(
            chunks=[
                tinker.types.ImageChunk(
                    data=base64.b64decode(part.image), format="png",
                    expected_tokens=part.visual_tokens,
                )
                if part.image
                else tinker.EncodedTextChunk(tokens=list(part.tokens))
                for part in prompt.parts
            ]
        )
        for prompt in prompts
    ]  # fmt: skip


def image_token_of(model: str) -> int:
    """The id that stands for a visual token in a network's input."""
    return int(json.loads((Path(model_path(model)) / "config.json").read_text())["image_token_id"])


def _prompt(sent: tinker.ModelInput, answer: str) -> Prompt:
    parts: list[Part] = []
    for chunk in sent.chunks:
        if isinstance(chunk, tinker.EncodedTextChunk):
            parts.append(Part(tokens=tuple(chunk.tokens)))
            continue
        assert isinstance(chunk, tinker.types.ImageChunk) and chunk.expected_tokens is not None
        image = base64.b64encode(chunk.data).decode()
        parts.append(Part(image=image, visual_tokens=chunk.expected_tokens))
    return Prompt(tuple(parts), answer)


def _drawn(number: int) -> Problem:
    """A figure of one of Geometry3K's sizes, and a text of 40 to 90 words' worth of characters."""
    draw = Random(number)
    width, height = GEOMETRY3K[number % len(GEOMETRY3K)]
    figure = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(figure)
    for _ in range(12):
        ends = [draw.randrange(width), draw.randrange(height)] * 2
        ends[2:] = draw.randrange(width), draw.randrange(height)
        pen.line(ends, fill="black", width=2)
    stored = io.BytesIO()
    figure.save(stored, "PNG")
    text = " ".join(f"angle {draw.randrange(10, 99)}" for _ in range(draw.randint(6, 14)))
    return Problem(f"drawn-{number}", (stored.getvalue(),), f"{IMAGE_MARKER}Find x. {text}.", "5")
