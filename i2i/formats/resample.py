"""Images at another pixel size: resampled on one global grid as they are read, so that every tiling gives the same pixels.

Output pixel ``i`` of an axis is centred at ``(i + 0.5) / factor - 0.5`` of the input. Pixels are weighted by a triangle
around it: of half-width 1 where the image grows (bilinear), of ``1 / factor`` where it shrinks, so that nothing is
skipped. Labels and classes take the nearest pixel.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from i2i.contracts import Array, ImageSpec, Source
from i2i.formats.views import missing_tiles
from i2i.geometry import Region

_MOST_BYTES = 2**26
"""That are taken to read a region, besides the result: it may need many times its own size, or have many channels."""
_WEIGHED = 32
"""Bytes that a sample takes while it is weighted: as it is read, and up to three times in float64."""


@dataclass(frozen=True)
class _Taps:
    """For each of N output pixels along an axis, T input pixels and their weights, (N, T): in a constant order, summing to 1."""

    indices: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float64]

    @property
    def span(self) -> tuple[int, int]:
        """The first input pixel needed, and the number of them."""
        first = int(self.indices.min())
        return first, int(self.indices.max()) - first + 1


def _taps(start: int, count: int, size: int, factor: float, nearest: bool) -> _Taps:
    """Those of ``count`` output pixels from ``start`` on, for an input axis of ``size`` pixels; beyond it there is nothing."""
    centres = (np.arange(start, start + count, dtype=np.float64) + 0.5) / factor
    if nearest:
        return _Taps(np.floor(centres).astype(np.int64).clip(0, size - 1)[:, None], np.ones((count, 1)))
    centres -= 0.5
    reach = max(1.0, 1 / factor)
    first = np.floor(centres - reach).astype(np.int64) + 1
    indices = first[:, None] + np.arange(math.ceil(2 * reach) + 1)
    weights = np.maximum(0, 1 - np.abs(indices - centres[:, None]) / reach)
    weights[(indices < 0) | (indices >= size)] = 0
    return _Taps(indices.clip(0, size - 1), weights / weights.sum(1, keepdims=True))


class Resampled:
    """A source on another grid: ``factors`` times as high and wide, described by ``spec`` (of the source's channels, dtype
    and planes). ``nearest``: for numbers that are names. A :class:`~i2i.contracts.Source`."""

    def __init__(self, source: Source, spec: ImageSpec, factors: tuple[float, float], nearest: bool = False) -> None:
        self._source, self._factors, self._nearest = source, factors, nearest
        self.spec = dataclasses.replace(spec, levels=(), tiling=None)

    @property
    def missing_tiles(self) -> int:
        """Of the source, where it counts them; else 0."""
        return missing_tiles(self._source)

    def read(self, region: Region, plane: int = 0, level: int = 0) -> Array:
        """See :class:`i2i.contracts.Source`; ``level`` can only be 0. What is read of the source at once is bounded."""
        size = self._source.spec
        rows = _taps(region.y, region.height, size.height, self._factors[0], self._nearest)
        columns = _taps(region.x, region.width, size.width, self._factors[1], self._nearest)
        (top, height), (left, width) = rows.span, columns.span
        sample = np.dtype(size.dtype).itemsize if self._nearest else _WEIGHED
        if height * width * size.channels * sample > _MOST_BYTES and region.height > 1:
            half = region.height // 2
            upper = Region(region.y, region.x, half, region.width)
            lower = Region(region.y + half, region.x, region.height - half, region.width)
            return np.concatenate([self.read(upper, plane), self.read(lower, plane)])
        pixels = self._source.read(Region(top, left, height, width), plane)
        if self._nearest:
            return np.ascontiguousarray(pixels[rows.indices - top, (columns.indices - left).T])
        summed = _weighted(_weighted(pixels, rows, top), columns, left, axis=1)
        return _as(summed, self.spec.dtype)

    def close(self) -> None:
        self._source.close()


def _weighted(pixels: Array, taps: _Taps, first: int, axis: int = 0) -> npt.NDArray[np.float64]:
    """The weighted sums along an axis of (H, W, C), one tap after the other: the same for every region."""
    shape = (-1, 1, 1) if axis == 0 else (1, -1, 1)
    parts = (
        pixels.take(taps.indices[:, tap] - first, axis) * taps.weights[:, tap].reshape(shape)
        for tap in range(taps.weights.shape[1])
    )
    total = next(parts).astype(np.float64, copy=False)
    for part in parts:
        total += part
    return total


def _as(values: npt.NDArray[np.float64], dtype: str) -> Array:
    """Rounded where the dtype has no fractions."""
    return values.astype(dtype) if np.dtype(dtype).kind == "f" else values.round().astype(dtype)


def at_size(source: Source, size: tuple[int, int]) -> Source:
    """An image brought to that height and width, its pixels as much larger or smaller; as it is where it has them."""
    spec = source.spec
    if size == (spec.height, spec.width):
        return source
    return resampled(source, (size[0] / spec.height, size[1] / spec.width))


def level_for(levels: Sequence[tuple[int, int]], size: tuple[int, int], least: int = 0) -> int:
    """The smallest level, from ``least`` on, that is not below ``size`` (height, width) on either axis; else ``least``."""
    fitting = [number for number, own in enumerate(levels) if number > least and own[0] >= size[0] and own[1] >= size[1]]
    return min(fitting, key=lambda number: levels[number], default=least)


def resampled(source: Source, factors: tuple[float, float]) -> Source:
    """An image ``factors`` times as high and wide (rounded), its pixels as much smaller."""
    spec = source.spec
    height, width = max(1, round(spec.height * factors[0])), max(1, round(spec.width * factors[1]))
    size = spec.pixel_size and (spec.pixel_size[0] / factors[0], spec.pixel_size[1] / factors[1])
    return Resampled(source, dataclasses.replace(spec, height=height, width=width, pixel_size=size), factors)
