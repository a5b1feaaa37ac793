"""Attention of a decode step on a CPU: products over prompts and answers, one softmax over both.

A prompt is read once for all rows of its tile (see `shared_prefix`), and what each row scores there
is put before what it scores in its own answer. Two calls of torch's fused attention, with what puts
them together, took a third more (16 groups of 8 on the shipped model).

In float32 a row comes out the same whatever is beside it. All that a row's neighbours change are
places that have no share, behind its prompt and behind its answer, in multiples of 16: a product's
columns do not depend on each other, a softmax adds zeros in the same lanes, and the weighted values
are added up in steps of one size (measured, at widths of 32, 64 and 128).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from visual_r1.engine.compute.batching import split
from visual_r1.engine.compute.shared_prefix import Layout

BLOCK = 16
"""Places by which prompts and answers come to be looked at more."""

_PLACES_AT_ONCE = 128
"""Places over which a product of shares and values adds up in one go: of more than 192, MKL decides
by their number in which order."""


class JointAttention:
    """The memory of it, for R rows, P places of a prompt and T of an answer.

    Where tiles hold the rows in their order, what goes between rows and tiles is copied as a whole,
    else vector by vector.
    """

    def __init__(
        self,
        answers: Sequence[tuple[Tensor, Tensor]],
        prompts: Sequence[tuple[Tensor, Tensor]],
        mask: Tensor,
        attended: Tensor,
    ) -> None:
        """Keys and values of each layer, [R, key heads, T, width] and [tiles, key heads, P, width];
        `mask` [R, 1, 1, T] of the answers is 0 or −inf; what comes out goes to `attended` [R, key
        heads, shared, width]."""
        rows, key_heads, shared, width = attended.shape
        self._seen = seen = prompts[0][0].shape[2]
        places = answers[0][0].shape[2]
        empty = attended.new_empty
        self._shape = (rows, key_heads, shared)
        self._queries = empty(rows, key_heads, shared, width)
        self._own_queries = self._queries.view(-1, shared, width)
        self._own_scores = empty(rows * key_heads, shared, places)
        self._prompt_scores = empty(rows * key_heads * shared, seen)
        self._scores = empty(rows, key_heads * shared, seen + places)
        self._prompt_mask = empty(rows, 1, seen)
        self._masked_own = (
            self._own_scores.view(rows, -1, places), mask[:, 0], self._scores[..., seen:],
        )  # fmt: skip
        self._attended = attended.view(-1, shared, width)
        own_shares = self._scores.view(-1, shared, seen + places)[..., seen:]
        self._answers = [_Layer.of(*one, own_shares) for one in answers]
        self._given_prompts = prompts
        self._fits: object = None

    def take_layout(self, layout: Layout, prompt_mask: Tensor) -> None:
        """How rows sit in tiles from now on; `prompt_mask` [tiles, 1, 1, P] is 0 or −inf."""
        tiles, _, queries = layout.shape
        seen, width = self._seen, self._queries.shape[-1]
        if self._fits != layout.shape:
            self._fits = layout.shape
            empty = self._queries.new_empty
            self._tiled = empty(tiles * self._shape[1], queries, width)
            self._of_tiles = torch.empty_like(self._tiled)
            self._tile_scores = empty(*self._tiled.shape[:2], seen)
            self._prompts = [_Layer.of(*one, self._tile_scores) for one in self._given_prompts]
        self._prompt_mask[:, 0] = prompt_mask[:, 0, 0].index_select(0, layout.tile_of)
        if layout.in_order:
            self._take_in_order(tiles)
        else:
            self._take_one_by_one(layout)

    def _take_one_by_one(self, layout: Layout) -> None:
        rows, key_heads, shared = self._shape
        seen, width = self._seen, self._queries.shape[-1]
        shares = self._scores.view(-1, self._scores.shape[-1])[:, :seen]
        of_rows, of_tiles = self._attended.view(-1, width), self._of_tiles.view(-1, width)
        tiled, tile_scores = self._tiled.view(-1, width), self._tile_scores.view(-1, seen)
        self._queries_to_tiles = _Move(self._queries.view(-1, width), tiled, layout.of_seats)
        self._scores_to_rows = _Move(tile_scores, self._prompt_scores, layout.of_rows)
        self._shares_to_tiles = _Move(shares, tile_scores, layout.of_seats)
        self._attended_to_rows = _Move(of_tiles, of_rows, layout.of_rows)
        scores = self._prompt_scores.view(rows, key_heads * shared, seen)
        self._masked_prompt = (scores, self._prompt_mask, self._scores[..., :seen])

    def _take_in_order(self, tiles: int) -> None:
        _, key_heads, shared = self._shape

        def by_row(of_tiles: Tensor) -> Tensor:
            """[tiles * key heads, seats * shared, n] as [tiles, seats, key heads, shared, n]."""
            return of_tiles.view(tiles, key_heads, -1, shared, of_tiles.shape[-1]).transpose(1, 2)

        def by_tile(of_rows: Tensor) -> Tensor:
            return of_rows.view(tiles, -1, key_heads, shared, of_rows.shape[-1])

        scores, of_scores = by_row(self._tile_scores), by_tile(self._scores)[..., : self._seen]
        self._queries_to_tiles = _Move(by_tile(self._queries), by_row(self._tiled))
        self._scores_to_rows = None
        self._shares_to_tiles = _Move(of_scores, scores)
        self._attended_to_rows = _Move(by_row(self._of_tiles), by_tile(self._attended))
        mask = self._prompt_mask.view(tiles, -1, 1, 1, self._seen)
        self._masked_prompt = (scores, mask, of_scores)

    def attend(self, layer: int, queries: Tensor) -> None:
        """Queries [R, key heads, shared, width], which are scaled, attend."""
        answer, prompt = self._answers[layer], self._prompts[layer]
        self._queries.copy_(queries)
        self._queries_to_tiles()
        torch.bmm(self._tiled, prompt.keys, out=self._tile_scores)
        torch.bmm(self._own_queries, answer.keys, out=self._own_scores)
        if self._scores_to_rows is not None:
            self._scores_to_rows()
        for scores, mask, masked in (self._masked_prompt, self._masked_own):
            torch.add(scores, mask, out=masked)
        torch.softmax(self._scores, -1, out=self._scores)
        self._shares_to_tiles()
        prompt.weigh(self._of_tiles, onto=False)
        self._attended_to_rows()
        answer.weigh(self._attended, onto=True)


@dataclass(frozen=True)
class _Move:
    """From one memory to another: as a whole where shapes are equal, else `index` of the rows."""

    of: Tensor
    to: Tensor
    index: Tensor | None = None

    def __call__(self) -> None:
        if self.index is None:
            self.to.copy_(self.of)
        else:
            torch.index_select(self.of, 0, self.index, out=self.to)


@dataclass(frozen=True)
class _Layer:
    """A layer's keys and values, and what is to come out of them, as products read them."""

    keys: Tensor
    """[B, width, places]."""
    weighted: Sequence[tuple[Tensor, Tensor]]
    """Shares and values of `_PLACES_AT_ONCE` places each."""

    @staticmethod
    def of(keys: Tensor, values: Tensor, shares: Tensor) -> "_Layer":
        """Of [rows, heads, places, width], and `shares` [rows * heads, queries, places]."""
        keys, values = (one.view(-1, *one.shape[2:]) for one in (keys, values))
        pieces = split(shares, _PLACES_AT_ONCE, 2), split(values, _PLACES_AT_ONCE, 1)
        return _Layer(keys.transpose(1, 2), list(zip(*pieces, strict=True)))

    def weigh(self, total: Tensor, *, onto: bool) -> None:
        """The values by their shares, in place of `total` [B, queries, width] or onto it."""
        for shares, values in self.weighted:
            total.baddbmm_(shares, values, beta=1 if onto else 0)
            onto = True
