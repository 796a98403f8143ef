"""Instance normalisation of a whole image, frozen: its statistics are measured once, and from then on a layer is a multiplication
and an addition for each channel, so that a network that has such layers tiles exactly.

A layer's statistics depend on those of all layers before it. So the windows that stand for the image go through the network
together, and each layer normalises by the mean and variance over all of them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from i2i.contracts import Array, ImageSpec, Source
from i2i.errors import ModelError
from i2i.geometry import Region, mirror, round_up

Statistics = dict[str, dict[str, list[float]]]
"""By the layer's name in the network: the ``mean`` and the ``variance`` of each channel. JSON values."""
Network = TypeVar("Network", bound=nn.Module)
_WHOLE = 2**20
_SIDE = 256
_LEAST = 32
"""A smaller image is mirrored up to this side: layers at a part of its size would have a pixel or two to measure."""


class _Measured(nn.Module):
    """A normalisation over all that it sees of the whole batch, which it remembers."""

    def __init__(self, layer: nn.InstanceNorm2d) -> None:
        super().__init__()
        self.layer = layer
        self.mean = self.variance = torch.empty(0)

    def forward(self, values: Tensor) -> Tensor:
        exact = values if values.dtype == torch.float64 else values.float()
        self.variance, self.mean = torch.var_mean(exact, (0, 2, 3), correction=0)
        weight, bias = (None if own is None else own.to(exact.dtype) for own in (self.layer.weight, self.layer.bias))
        return functional.batch_norm(values, self.mean, self.variance, weight, bias, eps=self.layer.eps)


@torch.no_grad()
def measure(network: nn.Module, windows: Tensor) -> Statistics:
    """The statistics of every ``nn.InstanceNorm2d`` of a network over ``windows`` (K, C, h, w), which go through it together, in
    its dtype. Of a single window they are those of plain instance normalisation. The network itself stays as it is."""
    measured = _with_norms(network, lambda name, layer: _Measured(layer)).eval()
    measured(windows)
    layers = [(name, layer) for name, layer in measured.named_modules() if isinstance(layer, _Measured)]
    return {name: {"mean": layer.mean.tolist(), "variance": layer.variance.tolist()} for name, layer in layers}


def frozen(network: Network, statistics: Mapping[str, Any]) -> Network:
    """A copy of a network, in evaluation mode, that normalises by ``statistics``, whatever it sees: each ``nn.InstanceNorm2d`` is
    an ``nn.BatchNorm2d``. Raises ``ModelError`` for the statistics of another network."""
    sizes = {name: layer.num_features for name, layer in network.named_modules() if isinstance(layer, nn.InstanceNorm2d)}
    if {name: len(known["mean"]) for name, known in statistics.items()} != sizes:
        raise ModelError("the recorded statistics are those of another network; start again with --overwrite")
    return _with_norms(network, lambda name, layer: _fixed(layer, statistics[name])).eval()


def _fixed(layer: nn.InstanceNorm2d, known: Mapping[str, Any]) -> nn.BatchNorm2d:
    result = nn.BatchNorm2d(layer.num_features, layer.eps, affine=layer.affine)
    state = layer.state_dict() | {
        "running_mean": torch.tensor(known["mean"], dtype=torch.float64),
        "running_var": torch.tensor(known["variance"], dtype=torch.float64),
        "num_batches_tracked": torch.tensor(0),
    }
    result.double().load_state_dict(state)
    return result.to(layer.weight).requires_grad_(layer.weight.requires_grad) if layer.affine else result.float()


def _with_norms(network: Network, change: Callable[[str, nn.InstanceNorm2d], nn.Module]) -> Network:
    result = copy.deepcopy(network)
    for name, layer in [found for found in result.named_modules() if isinstance(found[1], nn.InstanceNorm2d)]:
        parent, _, child = name.rpartition(".")
        assert isinstance(layer, nn.InstanceNorm2d)
        setattr(result.get_submodule(parent), child, change(name, layer))
    return result


# ------------------------------------------------------------------------------------------- the windows that stand for an image


def sample_regions(spec: ImageSpec, seed: int) -> list[Region]:
    """The whole image up to a megapixel; else as many pixels in windows of 256 x 256, one at a seeded place of each of the equal
    rectangles that the image is cut into."""
    if spec.height * spec.width <= _WHOLE:
        return [spec.region]
    height, width = min(_SIDE, spec.height), min(_SIDE, spec.width)
    count = _WHOLE // (height * width)
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


def sample_windows(source: Source, normalize: Callable[[Array], npt.NDArray[np.float32]], seed: int, stride: int = 1) -> Tensor:
    """(K, C, h, w) float32: the normalised pixels of :func:`sample_regions`, mirrored at the bottom and right up to a multiple of
    ``stride``, and to 32 pixels at least."""
    parts = [_whole(normalize(source.read(region)), stride) for region in sample_regions(source.spec, seed)]
    return torch.from_numpy(np.stack(parts)).permute(0, 3, 1, 2)


def _whole(pixels: npt.NDArray[np.float32], stride: int) -> npt.NDArray[np.float32]:
    rows, columns = ([mirror(i, n) for i in range(round_up(max(n, _LEAST), stride))] for n in pixels.shape[:2])
    return pixels[np.array(rows)[:, None], np.array(columns)[None, :]]
