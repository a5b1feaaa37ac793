"""Between Tinker's wire format (SDK 0.38) and the compute side: training; and see `sample_wire`."""

from itertools import groupby
from typing import Any, TypeVar

import numpy as np
import zstandard
from google.protobuf.message import DecodeError
from pydantic import BaseModel, ValidationError
from tinker import types
from tinker.proto import tinker_public_pb2 as pb

from visual_r1.engine.requests import (
    AdamSettings,
    Datum,
    ForwardOutput,
    ImagePart,
    InvalidRequest,
    LoraSpec,
    TextPart,
)

Body = TypeVar("Body", bound=BaseModel)

_DTYPES: dict[int, np.dtype[Any]] = {
    pb.DTYPE_FLOAT32: np.dtype(np.float32),
    pb.DTYPE_INT64: np.dtype(np.int64),
    pb.DTYPE_INT32: np.dtype(np.int32),
}


# -- requests ------------------------------------------------------------------------------------


def validated(model: type[Body], value: object) -> Body:
    """Read a JSON value as one of the SDK's request types. Raises `InvalidRequest`."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "the body"
        raise InvalidRequest(f"{model.__name__}: {place}: {first['msg']}.") from error


def parse_forward_backward(
    body: bytes, encoding: str | None, limit: int
) -> pb.ForwardBackwardRequest:
    """Parse a `ForwardBackwardRequest`. Raises `InvalidRequest` when it is none."""
    if encoding == "zstd":
        body = _unpacked(body, limit)
    request = pb.ForwardBackwardRequest()
    try:
        request.ParseFromString(body)
    except DecodeError as error:
        raise InvalidRequest(f"the body is not a ForwardBackwardRequest: {error}.") from error
    return request


def _unpacked(body: bytes, limit: int) -> bytes:
    reader = zstandard.ZstdDecompressor().stream_reader(body)
    try:
        unpacked = reader.read(limit + 1)
    except zstandard.ZstdError as error:
        raise InvalidRequest(f"the body is not zstd: {error}.") from error
    if len(unpacked) > limit:
        raise InvalidRequest(
            f"the body has more than {limit} bytes once unpacked: send fewer data at a time."
        )
    return unpacked


def data_of(request: pb.ForwardBackwardRequest) -> list[Datum]:
    """The data of a forward or forward_backward. Raises `InvalidRequest`."""
    if not request.data:
        raise InvalidRequest("the request has no data.")
    return [
        Datum(
            prompt=tuple(_part(chunk) for chunk in datum.model_input),
            inputs={name: _array(name, tensor) for name, tensor in datum.loss_fn_inputs.items()},
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
        return image_part(image.data, image.format, expected)
    raise InvalidRequest(f"chunks of the kind {which} are not served here, only text and images.")


def image_part(data: bytes, image_format: str, expected_tokens: int | None) -> ImagePart:
    """An image as it came. Raises `InvalidRequest` on a format that is not served."""
    if image_format not in ("png", "jpeg"):
        raise InvalidRequest(f"the image format {image_format!r} is not served: send png or jpeg.")
    return ImagePart(data, expected_tokens)


def _whole(data: bytes, itemsize: int, name: str) -> bytes:
    if len(data) % itemsize:
        raise InvalidRequest(f"{name} has {len(data)} bytes, no multiple of {itemsize}.")
    return data


def _array(name: str, tensor: pb.Tensor) -> np.ndarray:
    dtype = _DTYPES.get(tensor.dtype)
    if dtype is None:
        raise InvalidRequest(f"{name} has the dtype number {tensor.dtype}; use float32 or int64.")
    if tensor.WhichOneof("encoding") == "sparse_csr":
        array = _dense(name, tensor, dtype)
    else:
        array = np.frombuffer(_whole(tensor.dense, dtype.itemsize, name), dtype=dtype)
        shape = tuple(tensor.shape) or (array.size,)
        if int(np.prod(shape)) != array.size:
            raise InvalidRequest(f"{name} has {array.size} values for the shape {shape}.")
        array = array.reshape(shape)
    return array.astype(np.int64 if array.dtype.kind == "i" else np.float32)


def _dense(name: str, tensor: pb.Tensor, dtype: np.dtype[Any]) -> np.ndarray:
    """A CSR matrix with zeros where it lists nothing."""
    csr = tensor.sparse_csr
    values = np.frombuffer(_whole(csr.values, dtype.itemsize, name), dtype=dtype)
    rows = np.frombuffer(_whole(csr.crow_indices, 8, name), dtype=np.int64)
    columns = np.frombuffer(_whole(csr.col_indices, 8, name), dtype=np.int64)
    shape = tuple(tensor.shape)
    counts = np.diff(rows)
    sound = (
        len(shape) == 2
        and min(shape) >= 0
        and rows.size == shape[0] + 1
        and rows[0] == 0
        and rows[-1] == values.size == columns.size
        and bool((counts >= 0).all())
        and (not columns.size or (columns.min() >= 0 and columns.max() < shape[1]))
    )
    if not sound:
        raise InvalidRequest(f"{name} is not a sound CSR matrix of the shape {shape}.")
    if shape[0] * shape[1] > 1 << 28:
        raise InvalidRequest(f"{name} of the shape {shape} is too large.")
    dense = np.zeros(shape, dtype=dtype)
    dense[np.repeat(np.arange(shape[0]), counts), columns] = values
    return dense


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
    settings = AdamSettings(**params.model_dump())
    numbers = {
        "learning_rate": settings.learning_rate,
        "eps": settings.eps,
        "weight_decay": settings.weight_decay,
        "grad_clip_norm": settings.grad_clip_norm,
    }
    for name, value in numbers.items():
        if not np.isfinite(value) or value < 0:
            raise InvalidRequest(f"{name} is {value}; it must be a number from 0 up.")
    for name, value in (("beta1", settings.beta1), ("beta2", settings.beta2)):
        if not 0 <= value < 1:
            raise InvalidRequest(f"{name} is {value}; it lies in [0, 1).")
    return settings


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
