"""Whether two pictures are the same figure: encoded again, or at another size.

In two stages. A `Look` finds who may be the same. It holds 35 low frequencies of the picture,

    c[k, l] = mean over y, x of grey(y, x) cos(pi k (y + 1/2) / H) cos(pi l (x + 1/2) / W),

k and l from 0 to 5 without (0, 0), scaled to length 1, by which it is filed, and the mean greys of
16 x 16 parts, which rule out nearly all that is filed beside it. `same_picture` then lays two
pictures over each other, at the size of the smaller one, and asks whether what differs is spread
over all edges, as an encoder's noise is, or stands in one place, as another label does.

The bounds were measured (docs/performance.md has the rates, benchmarks/duplicates.py makes them).
"""

import io
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
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
LOOK_BYTES = _STORED.itemsize
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
        """`LOOK_BYTES` bytes."""
        record = ((self.width, self.height), self.frequencies, tuple(self.greys))
        return np.array([record], _STORED).tobytes()

    @staticmethod
    def from_bytes(data: bytes) -> "Look":
        """The inverse of `to_bytes`."""
        (record,) = np.frombuffer(data, _STORED)
        width, height = record["size"].tolist()
        return Look(width, height, tuple(record["frequencies"].tolist()), record["greys"].tobytes())

    def cell(self) -> bytes:
        """The cell that this look is filed in."""
        return bytes(_cell_of(self.frequencies[place]) for place in _CELL_NUMBERS)

    def cells(self) -> Iterator[bytes]:
        """All cells in which the look of a copy may be filed, at most 128."""
        ranges: list[list[int]] = []
        for place in _CELL_NUMBERS:
            value = self.frequencies[place]
            ranges.append(sorted({_cell_of(value - _TOLERANCE), _cell_of(value + _TOLERANCE)}))
        return (bytes(numbers) for numbers in product(*ranges))


def closest(looks: Sequence[Look], stored: Sequence[bytes]) -> list[int]:
    """Which problems may have copies of these pictures, the likest first.

    Args:
        looks: of a problem's pictures.
        stored: the looks of as many pictures for each of other problems, as bytes.

    Returns:
        Indices into `stored`.
    """
    mine = np.frombuffer(b"".join(look.to_bytes() for look in looks), _STORED)
    others = np.frombuffer(b"".join(stored), _STORED).reshape(len(stored), len(looks))
    sizes, other_sizes = mine["size"].astype(np.float64), others["size"].astype(np.float64)
    ratio = other_sizes.sum(axis=2) / sizes.sum(axis=1)
    # The smaller one's sides were rounded to whole pixels.
    ratios = ratio[:, :, None]
    gap = np.abs(sizes * ratios - other_sizes) / np.maximum(ratios, 1)
    parts = np.abs(mine["greys"].astype(np.int16) - others["greys"].astype(np.int16))
    distances = np.linalg.norm(
        mine["frequencies"].astype(np.float32) - others["frequencies"].astype(np.float32), axis=2
    )
    possible = (
        (np.minimum(ratio, 1 / ratio) >= MIN_SCALE)
        & (gap.max(axis=2) <= 1)
        & (parts.max(axis=2) <= MAX_PART_DIFFERENCE)
        & (distances <= MAX_DISTANCE)
    ).all(axis=1)
    order = np.argsort(distances.max(axis=1), kind="stable")
    return cast("list[int]", order[possible[order]].tolist())


def _cell_of(value: float) -> int:
    return int((value + 2) / _CELL)


def look_of(image: Image.Image) -> Look:
    """The look of an RGB or grey picture."""
    grey = image.convert("L")
    shrink = max(grey.size) // _LOOKED_AT
    if shrink > 1:
        grey = grey.reduce(shrink)
    pixels = np.asarray(grey, np.float32)
    high, wide = pixels.shape
    numbers = (_waves(high) @ pixels @ _waves(wide).T).ravel()[1:]
    length = float(np.linalg.norm(numbers))
    unit = numbers / length if length > _FLAT else np.zeros_like(numbers)
    greys = np.rint(_shares(high) @ pixels @ _shares(wide).T).clip(0, 255).astype(np.uint8)
    rounded = cast("list[float]", unit.astype(np.float16).tolist())
    return Look(image.width, image.height, tuple(rounded), greys.tobytes())


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


def same_picture(one: bytes, other: bytes) -> bool:
    """Whether two encoded pictures show the same, label for label; both must decode."""
    small, large = sorted((_decoded(one), _decoded(other)), key=lambda i: i.width * i.height)
    size = small.size
    if large.size != size:
        large = large.resize(size, Image.Resampling.BICUBIC)
    return _same_greys(_plane(small, "L"), _plane(large, "L")) and _same_colours(small, large)


def _decoded(data: bytes) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the picture was checked before
        with Image.open(io.BytesIO(data)) as image:
            return image.convert("RGB")


def _plane(image: Image.Image, mode: str) -> _Plane:
    return np.asarray(image.convert(mode), np.float32)


def _same_greys(one: _Plane, other: _Plane) -> bool:
    """Whether the largest difference is small, and no outlier among those at the edges."""
    difference = np.abs(_blurred(one - other))
    largest = float(difference.max())
    if largest > MAX_DIFFERENCE:
        return False
    if largest <= MAX_OUTLIER * _NOISE_FLOOR:
        return True
    edges = np.maximum(_contrast(one), _contrast(other)) > _EDGE
    noise = float(np.percentile(difference[edges], 75)) if edges.any() else 0.0
    return largest <= MAX_OUTLIER * max(noise, _NOISE_FLOOR)


def _same_colours(one: Image.Image, other: Image.Image) -> bool:
    """Encoders keep colours coarsely, so they are compared coarsely: over 8 x 8 pixels."""
    size = (max(1, one.width // 8), max(1, one.height // 8))
    planes = [
        np.asarray(image.convert("YCbCr").resize(size, Image.Resampling.BILINEAR), np.float32)
        for image in (one, other)
    ]
    return float(np.abs(planes[0] - planes[1])[:, :, 1:].max()) <= MAX_COLOUR_DIFFERENCE


def _blurred(plane: _Plane) -> _Plane:
    """The mean of each 3 x 3 pixels."""
    return cast(_Plane, _filters().uniform_filter(plane, 3))


def _contrast(plane: _Plane) -> _Plane:
    """Brightest minus darkest of each 5 x 5 pixels."""
    filters = _filters()
    return cast(_Plane, filters.maximum_filter(plane, 5) - filters.minimum_filter(plane, 5))


def _filters() -> Any:
    # Imported where it is needed: few preparations have two pictures to compare.
    from scipy import ndimage  # pyright: ignore[reportMissingTypeStubs]

    return ndimage
