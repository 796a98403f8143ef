"""Labels from classes, block by block: the same labels for every way of cutting the image into blocks.

1. In each block, connected components (4 neighbours) of the interior class get local numbers.
2. Components that meet at a block border are joined; each object is numbered by its first pixel in raster order; objects
   whose whole area is too small are dropped. Only components at block borders are held for the whole image. The others are
   numbered one row of blocks at a time: all first pixels of a row lie before those of the next.
3. Objects grow ``dilate`` pixels into the border class, the lowest number first. With that much context around a block,
   the result cannot depend on the block.

What blocks need of each other is in their *frames*, the outermost pixels: no block reads another's pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from i2i.contracts import Array, LabelRule
from i2i.geometry import Block, Grid, Region, make_grid

Ids = npt.NDArray[np.int64]
Nodes = npt.NDArray[np.int32]
Labels = npt.NDArray[np.uint32]
Mask = npt.NDArray[np.bool_]
FREE = np.uint32(np.iinfo(np.uint32).max)
"""Among labels: a pixel of the border class, into which objects grow."""


@dataclass(frozen=True)
class BlockComponents:
    """What is kept of a block with the components 1 .. N. All arrays are uint32.

    ``areas``: (N,) pixels. ``firsts``: (N,) first pixel of each, counted in raster order over the block. ``frame``: local
    numbers of the block's outermost pixels, flat: top, bottom, left and right side, as deep as objects grow.
    """

    areas: Labels
    firsts: Labels
    frame: Labels


@dataclass(frozen=True)
class RowNumbers:
    """The labels of a row of blocks. All blocks' tables and frames one after the other, and where those of each begin.

    A table gives the label of each local number, 0 for what was dropped; a frame is that of :class:`BlockComponents`, with
    labels. ``count``: the objects of the image so far, those of this row included.
    """

    tables: Labels
    table_starts: Ids
    frames: Labels
    frame_starts: Ids
    count: Ids

    def table(self, column: int) -> Labels:
        return self.tables[self.table_starts[column] : self.table_starts[column + 1]]

    def frame(self, column: int) -> Labels:
        return self.frames[self.frame_starts[column] : self.frame_starts[column + 1]]


def local_labels(classes: Array, rule: LabelRule) -> Labels:
    """The components (H, W) of a block's classes (H, W), counted from 1."""
    return ndimage.label(classes == rule.interior)[0].astype(np.uint32, copy=False)


def block_components(local: Labels, classes: Array, rule: LabelRule) -> BlockComponents:
    """What is kept of a block with the components ``local`` (H, W), counted from 1, and the classes (H, W)."""
    inside = local > 0
    begins, ends = inside.copy(), inside.copy()
    begins[:, 1:] &= ~inside[:, :-1]
    ends[:, :-1] &= ~inside[:, 1:]
    starts, lasts = np.flatnonzero(begins), np.flatnonzero(ends)  # of runs of pixels along rows
    numbers = local.ravel()[starts]
    areas = np.bincount(numbers, lasts - starts + 1, minlength=1)[1:]
    firsts = np.zeros(len(areas) + 1, np.uint32)
    firsts[numbers[::-1]] = starts[::-1]  # the last assignment, which is the first pixel, stays
    depth = _depth(rule)
    frame = _frame(local, depth)
    if rule.border is not None:
        frame[_frame(classes, depth) == rule.border] = FREE
    return BlockComponents(areas.astype(np.uint32), firsts[1:], frame)


def _depth(rule: LabelRule) -> int:
    """Of frames: one pixel joins components, objects grow across more."""
    return max(1, rule.dilate if rule.border is not None else 0)


def _frame(pixels: Array, depth: int) -> Array:
    """The sides of a block one after the other, flat; a side is the whole block where that is smaller."""
    sides = pixels[:depth], pixels[-depth:], pixels[:, :depth], pixels[:, -depth:]
    return np.concatenate([side.ravel() for side in sides])


def _sides(frame: Labels, height: int, width: int, depth: int) -> tuple[Labels, Labels, Labels, Labels]:
    """Top, bottom, left and right from the frame of a block (height, width)."""
    rows, columns = min(depth, height), min(depth, width)
    top, bottom, left, right = np.split(frame, np.cumsum([rows * width, rows * width, height * columns]))
    return top.reshape(rows, -1), bottom.reshape(rows, -1), left.reshape(height, -1), right.reshape(height, -1)


Fetch = Callable[[int], BlockComponents]


@dataclass(frozen=True)
class _Joined:
    """The components at block borders, M of them in the order of the blocks, and the objects that they belong to.

    ``starts``: where each block's begin. ``locals``: (M,) local numbers. ``objects``: (M,) one of the components for all that
    are one object. ``owners``: (M,) those with the first pixel of an object that is large enough. ``labels``: (M,) of
    ``objects``, once their owner is numbered; 0 for what was dropped.
    """

    starts: Ids
    locals: Labels
    objects: Nodes
    owners: Mask
    labels: Labels


