"""Kill runs of every task at random moments, go on with them, and compare: the bytes of all files, and what was computed twice.

    python benchmarks/resume.py [--task all] [--kills 10] [--side N] [--tile N] [--seed 0] [--folder DIR] [--quick]

Tasks: segment (labels of a mosaic of the bundled samples), instances (with COCO JSON, GeoJSON and a table), translate, stylize
(by optimisation, in two sizes), stylize-fast, and folder: `i2i segment` of many small images. Each run is done as for an image
that does not fit into memory: the canvas is on disk, a window a block; the optimisation of stylize keeps its state every 0.2 s
instead of every 30, for its picture is small; a folder is run as it is. The moments are drawn at random: a fifth of them while
the files are published, which is short; one of ten before anything is journaled; the others over the time between. A killed run
goes on with --resume, that over a folder by turns with --resume and --skip-existing.

As promised is: every file has the bytes of the run that nobody stopped, and nothing else is left; what a killed run left under
the name of a result has them already; what the journal names is not computed again; and windows that the network saw twice are
those of blocks that were in flight. --quick: 3 kills of each.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from experiment import say
from machine import machine
from PIL import Image

IN_FLIGHT = 3
"""Blocks that the network may have seen although the journal does not name them: computed, waiting to be written, written."""
PROGRAM = """
import os, sys
from dataclasses import replace
from i2i.backends import configure_allocator
configure_allocator()
{patch}
call, calls = {counted}.__call__, os.open("calls", os.O_CREAT | os.O_APPEND | os.O_WRONLY)
def counting(self, batch):
    os.write(calls, b"." * len(batch))
    return call(self, batch)
{counted}.__call__ = counting
from i2i.cli import main
main(sys.argv[1:])
"""
"""``i2i``, which adds a byte to the file ``calls`` for each window that the network sees."""
LARGE = """
from i2i import planner
make = planner.make_plan
planner.make_plan = lambda *given, **named: replace(make(*given, **named), canvas="disk", cores=1, batch=1)
"""
"""As if the image did not fit into memory."""
PLUGINS = Path(__file__).parents[1] / "plugins"
PHASES = START, PREPARE, RUN, PUBLISH = ("start", "prepare", "run", "publish")


@dataclass(frozen=True)
class Case:
    """A task: its words, ``side`` and ``tile`` in pixels, what makes its input in a folder, what is counted (``module:class``),
    and Python that its program runs first. ``output``: the result; the other files of the folder belong to it."""

    words: tuple[str, ...]
    side: int
    tile: int
    make: Callable[[Path, int], None]
    counted: str
    output: str = "out.tif"
    patch: str = LARGE

    @property
    def program(self) -> str:
        module, name = self.counted.split(":")
        return PROGRAM.format(patch=f"{self.patch}\nfrom {module} import {name}", counted=name)


def nuclei(folder: Path, side: int) -> None:
    from tiling_exact import SAMPLES, mosaic

    tifffile.imwrite(folder / "in.tif", mosaic(SAMPLES, side), tile=(256, 256), compression="zlib")


def photograph(folder: Path, side: int) -> None:
    """The bundled photograph, repeated."""
    with Image.open(PLUGINS / "i2i_style/samples/astronaut.jpg") as opened:
        photo = np.asarray(opened.convert("RGB"))
    count = [-(-side // length) for length in photo.shape[:2]]
    whole = np.tile(photo, (*count, 1))[:side, :side]
    tifffile.imwrite(folder / "in.tif", whole, tile=(256, 256), compression="zlib", photometric="rgb")


def many(folder: Path, side: int) -> None:
    """40 images, in two folders."""
    from small_images import crops

    for number, name in enumerate(("in/a", "in/b")):
        crops(folder / name, 20, side, seed=number)


STYLE = str(PLUGINS / "i2i_style/samples/starry_night.jpg")
EXPORTS = ("--coco", "out.json", "--geojson", "out.geojson", "--csv", "out.csv")
CASES = {
    "segment": Case(
        ("segment", "in.tif", "-o", "out.tif", "--as", "labels", "--model", "nuclei-fluo", "--backend", "torch"),
        1792, 448, nuclei, "i2i_unet.predictor:UNetPredictor",
    ),
    "instances": Case(
        ("instances", "in.tif", "-o", "out.tif", *EXPORTS), 1024, 384, nuclei, "i2i_maskrcnn.predictor:MaskRCNNPredictor"
    ),
    "translate": Case(
        ("translate", "in.tif", "-o", "out.tif", "--model", "denoise-fluo", "--backend", "torch"),
        2048, 512, nuclei, "i2i_pix2pix.predictor:TranslatePredictor",
    ),
    "stylize": Case(
        ("stylize", "in.tif", "-o", "out.png", "--style", STYLE, "--size", "128", "--steps", "12", "--scales", "2"),
        128, 0, photograph, "i2i_style.objective:Objective", "out.png",
        "import i2i_style.gatys\ni2i_style.gatys._KEEP_SECONDS = 0.2",
    ),
    "stylize-fast": Case(
        ("stylize", "in.tif", "-o", "out.png", "--style", STYLE, "--fast", "--backend", "torch"),
        1280, 384, photograph, "i2i_style.fast:FastPredictor", "out.png",
    ),
    "folder": Case(
        ("segment", "in", "-o", "out", "--as", "labels", "--model", "nuclei-fluo"),
        192, 0, many, "i2i_unet.predictor:UNetPredictor", "out", "",
    ),
}  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------- runs


@dataclass
class Runs:
    """The same run again and again, in ``folder``."""

    case: Case
    folder: Path
    tile: int

    @property
    def partial(self) -> Path:
        return self.folder / f"{self.case.output}.i2i-partial"

    def start(self, *more: str) -> subprocess.Popen[bytes]:
        tile = ["--tile", str(self.tile)] if self.tile else []
        command = [sys.executable, "-c", self.case.program, *self.case.words, *tile, "--json", "-q", *more]
        return subprocess.Popen(command, cwd=self.folder, stdout=subprocess.PIPE)

    def reports(self, running: subprocess.Popen[bytes]) -> list[dict[str, Any]]:
        out, _ = running.communicate()
        if running.returncode:
            sys.exit(f"ended with {running.returncode}: {out.decode()}")
        return json.loads(out)["runs"]

    def journal(self) -> int:
        """The lines that are journaled; of a folder, the results that are there."""
        if self.case.make is many:
            folders = [folder for folder in (self.folder / "out/a", self.folder / "out/b") if folder.exists()]
            return sum(name.endswith(".png") and name[0] != "." for folder in folders for name in os.listdir(folder))
        path = self.partial / "journal.jsonl"
        return path.read_bytes().count(b"\n") if path.exists() else 0

    def publishing(self) -> bool:
        return any(self.folder.glob(".*.i2i-*"))

    def windows(self) -> int:
        """That the network has seen since the last call."""
        path = self.folder / "calls"
        size = path.stat().st_size if path.exists() else 0
        path.unlink(missing_ok=True)
        return size

    def results(self) -> dict[str, str]:
        """The hash of each file that is not the input's."""
        own = (path for path in sorted(self.folder.rglob("*")) if path.is_file())
        named = {path.relative_to(self.folder).as_posix(): path for path in own}
        return {
            name: hashlib.sha256(path.read_bytes()).hexdigest()
            for name, path in named.items()
            if name != "calls" and not name.startswith("in")
        }

    def clear(self) -> None:
        for name in self.results():
            (self.folder / name).unlink()
        for path in sorted(self.folder.rglob("*"), reverse=True):
            if path.is_dir() and path.relative_to(self.folder).parts[0] != "in":
                path.rmdir()


