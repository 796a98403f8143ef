"""Ronneberger et al. 2015, section 3: do border weights keep touching cells apart?

    python benchmarks/papers/unet_border_weight.py --data DIR --out FOLDER [--weights 0,10] [--seeds 0,1,2] [--steps N ...]

The same small U-Net learns foreground and background of the nuclei in dsb2018-fluo by the paper's weighted cross entropy (with
the class weights w_c), with and without the weight w0 of the background between two cells, once for each seed. On the test split:
of the pairs of true nuclei at most 2 pixels apart, the share whose two nuclei are mostly in one predicted object. An ordering
counts only where the means differ by more than the seeds do. A run that is done is not done again; one that was killed goes on.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Mapping, Sequence
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
DEFAULT = Budget(steps=900, batch=8, crop=192, depth=4, filters=16)
HEAD = ["border weight w0", "touching pairs merged", "AP at IoU 0.5, mean over images", "minutes of training a run"]


def run(data: Path, out: Path, name: str, budget: Budget, weight: int, seed: int) -> Figures:
    """One training, judged on the test split."""
    model = out / f"{name}.safetensors"
    weights = ["--loss", "weighted", "--class-balance", "--border-weight", str(weight)]
    words = ["--target", "foreground", *weights, "--seed", str(seed), *budget.words()]
    trained = train(model, data / "train/images", data / "train/masks", *words)
    predict(data / "test/images", out / name, model=str(model))
    found = evaluate(out / name, data / "test/masks")
    return {
        "merged": found["merged_share"], "pairs": found["pairs"], "ap50": found["mean_ap50"],
        "seconds": trained["seconds"],
    }  # fmt: skip


def verdict(merged: Mapping[int, Sequence[float]]) -> str:
    """What the share of merged pairs with the largest weight says beside that with the least."""
    least, most = min(merged), max(merged)
    way = ordering(merged[most], merged[least])
    means = f"{statistics.fmean(merged[most]):.3f} against {statistics.fmean(merged[least]):.3f}"
    within = f"the spread over the seeds is {spread(merged[most], merged[least]):.3f}"
    if len(merged) < 2 or not way:
        return f"Undecided whether border weights keep touching nuclei apart: {means} of the pairs are merged, and {within}."
    fewer = "fewer" if way < 0 else "more"
    return f"With a border weight of {most} {fewer} touching nuclei are merged than with {least}: {means}; {within}."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_folders(parser, SET)
    parser.add_argument("--weights", type=numbers, default=(0, 10), help="w0 of the runs (default: 0,10)")
    parser.add_argument("--seeds", type=numbers, default=(0, 1, 2), help="of the runs with each weight (default: 0,1,2)")
    add_budget(parser, DEFAULT)
    asked = parser.parse_args()
    data, budget = asked.data / SET, budget_of(asked)
    files_of(data / "train/images")
    found: dict[int, list[Figures]] = {weight: [] for weight in asked.weights}
    for seed in asked.seeds:
        for weight in asked.weights:
            name = f"border-{weight}-seed-{seed}"
            settings = {"set": SET, "weight": weight, "seed": seed, "budget": str(budget)}
            figures = kept(asked.out, name, settings, partial(run, data, asked.out, name, budget, weight, seed))
            found[weight].append(figures)
    column = {
        name: {weight: [run[name] for run in runs] for weight, runs in found.items()} for name in ("merged", "ap50", "seconds")
    }
    pairs = int(next(iter(found.values()))[0]["pairs"])
    seeds = ", ".join(map(str, asked.seeds))
    print(f"{machine()}; {SET}, {pairs} pairs of touching nuclei in the test split; {budget}; seeds {seeds}\n")
    rows = [
        [str(weight), shown(column["merged"][weight]), shown(column["ap50"][weight]),
         shown([seconds / 60 for seconds in column["seconds"][weight]], 1)]
        for weight in found
    ]  # fmt: skip
    print(f"{table(HEAD, rows)}\n\n{verdict(column['merged'])}")


if __name__ == "__main__":
    main()
