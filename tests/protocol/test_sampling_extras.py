"""What else a sample can be asked for, and samplers of other kinds, through the real SDK."""

import pickle
from collections.abc import Callable

import pytest
import tinker
import torch
from protocol_client import MODEL, TOKENS, datum, image_prompt
from tinker import types

PROMPT = types.ModelInput.from_ints(list(TOKENS))
Trainer = Callable[..., tinker.TrainingClient]


@pytest.fixture
def sampler(service: tinker.ServiceClient) -> tinker.SamplingClient:
    """A sampler of the base model."""
    return service.create_sampling_client(base_model=MODEL).result(timeout=60)


def params(**changes: object) -> types.SamplingParams:
    return types.SamplingParams.model_validate({"max_tokens": 6, "seed": 5} | changes)


def step(client: tinker.TrainingClient) -> None:
    client.forward_backward([datum()], "cross_entropy")
    client.optim_step(types.AdamParams(learning_rate=1e-2)).result(timeout=60)


def test_the_likeliest_of_each_sampled_token(sampler: tinker.SamplingClient) -> None:
    plain = sampler.sample(PROMPT, 2, params()).result(timeout=60)
    wide = sampler.sample(PROMPT, 2, params(), topk_sample_logprobs=3).result(timeout=60)
    for alone, sequence in zip(plain.sequences, wide.sequences, strict=True):
        assert alone.tokens == sequence.tokens and alone.topk_logprobs is None
        rows = sequence.topk_logprobs
        assert rows is not None and len(rows) == len(sequence.tokens)
        for row, token, logprob in zip(rows, sequence.tokens, sequence.logprobs, strict=True):
            assert row is not None and len(row) == 3
            assert row[0][1] >= row[1][1] >= row[2][1]
            assert dict(row).get(token, logprob) == logprob
    greedy = sampler.sample(PROMPT, 1, params(temperature=0), topk_sample_logprobs=1)
    (first,) = greedy.result(timeout=60).sequences
    assert [row[0][0] for row in first.topk_logprobs or [] if row] == first.tokens


def test_chosen_tokens_in_the_prompts_places(sampler: tinker.SamplingClient) -> None:
    """The prompt's own tokens as targets have the prompt's log-probabilities, dense or sparse."""
    own = sampler.compute_logprobs(PROMPT).result(timeout=60)[1:]
    dense = torch.full((len(TOKENS) - 1, 2), -1, dtype=torch.int64)
    dense[:, 1] = torch.tensor(TOKENS[1:])
    few = torch.full((len(TOKENS) - 1, 2), -1, dtype=torch.int64)
    few[3, 0] = TOKENS[4]
    for ids in (dense, few):
        target = types.TensorData.from_torch_sparse(ids, pad_value=-1)
        answer = sampler.sample(PROMPT, 1, params(max_tokens=1), target_prompt_logprobs=target)
        scored = answer.result(timeout=60).target_prompt_logprobs
        assert scored is not None and scored.shape == list(ids.shape)
        assert scored.sparse_col_indices == target.sparse_col_indices
        expected = torch.where(ids >= 0, torch.tensor(own)[:, None], 0.0)
        torch.testing.assert_close(scored.to_torch(), expected, rtol=0, atol=0)
    for wrong in (dense[1:], torch.full_like(dense, 10**6)):
        tensor = types.TensorData.from_torch(wrong)
        with pytest.raises(tinker.RequestFailedError, match="target_prompt_logprobs") as caught:
            sampler.sample(PROMPT, 1, params(), target_prompt_logprobs=tensor).result(timeout=60)
        assert caught.value.category is types.RequestErrorCategory.User


def test_alternatives_to_the_prompts_tokens(sampler: tinker.SamplingClient) -> None:
    def drawn(prompt: types.ModelInput = PROMPT, k: int = 200, **how: object) -> torch.Tensor:
        answer = sampler.sample(prompt, 1, params(max_tokens=1, **how), prompt_alt_tokens_k=k)
        found = answer.result(timeout=60).prompt_alt_tokens
        assert found is not None
        logprobs.append(found.logprobs.to_torch())
        return found.tokens.to_torch()

    logprobs: list[torch.Tensor] = []
    first, again, other = drawn(), drawn(), drawn(seed=6)
    assert first.shape == (len(TOKENS) - 1, 200)
    assert torch.equal(first, again) and not torch.equal(first, other)
    # As often as the model says: the likeliest token's share is its probability, within 5 sigma.
    probability, place = logprobs[0].exp().max(dim=1)
    token = first.gather(1, place[:, None])
    share = (first == token).float().mean(dim=1)
    sigma = (probability * (1 - probability) / 200).sqrt()
    assert ((share - probability).abs() < 5 * sigma + 1e-6).all()
    greedy = drawn(temperature=0.0, k=2)
    assert torch.equal(greedy[:, 0], greedy[:, 1])
    assert drawn(image_prompt(), 2).shape[1] == 2


def test_an_inflight_sampler_follows_its_model_and_a_snapshot_does_not(trainer: Trainer) -> None:
    client = trainer()
    step(client)
    snapshot = client.save_weights_and_get_sampling_client().result(timeout=60)
    early = client.save_weights_and_get_sampling_client(kind="inflight").result(timeout=60)
    before = early.compute_logprobs(PROMPT).result(timeout=60)
    assert snapshot.compute_logprobs(PROMPT).result(timeout=60) == before
    step(client)
    late = client.save_weights_and_get_sampling_client(kind="inflight").result(timeout=60)
    after = late.compute_logprobs(PROMPT).result(timeout=60)
    assert after != before
    assert early.compute_logprobs(PROMPT).result(timeout=60) == after
    assert snapshot.compute_logprobs(PROMPT).result(timeout=60) == before


def test_copies_of_a_sampling_client_do_not_get_each_others_answers(
    sampler: tinker.SamplingClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = sampler.holder._api_key
    copies = [
        tinker.SamplingClient.from_sampler_handle(sampler.get_sampler_handle(), api_key=key),
        pickle.loads(pickle.dumps(sampler)),  # noqa: S301
    ]
    prompts = [types.ModelInput.from_ints(list(TOKENS[:n])) for n in (3, 5, 7)]
    clients = [sampler, *copies]
    futures = [one.compute_logprobs(prompt) for one, prompt in zip(clients, prompts, strict=True)]
    assert [len(future.result(timeout=60)) for future in futures] == [3, 5, 7]
    assert {one._cloned_sampler_id for one in clients} == {0, 1, 2}
    assert copies[0].get_base_model() == MODEL


def test_what_a_sampler_samples_from(
    rest: tinker.RestClient, service: tinker.ServiceClient, trainer: Trainer
) -> None:
    path = trainer().save_weights_for_sampler("named").result(timeout=60).path
    client = service.create_sampling_client(model_path=path).result(timeout=60)
    sampler_id = client._sampling_session_id
    told = rest.get_sampler(sampler_id).result(timeout=60)
    assert (told.sampler_id, told.base_model, told.model_path) == (sampler_id, MODEL, path)
    session = rest.get_session(service.holder.get_session_id()).result(timeout=60)
    assert sampler_id in session.sampler_ids
    with pytest.raises(tinker.NotFoundError, match="not known to this engine"):
        rest.get_sampler("none:sample:0").result(timeout=60)
