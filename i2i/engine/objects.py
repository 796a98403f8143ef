"""Detectors: stages ``detect`` and ``draw``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

from i2i import instances
from i2i.backends import run_batch
from i2i.contracts import Array, InstancePredictor, Instances, Source
from i2i.engine.dense import read_windows, windows_ahead
from i2i.engine.job import Job, Outcome, Todo, each_block, label_layer, stored
from i2i.geometry import Block, Grid
from i2i.planner import Plan
from i2i.stitch import batches


def compute_objects(
    source: Source,
    predictor: InstancePredictor,
    grid: Grid,
    block: Block,
    plan: Plan,
    windows: Iterator[list[Array]] | None = None,
) -> instances.Candidates:
    """The objects that a block's tiles find, in image pixels, before they are merged across tiles. A pure function.

    ``windows``: those of the block's batches, where they were read ahead.
    """
    parts = []
    margin = grid.rows.halo // 2
    for tiles in batches(grid.tiles(block.region), plan.batch):
        seen = read_windows(source, predictor, tiles) if windows is None else next(windows)
        found: list[Instances] = run_batch(predictor, seen, plan.runtime)
        for tile, objects in zip(tiles, found, strict=True):
            number = tile.core.y * source.spec.width + tile.core.x
            parts.append(instances.select_candidates(objects, tile, source.spec.region, margin, number))
    return instances.join_candidates(parts)


def _detect(job: Job, outcome: Outcome, predictor: InstancePredictor) -> None:
    """Stage ``detect``: the candidates of each block, kept on the canvas."""
    grid, todo = job.grid, Todo(job, outcome, "detect")
    blocks = list(todo.blocks())
    with closing(windows_ahead(job, (grid.tiles(block.region) for block in blocks))) as windows:
        for block in blocks:
            found = compute_objects(job.source, predictor, grid, block, job.plan, windows)
            job.canvas.store("detect", block.index, instances.pack(found))
            todo.finished(block)
            todo.show(block)


def run_instances(job: Job) -> Outcome:
    """Stages ``detect`` and ``draw``."""
    predictor, grid = job.predictor, job.grid
    assert isinstance(predictor, InstancePredictor)
    outcome = Outcome(job.source)
    _detect(job, outcome, predictor)
    candidates = instances.join_candidates(instances.unpack(stored(job, "detect", block.index)) for block in grid.blocks())
    objects = instances.merge(candidates, predictor.merge_overlap)
    final = label_layer(job, len(objects))

    def draw(block: Block) -> None:
        final.write(block.region, instances.draw(objects, block.region)[..., None].astype(job.output.dtype))

    each_block(job, outcome, "draw", draw)
    outcome.result, outcome.objects = final, len(objects)
    if candidates.cut:
        outcome.warnings.append(f"{candidates.cut} objects reach beyond their window and may be missing; raise --tile")
    return outcome
