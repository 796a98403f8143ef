"""Where tiles lie: pure integer arithmetic, without arrays.

One global grid covers the image. Its *cores* are rectangles that share no pixel, of side ``step``; the *window* of a core is
the core grown by the halo. Every window has one constant shape and lies in the image, so no border is invented that the
whole-image run would not have; the first and the last core, which need a halo on one side only, are longer by that::

      0                                                     padded
      |--------- window 0 ---------|                           |
      |===== core 0 ======|== core 1 ==|======= core 2 ========|
      |             |--------- window 1 ---------|             |
      |                                |--------- window 2 ----|

Networks that mirror (valid convolutions) are given windows that reach past the image, filled by :func:`mirror`, and
nothing is shifted. *Blocks*, the units of work and of the journal, are rectangles of whole cores.

Windows begin at multiples of the network's total stride: the pooling phase is that of the whole-image run.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

Border = Literal["zero", "mirror"]


@dataclass(frozen=True, order=True)
class Region:
    """A rectangle of pixels: top ``y``, left ``x``, ``height`` and ``width``; bottom and right are exclusive."""

    y: int
    x: int
    height: int
    width: int

    @property
    def bottom(self) -> int:
        return self.y + self.height

    @property
    def right(self) -> int:
        return self.x + self.width

    @property
    def area(self) -> int:
        """Pixels inside; 0 when empty."""
        return max(0, self.height) * max(0, self.width)

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns, to index an array whose origin is the image's."""
        return slice(self.y, self.bottom), slice(self.x, self.right)

    def shift(self, dy: int, dx: int) -> Region:
        return Region(self.y + dy, self.x + dx, self.height, self.width)

    def grow(self, margin: int) -> Region:
        return Region(self.y - margin, self.x - margin, self.height + 2 * margin, self.width + 2 * margin)

    def intersect(self, other: Region) -> Region:
        """The common part; its height or width is 0 when there is none."""
        y, x = max(self.y, other.y), max(self.x, other.x)
        return Region(y, x, max(0, min(self.bottom, other.bottom) - y), max(0, min(self.right, other.right) - x))

    def contains(self, other: Region) -> bool:
        return self.y <= other.y and self.x <= other.x and other.bottom <= self.bottom and other.right <= self.right

    def relative_to(self, origin: Region) -> Region:
        """The same pixels, counted from the top left of ``origin``."""
        return self.shift(-origin.y, -origin.x)

    def scaled(self, factor: int) -> Region:
        """The pixels that these become when the image grows by an integer factor."""
        return Region(self.y * factor, self.x * factor, self.height * factor, self.width * factor)


@dataclass(frozen=True)
class Tile:
    """What one network call yields (``core``) and sees (``window``), in image pixels."""

    core: Region
    window: Region


@dataclass(frozen=True)
class Block:
    """The unit of work, journaling and distribution: ``region`` of the image, at ``row``, ``column`` of the block grid."""

    index: int
    row: int
    column: int
    region: Region


def round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def mirror(index: int, size: int) -> int:
    """The pixel that stands at ``index`` of an endlessly reflected axis of ``size`` pixels (edge pixels not doubled).

    An axis of one pixel repeats. Any distance is allowed, unlike in ``torch.nn.functional.pad(mode="reflect")``.
    """
    if size == 1:
        return 0
    period = 2 * (size - 1)
    index %= period
    return index if index < size else period - index


