"""Figures of many images put together, and what all measures check and divide."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from i2i.contracts import Array
from i2i.errors import InputError

Figures = Mapping[str, float]


def add_figures(images: Sequence[Figures]) -> dict[str, float]:
    """The sum of each figure over the images that have it. Sensible for counts."""
    return {name: sum(image[name] for image in images if name in image) for name in _names(images)}


def mean_figures(images: Sequence[Figures], prefix: str = "mean_") -> dict[str, float]:
    """The mean of each figure over the images that have it, as ``prefix`` + its name."""
    having = {name: [image[name] for image in images if name in image] for name in _names(images)}
    return {prefix + name: float(np.mean(values)) for name, values in having.items()}


def _names(images: Sequence[Figures]) -> list[str]:
    return list(dict.fromkeys(name for image in images for name in image))


def share(part: float, whole: float) -> float:
    """``part / whole``, 1 where both are nothing."""
    return part / whole if whole else 1.0


def shares(part: npt.NDArray[np.int64], whole: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """``part / whole``, NaN where ``whole`` is 0."""
    return np.asarray(np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0), np.float64)


def check_shapes(prediction: Array, truth: Array) -> None:
    """Raises ``InputError`` when they differ."""
    if prediction.shape != truth.shape:
        sizes = [" x ".join(map(str, array.shape)) for array in (prediction, truth)]
        raise InputError(f"the prediction is {sizes[0]}, the truth {sizes[1]}: compare images of one size")


def check_integers(array: npt.NDArray[Any], name: str) -> None:
    """Raises ``InputError`` for floats and for values below 0."""
    if array.dtype.kind not in "iub":
        raise InputError(f"the {name} is of type {array.dtype}: labels and classes are integers")
    if array.size and array.min() < 0:
        raise InputError(f"the {name} holds {array.min()}: labels and classes are 0 or more")
