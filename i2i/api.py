"""i2i from Python: the same tasks, options and results as on the command line."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from i2i import batch
from i2i import options as option_types
from i2i.backends import has_bf16, pick_device, start_torch
from i2i.begin import canvas_bytes, plan_plane
from i2i.canvas import MemoryCanvas
from i2i.channels import common_names, in_order
from i2i.contracts import Array, DensePredictor, ImageSpec, Model, Objects, Output, Predictor, Runtime, TrainingRun
from i2i.engine import Job, run_job
from i2i.engine.objects import ObjectsOutcome
from i2i.errors import InputError, OutputError, UsageError
from i2i.evaluation import EvalReport, evaluate
from i2i.filters import filtered
from i2i.finite import make_finite
from i2i.formats.resample import at_size, resampled
from i2i.formats.views import ArraySource
from i2i.loading import as_trained
from i2i.models import find_model, model_of_checkpoint
from i2i.options import RunOptions
from i2i.pixelsize import brought_back, factors, with_pixel_size
from i2i.publish import make_folder
from i2i.registry import Registry
from i2i.report import RunReport
from i2i.session import Session

if TYPE_CHECKING:
    from i2i.training.group import Group


def session(task: str, values: Mapping[str, Any], registry: Registry | None = None) -> Session:
    """A session of a task from plain values, the task's options and the run's together. Raises ``UsageError``."""
    registry = registry or Registry()
    known = registry.task(task)
    common = {item.name for item in fields(RunOptions)}
    own = {name: value for name, value in values.items() if name not in common}
    if wrong := sorted(own.keys() - {item.name for item in fields(known.options)}):
        there = ", ".join(sorted(common | {item.name for item in fields(known.options)}))
        raise UsageError(f"unknown option {wrong[0]!r}; there are: {there}")
    run_values = {name: value for name, value in values.items() if name in common}
    return Session(known, option_types.make(known.options, own), option_types.make(RunOptions, run_values), registry)


def run(task: str, input: str | Path, output: str | Path | None = None, **options: Any) -> RunReport:
    """Run a task on one image file. ``options``: those of the command line, with underscores (``as_`` for ``--as``), and the
    exporters' (``overlay="picture.png"``). Numbers may be given as such (``tile=1024``), and one value for an option that takes
    several (``model="nuclei-fluo"``).

    Returns the report; raises ``I2IError`` (its text is the message) when the run fails.
    """
    if not isinstance(input, str | Path):
        raise UsageError(f"run takes the path of an image, not {type(input).__name__}; load(...) gives what is called on arrays")
    registry = Registry()
    exports = _exports(task, options, registry)
    current = _session(task, options, registry)
    items = batch.plan_items(current, [str(input)], str(output or ""), exports)
    if len(items) > 1:
        raise UsageError(f"{input}: several images or results; run gives one, run_many gives them all")
    return batch.process_one(current, items[0])


def run_many(task: str, inputs: Sequence[str | Path], output: str | Path | None = None, **options: Any) -> list[RunReport]:
    """Run a task on files, folders and globs, with the options of :func:`run`; exporters are given folders. A failed image has
    its error in its report; nothing is raised for it."""
    registry = Registry()
    exports = _exports(task, options, registry)
    current = _session(task, options, registry)
    return batch.process(current, batch.plan_items(current, [str(path) for path in inputs], str(output or ""), exports))


def _exports(task: str, options: dict[str, Any], registry: Registry) -> dict[str, str]:
    """Those of the options that name exporters, taken out of them."""
    exporters = {exporter.name for exporter in registry.exporters(task)}
    return {name: str(options.pop(name)) for name in list(options) if name in exporters}


def _session(task: str, options: Mapping[str, Any], registry: Registry) -> Session:
    """A session, with numbers for options that are text on the command line (``tile``, ``size``), and paths, as text."""
    kinds = {item.name: item.type for kind in (RunOptions, registry.task(task).options) for item in fields(kind)}

    def text(name: str, value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [text("", one) for one in value]
        return str(value) if isinstance(value, Path) or (kinds.get(name) == "str" and isinstance(value, int)) else value

    return session(task, {name: text(name, value) for name, value in options.items()}, registry)


@dataclass(frozen=True)
class Loaded:
    """A predictor to call on arrays: ``labels = loaded(pixels)``."""

    session: Session
    predictor: Predictor
    runtime: Runtime
    models: tuple[Model, ...] = ()

    def __call__(self, pixels: npt.ArrayLike, **spec: Any) -> Array:
        """(H, W) or (H, W, C), any real dtype -> (H, W) or (H, W, C) of the kind asked for, of the array's height and width or
        of those that the method's options say. ``spec``: fields of ``ImageSpec``, such as ``pixel_size``: where it is not the
        model's, the network sees the array resampled; of ``channel_names``, those of the model are taken, in its order.

        Raises ``InputError`` for another shape, an empty array, channels that the model does not take, NaN (but see ``nan``).
        """
        return self.with_objects(pixels, **spec)[0]

    def with_objects(self, pixels: npt.ArrayLike, **spec: Any) -> tuple[Array, Objects | None]:
        """What a call gives and, of a detector whose result is labels, the scores, classes and class names of the objects: that
        with the id i is at i - 1. Else None."""
        run, loader = self.session.run, self.session.loader
        finite, _ = make_finite(_source(np.asarray(pixels), spec), run.nan, "the array")
        named = in_order(finite, common_names(self.models))
        image, _ = with_pixel_size(named, run.pixel_size)
        scaling, _ = factors(image.spec, self.models, "the array", self.predictor.resample)
        source = resampled(image, scaling) if scaling else image
        fitted = self.predictor.fitted(source.spec)
        if fitted.size:
            image = source = at_size(image, fitted.size)
            scaling = None
        source = as_trained(source, fitted)
        if source.spec.channels != fitted.footprint.channels_in:
            has, takes = source.spec.channels, fitted.footprint.channels_in
            raise InputError(
                f"the array has {has} channels, the model takes {takes}; load(..., channels_in={has}) chooses one for them"
            )
        prepared = fitted.prepare(source, run.seed)
        output: Output = loader.choose_output(prepared)
        plan, _ = plan_plane(source, prepared, canvas_bytes(prepared, output), run, self.runtime)
        outcome = run_job(Job(source, prepared, output, plan, MemoryCanvas(), run.seed))
        final = brought_back(outcome.result, image.spec, prepared.footprint.scale, scaling, output.meaning)
        if isinstance(prepared, DensePredictor) and prepared.keep.asked:
            final, _ = filtered(final, [outcome.objects or 0], prepared.keep)
        result = final.read(final.spec.region)
        found = replace(outcome.found(), masks=None) if isinstance(outcome, ObjectsOutcome) and outcome.found else None
        return (result[..., 0] if output.channels == 1 else result), found


def _source(pixels: Array, spec: Mapping[str, Any]) -> ArraySource:
    if pixels.ndim not in (2, 3) or not pixels.size:
        raise InputError(f"an array of shape {pixels.shape}: expected (height, width) or (height, width, channels)")
    return ArraySource(pixels if pixels.ndim == 3 else pixels[..., None], **spec)


_OF_FILES = (
    "plane", "level", "series", "channels", "measure", "strict", "format", "compression", "overwrite", "skip_existing", "resume",
    "dry_run",
    "jobs",
)  # fmt: skip


def load(task: str, model: str | Path | Sequence[str | Path] = "", channels_in: int = 1, **options: Any) -> Loaded:
    """The predictor of a task, on its device. ``model``: a name or a file, or several, whose mean it gives; without one, the
    default for images of ``channels_in`` channels.

    ``options``: those of the command line that are not about files, and ``as_``. Raises ``I2IError``.
    """
    wrong = sorted(set(options) & set(_OF_FILES))
    if wrong:
        raise UsageError(f"{wrong[0]}: is about files; load gives a predictor for arrays")
    current = _session(task, options | {"model": model}, Registry())
    models, predictor, runtime = current.loader.predictor(*current.loader.model_names(ImageSpec(1, 1, channels_in)))
    return Loaded(current, predictor, runtime, models)


def train(task: str, output: str | Path, *, registry: Registry | None = None, **options: Any) -> Mapping[str, Any]:
    """Train a model of a task into ``output`` (.safetensors). ``options``: the task's, and seed, device, precision, resume,
    overwrite, tensorboard, report, message. Returns the training's figures. Raises ``I2IError``.

    Several processes that a launcher such as ``torchrun`` started train together; the first of them writes and reports.
    """
    registry = registry or Registry()
    known = registry.task(task)
    if known.train is None:
        raise UsageError(f"{task} has no training")
    common = {name: options.pop(name) for name in list(options) if name in {item.name for item in fields(TrainingOptions)}}
    report = options.pop("report", lambda step, steps, values: None)
    message = options.pop("message", lambda text: None)
    values: Any = option_types.make(known.train.options, options)
    settings = option_types.make(TrainingOptions, common)
    start_torch()
    from i2i.training.group import device_of, joined
    from i2i.training.record import board_writer

    if settings.tensorboard:
        board_writer()  # before anything is read or written
    device = device_of(pick_device(settings.device))
    precision = settings.precision
    if precision == "auto":
        precision = "bf16" if has_bf16(device) else "fp32"
    with joined(device) as group, _training_folder(Path(output), settings, group, message) as work:
        current = TrainingRun(
            Path(output), work, settings.seed, device, precision, settings.resume, report,
            message if group.first else (lambda text: None), lambda name: _model_to_start(name, task, registry),
            settings.tensorboard, (group.rank, group.size),
        )  # fmt: skip
        return known.train.run(values, current)


@contextlib.contextmanager
def _training_folder(path: Path, settings: TrainingOptions, group: Group, message: Callable[[str], None]) -> Iterator[Path]:
    """The folder for checkpoints; none is left behind when it stays empty, because the data were refused."""
    work = training_folder(path)
    group.led(lambda: _check_model_path(path, settings))
    if group.first and settings.resume and not has_checkpoint(work):
        message(f"{work}: no checkpoint to go on from: training starts from the beginning")
    try:
        yield work
    finally:
        with contextlib.suppress(OSError):
            work.rmdir()


def _model_to_start(name: str, task: str, registry: Registry) -> Model:
    """A model by name or path, or the best weights of a training's checkpoint (.pt)."""
    if name.endswith(".pt"):
        return model_of_checkpoint(Path(name))
    return find_model(name, task, registry.models(task))


