"""TIFF by region: tiles or strips, either byte order, BigTIFF, planes on pages, pyramids, and what is built on TIFF.

Only what a region touches is read (never mapped: mapped pages would count as resident) and decoded. Everything that a
header claims is checked before memory is taken for it.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count, takewhile
from pathlib import Path
from typing import Any

import numpy as np

from i2i.contracts import Array, Format, ImageSpec
from i2i.errors import InputError
from i2i.formats.guard import guard
from i2i.formats.orientation import Orientation
from i2i.formats.profiles import profile_for
from i2i.formats.rgb import is_rgb
from i2i.formats.tiff_checks import check_series, first_series, open_tiff, unsound
from i2i.formats.tiff_colour import MIN_IS_WHITE, Colour, colour_of, is_colour
from i2i.formats.tiff_layout import Layout, layout_of
from i2i.formats.tiff_metadata import channel_colours, channel_names, image_name, pixel_size, steps
from i2i.formats.tiff_ome import recorded
from i2i.formats.tiff_pages import SeriesPages
from i2i.formats.tiff_segments import FileBytes, SegmentCache
from i2i.formats.tiff_write import CHANNELS, COMPRESSIONS, DTYPES, check, write
from i2i.formats.views import picked
from i2i.geometry import Region

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
SLIDE_SUFFIXES = (".svs", ".ndpi", ".bif", ".qptiff", ".lsm", ".stk", ".flex")
ASSOCIATED = ("thumbnail", "label", "macro", "map", "overview")
"""Names of the small pictures that slides carry beside the image: leaving them out needs no warning."""
ICC_PROFILE = 34675
SPOOLED = "stored in one piece: copied once to a scratch file"
WIDE = "stored in wide strips: copied once to a scratch file"


@dataclass(frozen=True)
class Picture:
    """One series of a file: how its samples become channels, and its resolutions, full size first."""

    colour: Colour
    levels: tuple[SeriesPages, ...]


class TiffSource:
    """A TIFF file, opened: its first image, with its planes and levels; those like it are planes along the axis ``series``. With
    ``number``, that image alone. Safe to read from several threads."""

    def __init__(self, path: Path, number: int | None = None) -> None:
        self._path, self._number = path, number
        with guard(path, "TIFF"):
            self._file = FileBytes(path)
        try:
            with guard(path, "TIFF"):
                self._open()
        except BaseException:
            self.close()
            raise

    _tiff: Any = None
    _pictures: tuple[Picture, ...] = ()

    def _open(self) -> None:
        self._tiff, notes = open_tiff(self._path)
        alone = self._number is not None
        series = self._tiff.series[self._number] if alone else first_series(self._path, self._tiff)
        page = series.keyframe
        check_series(self._path, page, series)
        colour = colour_of(page, series.transform, series.dtype)
        self._orientation = Orientation.of(page.tags.valueof(274))
        self._layout, assumed = layout_of(series, colour.channels)
        others = (item for item in self._tiff.series if item is not series and not alone)
        joined = [series, *(item for item in others if _alike(self._path, item, series, colour, self._layout))]
        self._pictures = self._build(joined)
        if len(joined) == 1:
            self._layout = recorded(self._layout, self._tiff.ome_metadata if self._tiff.is_ome else None)
        self._check_first()
        grids = [level.grid for picture in self._pictures for level in picture.levels]
        remarks = (SPOOLED,) * any(grid.giant for grid in grids) + (WIDE,) * any(grid.wide for grid in grids)
        notes += assumed + colour.notes + _left_out(self._tiff, joined, len(self._pictures[0].levels), alone)
        self.spec = dataclasses.replace(self._describe(page, notes), remarks=remarks)

    def _build(self, joined: list[Any]) -> tuple[Picture, ...]:
        """A picture of each series, all with the same resolutions."""
        cache, lock, numbers, pictures = SegmentCache(), threading.Lock(), count(), []
        together = self._layout.channels
        for series in joined:
            colour = colour_of(series.keyframe, series.transform, series.dtype)
            levels = _levels(series, self._layout, colour)
            pages = tuple(SeriesPages(item, self._file, cache, next(numbers), lock, together) for item in levels)
            pictures.append(Picture(colour, pages))
        sizes = zip(*([item.grid.size for item in picture.levels] for picture in pictures), strict=False)
        shared = len(list(takewhile(lambda level: len(set(level)) == 1, sizes)))
        return tuple(Picture(picture.colour, picture.levels[:shared]) for picture in pictures)

    def _check_first(self) -> None:
        first = self._pictures[0].levels[0].table(0)
        if first is not None and first.missing == len(first.counts):
            raise InputError(f"{self._path}: holds no pixel data; it was probably not finished: make it again")

    def _describe(self, page: Any, notes: tuple[str, ...]) -> ImageSpec:
        first = self._pictures[0]
        sizes = tuple(self._orientation.size(*item.grid.size) for item in first.levels)
        size = pixel_size(self._tiff, page)
        channels = self._layout.channels * first.colour.channels
        series = (("series", len(self._pictures)),) if len(self._pictures) > 1 else ()
        names = channel_names(self._tiff, page, channels)
        as_rgb = self._layout.channels == 1 and is_colour(page)
        return ImageSpec(
            height=sizes[0][0],
            width=sizes[0][1],
            channels=channels,
            dtype=first.colour.dtype,
            pixel_size=None if size is None else _turned(self._orientation, size),
            channel_names=names,
            channel_colours=channel_colours(self._tiff, page, channels) if names else (),
            planes=series + self._layout.planes,
            levels=sizes if len(sizes) > 1 else (),
            notes=notes,
            tiling=self.segment_shape,
            rgb=is_rgb(channels, names, as_rgb),
            steps=steps(self._tiff, page),
            profile=b"" if page.photometric == MIN_IS_WHITE else profile_for(channels, page.tags.valueof(ICC_PROFILE)),
            name=image_name(self._tiff, page),
        )

    @property
    def series_count(self) -> int:
        """Images in the file."""
        return len(self._tiff.series)

    def series(self, number: int) -> TiffSource | None:
        """The image of that number alone, opened; None where the file has not so many."""
        usable = number < self.series_count and self._tiff.series[number].keyframe.shape
        return TiffSource(self._path, number) if usable else None

    @property
    def missing_tiles(self) -> int:
        """Tiles and strips without data, on the pages read so far: they read as zeros."""
        return sum(level.missing for picture in self._pictures for level in picture.levels)

    @property
    def decoded_segments(self) -> int:
        """Tiles and strips decoded so far."""
        return sum(level.decoded for picture in self._pictures for level in picture.levels)

    @property
    def segment_shape(self) -> tuple[int, int]:
        """Height and width of a stored tile or strip of the picture: reading in its multiples decodes each once."""
        grid = self._pictures[0].levels[0].grid
        return self._orientation.size(min(grid.segment_height, grid.height), min(grid.segment_width, grid.width))

    def read(self, region: Region, plane: int = 0, level: int = 0) -> Array:
        """See :class:`i2i.contracts.Source`."""
        return self.read_channels(range(self.spec.channels), region, plane, level)

    def read_channels(self, channels: Sequence[int], region: Region, plane: int = 0, level: int = 0) -> Array:
        """See :func:`i2i.formats.views.read_channels`."""
        if not 0 <= plane < self.spec.plane_count:
            raise IndexError(f"plane {plane} is not in the image")
        number, inner = divmod(plane, self.spec.plane_count // len(self._pictures))
        colour, pages = self._pictures[number].colour, self._pictures[number].levels[level]
        picture = Region(0, 0, *self._orientation.size(*pages.grid.size))
        if not picture.contains(region):
            raise ValueError(f"{region} is not inside the image, {picture}")
        stored = self._orientation.stored(region, *pages.grid.size)
        apart = self._layout.channels > 1  # a page for each
        wanted = [(channel, (0,)) for channel in channels] if apart else [(0, tuple(channels))]
        with guard(self._path, "TIFF"):
            parts = [self._read_page(pages, colour, self._layout.page(inner, c), inside, stored) for c, inside in wanted]
            pixels = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)
            return np.ascontiguousarray(self._orientation.apply(pixels), np.dtype(self.spec.dtype))

    def _read_page(
        self, pages: SeriesPages, colour: Colour, place: tuple[int, int], channels: Sequence[int], stored: Region
    ) -> Array:
        """Channels of a page. Where they are made of its samples by a conversion, that wants all samples."""
        page, z = place
        if colour.convert is None:
            return pages.read(page, z, [colour.samples[channel] for channel in channels], stored)
        return picked(colour.convert(pages.read(page, z, colour.samples, stored)), channels)

    def close(self) -> None:
        """Close the file; scratch files go."""
        self._file.close()
        for picture in self._pictures:
            for level in picture.levels:
                level.close()
        if self._tiff is not None:
            self._tiff.close()


def _levels(series: Any, layout: Layout, colour: Colour) -> list[Any]:
    """The resolutions that hold the same planes and channels as the first, up to one that does not."""
    levels = [series]
    for level in series.levels[1:]:
        page = level.keyframe
        if page.dtype is None or unsound(page) or 0 in page.shaped:
            break
        same_colour = dataclasses.replace(colour_of(page), convert=None) == dataclasses.replace(colour, convert=None)
        if not same_colour or layout_of(level, colour.channels)[0].axes != layout.axes:
            break
        levels.append(level)
    return levels


def _alike(path: Path, item: Any, series: Any, colour: Colour, layout: Layout) -> bool:
    """Whether a further series can be a plane beside the first one, ``series``: of one size, kind and meaning."""
    page, first = item.keyframe, series.keyframe
    if (item.get_shape(False), item.get_axes(False)) != (series.get_shape(False), series.get_axes(False)):
        return False
    if item.name.lower() in ASSOCIATED or page.tags.valueof(274) != first.tags.valueof(274):
        return False
    try:
        check_series(path, page, item)
    except InputError:
        return False
    found = colour_of(page, item.transform, item.dtype)
    same = (found.channels, found.dtype) == (colour.channels, colour.dtype)
    return same and layout_of(item, found.channels)[0] == layout


def _left_out(tiff: Any, joined: list[Any], levels: int, alone: bool) -> tuple[str, ...]:
    notes: tuple[str, ...] = ()
    series = joined[0]
    others = [i for i, item in enumerate(tiff.series) if item not in set(joined) and item.name.lower() not in ASSOCIATED]
    if others and not alone:
        notes += (f"{len(others)} more image(s) in the file: only the first is read; --series {others[0]} reads another",)
    if levels < len(series.levels):
        notes += (f"{len(series.levels) - levels} resolution(s) that do not match the first are left out",)
    absent = sum(item is None for part in joined if not part.is_truncated for item in part)
    if absent:
        notes += (f"{absent} of {sum(map(len, joined))} pages are missing, and read as zeros",)
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
    summary="tiled, compressed TIFF with OME metadata and a pyramid; BigTIFF when needed",
    sniff=_sniff,
    open=TiffSource,
    write=write,
    dtypes=DTYPES,
    channels=CHANNELS,
    compressions=COMPRESSIONS,
    planes=True,
    check=check,
)
SLIDE_FORMAT = Format(
    name="slide",
    suffixes=SLIDE_SUFFIXES,
    summary="slides and microscope files built on TIFF, read only",
    sniff=_sniff_slide,
    open=TiffSource,
)
