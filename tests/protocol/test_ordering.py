"""Requests out of order, repeated, missing and failed, as raw HTTP."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from protocol_client import MODEL, TOKENS, RawClient, bad_datum, datum

OTHER = datum(TOKENS[::-1])


def step(raw: RawClient, model: str, first: int, chunks: list[int]) -> list[float]:
    """Send three chunks in the given order and an optimizer step; return what it made."""
    data = [datum(), OTHER, datum(TOKENS[2:], scale=0.5)]
    futures = [raw.forward_backward(model, first + place, [data[place]]) for place in chunks]
    futures.append(raw.optim_step(model, first + 3))
    for future in futures:
        result = raw.result(future)
        assert not (isinstance(result, dict) and "error" in result), result
    return raw.logprobs(model, first + 4)


def test_chunks_run_in_the_order_of_their_numbers_whatever_the_order_of_arrival(
    raw: RawClient,
) -> None:
    expected = step(raw, raw.model(0), 1, [0, 1, 2])
    assert step(raw, raw.model(1), 1, [2, 1, 0]) == expected
    assert step(raw, raw.model(2), 1, [1, 2, 0]) == expected


def test_a_repeated_request_is_run_once(raw: RawClient) -> None:
    plain, repeated = raw.model(0), raw.model(1)
    expected = step(raw, plain, 1, [0, 1, 2])
    data = [datum(), OTHER, datum(TOKENS[2:], scale=0.5)]
    sent = [
        raw.forward_backward(repeated, seq, [data[seq - 1]]) for seq in (1, 2, 3) for _ in range(2)
    ]
    assert sent[0] == sent[1] and sent[2] == sent[3]
    optim = raw.optim_step(repeated, 4)
    assert raw.result(optim)["metrics"]
    # Repeated after it ran: still the same request.
    assert raw.optim_step(repeated, 4) == optim
    assert raw.forward_backward(repeated, 1, [datum()]) == sent[0]
    assert raw.result(optim)["metrics"] and raw.result(sent[0]).metrics
    assert raw.logprobs(repeated, 5) == expected


def test_a_model_is_made_once(raw: RawClient) -> None:
    body = {
        "session_id": raw.session,
        "model_seq_id": 0,
        "base_model": "visual-r1/tiny-geometry",
        "lora_config": {"rank": 4},
    }
    assert raw.post("create_model", body) == raw.post("create_model", body)
    raw.result(f"{raw.session}:train:0:create")
    assert raw.post("get_info", {"model_id": f"{raw.session}:train:0"})["lora_rank"] == 4


def test_a_number_that_comes_again_with_another_request_is_refused(raw: RawClient) -> None:
    """Of another content, or of another kind; the first request and its result stay."""
    model = raw.model()
    session = {"session_id": raw.session}
    first = raw.forward_backward(model, 1, [datum()])
    optim = raw.optim_step(model, 2)
    made = {"base_model": MODEL, "sampling_session_seq_id": 7}
    sampler = raw.post("create_sampling_session", session | made)["sampling_session_id"]
    prompt = {"chunks": [{"type": "encoded_text", "tokens": list(TOKENS)}]}
    sample = {
        "sampling_session_id": sampler,
        "seq_id": 1,
        "prompt": prompt,
        "sampling_params": {"max_tokens": 2, "seed": 1},
    }
    sampled = raw.post("asample", sample)["request_id"]
    state = raw.post("save_weights", {"model_id": model, "seq_id": 3, "path": "one"})["request_id"]
    path = raw.result(state)["path"]
    raw.post("load_weights", session | {"model_seq_id": 5, "path": path})
    keyed = {"x-idempotency-key": "one"}
    copied = raw.http.post("copy_weights", json={"source_path": path}, headers=keyed).json()

    step = {"model_id": model, "seq_id": 2}
    others: list[tuple[str, dict[str, Any]]] = [
        ("optim_step", step | {"adam_params": {"learning_rate": 9.0}}),
        ("optim_step", step | {"seq_id": 1, "adam_params": {"learning_rate": 1e-2}}),
        ("save_weights", step | {"path": "two"}),
        ("save_weights", step | {"seq_id": 3, "path": "two"}),
        ("save_weights_for_sampler", step | {"seq_id": 3, "path": "one"}),
        ("save_weights_external", step | {"seq_id": 3, "path": "one"}),
        ("load_weights", step | {"path": path}),
        ("create_model", session | {"model_seq_id": 0, "base_model": MODEL}),
        ("create_model", session | {"model_seq_id": 5, "base_model": MODEL}),
        ("load_weights", session | {"model_seq_id": 0, "path": path}),
        ("load_weights", session | {"model_seq_id": 5, "path": path, "optimizer": True}),
        ("create_sampling_session", session | made | {"model_path": path}),
        ("asample", sample | {"num_samples": 2}),
        ("asample", sample | {"sampling_params": {"max_tokens": 2, "seed": 2}}),
        ("copy_weights", {"source_path": path, "ttl_seconds": 3600}),
    ]
    for call, body in others:
        response = raw.http.post(call, json=body, headers=keyed)
        assert response.status_code == 400, (call, body, response.text)
        assert "another" in response.json()["detail"]
        assert "of its own" in response.json()["detail"]
    for data in ([datum(scale=100.0)], [datum(), datum()]):
        for seq_id in (1, 2):
            with pytest.raises(AssertionError, match="another request came"):
                raw.forward_backward(model, seq_id, data)
    with pytest.raises(AssertionError, match="another request came"):
        raw.forward_backward(model, 1, [datum()], forward_only=True)

    assert raw.forward_backward(model, 1, [datum()]) == first
    assert raw.result(first).metrics
    assert raw.optim_step(model, 2) == optim
    assert raw.result(optim)["metrics"]
    assert raw.post("asample", sample)["request_id"] == sampled
    assert raw.result(sampled).sequences
    again = raw.http.post("copy_weights", json={"source_path": path}, headers=keyed).json()
    assert again == copied
    assert raw.post("create_sampling_session", session | made)["sampling_session_id"] == sampler


def test_an_optimizer_step_above_a_gap_is_refused_at_once(raw: RawClient) -> None:
    model = raw.model()
    before = raw.logprobs(model, 1)
    kept = raw.forward_backward(model, 2, [datum()])
    waiting = raw.forward_backward(model, 4, [datum()])
    optim = raw.optim_step(model, 5)
    refused = raw.result(optim)
    assert refused["category"] == "user"
    assert "request 3 of this model never arrived" in refused["error"]
    assert "request 3" in raw.result(waiting)["error"]
    assert raw.result(kept).metrics["loss:sum"] > 0
    assert raw.logprobs(model, 6) == before

    # What comes after the refused step is a new start: the gradient of request 2 is not in it.
    fresh = raw.model(1)
    raw.logprobs(fresh, 1)
    results = [
        raw.result(raw.forward_backward(m, seq, [OTHER])) and raw.result(raw.optim_step(m, seq + 1))
        for m, seq in ((model, 7), (fresh, 2))
    ]
    assert results[0]["metrics"] == results[1]["metrics"]
    assert raw.logprobs(model, 9) == raw.logprobs(fresh, 4)


def test_a_save_above_a_gap_is_refused_and_a_later_one_works(raw: RawClient) -> None:
    model = raw.model()
    body = {"model_id": model, "path": "kept", "seq_id": 2}
    refused = raw.result(raw.post("save_weights", body)["request_id"])
    assert refused["category"] == "user" and "never arrived" in refused["error"]
    saved = raw.result(raw.post("save_weights", body | {"seq_id": 3})["request_id"])
    assert saved["path"] == f"tinker://{model}/weights/kept"


def test_a_request_that_comes_after_its_turn_is_refused(raw: RawClient) -> None:
    model = raw.model()
    raw.result(raw.optim_step(model, 2))
    late = raw.result(raw.forward_backward(model, 1, [datum()]))
    assert late["category"] == "user" and "request 1" in late["error"]


@pytest.mark.parametrize("bad_place", [1, 2, 3])
def test_a_failed_chunk_takes_the_whole_gradient_with_it(raw: RawClient, bad_place: int) -> None:
    model = raw.model()
    before = raw.logprobs(model, 1)
    sent = {
        1 + place: raw.forward_backward(
            model, 1 + place, [bad_datum() if place == bad_place else datum()]
        )
        for place in (2, 3, 1)
    }
    optim = raw.optim_step(model, 5)
    failed = raw.result(sent[1 + bad_place])
    assert failed["category"] == "user"
    refused = raw.result(optim)
    assert refused["category"] == "user"
    assert "refused" in refused["error"] and "optim_step 5" in refused["error"]
    assert raw.logprobs(model, 6) == before

    # Still refused, until a forward_backward succeeds; then only that one counts.
    assert "error" in raw.result(raw.optim_step(model, 7))
    assert raw.result(raw.forward_backward(model, 8, [OTHER])).metrics
    metrics = raw.result(raw.optim_step(model, 9))["metrics"]
    fresh = raw.model(1)
    raw.result(raw.forward_backward(fresh, 1, [OTHER]))
    assert raw.result(raw.optim_step(fresh, 2))["metrics"] == metrics


def test_a_gradient_that_was_sent_before_the_failure_was_known_is_not_applied_alone(
    raw: RawClient,
) -> None:
    model = raw.model()
    # Both wait for request 1, so both are there when it fails.
    later = raw.forward_backward(model, 2, [OTHER])
    optim = raw.optim_step(model, 3)
    first = raw.forward_backward(model, 1, [bad_datum()])
    # The optimizer step came while request 1 was missing: that alone refuses it.
    assert "error" in raw.result(optim)
    assert "error" in raw.result(later) and "error" in raw.result(first)


def test_a_numbered_request_without_sense_fails_its_future_and_keeps_its_place(
    raw: RawClient,
) -> None:
    model = raw.model()
    nonsense = raw.post("optim_step", {"model_id": model, "seq_id": 1, "adam_params": {"beta1": 7}})
    assert raw.result(nonsense["request_id"])["category"] == "user"
    unread = raw.post("save_weights", {"model_id": model, "seq_id": 2, "path": 5})
    assert "path" in raw.result(unread["request_id"])["error"]
    assert len(raw.logprobs(model, 3)) == len(TOKENS) - 1


def test_numbers_that_make_no_sense_are_refused_by_their_names(raw: RawClient) -> None:
    model = raw.model()
    wrong: list[tuple[str, object]] = [("learning_rate", -1), ("beta2", 1.0), ("eps", -1e-8)]
    for seq_id, (name, value) in enumerate(wrong, 1):
        body = {"model_id": model, "seq_id": seq_id, "adam_params": {name: value}}
        failed = raw.result(raw.post("optim_step", body)["request_id"])
        assert failed["category"] == "user" and f"{name} is {value}" in failed["error"]
    assert "holds no data" in raw.result(raw.forward_backward(model, 4, []))["error"]
    prompt = {"chunks": [{"type": "encoded_text", "tokens": list(TOKENS)}]}
    for stop in ("", ["a", ""]):
        sampled = raw.post(
            "asample",
            {"prompt": prompt, "base_model": MODEL, "sampling_params": {"stop": stop}},
        )
        assert "stop string is empty" in raw.result(sampled["request_id"])["error"]


def test_requests_to_a_model_that_is_not_there_fail_their_futures(raw: RawClient) -> None:
    failed = raw.result(raw.forward_backward("0123456789abcdef:train:0", 1, [datum()]))
    assert failed["category"] == "user" and "not in training here" in failed["error"]


def test_a_result_is_waited_for_in_one_poll(raw: RawClient) -> None:
    model = raw.model()
    waiting = raw.forward_backward(model, 2, [datum()])
    with ThreadPoolExecutor(1) as pool:
        poll = pool.submit(raw.http.post, "retrieve_future", json={"request_id": waiting})
        raw.logprobs(model, 1)
        assert poll.result(timeout=30).status_code == 200


def test_a_result_that_nobody_knows_is_gone(raw: RawClient) -> None:
    response = raw.http.post("retrieve_future", json={"request_id": "nothing:like:it"})
    assert response.status_code == 410 and "nothing:like:it" in response.json()["detail"]
