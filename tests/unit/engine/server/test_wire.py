"""The wire format against the SDK's own reader and writer."""

from typing import Any

import numpy as np
import pytest
import tinker.proto.tinker_public_pb2 as pb
import zstandard
from google.protobuf.message import Message
from tinker import types
from tinker.proto.request_conv import forward_backward_request_to_proto
from tinker.proto.response_conv import deserialize_proto_response

from visual_r1.engine.server.protobuf import _fields, parse_forward_backward  # pyright: ignore[reportPrivateUsage]
from visual_r1.engine.server.wire import (
    adam_settings,
    data_of,
    encode_forward,
    lora_spec,
    loss_config,
    validated,
)
from visual_r1.engine.types import (
    ForwardOutput,
    ImagePart,
    InvalidRequest,
    TextPart,
)

CONTEXT = 1000


def message(
    config: dict[str, float | str] | None = None, **inputs: Any
) -> pb.ForwardBackwardRequest:
    datum = types.Datum(
        model_input=types.ModelInput(
            chunks=[
                types.EncodedTextChunk(tokens=[1, 2, 3]),
                types.ImageChunk(data=b"picture", format="jpeg"),
                types.ImageChunk(data=b"counted", format="png", expected_tokens=9),
            ]
        ),
        loss_fn_inputs=inputs or {"target_tokens": [4, 5], "weights": [0.5, 1.5]},
    )
    request = types.ForwardBackwardRequest(
        types.ForwardBackwardInput([datum], "ppo", config), model_id="m", seq_id=3
    )
    return forward_backward_request_to_proto(request)


def test_data_are_read_as_they_were_sent() -> None:
    body = message({"beta": 0.25}).SerializeToString()
    request, _ = parse_forward_backward(body, None, CONTEXT)
    (datum,) = data_of(request, CONTEXT)
    assert datum.prompt == (
        TextPart((1, 2, 3)),
        ImagePart(b"picture", None),
        ImagePart(b"counted", 9),
    )
    assert datum.inputs["target_tokens"].dtype == np.int64
    assert datum.inputs["target_tokens"].tolist() == [4, 5]
    assert datum.inputs["weights"].dtype == np.float32
    assert datum.inputs["weights"].tolist() == [0.5, 1.5]
    assert loss_config(request) == {"beta": 0.25}


def test_the_older_field_of_the_loss_configuration_is_read_too() -> None:
    request = message({"beta": 0.25})
    request.loss_fn_config_v2.clear()
    assert loss_config(request) == {"beta": 0.25}
    with pytest.raises(InvalidRequest, match="mode"):
        loss_config(message({"mode": "fast"}))


def csr(shape: list[int], rows: list[int], columns: list[int], values: list[float]) -> pb.Tensor:
    tensor = pb.Tensor(dtype=pb.DTYPE_FLOAT32, shape=shape)
    tensor.sparse_csr.values = np.asarray(values, np.float32).tobytes()
    tensor.sparse_csr.crow_indices = np.asarray(rows, np.int64).tobytes()
    tensor.sparse_csr.col_indices = np.asarray(columns, np.int64).tobytes()
    return tensor


def with_weights(tensor: pb.Tensor) -> pb.ForwardBackwardRequest:
    request = message()
    request.data[0].loss_fn_inputs["weights"].CopyFrom(tensor)
    return request


def test_a_sparse_matrix_has_zeros_where_nothing_is_listed() -> None:
    (datum,) = data_of(with_weights(csr([2, 3], [0, 1, 3], [2, 0, 1], [7, 8, 9])), CONTEXT)
    assert datum.inputs["weights"].tolist() == [[0, 0, 7], [8, 9, 0]]


