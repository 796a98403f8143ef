"""What a published result says of the run that made it: the record that i2i writes into every image."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from i2i.contracts import Format
from i2i.errors import InputError
from i2i.formats import detect
from i2i.formats.guard import DAMAGED

_DESCRIPTION = 270
"""The tag of EXIF that holds the record of a JPEG or WebP."""
_LONGEST = 2**20
"""Of a PNG's chunk before its pixels."""


def record_of(path: Path, formats: Iterable[Format]) -> Mapping[str, str]:
    """The record in the image ``path``: ``program``, ``task``, ``kind``, and of a model its ``model``, ``sha256`` and
    ``precision``. Empty where it has none, or is of a format whose record i2i does not know. Takes less than a millisecond:
    the file is opened as an image, its pixels are not read. Raises ``InputError`` for what cannot be opened."""
    form = detect(path, formats)
    if form.name == "PNG":  # of any size, unlike those that are opened to be read
        return _plain(_png, path)
    form.open(path).close()
    return _plain(_READERS[form.name], path) if form.name in _READERS else {}


def _plain(read: Callable[[Path], Any], path: Path) -> Mapping[str, str]:
    """What ``read`` gives where that is a record; a file may say anything."""
    try:
        found = read(path)
    except InputError:
        raise
    except DAMAGED:
        return {}
    items = found.items() if isinstance(found, Mapping) else ()
    return {name: value for name, value in items if isinstance(name, str) and isinstance(value, str)}


def _png(path: Path) -> Any:
    """The text ``i2i`` before the pixels. Raises ``InputError`` for a file that ends before them."""
    text = b"{}"
    with path.open("rb") as file:
        file.seek(8)
        while (head := file.read(8))[4:] != b"IDAT":
            length = int.from_bytes(head[:4], "big")
            if len(head) < 8 or head[4:] == b"IEND":
                raise InputError(f"{path}: ends before its pixels; get a complete copy")
            data = file.read(length) if length <= _LONGEST else b""
            file.seek(length - len(data) + 4, 1)
            if head[4:] == b"tEXt" and data.startswith(b"i2i\0"):
                text = data[4:]
    return json.loads(text).get("record")


def _exif(path: Path) -> Any:
    from PIL import Image

    with Image.open(path) as image:
        return json.loads(image.getexif().get(_DESCRIPTION, "{}")).get("record")


def _tiff(path: Path) -> Any:
    from xml.etree import ElementTree

    import tifffile

    with tifffile.TiffFile(path) as file:
        xml = file.ome_metadata if file.is_ome else None
    notes = [item for item in ElementTree.fromstring(xml).iter() if item.get("K") == "record"] if xml else []
    return json.loads(notes[0].text or "{}") if notes else {}


def _zarr(path: Path) -> Any:
    return json.loads((path / "zarr.json").read_text("utf-8"))["attributes"]["i2i"]["record"]


_READERS: Mapping[str, Callable[[Path], Any]] = {"JPEG": _exif, "WebP": _exif, "TIFF": _tiff, "OME-Zarr": _zarr}
