"""Where training data were sampled: recorded with the samples, and checked with the data."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tinker
from protocol_client import MODEL, TOKENS, image_prompt, png
from tinker import types

from visual_r1.engine.launch import RunningEngine
from visual_r1.rl.datums import datum

Trainer = Callable[..., tinker.TrainingClient]
PROMPT = types.ModelInput.from_ints(list(TOKENS))
PICTURE = image_prompt(16)
PARAMS = types.SamplingParams(max_tokens=6, seed=3)


@pytest.fixture(scope="module")
def service(engine: RunningEngine) -> Iterator[tinker.ServiceClient]:
    client = tinker.ServiceClient(base_url=engine.url, api_key=engine.api_key)
    yield client
    client.close("success").result(timeout=60)


@pytest.fixture(scope="module")
def training(service: tinker.ServiceClient) -> tinker.TrainingClient:
    return service.create_lora_training_client(MODEL, rank=4, seed=7).result(timeout=60)


def sampled(
    client: tinker.TrainingClient, prompt: types.ModelInput = PROMPT, *, record: bool = True
) -> types.SampledSequence:
    sampler = client.save_weights_and_get_sampling_client(record_stability_info=record)
    reply = sampler.result(timeout=60).sample(prompt, 2, PARAMS).result(timeout=60)
    return reply.sequences[1]


def made(
    sequence: types.SampledSequence, prompt: types.ModelInput = PROMPT, **changes: Any
) -> types.Datum:
    logprobs = changes.get("logprobs", sequence.logprobs)
    tokens = changes.get("tokens", sequence.tokens)
    name = changes.get("name", sequence.sequence_id)
    return datum(prompt, tokens, logprobs, 1.0, sequence_id=name)


def refused(
    client: tinker.TrainingClient, data: Sequence[types.Datum], loss: Any = "importance_sampling"
) -> str:
    with pytest.raises(tinker.RequestFailedError) as caught:
        client.forward_backward(list(data), loss).result(timeout=60)
    assert caught.value.category is types.RequestErrorCategory.User
    return str(caught.value)


@pytest.mark.parametrize("prompt", [PROMPT, PICTURE], ids=["text", "image"])
def test_what_was_sampled_here_is_trained_on(
    training: tinker.TrainingClient, prompt: types.ModelInput
) -> None:
    data = [made(sampled(training, prompt), prompt)]
    result = training.forward_backward(data, "importance_sampling").result(timeout=60)
    assert result.metrics["ratio:max"] == pytest.approx(1, abs=1e-4)
    # The data are right, and it is the formula that is missing.
    said = refused(training, data, "stable_reinforce")
    assert "'stable_reinforce' has no public formula" in said and "importance_sampling" in said


def test_other_tokens_or_log_probabilities_are_refused(training: tinker.TrainingClient) -> None:
    one = sampled(training)
    assert one.logprobs is not None
    tokens, logprobs = list(one.tokens), list(one.logprobs)
    tokens[2] += 1
    assert "datum 1: it has other tokens than the sampled tokens" in refused(
        training, [made(one), made(one, tokens=tokens)]
    )
    last = [*one.tokens[:-1], one.tokens[-1] + 1]  # which is a target alone
    assert "it has other tokens than the sampled tokens 0 to 5" in refused(
        training, [made(one, tokens=last)]
    )
    logprobs[0] += 1e-3
    assert "its logprobs are not those that the sequence" in refused(
        training, [made(one, logprobs=logprobs)]
    )
    other = types.ModelInput.from_ints([TOKENS[0] + 1, *TOKENS[1:]])
    assert "it has other tokens than the prompt tokens" in refused(training, [made(one, other)])


def test_another_image_is_another_prompt(training: tinker.TrainingClient) -> None:
    one = sampled(training, PICTURE)
    other = image_prompt(16, png(96, 95))
    assert "it has other tokens than the prompt tokens" in refused(training, [made(one, other)])


def test_sequences_that_nobody_sampled_are_refused(training: tinker.TrainingClient) -> None:
    one = sampled(training)
    request = one.sequence_id.rpartition(":")[0]
    for name in (f"{request}:2", f"{request}:-1", f"{request}:" + "9" * 5000, f"{request}x:0", "x"):
        assert "which this session has not sampled" in refused(training, [made(one, name=name)])
    span = types.SampledProvenanceSpan(sequence_id=one.sequence_id, offset=4, length=5)
    prompt = types.PromptProvenanceSpan(sequence_id=one.sequence_id, length=PROMPT.length)
    beyond = replace(made(one), model_input_spans=[prompt, span])
    assert "sampled tokens 4 to 8 of the sequence" in refused(training, [beyond])
    short = replace(made(one), loss_fn_input_spans=[prompt])
    assert "provenance of loss_fn_inputs cover" in refused(training, [short])


def test_another_sessions_sequences_are_refused(
    engine: RunningEngine, training: tinker.TrainingClient
) -> None:
    other = tinker.ServiceClient(base_url=engine.url, api_key=engine.api_key)
    theirs = other.create_lora_training_client(MODEL, rank=4, seed=7).result(timeout=60)
    one = sampled(theirs)
    assert "which was sampled in another session" in refused(training, [made(one)])
    other.close("success").result(timeout=60)
    assert "which this session has not sampled" in refused(training, [made(one)])


def test_what_was_not_recorded_serves_the_losses_that_need_no_record(
    training: tinker.TrainingClient,
) -> None:
    one = sampled(training, record=False)
    passed = training.forward_backward([made(one)], "ppo").result(timeout=60)
    assert np.isfinite(passed.metrics["loss:sum"])
    assert "of which nothing was recorded: make its sampler with record_stability_info" in refused(
        training, [made(one)], "stable_reinforce"
    )
    bare = datum(PROMPT, one.tokens, one.logprobs or [], 1.0)
    assert "stable_reinforce needs its provenance" in refused(training, [bare], "stable_reinforce")


def test_a_custom_loss_carries_it_too(training: tinker.TrainingClient) -> None:
    data = [made(sampled(training))]
    passed = training.forward_backward_custom(data, lambda _, lps: (lps[0].sum(), {}))
    assert passed.result(timeout=60).metrics["loss:sum"] < 0
