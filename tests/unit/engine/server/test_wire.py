"""The wire format against the SDK's own reader and writer."""

from typing import Any

import numpy as np
import pytest
import tinker.proto.tinker_public_pb2 as pb
from tinker import types
from tinker.proto.request_conv import forward_backward_request_to_proto
from tinker.proto.response_conv import deserialize_proto_response

from visual_r1.engine.server.wire import (
    adam_settings,
    data_of,
    encode_forward,
    lora_spec,
    loss_config,
    parse_forward_backward,
    validated,
)
from visual_r1.engine.types import (
    ForwardOutput,
    ImagePart,
    InvalidRequest,
    TextPart,
)


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
    request = parse_forward_backward(body, None, 1000)
    (datum,) = data_of(request)
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
    (datum,) = data_of(with_weights(csr([2, 3], [0, 1, 3], [2, 0, 1], [7, 8, 9])))
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
        pb.Tensor(dtype=pb.DTYPE_FLOAT32, shape=[3], dense=bytes(8)),
        pb.Tensor(dtype=pb.DTYPE_UNSPECIFIED, shape=[2], dense=bytes(8)),
    ],
)
def test_tensors_that_are_not_sound_are_refused(tensor: pb.Tensor) -> None:
    with pytest.raises(InvalidRequest, match="weights"):
        data_of(with_weights(tensor))


def test_chunks_that_are_not_served_are_refused() -> None:
    request = message()
    request.data[0].model_input.add().dmel.dmel = b"sound"
    with pytest.raises(InvalidRequest, match="dmel"):
        data_of(request)
    request = message()
    request.data[0].model_input[1].image.format = "webp"
    with pytest.raises(InvalidRequest, match="webp"):
        data_of(request)


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
