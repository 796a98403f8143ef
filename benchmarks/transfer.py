"""The lecture's "results are specific for the training data": each model on the test splits of several data sets.

    python benchmarks/transfer.py --data DIR --out FOLDER [--model FILE ...] [--sets NAME,...]

The bundled models, and those given with --model. A model is only run where its channels allow it: to a model of one channel an
RGB image is given as its luminance, which this script makes; to an RGB model a gray image as it is, where the model was made for
that too. Each once as it is, and once inverted (a dark background becomes bright, and the reverse). The figure is AP at IoU 0.5,
mean over the images. What is done is kept in FOLDER, and not done again.
"""

from __future__ import annotations

import argparse
from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from experiment import Figures, add_folders, evaluate, files_of, kept, predict, table
from machine import machine

SETS = ("dsb2018-fluo", "dsb2018-brightfield", "fluo-ctc", "monuseg-he")
LUMA = np.array([0.299, 0.587, 0.114])
"""Of red, green and blue (ITU-R BT.601)."""
HEAD = ["model", "test split of", "images", "they are given", "AP at IoU 0.5, as they are", "inverted"]


def given(channels: Collection[int], takes: int, gray_as_rgb: bool) -> str | None:
    """How images of so many channels are given to a model that takes ``takes``; None where they are not."""
    if set(channels) == {takes}:
        return "unchanged"
    if takes == 1 and set(channels) <= {1, 3}:
        return "as luminance"
    if takes == 3 and set(channels) <= {1, 3} and gray_as_rgb:
        return "gray ones repeated"
    return None


def converted(pixels: np.ndarray, luminance: bool, inverted: bool) -> np.ndarray:
    """(H, W, C) unsigned -> (H, W, 1) where ``luminance`` is asked for and C is 3; the same dtype."""
    if luminance and pixels.shape[2] == 3:
        pixels = np.rint(pixels @ LUMA)[..., None].astype(pixels.dtype)
    return np.iinfo(pixels.dtype).max - pixels if inverted else pixels


def convert(images: Path, folder: Path, luminance: bool, inverted: bool) -> Path:
    """The images as TIFF files in ``folder``."""
    import tifffile

    from i2i.formats import open_image

    folder.mkdir(parents=True, exist_ok=True)
    for path in files_of(images):
        source = open_image(path)
        pixels = converted(source.read(source.spec.region), luminance, inverted)
        source.close()
        kind = "rgb" if pixels.shape[2] == 3 else "minisblack"
        plain = pixels if pixels.shape[2] == 3 else pixels[..., 0]
        tifffile.imwrite(folder / f"{path.stem}.tif", plain, photometric=kind, metadata=None)
    return folder


def channels_of(images: Path) -> list[int]:
    """Of each image in a folder."""
    from i2i.formats import open_image

    found = []
    for path in files_of(images):
        source = open_image(path)
        found.append(source.spec.channels)
        source.close()
    return found


def measure(test: Path, out: Path, model: str, name: str, luminance: bool) -> Figures:
    """AP at IoU 0.5 of the images as they are, and inverted."""
    found = {}
    for way, inverted in (("plain", False), ("inverted", True)):
        images = convert(test / "images", out / f"{test.parent.name}-{'gray-' * luminance}{way}", luminance, inverted)
        predict(images, out / f"{name}-{way}", model=model)
        found[way] = evaluate(out / f"{name}-{way}", test / "masks")["mean_ap50"]
    return found


def rows(data: Path, out: Path, sets: Collection[str], more: Collection[str]) -> list[list[str]]:
    from i2i.models import find_model
    from i2i_unet import i2i_models

    cards = i2i_models()
    lines = []
    for wanted in (*(card.name for card in cards), *more):
        model = find_model(wanted, "segment", cards)
        for name in sets:
            channels = channels_of(data / name / "test/images")
            how = given(channels, model.config["network"]["channels"], bool(model.config.get("gray_as_rgb")))
            line = [Path(wanted).stem, name, str(len(channels))]
            lines.append([*line, *(figures(data / name, out, wanted, model, how) if how else ["not at all", "-", "-"])])
    return lines


def figures(data: Path, out: Path, wanted: str, model: Any, how: str) -> list[str]:
    """The last columns of a row."""
    name = f"{Path(wanted).stem}-on-{data.name}"
    make = partial(measure, data / "test", out, wanted, name, how == "as luminance")
    found = kept(out, name, {"sha256": model.sha256, "given": how}, make)
    return [how, f"{found['plain']:.3f}", f"{found['inverted']:.3f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_folders(parser, ", ".join(SETS))
    parser.add_argument("--model", action="append", default=[], metavar="FILE", help="also this model; may be repeated")
    parser.add_argument("--sets", type=lambda text: tuple(text.split(",")), default=SETS, help="of data (default: all four)")
    asked = parser.parse_args()
    lines = rows(asked.data, asked.out, asked.sets, asked.model)
    print(f"{machine()}\n\n{table(HEAD, lines)}")


if __name__ == "__main__":
    main()
