"""Regions between membranes: the measures of the ISBI 2012 challenge for cells in electron micrographs.

Arganda-Carreras et al., Frontiers in Neuroanatomy 9:142, 2015. Cells are the 4-connected components of the foreground. The
challenge of 2012 ranked by three errors, each the best over thresholds of the probability map, one threshold for the
whole stack: the *pixel error*, the foreground-restricted *Rand error* and the *warping error*. Its paper of 2015 found that
these depend on how thick the membranes are drawn, and ranks by two scores after thinning instead, *V_rand* and *V_info*.
All five are here, from counts that can be added over images, threshold by threshold.

Two of the challenge's names mean several things. *Pixel error*: the share of wrong pixels (``pixel_error``), or, as the
challenge's own program computed it, 1 - F-score of the foreground pixels (``pixel_f_error``). *Warping error*: all
pixels that still differ after warping (``warping_error``, Jain et al. 2010), or, in the challenge, those of splits and
mergers alone (``split_merge_error``). Published figures of the challenge are the second ones.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from i2i.contracts import Array
from i2i.metrics.objects import distinct, percent
from i2i.metrics.sets import Figures, add_figures, check_shapes, mean_figures, share
from i2i.metrics.warping import Mask, splits_and_mergers, warp

REGION_THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Of a probability map. The challenge's, but for 0.0: there every probability above 0 is foreground."""

_Labels = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Agreement:
    """How two partitions of the same pixels agree.

    Pairs of pixels that are in one region: in both partitions (``both``), in the ``predicted``, in the ``true`` one. And the
    information in bits, times the number of pixels: mutual (``information``), of each partition (``predicted_entropy``,
    ``true_entropy``). Those of several images are added.
    """

    both: int
    predicted: int
    true: int
    information: float
    predicted_entropy: float
    true_entropy: float

    @property
    def rand(self) -> float:
        """The F-score of the Rand index, 2 both / (predicted + true): 1 where the regions are the same."""
        return share(2 * self.both, self.predicted + self.true)

    @property
    def info(self) -> float:
        """The F-score of the information, 2 I / (H + H): 1 where the regions are the same."""
        return share(2 * self.information, self.predicted_entropy + self.true_entropy)


def cells_of(foreground: Array) -> _Labels:
    """The 4-connected components (H, W), from 1, of a mask (H, W) of cells; 0 is membrane."""
    return ndimage.label(foreground)[0].astype(np.int32, copy=False)


def thinned(cells: Array) -> _Labels:
    """Cells (H, W) grown over all membranes: each pixel belongs to the cell that is nearest, none to a membrane.

    The challenge of 2015 thins membranes to lines one pixel wide by a watershed; here nothing is left of them, so that scores
    may differ from its program's in the last digits. Without a cell everything is 0.
    """
    if not cells.any():
        return cells.astype(np.int32)
    rows, columns = ndimage.distance_transform_edt(cells == 0, return_distances=False, return_indices=True)
    return cells[rows, columns].astype(np.int32)


def agreement(prediction: Array, truth: Array) -> Agreement:
    """How the cells of two label images of one shape agree, on the pixels that the truth gives to a cell.

    That is the *foreground-restricted* Rand index of 2012: membrane of the truth (0) does not count; a pixel that
    the prediction takes for membrane is a region of its own. ``1 - rand`` is the challenge's Rand error and, but for those
    pixels, the "adapted Rand error" of other programs, which take all predicted membrane for one region. V_rand and V_info
    of 2015 (alpha = 0.5) are ``rand`` and ``info`` of thinned cells. Raises ``InputError`` for differing shapes.
    """
    check_shapes(prediction, truth)
    inside = truth > 0
    found, true = prediction[inside].astype(np.int64), truth[inside].astype(np.int64)
    single = int(np.count_nonzero(found == 0))
    true_areas, predicted_areas = np.bincount(true)[1:], np.bincount(found, minlength=1)[1:]
    _, shared = distinct((true * (len(predicted_areas) + 1) + found)[found > 0])
    of_predicted, of_true = _entropy(predicted_areas, len(true), single), _entropy(true_areas, len(true), 0)
    mutual = of_predicted + of_true - _entropy(shared, len(true), single)
    return Agreement(_pairs(shared), _pairs(predicted_areas), _pairs(true_areas), mutual, of_predicted, of_true)


def _pairs(areas: npt.NDArray[np.int64]) -> int:
    return int((areas * (areas - 1)).sum()) // 2


def _entropy(areas: npt.NDArray[np.int64], pixels: int, single: int) -> float:
    """Bits, times the pixels, of a partition into regions of these areas and ``single`` regions of one pixel."""
    some = areas[areas > 0]
    return float((some * np.log2(pixels / some)).sum()) + (single * float(np.log2(pixels)) if single else 0.0)


