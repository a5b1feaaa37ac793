"""Whether two pictures are the same figure: encoded again, or at another size.

In three stages. A `Look` finds who may be the same. It holds 35 low frequencies of the picture,

    c[k, l] = mean over y, x of grey(y, x) cos(pi k (y + 1/2) / H) cos(pi l (x + 1/2) / W),

k and l from 0 to 5 without (0, 0), scaled to length 1, and the mean greys of 16 x 16 parts. The
`tiles` of two pictures of one size, means over few pixels, then say of nearly all who are not the
same, without the pictures. `same_picture` lays two pictures over each other, at the size of the
smaller one, and asks whether what differs is spread over all edges, as an encoder's noise is, or
stands in one place, as another label does.

The bounds were measured (docs/performance.md has the rates, benchmarks/duplicates.py makes them).
"""

import io
import struct
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

FREQUENCIES = 6
PARTS = 16
_STORED = np.dtype(
    [
        ("size", "<u4", 2),
        ("frequencies", "<f2", FREQUENCIES**2 - 1),
        ("greys", "u1", PARTS**2),
    ]
)
# Copies were at most 0.15 apart (aliased lines of one pixel as JPEG of quality 30), half of them
# below 0.02.
MAX_DISTANCE = 0.16
# Copies differed by at most 33 of 255 in a part (38 pixels a side, as JPEG of quality 50).
MAX_PART_DIFFERENCE = 36
# How far each of the first numbers may be from a copy's, and the width of the cells they fall into.
_TOLERANCE = 0.08
_CELL = 0.24
# The frequencies (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (2, 0) and (2, 1), by their places.
_CELL_NUMBERS = (0, 1, 5, 6, 7, 11, 12)
_LOOKED_AT = 256
_ALONE = 2**18
# Tiles on the longer side, at most, behind the picture's size.
_TILES = 64
_SIZE = struct.Struct("<II")
_FLAT = 0.02

# Of the smaller side to the larger: below it too little is left to tell labels apart.
MIN_SCALE = 0.35
# Grey levels, after a blur over 3 x 3 pixels.
MAX_DIFFERENCE = 40.0
MAX_OUTLIER = 9.0
_NOISE_FLOOR = 1.5
_EDGE = 40.0
MAX_COLOUR_DIFFERENCE = 24.0

_Plane = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Look:
    """What a picture looks like from afar.

    Its size, its low frequencies as a unit vector (zeros where it has no contrast), and the mean
    greys of its parts, row by row.
    """

    width: int
    height: int
    frequencies: tuple[float, ...]
    greys: bytes

    def to_bytes(self) -> bytes:
        """As many bytes for every look."""
        record = ((self.width, self.height), self.frequencies, tuple(self.greys))
        return np.array([record], _STORED).tobytes()

    @staticmethod
    def from_bytes(data: bytes) -> "Look":
        """The inverse of `to_bytes`."""
        (record,) = np.frombuffer(data, _STORED)
        width, height = record["size"].tolist()
        return Look(width, height, tuple(record["frequencies"].tolist()), record["greys"].tobytes())


def near(looks: Sequence[Look], stored: bytes) -> tuple[NDArray[np.intp], _Plane]:
    """Which problems may have copies of these pictures, in their own order, and how far they are.

    Args:
        looks: of a problem's pictures.
        stored: the looks of as many pictures for each of n other problems, one behind another.

    Returns:
        Indices from 0 to n - 1 [m], and the distances [m] of the frequencies of the pictures that
        are furthest from each other.
    """
    mine = np.frombuffer(b"".join(look.to_bytes() for look in looks), _STORED)
    others = np.frombuffer(stored, _STORED).reshape(-1, len(looks))
    # First what rules out nearly all, in bytes.
    greys, other_greys = mine["greys"], others["greys"]
    parts = np.maximum(greys, other_greys) - np.minimum(greys, other_greys)
    places = np.flatnonzero(parts.max(axis=(1, 2)) <= MAX_PART_DIFFERENCE)
    if not len(places):
        return places, np.zeros(0, np.float32)
    others = others[places]
    distances = np.linalg.norm(
        mine["frequencies"].astype(np.float32) - others["frequencies"].astype(np.float32), axis=2
    )
    possible = (
        _of_one_shape(mine["size"].astype(np.float64), others["size"].astype(np.float64))
        & (distances <= MAX_DISTANCE)
    ).all(axis=1) & _in_cells(mine["frequencies"][0], others["frequencies"][:, 0])
    return places[possible], cast(_Plane, distances.max(axis=1)[possible])


