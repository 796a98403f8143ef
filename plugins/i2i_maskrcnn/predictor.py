"""Instance segmentation as the engine runs it: a network with its normalisation, and the rules for what is an object."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from i2i.backends import dtype_of
from i2i.contracts import Array, Footprint, ImageSpec, InstancePredictor, Instances, Model, Output, Runtime, Source
from i2i.errors import ModelError, UsageError
from i2i.geometry import round_up
from i2i.normalize import Normalization
from i2i_maskrcnn.header import Header, read_header
from i2i_maskrcnn.heads import Detections, Rules
from i2i_maskrcnn.masks import centred, instances
from i2i_maskrcnn.memory import held_bytes, window_bytes
from i2i_maskrcnn.network import MaskRCNN, build
from i2i_maskrcnn.options import InstancesOptions
from i2i_maskrcnn.torchvision_weights import renamed
from i2i_maskrcnn.views import VIEWS, joined, seen, upright

_CONTEXT = 48
"""Pixels of the network's view around an object that it is told by."""
_WHOLE = 64_000_000
"""Pixels of an image up to which a model with a view of its own sees it in that."""
_EACH = 200
"""Pixels of the network's view for each object that a window may hold, unless the user says how many."""
_FEWEST = 300
_COPIES = 16
"""Bytes of a window's pixels for each channel, before the network and besides what the engine holds."""


