"""What the stages of a run share: the job, its outcome, and the loop over blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from i2i.backends import compile_network
from i2i.canvas import Canvas, Layer, layer_spec
from i2i.contracts import Array, DensePredictor, ImagePredictor, Output, Predictor, Source
from i2i.errors import PluginError
from i2i.finite import require_finite
from i2i.geometry import Block, Grid
from i2i.planner import Plan
from i2i.stitch import Pixels

Network = Callable[[Any], Any]
Progress = Callable[[str, float], None]
"""Told the stage's name and the share of it that is done, 0 .. 1."""
Snapshot = Callable[[int, Array], None]
"""Given the number of a step of an iterative method, and the picture so far, (H, W, C) uint8."""


@dataclass(frozen=True)
class Job:
    """One image, one kind of result. ``source``: one plane, the channels that the network takes. ``predictor``: prepared.
    ``snapshot``: takes the pictures on the way of an iterative method; ``frames``: whether those of an animation are kept."""

    source: Source
    predictor: Predictor
    output: Output
    plan: Plan
    canvas: Canvas
    seed: int = 0
    progress: Progress = lambda stage, share: None
    snapshot: Snapshot = lambda step, picture: None
    frames: bool = False

    @property
    def grid(self) -> Grid:
        return self.plan.grid(self.source.spec, self.predictor.footprint)


def network_for(predictor: Predictor, grid: Grid, plan: Plan) -> Network:
    """What runs a predictor's network on the plan's backend, for windows of ``grid``. It may hold much memory: keep it no longer
    than it is used (there is a job for each plane)."""
    if not isinstance(predictor, DensePredictor):
        return predictor  # type: ignore[return-value]  # the others have no backend but torch
    shape = (plan.batch, predictor.footprint.channels_in, *grid.window_shape)
    return compile_network(predictor, shape, plan.runtime, plan.threads)


@dataclass
class Outcome:
    """What a run did. ``result``: the layer to publish; ``objects``: how many labels, None where there are none; ``frames``:
    gives the pictures for an animation, in the order of the steps, None where none were asked for."""

    result: Source
    objects: int | None = None
    computed: int = 0
    reused: int = 0
    warnings: list[str] = field(default_factory=list)
    frames: Callable[[], Iterator[Array]] | None = None


class Todo:
    """The blocks of a stage that the journal does not name; those that are finished are named and counted."""

    def __init__(self, job: Job, outcome: Outcome, stage: str) -> None:
        self._job, self._outcome, self._stage = job, outcome, stage
        self._grid, self._done = job.grid, set(job.canvas.done(stage))
        outcome.reused += len(self._done)

    def blocks(self) -> Iterator[Block]:
        """Those that are still to do, in raster order."""
        return (block for block in self._grid.blocks() if block.index not in self._done)

    def finished(self, block: Block) -> None:
        """What the block gave is kept."""
        self._job.canvas.mark(self._stage, block.index)
        self._done.add(block.index)
        self._outcome.computed += 1

    def show(self, block: Block) -> None:
        """Progress: the blocks up to this one."""
        self._job.progress(self._stage, (block.index + 1) / self._grid.block_count)


def each_block(job: Job, outcome: Outcome, stage: str, work: Callable[[Block], None]) -> None:
    """Do ``work`` for every block that the journal does not name, and name it."""
    todo = Todo(job, outcome, stage)
    for block in list(todo.blocks()):
        work(block)
        todo.finished(block)
        todo.show(block)


def layer(job: Job, name: str, channels: int, dtype: str, names: tuple[str, ...] = ()) -> Layer:
    scale = job.predictor.footprint.scale
    (height, width), (y, x) = job.grid.block_shape, job.grid.origin
    spec = layer_spec(job.source.spec, channels, dtype, scale, names)
    return job.canvas.layer(name, spec, (height * scale, width * scale), (y * scale, x * scale))


def convert(predictor: DensePredictor | ImagePredictor, raw: Pixels, output: Output) -> Array:
    """Raw output as ``output`` declares it. Raises ``NotFinite``, and ``PluginError`` when the predictor gives another shape or
    dtype."""
    require_finite(raw)
    pixels = predictor.convert(raw, output)
    if pixels.shape != (*raw.shape[:2], output.channels) or pixels.dtype != output.dtype:
        given = f"{pixels.shape} {pixels.dtype}"
        raise PluginError(f"convert gave {given} where the output {output.name} declares {output.channels} x {output.dtype}")
    return pixels


def label_layer(job: Job, count: int) -> Layer:
    """The layer of an output that means labels. Raises ``PluginError`` when ``count`` of them do not fit its dtype."""
    if count > np.iinfo(job.output.dtype).max:
        raise PluginError(f"{count} objects do not fit the output {job.output.name} of {job.output.dtype}; declare it uint32")
    return layer(job, job.output.name, 1, job.output.dtype)


def stored(job: Job, stage: str, block: int) -> dict[str, Array]:
    kept = job.canvas.fetch(stage, block)
    if kept is None:
        raise PluginError(f"block {block} of stage {stage} is journaled but its data are gone; start again with --overwrite")
    return kept
