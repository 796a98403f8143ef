"""What the user sees: messages and progress on stderr, data on stdout, no colour into a pipe. Imports nothing that takes long."""

from __future__ import annotations

import json
import math
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import Any

from i2i.errors import OutputError
from i2i.report import DONE, FAILED, PLANNED, SKIPPED, RunReport

_COMMANDS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_UNITS = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}


def plain(text: str) -> str:
    """Text that cannot command the terminal: names come from anywhere."""
    return _COMMANDS.sub("?", text)


def say(text: str) -> None:
    """A line on stderr."""
    sys.stderr.write(plain(text) + "\n")
    sys.stderr.flush()


def put(text: str) -> None:
    """Data on stdout."""
    with to_stdout():
        sys.stdout.write(text + "\n")


@contextmanager
def to_stdout() -> Iterator[None]:
    """Write data to stdout inside; it is flushed. A reader that has gone away is no error, a full disk is an ``OutputError``."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        drop_stdout()
    except OSError as error:
        drop_stdout()
        raise OutputError(f"stdout: cannot be written: {error.strerror or error}; choose another place") from error


@contextmanager
def data_only() -> Iterator[Callable[[str], None]]:
    """What is printed to stdout inside, by plugins, libraries and programs that they start, goes to stderr. Gives what puts data
    on stdout nevertheless: lines, at once."""
    with _descriptor_to_stderr(sys.stdout) as stream, redirect_stdout(sys.stderr):

        def put_now(text: str) -> None:
            stream.write(text + "\n")
            stream.flush()

        yield put_now


@contextmanager
def _descriptor_to_stderr(stream: Any) -> Iterator[Any]:
    """The same for what does not go through ``sys.stdout``, or goes through one that was kept. Gives a stream to stdout."""
    if not _is_standard(stream):
        yield stream
        return
    stream.flush()
    real = os.dup(1)
    os.dup2(2, 1)
    try:
        yield open(real, "w", encoding=stream.encoding, errors=stream.errors, closefd=False)  # noqa: SIM115 (it is closed below)
    finally:
        stream.flush()
        os.dup2(real, 1)
        os.close(real)


def _is_standard(stream: Any) -> bool:
    """Whether a stream writes to the process's own stdout (not so in tests and notebooks)."""
    try:
        return bool(stream.fileno() == 1)
    except (AttributeError, OSError, ValueError):
        return False


def drop_stdout() -> None:
    """What is still buffered, and all that comes, goes nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def put_json(value: Any) -> None:
    put(json.dumps(value, indent=1, default=str))


def size_text(size: float) -> str:
    """Such as ``12.3 kB``, ``2.5 GB``."""
    unit = next((unit for unit, power in _UNITS.items() if size < 1000 * power), "TB")
    return f"{size / _UNITS[unit]:.3g} {unit}"


def counted(count: int, noun: str) -> str:
    """``1 object``, ``2 objects``."""
    return f"{count} {noun}{'s' * (count != 1)}"


def seconds_text(seconds: float) -> str:
    """Such as ``4.2 s``, ``3 min 20 s``, ``2 h 5 min``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


@dataclass
class Download:
    """Says how far the download of the model ``name`` is: at its first bytes, then every few seconds."""

    name: str
    _told: float = -math.inf

    def __call__(self, done: int, whole: int | None) -> None:
        if time.monotonic() - self._told >= 5:
            self._told = time.monotonic()
            of = f" of {size_text(whole)}" if whole else ""
            say(f"{self.name}: downloaded {size_text(done)}{of}")


def describe(report: RunReport) -> str:
    """One line on a finished image."""
    if report.status == SKIPPED:
        return f"{report.output}: complete already, left alone"
    found = [] if report.objects is None else [counted(report.objects, "object")]
    if report.planes > 1:
        found.append(counted(report.planes, "plane"))
    found.append(seconds_text(sum(report.seconds.values())) + (f" with {report.model}" if report.model else ""))
    if report.blocks_reused:
        found.append(counted(report.blocks_reused, "block") + " from before")
    if report.verified is not None:
        found.append(f"verified: another tiling differs by {report.verified:.2g} of the range")
    return f"{report.input} -> {report.output}: {', '.join(found)}"


def describe_plan(report: RunReport) -> list[str]:
    """What a dry run prints of an image."""
    plan: Mapping[str, Any] = report.plan
    height, width = plan["window"]
    stages = plan.get("stages", [])
    blended = "each step as of the whole image but for rounding" if stages else "blended, not the same as the whole image"
    exact = "the same as the whole image" if plan["exact"] else blended
    windows = f"{counted(plan['tiles'], 'window')} of {width} x {height} in {counted(plan['blocks'], 'block')}"
    lines = [
        f"{report.input} -> {report.output}",
        f"  result     {report.kind}" + (f", {report.model}" if report.model else ""),
        f"  tiles      {windows}{_each(report.planes)}, {plan['batch']} at a time; {exact}",
        f"  computing  {plan['device']}, {plan['precision']}, {plan['backend']}, {counted(plan['threads'], 'thread')}",
        f"  memory     about {size_text(plan['memory'])}, canvas in {_PLACES[plan['canvas']]}",
        f"  disk       at least {size_text(plan['disk'])}",
    ]
    if report.resampled:
        tall, wide = report.resampled
        lines.insert(2, f"  resampled  {wide:.4g} x {tall:.4g} times as wide and high for the model, and back")
    if report.size:
        height, width = report.size
        lines.insert(2, f"  size       {width} x {height} pixels, to which the input is brought")
    if stages:
        lines.insert(2, f"  stages     {', '.join(stages)}")
    seconds = plan["seconds"]
    lines.append(f"  time       {'unknown' if seconds is None else f'about {seconds_text(seconds)}'}")
    return lines


def describe_total(reports: Sequence[RunReport]) -> str:
    """The last line of a dry run over several images."""
    seconds = [report.plan["seconds"] for report in reports]
    known = [each for each in seconds if each is not None]
    about = "at least" if len(known) < len(seconds) else "about"
    time = f"{about} {seconds_text(sum(known))}" if known else "an unknown time"
    return f"total: {counted(len(reports), 'image')}, {time}, {size_text(sum(report.plan['disk'] for report in reports))} of disk"


def _each(planes: int) -> str:
    return f" for each of {planes} planes" if planes > 1 else ""


_PLACES = {"memory": "memory", "disk": "a folder beside the output"}


def table(rows: list[list[str]]) -> list[str]:
    """Rows of text as aligned lines; the first row is the head."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def count_lines(reports: list[RunReport]) -> str:
    """The last line of a run over several images."""
    numbers = {status: sum(report.status == status for report in reports) for status in (DONE, SKIPPED, FAILED, PLANNED)}
    return ", ".join(f"{number} {status}" for status, number in numbers.items() if number)
