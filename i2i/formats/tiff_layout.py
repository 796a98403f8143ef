"""Which page of a TIFF series holds which plane and channel."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

Axis = tuple[str, int]


@dataclass(frozen=True)
class Layout:
    """``axes``: those over the pages (letter and length, outermost first); the last ``depth`` steps of the flat count
    lie inside one page. ``planes``: the axes as the user names them, ``c``: where the channel axis is, or None."""

    axes: tuple[Axis, ...]
    planes: tuple[Axis, ...]
    c: int | None
    depth: int = 1

    @property
    def channels(self) -> int:
        """Channels kept as separate pages; 1 where there is no such axis."""
        return 1 if self.c is None else self.axes[self.c][1]

    def page(self, plane: int, channel: int) -> tuple[int, int]:
        """The page, and the slice in it, of ``plane`` (in C order of ``planes``) and of a channel among pages."""
        if not 0 <= plane < math.prod(length for _, length in self.planes):
            raise IndexError(f"plane {plane} is not in the image")
        index = list(np.unravel_index(plane, [length for _, length in self.planes] or [1]))
        if not self.planes:
            index = []
        if self.c is not None:
            index.insert(self.c, np.int64(channel))
        flat = int(np.ravel_multi_index(index, [length for _, length in self.axes])) if index else 0
        return divmod(flat, self.depth)


def layout_of(series: Any, page_channels: int) -> tuple[Layout, tuple[str, ...]]:
    """The layout of a tifffile series whose pages give ``page_channels`` channels, and notes on what was assumed."""
    page = series.keyframe
    axes = _over_pages(series, page)
    notes: tuple[str, ...] = ()
    if axes is None:
        count = len(series)
        axes = [("I", count)] + ([("Z", page.imagedepth)] if page.imagedepth > 1 else [])
        notes = (f"the axes in its metadata do not fit its pages: read as {count} pages",)
    axes = [(letter, length) for letter, length in axes if length > 1]
    letters = [letter for letter, _ in axes]
    c = letters.index("C") if letters.count("C") == 1 and page_channels == 1 else None
    if c is not None and page.imagedepth > 1 and c == len(axes) - 1:
        c = None
    names = _names([letter for i, letter in enumerate(letters) if i != c])
    lengths = [length for i, (_, length) in enumerate(axes) if i != c]
    return Layout(tuple(axes), tuple(zip(names, lengths, strict=True)), c, page.imagedepth), notes


def _over_pages(series: Any, page: Any) -> list[Axis] | None:
    """The series' axes without those inside a page's plane; None where they cannot be the pages'."""
    axes = list(zip(series.get_axes(False), series.get_shape(False), strict=True))
    inside = {"Y": page.imagelength, "X": page.imagewidth, "S": page.samplesperpixel}
    letters = [letter for letter, _ in axes]
    if "S" not in letters and ("C", page.samplesperpixel) in axes and page.samplesperpixel > 1:
        axes[letters.index("C")] = ("S", page.samplesperpixel)
    for letter, length in inside.items():
        if (letter, length) in axes:
            axes.remove((letter, length))
        elif letter != "S" or length > 1:
            return None
    if any(letter in inside for letter, _ in axes):
        return None
    pages = math.prod(length for _, length in axes)
    fits = series.is_truncated or pages == len(series) * page.imagedepth
    return axes if fits and pages > 0 else None


def _names(letters: list[str]) -> list[str]:
    """Lower-case names for axes; pages of unknown meaning are ``page``, and a second axis of a letter gets a number."""
    names: list[str] = []
    for letter in letters:
        name = "page" if letter in "IQ" else letter.lower()
        same = sum(other.rstrip("0123456789") == name for other in names)
        names.append(name if not same else f"{name}{same + 1}")
    return names
