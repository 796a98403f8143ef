"""The eight orientations of TIFF and EXIF, applied region by region."""

from __future__ import annotations

from dataclasses import dataclass

from i2i.contracts import Array
from i2i.geometry import Region


@dataclass(frozen=True)
class Orientation:
    """How stored pixels become the picture: rows and columns are flipped, then the axes are swapped."""

    flip_rows: bool = False
    flip_columns: bool = False
    transpose: bool = False

    @staticmethod
    def of(value: object) -> Orientation:
        """From the value of tag 274, 1 to 8; anything else means upright."""
        return _BY_VALUE.get(value, Orientation()) if isinstance(value, int) else Orientation()

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the picture from those stored; the inverse is the same."""
        return (width, height) if self.transpose else (height, width)

    def stored(self, region: Region, height: int, width: int) -> Region:
        """Where the picture's ``region`` is stored, in an image stored with ``height`` and ``width``."""
        y, x, rows, columns = region.y, region.x, region.height, region.width
        if self.transpose:
            y, x, rows, columns = x, y, columns, rows
        y = height - y - rows if self.flip_rows else y
        x = width - x - columns if self.flip_columns else x
        return Region(y, x, rows, columns)

    def apply(self, pixels: Array) -> Array:
        """The stored pixels (H, W, C) as they belong in the picture: (H, W, C) or (W, H, C)."""
        if self.flip_rows:
            pixels = pixels[::-1]
        if self.flip_columns:
            pixels = pixels[:, ::-1]
        return pixels.swapaxes(0, 1) if self.transpose else pixels


_BY_VALUE = {
    2: Orientation(flip_columns=True),
    3: Orientation(flip_rows=True, flip_columns=True),
    4: Orientation(flip_rows=True),
    5: Orientation(transpose=True),
    6: Orientation(flip_rows=True, transpose=True),
    7: Orientation(flip_rows=True, flip_columns=True, transpose=True),
    8: Orientation(flip_columns=True, transpose=True),
}
