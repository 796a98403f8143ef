"""Isola et al. 2017, section 4.4 and table 3: how much the discriminator sees.

    python benchmarks/papers/pix2pix_patch.py --data DIR --out FOLDER [--steps 3000] [--filters 32] [--seeds 0,1]

Labels to facades with L1 + cGAN and patches of 1, 16, 70 and 286 pixels (`facade_cells.py` says what the figures are); the last
see more than an image of 128 pixels, so the discriminator judges the image as a whole. The paper's figures are of Cityscapes,
256 pixels a side: their order counts, not their size. An ordering counts only where the means differ by more than the seeds do.
A run that is done is not done again; one that was killed goes on.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))
from experiment import Claim, Figures, lesson
from facade_cells import Cell, figures_of, options, values

CELLS = {
    "1 x 1": Cell(patch=1, paper=(0.39, 0.15, 0.10)),
    "16 x 16": Cell(patch=16, paper=(0.65, 0.21, 0.17)),
    "70 x 70": Cell(patch=70, paper=(0.66, 0.23, 0.17)),
    "286 x 286": Cell(patch=286, paper=(0.42, 0.16, 0.11)),
}


def claims(found: Mapping[str, Sequence[Figures]]) -> list[Claim]:
    scored = {title: values(runs, "pixel_accuracy") for title, runs in found.items()}
    higher = [
        Claim(f"{more} scores higher than {less}", "per-pixel accuracy", scored[more], scored[less])
        for more in ("16 x 16", "70 x 70")
        for less in ("1 x 1", "286 x 286")
    ]
    sharp = {title: values(runs, "sharpness") for title, runs in found.items()}
    return [*higher, Claim("70 x 70 is sharper than 1 x 1", "sharpness", sharp["70 x 70"], sharp["1 x 1"])]


if __name__ == "__main__":
    print(lesson(claims(figures_of(CELLS, options(__doc__), "patch"))))
