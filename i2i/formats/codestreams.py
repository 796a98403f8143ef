"""What image streams inside a TIFF tile say of their own size: decoders allocate what it says, so it is looked at first."""

from __future__ import annotations

import struct
from collections.abc import Callable
from math import prod


def declared_area(data: bytes, compression: int) -> int:
    """The pixels of the stream ``data`` of a TIFF compression; 0 where it does not say, or is of another kind. Raises
    ``ValueError`` or ``struct.error`` for a header that is cut."""
    measure = _MEASURES.get(compression)
    return 0 if measure is None else measure(data)


def _jpeg(data: bytes) -> int:
    from tifffile.tifffile import jpeg_shape

    _, height, width, _ = jpeg_shape(data)
    return int(height * width)


def _jpeg_2000(data: bytes) -> int:
    """After the SIZ marker and 4 bytes: the width and height of the reference grid."""
    start = data.find(b"\xff\x4f\xff\x51")
    return prod(struct.unpack_from(">II", data, start + 8)) if start >= 0 else 0


def _png(data: bytes) -> int:
    return prod(struct.unpack_from(">II", data, 16)) if data[12:16] == b"IHDR" else 0


def _webp(data: bytes) -> int:
    """The canvas of the extended form (libwebp compares the frame with it), or the only frame."""
    kind = data[12:16]
    if kind == b"VP8X":
        return (int.from_bytes(data[24:27], "little") + 1) * (int.from_bytes(data[27:30], "little") + 1)
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return ((bits & 0x3FFF) + 1) * ((bits >> 14 & 0x3FFF) + 1)
    return prod(side & 0x3FFF for side in struct.unpack_from("<HH", data, 26)) if kind == b"VP8 " else 0


def _lerc(data: bytes) -> int:
    """Lerc2: its version decides whether a checksum comes before the rows and columns. Streams packed once more say nothing."""
    if data[:6] != b"Lerc2 ":
        return 0
    (version,) = struct.unpack_from("<i", data, 6)
    return prod(struct.unpack_from("<ii", data, 14 if version >= 3 else 10))


def _jpeg_xl(data: bytes) -> int:
    """The first field of a codestream (in boxes, where it begins is searched): see ISO 18181-1, SizeHeader."""
    start = 0 if data[:2] == b"\xff\x0a" else data.find(b"\xff\x0a", max(0, data.find(b"jxl", 16)))
    if start < 0:
        return 0
    bits = _Bits(int.from_bytes(data[start + 2 : start + 16], "little"))
    small = bits.take(1)
    height = _jpeg_xl_side(bits, small)
    ratio = bits.take(3)
    if not ratio:
        return height * _jpeg_xl_side(bits, small)
    over, under = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))[ratio - 1]
    return height * (height * over // under)


class _Bits:
    """A number whose lowest bits are taken first."""

    def __init__(self, value: int) -> None:
        self._value = value

    def take(self, count: int) -> int:
        taken = self._value & (1 << count) - 1
        self._value >>= count
        return taken


def _jpeg_xl_side(bits: _Bits, small: int) -> int:
    return 8 * (bits.take(5) + 1) if small else bits.take((9, 13, 18, 30)[bits.take(2)]) + 1


_MEASURES: dict[int, Callable[[bytes], int]] = {
    **dict.fromkeys((6, 7, 33007, 34892), _jpeg),
    **dict.fromkeys((33003, 33004, 33005, 34712), _jpeg_2000),
    **dict.fromkeys((34927, 50001), _webp),
    **dict.fromkeys((50002, 52546), _jpeg_xl),
    34887: _lerc,
    34933: _png,
}
