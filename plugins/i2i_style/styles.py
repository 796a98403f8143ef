"""The pictures that a style is taken from: what ``--style`` says, and their pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from i2i.contracts import Array, Source
from i2i.errors import InputError, UsageError
from i2i.formats import open_image
from i2i.formats.resample import resampled

Rgb = npt.NDArray[np.float32]
"""(H, W, 3) float32, 0 .. 1."""


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


def read_rgb(path: Path, longest: int = 0) -> Rgb:
    """A picture's pixels: gray as three equal channels, alpha left out. ``longest``: its longer side at most, shrunk to it; 0: as
    it is. Raises ``InputError`` for what is no picture."""
    with_closing = open_image(path)
    try:
        spec = with_closing.spec
        if spec.channels not in (1, 2, 3, 4):
            raise InputError(f"{path}: has {spec.channels} channels; give a picture of one or three")
        factor = min(1.0, longest / max(spec.height, spec.width)) if longest else 1.0
        source: Source = with_closing if factor == 1 else resampled(with_closing, (factor, factor))
        return to_rgb(source.read(source.spec.region))
    finally:
        with_closing.close()


def to_rgb(pixels: Array) -> Rgb:
    """(H, W, C) as RGB in 0 .. 1: integers over the largest of their dtype, floats as they are, cut off at 0 and 1."""
    chosen = pixels[..., :3] if pixels.shape[2] >= 3 else pixels[..., :1].repeat(3, 2)
    if chosen.dtype == np.bool_:
        return chosen.astype(np.float32)
    if chosen.dtype.kind in "iu":
        return (chosen / np.float32(np.iinfo(chosen.dtype).max)).astype(np.float32).clip(0, 1)
    return chosen.astype(np.float32).clip(0, 1)
