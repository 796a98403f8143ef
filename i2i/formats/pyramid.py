"""Pyramids: a big image at half, a quarter ... of its size, made while it is written.

The source is read once. What is read of a level goes to the file, and its half to a scratch file, which is the next
level's source: memory does not grow with the image. Every format that has levels is written this way::

    with closing(levels(source, metadata.meaning, path.parent)) as sources:
        for level in sources:
            ...  # read all of it, in pieces that begin at even rows and columns, before the next
"""

from __future__ import annotations

import dataclasses
from collections.abc import Generator
from pathlib import Path

import numpy as np

from i2i.contracts import Array, ImageSpec, Meaning, Source
from i2i.formats.scratch import Scratch
from i2i.geometry import Region, round_up

ABOVE = 4096
"""Pixels on a side above which an image gets levels: less is quickly read as it is."""
SMALLEST = 512
"""Pixels on a side that the last level has at most: one tile."""
BAND = 16
"""Rows that are halved at a time: what numpy holds in between stays small."""


def level_shapes(height: int, width: int) -> list[tuple[int, int]]:
    """(height, width) of every level, full size first: each half of the one before, rounded up, until one fits in a
    tile. An image of at most ``ABOVE`` pixels on each side has one level."""
    shapes = [(height, width)]
    if max(height, width) > ABOVE:
        while max(shapes[-1]) > SMALLEST:
            shapes.append((-(-shapes[-1][0] // 2), -(-shapes[-1][1] // 2)))
    return shapes


def halve(pixels: Array, meaning: Meaning) -> Array:
    """Pixels (H, W, C) of half the size, rounded up, in the same dtype. Their top left is at even coordinates of the image.

    Of labels and classes the top left pixel of each 2 x 2: a mean would be another object's number. Of images and
    probabilities the mean of the 2 x 2, at an odd edge of what there is; of integers the nearest, halves upwards.
    """
    if meaning in ("labels", "classes"):
        return np.ascontiguousarray(pixels[::2, ::2])
    height, width, channels = pixels.shape
    halved = np.empty((-(-height // 2), -(-width // 2), channels), pixels.dtype)
    for top in range(0, len(halved), BAND):
        halved[top : top + BAND] = _mean(pixels[2 * top : 2 * (top + BAND)])
    return halved


def _mean(pixels: Array) -> Array:
    """The mean of each 2 x 2. The last row or column of an odd number stands twice, which leaves the mean as it is."""
    odd = [(0, size % 2) for size in pixels.shape[:2]]
    if (0, 1) in odd:
        pixels = np.pad(pixels, (*odd, (0, 0)), mode="edge")
    if pixels.dtype == bool:
        return _mean(pixels.view(np.uint8)).astype(bool)
    corners = [pixels[y::2, x::2] for y in (0, 1) for x in (0, 1)]
    if pixels.dtype.kind == "f":
        wide = np.result_type(pixels.dtype, np.float32)
        return np.asarray(sum(corner.astype(wide) * wide.type(0.25) for corner in corners))
    if pixels.dtype.itemsize < 8:
        total = np.add(corners[0], corners[1], dtype=f"i{2 * pixels.dtype.itemsize}")
        total += corners[2]
        total += corners[3]
        return np.asarray((total + 2) >> 2)
    quarters, rest = sum(corner >> 2 for corner in corners), sum(corner & 3 for corner in corners)
    return np.asarray(quarters + ((rest + 2) >> 2))  # a sum of four would not fit


class Stack:
    """All planes of an image in one :class:`~i2i.formats.scratch.Scratch`, one below the other: a source to write to.
    ``folder``: where the nameless file is. Raises ``OutputError`` for a full disk."""

    def __init__(self, spec: ImageSpec, folder: Path) -> None:
        self.spec = spec
        self._step = round_up(spec.height, SMALLEST) if spec.plane_count > 1 else spec.height
        rows = self._step * spec.plane_count
        self._pixels = Scratch(dataclasses.replace(spec, height=rows, planes=()), folder)

    def read(self, region: Region, plane: int = 0, level: int = 0) -> Array:
        """See :class:`i2i.contracts.Source`."""
        return self._pixels.read(region.shift(plane * self._step, 0))

    def write(self, region: Region, pixels: Array, plane: int = 0) -> None:
        """Replace the pixels of ``region`` of a plane: (height, width, channels)."""
        self._pixels.write(region.shift(plane * self._step, 0), pixels)

    def close(self) -> None:
        """The pixels are gone."""
        self._pixels.close()


class Halving:
    """A source that makes the level below its own as it is read: ``half``. Regions begin at even coordinates, and only those
    at the image's end have an odd height or width. Where several threads read, no two regions may share a tile of half's."""

    def __init__(self, source: Source, meaning: Meaning, folder: Path) -> None:
        self.spec = source.spec
        self.half = Stack(_halved(source.spec), folder)
        self._source, self._meaning = source, meaning

    def read(self, region: Region, plane: int = 0, level: int = 0) -> Array:
        """See :class:`i2i.contracts.Source`."""
        pixels = self._source.read(region, plane)
        place = Region(region.y // 2, region.x // 2, -(-region.height // 2), -(-region.width // 2))
        self.half.write(place, halve(pixels, self._meaning), plane)
        return pixels

    def close(self) -> None:
        """The source is its owner's, and ``half`` is still to be read."""


def _halved(spec: ImageSpec) -> ImageSpec:
    height, width = -(-spec.height // 2), -(-spec.width // 2)
    size = spec.pixel_size
    return dataclasses.replace(
        spec,
        height=height,
        width=width,
        pixel_size=None if size is None else (size[0] * spec.height / height, size[1] * spec.width / width),
        levels=(),
        tiling=None,
        remarks=(),
    )


def levels(source: Source, meaning: Meaning, folder: Path) -> Generator[Source, None, None]:
    """A source for each of :func:`level_shapes`, full size first. All of one must have been read, every plane, every region
    once, as :class:`Halving` wants it, before the next is asked for. ``folder``: for the scratch files, the output's."""
    count = len(level_shapes(source.spec.height, source.spec.width))
    opened: list[Stack] = []
    try:
        for _ in range(count - 1):
            halving = Halving(source, meaning, folder)
            opened.append(halving.half)
            yield halving
            if len(opened) > 1:
                opened.pop(0).close()
            source = halving.half
        yield source
    finally:
        for scratch in opened:
            scratch.close()
