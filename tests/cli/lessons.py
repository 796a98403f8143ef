"""What the tests train on: data and networks so small that a training takes a moment."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.cli.kit import blobs, picture, save

BRIEF = ["--crop", "32", "--batch", "2", "--precision", "fp32", "--validate-every", "3"]
TINY = ["--depth", "1", "--filters", "4", *BRIEF]
DATA = ["--images", "images", "--masks", "masks"]


def make_data(folder: Path) -> Path:
    """Six pictures of discs in ``images``, and their ids in ``masks``."""
    for number in range(6):
        save(folder / f"images/{number}.png", picture(64, 80, seed=number))
        save(folder / f"masks/{number}.tif", ids(number).astype(np.uint16))
    return folder


def ids(number: int) -> np.ndarray:
    return blobs(64, 80, seed=number)
