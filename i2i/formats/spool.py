"""Giant tiles and strips of a TIFF, and many wide strips: each is decoded once, when it is first touched, into a scratch file
that is read by region.

Where the compression allows it, a giant segment is decoded as a stream, band by band: memory does not depend on its size.
"""

from __future__ import annotations

import copy
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from i2i.contracts import Array, ImageSpec
from i2i.formats.scratch import Scratch
from i2i.formats.streams import PIECE, opener
from i2i.formats.tiff_segments import SegmentGrid
from i2i.geometry import Region

BAND_BYTES = 8 * 2**20
Bands = Iterator[tuple[int, int, Array]]
"""The pixels of a place: slice and row that a band begins at, counted from its top, and (rows, width, samples)."""


class Spool:
    """The pages of one resolution, in scratch files: those that one read takes, and as many before them; the others are given
    up. ``grid``: of their segments. Any number of threads may read."""

    def __init__(self, grid: SegmentGrid, dtype: str) -> None:
        self._grid = grid.grouped(max(1, grid.threads, BAND_BYTES // grid.segment_bytes)) if grid.wide else grid
        self._spec = ImageSpec(grid.height * grid.depth, grid.width, grid.samples, dtype)
        self._most = 2 * grid.separate * grid.pages
        self._copies: OrderedDict[tuple[int, int], _Copy] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, page: int, separate: int, z: int, region: Region, bands: Callable[[Region], Bands]) -> Array:
        """``region`` of slice ``z``: (height, width, samples). ``bands(place)`` gives the pixels of a segment, or of strips one
        below the other; it is called once for each that is touched, in one thread at a time, and may give none: that reads as
        0."""
        with self._used(page, separate) as copied:
            for row, column, place in self._grid.touched(region):
                index = self._grid.index(separate, z, row, column)
                with copied.lock:
                    if index not in copied.done:
                        self._copy(copied.pixels, z - z % self._grid.segment_depth, place, bands(place))
                        copied.done.add(index)
            return copied.pixels.read(region.shift(z * self._grid.height, 0))

    @contextmanager
    def _used(self, page: int, separate: int) -> Iterator[_Copy]:
        """The copy of a page, which is not given up meanwhile."""
        key = page, separate
        with self._lock:
            copied = self._copies.get(key) or _Copy(self._spec)
            self._copies[key] = copied
            self._copies.move_to_end(key)
            copied.users += 1
            idle = [key for key, item in self._copies.items() if not item.users]
            for key in idle[: max(0, len(self._copies) - self._most)]:
                self._copies.pop(key).pixels.close()
        try:
            yield copied
        finally:
            with self._lock:
                copied.users -= 1

    def _copy(self, pixels: Scratch, top: int, place: Region, bands: Bands) -> None:
        """Write what lies inside the image; its slices lie one below the other."""
        grid = self._grid
        for depth, y, band in bands:
            held = Region(place.y + y, place.x, *band.shape[:2]).intersect(Region(0, 0, grid.height, grid.width))
            if held.area and top + depth < grid.depth:
                pixels.write(held.shift((top + depth) * grid.height, 0), band[: held.height, : held.width])

    def close(self) -> None:
        """The copies are gone."""
        with self._lock:
            while self._copies:
                self._copies.popitem()[1].pixels.close()


class _Copy:
    """The pixels of a page, which of its segments are ``done``, and how many threads are reading."""

    def __init__(self, spec: ImageSpec) -> None:
        self.pixels, self.users = Scratch(spec), 0
        self.done: set[int] = set()
        self.lock = threading.Lock()


def stream_bands(page: Any, grid: SegmentGrid, rows: int, chunks: Iterable[bytes]) -> Bands:
    """The first ``rows`` rows of a segment of a tifffile page from its compressed ``chunks``. Raises ``ValueError`` for a
    stream that ends early, or is damaged."""
    step = max(1, BAND_BYTES // grid.row_bytes)
    open_stream = opener(page.compression)
    assert open_stream is not None, "grid.streamed says that there is one"
    pieces, kept = open_stream(_in_order(chunks, page.fillorder)), bytearray()
    for y in range(0, rows, step):
        count = min(step, rows - y)
        size = count * grid.row_bytes
        while len(kept) < size:
            piece = next(pieces, None)
            if piece is None:
                raise ValueError(f"a tile or strip ends at row {y + len(kept) // grid.row_bytes} of {rows}")
            kept += piece
        yield 0, y, _band(page, grid, count, kept[:size])
        del kept[:size]
    _finish(pieces, (grid.segment_height - rows) * grid.row_bytes + PIECE)


def _finish(pieces: Iterator[bytes], most: int) -> None:
    """Go on to the end of a stream, where its checksum is, but not beyond ``most`` bytes."""
    for piece in pieces:
        most -= len(piece)
        if most < 0:
            return


def _in_order(chunks: Iterable[bytes], fillorder: int) -> Iterator[bytes]:
    """The bits of each byte, the highest first."""
    import imagecodecs

    for chunk in chunks:
        yield bytes(imagecodecs.bitorder_decode(chunk)) if fillorder == 2 else chunk


def _band(page: Any, grid: SegmentGrid, rows: int, data: bytearray) -> Array:
    """Bytes as pixels: what tifffile makes of an uncompressed strip of that many rows, the predictor undone."""
    strip = copy.copy(page)
    for kept in ("decode", "hash"):  # tifffile computes them once
        strip.__dict__.pop(kept, None)
    strip.compression = strip.fillorder = strip.planarconfig = strip.imagedepth = 1
    strip.tilewidth = strip.tilelength = 0
    strip.imagewidth, strip.imagelength, strip.rowsperstrip = grid.segment_width, rows, rows
    strip.samplesperpixel, strip.shaped = grid.samples, (1, 1, rows, grid.segment_width, grid.samples)
    return np.asarray(strip.decode(data, 0)[0][0])


def whole_bands(segment: Array) -> Bands:
    """Those of a decoded segment (depth, height, width, samples)."""
    step = max(1, BAND_BYTES // max(1, segment[0, 0].nbytes))
    for z, pixels in enumerate(segment):
        for y in range(0, len(pixels), step):
            yield z, y, pixels[y : y + step]
