"""TIFF by region: tiles or strips, either byte order, BigTIFF, planes on pages, pyramids, and what is built on TIFF.

Only what a region touches is read (never mapped: mapped pages would count as resident) and decoded. Everything that a
header claims is checked before memory is taken for it.
"""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path
from typing import Any

import numpy as np

from i2i.contracts import Array, Format, ImageSpec
from i2i.errors import InputError
from i2i.formats.guard import guard, quieten_tifffile
from i2i.formats.orientation import Orientation
from i2i.formats.tiff_colour import Colour, colour_of
from i2i.formats.tiff_layout import Layout, layout_of
from i2i.formats.tiff_metadata import absurd_ome, channel_names, pixel_size
from i2i.formats.tiff_pages import SeriesPages
from i2i.formats.tiff_segments import FileBytes, SegmentCache
from i2i.formats.tiff_write import CHANNELS, DTYPES, write
from i2i.geometry import Region

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
SLIDE_SUFFIXES = (".svs", ".ndpi", ".scn", ".bif", ".qptiff", ".lsm", ".stk", ".flex")
MOST_SAMPLES = 4096
ASSOCIATED = ("thumbnail", "label", "macro", "map", "overview")
"""Names of the small pictures that slides carry beside the image: leaving them out needs no warning."""


class TiffSource:
    """A TIFF file, opened: its first image, with its planes and levels. Safe to read from several threads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with guard(path, "TIFF"):
            self._file = FileBytes(path)
        try:
            with guard(path, "TIFF"):
                self._open()
        except BaseException:
            self.close()
            raise

    _tiff: Any = None

    def _open(self) -> None:
        self._tiff, notes = open_tiff(self._path)
        series = _first_series(self._path, self._tiff)
        page = series.keyframe
        _check(self._path, page, series)
        self._colour = colour_of(page, series.transform, series.dtype)
        self._orientation = Orientation.of(page.tags.valueof(274))
        self._layout, assumed = layout_of(series, self._colour.channels)
        cache, lock = SegmentCache(), threading.Lock()
        levels = _levels(series, self._layout, self._colour)
        self._levels = [SeriesPages(item, self._file, cache, i, lock) for i, item in enumerate(levels)]
        self._check_first()
        notes += assumed + self._colour.notes + _left_out(self._tiff, series, levels)
        self.spec = self._describe(page, notes)

    def _check_first(self) -> None:
        first = self._levels[0].table(0)
        if first is not None and first.missing == len(first.counts):
            raise InputError(f"{self._path}: holds no pixel data; it was probably not finished: make it again")

    def _describe(self, page: Any, notes: tuple[str, ...]) -> ImageSpec:
        sizes = tuple(self._orientation.size(item.grid.height, item.grid.width) for item in self._levels)
        size = pixel_size(self._tiff, page)
        channels = self._layout.channels * self._colour.channels
        return ImageSpec(
            height=sizes[0][0],
            width=sizes[0][1],
            channels=channels,
            dtype=self._colour.dtype,
            pixel_size=None if size is None else _turned(self._orientation, size),
            channel_names=channel_names(self._tiff, page, channels),
            planes=self._layout.planes,
            levels=sizes if len(sizes) > 1 else (),
            notes=notes,
        )

    @property
    def missing_tiles(self) -> int:
        """Tiles and strips without data, on the pages read so far: they read as zeros."""
        return sum(level.missing for level in self._levels)

    @property
    def decoded_segments(self) -> int:
        """Tiles and strips decoded so far."""
        return sum(level.decoded for level in self._levels)

    @property
    def segment_shape(self) -> tuple[int, int]:
        """Height and width of a stored tile or strip of the picture: reading in its multiples decodes each once."""
        grid = self._levels[0].grid
        return self._orientation.size(min(grid.segment_height, grid.height), min(grid.segment_width, grid.width))

    def read(self, region: Region, plane: int = 0, level: int = 0) -> Array:
        """See :class:`i2i.contracts.Source`."""
        pages = self._levels[level]
        picture = Region(0, 0, *self._orientation.size(pages.grid.height, pages.grid.width))
        if not picture.contains(region):
            raise ValueError(f"{region} is not inside the image, {picture}")
        stored = self._orientation.stored(region, pages.grid.height, pages.grid.width)
        with guard(self._path, "TIFF"):
            parts = [self._read_page(pages, plane, c, stored) for c in range(self._layout.channels)]
            pixels = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)
            return np.ascontiguousarray(self._orientation.apply(pixels), np.dtype(self.spec.dtype))

    def _read_page(self, pages: SeriesPages, plane: int, channel: int, stored: Region) -> Array:
        page, z = self._layout.page(plane, channel)
        pixels = pages.read(page, z, self._colour.samples, stored)
        return pixels if self._colour.convert is None else self._colour.convert(pixels)

    def close(self) -> None:
        self._file.close()
        if self._tiff is not None:
            self._tiff.close()


def open_tiff(path: Path) -> tuple[Any, tuple[str, ...]]:
    """The file as a ``tifffile.TiffFile``, and notes on what in it was not believed."""
    import tifffile

    quieten_tifffile()
    tiff = tifffile.TiffFile(path)
    try:
        if len(tiff.pages) == 0:
            raise InputError(f"{path}: a TIFF without an image; it was cut off or not finished: make it again")
        notes = ("its list of pages goes round in a circle: each page is read once",) if _circular(path, tiff) else ()
        if not tiff.is_ome or not absurd_ome(tiff.ome_metadata or ""):
            return tiff, notes
    except BaseException:
        tiff.close()
        raise
    tiff.close()
    return tifffile.TiffFile(path, is_ome=False), (*notes, "its OME-XML declares an absurd size and is ignored")


def _circular(path: Path, tiff: Any) -> bool:
    """Whether following the links from page to page comes back to one that was already met."""
    layout, met = tiff.tiff, set()
    with path.open("rb") as file:
        file.seek(8 if layout.offsetsize == 8 and not layout.is_ndpi else 4)
        while True:
            link = int.from_bytes(file.read(layout.offsetsize), _ORDER[layout.byteorder])
            if link < 8 or link in met:
                return link in met
            met.add(link)
            file.seek(link)
            entries = int.from_bytes(file.read(layout.tagnosize), _ORDER[layout.byteorder])
            if entries > 4096:
                return False
            file.seek(entries * layout.tagsize, 1)


_ORDER: Any = {"<": "little", ">": "big"}


def _first_series(path: Path, tiff: Any) -> Any:
    for series in tiff.series:
        if series.keyframe.shape:
            return series
    raise InputError(f"{path}: a TIFF without a readable image; get a good copy")


def _check(path: Path, page: Any, series: Any) -> None:
    """Refuse what no region could be read from, before anything is computed from it."""
    if page.dtype is None:
        kind = f"SampleFormat {page.sampleformat}, {page.bitspersample} bits"
        raise InputError(f"{path}: a damaged header, or samples of an unknown kind ({kind}); save it as uint8")
    if page.dtype.kind == "c" or np.dtype(series.dtype).kind == "c":
        raise InputError(f"{path}: complex values are no picture; save their magnitude, or two channels")
    if 0 in page.shaped or 0 in series.get_shape(False):
        raise InputError(f"{path}: a TIFF with a side of 0 pixels; get a good copy")
    if page.samplesperpixel > MOST_SAMPLES:
        raise InputError(f"{path}: {page.samplesperpixel} samples a pixel; a damaged header: get a good copy")
    if not page.is_tiled and page.rowsperstrip < 1:
        raise InputError(f"{path}: a damaged TIFF with strips of no rows; get a good copy")
    _check_codec(path, page)


def _check_codec(path: Path, page: Any) -> None:
    from tifffile import TIFF

    for number, codecs in ((page.compression, TIFF.DECOMPRESSORS), (page.predictor, TIFF.UNPREDICTORS)):
        try:
            if number != 1:
                codecs[number]
        except KeyError as error:
            name = getattr(number, "name", str(number)).lower()
            what = "compression" if codecs is TIFF.DECOMPRESSORS else "predictor"
            missing = "imagecodecs" in str(error)
            cure = "pip install imagecodecs" if missing else "save it with another one, such as deflate"
            raise InputError(f"{path}: the {what} {name} is not supported; {cure}") from error


def _levels(series: Any, layout: Layout, colour: Colour) -> list[Any]:
    """The resolutions that hold the same planes and channels as the first, up to one that does not."""
    levels = [series]
    for level in series.levels[1:]:
        page = level.keyframe
        if page.dtype is None or 0 in page.shaped:
            break
        same_colour = dataclasses.replace(colour_of(page), convert=None) == dataclasses.replace(colour, convert=None)
        if not same_colour or layout_of(level, colour.channels)[0].axes != layout.axes:
            break
        levels.append(level)
    return levels


def _left_out(tiff: Any, series: Any, levels: list[Any]) -> tuple[str, ...]:
    notes: tuple[str, ...] = ()
    others = [item for item in tiff.series if item is not series and item.name.lower() not in ASSOCIATED]
    if others:
        notes += (f"{len(others)} more image(s) in the file: only the first is read",)
    if len(levels) < len(series.levels):
        notes += (f"{len(series.levels) - len(levels)} resolution(s) that do not match the first are left out",)
    absent = 0 if series.is_truncated else sum(item is None for item in series)
    if absent:
        notes += (f"{absent} of {len(series)} pages are missing, and read as zeros",)
    return notes


def _turned(orientation: Orientation, size: tuple[float, float]) -> tuple[float, float]:
    return (size[1], size[0]) if orientation.transpose else size


def _sniff(head: bytes, path: Path) -> bool:
    return head[:4] in MAGIC


def _sniff_slide(head: bytes, path: Path) -> bool:
    return _sniff(head, path) and path.suffix.lower() in SLIDE_SUFFIXES


TIFF_FORMAT = Format(
    name="TIFF",
    suffixes=(".tif", ".tiff", ".btf", ".tf8"),
    summary="tiled, compressed TIFF with OME metadata; BigTIFF when needed",
    sniff=_sniff,
    open=TiffSource,
    write=write,
    dtypes=DTYPES,
    channels=CHANNELS,
)
SLIDE_FORMAT = Format(
    name="slide",
    suffixes=SLIDE_SUFFIXES,
    summary="slides and microscope files built on TIFF, read only",
    sniff=_sniff_slide,
    open=TiffSource,
)
