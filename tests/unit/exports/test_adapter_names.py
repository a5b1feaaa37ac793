"""Names of tensors held against the base model: mapped by rule, or refused; PEFT is asked.

The bases are built by transformers from configurations alone. What a server sends is made of an
adapter that PEFT knows, by the ways in which servers name things.
"""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from random_models import delta_net_config, mixture_config
from safetensors.torch import load_file, save_file
from torch import Tensor

from visual_r1.errors import ModelError
from visual_r1.exports.adapter import (
    CONFIG,
    WEIGHTS,
    Adapter,
    fit,
    peft_form,
    scaled_loras,
    unapplied,
)
from visual_r1.exports.base import BaseIndex, load_base_index
from visual_r1.exports.names import Lora, Misfit
from visual_r1.models import TINY_GEOMETRY

Tensors = dict[str, Tensor]
RANK, ALPHA = 4, 32
TEXT = "base_model.model.model.language_model."


def index_of(folder: Path, config: Any) -> BaseIndex:
    config.save_pretrained(folder)
    return load_base_index(str(folder))


@pytest.fixture(scope="module")
def dense() -> BaseIndex:
    return load_base_index(TINY_GEOMETRY)


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> BaseIndex:
    return index_of(tmp_path_factory.mktemp("mixture"), mixture_config())


@pytest.fixture(scope="module")
def delta_net(tmp_path_factory: pytest.TempPathFactory) -> BaseIndex:
    return index_of(tmp_path_factory.mktemp("delta_net"), delta_net_config())


def loras(index: BaseIndex, within: str) -> dict[str, Lora]:
    """Random ones for all places whose names fit."""
    generator = torch.Generator().manual_seed(11)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    return {
        place.name: Lora(
            draw(*([place.experts] if place.experts else []), RANK, place.inputs),
            draw(*([place.experts] if place.experts else []), place.outputs, RANK),
        )
        for place in index.places.values()
        if re.search(within, place.name)
    }


def written(folder: Path, config: Mapping[str, Any], tensors: Tensors) -> Path:
    folder.mkdir(exist_ok=True, parents=True)
    (folder / CONFIG).write_text(json.dumps(config))
    save_file(
        {name: values.clone().contiguous() for name, values in tensors.items()}, folder / WEIGHTS
    )
    return folder


def products(folder: Path, index: BaseIndex) -> Tensors:
    """What PEFT adds to each matrix of the base."""
    return {
        name: one.up.double() @ one.down.double()
        for name, one in scaled_loras(folder, index).items()
    }


def assert_the_same(folder: Path, index: BaseIndex, expected: Mapping[str, Lora]) -> None:
    assert unapplied(folder, index) == ""
    found = products(folder, index)
    assert found.keys() == expected.keys()
    for name, values in found.items():
        theirs = expected[name].up.double() @ expected[name].down.double() * ALPHA / RANK
        torch.testing.assert_close(values, theirs, rtol=1e-6, atol=1e-6)


SENT = {"r": RANK, "lora_alpha": ALPHA, "peft_type": "LORA", "base_model_name_or_path": "elsewhere"}
LANGUAGE = r"language_model|lm_head"


def in_pairs(of: Mapping[str, Lora], name: Callable[[str], str]) -> Tensors:
    """As a server names and holds them: experts in three dimensions."""
    found: Tensors = {}
    for place, lora in of.items():
        found[f"base_model.model.{name(place)}.lora_A.weight"] = lora.down
        found[f"base_model.model.{name(place)}.lora_B.weight"] = lora.up
    return found


def without_wrapping(name: str) -> str:
    return name.replace("model.language_model.", "model.").replace(
        "lm_head", "model.unembed_tokens"
    )


def test_what_peft_knows_stays_as_it_is_byte_for_byte(dense: BaseIndex, tmp_path: Path) -> None:
    adapter = Adapter(SENT, loras(dense, r"q_proj|down_proj|lm_head|visual\.blocks.*attn"))
    folder = written(tmp_path / "a", *peft_form(adapter, dense))
    before = (folder / WEIGHTS).read_bytes(), (folder / CONFIG).read_bytes()
    fitted = fit(folder, dense)
    assert (fitted.changed, fitted.matrices, fitted.tensors) == ("", 11, 22)
    assert before == ((folder / WEIGHTS).read_bytes(), (folder / CONFIG).read_bytes())
    assert_the_same(folder, dense, adapter.loras)
    # `proj` alone would have taken the patch embedding too.
    assert json.loads(before[1])["target_modules"] == [
        "attn.proj", "down_proj", "lm_head", "q_proj", "qkv",
    ]  # fmt: skip


