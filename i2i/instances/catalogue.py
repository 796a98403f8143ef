"""The finished objects of an image: their numbers, and where each is kept.

Objects are numbered by the cells, of 1024 x 1024 pixels in raster order, that hold the top left corner of their box; within
a cell by (y, x) of that corner. That order depends on the objects alone, and neighbours in it are near each other: who goes
through it needs few parts at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from i2i.contracts import Instances
from i2i.geometry import Grid, Region
from i2i.instances.packed import Finished, Packed

_CELL = 1024
_PARTS = 16
"""Parts at hand when objects are gone through: those around a place."""
Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Catalogue:
    """Objects 1 .. N, in parts as they were finished; the object with the id i is at i - 1.

    ``scores`` (N,) float32, ``classes`` (N,) int16; ``parts`` and ``places``: (N,) int32, the part that holds each, and where in
    it. ``ids``: of each part's objects, uint32. ``touching``: by block, the parts with objects whose boxes meet it. ``runs``:
    where ids of a new cell begin, and N at the end. ``incomplete``: how many objects are.
    """

    scores: npt.NDArray[np.float32]
    classes: npt.NDArray[np.int16]
    parts: npt.NDArray[np.int32]
    places: npt.NDArray[np.int32]
    ids: Sequence[npt.NDArray[np.uint32]]
    touching: Sequence[Sequence[int]]
    runs: Ids
    incomplete: int

    def __len__(self) -> int:
        return len(self.scores)

    def near(self, block: int, fetch: Callable[[int], Packed], region: Region) -> tuple[Packed, npt.NDArray[np.uint32]]:
        """The objects whose boxes meet ``region``, that of a block, and their ids. ``fetch`` gives a part."""
        found, ids = [], []
        for part in self.touching[block]:
            objects = fetch(part)
            top, left, bottom, right = objects.boxes.T
            meets = (top < region.bottom) & (bottom > region.y) & (left < region.right) & (right > region.x)
            found.append(objects.take(meets))
            ids.append(self.ids[part][meets])
        return Packed.join(found) if found else Packed.empty(), np.concatenate([np.zeros(0, np.uint32), *ids])

    def masks(self, fetch: Callable[[int], Packed]) -> Iterator[tuple[Ids, Instances]]:
        """All objects in the order of their ids, a cell at a time. See :class:`i2i.contracts.Objects`."""
        at_hand = lru_cache(_PARTS)(fetch)
        for start, stop in zip(self.runs[:-1].tolist(), self.runs[1:].tolist(), strict=True):
            found, order = [], []
            for part in np.unique(self.parts[start:stop]).tolist():
                mine = start + np.flatnonzero(self.parts[start:stop] == part)
                found.append(at_hand(part).take(self.places[mine]))
                order.append(mine)
            ids = np.concatenate(order)
            yield np.arange(start + 1, stop + 1), Packed.join(found).take(np.argsort(ids)).instances()


def make_catalogue(grid: Grid, parts: Sequence[Finished]) -> Catalogue:
    """The numbers of all objects. ``parts``: one for each block; their masks are not looked at."""
    sizes = [len(part) for part in parts]
    owners = np.repeat(np.arange(len(parts), dtype=np.int32), sizes)
    places = np.concatenate([np.zeros(0, np.int32), *[np.arange(size, dtype=np.int32) for size in sizes]])
    boxes = np.concatenate([np.zeros((0, 4), np.int32), *[part.boxes for part in parts]])
    scores = np.concatenate([np.zeros(0, np.float32), *[part.scores for part in parts]])
    classes = np.concatenate([np.zeros(0, np.int16), *[part.classes for part in parts]])
    cells = (boxes[:, 0].astype(np.int64) // _CELL << 32) + boxes[:, 1] // _CELL
    order = np.lexsort((-scores, classes, *boxes.T[::-1], cells))
    numbers = np.empty(len(order), np.uint32)
    numbers[order] = np.arange(1, len(order) + 1, dtype=np.uint32)
    runs = np.flatnonzero(np.diff(cells[order], prepend=-1, append=-1)) if len(order) else np.zeros(1, np.int64)
    return Catalogue(
        scores[order], classes[order], owners[order], places[order], np.split(numbers, np.cumsum(sizes)[:-1]),
        _touching(grid, parts), runs, sum(int(part.incomplete.sum()) for part in parts),
    )  # fmt: skip


def _touching(grid: Grid, parts: Sequence[Finished]) -> list[list[int]]:
    """For each block the parts with objects whose boxes meet it."""
    found: list[list[int]] = [[] for _ in range(grid.block_count)]
    rows = np.array([grid.block(row * grid.shape[1]).region.y for row in range(grid.shape[0])])
    columns = np.array([grid.block(column).region.x for column in range(grid.shape[1])])
    for number, part in enumerate(parts):
        top, left, bottom, right = part.boxes.T
        spans = [
            np.searchsorted(starts, at, "right") - 1
            for starts, at in ((rows, top), (columns, left), (rows, bottom - 1), (columns, right - 1))
        ]
        blocks: set[int] = set()
        for first, left_one, last, right_one in np.unique(np.stack(spans, axis=1), axis=0).tolist():
            blocks.update(row * grid.shape[1] + c for row in range(first, last + 1) for c in range(left_one, right_one + 1))
        for block in blocks:
            found[block].append(number)
    return found


def draw(objects: Packed, ids: npt.NDArray[np.uint32], region: Region) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32]]:
    """Labels (H, W) of ``region``, which all objects meet, and the ids that have a pixel there. Where objects overlap the highest
    score is on top; of equal ones the lowest id."""
    order = np.lexsort((-ids.astype(np.int64), objects.scores))
    local = np.zeros((region.height, region.width), np.uint32)
    for number, i in enumerate(order.tolist(), 1):
        part = objects.region(i).intersect(region)
        local[part.relative_to(region).slices][objects.pixels(i, part)] = number
    table = np.concatenate([np.zeros(1, np.uint32), ids[order]])
    seen = np.bincount(local.ravel(), minlength=len(table))[1:] > 0
    return table[local], table[1:][seen]
