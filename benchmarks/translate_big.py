"""`i2i translate` on large images: megapixels a second, peak memory, and whether tiles show.

    python benchmarks/translate_big.py --images FILE... --out FOLDER [--model NAME_OR_FILE...] [--size 16384] [--side 4096]

A mosaic of the images, side by side, of ``--size`` pixels a side, goes through the command line with each model within
``--memory``; seconds and peak memory are those of the whole process (``wait4``), start-up and files included. Then, of
``--side`` pixels, in single precision and as floats: the answer of the network to the whole image, computed at once by plain
PyTorch (normalisation, network and all), against the command's, in tiles; for generators that normalise by the image's
statistics (instance, group) with each choice of ``--statistics``, and the seconds of each. Differences are shares of the range of
the numbers: largest, and mean. And the command against itself with windows of which the seams lie elsewhere, after a Gaussian
low-pass of sigma 32, which leaves what would show as tiles, in grey levels of 255.

Without ``--model``: the bundled `denoise-fluo`, which has batch normalisation.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from experiment import say, table, timed
from machine import machine

SIGMA = 32


def mosaic(files: list[Path], side: int, channels: int) -> Any:
    """(side, side) or (side, side, 3) uint8: the images, enlarged to 1024 pixels a side, their brightness from dark to light
    from left to right, so that no part of it is like the whole."""
    import numpy as np
    from PIL import Image

    mode = "L" if channels == 1 else "RGB"
    tiles = [np.asarray(Image.open(path).convert(mode).resize((1024, 1024), Image.Resampling.LANCZOS)) for path in files]
    count = -(-side // 1024)
    whole = np.empty((count * 1024, count * 1024, *tiles[0].shape[2:]), np.uint8)
    for number in range(count * count):
        y, x = divmod(number, count)
        lighter = 0.5 + 0.5 * (x + 1) / count
        whole[y * 1024 : (y + 1) * 1024, x * 1024 : (x + 1) * 1024] = tiles[number % len(tiles)] * lighter
    return whole[:side, :side]


def at_once(model: str, pixels: Any) -> Any:
    """What the network alone answers to an image as a whole: (H, W, C) float32 in the numbers of the result."""
    import numpy as np
    import torch

    from i2i.contracts import Runtime
    from i2i.formats.views import ArraySource
    from i2i.models import find_model
    from i2i.registry import Registry
    from i2i_pix2pix.predictor import load

    predictor = load(find_model(model, "translate", Registry().models("translate")), Runtime())
    prepared = predictor.prepare(ArraySource(pixels), 0)
    seen = torch.from_numpy(np.moveaxis(prepared.normalize(pixels), 2, 0)[None])
    with torch.no_grad():
        raw = predictor.network.float()(seen)
    return prepared.ranges.numbers(np.moveaxis(raw[0].numpy(), 0, 2))


def exactness(options: argparse.Namespace, model: str, norm: str, channels: int) -> list[list[str]]:
    """A row for each way of taking statistics."""
    import numpy as np
    import tifffile
    from scipy import ndimage

    pixels = mosaic(options.images, options.side, channels)
    path = options.out / "small.tif"
    tifffile.imwrite(path, pixels, tile=(512, 512))
    whole = at_once(model, pixels if pixels.ndim == 3 else pixels[..., None])

    def made(*words: Any) -> Any:
        result = options.out / "small-out.tif"
        timed("translate", [path, "--model", model, "--as", "float", "--precision", "fp32", "-o", result, *words])
        answer = tifffile.imread(result)
        if answer.ndim == 3 and answer.shape[0] == whole.shape[2]:
            answer = np.moveaxis(answer, 0, 2)
        return answer.reshape(whole.shape)

    rows = []
    for statistics in ("auto", "sampled", "exact") if norm != "batch" else ("auto",):
        words = ["--statistics", statistics, "--memory", options.memory]
        begun = time.monotonic()
        first = made(*words, "--tile", options.tiles[0])
        seconds = time.monotonic() - begun
        second = made(*words, "--tile", options.tiles[1])
        apart = np.abs(first - whole) / 255
        smooth = ndimage.gaussian_filter(first - second, (SIGMA, SIGMA, 0))
        name = statistics if norm != "batch" else "none needed"
        rows.append([name, f"{apart.max():.1e}", f"{apart.mean():.1e}", f"{np.abs(smooth).max():.4f}", f"{seconds:.1f}"])
        say(f"{model} {rows[-1]}")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, nargs="+", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", nargs="+", default=[])
    parser.add_argument("--size", type=int, default=16384, help="0: no run of this size")
    parser.add_argument("--side", type=int, default=4096, help="0: no comparison with the whole")
    parser.add_argument("--tiles", type=int, nargs=2, default=(768, 1216))
    parser.add_argument("--memory", default="3GB")
    options = parser.parse_args()
    import tifffile

    from i2i.models import find_model
    from i2i.registry import Registry

    options.out.mkdir(parents=True, exist_ok=True)
    models = options.model or ["denoise-fluo"]
    large, small = [], []
    for model in models:
        header = find_model(model, "translate", Registry().models("translate")).config["generator"]
        name = f"{Path(model).stem} ({header['kind']}, depth {header['depth']}, {header['norm']} norm)"
        if options.size:
            tifffile.imwrite(
                options.out / "large.tif", mosaic(options.images, options.size, header["channels_in"]), tile=(512, 512)
            )
            seconds, peak = timed(
                "translate",
                [options.out / "large.tif", "--model", model, "-o", options.out / "large-out.tif", "--memory", options.memory],
            )
            large.append([name, f"{seconds:.0f}", f"{options.size**2 / 1e6 / seconds:.2f}", f"{peak / 1e9:.2f}"])
            say(f"{large[-1]}")
        if options.side:
            small += [[name, *row] for row in exactness(options, model, header["norm"], header["channels_in"])]
    print(f"{machine()}\n")
    if large:
        print(f"{options.size} x {options.size} pixels, uint8 TIFF to TIFF, --memory {options.memory}:\n")
        print(table(["model", "seconds", "megapixels a second", "peak, GB"], large) + "\n")
    if small:
        print(
            f"{options.side} x {options.side} pixels, fp32, windows of {options.tiles[0]} (the seams: also {options.tiles[1]}):\n"
        )
        head = [
            "model",
            "statistics",
            "largest difference to the whole, of the range",
            "mean",
            "seams after the low-pass, grey levels",
            "seconds",
        ]
        print(table(head, small))


if __name__ == "__main__":
    main()
