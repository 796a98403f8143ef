"""An object that is larger than a window, made of its parts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from i2i.geometry import Region
from i2i.instances.candidates import BOTTOM, EDGE, LEFT, RIGHT, TOP, Candidates
from i2i.instances.overlap import TileOf
from i2i.instances.packed import Bits, Finished, Mask, pack, unpack

_ROWS = 1024
_NEAR = 2 * EDGE
"""Pixels. Outlines of one object in two windows differ by so much."""


def join_parts(parts: Candidates, tile_of: TileOf) -> Finished:
    """One object. Its mask: in the core of each part's tile that tile's word counts, elsewhere that of any part. Its score: the
    mean, weighted by area. It is incomplete when an edge that cuts a part is not seen from beyond."""
    mask, box = _united(parts, tile_of)
    score = np.average(parts.scores.astype(np.float64), weights=parts.areas)
    return Finished(
        np.array([[box.y, box.x, box.bottom, box.right]], np.int32), np.array([score], np.float32), parts.classes[:1], (mask,),
        np.array([_open(parts, tile_of)]),
    )  # fmt: skip


# -------------------------------------------------------------------------------------------------------------- the mask


def _united(parts: Candidates, tile_of: TileOf) -> tuple[Bits, Region]:
    """The mask of all parts, as bits, and its box."""
    if len(parts) == 1:
        return parts.masks[0], parts.region(0)
    canvas = _Canvas(parts)
    for i in range(len(parts)):
        canvas.add(parts.region(i), parts.pixels(i, parts.region(i)))
    for number in np.unique(parts.tiles).tolist():
        canvas.clear(tile_of(number).core)
    for i, number in enumerate(parts.tiles.tolist()):
        own = tile_of(number).core.intersect(parts.region(i))
        canvas.add(own, parts.pixels(i, own))
    return canvas.result()


class _Canvas:
    """A mask as bits that may be as large as the image; its columns begin at a whole byte of the image's."""

    def __init__(self, parts: Candidates) -> None:
        (top, left), (bottom, right) = parts.boxes[:, :2].min(axis=0).tolist(), parts.boxes[:, 2:].max(axis=0).tolist()
        left -= left % 8
        self._box = Region(top, left, bottom - top, -(-(right - left) // 8) * 8)
        self._bits = np.zeros((self._box.height, self._box.width // 8), np.uint8)

    def _bytes(self, place: Region, pixels: Mask) -> tuple[Bits, Bits]:
        """The bytes of the canvas at ``place`` (a view), and ``pixels`` (one row, or as many) in the same."""
        first = place.x // 8
        padded = np.pad(pixels, ((0, 0), (place.x % 8, 0)))
        bits = np.packbits(padded, axis=1)
        return self._bits[place.y : place.bottom, first : first + bits.shape[1]], bits

    def add(self, area: Region, pixels: Mask) -> None:
        """Set pixels, which lie within the canvas."""
        if area.area:
            view, bits = self._bytes(area.relative_to(self._box), pixels)
            view |= bits

    def clear(self, area: Region) -> None:
        area = area.intersect(self._box)
        if area.area:
            view, bits = self._bytes(area.relative_to(self._box), np.ones((1, area.width), bool))
            view &= ~bits

    def result(self) -> tuple[Bits, Region]:
        """The bits of the pixels' own box, and where it is."""
        rows = np.flatnonzero(self._bits.any(axis=1))
        columns = np.flatnonzero(np.unpackbits(np.bitwise_or.reduce(self._bits, axis=0)))
        top, bottom, left, right = (int(i) for i in (rows[0], rows[-1] + 1, columns[0], columns[-1] + 1))
        strips = (
            pack(unpack(self._bits, Region(y, left, min(_ROWS, bottom - y), right - left))) for y in range(top, bottom, _ROWS)
        )
        place = Region(self._box.y + top, self._box.x + left, bottom - top, right - left)
        return np.concatenate(list(strips)), place


# --------------------------------------------------------------------------------------------------------------- its ends


def _open(parts: Candidates, tile_of: TileOf) -> bool:
    """Whether the pixels at an edge that cuts a part are, for half or more, near no part whose window reaches further."""
    windows = [tile_of(number).window for number in parts.tiles.tolist()]
    return any(
        int(cut) & side and not _seen_beyond(parts, windows, i, side)
        for i, cut in enumerate(parts.cuts)
        for side in (TOP, LEFT, BOTTOM, RIGHT)
    )


def _seen_beyond(parts: Candidates, windows: Sequence[Region], index: int, side: int) -> bool:
    strip = _strip(parts, index, side)
    area = strip.grow(_NEAR)
    pixels, seen = parts.pixels(index, strip), np.zeros((area.height, area.width), bool)
    top, left, bottom, right = parts.boxes.T
    meets = (top < strip.bottom) & (bottom > strip.y) & (left < strip.right) & (right > strip.x)
    for other in np.flatnonzero(meets).tolist():
        if _reaches_further(windows[other], windows[index], side):
            seen |= parts.pixels(other, area)
    near = ndimage.maximum_filter(seen, 2 * _NEAR + 1)[strip.relative_to(area).slices]
    return 2 * int(np.count_nonzero(near & pixels)) > int(np.count_nonzero(pixels))


def _strip(parts: Candidates, index: int, side: int) -> Region:
    """Where the outermost pixels of a part at one side are."""
    box = parts.region(index)
    pixels = parts.pixels(index, box)
    used = np.flatnonzero(pixels.any(axis=1 if side in (TOP, BOTTOM) else 0)).tolist()
    if side == TOP:
        return Region(box.y + used[0], box.x, EDGE, box.width).intersect(box)
    if side == BOTTOM:
        return Region(box.y + used[-1] + 1 - EDGE, box.x, EDGE, box.width).intersect(box)
    if side == LEFT:
        return Region(box.y, box.x + used[0], box.height, EDGE).intersect(box)
    return Region(box.y, box.x + used[-1] + 1 - EDGE, box.height, EDGE).intersect(box)


def _reaches_further(window: Region, than: Region, side: int) -> bool:
    return {
        TOP: window.y < than.y, LEFT: window.x < than.x, BOTTOM: window.bottom > than.bottom, RIGHT: window.right > than.right,
    }[side]  # fmt: skip
