"""A segmentation model on the test split of its data: the figures of its card.

    python benchmarks/segmentation_models.py --data DIR [--model nuclei-fluo] [--out FOLDER] [--no-tta]

DIR holds test/images and test/masks (object ids). Without --data: the bundled samples, which prove little. In fp32, and in bf16
where the processor computes it; plain, and as the mean over 8 flips and rotations (--tta). "Classes as in fp32": the share of the
pixels. Rows that are done are kept in FOLDER, and not done again.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from experiment import Figures, evaluate, files_of, kept, predict, table
from machine import machine

ROOT = Path(__file__).parents[1]
FIGURES = {
    "mean_ap50": "AP at IoU 0.5, mean", "ap50": "pooled", "mean_ap": "AP over IoU 0.5-0.95, mean", "ap": "pooled",
    "mean_f1_50": "F1 at 0.5, mean",
}  # fmt: skip
HEAD = ["precision", "tta", "images", *FIGURES.values(), "classes as in fp32", "seconds of computing"]


def same_classes(first: Path, second: Path) -> float:
    """The share of the pixels of two folders' images that are equal. ``ValueError`` where the folders differ."""
    from i2i.formats import open_image

    def pixels(path: Path):
        source = open_image(path)
        try:
            return source.read(source.spec.region)
        finally:
            source.close()

    pairs = [(pixels(a), pixels(b)) for a, b in zip(files_of(first), files_of(second), strict=True)]
    return sum(int((a == b).sum()) for a, b in pairs) / sum(a.size for a, _ in pairs)


def measure(images: Path, truth: Path, out: Path, model: str, precision: str, tta: bool) -> Figures:
    """The labels' figures; without ``tta`` also how many pixels have the class that they have in fp32."""
    name = f"{precision}{'-tta' if tta else ''}"
    seconds = predict(images, out / name, model=model, precision=precision, tta=tta)
    pooled = evaluate(out / name, truth)
    found = {"images": pooled["images"], "seconds": sum(seconds)} | {figure: pooled[figure] for figure in FIGURES}
    if not tta:
        predict(images, out / f"{name}-classes", model=model, precision=precision, as_="classes")
        found["same"] = same_classes(out / f"{name}-classes", out / "fp32-classes")
    return found


def row(precision: str, tta: bool, found: Figures) -> list[str]:
    same = f"{found['same']:.4%}" if "same" in found else "-"
    figures = [f"{found[name]:.3f}" for name in FIGURES]
    return [precision, "yes" if tta else "no", f"{found['images']:.0f}", *figures, same, f"{found['seconds']:.0f}"]


def measured(images: Path, truth: Path, out: Path, model: str, tta: bool) -> Iterator[list[str]]:
    """The rows of the table, one after the other."""
    from i2i.backends import has_bf16
    from i2i.models import find_model
    from i2i_unet import i2i_models

    sha256 = find_model(model, "segment", i2i_models()).sha256
    for turned in (False, True) if tta else (False,):
        for precision in ("fp32", "bf16") if has_bf16("cpu") else ("fp32",):
            settings = {"sha256": sha256, "images": str(images.resolve()), "precision": precision, "tta": turned}
            make = partial(measure, images, truth, out, model, precision, turned)
            name = f"{precision}{'-tta' if turned else ''}"
            yield row(precision, turned, kept(out, name, settings, make))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="the folder that holds test/images and test/masks")
    parser.add_argument("--model", default="nuclei-fluo", help="a name or a file (default: nuclei-fluo)")
    parser.add_argument("--out", type=Path, help="where predictions and figures go (default: a temporary folder)")
    parser.add_argument("--tta", action=argparse.BooleanOptionalAction, default=True, help="also with the 8 flips and rotations")
    asked = parser.parse_args()
    images = asked.data / "test/images" if asked.data else ROOT / "plugins/i2i_unet/samples"
    truth = asked.data / "test/masks" if asked.data else ROOT / "examples/data/nuclei-truth"
    files_of(images)
    with tempfile.TemporaryDirectory() as temporary:
        rows = list(measured(images, truth, asked.out or Path(temporary), asked.model, asked.tta))
    print(f"{machine()}; {asked.model}\n\n{table(HEAD, rows)}")


if __name__ == "__main__":
    main()
