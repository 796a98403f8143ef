"""Labels from classes: stages ``components`` and ``labels``."""

from __future__ import annotations

from dataclasses import replace

from i2i import components
from i2i.canvas import Layer
from i2i.contracts import Array, LabelRule
from i2i.engine.job import Job, Outcome, each_block, label_layer, layer, stored
from i2i.geometry import Block, Grid, Region


def label(job: Job, outcome: Outcome, classes: Layer, rule: LabelRule) -> None:
    """Stages ``components`` and ``labels``."""
    grid = _scaled_grid(job)
    local = layer(job, "_components", 1, "uint32")
    width = classes.spec.width

    def read(region: Region) -> components.Labels:
        return local.read(region)[..., 0]

    def read_classes(region: Region) -> Array:
        return classes.read(region)[..., 0]

    def find(block: Block) -> None:
        region = grid.block(block.index).region
        labels, part = components.label_block(read_classes(region), rule, region, width)
        local.write(region, labels[..., None])
        job.canvas.store("components", block.index, {"areas": part.areas, "firsts": part.firsts})

    each_block(job, outcome, "components", find)
    parts = [stored(job, "components", block.index) for block in grid.blocks()]
    mapping = components.resolve(grid, [components.BlockComponents(p["areas"], p["firsts"]) for p in parts], read, rule)
    final = label_layer(job, mapping.count)

    def finish(block: Block) -> None:
        target = grid.block(block.index)
        labels = components.finish_block(grid, mapping, rule, target, read, read_classes)
        final.write(target.region, labels[..., None].astype(job.output.dtype))

    each_block(job, outcome, "labels", finish)
    outcome.result, outcome.objects = final, mapping.count


def _scaled_grid(job: Job) -> Grid:
    """The blocks in pixels of the output."""
    scale = job.predictor.footprint.scale
    if scale == 1:
        return job.grid
    grid = job.grid
    rows, columns = (
        replace(axis, size=axis.size * scale, padded=axis.padded * scale, window=axis.window * scale, step=axis.step * scale)
        for axis in (grid.rows, grid.columns)
    )
    return Grid(rows, columns, grid.cores)
