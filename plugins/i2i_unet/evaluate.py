"""Figures of a segmentation against its truth (``i2i eval segment``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from i2i.contracts import Array, Compared
from i2i.errors import InputError
from i2i.metrics import (
    REGION_THRESHOLDS,
    as_classes,
    class_figures,
    class_scores,
    label_figures,
    only_channel,
    pool_classes,
    pool_labels,
    pool_regions,
    region_figures,
)
from i2i_unet.options import EvalOptions

Mask = npt.NDArray[np.bool_]

_MOST = 256
"""Classes that an image may hold."""
_FEW = 16
"""Classes of regions, at most: a single channel with a higher value, unless it is a mask of 0 and 255, holds probabilities."""


def measure(case: Compared, options: EvalOptions) -> Mapping[str, float]:
    """Figures of one image: of objects (labels), of classes, or of regions between membranes.

    The truth has one channel of integers, and so has the prediction; for regions it may also be the probability of each class or
    of the foreground (uint8 or uint16 over their range, floats 0 .. 1). Pixels outside ``case.inside``, and those whose truth is
    ``options.ignore``, do not count. Raises ``InputError`` for anything else, and where no pixel counts.
    """
    truth = only_channel(case.truth, "truth", "labels" if options.kind == "labels" else "classes")
    counted = np.ones(truth.shape, bool) if case.inside is None else case.inside
    if options.ignore is not None:
        counted = counted & (truth != options.ignore)
    if not counted.any():
        raise InputError("no pixel counts: all are outside or ignored; leave this image out")
    if options.kind == "labels":
        return label_figures(case.prediction, case.truth, counted, ", or give --kind classes or regions")
    if options.kind == "classes":
        return _of_classes(case.prediction, truth, counted)
    return _of_regions(case.prediction, truth, counted, options.foreground)


def pool(figures: Sequence[Mapping[str, float]]) -> Mapping[str, float]:
    """The figures of a set of images."""
    first = figures[0] if figures else {}
    if "tp50" in first:
        return pool_labels(figures)
    return pool_regions(figures) if "foreground" in first else pool_classes(figures)


def _of_classes(prediction: Array, truth: Array, counted: Mask) -> Mapping[str, float]:
    found, true = as_classes(only_channel(prediction, "prediction", "classes")[counted]), as_classes(truth[counted])
    classes = min(_MOST, 1 + max(int(found.max()), int(true.max())))
    return class_figures(class_scores(found, true, classes))


def _of_regions(prediction: Array, truth: Array, counted: Mask, foreground: int) -> Mapping[str, float]:
    classes = as_classes(np.where(counted, truth, 0))
    cells = counted & (classes == foreground)
    if (classes >= _FEW).any() or not cells.any():
        raise InputError(f"the truth is no image of classes, or none of its pixels is of class {foreground} (--foreground)")
    if prediction.shape[2] == 1:
        single = as_classes(prediction[..., 0])
        if single.dtype.kind in "iub" and not (single >= _FEW).any():
            return region_figures(single == foreground, cells, counted, (0.5,))
    return region_figures(_probability(prediction, foreground), cells, counted, REGION_THRESHOLDS)


def _probability(prediction: Array, foreground: int) -> Array:
    """(H, W) float32, 0 .. 1: the channel of the foreground, or the only one."""
    channels = prediction.shape[2]
    if 1 < channels <= foreground:
        raise InputError(f"the prediction has {channels} channels, none for --foreground {foreground}")
    channel = prediction[..., foreground if channels > 1 else 0]
    if channel.dtype.kind == "u":
        return channel.astype(np.float32) / np.iinfo(channel.dtype).max
    if channel.dtype.kind != "f" or not (channel.min() >= 0 and channel.max() <= 1):
        held = f"{channel.dtype} from {channel.min()} to {channel.max()}"
        raise InputError(f"the prediction holds {held}: probabilities are uint8, uint16, or floats from 0 to 1")
    return channel.astype(np.float32)
