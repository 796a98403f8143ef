"""Figures of a segmentation against its truth (``i2i eval segment``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from i2i.contracts import Array
from i2i.errors import InputError
from i2i.metrics import class_figures, class_scores, object_figures, pool_classes, pool_objects
from i2i_unet.options import EvalOptions


def measure(prediction: Array, truth: Array, options: EvalOptions) -> Mapping[str, float]:
    """Figures of one image, (H, W, 1) integers each: AP and F1 of objects, or IoU and Dice of classes."""
    for name, pixels in (("prediction", prediction), ("truth", truth)):
        if pixels.shape[2] != 1:
            raise InputError(f"the {name} has {pixels.shape[2]} channels; {options.kind} have one")
    if options.kind == "labels":
        return object_figures(prediction[..., 0], truth[..., 0])
    count = 1 + max(int(prediction.max()), int(truth.max()))
    return class_figures(class_scores(prediction[..., 0], truth[..., 0], count))


def pool(figures: Sequence[Mapping[str, float]]) -> Mapping[str, float]:
    """The figures of a set of images."""
    objects = bool(figures) and "tp50" in figures[0]
    return pool_objects(figures) if objects else pool_classes(figures)
