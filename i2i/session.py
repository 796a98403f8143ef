"""One image from file to file: open, choose the model, prepare, plan, run, publish.

A :class:`Session` serves many images of one task with the same options; it loads each model once.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from i2i import manifest
from i2i import report as reports
from i2i.backends import pick_device, pick_precision, start_torch
from i2i.canvas import Canvas, MemoryCanvas, layer_spec, partial_folder
from i2i.contracts import Exported, Exporter, Format, ImageSpec, Metadata, Model, Output, Predictor, Runtime, Source, Task
from i2i.engine import Job, Outcome, Progress, run_job
from i2i.errors import InputError, ModelError, OutputError, UsageError
from i2i.finite import make_finite
from i2i.formats import format_for_output, open_image
from i2i.formats.views import missing_tiles, select
from i2i.models import default_model, find_model
from i2i.options import RunOptions
from i2i.planner import Plan, budget, make_plan
from i2i.publish import Write, check_meaning, exporting, narrow_labels, neighbour, place, write_all
from i2i.registry import Registry
from i2i.report import RunReport
from i2i.verify import TOLERANCE, verify
from i2i.version import __version__


@dataclass(frozen=True)
class Item:
    """One input and its output. ``name``: how messages call the input (``-`` for stdin); ``fallback``: where the result goes
    when the output's format, which i2i chose, cannot hold it; ``exports``: further files, by exporter."""

    path: Path
    output: Path
    name: str
    fallback: Path | None = None
    exports: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True)
class _Work:
    """An image on its way: what is asked for, of which model, and the run's identity."""

    item: Item
    source: Source
    model: Model | None
    output: Output
    target: Path
    fingerprint: str


