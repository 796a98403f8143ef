"""He et al. 2017, section 4.2 and table 2: masks by class, and the layer that cuts regions out of features.

    python benchmarks/papers/mask_rcnn_heads.py --data DIR --out FOLDER [--steps 400] [--seeds 0,1] ...

Nuclei under fluorescence and in bright field as two classes (`nuclei_cells.py` says how): with a sigmoid for each class, with a
softmax over the classes, and, with the sigmoid, by RoIAlign, RoIWarp and RoIPool. The paper's figures are mask AP on COCO. An
ordering counts only where the means differ by more than the seeds do. A run that is done is not done again; one that was killed
goes on.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))
from experiment import Claim, Figures, lesson
from nuclei_cells import SETS, figures_of, options

PAPER = {"sigmoid, RoIAlign": "30.3", "softmax, RoIAlign": "24.8", "sigmoid, RoIWarp": "27.1", "sigmoid, RoIPool": "26.9"}


def cells_of(asked: argparse.Namespace) -> dict[str, list[str]]:
    """The words of each row's training."""
    steps = ["--steps", str(asked.steps), "--validate-every", str(asked.steps)]
    return {
        title: ["--mask-loss", title.split(",")[0], "--roi", title.split("RoI")[1].lower(), *steps] for title in PAPER
    }  # fmt: skip


def claims(found: Mapping[str, Sequence[Figures]]) -> list[Claim]:
    score = {title: [run["mask_ap"] for run in runs] for title, runs in found.items()}
    pairs = (
        ("a sigmoid for each class is above a softmax", "sigmoid, RoIAlign", "softmax, RoIAlign"),
        ("RoIAlign is above RoIWarp", "sigmoid, RoIAlign", "sigmoid, RoIWarp"),
        ("RoIAlign is above RoIPool", "sigmoid, RoIAlign", "sigmoid, RoIPool"),
    )
    return [Claim(text, "mask AP", score[more], score[less]) for text, more, less in pairs]


def main() -> None:
    asked = options(__doc__, tuple(SETS), 400, "of each training")
    print(lesson(claims(figures_of(cells_of(asked), PAPER, tuple(SETS), asked, "mask loss, regions"))))


if __name__ == "__main__":
    main()
