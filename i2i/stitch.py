"""From windows to a block and back: what the network sees, and how its answers become pixels.

The whole-image run is: normalise, pad the bottom and right to ``multiple_of``, run, crop. Every window here is a view of
that padded image, so that cropped cores are the whole-image result.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from i2i.contracts import Array, DensePredictor, Footprint, Predictor, Source
from i2i.errors import PluginError
from i2i.geometry import Grid, Region, Tile, mirror

Pixels = npt.NDArray[np.float32]


def window_pixels(source: Source, predictor: Predictor, window: Region) -> Pixels:
    """What the network sees of ``window``: (height, width, channels) float32, normalised, filled where it leaves the image; with
    the pixels' places, where it asks for them."""
    pixels = _filled(source, predictor, window)
    return placed(pixels, window) if isinstance(predictor, DensePredictor) and predictor.positions else pixels


def placed(pixels: Pixels, window: Region) -> Pixels:
    """With the row and the column of each pixel in the image as channels; exact up to 2^24."""
    rows, columns = np.arange(window.y, window.bottom), np.arange(window.x, window.right)
    grid = np.meshgrid(rows.astype(np.float32), columns.astype(np.float32), indexing="ij")
    return np.concatenate([pixels, *(one[..., None] for one in grid)], axis=2)


def _filled(source: Source, predictor: Predictor, window: Region) -> Pixels:
    image = source.spec.region
    if "mirror" in (predictor.footprint.border, predictor.footprint.pad) and not image.contains(window):
        return predictor.normalize(_mirrored(source, window))
    inside = window.intersect(image)
    pixels = predictor.normalize(source.read(inside))
    if inside == window:
        return pixels
    filled = np.full((window.height, window.width, pixels.shape[2]), predictor.footprint.pad, np.float32)
    filled[inside.relative_to(window).slices] = pixels
    return filled


def _mirrored(source: Source, window: Region) -> Array:
    spec = source.spec
    rows = np.array([mirror(i, spec.height) for i in range(window.y, window.bottom)])
    columns = np.array([mirror(i, spec.width) for i in range(window.x, window.right)])
    top, left = int(rows.min()), int(columns.min())
    needed = Region(top, left, int(rows.max()) - top + 1, int(columns.max()) - left + 1)
    return source.read(needed)[(rows - top)[:, None], (columns - left)[None, :]]


def answer_region(footprint: Footprint, window: Region, halo: int) -> Region:
    """The image pixels that the network's answer to ``window`` covers: all, or with a mirrored border all but the halo."""
    return window.grow(-halo) if footprint.border == "mirror" else window


def check_answer(footprint: Footprint, answer: Array, region: Region) -> None:
    """Raises ``PluginError`` when an answer (height, width, channels) has not the shape that the footprint promises."""
    promised = (region.height * footprint.scale, region.width * footprint.scale, footprint.channels_out)
    if answer.shape != promised:
        raise PluginError(f"the network gave {answer.shape} (height, width, channels) where its footprint promises {promised}")


class Cropped:
    """A block made of the cores of its tiles: exact, each pixel written once."""

    def __init__(self, footprint: Footprint, region: Region) -> None:
        self.footprint = footprint
        self.region = region
        shape = (region.height * footprint.scale, region.width * footprint.scale, footprint.channels_out)
        self.pixels = np.empty(shape, np.float32)

    def add(self, tile: Tile, covered: Region, answer: Pixels) -> None:
        """``answer``: of the image pixels ``covered``, which hold the tile's core."""
        scale, core = self.footprint.scale, tile.core.intersect(self.region)
        part = answer[core.relative_to(covered).scaled(scale).slices]
        self.pixels[core.relative_to(self.region).scaled(scale).slices] = part

    def result(self) -> Pixels:
        return self.pixels


class Blended:
    """A block as the weighted mean of all windows that reach into it; a pixel's weight falls towards the window's edge.

    A pixel is the sum over the same windows in the same order for every way of cutting the image into blocks.
    """

    def __init__(self, footprint: Footprint, region: Region, halo: int) -> None:
        self.footprint = footprint
        self.region = region
        self.halo = halo
        height, width = region.height * footprint.scale, region.width * footprint.scale
        self.total = np.zeros((height, width, footprint.channels_out), np.float64)
        self.weight = np.zeros((height, width, 1), np.float64)

    def add(self, tile: Tile, covered: Region, answer: Pixels) -> None:
        scale, part = self.footprint.scale, covered.intersect(self.region)
        weights = blend_weights(covered.height * scale, covered.width * scale, 2 * self.halo * scale)
        inner, outer = part.relative_to(covered).scaled(scale).slices, part.relative_to(self.region).scaled(scale).slices
        self.total[outer] += weights[inner] * answer[inner]
        self.weight[outer] += weights[inner]

    def result(self) -> Pixels:
        blended: Pixels = (self.total / self.weight).astype(np.float32)
        return blended


def blend_weights(height: int, width: int, ramp: int) -> npt.NDArray[np.float64]:
    """(height, width, 1) in 0 .. 1, never 0: rises as a squared sine over ``ramp`` pixels from each edge; weights of two
    windows that overlap by the ramp add up to one."""
    rows, columns = (_ramp(length, ramp) for length in (height, width))
    return (rows[:, None] * columns[None, :])[..., None]


def _ramp(length: int, ramp: int) -> npt.NDArray[np.float64]:
    distance = np.minimum(np.arange(length), np.arange(length)[::-1]) + 0.5
    if not ramp:
        return np.ones(length)
    rising: npt.NDArray[np.float64] = np.sin(np.clip(distance / ramp, 0, 1) * np.pi / 2) ** 2
    return rising


def tiles_for(grid: Grid, footprint: Footprint, region: Region) -> list[Tile]:
    """The tiles that a block needs, in the order in which they are merged."""
    return grid.tiles_touching(region) if footprint.merge == "blend" else grid.tiles(region)


def batches(tiles: list[Tile], size: int) -> Iterator[list[Tile]]:
    return (tiles[start : start + size] for start in range(0, len(tiles), size))
