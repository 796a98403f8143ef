"""What a network learns: the classes that are made of masks, and how classes become objects again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from i2i.contracts import LabelRule
from i2i.data import Example
from i2i.errors import TrainingError

BACKGROUND, INTERIOR, BORDER = 0, 1, 2
CLASS_NAMES = ("background", "interior", "border")
LABEL_RULE = LabelRule(interior=INTERIOR, border=BORDER, dilate=2, min_area=8)


@dataclass(frozen=True)
class Target:
    """The classes by name; ``instances``: they are made from object ids, or are what the masks state."""

    class_names: tuple[str, ...]
    instances: bool

    @staticmethod
    def of(kind: str, examples: Sequence[Example]) -> Target:
        """``kind``: border, foreground or classes. Raises ``TrainingError`` for ids where classes are wanted, or the reverse."""
        most = max(int(example.truth.max()) for example in examples)
        if kind == "classes":
            if most > 255:
                raise TrainingError(f"--target classes: the masks hold ids up to {most}; object ids need --target border")
            return Target(tuple(f"class {i}" for i in range(1 + most)), False)
        if kind == "border" and not any(_several_ids(example.truth) for example in examples):
            raise TrainingError("--target border: no mask holds two ids; masks of one value need --target foreground or classes")
        return Target(CLASS_NAMES if kind == "border" else CLASS_NAMES[:2], True)

    @property
    def rule(self) -> LabelRule | None:
        if not self.instances:
            return None
        return LABEL_RULE if len(self.class_names) == 3 else replace(LABEL_RULE, border=None, dilate=0)

    @property
    def metric(self) -> str:
        """What validation is judged by: AP at IoU 0.5 of objects, mean IoU of classes."""
        return "ap50" if self.instances else "iou"

    def classes(self, truth: Tensor) -> Tensor:
        """(N, H, W) of what the masks state -> (N, H, W) int64 classes; background where the truth is ``IGNORED``."""
        truth = truth.clamp_min(0)
        if not self.instances:
            return truth.long()
        return interior_border(truth) if len(self.class_names) == 3 else separated(truth)


def _several_ids(truth: Tensor) -> bool:
    inside = truth[truth > 0]
    return bool(len(inside)) and bool((inside != inside[0]).any())


def _largest(labels: Tensor, side: int) -> Tensor:
    return functional.max_pool2d(labels, side, stride=1, padding=side // 2)


def _smallest_id(labels: Tensor, side: int) -> Tensor:
    nothing = torch.full_like(labels, torch.inf)
    return -_largest(-torch.where(labels > 0, labels, nothing), side)


def interior_border(labels: Tensor) -> Tensor:
    """Instance labels (N, H, W), 0 background -> classes (N, H, W) int64.

    Border is only where two objects come within 2 pixels of each other: the outermost pixels of the objects there, and the
    background between them. An object that stands alone is interior up to its rim, however small it is.
    """
    ids = labels[:, None].float()
    edge = (ids > 0) & ((_largest(ids, 3) != ids) | (-_largest(-ids, 3) != ids))
    near = (_largest(ids, 5) > 0) & (_largest(ids, 5) != _smallest_id(ids, 5))
    classes = torch.where(ids > 0, INTERIOR, BACKGROUND)
    return torch.where(near & (edge | (ids == 0)), BORDER, classes)[:, 0]


def separated(labels: Tensor) -> Tensor:
    """Instance labels (N, H, W), 0 background -> (N, H, W) int64: 1 in objects, 0 elsewhere. Where two objects touch, a line one
    pixel wide between them is background, as the paper's separation border (section 3), so that they stay two."""
    ahead = functional.pad(labels, (0, 1, 0, 1))
    touches = torch.zeros_like(labels, dtype=torch.bool)
    for other in (ahead[:, 1:, :-1], ahead[:, :-1, 1:]):
        touches |= (labels > 0) & (other > 0) & (other != labels)
    return ((labels > 0) & ~touches).long()
