"""Families of models: found by their type, and each with the format of its prompts beside it."""

import json
from pathlib import Path

import pytest

from visual_r1.engine.compute.compute import Compute
from visual_r1.engine.compute.families import FAMILIES, find_family
from visual_r1.engine.compute.lora import adapter_bytes
from visual_r1.engine.types import LoraSpec
from visual_r1.errors import ModelError
from visual_r1.models import TINY_GEOMETRY
from visual_r1.models.families import FORMATS


def test_qwen3_vl_dense_and_with_experts_are_served(compute: Compute) -> None:
    assert {"qwen3_vl", "qwen3_vl_moe"} <= FAMILIES.keys()
    assert FAMILIES["qwen3_vl"] is FAMILIES["qwen3_vl_moe"]
    assert compute.architecture == "qwen3_vl"


def test_another_type_is_refused_by_name_with_what_is_served() -> None:
    with pytest.raises(ModelError) as refusal:
        find_family("my/model", "llava")
    assert str(refusal.value) == (
        "model my/model is of type llava; the engine serves Qwen3-VL checkpoints "
        "(qwen3_vl, qwen3_vl_moe)."
    )


@pytest.mark.parametrize("model_type", FAMILIES)
def test_what_can_be_computed_can_be_asked(model_type: str) -> None:
    """A family has two halves, and both rooms call it by the same name."""
    assert FORMATS[model_type].title == FAMILIES[model_type].title


@pytest.mark.parametrize(
    "spec",
    [LoraSpec(4), LoraSpec(3, train_mlp=False), LoraSpec(5, train_attn=False, train_unembed=False)],
    ids=str,
)
def test_the_size_of_an_adapter_is_known_before_it_is_made(
    compute: Compute, spec: LoraSpec
) -> None:
    assert adapter_bytes(TINY_GEOMETRY, spec) == compute.new_adapter(spec).weights.nbytes


def test_no_size_is_told_of_what_is_not_served(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    assert adapter_bytes(str(tmp_path), LoraSpec(4)) is None
    assert adapter_bytes(str(tmp_path / "nowhere"), LoraSpec(4)) is None
