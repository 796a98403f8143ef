"""Segmentation as the engine runs it: a U-Net with its normalisation, and the three kinds of result."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from i2i.contracts import Array, DensePredictor, LabelRule, Model, Output, Runtime, Source
from i2i.errors import ModelError
from i2i.normalize import Normalization
from i2i_unet.network import UNet, UNetConfig, footprint, forward_window


class UNetPredictor(DensePredictor):
    """Results: ``classes`` (the likeliest), ``probabilities`` (softmax, 0 .. 255) and, with a label rule, ``labels``."""

    def __init__(self, network: UNet, normalization: Normalization, class_names: tuple[str, ...], rule: LabelRule | None) -> None:
        self.network = network
        self.normalization = normalization
        self.label_rule = rule
        self.footprint = footprint(network.config)
        self.window_bytes = window_bytes(network.config)
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
        return forward_window(self.network, batch)

    def convert(self, raw: npt.NDArray[np.float32], output: Output) -> Array:
        if output.name == "classes":
            return raw.argmax(2, keepdims=True).astype(output.dtype)
        shifted = np.exp(raw - raw.max(2, keepdims=True))
        probabilities = shifted / shifted.sum(2, keepdims=True)
        return np.rint(255 * probabilities).astype(output.dtype)


def window_bytes(config: UNetConfig) -> int:
    """Activations that live at once for each pixel of a window, in bytes (fp32): at the first level the skip, the merged pair
    and a convolution's output with its scratch space; measured within a fifth for depths 3 to 5."""
    return 4 * (config.channels + 2 * config.classes + 8 * config.filters)


def load(model: Model, runtime: Runtime) -> UNetPredictor:
    """The predictor of a model file. Raises ``ModelError`` when its header or its tensors are not those of a U-Net."""
    config = model.config
    if config.get("task") != "segment" or "network" not in config:
        raise ModelError(f"{model.path}: not a model of segment; `i2i models list` shows which are")
    network = UNet(UNetConfig.from_mapping(config["network"]))
    try:
        network.load_state_dict({name: value.float() for name, value in model.tensors().items()})
    except RuntimeError as error:
        raise ModelError(f"{model.path}: its weights do not fit the network its header describes: {_first(error)}") from error
    network = network.eval().requires_grad_(False).to(runtime.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    rule = LabelRule(**config["label_rule"]) if config.get("label_rule") else None
    return UNetPredictor(network, Normalization.from_mapping(config["normalization"]), tuple(config["class_names"]), rule)


def _first(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[min(1, len(lines) - 1)]
