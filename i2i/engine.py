"""The engine: one prepared predictor over one image, stage by stage, block by block.

A stage is a list of blocks, each computed by a pure function of the source and the canvas, written to a layer and
journaled. What the journal names is not computed again; how blocks are grouped or ordered changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from i2i import components, instances
from i2i.backends import run_batch, to_array
from i2i.canvas import Canvas, Layer, StageCheckpoint, layer_spec
from i2i.contracts import (
    Array,
    DensePredictor,
    ImagePredictor,
    ImageWork,
    InstancePredictor,
    Instances,
    LabelRule,
    Output,
    Predictor,
    Source,
)
from i2i.errors import PluginError
from i2i.geometry import Block, Grid, Region, Tile
from i2i.planner import Plan
from i2i.stitch import Blended, Cropped, Pixels, answer_region, batches, check_answer, tiles_for, window_pixels

Progress = Callable[[str, float], None]
"""Told the stage's name and the share of it that is done, 0 .. 1."""


@dataclass(frozen=True)
class Job:
    """One image, one kind of result. ``source``: one plane, the channels that the network takes. ``predictor``: prepared."""

    source: Source
    predictor: Predictor
    output: Output
    plan: Plan
    canvas: Canvas
    seed: int = 0
    progress: Progress = lambda stage, share: None

    @property
    def grid(self) -> Grid:
        return self.plan.grid(self.source.spec, self.predictor.footprint)


@dataclass
class Outcome:
    """What a run did. ``result``: the layer to publish; ``objects``: how many labels, None where there are none."""

    result: Source
    objects: int | None = None
    computed: int = 0
    reused: int = 0
    warnings: list[str] = field(default_factory=list)


def compute_region(source: Source, predictor: DensePredictor, grid: Grid, region: Region, plan: Plan) -> Pixels:
    """The raw output of a region: (height, width, channels_out) float32, times the footprint's scale. A pure function.

    Any region may be asked for; a block's result is that of its region.
    """
    footprint, halo = predictor.footprint, grid.rows.halo
    merged = Blended(footprint, region, halo) if footprint.merge == "blend" else Cropped(footprint, region)
    for tiles in batches(tiles_for(grid, footprint, region), plan.batch):
        answers = to_array(run_batch(predictor, _windows(source, predictor, tiles), plan.runtime))
        for tile, answer in zip(tiles, answers, strict=True):
            covered = answer_region(footprint, tile.window, halo)
            check_answer(footprint, answer, covered)
            merged.add(tile, covered, answer)
    return merged.result()


def _windows(source: Source, predictor: Predictor, tiles: Sequence[Tile]) -> list[Array]:
    return [window_pixels(source, predictor, tile.window) for tile in tiles]


def compute_objects(source: Source, predictor: InstancePredictor, grid: Grid, block: Block, plan: Plan) -> instances.Candidates:
    """The objects that a block's tiles find, in image pixels, before they are merged across tiles. A pure function."""
    parts = []
    margin = grid.rows.halo // 2
    for tiles in batches(grid.tiles(block.region), plan.batch):
        found: list[Instances] = run_batch(predictor, _windows(source, predictor, tiles), plan.runtime)
        for tile, objects in zip(tiles, found, strict=True):
            number = tile.core.y * source.spec.width + tile.core.x
            parts.append(instances.select_candidates(objects, tile, source.spec.region, margin, number))
    return instances.join_candidates(parts)


def _each_block(job: Job, outcome: Outcome, stage: str, work: Callable[[Block], None]) -> None:
    """Do ``work`` for every block that the journal does not name, and name it."""
    grid, done = job.grid, job.canvas.done(stage)
    outcome.reused += len(done)
    for count, block in enumerate(grid.blocks(), 1):
        if block.index not in done:
            work(block)
            job.canvas.mark(stage, block.index)
            outcome.computed += 1
        job.progress(stage, count / grid.block_count)


def _layer(job: Job, name: str, channels: int, dtype: str, names: tuple[str, ...] = ()) -> Layer:
    scale = job.predictor.footprint.scale
    height, width = job.grid.block_shape
    return job.canvas.layer(name, layer_spec(job.source.spec, channels, dtype, scale, names), (height * scale, width * scale))


def _infer(job: Job, outcome: Outcome, output: Output) -> Layer:
    """Stage ``infer``: the network's output, converted to what was asked for."""
    predictor = job.predictor
    assert isinstance(predictor, DensePredictor)
    layer = _layer(job, output.name, output.channels, output.dtype, output.channel_names)
    grid, scale = job.grid, predictor.footprint.scale

    def work(block: Block) -> None:
        raw = compute_region(job.source, predictor, grid, block.region, job.plan)
        layer.write(block.region.scaled(scale), convert(predictor, raw, output))

    _each_block(job, outcome, "infer", work)
    return layer


