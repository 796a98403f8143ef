"""A task for the fuzzer that takes any image and computes almost nothing: the mean of the channels, 0 .. 255."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import i2i
from i2i.contracts import DensePredictor, Footprint, ImageSpec, Output, Task

if TYPE_CHECKING:
    import torch

I2I_API = 1


@dataclass(frozen=True)
class NoOptions:
    """None."""


class Echo(DensePredictor):
    """The mean of the channels, with a halo, so that windows overlap."""

    def __init__(self) -> None:
        self.footprint = Footprint(halo=8)
        self.outputs = (Output("image", 1, "uint8", "image"),)

    def fitted(self, spec: ImageSpec) -> Self:
        fitted = copy.copy(self)
        fitted.footprint = Footprint(halo=8, channels_in=spec.channels)
        return fitted

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        return batch.mean(1, keepdim=True)


@i2i.hookimpl
def i2i_tasks() -> list[Task]:
    return [Task("echo", __doc__ or "", NoOptions, lambda options, model, runtime: Echo(), needs_model=False)]
