"""3 x 3 convolutions, zero padding, stride 1: torch's own, which is quickest with channels last; or Winograd's.

Winograd's minimal filtering F(6 x 6, 3 x 3) multiplies a fifth as often as a direct convolution, and is right to 5e-6 of the
answers' norm (Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016). NNPACK has it, which comes with
torch's builds for x86 and ARM, in fp32 and with channels first. Its rounding depends on where in a piece of 6 x 6 a position is:
what is to be the same in every window is not computed by it.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

_LEAST_CHANNELS = 32
"""In: with fewer, transforming costs more than is saved."""
_TILE = 6
"""Side of the piece of answers that is made at once."""
WORKSPACE = 2**28
"""Bytes that NNPACK may take beside the answers, and then keeps. What would need more goes through in strips of rows."""


@cache
def _has_nnpack() -> bool:
    return bool(torch._nnpack_available())  # it must be asked before the first use


def can_winograd(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether torch has it, for numbers of that kind in that place."""
    return device.type == "cpu" and dtype == torch.float32 and _has_nnpack()


def convolve(values: Tensor, weight: Tensor, bias: Tensor | None = None, *, winograd: bool = False) -> Tensor:
    """(N, C, H, W), (D, C, 3, 3), (D,) -> (N, D, H, W); for ``winograd`` with channels first.

    Winograd's takes at most ``WORKSPACE`` bytes beside the answers, and does not give them back."""
    if not winograd or weight.shape[1] < _LEAST_CHANNELS:
        return functional.conv2d(values, weight.contiguous() if winograd else weight, bias, padding=1)
    return _winograd(values.contiguous(), weight.contiguous(), bias)


def halved(values: Tensor) -> Tensor:
    """(N, C, H, W), channels first -> (N, C, H / 2, W / 2), rounded down: means of 2 x 2. (torch's own takes three times as
    long with channels first.)"""
    height, width = (length // 2 * 2 for length in values.shape[2:])
    rows = values[:, :, 0:height:2] + values[:, :, 1:height:2]
    return (rows[..., 0:width:2] + rows[..., 1:width:2]).mul_(0.25)


def _winograd(values: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    height, width = values.shape[2:]
    rows = _rows(len(values) * sum(weight.shape[:2]), width)
    if rows >= height:
        return _nnpack(values, weight, bias)
    answers = values.new_empty((len(values), len(weight), height, width))
    for top in range(0, height, rows):
        first, last = max(0, top - 1), min(height, top + rows + 1)
        strip = _nnpack(values[:, :, first:last].contiguous(), weight, bias)
        answers[:, :, top : top + rows] = strip[:, :, top - first :][:, :, :rows]
    return answers


def _rows(channels: int, width: int) -> int:
    """Of answers that fit the workspace, which holds (6 + 2)^2 numbers for each 6 x 6 positions of what goes in and comes out."""
    each = 4 * channels * (_TILE + 2) ** 2 * -(-width // _TILE)
    return max(1, WORKSPACE // each) * _TILE - 2  # a row more above and below is computed, and left out


def _nnpack(values: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    _has_nnpack()
    return torch._nnpack_spatial_convolution(values, weight, bias, padding=1)
