"""Objects that are wanted: by their area, and whether the image's edge cuts them. Asked of the finished result, where an object
is whole however many windows it was found in, and its pixels are those that the file has."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from i2i.contracts import Array, ObjectFilter, Source
from i2i.geometry import Region, make_grid

_SIDE = 2048
Bools = npt.NDArray[np.bool_]


class Filtered:
    """Labels without the objects that are not kept; the others are numbered 1, 2 ... in the same order. ``kept``: of each plane,
    by label, 0 included, whether it stays."""

    def __init__(self, labels: Source, kept: Sequence[Bools]) -> None:
        self._labels, self._kept = labels, kept
        self._last = (-1, np.zeros(0, np.uint32))  # plane and table, in one: threads may read
        self.spec = labels.spec

    def read(self, region: Region, plane: int = 0, level: int = 0) -> Array:
        """See :class:`i2i.contracts.Source`; ``level`` can only be 0."""
        known, table = self._last
        if plane != known:
            kept = self._kept[plane]
            table = (np.cumsum(kept) * kept).astype(self.spec.dtype)
            self._last = (plane, table)
        return table[self._labels.read(region, plane)]

    def close(self) -> None:
        self._labels.close()


def filtered(labels: Source, counts: Sequence[int], rule: ObjectFilter) -> tuple[Source, list[int]]:
    """The labels of the objects that the rule keeps, and how many they are in each plane. ``counts``: the highest label of each.
    Reads the labels once, piece by piece; holds 9 bytes for each object of a plane, and 1 of all others."""
    kept = [_kept(labels, plane, count, rule) for plane, count in enumerate(counts)]
    return Filtered(labels, kept), [int(np.count_nonzero(each)) for each in kept]


def _kept(labels: Source, plane: int, count: int, rule: ObjectFilter) -> Bools:
    areas, cut = np.zeros(count + 1, np.int64), np.zeros(count + 1, bool)
    image = labels.spec.region
    for block in make_grid((image.height, image.width), (_SIDE, _SIDE)).blocks():
        pixels, region = labels.read(block.region, plane)[..., 0], block.region
        inside = pixels[pixels > 0]
        if not len(inside):
            continue
        lowest = int(inside.min())
        found = np.bincount(inside - lowest)  # labels of a block are near each other: no array of all of them
        areas[lowest : lowest + len(found)] += found
        for side, at_edge in (
            (pixels[0], region.y == 0), (pixels[-1], region.bottom == image.bottom),
            (pixels[:, 0], region.x == 0), (pixels[:, -1], region.right == image.right),
        ):  # fmt: skip
            if at_edge:
                cut[side] = True
    kept = areas >= max(1, rule.min_area)
    if rule.max_area:
        kept &= areas <= rule.max_area
    if rule.clear_border:
        kept &= ~cut
    kept[0] = False
    return kept
