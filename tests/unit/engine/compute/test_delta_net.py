"""The gated delta-net: against its formula, transformers' layer and finite differences."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine_material import request, words
from random_models import qwen3_5
from test_float64_reference import PROMPTS, reference_inputs
from torch import Tensor
from transformers import AutoModelForImageTextToText, DynamicCache

from visual_r1.engine.compute import forward
from visual_r1.engine.compute.cache import PromptCache, RecordingCache, State
from visual_r1.engine.compute.compute import Compute
from visual_r1.engine.compute.families.delta_net import CHUNK, GatedDeltaNet, delta_rule
from visual_r1.engine.compute.packing import Packing
from visual_r1.engine.compute.prompts import lay_out
from visual_r1.engine.types import SampleOutput

ROWS, KEY_HEADS, HEADS, KEY, VALUE = 3, 2, 4, 6, 5


def drawn(places: int, seed: int = 0) -> list[Tensor]:
    """Query, key, value, decay and strength in float64."""
    rng = np.random.default_rng(seed)
    shapes = [(KEY_HEADS, KEY), (KEY_HEADS, KEY), (HEADS, VALUE)]
    vectors = [rng.standard_normal((ROWS, places, *shape)) for shape in shapes]
    decay = -rng.exponential(0.3, (ROWS, places, HEADS))
    strength = rng.uniform(0, 1, (ROWS, places, HEADS))
    return [torch.tensor(array) for array in (*vectors, decay, strength)]


def by_the_formula(parts: list[Tensor], memory: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Place by place, with the matrices written out."""
    query, key, value, decay, strength = (part.numpy() for part in parts)
    outputs = np.zeros(value.shape)
    memory = memory.copy()
    for row, place, head in np.ndindex(*value.shape[:3]):
        shared = head // (HEADS // KEY_HEADS)
        q, k = (
            part[row, place, shared] / np.sqrt((part[row, place, shared] ** 2).sum() + 1e-6)
            for part in (query, key)
        )
        beta = strength[row, place, head]
        forget = np.exp(decay[row, place, head]) * (np.eye(KEY) - beta * np.outer(k, k))
        kept = forget @ memory[row, head] + beta * np.outer(k, value[row, place, head])
        memory[row, head] = kept
        outputs[row, place, head] = kept.T @ q / np.sqrt(KEY)
    return outputs, memory


@pytest.mark.parametrize("places", [1, 2, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 5])
def test_chunks_and_steps_are_the_formula(places: int) -> None:
    parts = drawn(places)
    before = torch.tensor(np.random.default_rng(1).standard_normal((ROWS, HEADS, KEY, VALUE)))
    expected, state = by_the_formula(parts, before.numpy())
    output, memory = delta_rule(*parts, memory=before)
    np.testing.assert_allclose(output.numpy(), expected, atol=1e-12)
    np.testing.assert_allclose(memory.numpy(), state, atol=1e-12)


def test_a_sequence_may_be_cut_anywhere() -> None:
    parts = drawn(70)
    whole, state = delta_rule(*parts, memory=None)
    outputs, memory = [], None
    for start, stop in ((0, 33), (33, 34), (34, 70)):
        piece, memory = delta_rule(*(part[:, start:stop] for part in parts), memory=memory)
        outputs.append(piece)
    assert memory is not None
    np.testing.assert_allclose(torch.cat(outputs, 1).numpy(), whole.numpy(), atol=1e-12)
    np.testing.assert_allclose(memory.numpy(), state.numpy(), atol=1e-12)


@pytest.mark.parametrize("places", [1, 3, CHUNK + 2])
def test_gradients_are_those_of_finite_differences(places: int) -> None:
    """Also of the memory that came before."""
    parts = [part[:1] for part in drawn(places)]
    before = torch.tensor(np.random.default_rng(1).standard_normal((1, HEADS, KEY, VALUE)))
    inputs = tuple(part.requires_grad_() for part in (*parts, before))
    fast = places > 3
    assert torch.autograd.gradcheck(delta_rule, inputs, fast_mode=fast)


def test_half_precision_is_computed_in_float32() -> None:
    parts = [part.to(torch.bfloat16) for part in drawn(40)]
    output, memory = delta_rule(*parts, memory=None)
    assert output.dtype == memory.dtype == torch.float32


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return qwen3_5(tmp_path_factory.mktemp("plain") / "model")


@pytest.fixture(scope="module")
def plain(checkpoint: Path) -> Any:
    """The checkpoint as transformers has it."""
    return AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def engine(checkpoint: Path) -> Compute:
    return Compute(str(checkpoint), device="cpu", threads=1)


@pytest.fixture
def layers(plain: Any) -> Iterator[tuple[Any, GatedDeltaNet, Any]]:
    """transformers' layer, ours of the same weights, and the configuration."""
    theirs = plain.model.language_model.layers[0].linear_attn
    with torch.no_grad():
        yield theirs, GatedDeltaNet(theirs), plain.config.text_config


