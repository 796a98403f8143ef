"""The U-Net of Ronneberger, Fischer and Brox (MICCAI 2015), configurable, and the footprint that follows from its layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from i2i.contracts import Footprint
from i2i.errors import ModelError
from i2i.geometry import round_up

_WIDEST = 16384


@dataclass(frozen=True)
class UNetConfig:
    """An architecture. ``filters``: channels of the first level; each further level doubles them.

    ``padding``: ``same`` (zero padding: as many pixels out as in) or ``valid`` (the paper's unpadded convolutions).
    ``norm``: batch, instance, group or none. ``up``: ``transposed`` (2x2, the paper's up-convolution) or ``resize`` (nearest
    neighbour, then a 3x3 convolution). ``dropout``: at the end of the contracting path (section 3.1).
    """

    channels: int = 1
    classes: int = 2
    depth: int = 4
    filters: int = 24
    padding: str = "same"
    norm: str = "batch"
    up: str = "transposed"
    dropout: float = 0.0

    @staticmethod
    def from_mapping(values: Mapping[str, Any]) -> UNetConfig:
        """From a model file's header. Raises ``ModelError`` for unknown or impossible values."""
        try:
            return UNetConfig(**values).checked()
        except (TypeError, ValueError) as error:
            raise ModelError(f"the model file describes no U-Net that this version knows: {error}") from error

    def checked(self) -> UNetConfig:
        """Itself, or ``ValueError`` that says which value is impossible."""
        if self.norm not in _NORMS:
            raise ValueError(f"norm {self.norm!r} is none of {', '.join(_NORMS)}")
        if self.padding not in ("same", "valid") or self.up not in ("transposed", "resize"):
            raise ValueError(f"padding {self.padding!r}, up {self.up!r}: same or valid, transposed or resize")
        self._check_numbers()
        return self

    def _check_numbers(self) -> None:
        limits = {"channels": (1, 1024), "classes": (2, 256), "depth": (1, 8), "filters": (1, 1024)}
        for name, (least, most) in limits.items():
            value = getattr(self, name)
            if not (isinstance(value, int) and least <= value <= most):
                raise ValueError(f"{name} {value!r}: a whole number from {least} to {most}")
        if self.filters * self.stride > _WIDEST:
            raise ValueError(f"filters {self.filters}, doubled at each of {self.depth} levels: more than {_WIDEST} at the last")
        if not 0 <= self.dropout <= 1:
            raise ValueError(f"dropout {self.dropout}: 0 to 1")

    @property
    def stride(self) -> int:
        return int(2**self.depth)

    def as_mapping(self) -> dict[str, Any]:
        return asdict(self)


def original(channels: int = 1, classes: int = 2) -> UNetConfig:
    """The paper's network (figure 1): 23 convolutional layers, 572 x 572 in, 388 x 388 out."""
    return UNetConfig(channels, classes, depth=4, filters=64, padding="valid", norm="none", dropout=0.5)


def _norm_layer(name: str, channels: int) -> nn.Module:
    return _NORMS[name](channels)


_NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm2d,
    "instance": lambda channels: nn.InstanceNorm2d(channels, affine=True),
    "group": lambda channels: nn.GroupNorm(8 if channels % 8 == 0 else 1, channels),
    "none": lambda channels: nn.Identity(),
}


class DoubleConv(nn.Sequential):
    """Two 3x3 convolutions, each with its norm and ReLU."""

    def __init__(self, config: UNetConfig, channels_in: int, channels_out: int) -> None:
        layers: list[nn.Module] = []
        for channels in (channels_in, channels_out):
            padding = 1 if config.padding == "same" else 0
            layers += [
                nn.Conv2d(channels, channels_out, 3, padding=padding, bias=config.norm == "none"),
                _norm_layer(config.norm, channels_out),
                nn.ReLU(inplace=True),
            ]
        super().__init__(*layers)


