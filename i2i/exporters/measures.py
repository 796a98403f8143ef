"""Further columns of the table: the shape of objects, and the intensities of the input under them, as scikit-image's regionprops
defines them. Sums over blocks, for a range of ids at a time; the convex hull is that of an object's outline."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from scipy.spatial import ConvexHull

from i2i.contracts import Array, Exported, Source
from i2i.exporters.outlines import Outline, Points, find_outlines
from i2i.geometry import Region, make_grid

SHAPE, INTENSITY = "shape", "intensity"
SHAPE_COLUMNS = ("perimeter", "major_axis", "minor_axis", "eccentricity", "solidity", "equivalent_diameter")
_INTENSITY_COLUMNS = ("mean", "min", "max", "std", "sum")
_SIDE = 1024
_IDS = 2**17
"""Objects measured at a time: 48 bytes each, and 32 for each channel."""
_RIM = 2
_WEIGHTS = np.zeros(50)
_WEIGHTS[[5, 7, 15, 17, 25, 27]], _WEIGHTS[[21, 33]], _WEIGHTS[[13, 23]] = 1, np.sqrt(2), (1 + np.sqrt(2)) / 2
"""The length of outline that a pixel of an object's border stands for, by its neighbours on the border: 2 for each beside it, 10
for each across a corner, 1 for itself (Benkrid, Crookes & Benkrid 2000, as scikit-image has it)."""
_NEAR = 1e-9

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def columns(exported: Exported) -> list[str]:
    """The names of the columns that ``exported.measure`` asks for; channels by name, else by number."""
    names = list(SHAPE_COLUMNS) if SHAPE in exported.measure else []
    if INTENSITY in exported.measure:
        spec = (exported.every or exported.source).spec
        named = len(set(spec.channel_names)) == spec.channels
        channels = spec.channel_names if named else range(spec.channels)
        names += [f"{what}_{channel}" for channel in channels for what in _INTENSITY_COLUMNS]
    return names


def measured(exported: Exported) -> Iterator[list[float]]:
    """The values of these columns for each object of one plane, by id. Lengths are in pixels of the full resolution."""
    shape, length = SHAPE in exported.measure, float(np.sqrt(exported.scale[0] * exported.scale[1]))
    outlines = find_outlines(exported.result) if shape else iter(())
    for sums, places in _ranges(exported):
        rows = [sums.intensities(place) for place in places]
        for place, row in zip(places, rows, strict=True):
            yield [*(_shape(sums, place, next(outlines), length) if shape else ()), *row]


class _Sums:
    """Over the pixels of the objects ``first`` .. ``first`` + ``count`` - 1. ``moments``: n, sums of y, x, yy, xx and xy."""

    def __init__(self, first: int, count: int, channels: int) -> None:
        self.first, self.count = first, count
        self.moments, self.perimeter = np.zeros((6, count), np.int64), np.zeros(count)
        self.total, self.squares = np.zeros((channels, count)), np.zeros((channels, count))
        self.low, self.high = np.full((channels, count), np.inf), np.full((channels, count), -np.inf)

    def add(self, labels: Array, region: Region, pixels: Array | None) -> None:
        """A block (H, W) with a rim of ``_RIM`` pixels on all sides, and the input's pixels (H, W, C) there without it."""
        inner = labels[_RIM:-_RIM, _RIM:-_RIM]
        chosen = (inner >= self.first) & (inner < self.first + self.count)
        if not chosen.any():
            return
        y, x = np.nonzero(chosen)
        places = inner[y, x].astype(np.int64) - self.first
        n, sy, sx, syy, sxx, sxy = (
            np.bincount(places, values, self.count).astype(np.int64)
            for values in (np.ones_like(y), y, x, y * y, x * x, y * x)
        )  # fmt: skip
        top, left = region.y, region.x
        self.moments += [
            n, sy + top * n, sx + left * n, syy + 2 * top * sy + top * top * n, sxx + 2 * left * sx + left * left * n,
            sxy + top * sx + left * sy + top * left * n,
        ]  # fmt: skip
        self.perimeter += np.bincount(places, _lengths(labels)[y, x], self.count)
        for channel in range(len(self.total)):
            assert pixels is not None
            values = pixels[y, x, channel].astype(np.float64)
            with np.errstate(invalid="ignore"):
                self.total[channel] += np.bincount(places, values, self.count)
                self.squares[channel] += np.bincount(places, values * values, self.count)
                np.minimum.at(self.low[channel], places, values)
                np.maximum.at(self.high[channel], places, values)

    def intensities(self, place: int) -> list[float]:
        n, found = int(self.moments[0, place]), []
        for total, squares, low, high in zip(self.total, self.squares, self.low, self.high, strict=True):
            mean = total[place] / n
            deviation = np.sqrt(np.maximum(0.0, squares[place] / n - mean * mean))
            found += [_short(value) for value in (mean, low[place], high[place], deviation, total[place])]
        return found


