"""How good a result is: objects in label images, classes of pixels, and figures of many images pooled.

Objects: predicted and true objects are matched one to one where their intersection over union (IoU) reaches a
threshold; average precision AP = TP / (TP + FP + FN), as in the Data Science Bowl 2018 (Caicedo et al., Nature Methods
16, 2019) and StarDist (Schmidt et al., MICCAI 2018). Classes: IoU = I / U and Dice = 2 I / (P + T) for each class
(Everingham et al., IJCV 88, 2010; Dice, Ecology 26, 1945).

The figures of an image are a flat dict that holds counts beside scores, so a set can be *pooled* (counts added, then
scored: each object weighs the same) and *averaged* (each image weighs the same). See :func:`pool_objects`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

from i2i.contracts import Array
from i2i.errors import InputError, UsageError

THRESHOLDS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
"""The IoU thresholds of the Data Science Bowl 2018 and of COCO."""

Figures = Mapping[str, float]


# ------------------------------------------------------------------------------------------------------------- objects


@dataclass(frozen=True)
class Overlaps:
    """How the objects of two label images overlap. Objects are counted from 0, in the order of their ids.

    ``prediction``: (P,) int64, area of each predicted object in pixels; ``truth``: (T,) int64, of the true ones.
    ``pairs``: (K, 2) int64, (predicted, true) objects that share a pixel; ``shared``: (K,) int64, how many they share.
    """

    prediction: npt.NDArray[np.int64]
    truth: npt.NDArray[np.int64]
    pairs: npt.NDArray[np.int64]
    shared: npt.NDArray[np.int64]

    @property
    def iou(self) -> npt.NDArray[np.float64]:
        """(K,) intersection over union of each pair, above 0 up to 1."""
        union = self.prediction[self.pairs[:, 0]] + self.truth[self.pairs[:, 1]] - self.shared
        return np.asarray(self.shared / union, np.float64)


@dataclass(frozen=True)
class Counts:
    """Objects found (``tp``), invented (``fp``) and missed (``fn``). Without any object every score is 1."""

    tp: int = 0
    fp: int = 0
    fn: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.tp + other.tp, self.fp + other.fp, self.fn + other.fn)

    @property
    def ap(self) -> float:
        """TP / (TP + FP + FN)."""
        return _share(self.tp, self.tp + self.fp + self.fn)

    @property
    def f1(self) -> float:
        """2 TP / (2 TP + FP + FN)."""
        return _share(2 * self.tp, 2 * self.tp + self.fp + self.fn)

    @property
    def precision(self) -> float:
        """TP / (TP + FP)."""
        return _share(self.tp, self.tp + self.fp)

    @property
    def recall(self) -> float:
        """TP / (TP + FN)."""
        return _share(self.tp, self.tp + self.fn)


def match_labels(prediction: Array, truth: Array) -> Overlaps:
    """The overlaps of two label images of one shape, of any integer dtypes; 0 is background, ids may have gaps.

    Raises ``InputError`` for differing shapes, other dtypes, or ids below 0.
    """
    _check_shapes(prediction, truth)
    first, predicted_areas = _number(prediction, "prediction")
    second, true_areas = _number(truth, "truth")
    both = (first >= 0) & (second >= 0)
    keys, shared = np.unique(first[both] * max(1, len(true_areas)) + second[both], return_counts=True)
    pairs = np.stack(np.divmod(keys, max(1, len(true_areas))), axis=1)
    return Overlaps(predicted_areas, true_areas, pairs, shared.astype(np.int64))


def average_precision(overlaps: Overlaps, iou: float) -> Counts:
    """Objects found, invented and missed when a match needs an IoU of at least ``iou``, above 0 up to 1.

    Each object has one partner at most, and as many match as can: above 0.5 partners are unique by themselves, else it
    is a maximum bipartite matching (as many pairs as StarDist's, which prefers the larger IoU among equals: that does
    not change the counts). ``Counts.ap`` is the average precision. Raises ``UsageError`` for another ``iou``.
    """
    if not 0 < iou <= 1:
        raise UsageError(f"an IoU threshold of {iou}: give one above 0, up to 1")
    pairs = overlaps.pairs[overlaps.iou >= iou]
    found = len(pairs) if iou > 0.5 else _matched(pairs, len(overlaps.prediction), len(overlaps.truth))
    return Counts(found, len(overlaps.prediction) - found, len(overlaps.truth) - found)


def object_figures(prediction: Array, truth: Array, thresholds: Sequence[float] = THRESHOLDS) -> dict[str, float]:
    """The figures of one image of objects: ``ap50``, ``f1_50``, ``tp50``, ``fp50``, ``fn50`` for the threshold 0.5, and
    so on; ``ap`` is the mean over the thresholds. Arguments and errors are those of :func:`match_labels`."""
    overlaps = match_labels(prediction, truth)
    return _object_scores({_percent(iou): average_precision(overlaps, iou) for iou in thresholds})


def pool_objects(images: Sequence[Figures]) -> dict[str, float]:
    """The figures of a set from those of its images (:func:`object_figures`): the same names from added counts, and
    the means over the images as ``mean_ap50``, ``mean_f1_50``, ``mean_ap``; ``images`` is their number."""
    added = add_figures(images)
    percents = [name.removeprefix("tp") for name in added if re.fullmatch(r"tp[\d.]+", name)]
    counts = {p: Counts(int(added["tp" + p]), int(added["fp" + p]), int(added["fn" + p])) for p in percents}
    means = mean_figures([{name: image[name] for name in image if name.startswith(("ap", "f1_"))} for image in images])
    return {"images": len(images)} | _object_scores(counts) | means


def _object_scores(counts: Mapping[str, Counts]) -> dict[str, float]:
    figures: dict[str, float] = {}
    for percent, count in counts.items():
        figures |= {f"ap{percent}": count.ap, f"f1_{percent}": count.f1}
        figures |= {f"tp{percent}": count.tp, f"fp{percent}": count.fp, f"fn{percent}": count.fn}
    return {"ap": float(np.mean([count.ap for count in counts.values()]))} | figures if counts else figures


def _percent(iou: float) -> str:
    """0.5 -> "50", 0.625 -> "62.5"."""
    return f"{100 * iou:.4g}"


def _matched(pairs: npt.NDArray[np.int64], predicted: int, true: int) -> int:
    """The largest number of ``pairs`` (K, 2) of which no two share an object."""
    if not len(pairs):
        return 0
    graph = csr_array((np.ones(len(pairs), np.int8), (pairs[:, 0], pairs[:, 1])), shape=(predicted, true))
    return int(np.count_nonzero(maximum_bipartite_matching(graph) >= 0))


def _number(labels: Array, name: str) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Each pixel's object (flat, int64, from 0 in the order of ids; -1 is background), and the objects' areas."""
    flat = labels.ravel()
    _check_integers(flat, name)
    if flat.size and flat.max() <= 4 * flat.size:  # many times faster than sorting
        flat = flat.astype(np.int64)
        areas = np.bincount(flat)
        numbers = np.cumsum(areas > 0) - 1
        ids, areas, inverse = np.flatnonzero(areas), areas[areas > 0], numbers[flat]
    else:
        ids, inverse, areas = np.unique(flat, return_inverse=True, return_counts=True)
    background = int(len(ids) > 0 and ids[0] == 0)
    return inverse.astype(np.int64) - background, areas[background:].astype(np.int64)


