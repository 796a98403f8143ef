"""Labels from classes: stages ``components`` and ``labels``, and between them the numbers of all objects."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from i2i import components
from i2i.canvas import Layer
from i2i.components import BlockComponents, RowNumbers
from i2i.contracts import Array, LabelRule
from i2i.engine.job import Job, Outcome, each_block, label_layer, stored
from i2i.geometry import Block, Grid

_ROWS = 4
"""Rows of blocks whose labels are at hand: a block needs its own and, where objects grow, those above and below."""


def label(job: Job, outcome: Outcome, classes: Layer, rule: LabelRule) -> None:
    """Stages ``components`` and ``labels``. Components are found twice, which is quicker than to write and read them."""
    grid = _scaled_grid(job)

    def read(block: Block) -> Array:
        return classes.read(grid.block(block.index).region)[..., 0]

    def find(block: Block) -> None:
        pixels = read(block)
        part = components.block_components(components.local_labels(pixels, rule), pixels, rule)
        job.canvas.store("components", block.index, vars(part))

    each_block(job, outcome, "components", find)
    count = _number(job, grid, rule)
    final = label_layer(job, count)

    @lru_cache(_ROWS)
    def numbers(row: int) -> RowNumbers:
        return RowNumbers(**stored(job, "numbers", row))

    def finish(block: Block) -> None:
        target, pixels = grid.block(block.index), read(block)
        local = components.local_labels(pixels, rule)
        labels = components.finish_block(grid, rule, target, pixels, local, numbers)
        final.write(target.region, labels[..., None].astype(job.output.dtype, copy=False))

    each_block(job, outcome, "labels", finish)
    outcome.result, outcome.objects = final, count


def _number(job: Job, grid: Grid, rule: LabelRule) -> int:
    """Number all objects, and count them. Once the last row of blocks is there, all are; after a kill before that they are
    numbered again, which is quick and gives the same numbers."""
    there = job.canvas.fetch("numbers", grid.shape[0] - 1)
    if there is not None:
        return int(there["count"])

    def fetch(index: int) -> BlockComponents:
        return BlockComponents(**stored(job, "components", index))

    def store(row: int, numbers: RowNumbers) -> None:
        job.canvas.store("numbers", row, vars(numbers))

    return components.resolve(grid, rule, fetch, store)


def _scaled_grid(job: Job) -> Grid:
    """The blocks in pixels of the output."""
    scale = job.predictor.footprint.scale
    if scale == 1:
        return job.grid
    grid = job.grid
    rows, columns = (
        replace(axis, **{name: scale * getattr(axis, name) for name in ("size", "padded", "window", "step", "halo")})
        for axis in (grid.rows, grid.columns)
    )
    return Grid(rows, columns, grid.cores)
