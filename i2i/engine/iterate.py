"""Iterative methods that own the image: their own stages, then ``convert``."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from i2i.canvas import StageCheckpoint
from i2i.contracts import Array, ImagePredictor, ImageWork
from i2i.engine.job import Job, Outcome, convert, each_block, layer, stored
from i2i.errors import PluginError
from i2i.geometry import Block

_FRAMES = "frames"
_OWN_STAGES = ("convert", _FRAMES)


def run_image(job: Job) -> Outcome:
    """The predictor's own stages on a float32 canvas, then ``convert``."""
    predictor, grid = job.predictor, job.grid
    assert isinstance(predictor, ImagePredictor)
    outcome = Outcome(job.source, frames=partial(_frames, job) if job.frames else None)
    scale = predictor.footprint.scale
    canvas = layer(job, "_raw", predictor.footprint.channels_out, "float32")
    frame = partial(_keep_frame, job) if job.frames else None
    for stage in _stages(job, predictor):
        if job.canvas.done(stage):
            outcome.reused += 1
            continue
        checkpoint = StageCheckpoint(job.canvas, stage)
        progress = partial(job.progress, stage)
        work = ImageWork(job.source, grid, canvas, checkpoint, job.seed, job.plan.device, progress, job.snapshot, frame)
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


def _stages(job: Job, predictor: ImagePredictor) -> tuple[str, ...]:
    """The predictor's own. Raises ``PluginError`` for names that are not one for each."""
    stages = predictor.stages(job.source.spec)
    if len({*stages, *_OWN_STAGES}) < len(stages) + len(_OWN_STAGES):
        taken = " and ".join(_OWN_STAGES)
        raise PluginError(f"stages {', '.join(stages)}: each needs a name of its own, and {taken} are the engine's")
    return stages


def _keep_frame(job: Job, step: int, picture: Array) -> None:
    """On the canvas, so that a resumed run has those of before; one of the same step is replaced."""
    job.canvas.store(_FRAMES, step, {"picture": picture})
    if step not in job.canvas.done(_FRAMES):
        job.canvas.mark(_FRAMES, step)


def _frames(job: Job) -> Iterator[Array]:
    """The pictures that were kept, in the order of the steps."""
    for step in sorted(job.canvas.done(_FRAMES)):
        yield stored(job, _FRAMES, step)["picture"]
