"""Attention of a decode step on a CPU: products over prompts and answers, one softmax over both.

A prompt is read once for all rows of its tile (see `shared_prefix`), and what each row scores there
is put before what it scores in its own answer. Two calls of torch's fused attention, with what puts
them together, took a third more (16 groups of 8 on the shipped model).

In float32 a row comes out the same whatever is beside it. All that a row's neighbours change are
places that have no share, behind its prompt and behind its answer, in multiples of 32: a product's
columns do not depend on each other, a softmax adds zeros in the same lanes, and `_add_weighted`
takes the places in steps of one size (measured, at widths of 32, 64 and 128).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from visual_r1.engine.compute.shared_prefix import Layout

_PLACES_AT_ONCE = 128
"""Places over which a product of shares and values adds up in one go: of more than 192, MKL decides
by their number in which order."""


class JointAttention:
    """The memory of it, for R rows, P places of a prompt and T of an answer."""

    def __init__(
        self,
        answers: Sequence[tuple[Tensor, Tensor]],
        prompts: Sequence[tuple[Tensor, Tensor]],
        attended: Tensor,
    ) -> None:
        """Keys and values of each layer, [R, key heads, T, width] and [tiles, key heads, P, width];
        what comes out goes to `attended` [R, key heads, shared, width]."""
        rows, key_heads, shared, width = attended.shape
        self._seen = seen = prompts[0][0].shape[2]
        places = answers[0][0].shape[2]
        empty = attended.new_empty
        self._answers = [_matrices(*one) for one in answers]
        self._prompts = [_matrices(*one) for one in prompts]
        self._queries = empty(rows, key_heads, shared, width)
        self._own_queries = self._queries.view(-1, shared, width)
        self._own_scores = empty(rows * key_heads, shared, places)
        self._prompt_scores = empty(rows * key_heads * shared, seen)
        self._in_rows = self._prompt_scores.view(-1, shared, seen)
        self._scores = empty(rows * key_heads, shared, seen + places)
        self._by_row = self._scores.view(rows, key_heads * shared, -1)
        self._own_shares = self._scores[..., seen:]
        self._prompt_shares = self._scores.view(-1, seen + places)[:, :seen]
        self._mask = empty(rows, 1, seen + places)
        """0 where a row sees, else −inf: first of its prompt, then of its answer."""
        self._attended = attended.view(-1, shared, width)
        self._attended_vectors = attended.view(-1, width)
        self._fits: object = None

    def take_layout(self, layout: Layout, prompt_mask: Tensor) -> None:
        """How rows sit in tiles from now on; `prompt_mask` [tiles, 1, 1, P] is 0 or −inf."""
        if self._fits != layout.shape:
            tiles, key_heads, queries = self._fits = layout.shape
            width, empty = self._queries.shape[-1], self._queries.new_empty
            self._vectors = empty(tiles * key_heads * queries, width)
            self._tiled = self._vectors.view(-1, queries, width)
            self._tile_scores = empty(tiles * key_heads, queries, self._seen)
            self._tile_rows = self._tile_scores.view(-1, self._seen)
            self._of_tiles = torch.empty_like(self._tiled)
            self._of_tile_rows = self._of_tiles.view(-1, width)
        self._mask[:, 0, : self._seen] = prompt_mask[:, 0, 0].index_select(0, layout.tile_of)

    def show_answers(self, mask: Tensor) -> None:
        """What rows see of their answers now: `mask` [R, 1, 1, T]."""
        self._mask[:, 0, self._seen :].copy_(mask[:, 0, 0])

    def attend(self, layer: int, queries: Tensor, vectors: Tensor, layout: Layout) -> None:
        """Queries [R, key heads, shared, width], which are scaled, attend; `vectors` [n, width] are
        those and others, as the layout numbers them."""
        keys, values = self._answers[layer]
        prompt_keys, prompt_values = self._prompts[layer]
        self._queries.copy_(queries)
        torch.index_select(vectors, 0, layout.queries, out=self._vectors)
        torch.bmm(self._tiled, prompt_keys.transpose(1, 2), out=self._tile_scores)
        torch.bmm(self._own_queries, keys.transpose(1, 2), out=self._own_scores)
        torch.index_select(self._tile_rows, 0, layout.of_rows, out=self._prompt_scores)
        torch.cat((self._in_rows, self._own_scores), 2, out=self._scores)
        self._by_row.add_(self._mask)
        torch.softmax(self._scores, -1, out=self._scores)
        torch.index_select(self._prompt_shares, 0, layout.of_seats, out=self._tile_rows)
        _add_weighted(self._of_tiles.zero_(), self._tile_scores, prompt_values)
        torch.index_select(self._of_tile_rows, 0, layout.of_rows, out=self._attended_vectors)
        _add_weighted(self._attended, self._own_shares, values)


def _add_weighted(total: Tensor, shares: Tensor, values: Tensor) -> None:
    """Add shares [B, L, T] of values [B, T, d] to `total` [B, L, d]."""
    for start in range(0, shares.shape[2], _PLACES_AT_ONCE):
        stop = start + _PLACES_AT_ONCE
        total.baddbmm_(shares[..., start:stop], values[:, start:stop])


def _matrices(keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Views [rows * heads, places, width] of what is [rows, heads, places, width]."""
    return keys.view(-1, *keys.shape[2:]), values.view(-1, *values.shape[2:])
