"""Damaged files of every format, thousands of them, through `i2i info` and a run: each is read, or refused in one line.

    python benchmarks/fuzz.py [--images FOLDER] [--count 20000] [--seed 0] [--first 0] [--jobs 1]
        [--minutes 60] [--keep FOLDER]

An input is a small valid file of one of the formats that i2i reads, or one of a folder of odd files (--images), with bits
flipped, pieces cut, put in, doubled or swapped, and entries of its headers changed; input number N of a seed is the same each
time. It goes through the program's own `main`: `info`, then a task (the mean of the channels; of every twelfth a small U-Net),
in worker processes that end after a hundred inputs. Where an image declares more than 4 million samples (a header may say so,
and be right) the run is planned (up to a billion), and two pieces are read.

Nothing may crash, compute 10 s (or take a minute), take 1.5 GB, show a traceback or a library's own messages, print more than
one line for an error or a line that does not name the file, leave anything after an error, or an output that does not open.
What does is run again in a fresh worker (what happens once only is listed apart), named at the end, and kept with --keep. The
exit code is 1 then.
"""

from __future__ import annotations

import argparse
import itertools
import math
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from fuzzing.judge import KINDS, PLANNED, READ, REFUSED, Finding, judge, judge_output, size_of
from fuzzing.mutate import make_input
from fuzzing.processes import Server, write_input
from fuzzing.seeds import Seed, all_seeds
from machine import machine

SECONDS, MEMORY = 10.0, 1_500_000_000
INPUTS = 100
"""Of one worker."""
MOST_SAMPLES = 4_000_000
"""Of an image that is run whole: more would take seconds."""
MOST_PLANNED = 10**9
"""Of an image whose run is planned, for which a window of it is tried; of larger ones two pieces are read."""


@dataclass(frozen=True)
class Limits:
    """Seconds and bytes for one input, and inputs for one worker."""

    seconds: float = SECONDS
    memory: int = MEMORY
    inputs: int = INPUTS


