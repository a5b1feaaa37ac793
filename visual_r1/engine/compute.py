"""The compute side of the engine: one base model, any number of adapters, no HTTP.

All methods are called from one worker thread. A method that takes a request of one user raises
`InvalidRequest` when that request is wrong and leaves everything as it was.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from visual_r1.engine.requests import (
    AdamSettings,
    Datum,
    ForwardOutput,
    InvalidRequest,
    LoraSpec,
    SampleOutput,
    SampleRequest,
)

DEFAULT_MAX_IMAGE_PIXELS = 4096 * 4096


@dataclass
class Adapter:
    """A LoRA adapter that is being trained: `weights`, `grads` and Adam's state, by tensor name."""

    spec: LoraSpec


@dataclass(frozen=True)
class FrozenWeights:
    """A copy of an adapter's weights that training does not change."""

    spec: LoraSpec


class Compute:
    """One base model in memory, and what can be computed with it."""

    model_name: str
    """As it was asked for: a hub id, a folder or the name of the shipped model."""
    tokenizer_id: str
    """Local folder or hub id from which a client can load the tokenizer."""
    context_length: int
    device: torch.device
    dtype: torch.dtype
    threads: int

    def __init__(
        self,
        model: str,
        *,
        device: str = "auto",
        threads: int = 2,
        max_image_pixels: int = DEFAULT_MAX_IMAGE_PIXELS,
    ) -> None:
        """Load the base model. Raises `ModelError` when it cannot be loaded."""
        raise NotImplementedError

    def new_adapter(self, spec: LoraSpec) -> Adapter:
        """Return a fresh adapter: A drawn from the seed, B zero, so that it changes nothing yet."""
        raise NotImplementedError

    def forward(
        self,
        adapter: Adapter,
        data: Sequence[Datum],
        loss_fn: str,
        config: Mapping[str, float],
        *,
        backward: bool,
    ) -> ForwardOutput:
        """Log-probabilities and loss of `data`; with `backward` the gradients are accumulated.

        Raises `InvalidRequest`, and then no gradient has changed.
        """
        raise NotImplementedError

    def optim_step(self, adapter: Adapter, settings: AdamSettings) -> dict[str, float]:
        """One Adam step with the accumulated gradients, which are cleared; returns metrics."""
        raise NotImplementedError

    def sample(
        self, weights: FrozenWeights | None, requests: Sequence[SampleRequest]
    ) -> list[SampleOutput | InvalidRequest]:
        """Answer all requests with the same weights (None: the base model itself), in order."""
        raise NotImplementedError

    def freeze(self, adapter: Adapter) -> FrozenWeights:
        """Return a copy of the adapter's weights that later training does not change."""
        raise NotImplementedError

    def state_tensors(self, adapter: Adapter, *, optimizer: bool) -> dict[str, torch.Tensor]:
        """CPU tensors that `restore` builds the same adapter from, bit for bit."""
        raise NotImplementedError

    def restore(
        self, spec: LoraSpec, tensors: Mapping[str, torch.Tensor], *, optimizer: bool
    ) -> Adapter:
        """Return the adapter of `tensors`; without `optimizer` with a fresh Adam state."""
        raise NotImplementedError

    def frozen_from(self, spec: LoraSpec, tensors: Mapping[str, torch.Tensor]) -> FrozenWeights:
        """Return sampler weights from what `state_tensors` gave (Adam's state is ignored)."""
        raise NotImplementedError

    def frozen_tensors(self, weights: FrozenWeights) -> dict[str, torch.Tensor]:
        """CPU tensors of sampler weights, for `frozen_from`."""
        raise NotImplementedError

    def peft_adapter(
        self, spec: LoraSpec, tensors: Mapping[str, torch.Tensor]
    ) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """Return adapter_config.json and the tensors of adapter_model.safetensors.

        A folder of the two is loaded by `peft.PeftModel.from_pretrained(base, folder)` and gives
        the same logits.
        """
        raise NotImplementedError


__all__ = ["Adapter", "Compute", "FrozenWeights", "InvalidRequest"]
