"""NaN and Inf in floating-point images: counted and refused, or read as zero."""

from __future__ import annotations

import numpy as np

from i2i.contracts import Array, Source
from i2i.errors import InputError
from i2i.formats.views import missing_tiles
from i2i.geometry import Region, make_grid

_SIDE = 2048


def count_non_finite(source: Source) -> int:
    """How many samples are NaN or Inf; reads the whole image, all planes, by regions. 0 at once for integers."""
    if np.dtype(source.spec.dtype).kind != "f":
        return 0
    grid = make_grid((source.spec.height, source.spec.width), (_SIDE, _SIDE))
    planes = range(source.spec.plane_count)
    return sum(int((~np.isfinite(source.read(block.region, plane))).sum()) for plane in planes for block in grid.blocks())


class ZeroFilled:
    """A source whose NaN and Inf read as 0."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.spec = source.spec

    def read(self, region: Region, plane: int = 0, level: int = 0) -> Array:
        return np.nan_to_num(self._source.read(region, plane, level), nan=0, posinf=0, neginf=0)

    @property
    def missing_tiles(self) -> int:
        return missing_tiles(self._source)

    def close(self) -> None:
        self._source.close()


def make_finite(source: Source, rule: str, name: str) -> tuple[Source, tuple[str, ...]]:
    """The source with finite samples only, and warnings. ``rule``: ``zero`` or ``error``, which raises ``InputError``."""
    count = count_non_finite(source)
    if not count:
        return source, ()
    found, them = ("1 sample is", "it") if count == 1 else (f"{count} samples are", "them")
    if rule == "error":
        raise InputError(f"{name}: {found} NaN or Inf; --nan zero reads {them} as 0")
    return ZeroFilled(source), (f"{found} NaN or Inf, read as 0",)
