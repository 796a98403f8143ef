"""What the samples of a TIFF page mean: which of them are read, and how they become channels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from i2i.contracts import Array
from i2i.formats import colour

MIN_IS_WHITE, MIN_IS_BLACK, RGB, PALETTE, CMYK, YCBCR, CIELAB, ICCLAB, CFA = 0, 1, 2, 3, 5, 6, 8, 9, 32803
COLOURS = (RGB, PALETTE, CMYK, YCBCR, CIELAB, ICCLAB)
INTERLEAVED = 1
ALPHA = (1, 2)
APERIO_YCBCR = 33003
DECODED_TO_RGB = (6, 7, 33003, 33007, 34892, 50001, 50002)
"""Compressions whose decoder gives RGB for YCbCr data: the JPEG family, Aperio's JPEG 2000, WebP, JPEG XL."""


@dataclass(frozen=True)
class Colour:
    """``samples``: those of the stored pixel that are read, in order; ``convert`` turns (H, W, len(samples)) in the
    stored dtype into (H, W, channels) in ``dtype``."""

    samples: tuple[int, ...]
    channels: int
    dtype: str
    convert: Callable[[Array], Array] | None = None
    notes: tuple[str, ...] = ()


def colour_of(page: Any, transform: Callable[[Array], Array] | None = None, dtype: Any = None) -> Colour:
    """The colour of a tifffile page; ``transform`` and ``dtype``: the series', where stored values are scaled."""
    if transform is not None:
        return Colour(tuple(range(page.samplesperpixel)), page.samplesperpixel, np.dtype(dtype).name, transform)
    for rule in (_palette, _ink, _lab, _luminance, _white, _plain):
        found = rule(page)
        if found is not None:
            return _finish(page, found)
    raise AssertionError("the last rule always applies")


def is_colour(page: Any) -> bool:
    """Whether the samples of a page are colours, as its photometric interpretation says, or as their lying side by side does:
    signals of a microscope are kept one behind the other."""
    return page.photometric in COLOURS or page.planarconfig == INTERLEAVED


def _finish(page: Any, found: Colour) -> Colour:
    """Booleans become uint8, and what could be taken wrongly is noted."""
    notes = found.notes
    if page.compression == APERIO_YCBCR:
        notes += ("JPEG 2000 in YCbCr: the colours may be wrong",)
    if page.photometric == CFA:
        notes += ("raw sensor data, not demosaiced: read as grey",)
    bits = page.bitspersample
    if isinstance(bits, int) and 1 < bits < 8 and page.photometric != PALETTE:
        notes += (f"{bits} bits a sample: values 0 .. {2**bits - 1} are kept as they are",)
    if found.dtype != "bool":
        return Colour(found.samples, found.channels, found.dtype, found.convert, notes)
    first = found.convert
    convert = colour.bits_to_grey if first is None else lambda pixels: colour.bits_to_grey(first(pixels))
    return Colour(found.samples, found.channels, "uint8", convert, notes)


def _palette(page: Any) -> Colour | None:
    if page.photometric != PALETTE or page.colormap is None or page.dtype.kind not in "bu":
        return None
    table = colour.palette_table(np.asarray(page.colormap).reshape(3, -1))
    return Colour((0,), 3, "uint8", lambda pixels: colour.look_up(pixels.astype(np.uint32), table))


def _ink(page: Any) -> Colour | None:
    if page.photometric != CMYK or page.samplesperpixel < 4 or page.dtype not in (np.uint8, np.uint16):
        return None
    return Colour((0, 1, 2, 3), 3, page.dtype.name, colour.cmyk_to_rgb)


def _lab(page: Any) -> Colour | None:
    if page.photometric not in (CIELAB, ICCLAB) or page.samplesperpixel < 3:
        return None
    if page.dtype not in (np.uint8, np.uint16):
        return None
    convert = partial(colour.lab_to_rgb, signed=page.photometric == CIELAB)
    return Colour((0, 1, 2), 3, page.dtype.name, convert)


def _luminance(page: Any) -> Colour | None:
    """YCbCr that no codec has turned into RGB."""
    stored = page.photometric == YCBCR and page.compression not in DECODED_TO_RGB
    if not stored or page.samplesperpixel < 3 or page.dtype != np.uint8:
        return None
    return Colour((0, 1, 2), 3, "uint8", colour.ycbcr_to_rgb)


def _white(page: Any) -> Colour | None:
    if page.photometric != MIN_IS_WHITE:
        return None
    samples, notes = _samples(page)
    if page.dtype.kind == "f":
        notes += ("min-is-white floating-point values are kept as they are",)
        return Colour(samples, len(samples), page.dtype.name, None, notes)
    bits = page.bitspersample
    convert = partial(colour.invert, bits=bits if isinstance(bits, int) else 8)
    return Colour(samples, len(samples), page.dtype.name, convert, notes)


def _plain(page: Any) -> Colour:
    samples, notes = _samples(page)
    return Colour(samples, len(samples), page.dtype.name, None, notes)


def _samples(page: Any) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """The samples that are channels, without alpha, and a note where some are dropped."""
    count = page.samplesperpixel
    colours = 3 if page.photometric in (RGB, YCBCR) else 1
    extra = tuple(page.extrasamples or ())[: max(0, count - colours)]
    extra += (0,) * (count - colours - len(extra))
    dropped = [colours + i for i, kind in enumerate(extra) if kind in ALPHA]
    if colours == 3 and count == 4:
        dropped = [3]
    if not dropped:
        return tuple(range(count)), ()
    kept = tuple(i for i in range(count) if i not in dropped)
    premultiplied = " (the colours are premultiplied by it)" if extra[dropped[0] - colours] == 1 else ""
    return kept, (f"the alpha channel is dropped{premultiplied}",)
