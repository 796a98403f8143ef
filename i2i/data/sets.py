"""What there is to learn from and what validates, and the digest that both are known by."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Generic, Self, TypeVar

import numpy as np
import torch
from torch import Tensor

from i2i.data.crops import Example
from i2i.errors import TrainingError

Kind = TypeVar("Kind", bound=Example)
AnyData = TypeVar("AnyData", bound="Data[Any]")


@dataclass(frozen=True)
class Data(Generic[Kind]):
    """What there is to ``learn`` from, and what is ``held`` back for validation. ``gray_as_rgb``: among images of three channels
    are gray ones, which were repeated."""

    learn: list[Kind]
    held: list[Kind]
    gray_as_rgb: bool = False

    def each(self, change: Callable[[Kind], Kind]) -> Self:
        """With every example changed."""
        return replace(self, learn=[change(one) for one in self.learn], held=[change(one) for one in self.held])

    @property
    def all(self) -> list[Kind]:
        return [*self.learn, *self.held]


def hold_back(examples: list[Kind], images: str, cure: str) -> Data[Kind]:
    """Every tenth image held back, of fewer than ten the last; all planes of a stack together, which are too alike to judge by
    one what was learnt from the next. Of one stack alone the last tenth. Raises ``TrainingError`` for one plane alone: it names
    ``images``, the folder, and states ``cure``."""
    names = list(dict.fromkeys(example.name for example in examples))
    if len(examples) < 2:
        raise TrainingError(f"{images}: one image alone; {cure}")
    if len(names) == 1:
        count = max(1, len(examples) // 10)
        return Data(examples[:-count], examples[-count:])
    chosen = names[9::10] or names[-1:]
    return Data([one for one in examples if one.name not in chosen], [one for one in examples if one.name in chosen])


def of_equal_channels(data: AnyData, images: str, gray_as_rgb: bool = False) -> AnyData:
    """With gray images among those of three channels repeated to three; all of them with ``gray_as_rgb``. Raises
    ``TrainingError`` that names ``images``, the folder, for other numbers of channels together."""
    found: dict[int, str] = {}
    for example in data.all:
        found.setdefault(example.image.shape[0], example.name)
    if len(found) == 1 and not (gray_as_rgb and 1 in found):
        return data
    if set(found) <= {1, 3}:
        return replace(data.each(lambda one: replace(one, image=one.image.expand(3, -1, -1))), gray_as_rgb=True)
    kinds = " and ".join(f"{count} ({found[count]})" for count in sorted(found))
    raise TrainingError(f"{images}: images of {kinds} channels; train on one kind")


def digest(examples: Sequence[Example]) -> str:
    """How many they are, and 16 hexadecimal digits of a hash of their names, sizes, pixels and truth; all but their weights,
    which are made from these."""
    found = hashlib.sha256()
    for example in examples:
        found.update(repr((example.name, tuple(example.image.shape))).encode())
        for tensor in (getattr(example, item.name) for item in fields(example) if item.name != "weights"):
            if isinstance(tensor, Tensor):
                plain = tensor if tensor.is_floating_point() else tensor.to(torch.int32)
                found.update(np.ascontiguousarray(plain.numpy()).data)
    return f"{len(examples)} images ({found.hexdigest()[:16]})"