@pytest.mark.parametrize(
    "tensor",
    [
        csr([2, 3], [0, 1, 3], [2, 0, 3], [7, 8, 9]),
        csr([2, 3], [0, 1, 3], [2, 0, -1], [7, 8, 9]),
        csr([2, 3], [0, 3, 1], [2, 0, 1], [7, 8, 9]),
        csr([2, 3], [0, 1], [2], [7]),
        csr([6], [0, 1, 3], [2, 0, 1], [7, 8, 9]),
        csr([2, 1 << 40], [0, 0, 0], [], []),
        pb.Tensor(dtype=pb.DTYPE_FLOAT32, shape=[2], dense=b"12345"),
        csr([CONTEXT + 1, 1], [0] * (CONTEXT + 2), [], []),
        pb.Tensor(dtype=pb.DTYPE_FLOAT32, shape=[3], dense=bytes(8)),
        pb.Tensor(dtype=pb.DTYPE_FLOAT32, shape=[-1, -2], dense=bytes(8)),
        pb.Tensor(dtype=pb.DTYPE_FLOAT32, shape=[-2, -1, 1], dense=bytes(8)),
        pb.Tensor(dtype=pb.DTYPE_FLOAT32, shape=[1 << 32, 1 << 32], dense=b""),
        pb.Tensor(dtype=pb.DTYPE_FLOAT32, shape=[-(1 << 63)], dense=b""),
        csr([-1, -5], [0, 1, 3], [2, 0, 1], [7, 8, 9]),
        pb.Tensor(dtype=pb.DTYPE_UNSPECIFIED, shape=[2], dense=bytes(8)),
    ],
)
def test_tensors_that_are_not_sound_are_refused(tensor: pb.Tensor) -> None:
    with pytest.raises(InvalidRequest, match="weights"):
        data_of(with_weights(tensor), CONTEXT)


def test_chunks_that_are_not_served_are_refused() -> None:
    request = message()
    request.data[0].model_input.add().dmel.dmel = b"sound"
    with pytest.raises(InvalidRequest, match="dmel"):
        data_of(request, CONTEXT)
    request = message()
    request.data[0].model_input[1].image.format = "webp"
    with pytest.raises(InvalidRequest, match="webp"):
        data_of(request, CONTEXT)


def test_sparse_tensors_are_bounded_together() -> None:
    request = message()
    for number in range(200):
        tensor = csr([1000, 1000], [0] * 1001, [], [])
        request.data[0].loss_fn_inputs[f"w{number}"].CopyFrom(tensor)
    with pytest.raises(InvalidRequest, match="all sparse tensors of a request together"):
        data_of(request, CONTEXT)


def test_the_digest_is_that_of_what_a_request_says() -> None:
    plain = message().SerializeToString()
    _, digest = parse_forward_backward(plain, None, CONTEXT)
    packed = zstandard.ZstdCompressor().compress(plain)
    assert parse_forward_backward(packed, "zstd", CONTEXT)[1] == digest
    other = message()
    other.forward_only = True
    assert parse_forward_backward(other.SerializeToString(), None, CONTEXT)[1] != digest


def counted(value: Message) -> int:
    """The fields of a parsed message as they came, where all are known."""
    count = 0
    for descriptor, content in value.ListFields():
        several = descriptor.is_repeated
        inner = descriptor.message_type
        if inner is not None and inner.GetOptions().map_entry:
            # An entry is a message of a key and a value.
            count += 3 * len(content)
            if inner.fields_by_name["value"].message_type is not None:
                count += sum(map(counted, content.values()))
        elif inner is not None:
            inside = content if several else [content]
            count += sum(1 + counted(one) for one in inside)
        elif several:  # numbers, packed: a field and its bytes
            count += 1 + sum(len(_varint_of(number)) for number in content)
        else:
            count += 1
    return count


def _varint_of(number: int) -> bytes:
    return pb.Tensor(shape=[number]).SerializeToString()[2:]


def test_fields_are_counted_as_they_are_on_the_wire() -> None:
    request = message({"beta": 0.25, "what": "a text"})
    for length in (1, 127, 128, 300, 20_000):
        tensor = pb.Tensor(dense=b"1" * length, dtype=pb.DTYPE_INT64, shape=[length, 1, 2**40])
        request.data[0].loss_fn_inputs[f"of {length}"].CopyFrom(tensor)
        request.data.add().model_input.add().encoded_text.tokens = b"1" * length
    body = request.SerializeToString()
    wanted = counted(request)
    assert _fields(body, 0, len(body), request.DESCRIPTOR, wanted) == wanted


