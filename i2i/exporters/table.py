"""A table of the objects: one CSV row each, sorted by id. Objects are measured a range of ids at a time.

All measures are of an object's pixels in the label image; class and score are there where a detector found it. Of an image of
several planes the rows of each follow each other, and say before the id where it lies.

Pixels are those of the image at its full resolution, whatever level was run: integers are their centres (the top left one's is
0, 0), and a box goes from its first row and column to before the end, along the edges of pixels. Micrometres are counted from the
image's top left corner, as QuPath and the GeoJSON have them: the centre of the top left pixel is half a pixel from it.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from i2i.contracts import Array, Exported, Exporter, ImageSpec, Source
from i2i.exporters import measures
from i2i.exporters.known import known_of
from i2i.geometry import make_grid

_SIDE = 2048
_IDS = 2**22
"""Objects measured at a time: 40 bytes each."""
_ROWS = 2**14
_FAR = 2**31 - 1
_COLUMNS = ("id", "area", "y", "x", "top", "left", "bottom", "right")
_KNOWN = ("class", "score")
_MICROMETRES = ("area_um2", "y_um", "x_um", "top_um", "left_um", "bottom_um", "right_um")

Ints = npt.NDArray[np.int64]
Scale = tuple[float, float]


class _Measures:
    """Sums over the pixels of the objects with the ids ``first``, ``first`` + 1 and so on, ``count`` of them. Arrays grow with
    the ids that appear. ``sums``, ``low`` and ``high`` are of y and x; the last pixel is at ``high``."""

    def __init__(self, first: int, count: int) -> None:
        self._first, self._count = first, count
        self.area = np.zeros(0, np.int64)
        self.sums = np.zeros((2, 0), np.int64)
        self.low = np.zeros((2, 0), np.int32)
        self.high = np.zeros((2, 0), np.int32)

    def _reserve(self, count: int) -> None:
        """Room for so many objects, twice what there was where that is not enough: growing must not cost much."""
        if count <= len(self.area):
            return
        more = min(self._count, max(count, 2 * len(self.area))) - len(self.area)
        self.area = np.pad(self.area, (0, more))
        self.sums = np.pad(self.sums, ((0, 0), (0, more)))
        self.low = np.pad(self.low, ((0, 0), (0, more)), constant_values=_FAR)
        self.high = np.pad(self.high, ((0, 0), (0, more)), constant_values=-1)

    def add(self, labels: Array, top: int, left: int) -> tuple[int, int]:
        """The pixels (H, W) of a block whose top left is at ``top``, ``left``. Returns the lowest and highest id in it."""
        ids, y, x, length = _runs(labels)
        chosen = (ids >= self._first) & (ids < self._first + self._count)
        self._add_runs(ids[chosen] - self._first, y[chosen] + top, x[chosen] + left, length[chosen])
        return int(ids.min(initial=2**32)), int(ids.max(initial=0))

    def _add_runs(self, places: Ints, y: Ints, x: Ints, length: Ints) -> None:
        if not len(places):
            return
        self._reserve(int(places.max()) + 1)
        last = x + length - 1
        np.add.at(self.area, places, length)
        for axis, begin, end, total in ((0, y, y, y * length), (1, x, last, (x + last) * length // 2)):
            np.add.at(self.sums[axis], places, total)
            np.minimum.at(self.low[axis], places, begin.astype(np.int32))
            np.maximum.at(self.high[axis], places, end.astype(np.int32))

    def rows(self, spec: ImageSpec, scale: Scale) -> Iterator[tuple[float, ...]]:
        """See :func:`measure`."""
        places = np.flatnonzero(self.area)
        for start in range(0, len(places), _ROWS):
            yield from self._some_rows(places[start : start + _ROWS], spec, scale)

    def _some_rows(self, places: Ints, spec: ImageSpec, scale: Scale) -> Iterator[tuple[float, ...]]:
        area = self.area[places]
        centres = self.sums[:, places] / area + 0.5  # from the corner, as the sides of the box
        box = [*self.low[:, places], *(self.high[:, places] + 1)]

        def measured(size: Scale, digits: int, corner: float) -> list[list[float]]:
            found = [area * (size[0] * size[1]), *(centre * side - corner for centre, side in zip(centres, size, strict=True))]
            found += [edge * side for edge, side in zip(box, size * 2, strict=True)]
            return [_rounded(values, digits) for values in found]

        columns = [(places + self._first).tolist(), *measured(_whole(scale), 2, 0.5)]
        if spec.pixel_size:
            columns += measured(spec.pixel_size, 4, 0)
        return zip(*columns, strict=True)


def _whole(scale: Scale) -> Scale:
    """As integers, where a pixel becomes a whole number of pixels: areas and boxes are integers then."""
    tall, wide = scale
    return (int(tall), int(wide)) if float(tall).is_integer() and float(wide).is_integer() else scale


def _rounded(values: Array, digits: int) -> list[float]:
    return [round(value, digits) for value in values.tolist()]


def _runs(labels: Array) -> tuple[Ints, Ints, Ints, Ints]:
    """Runs of one object along rows: id, y and x of the first pixel, length."""
    begins = labels > 0
    ends = begins.copy()
    change = labels[:, 1:] != labels[:, :-1]
    begins[:, 1:] &= change
    ends[:, :-1] &= change
    starts = np.flatnonzero(begins)
    y, x = np.divmod(starts, labels.shape[1])
    return labels[y, x].astype(np.int64), y, x, np.flatnonzero(ends) - starts + 1


def measure(labels: Source, scale: Scale = (1, 1)) -> Iterator[tuple[float, ...]]:
    """For each object, by id: id, area, centroid and box (bottom and right exclusive) in pixels, of which one of ``labels`` is
    ``scale`` high and wide; with a known pixel size all but the id again in micrometres. Read block by block, and once more for
    each further range of ids where these occur."""
    spec = labels.spec
    blocks = list(make_grid((spec.height, spec.width), (_SIDE, _SIDE)).blocks())
    extents = [(1, 1)] * len(blocks)  # lowest and highest id of each: unknown yet, so that the first range reads all
    first = 1
    while waiting := [max(low, first) for low, high in extents if first <= high]:
        first = min(waiting)
        found = _Measures(first, _IDS)
        for block in blocks:
            low, high = extents[block.index]
            if low < first + _IDS and first <= high:
                region = block.region
                extents[block.index] = found.add(labels.read(region)[..., 0], region.y, region.x)
        yield from found.rows(spec, scale)
        first += _IDS


def _export(path: Path, exported: Exported) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        for number, one in enumerate(exported.each()):
            if number == 0:
                writer.writerow([*exported.axes, *_columns(one)])
            place = [one.plane[axis] for axis in exported.axes]
            writer.writerows([*place, *row] for row in _rows(one))


def _columns(exported: Exported) -> list[str]:
    columns = [*_COLUMNS, *(_MICROMETRES if exported.result.spec.pixel_size else ()), *measures.columns(exported)]
    if exported.objects is not None:
        columns[1:1] = _KNOWN
    return columns


def _rows(exported: Exported) -> Iterator[tuple[object, ...]]:
    """Those of one plane."""
    if not exported.measure:
        yield from _plain_rows(exported)
        return
    for row, more in zip(_plain_rows(exported), measures.measured(exported), strict=True):
        yield *row, *more


def _plain_rows(exported: Exported) -> Iterator[tuple[object, ...]]:
    if exported.objects is None:
        yield from measure(exported.result, exported.scale)
        return
    known = known_of(exported.objects)
    for number, *values in measure(exported.result, exported.scale):
        one = known(int(number))
        yield number, one.class_name, one.score, *values


TABLE = Exporter(
    name="csv",
    suffix=".csv",
    summary="a table of the objects: id, class and score where known, area, centroid, box",
    export=_export,
    planes=True,
)
