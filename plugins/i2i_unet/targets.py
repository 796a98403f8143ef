"""From instance masks to the classes that a network learns, and back."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from i2i.contracts import LabelRule

BACKGROUND, INTERIOR, BORDER = 0, 1, 2
CLASS_NAMES = ("background", "interior", "border")
LABEL_RULE = LabelRule(interior=INTERIOR, border=BORDER, dilate=2, min_area=8)


def _largest(labels: Tensor, side: int) -> Tensor:
    return functional.max_pool2d(labels, side, stride=1, padding=side // 2)


def _smallest_id(labels: Tensor, side: int) -> Tensor:
    nothing = torch.full_like(labels, torch.inf)
    return -_largest(-torch.where(labels > 0, labels, nothing), side)


def _several(labels: Tensor, side: int) -> Tensor:
    """Whether a square of ``side`` pixels around each pixel holds two objects or more."""
    return (_largest(labels, side) > 0) & (_largest(labels, side) != _smallest_id(labels, side))


def interior_border(labels: Tensor) -> Tensor:
    """Instance labels (N, H, W), 0 background -> classes (N, H, W) int64.

    Border is only where two objects come within 2 pixels of each other: the outermost pixels of the objects there, and the
    background between them. An object that stands alone is interior up to its rim, however small it is.
    """
    ids = labels[:, None].float()
    edge = (ids > 0) & ((_largest(ids, 3) != ids) | (-_largest(-ids, 3) != ids))
    near = _several(ids, 5)
    classes = torch.where(ids > 0, INTERIOR, BACKGROUND)
    return torch.where(near & (edge | (ids == 0)), BORDER, classes)[:, 0]


def between_objects(labels: Tensor) -> Tensor:
    """(N, H, W) bool: pixels within 3 of two objects, where a mistake merges them."""
    return _several(labels[:, None].float(), 7)[:, 0]
