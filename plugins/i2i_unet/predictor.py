"""Segmentation as the engine runs it: networks with their normalisation, what they say together, and the three kinds of result.

What is averaged (``--tta``, several models) is computed one after the other for each window, in the memory of one. It tiles
exactly, for windows begin and end at multiples of the stride: flipped or turned, a window lies in the flipped or turned image on
the same raster, with the same halo on each side.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from i2i.backends import dtype_of
from i2i.contracts import Array, DensePredictor, Footprint, LabelRule, Model, ObjectFilter, Output, Runtime, Source
from i2i.errors import ModelError, UsageError
from i2i.geometry import round_up
from i2i.normalize import Normalization
from i2i_unet.architectures import (
    Config,
    Network,
    build,
    config_from_mapping,
    folded,
    footprint,
    forward_window,
    misfit,
    traceable,
    window_bytes,
)
from i2i_unet.options import SegmentOptions

_VIEWS = tuple((turns, flip) for flip in (False, True) for turns in range(4))
_LEAST = 1e-30
"""The smallest mean probability, for its logarithm."""
_PLAIN = SegmentOptions()


class UNetPredictor(DensePredictor):
    """Results: ``classes`` (the likeliest), ``probabilities`` (softmax, 0 .. 255) and, with a label rule, ``labels``; with
    ``options.float_`` only ``probabilities``, 0 .. 1.

    ``networks``: several, and with ``options.tta`` each seen from 8 sides, give the logarithm of the mean of their probabilities;
    one alone gives its logits. ``name``: how messages call the model. Only one network seen once is traceable: a graph of many
    would take memory that nobody has measured.
    """

    def __init__(
        self,
        network: Network,
        normalization: Normalization,
        class_names: tuple[str, ...],
        rule: LabelRule | None,
        options: SegmentOptions = _PLAIN,
        name: str = "the model",
    ) -> None:
        self.networks: tuple[Network, ...] = (network,)
        self.normalization = normalization
        self.class_names = class_names
        self.label_rule = rule
        self.tta = options.tta
        self.resample = options.zoom
        self.name = name
        self.keep = _kept(options)
        self.footprint = footprint(network.config)
        self.traceable = traceable(network.config) and not options.tta
        self.window_bytes = window_bytes(network.config, network.head.weight.dtype.itemsize)
        if options.tta:
            self.window_bytes = _averaged(self.window_bytes)
        classes = Output("classes", 1, "uint8", "classes")
        kind = "float32" if options.float_ else "uint8"
        probabilities = Output("probabilities", len(class_names), kind, "probabilities", class_names)
        labels = Output("labels", 1, "uint32", "labels")
        whole = () if options.float_ else (labels, classes) if rule else (classes,)
        self.outputs = (*whole, probabilities)

    @property
    def network(self) -> Network:
        """The first."""
        return self.networks[0]

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
        views = _VIEWS if self.tta else _VIEWS[:1]
        if len(self.networks) == len(views) == 1:
            return self._logits(self.network, batch)
        total = batch.new_zeros(self._answer_shape(batch))
        for network in self.networks:
            for view in views:
                total += self._probabilities(batch, network, view)
        return (total / (len(self.networks) * len(views))).clamp_min(_LEAST).log()

    def _answer_shape(self, batch: Tensor) -> tuple[int, ...]:
        lost = 2 * _lost(self.footprint)
        return batch.shape[0], self.footprint.channels_out, batch.shape[2] - lost, batch.shape[3] - lost

    def _probabilities(self, batch: Tensor, network: Network, view: tuple[int, bool]) -> Tensor:
        """What a network says of a batch that it sees flipped and turned, the right way round again."""
        turns, flip = view
        seen = torch.rot90(batch.flip(-1) if flip else batch, turns, (-2, -1))
        upright = torch.rot90(self._logits(network, seen).softmax(1), -turns, (-2, -1))
        return upright.flip(-1) if flip else upright

    def _logits(self, network: Network, batch: Tensor) -> Tensor:
        """Of one network. One that loses less at the edges of a window than others do is given so much less of it."""
        spare = _lost(self.footprint) - _lost(footprint(network.config))
        height, width = batch.shape[-2:]
        seen = batch[..., spare : height - spare, spare : width - spare]
        return forward_window(network, seen.to(network.head.weight.dtype)).float()

    def convert(self, raw: npt.NDArray[np.float32], output: Output) -> Array:
        if output.name == "classes":
            return likeliest(raw).astype(output.dtype, copy=False)
        shifted = np.exp(raw - raw.max(2, keepdims=True))
        probabilities = shifted / shifted.sum(2, keepdims=True)
        return probabilities if output.dtype == "float32" else np.rint(255 * probabilities).astype(output.dtype)


def _kept(options: SegmentOptions) -> ObjectFilter:
    """Raises ``UsageError`` for bounds that no object is between."""
    if 0 < options.max_area < options.min_area:
        raise UsageError(f"--min-area {options.min_area}: is above --max-area {options.max_area}: no object would stay")
    return ObjectFilter(options.min_area, options.max_area, options.clear_border)


def likeliest(raw: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """(H, W, C) -> (H, W, 1): the channel that is the largest, the first of equals. As ``argmax``, several times faster."""
    best, index = raw[..., 0], np.zeros(raw.shape[:2], np.uint8)
    for number in range(1, raw.shape[2]):
        np.maximum(index, (raw[..., number] > best) * np.uint8(number), out=index)
        best = np.maximum(best, raw[..., number])
    return index[..., None]


def _averaged(window_bytes: int) -> int:
    """What networks that run one after the other take for a pixel: the sum, and gaps that they leave in memory (measured: 1.15
    times what one declares, for a U-Net of depth 4)."""
    return window_bytes * 5 // 4


def _lost(needs: Footprint) -> int:
    """Pixels on each side of a window that the answer does not cover."""
    return round_up(needs.halo, needs.multiple_of) if needs.border == "mirror" else 0


def join(predictors: Sequence[UNetPredictor]) -> UNetPredictor:
    """One predictor whose probabilities are the mean of all; its label rule is the first one's. Raises ``ModelError`` for two
    that differ in their channels, classes, normalisation, the classes that objects are made of, or the kind of convolutions."""
    first = predictors[0]
    for other in predictors[1:]:
        for what, value in _facts(first).items():
            if (found := _facts(other)[what]) != value:
                both = f"{first.name} and {other.name} do not go together"
                raise ModelError(f"--model: {both}: {what}: {value}, and {found}; give models that have these in common")
    needs = [predictor.footprint for predictor in predictors]
    joined = copy.copy(first)
    joined.networks = tuple(network for predictor in predictors for network in predictor.networks)
    joined.name = "+".join(predictor.name for predictor in predictors)
    joined.footprint = _common(needs)
    largest = max(predictor.window_bytes for predictor in predictors)
    joined.window_bytes = largest if first.tta else _averaged(largest)
    joined.traceable = False
    joined.gray_as_rgb = all(predictor.gray_as_rgb for predictor in predictors)
    return joined


def _common(needs: Sequence[Footprint]) -> Footprint:
    """Of networks that see the same windows: the largest halo, and strides that are multiples of all."""
    whole = any(each.norm_scope == "image" for each in needs)
    return replace(
        needs[0],
        halo=max(each.halo for each in needs),
        multiple_of=math.lcm(*(each.multiple_of for each in needs)),
        norm_scope="image" if whole else "pixel",
        merge="blend" if whole else "crop",
    )


def _facts(predictor: UNetPredictor) -> dict[str, str]:
    """What models that are averaged have in common, in words."""
    rule, normal = predictor.label_rule, predictor.normalization
    percentiles = f" {normal.low:g} to {normal.high:g}" if normal.method == "percentile" else ""
    border = "" if rule is None or rule.border is None else f" within border {rule.border}"
    return {
        "channels": str(predictor.footprint.channels_in),
        "classes": ", ".join(predictor.class_names),
        "normalisation": normal.method + percentiles,
        "objects": f"of class {rule.interior}{border}" if rule else "none",
        "convolutions": "same" if predictor.footprint.border == "zero" else "valid",
    }


@dataclass(frozen=True)
class Header:
    """What the header of a model file says, checked."""

    network: Config
    normalization: Normalization
    class_names: tuple[str, ...]
    rule: LabelRule | None
    gray_as_rgb: bool = False


def read_header(model: Model) -> Header:
    """Raises ``ModelError`` that names the file and what its header lacks or has wrong."""
    config = model.config
    if config.get("task") != "segment" or "network" not in config:
        raise ModelError(f"{model.path}: not a model of segment; `i2i models list` shows which are")
    try:
        network = config_from_mapping(config["network"])
        normalization = _normalization(config.get("normalization"))
        names, rule = config.get("class_names"), config.get("label_rule")
        if not (isinstance(names, list) and all(map(_is_name, names)) and len(names) == network.classes):
            raise ModelError(f"class_names must be {network.classes} names, one for each class, in one line each")
        checked = None if rule is None else _rule(rule, network.classes)
        return Header(network, normalization, tuple(names), checked, _gray_as_rgb(config.get("gray_as_rgb", False), network))
    except ModelError as error:
        raise ModelError(f"{model.path}: a header that cannot be used: {error}; {_CURE}") from error


def _is_name(value: Any) -> bool:
    """Whether it can be a channel's name in the metadata of a file: no control characters, and not a book."""
    return isinstance(value, str) and value.isprintable() and len(value) <= 200


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


