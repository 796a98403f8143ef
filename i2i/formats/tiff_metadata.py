"""Pixel size, steps and names from what TIFF writers leave in a file: OME-XML, ImageJ, Aperio, Philips, resolution tags."""

from __future__ import annotations

import math
import re
from typing import Any
from xml.etree import ElementTree

PixelSize = tuple[float, float]

MICROMETRES = {
    "µm": 1.0, "μm": 1.0, "um": 1.0, "micron": 1.0, "microns": 1.0, "\\u00b5m": 1.0, "micrometer": 1.0, "nm": 1e-3,
    "pm": 1e-6, "å": 1e-4, "mm": 1e3, "cm": 1e4, "m": 1e6,
}  # fmt: skip
LARGEST_TRUSTED = 10.0
"""Micrometres: the resolution tags of a picture say how it is printed (72 to 2400 dots an inch: 353 to 10.6), so they
are taken for the size of its pixels only below that."""
OME_LIMIT = 10**7
SECONDS = {
    "s": 1.0, "sec": 1.0, "second": 1.0, "seconds": 1.0, "ms": 1e-3, "msec": 1e-3, "millisecond": 1e-3, "µs": 1e-6, "μs": 1e-6,
    "us": 1e-6, "microsecond": 1e-6, "ns": 1e-9, "nanosecond": 1e-9, "min": 60.0, "minute": 60.0, "h": 3600.0, "hour": 3600.0,
    "d": 86400.0, "day": 86400.0,
}  # fmt: skip
Steps = tuple[tuple[str, float], ...]


def pixel_size(tiff: Any, page: Any) -> PixelSize | None:
    """Height and width of a stored pixel of the page, in micrometres; None where nothing trustworthy says so."""
    for source in (_from_ome, _from_imagej, _from_aperio, _from_philips, _from_resolution):
        size = source(tiff, page)
        if size is not None and all(math.isfinite(side) and 1e-5 < side < 1e5 for side in size):
            return size
    return None


def steps(tiff: Any, page: Any) -> Steps:
    """How far apart planes are, as in :class:`~i2i.contracts.ImageSpec`, from OME-XML or ImageJ; without what nothing tells."""
    pixels, imagej = _ome_pixels(tiff, page), (tiff.imagej_metadata or {}) if tiff.is_imagej else {}
    if pixels is not None:
        depth = pixels.get("PhysicalSizeZ"), MICROMETRES.get(pixels.get("PhysicalSizeZUnit", "µm").lower())
        time = pixels.get("TimeIncrement"), SECONDS.get(pixels.get("TimeIncrementUnit", "s").lower())
    else:
        depth = imagej.get("spacing"), MICROMETRES.get(str(imagej.get("unit", "")).lower())
        time = imagej.get("finterval"), 1.0
    return known_steps(z=depth, t=time)


def known_steps(**given: tuple[Any, float | None]) -> Steps:
    """Those axes whose step (a number, or text of one) and its unit make sense, in micrometres or seconds."""
    found = []
    for axis, (value, unit) in given.items():
        try:
            step = float(value) * float(unit or math.nan)
        except (TypeError, ValueError):
            continue
        if 1e-9 < step < 1e9:
            found.append((axis, step))
    return tuple(found)


def image_name(tiff: Any, page: Any) -> str:
    """What OME-XML calls the image; empty without it, and for a name that the writer made up (``Image0``)."""
    image = _ome_image(tiff, page)
    name = "" if image is None else " ".join(image.get("Name", "").split())
    return "" if re.fullmatch(r"Image[:\s]?\d*", name) else name


def channel_names(tiff: Any, page: Any, channels: int) -> tuple[str, ...]:
    """The names in OME-XML when it names every one of the ``channels``; else none."""
    pixels = _ome_pixels(tiff, page)
    found = [] if pixels is None else [item.get("Name", "") for item in pixels if _tag(item) == "Channel"]
    return tuple(found) if len(found) == channels and all(found) else ()


def channel_colours(tiff: Any, page: Any, channels: int) -> tuple[str, ...]:
    """The colours in OME-XML, ``RRGGBB``, when it gives one for each of the ``channels``; else none."""
    pixels = _ome_pixels(tiff, page)
    given = [] if pixels is None else [item.get("Color", "") for item in pixels if _tag(item) == "Channel"]
    if len(given) != channels or not all(re.fullmatch(r"-?\d{1,10}", text) for text in given):
        return ()
    return tuple(f"{int(text) >> 8 & 0xFFFFFF:06X}" for text in given)  # 32 bits: red, green, blue, alpha


