"""What a Mask R-CNN is made of: the settings that a model file's header holds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from i2i.errors import ModelError

BACKBONES = ("resnet18", "mobilenet_v3", "resnet50")
RESNET_STAGES = 4
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class MaskRCNNConfig:
    """A Mask R-CNN with a feature pyramid (He et al. 2017; Lin et al. 2017).

    ``classes``: numbers of objects' classes are 1 .. ``classes``. ``stem_stride``: 2 leaves out the pooling after a ResNet's
    first convolution, so that the finest features have half the image's side: for small objects. ``stages``: of the ResNet that
    are used; the pyramid has one level more. ``width``: its channels. ``box_width``: units of the box head's fully connected
    layers, after ``box_convolutions``; ``mask_width``: channels of the mask head's ``mask_convolutions``. ``head_norm``: batch
    normalisation in pyramid and heads. ``frozen_norm``: the backbone's batch normalisation keeps its statistics in training.
    ``anchor_sizes``: one for each level, in pixels; ``aspect_ratios``: height over width. ``roi``: align, warp or pool;
    ``mask_loss``: sigmoid (each class by itself) or softmax. ``norm_eps``: of the backbone's normalisation. ``shared``:
    proposals come from the same backbone as the objects. ``mean``, ``std``: taken from the three channels, and divided by.
    """

    backbone: str = "resnet18"
    channels: int = 3
    classes: int = 1
    stem_stride: int = 4
    stages: int = 4
    width: int = 256
    box_width: int = 1024
    box_convolutions: int = 0
    mask_width: int = 256
    mask_convolutions: int = 4
    rpn_depth: int = 1
    head_norm: bool = False
    frozen_norm: bool = False
    anchor_sizes: tuple[float, ...] = (32, 64, 128, 256, 512)
    aspect_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    roi: str = "align"
    mask_loss: str = "sigmoid"
    shared: bool = True
    norm_eps: float = 1e-5
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    @property
    def levels(self) -> int:
        """Of the pyramid."""
        return len(_stage_strides(self)) + 1

    @property
    def strides(self) -> tuple[int, ...]:
        """Of the pyramid's levels, in pixels of the image, finest first."""
        own = _stage_strides(self)
        return (*own, 2 * own[-1])

    @property
    def stride(self) -> int:
        return self.strides[-1]

    def as_mapping(self) -> dict[str, Any]:
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @staticmethod
    def from_mapping(values: Any) -> MaskRCNNConfig:
        """Raises ``ModelError`` for settings that are unknown, of another type, or describe no network."""
        if not isinstance(values, Mapping):
            raise ModelError("network must be an object")
        known = {item.name: item.default for item in fields(MaskRCNNConfig)}
        if unknown := sorted(set(values) - set(known)):
            raise ModelError(f"network: {unknown[0]!r} is unknown; the file may be of a later version of i2i")
        return MaskRCNNConfig(**{name: _read(name, known[name], value) for name, value in values.items()}).checked()

    def checked(self) -> MaskRCNNConfig:
        """Itself. Raises ``ModelError`` for what is no network."""
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ModelError(f"network: {name} {getattr(self, name)!r} must be one of {', '.join(map(str, choices))}")
        for name, (least, most) in _LIMITS.items():
            if not least <= getattr(self, name) <= most:
                raise ModelError(f"network: {name} {getattr(self, name)} must be {least} to {most}")
        if self.backbone == "mobilenet_v3" and self.stem_stride != 4:
            raise ModelError("network: stem_stride 2 is of a ResNet")
        if len(self.anchor_sizes) != self.levels or not self.aspect_ratios:
            raise ModelError(f"network: {len(self.anchor_sizes)} anchor_sizes for {self.levels} levels")
        if not all(0 < size < 1e5 for size in (*self.anchor_sizes, *self.aspect_ratios, *self.std)):
            raise ModelError("network: anchor_sizes, aspect_ratios and std must be above 0")
        if not all(map(math.isfinite, self.mean)) or not 0 <= self.norm_eps <= 1:
            raise ModelError("network: mean must be finite, and norm_eps from 0 to 1")
        if len(self.mean) != len(self.std) or len(self.mean) not in (0, self.channels):
            raise ModelError(f"network: mean and std must be of {self.channels} channels, or of none")
        return self


_CHOICES: dict[str, tuple[Any, ...]] = {
    "backbone": BACKBONES,
    "stem_stride": (2, 4),
    "roi": ("align", "warp", "pool"),
    "mask_loss": ("sigmoid", "softmax"),
}
_LIMITS = {
    "channels": (1, 1000), "classes": (1, 10_000), "stages": (2, RESNET_STAGES), "width": (8, 2048), "box_width": (8, 8192),
    "box_convolutions": (0, 16), "mask_width": (8, 2048), "mask_convolutions": (1, 16), "rpn_depth": (1, 8),
}  # fmt: skip


def _stage_strides(config: MaskRCNNConfig) -> tuple[int, ...]:
    return tuple(config.stem_stride * 2**stage for stage in range(config.stages))


def _read(name: str, default: Any, value: Any) -> Any:
    if isinstance(default, tuple):
        if isinstance(value, list | tuple) and all(_is_number(one) for one in value) and len(value) <= 1000:
            return tuple(float(one) for one in value)
        raise ModelError(f"network: {name} must be a list of numbers")
    if type(value) is not type(default):
        raise ModelError(f"network: {name} {value!r} must be of the kind {type(default).__name__}")
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and not abs(value) > 1e300
