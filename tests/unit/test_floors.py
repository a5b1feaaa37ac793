"""Floors that the benchmarks hold times against."""

import json
from pathlib import Path
from typing import Any

import pytest
from benchmark_modules import benchmark_module

MIXTURE = {
    "hidden_size": 8, "num_hidden_layers": 2, "head_dim": 4, "num_attention_heads": 2,
    "num_key_value_heads": 1, "vocab_size": 10, "intermediate_size": 99,
    "moe_intermediate_size": 3, "num_experts_per_tok": 2,
}  # fmt: skip
TOWER = {
    "hidden_size": 4, "depth": 1, "intermediate_size": 4, "spatial_merge_size": 2,
    "deepstack_visual_indexes": [0],
}  # fmt: skip


@pytest.fixture(scope="module")
def floors() -> Any:
    return benchmark_module("beside.floors")


@pytest.mark.parametrize("name", ["num_experts", "num_local_experts"])
def test_a_mixture_s_experts_are_counted_whoever_wrote_its_configuration(
    floors: Any, tmp_path: Path, name: str
) -> None:
    """Published files say `num_experts`, those that transformers writes `num_local_experts`."""
    config = {"text_config": {**MIXTURE, name: 16}, "vision_config": TOWER}
    (tmp_path / "config.json").write_text(json.dumps(config))
    costs = floors.costs_of(str(tmp_path), 2)
    expert, attention = 3 * 8 * 3, 2 * 8 * 3 * 4
    assert costs.body == 2 * (attention + 16 * expert)
    assert costs.active == 2 * (attention + 2 * expert + 8 * 16)
    # So many rows meet all experts, which are read once.
    moved = 2 * (costs.body + costs.head) + 100 * costs.cache_bytes
    rates = floors.Rates(1.0, 1e12)
    assert floors.decode_step_floor(costs, rates, 100, 1.0) == pytest.approx(moved, rel=1e-6)
