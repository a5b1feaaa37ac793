"""A full model shard by shard: what transformers loads of it says what PEFT says over the base."""

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from random_models import delta_net_config, mixture_config
from safetensors.torch import load_file, save_file
from test_adapter_names import SENT, loras, written
from transformers import AutoModelForImageTextToText

from visual_r1.errors import ModelError
from visual_r1.exports import merging
from visual_r1.exports.adapter import Adapter, fit, peft_form, scaled_loras
from visual_r1.exports.base import BaseIndex, load_base_index
from visual_r1.exports.merging import INDEX, merge
from visual_r1.exports.names import Lora
from visual_r1.models import TINY_GEOMETRY, model_path
from visual_r1.progress import Silent

WEIGHTS = "*.safetensors"


def saved(folder: Path, config: Any) -> Path:
    """A model of random weights in several files, as transformers writes them."""
    torch.manual_seed(3)
    network = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
    for values in network.parameters():
        values.data.normal_(0, 0.1)
    network.save_pretrained(folder, max_shard_size="300KB")
    return folder


def turned_round(folder: Path) -> Path:
    """The matrices of the experts as the hub's checkpoints of Qwen3-VL have them."""
    for file in folder.glob(WEIGHTS):
        tensors = load_file(file)
        for name, values in tensors.items():
            if ".experts." in name:
                tensors[name] = values.transpose(1, 2).contiguous()
        save_file(tensors, file, metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    mixture = mixture_config()
    folder = tmp_path_factory.mktemp("bases")
    return {
        "the shipped model": TINY_GEOMETRY,
        "experts": str(saved(folder / "mixture", mixture)),
        "experts turned round": str(turned_round(saved(folder / "turned", mixture))),
        "linear attention": str(saved(folder / "delta_net", delta_net_config())),
    }


def all_of(folder: Path) -> dict[str, torch.Tensor]:
    return {key: of for file in folder.glob(WEIGHTS) for key, of in load_file(file).items()}


def logits(network: Any) -> torch.Tensor:
    with torch.no_grad():
        return network(input_ids=torch.arange(5, 45)[None]).logits


def adapter_over(index: BaseIndex, place: Path, within: str = ".") -> Path:
    small = {name: Lora(one.down * 0.1, one.up * 0.1) for name, one in loras(index, within).items()}
    config, tensors = peft_form(Adapter(SENT, small), index)
    return written(place / "adapter", config, tensors)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "base", ["the shipped model", "experts", "experts turned round", "linear attention"]
)
def test_the_merged_model_says_what_peft_says(
    base: str, bases: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merging, "BLOCK", 1000)  # so that each matrix takes several
    index = load_base_index(bases[base])
    adapter = adapter_over(index, tmp_path)
    assert fit(adapter, index).changed == ""
    made = merge(scaled_loras(adapter, index), index, tmp_path, Silent())
    source, merged = Path(model_path(index.name)), tmp_path / "merged"
    network = AutoModelForImageTextToText.from_pretrained(source, dtype=torch.float32)
    bare = logits(network)
    expected = logits(PeftModel.from_pretrained(network, adapter).eval())
    found = logits(AutoModelForImageTextToText.from_pretrained(merged, dtype=torch.float32).eval())
    assert (expected - bare).abs().max() > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=2e-4)
    # All but the weights is as it was, and the files are those of the base, by name.
    assert made.matrices >= len(scaled_loras(adapter, index))  # or more, where experts lie apart
    names = {path.name for path in source.iterdir() if path.is_file()}
    others = {name for name in names if not name.endswith(("safetensors", "index.json"))}
    assert others <= {path.name for path in merged.iterdir()}
    assert {one.name for one in made.files} == {path.name for path in merged.iterdir()}
    total = json.loads((merged / INDEX).read_text())["metadata"]["total_size"]
    assert total == sum(
        values.nbytes for file in merged.glob(WEIGHTS) for values in load_file(file).values()
    )


