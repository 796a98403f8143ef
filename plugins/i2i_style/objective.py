"""The loss of a whole picture and its gradient, in the memory of one window.

The Gram matrix of a picture is the sum of those of its tiles. So a first pass over the tiles, without gradients, gives the Gram
matrices; with them dE/dF is known at every position, and a second pass back-propagates it tile by tile. What a window gives
beyond its core is *added* to what its neighbours give there: the sum is the gradient of the whole picture, for each position of a
layer belongs to one core, and all that it sees lies in that core's window. Where one window holds the whole picture, one pass is
enough. (That Gram matrices may be summed over parts: Galerne, Raad, Lezama, Morel, "Scaling Painting Style Transfer", 2022.)"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor

from i2i.geometry import Grid, Region, Tile, make_grid
from i2i_style.encoder import Encoder, EncoderConfig
from i2i_style.losses import content_gradient, content_loss, style_derivative, style_loss, total_variation
from i2i_style.regions import pooled

Reader = Callable[[Region], Tensor]
"""Gives a rectangle of a picture: (1, 3, h, w) float32, RGB in 0 .. 1, on the encoder's device."""
_STRIP = {"cpu": 2**20}
"""Values of a layer that are seen at once, what a core's cache holds; elsewhere all that there are."""


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
    sums = dict.fromkeys(layers, torch.zeros(()))
    counts = dict.fromkeys(layers, 0.0)
    for tile in tiles:
        answers = encoder(read(tile.window), layers)
        for name in layers:
            core = _Core.of(encoder, name, answers[name], tile, size, mask)
            sums[name] = sums[name] + core.gram_sum()
            counts[name] += core.count()
    return {name: _mean(encoder, name, total, counts[name]) for name, total in sums.items()}


def _mean(encoder: Encoder, name: str, total: Tensor, count: float) -> Tensor:
    """Sums are in float64 on the CPU, which not every device has; what is made of them goes back."""
    return (total / max(1e-9, count)).float().to(encoder.convolution(name).weight.device)


@dataclass(frozen=True)
class _Core:
    """What a core's positions answer, (h, w, N), and what they weigh, (h, w, 1), where there is a mask."""

    values: Tensor
    weights: Tensor | None

    @classmethod
    def of(
        cls, encoder: Encoder, name: str, answers: Tensor, tile: Tile, size: tuple[int, int], mask: Tensor | None = None
    ) -> Self:
        stride = encoder.config.layer(name).stride
        place = core_of(answers, tile, size, stride)
        weights = None if mask is None else _inner(pooled(mask[(..., *tile.window.slices)], stride), place)
        return cls(_inner(answers, place), weights)

    def gram_sum(self) -> Tensor:
        """The sum over positions of F_i F_j, (N, N) float64 on the CPU: summed in the dtype of F strip by strip, then in
        float64."""
        total = torch.zeros((self.values.shape[2],) * 2, dtype=torch.float64)
        for values, weights in strips(self.values, self.weights):
            guided = values if weights is None else (values * weights).to(values.dtype)
            flat = guided.flatten(0, 1)
            flat = flat if flat.device.type == "cpu" else flat.float()  # a strip is all there is, and would be rounded once
            total += (flat.T @ flat).cpu()
        return total

    def count(self) -> float:
        """M; with a mask, the sum of its squares."""
        return float(self.values[..., 0].numel()) if self.weights is None else float(self.weights.square().sum())

    def add_style(self, gradient: Tensor, derivative: Tensor) -> None:
        """F times ``derivative`` (N, N), added to ``gradient`` (h, w, N)."""
        factors = derivative.to(self.values)
        for values, weights, part in strips(self.values, self.weights, gradient):
            guided = values if weights is None else (values * weights.square()).to(values.dtype)
            if (rows := _merged(part)) is None:
                part += guided @ factors
            else:
                rows.addmm_(guided.flatten(0, 1), factors)

    def add_content(self, gradient: Tensor, wanted: Tensor, share: float) -> float:
        """``share`` times the derivative of the content loss, added to ``gradient``; the loss."""
        loss = 0.0
        for values, target, part in strips(self.values, wanted, gradient):
            loss += float(content_loss(values.float(), target.float()))
            part.add_(content_gradient(values, target), alpha=share)
        return loss


def _inner(values: Tensor, place: tuple[slice, slice]) -> Tensor:
    """(1, N, H, W) -> (h, w, N), a view."""
    return values[0].permute(1, 2, 0)[place]


def _merged(part: Tensor) -> Tensor | None:
    """(h, w, N) -> (h w, N), a view; None where that lies in pieces, as a part of a wider picture's rows does."""
    return part.flatten(0, 1) if part.stride(0) == part.shape[1] * part.stride(1) else None


