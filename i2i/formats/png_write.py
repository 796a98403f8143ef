"""A PNG encoder that streams: rows are read, filtered and compressed a band at a time (PNG specification, third edition).

Pillow cuts colours of 16 bits to 8, and imagecodecs fails on narrow images; both want the whole image in memory.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import BinaryIO

import numpy as np

from i2i.contracts import Array, Source
from i2i.geometry import Region

SIGNATURE = b"\x89PNG\r\n\x1a\n"
BAND_BYTES = 32 * 2**20
"""What is read from the source at once: rows."""
FILTER_BYTES = 2**20
"""What is filtered at once: several times as much is held meanwhile."""
LEVEL = 6
COLOUR_TYPES = {1: 0, 3: 2}


def encode(file: BinaryIO, source: Source, extra: Sequence[tuple[bytes, bytes]]) -> None:
    """Write the first plane of ``source``, uint8 or uint16 of 1 or 3 channels, with ``extra`` chunks (type and data)
    after the header."""
    spec = source.spec
    depth = 8 * np.dtype(spec.dtype).itemsize
    header = struct.pack(">IIBBBBB", spec.width, spec.height, depth, COLOUR_TYPES[spec.channels], 0, 0, 0)
    file.write(SIGNATURE + _chunk(b"IHDR", header) + b"".join(_chunk(kind, data) for kind, data in extra))
    stream = zlib.compressobj(LEVEL)
    for rows in _filtered(source):
        data = stream.compress(rows)
        if data:
            file.write(_chunk(b"IDAT", data))
    file.write(_chunk(b"IDAT", stream.flush()) + _chunk(b"IEND", b""))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _filtered(source: Source) -> Iterator[bytes]:
    """The bytes of some rows after the others, top to bottom, each row behind the number of its filter."""
    spec = source.spec
    pixel = spec.channels * np.dtype(spec.dtype).itemsize
    band, some = (max(1, size // (spec.width * pixel)) for size in (BAND_BYTES, FILTER_BYTES))
    above = np.zeros((1, spec.width * pixel), np.uint8)
    for y in range(0, spec.height, band):
        pixels = source.read(Region(y, 0, min(band, spec.height - y), spec.width))
        for top in range(0, len(pixels), some):
            part = np.ascontiguousarray(pixels[top : top + some], np.dtype(spec.dtype).newbyteorder(">"))
            rows = part.view(np.uint8).reshape(len(part), -1)
            yield _best(rows, np.concatenate([above, rows[:-1]]), pixel).tobytes()
            above = rows[-1:].copy()


def _best(rows: Array, above: Array, pixel: int) -> Array:
    """Each row by the filter (0 none, 1 left, 2 above) whose differences are the smallest: section 12.7 of the
    specification. (R, N) uint8 gives (R, 1 + N)."""
    left = np.zeros_like(rows)
    left[:, pixel:] = rows[:, :-pixel]
    best, cost = np.zeros((len(rows), rows.shape[1] + 1), np.uint8), np.full(len(rows), np.inf)
    for number, other in enumerate((np.zeros_like(rows), left, above)):
        difference = rows - other
        found = np.minimum(difference, -difference).sum(axis=1, dtype=np.float64)
        better = found < cost
        best[better, 0], best[better, 1:] = number, difference[better]
        cost = np.minimum(cost, found)
    return best
