"""The wire format of sampling against the SDK's own reader and writer."""

import base64
from typing import Any

import numpy as np
import pytest
from tinker import types
from tinker.proto.response_conv import deserialize_proto_response

from visual_r1.engine.server.wire import ReplyForm, encode_sample, sample_request, validated
from visual_r1.engine.types import (
    ImagePart,
    InvalidRequest,
    PromptAltTokens,
    SampledSequence,
    SampleOutput,
    TextPart,
)


def tensor(data: list[float], shape: list[int], dtype: str = "int64") -> dict[str, Any]:
    return {"data": data, "dtype": dtype, "shape": shape}


def sparse(
    data: list[float], shape: list[int], rows: list[int], columns: list[int]
) -> dict[str, Any]:
    return tensor(data, shape) | {"sparse_crow_indices": rows, "sparse_col_indices": columns}


def decoded(output: SampleOutput, form: ReplyForm) -> types.SampleResponse:
    read = deserialize_proto_response(encode_sample(output, form), types.SampleResponse)
    assert isinstance(read, types.SampleResponse)
    return read


@pytest.mark.parametrize(
    ("target", "rows", "ids", "dense"),
    [
        (tensor([4, -1, -1, 6], [2, 2]), [0, 1], [4, 6], [[-0.5, 0.0], [0.0, -1.5]]),
        (
            sparse([4, 6], [3, 2], [0, 1, 1, 2], [1, 0]),
            [0, 2],
            [4, 6],
            [[0, -0.5], [0, 0], [-1.5, 0]],
        ),
    ],
)
def test_target_tokens_come_back_in_their_layout(
    target: dict[str, Any], rows: list[int], ids: list[int], dense: list[list[float]]
) -> None:
    request, form = sample_request(asample(target_prompt_logprobs=target))
    wanted = request.target_tokens
    assert wanted is not None and wanted.positions == target["shape"][0]
    assert (wanted.rows.tolist(), wanted.ids.tolist()) == (rows, ids)
    read = decoded(SampleOutput((), target_logprobs=np.float32([-0.5, -1.5])), form)
    assert read.target_prompt_logprobs is not None
    assert read.target_prompt_logprobs.to_torch().tolist() == dense


def test_alternatives_and_the_likeliest_of_each_sampled_token_reach_the_client() -> None:
    drawn = PromptAltTokens(np.int64([[3, 4]]), np.float32([[-0.5, -0.25]]))
    row = ((5, -0.5), (8, -1.0))
    sequence = SampledSequence((5, 6), (-0.5, -1.5), "stop", topk=(row, row[:1]))
    read = decoded(SampleOutput((sequence,), prompt_alt_tokens=drawn), ReplyForm())
    assert read.prompt_alt_tokens is not None
    assert read.prompt_alt_tokens.tokens.to_torch().tolist() == [[3, 4]]
    assert read.prompt_alt_tokens.logprobs.to_torch().tolist() == [[-0.5, -0.25]]
    assert read.sequences[0].topk_logprobs == [[*row], [row[0]]]


def test_samples_reach_the_client() -> None:
    output = SampleOutput(
        sequences=(
            SampledSequence((5, 6), (-0.5, -1.5), "stop"),
            SampledSequence((7,), (-2.0,), "length"),
        ),
        prompt_logprobs=(None, -1.0, -2.0),
        topk_prompt_logprobs=(None, ((3, -0.1), (4, -0.2)), ((8, -0.3),)),
    )
    read = decoded(output, ReplyForm())
    assert [(s.tokens, s.logprobs, s.stop_reason) for s in read.sequences] == [
        ([5, 6], [-0.5, -1.5], "stop"),
        ([7], [-2.0], "length"),
    ]
    assert read.prompt_logprobs == [None, -1.0, -2.0]
    topk = read.topk_prompt_logprobs
    assert topk is not None and topk[0] is None
    assert [[token for token, _ in row or []] for row in topk[1:]] == [[3, 4], [8]]
    last = deserialize_proto_response(
        encode_sample(output, ReplyForm(last_n=1)), types.SampleResponse
    )
    assert isinstance(last, types.SampleResponse)
    assert last.prompt_logprobs == [None, None, -2.0]
    assert last.topk_prompt_logprobs is not None and last.topk_prompt_logprobs[:2] == [None, None]


def asample(**changes: Any) -> types.SampleRequest:
    picture = {"type": "image", "format": "png", "data": base64.b64encode(b"png").decode()}
    body: dict[str, Any] = {
        "prompt": {"chunks": [{"type": "encoded_text", "tokens": [1, 2]}, picture]},
        "sampling_params": {"max_tokens": 5},
    }
    return validated(types.SampleRequest, body | changes)


def test_a_sample_request_is_read() -> None:
    request, form = sample_request(asample(num_samples=3, prompt_logprobs=True))
    assert form == ReplyForm()
    assert request.prompt == (TextPart((1, 2)), ImagePart(b"png", None))
    assert request.num_samples == 3 and request.prompt_logprobs
    assert request.settings.max_tokens == 5 and request.settings.temperature == 1


@pytest.mark.parametrize(
    ("stop", "tokens", "strings", "at_eos"),
    [
        (None, (), (), True),
        ([], (), (), False),
        ("end", (), ("end",), True),
        (["a", "b"], (), ("a", "b"), True),
        ([7, 8], (7, 8), (), True),
    ],
)
def test_what_ends_an_answer(
    stop: Any, tokens: tuple[int, ...], strings: tuple[str, ...], at_eos: bool
) -> None:
    settings = sample_request(asample(sampling_params={"stop": stop}))[0].settings
    assert (settings.stop_tokens, settings.stop_strings) == (tokens, strings)
    assert settings.stop_at_eos is at_eos and settings.max_tokens is None


@pytest.mark.parametrize(
    "changes",
    [
        {"sampling_params": {"stop": ["a", 7]}},
        {"target_prompt_logprobs": tensor([1, 2, 3], [2, 2])},
        {"target_prompt_logprobs": tensor([-1, -1], [2, 1])},
        {"target_prompt_logprobs": tensor([1, 2], [2])},
        {"target_prompt_logprobs": tensor([1.0, 2.0], [2, 1], dtype="float32")},
        {"target_prompt_logprobs": sparse([5], [2, 3], [0, 1], [0])},
        {"target_prompt_logprobs": sparse([5], [2, 3], [0, 1, 1], [3])},
        {"target_prompt_logprobs": sparse([5, 6], [2, 3], [0, 2, 1], [0, 1])},
        {"record_stability_info": True},
        {"prompt_logprobs_last_n": 0},
        {"prompt": {"chunks": [{"type": "image", "format": "png", "data": "a"}]}},
        {"prompt": {"chunks": [{"type": "image_asset_pointer", "format": "png", "location": "x"}]}},
        {"prompt": "text"},
        {"unknown_field": 1},
    ],
)
def test_sample_requests_that_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        sample_request(asample(**changes))
