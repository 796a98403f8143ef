"""Pixels of the pages of one TIFF series (one resolution), by region."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from i2i.contracts import Array
from i2i.errors import InputError
from i2i.formats.spool import Bands, Spool, stream_bands, whole_bands
from i2i.formats.tiff_segments import (
    SEGMENT_LIMIT,
    FileBytes,
    SegmentCache,
    SegmentGrid,
    SegmentTable,
    check_stream,
    checked_table,
    for_each,
)
from i2i.formats.views import picked
from i2i.geometry import Region

TABLES_KEPT = 64


@dataclass(frozen=True)
class _Slice:
    """What pixels are read of: slice ``z`` of a sample plane (``separate``) of a page, and where it is stored."""

    page: int
    separate: int
    z: int
    table: SegmentTable
    file: FileBytes


class SeriesPages:
    """The pages of a tifffile series. ``missing``: tiles without data among the pages that were touched; ``decoded``:
    segments decoded so far. ``number``: tells the segments of several series apart in one ``cache``. ``lock``: of the file's
    pages. ``together``: pages that one read takes, one after the other. Safe to read from several threads."""

    def __init__(
        self, series: Any, file: FileBytes, cache: SegmentCache, number: int, lock: threading.Lock, together: int
    ) -> None:
        self._series, self._page, self._file, self._cache, self._number = series, series.keyframe, file, cache, number
        self._lock = lock
        self._tables: dict[int, SegmentTable | None] = {}
        self._counted: set[int] = set()
        self.missing = self.decoded = 0
        self.grid = SegmentGrid.of(self._page, together)
        self._check_segment()
        self._spool = Spool(self.grid, self._page.dtype.name) if self.grid.giant or self.grid.wide else None

    def _check_segment(self) -> None:
        if self.grid.raw:
            return
        if self.grid.segment_bytes > SEGMENT_LIMIT and not self.grid.streamed:
            raise InputError(
                f"{self._file.path}: one tile or strip decodes to {self.grid.segment_bytes / 1e9:.1f} GB, and can only be "
                "decoded whole; a damaged header, or save it as a tiled TIFF"
            )
        self._page.init_decode()

    def read(self, page: int, z: int, samples: Sequence[int], region: Region) -> Array:
        """Stored values of ``region`` (inside the page) of slice ``z``: (height, width, len(samples)), native order."""
        table = self.table(page)
        if table is None:
            return self._empty(region, len(samples))
        if self.grid.separate == 1:
            return picked(self._read(page, table, 0, z, region), samples)
        return np.concatenate([self._read(page, table, sample, z, region) for sample in samples], axis=-1)

    def table(self, page: int) -> SegmentTable | None:
        """Where the segments of a page are; None for a page that the file lacks."""
        with self._lock:
            if page not in self._tables:
                while len(self._tables) >= TABLES_KEPT:
                    del self._tables[next(iter(self._tables))]
                self._tables[page] = self._load(page)
            return self._tables[page]

    def _load(self, page: int) -> SegmentTable | None:
        table = self._contiguous(page) if self._series.is_truncated else self._listed(page)
        if page not in self._counted:
            self._counted.add(page)
            self.missing += self.grid.count if table is None else table.missing
        return table

    def _listed(self, page: int) -> SegmentTable | None:
        item = self._series[page]
        if item is None:
            return None
        if item.parent is self._series.parent:
            return checked_table(self._file.path, self._file.size, item, self.grid)
        other = Path(item.parent.filehandle.path)
        if item.keyframe.hash != self._page.hash:
            raise InputError(f"{other}: its pages are not stored as those of {self._file.path.name}; save both in one way")
        return checked_table(other, other.stat().st_size, item, self.grid)

    def _contiguous(self, page: int) -> SegmentTable:
        """Pages after the first that have no directory of their own: their data follow the first one's."""
        first = checked_table(self._file.path, self._file.size, self._page, self.grid)
        offsets = first.offsets + page * self._page.nbytes
        if not self.grid.raw or int((offsets + first.counts).max()) > self._file.size:
            raise InputError(f"{self._file.path}: truncated TIFF: page {page} is past its end; get a complete copy")
        return SegmentTable(first.path, offsets, first.counts)

    def _empty(self, region: Region, samples: int) -> Array:
        return np.full((region.height, region.width, samples), self._page.nodata, self._page.dtype)

    def _read(self, page: int, table: SegmentTable, separate: int, z: int, region: Region) -> Array:
        with self._opened(table) as file:
            part = _Slice(page, separate, z, table, file)
            if self._spool is not None:
                return self._spool.read(page, separate, z, region, lambda place: self._bands(part, place))
            return self._rows(part, region) if self.grid.raw else self._pasted(part, region)

    @contextmanager
    def _opened(self, table: SegmentTable) -> Iterator[FileBytes]:
        """The file that the table's segments are in: OME-TIFF may spread an image over several."""
        if table.path == self._file.path:
            yield self._file
            return
        other = FileBytes(table.path)
        try:
            yield other
        finally:
            other.close()

    def _pasted(self, part: _Slice, region: Region) -> Array:
        """The pixels of ``region`` from the segments that it touches, several of them decoded at once."""
        pixels = self._empty(region, self.grid.samples)

        def paste(touched: tuple[int, int, Region]) -> None:
            row, column, place = touched
            index = self.grid.index(part.separate, part.z, row, column)
            if part.table.counts[index]:
                segment = self._segment(part, index)
                _paste(pixels, region, segment[part.z % self.grid.segment_depth], place)

        for_each(paste, list(self.grid.touched(region)), self.grid.threads)
        return pixels

    def _segment(self, part: _Slice, index: int) -> Array:
        """A decoded segment; what goes to a scratch file is not wanted again."""
        if self._spool is not None:
            return self._decode(part, index)
        return self._cache.get((self._number, part.page, index), lambda: self._decode(part, index))

    def _bands(self, part: _Slice, place: Region) -> Bands:
        """What is copied at once to a scratch file: a giant segment, from the top, or strips one below the other."""
        grid, table = self.grid, part.table
        index = grid.index(part.separate, part.z, place.y // grid.segment_height, place.x // grid.segment_width)
        if grid.wide:
            yield 0, 0, self._pasted(part, place.intersect(Region(0, 0, grid.height, grid.width)))
        elif not table.counts[index]:
            shape = (grid.segment_depth, grid.segment_height, grid.segment_width, grid.samples)
            yield from whole_bands(np.broadcast_to(self._page.dtype.type(self._page.nodata), shape)) if self._page.nodata else ()
        elif not grid.streamed:
            yield from whole_bands(self._decode(part, index))
        else:
            chunks = part.file.chunks(int(table.offsets[index]), int(table.counts[index]))
            yield from stream_bands(self._page, grid, grid.rows_held(index), chunks)
            self._count()

    def _decode(self, part: _Slice, index: int) -> Array:
        """A decoded segment: (depth, height, width, samples)."""
        data = part.file.read(int(part.table.offsets[index]), int(part.table.counts[index]))
        header = self._page.jpegheader
        if header is None:
            check_stream(data, self._page.compression, self.grid)
        segment = self._page.decode(data, index, jpegtables=part.table.jpeg_tables, jpegheader=header)[0]
        if self._page.dtype == bool:  # the fax codecs give 0 and 1 as uint8
            segment = segment.astype(bool, copy=False)
        if segment.dtype != self._page.dtype:
            raise ValueError(f"a tile or strip holds {segment.dtype}, not {self._page.dtype}")
        self._count()
        return np.asarray(segment)

    def _count(self) -> None:
        with self._lock:
            self.decoded += 1

    def _rows(self, part: _Slice, region: Region) -> Array:
        """Plain values: only the bytes of the region are read, row by row, or in one piece when rows are whole."""
        pixels, dtype = self._empty(region, self.grid.samples), self._page.dtype.newbyteorder(self._page.parent.byteorder)
        pixel = self.grid.samples * dtype.itemsize
        whole = region.width == self.grid.width
        y = region.y
        while y < region.bottom:
            strip, inside = divmod(y, self.grid.segment_height)
            rows = min(self.grid.segment_height - inside, region.bottom - y) if whole else 1
            index = self.grid.index(part.separate, part.z, strip, 0)
            if part.table.counts[index]:
                offset = int(part.table.offsets[index]) + (inside * self.grid.width + region.x) * pixel
                values = np.frombuffer(part.file.read(offset, rows * region.width * pixel), dtype)
                pixels[y - region.y : y - region.y + rows] = values.reshape(rows, region.width, -1)
            y += rows
        return pixels

    def close(self) -> None:
        """Give up what was copied to scratch files."""
        if self._spool is not None:
            self._spool.close()


def _paste(pixels: Array, region: Region, segment: Array, place: Region) -> None:
    """Copy what ``segment`` (which begins at ``place`` and may be cut at the image's end) shares with ``region``."""
    held = Region(place.y, place.x, segment.shape[0], segment.shape[1])
    common = region.intersect(held)
    if common.area:
        pixels[common.relative_to(region).slices] = segment[common.relative_to(held).slices]
