"""One image from file to file: open, choose the model, prepare, plan, run, publish.

A :class:`Session` serves many images of one task with the same options; it loads each model once.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from i2i import __version__, report as reports
from i2i.backends import pick_device, pick_precision, start_torch
from i2i.canvas import Canvas, DiskCanvas, MemoryCanvas, partial_folder
from i2i.contracts import Array, Exported, Exporter, Format, ImageSpec, Metadata, Model, Output, Predictor, Runtime, Source, Task
from i2i.engine import TOLERANCE, Job, Outcome, Progress, run_job, verify
from i2i.errors import InputError, ModelError, OutputError, UsageError
from i2i.files import replacing
from i2i.finite import make_finite
from i2i.formats import format_for_output, open_image
from i2i.formats.views import missing_tiles, select
from i2i.geometry import Region
from i2i.models import default_model, find_model
from i2i.options import RunOptions
from i2i.planner import Plan, budget, make_plan
from i2i.registry import Registry
from i2i.report import RunReport

_RESULT_OPTIONS = ("as_", "level", "plane", "channels", "nan", "seed", "model", "device", "precision", "backend")


@dataclass
class Session:
    """``options`` are the task's own, ``run`` those that every image command has."""

    task: Task
    options: Any
    run: RunOptions
    registry: Registry
    _predictors: dict[str, tuple[Model | None, Predictor, Runtime]] = field(default_factory=dict)

    @property
    def formats(self) -> tuple[Format, ...]:
        return self.registry.formats()

    # -------------------------------------------------------------------------------------------------------- models

    def model_name(self, spec: ImageSpec) -> str:
        """What ``--model`` says, else the task's default for the image's channels; empty when the task needs none."""
        if self.run.model or not self.task.needs_model:
            return self.run.model
        return default_model(self.task.name, spec.channels, self.registry.models(self.task.name)).name

    def predictor(self, name: str) -> tuple[Model | None, Predictor, Runtime]:
        """The model of that name, its predictor on the device, and how it runs; loaded once."""
        if name not in self._predictors:
            budget(self.run)
            start_torch()
            model = self._model(name) if name else None
            device = pick_device(self.run.device)
            vouched = model.card.precisions if model and model.card else ("fp32",)
            runtime = Runtime(device, pick_precision(self.run.precision, device, vouched), "torch")
            self._predictors[name] = model, self.task.load(self.options, model, runtime), runtime
        return self._predictors[name]

    def _model(self, name: str) -> Model:
        return find_model(name, self.task.name, self.registry.models(self.task.name))

    # --------------------------------------------------------------------------------------------------------- source

    @contextlib.contextmanager
    def open(self, path: Path, name: str) -> Iterator[tuple[Source, list[str]]]:
        """One plane of the image, its samples finite, and the warnings so far."""
        image = open_image(path, self.formats)
        try:
            view = select(image, self.run.level, self.run.plane, self.run.channels, Path(name))
            source, warnings = make_finite(view, self.run.nan, name)
            yield source, [*image.spec.notes, *warnings]
        finally:
            image.close()

    def fit_channels(self, source: Source, predictor: Predictor, model: Model | None, name: str) -> None:
        """Raises ``ModelError`` when the image has not the channels that the model takes."""
        wanted = predictor.footprint.channels_in
        if source.spec.channels == wanted:
            return
        cards = self.registry.models(self.task.name)
        fitting = [card.name for card in cards if card.channels == source.spec.channels]
        cure = f"--model {fitting[0]} fits" if fitting else "choose with --channels, such as --channels 0"
        what = model.name if model else self.task.name
        raise ModelError(f"{name}: has {source.spec.channels} channels, {what} takes {wanted}; {cure}")

    # ------------------------------------------------------------------------------------------------------------ run

    def choose_output(self, predictor: Predictor) -> Output:
        """The kind of result asked for, the predictor's first by default."""
        if not self.run.as_:
            return predictor.outputs[0]
        for output in predictor.outputs:
            if output.name == self.run.as_:
                return output
        raise UsageError(f"--as {self.run.as_}: this model gives {', '.join(output.name for output in predictor.outputs)}")

    def process(self, item: Item, progress: Progress = lambda stage, share: None) -> RunReport:
        """One image. Raises ``I2IError``; nothing is at the output path then that was not there before."""
        clock = _Clock()
        result = RunReport(self.task.name, item.name, str(item.output))
        with self.open(item.path, item.name) as (source, warnings):
            model, predictor, runtime = self.predictor(self.model_name(source.spec))
            output = self.choose_output(predictor)
            clock.lap("open")
            with self._canvas(item, source, predictor, output, model, runtime) as (canvas, plan, prepared):
                self.fit_channels(source, prepared, model, item.name)
                self._describe(result, model, output, plan)
                clock.lap("prepare")
                if self.run.dry_run:
                    result.status = reports.PLANNED
                    result.plan = {**result.plan, **_estimate(Job(source, prepared, output, plan, canvas))}
                    return result
                job = Job(source, prepared, output, plan, canvas, self.run.seed, progress)
                outcome = run_job(job)
                clock.lap("compute")
                warnings += [*outcome.warnings, *_missing_tiles(source)]
                self._verify(job, result)
                self._refuse_warnings(warnings, item.name)
                result.output = str(self._publish(item, job, outcome, model))
                result.exports = self._export(item, source, outcome, output)
                clock.lap("publish")
                canvas.remove()
        result.blocks_computed, result.blocks_reused, result.objects = outcome.computed, outcome.reused, outcome.objects
        result.seconds, result.peak_memory, result.warnings = clock.laps, reports.peak_memory(), warnings
        return result

    def _describe(self, result: RunReport, model: Model | None, output: Output, plan: Plan) -> None:
        result.kind, result.plan = output.name, plan.as_mapping()
        if model:
            result.model, result.sha256 = model.name, model.sha256

    def _verify(self, job: Job, result: RunReport) -> None:
        if not self.run.verify:
            return
        result.verified = verify(job, self.run.verify)
        allowed = TOLERANCE[job.plan.precision]
        if job.plan.exact and result.verified > allowed:
            raise ModelError(f"--verify: two tilings differ by {result.verified:.1e} of the range, above {allowed:.0e}; please report it")

    def _refuse_warnings(self, warnings: list[str], name: str) -> None:
        if self.run.strict and warnings:
            raise InputError(f"{name}: {warnings[0]} (an error because of --strict)")

    # --------------------------------------------------------------------------------------------- canvas and resume

    @contextlib.contextmanager
    def _canvas(
        self, item: Item, source: Source, predictor: Predictor, output: Output, model: Model | None, runtime: Runtime
    ) -> Iterator[tuple[Canvas, Plan, Predictor]]:
        """A canvas with the plan and the prepared predictor: those of the killed run if there is one to go on with."""
        folder = partial_folder(item.output)
        manifest = folder / "manifest.json"
        fingerprint = self.fingerprint(item, model, output)
        if self.run.resume and manifest.exists():
            canvas: Canvas = DiskCanvas(folder)
            recorded = _read_manifest(manifest, fingerprint)
            plan, prepared = Plan.from_mapping(recorded["plan"]), predictor.with_statistics(recorded["statistics"])
        else:
            prepared = predictor.prepare(source, self.run.seed)
            plan = make_plan(source.spec, prepared, canvas_bytes(prepared, output), self.run, runtime)
            if plan.canvas == "memory" or self.run.dry_run:
                canvas = MemoryCanvas()
            else:
                canvas = self._new_folder(folder)
                values = {"fingerprint": fingerprint, "plan": plan.as_mapping(), "statistics": prepared.statistics()}
                with replacing(manifest) as temporary:
                    temporary.write_text(json.dumps(values, indent=1), encoding="utf-8")
        start_torch(plan.threads)
        try:
            yield canvas, plan, prepared
        finally:
            canvas.close()

    def _new_folder(self, folder: Path) -> Canvas:
        """An empty folder for the run. Raises ``OutputError`` when a killed run's is there and is not to be thrown away."""
        if (folder / "manifest.json").exists() and not self.run.overwrite:
            raise OutputError(f"{folder}: a run that did not finish; --resume goes on with it, --overwrite starts again")
        DiskCanvas(folder).remove()
        return DiskCanvas(folder)

    def fingerprint(self, item: Item, model: Model | None, output: Output) -> str:
        """Hex of what decides the result: the input's content, the model, the options, this version."""
        options = {name: getattr(self.run, name) for name in _RESULT_OPTIONS}
        known = {
            "version": __version__,
            "input": _content_hash(item.path),
            "task": self.task.name,
            "model": model.sha256 if model else None,
            "output": output.name,
            "options": options | asdict(self.options),
        }
        return hashlib.sha256(json.dumps(known, sort_keys=True, default=str).encode()).hexdigest()

    # -------------------------------------------------------------------------------------------------------- publish

    def _publish(self, item: Item, job: Job, outcome: Outcome, model: Model | None) -> Path:
        """Write the result in its final format, atomically. Returns the path, whose suffix may have had to change."""
        result = narrow_labels(outcome) if job.output.meaning == "labels" else outcome.result
        path = item.output
        form = format_for_output(path, self.formats)
        if not _holds(form, result.spec):
            if not item.free_suffix:
                raise OutputError(f"{path}: {form.name} cannot hold {result.spec.channels} x {result.spec.dtype}; use .tif")
            path = path.with_suffix(".tif")
            _refuse_existing(path, self.run)
            form = format_for_output(path, self.formats)
        record = {"program": f"i2i {__version__}", "task": self.task.name, "kind": job.output.name}
        if model:
            record |= {"model": model.name, "sha256": model.sha256, "precision": job.plan.precision}
        metadata = Metadata(job.output.meaning, record, self.fingerprint(item, model, job.output))
        write = form.write
        assert write is not None
        with replacing(path) as temporary:
            write(temporary, result, metadata)
        return path

    def _export(self, item: Item, source: Source, outcome: Outcome, output: Output) -> dict[str, str]:
        exporters = {exporter.name: exporter for exporter in self.registry.exporters(self.task.name)}
        exported = Exported(source, outcome.result, output.meaning)
        for name, path in item.exports.items():
            _check_meaning(exporters[name], output)
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as temporary:
                exporters[name].export(temporary, exported)
        return {name: str(path) for name, path in item.exports.items()}


