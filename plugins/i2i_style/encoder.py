"""Encoders: the convolutions of a VGG, cut off after the last layer that is used, whose answers style and content are told by.

A layer is named as in the papers, ``conv3_1``: the answer of the first convolution of the third block, after its ReLU. Each
block but the first begins with a pooling by two. Gatys, Ecker and Bethge, "Image Style Transfer Using Convolutional Neural
Networks" (CVPR 2016), section 2: average pooling, no fully connected layers, and weights scaled so that the mean of each filter's
answers, over images and positions, is one; the network computes the same, for ReLU and pooling keep factors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from i2i.errors import ModelError, UsageError
from i2i_style.convolve import convolve, halved

Pooling = Literal["avg", "max"]
_LEAST = 0.02
"""The smallest mean that a filter's answers are divided by, as a share of the mean of its layer: one that hardly ever answers
would else count for as much as the others when it does."""


@dataclass(frozen=True)
class Layer:
    """One convolution: its name, channels in and out, and whether a pooling comes before it. ``stride``: image pixels for each of
    its positions; ``reach``: how far, in image pixels, what it sees goes beyond the pixels of its own position."""

    name: str
    channels_in: int
    channels: int
    pooled: bool
    stride: int
    reach: int


@dataclass(frozen=True)
class EncoderConfig:
    """``blocks``: the channels of each convolution (3 x 3, zero padding), block by block. ``mean``, ``std``: of RGB in 0 .. 1,
    which the network sees with the mean taken off and divided by the deviation. ``last``: the layer that it ends with; "" for
    all."""

    blocks: tuple[tuple[int, ...], ...]
    pooling: Pooling = "avg"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    last: str = ""

    @property
    def layers(self) -> tuple[Layer, ...]:
        """All convolutions in order, up to ``last``."""
        return tuple(self._layers())

    def _layers(self) -> Iterator[Layer]:
        stride, reach, before = 1, 0, 3
        for block, widths in enumerate(self.blocks, 1):
            for number, width in enumerate(widths, 1):
                pooled = block > 1 and number == 1
                stride *= 1 + pooled
                reach += stride
                yield Layer(name := f"conv{block}_{number}", before, width, pooled, stride, reach)
                before = width
                if name == self.last:
                    return

    def layer(self, name: str) -> Layer:
        """The layer of that name. Raises ``UsageError`` that lists the names there are."""
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise UsageError(f"the encoder has no layer {name}; there are: {', '.join(layer.name for layer in self.layers)}")

    def upto(self, names: Iterable[str]) -> EncoderConfig:
        """The encoder cut off after the last of the layers ``names``. Raises ``UsageError`` for a name it has not."""
        order = [layer.name for layer in self.layers]
        return replace(self, last=max((self.layer(name).name for name in names), key=order.index))

    def as_mapping(self) -> dict[str, Any]:
        return {"blocks": [list(block) for block in self.blocks], "pooling": self.pooling, "mean": self.mean, "std": self.std}


VGG19 = EncoderConfig(((64, 64), (128, 128), (256,) * 4, (512,) * 4, (512,) * 4))
"""Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition" (2014), table 1, column E."""
COMPACT = EncoderConfig(((16, 32), (64, 64), (128,) * 4))
"""The bundled encoder: a quarter of the channels of VGG-19's conv1_1, whose answers are of 27 numbers, half of the others'."""


