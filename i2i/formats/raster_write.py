"""Writing PNG, JPEG and WebP: the same bytes for the same run. PNG is streamed, the others are encoded whole."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from i2i.contracts import ImageSpec, Metadata, Source
from i2i.errors import OutputError
from i2i.formats import png_write
from i2i.geometry import Region

JPEG_SIDE, WEBP_SIDE = 65_500, 16_383
PIXEL_LIMIT = 178_956_970
"""Of a picture that is encoded whole in memory: what Pillow reads without being told to."""
BAND_BYTES = 16 * 2**20
QUALITY = 95
DESCRIPTION, SOFTWARE, X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT = 270, 305, 282, 283, 296
DOTS_PER_INCH, CENTIMETRE = 2, 3
INCH = 0.0254


def write_png(path: Path, source: Source, metadata: Metadata) -> None:
    """uint8 or uint16, 1 or 3 channels, streamed. The pixel size goes to pHYs, the record as JSON to the text ``i2i``."""
    check_png(path, source.spec, metadata)
    with path.open("wb") as file:
        png_write.encode(file, source, _chunks(source.spec, metadata))


def write_jpeg(path: Path, source: Source, metadata: Metadata) -> None:
    """uint8, 1 or 3 channels, quality 95. The pixel size and the record (ImageDescription, JSON) go to EXIF."""
    check_jpeg(path, source.spec, metadata)
    picture = _picture(source)
    exif = _exif(source.spec, metadata, limit=60_000)
    with path.open("wb") as file:
        dpi = metadata.dpi[::-1] if metadata.dpi else (0, 0)  # to JFIF's header, which more programs read
        colours = metadata.profile or None
        picture.save(file, "JPEG", quality=QUALITY, subsampling=0, optimize=False, exif=exif, dpi=dpi, icc_profile=colours)


def write_webp(path: Path, source: Source, metadata: Metadata) -> None:
    """uint8, 3 channels, quality 95. The pixel size and the record (ImageDescription, JSON) go to EXIF."""
    check_webp(path, source.spec, metadata)
    picture = _picture(source)
    with path.open("wb") as file:
        picture.save(
            file, "WEBP", quality=QUALITY, method=4, exif=_exif(source.spec, metadata), icc_profile=metadata.profile or None
        )


def check_png(path: Path, spec: ImageSpec, metadata: Metadata) -> None:
    """Raises ``OutputError`` for what a PNG cannot hold."""
    _check(path, spec, ("uint8", "uint16"), (1, 3))


def check_jpeg(path: Path, spec: ImageSpec, metadata: Metadata) -> None:
    """Raises ``OutputError`` for what a JPEG cannot hold."""
    _check(path, spec, ("uint8",), (1, 3), JPEG_SIDE)


def check_webp(path: Path, spec: ImageSpec, metadata: Metadata) -> None:
    """Raises ``OutputError`` for what a WebP cannot hold."""
    _check(path, spec, ("uint8",), (3,), WEBP_SIDE)


def _check(path: Path, spec: ImageSpec, dtypes: tuple[str, ...], channels: tuple[int, ...], side: int | None = None) -> None:
    """Raise ``OutputError`` for what the format cannot hold; ``side``: the most pixels along one, of a
    format that is encoded whole."""
    if spec.plane_count != 1:
        raise OutputError(f"{path}: {path.suffix} holds one plane, and the image has {spec.plane_count}; write a .tif")
    if spec.dtype not in dtypes or spec.channels not in channels:
        counts = " or ".join(map(str, channels))
        raise OutputError(
            f"{path}: {path.suffix} holds {counts} channel(s) of {' or '.join(dtypes)}, "
            f"and the image has {spec.channels} of {spec.dtype}; write a .tif"
        )
    if side is not None and max(spec.height, spec.width) > side:
        raise OutputError(f"{path}: {path.suffix} holds at most {side:,} pixels a side; write a .tif")
    if side is not None and spec.height * spec.width > PIXEL_LIMIT:
        raise OutputError(f"{path}: {path.suffix} is read up to {PIXEL_LIMIT:,} pixels; write a .tif")


def _picture(source: Source) -> Any:
    """The whole image in Pillow's memory, and nowhere else: it is read in bands of rows."""
    from PIL import Image

    spec = source.spec
    picture = Image.new("L" if spec.channels == 1 else "RGB", (spec.width, spec.height))
    rows = max(1, BAND_BYTES // (spec.width * spec.channels))
    for y in range(0, spec.height, rows):
        band = np.ascontiguousarray(source.read(Region(y, 0, min(rows, spec.height - y), spec.width)))
        picture.paste(Image.fromarray(band[..., 0] if spec.channels == 1 else band), (0, y))
    return picture


def _record(metadata: Metadata) -> str:
    content = {"meaning": metadata.meaning, "fingerprint": metadata.fingerprint, "record": dict(metadata.record)}
    return json.dumps(content, sort_keys=True, ensure_ascii=True, default=str)


def _chunks(spec: ImageSpec, metadata: Metadata) -> list[tuple[bytes, bytes]]:
    chunks = [(b"tEXt", b"i2i\0" + _record(metadata).encode("ascii"))]
    per_metre = [1e6 / side for side in spec.pixel_size or ()] or [dots / INCH for dots in metadata.dpi or ()]
    if per_metre:
        down, across = (min(2**31 - 1, round(dots)) for dots in per_metre)
        chunks.insert(0, (b"pHYs", struct.pack(">IIB", across, down, 1)))
    if metadata.profile:
        chunks.insert(0, (b"iCCP", b"ICC profile\0\0" + zlib.compress(metadata.profile)))
    return chunks


def _exif(spec: ImageSpec, metadata: Metadata, limit: int | None = None) -> Any:
    """EXIF with the software, the record (left out where it is longer than ``limit``) and the pixel size."""
    from PIL import Image

    exif = Image.Exif()
    exif[SOFTWARE] = "i2i"
    record = _record(metadata)
    if limit is None or len(record) <= limit:
        exif[DESCRIPTION] = record
    if spec.pixel_size is not None:
        exif[Y_RESOLUTION], exif[X_RESOLUTION] = (10_000 / side for side in spec.pixel_size)
        exif[RESOLUTION_UNIT] = CENTIMETRE
    elif metadata.dpi is not None:
        exif[Y_RESOLUTION], exif[X_RESOLUTION] = metadata.dpi
        exif[RESOLUTION_UNIT] = DOTS_PER_INCH
    return exif
