"""Normalisation whose statistics are those of the whole image, frozen before any tile is seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from i2i.contracts import Array, ImageSpec, Source
from i2i.errors import ModelError
from i2i.geometry import Region

_SAMPLES = 64
_SAMPLE_SIDE = 256
_FAR = 60_000.0
"""Normalised values of floating-point images are cut off here: a network computes with none larger, in 16 bits least of all."""


@dataclass(frozen=True)
class Normalization:
    """``pixels -> (pixels - offset) / scale`` for each channel.

    ``method``: ``percentile`` maps the ``low`` and ``high`` percentiles of the whole image to 0 and 1 (hot pixels do little);
    ``range`` maps the dtype's range (of floats: 0 .. 1) to 0 .. 1; ``none`` changes nothing. ``offset`` and ``scale`` are
    empty until :func:`freeze`.
    """

    method: str = "percentile"
    low: float = 1.0
    high: float = 99.8
    offset: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()

    @staticmethod
    def from_mapping(values: Mapping[str, Any]) -> Normalization:
        """From a model's header or a manifest. Raises ``ModelError`` for an unknown method or field."""
        lists: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        try:
            result = Normalization(**lists)
        except TypeError as error:
            raise ModelError(f"unknown normalisation: {error}") from error
        lists_ok = isinstance(result.offset, tuple) and isinstance(result.scale, tuple)
        numbers = (result.low, result.high, *(result.offset + result.scale if lists_ok else ()))
        if not lists_ok or not all(isinstance(number, int | float) for number in numbers):
            raise ModelError("normalization: low and high must be percentiles, offset and scale lists of numbers")
        if result.method not in ("percentile", "range", "none"):
            raise ModelError(f"unknown normalisation {result.method!r}")
        return result

    def as_mapping(self) -> dict[str, Any]:
        return {
            "method": self.method, "low": self.low, "high": self.high,
            "offset": list(self.offset), "scale": list(self.scale),
        }  # fmt: skip

    def freeze(self, source: Source, seed: int) -> Normalization:
        """With the statistics of ``source``: exact up to 4 megapixels, above them from seeded windows at full resolution."""
        channels = source.spec.channels
        if self.method == "none":
            return replace(self, offset=(0.0,) * channels, scale=(1.0,) * channels)
        if self.method == "range":
            low, high = _dtype_range(source.spec.dtype)
            return replace(self, offset=(low,) * channels, scale=(high - low,) * channels)
        pixels = sample_pixels(source, seed)
        if pixels.dtype == bool:
            pixels = pixels.astype(np.uint8)  # numpy interpolates by subtraction, which booleans do not have
        darkest, brightest = np.percentile(pixels, [self.low, self.high], axis=0)
        spread = np.where(brightest > darkest, brightest - darkest, 1.0)
        return replace(self, offset=tuple(darkest.tolist()), scale=tuple(spread.tolist()))

    def apply(self, pixels: Array) -> npt.NDArray[np.float32]:
        """(H, W, C) of any dtype -> float32 of the same shape."""
        kind = np.float32 if pixels.dtype.itemsize <= 2 or pixels.dtype == np.float32 else np.float64
        with np.errstate(over="ignore"):
            result = np.subtract(pixels, np.asarray(self.offset, kind), dtype=kind)
            result /= np.asarray(self.scale, kind)
        if pixels.dtype.kind == "f":
            np.clip(result, -_FAR, _FAR, out=result)
        return result.astype(np.float32, copy=False)


def _dtype_range(dtype: str) -> tuple[float, float]:
    kind = np.dtype(dtype)
    if kind.kind in "iu":
        limits = np.iinfo(kind)
        return float(limits.min), float(limits.max)
    return 0.0, 1.0


def sample_regions(spec: ImageSpec, seed: int) -> list[Region]:
    """The whole image up to 4 megapixels; else windows of 256 x 256 at seeded places."""
    if spec.height * spec.width <= _SAMPLES * _SAMPLE_SIDE**2:
        return [spec.region]
    random = np.random.default_rng(seed)
    height, width = min(_SAMPLE_SIDE, spec.height), min(_SAMPLE_SIDE, spec.width)
    rows = random.integers(0, spec.height - height + 1, _SAMPLES)
    columns = random.integers(0, spec.width - width + 1, _SAMPLES)
    return [Region(int(y), int(x), height, width) for y, x in zip(rows, columns, strict=True)]


def sample_pixels(source: Source, seed: int) -> Array:
    """(K, C) pixels that stand for the whole image, in its dtype."""
    parts = [source.read(region).reshape(-1, source.spec.channels) for region in sample_regions(source.spec, seed)]
    return np.concatenate(parts)
