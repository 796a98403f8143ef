"""Ronneberger et al. 2015, section 3.1: which part of the augmentation does what, with few images?

    python benchmarks/papers/unet_augmentation.py --data DIR --out FOLDER [--images 5] [--seeds 0,1] [--rows ...] [--steps N ...]

The same small U-Net learns the membranes of isbi2012-em from a few labelled sections (a tenth of them, one at least, validates):
without augmentation, with the paper's parts added one after another, and with all of them but one. The parts: "rotation" is
shift, flips and rotation by any angle; "gray" is contrast, brightness and gamma; "elastic" is a deformation on a 3 x 3 grid with
a sigma of 10 pixels. On the five test sections: share of wrong pixels and Rand error at the threshold 0.5, means over the
sections. "Against all" is of the pixel error: an ordering counts only where the means differ by more than the seeds do. A run
that is done is not done again; one that was killed goes on.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))
from experiment import (
    Budget,
    Claim,
    Figures,
    add_budget,
    add_folders,
    budget_of,
    copied,
    evaluate,
    files_of,
    kept,
    lesson,
    numbers,
    ordering,
    predict,
    shown,
    spread_out,
    table,
    train,
)
from machine import machine

SET = "isbi2012-em"
DEFAULT = Budget(steps=600, batch=2, crop=256, depth=4, filters=16)
PARTS = {
    "rotation": (["--shift", "--flip", "--rotate", "180"], ["--no-shift", "--no-flip", "--rotate", "0"]),
    "gray": (["--gray", "0.15"], ["--gray", "0"]),
    "elastic": (["--elastic", "10"], ["--elastic", "0"]),
}
"""The words that switch each part on, and off."""
OTHERS = ["--scale", "1", "--noise", "0", "--blur", "0"]
"""What i2i has beyond the paper is off in all rows."""
ALL = tuple(PARTS)
ROWS = ((), ("rotation",), ("rotation", "gray"), ALL, ("gray", "elastic"), ("rotation", "elastic"))
HEAD = ["augmentation", "labelled images", "pixel error", "against all", "Rand error", "minutes of training a run"]


def title(parts: Sequence[str]) -> str:
    """How a row is called: "rotation, gray (all but elastic)"."""
    left_out = [part for part in ALL if part not in parts]
    note = " (all)" if not left_out else f" (all but {left_out[0]})" if len(left_out) == 1 else ""
    return (", ".join(parts) or "none") + note


def parts_of(text: str) -> tuple[tuple[str, ...], ...]:
    """ "none,rotation+gray" -> ((), ("rotation", "gray")). Raises ``ValueError``, which argparse tells."""
    rows = [() if row == "none" else tuple(row.split("+")) for row in text.split(",")]
    if unknown := sorted({part for row in rows for part in row} - set(ALL)):
        raise ValueError(unknown[0])
    return tuple(rows)


def words_of(parts: Sequence[str]) -> list[str]:
    """The words of ``i2i train segment`` for augmentation by these parts alone."""
    return [word for part, (on, off) in PARTS.items() for word in (on if part in parts else off)] + OTHERS


def run(data: Path, out: Path, name: str, budget: Budget, parts: Sequence[str], images: int, seed: int) -> Figures:
    """One training, judged on the test split."""
    model = out / f"{name}.safetensors"
    part = copied(data / "train", out / f"em-{images}", spread_out(files_of(data / "train/images"), images))
    words = ["--target", "classes", "--loss", "cross-entropy", "--average", "0.98", "--seed", str(seed)]
    trained = train(model, part / "images", part / "masks", *words, *words_of(parts), *budget.words())
    predict(data / "test/images", out / name, model=str(model), as_="classes")
    found = evaluate(out / name, data / "test/masks", kind="regions")
    return {"pixel": found["mean_pixel_error"], "rand": found["mean_rand_error"], "seconds": trained["seconds"]}


def against(errors: Sequence[float], full: Sequence[float]) -> str:
    """What a row's errors are beside those with all parts."""
    return {-1: "lower", 0: "undecided", 1: "higher"}[ordering(errors, full)]


def row(parts: Sequence[str], images: int, runs: Sequence[Figures], full: Sequence[Figures]) -> list[str]:
    errors = [run["pixel"] for run in runs]
    compared = "-" if tuple(parts) == ALL or not full else against(errors, [run["pixel"] for run in full])
    minutes = shown([run["seconds"] / 60 for run in runs], 1)
    return [title(parts), str(images), shown(errors, 4), compared, shown([run["rand"] for run in runs], 4), minutes]


def claims(found: Mapping[tuple[int, tuple[str, ...]], Sequence[Figures]]) -> list[Claim]:
    """That what a row adds to the largest row before it, of those with the paper's parts in their order, makes the error
    smaller."""
    errors = {key: [run["pixel"] for run in runs] for key, runs in found.items()}
    made = []
    for (images, more), runs in errors.items():
        fewer = [less for count, less in errors if count == images and len(less) < len(more) and more[: len(less)] == less]
        if fewer and more == ALL[: len(more)]:
            less = max(fewer, key=len)
            text = f"of {images} images, {' and '.join(more[len(less) :])} after {', '.join(less) or 'nothing'}: a smaller error"
            made.append(Claim(text, "pixel error", errors[images, less], runs))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_folders(parser, SET)
    parser.add_argument("--images", type=numbers, default=(5,), help="numbers of labelled sections, of 21 (default: 5)")
    parser.add_argument("--seeds", type=numbers, default=(0, 1), help="of the runs of each row (default: 0,1)")
    parser.add_argument("--rows", type=parts_of, default=ROWS, help="such as none,rotation+gray (default: six rows)")
    add_budget(parser, DEFAULT)
    asked = parser.parse_args()
    data, budget = asked.data / SET, budget_of(asked)
    files_of(data / "train/images")
    found: dict[tuple[int, tuple[str, ...]], list[Figures]] = {(n, parts): [] for n in asked.images for parts in asked.rows}
    for seed in asked.seeds:
        for (images, parts), runs in found.items():
            name = f"augmentation-{'+'.join(parts) or 'none'}-{images}-seed-{seed}"
            settings = {"set": SET, "parts": parts, "images": images, "seed": seed, "budget": str(budget)}
            make = partial(run, data, asked.out, name, budget, parts, images, seed)
            runs.append(kept(asked.out, name, settings, make))
    print(f"{machine()}; {SET}; {budget}; seeds {', '.join(map(str, asked.seeds))}\n")
    rows = [row(parts, images, runs, found.get((images, ALL), [])) for (images, parts), runs in found.items()]
    print(f"{table(HEAD, rows)}\n\n{lesson(claims(found))}")


if __name__ == "__main__":
    main()
