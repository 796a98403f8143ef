"""TIFF files opened by tifffile, and what of their headers is not believed. Each refusal is an ``InputError``."""

from __future__ import annotations

from pathlib import Path, PureWindowsPath
from typing import Any
from xml.etree import ElementTree

import numpy as np

from i2i.errors import InputError
from i2i.formats.tiff_metadata import absurd_ome

MOST_SAMPLES = 4096
WHOLE = (
    "imagewidth", "imagelength", "imagedepth", "tilewidth", "tilelength", "tiledepth", "rowsperstrip", "samplesperpixel",
    "planarconfig", "fillorder",
)  # fmt: skip
"""What a page says in whole numbers from 0: a damaged header may give others, texts or lists of them."""


def open_tiff(path: Path) -> tuple[Any, tuple[str, ...]]:
    """The file as a ``tifffile.TiffFile``, and notes on what in it was not believed."""
    import tifffile

    tiff = tifffile.TiffFile(path)
    try:
        if len(tiff.pages) == 0:
            raise InputError(f"{path}: a TIFF without an image; it was cut off or not finished: make it again")
        notes = ("its list of pages goes round in a circle: each page is read once",) if _circular(path, tiff) else ()
        wrong, missing = _check_ome(tiff)
        if not wrong:
            return tiff, notes + missing
    except BaseException:
        tiff.close()
        raise
    tiff.close()
    return tifffile.TiffFile(path, is_ome=False), (*notes, wrong)


def _check_ome(tiff: Any) -> tuple[str, tuple[str, ...]]:
    """Why its OME-XML is not believed, or nothing; and a note on files that it names and that are missing."""
    xml = (tiff.ome_metadata or "") if tiff.is_ome else ""
    if absurd_ome(xml):
        return "its OME-XML declares an absurd size and is ignored", ()
    files = {name: Path(tiff.filehandle.dirname, name) for name in _named_files(xml)}
    for name, file in files.items():  # tifffile would open any of them, and wait for ever for a pipe
        if _outside(name) or (file.exists() and not file.is_file()):
            return f"its OME-XML names {_short(name)}, which is no file in its folder, and is ignored", ()
    missing = [name for name, file in files.items() if not file.exists()]
    note = f"{len(missing)} file(s) that its OME-XML names are missing, such as {_short(missing[0])}" if missing else ""
    return "", (note,) if note else ()


def _named_files(xml: str) -> list[str]:
    """The other files that, by its OME-XML, hold parts of the image. What has the file's own UUID is in it, whatever its name."""
    try:
        root = ElementTree.fromstring(xml) if xml else None
    except ElementTree.ParseError:
        return []
    found = [] if root is None else [item.get("FileName") for item in root.iter() if item.text != root.get("UUID")]
    return list(dict.fromkeys(name for name in found if name))


def _short(name: str) -> str:
    return " ".join(name.split())[:80]


def _outside(name: str) -> bool:
    place = PureWindowsPath(name)  # both slashes part folders
    return bool(place.anchor) or ".." in place.parts


def _circular(path: Path, tiff: Any) -> bool:
    """Whether following the links from page to page comes back to one that was already met."""
    layout, met = tiff.tiff, set()
    with path.open("rb") as file:
        file.seek(8 if layout.offsetsize == 8 and not layout.is_ndpi else 4)
        while True:
            link = int.from_bytes(file.read(layout.offsetsize), _ORDER[layout.byteorder])
            if link < 8 or link in met:
                return link in met
            met.add(link)
            file.seek(link)
            entries = int.from_bytes(file.read(layout.tagnosize), _ORDER[layout.byteorder])
            if entries > 4096:
                return False
            file.seek(entries * layout.tagsize, 1)


_ORDER: Any = {"<": "little", ">": "big"}


def first_series(path: Path, tiff: Any) -> Any:
    """The first series of a tifffile with pixels."""
    for series in tiff.series:
        if series.keyframe.shape:
            return series
    raise InputError(f"{path}: a TIFF without a readable image; get a good copy")


def unsound(page: Any) -> list[str]:
    """Which of the numbers that say how a page is stored are no whole ones, or below 0."""
    return [name for name in WHOLE if not isinstance(getattr(page, name), int) or getattr(page, name) < 0]


def check_series(path: Path, page: Any, series: Any) -> None:
    """Refuse what no region could be read from, before anything is computed from it."""
    for name in unsound(page):
        raise InputError(f"{path}: a damaged TIFF: {name} is {_short(str(getattr(page, name)))}; get a good copy")
    if page.dtype is None:
        kind = f"SampleFormat {_short(str(page.sampleformat))}, {_short(str(page.bitspersample))} bits"
        raise InputError(f"{path}: a damaged header, or samples of an unknown kind ({kind}); save it as uint8")
    if page.dtype.kind == "c" or np.dtype(series.dtype).kind == "c":
        raise InputError(f"{path}: complex values are no picture; save their magnitude, or two channels")
    if 0 in page.shaped or 0 in series.get_shape(False):
        raise InputError(f"{path}: a TIFF with a side of 0 pixels; get a good copy")
    if not 1 <= page.samplesperpixel <= MOST_SAMPLES:
        raise InputError(f"{path}: {page.samplesperpixel} samples a pixel; a damaged header: get a good copy")
    if not page.is_tiled and page.rowsperstrip < 1:
        raise InputError(f"{path}: a damaged TIFF with strips of no rows; get a good copy")
    _check_codec(path, page)


def _check_codec(path: Path, page: Any) -> None:
    from tifffile import TIFF

    for number, codecs in ((page.compression, TIFF.DECOMPRESSORS), (page.predictor, TIFF.UNPREDICTORS)):
        try:
            if number != 1:
                codecs[number]
        except KeyError as error:
            name = _short(getattr(number, "name", str(number)).lower())
            what = "compression" if codecs is TIFF.DECOMPRESSORS else "predictor"
            missing = "imagecodecs" in str(error)
            cure = "pip install imagecodecs" if missing else "save it with another one, such as deflate"
            raise InputError(f"{path}: the {what} {name} is not supported; {cure}") from error