@dataclass
class Session:
    """``options`` are the task's own, ``run`` those that every image command has."""

    task: Task
    options: Any
    run: RunOptions
    registry: Registry
    _predictors: dict[str, tuple[Model | None, Predictor, Runtime]] = field(default_factory=dict)
    _loading: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        """Raises ``UsageError`` for options that no image could be run with."""
        budget(self.run)
        for flag, text in (("--tile", self.run.tile), ("--batch", self.run.batch)):
            if text != "auto" and not (text.isdecimal() and int(text)):
                raise UsageError(f"{flag} {text}: expected auto or a whole number from 1")
        if self.run.overwrite and (self.run.resume or self.run.skip_existing):
            raise UsageError("--overwrite starts again, --skip-existing and --resume keep what is there; choose one")

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
        with self._loading:
            if name not in self._predictors:
                self._predictors[name] = self._load(name)
        return self._predictors[name]

    def _load(self, name: str) -> tuple[Model | None, Predictor, Runtime]:
        start_torch()
        model = find_model(name, self.task.name, self.registry.models(self.task.name)) if name else None
        device = pick_device(self.run.device)
        vouched = model.card.precisions if model and model.card else ("fp32",)
        runtime = Runtime(device, pick_precision(self.run.precision, device, vouched), "torch")
        return model, self.task.load(self.options, model, runtime), runtime

    def _predictor_for(self, source: Source, name: str) -> tuple[Model | None, Predictor, Runtime]:
        try:
            chosen = self.model_name(source.spec)
        except ModelError as error:
            raise ModelError(f"{name}: {error}") from error
        return self.predictor(chosen)

    # --------------------------------------------------------------------------------------------------------- source

    @contextlib.contextmanager
    def open(self, path: Path, name: str) -> Iterator[tuple[Source, list[str]]]:
        """One plane of the image, its samples finite, and the warnings so far."""
        image = open_image(path, self.formats)
        try:
            view = select(image, self.run.level, self.run.plane or None, self.run.channels or None, Path(name))
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
        choice = "choose with --channels, such as --channels " + ",".join(map(str, range(wanted)))
        cure = f"--model {fitting[0]} fits, or {choice}" if fitting else choice
        what = model.name if model else self.task.name
        raise ModelError(f"{name}: has {_channels(source.spec.channels)}, {what} takes {wanted}; {cure}")

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
        clock = reports.Clock()
        with self.open(item.path, item.name) as (source, warnings):
            self._refuse_warnings(warnings, item.name)
            model, predictor, runtime = self._predictor_for(source, item.name)
            predictor = predictor.fitted(source.spec)
            self.fit_channels(source, predictor, model, item.name)
            work = self._check(item, source, model, predictor)
            clock.lap("open")
            with self._canvas(work, predictor, runtime) as (canvas, plan, prepared):
                job = Job(source, prepared, work.output, plan, canvas, self.run.seed, progress)
                result = self._report(work, job)
                clock.lap("prepare")
                if self.run.dry_run:
                    result.status, result.plan = reports.PLANNED, {**result.plan, "seconds": reports.estimate(job)}
                    return result
                warnings += _inexact(plan)
                self._refuse_warnings(warnings, item.name)
                outcome = run_job(job)
                clock.lap("compute")
                result.verified = self._verify(job)
                clock.lap("verify")
                result.warnings = [*warnings, *outcome.warnings, *_missing_tiles(source)]
                self._refuse_warnings(result.warnings, item.name)
                result.output = str(self._publish(work, job, outcome))
                result.warnings += _moved(item, Path(result.output))
                clock.lap("publish")
                canvas.remove()
        result.exports = {name: str(path) for name, path in item.exports.items()}
        result.blocks_computed, result.blocks_reused, result.objects = outcome.computed, outcome.reused, outcome.objects
        result.seconds, result.peak_memory = clock.laps, reports.peak_memory()
        return result

    def _check(self, item: Item, source: Source, model: Model | None, predictor: Predictor) -> _Work:
        """What can be refused before anything is computed: the kind of result, its format, an output that exists."""
        output = self.choose_output(predictor)
        for name in item.exports:
            check_meaning(self._exporter(name), output)
        dtype = "uint16" if output.meaning == "labels" else output.dtype
        spec = layer_spec(source.spec, output.channels, dtype, predictor.footprint.scale)
        target = place(item.output, item.fallback, spec, self.formats)
        self._refuse_existing(item, target)
        identity = manifest.fingerprint(self.task.name, self.options, self.run, item.path, model, output)
        return _Work(item, source, model, output, target, identity)

    def _refuse_existing(self, item: Item, target: Path) -> None:
        """An output that was not foreseen when the inputs were listed."""
        run = self.run
        if target != item.output and target.exists() and not (run.overwrite or run.resume or run.dry_run):
            raise OutputError(f"{target}: exists; --overwrite replaces it")

    def _exporter(self, name: str) -> Exporter:
        return {exporter.name: exporter for exporter in self.registry.exporters(self.task.name)}[name]

    def _report(self, work: _Work, job: Job) -> RunReport:
        model = work.model
        return RunReport(
            self.task.name, work.item.name, str(work.target), kind=work.output.name, plan=reports.plan_of(job),
            model=model.name if model else None, sha256=model.sha256 if model else None,
        )  # fmt: skip

    def _verify(self, job: Job) -> float | None:
        if not self.run.verify:
            return None
        found, allowed = verify(job, self.run.verify), TOLERANCE[job.plan.precision]
        if job.plan.exact and found > allowed:
            raise ModelError(f"--verify: two tilings differ by {found:.1e} of the range, above {allowed:.0e}; please report it")
        return found

    def _refuse_warnings(self, warnings: list[str], name: str) -> None:
        if self.run.strict and warnings:
            raise InputError(f"{name}: {warnings[0]} (an error because of --strict)")

    @contextlib.contextmanager
    def _canvas(self, work: _Work, predictor: Predictor, runtime: Runtime) -> Iterator[tuple[Canvas, Plan, Predictor]]:
        """A canvas with the plan and the prepared predictor: those of the killed run if there is one to go on with."""
        folder = partial_folder(work.item.output)
        if self.run.resume and manifest.unfinished(folder):
            canvas, plan, statistics = manifest.resume(folder, work.fingerprint, work.item.path)
            prepared = predictor.with_statistics(statistics)
        else:
            prepared = predictor.prepare(work.source, self.run.seed)
            plan = make_plan(work.source.spec, prepared, canvas_bytes(prepared, work.output), self.run, runtime)
            if not self.run.dry_run:
                manifest.clear(folder, self.run.overwrite)
            if plan.canvas == "memory" or self.run.dry_run:
                canvas = MemoryCanvas()
            else:
                canvas = manifest.begin(folder, work.fingerprint, work.item.path, plan, prepared.statistics())
        try:
            start_torch(plan.threads)
            yield canvas, plan, prepared
        finally:
            canvas.close()

    # -------------------------------------------------------------------------------------------------------- publish

    def _publish(self, work: _Work, job: Job, outcome: Outcome) -> Path:
        """Write the result and the exports, all or none. Returns the result's path, whose suffix may have had to change."""
        result = narrow_labels(outcome) if work.output.meaning == "labels" else outcome.result
        path = self._place(work.item, result.spec)
        write = format_for_output(path, self.formats).write
        assert write is not None
        record = {"program": f"i2i {__version__}", "task": self.task.name, "kind": work.output.name}
        if work.model:
            record |= {"model": work.model.name, "sha256": work.model.sha256, "precision": job.plan.precision}
        metadata = Metadata(work.output.meaning, record, work.fingerprint)
        exported = Exported(work.source, outcome.result, work.output.meaning)
        files: dict[Path, Write] = {path: lambda temporary: write(temporary, result, metadata)}
        for name, place_of in work.item.exports.items():
            files[place_of] = exporting(self._exporter(name), exported)
        write_all(files)
        return path

    def _place(self, item: Item, spec: ImageSpec) -> Path:
        """Where the result goes. Labels that turn out too many for the format that was asked for go to a TIFF beside it."""
        try:
            path = place(item.output, item.fallback, spec, self.formats)
        except OutputError as error:
            if self.run.strict:
                raise
            return neighbour(item.output, (item.path, *item.exports.values()), self.run.overwrite, error)
        self._refuse_existing(item, path)
        return path


def _channels(count: int) -> str:
    return f"{count} channel{'s' * (count != 1)}"


def canvas_bytes(predictor: Predictor, output: Output) -> int:
    """Bytes that all layers of the canvas take for a pixel."""
    size = output.channels * np.dtype(output.dtype).itemsize
    if predictor.kind == "image":
        size += 4 * predictor.footprint.channels_out
    if predictor.kind == "dense" and output.meaning == "labels":
        size += 1 + 4
    return size


def _moved(item: Item, path: Path) -> list[str]:
    """A warning when the result is not where it was asked for."""
    foreseen = path in (item.output, item.fallback)
    return [] if foreseen else [f"too many objects for {item.output.name}; written to {path}"]


def _inexact(plan: Plan) -> list[str]:
    """A warning when no tiling of this network can be the whole-image result."""
    if plan.exact:
        return []
    return ["this model depends on all it sees, so its windows are blended: not the same as the whole image in one window"]


def _missing_tiles(source: Source) -> list[str]:
    """A warning when tiles that the file leaves out were read as zeros."""
    count = missing_tiles(source)
    return [f"{count} {'tile is' if count == 1 else 'tiles are'} missing in the file and read as 0"] if count else []