@dataclass
class _Border:
    """Gathers the components at block borders, and which of them touch."""

    starts: list[int] = field(default_factory=lambda: [0])
    locals: list[Labels] = field(default_factory=list)
    areas: list[Labels] = field(default_factory=list)
    firsts: list[Ids] = field(default_factory=list)
    pairs: list[Nodes] = field(default_factory=list)

    def add(self, part: BlockComponents, firsts: Ids, sides: tuple[Labels, ...]) -> tuple[Nodes, ...]:
        """A block's components; ``sides``: four lines of local numbers. Returns the lines with numbers from 0 over all blocks,
        -1 where there is no component."""
        local = np.unique(np.concatenate(sides))
        local = local[(local > 0) & (local != FREE)]
        table = np.full(len(part.areas) + 1, -1, np.int32)
        table[local] = np.arange(self.starts[-1], self.starts[-1] + len(local))
        self.starts.append(self.starts[-1] + len(local))
        self.locals.append(local)
        self.areas.append(part.areas[local - 1])
        self.firsts.append(firsts[local - 1])
        return tuple(table[np.where(side == FREE, 0, side)] for side in sides)

    def touch(self, before: Nodes, after: Nodes) -> None:
        """Two lines of numbers that lie side by side."""
        both = (before >= 0) & (after >= 0)
        pairs = np.stack([before[both], after[both]])
        new = np.ones(pairs.shape[1], bool)  # a pair repeats along a border
        new[1:] = (pairs[:, 1:] != pairs[:, :-1]).any(axis=0)
        self.pairs.append(pairs[:, new])

    def join(self, least: int) -> _Joined:
        """The objects; those of fewer than ``least`` pixels have no owner."""
        count, firsts = self.starts[-1], np.concatenate(self.firsts)
        objects = _sets(count, np.concatenate([np.zeros((2, 0), np.int32), *self.pairs], axis=1))
        first = firsts.copy()
        np.minimum.at(first, objects, firsts)
        large = np.bincount(objects, np.concatenate(self.areas), minlength=count) >= least
        owners = (first[objects] == firsts) & large[objects]
        return _Joined(np.array(self.starts), np.concatenate(self.locals), objects, owners, np.zeros(count, np.uint32))


def _sets(count: int, pairs: Nodes) -> Nodes:
    """The smallest member of the set of each of ``count`` members, when those of each pair (2, K) are in one set."""
    smallest = np.arange(count, dtype=np.int32)
    while pairs.shape[1]:
        np.minimum.at(smallest, pairs.max(axis=0), pairs.min(axis=0))
        while not np.array_equal(smallest, shorter := smallest[smallest]):
            smallest = shorter
        pairs = smallest[pairs]
        pairs = pairs[:, pairs[0] != pairs[1]]
    return smallest


def resolve(grid: Grid, rule: LabelRule, fetch: Fetch, store: Callable[[int, RowNumbers], None]) -> int:
    """Number the objects of the whole image. ``fetch`` gives what is kept of a block, twice for each; ``store`` keeps the
    labels of a row of blocks, first to last. Returns how many objects there are."""
    joined, count = _join(grid, rule, fetch), 0
    for row in range(grid.shape[0]):
        numbers = _number_row(grid, rule, joined, row, count, fetch)
        store(row, numbers)
        count = int(numbers.count)
    return count


def _join(grid: Grid, rule: LabelRule, fetch: Fetch) -> _Joined:
    border = _Border()
    above: dict[int, tuple[Nodes, ...]] = {}
    for block in grid.blocks():
        part, region = fetch(block.index), block.region
        top, bottom, left, right = _sides(part.frame, region.height, region.width, _depth(rule))
        lines = border.add(part, _firsts(grid, block, part), (top[0], bottom[-1], left[:, 0], right[:, -1]))
        if block.row:
            border.touch(above[block.column][1], lines[0])
        if block.column:
            border.touch(above[block.column - 1][3], lines[2])
        above[block.column] = lines
    return border.join(rule.min_area)


def _firsts(grid: Grid, block: Block, part: BlockComponents) -> Ids:
    """First pixels counted over the image."""
    y, x = np.divmod(part.firsts.astype(np.int64), block.region.width)
    return (y + block.region.y) * grid.image.width + x + block.region.x


