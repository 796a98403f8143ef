"""Ronneberger et al. 2015, section 3: do border weights keep touching cells apart? And does a third class, border?

    python benchmarks/papers/unet_border_weight.py --data DIR --out FOLDER [--weights 0,10] [--seeds 0,1,2] [--no-third] ...

The same small U-Net learns the nuclei in dsb2018-fluo by the paper's weighted cross entropy (with the class weights w_c), once
for each seed: as foreground and background, with and without the weight w0 of the background between two cells; and, with the
largest w0, in three classes, border being where two nuclei come within 2 pixels of each other. As in the paper, the foreground
target leaves a line of background one pixel wide between nuclei that touch. On the test split: of the pairs of true nuclei at
most 2 pixels apart, the share whose two nuclei are mostly in one predicted object; and AP at IoU 0.5. An ordering counts only
where the means differ by more than the seeds do. A run that is done is not done again; one that was killed goes on.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))
from experiment import (
    Budget,
    Figures,
    add_budget,
    add_folders,
    budget_of,
    evaluate,
    files_of,
    kept,
    numbers,
    ordering,
    predict,
    shown,
    spread,
    table,
    train,
)
from machine import machine

SET = "dsb2018-fluo"
DEFAULT = Budget(steps=600, batch=8, crop=192, depth=4, filters=16)
HEAD = ["target", "border weight w0", "touching pairs merged", "AP at IoU 0.5, mean over images", "minutes of training a run"]
TITLES = {"foreground": "foreground: 2 classes", "border": "border: 3 classes"}


@dataclass(frozen=True)
class Kind:
    """What a row of the table is trained with: the target, and w0."""

    target: str
    weight: int


def kinds_of(weights: Sequence[int], third: bool = True) -> list[Kind]:
    """Two classes with each weight, then three with the largest."""
    return [*(Kind("foreground", weight) for weight in weights), *([Kind("border", max(weights))] if third else [])]


def run(data: Path, out: Path, name: str, budget: Budget, kind: Kind, seed: int) -> Figures:
    """One training, judged on the test split."""
    model = out / f"{name}.safetensors"
    loss = ["--loss", "weighted", "--class-balance", "--border-weight", str(kind.weight)]
    words = ["--target", kind.target, *loss, "--seed", str(seed), *budget.words()]
    trained = train(model, data / "train/images", data / "train/masks", *words)
    predict(data / "test/images", out / name, model=str(model))
    found = evaluate(out / name, data / "test/masks")
    return {
        "merged": found["merged_share"], "pairs": found["pairs"], "ap50": found["mean_ap50"],
        "seconds": trained["seconds"],
    }  # fmt: skip


def of_weights(merged: Mapping[int, Sequence[float]]) -> str:
    """What the share of merged pairs with the largest weight says beside that with the least."""
    least, most = min(merged), max(merged)
    if least == most:
        return f"One border weight alone, {most}: nothing to compare it with."
    way = ordering(merged[most], merged[least])
    means = f"{statistics.fmean(merged[most]):.3f} against {statistics.fmean(merged[least]):.3f}"
    within = f"the spread over the seeds is {spread(merged[most], merged[least]):.3f}"
    if not way:
        return f"Undecided whether border weights keep touching nuclei apart: {means} of the pairs are merged, and {within}."
    fewer = "fewer" if way < 0 else "more"
    return f"With a border weight of {most} {fewer} touching nuclei are merged than with {least}: {means}; {within}."


def of_classes(three: Sequence[float], two: Sequence[float]) -> str:
    """What AP with three classes says beside that with two, both with the same weight."""
    difference = statistics.fmean(three) - statistics.fmean(two)
    within = f"the spread over the seeds is {spread(three, two):.3f}"
    if not (way := ordering(three, two)):
        return f"Undecided whether a third class helps: it changes AP at IoU 0.5 by {difference:+.3f}, and {within}."
    return f"With the third class AP at IoU 0.5 is {'higher' if way > 0 else 'lower'} by {abs(difference):.3f}; {within}."


def row(kind: Kind, runs: Sequence[Figures]) -> list[str]:
    merged, ap50 = (shown([run[name] for run in runs]) for name in ("merged", "ap50"))
    return [TITLES[kind.target], str(kind.weight), merged, ap50, shown([run["seconds"] / 60 for run in runs], 1)]


def conclusion(found: Mapping[Kind, Sequence[Figures]]) -> str:
    """What the rows say, in a sentence or two."""
    two = {kind.weight: runs for kind, runs in found.items() if kind.target == "foreground"}
    merged = {weight: [run["merged"] for run in runs] for weight, runs in two.items()}
    if Kind("border", max(two)) not in found:
        return of_weights(merged)
    three, beside = ([run["ap50"] for run in runs] for runs in (found[Kind("border", max(two))], two[max(two)]))
    return f"{of_weights(merged)} {of_classes(three, beside)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_folders(parser, SET)
    parser.add_argument("--weights", type=numbers, default=(0, 10), help="w0 of the runs with two classes (default: 0,10)")
    parser.add_argument("--seeds", type=numbers, default=(0, 1, 2), help="of the runs of each row (default: 0,1,2)")
    parser.add_argument("--third", action=argparse.BooleanOptionalAction, default=True, help="the row with the third class")
    add_budget(parser, DEFAULT)
    asked = parser.parse_args()
    data, budget = asked.data / SET, budget_of(asked)
    files_of(data / "train/images")
    found: dict[Kind, list[Figures]] = {kind: [] for kind in kinds_of(asked.weights, asked.third)}
    for seed in asked.seeds:
        for kind, runs in found.items():
            name = f"{kind.target}-{kind.weight}-seed-{seed}"
            settings = {"set": SET, "target": kind.target, "weight": kind.weight, "seed": seed, "budget": str(budget)}
            runs.append(kept(asked.out, name, settings, partial(run, data, asked.out, name, budget, kind, seed)))
    pairs = int(next(iter(found.values()))[0]["pairs"])
    seeds = ", ".join(map(str, asked.seeds))
    print(f"{machine()}; {SET}, {pairs} pairs of touching nuclei in the test split; {budget}; seeds {seeds}\n")
    print(f"{table(HEAD, [row(kind, runs) for kind, runs in found.items()])}\n\n{conclusion(found)}")


if __name__ == "__main__":
    main()
