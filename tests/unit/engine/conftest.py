"""One engine for all tests of the compute side: the shipped model on one CPU thread."""

from collections.abc import Callable

import pytest
import torch

from visual_r1.engine.compute.compute import Adapter, Compute
from visual_r1.engine.types import LoraSpec
from visual_r1.models import TINY_GEOMETRY


@pytest.fixture(scope="session")
def compute() -> Compute:
    return Compute(TINY_GEOMETRY, device="cpu", threads=1, max_image_pixels=2**20)


@pytest.fixture(scope="session")
def trained(compute: Compute) -> Callable[[LoraSpec], Adapter]:
    """An adapter that changes the model: both of its matrices are random."""

    def make(spec: LoraSpec) -> Adapter:
        adapter = compute.new_adapter(spec)
        generator = torch.Generator().manual_seed(17)
        adapter.weights.add_(torch.randn(adapter.weights.shape, generator=generator) * 0.02)
        return adapter

    return make
