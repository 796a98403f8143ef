"""Training on photographs from random weights: it runs, its losses fall, and COCO's figures can be had of it.

    python benchmarks/instances_coco_sample.py --data DIR --out FOLDER [--minutes 10] [--category person]

DIR is the data set coco-sample: ``train/images`` with ``train/instances.json`` (COCO JSON), ``test/images`` and ``test/masks``
with a list of what they hold. A compact Mask R-CNN (ResNet-18, three stages) learns one category for about so many minutes,
finds its objects in the images of test, and is judged by COCO's average precision. 83 photographs are far too few for a good
detector: what is shown is that every loss falls, and that the files go through. The model is kept in FOLDER, and goes on with
more minutes."""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from coco_sample import converted
from experiment import I2I, say, table
from machine import machine

FIRST = 10
"""Steps that tell how long one takes."""
TERMS = ("rpn_objectness", "rpn_box", "cls", "box", "mask", "loss")
NETWORK = ["--stages", "3", "--width", "96", "--box-width", "256", "--mask-width", "96"]
FIGURES = ("mask_ap", "mask_ap50", "mask_ap75", "box_ap", "box_ap50", "box_ap75", "mask_ar100", "true", "detections")


def call(*words: str) -> dict[str, Any]:
    """What ``i2i`` writes as JSON. Ends the program where it fails."""
    done = subprocess.run([*I2I, *words, "--json"], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"i2i {words[0]} ended with {done.returncode}")
    return json.loads(done.stdout)


def train(data: Path, model: Path, category: str, steps: int, crop: int, batch: int) -> None:
    """Goes on with what is there."""
    images = ["--images", str(data / "train/images"), "--coco", str(data / "train/instances.json"), "--category", category]
    learning = ["--steps", str(steps), "--crop", str(crop), "--batch", str(batch), "--validate-every", "200", "--rotate", "10"]
    call("train", "instances", *images, *NETWORK, *learning, "--elastic", "0", "--average", "0.98", "-o", str(model), "--resume")


def recorded(model: Path) -> list[dict[str, float]]:
    """The figures of each step so far."""
    path = model.with_name(f"{model.stem}-training") / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []


def steps_for(lines: Sequence[dict[str, float]], minutes: float) -> int:
    """How many fit, at the pace of the steps so far; the first is slower than the others."""
    pace = (lines[-1]["seconds"] - lines[0]["seconds"]) / max(1, len(lines) - 1)
    return max(len(lines), int(60 * minutes / pace))


def falling(lines: Sequence[dict[str, float]]) -> list[list[str]]:
    """Of each loss the mean over the first tenth of the steps and over the last."""
    part = max(1, len(lines) // 10)
    rows = []
    for name in TERMS:
        early, late = (statistics.fmean(line[name] for line in some) for some in (lines[:part], lines[-part:]))
        rows.append([name, f"{early:.3f}", f"{late:.3f}", "yes" if late < early else "no"])
    return rows


def evaluate(data: Path, model: Path, out: Path, category: str) -> dict[str, float]:
    """COCO's figures of the images of test."""
    truth, found = out / "truth.json", out / "found"
    truth.write_text(json.dumps(converted(data / "test", [category])), "utf-8")
    images = str(data / "test/images")
    rules = ["--model", str(model), "--score", "0.05", "--max-per-tile", "100"]  # as COCO counts
    call("instances", images, "-o", str(found / "labels"), "--coco", str(found / "coco"), *rules, "--overwrite", "-q")
    return call("eval", "instances", str(found / "coco"), str(truth))["pooled"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the data set coco-sample, with train and test")
    parser.add_argument("--out", type=Path, required=True, help="where the model and its results go")
    parser.add_argument("--minutes", type=float, default=10, help="of training (default: 10)")
    parser.add_argument("--category", default="person", help="what is learnt (default: person)")
    parser.add_argument("--crop", type=int, default=256, help="side of a crop, in pixels (default: 256)")
    parser.add_argument("--batch", type=int, default=4, help="crops in a step (default: 4)")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    model = asked.out / "model.safetensors"
    if len(recorded(model)) < FIRST:
        train(asked.data, model, asked.category, FIRST, asked.crop, asked.batch)
    steps = steps_for(recorded(model), asked.minutes)
    say(f"{steps} steps in about {asked.minutes:g} minutes")
    train(asked.data, model, asked.category, steps, asked.crop, asked.batch)
    lines = recorded(model)
    figures = evaluate(asked.data, model, asked.out, asked.category)
    print(
        f"{machine()}\n\n{len(lines)} steps of {asked.batch} crops of {asked.crop} in {lines[-1]['seconds'] / 60:.1f} minutes\n"
    )
    print(table(["loss", "first tenth", "last tenth", "falls"], falling(lines)))
    print()
    print(table(["figure", "value"], [[name, f"{figures[name]:.4g}"] for name in FIGURES if name in figures]))


if __name__ == "__main__":
    main()
