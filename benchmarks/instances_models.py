"""A model of `i2i instances` on the test splits of its data: the figures of its card.

    python benchmarks/instances_models.py --data DIR [--data DIR] [--model nuclei] [--out FOLDER] [--no-tta]

Each DIR holds test/images and test/masks (object ids). In fp32, and in bf16 where the processor computes it; plain, and as the
mean over 8 flips and rotations (--tta). Rows that are done are kept in FOLDER, and not done again."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from experiment import Figures, evaluate, kept, predict, table
from machine import machine

FIGURES = {
    "mean_ap50": "AP at IoU 0.5, mean", "ap50": "pooled", "mean_ap": "AP over IoU 0.5-0.95, mean", "ap": "pooled",
    "mean_f1_50": "F1 at 0.5, mean", "f1_50": "pooled",
}  # fmt: skip
HEAD = ["data", "precision", "tta", "images", *FIGURES.values(), "seconds of computing"]


def measure(images: Path, truth: Path, out: Path, model: str, precision: str, tta: bool) -> Figures:
    seconds = predict(images, out, "instances", model=model, precision=precision, tta=tta)
    pooled = evaluate(out, truth, "instances")
    return {"images": pooled["images"], "seconds": sum(seconds)} | {figure: pooled[figure] for figure in FIGURES}


def measured(data: Path, out: Path, model: str, tta: bool) -> Iterator[list[str]]:
    """The rows of a data set, one after the other."""
    from i2i.backends import has_bf16
    from i2i.models import find_model
    from i2i_maskrcnn import i2i_models

    images, truth = data / "test/images", data / "test/masks"
    if not (images.is_dir() and truth.is_dir()):
        sys.exit(f"{data}: holds no test/images and test/masks; --data names a folder that does")
    sha256 = find_model(model, "instances", i2i_models()).sha256
    for turned in (False, True) if tta else (False,):
        for precision in ("fp32", "bf16") if has_bf16("cpu") else ("fp32",):
            name = f"{data.name}-{precision}{'-tta' if turned else ''}"
            settings = {"sha256": sha256, "images": str(images.resolve()), "precision": precision, "tta": turned}
            found = kept(out, name, settings, partial(measure, images, truth, out / name, model, precision, turned))
            figures = [f"{found[figure]:.3f}" for figure in FIGURES]
            yield [data.name, precision, "yes" if turned else "no", f"{found['images']:.0f}", *figures, f"{found['seconds']:.0f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        action="append",
        help="a folder that holds test/images and test/masks; may be repeated",
    )
    parser.add_argument("--model", default="nuclei", help="a name or a file (default: nuclei)")
    parser.add_argument("--out", type=Path, help="where predictions and figures go (default: a temporary folder)")
    parser.add_argument("--tta", action=argparse.BooleanOptionalAction, default=True, help="also with the 8 flips and rotations")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        rows = [row for data in asked.data for row in measured(data, asked.out or Path(temporary), asked.model, asked.tta)]
    print(f"{asked.model}; {machine()}\n\n{table(HEAD, rows)}")


if __name__ == "__main__":
    main()
