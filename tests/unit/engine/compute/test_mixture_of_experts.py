"""A tiny mixture of experts of random weights: its experts are trained, saved and exported."""

import json
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from types import MethodType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from engine_material import group_data, request, words
from peft import LoraConfig, PeftModel, inject_adapter_in_model
from peft.tuners.lora.layer import ParamWrapper
from random_models import EXPERTS, qwen3_5_moe, qwen3_vl_moe
from test_other_models import assert_sampler_and_learner_agree
from torch import nn
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode
from transformers import AutoModelForImageTextToText, Qwen3VLMoeConfig
from transformers.models.qwen3_vl_moe.modeling_qwen3_vl_moe import Qwen3VLMoeTextExperts

from visual_r1.config import RunConfig
from visual_r1.doctor.estimates import room_for
from visual_r1.engine.compute import experts
from visual_r1.engine.compute.compute import Adapter, Compute
from visual_r1.engine.compute.lora import adapter_bytes
from visual_r1.engine.store.tensors import write_adapter
from visual_r1.engine.types import AdamSettings, InvalidRequest, LoraSpec, SampleOutput, TextPart

SPEC = LoraSpec(rank=4, seed=1)


@pytest.fixture(scope="module", params=[qwen3_vl_moe, qwen3_5_moe], ids=lambda make: make.__name__)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return request.param(tmp_path_factory.mktemp("moe") / "model")


@pytest.fixture(scope="module")
def moe(folder: Path) -> Compute:
    return Compute(str(folder), device="cpu", threads=1)


def experts_of(compute: Compute, adapter: Adapter, matrix: str) -> dict[str, torch.Tensor]:
    tensors = compute.state_tensors(adapter, optimizer=False)
    return {
        name: values for name, values in tensors.items() if ".experts." in name and matrix in name
    }


def steps(compute: Compute, adapter: Adapter, count: int) -> list[np.ndarray]:
    learnt: list[np.ndarray] = []
    data = group_data(("logprobs", "advantages"))
    for _ in range(count):
        output = compute.forward(adapter, data, "importance_sampling", {}, backward=True)
        learnt += output.logprobs
        compute.optim_step(adapter, AdamSettings(learning_rate=1e-3))
    return learnt


def test_sampling_and_learning_agree(moe: Compute) -> None:
    for spec in (SPEC, LoraSpec(rank=4, seed=1, train_mlp=False), LoraSpec(rank=2, seed=1)):
        assert_sampler_and_learner_agree(moe, spec)


def test_experts_are_adapted_each_by_matrices_of_its_own(moe: Compute, folder: Path) -> None:
    adapter = moe.new_adapter(SPEC)
    text = json.loads((folder / "config.json").read_text())["text_config"]
    layers, width = text["num_hidden_layers"], text["hidden_size"]
    down, up = experts_of(moe, adapter, "lora_A"), experts_of(moe, adapter, "lora_B")
    assert len(down) == len(up) == 2 * layers
    shapes = {tuple(values.shape) for values in (*down.values(), *up.values())}
    rows = SPEC.rank * EXPERTS
    assert shapes == {(rows, width), (64, rows), (rows, 32), (width, rows)}
    steps(moe, adapter, 1)
    assert all(values.abs().max() > 0 for values in experts_of(moe, adapter, "lora_B").values())
    # And the vision tower's MLPs are still trained beside them, the router never.
    names = moe.state_tensors(adapter, optimizer=False)
    assert any("linear_fc1" in name for name in names)
    assert not any("mlp.gate." in name for name in names)


def test_gradients_of_the_experts_are_those_of_their_loss(moe: Compute) -> None:
    """By differences of the loss, along a random direction."""
    adapter = moe.new_adapter(SPEC)
    adapter.weights.add_(
        torch.randn(adapter.weights.shape, generator=torch.Generator().manual_seed(7)) * 0.02
    )
    data = group_data(("weights",))
    moe.forward(adapter, data, "cross_entropy", {}, backward=True)
    slot = moe._slots.of(SPEC)
    direction = torch.zeros_like(adapter.weights)
    for piece in slot.pieces:
        if ".experts." in piece.name:
            direction[piece.start : piece.stop] = adapter.gradients[piece.start : piece.stop]
    assert direction.norm() > 0
    direction /= direction.norm()
    expected = float((adapter.gradients * direction).sum())
    losses: list[float] = []
    for step in (1e-3, -1e-3):
        moved = Adapter.fresh(SPEC, adapter.weights + step * direction)
        output = moe.forward(moved, data, "cross_entropy", {}, backward=False)
        losses.append(output.metrics["loss:sum"])
    assert (losses[0] - losses[1]) / 2e-3 == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("rank", [3, 8])