class Watch:
    """How far a run is: lines of its journal, and states that an optimisation has kept."""

    def __init__(self, runs: Runs) -> None:
        self._runs, self._states = runs, set[int]()

    def progress(self) -> int:
        for path in self._runs.partial.glob("blocks/checkpoint-*.npz"):
            try:
                self._states.add(path.stat().st_mtime_ns)
            except FileNotFoundError:  # it is being replaced
                continue
        return self._runs.journal() + len(self._states)

    def at(self) -> tuple[str, int]:
        """The phase, and the progress in it."""
        if self._runs.publishing():
            return PUBLISH, 0
        progress = self.progress()
        return (RUN, progress) if progress else (PREPARE if self._runs.partial.exists() else START, 0)


@dataclass(frozen=True)
class Undisturbed:
    """The run that nobody stops. ``spans``: seconds between the first and the last time that it was seen at each place."""

    results: dict[str, str]
    lines: int
    windows: int
    spans: dict[tuple[str, int], float]


def undisturbed(runs: Runs) -> Undisturbed:
    running, watch, seen = runs.start(), Watch(runs), dict[tuple[str, int], list[float]]()
    while running.poll() is None:
        seen.setdefault(watch.at(), []).append(time.monotonic())
        time.sleep(0.002)
    reports = runs.reports(running)
    lines = sum(report["blocks_computed"] for report in reports)
    return Undisturbed(runs.results(), lines, runs.windows(), {place: times[-1] - times[0] for place, times in seen.items()})


@dataclass(frozen=True)
class Moment:
    """``wait``: seconds after the phase and the progress were reached."""

    phase: str
    progress: int
    wait: float


def moments(whole: Undisturbed, count: int, seed: int) -> Iterator[Moment]:
    """A fifth while publishing and one of ten before anything is journaled, where there are such phases; the others at random
    over the time between."""
    draw = random.Random(seed)
    places = [place for place in whole.spans if place[0] == RUN]
    for number in range(count):
        phase = {1: PUBLISH, 6: PUBLISH, 3: PREPARE}.get(number % 10, RUN)
        chosen = (phase, 0)
        if chosen not in whole.spans:
            chosen = draw.choices(places, [whole.spans[place] + 1e-3 for place in places])[0]
        yield Moment(*chosen, draw.random() * whole.spans[chosen])


