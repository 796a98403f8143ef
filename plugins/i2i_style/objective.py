"""The loss of a whole picture and its gradient, in the memory of one window.

The Gram matrix of a picture is the sum of those of its tiles. So a first pass over the tiles, without gradients, gives the Gram
matrices; with them dE/dF is known at every position, and a second pass back-propagates it tile by tile. What a window gives
beyond its core is *added* to what its neighbours give there: the sum is the gradient of the whole picture, for each position of a
layer belongs to one core, and all that it sees lies in that core's window. Where one window holds the whole picture, one pass is
enough. (That Gram matrices may be summed over parts: Galerne, Raad, Lezama, Morel, "Scaling Painting Style Transfer", 2022.)"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from i2i.geometry import Grid, Region, Tile, make_grid
from i2i_style.encoder import Encoder, EncoderConfig
from i2i_style.losses import content_gradient, content_loss, positions, style_gradient, style_loss, total_variation
from i2i_style.regions import pooled

Reader = Callable[[Region], Tensor]
"""Gives a rectangle of a picture: (1, 3, h, w) float32, RGB in 0 .. 1, on the encoder's device."""


@dataclass(frozen=True)
class StyleTarget:
    """``grams``: the wanted Gram matrix (N, N) of each style layer. ``mask``: (1, 1, H, W), 0 .. 1, where in the picture it is
    wanted; None: everywhere. ``weight``: of this target among all."""

    grams: Mapping[str, Tensor]
    mask: Tensor | None = None
    weight: float = 1.0


@dataclass(frozen=True)
class Weights:
    """Of the terms: for each layer, alpha or beta times the layer's own; ``variation`` for the total variation. ``summed``: the
    content loss is the paper's sum, not the mean over all answers."""

    content: Mapping[str, float]
    style: Mapping[str, float]
    variation: float = 0.0
    summed: bool = False

    @property
    def layers(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys([*self.content, *self.style]))


def tiles_of(size: tuple[int, int], config: EncoderConfig, window: tuple[int, int]) -> list[Tile]:
    """The tiles of a picture of ``size`` (height, width) for an encoder that ends with ``config.last``: cores that share no
    position of any layer, windows that lie in the picture and hold all that their cores see. Raises ``ValueError`` for too small
    a window."""
    last = config.layers[-1]
    grid: Grid = make_grid(size, window, halo=last.reach, stride=last.stride)
    return [Tile(tile.core, tile.window.intersect(grid.image)) for tile in grid.tiles(grid.image)]