def test_no_expert_is_copied_for_its_update(
    moe: Compute, monkeypatch: pytest.MonkeyPatch, rank: int
) -> None:
    """As peft does it; what comes of it is the same, at ranks that the kernel likes and not."""
    spec = LoraSpec(rank=rank, seed=1)
    adapter = moe.new_adapter(spec)
    adapter.weights.add_(0.01)
    data = group_data(("weights",))
    moe._slots.activate(moe._slots.of(spec))
    with monkeypatch.context() as patched:
        patched.setattr(ParamWrapper, "_activate_lora", refuse)
        ours = moe.forward(adapter, data, "cross_entropy", {}, backward=True)
    gradients = adapter.gradients.clone()
    moe.drop_gradients(adapter)
    outermost = [
        module for module in moe._base.network.modules() if isinstance(module, ParamWrapper)
    ]
    for module in outermost:
        monkeypatch.setattr(module, "forward", MethodType(ParamWrapper.forward, module))
    theirs = moe.forward(adapter, data, "cross_entropy", {}, backward=True)
    assert (gradients - adapter.gradients).norm() / gradients.norm() < 1e-5
    for our, their in zip(ours.logprobs, theirs.logprobs, strict=True):
        np.testing.assert_allclose(our, their, atol=2e-5)


def refuse(*_: object) -> None:
    raise AssertionError("peft's own way")


def test_experts_without_loras_give_what_transformers_grouped_products_give(moe: Compute) -> None:
    stack: Any = moe._base.network.get_submodule(moe._base.family.text_stack)
    assert stack.config._experts_implementation == "grouped_mm"
    own: Any = next(
        experts.experts_of(module)
        for module in stack.modules()
        if experts.are_plain(experts.experts_of(module))
    )
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(12, own.hidden_dim, generator=generator)
    weights, index = torch.rand(12, EXPERTS, generator=generator).topk(2)
    with torch.no_grad():
        ours = own(hidden, index, weights)
        theirs = type(own).forward(own, hidden, index, weights)
    torch.testing.assert_close(ours, theirs)


@pytest.fixture
def bfloat16() -> Generator[None]:
    torch.set_default_dtype(torch.bfloat16)
    yield
    torch.set_default_dtype(torch.float32)


def test_experts_wait_for_no_value_of_their_device(bfloat16: None) -> None:
    """So that a card is never waited for. Fake tensors have no values, and say who asks for one."""
    text = {"hidden_size": 64, "moe_intermediate_size": 32, "num_experts_per_tok": 2}
    text |= {"num_experts": EXPERTS}
    config = Qwen3VLMoeConfig(text_config=text).text_config
    lora = LoraConfig(
        target_modules=[], target_parameters=["experts.gate_up_proj", "experts.down_proj"]
    )
    with FakeTensorMode(), torch.device("meta"):
        network = nn.Module()
        network.add_module("experts", Qwen3VLMoeTextExperts(config).requires_grad_(False))
        read = (torch.ones(5, 64), torch.zeros(5, 2, dtype=torch.long), torch.ones(5, 2))
        config._experts_implementation = "eager"
        with pytest.raises(DynamicOutputShapeException):  # a loop over those that were chosen
            network.experts(*read)
        inject_adapter_in_model(lora, network)
        experts.install(network)
        assert network.experts(*read).shape == (5, 64)


