"""Ren et al. 2015 and 2017, section 3.2: ways to train proposals and detector with shared features.

    python benchmarks/papers/faster_rcnn_schemes.py --data DIR --out FOLDER [--steps 200] [--seeds 0,1] ...

Nuclei in `dsb2018-fluo` (`nuclei_cells.py` says how), by the same small network with RoIWarp, whose gradient to the boxes the
non-approximate way needs. `--steps` are those of each of the four steps of "alternating" and "four-step"; "unshared" is the
four-step way stopped after its second step, which leaves two networks; the joint ways take twice as many, so that proposals and
detector learn from as many batches as with four steps; the last row learns the approximate way for the first half of them. The
paper's figures are mAP on VOC 2007 with VGG-16. An ordering counts only where the means differ by more than the seeds do. A run
that is done is not done again; one that was killed goes on.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))
from experiment import Claim, Figures, lesson
from nuclei_cells import THEN, figures_of, options

SETS = ("dsb2018-fluo",)
PAPER = {
    "alternating": "69.9",
    "four-step": "69.9",
    "approximate joint": "70.0",
    "unshared": "68.5",
    "non-approximate joint": "none",
}


def cells_of(asked: argparse.Namespace) -> dict[str, list[str]]:
    """The words of each row's training."""

    def words(scheme: str, steps: int, *more: str) -> list[str]:
        return ["--scheme", scheme, "--roi", "warp", "--steps", str(steps), "--validate-every", str(steps), *more]

    return {
        "alternating": words("alternating", asked.steps),
        "four-step": words("four-step", asked.steps),
        "approximate joint": words("approximate-joint", 2 * asked.steps),
        "non-approximate joint": words("non-approximate-joint", 2 * asked.steps),
        "unshared": words("four-step", asked.steps, "--until-step", "2"),
        "approximate, then non-approximate joint": [
            *words("approximate-joint", asked.steps),
            THEN,
            *words("non-approximate-joint", asked.steps),
        ],
    }


def claims(found: Mapping[str, Sequence[Figures]]) -> list[Claim]:
    def above(more: str, less: str, note: str = "") -> Claim:
        score = {title: [run["box_ap50"] for run in found[title]] for title in (more, less)}
        return Claim(f"{more} is above {less}{note}", "box AP at IoU 0.5", score[more], score[less])

    minutes = {title: [run["seconds"] / 60 for run in runs] for title, runs in found.items()}
    return [
        *(above(title, "unshared") for title in ("alternating", "four-step", "approximate joint")),
        above("approximate joint", "alternating", " (about equal in the paper)"),
        above("non-approximate joint", "approximate joint", " (no figure in the paper)"),
        above("approximate, then non-approximate joint", "approximate joint", " (the same)"),
        Claim("alternating takes longer than approximate joint", "minutes", minutes["alternating"], minutes["approximate joint"]),
    ]


def main() -> None:
    asked = options(__doc__, SETS, 200, "of each step of alternating and four-step, half of those of the joint ways")
    print(lesson(claims(figures_of(cells_of(asked), PAPER, SETS, asked, "trained"))))


if __name__ == "__main__":
    main()
