"""Whether two pictures are the same figure: encoded again, or at another size.

In two stages. A `Look` is 35 low frequencies of the picture,

    c[k, l] = mean over y, x of grey(y, x) cos(pi k (y + 1/2) / H) cos(pi l (x + 1/2) / W),

k and l from 0 to 5 without (0, 0), scaled to length 1: it does not depend on size, brightness and
contrast, and finds who may be the same. `same_picture` then lays the two over each other, at the
size of the smaller one, and asks whether what differs is spread over all edges, as an encoder's
noise is, or stands in one place, as another label does.

The bounds were measured (docs/performance.md has the rates, benchmarks/duplicates.py makes them).
"""

import io
import math
import struct
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

FREQUENCIES = 6
LOOK_BYTES = 8 + 2 * (FREQUENCIES**2 - 1)
# Copies were at most 0.15 apart (aliased lines of one pixel as JPEG of quality 30), half of them
# below 0.02.
MAX_DISTANCE = 0.16
# How far each of the first numbers may be from a copy's, and the width of the cells they fall into.
_TOLERANCE = 0.08
_CELL = 0.24
# The frequencies (0, 1), (0, 2), (1, 0), (1, 1) and (2, 0), by their places.
_CELL_NUMBERS = (0, 1, 5, 6, 11)
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
    """What a picture looks like from afar: its size, and its low frequencies as a unit vector.

    A picture without any contrast has zeros.
    """

    width: int
    height: int
    frequencies: tuple[float, ...]

    def to_bytes(self) -> bytes:
        """`LOOK_BYTES` bytes; frequencies are rounded to half precision."""
        return struct.pack(
            f"<II{len(self.frequencies)}e", self.width, self.height, *self.frequencies
        )

    @staticmethod
    def from_bytes(data: bytes) -> "Look":
        """The inverse of `to_bytes`."""
        width, height, *frequencies = struct.unpack(f"<II{FREQUENCIES**2 - 1}e", data)
        return Look(width, height, tuple(frequencies))

    def cell(self) -> bytes:
        """The cell that this look falls into."""
        return bytes(_cell_of(self.frequencies[place]) for place in _CELL_NUMBERS)

    def cells(self) -> Iterator[bytes]:
        """All cells into which the look of a copy may fall, at most 32."""
        ranges: list[list[int]] = []
        for place in _CELL_NUMBERS:
            value = self.frequencies[place]
            ranges.append(sorted({_cell_of(value - _TOLERANCE), _cell_of(value + _TOLERANCE)}))
        return (bytes(numbers) for numbers in product(*ranges))

    def may_be_copy(self, other: "Look") -> bool:
        """Whether `same_picture` is worth asking."""
        small, large = sorted((self, other), key=lambda look: look.width * look.height)
        scale = (small.width + small.height) / (large.width + large.height)
        # A copy's sides were rounded to whole pixels.
        return (
            scale >= MIN_SCALE
            and abs(small.width - large.width * scale) <= 1
            and abs(small.height - large.height * scale) <= 1
            and self.distance(other) <= MAX_DISTANCE
        )

    def distance(self, other: "Look") -> float:
        """How far two looks are apart: 0 for the same, at most 2."""
        return math.dist(self.frequencies, other.frequencies)


def _cell_of(value: float) -> int:
    return int((value + 2) / _CELL)


def look_of(image: Image.Image) -> Look:
    """The look of an RGB or grey picture."""
    grey = image.convert("L")
    shrink = max(grey.size) // _LOOKED_AT
    if shrink > 1:
        grey = grey.reduce(shrink)
    pixels = np.asarray(grey, np.float32)
    high, wide = _waves(pixels.shape[0]), _waves(pixels.shape[1])
    numbers = (high @ pixels @ wide.T).ravel()[1:]
    length = float(np.linalg.norm(numbers))
    unit = numbers / length if length > _FLAT else np.zeros_like(numbers)
    rounded = cast("list[float]", unit.astype(np.float16).tolist())
    return Look(image.width, image.height, tuple(rounded))


@lru_cache(maxsize=1024)
def _waves(count: int) -> _Plane:
    """[FREQUENCIES, count]: the cosines, divided by `count`."""
    places = (np.arange(count) + 0.5) / count
    return (np.cos(np.pi * np.arange(FREQUENCIES)[:, None] * places) / count).astype(np.float32)


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