class Bench:
    """Two servers, for ``info`` and for runs, and the folders of one input at a time. Use it as a context."""

    def __init__(self, folder: Path, model: Path, limits: Limits) -> None:
        self.folder, self._model, self._limits = folder, model, limits
        self._stack = ExitStack()

    def __enter__(self) -> Bench:
        limits = self._limits
        self._info, self._run = (
            self._stack.enter_context(Server(kind, self.folder / kind, limits.inputs, limits.seconds, limits.memory))
            for kind in ("info", "run")
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def most(self) -> tuple[float, int]:
        """The most seconds and resident bytes of a request so far."""
        return max(self._info.slowest, self._run.slowest), max(self._info.largest, self._run.largest)

    def info(self, words: list[str]) -> dict[str, Any]:
        """The answer of a worker without torch."""
        return self._info.ask("main", words)

    def allow(self, limits: Limits) -> None:
        """Other limits from now on, but for the inputs of a worker."""
        self._limits = limits
        for server in (self._info, self._run):
            server.seconds, server.memory = limits.seconds, limits.memory

    def fresh(self) -> None:
        """New workers."""
        self._info.fresh()
        self._run.fresh()

    def try_input(self, item: Seed, number: int) -> tuple[str, list[Finding]]:
        """How it ended, and what is wrong with that."""
        places = [self.folder / "in", self.folder / "out"]
        for place in places:
            place.mkdir()
        path = places[0] / f"input{item.suffix}"
        try:
            write_input(path, item.files)
            end, found = self._try(path, places[1], Random(number), number % 2 == 0)
            beside = sorted(place.name for place in places[0].iterdir() if place != path)
            return end, [*found, *([Finding("partial output", "beside the input", ", ".join(beside))] if beside else [])]
        finally:
            for place in places:
                shutil.rmtree(place)

    def _try(self, path: Path, folder: Path, random: Random, as_json: bool) -> tuple[str, list[Finding]]:
        told = self.info(["info", str(path), *["--json"] * as_json])
        found = judge(told, "info", path, None, self._limits.memory)
        size = None if found else size_of(told, as_json)
        output = folder / f"result{random.choices(('.tif', '.png', '.zarr'), (8, 2, 1))[0]}"
        if size is not None and size[0] * size[1] * size[2] > MOST_SAMPLES:
            planned = size[0] * size[1] * size[2] <= MOST_PLANNED
            return PLANNED, found + (self._plan(path, folder, output) if planned else self._pieces(path))
        if size is not None and random.random() < 0.1:
            found += self._pieces(path)
        words = self._words(path, output, random)
        done = self._run.ask("main", words)
        found += judge(done, words[0], path, output, self._limits.memory)
        if not any(item.kind in ("crash", "hang", "memory") for item in found):
            found += judge_output(folder, output, done.get("code"), size)
        return READ if done.get("code") == 0 else REFUSED, found

    def _words(self, path: Path, output: Path, random: Random) -> list[str]:
        words = [str(path), "-o", str(output), *["--nan", "zero"] * (random.random() < 0.5)]
        if random.random() < 1 / 12:
            return ["segment", *words, "--model", str(self._model), "--channels", "0", "--precision", "fp32"]
        return ["echo", *words, *["--tile", "64"] * (random.random() < 0.3)]

    def _pieces(self, path: Path) -> list[Finding]:
        return judge(self._run.ask("pieces", [str(path)]), "pieces", path, None, self._limits.memory)

    def _plan(self, path: Path, folder: Path, output: Path) -> list[Finding]:
        """Of an image that is too large to be run for each input: its plan and pieces of it."""
        planned = self._run.ask("main", ["echo", str(path), "-o", str(output), "--channels", "0", "--dry-run"])
        found = judge(planned, "plan", path, folder, self._limits.memory)
        if planned.get("code") == 0:
            found += self._pieces(path)
        there = ", ".join(place.name for place in folder.iterdir())
        return [*found, *([Finding("partial output", "after a dry run", there)] if there else [])]


@dataclass
class Tally:
    """What was found. ``ends``: by the seed's kind and how it ended; ``found``: the first input of each finding, and how many;
    ``once``: what a fresh worker did not show again; ``most``: seconds and bytes of each job's slowest and largest request."""

    ends: Counter[tuple[str, str]] = field(default_factory=Counter)
    found: dict[tuple[str, str], tuple[int, Finding]] = field(default_factory=dict)
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    once: dict[tuple[str, str], tuple[int, Finding]] = field(default_factory=dict)
    most: list[tuple[float, int]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, item: Seed, number: int, end: str, found: Sequence[Finding], again: Sequence[Finding]) -> list[Finding]:
        """Count an input; returns the findings that are new."""
        repeated = {(one.kind, one.key) for one in again}
        new = []
        with self.lock:
            self.ends[kind_of(item), end] += 1
            for one in found:
                key = (one.kind, one.key)
                into = self.found if key in repeated or one.kind in {two.kind for two in again} else self.once
                new += [one] if key not in into else []
                into.setdefault(key, (number, one))
                self.counts[key] += 1
        return new


def kind_of(item: Seed) -> str:
    """A row of the table."""
    origin = "" if item.name.startswith("made-") else " (odd)"
    suffix = item.name.split("-")[1] if item.name.startswith("made-") else item.name.rsplit(".")[-1].lower()
    return {"tiff": "tif", "svs": "tif", "jpeg": "jpg"}.get(suffix, suffix) + origin


def fuzz(
    seeds: Sequence[Seed],
    seed: int,
    numbers: Sequence[int],
    jobs: int,
    limits: Limits,
    keep: Path | None,
    minutes: float = math.inf,
) -> Tally:
    """Try the inputs of these numbers, in order, as many as the ``minutes`` allow."""
    tally, waiting, lock, end = Tally(), iter(numbers), threading.Lock(), time.monotonic() + 60 * minutes

    def take() -> Iterator[int]:
        while True:
            with lock:
                number = next(waiting, None)
            if number is None or time.monotonic() > end:
                return
            yield number

    with tempfile.TemporaryDirectory(prefix="i2i-fuzz-", dir=_roomy()) as name:
        model = make_model(Path(name) / "model.safetensors")

        def work(job: int) -> None:
            with Bench(Path(name) / str(job), model, limits) as bench:
                for number in take():
                    try_one(bench, make_input(seeds, seed, number), number, tally, keep)
                tally.most.append(bench.most)

        with ThreadPoolExecutor(jobs) as threads:
            list(threads.map(work, range(jobs)))
    return tally


def try_one(bench: Bench, item: Seed, number: int, tally: Tally, keep: Path | None = None) -> None:
    """Try an input, once more where something is found; count, tell and keep that."""
    end, found = bench.try_input(item, number)
    again: list[Finding] = []
    if found:
        bench.fresh()
        again = bench.try_input(item, number)[1]
    for one in tally.add(item, number, end, found, again):
        print(f"{number} ({item.name}): {one.kind}: {one.key}", file=sys.stderr, flush=True)
        if keep is not None:
            folder = keep / f"{number}-{one.kind.replace(' ', '-')}"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            write_input(folder / f"input{item.suffix}", item.files)
            (folder / "finding.txt").write_text(f"{one.kind}: {one.key}\nseed: {item.name}\n\n{one.detail}\n")
    done = sum(tally.ends.values())
    if done % 1000 == 0:
        print(f"{done} inputs", file=sys.stderr, flush=True)


def _roomy() -> str | None:
    """A folder in memory, where there is one: thousands of files are written."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


def make_model(path: Path) -> Path:
    """A U-Net of two levels and four filters, not trained."""
    import torch

    from i2i.models import save_model
    from i2i_unet.network import UNet, UNetConfig

    torch.manual_seed(3)
    config = UNetConfig(1, classes=2, depth=2, filters=4)
    header = {"task": "segment", "network": config.as_mapping(), "normalization": {"method": "percentile"}}
    save_model(path, UNet(config).state_dict(), header | {"class_names": ["background", "cell"]})
    return path


def table(tally: Tally) -> str:
    """A row for each kind of seed, and one for all."""
    kinds = sorted({kind for kind, _ in tally.ends})
    lines = [f"| seeds | inputs | {READ} | {REFUSED} | {PLANNED} |", "|---|---|---|---|---|"]
    for name, chosen in [*((kind, [kind]) for kind in kinds), ("all", kinds)]:
        ends = [sum(tally.ends[kind, end] for kind in chosen) for end in (READ, REFUSED, PLANNED)]
        lines.append(f"| {name} | {' | '.join(map(str, (sum(ends), *ends)))} |")
    lines += ["", f"| {' | '.join(KINDS)} |", f"|{'---|' * len(KINDS)}"]
    sums = [sum(tally.counts[key] for key in tally.found if key[0] == kind) for kind in KINDS]
    return "\n".join([*lines, f"| {' | '.join(map(str, sums))} |"])


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="a folder of files to mutate besides those made here")
    parser.add_argument("--count", type=int, default=20_000, help="inputs")
    parser.add_argument("--seed", type=int, default=0, help="of the inputs")
    parser.add_argument("--first", type=int, default=0, help="number of the first input: with --count 1, one of them again")
    parser.add_argument("--jobs", type=int, default=1, help="inputs side by side")
    parser.add_argument("--minutes", type=float, default=math.inf, help="end after so long, with what was done")
    parser.add_argument("--keep", type=Path, help="a folder for the inputs that something was found with")
    return parser.parse_args()


def main() -> int:
    given = parsed()
    seeds, began = all_seeds(given.images), time.monotonic()
    numbers = range(given.first, given.first + given.count)
    tally = fuzz(seeds, given.seed, numbers, given.jobs, Limits(), given.keep, given.minutes)
    print(f"{machine()}\n")
    done, seconds = sum(tally.ends.values()), time.monotonic() - began
    print(f"{done} inputs from {len(seeds)} seeds, seed {given.seed}, in {seconds:.0f} s\n\n{table(tally)}")
    slowest, largest = (max(values) for values in zip(*tally.most, strict=True))
    print(f"\nthe slowest request took {slowest:.1f} s, the largest {largest / 1e6:.0f} MB of resident memory")
    for name, found in (("found", tally.found), ("seen once, and not again", tally.once)):
        for (kind, key), (number, _) in itertools.islice(found.items(), 200):
            print(f"\n{name}: {kind}, {tally.counts[kind, key]} times, first with input {number}: {key}")
    return 1 if tally.found else 0


if __name__ == "__main__":
    sys.exit(main())