def convert(predictor: DensePredictor | ImagePredictor, raw: Pixels, output: Output) -> Array:
    """Raw output as ``output`` declares it. Raises ``PluginError`` when the predictor gives another shape or dtype."""
    pixels = predictor.convert(raw, output)
    if pixels.shape != (*raw.shape[:2], output.channels) or pixels.dtype != output.dtype:
        given = f"{pixels.shape} {pixels.dtype}"
        raise PluginError(f"convert gave {given} where the output {output.name} declares {output.channels} x {output.dtype}")
    return pixels


def _run_dense(job: Job) -> Outcome:
    outcome = Outcome(job.source)
    assert isinstance(job.predictor, DensePredictor)
    if job.output.meaning != "labels":
        outcome.result = _infer(job, outcome, job.output)
        return outcome
    rule = job.predictor.label_rule
    classes = next((output for output in job.predictor.outputs if output.name == "classes"), None)
    if rule is None or classes is None:
        raise PluginError(f"the output {job.output.name} means labels, but the predictor has no label_rule or no output classes")
    _label(job, outcome, _infer(job, outcome, classes), rule)
    return outcome


def _label(job: Job, outcome: Outcome, classes: Layer, rule: LabelRule) -> None:
    """Stages ``components`` and ``labels``."""
    grid = _scaled_grid(job)
    local = _layer(job, "_components", 1, "uint32")
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

    _each_block(job, outcome, "components", find)
    parts = [_stored(job, "components", block.index) for block in grid.blocks()]
    mapping = components.resolve(grid, [components.BlockComponents(p["areas"], p["firsts"]) for p in parts], read, rule)
    final = _label_layer(job, mapping.count)

    def finish(block: Block) -> None:
        target = grid.block(block.index)
        labels = components.finish_block(grid, mapping, rule, target, read, read_classes)
        final.write(target.region, labels[..., None].astype(job.output.dtype))

    _each_block(job, outcome, "labels", finish)
    outcome.result, outcome.objects = final, mapping.count


def _label_layer(job: Job, count: int) -> Layer:
    """The layer of an output that means labels. Raises ``PluginError`` when ``count`` of them do not fit its dtype."""
    if count > np.iinfo(job.output.dtype).max:
        raise PluginError(f"{count} objects do not fit the output {job.output.name} of {job.output.dtype}; declare it uint32")
    return _layer(job, job.output.name, 1, job.output.dtype)


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


def _stored(job: Job, stage: str, block: int) -> dict[str, Array]:
    stored = job.canvas.fetch(stage, block)
    if stored is None:
        raise PluginError(f"block {block} of stage {stage} is journaled but its data are gone; start again with --overwrite")
    return stored


def _run_instances(job: Job) -> Outcome:
    """Stages ``detect`` and ``draw``."""
    predictor, grid = job.predictor, job.grid
    assert isinstance(predictor, InstancePredictor)
    outcome = Outcome(job.source)

    def detect(block: Block) -> None:
        found = compute_objects(job.source, predictor, grid, block, job.plan)
        job.canvas.store("detect", block.index, instances.pack(found))

    _each_block(job, outcome, "detect", detect)
    candidates = instances.join_candidates(instances.unpack(_stored(job, "detect", block.index)) for block in grid.blocks())
    objects = instances.merge(candidates, predictor.merge_overlap)
    final = _label_layer(job, len(objects))

    def draw(block: Block) -> None:
        final.write(block.region, instances.draw(objects, block.region)[..., None].astype(job.output.dtype))

    _each_block(job, outcome, "draw", draw)
    outcome.result, outcome.objects = final, len(objects)
    if candidates.cut:
        outcome.warnings.append(f"{candidates.cut} objects reach beyond their window and may be missing; raise --tile")
    return outcome


def _run_image(job: Job) -> Outcome:
    """The predictor's own stages on a float32 canvas, then ``convert``."""
    predictor, grid = job.predictor, job.grid
    assert isinstance(predictor, ImagePredictor)
    outcome = Outcome(job.source)
    scale = predictor.footprint.scale
    canvas = _layer(job, "_raw", predictor.footprint.channels_out, "float32")
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
    final = _layer(job, job.output.name, job.output.channels, job.output.dtype, job.output.channel_names)

    def finish(block: Block) -> None:
        region = block.region.scaled(scale)
        final.write(region, convert(predictor, canvas.read(region), job.output))

    _each_block(job, outcome, "convert", finish)
    outcome.result = final
    return outcome


_RUNNERS: dict[str, Callable[[Job], Outcome]] = {"dense": _run_dense, "instances": _run_instances, "image": _run_image}


def run_job(job: Job) -> Outcome:
    """Do all stages that are not yet done. The canvas holds the result afterwards; publishing it is the caller's."""
    return _RUNNERS[job.predictor.kind](job)
