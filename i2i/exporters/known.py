"""What exporters know of an object besides its pixels in the label image: class, score, a mask of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from i2i.contracts import Objects, Source
from i2i.geometry import Region, make_grid

_SIDE = 2048


@dataclass(frozen=True)
class Known:
    """What is known of an object: the name of its class and a score, where it has them."""

    class_name: str = ""
    score: float | None = None


@dataclass(frozen=True)
class OwnMask:
    """An object's id, its box in the label image, and its mask (H, W), which may be on others' pixels too."""

    number: int
    box: Region
    mask: npt.NDArray[np.bool_]


def known_of(objects: Objects | None) -> Callable[[int], Known]:
    """What is known of the object with an id."""

    def known(number: int) -> Known:
        if objects is None:
            return Known()
        kind = int(objects.classes[number - 1])
        return Known(class_name(objects, kind), round(float(objects.scores[number - 1]), 6))

    return known


def class_name(objects: Objects, kind: int) -> str:
    """The name of a class, which is its number where it has none."""
    return objects.class_names.get(kind) or str(kind)


def plane_tag(plane: Mapping[str, int]) -> str:
    """Where a plane lies, for names of files: such as ``t0-z3``."""
    return "-".join(f"{axis}{number}" for axis, number in plane.items())


def own_masks(objects: Objects, labels: Source) -> Iterator[list[OwnMask]]:
    """The own masks of the objects that have a pixel in the label image, by id, as many at a time as ``objects`` gives. None
    where it gives none. The label image is read once, block by block, to see which ids are in it."""
    if objects.masks is None:
        return
    visible = _visible(labels, len(objects.scores))
    for numbers, instances in objects.masks():
        boxes = instances.boxes.tolist()
        yield [
            OwnMask(number, Region(top, left, bottom - top, right - left), mask)
            for number, (top, left, bottom, right), mask in zip(numbers.tolist(), boxes, instances.masks, strict=True)
            if visible[number]
        ]


def _visible(labels: Source, count: int) -> npt.NDArray[np.bool_]:
    """Whether each of the ids 0 .. ``count`` is in the label image."""
    found = np.zeros(count + 1, bool)
    for block in make_grid((labels.spec.height, labels.spec.width), (_SIDE, _SIDE)).blocks():
        found[labels.read(block.region)] = True
    return found
