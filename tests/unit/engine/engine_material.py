"""Prompts, data and requests for the engine's tests; all of them functions of small numbers."""

import io
from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image

from visual_r1.engine.types import (
    Datum,
    ForwardOutput,
    ImagePart,
    InvalidRequest,
    Prompt,
    SampledSequence,
    SampleOutput,
    SampleRequest,
    SamplingSettings,
    TextPart,
)

FAMILIES = pytest.mark.parametrize("compute", ["qwen3_vl", "qwen3_5"], indirect=True)
"""Marks tests that every family has to pass: each with the fixture `compute` of its own."""

IMAGE_TOKENS = 16
"""What the shipped model makes of 96 x 96 pixels."""


def png(seed: int, width: int = 96, height: int = 96) -> bytes:
    """Noise, encoded."""
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def words(seed: int, count: int) -> TextPart:
    """Token ids that are neither special nor bytes that end an answer."""
    ids = np.random.default_rng(seed).integers(3, 250, count)
    return TextPart(tuple(int(token) for token in ids))


def picture_prompt(seed: int, before: int = 20, after: int = 30) -> Prompt:
    """Text, a 96 x 96 image, text."""
    return (words(seed, before), ImagePart(png(seed)), words(seed + 1000, after))


def length(prompt: Prompt) -> int:
    """Places of a prompt whose images are all 96 x 96."""
    return sum(len(p.tokens) if isinstance(p, TextPart) else IMAGE_TOKENS for p in prompt)


def request(prompt: Prompt, samples: int = 4, **settings: object) -> SampleRequest:
    """A sample request; 24 tokens and the seed 7 unless told."""
    given = {"max_tokens": 24, "seed": 7, **settings}
    return SampleRequest(prompt, SamplingSettings(**given), num_samples=samples)  # type: ignore[arg-type]


def group_data(names: Sequence[str]) -> list[Datum]:
    """Two groups of answers of many lengths to a prompt with a picture, their data interleaved."""
    prompts = [picture_prompt(50 + group, 20 + 7 * group) for group in range(2)]
    return [
        random_datum(
            10 * answer + group, (*prompt, words(answer, 1 + 6 * answer)), names, length(prompt)
        )
        for answer in range(4)
        for group, prompt in enumerate(prompts)
    ]


def rollout_datum(prompt: Prompt, sampled: SampledSequence, advantage: float) -> Datum:
    """The datum of a sampled answer: prompt and answer but its last token, targets shifted."""
    start = length(prompt) - 1
    places = start + len(sampled.tokens)
    targets = np.zeros(places, np.int64)
    logprobs = np.zeros(places, np.float32)
    advantages = np.zeros(places, np.float32)
    targets[start:] = sampled.tokens
    logprobs[start:] = sampled.logprobs
    advantages[start:] = advantage
    return Datum(
        (*prompt, TextPart(sampled.tokens[:-1])),
        {"target_tokens": targets, "logprobs": logprobs, "advantages": advantages},
    )


def rollout_data(
    prompts: Sequence[Prompt], outputs: Sequence[SampleOutput | InvalidRequest]
) -> list[Datum]:
    """The data of all sampled answers, each with an advantage of 1."""
    return [
        rollout_datum(prompt, sequence, 1.0)
        for prompt, output in zip(prompts, outputs, strict=True)
        if isinstance(output, SampleOutput)
        for sequence in output.sequences
    ]


def distances(learnt: ForwardOutput, data: Sequence[Datum]) -> np.ndarray:
    """Of each token of the answers, how far learner and sampler are apart."""
    return np.concatenate(
        [
            np.abs(ours - datum.inputs["logprobs"])[datum.inputs["advantages"] != 0]
            for ours, datum in zip(learnt.logprobs, data, strict=True)
        ]
    )


def random_datum(seed: int, prompt: Prompt, names: Sequence[str], masked: int = 0) -> Datum:
    """Random targets; inputs of ordinary sizes, some advantages and weights zero.

    The first `masked` places add nothing to the loss, as those of a prompt do.
    """
    rng = np.random.default_rng(seed)
    places = length(prompt)
    made = {
        "weights": rng.uniform(-1, 2, places),
        "logprobs": -rng.uniform(0.0, 9.0, places),
        "advantages": rng.standard_normal(places),
        "sequence_ratio_mask": np.ones(places),
    }
    for name in ("weights", "advantages", "sequence_ratio_mask"):
        made[name][rng.random(places) < 0.3] = 0.0
        made[name][:masked] = 0.0
        # So that all answers to a prompt are cut at one place, and share what is before it.
        if 0 < masked < places:
            made[name][masked] = 0.5
    made["sequence_ratio_mask"][-1] = 1.0
    inputs = {name: made[name].astype(np.float32) for name in names}
    return Datum(prompt, {"target_tokens": rng.integers(0, 250, places), **inputs})
