"""Objects in label images: how many are found, how well they are outlined, which are joined or cut.

Predicted and true objects are matched one to one where their intersection over union (IoU) reaches a threshold; average
precision AP = TP / (TP + FP + FN), as in the Data Science Bowl 2018 (Caicedo et al., Nature Methods 16, 2019) and
StarDist (Schmidt et al., MICCAI 2018). Panoptic quality: Kirillov et al., CVPR 2019. Aggregated Jaccard index: Kumar et
al., IEEE TMI 36, 2017.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

from i2i.contracts import Array
from i2i.errors import UsageError
from i2i.metrics.sets import Figures, add_figures, check_integers, check_shapes, mean_figures, share

THRESHOLDS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
"""The IoU thresholds of the Data Science Bowl 2018 and of COCO."""

_Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Overlaps:
    """How the objects of two label images overlap. Objects are counted from 0, in the order of their ids.

    ``prediction``: (P,) int64, area of each predicted object in pixels; ``truth``: (T,) int64, of the true ones.
    ``pairs``: (K, 2) int64, (predicted, true) objects that share a pixel; ``shared``: (K,) int64, how many they share.
    """

    prediction: _Numbers
    truth: _Numbers
    pairs: _Numbers
    shared: _Numbers

    @property
    def iou(self) -> npt.NDArray[np.float64]:
        """(K,) intersection over union of each pair, above 0 up to 1."""
        return np.asarray(self.shared / self.union, np.float64)

    @property
    def union(self) -> _Numbers:
        """(K,) pixels in either object of each pair."""
        return self.prediction[self.pairs[:, 0]] + self.truth[self.pairs[:, 1]] - self.shared

    @property
    def holders(self) -> _Numbers:
        """(T,) the predicted object that holds more than half of each true one, -1 where none does."""
        return _holders(self.pairs[:, 1], self.pairs[:, 0], self.shared, self.truth)

    @property
    def homes(self) -> _Numbers:
        """(P,) the true object that holds more than half of each predicted one, -1 where none does."""
        return _holders(self.pairs[:, 0], self.pairs[:, 1], self.shared, self.prediction)


@dataclass(frozen=True)
class Counts:
    """Objects found (``tp``), invented (``fp``) and missed (``fn``). Without any object every score is 1; where there are
    some, but none is found, every score is 0."""

    tp: int = 0
    fp: int = 0
    fn: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.tp + other.tp, self.fp + other.fp, self.fn + other.fn)

    @property
    def ap(self) -> float:
        """TP / (TP + FP + FN)."""
        return share(self.tp, self.tp + self.fp + self.fn)

    @property
    def f1(self) -> float:
        """2 TP / (2 TP + FP + FN)."""
        return share(2 * self.tp, 2 * self.tp + self.fp + self.fn)

    @property
    def precision(self) -> float:
        """TP / (TP + FP); 0 where nothing is predicted, but something is true."""
        return share(self.tp, self.tp + self.fp if self.tp else self.fp + self.fn)

    @property
    def recall(self) -> float:
        """TP / (TP + FN); 0 where nothing is true, but something is predicted."""
        return share(self.tp, self.tp + self.fn if self.tp else self.fp + self.fn)


def match_labels(prediction: Array, truth: Array) -> Overlaps:
    """The overlaps of two label images of one shape, of any integer dtypes; 0 is background, ids may have gaps.

    Raises ``InputError`` for differing shapes, other dtypes, or ids below 0.
    """
    check_shapes(prediction, truth)
    first, predicted_areas = number_objects(prediction, "prediction")
    second, true_areas = number_objects(truth, "truth")
    both = (first >= 0) & (second >= 0)
    count = max(1, len(true_areas))
    keys, shared = distinct(first[both] * count + second[both])
    pairs = np.stack(np.divmod(keys, count), axis=1)
    return Overlaps(predicted_areas, true_areas, pairs, shared)


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
    """The figures of one image of objects. Arguments and errors are those of :func:`match_labels`.

    ``ap50``, ``f1_50``, ``tp50``, ``fp50``, ``fn50`` for the threshold 0.5, and so on; ``ap``: mean over the thresholds;
    ``precision50`` and ``recall50``. Of the pairs with an IoU above 0.5: ``sq``, their mean IoU (left out where there is no
    such pair), and ``pq`` = sum of IoU / (TP + FP / 2 + FN / 2). ``aji``: see :func:`jaccard_counts`. ``merged``: true objects
    more than half of which lies in a predicted object of which that is so for another one too; ``split``: predicted
    objects more than half of which lies in a true object of which that is so for another one too. Further counts, from which sets
    are scored: ``predicted``, ``true`` (objects), ``matched``, ``overlap_sum``, ``aji_shared``, ``aji_union``.
    """
    overlaps = match_labels(prediction, truth)
    counts = {percent(iou): average_precision(overlaps, iou) for iou in thresholds}
    return _threshold_scores(counts) | _shape_scores(_shape_counts(overlaps))


def pool_objects(images: Sequence[Figures]) -> dict[str, float]:
    """The figures of a set from those of its images (:func:`object_figures`): the same names from added counts, and
    the means over the images as ``mean_ap50``, ``mean_f1_50``, ``mean_pq`` and so on; ``images`` is their number."""
    added = add_figures(images)
    percents = [name.removeprefix("tp") for name in added if re.fullmatch(r"tp[\d.]+", name)]
    counts = {p: Counts(int(added["tp" + p]), int(added["fp" + p]), int(added["fn" + p])) for p in percents}
    shapes = _shape_scores({name: added[name] for name in _SHAPES}) if images else {}
    scored = ("ap", "f1_", "precision", "recall", "sq", "pq", "aji")
    kept = [{name: image[name] for name in image if name.startswith(scored) and name not in _SHAPES} for image in images]
    return {"images": len(images)} | _threshold_scores(counts) | shapes | mean_figures(kept)


def jaccard_counts(overlaps: Overlaps) -> tuple[int, int]:
    """The pixels shared and united of the aggregated Jaccard index AJI = shared / united (Kumar et al. 2017): each true
    object beside the predicted one with the largest IoU, which may serve several; the area of true objects without
    one and of predicted objects that serve none is added to the union. Among equals the lowest id serves."""
    predicted, true = overlaps.pairs[:, 0], overlaps.pairs[:, 1]
    order = np.lexsort((predicted, -overlaps.iou, true))
    served, first = np.unique(true[order], return_index=True)
    best = order[first]
    lone_true = np.delete(overlaps.truth, served)
    lone_predicted = np.delete(overlaps.prediction, np.unique(predicted[best]))
    return int(overlaps.shared[best].sum()), int(overlaps.union[best].sum() + lone_true.sum() + lone_predicted.sum())


_SHAPES = ("merged", "split", "predicted", "true", "matched", "overlap_sum", "aji_shared", "aji_union")


def _threshold_scores(counts: Mapping[str, Counts]) -> dict[str, float]:
    figures: dict[str, float] = {}
    for step, count in counts.items():
        figures |= {f"ap{step}": count.ap, f"f1_{step}": count.f1}
        figures |= {f"tp{step}": count.tp, f"fp{step}": count.fp, f"fn{step}": count.fn}
    if half := counts.get("50"):
        figures |= {"precision50": half.precision, "recall50": half.recall}
    return {"ap": float(np.mean([count.ap for count in counts.values()]))} | figures if counts else figures


def _shape_counts(overlaps: Overlaps) -> dict[str, float]:
    good = overlaps.iou[overlaps.iou > 0.5]
    shared, union = jaccard_counts(overlaps)
    return {
        "merged": _sharing(overlaps.holders),
        "split": _sharing(overlaps.homes),
        "predicted": len(overlaps.prediction),
        "true": len(overlaps.truth),
        "matched": len(good),
        "overlap_sum": float(good.sum()),
        "aji_shared": shared,
        "aji_union": union,
    }


def _shape_scores(counts: Mapping[str, float]) -> dict[str, float]:
    quality = {"sq": counts["overlap_sum"] / counts["matched"]} if counts["matched"] else {}
    pq = share(2 * counts["overlap_sum"], counts["predicted"] + counts["true"])
    return {"pq": pq} | quality | {"aji": share(counts["aji_shared"], counts["aji_union"])} | dict(counts)


def percent(threshold: float) -> str:
    """A threshold as figures name it: 0.5 is "50", 0.625 "62.5"."""
    return f"{100 * threshold:.4g}"


def _holders(own: _Numbers, other: _Numbers, shared: _Numbers, areas: _Numbers) -> _Numbers:
    """For each of the objects ``own`` the one of ``other`` with more than half of its area, or -1."""
    most = 2 * shared > areas[own]
    found = np.full(len(areas), -1, np.int64)
    found[own[most]] = other[most]
    return found


def _sharing(holders: _Numbers) -> int:
    """How many have a holder that holds another one too."""
    held = holders[holders >= 0]
    return int(np.count_nonzero(np.bincount(held)[held] > 1)) if len(held) else 0


def _matched(pairs: _Numbers, predicted: int, true: int) -> int:
    """The largest number of ``pairs`` (K, 2) of which no two share an object."""
    if not len(pairs):
        return 0
    graph = csr_array((np.ones(len(pairs), np.int8), (pairs[:, 0], pairs[:, 1])), shape=(predicted, true))
    return int(np.count_nonzero(maximum_bipartite_matching(graph) >= 0))


def number_objects(labels: Array, name: str) -> tuple[_Numbers, _Numbers]:
    """Each pixel's object (flat, int64, from 0 in the order of ids; -1 is background), and the objects' areas. ``name``: of
    the image in the message of the ``InputError`` for an array that holds no labels."""
    flat = labels.ravel()
    check_integers(flat, name)
    if flat.size and flat.max() <= 4 * flat.size:  # many times faster than sorting
        flat = flat.astype(np.int64)
        areas = np.bincount(flat)
        numbers = np.cumsum(areas > 0) - 1
        ids, areas, inverse = np.flatnonzero(areas), areas[areas > 0], numbers[flat]
    else:
        ids, inverse, areas = np.unique(flat, return_inverse=True, return_counts=True)
    background = int(len(ids) > 0 and ids[0] == 0)
    return inverse.astype(np.int64) - background, areas[background:].astype(np.int64)


def distinct(keys: _Numbers) -> tuple[_Numbers, _Numbers]:
    """The distinct keys, none below 0, in order, and how often each occurs."""
    runs = np.flatnonzero(np.diff(keys, prepend=-1))  # neighbours mostly have one key, so that few are left to sort
    found, inverse = np.unique(keys[runs], return_inverse=True)
    lengths = np.diff(runs, append=len(keys))
    return found, np.bincount(inverse, lengths, minlength=len(found)).astype(np.int64)
