"""The beginning of a run: the output is claimed, the disk has room, and there is a canvas, a plan and a predictor for each plane;
those of a killed run where one goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from i2i import manifest
from i2i.backends import confirm_backend, pick_backend, start_torch
from i2i.canvas import Canvas, MemoryCanvas, claimed, layer_spec, partial_folder
from i2i.contracts import DensePredictor, ImagePredictor, ImageSpec, Model, Output, Predictor, Runtime, Source
from i2i.disk import canvas_needs, check_room
from i2i.engine import DeviceFull
from i2i.errors import OutputError, UsageError
from i2i.formats.views import View
from i2i.options import RunOptions
from i2i.pixelsize import Factors
from i2i.planner import Plan, make_plan
from i2i.publish import begin_steps
from i2i.report import RunReport
from i2i.stitch import window_pixels


@dataclass(frozen=True)
class Item:
    """One input and its output. ``name``: how messages call the input (``-`` for stdin); ``fallback``: where the result goes
    when the output's format, which i2i chose, cannot hold it; ``exports``: further files, by exporter; ``number``: of several
    results of one input, from 0: its seed is so much larger; ``problem``: why it is no image that could be run."""

    path: Path
    output: Path
    name: str
    fallback: Path | None = None
    exports: Mapping[str, Path] = field(default_factory=dict)
    number: int = 0
    problem: str = ""


@dataclass(frozen=True)
class Opened:
    """An image to be run: the pixels that were chosen, height and width of its full resolution, and the warnings so far.
    ``at``: gives the same pixels at another height and width, of the smallest level of a pyramid that has as many; ``every``: the
    same planes and level with all channels, where some were chosen."""

    source: Source
    full: tuple[int, int]
    warnings: list[str]
    at: Callable[[tuple[int, int]], Source]
    every: Source | None = None


@dataclass(frozen=True)
class Work:
    """An image on its way: what is asked for, of which ``models`` (and the predictor's own parts), and the run's identity.
    ``image``: the chosen planes as they are, or at the ``size`` that the predictor works on, where that is another; ``source``:
    the same as the network sees them, ``scaling`` times as large; ``full``: height and width at full resolution; ``disk``: the
    bytes that the output needs; ``read``: all files that the run reads; ``every``: as in ``Opened``."""

    item: Item
    image: Source
    source: Source
    full: tuple[int, int]
    scaling: Factors | None
    models: tuple[Model, ...]
    predictor: Predictor
    runtime: Runtime
    output: Output
    target: Path
    fingerprint: str
    disk: int
    size: tuple[int, int] | None = None
    read: tuple[Path, ...] = ()
    every: Source | None = None


@dataclass(frozen=True)
class Begun:
    """A run that may start. ``predictors``: prepared, one for each plane; ``disk``: the bytes that canvas and output need;
    ``notes``: what the user may want to know."""

    canvas: Canvas
    plan: Plan
    predictors: list[Predictor]
    disk: int
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Computed:
    """An image whose result is on its canvas, and in no file yet. ``small``: so little that its files may be written, by another
    thread, while the next image is computed: what that takes is not worth counting. :meth:`finish` is to be called, once."""

    report: RunReport
    small: bool
    _publish: Callable[[], None]
    _held: ExitStack

    def finish(self) -> RunReport:
        """Write the files, and let go of input, output and canvas, whatever happens. Raises ``I2IError``."""
        with self._held:
            self._publish()
        return self.report


@contextmanager
def begin(work: Work, run: RunOptions) -> Iterator[Begun]:
    """Inside, the output is this run's; a dry run claims and writes nothing. Raises ``OutputError``."""
    folder = partial_folder(work.item.output)
    with nullcontext() if run.dry_run else claimed(folder):
        resuming = run.resume and not run.dry_run and manifest.unfinished(folder)
        begun = _resumed(work, folder) if resuming else _new(work, folder, run)
        try:
            start_torch(begun.plan.threads)
            yield begun
        except DeviceFull:
            begun.canvas.remove()  # it begins anew, with another plan
            raise
        finally:
            begun.canvas.close()


def _resumed(work: Work, folder: Path) -> Begun:
    check_room(work.target, work.disk)
    canvas, plan, statistics = manifest.resume(folder, work.fingerprint, work.item.path, work.source.spec.plane_count)
    if (plan.device, plan.precision) != (work.runtime.device, work.runtime.precision):
        canvas.close()
        raise OutputError(
            f"{folder}: was begun on {plan.device} in {plan.precision}, and this would be {work.runtime.device} in "
            f"{work.runtime.precision}; go on with it there, or --overwrite starts again"
        )
    return Begun(canvas, plan, [work.predictor.with_statistics(plane) for plane in statistics], work.disk)


def _new(work: Work, folder: Path, run: RunOptions) -> Begun:
    planes, disk = work.source.spec.plane_count, work.disk
    predictors = [work.predictor.prepare(View(work.source, plane), run.seed) for plane in range(planes)]
    pixel_bytes = canvas_bytes(predictors[0], work.output)
    plan, notes = plan_plane(View(work.source), predictors[0], planes * pixel_bytes, run, work.runtime)
    if plan.canvas == "disk":
        disk += canvas_needs(result_spec(work.source.spec, work.output, work.predictor), work.output, pixel_bytes)
    if run.dry_run:
        return Begun(MemoryCanvas(), plan, predictors, disk, notes)
    manifest.clear(folder, run.overwrite)
    if isinstance(work.predictor, ImagePredictor) and work.predictor.snapshots:
        begin_steps(work.target, work.read, run.overwrite)
    check_room(work.target, disk)
    if plan.canvas == "memory":
        return Begun(MemoryCanvas(), plan, predictors, disk, notes)
    statistics = [predictor.statistics() for predictor in predictors]
    return Begun(manifest.begin(folder, work.fingerprint, work.item.path, plan, statistics), plan, predictors, disk, notes)


def plan_plane(
    source: Source, predictor: Predictor, pixel_bytes: int, run: RunOptions, runtime: Runtime
) -> tuple[Plan, list[str]]:
    """The plan of a source of one plane, on the fastest backend that agrees with the model, and notes on that."""
    spec = source.spec
    backend = pick_backend(run.backend, predictor, runtime.device, runtime.precision, spec.height * spec.width)
    chosen = replace(runtime, backend=backend)
    try:
        plan = make_plan(spec, predictor, pixel_bytes, run, chosen)
    except UsageError:
        if backend == "torch" or run.backend != "auto":
            raise
        return make_plan(spec, predictor, pixel_bytes, run, runtime), [f"{backend} is not used: --memory is too small for it"]
    if backend == "torch" or not isinstance(predictor, DensePredictor):
        return plan, []
    start_torch(plan.threads)
    grid = plan.grid(spec, predictor.footprint)
    middle = grid.tile(grid.rows.count // 2, grid.columns.count // 2).window
    confirmed, notes = confirm_backend(run.backend, predictor, window_pixels(source, predictor, middle), chosen)
    if confirmed != backend:
        plan = make_plan(spec, predictor, pixel_bytes, run, runtime)
    return plan, notes


def result_spec(spec: ImageSpec, output: Output, predictor: Predictor) -> ImageSpec:
    """What the result on the grid of ``spec`` is before it is known how many objects there are."""
    dtype = "uint16" if output.meaning == "labels" else output.dtype
    return replace(layer_spec(spec, output.channels, dtype, predictor.footprint.scale), planes=spec.planes)


def canvas_bytes(predictor: Predictor, output: Output) -> int:
    """Bytes that all layers of the canvas take for a pixel."""
    size = output.channels * np.dtype(output.dtype).itemsize
    if predictor.kind == "image":
        size += 4 * predictor.footprint.channels_out
    if predictor.kind == "dense" and output.meaning == "labels":
        size += 1  # the classes
    return size
