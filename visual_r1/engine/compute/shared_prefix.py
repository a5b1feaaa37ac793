"""What rows that answer the same prompt share: its keys and values, held once and read once.

Of a group of eight that decodes, seven eighths of what attention reads would be copies of the same
prompt. So attention is computed in two parts, over the prompt for all its rows together, and over
each row's own new tokens ("Hydragen", Juravsky et al., 2024). On a CPU one softmax goes over the
scores of both (`families.joint_attention`); on a card, where kernels are fused, the two are put
together by the logarithms of their sums, which is exact (as in flash attention's own blocks, Dao,
2022):

    o = o_own + σ(lse_prompt − lse_own) (o_prompt − o_own).

A prompt's rows sit in tiles, up to `SHARERS` of them in each, and every tile holds the prompt once.
On a CPU in float32 a row comes out the same whoever sits beside it, as long as a tile has four
queries or more (measured, for 4 to 64; fewer are computed in another way).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor

from visual_r1.engine.compute.cache import PromptCache, RowCache

SHARERS = 8
"""Rows of a tile, at most."""

_QUERIES = 4
"""A tile has a multiple of so many."""


@dataclass
class _Tile:
    """Rows that share one copy of a prompt."""

    prompts: object
    """The `PromptCache.identity`; its keys and values would be held a second time."""
    source: int
    places: int
    rows: list[int] = field(default_factory=list[int])


class SharedCache:
    """Stands in for a `RowCache` where a step computes attention in two parts."""

    def __init__(
        self,
        rows: int,
        places: int,
        block: int,
        device: torch.device,
        dtype: torch.dtype,
        *,
        joint: bool = False,
        recorded: bool = False,
    ) -> None:
        """Room for so many rows, and so many new tokens of each; it grows.

        With `joint` it lies as `JointAttention` reads it; `recorded` are steps that do the same
        whatever they find.
        """
        self._device = device
        # Answers' keys lie place by place: written by width they cost more than they save.
        self._prompts = RowCache(0, 0, block, device, dtype, keys_by_width=joint)
        """A row a tile."""
        self.answers = RowCache(
            rows, places, block, device, dtype, writes_columns=joint and not recorded
        )
        self._tiles: list[_Tile | None] = []
        self._tile_of: dict[int, int] = {}
        self._layout: Layout | None = None
        self.buffers: Any = None
        self.recorded: Any = None
        """What a step keeps for the next one of these rows."""
        self._changed = False
        """Whether rows have joined or moved since `show`; those that left are computed on."""
        self.rows = 0

    @property
    def held_places(self) -> int:
        """Places of answers and of prompts that it takes memory for."""
        return self.answers.held_places + self._prompts.held_places

    @property
    def generation(self) -> int:
        """Changes with the shape or the memory of what a step looks at."""
        return self.answers.generation + self._prompts.generation

    def join(
        self, rows: Sequence[int], prompts: PromptCache, source: Sequence[int], lengths: Tensor
    ) -> int:
        """See `RowCache.join`; rows go on at place 0 of their own."""
        self._changed = True
        self._make_way(self.answers, max(rows) + 1, 0)
        self.answers.begin(rows, prompts)
        fresh: list[int] = []
        for row, of in zip(rows, source, strict=True):
            number = self._open_tile(prompts.identity, of)
            if number is None:
                number = self._new_tile(_Tile(prompts.identity, of, prompts.places))
                fresh.append(number)
            tile = self._tiles[number]
            assert tile is not None
            tile.rows.append(row)
            self._tile_of[row] = number
        if fresh:
            self._make_way(self._prompts, max(fresh) + 1, prompts.places)
            of_tiles = [cast(_Tile, self._tiles[number]).source for number in fresh]
            self._prompts.join(fresh, prompts, of_tiles, lengths)
        return 0

    def leave(self, row: int) -> None:
        """A row's sequence is complete; with its last row a tile is free."""
        number = self._tile_of.pop(row)
        tile = self._tiles[number]
        assert tile is not None
        tile.rows.remove(row)
        if not tile.rows:
            self._tiles[number] = None

    def move(self, source: Sequence[int], target: Sequence[int]) -> None:
        """Rows `target` become what rows `source` are."""
        self._changed = True
        self.answers.move(source, target)
        for old, new in zip(source, target, strict=True):
            number = self._tile_of.pop(old)
            tile = self._tiles[number]
            assert tile is not None
            tile.rows[tile.rows.index(old)] = new
            self._tile_of[new] = number

    def show(self, rows: int, places: int, most: int = 0) -> None:
        """From now on look at so many rows and new tokens, and at the prompts that they answer."""
        self._make_way(self.answers, rows, places)
        self.answers.show(rows, places, most)
        if rows == self.rows and not self._changed:
            return
        self.rows, self._changed = rows, False
        self._pack_tiles()
        self._make_way(self._prompts, len(self._tiles), self._longest())
        self._prompts.show(len(self._tiles), self._longest())
        self._layout = None

    def layout(self, heads: int, key_heads: int, all_heads: int) -> "Layout":
        """How the queries of `heads` of each row's `all_heads` vectors lie in tiles."""
        if self._layout is None:
            tiles = [tile.rows if tile is not None else () for tile in self._tiles]
            self._layout = Layout(tiles, self.rows, heads, key_heads, all_heads, self._device)
        return self._layout

    def prompt_views(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values [tiles, key heads, places, width] of the prompts."""
        return self._prompts.views(layer)

    @property
    def prompt_lengths(self) -> Tensor:
        """int64 [tiles], without the padding behind them."""
        return self._prompts.begun

    @property
    def prompt_mask(self) -> Tensor:
        """[tiles, 1, 1, places], 0 or −inf."""
        return self._prompts.mask

    def _make_way(self, cache: RowCache, rows: int, places: int) -> None:
        """Where a cache will grow, let go of what would keep its old memory beside the new."""
        if not cache.fits(rows, places):
            self.buffers = self.recorded = None

    # -- tiles ------------------------------------------------------------------------------------

    def _open_tile(self, prompts: object, source: int) -> int | None:
        """A tile of this prompt that has room."""
        for number, tile in enumerate(self._tiles):
            same = tile is not None and tile.prompts is prompts and tile.source == source
            if same and len(cast(_Tile, tile).rows) < SHARERS:
                return number
        return None

    def _new_tile(self, tile: _Tile) -> int:
        if None in self._tiles:
            number = self._tiles.index(None)
            self._tiles[number] = tile
            return number
        self._tiles.append(tile)
        return len(self._tiles) - 1

    def _pack_tiles(self) -> None:
        """Move the last tiles to where there is room."""
        count = len(self._tiles) - self._tiles.count(None)
        source = [n for n, tile in enumerate(self._tiles) if tile is not None and n >= count]
        target = [n for n, tile in enumerate(self._tiles[:count]) if tile is None]
        if source:
            self._prompts.move(source, target)
            for old, new in zip(source, target, strict=True):
                tile = self._tiles[new] = cast(_Tile, self._tiles[old])
                for row in tile.rows:
                    self._tile_of[row] = new
        del self._tiles[count:]

    def _longest(self) -> int:
        return max((tile.places for tile in self._tiles if tile is not None), default=0)


class Layout:
    """Where queries go in tiles and come back from: indices into vectors of one head each."""

    def __init__(
        self,
        tiles: Sequence[Sequence[int]],
        rows: int,
        heads: int,
        key_heads: int,
        all_heads: int,
        device: torch.device,
    ) -> None:
        """Each key head serves `heads` / `key_heads` queries of a row, side by side."""
        shared = heads // key_heads
        width = max((len(tile) for tile in tiles), default=1)
        while width * shared % _QUERIES:
            width += 1
        sits = torch.zeros(len(tiles), width, dtype=torch.long)
        at = torch.zeros(rows, 2, dtype=torch.long)
        for number, tile in enumerate(tiles):
            for seat, row in enumerate(tile):
                sits[number, seat] = row
                at[row, 0], at[row, 1] = number, seat
        head = torch.arange(heads).view(key_heads, 1, shared)
        self.shape = (len(tiles), key_heads, width * shared)
        """Queries [tiles, key heads, width * shared]."""
        seated = [row for tile in tiles for row in tile]
        self.in_order = len(tiles) * width == rows and seated == list(range(rows))
        """Whether tile t holds the rows from t * width on, and no seat is free."""
        self.queries = (sits[:, None, :, None] * all_heads + head).flatten().to(device)
        """Of the vectors [R, all heads], those of the tiles' queries."""
        tile, seat = at[:, 0, None, None], at[:, 1, None, None]
        key_head, query = torch.arange(key_heads)[:, None], torch.arange(shared)
        of_row = (tile * width + seat) * shared + query
        self.outputs = (of_row * key_heads + key_head).flatten().to(device)
        """Of the vectors [tiles, width * shared, key heads], those of the rows' queries."""
        of_row = ((tile * key_heads + key_head) * width + seat) * shared + query
        self.of_rows = of_row.flatten().to(device)
        """Of the vectors [tiles, key heads, width * shared], those of the rows' queries."""
        of_seat = (sits[:, None, :, None] * key_heads + key_head[:, None]) * shared + query
        self.of_seats = of_seat.flatten().to(device)
        """Of the vectors [R, key heads, shared], those of the tiles' queries."""
        self.tile_of = at[:, 0].to(device)
        """Of each row, int64 [R]."""

    def take(self, other: "Layout") -> None:
        """Become like one of the same shape, in this one's memory."""
        for name in ("queries", "outputs", "of_rows", "of_seats", "tile_of"):
            indices: Tensor = getattr(self, name)
            indices.copy_(getattr(other, name))
        self.in_order = other.in_order


def attention(
    queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """[B, H, L, d] over [B, H, T, d] to outputs, and the logarithms of the sums [B, H, L].

    `mask` [B, 1, 1, T] is 0 or −inf, and 0 somewhere in each row.
    """
    operators = cast(Any, torch.ops.aten)
    if queries.is_cuda:
        shape = (*queries.shape[:3], keys.shape[2])
        output, sums, *_ = operators._scaled_dot_product_efficient_attention(
            queries, keys, values, mask.expand(shape), True, scale=scale
        )
        # The kernel's sums are padded to a multiple of 32 queries.
        return output, sums[..., : queries.shape[2]]
    return operators._scaled_dot_product_flash_attention_for_cpu(
        queries, keys, values, attn_mask=mask, scale=scale
    )
