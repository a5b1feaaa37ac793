"""A few tensor operations whose types torch leaves open, with their types."""

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor


def of_array(array: np.ndarray) -> Tensor:
    """A tensor over a copy of the array in row order."""
    return torch.from_numpy(np.array(array, order="C"))  # pyright: ignore[reportUnknownMemberType]


def split(tensor: Tensor, sizes: int | Sequence[int], dim: int = 0) -> tuple[Tensor, ...]:
    """Views of consecutive stretches of one dimension."""
    given = sizes if isinstance(sizes, int) else list(sizes)
    return cast("tuple[Tensor, ...]", tensor.split(given, dim))  # pyright: ignore[reportUnknownMemberType]


def floats(vector: Tensor) -> list[float]:
    """The numbers of a one-dimensional tensor."""
    return cast("list[float]", vector.tolist())  # pyright: ignore[reportUnknownMemberType]


def integers(vector: Tensor) -> list[int]:
    """The whole numbers of a one-dimensional tensor."""
    return cast("list[int]", vector.tolist())  # pyright: ignore[reportUnknownMemberType]
