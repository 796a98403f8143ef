"""Detectors: stages ``detect``, ``merge`` and ``draw``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np

from i2i.backends import run_batch
from i2i.contracts import Array, InstancePredictor, Instances, Objects, Source
from i2i.engine.dense import read_windows, windows_ahead
from i2i.engine.job import Job, Outcome, Todo, each_block, label_layer, stored
from i2i.finite import require_finite
from i2i.geometry import Block, Grid
from i2i.instances import (
    Candidates,
    Catalogue,
    Detected,
    Finished,
    Held,
    Packed,
    draw,
    make_catalogue,
    select_candidates,
    sweep,
)
from i2i.planner import Plan
from i2i.stitch import batches

_PARTS = 16
"""Parts of finished objects at hand while blocks are drawn."""


@dataclass
class ObjectsOutcome(Outcome):
    """What a detector's run did. ``objects``: how many are seen in the result; ``found``: gives all, whose ids end at
    ``highest``, from what the canvas keeps: those of many planes at once would fill the memory."""

    found: Callable[[], Objects] | None = None
    highest: int = 0


def compute_objects(
    source: Source,
    predictor: InstancePredictor,
    grid: Grid,
    block: Block,
    plan: Plan,
    windows: Iterator[list[Array]] | None = None,
) -> Detected:
    """What a block's tiles find, in image pixels, before objects are merged across tiles. A pure function.

    ``windows``: those of the block's batches, where they were read ahead.
    """
    parts, image, beyond = [], source.spec.region, []
    for tiles in batches(grid.tiles(block.region), plan.batch):
        seen = read_windows(source, predictor, tiles) if windows is None else next(windows)
        found: list[Instances] = run_batch(predictor, seen, plan.runtime)
        for tile, objects in zip(tiles, found, strict=True):
            require_finite(objects.boxes)
            require_finite(objects.scores)
            number = grid.rows.at(tile.core.y) * grid.columns.count + grid.columns.at(tile.core.x)
            parts.append(select_candidates(objects, tile, image, grid.rows.halo, number))
            beyond.append(objects.beyond)
    return Detected(Candidates.join(parts), sum(beyond), sum(count > 0 for count in beyond))


def _detect(job: Job, outcome: Outcome, predictor: InstancePredictor) -> None:
    """Stage ``detect``: the candidates of each block, kept on the canvas."""
    grid, todo = job.grid, Todo(job, outcome, "detect")
    blocks = list(todo.blocks())
    with closing(windows_ahead(job, (grid.tiles(block.region) for block in blocks))) as windows:
        for block in blocks:
            found = compute_objects(job.source, predictor, grid, block, job.plan, windows)
            job.canvas.store("detect", block.index, found.arrays())
            todo.finished(block)
            todo.show(block)


def _merge(job: Job, outcome: Outcome, predictor: InstancePredictor) -> None:
    """Stage ``merge``: the sweep, journaled by rows of blocks. What a block finishes is kept under its number, masks apart; what
    is held at a row's end in one of two places, for the one before must last until the journal names the row."""
    grid, done = job.grid, len(job.canvas.done("merge"))
    outcome.reused += done
    if done == grid.shape[0]:
        return
    held = Held.of_arrays(stored(job, "held", (done - 1) % 2)) if done else Held.nothing()
    for row in range(done, grid.shape[0]):
        for block in map(grid.block, range(row * grid.shape[1], (row + 1) * grid.shape[1])):
            detected = Detected.of_arrays(stored(job, "detect", block.index))
            finished, held = sweep(held, detected.candidates, grid, block, predictor.merge_overlap)
            counts = {"beyond": np.array(detected.beyond), "full": np.array(detected.full)}
            job.canvas.store("objects", block.index, finished.columns() | counts)
            job.canvas.store("masks", block.index, {"bits": finished.bits()})
            job.progress("merge", (block.index + 1) / grid.block_count)
        job.canvas.store("held", row % 2, held.arrays())
        job.canvas.mark("merge", row)
        outcome.computed += 1


def _draw(job: Job, outcome: Outcome, catalogue: Catalogue, fetch: Callable[[int], Packed]) -> int:
    """Stage ``draw``: the label image. How many objects have a pixel in it."""
    final = label_layer(job, len(catalogue))
    at_hand = lru_cache(_PARTS)(fetch)

    def finish(block: Block) -> None:
        labels, seen = draw(*catalogue.near(block.index, at_hand, block.region), block.region)
        final.write(block.region, labels[..., None].astype(job.output.dtype, copy=False))
        job.canvas.store("draw", block.index, {"seen": seen})

    each_block(job, outcome, "draw", finish)
    outcome.result = final
    seen = np.zeros(len(catalogue) + 1, bool)
    for block in range(job.grid.block_count):
        seen[stored(job, "draw", block)["seen"]] = True
    return int(seen.sum())


def run_instances(job: Job) -> ObjectsOutcome:
    """Stages ``detect``, ``merge`` and ``draw``."""
    predictor, grid = job.predictor, job.grid
    assert isinstance(predictor, InstancePredictor)
    outcome = ObjectsOutcome(job.source)
    _detect(job, outcome, predictor)
    _merge(job, outcome, predictor)
    counts = [stored(job, "objects", block) for block in range(grid.block_count)]
    beyond, full = (sum(int(one[name]) for one in counts) for name in ("beyond", "full"))
    del counts
    catalogue = _catalogue(job)
    outcome.objects, outcome.highest = _draw(job, outcome, catalogue, partial(_fetch, job)), len(catalogue)
    outcome.found = partial(_found, job, predictor.class_names)
    outcome.warnings += _warnings(catalogue.incomplete, beyond, full)
    return outcome


def _catalogue(job: Job) -> Catalogue:
    """Of the objects that the stage ``merge`` finished."""
    grid = job.grid
    return make_catalogue(grid, [Finished.of_arrays(stored(job, "objects", block)) for block in range(grid.block_count)])


def _found(job: Job, class_names: Mapping[int, str]) -> Objects:
    catalogue = _catalogue(job)
    return Objects(class_names, catalogue.scores, catalogue.classes, partial(catalogue.masks, partial(_fetch, job)))


def _fetch(job: Job, block: int) -> Packed:
    """The objects that the stage ``merge`` finished at a block."""
    return Finished.of_arrays(stored(job, "objects", block), stored(job, "masks", block)["bits"])


def _warnings(incomplete: int, beyond: int, full: int) -> list[str]:
    told = []
    if incomplete:
        several = "objects reach beyond their windows and are" if incomplete > 1 else "object reaches beyond its window and is"
        told.append(f"{incomplete} {several} incomplete; raise --tile or --object-size")
    if beyond:
        several = "objects were" if beyond > 1 else "object was"
        windows = "windows" if full > 1 else "window"
        told.append(f"{beyond} {several} beyond --max-per-tile in {full} {windows}; raise it")
    return told
