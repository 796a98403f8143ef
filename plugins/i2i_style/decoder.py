"""From the encoder's answers back to a picture: the inverse network of Chen and Schmidt, "Fast Patch-based Style Transfer of
Arbitrary Style" (2016), section 4. It has no normalisation of its own: it is a function of what lies around a pixel, and nothing
else. Trained to turn answers into the picture that they are of, it knows no style, and so takes any.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

LAYER = "conv3_4"
"""Of the encoder: the one whose answers the decoder sees, at a quarter of the picture's size."""


@dataclass(frozen=True)
class DecoderConfig:
    """``seen``: channels of the layer that it sees; ``levels``: of its own on the way up to the picture: strides 4, 2 and 1."""

    seen: int = 128
    levels: tuple[int, int, int] = (128, 64, 32)

    def as_mapping(self) -> dict[str, Any]:
        return {"seen": self.seen, "levels": list(self.levels)}

    @staticmethod
    def from_mapping(values: Mapping[str, Any]) -> DecoderConfig:
        """Raises ``ValueError``, ``KeyError`` or ``TypeError`` for what :meth:`as_mapping` could not have given."""
        seen = int(values["seen"])
        first, second, third = (int(width) for width in values["levels"])
        if not all(1 <= width <= 4096 for width in (seen, first, second, third)):
            raise ValueError("a layer of the decoder has 1 to 4096 channels")
        return DecoderConfig(seen, (first, second, third))


class Decoder(nn.Module):
    """Convolutions of 3 x 3 with zero padding, nearest neighbours on the way up. ``REACH``: pixels to each side that it sees,
    beyond the positions of the layer: 2 + 2 * 2, up to the next position of 4, and 3 * 4."""

    REACH = 20

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        first, second, third = config.levels
        self.at_quarter = nn.ModuleList([_conv(config.seen, first), _conv(first, first), _conv(first, second)])
        self.at_half = nn.ModuleList([_conv(second, second), _conv(second, third)])
        self.at_whole = nn.ModuleList([_conv(third, third)])
        self.leave = _conv(third, 3)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                module.bias = nn.Parameter(torch.zeros(module.out_channels))
        self.leave.weight.data *= 0.1

    def forward(self, values: Tensor) -> Tensor:
        """Answers (N, C, h, w) -> pictures (N, 3, 4h, 4w) float32, RGB, about 0 .. 1."""
        for stage, last in ((self.at_quarter, False), (self.at_half, False), (self.at_whole, True)):
            for convolution in stage:
                values = functional.relu(convolution(values), inplace=True)
            values = values if last else functional.interpolate(values, scale_factor=2, mode="nearest")
        picture: Tensor = self.leave(values).float() + 0.5  # added in fp32: bf16 has steps of a grey level around 1, not 0
        return picture


def _conv(channels_in: int, channels: int) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels, 3, padding=1)
