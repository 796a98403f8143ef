"""Edits of what PNG, JPEG, WebP and BMP files say of themselves, with checksums that fit and with ones that do not."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from random import Random

from fuzzing import tiffs
from fuzzing.seeds import PNG_HEAD, png_chunk

Chunk = tuple[bytes, bytes]
SIDES = (0, 1, 2, 40, 52, 255, 256, 10_000, 16_383, 16_384, 65_500, 65_535, 65_536, 10**6, 2**31 - 1, 2**31, 2**32 - 1)

# ----------------------------------------------------------------------------------------------------------------- PNG

_EXTRA: tuple[Chunk, ...] = (
    (b"acTL", struct.pack(">II", 2, 0)), (b"acTL", struct.pack(">II", 2**32 - 1, 0)), (b"eXIf", b"II*\0\x08\0\0\0\xff\xff"),
    (b"iCCP", b"x\0\0" + zlib.compress(b"no profile")), (b"iCCP", b"x\0\x09broken"),
    (b"zTXt", b"a\0\0" + zlib.compress(bytes(10**5))), (b"iTXt", b"a\0\1\0\0\0" + b"broken"),
    (b"pHYs", struct.pack(">IIB", 2**32 - 1, 0, 1)), (b"pHYs", b"\1"), (b"tRNS", b"\0\1"), (b"gAMA", b"\0\0\0\0"),
    (b"cHRM", bytes(7)), (b"sRGB", b""), (b"PLTE", b"\1\2\3"), (b"fcTL", bytes(26)), (b"tEXt", b"\xff" * 9),
    (b"fdAT", b"\0\0\0\1"), (b"IDAT", b""), (b"IEND", b""), (b"abcd", b"x"), (b"ABCD", b"x"), (b"\0\0\0\0", b""),
)  # fmt: skip


def is_png(data: bytes | bytearray) -> bool:
    return bytes(data[:8]) == PNG_HEAD


def chunks(data: bytes | bytearray) -> list[Chunk]:
    """As far as their lengths can be believed."""
    found, at = [], 8
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        found.append((bytes(data[at + 4 : at + 8]), bytes(data[at + 8 : at + 8 + length])))
        at += 12 + length
    return found


def edit_png(random: Random, data: bytearray) -> None:
    found = chunks(data)
    if not found:
        return
    if random.random() < 0.25:  # the checksum stays as it is
        _break_png(random, data, found)
        return
    random.choice((_header, _header, _pixels, _payload, _move, _more))(random, found)
    data[8:] = b"".join(png_chunk(kind, body) for kind, body in found)


def _break_png(random: Random, data: bytearray, found: list[Chunk]) -> None:
    number = random.randrange(len(found))
    at = 8 + sum(12 + len(body) for _, body in found[:number])
    part = random.choice((at, at + 4, at + 8, at + 8 + len(found[number][1])))
    data[part : part + 4] = random.choice((random.randbytes(4), struct.pack(">I", random.choice(SIDES))))


def _header(random: Random, found: list[Chunk]) -> None:
    """A field of IHDR."""
    body = bytearray(found[0][1].ljust(13, b"\0"))
    if random.random() < 0.5:
        struct.pack_into(">I", body, random.choice((0, 4)), random.choice(SIDES))
    else:
        body[random.randint(8, 12)] = random.choice((0, 1, 2, 3, 4, 6, 8, 16, 32, 255))
    found[0] = (found[0][0], bytes(body))


def _pixels(random: Random, found: list[Chunk]) -> None:
    """Another plain length, another filter, or bytes behind the stream."""
    numbers = [i for i, (kind, _) in enumerate(found) if kind == b"IDAT"]
    if not numbers:
        return
    number = random.choice(numbers)
    try:
        plain = bytearray(zlib.decompress(found[number][1]))
    except zlib.error:
        return
    if plain:
        plain[random.randrange(len(plain))] = random.choice((5, 255, 0))
    plain = random.choice((plain, plain[: random.randrange(len(plain) + 1)], plain * 2, plain + bytes(10**6)))
    found[number] = (b"IDAT", zlib.compress(bytes(plain), random.choice((0, 6))) + random.choice((b"", b"", b"more")))


def _payload(random: Random, found: list[Chunk]) -> None:
    number = random.randrange(len(found))
    kind, body = found[number]
    changed = bytearray(body)
    if changed:
        changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
    found[number] = (kind, bytes(random.choice((changed, changed[:-1], changed + b"\0", b""))))


def _move(random: Random, found: list[Chunk]) -> None:
    number = random.randrange(len(found))
    chunk = found.pop(number) if random.random() < 0.7 else found[number]
    if random.random() < 0.6:
        found.insert(random.randrange(len(found) + 1), chunk)


def _more(random: Random, found: list[Chunk]) -> None:
    found.insert(random.randint(0, len(found)), random.choice(_EXTRA))


# ---------------------------------------------------------------------------------------------------------------- JPEG

_MARKERS = (*range(0xC0, 0xD0), 0xD0, 0xD8, 0xD9, 0xDA, 0xDB, 0xDC, 0xDD, 0xDE, 0xE0, 0xE1, 0xE2, 0xEE, 0xFE, 0x01, 0x00, 0xFF)


def is_jpeg(data: bytes | bytearray) -> bool:
    return bytes(data[:3]) == b"\xff\xd8\xff"


def segments(data: bytes | bytearray) -> list[tuple[int, int]]:
    """Place and length (without the marker) of each segment, up to the pixels."""
    found, at = [], 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        found.append((at, length))
        at += 2 + length
        if data[found[-1][0] + 1] == 0xDA:
            break
    return found


def edit_jpeg(random: Random, data: bytearray) -> None:
    found = segments(data)
    if not found:
        return
    at, length = random.choice(found)
    kind = data[at + 1]
    if kind in (0xC0, 0xC1, 0xC2) and random.random() < 0.7:
        _frame(random, data, at)
    elif kind == 0xE1 and random.random() < 0.7:
        _exif(random, data, at, length)
    else:
        random.choice((_marker, _span, _body, _repeat))(random, data, at, length)


def _frame(random: Random, data: bytearray, at: int) -> None:
    """Precision, height, width, number of components, or what one of them says."""
    place = at + random.choice((4, 5, 7, 9, 10, 11, 12))
    size = 2 if place in (at + 5, at + 7) else 1
    value = random.choice(SIDES[:12]) if size == 2 else random.choice((0, 1, 2, 3, 4, 5, 0x11, 0x12, 0x22, 0x44, 8, 12, 16, 255))
    data[place : place + size] = (value % 256**size).to_bytes(size, "big")


def _exif(random: Random, data: bytearray, at: int, length: int) -> None:
    inner = bytearray(data[at + 10 : at + 2 + length])
    if tiffs.is_tiff(inner):
        tiffs.edit(random, inner)
        body = bytes(data[at + 4 : at + 10]) + bytes(inner)
        data[at + 2 : at + 2 + length] = (len(body) + 2).to_bytes(4, "big")[2:] + body


def _marker(random: Random, data: bytearray, at: int, length: int) -> None:
    data[at + 1] = random.choice(_MARKERS)


def _span(random: Random, data: bytearray, at: int, length: int) -> None:
    data[at + 2 : at + 4] = random.choice((0, 1, 2, 3, max(0, length - 1), length + 1, 255, 65535)).to_bytes(4, "big")[2:]


def _body(random: Random, data: bytearray, at: int, length: int) -> None:
    place = at + 4 + random.randrange(max(1, length - 2))
    if place < len(data):
        data[place] = random.choice((0, 1, 0x7F, 0x80, 0xFF, random.randrange(256)))


def _repeat(random: Random, data: bytearray, at: int, length: int) -> None:
    piece = data[at : at + 2 + length]
    if random.random() < 0.5:
        del data[at : at + 2 + length]
    else:
        data[at:at] = piece * random.choice((1, 1, 50))


# ------------------------------------------------------------------------------------------------------- WebP and BMP


def is_webp(data: bytes | bytearray) -> bool:
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP"


def edit_webp(random: Random, data: bytearray) -> None:
    """The size of the file or of a chunk, a chunk's name, or the bytes behind it, where flags and sizes are."""
    places, at = [4], 12
    while at + 8 <= len(data) and len(places) < 40:
        places += [at, at + 4, at + 8, at + 10, at + 12, at + 14, at + 18]
        at += 8 + (int.from_bytes(data[at + 4 : at + 8], "little") + 1 & ~1)
    place = random.choice(places)
    names = (b"VP8 ", b"VP8L", b"VP8X", b"ANIM", b"ANMF", b"ALPH", b"EXIF", b"XMP ", b"ICCP")
    number = struct.pack("<I", random.choice((*SIDES, len(data), max(0, len(data) - 8))))
    new = random.choice((random.choice(names), number, number[:2], number[:3], random.randbytes(2)))
    data[place : place + len(new)] = new


def is_bmp(data: bytes | bytearray) -> bool:
    return data[:2] == b"BM"


def edit_bmp(random: Random, data: bytearray) -> None:
    """A field of the two headers."""
    place = random.choice((2, 10, 14, 18, 22, 26, 28, 30, 34, 38, 42, 46, 50, 54))
    size = 2 if place in (26, 28) else 4
    value = random.choice((*SIDES, 0, 3, 4, 8, 12, 16, 24, 32, 40, 64, 108, 124, -1, -40, len(data)))
    data[place : place + size] = (value % 256**size).to_bytes(size, "little")


EDITS: tuple[tuple[Callable[[Random, bytearray], None], Callable[[bytes | bytearray], bool]], ...] = (
    (edit_png, is_png), (edit_jpeg, is_jpeg), (edit_webp, is_webp), (edit_bmp, is_bmp),
)  # fmt: skip
