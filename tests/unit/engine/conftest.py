"""One engine a family for all tests of the compute side, on one CPU thread."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import random_models
import torch
from served_engine import Play, play_with

from visual_r1.engine.compute.compute import Adapter, Compute
from visual_r1.engine.types import LoraSpec
from visual_r1.models import TINY_GEOMETRY

_LOADED: dict[str, Compute] = {}


@pytest.fixture(scope="session")
def compute(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Compute:
    """The shipped model, a Qwen3-VL; or what a test that is marked with `FAMILIES` asks for."""
    family: str = getattr(request, "param", "qwen3_vl")
    if family not in _LOADED:
        model = TINY_GEOMETRY
        if family != "qwen3_vl":
            make = getattr(random_models, family)
            model = str(make(tmp_path_factory.mktemp(family) / "model"))
        _LOADED[family] = Compute(model, device="cpu", threads=1, max_image_pixels=2**20)
    return _LOADED[family]


@pytest.fixture(scope="session")
def trained(compute: Compute) -> Callable[[LoraSpec], Adapter]:
    """An adapter that changes the model: both of its matrices are random."""

    def make(spec: LoraSpec) -> Adapter:
        adapter = compute.new_adapter(spec)
        generator = torch.Generator().manual_seed(17)
        adapter.weights.add_(torch.randn(adapter.weights.shape, generator=generator) * 0.02)
        return adapter

    return make


@pytest.fixture
def play(compute: Compute, tmp_path: Path) -> Play:
    """Runs a story with a client of an engine that has its home for itself."""
    return partial(play_with, compute, tmp_path / "home")
