"""Tiles and strips of TIFF pages: only those that a region touches are read from the file and decoded."""

from __future__ import annotations

import dataclasses
import math
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from i2i.contracts import Array
from i2i.cores import available_cores
from i2i.errors import InputError
from i2i.formats.codestreams import declared_area
from i2i.formats.streams import EXPANSION, opener
from i2i.geometry import Region

SEGMENT_LIMIT = 2**29
"""The largest tile or strip, in bytes as stored and as decoded, of a compression that is not read as a stream."""
CACHE_BYTES = 64 * 2**20
WINDOW_ROWS = 2560
"""Of the tallest windows that are read side by side."""
CHUNK = 2**20
"""What is read at once of a segment that is decoded as a stream."""
Item = TypeVar("Item")


@dataclass(frozen=True)
class SegmentGrid:
    """How pages are cut into segments. Lengths in pixels; ``samples`` are interleaved in a segment, and ``separate``
    counts the sample planes stored one after the other. ``raw``: strips of plain values, read without decoding.
    ``itemsize``: bytes of a decoded value. ``row_bytes``: of a segment's row, as it is before compression. ``expansion``: the
    most bytes of a row that one stored byte can stand for; 0 where segments cannot be decoded as a stream. ``pages``: how many of
    them one read takes together."""

    height: int
    width: int
    depth: int
    separate: int
    samples: int
    segment_height: int
    segment_width: int
    segment_depth: int
    raw: bool
    itemsize: int
    row_bytes: int
    expansion: int
    tiled: bool
    pages: int

    @staticmethod
    def of(page: Any, pages: int) -> SegmentGrid:
        """From a tifffile page, of which a read takes ``pages``."""
        contiguous = page.planarconfig == 1 or page.samplesperpixel == 1
        tiled = page.is_tiled
        strip = min(page.rowsperstrip, page.imagelength), page.imagewidth
        height, width = (page.tilelength, page.tilewidth) if tiled else strip
        separate, samples = (1, page.samplesperpixel) if contiguous else (page.samplesperpixel, 1)
        plain = page.compression == 1 and page.predictor == 1 and page.fillorder == 1 and page.sampleformat != 5
        raw = plain and not tiled and page.bitspersample in (8, 16, 32, 64) and not page.is_subsampled
        depth, bits = page.tiledepth if tiled else 1, page.bitspersample
        streamable = isinstance(bits, int) and depth == 1 and opener(page.compression) is not None
        row, expansion = (-(-width * samples * bits // 8), EXPANSION[page.compression]) if streamable else (0, 0)
        return SegmentGrid(
            page.imagelength, page.imagewidth, page.imagedepth, separate, samples, height, width, depth, raw,
            page.dtype.itemsize, row, expansion, tiled, pages,
        )  # fmt: skip

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the image."""
        return self.height, self.width

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
    def segment_bytes(self) -> int:
        """Of one decoded segment."""
        return self.segment_depth * self.segment_height * self.segment_width * self.samples * self.itemsize

    @property
    def giant(self) -> bool:
        """Whether segments are too large to be decoded for every region that touches them."""
        return not self.raw and self.segment_bytes > CACHE_BYTES

    @property
    def streamed(self) -> bool:
        """Whether they are giant, and decoded band by band."""
        return self.giant and self.expansion > 0

    @property
    def wide(self) -> bool:
        """Whether they are strips of which the cache cannot hold those of a window: each window beside it would decode all of
        them again."""
        pixels = min(self.height, WINDOW_ROWS) * self.width * self.samples * self.separate * self.pages
        return not (self.raw or self.tiled or self.giant) and pixels * self.itemsize > CACHE_BYTES

    def grouped(self, count: int) -> SegmentGrid:
        """The same strips, each ``count`` of them taken for one."""
        return dataclasses.replace(self, segment_height=self.segment_height * count)

    @property
    def threads(self) -> int:
        """That decode segments at once: what they hold together is bounded."""
        return min(available_cores(), max(1, CACHE_BYTES // max(1, self.segment_bytes)))

    def rows_held(self, index: int) -> int:
        """Rows of the image in the segment that stands at ``index`` in the tables."""
        top = index // self.columns % self.rows * self.segment_height
        return min(self.segment_height, self.height - top)

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
    if grid.raw or grid.streamed:
        needed = _needed_bytes(path, grid, counts)
        counts = np.minimum(counts, needed) if grid.raw else counts
    if (offsets < 0).any() or (counts < 0).any() or (offsets > size - counts).any():
        raise InputError(f"{path}: truncated TIFF: pixel data lie past the end of the file; get a complete copy")
    if not (grid.raw or grid.streamed) and counts.max(initial=0) > SEGMENT_LIMIT:
        raise InputError(f"{path}: one tile or strip has over 0.5 GB of data; save it as a tiled TIFF")
    return SegmentTable(path, offsets, counts, page.jpegtables)


def _needed_bytes(path: Path, grid: SegmentGrid, counts: Array) -> Array:
    """The plain bytes of each segment's rows, of which fewer than can come from its stored ones is damage. (Some writers
    declare more.)"""
    tops = np.arange(grid.rows, dtype=np.float64) * grid.segment_height
    rows = np.repeat(np.minimum(grid.height - tops, grid.segment_height), grid.columns)
    needed = np.tile(rows * grid.row_bytes, grid.separate * grid.layers)
    if ((counts * float(grid.expansion) < needed) & (counts > 0)).any():
        raise InputError(f"{path}: damaged TIFF: tiles or strips hold fewer bytes than its header says; get a good copy")
    return needed.astype(np.int64) if grid.raw else counts


class SegmentCache:
    """Decoded segments, those used last, up to ``limit`` bytes; the latest is kept even when it is larger. A segment that
    several threads want at the same moment is made by one of them."""

    def __init__(self, limit: int = CACHE_BYTES) -> None:
        self._limit, self._bytes = limit, 0
        self._items: OrderedDict[tuple[int, ...], Array] = OrderedDict()
        self._making: dict[tuple[int, ...], Future[Array]] = {}
        self._lock = threading.Lock()

    def get(self, key: tuple[int, ...], make: Callable[[], Array]) -> Array:
        """The segment, or what ``make`` gives, whose error every thread gets that waits for it."""
        with self._lock:
            if key in self._items:
                self._items.move_to_end(key)
                return self._items[key]
            made, mine = self._making.get(key), key not in self._making
            if made is None:
                made = self._making[key] = Future()
        if mine:
            self._make(key, make, made)
        return made.result()

    def _make(self, key: tuple[int, ...], make: Callable[[], Array], made: Future[Array]) -> None:
        try:
            pixels = make()
        except BaseException as error:
            with self._lock:
                del self._making[key]
            made.set_exception(error)
            raise
        with self._lock:
            del self._making[key]
            self._keep(key, pixels)
        made.set_result(pixels)

    def _keep(self, key: tuple[int, ...], pixels: Array) -> None:
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
        while len(data) != count:  # the system reads 2 GB at most at once
            more = os.pread(self._file.fileno(), count - len(data), offset + len(data))
            if not more:
                raise InputError(f"{self.path}: the file ended while it was read; get a complete copy")
            data += more
        return data

    def chunks(self, offset: int, count: int) -> Iterator[bytes]:
        """The same bytes, ``CHUNK`` at a time."""
        for start in range(offset, offset + count, CHUNK):
            yield self.read(start, min(CHUNK, offset + count - start))

    def close(self) -> None:
        """May be called again."""
        self._file.close()


def check_stream(data: bytes, compression: int, grid: SegmentGrid) -> None:
    """Refuse an image stream that declares far more pixels than its tile: decoders allocate what it says."""
    area = declared_area(data, compression)
    if area > 4 * max(64, grid.segment_height) * max(64, grid.segment_width):
        raise ValueError(f"a tile of {grid.segment_width} x {grid.segment_height} pixels holds a stream of {area}")


def for_each(work: Callable[[Item], None], items: Sequence[Item], threads: int) -> None:
    """Call ``work`` with every item, on that many threads. The first error is raised, and no further item begun."""
    if min(threads, len(items)) < 2:
        for item in items:
            work(item)
        return
    with ThreadPoolExecutor(min(threads, len(items))) as pool:  # not kept: threads do not live on in forked processes
        for _ in pool.map(work, items):
            pass