def _of_one_shape(sizes: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether pictures of these sizes [images, 2] and [n, images, 2] may be one, resized."""
    ratio = others.sum(axis=2) / sizes.sum(axis=1)
    # The smaller one's sides were rounded to whole pixels.
    ratios = ratio[:, :, None]
    gap = np.abs(sizes * ratios - others) / np.maximum(ratios, 1)
    return (np.minimum(ratio, 1 / ratio) >= MIN_SCALE) & (gap.max(axis=2) <= 1)


def _in_cells(frequencies: NDArray[np.float16], others: NDArray[np.float16]) -> NDArray[np.bool_]:
    """Which of `others` [n, 35] have their first numbers in cells that reach into the tolerance."""
    numbers = frequencies[list(_CELL_NUMBERS)].astype(np.float64)
    cells = _cells_of(others[:, list(_CELL_NUMBERS)].astype(np.float64))
    least, most = _cells_of(numbers - _TOLERANCE), _cells_of(numbers + _TOLERANCE)
    return np.all((least <= cells) & (cells <= most), axis=1)


def _cells_of(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.floor((values + 2) / _CELL)


def points(stored: bytes, images: int) -> _Plane:
    """[n, numbers]: the first looks of problems of so many images, as an index files them.

    Those of copies differ by less than 1 in each number.
    """
    first = np.frombuffer(stored, _STORED).reshape(-1, images)[:, 0]
    frequencies, greys = first["frequencies"], first["greys"]
    return np.concatenate(
        (
            frequencies.astype(np.float32) / (MAX_DISTANCE * 1.01),
            greys.astype(np.float32) / (MAX_PART_DIFFERENCE + 0.5),
        ),
        axis=1,
    )


def look_of(image: Image.Image) -> Look:
    """The look of an RGB or grey picture."""
    grey = _grey(image)
    shrink = max(grey.size) // _LOOKED_AT
    if shrink > 1:
        grey = grey.reduce(shrink)
    pixels = np.asarray(grey, np.float32)
    high, wide = pixels.shape
    weights = np.concatenate((_waves(high), _shares(high)))
    rows = _product(weights, pixels)
    numbers = (rows[:FREQUENCIES] @ _waves(wide).T).ravel()[1:]
    length = float(np.linalg.norm(numbers))
    unit = numbers / length if length > _FLAT else np.zeros_like(numbers)
    greys = np.rint(rows[FREQUENCIES:] @ _shares(wide).T).clip(0, 255).astype(np.uint8)
    rounded = cast("list[float]", unit.astype(np.float16).tolist())
    return Look(image.width, image.height, tuple(rounded), greys.tobytes())


def _grey(image: Image.Image) -> Image.Image:
    return image if image.mode == "L" else image.convert("L")  # which copies a grey one


def _product(weights: _Plane, pixels: _Plane) -> _Plane:
    """[k, W], of weights [k, H] and pixels [H, W], by this thread alone.

    OpenBLAS wakes its threads for more than `_ALONE` multiplications, which spin for a millisecond
    afterwards: a product of 0.1 ms then takes 2 ms of every core.
    """
    columns = max(1, _ALONE // weights.size)
    pieces = [
        weights @ pixels[:, start : start + columns] for start in range(0, pixels.shape[1], columns)
    ]
    return np.concatenate(pieces, axis=1)


@lru_cache(maxsize=1024)
def _waves(count: int) -> _Plane:
    """[FREQUENCIES, count]: the cosines, divided by `count`."""
    places = (np.arange(count) + 0.5) / count
    return (np.cos(np.pi * np.arange(FREQUENCIES)[:, None] * places) / count).astype(np.float32)


@lru_cache(maxsize=1024)
def _shares(count: int) -> _Plane:
    """[PARTS, count]: how much of each part a pixel is."""
    edges, pixels = np.linspace(0, count, PARTS + 1), np.arange(count)
    inside = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return (inside.clip(0, 1) * PARTS / count).astype(np.float32)


def tiles_of(image: Image.Image) -> bytes:
    """The size of an RGB or grey picture, and the mean greys of its whole tiles, row by row."""
    grey = _grey(image)
    side = 3 * -(-max(grey.size) // (3 * _TILES))
    whole = (0, 0, grey.width // side * side, grey.height // side * side)
    greys = grey.reduce(side, whole).tobytes() if min(whole[2:]) else b""
    return _SIZE.pack(*grey.size) + greys


def packed(tiles: Sequence[bytes]) -> bytes:
    """The tiles of a problem's pictures, to be kept."""
    return zlib.compress(b"".join(tiles), 1)


def tiles_differ(tiles: Sequence[bytes], kept: bytes) -> bool:
    """Whether the pictures of two problems cannot be the same; no says nothing.

    `kept` is what `packed` made of the tiles of the other problem.

    Where no mean over 3 x 3 pixels differs by more than `MAX_DIFFERENCE`, none over a tile does: it
    is made of such means.
    """
    others, start = zlib.decompress(kept), 0
    for mine in tiles:
        other = others[start : start + len(mine)]
        if mine[: _SIZE.size] != other[: _SIZE.size]:
            return False
        start += len(mine)
        one = np.frombuffer(mine, np.uint8, offset=_SIZE.size)
        another = np.frombuffer(other, np.uint8, offset=_SIZE.size)
        difference = np.maximum(one, another) - np.minimum(one, another)
        # Both were rounded.
        if difference.max(initial=0) > MAX_DIFFERENCE + 1:
            return True
    return False


def same_picture(one: bytes, other: bytes) -> bool:
    """Whether two encoded pictures show the same, label for label; both must decode."""
    small, large = sorted((_decoded(one), _decoded(other)), key=lambda i: i.width * i.height)
    size = small.size
    if large.size != size:
        large = large.resize(size, Image.Resampling.BICUBIC)
    if not _same_greys(_plane(small, "L"), _plane(large, "L")):
        return False
    # Encoders keep colours coarsely, so they are compared coarsely: over 8 x 8 pixels.
    coarse = (max(1, size[0] // 8), max(1, size[1] // 8))
    one_plane, other_plane = (
        np.asarray(image.convert("YCbCr").resize(coarse, Image.Resampling.BILINEAR), np.float32)
        for image in (small, large)
    )
    return float(np.abs(one_plane - other_plane)[:, :, 1:].max()) <= MAX_COLOUR_DIFFERENCE


def _decoded(data: bytes) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the picture was checked before
        with Image.open(io.BytesIO(data)) as image:
            return image.convert("RGB")


def _plane(image: Image.Image, mode: str) -> _Plane:
    return np.asarray(image.convert(mode), np.float32)


def _same_greys(one: _Plane, other: _Plane) -> bool:
    """Whether the largest difference is small, and no outlier among those at the edges."""
    # Means of each 3 x 3 pixels.
    difference = np.abs(cast(_Plane, _filters().uniform_filter(one - other, 3)))
    largest = float(difference.max())
    if largest > MAX_DIFFERENCE:
        return False
    if largest <= MAX_OUTLIER * _NOISE_FLOOR:
        return True
    edges = np.maximum(_contrast(one), _contrast(other)) > _EDGE
    noise = float(np.percentile(difference[edges], 75)) if edges.any() else 0.0
    return largest <= MAX_OUTLIER * max(noise, _NOISE_FLOOR)


def _contrast(plane: _Plane) -> _Plane:
    """Brightest minus darkest of each 5 x 5 pixels."""
    filters = _filters()
    return cast(_Plane, filters.maximum_filter(plane, 5) - filters.minimum_filter(plane, 5))


def _filters() -> Any:
    # Imported where it is needed: few preparations have two pictures to compare.
    from scipy import ndimage  # pyright: ignore[reportMissingTypeStubs]

    return ndimage
