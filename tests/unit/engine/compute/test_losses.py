"""Each loss' value and gradient against formulas written out in float64, without torch."""

import numpy as np
import pytest
import torch
from engine_material import picture_prompt, random_datum, words
from loss_reference import CASES, Array, reference

from visual_r1.engine.compute.compute import Compute
from visual_r1.engine.compute.losses import LOSSES
from visual_r1.engine.types import Datum, InvalidRequest, LoraSpec


@pytest.mark.parametrize(("name", "config"), CASES)
def test_the_formula_and_its_gradient(name: str, config: dict[str, float]) -> None:
    rng = np.random.default_rng(5)
    logp = -rng.uniform(0.01, 6, 400)
    inputs = {
        "weights": rng.uniform(-1, 2, 400),
        "logprobs": logp + rng.standard_normal(400),
        "advantages": rng.standard_normal(400) * (rng.random(400) < 0.8),
        "sequence_ratio_mask": (rng.random(400) < 0.7).astype(np.float64),
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


@pytest.mark.parametrize("shift", [-0.05, 0.0, 0.05])
def test_gspo_is_the_papers_by_autograd(shift: float) -> None:
    """GSPO-token as it is written, in float64: s_t = sg[s] · p / sg[p], three data at a time."""
    rng = np.random.default_rng(11)
    shape = (3, 40, 1)
    logp = -rng.uniform(0.01, 6, shape)
    q = logp - shift + 2e-4 * rng.standard_normal(shape)
    advantages = rng.standard_normal(shape)
    mask = (rng.random(shape) < 0.6).astype(np.float64)
    leaf = torch.tensor(logp, requires_grad=True)
    total = torch.zeros((), dtype=torch.float64)
    for row in range(3):
        p, marked = leaf[row].exp(), torch.tensor(mask[row]) != 0
        s = torch.exp((leaf[row] - torch.tensor(q[row]))[marked].mean())
        s_t = s.detach() * p / p.detach()
        a = torch.tensor(advantages[row])
        total = total - torch.minimum(s_t * a, s_t.clamp(0.9997, 1.0004) * a).sum()
    total.backward()
    ours = torch.tensor(logp, requires_grad=True)
    inputs = {"logprobs": q, "advantages": advantages, "sequence_ratio_mask": mask}
    loss = LOSSES["gspo"]
    given = {name: torch.tensor(values) for name, values in inputs.items()}
    found = loss.formula(ours, given, loss.defaults).sum()
    found.backward()
    assert ours.grad is not None and leaf.grad is not None
    assert float(found.detach()) == pytest.approx(float(total.detach()), rel=1e-12)
    torch.testing.assert_close(ours.grad, leaf.grad, rtol=1e-12, atol=0)
    kept = float((leaf.grad != 0).double().mean())
    assert kept == 1.0 if shift == 0.0 else 0.3 < kept < 0.7


def test_what_gspo_cannot_take_its_ratio_over_is_refused(compute: Compute) -> None:
    datum = random_datum(4, (words(4, 20),), LOSSES["gspo"].inputs)
    datum.inputs["sequence_ratio_mask"][:] = 0.0
    adapter = compute.new_adapter(LoraSpec(rank=2, seed=1))
    with pytest.raises(InvalidRequest, match="datum 0: sequence_ratio_mask is 0 at every place"):
        compute.forward(adapter, [datum], "gspo", {}, backward=True)
    bare = random_datum(4, (words(4, 20),), ("logprobs", "advantages"))
    with pytest.raises(InvalidRequest, match="gspo needs the input 'sequence_ratio_mask'"):
        compute.forward(adapter, [bare], "gspo", {}, backward=True)


def joined(arrays: object) -> Array:
    return np.concatenate([np.asarray(array, np.float64) for array in arrays])  # type: ignore[attr-defined]


def test_zero_advantage_never_makes_a_nan(compute: Compute) -> None:
    """A prompt position may carry any q; with A = 0 it adds nothing, also where r overflows."""
    prompt = (words(4, 20),)
    datum = random_datum(4, prompt, ("logprobs", "advantages"))
    datum.inputs["logprobs"][:10] = -1e4
    datum.inputs["advantages"][:10] = 0.0
    adapter = compute.new_adapter(LoraSpec(rank=2, seed=1))
    datum.inputs["sequence_ratio_mask"] = (datum.inputs["advantages"] != 0).astype(np.float32)
    for name in ("importance_sampling", "ppo", "cispo", "gspo"):
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