def _number_row(grid: Grid, rule: LabelRule, joined: _Joined, row: int, count: int, fetch: Fetch) -> RowNumbers:
    """The labels of a row of blocks, above which are ``count`` objects."""
    blocks = [grid.block(row * grid.shape[1] + column) for column in range(grid.shape[1])]
    parts = [fetch(block.index) for block in blocks]
    starts = _starts([len(part.areas) for part in parts])
    border = slice(joined.starts[blocks[0].index], joined.starts[blocks[-1].index + 1])
    per_block = np.diff(joined.starts[blocks[0].index : blocks[-1].index + 2])
    places = joined.locals[border].astype(np.int64) - 1 + np.repeat(starts[:-1], per_block)
    objects, owners = joined.objects[border], joined.owners[border]
    kept = np.concatenate([part.areas for part in parts]) >= rule.min_area
    kept[places] = owners
    chosen = np.flatnonzero(kept)
    firsts = np.concatenate([_firsts(grid, block, part) for block, part in zip(blocks, parts, strict=True)])
    labels = np.zeros(len(kept), np.uint32)
    labels[chosen[np.argsort(firsts[chosen])]] = np.arange(count + 1, count + len(chosen) + 1)
    joined.labels[objects[owners]] = labels[places[owners]]
    labels[places] = joined.labels[objects]
    return _row_numbers(labels, starts, parts, count + len(chosen))


def _starts(lengths: list[int]) -> Ids:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def _row_numbers(labels: Labels, starts: Ids, parts: list[BlockComponents], count: int) -> RowNumbers:
    tables = np.insert(labels, starts[:-1], 0)  # the local number 0 is no object
    table_starts = starts + np.arange(len(starts))
    frame_starts = _starts([len(part.frame) for part in parts])
    local = np.concatenate([part.frame for part in parts])
    free = local == FREE
    local[free] = 0
    frames = tables[local + np.repeat(table_starts[:-1], np.diff(frame_starts))]
    frames[free] = FREE
    return RowNumbers(tables, table_starts, frames, frame_starts, np.array(count))


def grow(labels: Labels, iterations: int) -> None:
    """Objects grow into pixels that are ``FREE``, by one pixel (8 neighbours) an iteration; where several meet, the lowest
    number wins; what is still free then becomes 0. ``labels``: (H, W), changed in place, with 0 all around its edge. A
    pixel's result depends on nothing further than ``iterations`` pixels away."""
    values, width = labels.reshape(-1), labels.shape[1]
    free = np.flatnonzero(values == FREE)
    for _ in range(iterations):
        lowest = np.full(len(free), FREE)
        for offset in (-width - 1, -width, -width + 1, -1, 1, width - 1, width, width + 1):
            np.minimum(lowest, values[free + offset] - np.uint32(1), out=lowest)  # 0, which is no object, becomes the highest
        reached = lowest < FREE - 1
        values[free[reached]] = lowest[reached] + 1
        free = free[~reached]
    values[free] = 0


def finish_block(
    grid: Grid, rule: LabelRule, block: Block, classes: Array, local: Labels, numbers: Callable[[int], RowNumbers]
) -> Labels:
    """The final labels (H, W) of a block from its classes and its components (H, W). ``numbers``: of a row of blocks."""
    own = np.take(numbers(block.row).table(block.column), local)
    free = np.flatnonzero(classes == rule.border)
    if rule.border is None or not rule.dilate or not len(free):
        return own
    own.reshape(-1)[free] = FREE
    context = block.region.grow(rule.dilate).intersect(grid.image)
    room = block.region.grow(rule.dilate + 1)
    labels = np.zeros((room.height, room.width), np.uint32)
    for part, pixels in _around(grid, rule, block, context, numbers):
        labels[part.relative_to(room).slices] = pixels
    inner = block.region.relative_to(room).slices
    labels[inner] = own
    grow(labels, rule.dilate)
    return labels[inner]


def _around(
    grid: Grid, rule: LabelRule, block: Block, context: Region, numbers: Callable[[int], RowNumbers]
) -> Iterator[tuple[Region, Labels]]:
    """What other blocks' frames hold of ``context``, which reaches no further from the block than frames are deep."""
    for other in grid.blocks_touching(context):
        if other.index != block.index:
            place, pixels = _facing(other, block, numbers(other.row).frame(other.column), _depth(rule))
            part = place.intersect(context)
            yield part, pixels[part.relative_to(place).slices]


def _facing(other: Block, block: Block, frame: Labels, depth: int) -> tuple[Region, Labels]:
    """Of another block's frame the side that faces ``block``, and where it lies."""
    region = other.region
    top, bottom, left, right = _sides(frame, region.height, region.width, depth)
    if other.row != block.row:
        side, y = (top, region.y) if other.row > block.row else (bottom, region.bottom - len(bottom))
        return Region(y, region.x, *side.shape), side
    side, x = (left, region.x) if other.column > block.column else (right, region.right - right.shape[1])
    return Region(region.y, x, *side.shape), side


def label_array(classes: Array, rule: LabelRule) -> Labels:
    """Labels (H, W) uint32 of a whole array of classes (H, W): the same as over blocks."""
    grid = make_grid(classes.shape, classes.shape)
    local = local_labels(classes, rule)
    part = block_components(local, classes, rule)
    rows: dict[int, RowNumbers] = {}
    resolve(grid, rule, lambda index: part, rows.__setitem__)
    return finish_block(grid, rule, grid.block(0), classes, local, rows.__getitem__)
