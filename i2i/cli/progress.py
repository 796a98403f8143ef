"""How far a run is: a bar for the images and one for each that is computed, on a terminal; elsewhere lines fit for a log."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from i2i.cli import console, interrupt
from i2i.report import FAILED, PLANNED, RunReport

if TYPE_CHECKING:
    from i2i.session import Item

_EVERY = 15.0
_BAR, _BESIDE = 20, 20
"""Columns of a terminal: the bar; the percentage and the time left beside it."""


@dataclass
class Progress:
    """Shows how far a run is: bars on a terminal; elsewhere a line for each finished image, and one now and then for a long one.

    Use it as a context. ``total``: images; ``quiet``: only errors; ``silent``: errors and warnings, nothing of what is done;
    ``bars``: not where others write to the terminal.
    """

    total: int
    quiet: bool = False
    silent: bool = False
    bars: bool = True
    _bar: Any = None
    _whole: Any = None
    _tasks: dict[str, Any] = field(default_factory=dict)
    _told: float = field(default_factory=time.monotonic)
    _count: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __enter__(self) -> Progress:
        self.silent |= self.quiet
        if self.bars and not self.silent and sys.stderr.isatty():
            self._bar = _bars()
            self._bar.start()
            if self.total > 1:
                self._whole = self._bar.add_task(f"0 of {self.total} images", total=self.total)
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    def of(self, item: Item) -> Callable[[str, float], None]:
        """The engine's progress for one image."""

        def update(stage: str, share: float) -> None:
            interrupt.check()
            if self._bar:
                self._move(item, stage, share)
            elif not self.silent and share < 1 and time.monotonic() - self._told > _EVERY:
                self._told = time.monotonic()
                console.say(f"{item.name}: {stage} {100 * share:.0f} %")

        return update

    def _move(self, item: Item, stage: str, share: float) -> None:
        room = self._bar.console.width - _BAR - _BESIDE - len(stage)
        text = console.plain(f"{shortened(item.path.name, room)}: {stage}")
        with self._lock:
            if item.name not in self._tasks:
                self._tasks[item.name] = self._bar.add_task(text, total=1.0)
            self._bar.update(self._tasks[item.name], description=text, completed=share)

    def finished(self, report: RunReport) -> None:
        """A line for a finished image."""
        with self._lock:
            self._count += 1
            if self._bar and report.input in self._tasks:
                self._bar.remove_task(self._tasks.pop(report.input))
            if self._whole is not None:
                self._bar.update(self._whole, description=f"{self._count} of {self.total} images", completed=self._count)
        for line in self._lines(report):
            self._say(line)

    def _lines(self, report: RunReport) -> list[str]:
        warnings = [] if self.quiet else [f"warning: {report.input}: {warning}" for warning in report.warnings]
        notes = [] if self.silent else [f"note: {report.input}: {note}" for note in report.notes]
        if report.status == FAILED:
            return [*warnings, *notes, f"error: {report.error}"]
        place = f"[{self._count}/{self.total}] " if self.total > 1 else ""
        shown = not self.silent and report.status != PLANNED
        return [*warnings, *notes, *([place + console.describe(report)] if shown else [])]

    def _say(self, text: str) -> None:
        """A line above the bars, not broken, so that a path in it can be copied."""
        if not self._bar:
            console.say(text)
            return
        from rich.text import Text

        self._bar.console.print(Text(console.plain(text)), soft_wrap=True)


def shortened(name: str, room: int) -> str:
    """A name in at most ``room`` characters (but 8): its beginning and its end."""
    if len(name) <= room:
        return name
    head, tail = divmod(max(room, 8) - 1, 2)
    return f"{name[:head]}\N{HORIZONTAL ELLIPSIS}{name[-head - tail :]}"


def _bars() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(_BAR),
        TextColumn("{task.percentage:3.0f} %"),
        TimeRemainingColumn(),
    )
    return Bars(*columns, console=Console(stderr=True), transient=True)