class MaskRCNNPredictor(InstancePredictor):
    """``network``: in evaluation mode, on its device, in its number format. ``zoom``: how many times as large it sees the image;
    masks are drawn at the image's own size."""

    def __init__(self, network: MaskRCNN, header: Header, options: InstancesOptions) -> None:
        self.network, self.header, self.options = network, header, options
        self.normalization = header.normalization
        self.class_names = header.class_names
        self.gray_as_rgb = header.gray_as_rgb
        self.outputs = (Output("labels", 1, "uint32", "labels"),)
        self.rules = _rules(options, header)
        self.min_area = options.min_area if options.min_area >= 0 else header.min_area
        self.overlap = options.overlap if options.overlap >= 0 else header.overlap
        self.resample = 1.0 if options.zoom else 0.0  # it enlarges its windows itself
        self._see(options.zoom or 1.0)

    def _see(self, zoom: float) -> None:
        """Set what depends on the zoom: the footprint, in pixels of the image, and the memory."""
        config, self.zoom = self.network.config, zoom
        largest = self.options.object_size or self.header.object_size / zoom
        multiple = config.stride if zoom == 1 else 1
        halo = round_up(math.ceil(largest / 2 + _CONTEXT / zoom), multiple)
        self.footprint = Footprint(
            halo=halo, multiple_of=multiple, pad=config.mean or 0.0, channels_in=config.channels,
        )  # fmt: skip
        self.held_bytes = held_bytes(self.network)
        self.window_bytes = math.ceil(window_bytes(self.network, self.options.tta) * zoom**2) + _COPIES * config.channels

    def fitted(self, spec: ImageSpec) -> Self:
        """A model with a view of its own, such as COCO's, sees a photograph in it, unless the user says how."""
        if self.options.zoom or not self.header.view or spec.height * spec.width > _WHOLE:
            return self
        shorter, longer = sorted((spec.height, spec.width))
        fitted = copy.copy(self)
        fitted._see(min(self.header.view[0] / shorter, self.header.view[1] / longer))
        if fitted.zoom < 1:
            fitted.remarks = (
                f"the model sees it at {fitted.zoom:.2g} times its size, as it was trained to; --zoom 1: in full detail",
            )
        return fitted

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

    def __call__(self, batch: Tensor) -> list[Instances]:
        shape, zoomed = (batch.shape[2], batch.shape[3]), self._zoomed(batch)
        pixels = zoomed.shape[2] * zoomed.shape[3]
        rules = replace(self.rules, most=self.rules.most or max(_FEWEST, pixels // _EACH))
        return [instances(found, shape, self.min_area, self.overlap) for found in self._found(zoomed, rules, shape)]

    def _zoomed(self, batch: Tensor) -> Tensor:
        if self.zoom == 1:
            return batch
        size = [max(1, math.floor(length * self.zoom)) for length in batch.shape[2:]]
        return nn.functional.interpolate(batch, size, mode="bilinear", antialias=self.zoom < 1)

    def _found(self, batch: Tensor, rules: Rules, shape: tuple[int, int]) -> list[Detections]:
        """What the network finds in each window, in pixels of the window, of which ``batch`` is the zoomed view."""
        height, width = batch.shape[2:]
        if self.options.tta:  # what a view is less sure of counts too
            unsure = replace(rules, score=rules.score / 2)
            several = [self._from_view(batch, view, unsure) for view in VIEWS]
            found = [joined(parts, rules.score, rules.most) for parts in zip(*several, strict=True)]
        else:
            found = self._from_view(batch, VIEWS[0], rules)
        scale = torch.tensor([shape[1] / width, shape[0] / height] * 2, device=batch.device)
        return [replace(one, boxes=one.boxes * scale) for one in found]

    def _from_view(self, batch: Tensor, view: tuple[int, bool], rules: Rules) -> list[Detections]:
        """Padded at the bottom and right, as little as the network needs."""
        turned = seen(batch, view)
        # torchvision pads no further than this, for the coarsest level is every second pixel of the one before
        stride = self.network.config.strides[-2 if self.header.view else -1]
        below, right = (-length % stride for length in turned.shape[2:])
        padded = nn.functional.pad(turned, (0, right, 0, below)).contiguous(memory_format=torch.channels_last)
        shape = (batch.shape[2], batch.shape[3])
        found = self.network.detect(padded, rules, (turned.shape[2], turned.shape[3]))
        return [upright(centred(one), view, shape) for one in found]


def _rules(options: InstancesOptions, header: Header) -> Rules:
    """Raises ``UsageError`` for classes that the model does not know, and for shares beyond 0 to 1."""
    numbers = {name: number for number, name in header.class_names.items()}
    for name in options.classes:
        if name not in numbers:
            raise UsageError(f"--classes {name}: the model knows {_listed(list(numbers))}")
    for name, value in (("score", options.score), ("nms", options.nms), ("overlap", options.overlap)):
        if not (0 <= value <= 1 or value == -1):
            raise UsageError(f"--{name} {value:g}: must be from 0 to 1")
    return Rules(
        options.score if options.score >= 0 else header.score,
        options.nms if options.nms >= 0 else header.nms,
        options.soft_nms, options.max_per_tile, tuple(numbers[name] for name in options.classes),
    )  # fmt: skip


def _listed(names: list[str]) -> str:
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")


def load(model: Model, runtime: Runtime, options: InstancesOptions) -> MaskRCNNPredictor:
    """The predictor of a model file. Raises ``ModelError`` when its header or its tensors are not those of a known network."""
    header = read_header(model)
    with torch.device("meta"):
        shapes = build(header.network).state_dict()
    weights = model.tensors() if model.config else renamed(model.tensors())
    if wrong := _misfit(weights, shapes):
        raise ModelError(f"{model.path}: its weights do not fit the network its header describes: {wrong}; get the model again")
    network = build(header.network)
    network.load_state_dict(
        {name: value.to(shapes[name].dtype) for name, value in weights.items() if name in shapes}, strict=False
    )
    network = network.eval().requires_grad_(False)
    network = network.to(runtime.device, dtype_of(runtime.precision), memory_format=torch.channels_last)  # type: ignore[call-overload]
    return MaskRCNNPredictor(network, header, options)


def _misfit(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    """What is missing or of another shape, in words; counters of batches may be missing."""
    for name, value in expected.items():
        if name not in weights:
            if not name.endswith("num_batches_tracked"):
                return f"{name} is missing"
        elif weights[name].shape != value.shape:
            return f"{name} is {tuple(weights[name].shape)}, not {tuple(value.shape)}"
    unknown = sorted(set(weights) - set(expected))
    return f"{unknown[0]} is unknown" if unknown else ""
