"""Many small images in one run: seconds for each once warm, beside the bare forward of the same pixels through the same network.

    python benchmarks/small_images.py [--count 300] [--side 256] [--warm 20] [--turn 28] [--kinds classes,labels] [--model NAME]
                                      [--precision auto] [--bar 1.3] [--folder DIR] [--quick]

`i2i segment` of crops of the bundled samples, PNG in, PNG out, by the function that the command calls, in default settings: every
result is flushed to the disk and renamed. The forward alone is the same predictor in the same process, so with the same
precision, channels last, allocator and number of threads, on the same normalised windows, one at a time as the engine runs them
here (an image of this size is one window, and batches never span images); there is no reading, no normalisation, no conversion to
classes and no writing in it. What `--as labels` does beyond the network (components, numbers, growth) counts as overhead. After
the warm-up the two take turns, some images each, so that what else the machine does meets both alike; the ratio is the median
over the turns. That of the processor's time is beside it: it does not show what is done while another waits for the disk, and
other programs hardly change it. --quick: 76 images.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from machine import machine
from PIL import Image

KINDS = ("classes", "labels", "probabilities")


def crops(folder: Path, count: int, side: int, seed: int = 0) -> None:
    """``count`` PNGs of (side, side) uint8 in ``folder``, cut at random places of a mosaic of the samples."""
    from tiling_exact import SAMPLES, mosaic

    whole, random = mosaic(SAMPLES, max(2048, 2 * side)), np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for number in range(count):
        y, x = random.integers(0, whole.shape[0] - side, 2)
        Image.fromarray(whole[y : y + side, x : x + side]).save(folder / f"{number:04d}.png")


@dataclass(frozen=True)
class Turns:
    """Seconds for each image, turn by turn, of the run and of the forward alone; and the processor's, of all turns."""

    run: list[float]
    forward: list[float]
    run_processor: float
    forward_processor: float
    precision: str

    @property
    def ratios(self) -> list[float]:
        return [whole / alone for whole, alone in zip(self.run, self.forward, strict=True)]


def measure(images: Path, output: Path, kind: str, asked: argparse.Namespace) -> Turns:
    """Run the folder, and the network on what it sees of it, in turns."""
    from i2i import batch
    from i2i.api import session
    from i2i.backends import run_batch, to_array
    from i2i.registry import Registry

    options = {"model": [asked.model], "precision": asked.precision, "backend": "torch", "as_": kind}
    current = session("segment", options, Registry())
    items = batch.plan_items(current, [str(images)], str(output), {})
    _, predictor, runtime = current.loader.predictor(asked.model)
    windows = [window_of(item.path, predictor) for item in items]

    def run(some: slice) -> None:
        failed = [report.error for report in batch.process(current, items[some]) if report.error]
        if failed:
            sys.exit(failed[0])

    def forward(some: slice) -> None:
        for window in windows[some]:
            to_array(run_batch(predictor, [window], runtime))

    run(slice(asked.warm))
    forward(slice(asked.warm))
    turns = [slice(start, start + asked.turn) for start in range(asked.warm, asked.count - asked.turn + 1, asked.turn)]
    taken = [[timed(work, some) for work in (run, forward)] for some in turns]
    (whole, whole_cpu), (alone, alone_cpu) = (zip(*(each[i] for each in taken), strict=True) for i in range(2))
    return Turns(per_image(whole, asked), per_image(alone, asked), sum(whole_cpu), sum(alone_cpu), runtime.precision)


def window_of(path: Path, predictor: Any) -> np.ndarray:
    """What the network sees of an image."""
    from i2i.formats import open_image
    from i2i.stitch import window_pixels

    source = open_image(path)
    try:
        return window_pixels(source, predictor.prepare(source, 0), source.spec.region)
    finally:
        source.close()


def timed(work: Callable[[slice], None], some: slice) -> tuple[float, float]:
    """Seconds of some images, and those of the processor."""
    begun, before = time.perf_counter(), time.process_time()
    work(some)
    return time.perf_counter() - begun, time.process_time() - before


def per_image(seconds: Sequence[float], asked: argparse.Namespace) -> list[float]:
    return [each / asked.turn for each in seconds]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=300, help="of images")
    parser.add_argument("--side", type=int, default=256, help="of an image, in pixels")
    parser.add_argument("--warm", type=int, default=20, help="images that do not count, at the beginning")
    parser.add_argument("--turn", type=int, default=28, help="images in a turn")
    parser.add_argument("--kinds", default="classes,labels", help=f"of {', '.join(KINDS)}")
    parser.add_argument("--model", default="nuclei-fluo")
    parser.add_argument("--precision", default="auto", choices=("auto", "fp32", "bf16"))
    parser.add_argument("--bar", type=float, default=1.3, help="the most that --as classes may take, in times of the forward")
    parser.add_argument("--folder", type=Path, help="where the files go (default: a temporary folder)")
    parser.add_argument("--quick", action="store_true", help="76 images")
    asked = parser.parse_args()
    if asked.quick:
        asked.count = 76
    if not 0 < asked.warm <= asked.count - asked.turn:
        parser.error("--warm: at least 1, and with --turn no more than --count")
    return asked


def main() -> None:
    asked = parse()
    with tempfile.TemporaryDirectory(dir=asked.folder) as name:
        images = Path(name) / "images"
        crops(images, asked.count, asked.side)
        found = {kind: measure(images, Path(name) / kind, kind, asked) for kind in asked.kinds.split(",")}
    first = next(iter(found.values()))
    load = os.getloadavg()[1]
    print(
        f"{machine()}; {asked.count} images of {asked.side} x {asked.side}, the first {asked.warm} not counted; {asked.model}, "
        f"{first.precision}; {len(first.run)} turns of {asked.turn}; load of the machine {load:.1f}\n"
    )
    print("| `--as` | milliseconds an image | the forward alone | times the forward (least to most) | times, processor |")
    print("|---|---|---|---|---|")
    for kind, turns in found.items():
        whole, alone = (1e3 * statistics.median(seconds) for seconds in (turns.run, turns.forward))
        middle, least, most = statistics.median(turns.ratios), min(turns.ratios), max(turns.ratios)
        processor = turns.run_processor / turns.forward_processor
        print(f"| {kind} | {whole:.1f} | {alone:.1f} | {middle:.2f} ({least:.2f} to {most:.2f}) | {processor:.2f} |")
    if "classes" in found and statistics.median(found["classes"].ratios) > asked.bar:
        sys.exit("above the bar")


if __name__ == "__main__":
    main()
