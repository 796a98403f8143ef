"""Detectors: stages ``detect`` and ``draw``."""

from __future__ import annotations

from i2i import instances
from i2i.backends import run_batch
from i2i.contracts import InstancePredictor, Instances, Source
from i2i.engine.dense import read_windows
from i2i.engine.job import Job, Outcome, each_block, label_layer, stored
from i2i.geometry import Block, Grid
from i2i.planner import Plan
from i2i.stitch import batches


def compute_objects(source: Source, predictor: InstancePredictor, grid: Grid, block: Block, plan: Plan) -> instances.Candidates:
    """The objects that a block's tiles find, in image pixels, before they are merged across tiles. A pure function."""
    parts = []
    margin = grid.rows.halo // 2
    for tiles in batches(grid.tiles(block.region), plan.batch):
        found: list[Instances] = run_batch(predictor, read_windows(source, predictor, tiles), plan.runtime)
        for tile, objects in zip(tiles, found, strict=True):
            number = tile.core.y * source.spec.width + tile.core.x
            parts.append(instances.select_candidates(objects, tile, source.spec.region, margin, number))
    return instances.join_candidates(parts)


def run_instances(job: Job) -> Outcome:
    """Stages ``detect`` and ``draw``."""
    predictor, grid = job.predictor, job.grid
    assert isinstance(predictor, InstancePredictor)
    outcome = Outcome(job.source)

    def detect(block: Block) -> None:
        found = compute_objects(job.source, predictor, grid, block, job.plan)
        job.canvas.store("detect", block.index, instances.pack(found))

    each_block(job, outcome, "detect", detect)
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
