"""Isola et al. 2017, section 4.3 and table 2: skips in the generator.

    python benchmarks/papers/pix2pix_generator.py --data DIR --out FOLDER [--steps 3000] [--filters 32] [--seeds 0,1]

Labels to facades by the U-Net and by the encoder-decoder, which is the same without skips, each with L1 alone and with L1 + cGAN
(`facade_cells.py` says what the figures are). The paper's figures are of Cityscapes: their order counts, not their size. An
ordering counts only where the means differ by more than the seeds do. A run that is done is not done again; one that was killed
goes on.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))
from experiment import Claim, Figures, lesson
from facade_cells import Cell, figures_of, options, values

CELLS = {
    "encoder-decoder, L1": Cell("l1", "encoder-decoder", paper=(0.35, 0.12, 0.08)),
    "encoder-decoder, L1 + cGAN": Cell("l1+cgan", "encoder-decoder", paper=(0.29, 0.09, 0.05)),
    "U-Net, L1": Cell("l1", paper=(0.48, 0.18, 0.13)),
    "U-Net, L1 + cGAN": Cell("l1+cgan", paper=(0.55, 0.20, 0.14)),
}


def claims(found: Mapping[str, Sequence[Figures]]) -> list[Claim]:
    return [
        Claim(
            f"with {loss} the U-Net is above the encoder-decoder ({told})",
            told,
            values(found[f"U-Net, {loss}"], figure),
            values(found[f"encoder-decoder, {loss}"], figure),
        )
        for loss in ("L1", "L1 + cGAN")
        for figure, told in (("pixel_accuracy", "per-pixel accuracy"), ("class_iou", "class IoU"))
    ]


if __name__ == "__main__":
    print(lesson(claims(figures_of(CELLS, options(__doc__), "generator"))))
