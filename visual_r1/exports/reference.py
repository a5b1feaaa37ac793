"""What the server says of some prompts: what a certificate compares with.

For each of 32 problems the exported weights answer once, and the server gives the log-probability
of every token of prompt and answer, under these weights and under the base model. All of it, the
images included, is kept in `reference.parquet`: it can be compared later, without the server.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tinker
from tinker.types import EncodedTextChunk, ImageChunk, ModelInputChunk

from visual_r1.backend.waiting import SAMPLE_LIMIT_S, Watch, wait
from visual_r1.data.problem import Problem
from visual_r1.engine.types import ImagePart, Prompt, TextPart
from visual_r1.errors import BackendError, DataError
from visual_r1.exports.record import REFERENCE_NAME
from visual_r1.hashing import stable_seed
from visual_r1.prompts.prompts import Prompter
from visual_r1.storage import replaced_whole
from visual_r1.tables import open_writer, pa, pq, said_of

PROMPTS = 32
ANSWER_TOKENS = 64
"""At most so many are sampled: an answer says what the weights prefer, a prompt what they read."""

_CHUNK = pa.struct(
    [("tokens", pa.list_(pa.int32())), ("image", pa.binary()), ("expected", pa.int32())]
)
_SCHEMA = pa.schema(
    [
        ("chunks", pa.list_(_CHUNK)),
        ("logprobs", pa.list_(pa.float32())),
        ("base_logprobs", pa.list_(pa.float32())),
    ]
)
_AGAIN = "export again with --check: it is asked of the server anew"


@dataclass(frozen=True, slots=True)
class Scored:
    """A prompt with its answer; float32 [T] each, NaN where the server says nothing.

    `logprobs[t]` is that of token t behind all before it, an image counting as its tokens.
    """

    prompt: Prompt
    logprobs: np.ndarray
    base_logprobs: np.ndarray


def take_reference(
    sampler: tinker.SamplingClient,
    base: tinker.SamplingClient,
    prompts: Sequence[tinker.ModelInput],
    stop: Sequence[int],
    watch: Watch,
) -> list[Scored]:
    """Let `sampler` answer the prompts, and both samplers say what each token is worth to them.

    Raises `BackendError` where the server fails, or gives no log-probabilities of prompts.
    """
    settings = [
        tinker.SamplingParams(
            max_tokens=ANSWER_TOKENS,
            temperature=1.0,
            seed=stable_seed("reference", number),
            stop=list(stop),
        )
        for number in range(len(prompts))
    ]
    asked = [
        sampler.sample(prompt, num_samples=1, sampling_params=params)
        for prompt, params in zip(prompts, settings, strict=True)
    ]
    what = "the answers to the prompts of the check"
    answers = [wait(one, what, SAMPLE_LIMIT_S, watch).sequences[0].tokens for one in asked]
    whole = [
        tinker.ModelInput(chunks=[*prompt.chunks, EncodedTextChunk(tokens=list(answer))])
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    both = [[client.compute_logprobs(one) for one in whole] for client in (sampler, base)]
    what = "the log-probabilities of the prompts of the check"
    found = [[_numbers(wait(one, what, SAMPLE_LIMIT_S, watch)) for one in of] for of in both]
    return [
        Scored(_parts(prompt.chunks), ours, of_base)
        for prompt, ours, of_base in zip(whole, *found, strict=True)
    ]


def prompts_of(problems: Sequence[Problem], prompter: Prompter) -> list[tinker.ModelInput]:
    """The prompts of the first problems that can be asked."""
    found: list[tinker.ModelInput] = []
    for number in range(len(problems)):
        if len(found) == PROMPTS:
            break
        try:
            found.append(prompter.model_input(problems[number]))
        except DataError:  # a figure that this model cannot see
            continue
    if not found:
        raise DataError("None of the problems can be asked, so nothing can be compared.")
    return found


def _numbers(logprobs: Sequence[float | None]) -> np.ndarray:
    found = np.array([np.nan if one is None else one for one in logprobs], np.float32)
    if not np.isfinite(found).any():
        raise BackendError("The server gives no log-probabilities of prompts: nothing to compare.")
    return found


def _parts(chunks: Sequence[ModelInputChunk]) -> Prompt:
    parts: list[TextPart | ImagePart] = []
    for chunk in chunks:
        if isinstance(chunk, EncodedTextChunk):
            parts.append(TextPart(tuple(chunk.tokens)))
        else:
            assert isinstance(chunk, ImageChunk), "a prompt has text and images"
            assert isinstance(chunk.data, bytes), "a prompter's images are bytes"
            parts.append(ImagePart(chunk.data, chunk.expected_tokens))
    return tuple(parts)


def write_reference(place: Path, scored: Sequence[Scored]) -> None:
    """Keep what was said in the folder `place`, whole or not at all; raises `StorageError`."""
    rows = [
        {
            "chunks": [
                {"tokens": list(part.tokens)}
                if isinstance(part, TextPart)
                else {"image": part.data, "expected": part.expected_tokens}
                for part in one.prompt
            ],
            "logprobs": one.logprobs,
            "base_logprobs": one.base_logprobs,
        }
        for one in scored
    ]
    table = pa.Table.from_pylist(rows, schema=_SCHEMA)
    with (
        replaced_whole(place / REFERENCE_NAME) as temporary,
        open_writer(temporary, _SCHEMA) as writer,
    ):
        writer.write_table(table)


def read_reference(place: Path) -> list[Scored]:
    """What was kept in the folder `place`; raises `DataError` where it is damaged or missing."""
    path = place / REFERENCE_NAME
    with said_of(path, _AGAIN):
        rows: list[dict[str, Any]] = pq.read_table(path, schema=_SCHEMA).to_pylist()
        return [
            Scored(
                tuple(
                    TextPart(tuple(chunk["tokens"]))
                    if chunk["image"] is None
                    else ImagePart(chunk["image"], chunk["expected"])
                    for chunk in row["chunks"]
                ),
                np.array(row["logprobs"], np.float32),
                np.array(row["base_logprobs"], np.float32),
            )
            for row in rows
        ]
