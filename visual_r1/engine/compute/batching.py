"""Which sequences are computed together, such that none changes the result of another.

Measured on CPUs in float32: a row of a matrix product is the same bit for bit at any position of
any batch of 16 rows or more (with a single output column: of any multiple of 16 rows), and differs
below 16, where other kernels are at work. Attention does not look at the other rows of a batch, but
depends on how many padded keys a row carries. So
- row counts are multiples of 16, filled up with dummies where need be;
- a length is padded to a bucket that is a function of the sequence's own length;
- only equal buckets are batched.

At the end, four operations of torch with the types that it leaves open.
"""

from collections.abc import Iterator, Sequence
from typing import TypeVar, cast

import numpy as np
import torch
from torch import Tensor

ROWS = 16
"""Row counts of matrix products are multiples of this."""

Item = TypeVar("Item")


def round_up(n: int, multiple: int) -> int:
    """The least multiple of `multiple` that is not below `n`."""
    return -(-n // multiple) * multiple


def training_bucket(length: int) -> int:
    """The padded length of a training sequence: a multiple of 16, coarser when it is long."""
    return round_up(length, ROWS if length <= 1024 else 128)


def prompt_bucket(length: int, block: int) -> int:
    """The padded length of a prompt: a multiple of `block`, coarser when it is long.

    Those of one bucket are read in one pass.
    """
    if length <= 512:
        return round_up(length, block)
    return round_up(length, 128 if length <= 2048 else 512)


def by_bucket(buckets: Sequence[int]) -> dict[int, list[int]]:
    """Indices by bucket, in ascending order of buckets and in the given order within."""
    groups: dict[int, list[int]] = {}
    for index, bucket in enumerate(buckets):
        groups.setdefault(bucket, []).append(index)
    return dict(sorted(groups.items()))


def chunks(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """Consecutive pieces of at most `size` items (at least one)."""
    size = max(1, size)
    for start in range(0, len(items), size):
        yield items[start : start + size]


def split(tensor: Tensor, sizes: int | Sequence[int], dim: int = 0) -> tuple[Tensor, ...]:
    """Views of consecutive stretches of one dimension."""
    given = sizes if isinstance(sizes, int) else list(sizes)
    return cast("tuple[Tensor, ...]", tensor.split(given, dim))  # pyright: ignore[reportUnknownMemberType]


def of_array(array: np.ndarray) -> Tensor:
    """A tensor over a copy of the array in row order."""
    return torch.from_numpy(np.array(array, order="C"))  # pyright: ignore[reportUnknownMemberType]


def floats(vector: Tensor) -> list[float]:
    """The numbers of a one-dimensional tensor."""
    return cast("list[float]", vector.tolist())  # pyright: ignore[reportUnknownMemberType]


def integers(vector: Tensor) -> list[int]:
    """The whole numbers of a one-dimensional tensor."""
    return cast("list[int]", vector.tolist())  # pyright: ignore[reportUnknownMemberType]
