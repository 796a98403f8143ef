"""Many small images in one run: seconds for each once warm, beside the bare forward of the same pixels through the same network.

    python benchmarks/small_images.py [--count 300] [--side 256] [--warm 20] [--rounds 3] [--kinds classes,labels] [--model NAME]
                                      [--precision auto] [--bar 1.3] [--folder DIR] [--quick]

`i2i segment` of a folder of crops of the bundled samples, PNG in, PNG out, as a process of its own, in default settings: every
result is flushed to the disk and renamed. The time is told by the results: from the last of the warm-up to the last of all, by
the times of the files. The forward alone is another process: the same predictor in the same precision, channels last, allocator
and number of threads, on the same normalised windows, one at a time as the engine runs them here (an image of this size is one
window, and batches never span images); there is no reading, no normalisation, no conversion to classes and no writing in it.
What `--as labels` does beyond the network (components, numbers, growth) counts as overhead. The two take turns, and the ratio
of a row is the median over the rounds of that of neighbours. --quick: 60 images, one round.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from experiment import I2I
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


def settings(asked: argparse.Namespace) -> list[str]:
    return ["--model", asked.model, "--precision", asked.precision, "--backend", "torch"]


def run(images: Path, output: Path, kind: str, asked: argparse.Namespace) -> float:
    """Seconds for each image of an `i2i segment` of the folder, after the first ``asked.warm``."""
    command = [*I2I, "segment", str(images), "-o", str(output), "--as", kind, *settings(asked), "-q", "--overwrite"]
    subprocess.run(command, check=True)
    written = sorted(path.stat().st_mtime_ns for path in output.iterdir())
    assert len(written) == asked.count, f"{len(written)} results of {asked.count} images"
    return (written[-1] - written[asked.warm - 1]) / 1e9 / (asked.count - asked.warm)


def forward(images: Path, asked: argparse.Namespace) -> tuple[float, str]:
    """Seconds for each image of the network alone, after the first ``asked.warm``; and the precision."""
    words = f"import small_images; small_images.print_forward({str(images)!r}, {asked.warm}, {settings(asked)!r})"
    command = [sys.executable, "-c", words]
    said = subprocess.run(command, cwd=Path(__file__).parent, check=True, stdout=subprocess.PIPE, text=True).stdout.split()
    return float(said[0]), said[1]


def print_forward(images: str, warm: int, words: list[str]) -> None:
    """In a process of its own: seconds for each image, and the precision."""
    from i2i.api import session
    from i2i.backends import run_batch, to_array
    from i2i.formats import open_image
    from i2i.registry import Registry
    from i2i.stitch import window_pixels

    named = dict(zip((word[2:] for word in words[::2]), words[1::2], strict=True))
    _, predictor, runtime = session("segment", named, Registry()).loader.predictor(named["model"])
    windows = []
    for path in sorted(Path(images).iterdir()):
        source = open_image(path)
        windows.append(window_pixels(source, predictor.prepare(source, 0), source.spec.region))
        source.close()
    for number, window in enumerate(windows):
        if number == warm:
            started = time.perf_counter()
        to_array(run_batch(predictor, [window], runtime))
    print((time.perf_counter() - started) / (len(windows) - warm), runtime.precision)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=300, help="of images")
    parser.add_argument("--side", type=int, default=256, help="of an image, in pixels")
    parser.add_argument("--warm", type=int, default=20, help="images that do not count, at the beginning")
    parser.add_argument("--rounds", type=int, default=3, help="times that all is measured, in turn")
    parser.add_argument("--kinds", default="classes,labels", help=f"of {', '.join(KINDS)}")
    parser.add_argument("--model", default="nuclei-fluo")
    parser.add_argument("--precision", default="auto", choices=("auto", "fp32", "bf16"))
    parser.add_argument("--bar", type=float, default=1.3, help="the most that --as classes may take, in times of the forward")
    parser.add_argument("--folder", type=Path, help="where the files go (default: a temporary folder)")
    parser.add_argument("--quick", action="store_true", help="60 images, one round")
    asked = parser.parse_args()
    if asked.quick:
        asked.count, asked.rounds = 60, 1
    if not 0 < asked.warm < asked.count:
        parser.error("--warm: fewer than --count, and at least 1")
    return asked


def main() -> None:
    asked = parse()
    kinds = asked.kinds.split(",")
    found: dict[str, list[float]] = {kind: [] for kind in ("forward", *kinds)}
    with tempfile.TemporaryDirectory(dir=asked.folder) as name:
        images = Path(name) / "images"
        crops(images, asked.count, asked.side)
        for _ in range(asked.rounds):
            for kind in kinds:
                seconds, precision = forward(images, asked)
                found["forward"].append(seconds)
                found[kind].append(run(images, Path(name) / kind, kind, asked) / seconds)
    alone = statistics.median(found["forward"])
    print(
        f"{machine()}; {asked.count} images of {asked.side} x {asked.side}, the first {asked.warm} not counted; {asked.model}, "
        f"{precision}; {asked.rounds} rounds\n"
    )
    print("| what | milliseconds an image | times the forward beside it (least to most) |")
    print("|---|---|---|")
    print(f"| the forward alone | {1e3 * alone:.1f} | 1 |")
    for kind in kinds:
        ratios = found[kind]
        middle = statistics.median(ratios)
        print(
            f"| `i2i segment --as {kind}` | {1e3 * middle * alone:.1f} | {middle:.2f} ({min(ratios):.2f} to {max(ratios):.2f}) |"
        )
    if "classes" in kinds and statistics.median(found["classes"]) > asked.bar:
        sys.exit("above the bar")


if __name__ == "__main__":
    main()
