"""Tiles and strips of TIFF pages: only those that a region touches are read from the file and decoded."""

from __future__ import annotations

import math
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from i2i.contracts import Array
from i2i.errors import InputError
from i2i.geometry import Region

SEGMENT_LIMIT = 2**30
"""The largest decoded tile or strip, in bytes: more is a damaged header, or a file that only a rewrite makes usable."""
CACHE_BYTES = 64 * 2**20
JPEG, JPEG_2000 = (6, 7, 33007, 34892), (33003, 33004, 33005, 34712)


@dataclass(frozen=True)
class SegmentGrid:
    """How pages are cut into segments. Lengths in pixels; ``samples`` are interleaved in a segment, and ``separate``
    counts the sample planes stored one after the other. ``raw``: strips of plain values, read without decoding."""

    height: int
    width: int
    depth: int
    separate: int
    samples: int
    segment_height: int
    segment_width: int
    segment_depth: int
    raw: bool

    @staticmethod
    def of(page: Any) -> SegmentGrid:
        """From a tifffile page."""
        contiguous = page.planarconfig == 1 or page.samplesperpixel == 1
        tiled = page.is_tiled
        height, width = (page.tilelength, page.tilewidth) if tiled else (page.rowsperstrip, page.imagewidth)
        separate, samples = (1, page.samplesperpixel) if contiguous else (page.samplesperpixel, 1)
        plain = page.compression == 1 and page.predictor == 1 and page.fillorder == 1 and page.sampleformat != 5
        raw = plain and not tiled and page.bitspersample in (8, 16, 32, 64) and not page.is_subsampled
        return SegmentGrid(
            page.imagelength, page.imagewidth, page.imagedepth, separate, samples,
            height, width, page.tiledepth if tiled else 1, raw,
        )  # fmt: skip

    @property
    def rows(self) -> int:
        return math.ceil(self.height / self.segment_height)

    @property
    def columns(self) -> int:
        return math.ceil(self.width / self.segment_width)

    @property
    def layers(self) -> int:
        return math.ceil(self.depth / self.segment_depth)

    @property
    def count(self) -> int:
        """Segments of one page."""
        return self.separate * self.layers * self.rows * self.columns

    @property
    def values(self) -> int:
        """Values in one decoded segment."""
        return self.segment_depth * self.segment_height * self.segment_width * self.samples

    def index(self, separate: int, z: int, row: int, column: int) -> int:
        """Where the segment at ``row`` and ``column`` of the grid stands in the page's tables."""
        layer = separate * self.layers + z // self.segment_depth
        return (layer * self.rows + row) * self.columns + column

    def touched(self, region: Region) -> Iterator[tuple[int, int, Region]]:
        """Row, column and place of each segment that shares pixels with ``region``, in raster order."""
        height, width = self.segment_height, self.segment_width
        for row in range(region.y // height, math.ceil(region.bottom / height)):
            for column in range(region.x // width, math.ceil(region.right / width)):
                yield row, column, Region(row * height, column * width, height, width)


@dataclass(frozen=True)
class SegmentTable:
    """Where the segments of one page lie: byte ``offsets`` and ``counts`` (N,) int64, both 0 where there is none."""

    path: Path
    offsets: Array
    counts: Array
    jpeg_tables: bytes | None = None

    @property
    def missing(self) -> int:
        return int(np.count_nonzero(self.counts == 0))


def checked_table(path: Path, size: int, page: Any, grid: SegmentGrid) -> SegmentTable:
    """The table of a tifffile page or frame, after it was found to fit a file of ``size`` bytes.

    Raises ``InputError`` for a table that is too short, or points past the end, or (for plain strips) at too few bytes.
    """
    offsets, counts = (np.asarray(tuple(values), np.int64) for values in (page.dataoffsets, page.databytecounts))
    if min(len(offsets), len(counts)) < grid.count:
        found = min(len(offsets), len(counts))
        raise InputError(f"{path}: damaged TIFF: {grid.count} tiles or strips, but places for {found}; get a good copy")
    offsets, counts = offsets[: grid.count], counts[: grid.count]
    absent = (offsets == 0) | (counts == 0)
    offsets, counts = np.where(absent, 0, offsets), np.where(absent, 0, counts)
    if grid.raw:
        counts = np.minimum(counts, _check_strips(path, page, grid, counts))
    if (offsets < 0).any() or (counts < 0).any() or (offsets > size - counts).any():
        raise InputError(f"{path}: truncated TIFF: pixel data lie past the end of the file; get a complete copy")
    if not grid.raw and counts.max(initial=0) > SEGMENT_LIMIT:
        raise InputError(f"{path}: one tile or strip has over 1 GB of data; save it as a tiled TIFF")
    return SegmentTable(path, offsets, counts, page.jpegtables)


def _check_strips(path: Path, page: Any, grid: SegmentGrid, counts: Array) -> Array:
    """The bytes that each plain strip needs; some writers declare more, and fewer is damage."""
    row = grid.width * grid.samples * page.keyframe.dtype.itemsize
    tops = np.arange(grid.rows, dtype=np.int64) * grid.segment_height
    needed = np.tile(np.minimum(grid.height - tops, grid.segment_height) * row, grid.separate * grid.layers)
    if ((counts < needed) & (counts > 0)).any():
        raise InputError(f"{path}: damaged TIFF: strips hold fewer bytes than its header says; get a good copy")
    return needed


class SegmentCache:
    """Decoded segments, those used last, up to ``limit`` bytes; the latest is kept even when it is larger."""

    def __init__(self, limit: int = CACHE_BYTES) -> None:
        self._limit, self._bytes = limit, 0
        self._items: OrderedDict[tuple[int, ...], Array] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple[int, ...]) -> Array | None:
        with self._lock:
            if key in self._items:
                self._items.move_to_end(key)
            return self._items.get(key)

    def put(self, key: tuple[int, ...], pixels: Array) -> None:
        with self._lock:
            if key in self._items:
                return
            self._items[key] = pixels
            self._bytes += pixels.nbytes
            while self._bytes > self._limit and len(self._items) > 1:
                self._bytes -= self._items.popitem(last=False)[1].nbytes


class FileBytes:
    """Bytes of a file by place, without a shared position: any number of threads may read."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb", buffering=0)
        self.path = path
        self.size = os.fstat(self._file.fileno()).st_size

    def read(self, offset: int, count: int) -> bytes:
        """``count`` bytes from ``offset``; ``InputError`` when the file has become shorter."""
        data = os.pread(self._file.fileno(), count, offset)
        if len(data) != count:
            raise InputError(f"{self.path}: the file ended while it was read; get a complete copy")
        return data

    def close(self) -> None:
        """May be called again."""
        self._file.close()


def check_stream(data: bytes, compression: int, grid: SegmentGrid) -> None:
    """Refuse a JPEG or JPEG 2000 stream that declares far more pixels than its tile: decoders allocate what it says."""
    area = 0
    if compression in JPEG:
        from tifffile.tifffile import jpeg_shape

        _, height, width, _ = jpeg_shape(data)
        area = height * width
    elif compression in JPEG_2000:
        start = data.find(b"\xff\x4f\xff\x51") + 8
        area = int.from_bytes(data[start : start + 4], "big") * int.from_bytes(data[start + 4 : start + 8], "big")
    if area > 4 * max(64, grid.segment_height) * max(64, grid.segment_width):
        raise ValueError(f"a tile of {grid.segment_width} x {grid.segment_height} pixels holds a stream of {area}")
