"""Generators: the U-Net and the encoder-decoder of Isola, Zhu, Zhou and Efros, "Image-to-Image Translation with Conditional
Adversarial Networks" (CVPR 2017, section 6.1.1), and the residual network of Johnson et al. (2016) as Zhu et al. (2017)
have it.

Each gives as many pixels as it sees, in -1 .. 1, and the footprint that follows from its layers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from i2i.errors import ModelError
from i2i_pix2pix.noise import Noise
from i2i_pix2pix.options import KINDS

_WIDEST = 8
"""The deeper layers have at most so many times the filters of the first."""
_FEW = 256
"""Pixels of the larger side of a layer, of all the batch, up to which its weights outweigh them."""
_DROPPED = 3
"""Layers of the decoder, from the deepest on, that have drop-out."""


@dataclass(frozen=True)
class GeneratorConfig:
    """``depth``: halvings. ``filters``: channels after the first layer, doubled with each halving, at most eight times as many.
    ``norm``: batch, instance or group. ``up``: ``transposed`` (4 x 4, the paper's) or ``resize`` (nearest neighbour, then a
    3 x 3 convolution, which leaves no checkerboard). ``dropout``: the paper's noise z, in the three deepest layers of the decoder
    (of ``resnet``: in its blocks). ``blocks``: of ``resnet``. ``head``: ``tanh``, the paper's, or ``linear``, whose answers may
    leave -1 .. 1."""

    kind: str = "unet"
    channels_in: int = 3
    channels_out: int = 3
    depth: int = 8
    filters: int = 64
    norm: str = "instance"
    up: str = "transposed"
    dropout: float = 0.5
    blocks: int = 9
    head: str = "tanh"

    @staticmethod
    def from_mapping(values: Mapping[str, Any]) -> GeneratorConfig:
        """From a model file's header. Raises ``ModelError`` for unknown or impossible values."""
        try:
            return GeneratorConfig(**values).checked()
        except (TypeError, ValueError) as error:
            raise ModelError(f"the model file describes no generator that this version knows: {error}") from error

    def checked(self) -> GeneratorConfig:
        """Itself, or ``ValueError`` that says which value is impossible."""
        for name, known in {"kind": KINDS, "norm": NORMS, "up": ("transposed", "resize"), "head": _HEADS}.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} {getattr(self, name)!r} is none of {', '.join(known)}")
        limits = {"channels_in": (1, 256), "channels_out": (1, 256), "depth": (1, 10), "filters": (1, 512), "blocks": (0, 64)}
        for name, (least, most) in limits.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
                raise ValueError(f"{name} {value!r}: a whole number from {least} to {most}")
        if not (isinstance(self.dropout, int | float) and 0 <= self.dropout < 1):
            raise ValueError(f"dropout {self.dropout!r}: at least 0, below 1")
        return self

    @property
    def stride(self) -> int:
        return int(2**self.depth)

    @property
    def multiple_of(self) -> int:
        """What sides are padded to: the mirrored borders of ``resnet`` need two pixels at its smallest."""
        return self.stride * 2 if self.kind == "resnet" else self.stride

    @property
    def widths(self) -> list[int]:
        """Channels after each halving."""
        return [self.filters * min(2**level, _WIDEST) for level in range(self.depth)]

    def as_mapping(self) -> dict[str, Any]:
        return asdict(self)


NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm2d,
    "instance": lambda channels: nn.InstanceNorm2d(channels, affine=True),
    "group": lambda channels: nn.GroupNorm(8 if channels % 8 == 0 else 1, channels),
}


_HEADS: dict[str, Callable[[], nn.Module]] = {"tanh": nn.Tanh, "linear": nn.Identity}


class Generator(nn.Module):
    """(N, channels_in, H, W) in -1 .. 1 -> (N, channels_out, H, W) in -1 .. 1; H and W are multiples of ``config.stride``."""

    config: GeneratorConfig
    head: nn.Sequential


