"""PNG, JPEG, WebP and BMP: decoded whole, once, at the first read. Their sizes are bounded by Pillow's pixel limit.

A large image does not stay in memory: block by block it goes to a scratch file, and is read from there by region.
"""

from __future__ import annotations

import dataclasses
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from i2i.contracts import Array, Format, ImageSpec, Source
from i2i.errors import InputError
from i2i.formats import raster_write
from i2i.formats.colour import bits_to_grey
from i2i.formats.guard import DAMAGED, guard
from i2i.formats.orientation import Orientation
from i2i.formats.profiles import profile_for
from i2i.formats.scratch import Scratch
from i2i.formats.tiff_metadata import LARGEST_TRUSTED
from i2i.formats.views import ArraySource
from i2i.geometry import Region

ORIENTATION, X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT = 274, 282, 283, 296
GREY_MODES = {"1": "uint8", "L": "uint8", "LA": "uint8", "La": "uint8", "I": "int32", "F": "float32"}
ALPHA_MODES = ("LA", "La", "PA", "RGBA", "RGBa")
MEMORY = 64 * 2**20
"""Decoded images above this many bytes go to a scratch file."""
BLOCK = 512, 4096
"""Height and width of what is moved at once."""
SPOOLED = "decoded whole: copied once to a scratch file"
_ONE_AT_A_TIME = threading.RLock()
"""Python's warning filters belong to the whole process: two threads that change them would leave them changed."""


class RasterSource:
    """A PNG, JPEG, WebP or BMP file: grey (1 channel) or RGB (3), upright, alpha dropped. Safe to read from threads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._pixels: Source | None = None
        with _opened(path) as image:
            self._deep, colour_type = _png_header(path) if image.format == "PNG" else (False, 0)
            self._grey = image.mode in GREY_MODES or image.mode.startswith("I;16")
            if self._deep:  # Pillow calls grey with alpha of 16 bits RGBA
                self._grey = colour_type in (0, 4)
            exif = _exif(image)
            self._orientation = Orientation.of(exif.get(ORIENTATION))
            self.spec = self._describe(image, exif)

    def _describe(self, image: Any, exif: dict[int, Any]) -> ImageSpec:
        height, width = self._orientation.size(image.height, image.width)
        deep, size = self._deep or image.mode.startswith("I;16"), _pixel_size(image, exif)
        spec = ImageSpec(
            height=height,
            width=width,
            channels=1 if self._grey else 3,
            dtype="uint16" if deep else GREY_MODES.get(image.mode, "uint8"),
            pixel_size=size,
            dpi=None if size else _dpi(image, self._orientation.transpose),
            profile=profile_for(1 if self._grey else 3, image.info.get("icc_profile")),
            notes=_notes(image),
            rgb=None if self._grey else True,
        )
        return dataclasses.replace(spec, remarks=(SPOOLED,)) if spec.bytes > MEMORY else spec

    def read(self, region: Region, plane: int = 0, level: int = 0) -> Array:
        """See :class:`i2i.contracts.Source`."""
        with self._lock:
            if self._pixels is None:
                with self._decoded() as part:
                    self._pixels = self._kept(part)
            pixels = self._pixels
        return pixels.read(region)

    @contextmanager
    def _decoded(self) -> Iterator[Callable[[Region], Array]]:
        """Gives the stored pixels (height, width, channels) of a region."""
        if self._deep:
            pixels = self._decode_deep()
            yield lambda region: pixels[region.slices]
            return
        with _opened(self._path) as image:
            image.load()
            yield lambda region: self._converted(image.crop((region.x, region.y, region.right, region.bottom)))

    def _kept(self, part: Callable[[Region], Array]) -> Source:
        """The picture, upright: in memory, or in a scratch file."""
        spec = self.spec
        if spec.bytes <= MEMORY:
            pixels = np.empty((spec.height, spec.width, spec.channels), spec.dtype)
            for block in _blocks(spec.region):
                pixels[block.slices] = self._upright(part, block)
            return ArraySource(pixels)
        scratch = Scratch(spec)
        try:
            for block in _blocks(spec.region):
                scratch.write(block, self._upright(part, block))
        except BaseException:
            scratch.close()
            raise
        return scratch

    def _upright(self, part: Callable[[Region], Array], region: Region) -> Array:
        height, width = self._orientation.size(self.spec.height, self.spec.width)
        return self._orientation.apply(part(self._orientation.stored(region, height, width)))

    def _converted(self, image: Any) -> Array:
        """A Pillow image as (H, W, C) of the wanted channels."""
        pixels = np.asarray(image if _usable(image.mode) else image.convert("RGB"))
        if pixels.dtype == bool:
            pixels = bits_to_grey(pixels)
        pixels = pixels if pixels.ndim == 3 else pixels[..., np.newaxis]
        return pixels[..., : self.spec.channels].astype(self.spec.dtype, copy=False)

    def _decode_deep(self) -> Array:
        """(H, W, C) uint16 as stored: Pillow would cut colours of 16 bits to 8."""
        with guard(self._path, "PNG"):
            import imagecodecs

            data = self._path.read_bytes()
            _check_png(data)
            pixels = np.asarray(imagecodecs.png_decode(data))
            pixels = pixels if pixels.ndim == 3 else pixels[..., np.newaxis]
            if pixels.dtype != np.uint16 or pixels.shape[2] < self.spec.channels:
                raise ValueError(f"its pixels are {pixels.dtype}, not uint16")
        return pixels[..., : self.spec.channels]

    def close(self) -> None:
        """Give the pixels up."""
        with self._lock:
            if self._pixels is not None:
                self._pixels.close()
            self._pixels = None


def _blocks(image: Region) -> Iterator[Region]:
    for y in range(0, image.height, BLOCK[0]):
        for x in range(0, image.width, BLOCK[1]):
            yield Region(y, x, *BLOCK).intersect(image)


def _usable(mode: str) -> bool:
    """Whether an array of this Pillow mode begins with the channels that are wanted."""
    return mode in GREY_MODES or mode.startswith("I;16") or mode in ("RGB", "RGBA", "RGBX")


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The file opened by Pillow, its pixel limit on; every fault inside becomes an ``InputError``."""
    from PIL import Image

    try:
        with guard(path, "image file"), _ONE_AT_A_TIME, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                yield image
    except Image.DecompressionBombError as error:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise InputError(f"{path}: has over {limit:,} pixels, too many for this format; save it as TIFF") from error


