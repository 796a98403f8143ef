"""`i2i stylize --fast`, and with a network of one style: megapixels a second, streamed, and whether tiles show.

    python benchmarks/style_fast.py --photos FILE... --style FILE --out FOLDER [--model FILE] [--size 8192] [--memory 3GB]

A large picture is made of the photographs, side by side. It goes through the command line within ``--memory``; seconds and
peak memory are those of the whole process (``wait4``), start-up and files included. Then 2048 x 2048 pixels of it, once in
one window and once in windows of 512: the largest difference in grey levels, as it is and after a Gaussian low-pass of sigma
32, which leaves what would show as tiles. ``--model``: a network of ``i2i train stylize``, measured as well.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from experiment import say, timed
from machine import machine

SMALL, SIGMA = 2048, 32


def mosaic(photos, side):
    """(side, side, 3) uint8 of photographs of 1024 pixels a side."""
    import numpy as np
    from PIL import Image

    picture = np.empty((side, side, 3), np.uint8)
    tiles = [np.asarray(Image.open(path).convert("RGB").resize((1024, 1024), Image.Resampling.LANCZOS)) for path in photos]
    for number in range((-(-side // 1024)) ** 2):
        y, x = (1024 * part for part in divmod(number, -(-side // 1024)))
        picture[y : y + 1024, x : x + 1024] = tiles[number % len(tiles)][: side - y, : side - x]
    return picture


def differences(first, second):
    """The largest, and the largest after the low-pass."""
    import numpy as np
    from scipy import ndimage

    apart = first.astype(np.float32) - second.astype(np.float32)
    smooth = ndimage.gaussian_filter(apart, (SIGMA, SIGMA, 0))
    return float(np.abs(apart).max()), float(np.abs(smooth).max())


def seams(options, words):
    """Of tiles of 512 against one window."""
    import tifffile

    made = {}
    for name, tile in (("whole", 4 * SMALL), ("tiled", 512)):
        result = options.out / f"{name}.tif"
        timed("stylize", [options.out / "small.tif", *words, "-o", result, "--tile", tile, "--memory", "64GB"])
        made[name] = tifffile.imread(result)
    return differences(made["whole"], made["tiled"])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, nargs="+", required=True)
    parser.add_argument("--style", type=Path, required=True)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--size", type=int, default=8192)
    parser.add_argument("--memory", default="3GB")
    options = parser.parse_args()
    import tifffile

    options.out.mkdir(parents=True, exist_ok=True)
    picture = mosaic(options.photos, options.size)
    tifffile.imwrite(options.out / "large.tif", picture, tile=(512, 512), photometric="rgb")
    tifffile.imwrite(options.out / "small.tif", picture[:SMALL, :SMALL], tile=(512, 512), photometric="rgb")
    methods = {"--fast": ["--style", options.style, "--fast"]}
    if options.model:
        methods["a network of one style, bf16"] = ["--model", options.model, "--precision", "bf16"]
    print(f"{machine()}; {options.size} x {options.size} pixels, --memory {options.memory}\n")
    print("| method | seconds | megapixels a second | peak, GB | largest difference of tiles, grey levels | after the low-pass |")
    print("|---|---|---|---|---|---|")
    for name, words in methods.items():
        seconds, peak = timed(
            "stylize", [options.out / "large.tif", *words, "-o", options.out / "large-out.tif", "--memory", options.memory]
        )
        say(f"{name}: {seconds:.0f} s")
        most, smooth = seams(options, words)
        rate = options.size**2 / 1e6 / seconds
        print(f"| {name} | {seconds:.0f} | {rate:.2f} | {peak / 1e9:.2f} | {most:.0f} | {smooth:.3f} |", flush=True)


if __name__ == "__main__":
    main()
