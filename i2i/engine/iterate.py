"""Iterative methods that own the image: their own stages, then ``convert``."""

from __future__ import annotations

from functools import partial

from i2i.canvas import StageCheckpoint
from i2i.contracts import ImagePredictor, ImageWork
from i2i.engine.job import Job, Outcome, convert, each_block, layer
from i2i.errors import PluginError
from i2i.geometry import Block


def run_image(job: Job) -> Outcome:
    """The predictor's own stages on a float32 canvas, then ``convert``."""
    predictor, grid = job.predictor, job.grid
    assert isinstance(predictor, ImagePredictor)
    outcome = Outcome(job.source)
    scale = predictor.footprint.scale
    canvas = layer(job, "_raw", predictor.footprint.channels_out, "float32")
    stages = predictor.stages(job.source.spec)
    if len({*stages, "convert"}) <= len(stages):
        raise PluginError(f"stages {', '.join(stages)}: each needs a name of its own, and convert is the engine's")
    for stage in stages:
        if job.canvas.done(stage):
            outcome.reused += 1
            continue
        checkpoint = StageCheckpoint(job.canvas, stage)
        progress = partial(job.progress, stage)
        work = ImageWork(job.source, grid, canvas, checkpoint, job.seed, job.plan.device, progress)
        predictor.run(stage, work)
        job.canvas.mark(stage, 0)
        outcome.computed += 1
    final = layer(job, job.output.name, job.output.channels, job.output.dtype, job.output.channel_names)

    def finish(block: Block) -> None:
        region = block.region.scaled(scale)
        final.write(region, convert(predictor, canvas.read(region), job.output))

    each_block(job, outcome, "convert", finish)
    outcome.result = final
    return outcome
