"""What the trainings of the style encoder and of its decoder share: pictures, crops of them, and a line now and then."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional


def load_images(folders: Sequence[Path], left_out: Sequence[str], longest: int) -> list[Tensor]:
    """(3, H, W) uint8 RGB of all pictures in folders, at most ``longest`` pixels on their longer side."""
    paths = [path for folder in folders for path in sorted(folder.rglob("*")) if path.suffix.lower() in (".jpg", ".jpeg", ".png")]
    images = []
    for path in paths:
        if path.name not in left_out:
            picture = Image.open(path).convert("RGB")
            picture.thumbnail((longest, longest), Image.Resampling.LANCZOS)
            images.append(torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous())
    return images


def crop(image: Tensor, side: int, largest: float, random: np.random.Generator) -> Tensor:
    """(1, 3, side, side) in 0 .. 1, of a square up to ``largest`` times as large, mirrored or not."""
    shortest = min(image.shape[1:])
    taken = max(1, int(min(shortest, side * random.uniform(1, largest))))
    y, x = (int(random.integers(length - taken + 1)) for length in image.shape[1:])
    piece = image[None, :, y : y + taken, x : x + taken].float() / 255
    piece = functional.interpolate(piece, (side, side), mode="bilinear", antialias=True)
    return piece.flip(-1) if random.random() < 0.5 else piece


def show(step: int, steps: int, values: Mapping[str, float]) -> None:
    """A line each 50 steps, and for each validation, whose figures are more than the losses."""
    if step % 50 == 0 or {"agreement", "goodness"} & values.keys():
        print(step, steps, {name: round(value, 4) for name, value in values.items()}, file=sys.stderr, flush=True)
