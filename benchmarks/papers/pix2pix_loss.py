"""Isola et al. 2017, section 4.2 and table 1: what the loss does.

    python benchmarks/papers/pix2pix_loss.py --data DIR --out FOLDER [--steps 3000] [--filters 32] [--seeds 0,1]

Labels to facades by each of six losses, all else equal (`facade_cells.py` says what the figures are). The paper's figures are of
Cityscapes: their order counts, not their size. An ordering counts only where the means differ by more than the seeds do. A run
that is done is not done again; one that was killed goes on; the other scripts on pix2pix take the runs that they share.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))
from experiment import Claim, Figures, lesson
from facade_cells import Cell, figures_of, options, values

CELLS = {
    "L1": Cell("l1", paper=(0.42, 0.15, 0.11)),
    "L2": Cell("l2"),
    "GAN": Cell("gan", paper=(0.22, 0.05, 0.01)),
    "cGAN": Cell("cgan", paper=(0.57, 0.22, 0.16)),
    "L1 + GAN": Cell("l1+gan", paper=(0.64, 0.20, 0.15)),
    "L1 + cGAN": Cell("l1+cgan", paper=(0.66, 0.23, 0.17)),
}


def claims(found: Mapping[str, Sequence[Figures]]) -> list[Claim]:
    def above(text: str, figure: str, more: str, less: str) -> Claim:
        return Claim(text, f"{figure.replace('_', ' ')}", values(found[more], figure), values(found[less], figure))

    best = [
        above(f"L1 + cGAN scores higher than {other}", "pixel_accuracy", "L1 + cGAN", other)
        for other in found
        if other != "L1 + cGAN"
    ]
    blurred = [above(f"L1 + cGAN is sharper than {other}", "sharpness", "L1 + cGAN", other) for other in ("L1", "L2")]
    return [
        *best,
        *blurred,
        above("GAN alone follows its input less than cGAN", "class_iou", "cGAN", "GAN"),
        above("its answers vary less than cGAN's", "variety", "cGAN", "GAN"),
    ]


if __name__ == "__main__":
    print(lesson(claims(figures_of(CELLS, options(__doc__), "loss"))))
