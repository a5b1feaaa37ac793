"""Sampling through the real SDK."""

import time
from collections.abc import Callable

import pytest
import tinker
from protocol_client import MODEL, TOKENS, RawClient, datum, image_prompt, png
from tinker import types

from visual_r1.engine.launch import RunningEngine
from visual_r1.engine.server.bursts import SETTLE_AT_MOST_S
from visual_r1.models import model_path
from visual_r1.models.processor import load_processor

PROMPT = types.ModelInput.from_ints(list(TOKENS))


@pytest.fixture
def sampler(service: tinker.ServiceClient) -> tinker.SamplingClient:
    """A sampler of the base model."""
    return service.create_sampling_client(base_model=MODEL).result(timeout=60)


def drawn(response: types.SampleResponse) -> list[tuple[list[int], list[float] | None]]:
    """Tokens and log-probabilities of every sequence."""
    return [(sequence.tokens, sequence.logprobs) for sequence in response.sequences]


def params(**changes: object) -> types.SamplingParams:
    return types.SamplingParams.model_validate({"max_tokens": 12, "seed": 5} | changes)


def test_a_request_gives_the_same_alone_and_among_a_hundred(sampler: tinker.SamplingClient) -> None:
    wanted = [
        (PROMPT, params(seed=1, temperature=0.9)),
        (image_prompt(), params(seed=2)),
        (types.ModelInput.from_ints(list(TOKENS[:2])), params(seed=3, top_p=0.8, top_k=20)),
    ]
    alone = [drawn(sampler.sample(prompt, 2, how).result(timeout=60)) for prompt, how in wanted]
    crowd = [
        sampler.sample(types.ModelInput.from_ints(list(TOKENS[: 1 + i % 9])), 1, params(seed=i))
        for i in range(100)
    ]
    among = [sampler.sample(prompt, 2, how) for prompt, how in wanted]
    others = {len(future.result(timeout=120).sequences[0].tokens) for future in crowd}
    assert others
    assert [drawn(future.result(timeout=120)) for future in among] == alone
    assert alone[0][0] != alone[0][1]


def test_sequence_ids_are_distinct_and_stop_reasons_true(sampler: tinker.SamplingClient) -> None:
    first = sampler.sample(PROMPT, 3, params()).result(timeout=60)
    second = sampler.sample(PROMPT, 3, params(seed=6)).result(timeout=60)
    ids = [sequence.sequence_id for r in (first, second) for sequence in r.sequences]
    assert len(set(ids)) == 6 and all(isinstance(one, str) for one in ids)
    endless = sampler.sample(PROMPT, 1, params(stop=[])).result(timeout=60).sequences[0]
    assert endless.stop_reason == "length" and len(endless.tokens) == 12


def test_stop_tokens_and_stop_strings(sampler: tinker.SamplingClient) -> None:
    free = sampler.sample(PROMPT, 1, params(temperature=0, stop=[])).result(timeout=60).sequences[0]
    at_token = params(temperature=0, stop=[free.tokens[3]])
    stopped = sampler.sample(PROMPT, 1, at_token).result(timeout=60).sequences[0]
    end = free.tokens.index(free.tokens[3]) + 1
    assert stopped.tokens == free.tokens[:end] and stopped.stop_reason == "stop"
    text = load_processor(model_path(MODEL)).decode(free.tokens[:1])
    at_text = params(temperature=0, stop=[text])
    assert sampler.sample(PROMPT, 1, at_text).result(timeout=60).sequences[0].stop_reason == "stop"


def test_prompt_logprobs(sampler: tinker.SamplingClient) -> None:
    response = sampler.sample(
        PROMPT, 1, params(), include_prompt_logprobs=True, topk_prompt_logprobs=3
    ).result(timeout=60)
    scores = response.prompt_logprobs
    assert scores is not None and scores[0] is None and len(scores) == len(TOKENS)
    assert scores == sampler.compute_logprobs(PROMPT).result(timeout=60)
    topk = response.topk_prompt_logprobs
    assert topk is not None and topk[0] is None
    for score, row in zip(scores[1:], topk[1:], strict=True):
        assert row is not None and len(row) == 3
        assert row[0][1] >= row[1][1] >= row[2][1] and score is not None
        assert row[0][1] >= score - 1e-6
    last = sampler.compute_logprobs(PROMPT, prompt_logprobs_last_n=2).result(timeout=60)
    assert last == [None] * (len(TOKENS) - 2) + scores[-2:]


def test_images_without_a_count_with_the_right_and_with_a_wrong_one(
    sampler: tinker.SamplingClient,
) -> None:
    count = load_processor(model_path(MODEL)).image_tokens(96, 96)
    open_count = sampler.sample(image_prompt(), 1, params()).result(timeout=60)
    assert drawn(sampler.sample(image_prompt(count), 1, params()).result(timeout=60)) == drawn(
        open_count
    )
    with pytest.raises(tinker.RequestFailedError) as caught:
        sampler.sample(image_prompt(count + 1), 1, params()).result(timeout=60)
    assert caught.value.category is types.RequestErrorCategory.User
    assert str(count) in str(caught.value) and str(count + 1) in str(caught.value)
    with pytest.raises(tinker.RequestFailedError, match="image"):
        sampler.sample(image_prompt(picture=png()[:200]), 1, params()).result(timeout=60)


