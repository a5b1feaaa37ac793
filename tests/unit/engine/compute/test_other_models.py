"""Checkpoints other than the shipped one, made up of random weights in a folder."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine_material import picture_prompt, random_datum, request, rollout_datum
from random_models import folder_of, shipped_config
from safetensors.torch import load_file, save_file
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from visual_r1.engine.compute import forward
from visual_r1.engine.compute.compute import Compute
from visual_r1.engine.types import AdamSettings, LoraSpec, SampleOutput
from visual_r1.errors import ModelError
from visual_r1.models import TINY_GEOMETRY, model_path


def assert_sampler_and_learner_agree(compute: Compute, spec: LoraSpec) -> None:
    """Sample, learn from it, and find the sampler's log-probabilities in the learner's."""
    adapter = compute.new_adapter(spec)
    prompts = [picture_prompt(1), picture_prompt(2)]
    for _ in range(2):
        outputs = compute.sample(compute.freeze(adapter), [request(p) for p in prompts])
        data = [
            rollout_datum(prompt, sequence, 1.0 - index)
            for prompt, output in zip(prompts, outputs, strict=True)
            if isinstance(output, SampleOutput)
            for index, sequence in enumerate(output.sequences)
        ]
        learnt = compute.forward(adapter, data, "importance_sampling", {}, backward=True)
        assert learnt.metrics["ratio:max"] == pytest.approx(1.0, abs=1e-4)
        assert compute.optim_step(adapter, AdamSettings())["grad_norm:mean"] > 0


def test_a_model_with_an_output_matrix_of_its_own(tmp_path: Path) -> None:
    config = shipped_config()
    config["tie_word_embeddings"] = config["text_config"]["tie_word_embeddings"] = False
    network = Qwen3VLForConditionalGeneration(Qwen3VLConfig(**config))
    assert network.lm_head.weight is not network.model.language_model.embed_tokens.weight
    folder = folder_of(tmp_path / "model", network)
    assert_sampler_and_learner_agree(
        Compute(str(folder), device="cpu", threads=1), LoraSpec(rank=4, seed=1)
    )


def test_pickled_weights_are_never_loaded(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model_path(TINY_GEOMETRY), folder)
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="safetensors"):
        Compute(str(folder), device="cpu", threads=1)


TENSOR = "model.language_model.layers.0.self_attn.k_proj.weight"
DAMAGED: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "sound": (len, ""),
    # As a vocabulary's own matrix is, where it is tied.
    "another one": (lambda found: found.update({"model.extra": torch.ones(3)}), ""),
    "gone": (lambda found: found.pop(TENSOR), f"no tensor '{TENSOR}'"),
    "renamed": (
        lambda found: found.update({f"{TENSOR}s": found.pop(TENSOR)}),
        f"no tensor '{TENSOR}'",
    ),
    "all gone": (lambda found: found.clear(), "and .* faults more"),
    "whole numbers": (
        lambda found: found.update({TENSOR: found[TENSOR].int()}),
        rf"whole numbers \(I32\) in '{TENSOR}'",
    ),
    "a NaN": (lambda found: found[TENSOR][3, 5].fill_(torch.nan), f"in '{TENSOR}' .* not finite"),
    "infinite": (lambda found: found[TENSOR][3, 5].fill_(-torch.inf), "that are not finite"),
    "another shape": (lambda found: found.update({TENSOR: found[TENSOR][:3].clone()}), "could not"),
}


@pytest.mark.parametrize(("change", "says"), DAMAGED.values(), ids=DAMAGED.keys())
def test_weights_that_are_not_whole_are_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], says: str
) -> None:
    """What is not there would be drawn at random, at each start anew."""
    folder = tmp_path / "model"
    shutil.copytree(model_path(TINY_GEOMETRY), folder)
    found = load_file(folder / "model.safetensors")
    change(found)
    save_file(found, folder / "model.safetensors", {"format": "pt"})
    if not says:
        assert Compute(str(folder), device="cpu", threads=1)
        return
    with pytest.raises(ModelError, match=says) as caught:
        Compute(str(folder), device="cpu", threads=1)
    assert str(folder) in str(caught.value)


def test_another_family_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    with pytest.raises(
        ModelError, match="type gpt2, which reads text and no images; the engine serves"
    ):
        Compute(str(folder), device="cpu", threads=1)


def test_a_large_vocabulary_in_pieces(compute: Compute, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits of a few rows at a time, computed again in the backward pass, give the same."""
    data = [random_datum(seed, picture_prompt(seed), ("weights",)) for seed in range(3)]
    whole, pieces = (compute.new_adapter(LoraSpec(rank=4, seed=1)) for _ in range(2))
    expected = compute.forward(whole, data, "cross_entropy", {}, backward=True)
    monkeypatch.setattr(forward, "LOGITS_AT_ONCE", 32 * compute.vocabulary_size)
    output = compute.forward(pieces, data, "cross_entropy", {}, backward=True)
    for ours, theirs in zip(output.logprobs, expected.logprobs, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    torch.testing.assert_close(pieces.gradients, whole.gradients, rtol=1e-4, atol=1e-4)
