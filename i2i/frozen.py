"""Instance and group normalisation of a whole image, frozen: their statistics are measured once, and from then on a layer is a
multiplication and an addition for each channel, so that a network that has such layers tiles exactly.

A layer's statistics depend on those of all layers before it. So the windows that stand for the image go through the network
together, and each layer normalises by the mean and variance over all of them; or there is a pass over the image for each layer.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from i2i.contracts import ImageSpec, Predictor, Source
from i2i.errors import ModelError
from i2i.geometry import Region, round_up
from i2i.stitch import window_pixels

Pixels = npt.NDArray[np.float32]
Statistics = dict[str, dict[str, list[float]]]
"""By the layer's name in the network: the ``mean`` and the ``variance`` of each channel. JSON values."""
Network = TypeVar("Network", bound=nn.Module)
WHOLE = 2**20
"""Pixels of an image up to which all of it is measured."""
_SIDE = 256
_LEAST = 32
"""A smaller image is mirrored up to this side: layers at a part of its size would have a pixel or two to measure."""


Norm = nn.InstanceNorm2d | nn.GroupNorm


def channels_of(layer: Norm) -> int:
    return layer.num_channels if isinstance(layer, nn.GroupNorm) else layer.num_features


def _groups_of(layer: Norm) -> int:
    """Channels that are normalised together."""
    return layer.num_channels // layer.num_groups if isinstance(layer, nn.GroupNorm) else 1


def _shared(moments: Tensor, together: int) -> Tensor:
    """(channels,) for each channel, the mean of those of its group."""
    return moments.reshape(-1, together).mean(1).repeat_interleave(together)


