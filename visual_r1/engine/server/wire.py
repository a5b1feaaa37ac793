"""Between Tinker's wire format (SDK 0.38) and the compute side: requests in, results out.

Training requests are protobuf and JSON, sample requests JSON, the results of both protobuf. What is
checked here is the form: whether a request can be read, and names nothing that is not served.
Whether its numbers fit the model, the loss and the optimizer is for the compute side to say.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, TypeVar

import numpy as np
from pydantic import BaseModel, ValidationError
from tinker import types
from tinker.proto import tinker_public_pb2 as pb
from tinker.types._pydantic_types.tensor_data import TensorData
from tinker.types.topk_logprobs import MASK_LOGPROB

from visual_r1.engine.types import (
    AdamSettings,
    Datum,
    ForwardOutput,
    ImagePart,
    InvalidRequest,
    LoraSpec,
    Prompt,
    PromptAltTokens,
    Provenance,
    SampleOutput,
    SampleRequest,
    SamplingSettings,
    Span,
    TargetTokens,
    TextPart,
    TopkRow,
)

API = "/api/v1"

BODY_LIMIT = 64 << 20
"""Bytes of a request, packed or not; the SDK keeps to 5 MB unless a single example is larger."""

_CELLS_AT_MOST = 1 << 24
"""Of a sample request's target tokens."""
_DENSE_AT_MOST = 1 << 27
"""Values of a request's sparse tensors, once they are filled up with zeros: a gigabyte at most."""

_STOP_REASONS = {"stop": pb.STOP_REASON_STOP, "length": pb.STOP_REASON_LENGTH}
_DTYPES: dict[int, np.dtype[Any]] = {
    pb.DTYPE_FLOAT32: np.dtype(np.float32),
    pb.DTYPE_INT64: np.dtype(np.int64),
    pb.DTYPE_INT32: np.dtype(np.int32),
}

Body = TypeVar("Body", bound=BaseModel)
Value = TypeVar("Value")


def validated(model: type[Body], value: object) -> Body:
    """Read a JSON value as one of the SDK's request types. Raises `InvalidRequest`."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "the body"
        raise InvalidRequest(f"{model.__name__}: {place}: {first['msg']}.") from error


# -- training requests ---------------------------------------------------------------------------


def data_of(request: pb.ForwardBackwardRequest, context_length: int) -> list[Datum]:
    """The data of a forward or forward_backward. Raises `InvalidRequest`."""
    filled = 0
    for datum in request.data:
        for name, tensor in datum.loss_fn_inputs.items():
            # What it takes filled up with zeros; of a shape that is none `_dense` tells.
            shape = tuple(tensor.shape)
            if tensor.WhichOneof("encoding") != "sparse_csr" or min(shape, default=0) < 1:
                continue
            filled += math.prod(shape)
            if shape[0] > context_length or filled > _DENSE_AT_MOST:
                raise InvalidRequest(
                    f"{name} has the shape {list(shape)}: it has a row for each of the at most "
                    f"{context_length} places of the context, and all sparse tensors of a request "
                    f"together {_DENSE_AT_MOST} places at most."
                )
    return [
        Datum(
            prompt=tuple(_part(chunk) for chunk in datum.model_input),
            inputs={name: _array(name, tensor) for name, tensor in datum.loss_fn_inputs.items()},
            provenance=_provenance(datum),
        )
        for datum in request.data
    ]


def loss_config(request: pb.ForwardBackwardRequest) -> dict[str, float]:
    """The loss's numbers, from the newer field where it is set. Raises `InvalidRequest` on text."""
    config = {name: float(value) for name, value in request.loss_fn_config.items()}
    for name, value in request.loss_fn_config_v2.items():
        if value.WhichOneof("value") == "text":
            raise InvalidRequest(
                f"loss_fn_config[{name!r}] is the text {value.text!r}; "
                f"{request.loss_fn} takes numbers."
            )
        config[name] = value.number
    return config


