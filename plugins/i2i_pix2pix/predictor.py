"""Paired translation as the engine runs it: a generator, the ranges of its numbers, and the statistics of instance normalisation,
which are frozen over the image."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from i2i.backends import dtype_of
from i2i.contracts import Array, DensePredictor, Footprint, ImageSpec, Model, Output, Runtime, Source
from i2i.errors import ModelError, PluginError, UsageError
from i2i.frozen import WHOLE, Statistics, cover, frozen, measure, measure_exactly, sample_windows
from i2i.geometry import Region, round_up
from i2i_pix2pix.generators import Generator, GeneratorConfig, build, halo
from i2i_pix2pix.noise import Sampled
from i2i_pix2pix.options import TranslateOptions
from i2i_pix2pix.ranges import Ranges

_FARTHEST = 128
"""A generator that sees farther than this, in pixels, is tiled exactly only where exactness is asked for: most of each window
would be context."""
_CURE = "get the model again, or make it with i2i train translate"
_NEAR = 64
"""A generator that sees no farther is measured in windows of 256 pixels, whose outer quarters may not count, others in larger."""
_SAMPLED = 2**30
"""Bytes that the windows which stand for an image may take, where a megapixel of them takes less."""
_CORE = 512
"""Side of the cores of windows in which an image is measured exactly, in pixels."""
_MEASURED = 2**24
"""Pixels of an image up to which ``auto`` measures exactly."""
_NORMALIZED = ("instance", "group")
"""Whose statistics are those of the image, and are frozen."""


def footprint(config: GeneratorConfig, statistics: str = "auto") -> Footprint:
    """What the engine has to know of a generator whose statistics are frozen. One of moderate depth tiles exactly; a deeper one
    is blended, but for ``statistics`` that are ``exact``."""
    reach = halo(config)
    exact = reach <= _FARTHEST or statistics == "exact"
    return Footprint(
        halo=reach if exact else _FARTHEST,
        multiple_of=config.multiple_of,
        border="zero",
        pad="mirror",
        channels_in=config.channels_in,
        channels_out=config.channels_out,
        merge="crop" if exact else "blend",
    )


def window_bytes(config: GeneratorConfig, itemsize: int) -> int:
    """Activations that live at once for each pixel of a window, in bytes."""
    if config.kind == "resnet":
        return itemsize * (config.channels_in + config.channels_out + 6 * config.filters)
    kept = sum(width / 4 ** (level + 1) for level, width in enumerate(config.widths))
    return int(itemsize * (config.channels_in + 2 * config.channels_out + 3 * kept + 2 * config.filters))


class TranslatePredictor(DensePredictor):
    """``image``: what the generator makes, in the numbers of its targets, or in those of the input. It can be called once it is
    prepared. With ``options.samples``, it is a sample: the noise is that of the seed that it is prepared with."""

    def __init__(self, network: Generator, ranges: Ranges, runtime: Runtime, options: TranslateOptions | None = None) -> None:
        self.ranges = ranges
        self.runtime = runtime
        self.network = self._placed(network.eval().requires_grad_(False))
        self.options = options or TranslateOptions()
        self.positions = self.options.samples > 0
        self.footprint = footprint(network.config, self.options.statistics)
        self.traceable = not self.positions
        self.window_bytes = window_bytes(network.config, self._dtype.itemsize)
        self.outputs = self._outputs(ranges.dtype)
        self._known: Statistics = {}
        self._seed = 0
        self._fixed: nn.Module | None = None

    @property
    def _dtype(self) -> torch.dtype:
        return dtype_of(self.runtime.precision)

    def _outputs(self, dtype: str) -> tuple[Output, ...]:
        channels = self.network.config.channels_out
        image = Output("image", channels, dtype, "image", keeps_channels=self.ranges.units == "input")
        return image, Output("float", channels, "float32", "image", keeps_channels=self.ranges.units == "input")

    def _placed(self, network: Generator) -> Generator:
        """On its device, in its precision, the head in single precision."""
        placed: Generator = network.to(self.runtime.device, self._dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        placed.head.float()
        return placed

    def _noisy(self, network: Generator) -> nn.Module:
        """For a sample, with the noise of the seed."""
        return Sampled(network, self._seed) if self.positions else network

    def _given(self, windows: Tensor) -> Tensor:
        """As the network takes windows; the places in them need all digits."""
        given = windows.to(self.runtime.device, torch.float32 if self.positions else self._dtype)
        return given.contiguous(memory_format=torch.channels_last)

    def fitted(self, spec: ImageSpec) -> Self:
        if self.ranges.units == "own":
            return self
        result = copy.copy(self)
        result.outputs = self._outputs("uint8" if spec.dtype == "bool" else spec.dtype)
        return result

    def prepare(self, source: Source, seed: int) -> Self:
        ready = copy.copy(self)
        ready.ranges = replace(self.ranges, source=self.ranges.source.freeze(source, seed))
        ready._seed = seed
        found = ready._measured(source, seed) if self.network.config.norm in _NORMALIZED else {}
        known = {name.removeprefix("network."): values for name, values in found.items()}  # of a sample's wrapper
        return ready.with_statistics(ready.statistics() | {"normalization": known})

    def _measured(self, source: Source, seed: int) -> Statistics:
        """Of the normalisations over the image."""
        network, config = self._noisy(self.network), self.network.config
        reach, stride = halo(config), config.multiple_of
        if self._exactly(source.spec, reach):
            return measure_exactly(network, partial(self._cover, source, reach, stride))
        side = 256 if reach <= _NEAR else 512
        pixels = max(WHOLE, _SAMPLED // self.window_bytes)
        seen = sample_windows(source, self, seed, stride, side, pixels)
        edge = 0 if source.spec.region.area <= WHOLE else reach
        return measure(network, self._given(seen), edge)

    def _exactly(self, spec: ImageSpec, reach: int) -> bool:
        """An image up to a megapixel is one window, which ``auto`` measures as it is."""
        asked = self.options.statistics
        return asked == "exact" or (asked == "auto" and reach <= _FARTHEST and WHOLE < spec.region.area <= _MEASURED)

    def _cover(self, source: Source, reach: int, stride: int) -> Iterator[tuple[Tensor, Region]]:
        for window, core in cover(source, self, reach, stride, round_up(_CORE, stride)):
            yield self._given(window), core

    def statistics(self) -> dict[str, Any]:
        return {"ranges": self.ranges.as_mapping(), "normalization": self._known, "seed": self._seed}

    def with_statistics(self, statistics: Mapping[str, Any]) -> Self:
        prepared = copy.copy(self)
        prepared.ranges = Ranges.from_mapping(statistics["ranges"])
        prepared._known, prepared._seed = dict(statistics["normalization"]), statistics.get("seed", 0)
        prepared._fixed = prepared._noisy(frozen(self.network, prepared._known) if prepared._known else self.network)
        return prepared

    def normalize(self, pixels: Array) -> npt.NDArray[np.float32]:
        return self.ranges.apply(pixels)

    def __call__(self, batch: Tensor) -> Tensor:
        if self._fixed is None:
            raise PluginError("a generator was called before its statistics were measured: prepare comes first")
        answer: Tensor = self._fixed(batch if self.positions else batch.to(self._dtype)).float()
        return answer

    def exportable(self) -> nn.Module:
        """With the statistics of what it is given, as it was trained."""
        return self.network

    def convert(self, raw: npt.NDArray[np.float32], output: Output) -> Array:
        numbers = self.ranges.numbers(raw)
        if np.dtype(output.dtype).kind == "f":
            return numbers.astype(output.dtype)
        limits = np.iinfo(output.dtype)
        return np.rint(numbers).clip(limits.min, limits.max).astype(output.dtype)


@dataclass(frozen=True)
class Header:
    """What the header of a model file says, checked."""

    generator: GeneratorConfig
    ranges: Ranges


def read_header(model: Model) -> Header:
    """Raises ``ModelError`` that names the file and what its header lacks or has wrong."""
    config = model.config
    if config.get("task") != "translate" or not isinstance(config.get("generator"), Mapping):
        raise ModelError(f"{model.path}: not a model of translate; i2i train translate makes them")
    try:
        return Header(GeneratorConfig.from_mapping(config["generator"]), Ranges.from_mapping(config.get("ranges")))
    except ModelError as error:
        raise ModelError(f"{model.path}: a header that cannot be used: {error}; {_CURE}") from error


def load(model: Model, runtime: Runtime, options: TranslateOptions | None = None) -> TranslatePredictor:
    """The predictor of a model file. Raises ``ModelError`` when its header or its tensors are not those of a known generator, and
    ``UsageError`` for samples of one that has no noise."""
    header = read_header(model)
    if options and options.samples and not header.generator.dropout:
        raise UsageError(f"--samples: {model.name} was made without drop-out, so all would be the same; leave it out")
    return TranslatePredictor(network_of(model, header.generator), header.ranges, runtime, options)


def network_of(model: Model, config: GeneratorConfig) -> Generator:
    """The generator with a model file's weights. Raises ``ModelError`` when they are those of another one."""
    with torch.device("meta"):
        network = build(config)
    expected, tensors = network.state_dict(), model.tensors()
    wrong = sorted(tensors.keys() ^ expected.keys()) or [name for name in expected if tensors[name].shape != expected[name].shape]
    if wrong:
        raise ModelError(f"{model.path}: its weights do not fit the network its header describes ({wrong[0]}); {_CURE}")
    network.load_state_dict({name: value.to(expected[name].dtype) for name, value in tensors.items()}, assign=True)
    return network
