"""The engine against transformers' own forward pass and peft's own loader, in float64.

Nothing of the engine runs on the reference's side: the processor's input format, positions and
image placement are transformers', the adapter is read from the exported folder by peft, losses and
their derivatives are NumPy's.
"""

import io
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from engine_material import FAMILIES, group_data, picture_prompt, png, random_datum, request, words
from loss_reference import CASES, Array, reference
from PIL import Image
from safetensors.torch import save_file
from transformers import AutoModelForImageTextToText
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from visual_r1.engine.compute.compute import Adapter, Compute
from visual_r1.engine.compute.losses import LOSSES
from visual_r1.engine.types import Datum, ImagePart, LoraSpec, Prompt, TextPart

SPECS = {
    "all": LoraSpec(rank=4, seed=1),
    "attention": LoraSpec(rank=3, seed=1, train_mlp=False, train_unembed=False),
    "rank one": LoraSpec(rank=1, seed=1),
}


@pytest.fixture(scope="module")
def load(
    compute: Compute, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[Adapter], Any]]:
    """Export an adapter, and load the folder over a float64 copy of the base model."""

    def loader(adapter: Adapter) -> Any:
        folder: Path = tmp_path_factory.mktemp("adapter")
        tensors = compute.state_tensors(adapter, optimizer=True)
        config, weights = compute.peft_adapter(adapter.spec, tensors)
        (folder / "adapter_config.json").write_text(json.dumps(config))
        save_file(weights, folder / "adapter_model.safetensors")
        base = AutoModelForImageTextToText.from_pretrained(
            compute.tokenizer_id, dtype=torch.float64
        )
        with warnings.catch_warnings():
            # peft reads a deprecated property of transformers, and warns of the tied lm_head.
            warnings.simplefilter("ignore")
            return peft.PeftModel.from_pretrained(
                base, folder, is_trainable=True, autocast_adapter_dtype=False
            ).double()

    return loader


def reference_inputs(compute: Compute, model: Any, prompt: Prompt) -> dict[str, Any]:
    """What transformers' model of a prompt is given."""
    processor = Qwen2VLImageProcessorPil.from_pretrained(compute.tokenizer_id)
    image_token = model.config.image_token_id
    tokens: list[int] = []
    images: list[Image.Image] = []
    for part in prompt:
        if isinstance(part, TextPart):
            tokens += part.tokens
        else:
            images.append(Image.open(io.BytesIO(part.data)))
            grid = processor(images=[images[-1]], return_tensors="pt")["image_grid_thw"]
            tokens += [image_token] * (int(grid.prod()) // 4)
    ids = torch.tensor([tokens])
    given: dict[str, Any] = {"input_ids": ids}
    if images:
        prepared = processor(images=images, return_tensors="pt")
        given |= {
            "pixel_values": prepared["pixel_values"].to(model.dtype),
            "image_grid_thw": prepared["image_grid_thw"],
            "mm_token_type_ids": (ids == image_token).int(),
        }
    return given


def reference_logits(compute: Compute, model: Any, prompt: Prompt) -> torch.Tensor:
    """Logits [T, V] of a prompt by transformers alone."""
    return model(**reference_inputs(compute, model, prompt)).logits[0]


def logprobs(logits: torch.Tensor, targets: np.ndarray) -> torch.Tensor:
    return torch.log_softmax(logits, -1).gather(-1, torch.tensor(targets)[:, None])[:, 0]


PROMPTS: list[Prompt] = [
    picture_prompt(1),
    (words(2, 37),),
    picture_prompt(3, 5, 11),
    (words(4, 3), ImagePart(png(4, 250, 130)), words(5, 4), ImagePart(png(6)), words(7, 9)),
    (ImagePart(png(8, 40, 90)), words(8, 6)),
]


@FAMILIES
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
def test_an_exported_adapter_gives_the_same_logits(
    compute: Compute, load: Any, trained: Callable[[LoraSpec], Adapter], spec: LoraSpec
) -> None:
    """Image or text, one image or two, any size: every log-probability of the prompt agrees."""
    adapter = trained(spec)
    model = load(adapter)
    requests = [request(prompt, samples=0, max_tokens=1) for prompt in PROMPTS]
    scored = [
        type(r)(r.prompt, r.settings, 0, prompt_logprobs=True, topk_prompt_logprobs=3)
        for r in requests
    ]
    for prompt, output in zip(
        PROMPTS, compute.sample(compute.freeze(adapter), scored), strict=True
    ):
        with torch.no_grad():
            expected = torch.log_softmax(reference_logits(compute, model, prompt), -1)
        assert output.topk_prompt_logprobs is not None
        assert output.prompt_logprobs is not None
        assert output.topk_prompt_logprobs[0] is None
        assert output.prompt_logprobs[0] is None
        assert len(output.prompt_logprobs) == len(expected)
        for place, row in enumerate(output.topk_prompt_logprobs[1:]):
            assert row is not None
            values, ids = expected[place].topk(3)
            assert [token for token, _ in row] == ids.tolist()
            # Twice the rounding of fp32 measured on the shipped weights (2.44e-5).
            assert [value for _, value in row] == pytest.approx(values.tolist(), abs=5e-5)


def different_prompts(inputs: Sequence[str]) -> list[Datum]:
    # The first and the last show one image in sequences of different lengths.
    prompts = [*PROMPTS[:3], (words(30, 70), ImagePart(png(1)))]
    return [random_datum(seed, prompt, inputs) for seed, prompt in enumerate(prompts)]


def shared_prompts(inputs: Sequence[str]) -> list[Datum]:
    return group_data(inputs)[3:]


@pytest.mark.parametrize("data_of", [different_prompts, shared_prompts])
@pytest.mark.parametrize(
    ("compute", "name", "config"),
    # A loss begins behind the network: of a further family one of each kind is enough.
    [("qwen3_vl", *case) for case in CASES] + [("qwen3_5", *CASES[n]) for n in (0, 2)],
    indirect=["compute"],
)
def test_value_and_gradient_of_every_loss(
    compute: Compute,
    load: Any,
    trained: Callable[[LoraSpec], Adapter],
    name: str,
    config: dict[str, float],
    data_of: Callable[[Sequence[str]], list[Datum]],
) -> None:
    """Of the engine and of the reference, for every tensor of the adapter."""
    adapter, data = trained(SPECS["all"]), data_of(LOSSES[name].inputs)
    model = load(adapter)
    output = compute.forward(adapter, data, name, config, backward=True)
    value = 0.0
    for datum in data:
        value += reference_backward(compute, model, datum, name, config)
    assert output.metrics["loss:sum"] == pytest.approx(value, rel=1e-4)

    adapter.weights.copy_(adapter.gradients)
    ours = compute.state_tensors(adapter, optimizer=False)
    theirs = {
        key.removeprefix("base_model.model.").replace(".default", ""): parameter.grad
        for key, parameter in model.named_parameters()
        if "lora_" in key
    }
    assert ours.keys() == theirs.keys()
    assert any("visual" in key for key in ours)
    for key, gradient in ours.items():
        error = (gradient.double() - theirs[key]).norm() / theirs[key].norm()
        assert error < 1e-4, key


def reference_backward(
    compute: Compute, model: Any, datum: Datum, name: str, config: dict[str, float]
) -> float:
    logp = logprobs(reference_logits(compute, model, datum.prompt), datum.inputs["target_tokens"])
    inputs: dict[str, Array] = {
        key: values.astype(np.float64) for key, values in datum.inputs.items()
    }
    value, slope = reference(name, config, logp.detach().numpy(), inputs)
    logp.backward(torch.tensor(slope))
    return value
