"""Tables of objects whose masks are bits: an eighth of a byte for each pixel of the box."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from i2i.contracts import Array, Instances
from i2i.geometry import Region

Bits = npt.NDArray[np.uint8]
"""A mask (H, W) as (H, ceil(W / 8)) uint8: the bits of each row, padded to a byte."""
Mask = npt.NDArray[np.bool_]


def pack(mask: Mask) -> Bits:
    return np.packbits(mask, axis=1)


def unpack(bits: Bits, part: Region) -> Mask:
    """The pixels of ``part``, which lies in the mask: (height, width)."""
    first = part.x // 8
    pixels = np.unpackbits(bits[part.y : part.bottom, first : -(-part.right // 8)], axis=1)
    return pixels[:, part.x - 8 * first : part.right - 8 * first].view(bool)


def region_of(box: npt.NDArray[np.integer[Any]]) -> Region:
    """Of a box: top, left, bottom, right."""
    top, left, bottom, right = box.tolist()
    return Region(top, left, bottom - top, right - left)


@dataclass(frozen=True)
class Packed:
    """N objects of an image, the same order in every field.

    ``boxes``: (N, 4) int32: top, left, bottom, right, exclusive. ``scores``: (N,) float32. ``classes``: (N,) int16. ``masks``: N
    masks of the boxes' sizes, as :data:`Bits`.
    """

    boxes: npt.NDArray[np.int32]
    scores: npt.NDArray[np.float32]
    classes: npt.NDArray[np.int16]
    masks: tuple[Bits, ...]

    def __len__(self) -> int:
        return len(self.boxes)

    @classmethod
    def _columns(cls) -> tuple[str, ...]:
        return tuple(item.name for item in fields(cls) if item.name != "masks")

    @classmethod
    def empty(cls) -> Self:
        columns: dict[str, Any] = {name: np.zeros(0, dtype) for name, dtype in _DTYPES.items() if name in cls._columns()}
        return cls(**columns | {"boxes": np.zeros((0, 4), np.int32)}, masks=())

    def take(self, chosen: npt.NDArray[Any]) -> Self:
        """Those at the indices ``chosen``, or where it is True, in that order."""
        places = np.flatnonzero(chosen) if chosen.dtype == bool else chosen
        columns: dict[str, Any] = {name: getattr(self, name)[places] for name in self._columns()}
        return type(self)(**columns, masks=tuple(self.masks[i] for i in places.tolist()))

    @classmethod
    def join(cls, parts: Sequence[Self]) -> Self:
        """All of them, one part after the other."""
        if not parts:
            return cls.empty()
        columns: dict[str, Any] = {name: np.concatenate([getattr(part, name) for part in parts]) for name in cls._columns()}
        return cls(**columns, masks=tuple(mask for part in parts for mask in part.masks))

    def region(self, index: int) -> Region:
        """The box of an object."""
        return region_of(self.boxes[index])

    def pixels(self, index: int, area: Region) -> Mask:
        """An object's mask in ``area``, which may reach beyond its box: (height, width)."""
        box = self.region(index)
        part = area.intersect(box)
        inside = unpack(self.masks[index], part.relative_to(box))
        if part == area:
            return inside
        whole = np.zeros((area.height, area.width), bool)
        if part.area:
            whole[part.relative_to(area).slices] = inside
        return whole

    def columns(self) -> dict[str, Array]:
        """All but the masks, as plain arrays."""
        return {name: getattr(self, name) for name in self._columns()}

    def bits(self) -> Array:
        """All masks, one after the other: (bytes,) uint8."""
        return np.concatenate([mask.ravel() for mask in self.masks]) if self.masks else np.zeros(0, np.uint8)

    @classmethod
    def of_arrays(cls, columns: Mapping[str, Array], bits: Array | None = None) -> Self:
        """The inverse of :meth:`columns` and :meth:`bits`; without those, masks are empty."""
        boxes = columns["boxes"]
        masks = tuple(_split(boxes, bits)) if bits is not None else (np.zeros((0, 0), np.uint8),) * len(boxes)
        given: dict[str, Any] = {name: columns[name] for name in cls._columns()}
        return cls(**given, masks=masks)

    def instances(self) -> Instances:
        """The same with boolean masks."""
        masks = tuple(unpack(mask, region_of(box - box[[0, 1, 0, 1]])) for mask, box in zip(self.masks, self.boxes, strict=True))
        return Instances(self.boxes.astype(np.int64), self.scores, self.classes.astype(np.int64), masks)


@dataclass(frozen=True)
class Finished(Packed):
    """Objects that are done. ``incomplete``: (N,) bool: they go on where no window has found them."""

    incomplete: npt.NDArray[np.bool_]


_DTYPES = {
    "boxes": np.int32, "scores": np.float32, "classes": np.int16, "areas": np.int64, "tiles": np.int64, "cuts": np.uint8,
    "incomplete": np.bool_,
}  # fmt: skip


def _split(boxes: npt.NDArray[np.int32], bits: Array) -> Iterable[Bits]:
    """Masks of their own memory: a view of one would keep those of a whole block."""
    heights, widths = boxes[:, 2] - boxes[:, 0], -(-(boxes[:, 3] - boxes[:, 1]) // 8)
    stops = np.cumsum(heights.astype(np.int64) * widths)
    for height, width, stop in zip(heights.tolist(), widths.tolist(), stops.tolist(), strict=True):
        yield bits[stop - height * width : stop].reshape(height, width).copy()
