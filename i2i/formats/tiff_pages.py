"""Pixels of the pages of one TIFF series (one resolution), by region."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from i2i.contracts import Array
from i2i.errors import InputError
from i2i.formats.tiff_segments import (
    SEGMENT_LIMIT,
    FileBytes,
    SegmentCache,
    SegmentGrid,
    SegmentTable,
    check_stream,
    checked_table,
)
from i2i.geometry import Region

TABLES_KEPT = 64


class SeriesPages:
    """The pages of a tifffile series. ``missing``: tiles without data among the pages that were touched; ``decoded``:
    segments decoded so far. Safe to read from several threads."""

    def __init__(self, series: Any, file: FileBytes, cache: SegmentCache, level: int, lock: threading.Lock) -> None:
        self._series, self._page, self._file, self._cache, self._level = series, series.keyframe, file, cache, level
        self._lock = lock
        self._tables: dict[int, SegmentTable | None] = {}
        self._counted: set[int] = set()
        self.missing = self.decoded = 0
        self.grid = SegmentGrid.of(self._page)
        self._check_segment()

    def _check_segment(self) -> None:
        if self.grid.raw:
            return
        size = self.grid.values * self._page.dtype.itemsize
        if size > SEGMENT_LIMIT:
            raise InputError(
                f"{self._file.path}: one tile or strip decodes to {size / 1e9:.1f} GB; "
                "a damaged header, or save it as a tiled TIFF"
            )
        self._page.init_decode()

    def read(self, page: int, z: int, samples: Sequence[int], region: Region) -> Array:
        """Stored values of ``region`` (inside the page) of slice ``z``: (height, width, len(samples)), native order."""
        table = self.table(page)
        if table is None:
            return self._empty(region, len(samples))
        if self.grid.separate == 1:
            pixels = self._read(page, table, 0, z, region)
            everything = list(samples) == list(range(self.grid.samples))
            return pixels if everything else pixels[..., list(samples)]
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
        pixels = self._empty(region, self.grid.samples)
        if self.grid.raw:
            self._fill_from_strips(pixels, table, separate, z, region)
            return pixels
        for row, column, place in self.grid.touched(region):
            segment = self._segment(page, table, self.grid.index(separate, z, row, column))
            if segment is not None:
                _paste(pixels, region, segment[z % self.grid.segment_depth], place)
        return pixels

    def _segment(self, page: int, table: SegmentTable, index: int) -> Array | None:
        """A decoded segment (depth, height, width, samples); None where the file has no data for it."""
        if not table.counts[index]:
            return None
        key = (self._level, page, index)
        segment = self._cache.get(key)
        if segment is None:
            data = self._bytes(table, int(table.offsets[index]), int(table.counts[index]))
            segment = self._decode(data, table, index)
            self._cache.put(key, segment)
        return segment

    def _decode(self, data: bytes, table: SegmentTable, index: int) -> Array:
        header = self._page.jpegheader
        if header is None:
            check_stream(data, self._page.compression, self.grid)
        segment = self._page.decode(data, index, jpegtables=table.jpeg_tables, jpegheader=header)[0]
        if self._page.dtype == bool:  # the fax codecs give 0 and 1 as uint8
            segment = segment.astype(bool, copy=False)
        if segment.dtype != self._page.dtype:
            raise ValueError(f"a tile or strip holds {segment.dtype}, not {self._page.dtype}")
        self.decoded += 1
        return np.asarray(segment)

    def _bytes(self, table: SegmentTable, offset: int, count: int) -> bytes:
        if table.path == self._file.path:
            return self._file.read(offset, count)
        other = FileBytes(table.path)
        try:
            return other.read(offset, count)
        finally:
            other.close()

    def _fill_from_strips(self, pixels: Array, table: SegmentTable, separate: int, z: int, region: Region) -> None:
        """Plain values: only the bytes of the region are read, row by row, or in one piece when rows are whole."""
        dtype = self._page.dtype.newbyteorder(self._page.parent.byteorder)
        pixel = self.grid.samples * dtype.itemsize
        whole = region.width == self.grid.width
        y = region.y
        while y < region.bottom:
            strip, inside = divmod(y, self.grid.segment_height)
            rows = min(self.grid.segment_height - inside, region.bottom - y) if whole else 1
            index = self.grid.index(separate, z, strip, 0)
            if table.counts[index]:
                offset = int(table.offsets[index]) + (inside * self.grid.width + region.x) * pixel
                values = np.frombuffer(self._bytes(table, offset, rows * region.width * pixel), dtype)
                pixels[y - region.y : y - region.y + rows] = values.reshape(rows, region.width, -1)
            y += rows


def _paste(pixels: Array, region: Region, segment: Array, place: Region) -> None:
    """Copy what ``segment`` (which begins at ``place`` and may be cut at the image's end) shares with ``region``."""
    held = Region(place.y, place.x, segment.shape[0], segment.shape[1])
    common = region.intersect(held)
    if common.area:
        pixels[common.relative_to(region).slices] = segment[common.relative_to(held).slices]
