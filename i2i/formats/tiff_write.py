"""Writing TIFF: tiled, compressed, OME-XML, a pyramid below large images; tile by tile, the source read once, and the same
bytes whenever the same run is written."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from i2i.contracts import Array, ImageSpec, Meaning, Metadata, Source
from i2i.errors import OutputError
from i2i.formats.guard import quieten
from i2i.formats.pyramid import Stack, level_shapes, levels
from i2i.formats.tiff_ome import description, plane_axes
from i2i.geometry import Region, round_up

DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64", "bool")
CHANNELS: tuple[int, ...] = ()
"""Any number of them."""
COMPRESSIONS = ("zlib", "zstd", "lzw", "jpeg", "none")
EFFORT = {"zlib": 6, "zstd": 1, "jpeg": 90}
"""Where more effort gains little: measured on labels, classes, photographs and probabilities. Of JPEG, the quality."""
TILE = 512
SPAN_BYTES = 32 * 2**20
"""What is read from the source at once: tiles side by side, at most a row of them."""
QUEUE_BYTES = 16 * 2**20
"""Tiles that wait for the threads that compress them."""
CLASSIC_LIMIT = 4_000_000_000 - 50_000_000
"""Uncompressed bytes above which the file is a BigTIFF: metadata and incompressible data need room as well."""
LZW_GROWTH = 1.5
"""Of data that it cannot compress: 12 bits for 8."""


def write(path: Path, source: Source, metadata: Metadata) -> None:
    """Write a source with all its planes. Three channels of uint8 or uint16 that mean "image" are RGB; any other channels
    are one page each, as OME's C axis. An image above 4096 pixels gets levels of half the size each, as SubIFDs.

    ``metadata.record`` is kept as JSON in an OME MapAnnotation, key ``record``, namespace ``i2i``. Raises ``OutputError`` for a
    dtype that OME-TIFF has no name for, for JPEG of what it would change, and where scratch files find no room.
    """
    spec = source.spec
    check(path, spec, metadata)
    layout = _Layout.of(spec, metadata.meaning)
    first = {"metadata": description(spec, layout.planes, layout.inner, metadata), "software": "i2i"}
    further = {"metadata": None, "software": False, "subfiletype": 1}
    import tifffile

    quieten()
    big = layout.bytes(metadata.compression) > CLASSIC_LIMIT
    with (
        tifffile.TiffWriter(path, bigtiff=big, ome=True, byteorder="<") as file,
        closing(_sources(source, layout, metadata.meaning, path.parent)) as sources,
    ):
        for number, level in enumerate(sources):
            file.write(
                _tiles(level, layout),
                shape=layout.shape(level.spec),
                subifds=0 if number else len(level_shapes(spec.height, spec.width)) - 1,
                **(further if number else first),
                **_encoding(layout, metadata),
                **_resolution(level.spec, metadata),
                iccprofile=metadata.profile or None,
            )


def check(path: Path, spec: ImageSpec, metadata: Metadata) -> None:
    """Raises ``OutputError`` for what an OME-TIFF cannot hold."""
    if spec.dtype not in DTYPES:
        raise OutputError(f"{path}: TIFF cannot hold {spec.dtype} with OME metadata; it can hold {', '.join(DTYPES)}")
    if metadata.compression not in ("", *COMPRESSIONS):
        raise OutputError(f"{path}: TIFF has no compression {metadata.compression}; choose {', '.join(COMPRESSIONS)}")
    if metadata.compression != "jpeg":
        return
    if metadata.meaning != "image":
        raise OutputError(f"{path}: JPEG would change {metadata.meaning}; choose another compression, such as zstd")
    if spec.dtype != "uint8" or spec.channels not in (1, 3):
        raise OutputError(
            f"{path}: JPEG holds 1 or 3 channels of uint8, and the image has {spec.channels} of {spec.dtype}; "
            "choose another compression, such as zstd"
        )


@dataclass(frozen=True)
class _Layout:
    """How an image lies in the file: ``rgb`` on one page, else a page for each channel of each plane (``split``, where there
    are several). ``planes``: OME's letters with lengths."""

    spec: ImageSpec
    rgb: bool
    split: bool
    planes: tuple[tuple[str, int], ...]
    tile: tuple[int, int]

    @staticmethod
    def of(spec: ImageSpec, meaning: Meaning) -> _Layout:
        rgb = spec.channels == 3 and spec.dtype in ("uint8", "uint16") and meaning == "image"
        split = spec.channels > 1 and not rgb
        tile = (min(TILE, round_up(spec.height, 16)), min(TILE, round_up(spec.width, 16)))
        return _Layout(spec, rgb, split, plane_axes(spec, rgb), tile)

    @property
    def inner(self) -> str:
        """The letters of the axes inside ``planes``."""
        return "YXS" if self.rgb else "CYX" if self.split else "YX"

    def shape(self, level: ImageSpec) -> tuple[int, ...]:
        """Of the pages of a level."""
        lengths = tuple(length for _, length in self.planes)
        channels, samples = (self.spec.channels,) * self.split, (3,) * self.rgb
        return (*lengths, *channels, level.height, level.width, *samples)

    @property
    def span(self) -> int:
        """Columns of pixels that are read at once."""
        column = self.tile[0] * self.tile[1] * self.spec.channels * np.dtype(self.spec.dtype).itemsize
        return max(1, SPAN_BYTES // column) * self.tile[1]

    def bytes(self, compression: str) -> int:
        """Of the file at the most: every tile of every level, and the tables of the pages."""
        spec, size, growth = self.spec, 0, LZW_GROWTH if compression == "lzw" else 1
        for height, width in level_shapes(spec.height, spec.width):
            tiles = -(-height // self.tile[0]) * -(-width // self.tile[1])
            pixels = tiles * self.tile[0] * self.tile[1]
            size += int(pixels * spec.channels * np.dtype(spec.dtype).itemsize * growth)
            size += (1024 + 16 * tiles) * spec.channels
        return size * spec.plane_count


def _sources(source: Source, layout: _Layout, meaning: Meaning, folder: Path) -> Generator[Source, None, None]:
    """A source for each level, whose planes are the file's pages."""
    if not layout.split:
        yield from levels(source, meaning, folder)
        return
    with closing(_Split(source, folder)) as split:
        yield from levels(split, meaning, folder)


class _Split:
    """The channels of a source as planes of one channel. The source is read with the first channel of each plane, all of it
    before the second is wanted; the others wait in a scratch file."""

    def __init__(self, source: Source, folder: Path) -> None:
        spec = source.spec
        self._source, self._channels = source, spec.channels
        self.spec = dataclasses.replace(spec, channels=1, planes=(*spec.planes, ("c", spec.channels)))
        self._others = Stack(dataclasses.replace(self.spec, planes=(("c", spec.channels - 1),)), folder)

    def read(self, region: Region, plane: int = 0, level: int = 0) -> Array:
        """See :class:`i2i.contracts.Source`."""
        plane, channel = divmod(plane, self._channels)
        if channel:
            return self._others.read(region, channel - 1)
        pixels = self._source.read(region, plane)
        for other in range(1, self._channels):
            self._others.write(region, pixels[..., other : other + 1], other - 1)
        return pixels[..., :1]

    def close(self) -> None:
        """The source is its owner's."""
        self._others.close()


def _tiles(source: Source, layout: _Layout) -> Iterator[Array]:
    """The tiles of each page in raster order: (h, w, 3), or (h, w) of one channel. Beyond the image its last row and column
    go on: nothing that a lossy codec would smear over the edge."""
    spec, (height, width) = source.spec, layout.tile
    for plane in range(spec.plane_count):
        for y in range(0, spec.height, height):
            for x in range(0, spec.width, layout.span):
                piece = Region(y, x, min(height, spec.height - y), min(layout.span, spec.width - x))
                pixels = source.read(piece, plane)
                for left in range(0, piece.width, width):
                    part = pixels[:, left : left + width]
                    missing = ((0, height - part.shape[0]), (0, width - part.shape[1]), (0, 0))
                    tile = np.pad(part, missing, mode="edge")
                    yield tile if layout.rgb else tile[..., 0]


def _encoding(layout: _Layout, metadata: Metadata) -> dict[str, Any]:
    """tifffile's options for the pixels. Differences between neighbours compress pictures better, and labels worse; those of
    floats would save a tenth, but most programs that read OME-TIFF (Bio-Formats) do not know them."""
    dtype = np.dtype(layout.spec.dtype)
    name = metadata.compression or "zlib"
    smooth = dtype.kind in "iu" and metadata.meaning in ("image", "probabilities")
    return {
        "dtype": dtype,
        "tile": layout.tile,
        "photometric": "rgb" if layout.rgb else "minisblack",
        "planarconfig": "contig" if layout.rgb else None,
        "compression": None if name == "none" else name,
        "compressionargs": {"level": EFFORT[name]} if name in EFFORT else None,
        "predictor": 2 if smooth and name in ("zlib", "zstd", "lzw") else False,
        "maxworkers": metadata.threads,
        "buffersize": QUEUE_BYTES,
    }


def _resolution(spec: ImageSpec, metadata: Metadata) -> dict[str, Any]:
    if spec.pixel_size is None:
        return {"resolution": metadata.dpi[::-1], "resolutionunit": "INCH"} if metadata.dpi else {}
    height, width = spec.pixel_size
    return {"resolution": (10_000 / width, 10_000 / height), "resolutionunit": "CENTIMETER"}
