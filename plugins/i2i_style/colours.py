"""Keeping colours (Gatys, Bethge, Hertzmann, Shechtman, "Preserving Color in Neural Artistic Style Transfer", 2016).

Pictures are RGB in 0 .. 1: (H, W, 3) arrays, or batches (N, 3, H, W) of torch where it says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from i2i.contracts import ImageSpec, Source
from i2i.geometry import Region
from i2i_style.styles import Rgb, to_rgb

if TYPE_CHECKING:
    from torch import Tensor

Picture = TypeVar("Picture", Rgb, "Tensor")

_LUMINANCE = (0.299, 0.587, 0.114)
"""Y of YIQ; its I and Q are differences of R, G and B, which stay the same when all three change by as much."""
_PIECE = 1024
_MOST_PIECES = 64
"""Squares of ``_PIECE`` pixels that a picture's colours are measured in: all of them, or so many drawn by the seed."""
_LEAST_VARIANCE = 1e-5
"""Added to all variances: (0.8 grey levels) squared. A colour that a picture hardly has is not made of its noise."""


@dataclass(frozen=True)
class Colours:
    """The mean of R, G and B over a picture's pixels, and their covariance (3, 3), of values in 0 .. 1."""

    mean: tuple[float, ...]
    covariance: tuple[tuple[float, ...], ...]

    @staticmethod
    def of_source(source: Source, seed: int) -> Colours:
        """Of an image file of any dtype (see :func:`i2i_style.styles.to_rgb`), read in squares of 1024 pixels:
        all of them, or 64 drawn by the seed where there are more. Raises ``InputError``."""
        return _colours(to_rgb(source.read(region)) for region in _pieces(source.spec, seed))

    @staticmethod
    def together(pieces: Iterable[Rgb]) -> Colours:
        """Of all pixels of pictures (H, W, 3)."""
        return _colours(iter(pieces))

    @staticmethod
    def mixed(parts: Sequence[Colours], weights: Sequence[float]) -> Colours:
        """Means of the means and of the covariances, by weights that sum to one."""
        mean = sum(weight * np.array(part.mean) for part, weight in zip(parts, weights, strict=True))
        covariance = sum(weight * np.array(part.covariance) for part, weight in zip(parts, weights, strict=True))
        return _as_colours(np.asarray(mean), np.asarray(covariance))

    def gray(self) -> Colours:
        """Of the luminance, three times."""
        mean, variance = _of_luminance(self)
        return _as_colours(np.full(3, mean), np.full((3, 3), variance))

    def as_mapping(self) -> dict[str, Any]:
        """As JSON values."""
        return {"mean": list(self.mean), "covariance": [list(row) for row in self.covariance]}

    @staticmethod
    def from_mapping(mapping: Mapping[str, Any]) -> Colours:
        """What :meth:`as_mapping` gave."""
        return Colours(tuple(mapping["mean"]), tuple(tuple(row) for row in mapping["covariance"]))


def _pieces(spec: ImageSpec, seed: int) -> list[Region]:
    squares = [
        Region(y, x, _PIECE, _PIECE).intersect(spec.region)
        for y in range(0, spec.height, _PIECE)
        for x in range(0, spec.width, _PIECE)
    ]
    if len(squares) <= _MOST_PIECES:
        return squares
    chosen = np.random.default_rng(seed).choice(len(squares), _MOST_PIECES, replace=False)
    return [squares[number] for number in np.sort(chosen)]


def _colours(pieces: Iterator[Rgb]) -> Colours:
    """Sums in float64 around the middle of the range, where little is lost in the difference."""
    count, total, products = 0, np.zeros(3), np.zeros((3, 3))
    for piece in pieces:
        values = piece.reshape(-1, 3).astype(np.float64) - 0.5
        count += len(values)
        total += values.sum(0)
        products += values.T @ values
    mean = total / count
    covariance = products / count - np.outer(mean, mean)
    return _as_colours(mean + 0.5, covariance)


def _as_colours(mean: npt.NDArray[np.float64], covariance: npt.NDArray[np.float64]) -> Colours:
    return Colours(tuple(mean.tolist()), tuple(map(tuple, covariance.tolist())))


def matched(picture: Rgb, own: Colours, wanted: Colours) -> Rgb:
    """A picture (H, W, 3) whose colours are ``own`` with the mean and covariance ``wanted``, cut off at 0 and 1 (section 3.1)."""
    matrix, shift = change_of(own, wanted)
    result: Rgb = picture @ matrix.T + shift
    return np.clip(result, 0, 1, out=result)


def change_of(own: Colours, wanted: Colours) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """A (3, 3) and b (3,): x -> A x + b takes colours ``own`` to ``wanted``, with the symmetric roots of Image Analogies,
    A = C_wanted^(1/2) C_own^(-1/2)."""
    matrix = _root(wanted, 0.5) @ _root(own, -0.5)
    shift = np.array(wanted.mean) - matrix @ np.array(own.mean)
    return matrix.astype(np.float32), shift.astype(np.float32)


def _root(colours: Colours, power: float) -> npt.NDArray[np.float64]:
    """A symmetric power of the covariance."""
    values, axes = np.linalg.eigh(np.array(colours.covariance))
    found: npt.NDArray[np.float64] = (axes * (values.clip(0) + _LEAST_VARIANCE) ** power) @ axes.T
    return found


def luminance(picture: Picture) -> Picture:
    """Y of YIQ: (H, W, 3) -> (H, W, 1), or (N, 3, H, W) -> (N, 1, H, W) of torch."""
    red, green, blue = _LUMINANCE
    if isinstance(picture, np.ndarray):
        return picture[..., :1] * np.float32(red) + picture[..., 1:2] * np.float32(green) + picture[..., 2:3] * np.float32(blue)
    return picture[:, :1] * red + picture[:, 1:2] * green + picture[:, 2:3] * blue


def with_luminance(content: Picture, wanted: Picture) -> Picture:
    """``content``, (H, W, 3) or (N, 3, H, W), with the Y ``wanted`` and its own I and Q (section 3.2), cut off at 0 and 1."""
    return (content + (wanted - luminance(content))).clip(0, 1)


def luminance_matched(values: Rgb, own: Colours, wanted: Colours) -> Rgb:
    """Luminance (H, W, 1) of a style whose colours are ``own`` with the mean and deviation that the content's luminance has, by
    the content's colours ``wanted`` (section 3.2: L' = s_C / s_S (L - m_S) + m_C), cut off at 0 and 1."""
    (mean, variance), (own_mean, own_variance) = _of_luminance(wanted), _of_luminance(own)
    factor = np.sqrt((variance + _LEAST_VARIANCE) / (own_variance + _LEAST_VARIANCE))
    result: Rgb = ((values - np.float32(own_mean)) * np.float32(factor) + np.float32(mean)).clip(0, 1)
    return result


def _of_luminance(colours: Colours) -> tuple[float, float]:
    """Mean and variance of Y."""
    weights = np.array(_LUMINANCE)
    return float(weights @ np.array(colours.mean)), max(0.0, float(weights @ np.array(colours.covariance) @ weights))


def as_kept(how: str, own: Colours, content: Colours) -> Callable[[Rgb], Rgb]:
    """How ``--keep-colors`` changes a style picture with the colours ``own``, any part of it alike: none; histogram: to the
    content's colours; luminance: its luminance alone, three times, like the content's."""
    if how == "histogram":
        return lambda picture: matched(picture, own, content)
    if how == "luminance":
        return lambda picture: luminance_matched(luminance(picture), own, content).repeat(3, 2)
    return lambda picture: picture
