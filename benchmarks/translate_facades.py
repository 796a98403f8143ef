"""Labels to facades: L1 + cGAN beside L1 alone, for as many steps; on data that they were not made for; a sheet to look at.

    python benchmarks/translate_facades.py --data DIR --out FOLDER [--steps 9000] [--scorer-steps 2400]

DIR holds `facades` (train/pairs, test/pairs: photographs left, labels right). L1 and SSIM are those of `i2i eval translate`; the
FCN-score is by a U-Net that `i2i train segment` makes from the training photographs and their labels (the colours of the label
halves, which are JPEG, are matched to the nearest of twelve, and the most frequent class within 5 x 5 pixels is taken). "truth"
is the score of the photographs themselves. "labels in other colours": the same labels with their colours exchanged, which the
model has never seen. What is trained is found in FOLDER and not trained again; a training that was killed goes on.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
from experiment import I2I, add_folders, evaluate, files_of, predict, say, table
from machine import machine
from PIL import Image
from scipy import ndimage

PALETTE = np.array(
    [[0, 0, 222], [0, 48, 255], [0, 128, 255], [1, 207, 255], [32, 255, 224], [112, 254, 142], [192, 255, 63], [255, 240, 1],
     [255, 159, 0], [255, 80, 0], [254, 0, 0], [174, 0, 1]], int
)  # fmt: skip
"""The colours of the classes, as they are found in flat places of the label halves."""
SCORER = [
    "--loss",
    "cross-entropy",
    "--no-flip",
    "--rotate",
    "5",
    "--elastic",
    "2",
    "--scale",
    "1.2",
    "--noise",
    "0.02",
    "--blur",
    "0.5",
]
"""How the one that reads classes learns: houses stand upright."""
SHOWN = 12
SIDE = 5


def prepare(facades: Path, out: Path) -> None:
    """``out/train`` and ``out/test``, each with `photos`, `labels` (class numbers) and `maps` (as they are), and `others`."""
    for split in ("train", "test"):
        if (out / split).exists():
            continue
        part = out / f"{split}.part"
        for kind in ("photos", "labels", "maps", "others"):
            (part / kind).mkdir(parents=True, exist_ok=True)
        for path in files_of(facades / split / "pairs"):
            both = np.asarray(Image.open(path).convert("RGB"))
            photo, colours = np.split(both, 2, axis=1)
            classes = np.square(colours[:, :, None].astype(int) - PALETTE).sum(-1).argmin(-1)
            shares = [ndimage.uniform_filter((classes == number).astype(np.float32), SIDE) for number in range(len(PALETTE))]
            classes = np.argmax(shares, axis=0).astype(np.uint8)
            kinds = {"photos": photo, "labels": classes, "maps": colours, "others": PALETTE[::-1][classes].astype(np.uint8)}
            for kind, pixels in kinds.items():
                Image.fromarray(pixels).save(part / kind / f"{path.stem}.png")
        part.rename(out / split)


def trained(model: Path, *words: str) -> Path:
    if not model.exists():
        say(model.stem)
        subprocess.run([*I2I, "train", *words, "-o", str(model), "--resume"], check=True)
    return model


def models(facades: Path, out: Path, steps: int, scorer_steps: int) -> dict[str, Path]:
    pairs = ["translate", "--pairs", str(facades / "train/pairs"), "--direction", "BtoA", "--filters", "32"]
    common = [*pairs, "--steps", str(steps), "--validate-every", str(max(1, steps // 20)), "--samples", "6"]
    seen = ["--images", str(out / "train/photos"), "--masks", str(out / "train/labels"), "--target", "classes"]
    made = ["--depth", "5", "--filters", "16", "--crop", "256", "--batch", "6", *SCORER,
            "--steps", str(scorer_steps), "--validate-every", str(max(1, scorer_steps // 4))]  # fmt: skip
    return {
        "l1+cgan": trained(out / "facade.safetensors", *common),
        "l1": trained(out / "facade-l1.safetensors", *common, "--loss", "l1"),
        "scorer": trained(out / "scorer.safetensors", "segment", *seen, *made),
    }


def sheet(out: Path, folders: list[Path]) -> None:
    """A row for each of some test images: the pictures of that name in the folders."""
    names = [path.name for path in files_of(folders[0])]
    chosen = [names[number * len(names) // SHOWN] for number in range(SHOWN)]
    rows = [np.concatenate([np.asarray(Image.open(folder / name).convert("RGB")) for folder in folders], 1) for name in chosen]
    Image.fromarray(np.concatenate(rows)).save(out / "sheet.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_folders(parser, "facades")
    parser.add_argument("--steps", type=int, default=9000)
    parser.add_argument("--scorer-steps", type=int, default=2400)
    options = parser.parse_args()
    facades, out = options.data / "facades", options.out
    if not facades.is_dir():
        sys.exit(f"{facades}: not there; --data names the folder that holds it")
    out.mkdir(parents=True, exist_ok=True)
    prepare(facades, out)
    made = models(facades, out, options.steps, options.scorer_steps)
    truth, labels = out / "test/photos", str(out / "test/labels")
    results = {"truth": truth}
    for name, loss, inputs in (
        ("L1 + cGAN", "l1+cgan", "maps"), ("L1 alone", "l1", "maps"), ("L1 + cGAN, labels in other colours", "l1+cgan", "others"),
    ):  # fmt: skip
        results[name] = out / f"results-{loss}-{inputs}"
        shutil.rmtree(results[name], ignore_errors=True)
        predict(out / "test" / inputs, results[name], "translate", model=str(made[loss]))
    rows = []
    for name, folder in results.items():
        found = evaluate(folder, truth, "translate", scorer=str(made["scorer"]), labels=labels, perceptual=True)
        figures = ("l1", "ssim", "perceptual", "pixel_accuracy", "class_accuracy", "class_iou")
        rows.append([name, *(f"{found[figure]:.3f}" for figure in figures)])
    sheet(out, [out / "test/maps", results["L1 + cGAN"], results["L1 alone"], truth])
    print(f"{machine()}; {len(files_of(truth))} test images; {options.steps} steps")
    print("sheet.png: labels, L1 + cGAN, L1 alone, truth\n")
    print(table(["result", "L1", "SSIM", "perceptual distance", "per-pixel acc.", "per-class acc.", "class IoU"], rows))


if __name__ == "__main__":
    main()
