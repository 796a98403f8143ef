"""A 4096 x 4096 mosaic of real images in windows of 512, of 800, and whole: the same labels, logits within tolerance (fp32).

    python benchmarks/tiling_exact.py [--images DIR] [--side 4096]

Without --images the mosaic is made of the bundled samples, turned and mirrored. The whole image as one window takes about
10 GB of memory at 4096.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import tifffile
from machine import machine

from i2i.api import session
from i2i.backends import TOLERANCE
from i2i.engine import compute_region
from i2i.formats import open_image
from i2i.formats.views import select
from i2i.planner import Plan
from i2i.registry import Registry

SAMPLES = Path(__file__).parents[1] / "plugins/i2i_unet/samples"


def mosaic(folder: Path, side: int) -> np.ndarray:
    """(side, side) uint8: the folder's one-channel images, turned and mirrored in turn, row by row."""
    images = []
    for path in sorted(folder.glob("*.png")):
        source = open_image(path)
        if source.spec.channels == 1 and source.spec.dtype == "uint8":
            images.append(source.read(source.spec.region)[..., 0])
        source.close()
    canvas, y, number = np.zeros((side, side), np.uint8), 0, 0
    while y < side:
        x, height = 0, side
        while x < side:
            image = np.rot90(images[number % len(images)], number)
            image = image[:, ::-1] if number % 3 == 0 else image
            part = canvas[y : y + image.shape[0], x : x + image.shape[1]]
            part[:] = image[: part.shape[0], : part.shape[1]]
            x, height, number = x + image.shape[1], min(height, image.shape[0]), number + 1
        y += height
    return canvas


def labels(path: Path, tile: int, folder: Path) -> tuple[np.ndarray, float]:
    """The labels that the command line writes, and its seconds."""
    output = folder / f"labels-{tile}.tif"
    started = time.monotonic()
    command = [sys.executable, "-c", "from i2i.cli import main; main()", "segment", str(path), "-o", str(output)]
    subprocess.run([*command, "--tile", str(tile), "--precision", "fp32", "--memory", "20GB", "-q"], check=True)
    return tifffile.imread(output), time.monotonic() - started


def logits(path: Path, tile: int) -> np.ndarray:
    """The raw output of the whole image, (side, side, classes)."""
    current = session("segment", {"precision": "fp32"}, Registry())
    image = open_image(path)
    source = select(image, 0, None, None, path)
    _, predictor, runtime = current.loader.predictor("nuclei-fluo")
    prepared = predictor.prepare(source, 0)
    plan = Plan((tile, tile), 1, 1, 0, runtime.device, "fp32", "torch", "memory", 0, True)
    grid = plan.grid(source.spec, prepared.footprint)
    result = np.empty((source.spec.height, source.spec.width, prepared.footprint.channels_out), np.float32)
    for block in grid.blocks():
        result[block.region.slices] = compute_region(source, prepared, grid, block.region, plan)
    image.close()
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, default=SAMPLES)
    parser.add_argument("--side", type=int, default=4096)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "mosaic.tif"
        tifffile.imwrite(path, mosaic(asked.images, asked.side), tile=(512, 512), compression="zlib")
        whole = -(-asked.side // 16) * 16
        results = {tile: labels(path, tile, folder) for tile in (512, 800, whole)}
        reference = logits(path, whole)
        spread = float(reference.max() - reference.min())
        print(f"{machine()}; {asked.side} x {asked.side}, nuclei-fluo, fp32\n")
        print("| window | objects | labels unlike the whole image's | largest difference of logits, of their range | seconds |")
        print("|---|---|---|---|---|")
        for tile, (found, seconds) in results.items():
            unlike = int((found != results[whole][0]).sum())
            worst = 0.0 if tile == whole else float(np.abs(logits(path, tile) - reference).max()) / spread
            shown = "whole" if tile == whole else str(tile)
            print(
                f"| {shown} | {int(found.max())} | {unlike} pixels | {worst:.1e} (allowed {TOLERANCE['fp32']:.0e}) "
                f"| {seconds:.0f} |"
            )
            if worst > TOLERANCE["fp32"] or unlike:
                sys.exit("NOT the same")


if __name__ == "__main__":
    main()
