"""``i2i train TASK`` and ``i2i eval TASK``."""

from __future__ import annotations

import csv
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import typer

from i2i import api
from i2i.cli import console, interrupt
from i2i.cli.figures import number, tables
from i2i.cli.generate import command, config_option, named, parameters, positional
from i2i.contracts import Task
from i2i.errors import UsageError
from i2i.files import replacing
from i2i.options import INPUT
from i2i.registry import Registry

_EVERY = 20.0
_OF_THE_COMMAND = ("output", "json_", "config", "quiet", "verbose")


@dataclass
class _Ticker:
    """Training's progress: a bar on a terminal; elsewhere a line now and then, and for each validation (then there are more
    figures than at other steps)."""

    quiet: bool
    _bar: Any = None
    _task: Any = None
    _first: tuple[int, float] | None = None
    _least: int = 0
    _last: int = 0
    _told: float = field(default_factory=time.monotonic)

    def __enter__(self) -> _Ticker:
        if not self.quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import Progress

            self._bar = Progress(console=Console(stderr=True), transient=True)
            self._bar.start()
            self._task = self._bar.add_task("training", total=None)
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    def report(self, step: int, steps: int, values: Mapping[str, float]) -> None:
        interrupt.check()
        if step <= self._last:  # the next step of a scheme, whose losses are others
            self._first, self._least = None, 0
        self._last = step
        self._first = self._first or (step, time.monotonic())
        self._least = min(self._least or len(values), len(values))
        validated = len(values) > self._least or step == steps
        if self._bar:
            self._bar.update(self._task, total=steps, completed=step, description=f"training, loss {values['loss']:.3f}")
        if self.quiet or not (validated or (not self._bar and time.monotonic() - self._told > _EVERY)):
            return
        self._told = time.monotonic()
        rate = (time.monotonic() - self._first[1]) / max(1, step - self._first[0])
        shown = "  ".join(f"{name} {value:.4g}" for name, value in values.items() if name != "rate")
        left = f", {console.seconds_text(rate * (steps - step))} left" if step < steps else ""
        console.say(f"step {step}/{steps}  {shown}  {rate:.2f} s a step{left}")


def train_command(task: Task, registry: Registry) -> typer.core.TyperCommand:
    """``i2i train TASK ... -o MODEL.safetensors``. Raises ``UsageError`` for a task without training."""
    if task.train is None:
        raise UsageError(f"{task.name} has no training")
    parts = [
        named("output", ["-o", "--output"], str, ..., "the model file to write", INPUT, "MODEL.safetensors"),
        *parameters(task.train.options),
        *parameters(api.TrainingOptions),
        named("json_", ["--json"], bool, False, "the figures as JSON on stdout", INPUT),
        config_option(),
        named("quiet", ["-q", "--quiet"], bool, False, "only errors", INPUT),
        named("verbose", ["-v", "--verbose"], bool, False, "tracebacks", INPUT),
    ]

    def body(values: Mapping[str, Any]) -> None:
        rest = {name: value for name, value in values.items() if name not in _OF_THE_COMMAND}
        message = (lambda text: None) if values["quiet"] else console.say
        with console.data_only(), _Ticker(values["quiet"] or not _first()) as ticker, _kept(Path(values["output"])):
            figures = api.train(task.name, values["output"], registry=registry, report=ticker.report, message=message, **rest)
        if not figures:
            return  # of several processes, the first reports
        if values["json_"]:
            console.put_json(figures)
        elif not values["quiet"]:
            plain = {name: value for name, value in figures.items() if isinstance(value, str | int | float)}
            console.say("  ".join(f"{name} {number(value)}" for name, value in plain.items()))

    return command(task.name, f"Train a model of {task.name}", parts, body)


def _first() -> bool:
    """Whether this is the first of the processes that a launcher started, or the only one."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def _kept(output: Path) -> Iterator[None]:
    """After an interruption, say when there is a checkpoint."""
    try:
        yield
    except KeyboardInterrupt:
        if api.has_checkpoint(api.training_folder(output)):
            console.say("the last checkpoint is kept: the same command with --resume goes on from it")
        raise


def eval_command(task: Task, registry: Registry) -> typer.core.TyperCommand:
    """``i2i eval TASK PREDICTION TRUTH``. Raises ``UsageError`` for a task without evaluation."""
    if task.evaluate is None:
        raise UsageError(f"{task.name} has no evaluation")
    headline = task.evaluate.headline
    parts = [
        positional("prediction", str, "a file, or a folder", "PREDICTION"),
        positional("truth", str, "the truth: a file, or a folder with the same names", "TRUTH"),
        *parameters(task.evaluate.options),
        named("json_", ["--json"], bool, False, "the figures as JSON on stdout", INPUT),
        named("inside", ["--inside"], str, "", "count only pixels that are not 0 there: same names", INPUT, "DIR_OR_FILE"),
        named("csv", ["--csv"], str, "", "the figures of each image, one row each", INPUT, "FILE"),
        named("verbose", ["-v", "--verbose"], bool, False, "all figures, and tracebacks", INPUT),
    ]

    def body(values: Mapping[str, Any]) -> None:
        rest = {name: value for name, value in values.items() if name not in ("prediction", "truth", "json_", "csv", "verbose")}
        if values["csv"] == "-":
            raise UsageError("--csv -: is a file of its own, and stdout is for the figures; give a name")
        with console.data_only():
            found = api.evaluate(task.name, values["prediction"], values["truth"], registry=registry, **rest)
        if values["csv"]:
            _write_csv(Path(values["csv"]), found.images)
        if values["json_"]:
            console.put_json({"pooled": found.pooled, "images": found.images})
        else:
            console.put("\n".join(tables(found.pooled, () if values["verbose"] else headline)))

    return command(task.name, f"Metrics of {task.name} against the truth", parts, body)


def _write_csv(path: Path, images: Mapping[str, Mapping[str, float]]) -> None:
    names = list(dict.fromkeys(name for figures in images.values() for name in figures))
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, ["image", *names])
        writer.writeheader()
        writer.writerows({"image": image} | dict(figures) for image, figures in images.items())