def absurd_ome(xml: str) -> bool:
    """Whether OME-XML declares so many planes that lists of them would fill the memory."""
    numbers = re.findall(r'\b(?:Plane\w*|Num\w+|First[CZT]|IFD|Size[CZT])\s*=\s*["\']\s*(\d+)', xml)
    if any(len(number) > 8 or int(number) > OME_LIMIT for number in numbers):
        return True
    for element in re.findall(r"<(?:\w+:)?Pixels\b[^>]*>", xml):
        sizes = re.findall(r'\bSize[CZT]\s*=\s*["\']\s*(\d+)', element)
        if math.prod(int(size) for size in sizes) > OME_LIMIT:
            return True
    return False


def _tag(element: Any) -> str:
    return str(element.tag).rsplit("}", 1)[-1]


def _ome_pixels(tiff: Any, page: Any) -> Any:
    """The Pixels element of this size; None without OME-XML."""
    image = _ome_image(tiff, page)
    return None if image is None else next(item for item in image if _is_pixels(item, page))


def _ome_image(tiff: Any, page: Any) -> Any:
    """The Image element of the page's series, where there is one for each; else the first with pixels of this size. None without
    OME-XML."""
    xml = tiff.ome_metadata if tiff.is_ome else None
    if not xml:
        return None
    try:
        root = ElementTree.fromstring(xml)
    except ElementTree.ParseError:
        return None
    images = [image for image in root.iter() if any(_tag(item) == "Pixels" for item in image)]
    own = [image for image, series in zip(images, tiff.series, strict=False) if series.keyframe.index == page.index]
    fitting = own if len(images) == len(tiff.series) else images
    return next((image for image in [*fitting, *images] if any(_is_pixels(item, page) for item in image)), None)


def _is_pixels(item: Any, page: Any) -> bool:
    size = (str(page.imagelength), str(page.imagewidth))
    return _tag(item) == "Pixels" and (item.get("SizeY"), item.get("SizeX")) == size


def _from_ome(tiff: Any, page: Any) -> PixelSize | None:
    pixels = _ome_pixels(tiff, page)
    if pixels is None:
        return None
    try:
        height, width = (
            float(pixels.get(f"PhysicalSize{axis}")) * MICROMETRES[pixels.get(f"PhysicalSize{axis}Unit", "µm").lower()]
            for axis in "YX"
        )
    except (TypeError, ValueError, KeyError):
        return None
    return height, width


def _from_imagej(tiff: Any, page: Any) -> PixelSize | None:
    if not tiff.is_imagej or not tiff.imagej_metadata:
        return None
    unit = MICROMETRES.get(str(tiff.imagej_metadata.get("unit", "")).lower())
    per_unit = _resolution(page)
    return None if unit is None or per_unit is None else (unit / per_unit[0], unit / per_unit[1])


def _from_aperio(tiff: Any, page: Any) -> PixelSize | None:
    found = re.search(r"\|\s*MPP\s*=\s*([\d.]+)", page.description) if page.is_svs else None
    try:
        return (float(found[1]),) * 2 if found else None
    except ValueError:
        return None


def _from_philips(tiff: Any, page: Any) -> PixelSize | None:
    """The smallest of the sizes that it gives for its levels and other pictures: millimetres, down and across."""
    name, number = r'Name\s*=\s*"DICOM_PIXEL_SPACING"[^<>]*>', r'\s*(?:"|&quot;)?([\d.eE+-]{1,30})(?:"|&quot;)?'
    found = re.findall(rf"{name}{number}\s{number}\s*<", tiff.pages.first.description) if tiff.is_philips else []
    try:
        return min(((float(down) * 1e3, float(across) * 1e3) for down, across in found), default=None)
    except ValueError:
        return None


def _from_resolution(tiff: Any, page: Any) -> PixelSize | None:
    unit = {2: 25400.0, 3: 10000.0}.get(page.tags.valueof(296, default=2))
    per_unit = _resolution(page)
    if tiff.is_imagej or unit is None or per_unit is None:
        return None
    size = unit / per_unit[0], unit / per_unit[1]
    return size if max(size) <= LARGEST_TRUSTED else None


def _resolution(page: Any) -> PixelSize | None:
    """Pixels for each unit, down and across."""
    across, down = (page.tags.valueof(code) for code in (282, 283))
    try:
        found = down[0] / down[1], across[0] / across[1]
    except (TypeError, IndexError, ZeroDivisionError):
        return None
    return found if min(found) > 0 else None
