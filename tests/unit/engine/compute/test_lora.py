"""Adapters over one base model: what they train, how they start, and that they stay apart."""

from collections.abc import Callable

import pytest
import torch
from engine_material import FAMILIES, picture_prompt, random_datum, request

from visual_r1.engine.compute.compute import Adapter, Compute
from visual_r1.engine.types import InvalidRequest, LoraSpec


def modules(compute: Compute, spec: LoraSpec) -> set[str]:
    """Names of the trained modules, layer numbers left out."""
    names = compute.state_tensors(compute.new_adapter(spec), optimizer=False)
    parts = [name.removesuffix(".weight").rsplit(".lora_", 1)[0].split(".") for name in names]
    return {".".join(p for p in part if not p.isdigit()) for part in parts}


ATTENTION = {
    *(f"model.language_model.layers.self_attn.{side}_proj" for side in "qkvo"),
    "model.visual.blocks.attn.qkv",
    "model.visual.blocks.attn.proj",
}
MLP = {
    *(f"model.language_model.layers.mlp.{side}_proj" for side in ("gate", "up", "down")),
    *(f"model.visual.{where}.linear_fc{n}" for where in ("blocks.mlp", "merger") for n in (1, 2)),
}
OF_A_FAMILY = {
    "qwen3_vl": (set(), {f"model.visual.deepstack_merger_list.linear_fc{n}" for n in (1, 2)}),
    "qwen3_5": (
        {
            f"model.language_model.layers.linear_attn.{name}"
            for name in ("in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a", "out_proj")
        },
        set(),
    ),
}
"""Attention and MLPs that it alone has."""


@FAMILIES
@pytest.mark.parametrize("attn", [True, False])
@pytest.mark.parametrize("mlp", [True, False])
@pytest.mark.parametrize("unembed", [True, False])
def test_what_is_trained(compute: Compute, attn: bool, mlp: bool, unembed: bool) -> None:
    spec = LoraSpec(rank=2, train_attn=attn, train_mlp=mlp, train_unembed=unembed)
    if not (attn or mlp or unembed):
        with pytest.raises(InvalidRequest, match="nothing to train"):
            compute.new_adapter(spec)
        return
    further = OF_A_FAMILY[compute.architecture]
    chosen = (ATTENTION | further[0] if attn else set()) | (MLP | further[1] if mlp else set())
    assert modules(compute, spec) == chosen | ({"lm_head"} if unembed else set())


@pytest.mark.parametrize("rank", [0, -1, 513])
def test_a_rank_out_of_range(compute: Compute, rank: int) -> None:
    with pytest.raises(InvalidRequest, match=rf"{rank} is out of range: 1 to 512"):
        compute.new_adapter(LoraSpec(rank=rank))


def test_the_seed_makes_the_start(compute: Compute) -> None:
    def start(seed: int | None) -> torch.Tensor:
        return compute.new_adapter(LoraSpec(rank=8, seed=seed)).weights

    assert torch.equal(start(3), start(3))
    assert not torch.equal(start(3), start(4))
    assert not torch.equal(start(None), start(None))


@FAMILIES
def test_a_fresh_adapter_is_the_base_model(compute: Compute) -> None:
    """And its first gradient moves B alone, since A's is multiplied by B = 0."""
    adapter = compute.new_adapter(LoraSpec(rank=8, seed=1))
    wanted = [request(picture_prompt(1), max_tokens=20)]
    assert compute.sample(compute.freeze(adapter), wanted) == compute.sample(None, wanted)
    datum = random_datum(1, picture_prompt(1), ("weights",))
    compute.forward(adapter, [datum], "cross_entropy", {}, backward=True)
    adapter.weights.copy_(adapter.gradients)
    gradients = compute.state_tensors(adapter, optimizer=False)
    for name, gradient in gradients.items():
        assert bool(gradient.any()) == ("lora_B" in name), name


def test_adapters_stay_apart(compute: Compute, trained: Callable[[LoraSpec], Adapter]) -> None:
    """Of equal and of different ranks and targets, and the base model between them."""
    specs = [
        LoraSpec(rank=4, seed=1),
        LoraSpec(rank=8, seed=1),
        LoraSpec(rank=4, seed=1, train_mlp=False),
        LoraSpec(rank=4, seed=2),
    ]
    wanted = [request(picture_prompt(1), max_tokens=20)]
    base = compute.sample(None, wanted)
    weights = [compute.freeze(trained(spec)) for spec in specs]
    first = [compute.sample(w, wanted) for w in weights]
    assert all(first.count(output) == 1 for output in first)
    assert base not in first
    for w, output in reversed(list(zip(weights, first, strict=True))):
        assert compute.sample(w, wanted) == output
        assert compute.sample(None, wanted) == base


def test_an_adapter_of_a_new_shape_leaves_what_is_at_work(
    compute: Compute, trained: Callable[[LoraSpec], Adapter]
) -> None:
    """Its modules are put into the network while another adapter, or none, computes there."""
    wanted = [request(picture_prompt(1), max_tokens=20)]
    one = compute.freeze(trained(LoraSpec(rank=4)))
    for weights, rank in ((None, 5), (one, 6)):
        before = compute.sample(weights, wanted)
        compute.new_adapter(LoraSpec(rank=rank))
        assert compute.sample(weights, wanted) == before


def test_weights_of_another_shape_are_refused(compute: Compute) -> None:
    tensors = compute.state_tensors(compute.new_adapter(LoraSpec(rank=4)), optimizer=False)
    with pytest.raises(InvalidRequest, match="do not fit this model"):
        compute.restore(LoraSpec(rank=8), tensors, optimizer=False)
    with pytest.raises(InvalidRequest, match="holds no optimizer"):
        compute.restore(LoraSpec(rank=4), tensors, optimizer=True)
    tensors.pop("lm_head.lora_A.weight")
    with pytest.raises(InvalidRequest, match=r"lm_head\.lora_A\.weight is missing"):
        compute.frozen_from(LoraSpec(rank=4), tensors)
