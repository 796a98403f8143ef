"""From the encoder's answers back to a picture, and the step between them that changes the style.

Huang and Belongie, "Arbitrary Style Transfer in Real-time with Adaptive Instance Normalization" (ICCV 2017): the answers to
the content are given the mean and deviation of those to the style, channel by channel (equation 8), and a network makes a
picture of them. Theirs sees the answers of one layer; this one sees two, so that detail survives, and the content in the
style's colours, at a quarter of the size, to which it adds: it need not learn colours. It has no normalisation of its own
(their section 5.1): with the content's statistics known it is a function of what lies around a pixel, and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

LAYERS = ("conv3_4", "conv4_1")
"""Of the encoder: those whose answers the decoder sees, the finer first."""
_EPSILON = 1e-5
_VARIANCE = 1e-4
"""Added to all variances of colours: a colour that a picture hardly has is not made of its noise."""
COLOUR_STRIDE = 4
"""The decoder sees the colours averaged over squares of so many pixels."""


@dataclass(frozen=True)
class Statistics:
    """Mean and deviation of a layer's answers over positions, each (1 or N, C, 1, 1)."""

    mean: Tensor
    deviation: Tensor


def statistics(values: Tensor) -> Statistics:
    """Of (N, C, h, w), for each of N."""
    flat = values.float().flatten(2)
    variance, mean = torch.var_mean(flat, 2, correction=0)
    return Statistics(mean[..., None, None], (variance + _EPSILON).sqrt()[..., None, None])


def adain(values: Tensor, own: Statistics, wanted: Statistics) -> Tensor:
    """(N, C, h, w) answers with the statistics ``own`` -> with those ``wanted`` (equation 8)."""
    return ((values - own.mean) * (wanted.deviation / own.deviation) + wanted.mean).to(values.dtype)


@dataclass(frozen=True)
class Palette:
    """Mean (1 or N, 3) and covariance (1 or N, 3, 3) of the colours of pictures, RGB in 0 .. 1."""

    mean: Tensor
    covariance: Tensor


def palette(pictures: Tensor) -> Palette:
    """Of (N, 3, H, W), for each of N."""
    flat = pictures.float().flatten(2)
    mean = flat.mean(2)
    centred = flat - mean[..., None]
    return Palette(mean, centred @ centred.transpose(1, 2) / flat.shape[2])


def recoloured(pictures: Tensor, own: Palette, wanted: Palette, strength: float = 1.0) -> Tensor:
    """(N, 3, H, W) with the palette ``own`` -> with ``wanted``, cut off at 0 and 1: x -> A x + b, A = C_wanted^(1/2)
    C_own^(-1/2). Of it the share ``strength`` is taken, of the pictures as they are the rest."""
    matrix = _root(wanted.covariance, 0.5) @ _root(own.covariance, -0.5)
    matrix = strength * matrix + (1 - strength) * torch.eye(3, device=matrix.device)
    shift = strength * wanted.mean + (1 - strength) * own.mean - (matrix @ own.mean[..., None])[..., 0]
    flat = matrix @ pictures.float().flatten(2) + shift[..., None]
    return flat.clamp(0, 1).reshape(pictures.shape)


def _root(covariance: Tensor, power: float) -> Tensor:
    """A symmetric power of covariances (N, 3, 3)."""
    values, axes = torch.linalg.eigh(covariance.cpu().double())  # float64 is not everywhere
    found = (axes * (values.clamp_min(0) + _VARIANCE)[..., None, :] ** power) @ axes.transpose(-1, -2)
    return found.float().to(covariance.device)


@dataclass(frozen=True)
class DecoderConfig:
    """``channels``: of the two layers that it sees, and of the levels on the way up to the picture: strides 4, 2 and 1."""

    seen: tuple[int, int] = (128, 256)
    levels: tuple[int, int, int] = (128, 64, 32)

    def as_mapping(self) -> dict[str, Any]:
        return {"seen": list(self.seen), "levels": list(self.levels)}

    @staticmethod
    def from_mapping(values: Mapping[str, Any]) -> DecoderConfig:
        """Raises ``ValueError``, ``KeyError`` or ``TypeError`` for what :meth:`as_mapping` could not have given."""
        fine, coarse = (int(width) for width in values["seen"])
        first, second, third = (int(width) for width in values["levels"])
        if not all(1 <= width <= 4096 for width in (fine, coarse, first, second, third)):
            raise ValueError("a layer of the decoder has 1 to 4096 channels")
        return DecoderConfig((fine, coarse), (first, second, third))


class Decoder(nn.Module):
    """Convolutions of 3 x 3 with zero padding, nearest neighbours on the way up. ``REACH``: pixels to each side that it sees,
    beyond the positions of the coarse layer: 8 + 3 * 4 + 2 * 2 + 2."""

    REACH = 26

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        (fine, coarse), (first, second, third) = config.seen, config.levels
        self.enter = nn.Conv2d(coarse, first, 3, padding=1)
        self.at_quarter = nn.ModuleList([_conv(first + fine + 3, first), _conv(first, first), _conv(first, second)])
        self.at_half = nn.ModuleList([_conv(second, second), _conv(second, third)])
        self.at_whole = nn.ModuleList([_conv(third, third)])
        self.leave = nn.Conv2d(third, 3, 3, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                module.bias = nn.Parameter(torch.zeros(module.out_channels))
        self.leave.weight.data *= 0.1

    def forward(self, fine: Tensor, coarse: Tensor, colours: Tensor) -> Tensor:
        """Answers of the two layers, (N, C, 2h, 2w) and (N, C', h, w), and the content in the style's colours (N, 3, 8h, 8w) ->
        pictures (N, 3, 8h, 8w), RGB, about 0 .. 1."""
        values = _up(functional.relu(self.enter(coarse), inplace=True))
        below = functional.avg_pool2d(colours, COLOUR_STRIDE)
        values = torch.cat([values, fine, (4 * below - 2).to(fine.dtype)], 1)
        for stage, last in ((self.at_quarter, False), (self.at_half, False), (self.at_whole, True)):
            for convolution in stage:
                values = functional.relu(convolution(values), inplace=True)
            values = values if last else _up(values)
        blurred = functional.interpolate(below, scale_factor=COLOUR_STRIDE, mode="bilinear", align_corners=False)
        picture: Tensor = self.leave(values).to(blurred.dtype) + blurred  # in fp32: bf16 shows steps in smooth skies
        return picture


def _conv(channels_in: int, channels: int) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels, 3, padding=1)


def _up(values: Tensor) -> Tensor:
    return functional.interpolate(values, scale_factor=2, mode="nearest")
