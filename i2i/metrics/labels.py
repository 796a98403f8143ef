"""Label images as predictions, checked and scored: what every task whose results are label images evaluates with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from i2i.contracts import Array
from i2i.errors import InputError
from i2i.metrics.neighbours import pair_figures, pool_pairs
from i2i.metrics.objects import object_figures, pool_objects
from i2i.metrics.sets import Figures


def only_channel(pixels: Array, name: str, kind: str = "labels") -> Array:
    """(H, W) of pixels (H, W, 1). ``name`` of the image and ``kind`` of what it holds are words of the ``InputError`` for several
    channels."""
    if pixels.shape[2] != 1:
        raise InputError(f"the {name} has {pixels.shape[2]} channels; {kind} have one")
    return pixels[..., 0]


def check_ids(labels: Array, name: str, otherwise: str = "") -> None:
    """Raises ``InputError`` for a mask of 0 and 255, uint8, which would be one object. ``name``: of the image in the message;
    ``otherwise`` ends it: what else the user may do."""
    if labels.dtype == np.uint8 and np.isin(labels, (0, 255)).all() and labels.any():
        raise InputError(f"the {name} holds 0 and 255 alone, no object ids: number its objects{otherwise}")


def label_figures(
    prediction: Array, truth: Array, counted: npt.NDArray[np.bool_] | None = None, otherwise: str = ""
) -> dict[str, float]:
    """The figures of one image of objects: those of :func:`i2i.metrics.object_figures` and :func:`i2i.metrics.pair_figures`.

    Label images (H, W, 1) of one shape, integers. ``counted``: (H, W), objects are restricted to these pixels. Raises
    ``InputError`` for images that hold no labels; ``otherwise``: see :func:`check_ids`.
    """
    found, true = only_channel(prediction, "prediction"), only_channel(truth, "truth")
    if counted is not None:
        found, true = np.where(counted, found, 0), np.where(counted, true, 0)
    check_ids(true, "truth", otherwise)
    return object_figures(found, true) | pair_figures(found, true)


def pool_labels(images: Sequence[Figures]) -> dict[str, float]:
    """The figures of a set from those of its images (:func:`label_figures`)."""
    return pool_objects(images) | pool_pairs(images)
