"""Classes of pixels: IoU = I / U and Dice = 2 I / (P + T) of each class (Everingham et al., IJCV 88, 2010; Dice, Ecology
26, 1945), and the share of wrong pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from i2i.contracts import Array
from i2i.errors import InputError
from i2i.metrics.sets import Figures, add_figures, check_integers, check_shapes, mean_figures, shares


@dataclass(frozen=True)
class ClassScores:
    """Pixels of each class, (K,) int64 in the order of the classes: those in both images (``shared``), the predicted,
    the true ones. Scores of a class that is in neither image are NaN."""

    shared: npt.NDArray[np.int64]
    predicted: npt.NDArray[np.int64]
    true: npt.NDArray[np.int64]

    @property
    def iou(self) -> npt.NDArray[np.float64]:
        """(K,) I / (P + T - I)."""
        return shares(self.shared, self.predicted + self.true - self.shared)

    @property
    def dice(self) -> npt.NDArray[np.float64]:
        """(K,) 2 I / (P + T)."""
        return shares(2 * self.shared, self.predicted + self.true)

    @property
    def pixel_error(self) -> float:
        """Share of the pixels whose class is wrong, 0 .. 1; 0 without pixels."""
        return int(self.true.sum() - self.shared.sum()) / max(1, int(self.true.sum()))


def as_classes(pixels: Array) -> Array:
    """A mask of 0 and 255 as classes 0 and 1, uint8; an array of integers with other values, or without 255, as it is."""
    if pixels.dtype.kind not in "iu" or not pixels.size or pixels.max() != 255:
        return pixels
    ones = pixels == 255
    return ones.astype(np.uint8) if not pixels[~ones].any() else pixels


def class_scores(prediction: Array, truth: Array, classes: int, ignore: int | None = None) -> ClassScores:
    """The scores of two class images of one shape with classes 0 .. ``classes`` - 1, integer or bool.

    Pixels whose truth is ``ignore`` do not count. Raises ``InputError`` for differing shapes and values that are no
    class.
    """
    check_shapes(prediction, truth)
    counted = np.ones(truth.shape, bool) if ignore is None else truth != ignore
    named = (prediction, "prediction"), (truth, "truth")
    predicted, true = (_classes(array[counted], classes, name) for array, name in named)
    table = np.bincount(classes * true + predicted, minlength=classes**2).reshape(classes, classes)
    return ClassScores(np.diagonal(table).copy(), table.sum(axis=0), table.sum(axis=1))


def class_figures(scores: ClassScores, names: Sequence[str] = ()) -> dict[str, float]:
    """The figures of one image of classes: ``iou_<name>`` and ``dice_<name>`` of each class that occurs, their means
    ``iou`` and ``dice``, ``pixel_error``, and the counts (``shared_<name>``, ``predicted_<name>``, ``true_<name>``).

    ``names``: of the classes, without repetition; their numbers where there are none.
    """
    names = names or [str(number) for number in range(len(scores.shared))]
    figures = {"pixel_error": scores.pixel_error}
    for kind, values in (("iou", scores.iou), ("dice", scores.dice)):
        present = {f"{kind}_{name}": float(v) for name, v in zip(names, values, strict=True) if not np.isnan(v)}
        figures |= {kind: float(np.mean(list(present.values())))} | present if present else {}
    for kind, counts in (("shared", scores.shared), ("predicted", scores.predicted), ("true", scores.true)):
        figures |= {f"{kind}_{name}": int(count) for name, count in zip(names, counts, strict=True)}
    return figures


def pool_classes(images: Sequence[Figures]) -> dict[str, float]:
    """The figures of a set from those of its images (:func:`class_figures`): the same names from added counts, and the
    means over the images where a class occurs as ``mean_iou_<name>`` and so on; ``images`` is their number."""
    added = add_figures(images)
    names = [key.removeprefix("shared_") for key in added if key.startswith("shared_")]
    kinds = ("shared", "predicted", "true")
    columns = [np.array([added[f"{kind}_{name}"] for name in names], np.int64) for kind in kinds]
    scored = ("iou", "dice", "pixel_error")
    means = mean_figures([{name: image[name] for name in image if name.startswith(scored)} for image in images])
    return {"images": len(images)} | class_figures(ClassScores(*columns), names) | means


def _classes(array: Array, classes: int, name: str) -> npt.NDArray[np.int64]:
    check_integers(array, name)
    if array.size and array.max() >= classes:
        raise InputError(f"the {name} holds {array.max()}, but classes are 0 .. {classes - 1}: does it show classes?")
    return array.astype(np.int64)
