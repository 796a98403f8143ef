"""The image commands: ``i2i segment INPUT... -o OUTPUT`` and every other task's."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import typer

from i2i import api, batch
from i2i import report as reports
from i2i.canvas import partial_folder
from i2i.cli import console
from i2i.cli.generate import command, config_option, named, parameters, positional
from i2i.cli.progress import Progress
from i2i.cli.streams import listed, take_in
from i2i.contracts import Task
from i2i.errors import I2IError, OutputError, UsageError
from i2i.manifest import unfinished
from i2i.options import INPUT, RunOptions
from i2i.publish import steps_folder
from i2i.registry import Registry
from i2i.report import RunReport
from i2i.session import Item, Session
from i2i.version import __version__


def image_command(task: Task, registry: Registry) -> typer.core.TyperCommand:
    """The command of a task: its own options, those of every run, and the exporters'."""
    exporters = registry.exporters(task.name)
    parts = [
        positional("inputs", list[str], "image files, folders, quoted globs, or - for stdin", "INPUT", []),
        named("inputs_from", ["--inputs-from"], str, "", "a file of inputs, one a line, or - for stdin", INPUT, "FILE"),
        named("output", ["-o", "--output"], str, "", "a file, for several inputs a folder, or - for stdout", INPUT, "OUTPUT"),
        *parameters(task.options),
        *parameters(RunOptions, model=lambda: [card.name for card in registry.models(task.name) if not card.part]),
        *(
            named(f"export_{e.name}", [f"--{e.name}"], str, "", e.summary, INPUT, "DIR" if e.folder else "FILE")
            for e in exporters
        ),
        named("json_", ["--json"], bool, False, "one JSON report of the run on stdout", INPUT),
        config_option(),
        named("quiet", ["-q", "--quiet"], bool, False, "only errors", INPUT),
        named("verbose", ["-v", "--verbose"], bool, False, "more, and tracebacks", INPUT),
    ]

    def body(values: Mapping[str, Any]) -> None:
        run_images(task, registry, values)

    return command(task.name, task.summary, parts, body)


def run_images(task: Task, registry: Registry, values: Mapping[str, Any]) -> None:
    """Run, report, and end with the exit code."""
    ended: list[RunReport] = []
    try:
        session, done = _run(task, registry, values, ended)
    except I2IError as error:
        if values["output"] != "-":
            _put_report(values, error.exit_code, str(error), [])
        raise
    except KeyboardInterrupt:
        _put_report(values, 130, "interrupted", ended)
        raise
    _tell(session.run, done, values)
    raise typer.Exit(reports.exit_code(done))


def _put_report(values: Mapping[str, Any], exit_code: int, error: str | None, done: list[RunReport]) -> None:
    """The report of ``--json``, where it is asked for."""
    if values["json_"]:
        runs = [report.as_mapping() for report in done]
        console.put_json({"version": __version__, "exit_code": exit_code, "error": error, "runs": runs})


def _run(task: Task, registry: Registry, values: Mapping[str, Any], ended: list[RunReport]) -> tuple[Session, list[RunReport]]:
    """The reports in the order of the inputs; in ``ended`` they are put as the images end."""
    names = {item.name for kind in (task.options, RunOptions) for item in fields(kind)}
    session = api.session(task.name, {name: value for name, value in values.items() if name in names}, registry)
    session.loader.progress = None if values["quiet"] else console.Download
    exports = {name.removeprefix("export_"): value for name, value in values.items() if name.startswith("export_") and value}
    to_stdout = values["output"] == "-"
    if values["json_"] and to_stdout:
        raise UsageError("--json and -o - would both write to stdout; choose one")
    with _streams(session, _inputs(task, values), values["output"]) as (inputs, output, names_of):
        bars = not (session.run.dry_run and sys.stdout.isatty())  # plans come there one by one
        with console.data_only() as put_now:
            items = batch.plan_items(session, inputs, output, exports, names_of, several=bool(values["inputs_from"]))
            if to_stdout and len(items) > 1:
                raise UsageError(f"{inputs[0]}: gives {len(items)} images; -o - takes one")
            shown = Progress(len(items), values["quiet"], to_stdout, bars)
            with shown as progress, _kept([] if to_stdout else items):

                def finished(report: RunReport) -> None:
                    ended.append(report)
                    progress.finished(report)
                    if report.status == reports.PLANNED and not values["json_"]:
                        put_now("\n".join(console.describe_plan(report)))

                done = batch.process(session, items, progress.of, finished)
        if to_stdout and done[0].status == reports.DONE:
            _copy_out(Path(done[0].output), items[0].output)
            if steps_folder(items[0].output).exists() and not values["quiet"]:
                console.say("warning: pictures on the way are kept beside a file, and -o - has none; give one with -o")
    return session, done


