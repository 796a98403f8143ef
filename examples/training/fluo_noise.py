"""Noisy images of clean ones, as a camera takes them in little light: pairs to learn denoising from, or to measure it on.

    python examples/training/fluo_noise.py IMAGES OUT [--draws 5]                      noise of all strengths, for training
    python examples/training/fluo_noise.py IMAGES OUT --photons 30 --read-noise 3      noise of one strength

IMAGES holds images of 8 bits; of coloured ones the luminance is taken. OUT gets two folders of equal names, `clean` and
`noisy`, of 16-bit PNG. The brightest places (the 99.9th percentile) send `photons` photons to a pixel; they are counted
(Poisson), and the camera's electronics add normal noise with a standard deviation of `read-noise` photons (Gaussian).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

PEDESTAL, BRIGHTEST = 1000, 8000
"""Numbers of a file for no light, which leaves room for noise below it, and for the brightest places above that."""
Pixels = npt.NDArray[np.float64]


def brightness(path: Path) -> Pixels:
    """(H, W): 0 is black, 1 the 99.9th percentile."""
    pixels = np.asarray(Image.open(path).convert("L"), np.float64)
    return pixels / max(1.0, float(np.percentile(pixels, 99.9)))


def noisy(clean: Pixels, photons: float, read_noise: float, random: np.random.Generator) -> Pixels:
    """What a camera makes of ``clean``."""
    return (random.poisson(clean * photons) + random.normal(0, read_noise, clean.shape)) / photons


def strength(random: np.random.Generator) -> tuple[float, float]:
    """Photons and read noise, drawn: of every five, one has normal noise alone (so many photons that they do not count)."""
    if random.random() < 0.2:
        return 1e6, 1e6 * float(np.exp(random.uniform(np.log(0.01), np.log(0.3))))
    return float(np.exp(random.uniform(np.log(6), np.log(300)))), random.uniform(0, 5)


def write(path: Path, pixels: Pixels) -> None:
    Image.fromarray(np.rint(PEDESTAL + BRIGHTEST * pixels).clip(0, 65535).astype(np.uint16)).save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--photons", type=float, help="where it is brightest; without it, drawn for each image")
    parser.add_argument("--read-noise", type=float, default=3.0, help="in photons, with --photons (default: 3)")
    parser.add_argument("--draws", type=int, default=1, help="noisy images of each clean one (default: 1)")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    paths = sorted(path for path in asked.images.iterdir() if path.suffix.lower() in (".png", ".tif", ".tiff", ".jpg"))
    if not paths:
        sys.exit(f"{asked.images}: no PNG, TIFF or JPEG in it")
    for kind in ("clean", "noisy"):
        (asked.out / kind).mkdir(parents=True, exist_ok=True)
    for number, path in enumerate(paths):
        clean = brightness(path)
        for draw in range(asked.draws):
            random = np.random.default_rng((asked.seed, number, draw))
            photons, read_noise = (asked.photons, asked.read_noise) if asked.photons else strength(random)
            name = f"{path.stem}-{draw}.png" if asked.draws > 1 else f"{path.stem}.png"
            write(asked.out / "clean" / name, clean)
            write(asked.out / "noisy" / name, noisy(clean, photons, read_noise, random))


if __name__ == "__main__":
    main()
