"""The outlines of objects, along the edges of their pixels, from a label image of any size.

An outline is known by its corners, and of a corner four pixels tell all. So blocks give corners, and no block needs to know
how another's lines go on: along each line between pixels, the corners of an object are in turn where an edge begins and
where it ends. Corners are held for a range of ids at a time, as many as there is room for; a block is read once more for
each further range that has pixels in it.

Where two pixels of an object touch at a corner only, they may be of two parts (4 neighbours), whose rings then touch; if they
are of one part, what it shuts in there is a hole. So no ring meets itself, and polygons are valid to QuPath and others.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from i2i.contracts import Array, ImageSpec, Source
from i2i.geometry import Region, make_grid

_SIDE = 2048
_CORNERS = 2**21
"""Held at a time, some 100 bytes each; more only where one object has more."""
_ROWS = 256
"""Of pixels in which the parts around holes are looked for at a time."""
_RIGHT, _DOWN, _SIDEWAYS = 1, 2, 4
_END = 2**63 - 1

Ints = npt.NDArray[np.int64]
Points = npt.NDArray[np.int32]
T = TypeVar("T")


@dataclass(frozen=True)
class Outline:
    """An object: its id, ``area`` in pixels, ``centre`` (y, x) and ``parts``, its 4-connected parts in the order of their first
    pixels. A part has an outer ring, then the rings of its holes. A ring: (K, 2) int32, its corners x, y in turn, the first in
    raster order first, not repeated at the end. Pixel (0, 0) covers 0 .. 1 along both axes. By the shoelace formula the area of
    outer rings is positive, that of holes negative: with y down, outer rings run clockwise as one sees them.
    """

    number: int
    area: int
    centre: tuple[float, float]
    parts: tuple[tuple[Points, ...], ...]


@dataclass(frozen=True)
class _Corners:
    """N corners: id of the object, place, and ``turn``, bits: the horizontal edge is to the right (else left), the vertical one
    below (else above), and the outline, which goes round the object clockwise as one sees it, leaves by the horizontal one."""

    ids: Ints
    y: Points
    x: Points
    turn: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, chosen: Array) -> _Corners:
        return _Corners(self.ids[chosen], self.y[chosen], self.x[chosen], self.turn[chosen])

    @staticmethod
    def join(several: list[_Corners]) -> _Corners:
        return _Corners(*(np.concatenate([getattr(one, field.name) for one in several]) for field in fields(_Corners)))


def find_outlines(labels: Source) -> Iterator[Outline]:
    """The outlines of the objects, by id, of a label image (H, W, 1) of integers, where 0 is no object. It is read block by
    block; memory is bounded by some 300 MB, or by the corners of the object that has the most. Raises what ``labels`` raises."""
    spec = labels.spec
    blocks = list(make_grid((spec.height, spec.width), (_SIDE, _SIDE)).blocks())
    extents = [(1, _END)] * len(blocks)  # lowest and highest id of each: unknown yet, so that the first range reads all
    first = 1
    while waiting := [max(low, first) for low, high in extents if first <= high]:
        held = _Held(min(waiting))
        for block in blocks:
            low, high = extents[block.index]
            if low < held.end and first <= high:
                pixels = _with_rim(labels, block.region)
                if high == _END:
                    extents[block.index] = _extent(pixels)
                held.add(_corners(pixels, block.region, held.first, held.end))
        first = held.end
        yield from _trace(held.corners())


class _Held:
    """The corners of the objects with the ids ``first`` .. ``end`` - 1; ``end`` falls when there are too many."""

    def __init__(self, first: int) -> None:
        self.first, self.end = first, _END
        self._parts: list[_Corners] = []
        self._count, self._most = 0, _CORNERS

    def add(self, corners: _Corners) -> None:
        self._parts.append(corners)
        self._count += len(corners)
        if self._count > self._most:
            self._shrink()

    def _shrink(self) -> None:
        """Keep the lower half, or the lowest object alone, which there must be room for."""
        corners = self.corners()
        lowest = int(corners.ids.min())
        self.end = max(lowest + 1, int(np.partition(corners.ids, len(corners) // 2)[len(corners) // 2]))
        self._parts = [corners.take(corners.ids < self.end)]
        self._count = len(self._parts[0])
        self._most = max(_CORNERS, 2 * self._count)

    def corners(self) -> _Corners:
        return _Corners.join([_no_corners(), *self._parts])


def _no_corners() -> _Corners:
    return _Corners(np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0, np.uint8))


def _with_rim(labels: Source, region: Region) -> Array:
    """The pixels of a block with a row above and a column to the left; at the image's edges zeros, on all sides."""
    spec: ImageSpec = labels.spec
    read = Region(region.y - 1, region.x - 1, region.height + 1, region.width + 1).intersect(spec.region)
    rows = int(region.y == 0), int(region.bottom == spec.height)
    columns = int(region.x == 0), int(region.right == spec.width)
    return np.pad(labels.read(read)[..., 0], (rows, columns))


