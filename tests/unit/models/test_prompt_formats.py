"""Which format a checkpoint's prompts have, and what is said when its tokenizer has another."""

import json
import shutil
from pathlib import Path

import pytest

from visual_r1.errors import ModelError
from visual_r1.models import TINY_GEOMETRY, model_path
from visual_r1.models.families import FORMATS, QWEN3_VL, prompt_format
from visual_r1.models.processor import load_processor


def test_dense_models_and_mixtures_of_experts_have_one_format() -> None:
    assert FORMATS["qwen3_vl"] is FORMATS["qwen3_vl_moe"] is QWEN3_VL


@pytest.mark.parametrize("model_type", [None, "a_relative_of_next_year"])
def test_what_is_not_listed_is_read_as_qwen3_vl(tmp_path: Path, model_type: str | None) -> None:
    """A hosted server may offer a relative that is not known here."""
    assert prompt_format(model_type) is QWEN3_VL
    folder = copied(tmp_path)
    if model_type is not None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"model_type": model_type}))
    assert load_processor(str(folder)).image_token == "<|image_pad|>"


def test_a_tokenizer_without_the_tokens_is_refused(tmp_path: Path) -> None:
    folder = copied(tmp_path)
    tokenizer = folder / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text().replace("<|image_pad|>", "<image_soft_token>"))
    with pytest.raises(ModelError, match=r"has no token <\|image_pad\|>; use a Qwen3-VL model"):
        load_processor(str(folder))


def copied(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    weights = shutil.ignore_patterns("*.safetensors")
    shutil.copytree(model_path(TINY_GEOMETRY), folder, ignore=weights)
    return folder
