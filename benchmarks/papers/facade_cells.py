"""What the scripts on pix2pix have in common: labels to facades on a small scale, a training for each cell of a table.

The photographs and labels of `facades`, at half their size; the paper's recipe but for the number of filters. The FCN-score
(Isola et al. 2017, section 4.1) is by a U-Net that learnt the classes of the labels from the training photographs; "sharpness" is
the mean steepness (Sobel) beside that of the photographs; "variety" how far answers to different labels are from each other
(mean absolute difference, neighbours by name), beside that of the photographs: a generator that ignores its input has none.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage

sys.path.append(str(Path(__file__).parents[1]))
from experiment import Figures, add_folders, evaluate, files_of, kept, numbers, predict, say, shown, table, train_task
from machine import machine
from translate_facades import SCORER, prepare

SET = "facades"
SIDE = 128
HEAD = ["per-pixel acc.", "per-class acc.", "class IoU", "SSIM", "sharpness", "variety", "paper", "minutes of training a run"]


@dataclass(frozen=True)
class Cell:
    """A row of a table. ``paper``: per-pixel accuracy, per-class accuracy and class IoU there, on Cityscapes."""

    loss: str = "l1+cgan"
    generator: str = "unet"
    patch: int = 70
    paper: tuple[float, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.generator}-{self.loss}-{self.patch if 'gan' in self.loss else 'alone'}"


def _halved(source: Path, out: Path) -> None:
    """The images of ``source`` at ``SIDE`` pixels; classes as they are, photographs and colours smoothly."""
    out.mkdir(parents=True, exist_ok=True)
    for path in files_of(source):
        smooth = Image.Resampling.NEAREST if source.name == "labels" else Image.Resampling.LANCZOS
        Image.open(path).resize((SIDE, SIDE), smooth).save(out / path.name)


def prepared(facades: Path, out: Path) -> Path:
    """The folder with ``train`` and ``test``, each with `photos`, `labels` and `maps`."""
    prepare(facades, out / "whole")
    for split in ("train", "test"):
        if not (out / split).exists():
            part = out / f"{split}.part"
            for kind in ("photos", "labels", "maps"):
                _halved(out / "whole" / split / kind, part / kind)
            part.rename(out / split)
    return out


def scorer(data: Path, out: Path, steps: int) -> Path:
    """Where the weights of the one that reads classes are; it is trained where it is not there."""
    model = out / "scorer.safetensors"
    if not model.exists():
        say("scorer")
        size = ["--depth", "5", "--filters", "16", "--crop", str(SIDE), "--batch", "16"]
        words = ["--images", str(data / "train/photos"), "--masks", str(data / "train/labels"), "--target", "classes"]
        every = ["--steps", str(steps), "--validate-every", str(max(1, steps // 4))]
        train_task(model, "segment", *words, *SCORER, *size, *every)
    return model


def _pixels(folder: Path) -> np.ndarray:
    """(images, SIDE, SIDE, 3), 0 .. 1."""
    return np.stack([np.asarray(Image.open(path).convert("RGB"), np.float32) / 255 for path in files_of(folder)])


def _looks(pictures: np.ndarray) -> tuple[float, float]:
    """Mean steepness, and mean difference between neighbours."""
    gray = pictures.mean(-1)
    steep = np.hypot(ndimage.sobel(gray, 1), ndimage.sobel(gray, 2)).mean()
    return float(steep), float(np.mean([np.abs(a - b).mean() for a, b in pairwise(pictures)]))


def judged(folder: Path, data: Path, model: Path) -> Figures:
    """The figures of a folder of answers to the labels of test."""
    found = evaluate(folder, data / "test/photos", "translate", scorer=str(model), labels=str(data / "test/labels"))
    (steep, apart), (true_steep, true_apart) = _looks(_pixels(folder)), _looks(_pixels(data / "test/photos"))
    taken = {name: found[name] for name in ("pixel_accuracy", "class_accuracy", "class_iou", "ssim")}
    return taken | {"sharpness": steep / true_steep, "variety": apart / true_apart}


def run(data: Path, out: Path, model: Path, cell: Cell, asked: argparse.Namespace, seed: int) -> Figures:
    """One training, judged on the test split."""
    name = f"{cell.name}-seed-{seed}"
    pairs = ["--source", str(data / "train/maps"), "--target", str(data / "train/photos")]
    network = ["--generator", cell.generator, "--filters", str(asked.filters), "--loss", cell.loss, "--patch", str(cell.patch)]
    learning = ["--crop", str(SIDE), "--steps", str(asked.steps), "--validate-every", str(max(1, asked.steps // 4))]
    trained = train_task(out / f"{name}.safetensors", "translate", *pairs, *network, *learning, "--seed", str(seed))
    shutil.rmtree(out / name, ignore_errors=True)
    predict(data / "test/maps", out / name, "translate", model=str(out / f"{name}.safetensors"))
    return judged(out / name, data, model) | {"seconds": trained["seconds"]}


def sheet(data: Path, out: Path, cells: Sequence[Cell], seed: int, count: int = 6) -> Path:
    """A row for each of some test images: labels, the answer of each cell, the photograph."""
    names = [path.name for path in files_of(data / "test/maps")]
    chosen = [names[number * len(names) // count] for number in range(count)]
    folders = [data / "test/maps", *(out / f"{cell.name}-seed-{seed}" for cell in cells), data / "test/photos"]
    rows = [np.concatenate([np.asarray(Image.open(folder / name).convert("RGB")) for folder in folders], 1) for name in chosen]
    path = out / f"sheet-{'-'.join(cell.name for cell in cells[:2])}.png"
    Image.fromarray(np.concatenate(rows)).save(path)
    return path


def shown_cell(runs: Sequence[Figures], paper: Sequence[float]) -> list[str]:
    figures = ("pixel_accuracy", "class_accuracy", "class_iou", "ssim", "sharpness", "variety")
    minutes = shown([run["seconds"] / 60 for run in runs], 1)
    told = " / ".join(f"{value:.2f}" for value in paper) or "-"
    return [*(shown([run[figure] for run in runs]) for figure in figures), told, minutes]


def options(doc: str) -> argparse.Namespace:
    """Of each of the scripts."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_folders(parser, SET)
    parser.add_argument("--steps", type=int, default=3000, help="of each training (default: 3000)")
    parser.add_argument("--filters", type=int, default=32, help="of the generator's first layer (default: 32)")
    parser.add_argument("--scorer-steps", type=int, default=1500, help="of the one that reads classes (default: 1500)")
    parser.add_argument("--seeds", type=numbers, default=(0, 1), help="of the runs of each row (default: 0,1)")
    asked = parser.parse_args()
    if not (asked.data / SET).is_dir():
        sys.exit(f"{asked.data / SET}: not there; --data names the folder that holds it")
    return asked


