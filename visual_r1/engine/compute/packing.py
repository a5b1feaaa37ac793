"""Training sequences side by side in one row of places, without padding, and who sees whom in it.

A minibatch is made of roots, which are read from their beginning, and of branches, each of which
goes on where a root ends: the answers to a prompt, which is computed once for all of them. Roots
and branches lie one behind the other in N places, so what a layer does place by place wastes
nothing; only what mixes places (attention, a recurrent state) sees them as blocks [rows, width] of
sequences padded to a width that is a function of their own lengths. So no result depends on what
else is packed (see `batching`).

In the N places the last one at least is a dummy, and N is a multiple of 16.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.integrations import sdpa_attention
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from visual_r1.engine.compute.batching import ROWS, by_bucket, round_up, split, training_bucket

ATTENTION = "visual_r1"
"""The name that transformers knows `attend` by."""


@dataclass(frozen=True)
class Roots:
    """Roots of one width."""

    width: int
    lengths: Tensor
    """int64 [R], without the padding."""

    @property
    def rows(self) -> int:
        """R."""
        return len(self.lengths)


@dataclass(frozen=True)
class Branches:
    """Branches of one width, whose roots are of one width too; those of a root are neighbours."""

    width: int
    roots: int
    """Index of their roots' block."""
    of: Tensor
    """int64 [R]: row r goes on where root of[r] of that block ends."""
    stretches: tuple[tuple[int, int], ...]
    """(root, how many rows), in the order of the rows."""
    mask: Tensor
    """[R, 1, width, width of roots + width], 0 where a place is seen, else −inf."""

    @property
    def rows(self) -> int:
        """R."""
        return len(self.of)

    def copies(self, of_roots: Tensor) -> Tensor:
        """What each branch takes from its root: [roots, …] to [R, …]."""
        apply = cast(Callable[..., Tensor], _Copies.apply)
        return apply(of_roots, self.of, self.stretches)


@dataclass(frozen=True)
class Packing:
    """Who lies where in N places."""

    places: int
    """N, the dummies included."""
    used: int
    """How many of them are no dummies."""
    starts: tuple[int, ...]
    """Where each root begins, and behind them each branch, in the order that they were given."""
    roots: tuple[Roots, ...]
    branches: tuple[Branches, ...]
    _slots: Tensor
    """int64 [slots + 1]: the place of each place of the blocks; padding is the last place, and so
    is the last slot, which is of no block."""
    _slot_of: Tensor
    """int64 [N]: the inverse; of dummies the last slot."""

    @staticmethod
    def of(
        roots: Sequence[int],
        branches: Sequence[tuple[int, int]],
        device: torch.device,
        dtype: torch.dtype,
    ) -> "Packing":
        """Roots by their lengths, and branches as (index of their root, length).

        The branches of a root are neighbours. `dtype` is that of the mask.
        """
        return _Packer(roots, branches).packed(device, dtype)

    @cached_property
    def _shapes(self) -> list[tuple[int, int]]:
        return [(block.rows, block.width) for block in (*self.roots, *self.branches)]

    def into_blocks(self, values: Tensor) -> list[Tensor]:
        """[N, …] to [rows, width, …] of each block, those of roots first."""
        sizes = [rows * width for rows, width in self._shapes]
        slots = _moved(values, self._slots, self._slot_of)
        parts = split(slots, [*sizes, 1])[:-1]
        return [
            part.view(*shape, *values.shape[1:])
            for part, shape in zip(parts, self._shapes, strict=True)
        ]

    def from_blocks(self, blocks: Sequence[Tensor]) -> Tensor:
        """The inverse: [rows, width, …] of each block to [N, …]; dummies get zeros."""
        flat = [block.flatten(0, 1) for block in blocks]
        empty = flat[0].new_zeros(1, *flat[0].shape[1:])
        return _moved(torch.cat([*flat, empty]), self._slot_of, self._slots)


class _Packer:
    """Puts sequences into blocks."""

    def __init__(self, roots: Sequence[int], branches: Sequence[tuple[int, int]]) -> None:
        self._lengths = [*roots, *(length for _, length in branches)]
        self._branches = branches
        self._starts: list[int] = []
        start = 0
        for length in self._lengths:
            self._starts.append(start)
            start += length
        self._used = start
        self._places = round_up(start + 1, ROWS)
        self._root_widths = [training_bucket(length) for length in roots]
        self._slots: list[Tensor] = []

    def packed(self, device: torch.device, dtype: torch.dtype) -> Packing:
        roots: list[Roots] = []
        row_of: dict[int, tuple[int, int]] = {}
        for block, (width, members) in enumerate(by_bucket(self._root_widths).items()):
            row_of.update({root: (block, row) for row, root in enumerate(members)})
            self._put(members, width)
            lengths = torch.tensor([self._lengths[root] for root in members], device=device)
            roots.append(Roots(width, lengths))
        branches: list[Branches] = []
        count = len(self._root_widths)
        # Widths of roots come first in the order; they are below 2^31.
        kinds = [(row_of[root][0] << 32) + branch_bucket(length) for root, length in self._branches]
        for kind, members in by_bucket(kinds).items():
            block, width = kind >> 32, kind & (2**32 - 1)
            self._put([count + member for member in members], width)
            rows = [row_of[self._branches[member][0]][1] for member in members]
            of = torch.tensor(rows, device=device)
            mask = _mask(roots[block], of, width, dtype)
            branches.append(Branches(width, block, of, _stretches(rows), mask))
        slots = torch.cat([*self._slots, torch.tensor([self._places - 1])])
        slot_of = torch.full((self._places,), len(slots) - 1)
        real = slots < self._used
        slot_of[slots[real]] = real.nonzero()[:, 0]
        return Packing(
            self._places,
            self._used,
            tuple(self._starts),
            tuple(roots),
            tuple(branches),
            slots.to(device),
            slot_of.to(device),
        )

    def _put(self, members: Sequence[int], width: int) -> None:
        """One more block of these sequences."""
        starts = torch.tensor([self._starts[member] for member in members])[:, None]
        lengths = torch.tensor([self._lengths[member] for member in members])[:, None]
        place = torch.arange(width)
        slots = torch.where(place < lengths, starts + place, self._places - 1)
        self._slots.append(slots.flatten())


