"""Figures of a segmentation against its truth (``i2i eval segment``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from i2i.contracts import Array, Compared
from i2i.errors import InputError
from i2i.metrics import (
    REGION_THRESHOLDS,
    as_classes,
    class_figures,
    class_scores,
    object_figures,
    pair_figures,
    pool_classes,
    pool_objects,
    pool_pairs,
    pool_regions,
    region_figures,
)
from i2i_unet.options import EvalOptions

_MOST = 256
"""Classes that an image may hold."""
_FEW = 16
"""Classes of regions, at most: a single channel with a higher value, unless it is a mask of 0 and 255, holds probabilities."""


def measure(case: Compared, options: EvalOptions) -> Mapping[str, float]:
    """Figures of one image: of objects (labels), of classes, or of regions between membranes.

    The truth has one channel of integers, and so has the prediction; for regions it may also be the probability of each class or
    of the foreground (uint8 or uint16 over their range, floats 0 .. 1). Raises ``InputError`` for anything else.
    """
    if options.kind == "labels":
        return _of_labels(case)
    return _of_classes(case, options) if options.kind == "classes" else _of_regions(case, options)


def pool(figures: Sequence[Mapping[str, float]]) -> Mapping[str, float]:
    """The figures of a set of images."""
    first = figures[0] if figures else {}
    if "tp50" in first:
        return pool_objects(figures) | pool_pairs(figures)
    return pool_regions(figures) if "foreground" in first else pool_classes(figures)


def _of_labels(case: Compared) -> Mapping[str, float]:
    """Objects are restricted to the pixels that count."""
    found, true = _single(case.prediction, "prediction", "labels"), _single(case.truth, "truth", "labels")
    if case.inside is not None:
        found, true = np.where(case.inside, found, 0), np.where(case.inside, true, 0)
    return object_figures(found, true) | pair_figures(found, true)


def _of_classes(case: Compared, options: EvalOptions) -> Mapping[str, float]:
    found, true = _single(case.prediction, "prediction", "classes"), _single(case.truth, "truth", "classes")
    counted = np.ones(true.shape, bool) if case.inside is None else case.inside
    if options.ignore is not None:
        counted = counted & (true != options.ignore)
    if not counted.any():
        raise InputError("no pixel counts: all are outside or ignored; leave this image out")
    found, true = as_classes(found[counted]), as_classes(true[counted])
    classes = min(_MOST, 1 + max(int(found.max()), int(true.max())))
    return class_figures(class_scores(found, true, classes))


def _of_regions(case: Compared, options: EvalOptions) -> Mapping[str, float]:
    classes = as_classes(_single(case.truth, "truth", "classes"))
    truth = classes == options.foreground
    if (classes >= _FEW).any() or not truth.any():
        raise InputError(
            f"the truth is no image of classes, or none of its pixels is of class {options.foreground} (--foreground)"
        )
    prediction = case.prediction
    if prediction.shape[2] == 1:
        single = as_classes(prediction[..., 0])
        if single.dtype.kind in "iub" and not (single >= _FEW).any():
            return region_figures(single == options.foreground, truth, case.inside, (0.5,))
    return region_figures(_probability(prediction, options.foreground), truth, case.inside, REGION_THRESHOLDS)


def _probability(prediction: Array, foreground: int) -> Array:
    """(H, W) float32, 0 .. 1: the channel of the foreground, or the only one."""
    channels = prediction.shape[2]
    if 1 < channels <= foreground:
        raise InputError(f"the prediction has {channels} channels, none for --foreground {foreground}")
    channel = prediction[..., foreground if channels > 1 else 0]
    if channel.dtype.kind == "u":
        return channel.astype(np.float32) / np.iinfo(channel.dtype).max
    if channel.dtype.kind != "f" or not (channel.min() >= 0 and channel.max() <= 1):
        raise InputError(f"the prediction is of type {channel.dtype}: probabilities are uint8, uint16, or floats from 0 to 1")
    return channel.astype(np.float32)


def _single(pixels: Array, name: str, kind: str) -> Array:
    if pixels.shape[2] != 1:
        raise InputError(f"the {name} has {pixels.shape[2]} channels; {kind} have one")
    return pixels[..., 0]
