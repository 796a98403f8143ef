"""Objects that nearly touch: which pairs there are, and how many a prediction joins into one object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from i2i.contracts import Array
from i2i.errors import UsageError
from i2i.metrics.objects import distinct, match_labels, number_objects
from i2i.metrics.sets import Figures, add_figures, mean_figures

_Numbers = npt.NDArray[np.int64]

GAP = 2
"""Pixels between two objects that nearly touch, at most."""


@dataclass(frozen=True)
class PairCounts:
    """True objects that nearly touch: how many ``pairs``, and how many of them are ``merged`` in the prediction."""

    pairs: int
    merged: int

    @property
    def share(self) -> float:
        """``merged / pairs``, 0 .. 1; 0 without pairs."""
        return self.merged / max(1, self.pairs)


def close_pairs(truth: Array, gap: int = GAP) -> _Numbers:
    """The pairs of objects of a label image (H, W) that come within ``gap`` pixels of each other: (K, 2) int64, ids in
    order, the smaller one first.

    The distance is that of the centres of the objects' nearest pixels, less the pixel itself: with ``gap`` 0 the objects
    share a pixel's side, with 2 they have at most two pixels between them along a row, fewer along a diagonal. Raises
    ``InputError`` for an array that holds no labels, ``UsageError`` for a ``gap`` below 0.
    """
    ids = np.unique(truth[truth != 0]).astype(np.int64)
    return ids[_close(truth, gap)]


def merged_pairs(prediction: Array, truth: Array, gap: int = GAP) -> PairCounts:
    """How many pairs of true objects that come within ``gap`` pixels (see :func:`close_pairs`) are one object in the
    prediction: more than half of each lies in the same predicted object. Label images (H, W) of one shape; errors are
    those of :func:`i2i.metrics.match_labels` and :func:`close_pairs`."""
    holders = match_labels(prediction, truth).holders[_close(truth, gap)]
    return PairCounts(len(holders), int(np.count_nonzero((holders[:, 0] == holders[:, 1]) & (holders[:, 0] >= 0))))


def pair_figures(prediction: Array, truth: Array, gap: int = GAP) -> dict[str, float]:
    """The figures of one image: ``pairs``, ``merged_pairs`` and, where there are pairs, ``merged_share``."""
    counts = merged_pairs(prediction, truth, gap)
    return _scored(counts.pairs, counts.merged)


def pool_pairs(images: Sequence[Figures]) -> dict[str, float]:
    """The figures of a set from those of its images (:func:`pair_figures`), and ``mean_merged_share``."""
    added = add_figures(images)
    means = mean_figures([{name: image[name] for name in image if name == "merged_share"} for image in images])
    return _scored(int(added.get("pairs", 0)), int(added.get("merged_pairs", 0))) | means


def _scored(pairs: int, merged: int) -> dict[str, float]:
    scores = {"merged_share": PairCounts(pairs, merged).share} if pairs else {}
    return scores | {"pairs": pairs, "merged_pairs": merged}


def _close(truth: Array, gap: int) -> _Numbers:
    """The pairs of :func:`close_pairs` by the objects' numbers, from 0 in the order of their ids."""
    if gap < 0:
        raise UsageError(f"a gap of {gap} pixels: give 0 or more")
    numbers, areas = number_objects(truth, "truth")
    room = np.pad(numbers.reshape(truth.shape), gap + 1, constant_values=-1)
    rim, flat = _rim(room), room.ravel()
    own = flat[rim]
    keys = []
    for offset in _offsets(gap + 1, room.shape[1]):
        other = flat[rim + offset]
        apart = (other >= 0) & (other != own)
        keys.append(np.minimum(own, other)[apart] * len(areas) + np.maximum(own, other)[apart])
    found, _ = distinct(np.concatenate(keys))
    return np.stack(np.divmod(found, max(1, len(areas))), axis=1)


def _rim(room: _Numbers) -> _Numbers:
    """Flat places of the pixels of objects that share a side with another object or with background: of two objects the
    nearest pixels are among them. There is background all around ``room``."""
    inner = np.ones(room.shape, bool)
    for image, result in ((room, inner), (room.T, inner.T)):
        same = image[1:] == image[:-1]
        result[1:] &= same
        result[:-1] &= same
    return np.flatnonzero(~inner & (room >= 0))


def _offsets(reach: int, width: int) -> list[int]:
    """Flat offsets to the pixels at most ``reach`` away, one of each two that are opposite."""
    steps = [(y, x) for y in range(reach + 1) for x in range(-reach, reach + 1)]
    return [y * width + x for y, x in steps if (y, x) > (0, 0) and y * y + x * x <= reach * reach]