def _gray_as_rgb(value: Any, network: Config) -> bool:
    if not isinstance(value, bool) or (value and network.channels != 3):
        raise ModelError(f"gray_as_rgb {value!r} must be true or false, and true only for a network of 3 channels")
    return value


def load(model: Model, runtime: Runtime, options: SegmentOptions = _PLAIN) -> UNetPredictor:
    """The predictor of a model file. Raises ``ModelError`` when its header or its tensors are not those of a known network.

    The network is built without memory, and takes the file's tensors for its own: what the header says costs nothing.
    """
    header = read_header(model)
    with torch.device("meta"):
        network = build(header.network)
    expected, tensors = network.state_dict(), model.tensors()
    if wrong := misfit(tensors, expected):
        raise ModelError(f"{model.path}: its weights do not fit the network its header describes: {wrong}; {_CURE}")
    weights = {name: value.to(expected[name].dtype, copy=True) for name, value in tensors.items()}
    network.load_state_dict(weights, assign=True)
    network = folded(network.eval().requires_grad_(False))
    network = network.to(runtime.device, dtype_of(runtime.precision), memory_format=torch.channels_last)  # type: ignore[call-overload]
    predictor = UNetPredictor(network, header.normalization, header.class_names, header.rule, options, model.name)
    predictor.gray_as_rgb = header.gray_as_rgb
    return predictor
