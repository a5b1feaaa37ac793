"""Between Tinker's wire format (SDK 0.38) and the compute side: sampling."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tinker import types
from tinker.proto import tinker_public_pb2 as pb
from tinker.types._pydantic_types.tensor_data import TensorData

from visual_r1.engine.requests import (
    ImagePart,
    InvalidRequest,
    Prompt,
    PromptAltTokens,
    SampleOutput,
    SampleRequest,
    SamplingSettings,
    TargetTokens,
    TextPart,
    TopkRow,
)
from visual_r1.engine.wire import image_part

_STOP_REASONS = {"stop": pb.STOP_REASON_STOP, "length": pb.STOP_REASON_LENGTH}
_NO_LOGPROB = -99999.0
_CELLS_AT_MOST = 1 << 24


@dataclass(frozen=True)
class ReplyForm:
    """What the reply to a sample request takes from the request's form."""

    last_n: int | None = None
    """Score the prompt on its last n tokens only."""
    target: TensorData | None = None
    """The tensor of target ids, whose shape and layout the answer takes on."""


# -- requests ------------------------------------------------------------------------------------


def prompt_of(model_input: types.ModelInput) -> Prompt:
    """A prompt from JSON. Raises `InvalidRequest` on chunks that are not served."""
    parts: list[TextPart | ImagePart] = []
    for chunk in model_input.chunks:
        if isinstance(chunk, types.EncodedTextChunk):
            parts.append(TextPart(tuple(chunk.tokens)))
        elif isinstance(chunk, types.ImageChunk):
            parts.append(image_part(chunk.data, chunk.format, chunk.expected_tokens))
        else:
            raise InvalidRequest(
                f"chunks of the kind {chunk.type} are not served here, only text and images."
            )
    return tuple(parts)


def sample_request(body: types.SampleRequest) -> tuple[SampleRequest, ReplyForm]:
    """What to compute for an `asample`. Raises `InvalidRequest` on what is not served.

    `stop` None ends at the model's own end tokens, an empty list at nothing; stop strings and stop
    tokens end an answer besides those.
    """
    if body.record_stability_info:
        raise InvalidRequest(
            "record_stability_info is not served: the loss stable_reinforce, which it is for, has "
            "no public formula; leave it out."
        )
    last_n = body.prompt_logprobs_last_n
    if last_n is not None and last_n < 1:
        raise InvalidRequest(f"prompt_logprobs_last_n is {last_n}, not >= 1.")
    params = body.sampling_params
    stop_tokens, stop_strings = _stops(params.stop)
    request = SampleRequest(
        prompt=prompt_of(body.prompt),
        settings=SamplingSettings(
            max_tokens=params.max_tokens,
            temperature=params.temperature,
            top_p=params.top_p,
            top_k=params.top_k,
            seed=params.seed,
            stop_tokens=stop_tokens,
            stop_strings=stop_strings,
            stop_at_eos=params.stop is None or bool(params.stop),
        ),
        num_samples=body.num_samples,
        prompt_logprobs=bool(body.prompt_logprobs),
        topk_prompt_logprobs=body.topk_prompt_logprobs,
        topk_sample_logprobs=body.topk_sample_logprobs,
        target_tokens=_targets(body.target_prompt_logprobs),
        prompt_alt_tokens=body.prompt_alt_tokens_k,
    )
    return request, ReplyForm(last_n, body.target_prompt_logprobs)


def _stops(stop: str | Iterable[str | int] | None) -> tuple[tuple[int, ...], tuple[str, ...]]:
    items = [] if stop is None else [stop] if isinstance(stop, str) else list(stop)
    strings = tuple(item for item in items if isinstance(item, str))
    tokens = tuple(item for item in items if isinstance(item, int))
    if strings and tokens:
        raise InvalidRequest("stop mixes texts and token ids: give one kind.")
    if stop == "" or "" in strings:
        raise InvalidRequest("an empty stop string would end every answer before it starts.")
    return tokens, strings


def _targets(tensor: TensorData | None) -> TargetTokens | None:
    """The cells that name a token. Raises `InvalidRequest` on a tensor that is none."""
    if tensor is None:
        return None
    shape = tensor.shape or []
    if tensor.dtype != "int64" or len(shape) != 2 or min(shape) < 1:
        raise InvalidRequest(
            f"target_prompt_logprobs is {tensor.dtype} of the shape {shape}; it is int64 of the "
            "shape [length of the prompt - 1, K]."
        )
    if len(tensor.data) > _CELLS_AT_MOST:
        raise InvalidRequest(f"target_prompt_logprobs has more than {_CELLS_AT_MOST} cells.")
    rows = _rows_of_cells(tensor, shape)
    ids = np.asarray(tensor.data, np.int64)
    named = ids >= 0
    if not named.any():
        raise InvalidRequest("target_prompt_logprobs names no token at all.")
    return TargetTokens(positions=shape[0], rows=rows[named], ids=ids[named])


