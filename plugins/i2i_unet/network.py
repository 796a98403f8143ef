"""The U-Net of Ronneberger, Fischer and Brox (MICCAI 2015), configurable, and the footprint that follows from its layers."""

from __future__ import annotations

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
        if self.padding == "valid" and self.up == "resize":
            raise ValueError("valid convolutions go with transposed up-sampling: the resizing one pads")
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
    return nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(channels, channels // 2, 3, padding=1))


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
        self.apply(_initialise)

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


def _initialise(layer: nn.Module) -> None:
    """He initialisation, N(0, sqrt(2 / N)) (section 3)."""
    if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) and not layer.weight.is_meta:
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


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
    """Pixels that a valid network loses on each side: 92 for the paper's."""
    lost = 0
    for level in range(config.depth):
        lost += 4 * 2**level
    return lost + 2 * int(2**config.depth)


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

    The valid network is given the window less what rounding the halo up to the stride added at the top left, so that
    its poolings have the same phase in every window; its output's surplus at the bottom right is cut off.
    """
    config = network.config
    if config.padding == "same":
        return network(window)
    context = round_up(margin(config), config.stride)
    offset = context - margin(config)
    height, width = (length - 2 * context for length in window.shape[-2:])
    sizes = valid_size(config, height), valid_size(config, width)
    view = window[..., offset : offset + sizes[0], offset : offset + sizes[1]]
    return network(view)[..., :height, :width]
