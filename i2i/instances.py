"""Objects over tiles: found in windows, counted once, drawn as labels.

1. A window's objects are kept when they are complete (they do not touch a window edge inside the image) and their centre
   lies in the tile's core or within ``margin`` of it: centres jitter between tiles, and "in the core" alone loses objects.
2. Across tiles, two objects whose masks overlap are one; the first in the order (score, y, x) stays.
3. Those that stay are numbered by (y, x) and drawn block by block.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from i2i.contracts import Array, Instances
from i2i.geometry import Region, Tile

_CELL = 128


@dataclass(frozen=True)
class Candidates:
    """What one block found: ``objects`` in image pixels, the number of the ``tiles`` each comes from (N,) int64, and how many
    objects were ``cut``: they have their centre in a core but reach further than its window."""

    objects: Instances
    tiles: npt.NDArray[np.int64]
    cut: int = 0


def select_candidates(found: Instances, tile: Tile, image: Region, margin: int, number: int) -> Candidates:
    """Of the objects in a window's pixels those that may stay, in image pixels. ``number``: the tile's, unique in the run."""
    objects = found.shift(tile.window.y, tile.window.x)
    complete = _complete(objects, tile.window, image)
    near = _centre_inside(objects, tile.core.grow(margin))
    cut = int((~complete & _centre_inside(objects, tile.core)).sum())
    kept = objects.take(np.flatnonzero(complete & near))
    return Candidates(kept, np.full(len(kept), number, np.int64), cut)


def _complete(objects: Instances, window: Region, image: Region) -> npt.NDArray[np.bool_]:
    top, left, bottom, right = objects.boxes.T
    return (
        ((top > window.y) | (window.y <= image.y))
        & ((left > window.x) | (window.x <= image.x))
        & ((bottom < window.bottom) | (window.bottom >= image.bottom))
        & ((right < window.right) | (window.right >= image.right))
    )


def _centre_inside(objects: Instances, region: Region) -> npt.NDArray[np.bool_]:
    y, x = (objects.boxes[:, 0] + objects.boxes[:, 2]) / 2, (objects.boxes[:, 1] + objects.boxes[:, 3]) / 2
    return (y >= region.y) & (y < region.bottom) & (x >= region.x) & (x < region.right)


def join_candidates(parts: Iterable[Candidates]) -> Candidates:
    """All blocks' candidates, in the order of the blocks."""
    parts = list(parts)
    objects = Instances.join([part.objects for part in parts])
    tiles = np.concatenate([part.tiles for part in parts]) if parts else np.zeros(0, np.int64)
    return Candidates(objects, tiles, sum(part.cut for part in parts))


def intersection(one: Instances, i: int, other: Instances, j: int) -> int:
    """Pixels that the masks of two objects share."""
    a, b = one.boxes[i], other.boxes[j]
    top, left = np.maximum(a[:2], b[:2])
    bottom, right = np.minimum(a[2:], b[2:])
    if top >= bottom or left >= right:
        return 0
    first = one.masks[i][top - a[0] : bottom - a[0], left - a[1] : right - a[1]]
    second = other.masks[j][top - b[0] : bottom - b[0], left - b[1] : right - b[1]]
    return int((first & second).sum())


def merge(candidates: Candidates, overlap: float) -> Instances:
    """Each object once, in the order (y, x). Two of different tiles are one when their masks share more than ``overlap`` of
    the smaller mask."""
    objects = candidates.objects
    if not len(objects):
        return objects
    areas = np.array([int(mask.sum()) for mask in objects.masks])
    order = np.lexsort((objects.boxes[:, 1], objects.boxes[:, 0], -objects.scores))
    kept: list[int] = []
    near = _Neighbours()
    for i in order.tolist():
        rivals = (j for j in near.of(objects.boxes[i]) if candidates.tiles[j] != candidates.tiles[i])
        if all(intersection(objects, i, objects, j) <= overlap * min(areas[i], areas[j]) for j in rivals):
            kept.append(i)
            near.add(i, objects.boxes[i])
    return objects.take(sorted(kept, key=lambda i: tuple(objects.boxes[i, :2].tolist())))


class _Neighbours:
    """Objects by the cells of a coarse raster that their boxes meet."""

    def __init__(self) -> None:
        self._cells: dict[tuple[int, int], list[int]] = {}

    @staticmethod
    def _of(box: npt.NDArray[np.int64]) -> list[tuple[int, int]]:
        top, left, bottom, right = (box // _CELL).tolist()
        return [(y, x) for y in range(top, bottom + 1) for x in range(left, right + 1)]

    def add(self, index: int, box: npt.NDArray[np.int64]) -> None:
        for cell in self._of(box):
            self._cells.setdefault(cell, []).append(index)

    def of(self, box: npt.NDArray[np.int64]) -> list[int]:
        return sorted({index for cell in self._of(box) for index in self._cells.get(cell, ())})


def draw(objects: Instances, region: Region) -> npt.NDArray[np.uint32]:
    """Labels (H, W) of ``region``: object i has the label i + 1; where two overlap the higher score is on top."""
    labels = np.zeros((region.height, region.width), np.uint32)
    boxes = objects.boxes
    meets = (boxes[:, 0] < region.bottom) & (boxes[:, 2] > region.y) & (boxes[:, 1] < region.right) & (boxes[:, 3] > region.x)
    chosen = np.flatnonzero(meets)
    for i in chosen[np.argsort(objects.scores[chosen], kind="stable")].tolist():
        top, left, bottom, right = boxes[i].tolist()
        box = Region(top, left, bottom - top, right - left)
        part = box.intersect(region)
        view = labels[part.relative_to(region).slices]
        view[objects.masks[i][part.relative_to(box).slices]] = i + 1
    return labels


def pack(candidates: Candidates) -> dict[str, Array]:
    """As plain arrays: what is kept on disk for a block. Masks are bits."""
    objects = candidates.objects
    bits = [np.packbits(mask) for mask in objects.masks]
    return {
        "boxes": objects.boxes,
        "scores": objects.scores,
        "classes": objects.classes,
        "tiles": candidates.tiles,
        "masks": np.concatenate(bits) if bits else np.zeros(0, np.uint8),
        "cut": np.array(candidates.cut),
    }


def unpack(arrays: Mapping[str, Array]) -> Candidates:
    """The inverse of :func:`pack`."""
    masks, start = [], 0
    for top, left, bottom, right in arrays["boxes"].tolist():
        count = (bottom - top) * (right - left)
        stop = start + -(-count // 8)
        bits = np.unpackbits(arrays["masks"][start:stop], count=count)
        masks.append(bits.reshape(bottom - top, right - left).astype(bool))
        start = stop
    objects = Instances(arrays["boxes"], arrays["scores"], arrays["classes"], tuple(masks))
    return Candidates(objects, arrays["tiles"], int(arrays["cut"]))
