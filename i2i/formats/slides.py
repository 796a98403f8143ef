"""Leica slides (.scn) through tiffslide, where it is installed: the one kind that i2i's own TIFF reader does not read well.

Both decode with tifffile, so for other slides (.svs, .ndpi, .bif ...) tiffslide gives the same pixels, and the own reader
gives them faster, in bounded memory and with every plane. But a .scn file holds an overview first, then an image for each
scanned area, and only its XML says where on the slide they lie: tiffslide puts them together.
"""

from __future__ import annotations

import importlib.util
import math
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from i2i.contracts import Array, Format, ImageSpec, Source
from i2i.errors import InputError
from i2i.formats.guard import DAMAGED, guard, one_line
from i2i.formats.tiff import MAGIC, TiffSource
from i2i.formats.views import Noted
from i2i.geometry import Region

SUFFIXES = (".scn",)
CHUNK_LIMIT = 512 * 2**20
"""The largest decoded tile or strip, in bytes."""
OVERVIEW = "its first image is read, which is mostly the overview of the slide"


class SlideSource:
    """The scanned areas of a Leica slide, as the rectangle around them. Several threads may read, one after the other.

    Raises ``InputError`` for a file that tiffslide cannot read, or that is not a brightfield slide of one plane.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()
        with guard(path, "slide"):
            self._slide = _tiffslide(path)
            try:
                self._open()
            except BaseException:
                self.close()
                raise

    def _open(self) -> None:
        properties = self._slide.properties
        composition = properties.get("tiffslide.series-composition")
        if composition is None:
            raise InputError(f"{self._path}: not a Leica slide")
        series = self._slide.ts_tifffile.series
        areas = [(series[number], offsets) for number, offsets in composition["located_series"].items()]
        if any(level.axes != "YXS" for area, _ in areas for level in area.levels):
            raise InputError(f"{self._path}: not a brightfield slide of one plane")
        _check_segments(self._path, areas)
        self._places = [_around(areas, level) for level in range(len(composition["level_shapes"]))]
        self.spec = _describe(properties, areas, self._places)

    def read(self, region: Region, plane: int = 0, level: int = 0) -> Array:
        """See :class:`i2i.contracts.Source`."""
        place = self._places[level]
        where = region.shift(place.y, place.x)
        if not place.contains(where):
            raise ValueError(f"{region} is not inside the image, {place.height} x {place.width}")
        with guard(self._path, "slide"), self._lock:
            pixels = self._slide.read_region((where.x, where.y), level, (where.width, where.height), as_array=True)
        return np.ascontiguousarray(pixels, np.dtype(self.spec.dtype))

    def close(self) -> None:
        self._slide.close()


def _tiffslide(path: Path) -> Any:
    """The slide, opened; places that are read are in pixels of their level."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from tiffslide import TiffSlide

        class ByLevel(TiffSlide):  # type: ignore[misc,unused-ignore]  # what its docstring invites to
            def _read_region_loc_transform(self, location: tuple[int, int], level: int) -> tuple[int, int]:
                return location

        return ByLevel(path)


def _check_segments(path: Path, areas: list[tuple[Any, Any]]) -> None:
    for page in (level.keyframe for area, _ in areas for level in area.levels):
        size = math.prod(page.chunks) * page.dtype.itemsize
        if size > CHUNK_LIMIT:
            raise InputError(f"{path}: one tile or strip decodes to {size / 1e9:.1f} GB; save it as a tiled TIFF")


def _around(areas: list[tuple[Any, Any]], level: int) -> Region:
    """The rectangle around all areas, in pixels of the slide at ``level``."""
    corners = [(*offsets[level][:2], *area.levels[level].shape[:2]) for area, offsets in areas]
    top, left = (min(corner[i] for corner in corners) for i in (0, 1))
    bottom, right = (max(corner[i] + corner[i + 2] for corner in corners) for i in (0, 1))
    return Region(top, left, bottom - top, right - left)


def _describe(properties: Any, areas: list[tuple[Any, Any]], places: list[Region]) -> ImageSpec:
    from tiffslide.tiffslide import PROPERTY_NAME_MPP_X, PROPERTY_NAME_MPP_Y

    page = areas[0][0].keyframe
    size = properties.get(PROPERTY_NAME_MPP_Y), properties.get(PROPERTY_NAME_MPP_X)
    apart = f"{len(areas)} scanned areas in one picture: what lies between them reads as 0"
    return ImageSpec(
        height=places[0].height,
        width=places[0].width,
        channels=page.shape[-1],
        dtype=page.dtype.name,
        pixel_size=(float(size[0]), float(size[1])) if None not in size else None,
        levels=tuple((place.height, place.width) for place in places) if len(places) > 1 else (),
        notes=(apart,) if len(areas) > 1 else (),
        rgb=page.shape[-1] == 3 or None,
        tiling=(page.tilelength, page.tilewidth) if page.is_tiled else None,
    )


def open_slide(path: Path) -> Source:
    """The scanned areas; where tiffslide is not installed or cannot read them, what the TIFF reader gives, with a note.

    Raises ``InputError`` for what neither reads.
    """
    if importlib.util.find_spec("tiffslide") is None:
        return Noted(TiffSource(path), f"{OVERVIEW}; pip install 'i2i-engine[slides]' reads the scanned areas")
    try:
        return SlideSource(path)
    except (InputError, *DAMAGED) as error:
        return Noted(TiffSource(path), f"{OVERVIEW} (tiffslide: {one_line(error)})")


def _sniff(head: bytes, path: Path) -> bool:
    return head[:4] in MAGIC and path.suffix.lower() in SUFFIXES


LEICA_FORMAT = Format(
    name="Leica slide",
    suffixes=SUFFIXES,
    summary="scanned areas of a Leica slide, read only; with the extra 'slides'",
    sniff=_sniff,
    open=open_slide,
)