def test_a_restored_state_goes_on_bit_for_bit(moe: Compute) -> None:
    whole, first = moe.new_adapter(SPEC), moe.new_adapter(SPEC)
    expected = steps(moe, whole, 3)
    steps(moe, first, 1)
    saved = moe.state_tensors(first, optimizer=True)
    again = moe.restore(
        SPEC, {name: values.clone() for name, values in saved.items()}, optimizer=True
    )
    got = steps(moe, again, 2)
    for ours, theirs in zip(got, expected[-len(got) :], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert torch.equal(again.weights, whole.weights)
    assert torch.equal(again.second_moment, whole.second_moment)


def test_adapters_with_and_without_experts_stay_apart(moe: Compute) -> None:
    prompt = [request((words(5, 30),), seed=3)]
    plain = moe.sample(None, prompt)
    adapters = [moe.new_adapter(spec) for spec in (SPEC, LoraSpec(rank=2, seed=1, train_mlp=False))]
    for adapter in adapters:
        adapter.weights.add_(0.05)
    each = [moe.sample(moe.freeze(adapter), prompt) for adapter in adapters]
    assert [moe.sample(moe.freeze(adapter), prompt) for adapter in adapters] == each
    assert moe.sample(None, prompt) == plain
    assert each[0] != each[1]


@pytest.mark.filterwarnings("ignore")
def test_what_is_exported_peft_applies(moe: Compute, folder: Path, tmp_path: Path) -> None:
    adapter = moe.new_adapter(SPEC)
    steps(moe, adapter, 2)
    adapter.weights.add_(
        torch.randn(adapter.weights.shape, generator=torch.Generator().manual_seed(9)) * 0.02
    )
    config, tensors = moe.peft_adapter(SPEC, moe.state_tensors(adapter, optimizer=False))
    exported = tmp_path / "adapter"
    exported.mkdir()
    write_adapter(exported, config, tensors)
    written = json.loads((exported / "adapter_config.json").read_text())
    assert sorted(written["target_parameters"]) == ["experts.down_proj", "experts.gate_up_proj"]

    network = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    tokens = list(words(8, 40).tokens)
    bare = network(input_ids=torch.tensor([tokens])).logits
    model = PeftModel.from_pretrained(network, str(exported)).eval()
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([tokens])).logits
    assert (logits - bare).abs().max() > 0.1
    theirs = torch.log_softmax(logits[0, :-1], -1).gather(-1, torch.tensor(tokens[1:])[:, None])
    scored = replace(request((TextPart(tuple(tokens)),), samples=0), prompt_logprobs=True)
    [output] = moe.sample(moe.freeze(adapter), [scored])
    assert isinstance(output, SampleOutput) and output.prompt_logprobs is not None
    ours = torch.tensor(output.prompt_logprobs[1:])
    torch.testing.assert_close(ours, theirs[:, 0], rtol=1e-4, atol=1e-4)


def test_the_size_of_an_adapter_counts_the_experts(moe: Compute, folder: Path) -> None:
    for spec in (SPEC, LoraSpec(rank=2, train_mlp=False), LoraSpec(rank=8, train_attn=False)):
        tensors = moe.state_tensors(moe.new_adapter(spec), optimizer=False)
        assert adapter_bytes(str(folder), spec) == sum(values.nbytes for values in tensors.values())


def test_experts_that_are_not_in_one_parameter_are_refused_with_the_flag_that_works(
    moe: Compute, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = replace(moe._base.family.lora, experts=("experts.w1",))
    monkeypatch.setattr(type(moe._base.family), "lora", other)
    config = RunConfig.model_validate(
        {"preset": "quickstart", "output_dir": tmp_path, "model": {"name": str(folder)}}
    )
    for refused in (
        lambda: moe.new_adapter(SPEC),
        lambda: adapter_bytes(str(folder), SPEC),
        lambda: room_for(config, {}),  # as the doctor asks, whose error it becomes
    ):
        with pytest.raises(InvalidRequest, match=r"--no-model\.train_mlp"):
            refused()
    assert moe.new_adapter(LoraSpec(rank=4, train_mlp=False))


@pytest.mark.parametrize(
    ("capability", "asks"),
    [((8, 0), True), ((8, 9), True), ((9, 0), False), ((10, 0), False), ((12, 0), True)],
)
def test_only_where_one_kernel_serves_all_experts_is_a_step_recorded(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], asks: bool
) -> None:
    def capability_of(_: object) -> tuple[int, int]:
        return capability

    monkeypatch.setattr(torch.cuda, "get_device_capability", capability_of)
    weight: Any = SimpleNamespace(dtype=torch.bfloat16, is_cuda=True, device="cuda")
    assert experts.asks_host(weight) == asks
    assert experts.asks_host(torch.zeros(1, 1, 1))
