"""Families of models: found by their type, and each with the format of its prompts beside it."""

import json
from pathlib import Path

import numpy as np
import pytest
from engine_material import FAMILIES as BOTH
from random_models import qwen3_5
from safetensors.numpy import save_file

from visual_r1.engine.compute.base_model import load_base_model
from visual_r1.engine.compute.compute import Compute
from visual_r1.engine.compute.families import FAMILIES, find_family
from visual_r1.engine.compute.lora import adapter_bytes
from visual_r1.engine.types import LoraSpec
from visual_r1.errors import ModelError
from visual_r1.models.families import FORMATS


def test_the_families_are_served_dense_and_with_experts(compute: Compute) -> None:
    assert FAMILIES.keys() == {"qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe"}
    assert FAMILIES["qwen3_vl"] is FAMILIES["qwen3_vl_moe"]
    assert FAMILIES["qwen3_5"] is FAMILIES["qwen3_5_moe"]
    assert compute.architecture == "qwen3_vl"


@pytest.mark.parametrize(
    ("model_type", "is_a"),
    [
        ("qwen2_5_vl", "is of the family Qwen2.5-VL (type qwen2_5_vl)"),
        ("smolvlm", "is of the family SmolVLM (type smolvlm)"),
        ("idefics3", "is of the family Idefics3 (type idefics3)"),
        ("gemma3", "is of the family Gemma3 (type gemma3)"),
        ("internvl", "is of the family InternVL (type internvl)"),
        ("qwen3_moe", "is of type qwen3_moe, which reads text and no images"),
        ("internvl_chat", "is of type internvl_chat"),
        (None, "has no model_type in its config.json"),
    ],
)
def test_another_type_is_refused_by_name_with_what_is_served(
    tmp_path: Path, model_type: str | None, is_a: str
) -> None:
    sentence = (
        f"model {tmp_path} {is_a}; the engine serves Qwen3.5 and Qwen3-VL checkpoints "
        "(qwen3_5, qwen3_5_moe, qwen3_vl, qwen3_vl_moe)."
    )
    with pytest.raises(ModelError) as refusal:
        find_family(str(tmp_path), model_type)
    assert str(refusal.value) == sentence
    # Also where the folder would have its own code run.
    config = {"model_type": model_type, "auto_map": {"AutoConfig": "code.Config"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError) as refusal:
        load_base_model(str(tmp_path), "cpu")
    assert str(refusal.value) == sentence


@pytest.mark.parametrize("model_type", FAMILIES)
def test_what_can_be_computed_can_be_asked(model_type: str) -> None:
    """A family has two halves, and both rooms call it by the same name."""
    assert FORMATS[model_type].title == FAMILIES[model_type].title


@BOTH
@pytest.mark.parametrize(
    "spec",
    [LoraSpec(4), LoraSpec(3, train_mlp=False), LoraSpec(5, train_attn=False, train_unembed=False)],
    ids=str,
)
def test_the_size_of_an_adapter_is_known_before_it_is_made(
    compute: Compute, spec: LoraSpec
) -> None:
    assert adapter_bytes(compute.model_name, spec) == compute.new_adapter(spec).weights.nbytes


def test_what_no_network_is_made_of_is_not_counted(tmp_path: Path) -> None:
    """Published checkpoints of Qwen3.5 hold a layer besides that foretells several tokens."""
    folder, spec = qwen3_5(tmp_path / "model"), LoraSpec(4)
    counted = adapter_bytes(str(folder), spec)
    names = ("mtp.layers.0.self_attn.q_proj.weight", "mtp.layers.0.mlp.experts.down_proj")
    further = {names[0]: np.zeros((8, 8), np.float32), names[1]: np.zeros((4, 8, 8), np.float32)}
    save_file(further, folder / "model-mtp.safetensors")
    assert adapter_bytes(str(folder), spec) == counted


def test_no_size_is_told_of_what_is_not_served(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    assert adapter_bytes(str(tmp_path), LoraSpec(4)) is None
    assert adapter_bytes(str(tmp_path / "nowhere"), LoraSpec(4)) is None
