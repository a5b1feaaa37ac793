"""What is promised of a card, held on one; without a card it is skipped.

In float32 a card gives what the CPU gives, within rounding; in bfloat16 the same work twice gives
the same bits, and a step that was recorded as a graph gives those of one that was not.
"""

import gc
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import random_models
import torch
from engine_material import (
    distances,
    group_data,
    picture_prompt,
    request,
    rollout_data,
    words,
)

from visual_r1.engine.compute.compute import Adapter, Compute
from visual_r1.engine.compute.device_rules import rules_of
from visual_r1.engine.compute.graphs import GraphedStep
from visual_r1.engine.types import Datum, LoraSpec, SampleOutput, SampleRequest
from visual_r1.models import TINY_GEOMETRY

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA card")

CARD = torch.device("cuda")
SPEC = LoraSpec(rank=8, seed=1)
DATA = group_data(("logprobs", "advantages"))
EARLY = [request(picture_prompt(n), 5, seed=n, max_tokens=30 + 20 * n) for n in range(3)]
LATE = [request((words(n, 30 + n),), 9, seed=n, max_tokens=70) for n in range(2)]


@pytest.fixture(scope="module", params=["qwen3_vl", "qwen3_5", "qwen3_vl_moe"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    if request.param == "qwen3_vl":
        return TINY_GEOMETRY
    folder: Path = tmp_path_factory.mktemp(request.param) / "model"
    return str(getattr(random_models, request.param)(folder))


@pytest.fixture(scope="module")
def bfloat16(model: str) -> Iterator[Compute]:
    yield Compute(model, device="cuda")


@pytest.fixture(scope="module")
def float32(model: str) -> Iterator[Compute]:
    yield Compute(model, device="cuda", rules=replace(rules_of(CARD), dtype=torch.float32))


@pytest.fixture(scope="module")
def on_cpu(model: str) -> Iterator[Compute]:
    yield Compute(model, device="cpu")
    torch.use_deterministic_algorithms(False)


def scattered(compute: Compute) -> Adapter:
    """An adapter that changes the model, the same on every device."""
    adapter = compute.new_adapter(SPEC)
    noise = torch.randn(adapter.weights.shape, generator=torch.Generator().manual_seed(17)) * 0.02
    adapter.weights.add_(noise.to(adapter.weights.device))
    return adapter


def answered(compute: Compute, requests: Sequence[SampleRequest]) -> list[SampleOutput]:
    outputs = compute.sample(compute.freeze(scattered(compute)), requests)
    return [one for one in outputs if isinstance(one, SampleOutput)]


def joined(compute: Compute) -> list[SampleOutput]:
    """Some requests join while others run; rows end at different times."""
    batch = compute.open_batch(compute.freeze(scattered(compute)))
    given: dict[int, SampleOutput] = {}
    for wanted in (EARLY, LATE):
        for one in wanted:
            batch.admit(one)
        given |= {a.ticket: a.output for a in batch.advance().answered}  # type: ignore[misc]
    while not batch.idle:
        given |= {a.ticket: a.output for a in batch.advance().answered}  # type: ignore[misc]
    return [given[ticket] for ticket in sorted(given)]


def learnt(compute: Compute, data: Sequence[Datum] = DATA) -> tuple[list[np.ndarray], torch.Tensor]:
    adapter = scattered(compute)
    output = compute.forward(adapter, data, "importance_sampling", {}, backward=True)
    return list(output.logprobs), adapter.gradients.cpu()


def sequences(outputs: Sequence[SampleOutput]) -> list[tuple[tuple[int, ...], tuple[float, ...]]]:
    return [(one.tokens, one.logprobs) for output in outputs for one in output.sequences]


def assert_nearly_the_same(ours: Sequence[SampleOutput], theirs: Sequence[SampleOutput]) -> None:
    pairs = list(zip(sequences(ours), sequences(theirs), strict=True))
    same = [(a, b) for (one, a), (other, b) in pairs if one == other]
    # A number may fall between two sums that differ by rounding: then another token is drawn.
    assert len(same) >= len(pairs) - 1
    assert max(np.abs(np.subtract(a, b)).max() for a, b in same) < 1e-3


def test_in_float32_it_samples_what_a_cpu_samples(float32: Compute, on_cpu: Compute) -> None:
    ours, theirs = (answered(one, EARLY + LATE) for one in (float32, on_cpu))
    assert_nearly_the_same(ours, theirs)


def test_in_float32_it_learns_what_a_cpu_learns(float32: Compute, on_cpu: Compute) -> None:
    logprobs, gradients = learnt(float32)
    expected, expected_gradients = learnt(on_cpu)
    assert (gradients - expected_gradients).norm() / expected_gradients.norm() < 1e-3
    for one, other, datum in zip(logprobs, expected, DATA, strict=True):
        bears = datum.inputs["advantages"] != 0
        assert np.abs(one - other)[bears].max() < 1e-3


def test_in_bfloat16_it_learns_what_a_cpu_learns_within_its_digits(
    bfloat16: Compute, on_cpu: Compute
) -> None:
    _, gradients = learnt(bfloat16)
    _, expected = learnt(on_cpu)
    assert 0 < (gradients - expected).norm() / expected.norm() < 0.1


def test_experts_without_loras(bfloat16: Compute) -> None:
    """Nothing in a pass waits for a kernel whose sums have an order, and has none."""
    adapter = bfloat16.new_adapter(replace(SPEC, train_mlp=False))
    output = bfloat16.forward(adapter, DATA, "importance_sampling", {}, backward=True)
    assert np.isfinite(output.metrics["loss:sum"])
    assert len(sequences(bfloat16.sample(None, EARLY))) == 15  # type: ignore[arg-type]


def test_the_same_twice_gives_the_same_bits(bfloat16: Compute) -> None:
    assert sequences(joined(bfloat16)) == sequences(joined(bfloat16))
    first, again = learnt(bfloat16), learnt(bfloat16)
    assert torch.equal(first[1], again[1])
    assert all(np.array_equal(a, b) for a, b in zip(first[0], again[0], strict=True))


def test_a_recorded_step_gives_the_bits_of_one_that_was_not(
    bfloat16: Compute, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not isinstance(bfloat16._lean, GraphedStep):
        pytest.skip("its steps are not recorded")
    recorded = sequences(joined(bfloat16))
    monkeypatch.setattr(bfloat16, "_lean", bfloat16._lean._step)
    monkeypatch.setattr(bfloat16, "_prepared", ())
    assert sequences(joined(bfloat16)) == recorded


def test_our_attention_kernels_are_taken_and_agree_with_those_of_torch(
    float32: Compute, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where they fail it is a warning in the log, and no test but this one would see it."""
    step = float32._lean
    if step is None:
        pytest.skip("its steps go through the modules")
    lean = step._step if isinstance(step, GraphedStep) else step
    assert lean._attend is not None
    ours = joined(float32)
    monkeypatch.setattr(lean, "_attend", None)
    assert_nearly_the_same(ours, joined(float32))


def test_sampler_and_learner_agree(bfloat16: Compute) -> None:
    prompts = [picture_prompt(seed) for seed in range(4)]
    outputs = answered(bfloat16, [request(prompt, 8) for prompt in prompts])
    data = rollout_data(prompts, outputs)
    output = bfloat16.forward(scattered(bfloat16), data, "importance_sampling", {}, backward=True)
    assert 0 < distances(output, data).mean() < 0.02


def test_what_a_batch_took_is_free_when_it_is_done(bfloat16: Compute) -> None:
    def held() -> int:
        gc.collect()
        torch.cuda.synchronize()
        return torch.cuda.memory_allocated()

    joined(bfloat16)
    learnt(bfloat16)
    before = held()
    for _ in range(3):
        joined(bfloat16)
        learnt(bfloat16)
    assert held() - before < 2**20


def test_where_memory_runs_out_it_goes_on_with_less(bfloat16: Compute) -> None:
    """The card has less than its free memory says, as when another program takes it meanwhile."""
    expected = joined(bfloat16)
    logprobs, gradients = learnt(bfloat16)
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(CARD).total_memory
    # Room for something, and not for all of it at once.
    torch.cuda.set_per_process_memory_fraction(
        min(1.0, (torch.cuda.memory_reserved() + 24 * 2**20) / total)
    )
    try:
        fewer = joined(bfloat16)
        less, small = learnt(bfloat16)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert [[len(s.tokens) for s in o.sequences] for o in fewer] == [
        [len(s.tokens) for s in o.sequences] for o in expected
    ]
    assert (small - gradients).norm() / gradients.norm() < 0.05
    assert len(less) == len(logprobs)
