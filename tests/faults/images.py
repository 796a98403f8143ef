"""The faulty images of the fault table, made of few bytes: truncated, with headers that lie, wrongly put together or coded."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from tests.cli.kit import picture

LONG = 4
READ, WARN, ERROR = "read", "warn", "error"


@dataclass(frozen=True)
class Fault:
    """``make`` writes the file. ``told``: words of the line on stderr; ``cure``: one of these is in it besides. ``before``:
    Python that the program runs first."""

    make: Callable[[Path], object]
    told: str
    ending: str = ERROR
    suffix: str = ".tif"
    cure: tuple[str, ...] = ("get a", "make it again", "save it", "convert it")
    before: str = ""


# ------------------------------------------------------------------------------------------------------------------- truncated

STORED = {
    "raw tiled": {"tile": (32, 32)},
    "zlib tiled": {"tile": (32, 32), "compression": "zlib"},
    "strips": {"rowsperstrip": 8},
}


def cut(share: float, **stored: object) -> Callable[[Path], object]:
    def make(path: Path) -> None:
        tifffile.imwrite(path, picture(128, 160), **stored)
        path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])

    return make


def of_bytes(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


TRUNCATED = {
    "empty file": Fault(of_bytes(b""), "the file is empty"),
    "magic bytes only": Fault(of_bytes(b"II*\0"), "truncated"),
    "magic bytes only, big-endian": Fault(of_bytes(b"MM\0*\0\0\0\x08"), "without an image"),
    "magic bytes only, BigTIFF": Fault(of_bytes(b"II+\0"), "truncated"),
    "magic bytes only, PNG": Fault(of_bytes(b"\x89PNG\r\n\x1a\n"), "truncated", suffix=".png"),
    **{
        f"cut at {share:.0%}, {kind}": Fault(cut(share, **stored), "truncated")
        for kind, stored in STORED.items()
        for share in (0.5, 0.9)
    },
}  # fmt: skip

# --------------------------------------------------------------------------------------------------------------- lying headers


def tiny(tags: dict[int, int | None] | None = None, data: bytes = bytes(range(64)) * 4, circle: bool = False) -> bytes:
    """A little-endian TIFF of one page, 16 x 16 gray pixels in one strip, with some tags replaced, added or (None) left out."""
    base = {256: 16, 257: 16, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: 16, 279: len(data)} | (tags or {})
    entries = {key: value for key, value in sorted(base.items()) if value is not None}
    offset = 8 + len(data)
    out = struct.pack("<2sHI", b"II", 42, offset) + data + struct.pack("<H", len(entries))
    out += b"".join(struct.pack("<HHII", key, LONG, 1, value) for key, value in entries.items())
    return out + struct.pack("<I", offset if circle else 0)


def lie(**changes: int) -> Callable[[Path], object]:
    """Tags by number: ``lie(t256=0)``."""
    return of_bytes(tiny({int(name[1:]): value for name, value in changes.items()}))


def tiled_lie(compression: int, side: int) -> Callable[[Path], object]:
    tiles: dict[int, int | None] = {322: side, 323: side, 324: 8, 325: 256, 259: compression, 273: None, 278: None, 279: None}
    return of_bytes(tiny(tiles))


def huge_png(path: Path) -> None:
    """It claims 10^5 x 10^5 pixels: Pillow's limit is 179 megapixels."""
    Image.fromarray(picture(16, 16)).save(path)
    content = path.read_bytes()
    header = b"IHDR" + struct.pack(">II", 100_000, 100_000) + content[24:29]
    path.write_bytes(content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:])


