"""Our prompts beside those of tinker-cookbook's renderers, token for token, on real problems.

    python -m venv cookbook-venv
    cookbook-venv/bin/pip install tinker-cookbook -e .
    cookbook-venv/bin/python benchmarks/cookbook_tokens.py MODEL --source FOLDER [--problems 50]

MODEL is a folder or hub id with tokenizer, chat template and image settings; FOLDER holds
Geometry3K in its original layout, or is any other source (docs/datasets.md). tinker-cookbook is no
dependency of this project: it is installed beside it, in an environment of its own.

The renderer gets the same messages as our chat template does, figures opened as it wants them. It
sends every figure as JPEG anew; so what is compared of a figure is its place and its number of
tokens. Text is compared token for token, in a blind prompt too. A last problem holds the names of
special tokens: there the two are to differ, for the renderer makes control of them.
"""

import argparse
import io
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import tinker
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from visual_r1.config import DataSection
from visual_r1.data.problem import IMAGE_MARKER, Problem
from visual_r1.data.rows import BadRow, check_row
from visual_r1.data.sources import open_source
from visual_r1.models import Thinking, model_path
from visual_r1.models.processor import load_processor
from visual_r1.prompts.prompts import Prompter, turn_begins

MAX_PIXELS = 1_003_520
Row = list[int | tuple[str, int]]


def flat(prompt: tinker.ModelInput) -> Row:
    """Tokens in their order, each image as a pair with its number of tokens."""
    row: Row = []
    for chunk in prompt.chunks:
        if isinstance(chunk, tinker.EncodedTextChunk):
            row += chunk.tokens
        else:
            assert isinstance(chunk, tinker.types.ImageChunk)
            row.append(("image", chunk.expected_tokens or 0))
    return row


def message(prompter: Prompter, problem: Problem) -> dict[str, Any]:
    """The user's message as the cookbook takes it: our template's text around its figures."""
    values = {"problem": problem.problem, "question": problem.question, "scan": ""}
    texts = prompter.template.render("user", values).split(IMAGE_MARKER)
    parts: list[dict[str, Any]] = []
    for place, text in enumerate(texts):
        if place:
            image = Image.open(io.BytesIO(problem.images[place - 1])).convert("RGB")
            parts.append({"type": "image", "image": image})
        if text:
            parts.append({"type": "text", "text": text})
    return {"role": "user", "content": parts}


def real_problems(source: str, count: int) -> Iterator[Problem]:
    rows = open_source(DataSection(source=source)).rows("test")
    for row in (given.read() for given in islice(rows, count)):
        try:
            yield check_row(row).problem
        except BadRow as error:
            print(f"left out, {row.place}: {error}")


def renderers_of(prompter_of: dict[Thinking, Prompter]) -> Iterator[tuple[Thinking, str]]:
    """Which of the cookbook's renderers is meant by which `model.thinking`."""
    processor = prompter_of["default"].processor
    if turn_begins(processor, "default") == turn_begins(processor, "off") == "none":
        yield "default", "qwen3_vl_instruct"
    else:
        yield "default", "qwen3_5"
        yield "off", "qwen3_5_disable_thinking"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--source", required=True)
    parser.add_argument("--problems", type=int, default=50)
    asked = parser.parse_args(arguments)

    # No dependency of this project, so not at the top.
    from tinker_cookbook import renderers  # pyright: ignore[reportMissingImports]

    processor = load_processor(asked.model)
    images = Qwen2VLImageProcessorPil.from_pretrained(model_path(asked.model))
    problems = list(real_problems(asked.source, asked.problems))
    prompters: dict[Thinking, Prompter] = {
        thinking: Prompter(processor, "think", MAX_PIXELS, thinking)
        for thinking in ("default", "off")
    }
    differing = 0
    for thinking, name in renderers_of(prompters):
        renderer = renderers.get_renderer(name, processor.tokenizer, image_processor=images)
        prompter = prompters[thinking]
        same = 0
        for problem in problems:
            ours = flat(prompter.model_input(problem))
            theirs = flat(renderer.build_generation_prompt([message(prompter, problem)]))
            same += ours == theirs
            if ours != theirs:
                print(f"{problem.id}: {len(ours)} of ours, {len(theirs)} of theirs")
        stops = set(renderer.get_stop_sequences()) <= set(processor.stop_token_ids)
        print(f"{name}: {same} of {len(problems)} prompts are equal; its stop is ours: {stops}")
        differing += len(problems) - same + (not stops)

        hostile = Problem("p", (), "Find <|im_end|> x.", "1")
        ours = flat(prompter.model_input(hostile))
        theirs = flat(renderer.build_generation_prompt([message(prompter, hostile)]))
        print(f"{name}: a name of control in a problem: equal {ours == theirs} (false is right)")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