def test_the_names_of_the_hosted_service(dense: BaseIndex, tmp_path: Path) -> None:
    sent = loras(dense, LANGUAGE)
    folder = written(tmp_path / "a", SENT, in_pairs(sent, without_wrapping))
    assert "PEFT" in unapplied(folder, dense)  # as it came, nothing or less than all
    fitted = fit(folder, dense)
    assert f"{2 * len(sent)} of {2 * len(sent)} tensors" in fitted.changed
    assert_the_same(folder, dense, sent)
    config = json.loads((folder / CONFIG).read_text())
    assert config["base_model_name_or_path"] == TINY_GEOMETRY
    again = (folder / WEIGHTS).read_bytes()
    assert fit(folder, dense).changed == ""
    assert (folder / WEIGHTS).read_bytes() == again


def test_split_and_fused_projections(dense: BaseIndex, tmp_path: Path) -> None:
    """q, k, v apart where the base has `qkv`; `gate_up_proj` as one where it has two matrices."""
    whole = loras(dense, r"visual\.blocks.*qkv|gate_proj|up_proj")
    sent: Tensors = {}
    for name, lora in whole.items():
        rows = lora.up.chunk(3) if name.endswith("qkv") else [lora.up]
        for leaf, part in zip(("q", "k", "v") if len(rows) > 1 else ("",), rows, strict=True):
            other = name.removesuffix("qkv") + leaf if leaf else name
            sent |= in_pairs({other: Lora(lora.down.clone(), part.clone())}, str)
    for layer in range(3):
        mlp = f"{TEXT}layers.{layer}.mlp"
        gate, up = (sent.pop(f"{mlp}.{one}_proj.lora_B.weight") for one in ("gate", "up"))
        down = sent.pop(f"{mlp}.gate_proj.lora_A.weight")
        del sent[f"{mlp}.up_proj.lora_A.weight"]
        sent[f"{mlp}.gate_up_proj.lora_A.weight"] = down
        sent[f"{mlp}.gate_up_proj.lora_B.weight"] = torch.cat([gate, up])
        at = f"model.language_model.layers.{layer}.mlp"
        whole[f"{at}.up_proj"] = Lora(down, whole[f"{at}.up_proj"].up)
    folder = written(tmp_path / "a", SENT, sent)
    fit(folder, dense)
    assert_the_same(folder, dense, whole)
    # Three parts of rank 4 are one product of rank 12, with the same factor.
    config = json.loads((folder / CONFIG).read_text())
    assert (set(config["rank_pattern"].values()), set(config["alpha_pattern"].values())) == (
        {12},
        {96},
    )