MILLION, MANY = 10**6, 50_000
FEWER = "hold fewer bytes than its header says"
LYING = {
    "1e6^2 dimensions": Fault(lie(t256=MILLION, t257=MILLION, t278=MILLION), FEWER),
    "1e6^2 dimensions, zlib": Fault(lie(t256=MILLION, t257=MILLION, t278=MILLION, t259=8), FEWER),
    "1e6^2 dimensions, a row a strip": Fault(lie(t256=MILLION, t257=MILLION, t278=1, t259=8), "places for 1"),
    "5e4^2 dimensions": Fault(lie(t256=MANY, t257=MANY, t278=MANY), FEWER),
    "5e4^2 dimensions, zlib": Fault(lie(t256=MANY, t257=MANY, t278=MANY, t259=8), FEWER),
    "2^20 tile size": Fault(tiled_lie(1, 2**20), FEWER),
    "2^20 tile size, zlib": Fault(tiled_lie(8, 2**20), FEWER),
    "2^20 tile size, LZW": Fault(tiled_lie(5, 2**20), "decodes to 1099.5 GB"),
    "IFD count 1e10": Fault(of_bytes(struct.pack("<2sHHHQQ", b"II", 43, 8, 0, 16, 10**10) + bytes(500)), "truncated"),
    "offset past the end": Fault(lie(t273=MILLION), "truncated"),
    "StripByteCounts mismatch, too few": Fault(lie(t279=10), FEWER),
    "StripByteCounts mismatch, too many": Fault(lie(t279=MILLION, t259=8), "past the end of the file"),
    "zero dimensions, width": Fault(lie(t256=0), "a side of 0 pixels"),
    "zero dimensions, height": Fault(lie(t257=0), "a side of 0 pixels"),
    "SamplesPerPixel 65535": Fault(lie(t277=65535), "65535 samples"),
    "pixel limit of a raster format": Fault(huge_png, "pixels", suffix=".png"),
}

# ------------------------------------------------------------------------------------------------------------------- structure


def corrupt_tile(path: Path) -> None:
    tifffile.imwrite(path, picture(64, 80), tile=(32, 32), compression="zlib")
    with tifffile.TiffFile(path) as file:
        offset = file.pages[0].dataoffsets[3]
    content = bytearray(path.read_bytes())
    content[offset + 20 : offset + 80] = bytes(60)
    path.write_bytes(content)


def missing_tile(path: Path) -> None:
    """The second of its tiles, the upper middle one, is not there."""
    tifffile.imwrite(path, picture(64, 80) + 1, tile=(32, 32), compression="zlib")
    with tifffile.TiffFile(path, mode="r+") as file:
        page = file.pages[0]
        for code, table in ((324, page.dataoffsets), (325, page.databytecounts)):
            page.tags[code].overwrite([0 if number == 1 else value for number, value in enumerate(table)])


def png_named_tif(path: Path) -> None:
    Image.fromarray(picture(64, 80)).save(path, format="PNG")


def circular(path: Path) -> None:
    path.write_bytes(tiny(circle=True))


STRUCTURE = {
    "corrupt tile": Fault(corrupt_tile, "damaged"),
    "no IFD": Fault(of_bytes(b"II*\0" + bytes(60)), "a TIFF without an image"),
    "random bytes": Fault(of_bytes(np.random.default_rng(0).bytes(500)), "not an image that i2i can read"),
    "random bytes behind a TIFF's magic": Fault(of_bytes(b"II*\0" + np.random.default_rng(1).bytes(500)), "TIFF"),
}

# ----------------------------------------------------------------------------------------------------------------------- codec

WITHOUT_CODECS = """
import sys
for name in [name for name in sys.modules if name.partition(".")[0] in ("tifffile", "imagecodecs")]:
    del sys.modules[name]
sys.modules["imagecodecs"] = None
"""


def coded(compression: str) -> Callable[[Path], object]:
    return lambda path: tifffile.imwrite(path, picture(64, 80), tile=(32, 32), compression=compression)


def deep_png(path: Path) -> None:
    Image.fromarray(picture(64, 80).astype(np.uint16) * 200).save(path)


CODEC = {
    "unknown compression": Fault(lie(t259=12345), "12345", cure=("save it with another",)),
    "invalid predictor": Fault(lie(t259=8, t317=77), "77", cure=("save it with another",)),
    **{
        f"{name}, the codec is missing": Fault(coded(kind), kind, before=WITHOUT_CODECS, cure=("pip install imagecodecs",))
        for name, kind in (("JPEG", "jpeg"), ("JPEG2000", "jpeg2000"), ("LZW", "lzw"))
    },
    "16-bit PNG, the codec is missing": Fault(
        deep_png, "codec", suffix=".png", before=WITHOUT_CODECS, cure=("pip install imagecodecs",)
    ),
}  # fmt: skip

# ---------------------------------------------------------------------------------------------------------------------- values


def complex_values(path: Path) -> None:
    tifffile.imwrite(path, picture(64, 80).astype(np.complex64))


VALUES = {"complex": Fault(complex_values, "complex values", cure=("save their magnitude",))}

BAD: dict[str, dict[str, Fault]] = {
    "truncated": TRUNCATED, "lying headers": LYING, "structure": STRUCTURE, "codec": CODEC, "values": VALUES,
}  # fmt: skip
"""By group and case: those that are an error, whatever reads them."""