def core_of(values: Tensor, tile: Tile, size: tuple[int, int], stride: int) -> tuple[slice, slice]:
    """Which positions of a layer's answers to a window belong to the core. What is left over at the picture's end (less than a
    position) belongs to none."""
    inner = tile.core.relative_to(tile.window)
    spans = ((tile.core.y, inner.y, tile.core.bottom, inner.bottom), (tile.core.x, inner.x, tile.core.right, inner.right))
    rows, columns = (
        slice(first // stride, None if end == whole else last // stride)
        for (_, first, end, last), whole in zip(spans, size, strict=True)
    )
    return rows, columns


@torch.no_grad()
def grams_of(
    encoder: Encoder,
    read: Reader,
    size: tuple[int, int],
    tiles: Iterable[Tile],
    layers: Sequence[str],
    mask: Tensor | None = None,
) -> dict[str, Tensor]:
    """The Gram matrices (N, N) float32 of a picture, over its positions, window by window. ``mask``: (1, 1, H, W): guided Gram
    matrices, each answer times the mask, over the sum of its squares (Gatys et al. 2017, equation 4)."""
    sums: dict[str, Tensor] = {}
    counts: dict[str, float] = {}
    for tile in tiles:
        answers = encoder(read(tile.window), layers)
        for name, (values, weights) in _cores(encoder, answers, tile, size, mask).items():
            part = _gram_sum(values, weights).cpu().double()
            sums[name] = sums[name] + part if name in sums else part
            counts[name] = counts.get(name, 0.0) + _count(values, weights)
    return {name: (total / max(1e-9, counts[name])).float().to(_device(encoder)) for name, total in sums.items()}


def _device(encoder: Encoder) -> torch.device:
    """Sums are in float64 on the CPU, which not every device has; what is made of them goes back."""
    return encoder.convolution("conv1_1").weight.device


def _cores(
    encoder: Encoder, answers: Mapping[str, Tensor], tile: Tile, size: tuple[int, int], mask: Tensor | None
) -> dict[str, tuple[Tensor, Tensor | None]]:
    """For each layer the core's answers (M, N) and, with a mask, their weights (M, 1)."""
    found: dict[str, tuple[Tensor, Tensor | None]] = {}
    for name, values in answers.items():
        stride = encoder.config.layer(name).stride
        rows, columns = core_of(values, tile, size, stride)
        weights = None
        if mask is not None:
            weights = positions(pooled(mask[(..., *tile.window.slices)], stride)[..., rows, columns])
        found[name] = (positions(values[..., rows, columns]), weights)
    return found


def _gram_sum(values: Tensor, weights: Tensor | None) -> Tensor:
    guided = values if weights is None else values * weights
    return guided.T @ guided


def _count(values: Tensor, weights: Tensor | None) -> float:
    return float(values.shape[0]) if weights is None else float(weights.square().sum())


@dataclass
class Objective:
    """The loss and its gradient at a picture x: ``loss, gradient = objective(x)``.

    ``content``: reads the content picture; ``keep``: its answers are kept from the first evaluation on, rather than computed
    again in each. ``terms``: the last evaluation's losses by name (content, style, variation), weighted."""

    encoder: Encoder
    size: tuple[int, int]
    tiles: Sequence[Tile]
    weights: Weights
    targets: Sequence[StyleTarget]
    content: Reader
    keep: bool = True
    terms: dict[str, float] = field(default_factory=dict)
    _kept: dict[Tile, dict[str, Tensor]] = field(default_factory=dict)
    _counts: list[dict[str, float]] = field(default_factory=list)

    def __call__(self, x: Tensor) -> tuple[float, Tensor]:
        """x: (1, 3, H, W) float32 -> the loss, and its gradient of the same shape."""
        if not self._counts:
            self._counts = [self._positions_of(target) for target in self.targets]
        gradient = torch.zeros_like(x)
        self.terms = dict.fromkeys(("content", "style", "variation"), 0.0)
        if len(self.tiles) == 1:
            window, answers = self._forward(x, self.tiles[0])
            grams = [
                self._over_counts(
                    k, {name: _gram_sum(*core).cpu().double() for name, core in self._style_cores(answers, k, self.tiles[0])}
                )
                for k in range(len(self.targets))
            ]
            self._backward(gradient, window, answers, self.tiles[0], grams)
        else:
            grams = self._grams(x)
            for tile in self.tiles:
                window, answers = self._forward(x, tile)
                self._backward(gradient, window, answers, tile, grams)
        self._add_style_terms(grams)
        return sum(self.terms.values()), gradient

    # ------------------------------------------------------------------------------------------------------- the passes

    def _forward(self, x: Tensor, tile: Tile) -> tuple[Tensor, dict[str, Tensor]]:
        window = x[(..., *tile.window.slices)].detach().clone(memory_format=torch.channels_last).requires_grad_()
        with torch.enable_grad():
            return window, self.encoder(window, self.weights.layers)

    @torch.no_grad()
    def _grams(self, x: Tensor) -> list[dict[str, Tensor]]:
        """The first pass: for each target, the Gram matrices of its style layers."""
        sums: list[dict[str, Tensor]] = [{} for _ in self.targets]
        for tile in self.tiles if self.targets else ():
            window = x[(..., *tile.window.slices)].contiguous(memory_format=torch.channels_last)
            answers = self.encoder(window, tuple(self.weights.style))
            for k, total in enumerate(sums):
                for name, core in self._style_cores(answers, k, tile):
                    part = _gram_sum(*core).cpu().double()
                    total[name] = total[name] + part if name in total else part
        return [self._over_counts(k, total) for k, total in enumerate(sums)]

    @torch.no_grad()
    def _backward(
        self, gradient: Tensor, window: Tensor, answers: Mapping[str, Tensor], tile: Tile, grams: Sequence[Mapping[str, Tensor]]
    ) -> None:
        """The second pass: what the core's positions say, back to the pixels of the window, added to ``gradient``."""
        given = {name: torch.zeros_like(values) for name, values in answers.items()}
        for k, found in enumerate(grams):
            for name, (values, weights) in self._style_cores(answers, k, tile):
                derived = style_gradient(
                    values if weights is None else values * weights.square(),
                    found[name],
                    self.targets[k].grams[name],
                    self._counts[k][name],
                )
                self._add(given[name], tile, name, derived * (self.weights.style[name] * self.targets[k].weight))
        self._add_content(given, answers, tile)
        ends, starts = list(answers.values()), list(given.values())
        if self.weights.variation:
            with torch.enable_grad():
                ends.append(self._variation(window, tile))
            starts.append(torch.ones_like(ends[-1]))
        torch.autograd.backward(ends, starts)
        assert window.grad is not None
        gradient[(..., *tile.window.slices)] += window.grad

    def _add(self, given: Tensor, tile: Tile, name: str, derived: Tensor) -> None:
        rows, columns = core_of(given, tile, self.size, self.encoder.config.layer(name).stride)
        part = given[..., rows, columns]
        part += derived.reshape(1, *part.shape[2:], -1).permute(0, 3, 1, 2).to(part.dtype)

    def _add_content(self, given: Mapping[str, Tensor], answers: Mapping[str, Tensor], tile: Tile) -> None:
        wanted = self._content(tile)
        for name, weight in self.weights.content.items():
            rows, columns = core_of(answers[name], tile, self.size, self.encoder.config.layer(name).stride)
            values, target = positions(answers[name][..., rows, columns]), wanted[name].float()
            share = weight if self.weights.summed else weight / self._size_of(name)
            self.terms["content"] += share * float(content_loss(values, target))
            self._add(given[name], tile, name, share * content_gradient(values, target))

    def _variation(self, window: Tensor, tile: Tile) -> Tensor:
        inner = tile.core.relative_to(tile.window)
        share = self.weights.variation / (self.size[0] * self.size[1])
        found = share * total_variation(window[..., inner.y :, inner.x :], inner.height, inner.width)
        self.terms["variation"] += float(found.detach())
        return found

    # ------------------------------------------------------------------------------------------------ what stays the same

    def _content(self, tile: Tile) -> dict[str, Tensor]:
        """P_l of the core: (M, N) of each content layer."""
        if tile in self._kept:
            return self._kept[tile]
        found = {}
        if self.weights.content:
            for name, values in self.encoder(self.content(tile.window), tuple(self.weights.content)).items():
                rows, columns = core_of(values, tile, self.size, self.encoder.config.layer(name).stride)
                part = values[..., rows, columns]
                found[name] = part.permute(0, 2, 3, 1).reshape(-1, part.shape[1]).clone()
        if self.keep:
            self._kept[tile] = found
        return found

    def _style_cores(
        self, answers: Mapping[str, Tensor], k: int, tile: Tile
    ) -> Iterator[tuple[str, tuple[Tensor, Tensor | None]]]:
        for name in self.weights.style:
            yield name, _cores(self.encoder, {name: answers[name].detach()}, tile, self.size, self.targets[k].mask)[name]

    def _size_of(self, name: str) -> int:
        """Answers of a layer: N M."""
        layer = self.encoder.config.layer(name)
        height, width = (max(1, length // layer.stride) for length in self.size)
        return layer.channels * height * width

    def _positions_of(self, target: StyleTarget) -> dict[str, float]:
        """M of each style layer; with a mask, the sum of its squares."""
        found = {}
        for name in self.weights.style:
            layer = self.encoder.config.layer(name)
            whole = float(self._size_of(name) // layer.channels)
            found[name] = (
                whole
                if target.mask is None
                else max(1e-6, float(pooled(target.mask, layer.stride).cpu().double().square().sum()))
            )
        return found

    def _over_counts(self, k: int, sums: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: (total / self._counts[k][name]).float().to(_device(self.encoder)) for name, total in sums.items()}

    def _add_style_terms(self, grams: Sequence[Mapping[str, Tensor]]) -> None:
        for target, found in zip(self.targets, grams, strict=True):
            for name, weight in self.weights.style.items():
                self.terms["style"] += weight * target.weight * float(style_loss(found[name], target.grams[name]))