class Encoder(nn.Module):
    """The convolutions of ``config``, from random weights (He et al. 2015) until some are loaded."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.convolutions = nn.ModuleDict(
            {layer.name: nn.Conv2d(layer.channels_in, layer.channels, 3, padding=1) for layer in config.layers}
        )
        for layer in config.layers:
            convolution = self.convolution(layer.name)
            nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
            convolution.bias = nn.Parameter(torch.zeros(layer.channels))
        self.register_buffer("mean", torch.tensor(config.mean).reshape(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config.std).reshape(1, 3, 1, 1), persistent=False)

    def convolution(self, name: str) -> nn.Conv2d:
        found = self.convolutions[name]
        assert isinstance(found, nn.Conv2d)
        return found

    def forward(self, image: Tensor, layers: Iterable[str], *, winograd: bool = False) -> dict[str, Tensor]:
        """(N, 3, H, W) RGB in 0 .. 1 -> the answers of the layers by name: (N, C, H / stride, W / stride), rounded down, not
        negative. What comes after the last of them is not computed. ``winograd``: see :mod:`i2i_style.convolve`."""
        wanted = set(layers)
        answers: dict[str, Tensor] = {}
        weights = self.convolution("conv1_1").weight
        values = ((image - self.mean) / self.std).to(weights.dtype)  # type: ignore[operator]
        values = values.contiguous() if winograd else values
        for layer in self.config.layers:
            if layer.pooled:
                values = pool(values, self.config.pooling, first=winograd)
            convolution = self.convolution(layer.name)
            values = functional.relu(convolve(values, convolution.weight, convolution.bias, winograd=winograd), inplace=True)
            if layer.name in wanted:
                answers[layer.name] = values
                wanted.remove(layer.name)
                if not wanted:
                    break
        if wanted:
            raise UsageError(f"the encoder ends with {self.config.layers[-1].name}, and {min(wanted)} was asked for")
        return answers

    @torch.no_grad()
    def backward(self, answers: Mapping[str, Tensor], add: Callable[[str, Tensor], None], *, winograd: bool = False) -> Tensor:
        """The gradient (N, 3, H, W) float32 of a loss at the image whose ``answers`` of *all* layers ``forward`` gave.

        ``add(name, gradient)`` adds what the loss says of a layer itself, dE/dF, in place to what the layers after it gave. The
        last layer gets zeros. (Written out, for automatic differentiation takes twice as long and holds more.)"""
        gradient: Tensor | None = None
        order = torch.contiguous_format if winograd else torch.channels_last
        for layer, before in reversed([*zip(self.config.layers, (None, *self.config.layers), strict=False)]):
            values = answers[layer.name]
            gradient = torch.zeros_like(values) if gradient is None else gradient
            add(layer.name, gradient)
            torch.ops.aten.threshold_backward.grad_input(gradient, values, 0, grad_input=gradient)  # of the ReLU, in place
            turned = self.convolution(layer.name).weight.flip(2, 3).transpose(0, 1).contiguous(memory_format=order)
            gradient = convolve(gradient, turned, winograd=winograd)  # the gradient at what it sees is such a convolution
            if before is not None and layer.pooled:
                gradient = pool_backward(gradient, answers[before.name], self.config.pooling)
        assert gradient is not None
        return gradient.float() / self.std  # type: ignore[operator]


def pool(values: Tensor, pooling: Pooling, *, first: bool = False) -> Tensor:
    """By two along both axes, rounded down; an axis of one position stays as it is. ``first``: channels come first in memory."""
    size = _pooled(values)
    if pooling == "max":
        return functional.max_pool2d(values, size)
    return halved(values) if first and size == (2, 2) else functional.avg_pool2d(values, size)


def pool_backward(gradient: Tensor, values: Tensor, pooling: Pooling) -> Tensor:
    """The gradient at ``values`` of what :func:`pool` made of them."""
    if pooling == "max":
        with torch.enable_grad():
            source = values.detach().requires_grad_()
            return torch.autograd.grad(pool(source, pooling), source, gradient)[0]
    rows, columns = _pooled(values)
    height, width = gradient.shape[2] * rows, gradient.shape[3] * columns
    spread = functional.interpolate(gradient.div_(rows * columns), (height, width), mode="nearest")
    left_over = (0, values.shape[3] - width, 0, values.shape[2] - height)
    return functional.pad(spread, left_over) if any(left_over) else spread


def _pooled(values: Tensor) -> tuple[int, int]:
    return min(2, values.shape[-2]), min(2, values.shape[-1])


def load_torchvision(config: EncoderConfig, tensors: Mapping[str, Tensor], source: str) -> Encoder:
    """An encoder of a part of torchvision's ``vgg19``: ``features.0.weight`` .... It is cut off where the tensors end.

    ``source``: the file, for messages. Raises ``ModelError`` when a layer of ``config`` is missing, or has another shape."""
    encoder = Encoder(config)
    for layer, number in zip(config.layers, _numbers(config), strict=True):
        for kind in ("weight", "bias"):
            own = getattr(encoder.convolution(layer.name), kind)
            given = tensors.get(f"features.{number}.{kind}")
            if given is None or given.shape != own.shape:
                found = "is missing" if given is None else f"has the shape {tuple(given.shape)}"
                raise ModelError(
                    f"{source}: features.{number}.{kind} ({layer.name}) {found}; give the weights of torchvision's vgg19, "
                    "or use layers that are in the file"
                )
            own.data.copy_(given)
    return encoder


def _numbers(config: EncoderConfig) -> Iterator[int]:
    """Of the convolutions in torchvision's ``features``, where each is followed by a ReLU and each block by a pooling."""
    number = 0
    for layer in config.layers:
        number += layer.pooled
        yield number
        number += 2


@torch.no_grad()
def normalized(encoder: Encoder, images: Iterable[Tensor]) -> Encoder:
    """The encoder itself, its weights scaled so that each filter's mean answer over ``images`` (each (1, 3, H, W), RGB in 0 .. 1)
    and all positions is one (section 2 of the paper). Each layer undoes the factors of the one before it."""
    names = [layer.name for layer in encoder.config.layers]
    sums, counts = (
        {name: torch.zeros(encoder.config.layer(name).channels, dtype=torch.float64) for name in names},
        dict.fromkeys(names, 0),
    )
    for image in images:
        for name, values in encoder(image, names).items():
            sums[name] += values.double().sum((0, 2, 3)).cpu()
            counts[name] += values.shape[0] * values.shape[2] * values.shape[3]
    before: Tensor | None = None
    for name in names:
        mean = (sums[name] / max(1, counts[name])).float()
        mean = mean.clamp_min(_LEAST * float(mean.mean()) or 1.0)
        convolution = encoder.convolution(name)
        if before is not None:
            convolution.weight.data *= before.to(convolution.weight)[None, :, None, None]
        convolution.weight.data /= mean.to(convolution.weight)[:, None, None, None]
        assert convolution.bias is not None
        convolution.bias.data /= mean.to(convolution.bias)
        before = mean
    return encoder
