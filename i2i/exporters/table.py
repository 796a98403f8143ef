"""A table of the objects: one CSV row each."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import numpy.typing as npt

from i2i.contracts import Exported, Exporter, Source
from i2i.geometry import make_grid

_SIDE = 2048
_FAR = np.iinfo(np.int64).max


class _Measures:
    """Sums over the pixels of each object, grown as larger ids appear."""

    def __init__(self) -> None:
        self.area = np.zeros(0, np.int64)
        self.sums = np.zeros((0, 2), np.float64)
        self.low = np.zeros((0, 2), np.int64)
        self.high = np.zeros((0, 2), np.int64)

    def _grow(self, count: int) -> None:
        more = count - len(self.area)
        if more > 0:
            self.area = np.concatenate([self.area, np.zeros(more, np.int64)])
            self.sums = np.concatenate([self.sums, np.zeros((more, 2))])
            self.low = np.concatenate([self.low, np.full((more, 2), _FAR)])
            self.high = np.concatenate([self.high, np.full((more, 2), -1)])

    def add(self, labels: npt.NDArray[np.int64], y: int, x: int) -> None:
        """The pixels (H, W) of a block whose top left is at ``y``, ``x``."""
        rows, columns = np.nonzero(labels)
        ids = labels[rows, columns]
        self._grow(int(ids.max(initial=-1)) + 1)
        places = np.stack([rows + y, columns + x], 1)
        self.area += np.bincount(ids, minlength=len(self.area))
        for axis in (0, 1):
            self.sums[:, axis] += np.bincount(ids, places[:, axis], minlength=len(self.area))
        np.minimum.at(self.low, ids, places)
        np.maximum.at(self.high, ids, places)


def measure(labels: Source) -> list[dict[str, float | int]]:
    """For each object: id, area, centroid and box (bottom and right exclusive) in pixels; with a known pixel size also
    area and centroid in micrometres. Read block by block."""
    spec, measures = labels.spec, _Measures()
    for block in make_grid((spec.height, spec.width), (_SIDE, _SIDE)).blocks():
        measures.add(labels.read(block.region)[..., 0].astype(np.int64), block.region.y, block.region.x)
    rows: list[dict[str, float | int]] = []
    for number in np.flatnonzero(measures.area).tolist():
        area = int(measures.area[number])
        y, x = (measures.sums[number] / area).tolist()
        (top, left), (bottom, right) = measures.low[number].tolist(), (measures.high[number] + 1).tolist()
        row: dict[str, float | int] = {
            "id": number, "area": area, "y": round(y, 2), "x": round(x, 2),
            "top": top, "left": left, "bottom": bottom, "right": right,
        }  # fmt: skip
        if spec.pixel_size:
            tall, wide = spec.pixel_size
            row |= {"area_um2": round(area * tall * wide, 4), "y_um": round(y * tall, 4), "x_um": round(x * wide, 4)}
        rows.append(row)
    return rows


_COLUMNS = ["id", "area", "y", "x", "top", "left", "bottom", "right"]
_MICROMETRES = ["area_um2", "y_um", "x_um"]


def _export(path: Path, exported: Exported) -> None:
    columns = _COLUMNS + (_MICROMETRES if exported.result.spec.pixel_size else [])
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        writer.writerows(measure(exported.result))


TABLE = Exporter(name="csv", suffix=".csv", summary="a table of the objects: id, area, centroid, box", export=_export)