def hidden(rows: int, places: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, places, 64, generator=torch.Generator().manual_seed(seed))


class Kept:
    """What the layer is given as its cache behind prompts."""

    lengths: Tensor | None = None

    def __init__(self, prompts: PromptCache) -> None:
        self._layers = prompts.layers

    def state(self, layer: int) -> State:
        return self._layers[layer].tensors

    def keep_state(self, layer: int, state: State) -> None:
        del layer, state


def test_the_layer_is_transformers_own(layers: tuple[Any, GatedDeltaNet, Any]) -> None:
    """A whole sequence, and a prompt that is then continued by one place and by many."""
    theirs, ours, config = layers
    states = hidden(2, 100)
    torch.testing.assert_close(ours(states), theirs(states), rtol=1e-4, atol=2e-6)

    cache = DynamicCache(config=config)
    recording = RecordingCache(torch.tensor([70, 70]))
    expected = theirs(states[:, :70], cache=cache)
    torch.testing.assert_close(ours(states[:, :70], recording), expected, rtol=1e-4, atol=2e-6)
    kept = recording.recorded(70)
    for stop in (71, 100):
        start = 70 if stop == 71 else 71
        expected = theirs(states[:, start:stop], cache=cache)
        torch.testing.assert_close(
            ours(states[:, 70:stop], Kept(kept))[:, start - 70 :],
            expected,
            rtol=1e-4,
            atol=2e-6,
        )


def test_packed_sequences_are_what_each_is_alone(
    layers: tuple[Any, GatedDeltaNet, Any],
) -> None:
    """Roots of three lengths; two branches go on behind the second, one behind the third."""
    theirs, ours, _ = layers
    roots, branches = (20, 45, 33), ((1, 7), (1, 40), (2, 12))
    packing = Packing.of(roots, branches, torch.device("cpu"), torch.float32)
    states = hidden(1, packing.places, seed=4)
    ends = [*packing.starts[1:], packing.used]
    pieces = [states[:, a:b] for a, b in zip(packing.starts, ends, strict=True)]
    output = ours(states, packing=packing)
    for index, (start, piece) in enumerate(zip(packing.starts, pieces, strict=True)):
        whole = piece
        if index >= len(roots):
            whole = torch.cat([pieces[branches[index - len(roots)][0]], piece], dim=1)
        expected = theirs(whole)[:, -piece.shape[1] :]
        got = output[:, start : start + piece.shape[1]]
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=2e-6)


def test_padding_does_not_reach_the_state(layers: tuple[Any, GatedDeltaNet, Any]) -> None:
    """Whatever is behind a prompt's own places, the state is that of the prompt alone."""
    _, ours, _ = layers
    lengths = torch.tensor([1, 2, 45, 64])
    states = hidden(4, 64)
    recording = RecordingCache(lengths)
    ours(states, recording)
    kept = recording.recorded(64).layers[0].tensors
    behind = torch.arange(64) >= lengths[:, None]
    other = RecordingCache(lengths)
    ours(torch.where(behind[..., None], 1e3 * hidden(4, 64, seed=1), states), other)
    for tensor, again in zip(kept, other.recorded(64).layers[0].tensors, strict=True):
        assert torch.equal(tensor, again)
    for row, length in enumerate(lengths.tolist()):
        alone = RecordingCache(lengths[row : row + 1])
        ours(states[row : row + 1, :length], alone)
        for tensor, expected in zip(kept, alone.recorded(length).layers[0].tensors, strict=True):
            torch.testing.assert_close(tensor[row : row + 1], expected, rtol=1e-5, atol=1e-6)


def test_greedy_answers_are_what_transformers_generates(plain: Any, engine: Compute) -> None:
    """With and without images; for as many tokens as have a clear winner."""
    for prompt in PROMPTS:
        given = reference_inputs(engine, plain, prompt)
        places = given["input_ids"].shape[1]
        with torch.no_grad():
            generated = plain.generate(
                **given, max_new_tokens=40, do_sample=False, eos_token_id=None, pad_token_id=0
            )
        wanted = request(prompt, samples=1, max_tokens=40, temperature=0.0, stop_at_eos=False)
        [output] = engine.sample(None, [wanted])
        assert isinstance(output, SampleOutput)
        assert list(output.sequences[0].tokens) == generated[0, places:].tolist()


def test_what_a_sequence_keeps_is_what_is_reckoned_with(engine: Compute) -> None:
    """Bytes of the recorded cache, for sequences of several lengths."""
    base = engine._base
    for places in (32, 96):
        layouts = [
            lay_out(base, engine._images, (words(seed, places - seed),)) for seed in range(3)
        ]
        with torch.no_grad():
            _, cache = forward.prompt_states(base, layouts, {}, places)
        kept = [tensor for layer in cache.layers for tensor in layer.tensors]
        assert sum(tensor.nbytes for tensor in kept) == 3 * base.cache_bytes.of(places)
    assert base.cache_bytes.per_sequence > 0