@dataclass(frozen=True)
class Item:
    """One input and its output. ``name``: how messages call the input (``-`` for stdin); ``free_suffix``: the output's format
    was chosen by i2i, and may be changed for one that can hold the result; ``exports``: further files, by exporter."""

    path: Path
    output: Path
    name: str
    free_suffix: bool = False
    exports: Mapping[str, Path] = field(default_factory=dict)


class _Clock:
    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.laps[name], self._last = round(now - self._last, 3), now


def _check_meaning(exporter: Exporter, output: Output) -> None:
    if output.meaning not in exporter.meanings:
        raise UsageError(f"--{exporter.name} takes {' or '.join(exporter.meanings)}, not {output.name}; choose with --as")


def canvas_bytes(predictor: Predictor, output: Output) -> int:
    """Bytes that all layers of the canvas take for a pixel."""
    size = output.channels * np.dtype(output.dtype).itemsize
    if predictor.kind == "image":
        size += 4 * predictor.footprint.channels_out
    if predictor.kind == "dense" and output.meaning == "labels":
        size += 1 + 4
    return size


def _read_manifest(path: Path, fingerprint: str) -> dict[str, Any]:
    try:
        recorded: dict[str, Any] = json.loads(path.read_text("utf-8"))
        same = recorded["fingerprint"] == fingerprint
    except (OSError, ValueError, KeyError) as error:
        raise OutputError(f"{path}: unreadable; --overwrite starts again") from error
    if not same:
        raise OutputError(
            f"{path.parent}: was begun with another input, model, option or version; repeat those, or --overwrite starts again"
        )
    return recorded


