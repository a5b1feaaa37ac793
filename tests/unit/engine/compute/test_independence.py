"""What a request gives does not depend on what else is computed, nor on when: bit for bit."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from engine_material import (
    FAMILIES,
    IMAGE_TOKENS,
    group_data,
    picture_prompt,
    png,
    random_datum,
    request,
    words,
)

from visual_r1.engine.compute.compute import Adapter, Compute, FrozenWeights
from visual_r1.engine.types import (
    Datum,
    ImagePart,
    InvalidRequest,
    LoraSpec,
    SampleOutput,
    SampleRequest,
    SamplingSettings,
)

# A single output column is the harder for the second family too; rank 16 is what runs have.
RANKS = pytest.mark.parametrize(
    ("compute", "weights"),
    [("qwen3_vl", 1), ("qwen3_vl", 16), ("qwen3_5", 1)],
    indirect=True,
)


@pytest.fixture
def weights(
    request: pytest.FixtureRequest, compute: Compute, trained: Callable[[LoraSpec], Adapter]
) -> FrozenWeights:
    return compute.freeze(trained(LoraSpec(rank=request.param, seed=1)))


def scored(seed: int, samples: int) -> SampleRequest:
    """Requests of all lengths; some greedy, some cut by top-k or top-p, most with an image."""
    rng = np.random.default_rng(seed)
    before, after = (int(n) for n in rng.integers(1, 60, 2))
    prompt = (words(seed, before), words(seed + 1, after))
    if seed % 5:
        sizes = [(96, 96), (96, 96), (120, 72), (60, 60)]
        part = ImagePart(png(seed % 7, *sizes[seed % 4]))
        prompt = (words(seed, before), part, words(seed + 1, after))
    settings = SamplingSettings(
        max_tokens=int(rng.integers(1, 45)),
        temperature=float(rng.choice([0.0, 0.7, 1.0, 1.0])),
        top_p=float(rng.choice([0.9, 1.0, 1.0])),
        top_k=int(rng.choice([-1, -1, 20])),
        seed=seed,
    )
    return SampleRequest(prompt, settings, samples, prompt_logprobs=True, topk_prompt_logprobs=2)


def only(outputs: list[SampleOutput | InvalidRequest]) -> SampleOutput:
    (output,) = outputs
    assert isinstance(output, SampleOutput)
    return output


@pytest.mark.parametrize(
    ("compute", "weights", "count"),
    [("qwen3_vl", 1, 100), ("qwen3_vl", 16, 40), ("qwen3_5", 1, 40)],
    indirect=["compute", "weights"],
)
def test_a_request_alone_and_among_many(
    compute: Compute, weights: FrozenWeights, count: int
) -> None:
    requests = [scored(seed, samples=1 + seed % 3) for seed in range(count)]
    together = compute.sample(weights, requests)
    order = np.random.default_rng(0).permutation(count)
    shuffled = compute.sample(weights, [requests[index] for index in order])
    for place, index in enumerate(order):
        assert shuffled[place] == together[index]
    for index in range(0, count, 7):
        assert only(compute.sample(weights, [requests[index]])) == together[index]


@RANKS
def test_a_sample_alone_and_among_more_samples(compute: Compute, weights: FrozenWeights) -> None:
    prompt = picture_prompt(3)
    one = only(compute.sample(weights, [request(prompt, samples=1, max_tokens=60)]))
    many = only(compute.sample(weights, [request(prompt, samples=300, max_tokens=60)]))
    assert many.sequences[0] == one.sequences[0]
    assert len({sequence.tokens for sequence in many.sequences}) > 30


@pytest.mark.parametrize(
    ("compute", "weights", "check_every"),
    [("qwen3_vl", 16, 1), ("qwen3_vl", 1, 16), ("qwen3_5", 1, 16)],
    indirect=["compute", "weights"],
)
def test_a_request_that_joins_while_others_run(
    compute: Compute, weights: FrozenWeights, check_every: int
) -> None:
    """Each gets what it gets alone, whenever it joins, and however often the host looks."""
    requests = [scored(seed, samples=1 + seed % 3) for seed in range(16)]
    batch = compute.open_batch(weights, check_every=check_every)
    waiting, tickets, outputs = list(enumerate(requests)), {}, {}
    beside: set[int] = set()
    while waiting or not batch.idle:
        for index, wanted in waiting[: 1 + len(outputs) % 4]:
            tickets[batch.admit(wanted)] = index
        del waiting[: 1 + len(outputs) % 4]
        for one in batch.advance(steps=5).answered:
            outputs[tickets[one.ticket]] = one.output
            beside.add(len(tickets) - len(outputs))
        # Others are computed in between, with the same modules.
        compute.sample(None, requests[:1])
    assert max(beside) > 1
    for index, wanted in enumerate(requests):
        assert only(compute.sample(weights, [wanted])) == outputs[index]


@FAMILIES
def test_a_datum_alone_and_among_others(
    compute: Compute, trained: Callable[[LoraSpec], Adapter]
) -> None:
    adapter = trained(LoraSpec(rank=8, seed=1))
    data = [
        random_datum(seed, picture_prompt(seed, 10, 5 + 3 * seed), ("weights",))
        for seed in range(24)
    ]
    together = compute.forward(adapter, data, "cross_entropy", {}, backward=False)
    for index in (0, 11, 23):
        alone = compute.forward(adapter, [data[index]], "cross_entropy", {}, backward=False)
        np.testing.assert_array_equal(alone.logprobs[0], together.logprobs[index])


@FAMILIES
def test_a_datum_alone_and_among_those_that_share_its_prompt(
    compute: Compute, trained: Callable[[LoraSpec], Adapter]
) -> None:
    adapter = trained(LoraSpec(rank=8, seed=1))
    data = group_data(("weights",))
    # One that says nothing at all, and one whose prompt is another's with a word more.
    data.append(
        replace(data[0], inputs={**data[0].inputs, "weights": np.zeros_like(weights_of(data[0]))})
    )
    data.append(random_datum(77, data[3].prompt, ("weights",), masked=90))
    together = compute.forward(adapter, data, "cross_entropy", {}, backward=True)
    backwards = compute.forward(adapter, data[::-1], "cross_entropy", {}, backward=True)
    whole = compute.forward(
        adapter, [unmasked(one) for one in data], "cross_entropy", {}, backward=False
    )
    for index, one in enumerate(data):
        alone = compute.forward(adapter, [one], "cross_entropy", {}, backward=True)
        np.testing.assert_array_equal(alone.logprobs[0], together.logprobs[index])
        np.testing.assert_array_equal(alone.logprobs[0], backwards.logprobs[-1 - index])
        np.testing.assert_allclose(alone.logprobs[0], whole.logprobs[index], atol=2e-5)


@FAMILIES
def test_the_gradient_of_a_group_is_the_sum_of_its_parts(
    compute: Compute, trained: Callable[[LoraSpec], Adapter]
) -> None:
    data = group_data(("weights",))
    together, apart = (trained(LoraSpec(rank=8, seed=1)) for _ in range(2))
    compute.forward(together, data, "cross_entropy", {}, backward=True)
    for one in data:
        compute.forward(apart, [one], "cross_entropy", {}, backward=True)
    error = (together.gradients - apart.gradients).norm() / apart.gradients.norm()
    assert error < 1e-5
    again = trained(LoraSpec(rank=8, seed=1))
    compute.forward(again, data, "cross_entropy", {}, backward=True)
    assert torch.equal(again.gradients, together.gradients)


def weights_of(datum: Datum) -> np.ndarray:
    return datum.inputs["weights"]


def unmasked(datum: Datum) -> Datum:
    """The datum with a weight everywhere: it has no prompt to share."""
    return replace(datum, inputs={**datum.inputs, "weights": np.ones_like(weights_of(datum))})


@FAMILIES
def test_gradients_repeat_bit_for_bit(
    compute: Compute, trained: Callable[[LoraSpec], Adapter]
) -> None:
    """Also after other adapters and samples went through the same modules."""
    data = [random_datum(seed, picture_prompt(seed), ("weights",)) for seed in range(6)]
    first = trained(LoraSpec(rank=8, seed=1))
    compute.forward(first, data, "cross_entropy", {}, backward=True)
    other = trained(LoraSpec(rank=8, seed=2))
    compute.forward(other, data[:3], "cross_entropy", {}, backward=True)
    compute.sample(compute.freeze(other), [request(picture_prompt(1))])
    again = trained(LoraSpec(rank=8, seed=1))
    compute.forward(again, data, "cross_entropy", {}, backward=True)
    assert torch.equal(first.gradients, again.gradients)
    assert not torch.equal(first.gradients, other.gradients)


def test_the_samples_of_a_seed_differ_and_repeat(compute: Compute) -> None:
    prompt = picture_prompt(5)
    first = only(compute.sample(None, [request(prompt, samples=6)]))
    again = only(compute.sample(None, [request(prompt, samples=6)]))
    other = only(compute.sample(None, [request(prompt, samples=6, seed=8)]))
    fresh = only(compute.sample(None, [request(prompt, samples=6, seed=None)]))
    assert first == again
    assert len({sequence.tokens for sequence in first.sequences}) > 1
    assert first != other
    assert fresh not in (first, other)


@FAMILIES
def test_an_image_counts_sixteen_tokens(compute: Compute) -> None:
    """What the other tests take for granted of the shipped model."""
    output = only(
        compute.sample(None, [SampleRequest((ImagePart(png(1)),), SamplingSettings(1), 0, True)])
    )
    assert output.prompt_logprobs is not None
    assert len(output.prompt_logprobs) == IMAGE_TOKENS
