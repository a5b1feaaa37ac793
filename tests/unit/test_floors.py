"""Floors that the benchmarks hold times against."""

import json
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from beside.floors import Rates, costs_of, decode_step_floor

MIXTURE = {
    "hidden_size": 8, "num_hidden_layers": 2, "head_dim": 4, "num_attention_heads": 2,
    "num_key_value_heads": 1, "vocab_size": 10, "intermediate_size": 99,
    "moe_intermediate_size": 3, "num_experts_per_tok": 2,
}  # fmt: skip
TOWER = {
    "hidden_size": 4, "depth": 1, "intermediate_size": 4, "spatial_merge_size": 2,
    "deepstack_visual_indexes": [0],
}  # fmt: skip


@pytest.mark.parametrize("name", ["num_experts", "num_local_experts"])
def test_a_mixture_s_experts_are_counted_whoever_wrote_its_configuration(
    tmp_path: Path, name: str
) -> None:
    """Published files say `num_experts`, those that transformers writes `num_local_experts`."""
    config = {"text_config": {**MIXTURE, name: 16}, "vision_config": TOWER}
    (tmp_path / "config.json").write_text(json.dumps(config))
    costs = costs_of(str(tmp_path), 2)
    expert, attention = 3 * 8 * 3, 2 * 8 * 3 * 4
    assert costs.body == 2 * (attention + 16 * expert)
    assert costs.active == 2 * (attention + 2 * expert + 8 * 16)
    # So many rows meet all experts, which are read once.
    moved = 2 * (costs.body + costs.head) + 100 * costs.cache_bytes
    assert decode_step_floor(costs, Rates(1.0, 1e12), 100, 1.0) == pytest.approx(moved, rel=1e-6)
