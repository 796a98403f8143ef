"""Image files: which format a file is of by its content, and which one an output's suffix asks for.

Importing this package is quick: tifffile, imagecodecs, zarr and Pillow are imported when a file is opened or written.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from i2i.contracts import Format, Source
from i2i.errors import InputError, UsageError
from i2i.formats.raster import BMP_FORMAT, JPEG_FORMAT, PNG_FORMAT, WEBP_FORMAT
from i2i.formats.slides import LEICA_FORMAT
from i2i.formats.tiff import SLIDE_FORMAT, TIFF_FORMAT
from i2i.formats.views import ArraySource, Noted, View, missing_tiles, select
from i2i.formats.zarr_read import ZARR_FORMAT

__all__ = [
    "ArraySource", "Noted", "View", "builtin_formats", "detect", "format_for_output", "missing_tiles", "open_image",
    "select",
]  # fmt: skip

HEAD_BYTES = 64


def builtin_formats() -> tuple[Format, ...]:
    """The formats that come with i2i, in the order in which they are asked whether a file is theirs."""
    return (LEICA_FORMAT, SLIDE_FORMAT, TIFF_FORMAT, PNG_FORMAT, JPEG_FORMAT, WEBP_FORMAT, BMP_FORMAT, ZARR_FORMAT)


def detect(path: Path, formats: Iterable[Format]) -> Format:
    """The first of ``formats`` whose content the file has, whatever its name. Raises ``InputError`` for none."""
    formats = tuple(formats)
    head = _head(path)
    found = next((item for item in formats if item.sniff(head, path)), None)
    if found is not None:
        return found
    if path.is_dir():
        raise InputError(f"{path}: is a folder without an image (nor Zarr metadata: zarr.json, .zgroup); name a file in it")
    if not head:
        raise InputError(f"{path}: the file is empty; get a complete copy")
    names = ", ".join(dict.fromkeys(item.name for item in formats))
    raise InputError(f"{path}: not an image that i2i can read ({names}); convert it to TIFF or PNG")


def open_image(path: Path, formats: Iterable[Format] | None = None) -> Source:
    """Open an image by its content; a name that says another format becomes a note. Raises ``InputError``."""
    path = Path(path)
    formats = builtin_formats() if formats is None else tuple(formats)
    found = detect(path, formats)
    source = found.open(path)
    suffix = path.suffix.lower()
    if suffix not in found.suffixes and any(suffix in item.suffixes for item in formats):
        return Noted(source, f"named {suffix} but its content is {found.name}: read as {found.name}")
    return source


def format_for_output(path: Path, formats: Iterable[Format]) -> Format:
    """The format that the name's suffix asks for (the longest that fits). ``UsageError`` names those that work."""
    name = path.name.lower()
    writable = [item for item in formats if item.write is not None]
    fitting = [(len(suffix), item) for item in writable for suffix in item.suffixes if name.endswith(suffix)]
    if fitting:
        return max(fitting, key=lambda pair: pair[0])[1]
    suffixes = ", ".join(dict.fromkeys(suffix for item in writable for suffix in item.suffixes))
    raise UsageError(f"{path}: no format is written for the suffix {path.suffix!r}; these work: {suffixes}")


def _head(path: Path) -> bytes:
    """The first bytes; none for a folder. Raises ``InputError`` for what cannot be opened."""
    try:
        if path.is_dir():
            return b""
        if path.exists() and not path.is_file():
            raise InputError(f"{path}: is a pipe or device, not a file; save it to a file first")
        with path.open("rb") as file:
            return file.read(HEAD_BYTES)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; check the name") from error
    except PermissionError as error:
        raise InputError(f"{path}: no permission to read it; change its permissions (chmod +r)") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be opened ({error}); check the name") from error