def figures_of(cells: Mapping[str, Cell], asked: argparse.Namespace, head: str) -> dict[str, list[Figures]]:
    """Those of each cell, a run for each seed, printed as a table; a run that is done is not done again."""
    data = prepared(asked.data / SET, asked.out)
    model = scorer(data, asked.out, asked.scorer_steps)
    found: dict[str, list[Figures]] = {title: [] for title in cells}
    for seed in asked.seeds:
        for title, cell in cells.items():
            settings: dict[str, Any] = {key: value for key, value in asdict(cell).items() if key != "paper"}
            settings |= {"steps": asked.steps, "filters": asked.filters, "scorer": asked.scorer_steps, "seed": seed}
            make = partial(run, data, asked.out, model, cell, asked, seed)
            found[title].append(kept(asked.out, f"{cell.name}-seed-{seed}", settings, make))
    truth = shown_cell([judged(data / "test/photos", data, model) | {"seconds": 0.0}], ())
    rows = [[title, *shown_cell(runs, cells[title].paper)] for title, runs in found.items()]
    recipe = f"{SIDE} x {SIDE} pixels, {asked.filters} filters, {asked.steps} steps of one pair"
    print(f"{machine()}; {SET}, {recipe}; seeds {', '.join(map(str, asked.seeds))}\n")
    print(table([head, *HEAD], [*rows, ["the photographs themselves", *truth[:-1], "-"]]) + "\n")
    say(f"labels, {', '.join(cells)}, photograph: {sheet(data, asked.out, list(cells.values()), asked.seeds[0])}")
    return found


def values(runs: Sequence[Figures], figure: str) -> list[float]:
    return [run[figure] for run in runs]
