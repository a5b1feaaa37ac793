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
from dataclasses import dataclass, field
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

FOLDED = 2**28
"""Scores of a head, at most, for which queries that share keys are one call: its mask is as large,
and torch's kernel counts its places in 32 bits."""


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
    root_rows: int
    """Rows of that block."""
    _masks: dict[int, Tensor] = field(default_factory=dict[int, Tensor])

    @property
    def rows(self) -> int:
        """R."""
        return len(self.of)

    def copies(self, of_roots: Tensor) -> Tensor:
        """What each branch takes from its root: [roots, …] to [R, …]."""
        apply = cast(Callable[..., Tensor], _Copies.apply)
        chosen = None if of_roots.dtype == torch.float32 else self._chosen
        return apply(of_roots, self.of, self.stretches, chosen)

    @cached_property
    def _chosen(self) -> Tensor:
        """[roots, R], of the mask's type: 1 where a branch is of a root."""
        roots = torch.arange(self.root_rows, device=self.of.device)
        return (roots[:, None] == self.of).to(self.mask.dtype)

    def repeated_mask(self, times: int) -> Tensor:
        """[R, 1, times * width, …]: for queries of so many heads, one behind the other."""
        if times == 1:
            return self.mask
        if times not in self._masks:
            self._masks[times] = self.mask.repeat(1, 1, times, 1)
        return self._masks[times]


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
        block: int = 1,
    ) -> "Packing":
        """Roots by their lengths, and branches as (index of their root, length).

        The branches of a root are neighbours. `dtype` is that of the mask; widths are multiples of
        `block` too (see `DeviceRules.training_block`).
        """
        return _Packer(roots, branches, block).packed(device, dtype)

    @cached_property
    def _shapes(self) -> list[tuple[int, int]]:
        return [(block.rows, block.width) for block in (*self.roots, *self.branches)]

    def into_blocks(self, values: Tensor) -> list[Tensor]:
        """[N, …] to [rows, width, …] of each block, those of roots first."""
        sizes = [rows * width for rows, width in self._shapes]
        slots = moved(values, self._slots, self._slot_of)
        parts = split(slots, [*sizes, 1])[:-1]
        return [
            part.view(*shape, *values.shape[1:])
            for part, shape in zip(parts, self._shapes, strict=True)
        ]

    def from_blocks(self, blocks: Sequence[Tensor]) -> Tensor:
        """The inverse: [rows, width, …] of each block to [N, …]; dummies get zeros."""
        flat = [block.flatten(0, 1) for block in blocks]
        empty = flat[0].new_zeros(1, *flat[0].shape[1:])
        return moved(torch.cat([*flat, empty]), self._slot_of, self._slots)


class _Packer:
    """Puts sequences into blocks."""

    def __init__(
        self, roots: Sequence[int], branches: Sequence[tuple[int, int]], block: int
    ) -> None:
        self._block = block
        self._lengths = [*roots, *(length for _, length in branches)]
        self._branches = branches
        self._starts: list[int] = []
        start = 0
        for length in self._lengths:
            self._starts.append(start)
            start += length
        self._used = start
        self._places = round_up(start + 1, ROWS)
        self._root_widths = [round_up(training_bucket(length), block) for length in roots]
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
        kinds = [
            (row_of[root][0] << 32) + round_up(branch_bucket(length), self._block)
            for root, length in self._branches
        ]
        for kind, members in by_bucket(kinds).items():
            block, width = kind >> 32, kind & (2**32 - 1)
            self._put([count + member for member in members], width)
            rows = [row_of[self._branches[member][0]][1] for member in members]
            of = torch.tensor(rows, device=device)
            mask = _mask(roots[block], of, width, dtype)
            branches.append(Branches(width, block, of, _stretches(rows), mask, roots[block].rows))
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


