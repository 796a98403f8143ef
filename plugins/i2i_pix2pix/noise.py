"""Drop-out, the noise z of Isola et al. 2017 (section 3.2), in training and for samples."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn


class Noise(nn.Dropout):
    """Evaluated, it is off, unless someone gives what draws it: ``draw(values)`` -> what is kept, times 1 / (1 - p), of the shape
    of the values."""

    draw: Callable[[Tensor], Tensor] | None = None

    def forward(self, values: Tensor) -> Tensor:
        return super().forward(values) if self.draw is None else values * self.draw(values)


class Sampled(nn.Module):
    """A generator, evaluated with noise that depends on nothing but the seed, the layer, the channel and the place in the image:
    windows that overlap draw the same.

    (N, channels + 2, H, W), of which the last two are the row and the column of each pixel. A window begins at multiples of the
    network's stride."""

    def __init__(self, network: nn.Module, seed: int) -> None:
        super().__init__()
        self.network = network
        self.seed = seed

    def forward(self, batch: Tensor) -> Tensor:
        corners = batch[:, -2:, 0, 0].to(torch.int32)
        for number, layer in enumerate(layer for layer in self.network.modules() if isinstance(layer, Noise)):
            layer.draw = partial(kept, share=layer.p, key=mixed_key(self.seed, number), corners=corners, height=batch.shape[2])
        answer: Tensor = self.network(batch[:, :-2].to(next(self.network.parameters()).dtype))
        return answer


def kept(values: Tensor, share: float, key: int, corners: Tensor, height: int) -> Tensor:
    """0 for about ``share`` of the values, 1 / (1 - share) for the others: (N, C, h, w) in their dtype. ``corners``: (N, 2)
    int32, row and column of each window's first pixel; ``height``: of the windows, whose pixels are ``height / h`` to a value."""
    factor = height // values.shape[2]
    rows, columns = (
        torch.div(corners[:, axis, None], factor, rounding_mode="floor")
        + torch.arange(values.shape[2 + axis], dtype=torch.int32, device=values.device)
        for axis in (0, 1)
    )
    places = _mixed(_mixed(rows + key)[:, :, None] + columns[:, None, :])
    channels = torch.arange(values.shape[1], dtype=torch.int32, device=values.device)
    number = _mixed(places[:, None] + _mixed(channels + 1)[:, None, None])
    return ((number & _MASK) >= share * (_MASK + 1)).to(values.dtype) / (1 - share)


_MASK = 2**24 - 1


def mixed_key(seed: int, number: int) -> int:
    """A signed number of 32 bits for a seed and a layer."""
    return int(_mixed(_mixed(torch.tensor([seed % 2**31], dtype=torch.int32)) + number))


def _mixed(numbers: Tensor) -> Tensor:
    """A hash of 32-bit integers, as int32: two rounds of shift and multiply, which wrap around (the constants are those of Chris
    Wellons' "lowbias32", public domain)."""
    numbers = numbers ^ (numbers >> 16 & 0xFFFF)
    numbers = numbers * 0x7FEB352D
    numbers = numbers ^ (numbers >> 15 & 0x1FFFF)
    numbers = numbers * (0x846CA68B - 2**32)
    return numbers ^ (numbers >> 16 & 0xFFFF)