@dataclass(frozen=True)
class AxisGrid:
    """The grid along one axis: see the module's text. All lengths in pixels.

    ``size``: the image's; ``padded``: rounded up to the stride; ``window``: the constant window; ``step``: the core.
    """

    size: int
    padded: int
    window: int
    step: int
    halo: int
    border: Border

    @staticmethod
    def make(size: int, tile: int, halo: int, stride: int, border: Border, fixed: bool = False) -> AxisGrid:
        """A grid with windows of about ``tile`` pixels (rounded down to the stride; the whole axis if that is smaller).

        ``fixed``: the window is exactly ``tile`` even where the image is smaller. Raises ``ValueError`` when ``tile``
        leaves no core between its halos.
        """
        halo = round_up(halo, stride)
        margin = halo if border == "mirror" else 0
        padded = round_up(max(size, tile) if fixed else size, stride)
        if padded + 2 * margin <= tile:
            return AxisGrid(size, padded, padded + 2 * margin, padded, halo, border)
        step = tile // stride * stride - 2 * halo
        if step < stride:
            raise ValueError(f"a window of {tile} pixels is too small: at least {2 * halo + stride} are needed")
        return AxisGrid(size, padded, step + 2 * halo, step, halo, border)

    @property
    def lead(self) -> int:
        """Pixels by which the first core is longer than ``step``."""
        return 0 if self.border == "mirror" else self.halo

    @property
    def count(self) -> int:
        if self.border == "mirror":
            return -(-self.size // self.step)
        return 1 - (self.window - self.padded) // self.step if self.padded > self.window else 1

    def core(self, index: int) -> tuple[int, int]:
        """Where it begins and ends."""
        start = index * self.step + self.lead if index else 0
        return start, self.size if index == self.count - 1 else (index + 1) * self.step + self.lead

    def at(self, pixel: int) -> int:
        """The core that holds a pixel."""
        return min(max(0, (pixel - self.lead) // self.step), self.count - 1)

    def window_start(self, index: int) -> int:
        if self.border == "mirror":
            return index * self.step - self.halo
        return min(index * self.step, self.padded - self.window)

    def touching(self, start: int, stop: int) -> range:
        """Indices of the tiles whose windows share a pixel with ``start`` .. ``stop``."""
        hits = [i for i in range(self.count) if self.window_start(i) < stop and start < self.window_start(i) + self.window]
        return range(hits[0], hits[-1] + 1)


@dataclass(frozen=True)
class Grid:
    """The tiles and blocks of one image; ``cores`` of them, along each axis, make a block."""

    rows: AxisGrid
    columns: AxisGrid
    cores: int = 1

    @property
    def image(self) -> Region:
        return Region(0, 0, self.rows.size, self.columns.size)

    @property
    def window_shape(self) -> tuple[int, int]:
        return self.rows.window, self.columns.window

    @property
    def block_shape(self) -> tuple[int, int]:
        """Height and width of a block that does not touch the image's end."""
        return (
            min(self.rows.step * self.cores, self.rows.size),
            min(self.columns.step * self.cores, self.columns.size),
        )

    @property
    def origin(self) -> tuple[int, int]:
        """Where the image begins on a raster of ``block_shape`` whose lines run along all borders between blocks."""
        (height, width), (rows, columns) = self.block_shape, self.shape
        return (-self.rows.lead % height if rows > 1 else 0), (-self.columns.lead % width if columns > 1 else 0)

    @cached_property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of blocks."""
        return -(-self.rows.count // self.cores), -(-self.columns.count // self.cores)

    @property
    def block_count(self) -> int:
        return self.shape[0] * self.shape[1]

    @property
    def tile_count(self) -> int:
        return self.rows.count * self.columns.count

    def block(self, index: int) -> Block:
        """The block at ``index``, in raster order."""
        row, column = divmod(index, self.shape[1])
        (y, bottom), (x, right) = self._span(self.rows, row), self._span(self.columns, column)
        return Block(index, row, column, Region(y, x, bottom - y, right - x))

    def _span(self, axis: AxisGrid, block: int) -> tuple[int, int]:
        first, last = block * self.cores, min((block + 1) * self.cores, axis.count) - 1
        return axis.core(first)[0], axis.core(last)[1]

    def blocks(self) -> Iterator[Block]:
        return (self.block(index) for index in range(self.block_count))

    def blocks_touching(self, region: Region) -> Iterator[Block]:
        """The blocks that share a pixel with ``region`` (inside the image), in raster order."""
        columns = range(self.columns.at(region.x) // self.cores, self.columns.at(region.right - 1) // self.cores + 1)
        for row in range(self.rows.at(region.y) // self.cores, self.rows.at(region.bottom - 1) // self.cores + 1):
            yield from (self.block(row * self.shape[1] + column) for column in columns)

    def tile(self, row: int, column: int) -> Tile:
        (y, bottom), (x, right) = self.rows.core(row), self.columns.core(column)
        window = Region(self.rows.window_start(row), self.columns.window_start(column), *self.window_shape)
        return Tile(Region(y, x, bottom - y, right - x), window)

    def tiles(self, region: Region) -> list[Tile]:
        """The tiles whose cores share a pixel with ``region``, in raster order: a block's own."""
        rows = range(self.rows.at(region.y), self.rows.at(region.bottom - 1) + 1)
        columns = range(self.columns.at(region.x), self.columns.at(region.right - 1) + 1)
        return [self.tile(row, column) for row in rows for column in columns]

    def tiles_touching(self, region: Region) -> list[Tile]:
        """The tiles whose windows share a pixel with ``region``, in raster order: what blending needs."""
        rows = self.rows.touching(region.y, region.bottom)
        columns = self.columns.touching(region.x, region.right)
        return [self.tile(row, column) for row in rows for column in columns]


def make_grid(
    size: tuple[int, int],
    tile: tuple[int, int],
    *,
    halo: int = 0,
    stride: int = 1,
    border: Border = "zero",
    fixed: bool = False,
    cores: int = 1,
) -> Grid:
    """The grid of an image of ``size`` (height, width) under windows of at most ``tile`` (height, width).

    ``halo``: context in pixels on each side, rounded up to ``stride``, the network's total stride. ``cores``: cores along
    each side of a block. Raises ``ValueError`` when a window has no room for a core.
    """
    rows, columns = (
        AxisGrid.make(length, window, halo, stride, border, fixed) for length, window in zip(size, tile, strict=True)
    )
    return Grid(rows, columns, cores)