def _up_layer(config: UNetConfig, channels: int) -> nn.Module:
    if config.up == "transposed":
        return nn.ConvTranspose2d(channels, channels // 2, 2, stride=2)
    padding = 1 if config.padding == "same" else 0
    return nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(channels, channels // 2, 3, padding=padding))


def centre_crop(pixels: Tensor, like: Tensor) -> Tensor:
    """The centre of (N, C, H, W) with the height and width of ``like``."""
    y, x = ((a - b) // 2 for a, b in zip(pixels.shape[-2:], like.shape[-2:], strict=True))
    return pixels[..., y : y + like.shape[-2], x : x + like.shape[-1]]


class UNet(nn.Module):
    """(N, channels, H, W) -> logits (N, classes, H', W'), float.

    ``same``: H and W are multiples of ``config.stride`` and H' = H. ``valid``: H' = H - 2 * margin(config), and H is a size
    for which every pooling meets an even number of pixels (see :func:`valid_size`).
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config.checked()
        widths = [config.filters * 2**level for level in range(config.depth + 1)]
        self.down = nn.ModuleList(
            DoubleConv(config, before, width) for before, width in zip([config.channels, *widths], widths, strict=False)
        )
        self.dropout = nn.Dropout(config.dropout)
        self.up = nn.ModuleList(_up_layer(config, width) for width in reversed(widths[1:]))
        self.merge = nn.ModuleList(DoubleConv(config, 2 * width, width) for width in reversed(widths[:-1]))
        self.head = nn.Conv2d(config.filters, config.classes, 1)
        self.apply(initialise)

    def forward(self, pixels: Tensor) -> Tensor:
        skips: list[Tensor] = []
        for level, block in enumerate(self.down):
            pixels = block(pixels if level == 0 else functional.max_pool2d(pixels, 2))
            if level >= self.config.depth - 1:
                pixels = self.dropout(pixels)
            skips.append(pixels)
        for up, merge in zip(self.up, self.merge, strict=True):
            skips.pop()
            pixels = up(pixels)
            pixels = merge(torch.cat([centre_crop(skips[-1], pixels), pixels], 1))
        return self.head(pixels)


def initialise(layer: nn.Module) -> None:
    """He initialisation, N(0, sqrt(2 / N)) with N the incoming nodes of one neuron (section 3); biases are zero."""
    if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear) and not layer.weight.is_meta:
        nn.init.normal_(layer.weight, std=math.sqrt(2 / _incoming(layer)))
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def _incoming(layer: nn.Conv2d | nn.ConvTranspose2d | nn.Linear) -> int:
    """Nodes that one neuron is the sum of. Each pixel of a transposed convolution sees but one tap of its kernel for every
    step of its stride, and the weight's first axis is the incoming channels."""
    if isinstance(layer, nn.ConvTranspose2d):
        return layer.in_channels * math.prod(layer.kernel_size) // math.prod(layer.stride)
    return layer.weight[0].numel()


def folded(network: UNet) -> UNet:
    """The network, in evaluation mode, with each batch norm folded into the convolution before it: the same function, in fewer
    passes over the pixels. Changes ``network`` itself."""
    for block in (*network.down, *network.merge):
        assert isinstance(block, DoubleConv)
        for place in (0, 3):
            convolution, norm = block[place], block[place + 1]
            if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                block[place], block[place + 1] = fuse_conv_bn_eval(convolution, norm), nn.Identity()
    return network


def halo(config: UNetConfig) -> int:
    """How far, in pixels beyond a core aligned to the stride, the output of the core depends on the input.

    Followed from the output back to the input, one radius at a time: two 3x3 convolutions add 2 pixels of their level,
    an up-sampling halves (rounding up), a pooling doubles. Depth 4: 94, which the stride of 16 rounds to 96.
    """
    radius = 0
    for _ in range(config.depth):
        radius += 2 + (1 if config.up == "resize" else 0)
        radius = -(-radius // 2)
    radius += 2
    for _ in range(config.depth):
        radius = 2 * radius + 2
    return radius


def margin(config: UNetConfig) -> int:
    """Pixels that a valid network loses on each side: 92 for the paper's. Two convolutions on each way of a level lose 4 of its
    pixels, the resizing up-sampling one more; those at the bottom lose 2."""
    per_level = 5 if config.up == "resize" else 4
    return per_level * (config.stride - 1) + 2 * config.stride


def valid_size(config: UNetConfig, output: int) -> int:
    """The least input side from which a valid network gives at least ``output`` pixels, even at every pooling."""
    size = output + 2 * margin(config)
    while not _poolings_even(config, size):
        size += 1
    return size


def _poolings_even(config: UNetConfig, size: int) -> bool:
    for _ in range(config.depth):
        size -= 4
        if size % 2:
            return False
        size //= 2
    return size > 4


def footprint(config: UNetConfig) -> Footprint:
    """What the engine has to know of this network. Instance and group norm look at all they see: they never tile exactly."""
    whole = config.norm in ("instance", "group")
    return Footprint(
        halo=round_up(halo(config) if config.padding == "same" else margin(config), config.stride),
        multiple_of=config.stride,
        border="zero" if config.padding == "same" else "mirror",
        channels_in=config.channels,
        channels_out=config.classes,
        norm_scope="image" if whole else "pixel",
        merge="blend" if whole else "crop",
    )


def forward_window(network: UNet, window: Tensor) -> Tensor:
    """Logits of a window as the footprint promises: of all of it (``same``), or of its core (``valid``).

    The valid network is given the part of the window that its core needs, of a size whose poolings are even. Where that part
    begins depends on the architecture alone, so that the poolings have the same phase in every window; what the output has
    besides the core is cut off.
    """
    config = network.config
    if config.padding == "same":
        return network(window)
    context = round_up(margin(config), config.stride)
    height, width = (length - 2 * context for length in window.shape[-2:])
    sizes = valid_size(config, height), valid_size(config, width)
    start = min(context - margin(config), *(length - size for length, size in zip(window.shape[-2:], sizes, strict=True)))
    view = window[..., start : start + sizes[0], start : start + sizes[1]]
    surplus = context - margin(config) - start
    return network(view)[..., surplus : surplus + height, surplus : surplus + width]


def window_bytes(config: UNetConfig, itemsize: int = 4) -> int:
    """Activations that live at once for each pixel of a window, in bytes, of a network that computes in numbers of ``itemsize``
    bytes: at the first level the skip, the merged pair and a convolution's output with its scratch space; measured within a
    fifth for depths 3 to 5."""
    return itemsize * (config.channels + config.classes + 9 * config.filters) + 8 * config.classes
