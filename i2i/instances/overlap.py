"""Which candidates of two tiles show one object."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from i2i.geometry import Region, Tile
from i2i.instances.candidates import Candidates

_CELL = 64
_AGREE = 0.5
Pairs = npt.NDArray[np.int64]
Boxes = npt.NDArray[np.int32]
TileOf = Callable[[int], Tile]


def related(table: Candidates, known: int, overlap: float, tile_of: TileOf) -> Pairs:
    """Pairs (K, 2) of candidates of one class and different tiles that show one object; those among the first ``known`` are left
    out.

    Two complete ones: their masks share more than ``overlap`` of the smaller. A complete one and a part: they share more
    than ``overlap`` of the part: were it of the smaller, a speck could take the place of a large object. Two parts: see
    :func:`agree`.
    """
    pairs = _touching(table.boxes, known)
    one, other = pairs.T
    parts = (table.cuts[one] > 0) & (table.cuts[other] > 0)
    smaller = np.minimum(table.areas[one], table.areas[other])
    part = np.where(table.cuts[one] > 0, table.areas[one], table.areas[other])
    least = overlap * np.where((table.cuts[one] == 0) & (table.cuts[other] == 0), smaller, part)
    shared = _common(table.boxes[one], table.boxes[other])
    room = np.prod(shared[:, 2:] - shared[:, :2], axis=1, dtype=np.int64)
    alike = (table.classes[one] == table.classes[other]) & (table.tiles[one] != table.tiles[other])
    chosen = np.flatnonzero(alike & (parts | (room > least)))
    kept = [
        k
        for k, i, j, both in zip(chosen.tolist(), *pairs[chosen].T.tolist(), parts[chosen].tolist(), strict=True)
        if (agree(table, i, j, tile_of) if both else intersection(table, i, j) > least[k])
    ]
    return pairs[kept]


def intersection(table: Candidates, one: int, other: int) -> int:
    """Pixels that two masks share."""
    area = table.region(one).intersect(table.region(other))
    return int(np.count_nonzero(table.pixels(one, area) & table.pixels(other, area))) if area.area else 0


def agree(table: Candidates, one: int, other: int, tile_of: TileOf) -> bool:
    """Whether two parts belong to one object: where both windows see, the intersection over union of their masks is above a
    half.

    Only those connected pieces of the union count that hold a pixel of both: an object may run through the common area in
    several places, and be one in one window and in pieces in the other.
    """
    seen = tile_of(int(table.tiles[one])).window.intersect(tile_of(int(table.tiles[other])).window)
    area = _hull(table.region(one), table.region(other)).intersect(seen)
    if not area.area:
        return False
    first, second = table.pixels(one, area), table.pixels(other, area)
    both, either = first & second, first | second
    shared = np.count_nonzero(both)
    if not shared or shared > _AGREE * np.count_nonzero(either):
        return bool(shared)
    pieces, count = ndimage.label(either)
    counted = np.zeros(count + 1, bool)
    counted[pieces[both]] = True
    return bool(shared > _AGREE * np.count_nonzero(counted[pieces]))


def _hull(one: Region, other: Region) -> Region:
    y, x = min(one.y, other.y), min(one.x, other.x)
    return Region(y, x, max(one.bottom, other.bottom) - y, max(one.right, other.right) - x)


def _common(boxes: Boxes, others: Boxes) -> Boxes:
    return np.concatenate([np.maximum(boxes[:, :2], others[:, :2]), np.minimum(boxes[:, 2:], others[:, 2:])], axis=1)


def _touching(boxes: Boxes, known: int) -> Pairs:
    """Pairs (K, 2), the lower index first, of boxes that share a pixel, but for those among the first ``known``."""
    if known >= len(boxes):
        return np.zeros((0, 2), np.int64)
    (top, left), (bottom, right) = boxes[known:, :2].min(axis=0).tolist(), boxes[known:, 2:].max(axis=0).tolist()
    near = (boxes[:, 0] < bottom) & (boxes[:, 2] > top) & (boxes[:, 1] < right) & (boxes[:, 3] > left)
    places = np.flatnonzero(near)
    found = [places[pairs] for pairs in _in_cells(boxes[places], int((places < known).sum()))]
    return np.concatenate([np.zeros((0, 2), np.int64), *found])


def _in_cells(boxes: Boxes, known: int) -> Iterator[Pairs]:
    """The same, found by the cells of a coarse raster that boxes meet. A pair counts in the cell of the first pixel that both
    share, so that it comes once."""
    cells, owners = _cells(boxes)
    order = np.argsort(cells, kind="stable")
    cells, owners = cells[order], owners[order]
    for distance in range(1, len(cells)):
        same = np.flatnonzero(cells[distance:] == cells[:-distance])
        if not len(same):
            return
        pairs = np.stack([owners[same], owners[same + distance]], axis=1)
        common = _common(boxes[pairs[:, 0]], boxes[pairs[:, 1]])
        here = (common[:, 0] < common[:, 2]) & (common[:, 1] < common[:, 3]) & (pairs[:, 1] >= known)
        yield pairs[here & (_key(*(common[:, :2].astype(np.int64) // _CELL).T) == cells[same])]


def _cells(boxes: Boxes) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The cells that boxes meet, and the box of each."""
    first = boxes[:, :2].astype(np.int64) // _CELL
    spans = (boxes[:, 2:] - 1) // _CELL - first + 1
    counts = spans.prod(axis=1)
    owners = np.repeat(np.arange(len(boxes)), counts)
    steps = np.arange(len(owners)) - np.repeat(np.cumsum(counts) - counts, counts)
    dy, dx = np.divmod(steps, spans[owners, 1])
    return _key(first[owners, 0] + dy, first[owners, 1] + dx), owners


def _key(y: npt.NDArray[np.int64], x: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return (y << 32) + x