def branch_bucket(length: int) -> int:
    """The padded width of a branch: a multiple of 8, coarser when it is long."""
    return round_up(length, 8) if length <= 256 else training_bucket(length)


def _stretches(rows: Sequence[int]) -> tuple[tuple[int, int], ...]:
    found: list[tuple[int, int]] = []
    for row in rows:
        if found and found[-1][0] == row:
            found[-1] = (row, found[-1][1] + 1)
        else:
            found.append((row, 1))
    return tuple(found)


def _mask(roots: Roots, of: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    """Place i of a branch sees its whole root, itself and what lies between."""
    rows, device = len(of), of.device
    root = (torch.arange(roots.width, device=device) < roots.lengths[of][:, None])[:, None]
    own = torch.ones(width, width, dtype=torch.bool, device=device).tril()
    seen = torch.cat([root.expand(-1, width, -1), own.expand(rows, -1, -1)], dim=2)
    mask = torch.zeros(seen.shape, dtype=dtype, device=device)
    return mask.masked_fill_(~seen, -torch.inf)[:, None]


class _Moved(torch.autograd.Function):
    """Rows by an index whose inverse is known, so that gradients are moved and never summed."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, index: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(inverse)
        return values.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (inverse,) = cast("tuple[Tensor, ...]", ctx.saved_tensors)
        return gradients[0].index_select(0, inverse), None, None


def _moved(values: Tensor, index: Tensor, inverse: Tensor) -> Tensor:
    apply = cast(Callable[..., Tensor], _Moved.apply)
    return apply(values, index, inverse)


class _Copies(torch.autograd.Function):
    """Rows of roots, one a branch; gradients are summed in the order of the branches."""

    @staticmethod
    def forward(
        ctx: Any, values: Tensor, of: Tensor, stretches: tuple[tuple[int, int], ...]
    ) -> Tensor:
        ctx.stretches, ctx.roots = stretches, len(values)
        return values.index_select(0, of)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        total = gradient.new_zeros(ctx.roots, *gradient.shape[1:])
        parts = split(gradient, [count for _, count in ctx.stretches])
        for (root, _), part in zip(ctx.stretches, parts, strict=True):
            total[root] += part.sum(0)
        return total, None, None


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    packing: Packing | None = None,
    scaling: float | None = None,
    **further: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attention as transformers calls it: [1, heads, N, width] each; with a `packing` by blocks."""
    if packing is None:
        return cast(Any, sdpa_attention).sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **further
        )
    by_place = (part[0].transpose(0, 1) for part in (query, key, value))
    queries, keys, values = (packing.into_blocks(part) for part in by_place)
    outputs: list[Tensor] = []
    for block, _ in enumerate(packing.roots):
        outputs.append(_attention(queries[block], keys[block], values[block], None, scaling))
    for block, branches in enumerate(packing.branches, len(packing.roots)):
        seen, read = (
            torch.cat([branches.copies(part[branches.roots]), part[block]], dim=1)
            for part in (keys, values)
        )
        outputs.append(_attention(queries[block], seen, read, branches.mask, scaling))
    return packing.from_blocks(outputs)[None], None


def _attention(
    queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, scaling: float | None
) -> Tensor:
    """[rows, places, heads, width] each; without a mask every place looks back alone."""
    # Keys and values that several heads share are copied: with a mask, torch's fast kernels on
    # CUDA want it so.
    shared = queries.shape[2] // keys.shape[2]
    copied = queries.device.type == "cuda" and mask is not None and shared > 1
    if copied:
        keys, values = (part.repeat_interleave(shared, dim=2) for part in (keys, values))
    output = functional.scaled_dot_product_attention(
        queries.transpose(1, 2),
        keys.transpose(1, 2),
        values.transpose(1, 2),
        attn_mask=mask,
        is_causal=mask is None,
        scale=scaling,
        enable_gqa=shared > 1 and not copied,
    )
    return output.transpose(1, 2)


# transformers finds it by its name, and masks for it as for its own `sdpa`.
cast(Any, ALL_ATTENTION_FUNCTIONS).register(ATTENTION, attend)
cast(Any, ALL_MASK_ATTENTION_FUNCTIONS).register(
    ATTENTION, cast(Any, ALL_MASK_ATTENTION_FUNCTIONS)["sdpa"]
)