def _extent(pixels: Array) -> tuple[int, int]:
    """The lowest and the highest id; of no object (0, 0)."""
    highest = pixels.max()
    return int(pixels.min(where=pixels > 0, initial=highest)), int(highest)


def _corners(pixels: Array, region: Region, first: int, end: int) -> _Corners:
    """The corners of the objects ``first`` .. ``end`` - 1 in the middle of each 2 x 2 pixels of a block with its rim."""
    rows = np.flatnonzero(((pixels >= first) & (pixels < end)).any(axis=1))
    if not len(rows):
        return _no_corners()
    top = max(0, int(rows[0]) - 1)
    pixels = pixels[top : rows[-1] + 2]
    across, along = pixels[:, 1:] == pixels[:, :-1], pixels[1:] == pixels[:-1]
    straight = (across[1:] & across[:-1]) | (along[:, 1:] & along[:, :-1])
    y, x = np.nonzero(~straight)
    found = _turns([pixels[y + down, x + right].astype(np.int64) for down in (0, 1) for right in (0, 1)])
    corners = _Corners.join([_at(ids, kept, y, x, turn) for ids, kept, turn in found])
    place = _Corners(corners.ids, corners.y + np.int32(region.y + top), corners.x + np.int32(region.x), corners.turn)
    return place.take((corners.ids >= first) & (corners.ids < end))


def _at(ids: Ints, kept: Array, y: Array, x: Array, turn: int) -> _Corners:
    places = np.flatnonzero(kept)
    return _Corners(ids[places], y[places].astype(np.int32), x[places].astype(np.int32), np.full(len(places), turn, np.uint8))


def _turns(quarters: list[Ints]) -> Iterator[tuple[Ints, Array, int]]:
    """For the pixels around N places (top left, top right, bottom left, bottom right): ids, where these have a corner, and the
    turn. A pixel apart from its neighbours is a corner that juts out, three pixels without the fourth one that goes in."""
    for number, pixel in enumerate(quarters):
        beside, below, opposite = quarters[number ^ 1], quarters[number ^ 2], quarters[number ^ 3]
        sideways = number in (0, 3)
        yield pixel, (pixel > 0) & (pixel != beside) & (pixel != below), number | _SIDEWAYS * sideways
        inward = (beside > 0) & (beside == below) & (beside == opposite) & (pixel != beside)
        yield beside, inward, number | _SIDEWAYS * (not sideways)


def _trace(corners: _Corners) -> Iterator[Outline]:
    """The outlines of whole objects from all their corners, by id."""
    if not len(corners):
        return
    corners = corners.take(np.lexsort((corners.turn & _RIGHT, corners.x, corners.y, corners.ids)))
    down = _vertical(corners)
    rings = _Rings.of(corners, down)
    pinched = _pinched(corners, rings.ring)
    if len(pinched):
        other = np.arange(len(corners))
        other[pinched], other[pinched + 1] = pinched + 1, pinched
        down = other[down[other]]
        rings = _Rings.of(corners, down)
    yield from _outlines(corners, rings, _owners(corners, rings, down))


def _vertical(corners: _Corners) -> Ints:
    """For each corner the one at the other end of its vertical edge."""
    order = np.lexsort((corners.turn & _DOWN, corners.y, corners.x, corners.ids))
    partner = np.empty_like(order)
    partner[order[0::2]], partner[order[1::2]] = order[1::2], order[0::2]
    return partner


def _pinched(corners: _Corners, ring: Ints) -> Ints:
    """The first of each two corners in one place that are in one ring: there a part touches itself, and its ring is to be cut."""
    same = (corners.ids[1:] == corners.ids[:-1]) & (corners.y[1:] == corners.y[:-1]) & (corners.x[1:] == corners.x[:-1])
    return np.flatnonzero(same & (ring[1:] == ring[:-1]))


@dataclass(frozen=True)
class _Rings:
    """R rings. ``starts``: (R,) the first corner of each in raster order, ascending. Each corner is of ``ring``, at ``place``."""

    starts: Ints
    ring: Ints
    place: Ints

    @staticmethod
    def of(corners: _Corners, down: Ints) -> _Rings:
        """Corners are sorted: those at the ends of a horizontal edge are neighbours. ``down``: partners along vertical edges."""
        itself = np.arange(len(corners))
        before = np.where(corners.turn & _SIDEWAYS, down, itself ^ 1)
        start, place = _nearest_lowest(before)
        starts = np.flatnonzero(start == itself)
        number = np.zeros(len(corners), np.int64)
        number[starts] = np.arange(len(starts))
        return _Rings(starts, number[start], place)


def _nearest_lowest(following: Ints) -> tuple[Ints, Ints]:
    """For each member of a permutation the lowest one of its cycle, and the steps that lead there."""
    lowest, steps, jump, length = np.arange(len(following)), np.zeros(len(following), np.int64), following, 1
    while (lower := np.flatnonzero(lowest[jump] < lowest)).size:
        there = jump[lower]
        steps[lower], lowest[lower] = steps[there] + length, lowest[there]
        jump, length = jump[jump], 2 * length
    return lowest, steps