def lora_spec(config: types.LoraConfig | None) -> LoraSpec:
    """The adapter that a client asks for. Raises `InvalidRequest`."""
    if config is None:
        raise InvalidRequest("lora_config is missing: this engine trains LoRA adapters only.")
    return LoraSpec(
        rank=config.rank,
        seed=config.seed,
        train_mlp=config.train_mlp,
        train_attn=config.train_attn,
        train_unembed=config.train_unembed,
    )


def adam_settings(params: object) -> AdamSettings:
    """The numbers of an optimizer step. Raises `InvalidRequest` on another optimizer's."""
    if not isinstance(params, types.AdamParams):
        raise InvalidRequest(
            f"{type(params).__name__} is not served: the optimizer of this engine is AdamW."
        )
    return AdamSettings(**params.model_dump())


def _part(chunk: pb.Chunk) -> TextPart | ImagePart:
    which = chunk.WhichOneof("chunk")
    if which == "encoded_text":
        tokens = np.frombuffer(_whole(chunk.encoded_text.tokens, 4, "tokens"), dtype=np.int32)
        return TextPart(tuple(tokens.tolist()))
    if which == "image":
        image = chunk.image
        if image.HasField("override_dimensions"):
            raise InvalidRequest("override_dimensions of an image is not served here; resize it.")
        expected = image.expected_tokens if image.HasField("expected_tokens") else None
        return _image_part(image.data, image.format, expected)
    raise InvalidRequest(f"chunks of the kind {which} are not served here, only text and images.")


def _provenance(datum: pb.Datum) -> Provenance | None:
    if not (datum.model_input_spans or datum.loss_fn_input_spans):
        return None
    return Provenance(
        tuple(map(_span, datum.model_input_spans)), tuple(map(_span, datum.loss_fn_input_spans))
    )


def _span(message: pb.ProvenanceSpan) -> Span:
    which = message.WhichOneof("span")
    if which is None:
        raise InvalidRequest("a run of a datum's provenance is neither of a prompt nor sampled.")
    sampled = which == "sampled_tokens"
    span = message.sampled_tokens if sampled else message.prompt_tokens
    return Span(span.sequence_id, sampled, span.offset, span.length)


def _array(name: str, tensor: pb.Tensor) -> np.ndarray:
    dtype = _DTYPES.get(tensor.dtype)
    if dtype is None:
        raise InvalidRequest(f"{name} has the dtype number {tensor.dtype}; use float32 or int64.")
    if tensor.WhichOneof("encoding") == "sparse_csr":
        array = _dense(name, tensor, dtype)
    else:
        array = np.frombuffer(_whole(tensor.dense, dtype.itemsize, name), dtype=dtype)
        shape = tuple(tensor.shape) or (array.size,)
        if min(shape) < 0 or math.prod(shape) != array.size:
            raise InvalidRequest(f"{name} has {array.size} values for the shape {shape}.")
        array = array.reshape(shape)
    return array.astype(np.int64 if array.dtype.kind == "i" else np.float32)


def _dense(name: str, tensor: pb.Tensor, dtype: np.dtype[Any]) -> np.ndarray:
    """A CSR matrix with zeros where it lists nothing."""
    csr = tensor.sparse_csr
    values = np.frombuffer(_whole(csr.values, dtype.itemsize, name), dtype=dtype)
    starts = np.frombuffer(_whole(csr.crow_indices, 8, name), dtype=np.int64)
    columns = np.frombuffer(_whole(csr.col_indices, 8, name), dtype=np.int64)
    shape = tuple(tensor.shape)
    rows = _csr_rows(name, shape, starts, columns, values.size)
    dense = np.zeros(shape, dtype=dtype)
    dense[rows, columns] = values
    return dense


def _whole(data: bytes, itemsize: int, name: str) -> bytes:
    if len(data) % itemsize:
        raise InvalidRequest(f"{name} has {len(data)} bytes, no multiple of {itemsize}.")
    return data


