"""What the scripts on Faster and Mask R-CNN have in common: nuclei as COCO JSON, a small network, a training for each cell.

Nuclei under fluorescence (`dsb2018-fluo`) and in stained, bright-field micrographs (`dsb2018-brightfield`), a class each, in
folders of images with COCO JSON. A ResNet-18 with two stages and a narrow head starts from random weights. Judged are the images
of test: COCO's average precision of boxes and of masks, at most 300 objects an image.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

sys.path.append(str(Path(__file__).parents[1]))
from coco_sample import annotation, labels_of
from experiment import Figures, add_folders, evaluate, files_of, kept, numbers, predict, shown, table, train_task
from machine import machine

SETS = {"dsb2018-fluo": "fluorescence", "dsb2018-brightfield": "bright field"}
"""The name of a nucleus by the data set that it is in."""
NETWORK = ["--stages", "3", "--width", "64", "--box-width", "128", "--mask-width", "64"]
THEN = "then"
"""Between the words of two trainings, of which the second goes on with the network of the first."""
LARGEST = 400
"""Images with a longer side are left out: a few would be most of the work."""
FIGURES = {"box_ap50": "box AP at IoU 0.5", "box_ap": "box AP", "mask_ap50": "mask AP at IoU 0.5", "mask_ap": "mask AP"}


def _gathered(data: Path, sets: Sequence[str], split: str, folder: Path) -> None:
    """``folder/images`` and ``folder/objects.json`` from a split of the sets; a category each."""
    images: list[dict[str, Any]] = []
    objects: list[dict[str, Any]] = []
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for category, name in enumerate(sets, 1):
        for path in files_of(data / name / split / "images"):
            labels = labels_of(next((data / name / split / "masks").glob(f"{path.stem}.*")))
            if max(labels.shape) > LARGEST:
                continue
            shutil.copyfile(path, folder / "images" / path.name)
            images.append({"id": len(images) + 1, "file_name": path.name, "height": labels.shape[0], "width": labels.shape[1]})
            for instance in np.unique(labels[labels > 0]).tolist():
                found = annotation({"instance": instance, "category_id": category, "iscrowd": 0}, labels)
                objects.append({"id": len(objects) + 1, "image_id": len(images)} | found)
    categories = [{"id": number, "name": SETS[name]} for number, name in enumerate(sets, 1)]
    text = json.dumps({"images": images, "annotations": objects, "categories": categories})
    (folder / "objects.json").write_text(text, "utf-8")


def prepared(data: Path, sets: Sequence[str], out: Path) -> Path:
    """The folder with ``train`` and ``test``, each with ``images`` and ``objects.json``."""
    folder = out / f"data-{len(sets)}"
    for split in ("train", "test"):
        if not (folder / split).exists():
            part = folder / f"{split}.part"
            shutil.rmtree(part, ignore_errors=True)
            _gathered(data, sets, split, part)
            part.rename(folder / split)
    return folder


def stages_of(words: Sequence[str]) -> list[list[str]]:
    """["a", "then", "b"] -> [["a"], ["b"]]."""
    stages: list[list[str]] = [[]]
    for word in words:
        if word == THEN:
            stages.append([])
        else:
            stages[-1].append(word)
    return stages


def run(data: Path, out: Path, name: str, words: Sequence[str], size: Sequence[str]) -> Figures:
    """One training, or several of which each goes on with the network of the last, judged on the test split."""
    learn = ["--images", str(data / "train/images"), "--coco", str(data / "train/objects.json"), "--samples", "0"]
    stages = stages_of(words)
    start, seconds, model = NETWORK, 0.0, out / f"{name}.safetensors"
    for number, stage in enumerate(stages, 1):
        made = model if number == len(stages) else out / f"{name}-{number}.safetensors"
        seconds += train_task(made, "instances", *learn, *start, "--average", "0.98", *stage, *size)["seconds"]
        start = ["--from", str(made)]
    found = out / name
    shutil.rmtree(found, ignore_errors=True)
    rules = {"score": 0.05, "max_per_tile": 300, "coco": str(found / "coco")}
    predict(data / "test/images", found / "labels", "instances", model=str(model), **rules)
    figures = evaluate(found / "coco", data / "test/objects.json", "instances", max_detections=300)
    return {figure: figures[figure] for figure in FIGURES} | {"seconds": seconds}


def options(doc: str, sets: Sequence[str], steps: int, helped: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_folders(parser, " and ".join(sets))
    parser.add_argument("--steps", type=int, default=steps, help=f"{helped} (default: {steps})")
    parser.add_argument("--batch", type=int, default=4, help="crops in a step (default: 4)")
    parser.add_argument("--crop", type=int, default=128, help="side of a crop, in pixels (default: 128)")
    parser.add_argument("--seeds", type=numbers, default=(0, 1), help="of the runs of each row (default: 0,1)")
    asked = parser.parse_args()
    for name in sets:
        files_of(asked.data / name / "train/images")
    return asked


def figures_of(
    cells: Mapping[str, Sequence[str]], paper: Mapping[str, str], sets: Sequence[str], asked: argparse.Namespace, head: str
) -> dict[str, list[Figures]]:
    """Those of each cell, by the words of its training, a run for each seed, printed as a table beside the paper's."""
    data = prepared(asked.data, sets, asked.out)
    found: dict[str, list[Figures]] = {title: [] for title in cells}
    for seed in asked.seeds:
        for title, words in cells.items():
            name = f"{title.replace(' ', '-').replace(',', '')}-seed-{seed}"
            size = ["--batch", str(asked.batch), "--crop", str(asked.crop), "--seed", str(seed)]
            make = partial(run, data, asked.out, name, words, size)
            found[title].append(kept(asked.out, name, {"words": [*words, *size]}, make))
    rows = [
        [title, *(shown([each[figure] for each in runs]) for figure in FIGURES), paper.get(title, "-"),
         shown([each["seconds"] / 60 for each in runs], 1)]
        for title, runs in found.items()
    ]  # fmt: skip
    recipe = f"{asked.batch} crops of {asked.crop} x {asked.crop} a step"
    print(f"{machine()}; {', '.join(sets)}; {recipe}; seeds {', '.join(map(str, asked.seeds))}\n")
    print(table([head, *FIGURES.values(), "paper", "minutes of training a run"], rows) + "\n")
    return found