def test_what_cannot_be_served_fails_with_its_name(sampler: tinker.SamplingClient) -> None:
    with pytest.raises(tinker.RequestFailedError, match="topk_sample_logprobs"):
        sampler.sample(PROMPT, 1, params(), topk_sample_logprobs=10**6).result(timeout=60)
    with pytest.raises(tinker.RequestFailedError, match="num_samples"):
        sampler.sample(PROMPT, 100_000, params()).result(timeout=60)


def test_an_ephemeral_sampler_keeps_the_weights_of_its_time(
    service: tinker.ServiceClient, trainer: Callable[..., tinker.TrainingClient]
) -> None:
    client = trainer()
    base = service.create_sampling_client(base_model=MODEL).result(timeout=60)
    samplers = [client.save_weights_and_get_sampling_client().result(timeout=60)]
    learner: list[list[float]] = []
    for _ in range(9):  # more than are kept in memory
        client.forward_backward([datum()], "cross_entropy")
        client.optim_step(types.AdamParams(learning_rate=1e-2)).result(timeout=60)
        samplers.append(client.save_weights_and_get_sampling_client().result(timeout=60))
        scored = client.forward([datum()], "cross_entropy").result(timeout=60)
        learner.append(scored.loss_fn_outputs[0]["logprobs"].data)
    scores = [sampler.compute_logprobs(PROMPT).result(timeout=60)[1:] for sampler in samplers]
    assert scores[0] == pytest.approx(
        base.compute_logprobs(PROMPT).result(timeout=60)[1:], abs=1e-5
    )
    for sampled, learned in zip(scores[1:], learner, strict=True):
        assert sampled == pytest.approx(learned, abs=1e-4)
    assert sum(scores[1]) < sum(scores[5]) < sum(scores[9])


def test_an_ephemeral_save_is_made_once(raw: RawClient) -> None:
    model = raw.model()
    body = {"model_id": model, "seq_id": 1, "sampling_session_seq_id": 4}
    first = raw.post("save_weights_for_sampler", body)
    again = raw.post("save_weights_for_sampler", body | {"sampling_session_seq_id": 5})
    assert first == again
    sampler_id = raw.result(first["request_id"])["sampling_session_id"]
    assert sampler_id == f"{raw.session}:sample:4"
    assert raw.http.get(f"samplers/{raw.session}:sample:5").status_code == 404
    sampler = raw.http.get(f"samplers/{sampler_id}").json()
    assert sampler == {"sampler_id": sampler_id, "base_model": MODEL, "model_path": None}


def test_samples_and_samplers_are_made_once_and_numbers_may_be_large(raw: RawClient) -> None:
    body = {"session_id": raw.session, "sampling_session_seq_id": 0, "base_model": MODEL}
    made = raw.post("create_sampling_session", body)
    assert raw.post("create_sampling_session", body) == made
    request = {
        "sampling_session_id": made["sampling_session_id"],
        "seq_id": 999_999_999 * 1_000_000_000 + 1,
        "num_samples": 2,
        "prompt": {"chunks": [{"type": "encoded_text", "tokens": list(TOKENS)}]},
        "sampling_params": {"max_tokens": 4},
    }
    first = raw.post("asample", request)
    assert len(first["sample_sequence_ids"]) == 2
    result = raw.result(first["request_id"])
    assert raw.post("asample", request) == first
    assert drawn(raw.result(first["request_id"])) == drawn(result)


def test_a_sampler_that_is_not_there_fails_the_future(raw: RawClient) -> None:
    request = {
        "sampling_session_id": f"{raw.session}:sample:77",
        "seq_id": 1,
        "prompt": {"chunks": [{"type": "encoded_text", "tokens": [1, 2]}]},
        "sampling_params": {"max_tokens": 4},
    }
    failed = raw.result(raw.post("asample", request)["request_id"])
    assert failed["category"] == "user" and "sample:77" in failed["error"]


def test_a_cancelled_sample_ends_though_it_is_at_work(raw: RawClient) -> None:
    body = {"session_id": raw.session, "sampling_session_seq_id": 0, "base_model": MODEL}
    sampler_id = raw.post("create_sampling_session", body)["sampling_session_id"]
    request = {
        "sampling_session_id": sampler_id,
        "seq_id": 0,
        "num_samples": 512,
        "prompt": {"chunks": [{"type": "encoded_text", "tokens": list(TOKENS)}]},
        # Hours, on any machine that is here.
        "sampling_params": {"max_tokens": 4000, "stop": []},
    }
    endless = raw.post("asample", request)["request_id"]
    time.sleep(2 * SETTLE_AT_MOST_S)  # then it waits no more
    following = request | {"seq_id": 1, "num_samples": 1, "sampling_params": {"max_tokens": 2}}
    waiting = raw.post("asample", following)["request_id"]
    assert raw.http.post("cancel_future", json={"request_id": endless}).status_code == 204
    assert "cancelled" in raw.result(endless)["error"]
    assert len(raw.result(waiting).sequences) == 1


