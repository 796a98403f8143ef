"""A model that cleans fluorescence, such as `denoise-fluo`, on images with noise of three strengths, beside classical methods.

    python benchmarks/translate_denoise.py --images DIR --out FOLDER [--model denoise-fluo] [--limit N] [--photons 100 30 10]

DIR holds clean grey images of 8 bits that the model was not made from. They are given noise by `examples/training/fluo_noise.py`:
so many photons in the brightest places, read noise of 3. PSNR and SSIM (`i2i eval translate`: the range is that of each clean
image) are means over the images. A Gaussian filter (SciPy) is tried with several sigmas, and non-local means (scikit-image, in
its fast mode, patches of 5, a search of 6 pixels around) with several strengths, in terms of the noise that the
differences of neighbours have (their median); of each, the setting that is best on these very images is shown, which
favours them.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from experiment import evaluate, files_of, kept, predict, say, table
from machine import machine

NOISE = Path(__file__).parents[1] / "examples/training/fluo_noise.py"
SIGMAS = (0.7, 1.0, 1.5, 2.0, 3.0, 4.0)
STRENGTHS = (0.7, 1.0, 1.5, 2.2)
BAR = 1.0


def gaussian(pixels: Any, sigma: float) -> Any:
    from scipy import ndimage

    return ndimage.gaussian_filter(pixels, sigma)


def non_local_means(pixels: Any, strength: float) -> Any:
    from skimage.restoration import denoise_nl_means

    noise = float(np.median(np.abs(np.diff(pixels, axis=1)))) / (0.6745 * 2**0.5)
    return denoise_nl_means(pixels, patch_size=5, patch_distance=6, h=strength * noise, sigma=noise, fast_mode=True)


METHODS: dict[str, tuple[Callable[[Any, float], Any], tuple[float, ...]]] = {
    "Gaussian filter": (gaussian, SIGMAS), "non-local means": (non_local_means, STRENGTHS),
}  # fmt: skip


def filtered(noisy: Path, out: Path, method: str, setting: float) -> Path:
    from PIL import Image

    out.mkdir(parents=True, exist_ok=True)
    for path in files_of(noisy):
        pixels = np.asarray(Image.open(path)).astype(np.float64)
        cleaned = METHODS[method][0](pixels, setting)
        Image.fromarray(np.rint(cleaned).clip(0, 65535).astype(np.uint16)).save(out / path.name)
    return out


def level(options: argparse.Namespace, photons: float) -> list[tuple[str, float, float]]:
    """(method, PSNR, SSIM) of each."""
    here = options.out / f"photons-{photons:g}"
    if not (here / "clean").exists():
        subprocess.run([sys.executable, str(NOISE), str(options.images), str(here), "--photons", str(photons)], check=True)
        for path in files_of(here / "clean")[options.limit :]:
            path.unlink()
            (here / "noisy" / path.name).unlink()
    clean, noisy = here / "clean", here / "noisy"

    def score(name: str, folder: Callable[[], Path]) -> tuple[float, float]:
        found = kept(here, name, {"images": len(files_of(clean))}, lambda: evaluate(folder(), clean, "translate"))
        return found["psnr"], found["ssim"]

    def cleaned() -> Path:
        predict(noisy, here / "model", "translate", model=options.model)
        return here / "model"

    rows = [("as it is", *score("noisy", lambda: noisy))]
    for name, (_, settings) in METHODS.items():
        slug = name.split()[0].lower()
        make = partial(filtered, noisy, here / slug, name)
        tried = {one: score(f"{slug}-{one:g}", partial(make, one)) for one in settings}
        best = max(tried, key=lambda one: tried[one][0])
        rows.append((f"{name}, {best:g}", *tried[best]))
        say(f"{photons:g} photons: {rows[-1]}")
    return [*rows, (Path(options.model).stem, *score(f"model-{Path(options.model).stem}", cleaned))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="denoise-fluo")
    parser.add_argument("--limit", type=int, default=10**6, help="so many images at most")
    parser.add_argument("--photons", type=float, nargs="+", default=[100, 30, 10])
    options = parser.parse_args()
    rows, missed = [], []
    for photons in options.photons:
        found = level(options, photons)
        rows += [[f"{photons:g}", name, f"{psnr:.2f}", f"{ssim:.3f}"] for name, psnr, ssim in found]
        others = [max(column) for column in list(zip(*found[:-1], strict=True))[1:]]
        if found[-1][1] < others[0] + BAR or found[-1][2] <= others[1]:
            missed.append(f"{photons:g}")
    count = len(files_of(options.out / f"photons-{options.photons[0]:g}/clean"))
    print(f"{machine()}; {count} images\n")
    print(table(["photons", "method", "PSNR, dB", "SSIM"], rows))
    if missed:
        sys.exit(f"not {BAR:g} dB above the best of the others with {', '.join(missed)} photons")


if __name__ == "__main__":
    main()