_EDGE = 2**20


def _content_hash(path: Path) -> str:
    """sha256 of a file up to 64 MB; above that of its size and its first and last megabytes. Of a folder, its name and times."""
    stat = path.stat()
    if path.is_dir():
        return f"{path.name}-{stat.st_mtime_ns}"
    digest = hashlib.sha256(str(stat.st_size).encode())
    with path.open("rb") as stream:
        if stat.st_size <= 64 * _EDGE:
            digest.update(stream.read())
        else:
            digest.update(stream.read(_EDGE))
            stream.seek(-_EDGE, 2)
            digest.update(stream.read(_EDGE))
    return digest.hexdigest()


class _Narrowed:
    """Labels as uint16."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.spec = replace(source.spec, dtype="uint16")

    def read(self, region: Region, plane: int = 0, level: int = 0) -> Array:
        return self._source.read(region).astype(np.uint16)

    def close(self) -> None:
        self._source.close()


def narrow_labels(outcome: Outcome) -> Source:
    """The labels as uint16 where their numbers fit, else uint32."""
    fits = outcome.objects is not None and outcome.objects <= np.iinfo(np.uint16).max
    return _Narrowed(outcome.result) if fits else outcome.result


def _holds(form: Format, spec: ImageSpec) -> bool:
    return (not form.dtypes or spec.dtype in form.dtypes) and (not form.channels or spec.channels in form.channels)


def _refuse_existing(path: Path, run: RunOptions) -> None:
    if path.exists() and not run.overwrite:
        raise OutputError(f"{path}: exists; --overwrite replaces it")


def _missing_tiles(source: Source) -> list[str]:
    """A warning when tiles that the file leaves out were read as zeros."""
    count = missing_tiles(source)
    return [f"{count} tiles are missing in the file and were read as 0"] if count else []


def _estimate(job: Job) -> dict[str, Any]:
    """Tiles, and seconds from timing one batch."""
    from i2i.backends import run_batch
    from i2i.stitch import window_pixels

    grid = job.grid
    numbers: dict[str, Any] = {"tiles": grid.tile_count, "blocks": grid.block_count, "window": list(grid.window_shape)}
    if job.predictor.kind == "image":
        return numbers
    windows = [window_pixels(job.source, job.predictor, tile.window) for tile in grid.tiles(grid.block(0).region)[: job.plan.batch]]
    for _ in range(2):
        started = time.monotonic()
        run_batch(job.predictor, windows, job.plan.runtime)  # type: ignore[arg-type]  # dense and instances are callable
        seconds = time.monotonic() - started
    return numbers | {"seconds": round(seconds / len(windows) * grid.tile_count, 1)}

