"""Networks that give a value for each pixel: stage ``infer``."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace

from i2i.backends import is_out_of_memory, run_batch, to_array
from i2i.canvas import Layer
from i2i.contracts import Array, DensePredictor, Output, Predictor, Source
from i2i.engine.job import Job, Network, Outcome, Todo, convert, layer, network_for
from i2i.engine.labels import label
from i2i.engine.pipeline import BEHIND, Behind, ahead
from i2i.errors import PluginError
from i2i.geometry import Block, Grid, Region, Tile
from i2i.planner import Plan, smaller
from i2i.stitch import Blended, Cropped, Pixels, answer_region, batches, check_answer, tiles_for, window_pixels


def compute_region(
    source: Source,
    predictor: DensePredictor,
    grid: Grid,
    region: Region,
    plan: Plan,
    windows: Iterator[list[Array]] | None = None,
    network: Network | None = None,
) -> Pixels:
    """The raw output of a region: (height, width, channels_out) float32, times the footprint's scale. A pure function.

    Any region may be asked for; a block's result is that of its region. ``windows``: those of the region's batches, where
    they were read ahead; ``network``: what runs the predictor's, where that is not torch.
    """
    footprint, halo = predictor.footprint, grid.rows.halo
    merged = Blended(footprint, region, halo) if footprint.merge == "blend" else Cropped(footprint, region)
    for tiles in batches(tiles_for(grid, footprint, region), plan.batch):
        seen = read_windows(source, predictor, tiles) if windows is None else next(windows)
        answers = to_array(run_batch(network or predictor, seen, plan.runtime))
        for tile, answer in zip(tiles, answers, strict=True):
            covered = answer_region(footprint, tile.window, halo)
            check_answer(footprint, answer, covered)
            merged.add(tile, covered, answer)
    return merged.result()


def read_windows(source: Source, predictor: Predictor, tiles: Sequence[Tile]) -> list[Array]:
    return [window_pixels(source, predictor, tile.window) for tile in tiles]


def windows_ahead(job: Job, tiles: Iterable[list[Tile]]) -> Generator[list[Array]]:
    """The windows of each batch of the lists of tiles, read while others are computed."""
    groups = (batch for several in tiles for batch in batches(several, job.plan.batch))
    return ahead(lambda batch: read_windows(job.source, job.predictor, batch), groups)


def _infer(job: Job, outcome: Outcome, output: Output) -> Layer:
    """Stage ``infer``: the network's output, converted to what was asked for. Where an accelerator's memory is too small for the
    plan's windows, the blocks that are left are made of smaller ones."""
    written = layer(job, output.name, output.channels, output.dtype, output.channel_names)
    todo, current = Todo(job, outcome, "infer"), job
    while True:
        try:
            _infer_blocks(current, todo, written, output)
            return written
        except RuntimeError as error:
            plan = smaller(current.plan, job.predictor.footprint) if is_out_of_memory(error) else None
            if plan is None:
                raise
            current = replace(job, plan=plan)
            size = f"{plan.batch} x {plan.tile[0]} x {plan.tile[1]} pixels"
            outcome.warnings.append(f"the memory of {plan.device} was full; went on with windows of {size}")


def _infer_blocks(job: Job, todo: Todo, written: Layer, output: Output) -> None:
    predictor, grid = job.predictor, job.grid
    assert isinstance(predictor, DensePredictor)
    footprint, blocks = predictor.footprint, list(todo.blocks())
    if not blocks:
        return
    network = network_for(predictor, grid, job.plan)

    def finish(block: Block, raw: Pixels) -> None:
        written.write(block.region.scaled(footprint.scale), convert(predictor, raw, output))
        todo.finished(block)

    tiles = (tiles_for(grid, footprint, block.region) for block in blocks)
    with closing(windows_ahead(job, tiles)) as windows, Behind(min(BEHIND, len(blocks) - 1)) as behind:
        for block in blocks:
            raw = compute_region(job.source, predictor, grid, block.region, job.plan, windows, network)
            behind.call(finish, block, raw)
            todo.show(block)


def run_dense(job: Job) -> Outcome:
    outcome = Outcome(job.source)
    assert isinstance(job.predictor, DensePredictor)
    if job.output.meaning != "labels":
        outcome.result = _infer(job, outcome, job.output)
        return outcome
    rule = job.predictor.label_rule
    classes = next((output for output in job.predictor.outputs if output.name == "classes"), None)
    if rule is None or classes is None:
        raise PluginError(f"the output {job.output.name} means labels, but the predictor has no label_rule or no output classes")
    label(job, outcome, _infer(job, outcome, classes), rule)
    return outcome