def _normalized(layer: Norm, values: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    weight, bias = (None if own is None else own.to(mean.dtype) for own in (layer.weight, layer.bias))
    return functional.batch_norm(values, mean, variance, weight, bias, eps=layer.eps)


class _Measured(nn.Module):
    """A normalisation over what it sees of the whole batch, but for a margin, which it remembers. ``margin``: its share of the
    height and width, at each side."""

    def __init__(self, layer: Norm, margin: tuple[float, float] = (0.0, 0.0)) -> None:
        super().__init__()
        self.layer = layer
        self.margin = margin
        self.mean = self.variance = torch.empty(0)

    def forward(self, values: Tensor) -> Tensor:
        exact = values if values.dtype == torch.float64 else values.float()
        rows, columns = (round(length * share) for length, share in zip(values.shape[2:], self.margin, strict=True))
        seen = exact[..., rows : values.shape[2] - rows, columns : values.shape[3] - columns]
        variance, mean = torch.var_mean(seen, (0, 2, 3), correction=0)
        together = _groups_of(self.layer)
        self.mean = _shared(mean, together)
        self.variance = _shared(variance + mean.square(), together) - self.mean.square() if together > 1 else variance
        return _normalized(self.layer, values, self.mean, self.variance)


@torch.no_grad()
def measure(network: nn.Module, windows: Tensor, margin: int = 0) -> Statistics:
    """The statistics of every ``nn.InstanceNorm2d`` and ``nn.GroupNorm`` of a network over ``windows`` (K, C, h, w), which go
    through it together, in its dtype; the outer ``margin`` pixels of each, where the network saw the window's edge, do not count,
    but no more than a quarter of a side.
    Of a single window without a margin they are those of plain normalisation. The network itself stays as it is."""
    rows, columns = (min(margin, side // 4) / side for side in windows.shape[2:])
    shares = rows, columns
    measured = _with_norms(network, lambda name, layer: _Measured(layer, shares)).eval()
    measured(windows)
    layers = [(name, layer) for name, layer in measured.named_modules() if isinstance(layer, _Measured)]
    return {name: {"mean": layer.mean.tolist(), "variance": layer.variance.tolist()} for name, layer in layers}


class _Enough(Exception):
    """The layer that is measured has seen its input; what comes after it need not be computed."""


class _Summed(nn.Module):
    """Sums of what it sees of the cores of windows, and of the squares, in double precision."""

    def __init__(self, layer: Norm) -> None:
        super().__init__()
        self.together = _groups_of(layer)
        self.count = 0
        self.sums = torch.zeros(2, channels_of(layer), dtype=torch.float64)
        self.core = self.window = Region(0, 0, 1, 1)

    def forward(self, values: Tensor) -> Tensor:
        rows, columns = (
            slice(start * now // whole, stop * now // whole)
            for start, stop, now, whole in (
                (self.core.y, self.core.bottom, values.shape[2], self.window.height),
                (self.core.x, self.core.right, values.shape[3], self.window.width),
            )
        )
        seen = values[..., rows, columns].cpu().double()
        self.count += seen.shape[0] * seen.shape[2] * seen.shape[3]
        self.sums += torch.stack([seen.sum((0, 2, 3)), seen.square().sum((0, 2, 3))])
        raise _Enough

    def statistics(self) -> dict[str, list[float]]:
        mean, square = (_shared(one, self.together) for one in self.sums / self.count)
        return {"mean": mean.tolist(), "variance": (square - mean.square()).clamp_min(0).tolist()}


@torch.no_grad()
def measure_exactly(network: nn.Module, windows: Callable[[], Iterable[tuple[Tensor, Region]]]) -> Statistics:
    """The statistics of plain normalisation over a whole image that is seen in windows: for each layer, in their order, one pass
    over the image, in which those before it are frozen. ``windows``: gives (1, C, h, w) each, and the core in it; cores tile the
    image, begin and end at multiples of the network's stride, and lie as far from the window's edge, where that is not the
    image's, as the network sees."""
    known: Statistics = {}
    for name in _order(network, next(iter(windows()))[0]):
        passed = _with_norms(network, partial(_at_pass, name, known)).eval()
        layer = passed.get_submodule(name)
        assert isinstance(layer, _Summed)
        for window, core in windows():
            layer.core, layer.window = core, Region(0, 0, window.shape[2], window.shape[3])
            with contextlib.suppress(_Enough):
                passed(window)
        known[name] = layer.statistics()
    return known


def _at_pass(current: str, known: Statistics, name: str, layer: Norm) -> nn.Module:
    """What a layer is while the layer ``current`` is measured; those that come later stay."""
    if name == current:
        return _Summed(layer)
    return _fixed(layer, known[name]) if name in known else layer


def _order(network: nn.Module, window: Tensor) -> list[str]:
    """The names of the normalisation layers in the order in which a window passes them."""
    found: list[str] = []
    traced = copy.deepcopy(network).eval()
    for name, layer in traced.named_modules():
        if isinstance(layer, Norm):
            layer.register_forward_pre_hook(lambda layer, values, name=name: found.append(name))
    traced(window)
    return found


def frozen(network: Network, statistics: Mapping[str, Any]) -> Network:
    """A network with the weights of ``network`` (the same tensors, so it is not to be moved or changed), in evaluation mode, that
    normalises by ``statistics``, whatever it sees: each ``nn.InstanceNorm2d`` and ``nn.GroupNorm`` is an ``nn.BatchNorm2d``.
    Raises ``ModelError`` for the statistics of another network."""
    sizes = {name: channels_of(layer) for name, layer in network.named_modules() if isinstance(layer, Norm)}
    if {name: len(known["mean"]) for name, known in statistics.items()} != sizes:
        raise ModelError("the recorded statistics are those of another network; start again with --overwrite")
    place = next(network.parameters()).device
    return _with_norms(network, lambda name, layer: _fixed(layer, statistics[name]).to(place)).eval()


def _fixed(layer: Norm, known: Mapping[str, Any]) -> nn.BatchNorm2d:
    result = nn.BatchNorm2d(channels_of(layer), layer.eps, affine=layer.affine)
    state = layer.state_dict() | {
        "running_mean": torch.tensor(known["mean"], dtype=torch.float64),
        "running_var": torch.tensor(known["variance"], dtype=torch.float64),
        "num_batches_tracked": torch.tensor(0),
    }
    result.double().load_state_dict(state)
    return result.to(layer.weight).requires_grad_(layer.weight.requires_grad) if layer.affine else result.float()


def _with_norms(network: Network, change: Callable[[str, Norm], nn.Module]) -> Network:
    result = _twin(network, {})
    for name, layer in [found for found in result.named_modules() if isinstance(found[1], Norm)]:
        parent, _, child = name.rpartition(".")
        assert isinstance(layer, Norm)
        setattr(result.get_submodule(parent), child, change(name, layer))
    return result


def _twin(network: Network, made: dict[nn.Module, nn.Module]) -> Network:
    """Modules of its own with the weights of ``network``: a copy of these for each small image would take longer than the
    image. ``made``: the modules that have a twin already."""
    if network not in made:
        made[network] = result = copy.copy(network)
        result._modules = {name: child and _twin(child, made) for name, child in network._modules.items()}
    found = made[network]
    assert isinstance(found, type(network))
    return found


# ------------------------------------------------------------------------------------------- the windows that stand for an image


def sample_regions(spec: ImageSpec, seed: int, side: int = _SIDE, pixels: int = WHOLE) -> list[Region]:
    """The whole image up to a megapixel; else about so many ``pixels`` in windows of ``side``, one at a seeded place of each of
    the equal rectangles that the image is cut into."""
    if spec.height * spec.width <= WHOLE:
        return [spec.region]
    height, width = min(side, spec.height), min(side, spec.width)
    count = max(1, pixels // (height * width))
    columns = min(count, max(1, round((count * spec.width / spec.height) ** 0.5)))
    rows = count // columns
    places = np.random.default_rng(seed).random((rows, columns, 2))
    return [
        Region(_place(spec.height, height, row, rows, y), _place(spec.width, width, column, columns, x), height, width)
        for row, line in enumerate(places)
        for column, (y, x) in enumerate(line)
    ]


def _place(length: int, side: int, number: int, count: int, share: float) -> int:
    """Where a window begins whose place is that ``share`` of the way along the rectangle ``number`` of ``count``."""
    return int((length - side) * (number + share) / count)


def sample_windows(
    source: Source, predictor: Predictor, seed: int, stride: int = 1, side: int = _SIDE, pixels: int = WHOLE
) -> Tensor:
    """(K, C, h, w) float32: what the network sees of :func:`sample_regions`, which go on at the bottom and right up to a multiple
    of ``stride``, and to 32 pixels at least, as the predictor's footprint pads."""
    regions = (_enough(region, stride) for region in sample_regions(source.spec, seed, side, pixels))
    return torch.from_numpy(np.stack([window_pixels(source, predictor, region) for region in regions])).permute(0, 3, 1, 2)


def seen(source: Source, predictor: Predictor, region: Region) -> Pixels:
    """What the predictor's network is given of ``region`` in a run, (h, w, C) float32: normalised, and where it leaves the image
    as the footprint says. For predictors that measure other things than normalisation."""
    return window_pixels(source, predictor, region)


def _enough(region: Region, stride: int) -> Region:
    height, width = (round_up(max(length, _LEAST), stride) for length in (region.height, region.width))
    return Region(region.y, region.x, height, width)


def cover(source: Source, predictor: Predictor, halo: int, stride: int, side: int) -> Iterator[tuple[Tensor, Region]]:
    """The windows for :func:`measure_exactly`, with their cores: squares of ``side``, a multiple of ``stride``, over the image
    and what it is padded with up to a multiple of ``stride``, and to 32 pixels at least."""
    whole, halo = _enough(source.spec.region, stride), round_up(halo, stride)
    for y in range(0, whole.height, side):
        for x in range(0, whole.width, side):
            core = Region(y, x, side, side).intersect(whole)
            window = core.grow(halo).intersect(whole)
            seen = torch.from_numpy(window_pixels(source, predictor, window)[None]).permute(0, 3, 1, 2)
            yield seen, core.relative_to(window)
