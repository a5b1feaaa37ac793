"""Each loss' value and gradient against formulas written out in float64, without torch."""

import numpy as np
import pytest
import torch
from engine_material import picture_prompt, random_datum, words
from loss_reference import CASES, Array, reference

from visual_r1.engine.compute.compute import Compute
from visual_r1.engine.compute.losses import LOSSES
from visual_r1.engine.types import Datum, LoraSpec


@pytest.mark.parametrize(("name", "config"), CASES)
def test_the_formula_and_its_gradient(name: str, config: dict[str, float]) -> None:
    rng = np.random.default_rng(5)
    logp = -rng.uniform(0.01, 6, 400)
    inputs = {
        "weights": rng.uniform(-1, 2, 400),
        "logprobs": logp + rng.standard_normal(400),
        "advantages": rng.standard_normal(400) * (rng.random(400) < 0.8),
    }
    value, slope = reference(name, config, logp, inputs)
    leaf = torch.tensor(logp, dtype=torch.float32, requires_grad=True)
    given = {key: torch.tensor(values, dtype=torch.float32) for key, values in inputs.items()}
    loss = LOSSES[name].formula(leaf, given, {**LOSSES[name].defaults, **config}).sum()
    loss.backward()
    assert leaf.grad is not None
    assert float(loss.detach()) == pytest.approx(value, rel=1e-4)
    error = np.abs(leaf.grad.double().numpy() - slope).max()
    assert error < 1e-4 * np.abs(slope).max()


def joined(arrays: object) -> Array:
    return np.concatenate([np.asarray(array, np.float64) for array in arrays])  # type: ignore[attr-defined]


def test_zero_advantage_never_makes_a_nan(compute: Compute) -> None:
    """A prompt position may carry any q; with A = 0 it adds nothing, also where r overflows."""
    prompt = (words(4, 20),)
    datum = random_datum(4, prompt, ("logprobs", "advantages"))
    datum.inputs["logprobs"][:10] = -1e4
    datum.inputs["advantages"][:10] = 0.0
    adapter = compute.new_adapter(LoraSpec(rank=2, seed=1))
    for name in ("importance_sampling", "ppo", "cispo"):
        output = compute.forward(adapter, [datum], name, {}, backward=True)
        assert np.isfinite(output.metrics["loss:sum"])
    assert torch.isfinite(adapter.gradients).all()


def test_several_weighted_targets_a_place(compute: Compute) -> None:
    prompt = picture_prompt(6)
    rng = np.random.default_rng(6)
    places = len(random_datum(0, prompt, ()).inputs["target_tokens"])
    targets = rng.integers(0, 250, (places, 3))
    weights = rng.random((places, 3)).astype(np.float32)
    adapter = compute.new_adapter(LoraSpec(rank=2, seed=1))
    wide = Datum(prompt, {"target_tokens": targets, "weights": weights})
    narrow = random_datum(9, (words(9, 12),), ("weights",))
    both = compute.forward(adapter, [narrow, wide], "cross_entropy", {}, backward=True)
    assert both.logprobs[1].shape == (places, 3)
    assert both.logprobs[0].shape == (12,)
    for column in range(3):
        single = Datum(prompt, {"target_tokens": targets[:, column], "weights": weights[:, column]})
        alone = compute.forward(adapter, [single], "cross_entropy", {}, backward=False)
        np.testing.assert_array_equal(alone.logprobs[0], both.logprobs[1][:, column])
    total = sum(
        -(joined([logp.ravel()]) * joined([datum.inputs["weights"].ravel()])).sum()
        for logp, datum in zip(both.logprobs, (narrow, wide), strict=True)
    )
    assert both.metrics["loss:sum"] == pytest.approx(total, rel=1e-5)
