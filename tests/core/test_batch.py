"""Many images in one run: small results are written while the next image is computed, and all else is as one by one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile

from i2i import batch, session
from i2i.contracts import Array, DensePredictor, Footprint, Format, ImageSpec, Metadata, Output, Source, Task
from i2i.formats.views import ArraySource
from i2i.options import RunOptions
from i2i.registry import Registry
from i2i.report import RunReport
from i2i.session import Session
from tests.toys import NoOptions


class Seen(DensePredictor):
    """Gives what it sees; ``before`` is called with the first pixel of each image."""

    def __init__(self, before: Callable[[int], None]) -> None:
        self.before = before
        self.footprint, self.outputs = Footprint(), (Output("image", 1, "uint8", "image"),)

    def __call__(self, batch):
        self.before(int(batch[0, 0, 0, 0]))
        return batch


@dataclass
class Run:
    """Images 0, 1, 2 ... of 8 x 8 pixels, all of that value. ``computing`` and ``writing``: called before."""

    folder: Path
    computing: Callable[[int], None] = lambda number: None
    writing: Callable[[int], None] = lambda number: None

    def __call__(self, count: int = 3, finished: Callable[[RunReport], None] = lambda report: None, **options: object):
        (self.folder / "in").mkdir()
        for number in range(count):
            tifffile.imwrite(self.folder / f"in/{number}.tif", np.full((8, 8), number, np.uint8))
        task = Task("see", "Toy", NoOptions, lambda *_: Seen(self.computing), needs_model=False, lossy=True)
        current = Session(task, NoOptions(), RunOptions(device="cpu", format="npy", **options), self._registry())
        items = batch.plan_items(current, [str(self.folder / "in")], str(self.folder / "out"), {})
        return batch.process(current, items, finished=finished)

    def _registry(self) -> Registry:
        form = Format(
            "NPY", (".npy",), "Toy", lambda head, path: False, lambda path: ArraySource(np.zeros((1, 1))), self._write,
        )  # fmt: skip

        class Formats(Registry):
            def formats(self) -> tuple[Format, ...]:
                return (*super().formats(), form)

        return Formats()

    def _write(self, path: Path, source: Source, metadata: Metadata) -> None:
        pixels: Array = source.read(source.spec.region)
        self.writing(int(pixels[0, 0, 0]))
        with path.open("wb") as stream:
            np.save(stream, pixels)

    def results(self) -> list[int]:
        return [int(np.load(path)[0, 0, 0]) for path in sorted(self.folder.glob("out/*.npy"))]

    def left(self) -> list[str]:
        return sorted(path.name for path in self.folder.rglob("*") if ".i2i-" in path.name)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def test_the_files_of_a_small_result_are_written_while_the_next_image_is_computed(run: Run) -> None:
    computing = [threading.Event() for _ in range(3)]
    run.computing = lambda number: computing[number].set()

    def writing(number: int) -> None:
        assert number == 2 or computing[number + 1].wait(20), f"{number + 1} waits for {number} to be written"

    run.writing = writing
    assert [report.status for report in run()] == ["done"] * 3
    assert (run.results(), run.left()) == ([0, 1, 2], [])


def test_what_waits_to_be_written_is_bounded(run: Run) -> None:
    """While one is written and the next is there to be written, no third is begun: they would fill the memory."""
    third, seen = threading.Event(), []
    run.computing = lambda number: third.set() if number == 2 else None
    run.writing = lambda number: seen.append(third.wait(0.2)) if number == 0 else None
    assert [report.status for report in run(4)] == ["done"] * 4
    assert seen == [False]


def test_a_result_that_is_not_small_is_written_before_the_next_image_is_read(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "_SMALL_BYTES", 100)
    told: list[str] = []
    run.computing = lambda number: told.append(f"compute {number}")
    run.writing = lambda number: told.append(f"write {number}")
    run()
    assert told == [f"{what} {number}" for number in range(3) for what in ("compute", "write")]


@pytest.mark.parametrize("count", [1, 2])
def test_a_large_result_and_the_last_are_written_by_the_thread_that_an_interruption_stops(
    run: Run, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    monkeypatch.setattr(session, "_SMALL_BYTES", 10**6 if count == 1 else 100)
    threads: list[threading.Thread] = []
    run.writing = lambda number: threads.append(threading.current_thread())
    run(count)
    assert threads == [threading.main_thread()] * count


def test_one_that_cannot_be_written_is_told_in_its_turn_and_stops_no_other(run: Run) -> None:
    def full(number: int) -> None:
        if number == 1:
            raise OSError(28, "No space left on device")

    run.writing = full
    told: list[RunReport] = []
    done = run(4, told.append)
    assert [report.status for report in done] == ["done", "failed", "done", "done"] and told == done
    assert "1.npy: no room is left on the disk" in str(done[1].error)
    assert (run.results(), run.left()) == ([0, 2, 3], [])


def test_one_that_cannot_be_computed_is_told_after_those_before_it(run: Run) -> None:
    def broken(number: int) -> None:
        if number == 1:
            raise ValueError("no")

    failed = threading.Event()
    run.computing = broken
    run.writing = lambda number: failed.wait(0.1) if number == 0 else None
    told: list[RunReport] = []
    assert run(3, told.append) == told and [report.status for report in told] == ["done", "failed", "done"]
    assert (run.results(), run.left()) == ([0, 2], [])


def test_an_interruption_loses_no_result_that_was_computed(run: Run) -> None:
    interrupted = threading.Event()

    def stop(number: int) -> None:
        if number == 1:
            interrupted.set()
            raise KeyboardInterrupt

    run.computing = stop
    run.writing = lambda number: interrupted.wait(20)
    with pytest.raises(KeyboardInterrupt):
        run()
    assert (run.results(), run.left()) == ([0], [])


def test_seconds_are_those_of_the_image_alone(run: Run) -> None:
    """An image that waits to be written is not slow."""
    run.writing = lambda number: threading.Event().wait(0.3) if number == 0 else None
    _, second, _ = run()
    assert second.seconds["publish"] < 0.25


def test_the_bound_counts_input_and_result_of_all_planes() -> None:
    work = SimpleNamespace()
    work.image = ArraySource(np.zeros((1000, 1000, 3), np.uint8))
    work.output, work.predictor = Output("image", 3, "uint8", "image"), Seen(print)
    plan = SimpleNamespace(canvas="memory")
    assert session._is_small(work, plan)
    work.image.spec = ImageSpec(1000, 1000, 3, "uint8", planes=(("z", 2),))
    assert not session._is_small(work, plan)