def region_figures(
    prediction: Array, truth: Array, inside: Array | None = None, thresholds: Sequence[float] = REGION_THRESHOLDS
) -> dict[str, float]:
    """The figures of one image: ``prediction`` (H, W), the probability of the foreground, 0 .. 1 (bool or 0 and 1 where it is a
    mask); ``truth`` (H, W) bool, the foreground; ``inside`` (H, W) bool: the pixels that count.

    Foreground is what lies above a threshold. At 0.5 (or the first threshold): ``pixel_error``, ``pixel_f_error``,
    ``rand_error``, ``warping_error``, ``split_merge_error`` (see the module's text and :func:`agreement`), ``v_rand`` and
    ``v_info`` after thinning. With several thresholds also the best of each, ``best_rand_error``, and where,
    ``best_rand_error_at``. Further: counts at each threshold, such as ``wrong50``. Raises ``InputError`` for differing shapes.
    """
    check_shapes(prediction, truth)
    counted = np.ones(truth.shape, bool) if inside is None else inside.astype(bool)
    truth = truth.astype(bool) & counted
    regions = cells_of(truth)
    figures: dict[str, float] = {"pixels": int(counted.sum()), "foreground": int(truth.sum())}
    for threshold in thresholds:
        found = _counts((prediction > threshold) & counted, truth, regions)
        figures |= {name + percent(threshold): value for name, value in found.items()}
    return _region_scores(figures) | figures


def pool_regions(images: Sequence[Figures]) -> dict[str, float]:
    """The figures of a set from those of its images (:func:`region_figures`): the same names from added counts, so that the
    best threshold is one for the whole set, as in the challenge, of those that all images have; and the means over the images
    of the scores at 0.5, as ``mean_rand_error`` and so on; ``images`` is their number."""
    common = [name for name in images[0] if all(name in image for image in images)] if images else []
    added = add_figures([{name: image[name] for name in common if name.startswith(_COUNTS)} for image in images])
    means = mean_figures([{name: image[name] for name in image if name in _SCORES} for image in images])
    return {"images": len(images)} | (_region_scores(added) | added | means if images else {})


_SCORES = ("pixel_error", "pixel_f_error", "rand_error", "warping_error", "split_merge_error", "v_rand", "v_info")
_COUNTS = ("pixels", "foreground", "wrong", "hit", "cells", "warped", "split_merged", "pairs_", "thin_", "bits_")


def _counts(found: Mask, truth: Mask, regions: _Labels) -> dict[str, float]:
    """What is counted of one image at one threshold."""
    warped = warp(truth, found)
    cells = cells_of(found)
    plain, thin = agreement(cells, regions), agreement(thinned(cells), regions)
    return {
        "wrong": int(np.count_nonzero(found != truth)),
        "hit": int(np.count_nonzero(found & truth)),
        "cells": int(np.count_nonzero(found)),
        "warped": int(np.count_nonzero(warped != found)),
        "split_merged": splits_and_mergers(warped, found),
        "pairs_both": plain.both,
        "pairs_predicted": plain.predicted,
        "pairs_true": plain.true,
        "thin_both": thin.both,
        "thin_predicted": thin.predicted,
        "bits_both": thin.information,
        "bits_predicted": thin.predicted_entropy,
        "bits_true": thin.true_entropy,
    }


def _region_scores(counts: Mapping[str, float]) -> dict[str, float]:
    """The scores at 0.5, or at the first threshold, and with several the best of each."""
    steps = [name.removeprefix("wrong") for name in counts if re.fullmatch(r"wrong[\d.]+", name)]
    scores = {step: _scores_at(counts, step) for step in steps}
    plain = scores.get("50") or next(iter(scores.values()))
    if len(steps) == 1:
        return plain
    best: dict[str, float] = {}
    for name in plain:
        values = [scores[step][name] for step in steps]
        chosen = max(values) if name.startswith("v_") else min(values)
        best |= {f"best_{name}": chosen, f"best_{name}_at": float(steps[values.index(chosen)]) / 100}
    return plain | best


def _scores_at(counts: Mapping[str, float], step: str) -> dict[str, float]:
    def of(name: str) -> float:
        return counts[name + step]

    pixels = max(1, counts["pixels"])
    return {
        "pixel_error": of("wrong") / pixels,
        "pixel_f_error": 1 - share(2 * of("hit"), of("cells") + counts["foreground"]),
        "rand_error": 1 - share(2 * of("pairs_both"), of("pairs_predicted") + of("pairs_true")),
        "warping_error": of("warped") / pixels,
        "split_merge_error": of("split_merged") / pixels,
        "v_rand": share(2 * of("thin_both"), of("thin_predicted") + of("pairs_true")),
        "v_info": share(2 * of("bits_both"), of("bits_predicted") + of("bits_true")),
    }
