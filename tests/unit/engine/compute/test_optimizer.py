"""Adam against its formula in float64, and training that goes on from a saved state."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from engine_material import picture_prompt, random_datum
from numpy.typing import NDArray

from visual_r1.engine.compute.compute import Adapter, Compute
from visual_r1.engine.types import AdamSettings, Datum, InvalidRequest, LoraSpec

SPEC = LoraSpec(rank=4, seed=1)


def data(step: int) -> list[Datum]:
    return [random_datum(7 * step + i, picture_prompt(i), ("weights",)) for i in range(3)]


def train(compute: Compute, adapter: Adapter, steps: range) -> None:
    for step in steps:
        compute.forward(adapter, data(step), "cross_entropy", {}, backward=True)
        settings = AdamSettings(learning_rate=1e-3, weight_decay=0.1, grad_clip_norm=5.0)
        compute.optim_step(adapter, settings)


class Reference:
    """AdamW (Loshchilov & Hutter, 2019) in float64 NumPy."""

    def __init__(self, weights: NDArray[np.float64]) -> None:
        self.weights = weights
        self.m = np.zeros_like(weights)
        self.v = np.zeros_like(weights)
        self.t = 0

    def step(self, gradient: NDArray[np.float64], s: AdamSettings) -> None:
        norm = np.sqrt((gradient**2).sum())
        if s.grad_clip_norm > 0:
            gradient = gradient * min(1.0, s.grad_clip_norm / norm)
        self.t += 1
        self.m = s.beta1 * self.m + (1 - s.beta1) * gradient
        self.v = s.beta2 * self.v + (1 - s.beta2) * gradient**2
        m, v = self.m / (1 - s.beta1**self.t), self.v / (1 - s.beta2**self.t)
        self.weights = self.weights * (1 - s.learning_rate * s.weight_decay)
        self.weights = self.weights - s.learning_rate * m / (np.sqrt(v) + s.eps)


@pytest.mark.parametrize(
    "settings",
    [
        AdamSettings(learning_rate=3e-3),
        AdamSettings(learning_rate=3e-3, beta1=0.5, beta2=0.99, eps=1e-3, weight_decay=0.3),
        AdamSettings(learning_rate=3e-3, grad_clip_norm=0.01),
        AdamSettings(learning_rate=3e-3, beta1=0.0, beta2=0.0, eps=0.0),
    ],
    ids=["default", "all set", "clipped", "sign"],
)
def test_adam_follows_its_formula(
    compute: Compute, trained: Callable[[LoraSpec], Adapter], settings: AdamSettings
) -> None:
    adapter = trained(SPEC)
    reference = Reference(adapter.weights.double().numpy())
    for step in range(4):
        compute.forward(adapter, data(step), "cross_entropy", {}, backward=True)
        gradient = adapter.gradients.double().numpy()
        norm = float(np.sqrt((gradient**2).sum()))
        metrics = compute.optim_step(adapter, settings)
        assert metrics["grad_norm:mean"] == pytest.approx(norm, rel=1e-6)
        reference.step(gradient, settings)
        moved = adapter.weights.double().numpy()
        np.testing.assert_allclose(moved, reference.weights, rtol=0, atol=2e-6)
    assert not adapter.gradients.any()


def test_gradients_add_up_over_calls(
    compute: Compute, trained: Callable[[LoraSpec], Adapter]
) -> None:
    parts, whole = trained(SPEC), trained(SPEC)
    batch = data(0)
    compute.forward(parts, batch[:1], "cross_entropy", {}, backward=True)
    compute.forward(parts, batch, "cross_entropy", {}, backward=False)
    compute.forward(parts, batch[1:], "cross_entropy", {}, backward=True)
    compute.forward(whole, batch, "cross_entropy", {}, backward=True)
    torch.testing.assert_close(parts.gradients, whole.gradients, rtol=1e-4, atol=1e-4)
    assert parts.gradients.any()


def test_saved_and_restored_training_is_the_same_bit_for_bit(
    compute: Compute, trained: Callable[[LoraSpec], Adapter]
) -> None:
    straight, interrupted = trained(SPEC), trained(SPEC)
    train(compute, straight, range(5))
    train(compute, interrupted, range(2))
    saved = compute.state_tensors(interrupted, optimizer=True)
    train(compute, interrupted, range(2, 3))
    restored = compute.restore(SPEC, saved, optimizer=True)
    train(compute, restored, range(2, 5))
    ours, theirs = (compute.state_tensors(a, optimizer=True) for a in (restored, straight))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)

    weights_only = compute.restore(SPEC, saved, optimizer=False)
    train(compute, weights_only, range(2, 5))
    assert not torch.equal(weights_only.weights, straight.weights)


def test_a_snapshot_does_not_follow_training(
    compute: Compute, trained: Callable[[LoraSpec], Adapter]
) -> None:
    adapter = trained(SPEC)
    snapshot = compute.freeze(adapter)
    before = compute.frozen_tensors(snapshot)
    train(compute, adapter, range(1))
    after = compute.frozen_tensors(snapshot)
    assert all(torch.equal(before[name], after[name]) for name in before)
    again = compute.frozen_from(SPEC, before)
    assert torch.equal(again.weights, snapshot.weights)
    assert not torch.equal(adapter.weights, snapshot.weights)


def test_no_step_without_a_gradient(compute: Compute) -> None:
    adapter = compute.new_adapter(SPEC)
    with pytest.raises(InvalidRequest, match="forward_backward first"):
        compute.optim_step(adapter, AdamSettings())
    compute.forward(adapter, data(0), "cross_entropy", {}, backward=False)
    with pytest.raises(InvalidRequest, match="forward_backward first"):
        compute.optim_step(adapter, AdamSettings())


def test_dropped_gradients_are_gone(
    compute: Compute, trained: Callable[[LoraSpec], Adapter]
) -> None:
    adapter, clean = trained(SPEC), trained(SPEC)
    compute.forward(adapter, data(3), "cross_entropy", {}, backward=True)
    compute.drop_gradients(adapter)
    with pytest.raises(InvalidRequest, match="forward_backward first"):
        compute.optim_step(adapter, AdamSettings())
    train(compute, adapter, range(1))
    train(compute, clean, range(1))
    assert torch.equal(adapter.weights, clean.weights)


def test_a_gradient_that_is_not_finite_is_discarded(compute: Compute) -> None:
    adapter = compute.new_adapter(SPEC)
    before = adapter.weights.clone()
    prompt = picture_prompt(1)
    datum = random_datum(1, prompt, ("logprobs", "advantages"))
    datum.inputs["logprobs"][:] = -200.0
    datum.inputs["advantages"][:] = 1.0
    compute.forward(adapter, [datum], "importance_sampling", {}, backward=True)
    with pytest.raises(InvalidRequest, match="discarded and the weights are unchanged"):
        compute.optim_step(adapter, AdamSettings())
    assert torch.equal(adapter.weights, before)
    train(compute, adapter, range(1))
    assert torch.isfinite(adapter.weights).all()


@pytest.mark.parametrize(
    ("name", "value"),
    [("learning_rate", -1.0), ("beta1", 1.0), ("eps", float("nan")), ("grad_clip_norm", -2.0)],
)
def test_settings_that_adam_cannot_use(compute: Compute, name: str, value: float) -> None:
    adapter = compute.new_adapter(SPEC)
    compute.forward(adapter, data(0), "cross_entropy", {}, backward=True)
    with pytest.raises(InvalidRequest, match=name):
        compute.optim_step(adapter, AdamSettings(**{name: value}))
    compute.optim_step(adapter, AdamSettings())


@pytest.mark.parametrize(
    "settings",
    [
        AdamSettings(learning_rate=1e39),
        AdamSettings(learning_rate=1e308),
        AdamSettings(learning_rate=1e38, beta1=0.9999999),
        AdamSettings(learning_rate=1.0, weight_decay=1e300),
        AdamSettings(learning_rate=1e38, beta1=0.0, beta2=0.0, eps=1e-45),
    ],
)
def test_a_step_that_breaks_the_weights_says_so_and_nothing_of_them_is_kept(
    compute: Compute, settings: AdamSettings
) -> None:
    adapter = compute.new_adapter(LoraSpec(rank=4, seed=1))
    data = [random_datum(seed, picture_prompt(seed), ("weights",)) for seed in range(2)]
    for _ in range(2):
        compute.forward(adapter, data, "cross_entropy", {}, backward=True)
        try:
            compute.optim_step(adapter, settings)
        except InvalidRequest as error:
            first = str(error)
            break
    else:
        pytest.fail("the weights are infinite by now")
    assert f"learning_rate {settings.learning_rate:g}" in first
    assert "with a lower learning rate" in first
    for use in (
        lambda: compute.state_tensors(adapter, optimizer=True),
        lambda: compute.state_tensors(adapter, optimizer=False),
        lambda: compute.freeze(adapter),
        lambda: compute.forward(adapter, data, "cross_entropy", {}, backward=True),
        lambda: compute.optim_step(adapter, AdamSettings()),
    ):
        with pytest.raises(InvalidRequest, match="cannot be used any more") as caught:
            use()
        assert str(caught.value) == first


def test_a_rate_that_makes_weights_immense_is_named_when_the_gradient_overflows(
    compute: Compute,
) -> None:
    adapter = compute.new_adapter(LoraSpec(rank=4, seed=1))
    data = [random_datum(seed, picture_prompt(seed), ("weights",)) for seed in range(2)]
    with pytest.raises(InvalidRequest, match=r"grown to 1e\+30|learning_rate 1e\+30") as caught:
        for _ in range(4):
            compute.forward(adapter, data, "cross_entropy", {}, backward=True)
            compute.optim_step(adapter, AdamSettings(learning_rate=1e30))
    assert "lower learning rate" in str(caught.value)
