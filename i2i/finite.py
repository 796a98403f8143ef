"""NaN and Inf in floating-point images: counted and refused, or read as zero. So are numbers too large to be computed with in 32
bits, which some programs write where there are no data. In what a network answers, NaN and Inf are an error."""

from __future__ import annotations

import numpy as np

from i2i.contracts import Array, Source
from i2i.errors import InputError, NotFinite
from i2i.formats.views import missing_tiles
from i2i.geometry import Region, make_grid

_SIDE = 2048
LARGEST = 1e37
"""Above it a difference or a sum of a few samples is no number of 32 bits any more."""


def usable(pixels: Array) -> Array:
    """Which samples of floating-point pixels are numbers that can be computed with: booleans of the same shape."""
    return np.isfinite(pixels) if pixels.dtype.itemsize < 4 else np.abs(pixels) <= LARGEST


def count_unusable(source: Source) -> tuple[int, int]:
    """How many samples are NaN or Inf, and how many too large; reads the whole image, all planes, by regions. 0 at once for
    integers."""
    if np.dtype(source.spec.dtype).kind != "f":
        return 0, 0
    grid = make_grid((source.spec.height, source.spec.width), (_SIDE, _SIDE))
    infinite = large = 0
    for plane in range(source.spec.plane_count):
        for block in grid.blocks():
            pixels = source.read(block.region, plane)
            wrong = int((~np.isfinite(pixels)).sum())
            infinite, large = infinite + wrong, large + int((~usable(pixels)).sum()) - wrong
    return infinite, large


def require_finite(values: Array) -> None:
    """Raises ``NotFinite`` for numbers among which one is NaN or Inf. One sum tells, unless it overflows."""
    with np.errstate(all="ignore"):
        total = values.sum()
    if not np.isfinite(total) and not np.isfinite(values).all():
        raise NotFinite


class ZeroFilled:
    """A source whose samples that are not :func:`usable` read as 0."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.spec = source.spec

    def read(self, region: Region, plane: int = 0, level: int = 0) -> Array:
        pixels = self._source.read(region, plane, level)
        return np.where(usable(pixels), pixels, pixels.dtype.type(0))

    @property
    def missing_tiles(self) -> int:
        return missing_tiles(self._source)

    def close(self) -> None:
        self._source.close()


def plan_finite(source: Source) -> tuple[Source, tuple[str, ...]]:
    """The same for a plan, at once: NaN and Inf are not counted, which would read the whole image, and read as 0."""
    return (ZeroFilled(source) if np.dtype(source.spec.dtype).kind == "f" else source), ()


def make_finite(source: Source, rule: str, name: str) -> tuple[Source, tuple[str, ...]]:
    """The source with finite samples only, and warnings. ``rule``: ``zero`` or ``error``, which raises ``InputError``."""
    infinite, large = count_unusable(source)
    count = infinite + large
    if not count:
        return source, ()
    found, them = ("1 sample is", "it") if count == 1 else (f"{count} samples are", "them")
    what = "NaN, Inf or beyond 1e37" if large else "NaN or Inf"
    if rule == "error":
        raise InputError(f"{name}: {found} {what}; --nan zero reads {them} as 0")
    return ZeroFilled(source), (f"{found} {what}, read as 0",)