def _ranges(exported: Exported) -> Iterator[tuple[_Sums, list[int]]]:
    """The sums for a range of ids after another, and which of them there are."""
    labels, source = exported.result, exported.every or exported.source
    spec, intensity = labels.spec, INTENSITY in exported.measure
    blocks = list(make_grid((spec.height, spec.width), (_SIDE, _SIDE)).blocks())
    extents = [(1, 1)] * len(blocks)  # lowest and highest id of each: unknown yet, so that the first range reads all
    first = 1
    while waiting := [max(low, first) for low, high in extents if first <= high]:
        first = min(waiting)
        sums = _Sums(first, _IDS, source.spec.channels if intensity else 0)
        for block in blocks:
            low, high = extents[block.index]
            if low < first + _IDS and first <= high:
                pixels = _with_rim(labels, block.region)
                inner = pixels[_RIM:-_RIM, _RIM:-_RIM]
                there = inner[inner > 0]
                extents[block.index] = (int(there.min()), int(there.max())) if len(there) else (1, 0)
                seen = _under(source, block.region, spec.height // source.spec.height) if intensity and len(there) else None
                sums.add(pixels, block.region, seen)
        yield sums, np.flatnonzero(sums.moments[0]).tolist()
        first += _IDS


def _with_rim(labels: Source, region: Region) -> Array:
    """The labels of a block and around it; 0 beyond the image."""
    around = region.grow(_RIM)
    inside = around.intersect(labels.spec.region)
    pixels = np.zeros((around.height, around.width), labels.spec.dtype)
    pixels[inside.relative_to(around).slices] = labels.read(inside)[..., 0]
    return pixels


def _under(source: Source, region: Region, scale: int) -> Array:
    """The input's pixels under those of ``region``, of which a pixel of the input is ``scale`` high and wide."""
    if scale <= 1:
        return source.read(region)
    top, left, bottom, right = region.y // scale, region.x // scale, -(-region.bottom // scale), -(-region.right // scale)
    pixels = source.read(Region(top, left, bottom - top, right - left))
    rows, below = np.arange(region.y, region.bottom) // scale - top, np.arange(region.x, region.right) // scale - left
    return pixels[rows[:, None], below[None, :]]


def _lengths(labels: Array) -> Floats:
    """The length of outline of each pixel of a block without its rim."""
    inner = labels[1:-1, 1:-1]
    border = np.zeros(inner.shape, bool)
    for near in (labels[:-2, 1:-1], labels[2:, 1:-1], labels[1:-1, :-2], labels[1:-1, 2:]):
        border |= near != inner
    height, width = inner.shape
    middle = inner[1:-1, 1:-1]
    code = border[1:-1, 1:-1].astype(np.uint8)
    for down in (0, 1, 2):
        for right in (0, 1, 2):
            if (down, right) != (1, 1):
                part = slice(down, height - 2 + down), slice(right, width - 2 + right)
                code += (border[part] & (inner[part] == middle)) * np.uint8(2 if 1 in (down, right) else 10)
    return _WEIGHTS[code]


def _shape(sums: _Sums, place: int, outline: Outline, length: float) -> list[float]:
    """As ``SHAPE_COLUMNS``. Axes are those of the ellipse with the same second moments."""
    n, sy, sx, syy, sxx, sxy = (np.longdouble(value) for value in sums.moments[:, place])
    yy, xx, xy = (float(both / n - one / n * (other / n)) for both, one, other in ((syy, sy, sy), (sxx, sx, sx), (sxy, sy, sx)))
    middle, half = (yy + xx) / 2, float(np.hypot((yy - xx) / 2, xy))
    large, small = max(0.0, middle + half), max(0.0, middle - half)
    eccentricity = np.sqrt(1 - small / large) if large else 0.0
    lengths = sums.perimeter[place], 4 * np.sqrt(large), 4 * np.sqrt(small), np.sqrt(4 * float(n) / np.pi)
    perimeter, major, minor, diameter = (_short(value * length) for value in lengths)
    return [perimeter, major, minor, _short(eccentricity), _short(outline.area / _convex_area(outline)), diameter]


def _convex_area(outline: Outline) -> int:
    """Pixels whose centres are in or on the hull of the middles of the sides of the object's pixels."""
    ends = np.concatenate([_ends(part[0]) for part in outline.parts])
    points = np.concatenate([ends + offset for offset in ((0.5, 0), (-0.5, 0), (0, 0.5), (0, -0.5))])
    low = points.min(axis=0)
    points = points - low
    corners = points[ConvexHull(points).vertices]
    (y0, x0), (y1, x1) = corners.T[:, :, None], np.roll(corners, -1, axis=0).T[:, :, None]
    rows = np.arange(np.ceil(low[0]), np.ceil(low[0]) + np.floor(points[:, 0].max()) + 1)[None, :] - low[0]
    crossed = (np.minimum(y0, y1) <= rows) & (rows <= np.maximum(y0, y1)) & (y0 != y1)
    x = x0 + (x1 - x0) * (rows - y0) / np.where(y0 == y1, 1, y1 - y0) + low[1]
    left, right = np.where(crossed, x, np.inf).min(axis=0), np.where(crossed, x, -np.inf).max(axis=0)
    met = left <= right
    return int((np.floor(right[met] + _NEAR) - np.ceil(left[met] - _NEAR) + 1).sum())


def _ends(ring: Points) -> Floats:
    """The pixels (K, 2), y before x, at the ends of the vertical edges of an outer ring: it goes up at their left sides."""
    begin, end = ring, np.roll(ring, -1, axis=0)
    vertical = begin[:, 0] == end[:, 0]
    x, from_y, to_y = begin[vertical, 0], begin[vertical, 1], end[vertical, 1]
    column = np.where(to_y > from_y, x - 1, x)
    return np.concatenate([np.stack([y, column], 1) for y in (np.minimum(from_y, to_y), np.maximum(from_y, to_y) - 1)]).astype(
        float
    )


def _short(value: float) -> float:
    """Six digits behind the point at the most."""
    return round(float(value), 6)