def _rows_of_cells(tensor: TensorData, shape: Sequence[int]) -> np.ndarray:
    """The row of each listed cell: dense, or in compressed rows."""
    cells = len(tensor.data)
    if tensor.sparse_crow_indices is None:
        if cells != shape[0] * shape[1]:
            raise InvalidRequest(
                f"target_prompt_logprobs has {cells} values for the shape {list(shape)}."
            )
        return np.repeat(np.arange(shape[0]), shape[1])
    starts = np.asarray(tensor.sparse_crow_indices, np.int64)
    counts = np.diff(starts)
    columns = np.asarray(tensor.sparse_col_indices or [], np.int64)
    sound = (
        starts.size == shape[0] + 1
        and starts[0] == 0
        and starts[-1] == cells == columns.size
        and bool((counts >= 0).all())
        and (not columns.size or (columns.min() >= 0 and columns.max() < shape[1]))
    )
    if not sound:
        raise InvalidRequest(
            f"target_prompt_logprobs is not a sound CSR matrix of the shape {list(shape)}."
        )
    return np.repeat(np.arange(shape[0]), counts)


# -- results -------------------------------------------------------------------------------------


def encode_sample(output: SampleOutput, form: ReplyForm) -> bytes:
    """A `SampleResponse`."""
    message = pb.SampleResponse()
    for sequence in output.sequences:
        encoded = message.sequences.add(
            stop_reason=_STOP_REASONS[sequence.stop_reason],
            tokens=np.asarray(sequence.tokens, dtype=np.int32).tobytes(),
            logprobs=np.asarray(sequence.logprobs, dtype=np.float32).tobytes(),
        )
        if sequence.topk is not None:
            encoded.topk_sampled_logprobs.CopyFrom(_topk(sequence.topk))
    if output.prompt_logprobs is not None:
        scores = [np.nan if value is None else value for value in output.prompt_logprobs]
        _blank(scores, form.last_n, np.nan)
        message.prompt_logprobs = np.asarray(scores, dtype=np.float32).tobytes()
    if output.topk_prompt_logprobs is not None:
        rows: list[TopkRow | None] = list(output.topk_prompt_logprobs)
        _blank(rows, form.last_n, None)
        message.topk_prompt_logprobs.CopyFrom(_topk(rows))
    if output.target_logprobs is not None and form.target is not None:
        message.target_prompt_logprobs.CopyFrom(_like(form.target, output.target_logprobs))
    if output.prompt_alt_tokens is not None:
        message.prompt_alt_tokens.CopyFrom(_alt_tokens(output.prompt_alt_tokens))
    return message.SerializeToString()


def _blank(rows: list[Any], last_n: int | None, nothing: object) -> None:
    if last_n is not None:
        skipped = max(0, len(rows) - last_n)
        rows[:skipped] = [nothing] * skipped


def _topk(rows: Iterable[TopkRow | None]) -> pb.TopkLogprobs:
    """Dense [N, k] matrices; cells without a token hold id 0 and log-probability -99999."""
    filled = [row or () for row in rows]
    width = max((len(row) for row in filled), default=0)
    ids = np.zeros((len(filled), width), dtype=np.int32)
    logprobs = np.full((len(filled), width), _NO_LOGPROB, dtype=np.float32)
    for position, row in enumerate(filled):
        for rank, (token, logprob) in enumerate(row):
            ids[position, rank] = token
            logprobs[position, rank] = logprob
    return pb.TopkLogprobs(
        token_ids=ids.tobytes(), logprobs=logprobs.tobytes(), k=width, length=len(filled)
    )


def _like(tensor: TensorData, logprobs: np.ndarray) -> pb.Tensor:
    """The log-probabilities of the named cells in the request's layout, 0 in the others."""
    named = np.asarray(tensor.data, np.int64) >= 0
    values = np.zeros(named.shape, np.float32)
    values[named] = logprobs
    if tensor.sparse_crow_indices is None:
        return pb.Tensor(dense=values.tobytes(), dtype=pb.DTYPE_FLOAT32, shape=tensor.shape)
    sparse = pb.SparseCsr(
        values=values.tobytes(),
        crow_indices=np.asarray(tensor.sparse_crow_indices, np.int64).tobytes(),
        col_indices=np.asarray(tensor.sparse_col_indices or [], np.int64).tobytes(),
    )
    return pb.Tensor(sparse_csr=sparse, dtype=pb.DTYPE_FLOAT32, shape=tensor.shape)


def _alt_tokens(drawn: PromptAltTokens) -> pb.PromptAltTokens:
    shape = drawn.tokens.shape
    tokens, logprobs = drawn.tokens.astype(np.int32), drawn.logprobs.astype(np.float32)
    return pb.PromptAltTokens(
        tokens=pb.Tensor(dense=tokens.tobytes(), dtype=pb.DTYPE_INT32, shape=shape),
        logprobs=pb.Tensor(dense=logprobs.tobytes(), dtype=pb.DTYPE_FLOAT32, shape=shape),
    )