# -- sample requests -----------------------------------------------------------------------------


@dataclass(frozen=True)
class ReplyForm:
    """What the reply to a sample request takes from the request's form."""

    last_n: int | None = None
    """Score the prompt on its last n tokens only."""
    target: TensorData | None = None
    """The tensor of target ids, whose shape and layout the answer takes on."""


def sample_request(body: types.SampleRequest) -> tuple[SampleRequest, ReplyForm]:
    """What to compute for an `asample`. Raises `InvalidRequest` on what is not served.

    `stop` None ends at the model's own end tokens, an empty list at nothing; stop strings and stop
    tokens end an answer besides those.
    """
    if body.record_stability_info and body.sampling_session_id is None:
        raise InvalidRequest(
            "record_stability_info goes with a sampling_session_id: what is recorded belongs to "
            "the session of its sampler."
        )
    last_n = body.prompt_logprobs_last_n
    if last_n is not None and last_n < 1:
        raise InvalidRequest(f"prompt_logprobs_last_n is {last_n}, not >= 1.")
    params = body.sampling_params
    stop_tokens, stop_strings = _stops(params.stop)
    request = SampleRequest(
        prompt=_prompt(body.prompt),
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
        target_tokens=_target_tokens(body.target_prompt_logprobs),
        prompt_alt_tokens=body.prompt_alt_tokens_k,
    )
    return request, ReplyForm(last_n, body.target_prompt_logprobs)


def _prompt(model_input: types.ModelInput) -> Prompt:
    parts: list[TextPart | ImagePart] = []
    for chunk in model_input.chunks:
        if isinstance(chunk, types.EncodedTextChunk):
            parts.append(TextPart(tuple(chunk.tokens)))
        elif isinstance(chunk, types.ImageChunk):
            parts.append(_image_part(chunk.data, chunk.format, chunk.expected_tokens))
        else:
            raise InvalidRequest(
                f"chunks of the kind {chunk.type} are not served here, only text and images."
            )
    return tuple(parts)


def _stops(stop: str | Iterable[str | int] | None) -> tuple[tuple[int, ...], tuple[str, ...]]:
    items = [] if stop is None else [stop] if isinstance(stop, str) else list(stop)
    strings = tuple(item for item in items if isinstance(item, str))
    tokens = tuple(item for item in items if isinstance(item, int))
    if strings and tokens:
        raise InvalidRequest("stop mixes texts and token ids: give one kind.")
    return tokens, strings


def _target_tokens(tensor: TensorData | None) -> TargetTokens | None:
    """The cells that name a token. Raises `InvalidRequest` on a tensor that is none."""
    if tensor is None:
        return None
    name, cells, shape = "target_prompt_logprobs", len(tensor.data), tensor.shape or []
    if tensor.dtype != "int64" or len(shape) != 2 or min(shape) < 1:
        raise InvalidRequest(
            f"{name} is {tensor.dtype} of the shape {shape}; it is int64 of the "
            "shape [length of the prompt - 1, K]."
        )
    if cells > _CELLS_AT_MOST:
        raise InvalidRequest(f"{name} has more than {_CELLS_AT_MOST} cells.")
    if tensor.sparse_crow_indices is not None:
        starts = np.asarray(tensor.sparse_crow_indices, np.int64)
        columns = np.asarray(tensor.sparse_col_indices or [], np.int64)
        rows = _csr_rows(name, shape, starts, columns, cells)
    elif cells == shape[0] * shape[1]:
        rows = np.repeat(np.arange(shape[0]), shape[1])
    else:
        raise InvalidRequest(f"{name} has {cells} values for the shape {list(shape)}.")
    ids = np.asarray(tensor.data, np.int64)
    named = ids >= 0
    if not named.any():
        raise InvalidRequest(f"{name} names no token at all.")
    return TargetTokens(positions=shape[0], rows=rows[named], ids=ids[named])


