"""The header of a model file, checked; and that of torchvision's weights, which have none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from i2i.contracts import Model
from i2i.errors import ModelError
from i2i.normalize import Normalization
from i2i_maskrcnn.config import MaskRCNNConfig

_CURE = "get the model again, or make it with i2i train instances"


@dataclass(frozen=True)
class Header:
    """``class_names``: by class number. ``score``, ``nms``, ``min_area``, ``overlap``: the rules that suit the model best.
    ``object_size``: side of the largest objects that it was trained on, in pixels. ``view``: shorter and longer side, in pixels,
    to which images are brought that are seen whole; empty: the network sees pixels as they are."""

    network: MaskRCNNConfig
    normalization: Normalization
    class_names: Mapping[int, str]
    score: float = 0.5
    nms: float = 0.5
    min_area: int = 0
    overlap: float = 0.3
    object_size: int = 64
    gray_as_rgb: bool = False
    view: tuple[int, ...] = ()

    def as_mapping(self) -> dict[str, Any]:
        own = {
            name: value for name, value in asdict(self).items() if name not in ("network", "normalization", "class_names", "view")
        }
        names = {str(number): name for number, name in self.class_names.items()}
        return {
            "task": "instances", "network": self.network.as_mapping(), "normalization": self.normalization.as_mapping(),
            "class_names": names, "view": list(self.view), **own,
        }  # fmt: skip


def read_header(model: Model) -> Header:
    """Raises ``ModelError`` that names the file and what its header lacks or has wrong."""
    config = model.config
    if not config:
        from i2i_maskrcnn.torchvision_weights import header_of

        return header_of(model)
    if config.get("task") != "instances" or "network" not in config:
        raise ModelError(f"{model.path}: not a model of instances; `i2i models list` shows which are")
    try:
        network = MaskRCNNConfig.from_mapping(config["network"])
        normalization = config.get("normalization")
        if not isinstance(normalization, Mapping):
            raise ModelError("normalization is missing, or not an object")
        numbers = {name: _number(config, name) for name in ("score", "nms", "min_area", "overlap", "object_size")}
        return Header(
            network, Normalization.from_mapping(normalization), _names(config.get("class_names"), network.classes),
            numbers["score"], numbers["nms"], int(numbers["min_area"]), numbers["overlap"], int(numbers["object_size"]),
            config.get("gray_as_rgb", False) is True and network.channels == 3, _view(config.get("view", [])),
        )  # fmt: skip
    except ModelError as error:
        raise ModelError(f"{model.path}: a header that cannot be used: {error}; {_CURE}") from error


_LIMITS = {"score": (0, 1), "nms": (0, 1), "min_area": (0, 2**31), "overlap": (0, 1), "object_size": (1, 100_000)}


def _number(config: Mapping[str, Any], name: str) -> float:
    value, (least, most) = config.get(name, getattr(Header, name)), _LIMITS[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise ModelError(f"{name} {value!r} must be a number from {least} to {most}")
    return value


def _names(values: Any, classes: int) -> dict[int, str]:
    wrong = ModelError(f"class_names must name the classes 1 to {classes}, or some of them, in one line each")
    if not isinstance(values, Mapping) or not values:
        raise wrong
    for number, name in values.items():
        if not (str(number).isdecimal() and len(str(number)) <= 9 and 1 <= int(number) <= classes):
            raise wrong
        if not (isinstance(name, str) and name.isprintable() and len(name) <= 200):
            raise wrong
    return {int(number): name for number, name in values.items()}


def _view(values: Any) -> tuple[int, ...]:
    if not isinstance(values, list) or len(values) not in (0, 2) or not all(isinstance(v, int) and 0 < v < 10**5 for v in values):
        raise ModelError(f"view {values!r} must be two numbers of pixels, or none")
    return tuple(values)