def _through(head: nn.Sequential, pixels: Tensor) -> Tensor:
    """The answer, of which a network of half precision computes the last layer in single precision: of the 256 numbers between
    1/2 and 1 that bf16 knows, an image of 16 bits would get bands."""
    answer: Tensor = head(pixels if head.training else pixels.to(next(head.parameters()).dtype))
    return answer


class _Halving(nn.Conv2d):
    """4 x 4, stride 2. In training, where an answer has so few pixels that the weights are what takes the time, a product of
    matrices, which reads them as they lie in memory; a convolution would put them in another order three times a step."""

    def __init__(self, channels_in: int, channels: int, bias: bool) -> None:
        super().__init__(channels_in, channels, 4, 2, 1, bias=bias)

    def forward(self, pixels: Tensor) -> Tensor:
        count, channels, height, width = pixels.shape
        if not self.training or count * height * width > _FEW or height % 2 or width % 2:
            return super().forward(pixels)
        columns = functional.unfold(pixels, 4, padding=1, stride=2).reshape(count, channels, 16, -1).transpose(1, 2).flatten(1, 2)
        answer = self.weight.permute(0, 2, 3, 1).flatten(1) @ columns
        answer = answer.reshape(count, -1, height // 2, width // 2)
        return answer if self.bias is None else answer + self.bias[:, None, None]


class _Doubling(nn.ConvTranspose2d):
    """The same the other way round."""

    def __init__(self, channels_in: int, channels: int, bias: bool) -> None:
        super().__init__(channels_in, channels, 4, 2, 1, bias=bias)

    def forward(self, pixels: Tensor, output_size: list[int] | None = None) -> Tensor:
        count, _, height, width = pixels.shape
        if not self.training or 4 * count * height * width > _FEW:
            return super().forward(pixels, output_size)
        columns = self.weight.permute(0, 2, 3, 1).flatten(1).T @ pixels.flatten(2)
        columns = columns.reshape(count, 16, self.out_channels, -1).transpose(1, 2).flatten(1, 2)
        answer = functional.fold(columns, (2 * height, 2 * width), 4, padding=1, stride=2)
        return answer if self.bias is None else answer + self.bias[:, None, None]


def _down(config: GeneratorConfig, channels_in: int, channels: int, first: bool, last: bool) -> nn.Sequential:
    """Neither the first layer nor that with the fewest pixels has a normalisation: one of a single pixel would be 0."""
    norm = not (first or last)
    layers: list[nn.Module] = [] if first else [nn.LeakyReLU(0.2)]
    layers.append(_Halving(channels_in, channels, bias=not norm))
    return nn.Sequential(*layers, *([NORMS[config.norm](channels)] if norm else []))


def _enlarging(config: GeneratorConfig, channels_in: int, channels: int, bias: bool) -> list[nn.Module]:
    if config.up == "transposed":
        return [_Doubling(channels_in, channels, bias)]
    return [nn.Upsample(scale_factor=2), nn.Conv2d(channels_in, channels, 3, padding=1, bias=bias)]


def _up(config: GeneratorConfig, channels_in: int, channels: int, dropped: bool) -> nn.Sequential:
    noise = [Noise(config.dropout)] if dropped and config.dropout else []
    return nn.Sequential(nn.ReLU(), *_enlarging(config, channels_in, channels, False), NORMS[config.norm](channels), *noise)


class UNetGenerator(Generator):
    """With skips between layers i and n - i (``unet``), or without (``encoder-decoder``)."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = config.checked()
        widths, depth = config.widths, config.depth
        before = [config.channels_in, *widths]
        self.down = nn.ModuleList(
            _down(config, before[level], widths[level], level == 0, level == depth - 1) for level in range(depth)
        )
        skipped = 2 if config.kind == "unet" else 1
        self.up = nn.ModuleList(
            _up(config, widths[level] * (1 if level == depth - 1 else skipped), widths[level - 1], depth - 1 - level < _DROPPED)
            for level in reversed(range(1, depth))
        )
        last = widths[0] * (skipped if depth > 1 else 1)
        self.head = nn.Sequential(nn.ReLU(), *_enlarging(config, last, config.channels_out, True), _HEADS[config.head]())
        self.apply(initialise)

    def forward(self, pixels: Tensor) -> Tensor:
        skips: list[Tensor] = []
        for layer in self.down:
            pixels = layer(pixels)
            skips.append(pixels)
        skips.pop()
        for layer in self.up:
            pixels = layer(pixels)
            if self.config.kind == "unet":
                pixels = torch.cat([skips.pop(), pixels], 1)
        return _through(self.head, pixels)


def _layer(config: GeneratorConfig, convolution: list[nn.Module], channels: int) -> nn.Sequential:
    return nn.Sequential(*convolution, NORMS[config.norm](channels), nn.ReLU(inplace=True))


def _mirrored(channels_in: int, channels: int, side: int, bias: bool = False) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels, side, padding=side // 2, bias=bias, padding_mode="reflect")


class _Block(nn.Module):
    def __init__(self, config: GeneratorConfig, channels: int) -> None:
        super().__init__()
        noise = [Noise(config.dropout)] if config.dropout else []
        self.layers = nn.Sequential(
            *_layer(config, [_mirrored(channels, channels, 3)], channels),
            *noise,
            _mirrored(channels, channels, 3),
            NORMS[config.norm](channels),
        )

    def forward(self, pixels: Tensor) -> Tensor:
        answer: Tensor = pixels + self.layers(pixels)
        return answer


class ResNetGenerator(Generator):
    """7 x 7 at full size, ``depth`` halvings (two in the paper), residual blocks, as many doublings, 7 x 7 again."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = config.checked()
        widths = [config.filters * min(2**level, _WIDEST) for level in range(config.depth + 1)]
        self.first = _layer(config, [_mirrored(config.channels_in, widths[0], 7)], widths[0])
        self.down = nn.ModuleList(_layer(config, [nn.Conv2d(a, b, 3, 2, 1, bias=False)], b) for a, b in pairwise(widths))
        self.blocks = nn.ModuleList(_Block(config, widths[-1]) for _ in range(config.blocks))
        back = widths[::-1]
        self.up = nn.ModuleList(_layer(config, _enlarging(config, a, b, False), b) for a, b in pairwise(back))
        self.head = nn.Sequential(_mirrored(widths[0], config.channels_out, 7, True), _HEADS[config.head]())
        self.apply(initialise)

    def forward(self, pixels: Tensor) -> Tensor:
        for layer in (self.first, *self.down, *self.blocks, *self.up):
            pixels = layer(pixels)
        return _through(self.head, pixels)


def build(config: GeneratorConfig) -> Generator:
    return ResNetGenerator(config) if config.kind == "resnet" else UNetGenerator(config)


def initialise(layer: nn.Module) -> None:
    """Weights N(0, 0.02) (section 6.2); scales of normalisations N(1, 0.02); biases are zero."""
    weight = getattr(layer, "weight", None)
    if not isinstance(weight, Tensor) or weight.is_meta:
        return
    convolution = isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)
    nn.init.normal_(weight, 0.0 if convolution else 1.0, 0.02)
    bias = getattr(layer, "bias", None)
    if isinstance(bias, Tensor):
        nn.init.zeros_(bias)


def halo(config: GeneratorConfig) -> int:
    """How far, in pixels beyond a core aligned to the stride, the answer of the core depends on the input, the statistics of
    normalisations left aside. Followed from the answer back to the input: a doubling, 4 x 4 or by nearest neighbour and 3 x 3,
    makes a radius r of its answer r // 2 + 1 of what it sees; a 4 x 4 convolution of stride 2 makes it 2 r + 1, as does one of
    3 x 3. Depth 8: 511."""
    radius = 3 if config.kind == "resnet" else 0
    for _ in range(config.depth):
        radius = radius // 2 + 1
    radius += 2 * config.blocks if config.kind == "resnet" else 0
    for _ in range(config.depth):
        radius = 2 * radius + 1
    return radius + (3 if config.kind == "resnet" else 0)