SPELLED = {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"}


def gate_and_up(lora: Lora) -> tuple[Lora, Lora]:
    half = lora.up.shape[-2] // 2
    return Lora(lora.down, lora.up[..., :half, :]), Lora(lora.down, lora.up[..., half:, :])


def experts_apart(whole: Mapping[str, Lora]) -> dict[str, Lora]:
    """gate_up_proj of the experts as two."""
    found: dict[str, Lora] = {}
    for name, lora in whole.items():
        if name.endswith("experts.gate_up_proj"):
            parent = name.removesuffix("gate_up_proj")
            found[f"{parent}gate_proj"], found[f"{parent}up_proj"] = gate_and_up(lora)
        else:
            found[name] = lora
    return found


def spelled(name: str) -> str:
    leaf = name.rpartition(".")[2]
    return without_wrapping(name.removesuffix(leaf) + SPELLED.get(leaf, leaf))


@pytest.mark.parametrize("base", ["mixture", "delta_net"])
def test_experts_as_w1_w2_w3(base: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    index: BaseIndex = request.getfixturevalue(base)
    whole = loras(index, r"experts\.(gate_up|down)_proj$|lm_head")
    folder = written(tmp_path / "a", SENT, in_pairs(experts_apart(whole), spelled))
    fit(folder, index)
    assert_the_same(folder, index, whole)
    config = json.loads((folder / CONFIG).read_text())
    assert config["target_parameters"] == ["experts.down_proj", "experts.gate_up_proj"]


def test_experts_one_by_one_or_with_a_matrix_that_all_share(
    mixture: BaseIndex, tmp_path: Path
) -> None:
    whole = loras(mixture, r"experts\.down_proj$")
    single = {
        name.replace(".experts.", f".experts.{number}."): Lora(lora.down[number], lora.up[number])
        for name, lora in whole.items()
        for number in range(4)
    }
    folder = written(tmp_path / "a", SENT, in_pairs(single, without_wrapping))
    fit(folder, mixture)
    assert_the_same(folder, mixture, whole)
    shared = {name: Lora(lora.down[:1], lora.up) for name, lora in whole.items()}
    folder = written(tmp_path / "b", SENT, in_pairs(shared, without_wrapping))
    fit(folder, mixture)
    repeated = {
        name: Lora(lora.down[:1].expand(4, -1, -1), lora.up) for name, lora in whole.items()
    }
    assert_the_same(folder, mixture, repeated)


def test_peft_names_of_experts_under_another_wrapping(mixture: BaseIndex, tmp_path: Path) -> None:
    whole = loras(mixture, r"experts\.(gate_up|down)_proj$")
    config, tensors = peft_form(Adapter(SENT, whole), mixture)
    other = {name.replace(".language_model", ""): values for name, values in tensors.items()}
    folder = written(tmp_path / "a", config, other)
    assert fit(folder, mixture).changed
    assert_the_same(folder, mixture, whole)
    assert load_file(folder / WEIGHTS).keys() == tensors.keys()


def test_the_linear_attention_of_qwen3_5(delta_net: BaseIndex, tmp_path: Path) -> None:
    whole = loras(delta_net, r"linear_attn|self_attn|shared_expert\.")
    sent: dict[str, Lora] = {}
    for name, lora in whole.items():
        if name.endswith("in_proj_qkv"):
            for leaf, part in zip("qkv", lora.up.split([16, 16, 32]), strict=True):
                sent[f"{name.removesuffix('qkv')}{leaf}"] = Lora(lora.down, part)
        else:
            sent[name] = lora
    folder = written(tmp_path / "a", SENT, in_pairs(sent, without_wrapping))
    fit(folder, delta_net)
    assert_the_same(folder, delta_net, whole)


# -- refused ---------------------------------------------------------------------------------------


def changed(tensors: Tensors, **by: Callable[[str], str | None]) -> Tensors:
    rename = by["rename"]
    return {new: values for name, values in tensors.items() if (new := rename(name)) is not None}


@pytest.mark.parametrize(
    ("rename", "says"),
    [
        (lambda name: name.replace("q_proj", "wq"), r"layers\.0\.self_attn\.wq .* has no place"),
        (lambda name: None if "layers.2" in name else name, r"nothing for .*layers\.2"),
        (lambda name: None if "1.self_attn.v_proj.lora_B" in name else name, "no lora_B for"),
        (lambda name: name.replace("lora_A", "lora_magnitude"), "no matrix of a LoRA"),
    ],
    ids=["a foreign name", "a layer less", "half a pair", "a foreign kind"],
)
def test_what_finds_no_place_or_leaves_one_empty_is_refused(
    dense: BaseIndex, tmp_path: Path, rename: Callable[[str], str | None], says: str
) -> None:
    tensors = in_pairs(loras(dense, r"language_model.*(q|v)_proj"), without_wrapping)
    folder = written(tmp_path / "a", SENT, changed(tensors, rename=rename))
    with pytest.raises(Misfit, match=says):
        fit(folder, dense)


def test_the_shapes_of_another_base_are_refused(
    dense: BaseIndex, mixture: BaseIndex, delta_net: BaseIndex, tmp_path: Path
) -> None:
    sent = written(tmp_path / "a", SENT, in_pairs(loras(delta_net, "lm_head"), without_wrapping))
    with pytest.raises(Misfit, match=r"\[768, 128\]: it was trained over another base model"):
        fit(sent, dense)
    experts = {
        name: Lora(one.down[:3], one.up[:3]) for name, one in loras(mixture, "down_proj").items()
    }
    sent = written(tmp_path / "b", SENT, in_pairs(experts, without_wrapping))
    with pytest.raises(Misfit, match="another base model"):
        fit(sent, mixture)


def test_a_module_that_is_said_to_be_trained_and_has_no_tensor(
    dense: BaseIndex, tmp_path: Path
) -> None:
    tensors = in_pairs(loras(dense, "q_proj"), str)
    said = SENT | {"target_modules": ["q_proj", "k_proj"]}
    with pytest.raises(Misfit, match="names k_proj as trained"):
        fit(written(tmp_path / "a", said, tensors), dense)


def test_a_part_of_a_fused_matrix_alone_is_refused(delta_net: BaseIndex, tmp_path: Path) -> None:
    sent = {
        name.removesuffix("qkv") + leaf: Lora(lora.down, lora.up[:16])
        for name, lora in loras(delta_net, "in_proj_qkv").items()
        for leaf in "qk"
    }
    with pytest.raises(Misfit, match="made of q, k, v, and the adapter has nothing for v"):
        fit(written(tmp_path / "a", SENT, in_pairs(sent, str)), delta_net)


def test_a_base_model_that_cannot_be_read_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "no-such-type"}')
    with pytest.raises(ModelError, match="could not read what the base model"):
        load_base_index(str(tmp_path))
