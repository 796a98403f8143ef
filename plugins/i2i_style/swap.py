"""Style swap: each patch of the answers to the content is replaced by the style's patch that is most like it.

Chen and Schmidt, "Fast Patch-based Style Transfer of Arbitrary Style" (2016), section 3: patches of 3 x 3, normalised
cross-correlation, overlapping patches averaged. As in Sheng et al., "Avatar-Net" (CVPR 2018), section 4.1, both are whitened
before they are compared, so that like is found by what a patch shows, not by how the two pictures are coloured; here along the
style's principal axes alone. What averaging has evened out is given back by the mean and deviation of the style's answers
(Huang and Belongie, "Arbitrary Style Transfer in Real-time with Adaptive Instance Normalization", ICCV 2017, equation 8).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

SIDE = 3
"""Of a patch, in positions."""
REACH = 2 * (SIDE // 2)
"""Positions to each side that an answer depends on: what its patch shows, and the patches that overlap there."""
AXES = 32
"""Principal axes of the style's answers along which patches are compared: most of their variance."""
PATCHES = 2048
"""Of a style, at most; of more, so many are drawn: with twice as many results look the same."""
_ROWS = 256
"""Patches of the content that are compared at once: what comes of it stays in a core's cache."""
_LEAST = 1e-2
"""Added to all variances, as a share of their mean: what a picture hardly has is not made of its noise."""
_MOST = 2.0
"""How many times a deviation is made larger at most."""


@dataclass(frozen=True)
class Moments:
    """Mean (C,) and covariance (C, C), float64 on the CPU, of answers over positions."""

    mean: Tensor
    covariance: Tensor

    @staticmethod
    def of(values: Tensor) -> Moments:
        """Of (C, ...) answers."""
        flat = values.flatten(1).cpu().double()  # which not every device has
        mean = flat.mean(1)
        return Moments(mean, flat @ flat.T / flat.shape[1] - torch.outer(mean, mean))

    @staticmethod
    def together(parts: Iterable[Tensor]) -> Moments:
        """Of all positions of (C, ...) answers. Of no part: ``ValueError``."""
        found = [(values[0].numel(), Moments.of(values)) for values in parts]
        if not found:
            raise ValueError("no answers to measure")
        total = sum(count for count, _ in found)
        mean = torch.stack([count / total * part.mean for count, part in found]).sum(0)
        apart = [part.covariance + torch.outer(part.mean - mean, part.mean - mean) for _, part in found]
        return Moments(mean, sum((count / total * each for (count, _), each in zip(found, apart, strict=True)), 0 * apart[0]))

    def along(self, axes: Tensor) -> Moments:
        """Of the coordinates along ``axes`` (A, C)."""
        return Moments(axes @ self.mean, axes @ self.covariance @ axes.T)

    @staticmethod
    def mixed(parts: Sequence[Moments], weights: Sequence[float]) -> Moments:
        """Means of the means and of the covariances, by weights that sum to one."""
        means, covariances = (torch.stack(each) for each in zip(*((part.mean, part.covariance) for part in parts), strict=True))
        shares = torch.tensor(weights, dtype=torch.float64)
        return Moments(shares @ means, torch.einsum("n,nij->ij", shares, covariances))

    @property
    def deviation(self) -> Tensor:
        """(C,)"""
        return self.covariance.diagonal().clamp_min(0).sqrt()

    def whitening(self) -> Tensor:
        """(C, C): the symmetric inverse root of the covariance, which turns values as little as can be."""
        values, axes = torch.linalg.eigh(self.covariance)
        least = (_LEAST * values.mean()).clamp_min(1e-9)
        return (axes * (values.clamp_min(0) + least) ** -0.5) @ axes.T

    def as_mapping(self) -> dict[str, Any]:
        """As JSON values."""
        return {"mean": self.mean.tolist(), "covariance": self.covariance.tolist()}

    @staticmethod
    def from_mapping(values: Mapping[str, Any]) -> Moments:
        return Moments(*(torch.tensor(values[name], dtype=torch.float64) for name in ("mean", "covariance")))