def _inputs(task: Task, values: Mapping[str, Any]) -> list[str]:
    """Those of the command line and of ``--inputs-from``. Raises ``UsageError`` when there is none."""
    inputs = [*(values["inputs"] or []), *(listed(values["inputs_from"]) if values["inputs_from"] else [])]
    if not inputs:
        raise UsageError(f"INPUT is missing: give an image, a folder or --inputs-from FILE. See i2i {task.name} --help.")
    return inputs


@contextmanager
def _kept(items: list[Item]) -> Iterator[None]:
    """After an interruption, say when work was kept."""
    try:
        yield
    except KeyboardInterrupt:
        if any(unfinished(partial_folder(item.output)) for item in items):
            console.say("what is done is kept: the same command with --resume goes on")
        raise


def _tell(run: RunOptions, done: list[RunReport], values: Mapping[str, Any]) -> None:
    if values["json_"]:
        _put_report(values, reports.exit_code(done), None, done)
    elif run.dry_run:
        planned = [report for report in done if report.status == reports.PLANNED]
        if len(planned) > 1:
            console.put(console.describe_total(planned))
    elif len(done) == 1 and not values["quiet"] and values["output"] != "-":
        _hint(done[0])
    if len(done) > 1 and not values["quiet"]:
        console.say(console.count_lines(done))
        for report in done:
            if report.status == reports.FAILED:
                console.say(f"failed: {report.error}")


def _hint(report: RunReport) -> None:
    """Why a result looks empty that is not."""
    if report.objects and report.planes == 1 and "overlay" not in report.exports:
        console.say("its pixels are the ids of the objects, which most viewers show black; --overlay FILE draws them")


@contextmanager
def _streams(session: Session, inputs: list[str], output: str) -> Iterator[tuple[list[str], str, dict[str, str]]]:
    """The inputs and the output with ``-`` replaced by files in a temporary folder, and how messages call them."""
    if "-" not in inputs and output != "-":
        yield inputs, output, {}
        return
    if len(inputs) > 1:
        raise UsageError("- stands for one image: give it alone, and one input with -o -")
    if not output:
        raise UsageError("- as input: say where the result goes with -o FILE or -o -")
    if output == "-":
        _check_stdout_format(session)
    with tempfile.TemporaryDirectory(prefix="i2i-") as folder:
        names: dict[str, str] = {}
        if inputs == ["-"]:
            path = take_in(Path(folder), session.formats)
            inputs, names = [str(path)], {str(path): "-"}
        yield inputs, str(Path(folder, "output")) + "/" if output == "-" else output, names


def _check_stdout_format(session: Session) -> None:
    """Raises ``UsageError`` for a ``--format`` that is none that is written as one file."""
    suffix = "." + session.run.format.lower().lstrip(".")
    forms = [form for form in session.formats if form.write and (session.task.lossy or not form.lossy)]
    known = [name for form in forms for name in form.suffixes if not name.endswith(".zarr")]  # a folder is no stream
    if suffix == ".":
        raise UsageError("-o - needs --format, such as --format png or --format tif")
    if suffix not in known:
        choices = ", ".join(name[1:] for name in known)
        raise UsageError(f"--format {session.run.format}: choose one of {choices}")


def _copy_out(path: Path, asked: Path) -> None:
    """The result to stdout. Raises ``OutputError`` when it did not fit into the format that was asked for."""
    if path != asked:
        raise OutputError(f"stdout: too many objects for --format {asked.suffix[1:]}; use --format {path.suffix[1:]}")
    with path.open("rb") as stream, console.to_stdout():
        shutil.copyfileobj(stream, sys.stdout.buffer)