def kill(runs: Runs, moment: Moment) -> bool:
    """Start a run and kill it at the moment. False when it had ended before."""
    running, watch = runs.start(), Watch(runs)

    def reached() -> bool:
        phase, progress = watch.at()
        return (PHASES.index(phase), progress) >= (PHASES.index(moment.phase), moment.progress)

    while not reached() and running.poll() is None:
        time.sleep(0.001)
    time.sleep(moment.wait)
    running.send_signal(signal.SIGKILL)
    running.communicate()
    return running.returncode == -signal.SIGKILL


@dataclass(frozen=True)
class Killed:
    """What became of a kill. ``faults``: what is not as promised."""

    phase: str
    journaled: int
    twice: int
    faults: tuple[str, ...]


def one_kill(number: int, runs: Runs, moment: Moment, whole: Undisturbed) -> Killed | None:
    """None when the run had ended before it was killed."""
    if not kill(runs, moment):
        runs.clear()
        runs.windows()
        return None
    left, journaled = runs.results(), runs.journal()
    faults = [f"{name} is there, and not whole" for name, found in left.items() if whole.results.get(name, found) != found]
    published = runs.case.output in left
    folder = runs.case.make is many
    reports = runs.reports(runs.start("--skip-existing" if folder and number % 2 else "--resume"))
    results, twice = runs.results(), runs.windows() - whole.windows
    names = sorted({*results, *whole.results})
    faults += [f"{name} differs" for name in names if results.get(name) != whole.results.get(name)]
    computed, reused = (sum(report[f"blocks_{what}"] for report in reports) for what in ("computed", "reused"))
    if published:
        faults += [f"{computed} blocks were computed, and the result was there"] * (computed > 0)
    elif not folder and (reused, computed) != (journaled, whole.lines - journaled):
        faults.append(f"of {journaled} lines {reused} were used; {computed} of {whole.lines} were computed")
    if runs.case.output != "out.png" and not 0 <= twice <= IN_FLIGHT * max(1, whole.windows // whole.lines):
        faults.append(f"{twice} windows were computed twice")
    runs.clear()
    return Killed(moment.phase, journaled, twice, tuple(faults))


# --------------------------------------------------------------------------------------------------------------- table


def task_row(name: str, asked: argparse.Namespace, folder: Path) -> tuple[str, bool]:
    """All kills of a task: a line of the table, and whether all is as it should be."""
    case = CASES[name]
    side = asked.side or case.side
    folder.mkdir()
    case.make(folder, side)
    runs = Runs(case, folder, asked.tile or case.tile)
    whole = undisturbed(runs)
    runs.clear()
    done: list[Killed] = []
    begun = time.monotonic()
    for number, moment in enumerate(moments(whole, 2 * asked.kills, asked.seed)):
        if len(done) == asked.kills:
            break
        killed = one_kill(number, runs, moment, whole)
        if killed is None:
            say(f"{name} {number + 1}: {moment.phase}: the run had ended before it was killed")
            continue
        done.append(killed)
        say(f"{name} {number + 1}: {killed.phase}, {killed.journaled} lines journaled, {killed.twice} computed twice: "
            f"{'; '.join(killed.faults) or 'as promised'}")  # fmt: skip
    phases = Counter(killed.phase for killed in done)
    told = ", ".join(f"{phases[phase]} {phase}" for phase in (PREPARE, RUN, PUBLISH) if phases[phase])
    right = sum(not killed.faults for killed in done)
    lines = f"{min(killed.journaled for killed in done)} to {max(killed.journaled for killed in done)} of {whole.lines}"
    twice = f"{max(killed.twice for killed in done)} of {whole.windows}"
    images = "40 images" if case.make is many else f"{side} x {side}"
    files = len(whole.results)
    row = (
        f"| {name} | {images} | {files} | {told} | {lines} | {twice} | {right} of {len(done)} | {time.monotonic() - begun:.0f} |"
    )
    return row, right == len(done)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="all", choices=("all", *CASES))
    parser.add_argument("--kills", type=int, default=10, help="of each task")
    parser.add_argument("--side", type=int, help="of the image, in pixels (default: the task's own)")
    parser.add_argument("--tile", type=int, help="of the windows (default: the task's own)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--folder", type=Path, help="where the files go (default: a temporary folder)")
    parser.add_argument("--quick", action="store_true", help="3 kills of each task")
    asked = parser.parse_args()
    if asked.quick:
        asked.kills = 3
    return asked


def main() -> None:
    asked = parse()
    if asked.folder:
        asked.folder.mkdir(parents=True, exist_ok=True)
    print(f"{machine()}; seed {asked.seed}\n")
    print("| task | image | files | kills | lines journaled before | windows computed twice, at most | as promised | seconds |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    results = []
    with tempfile.TemporaryDirectory(dir=asked.folder) as name:
        for task in CASES if asked.task == "all" else [asked.task]:
            row, right = task_row(task, asked, Path(name) / task)
            results.append(right)
            print(row, flush=True)
    if not all(results):
        sys.exit("NOT as promised")


if __name__ == "__main__":
    main()
