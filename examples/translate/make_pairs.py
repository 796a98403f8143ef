"""Pairs of images for `i2i train translate`: grey or edges of photographs, or the halves of side-by-side files.

    python make_pairs.py gray PHOTOS OUT [--size 256]
    python make_pairs.py edges PHOTOS OUT [--size 256] [--sigma 2]
    python make_pairs.py split PAIRS OUT

`gray` and `edges` write OUT/train and OUT/test, each with `source` (what is made of the photographs) and `target` (they
themselves, with `--size` pixels on the shorter side): every tenth photograph is for the test. `split` writes OUT/A and OUT/B, the
left and the right halves, under the files' own names.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp")
HELD = 10
BLACK, WHITE = 0, 255


def pictures(folder: Path) -> list[Path]:
    found = [path for path in sorted(folder.glob("*")) if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")]
    if not found:
        sys.exit(f"{folder}: no images there; give a folder of {', '.join(SUFFIXES)}")
    return found


def opened(path: Path) -> Image.Image:
    try:
        return Image.open(path).convert("RGB")
    except (UnidentifiedImageError, OSError) as error:
        sys.exit(f"{path}: cannot be read ({error}); take it out of the folder")


def gray(photo: Image.Image) -> Image.Image:
    return photo.convert("L")


def edges(photo: Image.Image, sigma: float) -> Image.Image:
    """Black lines on white, as a pencil draws them (Canny 1986)."""
    from skimage.feature import canny

    found = canny(np.asarray(photo.convert("L"), np.float64) / WHITE, sigma=sigma)
    return Image.fromarray(np.where(found, BLACK, WHITE).astype(np.uint8))


def from_photos(photos: Path, out: Path, size: int, make: Callable[[Image.Image], Image.Image]) -> None:
    for number, path in enumerate(pictures(photos)):
        photo = opened(path)
        larger = size / min(photo.size)
        photo = photo.resize([max(size, round(length * larger)) for length in photo.size], Image.Resampling.LANCZOS)
        folder = out / ("test" if number % HELD == HELD - 1 else "train")
        for kind, picture in (("source", make(photo)), ("target", photo)):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            picture.save(folder / kind / f"{path.stem}.png")


def split(pairs: Path, out: Path) -> None:
    for path in pictures(pairs):
        both = opened(path)
        if both.width % 2:
            sys.exit(f"{path}: {both.width} pixels wide, which has no halves; a pair is two images of one size side by side")
        half = both.width // 2
        for kind, left in (("A", 0), ("B", half)):
            (out / kind).mkdir(parents=True, exist_ok=True)
            both.crop((left, 0, left + half, both.height)).save(out / kind / f"{path.stem}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="kind", required=True)
    for name in ("gray", "edges", "split"):
        kind = kinds.add_parser(name)
        kind.add_argument("folder", type=Path)
        kind.add_argument("out", type=Path)
        if name != "split":
            kind.add_argument("--size", type=int, default=256, help="of the shorter side, in pixels (default: 256)")
        if name == "edges":
            kind.add_argument("--sigma", type=float, default=2.0, help="more leaves out fine lines (default: 2)")
    asked = parser.parse_args()
    if asked.kind == "split":
        split(asked.folder, asked.out)
    elif asked.kind == "gray":
        from_photos(asked.folder, asked.out, asked.size, gray)
    else:
        from_photos(asked.folder, asked.out, asked.size, lambda photo: edges(photo, asked.sigma))


if __name__ == "__main__":
    main()