@dataclass(frozen=True)
class TrainingOptions:
    """What every training command has."""

    device: str = option_types.option("auto", help="auto, cpu, cuda, cuda:N or mps", panel=option_types.MODEL)
    precision: str = option_types.option(
        "auto", help="auto: bf16 where the device computes it", choices=("auto", "fp32", "bf16"), panel=option_types.MODEL
    )
    seed: int = option_types.option(0, help="of everything random", panel=option_types.ADVANCED, minimum=0)
    overwrite: bool = option_types.option(False, help="replace an existing model", panel=option_types.INPUT)
    resume: bool = option_types.option(
        False, help="go on from the last checkpoint, after a kill or with more --steps", panel=option_types.INPUT
    )
    tensorboard: bool = option_types.option(
        False, help="figures for TensorBoard too (needs the package)", panel=option_types.INPUT
    )


def training_folder(output: Path) -> Path:
    """Where the training of a model keeps its checkpoint."""
    return output.with_name(output.stem + "-training")


def has_checkpoint(work: Path) -> bool:
    """Whether a training's folder holds a checkpoint, its own or that of a step of a scheme."""
    return any(work.rglob("checkpoint.pt"))


def _check_model_path(path: Path, settings: TrainingOptions) -> None:
    """Make the folder for checkpoints. Raises ``UsageError`` or ``OutputError``."""
    if path.suffix != ".safetensors":
        raise UsageError(f"{path}: a model's name ends in .safetensors")
    if path.exists() and not (settings.overwrite or settings.resume):
        raise OutputError(f"{path}: exists; --overwrite replaces it")
    work = training_folder(path)
    if settings.resume and settings.overwrite:
        raise UsageError("--resume goes on, --overwrite starts again; choose one")
    checkpoint = has_checkpoint(work)
    if path.exists() and settings.resume and not checkpoint:
        raise OutputError(f"{path}: exists, and {work} holds no checkpoint to go on from; --overwrite starts again")
    if checkpoint and not (settings.overwrite or settings.resume):
        raise OutputError(f"{work}: holds a training run; --resume goes on with it, --overwrite starts again")
    make_folder(work)


__all__ = ["EvalReport", "Loaded", "TrainingOptions", "evaluate", "load", "run", "run_many", "session", "train"]