# -- requests of both kinds ----------------------------------------------------------------------


def _image_part(data: bytes, image_format: str, expected_tokens: int | None) -> ImagePart:
    if image_format not in ("png", "jpeg"):
        raise InvalidRequest(f"the image format {image_format!r} is not served: send png or jpeg.")
    return ImagePart(data, expected_tokens)


def _csr_rows(
    name: str, shape: Sequence[int], starts: np.ndarray, columns: np.ndarray, count: int
) -> np.ndarray:
    """The row of each of `count` values in compressed rows: int64 [count].

    Row i has the values from starts[i] up to starts[i + 1]. Raises `InvalidRequest` where the parts
    do not go together.
    """
    counts = np.diff(starts)
    sound = (
        len(shape) == 2
        and min(shape) >= 0
        and starts.size == shape[0] + 1
        and starts[0] == 0
        and starts[-1] == count == columns.size
        and bool((counts >= 0).all())
        and (not columns.size or (columns.min() >= 0 and columns.max() < shape[1]))
    )
    if not sound:
        raise InvalidRequest(f"{name} is not a sound CSR matrix of the shape {shape}.")
    return np.repeat(np.arange(shape[0]), counts)


# -- results -------------------------------------------------------------------------------------


def encode_forward(output: ForwardOutput) -> bytes:
    """A `ForwardBackwardOutput`: one record for each run of data with targets of one width."""
    message = pb.ForwardBackwardOutput(loss_fn_output_type="ArrayRecord", metrics=output.metrics)
    for trailing, group in groupby(output.logprobs, key=lambda array: array.shape[1:]):
        arrays = [np.ascontiguousarray(array, dtype=np.float32) for array in group]
        record = message.loss_fn_outputs.add()
        record.num_datums = len(arrays)
        field = record.fields["logprobs"]
        field.data = b"".join(array.tobytes() for array in arrays)
        ends = np.cumsum([0, *(array.nbytes for array in arrays)], dtype=np.int64)
        field.offsets = ends.tobytes()
        field.dtype = pb.DTYPE_FLOAT32
        field.trailing_shape.extend(trailing)
    return message.SerializeToString()


def encode_sample(output: SampleOutput, form: ReplyForm) -> bytes:
    """A `SampleResponse`.

    Its `prompt_cache_hit_tokens` stay 0: a request's own samples share their prompt, which is not
    counted there, and nothing of a prompt is kept for another request.
    """
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
        message.prompt_logprobs = np.asarray(
            _last(scores, form.last_n, np.nan), np.float32
        ).tobytes()
    if output.topk_prompt_logprobs is not None:
        rows = _last(output.topk_prompt_logprobs, form.last_n, None)
        message.topk_prompt_logprobs.CopyFrom(_topk(rows))
    if output.target_logprobs is not None and form.target is not None:
        message.target_prompt_logprobs.CopyFrom(_like(form.target, output.target_logprobs))
    if output.prompt_alt_tokens is not None:
        message.prompt_alt_tokens.CopyFrom(_alt_tokens(output.prompt_alt_tokens))
    return message.SerializeToString()


def _last(values: Sequence[Value], n: int | None, nothing: Value) -> list[Value]:
    """The last n of the values (None: all of them) in their places, and nothing before them."""
    skipped = 0 if n is None else max(0, len(values) - n)
    return [nothing] * skipped + [*values[skipped:]]


def _topk(rows: Iterable[TopkRow | None]) -> pb.TopkLogprobs:
    """Dense [N, k] matrices; cells without a token hold id 0 and `MASK_LOGPROB`."""
    filled = [row or () for row in rows]
    width = max((len(row) for row in filled), default=0)
    ids = np.zeros((len(filled), width), dtype=np.int32)
    logprobs = np.full((len(filled), width), MASK_LOGPROB, dtype=np.float32)
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
