"""One image from file to file: open, choose the model, prepare, plan, run, publish.

A :class:`Session` serves many images of one task with the same options; it loads each model once.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from i2i import estimate
from i2i import report as reports
from i2i.backends import TOLERANCE
from i2i.begin import Begun, Computed, Item, Opened, Work, begin, result_spec
from i2i.canvas import partial_folder
from i2i.channels import in_order, unlike
from i2i.contracts import DensePredictor, Exporter, Format, ImageSpec, Metadata, Model, Output, Predictor, Source, Task
from i2i.disk import full_disk_told, output_needs
from i2i.engine import Job, Progress
from i2i.errors import InputError, ModelError, NotFinite, OutputError, UsageError
from i2i.files import is_one_of
from i2i.finite import make_finite, plan_finite
from i2i.formats import format_for_output, open_image
from i2i.formats.resample import at_size, level_for, resampled
from i2i.formats.views import View, one_series, select
from i2i.loading import Loader, as_trained
from i2i.manifest import fingerprint, note_results
from i2i.options import RunOptions, given, measured
from i2i.pixelsize import brought_back, factors, with_pixel_size
from i2i.planes import Done, for_exporters, kept_objects, plane_jobs, run_planes, verify_planes
from i2i.planner import Plan, budget
from i2i.publish import (
    Write,
    check_compression,
    check_export,
    exporting,
    narrow_labels,
    neighbour,
    place,
    write_all,
    write_step,
)
from i2i.registry import Registry
from i2i.report import RunReport
from i2i.version import __version__

__all__ = ["Computed", "Item", "Session"]
_SMALL_BYTES = 8_000_000


@dataclass
class Session:
    """``options`` are the task's own, ``run`` those that every image command has."""

    task: Task
    options: Any
    run: RunOptions
    registry: Registry

    def __post_init__(self) -> None:
        """Raises ``UsageError`` for options that no image could be run with."""
        self.loader = Loader(self.task, self.options, self.run, self.registry)
        self._seconds: dict[Any, float | None] = {}
        budget(self.run)
        for flag, text in (("--tile", self.run.tile), ("--batch", self.run.batch)):
            if text != "auto" and not (text.isdecimal() and int(text)):
                raise UsageError(f"{flag} {text}: expected auto or a whole number from 1")
        if not math.isfinite(self.run.pixel_size):
            raise UsageError(f"--pixel-size {self.run.pixel_size}: expected micrometres, such as 0.5")
        measured(self.run.measure)
        if self.run.overwrite and (self.run.resume or self.run.skip_existing):
            raise UsageError("--overwrite starts again, --skip-existing and --resume keep what is there; choose one")

    @property
    def formats(self) -> tuple[Format, ...]:
        return self.registry.formats()

    @cached_property
    def files(self) -> tuple[Path, ...]:
        """The files besides the input that the task's options name. Raises ``UsageError``."""
        return tuple(self.task.files(self.options)) if self.task.files else ()

    def seeded(self, more: int) -> Session:
        """The same, and its models, with a seed that is so much larger."""
        result = copy.copy(self)
        result.run = replace(self.run, seed=self.run.seed + more)
        return result

    def with_windows(self, side: int, batch: int) -> Session:
        """The same, and its models, with windows of so many pixels a side, so many at once."""
        result = copy.copy(self)
        result.run = replace(self.run, tile=str(side), batch=str(batch))
        return result

    # ------------------------------------------------------------------------------------------------------------ run

    @contextlib.contextmanager
    def open(self, path: Path, name: str) -> Iterator[Opened]:
        """The chosen planes, level and channels of the image, samples finite."""
        image = open_image(path, self.formats)
        try:
            if self.run.series:
                chosen = one_series(image, self.run.series, Path(name))
                if chosen is not image:
                    image.close()
                image = chosen
            sized, told = with_pixel_size(image, self.run.pixel_size)
            source, warnings = self._chosen(sized, self.run.level, name)

            def at(size: tuple[int, int]) -> Source:
                level = level_for(image.spec.levels, size, self.run.level)
                return at_size(source if level == self.run.level else self._chosen(sized, level, name)[0], size)

            every = self._every(sized, source, name)
            yield Opened(source, (image.spec.height, image.spec.width), [*image.spec.notes, *told, *warnings], at, every)
        finally:
            image.close()

    def _every(self, image: Source, source: Source, name: str) -> Source | None:
        """All channels of the file, samples finite, for measuring; None where the source has just these."""
        if "intensity" not in measured(self.run.measure) or self.run.dry_run:
            return None
        every = select(image, self.run.level, self.run.plane or None, None, Path(name))
        if (every.spec.channels, every.spec.channel_names) == (source.spec.channels, source.spec.channel_names):
            return None
        return make_finite(every, self.run.nan, name)[0]

    def _chosen(self, image: Source, level: int, name: str) -> tuple[Source, tuple[str, ...]]:
        """The chosen planes and channels of a level, samples finite; with warnings."""
        chosen = select(image, level, self.run.plane or None, self.run.channels or None, Path(name))
        if not self.run.channels:
            chosen = in_order(chosen, self.loader.channel_names(chosen.spec))
        return plan_finite(chosen) if self.run.dry_run else make_finite(chosen, self.run.nan, name)

    def process(self, item: Item, progress: Progress = lambda stage, share: None) -> RunReport:
        """One image. Raises ``I2IError``; nothing is at the output path then that was not there before."""
        return self.compute(item, progress).finish()

    def compute(self, item: Item, progress: Progress = lambda stage, share: None) -> Computed:
        """One image up to its result on the canvas; of a dry run, its plan. Raises ``I2IError``."""
        clock = reports.Clock()
        with contextlib.ExitStack() as held:
            opened = held.enter_context(self.open(item.path, item.name))
            work, warnings = self._work(item, opened), opened.warnings
            self._refuse_warnings(warnings, item.name)
            clock.lap("open")
            begun = held.enter_context(begin(work, self.run))
            jobs = self._jobs(work, begun, progress)
            result = self._report(work, begun, jobs)
            result.notes = [*_remarks(work, jobs[0]), *begun.notes]
            clock.lap("prepare")
            result.warnings = [*warnings, *reports.inexact(begun.plan)]
            self._refuse_warnings(result.warnings, item.name)
            if self.run.dry_run:
                with self._naming(work, result):
                    result.plan = {**result.plan, "seconds": self._estimate(work, begun.plan, jobs, clock)}
                return Computed(result, True, lambda: None, contextlib.ExitStack())
            with full_disk_told(work.target, begun.plan.canvas == "disk"):
                done = self._compute(work, jobs, result, clock)
            publish = partial(self._finish, work, begun, done, result, clock)
            return Computed(result, _is_small(work, begun.plan), publish, held.pop_all())

    def _jobs(self, work: Work, begun: Begun, progress: Progress) -> list[Job]:
        """One for each plane."""
        job = Job(
            work.source, work.predictor, work.output, begun.plan, begun.canvas, self.run.seed, progress,
            frames=self._wants_frames(work.item),
        )  # fmt: skip
        keep = partial(write_step, work.target, work.read)
        return plane_jobs(job, begun.predictors, lambda plane: partial(keep, plane))

    def _compute(self, work: Work, jobs: list[Job], result: RunReport, clock: reports.Clock) -> Done:
        """Compute and verify, and report it."""
        with self._naming(work, result):
            done = run_planes(jobs, work.source.spec)
        spec, scale = work.image.spec, work.predictor.footprint.scale
        done = replace(done, result=brought_back(done.result, spec, scale, work.scaling, work.output.meaning))
        if isinstance(work.predictor, DensePredictor):
            done = kept_objects(done, work.predictor.keep)
        clock.lap("compute")
        result.verified = self._verify(jobs)
        clock.lap("verify")
        result.warnings += [*done.warnings, *reports.read_as_zeros(work.image)]
        self._refuse_warnings(result.warnings, work.item.name)
        result.blocks_computed, result.blocks_reused, result.objects = done.computed, done.reused, done.objects
        result.objects_by_plane = done.by_plane
        return done

    @contextlib.contextmanager
    def _naming(self, work: Work, result: RunReport) -> Iterator[None]:
        """An answer that is no number, inside, is an error that names the image and the model."""
        try:
            yield
        except NotFinite as error:
            raise ModelError(f"{work.item.name}: {result.model or self.task.name}: {error}") from error

    def _finish(self, work: Work, begun: Begun, done: Done, result: RunReport, clock: reports.Clock) -> None:
        """Publish, and report it; the canvas goes."""
        clock.go_on()
        with full_disk_told(work.target, begun.plan.canvas == "disk"):
            result.output = str(self._publish(work, begun.plan, done))
        result.warnings += _moved(work.item, Path(result.output))
        result.exports = {name: str(path) for name, path in work.item.exports.items()}
        clock.lap("publish")
        begun.canvas.remove()
        result.seconds, result.peak_memory = clock.laps, reports.peak_memory()

    def _work(self, item: Item, opened: Opened) -> Work:
        """What can be refused before anything is computed: the model, the kind of result, its format, an output that exists."""
        image = opened.source
        models, predictor, runtime = self.loader.for_image(image.spec, item.name)
        scaling, told = factors(image.spec, models, item.name, predictor.resample)
        opened.warnings.extend([*told, *unlike(image.spec, models)])
        source = resampled(image, scaling) if scaling else image
        predictor = predictor.fitted(View(source).spec)
        size = predictor.size if predictor.size != (image.spec.height, image.spec.width) else None
        if predictor.size:
            image = source = opened.at(predictor.size)
            scaling = None
        source = as_trained(source, predictor)
        self.loader.check_channels(source.spec, predictor, models, item.name)
        opened.warnings.extend(self.loader.taken_as_rgb(source.spec, models, predictor))
        output = _named(self.loader.choose_output(predictor), image.spec)
        self._check_asked(item, predictor, output, image.spec)
        spec = result_spec(image.spec, output, predictor)
        target = self._target(item, output, spec)
        models = (*models, *predictor.parts)
        identity = self._fingerprint(item, models, output)
        disk = output_needs(spec, output, format_for_output(target, self.formats), self.run.compression)
        read = (item.path, *self.files)
        return Work(
            item, image, source, opened.full, scaling, models, predictor, runtime, output, target, identity, disk, size, read,
            opened.every,
        )  # fmt: skip

    def _check_asked(self, item: Item, predictor: Predictor, output: Output, spec: ImageSpec) -> None:
        """Raises ``UsageError`` for exports and ``--verify`` that this method or result has not."""
        for name in item.exports:
            check_export(self._exporter(name), predictor, output, spec.planes)
        if self.run.verify and predictor.kind != "dense":
            raise UsageError(f"--verify recomputes single pixels, which {self.task.name} cannot; leave it out")

    def _fingerprint(self, item: Item, models: Sequence[Model], output: Output) -> str:
        frames = self._wants_frames(item)
        return fingerprint(self.task.name, self.options, self.run, item.path, models, output, self.files, frames)

    def _wants_frames(self, item: Item) -> bool:
        return any(self._exporter(name).frames for name in item.exports)

    def _target(self, item: Item, output: Output, spec: ImageSpec) -> Path:
        target = place(item.output, item.fallback, spec, self.formats)
        self._refuse_existing(item, target)
        form = format_for_output(target, self.formats)
        check_compression(target, form, self.run.compression)
        if self.run.compression == "jpeg" and (output.meaning != "image" or not self.task.lossy):
            raise UsageError(f"--compression jpeg changes values, and {output.name} are to be exact; choose zlib or zstd")
        if form.check:
            form.check(target, spec, Metadata(output.meaning, {}, "", self._compression))
        return target

    def _refuse_existing(self, item: Item, target: Path) -> None:
        """An output that was not foreseen when the inputs were listed."""
        run = self.run
        if target != item.output and is_one_of(target, (item.path, *self.files)):
            raise UsageError(f"{target}: the output is an input; choose another with -o")
        if target != item.output and target.exists() and not (run.overwrite or run.resume or run.dry_run):
            raise OutputError(f"{target}: exists; --overwrite replaces it")

    def _exporter(self, name: str) -> Exporter:
        return {exporter.name: exporter for exporter in self.registry.exporters(self.task.name)}[name]

    def _report(self, work: Work, begun: Begun, jobs: list[Job]) -> RunReport:
        plan = reports.plan_of(jobs[0]) | {"disk": begun.disk}
        recorded = reports.recorded(work.models)
        return RunReport(
            self.task.name, work.item.name, str(work.target), kind=work.output.name, plan=plan, planes=len(jobs),
            status=reports.PLANNED if self.run.dry_run else reports.DONE, resampled=work.scaling, size=work.size,
            model=recorded.get("model"), sha256=recorded.get("sha256"), options=given(self.options, self.run),
        )  # fmt: skip

    def _estimate(self, work: Work, plan: Plan, jobs: list[Job], clock: reports.Clock) -> float | None:
        """The seconds that an image should take, opening and preparing, which are done, included. The rest is measured once for
        all images that are alike, whatever they show."""
        alike = [(spec.height, spec.width, spec.channels, spec.dtype) for spec in (work.image.spec, work.source.spec)]
        key = (*alike, len(jobs), plan, work.models and reports.recorded(work.models)["sha256"], work.target.suffix)
        if key not in self._seconds:
            self._seconds[key] = estimate.seconds(jobs[0], len(jobs), lambda folder, piece: self._try(folder, piece, work, plan))
        rest = self._seconds[key]
        return None if rest is None else round(rest + sum(clock.laps.values()), 3)

    def _try(self, folder: Path, piece: Source, work: Work, plan: Plan) -> None:
        """Write a piece of the result, for its time."""
        form = format_for_output(work.target, self.formats)
        result = narrow_labels(piece, 0) if work.output.meaning == "labels" else piece
        self._write(form, folder / f"piece{form.suffixes[0]}", result, work, plan)

    def _verify(self, jobs: list[Job]) -> float | None:
        if not self.run.verify:
            return None
        found, allowed = verify_planes(jobs, self.run.verify), TOLERANCE[jobs[0].plan.precision]
        if jobs[0].plan.exact and found > allowed:
            raise ModelError(f"--verify: two tilings differ by {found:.1e} of the range, above {allowed:.0e}; please report it")
        return found

    def _refuse_warnings(self, warnings: list[str], name: str) -> None:
        if self.run.strict and warnings:
            raise InputError(f"{name}: {warnings[0]} (an error because of --strict)")

    # -------------------------------------------------------------------------------------------------------- publish

    def _publish(self, work: Work, plan: Plan, done: Done) -> Path:
        """Write the result and the exports, all or none. Returns the result's path, whose suffix may have had to change."""
        whole = done.result
        result = narrow_labels(whole, done.most) if work.output.meaning == "labels" else whole
        path = self._place(work.item, result.spec)
        form = format_for_output(path, self.formats)
        files: dict[Path, Write] = {path: lambda temporary: self._write(form, temporary, result, work, plan)}
        larger = work.full[0] / whole.spec.height, work.full[1] / whole.spec.width
        told: dict[str, Any] = {"meaning": work.output.meaning, "scale": larger, "name": work.item.name}
        told |= {"measure": measured(self.run.measure), "every": work.every}
        exported = for_exporters(work.image, whole, done, own_masks=not work.scaling, **told)
        for name, place_of in work.item.exports.items():
            files[place_of] = exporting(self._exporter(name), exported)
        if plan.canvas == "disk":
            note_results(partial_folder(work.item.output), work.item.exports.values())
        write_all(files)
        return path

    def _write(self, form: Format, path: Path, result: Source, work: Work, plan: Plan) -> None:
        """The result as a file, with what is to be known of it."""
        assert form.write is not None
        record = {"program": f"i2i {__version__}", "task": self.task.name, "kind": work.output.name}
        if work.models:
            record |= reports.recorded(work.models) | {"precision": plan.precision}
        meaning, seen = work.output.meaning, work.image.spec
        same = meaning == "image" and result.spec.channels == seen.channels and result.spec.dtype in ("uint8", "uint16")
        profile, dpi = seen.profile if same else b"", seen.dpi if meaning == "image" else None
        form.write(path, result, Metadata(meaning, record, work.fingerprint, self._compression, plan.threads, profile, dpi))

    @property
    def _compression(self) -> str:
        return "" if self.run.compression == "auto" else self.run.compression

    def _place(self, item: Item, spec: ImageSpec) -> Path:
        """Where the result goes. Labels that turn out too many for the format that was asked for go to a TIFF beside it."""
        try:
            path = place(item.output, item.fallback, spec, self.formats)
        except OutputError as error:
            if self.run.strict:
                raise
            return neighbour(item.output, (item.path, *self.files, *item.exports.values()), self.run.overwrite, error)
        self._refuse_existing(item, path)
        return path


def _remarks(work: Work, job: Job) -> list[str]:
    """What the user may want to know of how the image is seen, and of what the predictor chose for the room it has."""
    seen = work.source.spec.remarks
    chosen = job.predictor.within(job.source.spec, job.plan.room).remarks
    return [*seen, *(remark for remark in chosen if remark not in seen)]


def _is_small(work: Work, plan: Plan) -> bool:
    """Whether input and result together are at most 8 MB, and the result is in memory."""
    spec = result_spec(work.image.spec, work.output, work.predictor)
    size = work.image.spec.bytes * work.image.spec.plane_count + spec.bytes * spec.plane_count
    return plan.canvas == "memory" and size <= _SMALL_BYTES


def _named(output: Output, spec: ImageSpec) -> Output:
    """The output with the names of the image's channels, where its own are made of those one by one."""
    same = output.keeps_channels and output.channels == spec.channels
    return replace(output, channel_names=spec.channel_names) if same else output


def _moved(item: Item, path: Path) -> list[str]:
    """A warning when the result is not where it was asked for."""
    foreseen = path in (item.output, item.fallback)
    return [] if foreseen else [f"too many objects for {item.output.name}; written to {path}"]