@pytest.mark.parametrize("short", [1, 2, 3])
def test_a_torn_body_is_refused_wherever_it_ends(short: int) -> None:
    request = pb.ForwardBackwardRequest()
    request.data.add().model_input.add().encoded_text.tokens = b"1" * 300
    with pytest.raises(InvalidRequest, match="not a ForwardBackwardRequest"):
        parse_forward_backward(request.SerializeToString()[:-short], None, CONTEXT)
    # Within a tag, and behind one.
    for end in (b"\x9a", b"\x1a", b"\x1a\x80", b"\x18"):
        with pytest.raises(InvalidRequest, match="not a ForwardBackwardRequest"):
            parse_forward_backward(request.SerializeToString() + end, None, CONTEXT)


def field(number: int, content: bytes) -> bytes:
    assert len(content) < 128
    return bytes([number << 3 | 2, len(content)]) + content


CROWDED = {
    "empty data": field(3, b"") * 100_000,
    "empty chunks": field(3, field(1, b"") * 60) * 2000,
    "empty spans": field(3, field(3, field(1, b"")) * 25) * 4000,
    "shapes": field(3, field(2, field(2, field(4, b"\1" * 90)))) * 2000,
    "configurations": field(5, b"") * 100_000,
    "fields that nobody knows": field(15, b"") * 100_000,
    "numbers, again and again": b"\x10\x01" * 100_000,
}


@pytest.mark.parametrize("name", CROWDED)
def test_what_takes_more_than_a_request_can_need_is_refused_unparsed(name: str) -> None:
    with pytest.raises(InvalidRequest, match="fields, which no 1024 data"):
        parse_forward_backward(CROWDED[name], None, CONTEXT)


@pytest.mark.parametrize(
    "body",
    [
        b"\x1a",
        b"\x1a\x05\x0a",
        b"\x1a\x80",
        b"\xff" * 20,
        b"\x1b",
        b"\x0d\1\2",
        b"\x00\x00",
        b"\x0a\1\xff",
    ],
)
def test_what_is_no_request_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest, match="not a ForwardBackwardRequest"):
        parse_forward_backward(body, None, CONTEXT)


def test_a_full_request_of_the_sdk_is_far_from_the_bound() -> None:
    request = message(target_tokens=[4, 5], weights=[0.5, 1.5], logprobs=[1.0, 2.0])
    for _ in range(1023):
        request.data.add().CopyFrom(request.data[0])
    assert parse_forward_backward(request.SerializeToString(), None, CONTEXT)[0] == request


def test_forward_outputs_of_several_widths_reach_the_client_in_order() -> None:
    arrays = [
        np.arange(3, dtype=np.float32),
        np.arange(5, dtype=np.float32),
        np.arange(4, dtype=np.float32).reshape(2, 2),
        np.arange(2, dtype=np.float32),
    ]
    encoded = encode_forward(ForwardOutput(tuple(arrays), {"loss:sum": 1.5}))
    output = deserialize_proto_response(encoded, types.ForwardBackwardOutput)
    assert isinstance(output, types.ForwardBackwardOutput)
    assert output.metrics == {"loss:sum": 1.5}
    read = [datum["logprobs"].to_numpy() for datum in output.loss_fn_outputs]
    for expected, got in zip(arrays, read, strict=True):
        np.testing.assert_array_equal(expected, got)


def test_optimizers_and_adapters() -> None:
    body = {"model_id": "m", "seq_id": 1, "adam_params": {"learning_rate": 0.5, "beta1": 0.8}}
    settings = adam_settings(validated(types.OptimStepRequest, body).optim_params)
    assert settings.learning_rate == 0.5 and settings.beta1 == 0.8 and settings.beta2 == 0.95
    with pytest.raises(InvalidRequest, match="DimuonParams"):
        adam_settings(types.DimuonParams(learning_rate=0.1))
    spec = lora_spec(types.LoraConfig(rank=3, seed=9, train_mlp=False))
    assert (spec.rank, spec.seed, spec.train_mlp, spec.train_attn) == (3, 9, False, True)
    with pytest.raises(InvalidRequest, match="lora_config"):
        lora_spec(None)
