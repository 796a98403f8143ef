"""Anchors from the data."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from i2i.errors import TrainingError
from i2i_maskrcnn.examples import ObjectExample, known_boxes

_ENDS = (0.05, 0.95)
_RATIOS = (0.15, 0.5, 0.85)
_SMALLEST, _SLIMMEST = 4.0, 0.2
"""A side in pixels, and the ratio of two sides, so that no anchor is rounded to nothing."""


def anchors_from(examples: Sequence[ObjectExample], levels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The sizes of the pyramid's levels, in pixels: from the one that an object in 20 does not reach to the one that an object in
    20 exceeds, in equal ratios. And up to three aspect ratios (height over width): those of the objects at the 15th, 50th and
    85th percentile. Raises ``TrainingError`` when there is no object."""
    boxes = torch.cat([torch.zeros(0, 4), *map(known_boxes, examples)]).double().numpy()
    if not len(boxes):
        raise TrainingError("the images hold no object: nothing can be learnt; look at --masks or --coco")
    sides = boxes[:, 2:] - boxes[:, :2]  # width, height
    low, high = np.quantile(np.sqrt(sides.prod(1)), _ENDS)
    sizes = np.geomspace(max(low, _SMALLEST), max(high, 2 * low, 2 * _SMALLEST), levels)
    ratios = np.quantile(sides[:, 1] / sides[:, 0], _RATIOS).clip(_SLIMMEST, 1 / _SLIMMEST)
    return tuple(round(float(size), 1) for size in sizes), tuple(sorted({round(float(one), 2) for one in ratios}))
