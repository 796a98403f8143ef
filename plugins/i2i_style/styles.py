"""The pictures that a style is taken from: what ``--style`` says, and their pixels."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from i2i.contracts import Array, Source
from i2i.errors import InputError, UsageError
from i2i.formats import open_image
from i2i.formats.resample import resampled
from i2i.formats.views import read_whole
from i2i.geometry import Region

Rgb = npt.NDArray[np.float32]
"""(H, W, 3) float32, 0 .. 1."""
_WHITE = 1.01
"""Floats above it are no picture of 0 .. 1: resampling and conversion may exceed 1 a little."""


@dataclass(frozen=True)
class Style:
    """A picture and its weight; the weights of all styles sum to one."""

    path: Path
    weight: float = 1.0


def parse_styles(texts: Sequence[str]) -> tuple[Style, ...]:
    """``starry.jpg``, or ``starry.jpg:2`` with a weight. Raises ``UsageError`` for no style, and for weights that are no numbers
    above 0."""
    if not texts:
        raise UsageError("--style is required: a picture whose style the result gets")
    found = [_parse(text) for text in texts]
    total = sum(style.weight for style in found)
    return tuple(Style(style.path, style.weight / total) for style in found)


def _parse(text: str) -> Style:
    """A file whose own name ends like a weight is taken as it is."""
    if text == "-":
        raise UsageError("--style -: only the input can come from stdin; give a file")
    path, colon, weight = text.rpartition(":")
    if not colon or Path(text).exists():
        return Style(Path(text))
    try:
        value = float(weight)
    except ValueError:
        return Style(Path(text))  # the colon is part of a name
    if not 0 < value < float("inf"):
        raise UsageError(f"--style {text}: the weight after the colon must be above 0")
    return Style(Path(path), value)


class _Rgb:
    """A picture read by region as RGB (H, W, 3) float32, 0 .. 1. A :class:`~i2i.contracts.Source`."""

    def __init__(self, source: Source, path: Path) -> None:
        self._source, self._path = source, path
        self.spec = replace(source.spec, channels=3, dtype="float32", levels=(), channel_names=())

    def read(self, region: Region, plane: int = 0, level: int = 0) -> Rgb:
        try:
            return to_rgb(self._source.read(region, plane))
        except InputError as error:
            raise InputError(f"{self._path}: {error}" if str(self._path) not in str(error) else str(error)) from error

    def close(self) -> None:
        self._source.close()


def open_rgb(path: Path, longest: int = 0) -> Source:
    """A picture, read by region: (H, W, 3) float32, 0 .. 1; gray as three equal channels, alpha left out. ``longest``: its longer
    side at most, shrunk to it; 0: as it is. Raises ``InputError`` for what is no picture, when it is opened or read."""
    source = open_image(path)
    spec = source.spec
    if spec.channels not in (1, 2, 3, 4):
        source.close()
        raise InputError(f"{path}: has {spec.channels} channels; give a picture of one or three")
    factor = min(1.0, longest / max(spec.height, spec.width)) if longest else 1.0
    return _Rgb(source if factor == 1 else resampled(source, (factor, factor)), path)


def read_rgb(path: Path, longest: int = 0) -> Rgb:
    """All of :func:`open_rgb`."""
    with closing(open_rgb(path, longest)) as source:
        return read_whole(source, path)


def to_rgb(pixels: Array) -> Rgb:
    """(H, W, C) as RGB in 0 .. 1: integers over the largest of their dtype, floats as they are, cut off at 0. Raises
    ``InputError`` for floats that are not finite, or above 1: what is white in them cannot be known."""
    chosen = pixels[..., :3] if pixels.shape[2] >= 3 else pixels[..., :1].repeat(3, 2)
    if chosen.dtype.kind in "iu":
        found = np.divide(chosen, np.iinfo(chosen.dtype).max, dtype=np.float32)
        return np.clip(found, 0, 1, out=found)
    found = chosen.astype(np.float32)
    if not np.isfinite(found).all():
        raise InputError("has samples that are NaN or infinite; give a picture without")
    if found.size and found.max() > _WHITE:
        raise InputError(f"has float samples up to {found.max():g}, where 1 is white; divide them, or save it as integers")
    return np.clip(found, 0, 1, out=found)
