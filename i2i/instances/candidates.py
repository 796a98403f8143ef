"""What one window gives: objects that are complete, and parts of those that its edges cut."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from i2i.contracts import Array, Instances
from i2i.errors import PluginError
from i2i.geometry import Region, Tile
from i2i.instances.packed import Bits, Packed, pack, region_of

EDGE = 2
"""Pixels. A box that comes nearer to its window's edge than this is cut: a mask often ends right before the edge."""
TOP, LEFT, BOTTOM, RIGHT = 1, 2, 4, 8


@dataclass(frozen=True)
class Candidates(Packed):
    """Objects of several windows, in image pixels and inside the image. ``areas``: (N,) int64 pixels of the masks, none 0.
    ``tiles``: (N,) int64 the number of the tile that each comes from. ``cuts``: (N,) uint8 the sides of the window that cut it,
    as bits ``TOP``, ``LEFT``, ``BOTTOM``, ``RIGHT``; 0: it is complete."""

    areas: npt.NDArray[np.int64]
    tiles: npt.NDArray[np.int64]
    cuts: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Detected:
    """What one block found. ``beyond``: objects that were more than the detector may give, in ``full`` of its windows."""

    candidates: Candidates
    beyond: int = 0
    full: int = 0

    def arrays(self) -> dict[str, Array]:
        """As plain arrays: what is kept on disk."""
        counts = {"beyond": np.array(self.beyond), "full": np.array(self.full)}
        return self.candidates.columns() | {"bits": self.candidates.bits()} | counts

    @staticmethod
    def of_arrays(arrays: Mapping[str, Array]) -> Detected:
        """The inverse of :meth:`arrays`."""
        return Detected(Candidates.of_arrays(arrays, arrays["bits"]), int(arrays["beyond"]), int(arrays["full"]))


def select_candidates(found: Instances, tile: Tile, image: Region, halo: int, number: int) -> Candidates:
    """Of the objects in a window's pixels those that may stay, in image pixels, cut off at the image's edge.

    Complete ones stay whose centre is half a ``halo`` or more inside the window's edges: that is the core and a margin around it,
    for centres jitter from tile to tile. (An object that is complete in any window is so in one whose middle has its centre.)
    Parts stay that have a pixel in the core: an object's other pixels are in other tiles' cores. ``number``: the tile's,
    unique in the run. Raises ``PluginError`` for masks that are not of their boxes' sizes.
    """
    objects = found.shift(tile.window.y, tile.window.x)
    cuts = _cuts(objects.boxes, tile.window, image)
    central, in_core = _central(objects.boxes, tile.window, image, halo), _meets(objects.boxes, tile.core)
    chosen = np.flatnonzero(np.where(cuts == 0, central, in_core))
    boxes = objects.boxes[chosen]
    boxes = np.maximum(np.minimum(boxes, [image.bottom, image.right] * 2), [image.y, image.x] * 2)
    kept, masks, areas = [], [], []
    for place, i in enumerate(chosen.tolist()):
        bits, area, meets = _masked(objects, i, region_of(boxes[place]), tile.core)
        if area and (cuts[i] == 0 or meets):
            kept.append(place)
            masks.append(bits)
            areas.append(area)
    rest = chosen[kept]
    return Candidates(
        boxes[kept].astype(np.int32), objects.scores[rest].astype(np.float32), objects.classes[rest].astype(np.int16),
        tuple(masks), np.array(areas, np.int64), np.full(len(kept), number, np.int64), cuts[rest],
    )  # fmt: skip


def _cuts(boxes: npt.NDArray[np.int64], window: Region, image: Region) -> npt.NDArray[np.uint8]:
    """The sides of the window, inside the image, that boxes reach."""
    top, left, bottom, right = boxes.T
    sides = (
        (TOP, (top < window.y + EDGE) & (window.y > image.y)),
        (LEFT, (left < window.x + EDGE) & (window.x > image.x)),
        (BOTTOM, (bottom > window.bottom - EDGE) & (window.bottom < image.bottom)),
        (RIGHT, (right > window.right - EDGE) & (window.right < image.right)),
    )
    cuts = np.zeros(len(boxes), np.uint8)
    for side, reached in sides:
        cuts[reached] |= side
    return cuts


def _central(boxes: npt.NDArray[np.int64], window: Region, image: Region, halo: int) -> npt.NDArray[np.bool_]:
    """Whether centres are far enough inside the window; the image's own edges are no limit."""
    y, x = (boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2
    inner = window.grow(halo // 2 - halo)
    return (
        ((y >= inner.y) | (window.y <= image.y))
        & ((x >= inner.x) | (window.x <= image.x))
        & ((y < inner.bottom) | (window.bottom >= image.bottom))
        & ((x < inner.right) | (window.right >= image.right))
    )


def _meets(boxes: npt.NDArray[np.int64], region: Region) -> npt.NDArray[np.bool_]:
    top, left, bottom, right = boxes.T
    return (top < region.bottom) & (bottom > region.y) & (left < region.right) & (right > region.x)


def _masked(objects: Instances, index: int, inside: Region, core: Region) -> tuple[Bits, int, bool]:
    """The mask of an object cut off to ``inside``, its pixels, and whether one of them is in the core."""
    box, mask = region_of(objects.boxes[index]), objects.masks[index]
    if mask.shape != (box.height, box.width):
        raise PluginError(f"the detector gave a mask of {mask.shape} for a box of {box.height} x {box.width}")
    mask = mask[inside.relative_to(box).slices]
    in_core = mask[core.intersect(inside).relative_to(inside).slices]
    return pack(mask), int(np.count_nonzero(mask)), bool(in_core.any())