# ------------------------------------------------------------------------------------------------------------- classes


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
        return _shares(self.shared, self.predicted + self.true - self.shared)

    @property
    def dice(self) -> npt.NDArray[np.float64]:
        """(K,) 2 I / (P + T)."""
        return _shares(2 * self.shared, self.predicted + self.true)

    @property
    def pixel_error(self) -> float:
        """Share of the pixels whose class is wrong, 0 .. 1; 0 without pixels."""
        return 1 - _share(int(self.shared.sum()), int(self.true.sum()))


def class_scores(prediction: Array, truth: Array, classes: int, ignore: int | None = None) -> ClassScores:
    """The scores of two class images of one shape with classes 0 .. ``classes`` - 1, integer or bool.

    Pixels whose truth is ``ignore`` do not count. Raises ``InputError`` for differing shapes and values that are no
    class.
    """
    _check_shapes(prediction, truth)
    counted = np.ones(truth.shape, bool) if ignore is None else truth != ignore
    predicted, true = (_classes(array[counted], classes, name) for array, name in _named(prediction, truth))
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
    _check_integers(array, name)
    if array.size and array.max() >= classes:
        raise InputError(f"the {name} holds {array.max()}, but classes are 0 .. {classes - 1}: does it show classes?")
    return array.astype(np.int64)


# ---------------------------------------------------------------------------------------------------------------- sets


def add_figures(images: Sequence[Figures]) -> dict[str, float]:
    """The sum of each figure over the images that have it. Sensible for counts."""
    return {name: sum(image[name] for image in images if name in image) for name in _names(images)}


def mean_figures(images: Sequence[Figures], prefix: str = "mean_") -> dict[str, float]:
    """The mean of each figure over the images that have it, as ``prefix`` + its name."""
    having = {name: [image[name] for image in images if name in image] for name in _names(images)}
    return {prefix + name: float(np.mean(values)) for name, values in having.items()}


def _names(images: Sequence[Figures]) -> list[str]:
    return list(dict.fromkeys(name for image in images for name in image))


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 1.0


def _shares(part: npt.NDArray[np.int64], whole: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """``part / whole``, NaN where ``whole`` is 0."""
    return np.asarray(np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0), np.float64)


def _named(prediction: Array, truth: Array) -> tuple[tuple[Array, str], tuple[Array, str]]:
    return (prediction, "prediction"), (truth, "truth")


def _check_shapes(prediction: Array, truth: Array) -> None:
    if prediction.shape != truth.shape:
        sizes = [" x ".join(map(str, array.shape)) for array in (prediction, truth)]
        raise InputError(f"the prediction is {sizes[0]}, the truth {sizes[1]}: compare images of one size")


def _check_integers(array: npt.NDArray[Any], name: str) -> None:
    if array.dtype.kind not in "iub":
        raise InputError(f"the {name} is of type {array.dtype}: labels and classes are integers")
    if array.size and array.min() < 0:
        raise InputError(f"the {name} holds {array.min()}: labels and classes are 0 or more")
