"""Labels from classes, block by block: the same labels for every way of cutting the image into blocks.

1. In each block, connected components (4 neighbours) of the interior class get local numbers.
2. Components that meet at a block border are joined by union-find; each object is numbered by its first pixel in raster
   order; objects whose whole area is too small are dropped.
3. Objects grow ``dilate`` pixels into the border class, the lowest number first. With that much context around a block,
   the result cannot depend on the block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from i2i.contracts import Array, LabelRule
from i2i.geometry import Block, Grid, Region, make_grid

Ids = npt.NDArray[np.int64]
Labels = npt.NDArray[np.uint32]
ReadLabels = Callable[[Region], Labels]
_NONE = np.iinfo(np.uint32).max


@dataclass(frozen=True)
class BlockComponents:
    """The components of one block, N of them with the local numbers 1 .. N.

    ``areas``: (N,) pixels. ``firsts``: (N,) first pixel of each, as an index into the whole image in raster order.
    """

    areas: Ids
    firsts: Ids


def label_block(classes: Array, rule: LabelRule, region: Region, width: int) -> tuple[Labels, BlockComponents]:
    """Local labels (H, W) of a block's classes (H, W), and what is known of its components. ``width``: of the image."""
    labels, count = ndimage.label(classes == rule.interior)
    labels = labels.astype(np.uint32)
    areas = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    inside = np.flatnonzero(labels)[::-1]
    firsts = np.zeros(count + 1, np.int64)
    firsts[labels.ravel()[inside]] = inside  # the last assignment, which is the first pixel, stays
    y, x = np.divmod(firsts[1:], labels.shape[1])
    return labels, BlockComponents(areas.astype(np.int64), (y + region.y) * width + x + region.x)


class _Forest:
    """Union-find over the components of all blocks; the root of a set is its smallest member."""

    def __init__(self, count: int) -> None:
        self.parent = np.arange(count, dtype=np.int64)

    def root(self, member: int) -> int:
        while self.parent[member] != member:
            self.parent[member] = self.parent[self.parent[member]]
            member = int(self.parent[member])
        return member

    def join(self, one: int, other: int) -> None:
        one, other = self.root(one), self.root(other)
        self.parent[max(one, other)] = min(one, other)

    def roots(self) -> Ids:
        """The root of every member."""
        roots = self.parent
        while not np.array_equal(roots, roots[roots]):
            roots = roots[roots]
        return roots


@dataclass(frozen=True)
class LabelMap:
    """From a block's local numbers to the image's labels: ``tables[block.index][local]``, 0 for what was dropped."""

    tables: tuple[Labels, ...]
    count: int


def resolve(grid: Grid, parts: Sequence[BlockComponents], read: ReadLabels, rule: LabelRule) -> LabelMap:
    """Join the components of all blocks. ``parts``: one for each block in order; ``read``: local labels of a region."""
    starts = np.concatenate([[0], np.cumsum([len(part.areas) for part in parts])]).astype(np.int64)
    forest = _Forest(int(starts[-1]))
    for pair in _touching(grid, starts, read):
        for one, other in pair:
            forest.join(int(one), int(other))
    roots = forest.roots()
    areas = np.bincount(roots, np.concatenate([part.areas for part in parts]), minlength=len(roots))
    firsts = np.full(len(roots), np.iinfo(np.int64).max)
    np.minimum.at(firsts, roots, np.concatenate([part.firsts for part in parts]))
    kept = np.flatnonzero((roots == np.arange(len(roots))) & (areas >= rule.min_area))
    numbers = np.zeros(len(roots), np.uint32)
    numbers[kept[np.argsort(firsts[kept])]] = np.arange(1, len(kept) + 1)
    tables = tuple(np.concatenate([[0], numbers[roots[a:b]]]).astype(np.uint32) for a, b in pairwise(starts))
    return LabelMap(tables, len(kept))


def _touching(grid: Grid, starts: Ids, read: ReadLabels) -> Iterator[Ids]:
    """For each border between two blocks: the pairs (K, 2) of components, counted over all blocks, that touch there."""
    for block in grid.blocks():
        region = block.region
        if block.row:
            edge = read(Region(region.y - 1, region.x, 2, region.width))
            yield _pairs(edge[0], edge[1], starts[block.index - grid.shape[1]], starts[block.index])
        if block.column:
            edge = read(Region(region.y, region.x - 1, region.height, 2))
            yield _pairs(edge[:, 0], edge[:, 1], starts[block.index - 1], starts[block.index])


def _pairs(before: Labels, after: Labels, start_before: np.int64, start_after: np.int64) -> Ids:
    both = (before > 0) & (after > 0)
    pairs = np.stack([before[both] + start_before - 1, after[both] + start_after - 1], 1)
    return np.unique(pairs.astype(np.int64), axis=0)


def image_labels(grid: Grid, mapping: LabelMap, region: Region, read: ReadLabels) -> Labels:
    """The image's labels of any region, before they grow: local labels through each block's table."""
    height, width = grid.block_shape
    result = np.zeros((region.height, region.width), np.uint32)
    for row in range(region.y // height, -(-region.bottom // height)):
        for column in range(region.x // width, -(-region.right // width)):
            block: Block = grid.block(row * grid.shape[1] + column)
            part = block.region.intersect(region)
            result[part.relative_to(region).slices] = mapping.tables[block.index][read(part)]
    return result


def grow(labels: Labels, allowed: npt.NDArray[np.bool_], iterations: int) -> Labels:
    """``labels`` (H, W) after growing into ``allowed`` pixels, by one pixel (8 neighbours) an iteration; where several meet,
    the lowest number wins. A pixel's result depends on nothing further than ``iterations`` pixels away."""
    for _ in range(iterations):
        free = (labels == 0) & allowed
        lowest = ndimage.minimum_filter(np.where(labels == 0, _NONE, labels), size=3, mode="nearest")
        labels = np.where(free & (lowest != _NONE), lowest, labels).astype(np.uint32)
    return labels


def finish_block(
    grid: Grid, mapping: LabelMap, rule: LabelRule, block: Block, read: ReadLabels, read_classes: Callable[[Region], Array]
) -> Labels:
    """The final labels (H, W) of a block."""
    context = block.region.grow(rule.dilate).intersect(grid.image)
    labels = image_labels(grid, mapping, context, read)
    if rule.border is not None and rule.dilate:
        labels = grow(labels, read_classes(context) == rule.border, rule.dilate)
    return labels[block.region.relative_to(context).slices]


def label_array(classes: Array, rule: LabelRule) -> Labels:
    """Labels (H, W) uint32 of a whole array of classes (H, W): the same as over blocks."""
    height, width = classes.shape
    grid = make_grid((height, width), (height, width))
    local, part = label_block(classes, rule, grid.image, width)
    mapping = resolve(grid, [part], lambda region: local[region.slices], rule)
    return finish_block(grid, mapping, rule, grid.block(0), lambda r: local[r.slices], lambda r: classes[r.slices])
