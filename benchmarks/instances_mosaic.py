"""Objects over tiles: a mosaic of single images against the images alone, and one tiling against another.

    python benchmarks/instances_mosaic.py --data DIR [--side 16384] [--tile auto,1024] [--memory 3GB] [--model nuclei] [--out
    FOLDER]

DIR holds test/images and test/masks (object ids), such as dsb2018-fluo. Each image is brought to 0 .. 255 by its own percentiles
(1 and 99.8) and laid into a dark square mosaic, with dark gaps of 64 pixels around it, in turn until the mosaic is full. The same
pixels, with the same gap, are run as single images. Objects are counted as found where their intersection over union with a true
one is above 0.5. `--tile`: the windows of the runs of the mosaic, the first two of which are compared with each other. Each run
is a process of its own, and its peak is what the system says of it. Objects and megapixels for a second are those of computing.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from experiment import I2I, files_of, say, table
from machine import machine
from memory import Measured, measure

GAP, TILE = 64, 512
HEAD = ["run", "windows", "objects", "F1 at IoU 0.5", "against the first tiling", "peak memory", "seconds", "MP/s", "objects/s"]


@dataclass(frozen=True)
class Cell:
    """A place of the mosaic: the number of the image in it, and where its pixels begin."""

    number: int
    y: int
    x: int


@dataclass
class Counts:
    """Objects found, invented and missed."""

    found: int = 0
    invented: int = 0
    missed: int = 0

    def add(self, prediction: np.ndarray, truth: np.ndarray) -> None:
        from i2i.metrics import average_precision, match_labels

        counts = average_precision(match_labels(prediction, truth), 0.5)
        self.found, self.invented, self.missed = self.found + counts.tp, self.invented + counts.fp, self.missed + counts.fn

    @property
    def f1(self) -> float:
        return 2 * self.found / max(1, 2 * self.found + self.invented + self.missed)


# ---------------------------------------------------------------------------------------------------------------- images


def pixels_of(path: Path) -> np.ndarray:
    from i2i.formats import open_image

    source = open_image(path)
    try:
        return source.read(source.spec.region)[..., 0]
    finally:
        source.close()


def normalised(pixels: np.ndarray) -> np.ndarray:
    """(H, W) uint8, by its own percentiles."""
    low, high = np.percentile(pixels, [1, 99.8])
    return np.clip((pixels - low) / max(high - low, 1e-6) * 255, 0, 255).round().astype(np.uint8)


def cells(shapes: Sequence[tuple[int, int]], side: int) -> list[Cell]:
    """Shelves of images in turn, from the top left: each shelf is as high as its highest image."""
    placed: list[Cell] = []
    top, number = GAP, 0
    while True:
        left, height = GAP, 0
        while left + shapes[number % len(shapes)][1] + GAP <= side:
            tall, wide = shapes[number % len(shapes)]
            if top + tall + GAP > side:
                return placed
            placed.append(Cell(number % len(shapes), top, left))
            left, height, number = left + wide + GAP, max(height, tall), number + 1
        if not height:
            sys.exit(f"--side {side}: an image is wider; give a larger mosaic")
        top += height + GAP


def mosaic(images: Sequence[np.ndarray], placed: Sequence[Cell], side: int) -> np.ndarray:
    whole = np.zeros((side, side), np.uint8)
    for cell in placed:
        image = images[cell.number]
        whole[cell.y : cell.y + image.shape[0], cell.x : cell.x + image.shape[1]] = image
    return whole


def part(labels: np.ndarray, cell: Cell, shape: tuple[int, int]) -> np.ndarray:
    """What the labels of the mosaic hold at a cell and in the half of the gap around it, so that nothing counts twice or not at
    all."""
    half = GAP // 2
    return labels[cell.y - half : cell.y + shape[0] + half, cell.x - half : cell.x + shape[1] + half]


# ------------------------------------------------------------------------------------------------------------------ runs


def run(image: Path, output: Path, folder: Path, model: str, memory: str, tile: str) -> Measured:
    words = ["instances", str(image), "-o", str(output), "--model", model, "--memory", memory, "--tile", tile]
    return measure([*I2I, *words, "--overwrite", "--json", "-q"], folder)


def single_counts(images: Sequence[np.ndarray], truths: Sequence[np.ndarray], model: str) -> list[Counts]:
    """Of each image by itself, with its gap, in one window."""
    import i2i

    loaded = i2i.load("instances", model=model, channels_in=1)
    found = []
    for image, truth in zip(images, truths, strict=True):
        counts = Counts()
        counts.add(np.asarray(loaded(np.pad(image, GAP // 2)), np.int64), np.pad(truth, GAP // 2).astype(np.int64))
        found.append(counts)
    return found


def total(singles: Sequence[Counts], placed: Sequence[Cell]) -> Counts:
    """As often as each is in the mosaic."""
    several = [singles[cell.number] for cell in placed]
    return Counts(*(sum(getattr(one, name) for one in several) for name in ("found", "invented", "missed")))


def compared(pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> Counts:
    counts = Counts()
    for prediction, truth in pairs:
        counts.add(np.asarray(prediction, np.int64), np.asarray(truth, np.int64))
    return counts


def row(name: str, tile: str, side: int, measured: Measured, counts: Counts, same: Counts | None) -> list[str]:
    report: dict[str, Any] = measured.report
    seconds = report["seconds"]["compute"]
    windows = " x ".join(str(length) for length in report["plan"]["tile"])
    rates = [f"{side * side / 1e6 / seconds:.2f}", f"{report['objects'] / seconds:.0f}"]
    return [
        name, f"{windows} (--tile {tile})", str(report["objects"]), f"{counts.f1:.4f}", f"{same.f1:.4f}" if same else "-",
        f"{measured.peak / 1e9:.2f} GB", f"{seconds:.0f}", *rates,
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder that holds test/images and test/masks")
    parser.add_argument("--side", type=int, default=16384, help="of the mosaic, in pixels (default: 16384)")
    parser.add_argument("--tile", default="auto,1024", help="windows of the runs, with commas (default: auto,1024)")
    parser.add_argument("--memory", default="3GB", help="budget of each run (default: 3GB)")
    parser.add_argument("--model", default="nuclei", help="a name or a file (default: nuclei)")
    parser.add_argument("--out", type=Path, help="where the mosaic and its labels go (default: a temporary folder)")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        benchmark(asked, asked.out or Path(temporary))


def benchmark(asked: argparse.Namespace, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    images = [normalised(pixels_of(path)) for path in files_of(asked.data / "test/images")]
    truths = [pixels_of(path) for path in files_of(asked.data / "test/masks")]
    placed = cells([image.shape for image in images], asked.side)
    nuclei = sum(len(np.unique(truths[cell.number])) - 1 for cell in placed)
    image = folder / f"mosaic-{asked.side}.tif"
    tifffile.imwrite(image, mosaic(images, placed, asked.side), tile=(TILE, TILE), compression="zlib", metadata=None)
    say(f"{len(placed)} images with {nuclei} nuclei")
    singles = total(single_counts(images, truths, asked.model), placed)
    say(f"single images: F1 {singles.f1:.4f}")
    rows, first = [["single images", "whole", str(singles.found + singles.invented), f"{singles.f1:.4f}", *["-"] * 5]], None
    for tile in asked.tile.split(","):
        output = folder / f"labels-{tile}.tif"
        measured = run(image, output, folder, asked.model, asked.memory, tile)
        labels = tifffile.imread(output)
        truth = ((part(labels, cell, truths[cell.number].shape), np.pad(truths[cell.number], GAP // 2)) for cell in placed)
        pairs = ((part(labels, cell, truths[cell.number].shape), part(first, cell, truths[cell.number].shape)) for cell in placed)
        rows.append(row("mosaic", tile, asked.side, measured, compared(truth), None if first is None else compared(pairs)))
        first = labels if first is None else first
        say(" | ".join(rows[-1]))
    print(f"{machine()}; mosaic of {asked.side} x {asked.side}, {len(placed)} images, {nuclei} nuclei; --memory {asked.memory}\n")
    print(table(HEAD, rows))


if __name__ == "__main__":
    main()