def _png_header(path: Path) -> tuple[bool, int]:
    """Whether a PNG has 16 bits a sample, and its colour type: bytes 9 and 10 of its first chunk's data."""
    with path.open("rb") as file:
        head = file.read(26)
    return head[24] == 16, head[25]


def _check_png(data: bytes) -> None:
    """Raise ``ValueError`` for a PNG whose chunks are cut or damaged: imagecodecs does not look at their checksums."""
    place, kind = 8, b""
    while kind != b"IEND":
        length, kind = int.from_bytes(data[place : place + 4], "big"), data[place + 4 : place + 8]
        found = int.from_bytes(data[place + 8 + length : place + 12 + length], "big")
        if zlib.crc32(data[place + 4 : place + 8 + length]) != found or len(data) < place + 12 + length:
            raise ValueError(f"its chunk {kind!r} is cut or damaged")
        place += 12 + length


def _exif(image: Any) -> dict[int, Any]:
    """The EXIF tags; none where they are broken: a picture without them is still a picture."""
    if image.format == "PNG" and not {"exif", "Raw profile type exif"} & set(image.info):
        return {}
    try:
        return dict(image.getexif())
    except DAMAGED:
        return {}


def _pixel_size(image: Any, exif: dict[int, Any]) -> tuple[float, float] | None:
    """Micrometres, where the resolution is too fine to be that of a print."""
    unit = {2: 25_400.0, 3: 10_000.0}.get(exif.get(RESOLUTION_UNIT, 2), 0.0)
    per_unit = (exif.get(Y_RESOLUTION), exif.get(X_RESOLUTION))
    if image.format == "PNG":
        unit, per_unit = 25_400.0, tuple(reversed(image.info.get("dpi", (0, 0))))
    try:
        height, width = (unit / float(value) for value in per_unit if value)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return (height, width) if min(height, width) > 0 and max(height, width) <= LARGEST_TRUSTED else None


def _dpi(image: Any, turned: bool) -> tuple[float, float] | None:
    """Dots an inch of the upright picture, down and across. ``turned``: it is stored on its side."""
    try:
        across, down = map(float, reversed(image.info["dpi"]) if turned else image.info["dpi"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    return (round(down, 2), round(across, 2)) if min(down, across) >= 1 and max(down, across) <= 1e5 else None


def _notes(image: Any) -> tuple[str, ...]:
    notes: tuple[str, ...] = ()
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format in ("PNG", "WEBP"):
        notes += (f"{frames} frames: only the first is read",)
    if image.mode in ALPHA_MODES or (image.mode == "P" and "transparency" in image.info):
        notes += ("the alpha channel is dropped",)
    return notes


def _is_png(head: bytes, path: Path) -> bool:
    return head.startswith(b"\x89PNG\r\n\x1a\n")


def _is_jpeg(head: bytes, path: Path) -> bool:
    return head.startswith(b"\xff\xd8\xff")


def _is_webp(head: bytes, path: Path) -> bool:
    return head[:4] == b"RIFF" and head[8:12] == b"WEBP"


def _is_bmp(head: bytes, path: Path) -> bool:
    return head[:2] == b"BM" and head[6:10] == b"\0\0\0\0"


PNG_FORMAT = Format(
    "PNG", (".png",), "lossless, 8 or 16 bits, grey or RGB", _is_png, RasterSource,
    raster_write.write_png, ("uint8", "uint16"), (1, 3), check=raster_write.check_png,
)  # fmt: skip
JPEG_FORMAT = Format(
    "JPEG", (".jpg", ".jpeg"), "lossy, 8 bits, grey or RGB, at most 65,500 pixels a side", _is_jpeg, RasterSource,
    raster_write.write_jpeg, ("uint8",), (1, 3), lossy=True, check=raster_write.check_jpeg,
)  # fmt: skip
WEBP_FORMAT = Format(
    "WebP", (".webp",), "lossy, 8 bits, RGB, at most 16,383 pixels a side", _is_webp, RasterSource,
    raster_write.write_webp, ("uint8",), (3,), lossy=True, check=raster_write.check_webp,
)  # fmt: skip
BMP_FORMAT = Format("BMP", (".bmp", ".dib"), "read only", _is_bmp, RasterSource)