@dataclass(frozen=True)
class Patches:
    """Of a style. ``axes``: (A, C) float64, unit vectors; ``keys``: (T, 9 A), whitened along them, unit vectors; ``values``:
    (9, T, C), the answers themselves, place by place of a patch; ``moments``: of all its answers."""

    axes: Tensor
    keys: Tensor
    values: Tensor
    moments: Moments

    @staticmethod
    def of(answers: Tensor, seed: int = 0) -> Patches:
        """Of the answers (C, h, w) to a style: all patches, or ``PATCHES`` of them drawn by the seed."""
        moments = Moments.of(answers)
        _, axes = torch.linalg.eigh(moments.covariance)
        axes = axes.flip(1).T[:AXES]
        padded = functional.pad(answers[None], (SIDE // 2,) * 4, mode="replicate")[0]  # so that small pictures have some
        count = answers.shape[1] * answers.shape[2]
        chosen = torch.arange(count)
        if count > PATCHES:
            chosen = torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:PATCHES].sort().values
        rows, columns = chosen // answers.shape[2], chosen % answers.shape[2]
        values = torch.stack(
            [padded[:, rows + dy, columns + dx].T for dy in range(SIDE) for dx in range(SIDE)],
        )
        keys = (values.cpu().double() - moments.mean) @ _whitened(moments.along(axes), axes).T  # (9, T, A)
        keys = functional.normalize(keys.permute(1, 2, 0).flatten(1), dim=1)
        return Patches(axes, _like(keys, answers), values.contiguous(), moments)


def swapped(answers: Tensor, own: Moments, style: Patches) -> Tensor:
    """(N, C, h, w) answers of which the whole picture has the moments ``own`` along ``style.axes`` -> (N, C, h, w) float32 of the
    style's patches. Beyond the borders there is nothing: to ``REACH`` positions of them it is not what the whole would give."""
    return laid(nearest(answers, own, style), style)


def nearest(answers: Tensor, own: Moments, style: Patches) -> Tensor:
    """(N, h, w) int64: which of the style's patches those of :func:`swapped` are most like, by their middles."""
    matrix = _whitened(own, style.axes)
    shift = -own.whitening() @ own.mean
    seen = functional.conv2d(answers, _like(matrix, answers)[..., None, None], _like(shift, answers))
    return torch.stack([_nearest(each, style.keys) for each in seen])


def laid(numbers: Tensor, style: Patches) -> Tensor:
    """(N, h, w) numbers of patches -> (N, C, h, w) float32: what :func:`swapped` gives."""
    return torch.stack([_overlaid(each, style.values) for each in numbers]).permute(0, 3, 1, 2)


def _whitened(own: Moments, axes: Tensor) -> Tensor:
    """(A, C): from answers, less their mean, to whitened coordinates."""
    return own.whitening() @ axes


def _nearest(seen: Tensor, keys: Tensor) -> Tensor:
    """(A, h, w) whitened coordinates -> (h, w) int64: which patch of the style each position's is most like."""
    patches = functional.unfold(seen[None], SIDE, padding=SIDE // 2)[0].T
    found = torch.cat([(part @ keys.T).max(1).indices for part in torch.split(patches, _ROWS)])
    return found.reshape(seen.shape[1:])


def _overlaid(numbers: Tensor, values: Tensor) -> Tensor:
    """(h, w) numbers of patches -> (h, w, C) float32: at each position the mean of what the patches that overlap there say."""
    height, width = numbers.shape
    total = torch.zeros((height, width, values.shape[2]), device=values.device)
    for number, place in enumerate(values):
        dy, dx = (offset - SIDE // 2 for offset in divmod(number, SIDE))
        rows = (torch.arange(height, device=numbers.device) - dy).clamp(0, height - 1)
        columns = (torch.arange(width, device=numbers.device) - dx).clamp(0, width - 1)
        total += place[numbers[rows[:, None], columns]]
    return total.div_(SIDE * SIDE)


def corrected(values: Tensor, own: Moments, wanted: Moments) -> Tensor:
    """(N, C, h, w) float32 with the mean and deviation of ``own`` -> with those of ``wanted``, channel by channel, not negative.
    A deviation is at most doubled."""
    factor = ((wanted.deviation + 1e-6) / (own.deviation + 1e-6)).clamp_max(_MOST)
    shift = wanted.mean - factor * own.mean
    factor, shift = (_like(each, values)[:, None, None] for each in (factor, shift))
    return torch.addcmul(shift, values, factor).clamp_min_(0)


def _like(tensor: Tensor, values: Tensor) -> Tensor:
    """float64 on the CPU -> as ``values`` are, by way of float32: not every device has float64."""
    return tensor.float().to(values)