def test_a_tied_unembedding_gets_a_matrix_of_its_own(tmp_path: Path) -> None:
    index = load_base_index(TINY_GEOMETRY)
    adapter = adapter_over(index, tmp_path, "lm_head")
    merge(scaled_loras(adapter, index), index, tmp_path, Silent())
    merged = tmp_path / "merged"
    config = json.loads((merged / "config.json").read_text())
    assert config["tie_word_embeddings"] is config["text_config"]["tie_word_embeddings"] is False
    before = load_file(Path(model_path(TINY_GEOMETRY)) / "model.safetensors")
    after = {
        name: values for file in merged.glob(WEIGHTS) for name, values in load_file(file).items()
    }
    assert after.keys() - before.keys() == {"lm_head.weight"}
    assert all(torch.equal(after[name], values) for name, values in before.items())


def test_the_index_counts_tensors_of_any_type(tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(model_path(TINY_GEOMETRY), base)
    tensors = load_file(base / "model.safetensors")
    tensors |= {"steps": torch.arange(3), "seen": torch.ones(5, dtype=torch.bool)}
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    index = load_base_index(str(base))
    adapter = adapter_over(index, tmp_path, "lm_head")
    merge(scaled_loras(adapter, index), index, tmp_path, Silent())
    merged = tmp_path / "merged"
    assert json.loads((merged / INDEX).read_text())["metadata"]["total_size"] == sum(
        values.nbytes for file in merged.glob(WEIGHTS) for values in load_file(file).values()
    )


def test_what_is_not_adapted_stays_bit_for_bit_in_its_own_type(tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(model_path(TINY_GEOMETRY), base)
    tensors = load_file(base / "model.safetensors")
    stored = {name: values.to(torch.bfloat16) for name, values in tensors.items()}
    stored["mtp.layers.0.mlp.down_proj.weight"] = torch.ones(3, 4, dtype=torch.bfloat16)
    save_file(stored, base / "model.safetensors", metadata={"format": "pt"})
    index = load_base_index(str(base))
    place = tmp_path / "out"
    adapter = adapter_over(index, place, r"language_model.*q_proj")
    added = scaled_loras(adapter, index)
    merge(added, index, place, Silent())
    found = load_file(place / "merged" / "model.safetensors")
    assert found.keys() == stored.keys()
    for name, values in found.items():
        expected = stored[name]
        if (lora := added.get(name.removesuffix(".weight"))) is not None:
            expected = (expected.float() + lora.up.float() @ lora.down.float()).to(torch.bfloat16)
            assert not torch.equal(expected, stored[name])
        assert torch.equal(values, expected)


@pytest.mark.parametrize("change", ["quantised", "other shapes", "no weights"])
def test_a_base_that_nothing_can_be_added_to_is_one_sentence(tmp_path: Path, change: str) -> None:
    base = tmp_path / "base"
    shutil.copytree(model_path(TINY_GEOMETRY), base)
    index = load_base_index(str(base))
    adapter = adapter_over(index, tmp_path / "out", "q_proj")
    tensors = load_file(base / "model.safetensors")
    if change == "quantised":
        tensors = {
            name: values.to(torch.float8_e4m3fn) if "q_proj" in name else values
            for name, values in tensors.items()
        }
        save_file(tensors, base / "model.safetensors")
    elif change == "no weights":
        (base / "model.safetensors").unlink()
    else:
        del tensors["model.language_model.layers.1.self_attn.q_proj.weight"]
        save_file(tensors, base / "model.safetensors")
    says = {"quantised": "quantised", "no weights": "no weights", "other shapes": "has no place"}
    with pytest.raises(Exception, match=says[change]) as raised, warnings.catch_warnings():
        merge(scaled_loras(adapter, index), index, tmp_path / "out", Silent())
    assert isinstance(raised.value, ModelError) or change == "other shapes"
    assert not (tmp_path / "out" / "merged").exists()
    assert not [path for path in (tmp_path / "out").iterdir() if path.name.startswith(".")]