def strips(first: Tensor, *others: Tensor | None) -> Iterator[tuple[Any, ...]]:
    """The tensors (h, w, .) some rows at a time: what is done with a strip stays in the processor's cache."""
    height = first.shape[0]
    rows = max(1, _STRIP.get(first.device.type, first.numel()) // max(1, first.numel() // max(1, height)))
    for top in range(0, height, rows):
        yield tuple(None if each is None else each[top : top + rows] for each in (first, *others))


@dataclass
class Objective:
    """The loss and its gradient at a picture x: ``loss, gradient = objective(x)``.

    ``content``: reads the content picture; ``keep``: its answers are kept from the first evaluation on, rather than computed
    again in each. ``winograd``: the quicker convolution, whose rounding is not the same in every window: only for a picture that
    one window holds. ``terms``: the last evaluation's losses by name (content, style, variation), weighted."""

    encoder: Encoder
    size: tuple[int, int]
    tiles: Sequence[Tile]
    weights: Weights
    targets: Sequence[StyleTarget]
    content: Reader
    keep: bool = True
    winograd: bool = False
    terms: dict[str, float] = field(default_factory=dict)
    _kept: dict[Tile, dict[str, Tensor]] = field(default_factory=dict)
    _counts: list[dict[str, float]] = field(default_factory=list)

    @torch.no_grad()
    def __call__(self, x: Tensor) -> tuple[float, Tensor]:
        """x: (1, 3, H, W) float32 -> the loss, and its gradient of the same shape."""
        if not self._counts:
            self._counts = [self._positions_of(target) for target in self.targets]
        gradient = torch.zeros_like(x)
        self.terms = dict.fromkeys(("content", "style", "variation"), 0.0)
        every = [layer.name for layer in self.encoder.config.layers]
        if len(self.tiles) == 1:
            answers = self._answers(self._window(x, self.tiles[0]), every)
            grams = self._grams([(self.tiles[0], answers)])
            self._backward(gradient, x, answers, self.tiles[0], grams)
        else:
            style = tuple(self.weights.style)
            grams = self._grams((tile, self._answers(self._window(x, tile), style)) for tile in self.tiles if style)
            for tile in self.tiles:
                self._backward(gradient, x, self._answers(self._window(x, tile), every), tile, grams)
        self._add_style_terms(grams)
        return sum(self.terms.values()), gradient

    # ------------------------------------------------------------------------------------------------------- the passes

    def _answers(self, window: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        return self.encoder(window, layers, winograd=self.winograd and len(self.tiles) == 1)

    def _window(self, x: Tensor, tile: Tile) -> Tensor:
        return x[(..., *tile.window.slices)]

    def _grams(self, seen: Iterable[tuple[Tile, Mapping[str, Tensor]]]) -> list[dict[str, Tensor]]:
        """For each target, the Gram matrices of its style layers."""
        names = self.weights.style if self.targets else ()
        sums = [dict.fromkeys(names, torch.zeros(())) for _ in self.targets]
        for tile, answers in seen:
            for target, total in zip(self.targets, sums, strict=True):
                for name in names:
                    total[name] = total[name] + self._core(name, answers, tile, target.mask).gram_sum()
        return [
            {name: _mean(self.encoder, name, total[name], counts[name]) for name in names}
            for total, counts in zip(sums, self._counts, strict=True)
        ]

    def _backward(
        self, gradient: Tensor, x: Tensor, answers: Mapping[str, Tensor], tile: Tile, grams: Sequence[Mapping[str, Tensor]]
    ) -> None:
        """The second pass: what the core's positions say, back to the pixels of the window, added to ``gradient``."""
        content = self._content(tile)

        def add(name: str, given: Tensor) -> None:
            part = self._core(name, {name: given}, tile, None).values
            for target, counts, found in zip(self.targets, self._counts, grams, strict=True):
                if name in self.weights.style:
                    derivative = style_derivative(found[name], target.grams[name], counts[name])
                    weight = self.weights.style[name] * target.weight
                    self._core(name, answers, tile, target.mask).add_style(part, weight * derivative)
            if name in self.weights.content:
                weight = self.weights.content[name]
                share = weight if self.weights.summed else weight / self._size_of(name)
                core = self._core(name, answers, tile, None)
                self.terms["content"] += share * core.add_content(part, content[name], share)

        place = (..., *tile.window.slices)
        gradient[place] += self.encoder.backward(answers, add, winograd=self.winograd and len(self.tiles) == 1)
        if self.weights.variation:
            gradient[place] += self._variation(x[place], tile)

    def _core(self, name: str, answers: Mapping[str, Tensor], tile: Tile, mask: Tensor | None) -> _Core:
        return _Core.of(self.encoder, name, answers[name], tile, self.size, mask)

    def _variation(self, window: Tensor, tile: Tile) -> Tensor:
        """The gradient of the core's total variation, at the window's pixels."""
        inner = tile.core.relative_to(tile.window)
        share = self.weights.variation / (self.size[0] * self.size[1])
        with torch.enable_grad():
            variable = window.detach().clone().requires_grad_()
            found = share * total_variation(variable[..., inner.y :, inner.x :], inner.height, inner.width)
            self.terms["variation"] += float(found.detach())
            return torch.autograd.grad(found, variable)[0]

    # ------------------------------------------------------------------------------------------------ what stays the same

    def _content(self, tile: Tile) -> dict[str, Tensor]:
        """P_l of the core: (h, w, N) of each content layer."""
        if tile in self._kept:
            return self._kept[tile]
        found = {}
        if self.weights.content:
            answers = self._answers(self.content(tile.window), tuple(self.weights.content))
            found = {name: self._core(name, answers, tile, None).values.clone() for name in self.weights.content}
        if self.keep:
            self._kept[tile] = found
        return found

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

    def _add_style_terms(self, grams: Sequence[Mapping[str, Tensor]]) -> None:
        for target, found in zip(self.targets, grams, strict=True):
            for name, weight in self.weights.style.items():
                self.terms["style"] += weight * target.weight * float(style_loss(found[name], target.grams[name]))
