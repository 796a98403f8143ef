"""Segmentation as the engine runs it: a U-Net with its normalisation, and the three kinds of result."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from i2i.contracts import Array, DensePredictor, LabelRule, Model, Output, Runtime, Source
from i2i.errors import ModelError
from i2i.normalize import Normalization
from i2i_unet.network import UNet, UNetConfig, folded, footprint, forward_window


class UNetPredictor(DensePredictor):
    """Results: ``classes`` (the likeliest), ``probabilities`` (softmax, 0 .. 255) and, with a label rule, ``labels``."""

    traceable = True

    def __init__(self, network: UNet, normalization: Normalization, class_names: tuple[str, ...], rule: LabelRule | None) -> None:
        self.network = network
        self.normalization = normalization
        self.label_rule = rule
        self.footprint = footprint(network.config)
        self.window_bytes = window_bytes(network.config, network.head.weight.dtype.itemsize)
        classes = Output("classes", 1, "uint8", "classes")
        probabilities = Output("probabilities", len(class_names), "uint8", "probabilities", class_names)
        labels = Output("labels", 1, "uint32", "labels")
        self.outputs = (labels, classes, probabilities) if rule else (classes, probabilities)

    def prepare(self, source: Source, seed: int) -> Self:
        return self.with_statistics({"normalization": self.normalization.freeze(source, seed).as_mapping()})

    def statistics(self) -> dict[str, Any]:
        return {"normalization": self.normalization.as_mapping()}

    def with_statistics(self, statistics: Mapping[str, Any]) -> Self:
        prepared = copy.copy(self)
        prepared.normalization = Normalization.from_mapping(statistics["normalization"])
        return prepared

    def normalize(self, pixels: Array) -> npt.NDArray[np.float32]:
        return self.normalization.apply(pixels)

    def __call__(self, batch: Tensor) -> Tensor:
        return forward_window(self.network, batch.to(self.network.head.weight.dtype)).float()

    def convert(self, raw: npt.NDArray[np.float32], output: Output) -> Array:
        if output.name == "classes":
            return likeliest(raw).astype(output.dtype, copy=False)
        shifted = np.exp(raw - raw.max(2, keepdims=True))
        probabilities = shifted / shifted.sum(2, keepdims=True)
        return np.rint(255 * probabilities).astype(output.dtype)


def likeliest(raw: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """(H, W, C) -> (H, W, 1): the channel that is the largest, the first of equals. As ``argmax``, several times faster."""
    best, index = raw[..., 0], np.zeros(raw.shape[:2], np.uint8)
    for number in range(1, raw.shape[2]):
        np.maximum(index, (raw[..., number] > best) * np.uint8(number), out=index)
        best = np.maximum(best, raw[..., number])
    return index[..., None]


def window_bytes(config: UNetConfig, itemsize: int = 4) -> int:
    """Activations that live at once for each pixel of a window, in bytes, of a network that computes in numbers of ``itemsize``
    bytes: at the first level the skip, the merged pair and a convolution's output with its scratch space; measured within a
    fifth for depths 3 to 5."""
    return itemsize * (config.channels + config.classes + 9 * config.filters) + 8 * config.classes


@dataclass(frozen=True)
class Header:
    """What the header of a model file says, checked."""

    network: UNetConfig
    normalization: Normalization
    class_names: tuple[str, ...]
    rule: LabelRule | None


def read_header(model: Model) -> Header:
    """Raises ``ModelError`` that names the file and what its header lacks or has wrong."""
    config = model.config
    if config.get("task") != "segment" or "network" not in config:
        raise ModelError(f"{model.path}: not a model of segment; `i2i models list` shows which are")
    try:
        network = UNetConfig.from_mapping(config["network"])
        normalization = _normalization(config.get("normalization"))
        names, rule = config.get("class_names"), config.get("label_rule")
        if not (isinstance(names, list) and all(isinstance(name, str) for name in names) and len(names) == network.classes):
            raise ModelError(f"class_names must be {network.classes} names, one for each class")
        return Header(network, normalization, tuple(names), None if rule is None else _rule(rule, network.classes))
    except ModelError as error:
        raise ModelError(f"{model.path}: a header that cannot be used: {error}; {_CURE}") from error


_CURE = "get the model again, or make it with i2i train segment"


def _normalization(values: Any) -> Normalization:
    if not isinstance(values, Mapping):
        raise ModelError("normalization is missing, or not an object")
    result = Normalization.from_mapping(values)
    numbers = all(isinstance(value, int | float) for value in (result.low, result.high))
    if not (numbers and 0 <= result.low < result.high <= 100):
        raise ModelError(f"normalization: low {result.low!r} and high {result.high!r} must be percentiles, 0 to 100")
    return result


def _rule(values: Any, classes: int) -> LabelRule:
    limits = {"interior": classes, "border": classes, "dilate": 1000, "min_area": 2**31}
    if not isinstance(values, Mapping) or not set(values) <= set(limits):
        raise ModelError(f"label_rule must be an object of {', '.join(limits)}")
    for name, value in values.items():
        absent = name == "border" and value is None
        if not absent and not (isinstance(value, int) and 0 <= value < limits[name]):
            raise ModelError(f"label_rule: {name} {value!r} must be a whole number from 0 to {limits[name] - 1}")
    return LabelRule(**values)


_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def load(model: Model, runtime: Runtime) -> UNetPredictor:
    """The predictor of a model file. Raises ``ModelError`` when its header or its tensors are not those of a U-Net.

    The network is built without memory, and takes the file's tensors for its own: what the header says costs nothing.
    """
    header = read_header(model)
    with torch.device("meta"):
        network = UNet(header.network)
    expected, tensors = network.state_dict(), model.tensors()
    if misfit := _misfit(tensors, expected):
        raise ModelError(f"{model.path}: its weights do not fit the network its header describes: {misfit}; {_CURE}")
    weights = {name: value.to(expected[name].dtype, copy=True) for name, value in tensors.items()}
    network.load_state_dict(weights, assign=True)
    network = folded(network.eval().requires_grad_(False))
    network = network.to(runtime.device, _DTYPES[runtime.precision], memory_format=torch.channels_last)  # type: ignore[call-overload]
    return UNetPredictor(network, header.normalization, header.class_names, header.rule)


def _misfit(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    """The first tensor that is missing, too many or of another shape; empty when all fit."""
    for name in sorted(tensors.keys() ^ expected.keys()):
        return f"{name} is missing" if name in expected else f"{name} is not part of it"
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            return f"{name} is {_size(tensor)}, should be {_size(expected[name])}"
    return ""


def _size(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "one number"