def test_a_cancelled_sample_ends(raw: RawClient) -> None:
    body = {"session_id": raw.session, "sampling_session_seq_id": 0, "base_model": MODEL}
    sampler_id = raw.post("create_sampling_session", body)["sampling_session_id"]
    request = {
        "sampling_session_id": sampler_id,
        "seq_id": 0,
        "num_samples": 512,
        "prompt": {"chunks": [{"type": "encoded_text", "tokens": list(TOKENS)}]},
        "sampling_params": {"max_tokens": 64, "stop": []},
    }
    raw.post("asample", request)
    waiting = raw.post("asample", request | {"seq_id": 1})["request_id"]
    assert raw.http.post("cancel_future", json={"request_id": waiting}).status_code == 204
    assert "cancelled" in raw.result(waiting)["error"]


def test_bad_samplers_are_refused_at_once(service: tinker.ServiceClient) -> None:
    with pytest.raises(tinker.NotFoundError, match="no checkpoint"):
        path = "tinker://0123456789abcdef:train:0/sampler_weights/none"
        service.create_sampling_client(model_path=path).result(timeout=60)
    with pytest.raises(tinker.BadRequestError, match="not a model id"):
        service.create_sampling_client(model_path="tinker://a/../b").result(timeout=60)
    with pytest.raises(tinker.BadRequestError, match=MODEL):
        service.create_sampling_client(base_model="Qwen/None").result(timeout=60)


def test_a_long_sampling_does_not_stop_the_rest(
    raw: RawClient, sampler: tinker.SamplingClient
) -> None:
    endless = types.SamplingParams(max_tokens=40, stop=[], seed=1)
    # Twice as many samples as decode at one time.
    running = [sampler.sample(PROMPT, 300, endless) for _ in range(2)]
    for _ in range(5):
        answer = raw.post("session_heartbeat", {"session_id": raw.session})
        assert answer == {"type": "session_heartbeat"}
        assert raw.http.get("get_server_capabilities").status_code == 200
    # A model in training has its turn meanwhile.
    assert raw.model()
    assert not all(future.future().done() for future in running)
    for future in running:
        assert len(future.result(timeout=120).sequences) == 300


ENDLESS = types.SamplingParams(max_tokens=4000, stop=[], seed=1)
"""With a hundred samples, minutes on any machine that is here."""


def test_an_answer_leaves_when_it_is_complete_though_others_are_not(
    sampler: tinker.SamplingClient,
) -> None:
    long = sampler.sample(PROMPT, 100, ENDLESS)
    burst = [sampler.sample(PROMPT, 2, params(max_tokens=n, stop=[])) for n in (60, 4)]
    alone = [drawn(future.result(timeout=60)) for future in burst]
    # What comes later joins those at work, and is the same as what came with them.
    joined = [sampler.sample(PROMPT, 2, params(max_tokens=n, stop=[])) for n in (60, 4)]
    assert [drawn(future.result(timeout=60)) for future in joined] == alone
    assert not long.future().done()
    long.future().cancel()


def test_a_request_is_not_held_up_by_those_of_another_client(
    engine: RunningEngine, sampler: tinker.SamplingClient
) -> None:
    many = [sampler.sample(PROMPT, 64, ENDLESS) for _ in range(40)]
    other = tinker.ServiceClient(base_url=engine.url, api_key=engine.api_key)
    one = other.create_sampling_client(base_model=MODEL).result(timeout=60)
    assert len(one.sample(PROMPT, 4, params()).result(timeout=60).sequences) == 4
    learner = other.create_lora_training_client(MODEL, rank=1, seed=7).result(timeout=60)
    for _ in range(3):
        learner.forward_backward([datum()], "cross_entropy")
        learner.optim_step(types.AdamParams(learning_rate=1e-2)).result(timeout=60)
    assert not any(future.future().done() for future in many)
    other.close("success").result(timeout=30)


def test_requests_of_a_session_that_ends_are_dropped(engine: RunningEngine, raw: RawClient) -> None:
    with RawClient(engine.url, engine.api_key) as gone:
        body = {"session_id": gone.session, "sampling_session_seq_id": 0, "base_model": MODEL}
        sampler_id = gone.post("create_sampling_session", body)["sampling_session_id"]
        request = {
            "sampling_session_id": sampler_id,
            "num_samples": 100,
            "prompt": {"chunks": [{"type": "encoded_text", "tokens": list(TOKENS)}]},
            "sampling_params": {"max_tokens": 4000, "stop": []},
        }
        # More than decode at one time: some wait.
        sent = [gone.post("asample", request | {"seq_id": number}) for number in range(5)]
        assert raw.model()
        gone.http.post(f"sessions/{gone.session}/finish", json={})
        for one in sent:
            assert "is over: its client finished it" in gone.result(one["request_id"])["error"]
