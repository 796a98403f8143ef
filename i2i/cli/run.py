"""The image commands: ``i2i segment INPUT... -o OUTPUT`` and every other task's."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import typer

from i2i import api, batch
from i2i import report as reports
from i2i.cli import console
from i2i.cli.generate import command, named, parameters, positional
from i2i.contracts import Task
from i2i.errors import UsageError
from i2i.formats import detect
from i2i.options import INPUT, RunOptions
from i2i.registry import Registry
from i2i.report import RunReport


def image_command(task: Task, registry: Registry) -> typer.core.TyperCommand:
    """The command of a task: its own options, those of every run, and the exporters'."""
    exporters = registry.exporters(task.name)
    parts = [
        positional("inputs", list[str], "image files, folders, quoted globs, or - for stdin", "INPUT..."),
        named("output", ["-o", "--output"], str, "", "a file, for several inputs a folder, or - for stdout", INPUT, "OUTPUT"),
        *parameters(task.options),
        *parameters(RunOptions),
        *(named(f"export_{e.name}", [f"--{e.name}"], str, "", e.summary, INPUT, "FILE") for e in exporters),
        named("json_", ["--json"], bool, False, "one JSON report of the run on stdout", INPUT),
        named("config", ["--config"], str, "", "options from a TOML file; those given here come first", INPUT, "FILE"),
        named("quiet", ["-q", "--quiet"], bool, False, "only errors", INPUT),
        named("verbose", ["-v", "--verbose"], bool, False, "more, and tracebacks", INPUT),
    ]

    def body(values: Mapping[str, Any]) -> None:
        run_images(task, registry, values)

    return command(task.name, task.summary, parts, body)


def with_config(task: Task, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values with those of ``--config`` where the command line left the default. Raises ``UsageError``."""
    if not values["config"]:
        return dict(values)
    path = Path(values["config"])
    try:
        given = tomllib.loads(path.read_text("utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not a TOML file of options: {error}") from error
    items = {item.name: item for kind in (task.options, RunOptions) for item in fields(kind)}
    merged = dict(values)
    for key, value in given.items():
        name = "as_" if key == "as" else key.replace("-", "_")
        if name in items:
            if merged[name] == items[name].default:
                merged[name] = value
        elif name == "output" or f"export_{name}" in merged:
            slot = name if name == "output" else f"export_{name}"
            merged[slot] = merged[slot] or value
        else:
            raise UsageError(f"{path}: no option {key!r} in {task.name}")
    return merged


def run_images(task: Task, registry: Registry, given: Mapping[str, Any]) -> None:
    """Run, report, and end with the exit code."""
    values = with_config(task, given)
    names = {item.name for kind in (task.options, RunOptions) for item in fields(kind)}
    session = api.session(task.name, {name: value for name, value in values.items() if name in names}, registry)
    exports = {name.removeprefix("export_"): value for name, value in values.items() if name.startswith("export_") and value}
    if values["json_"] and values["output"] == "-":
        raise UsageError("--json and -o - would both write to stdout; choose one")
    with _streams(session, list(values["inputs"]), values["output"]) as (inputs, output, names_of):
        items = batch.plan_items(session, inputs, output, exports, names_of)
        with console.Progress(len(items), values["quiet"] or values["output"] == "-") as progress:
            done = batch.process(session, items, progress.of, progress.finished)
        if values["output"] == "-" and done[0].status == reports.DONE:
            _copy_out(Path(done[0].output))
    _tell(session.run, done, values)
    raise typer.Exit(reports.exit_code(done))


def _tell(run: RunOptions, done: list[RunReport], values: Mapping[str, Any]) -> None:
    if values["json_"]:
        console.put_json({"exit_code": reports.exit_code(done), "runs": [report.as_mapping() for report in done]})
    elif run.dry_run:
        for report in done:
            if report.status == reports.PLANNED:
                console.put("\n".join(console.describe_plan(report)))
    if len(done) > 1 and not values["quiet"]:
        console.say(console.count_lines(done))
        for report in done:
            if report.status == reports.FAILED:
                console.say(f"failed: {report.input}")


@contextmanager
def _streams(session: api.Session, inputs: list[str], output: str) -> Iterator[tuple[list[str], str, dict[str, str]]]:
    """The inputs and the output with ``-`` replaced by files in a temporary folder, and how messages call them."""
    if "-" not in inputs and output != "-":
        yield inputs, output, {}
        return
    if len(inputs) > 1:
        raise UsageError("- stands for one image: give it alone, and one input with -o -")
    if not output:
        raise UsageError("- as input: say where the result goes with -o FILE or -o -")
    with tempfile.TemporaryDirectory(prefix="i2i-") as folder:
        names: dict[str, str] = {}
        if inputs == ["-"]:
            path = _take_in(Path(folder), session)
            inputs, names = [str(path)], {str(path): "-"}
        if output == "-":
            output = str(Path(folder) / f"output.{_stdout_format(session)}")
        yield inputs, output, names


def _stdout_format(session: api.Session) -> str:
    asked = session.run.format.lower().lstrip(".")
    if not asked:
        raise UsageError("-o - needs --format, such as --format png or --format tif")
    return asked


def _take_in(folder: Path, session: api.Session) -> Path:
    """Standard input as a file with the suffix of its format."""
    path = folder / "input"
    with path.open("wb") as stream:
        shutil.copyfileobj(sys.stdin.buffer, stream)
    form = detect(path, session.formats)
    return path.rename(path.with_suffix(form.suffixes[0]))


def _copy_out(path: Path) -> None:
    """The file to stdout. A reader that has gone away ends it quietly."""
    try:
        with path.open("rb") as stream:
            shutil.copyfileobj(stream, sys.stdout.buffer)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

