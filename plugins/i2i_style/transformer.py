"""A network that gives pictures one style in one pass (Johnson, Alahi and Fei-Fei, "Perceptual Losses for Real-Time Style
Transfer and Super-Resolution", ECCV 2016, section 3.1), with instance normalisation (Ulyanov, Vedaldi and Lempitsky, "Improved
Texture Networks", CVPR 2017, section 3).

Two halvings, residual blocks at a quarter of the size, two doublings by nearest neighbour and a convolution, which leave no
checkerboard as transposed convolutions do. Beyond their edges its convolutions see their input mirrored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from i2i.errors import ModelError

STRIDE = 4
_WIDE = 9
LARGEST = {"channels": 256, "blocks": 32}


@dataclass(frozen=True)
class TransformerConfig:
    """``channels``: at full size; twice as many at half of it, four times at a quarter. ``blocks``: residual ones."""

    channels: int = 16
    blocks: int = 5

    def as_mapping(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)

    @classmethod
    def from_mapping(cls, values: Any) -> Self:
        """From a model file's header. Raises ``ModelError`` for anything but what :meth:`as_mapping` gives."""
        names = [item.name for item in fields(cls)]
        if not isinstance(values, Mapping) or set(values) != set(names):
            raise ModelError(f"transformer must be an object of {' and '.join(names)}")
        for name in names:
            value = values[name]
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= LARGEST[name]:
                raise ModelError(f"transformer: {name} {value!r} must be a whole number from 1 to {LARGEST[name]}")
        return cls(**values)

    @property
    def halo(self) -> int:
        """How far, in pixels, what a piece of the answer is made of reaches beyond it, where the piece begins and ends at
        multiples of 4, as cores do: counted back from the answer, layer by layer, the statistics left aside."""
        reach = _WIDE // 2
        for _ in range(2):
            reach = (reach + 2) // 2  # one more for the convolution, then half of it, rounded up
        reach += 2 * self.blocks
        for _ in range(2):
            reach = 2 * reach + 1
        return reach + _WIDE // 2


def _convolution(channels_in: int, channels: int, side: int, stride: int = 1, bias: bool = False) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels, side, stride, side // 2, bias=bias, padding_mode="reflect")


def _layer(channels_in: int, channels: int, side: int = 3, stride: int = 1, up: bool = False) -> nn.Sequential:
    """A convolution, of the input twice as large for ``up``, and its normalisation, which makes a bias of its own useless."""
    parts = [_convolution(channels_in, channels, side, stride), nn.InstanceNorm2d(channels, affine=True)]
    return nn.Sequential(*([nn.Upsample(scale_factor=2)] if up else []), *parts)


class Block(nn.Module):
    """Two layers whose answer is added to what they are given; no ReLU after that (Gross and Wilber 2016)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _layer(channels, channels)
        self.second = _layer(channels, channels)

    def forward(self, values: Tensor) -> Tensor:
        answer: Tensor = values + self.second(functional.relu(self.first(values), inplace=True))
        return answer


class Transformer(nn.Module):
    """(N, 3, H, W) RGB in 0 .. 1, H and W multiples of 4, at least 8 -> the same shape, RGB in 0 .. 1, in the weights' dtype."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        full, half, quarter = (config.channels * factor for factor in (1, 2, 4))
        down = [_layer(3, full, _WIDE), _layer(full, half, stride=2), _layer(half, quarter, stride=2)]
        self.down = nn.ModuleList(down)
        self.blocks = nn.ModuleList(Block(quarter) for _ in range(config.blocks))
        self.up = nn.ModuleList([_layer(quarter, half, up=True), _layer(half, full, up=True)])
        self.head = _convolution(full, 3, _WIDE, bias=True)

    def forward(self, image: Tensor) -> Tensor:
        values = image - 0.5
        for layer in self.down:
            values = functional.relu(layer(values), inplace=True)
        for block in self.blocks:
            values = block(values)
        for layer in self.up:
            values = functional.relu(layer(values), inplace=True)
        return torch.sigmoid(self.head(values))


def folded(network: Transformer) -> Transformer:
    """The network, frozen (:func:`i2i.frozen.frozen`), with its normalisation folded into the convolutions, and with zeros
    for mirrored pixels at the edges of what it sees: what differs lies within the halo. Changes ``network`` itself."""
    for layer in [part for part in network.modules() if isinstance(part, nn.Sequential)]:
        convolution, norm = layer[-2], layer.pop(-1)
        assert isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
        layer[-1] = fuse_conv_bn_eval(convolution, norm)
    for part in network.modules():
        if isinstance(part, nn.Conv2d):
            part.padding_mode = "zeros"
    return network
