"""Pictures between files and the optimisation: arrays (H, W, C) and tensors (1, 3, H, W)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from i2i.contracts import Array, Source
from i2i.formats.resample import resampled
from i2i.geometry import Region


def shrunk(source: Source, size: tuple[int, int]) -> Array:
    """The source's pixels at ``size``, (H, W, C) in its dtype."""
    spec = source.spec
    if size == (spec.height, spec.width):
        return source.read(spec.region)
    smaller = resampled(source, (size[0] / spec.height, size[1] / spec.width))
    return smaller.read(Region(0, 0, *size))


def shown(x: Tensor) -> Array:
    """(1, 3, H, W) -> (H, W, 3) uint8."""
    return (255 * x[0]).clamp_(0, 255).round_().to(torch.uint8).permute(1, 2, 0).cpu().numpy()


def to_tensor(picture: npt.NDArray[np.float32]) -> Tensor:
    """(H, W, 3) -> (1, 3, H, W)."""
    return torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1)))[None]


def to_array(x: Tensor) -> npt.NDArray[np.float32]:
    return x[0].permute(1, 2, 0).cpu().numpy()
