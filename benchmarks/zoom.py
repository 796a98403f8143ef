"""``--zoom``: an image of other pixels than the model knows, with and without it. The table of docs/segmentation.md, Scale.

    python benchmarks/zoom.py IMAGE TRUTH [--model NAME_OR_FILE] [--times N ...]

The image is made so many times larger beforehand, and its truth with it; the figure is AP at IoU 0.5.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import tifffile
from experiment import table

HEAD = ["times larger", "as it is", "with --zoom"]


def make(image: Path, truth: Path, times: float, folder: Path) -> tuple[Path, Path]:
    """The image and its labels, so many times as high and wide, as TIFF files."""
    from i2i.formats import open_image
    from i2i.formats.resample import Resampled, resampled

    paths = folder / "image.tif", folder / "truth.tif"
    with_pixels, with_labels = open_image(image), open_image(truth)
    seen = resampled(with_pixels, (times, times))
    spec = replace(with_labels.spec, height=seen.spec.height, width=seen.spec.width)
    for path, source in zip(paths, (seen, Resampled(with_labels, spec, (times, times), nearest=True)), strict=True):
        tifffile.imwrite(path, np.squeeze(source.read(source.spec.region)))
        source.close()
    return paths


def measure(image: Path, truth: Path, model: str, times: float) -> list[str]:
    """A row: AP without ``--zoom``, and with what undoes the enlargement."""
    from i2i import run
    from i2i.api import evaluate

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        larger, labels = make(image, truth, times, folder)
        found = []
        for zoom in (1.0, 1 / times):
            run("segment", larger, folder / "found.tif", model=model, zoom=zoom, precision="fp32", overwrite=True)
            found.append(evaluate("segment", folder / "found.tif", labels).pooled["ap50"])
    return [f"{times:.3g}", *(f"{ap:.3f}" for ap in found)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", type=Path)
    parser.add_argument("truth", type=Path)
    parser.add_argument("--model", default="nuclei-fluo")
    parser.add_argument("--times", type=float, nargs="+", default=[1, 2, 3, 1 / 2, 1 / 3])
    options = parser.parse_args()
    print(table(HEAD, [measure(options.image, options.truth, options.model, times) for times in options.times]))


if __name__ == "__main__":
    main()