def _owners(corners: _Corners, rings: _Rings, down: Ints) -> Ints:
    """For each ring the outer ring of its part: itself, or that around a hole."""
    outer = (corners.turn[rings.starts] & _SIDEWAYS) > 0
    ids = corners.ids[rings.starts]
    owner = np.arange(len(outer))
    places = np.flatnonzero(outer)
    low, high = np.searchsorted(ids[places], ids, "left"), np.searchsorted(ids[places], ids, "right")
    single = ~outer & (high - low == 1)
    owner[single] = places[low[single]]
    unclear = np.flatnonzero(~outer & ~single)
    if len(unclear):
        owner[unclear] = _left_of(corners, rings, down, unclear)
    while not np.array_equal(owner, further := owner[owner]):
        owner = further
    return owner


def _left_of(corners: _Corners, rings: _Rings, down: Ints, holes: Ints) -> Ints:
    """For each of these holes the ring next to the left in the row of pixels above its first corner: what lies between is the
    part around the hole, so that ring is of the same part; and it begins further up."""
    starts = rings.starts[holes]
    rows = _key(corners.ids[starts], corners.y[starts] - 1)
    upper = np.flatnonzero((corners.y[down] > corners.y) & np.isin(corners.ids, corners.ids[starts]))
    spans = np.stack([_key(corners.ids[upper], corners.y[end]) for end in (upper, down[upper])])
    found = np.empty_like(starts)
    order = np.argsort(rows)
    for begin in range(0, len(order), _ROWS):
        some = order[begin : begin + _ROWS]
        near = np.flatnonzero((spans[0] <= rows[some[-1]]) & (spans[1] > rows[some[0]]))
        edges = upper[near]
        found[some] = edges[_last_before(spans[:, near], corners.x[edges], rows[some], corners.x[starts[some]])]
    return rings.ring[found]


def _key(high: Ints, low: Points) -> Ints:
    return (high << 31) | low


def _last_before(spans: Ints, edges: Points, rows: Ints, x: Points) -> Ints:
    """In each of these rows of pixels of an object, ascending, the last vertical edge up to ``x``. ``spans``: (2, N),
    in which rows edges begin and end; ``edges``: (N,) their x."""
    begin, end = np.searchsorted(rows, spans)
    counts = end - begin
    row = np.arange(counts.sum()) + np.repeat(begin - np.cumsum(counts) + counts, counts)  # that each edge crosses, edge by edge
    edge = np.repeat(np.arange(len(edges)), counts)
    crossings = _key(row, edges[edge])
    order = np.argsort(crossings)
    last = np.searchsorted(crossings[order], _key(np.arange(len(rows)), x), "right") - 1
    found: Ints = edge[order[last]]
    return found


def _outlines(corners: _Corners, rings: _Rings, owners: Ints) -> Iterator[Outline]:
    order = np.argsort(owners, kind="stable")  # by id, as corners are; of a part the outer ring comes first
    outer = np.flatnonzero(owners[order] == order)
    parts = _grouped(_points(corners, rings, order), outer)
    ids = corners.ids[rings.starts[order[outer]]]
    objects = _grouped(parts, np.flatnonzero(np.diff(ids, prepend=0)))
    for measures, several in zip(_measures(corners), objects, strict=True):
        yield Outline(*measures, several)


def _points(corners: _Corners, rings: _Rings, order: Ints) -> list[Points]:
    """The points of each ring, in that order."""
    lengths = np.bincount(rings.ring)[order]
    ends = np.cumsum(lengths)
    begins = np.empty_like(ends)
    begins[order] = ends - lengths
    points = np.empty((len(corners), 2), np.int32)
    points[begins[rings.ring] + rings.place] = np.stack([corners.x, corners.y], axis=1)
    return np.split(points, ends[:-1])


def _grouped(items: list[T], starts: Ints) -> list[tuple[T, ...]]:
    return [tuple(items[begin:end]) for begin, end in pairwise([*starts.tolist(), len(items)])]


def _measures(corners: _Corners) -> Iterator[tuple[int, int, tuple[float, float]]]:
    """Id, area and centre of each object: sums over its corners, exact even where those of single corners overflow."""
    starts = np.flatnonzero(np.diff(corners.ids, prepend=0))
    x, y = corners.x.astype(np.int64), corners.y.astype(np.int64)
    weighted = np.where(corners.turn & _SIDEWAYS, x, -x) * y
    area = np.add.reduceat(weighted, starts)
    centres = (np.add.reduceat(weighted * axis, starts) / (2 * area) for axis in (y, x))
    rows, columns = (centre.tolist() for centre in centres)
    yield from zip(corners.ids[starts].tolist(), area.tolist(), zip(rows, columns, strict=True), strict=True)