def moved(values: Tensor, index: Tensor, inverse: Tensor) -> Tensor:
    """values[index]; its gradient is moved back by the inverse of that order, and never summed."""
    apply = cast(Callable[..., Tensor], _Moved.apply)
    return apply(values, index, inverse)


class _Copies(torch.autograd.Function):
    """Rows of roots, one a branch; gradients are summed in the order of the branches."""

    @staticmethod
    def forward(
        ctx: Any,
        values: Tensor,
        of: Tensor,
        stretches: tuple[tuple[int, int], ...],
        chosen: Tensor | None,
    ) -> Tensor:
        ctx.stretches, ctx.roots, ctx.chosen = stretches, len(values), chosen
        return values.index_select(0, of)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        if ctx.chosen is not None:
            # A product with ones and zeros, summed in float32: one kernel, however many roots.
            summed = ctx.chosen @ gradient.flatten(1)
            return summed.view(ctx.roots, *gradient.shape[1:]), None, None, None
        total = gradient.new_zeros(ctx.roots, *gradient.shape[1:])
        parts = split(gradient, [count for _, count in ctx.stretches])
        for (root, _), part in zip(ctx.stretches, parts, strict=True):
            total[root] += part.sum(0)
        return total, None, None, None


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
    by_place = (part.squeeze(0).transpose(0, 1) for part in (query, key, value))
    queries, keys, values = (packing.into_blocks(part) for part in by_place)
    outputs: list[Tensor] = []
    for block, _ in enumerate(packing.roots):
        outputs.append(_attention(queries[block], keys[block], values[block], None, scaling))
    for block, branches in enumerate(packing.branches, len(packing.roots)):
        seen, read = (
            torch.cat([branches.copies(part[branches.roots]), part[block]], dim=1)
            for part in (keys, values)
        )
        if queries[block].dtype == torch.float32:
            outputs.append(_attention(queries[block], seen, read, branches.mask, scaling))
        else:
            outputs.append(_folded_attention(queries[block], seen, read, branches, scaling))
    return packing.from_blocks(outputs)[None], None


def _attention(
    queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, scaling: float | None
) -> Tensor:
    """[rows, places, heads, width] each; without a mask every place looks back alone."""
    output = functional.scaled_dot_product_attention(
        queries.transpose(1, 2),
        keys.transpose(1, 2),
        values.transpose(1, 2),
        attn_mask=mask,
        is_causal=mask is None,
        scale=scaling,
        enable_gqa=queries.shape[2] > keys.shape[2],
    )
    return output.transpose(1, 2)


def _folded_attention(
    queries: Tensor, keys: Tensor, values: Tensor, branches: Branches, scaling: float | None
) -> Tensor:
    """The same with the branches' mask, as torch's fast kernels on a card want it: they know of no
    heads that share keys, so those heads' queries lie one behind the other."""
    rows, places, heads, width = queries.shape
    key_heads = keys.shape[2]
    shared = heads // key_heads
    together = shared if rows * shared * places * keys.shape[1] <= FOLDED else 1
    by_key_head = queries.view(rows, places, key_heads, shared, width).permute(0, 2, 3, 1, 4)
    outputs = [
        functional.scaled_dot_product_attention(
            part.reshape(rows, key_heads, together * places, width),
            keys.transpose(1, 2),
            values.transpose(1, 2),
            attn_mask=branches.repeated_mask(together),
            scale=scaling,
        ).view(rows, key_heads, together, places, width)
        for part in split(by_key_head, together, dim=2)
    ]
    output = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=2)
    return output.permute(0, 3, 1, 2, 4).reshape(rows, places, heads, width)


# transformers finds it by its name, and masks for it as for its own `sdpa`.
cast(Any, ALL_ATTENTION_FUNCTIONS).register(ATTENTION, attend)
cast(Any, ALL_MASK_ATTENTION_FUNCTIONS).register(
    ATTENTION, cast(Any, ALL_MASK_ATTENTION_FUNCTIONS)["sdpa"]
)
