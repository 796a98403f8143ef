"""What a detector would give, drawn: objects that overlap, of several classes, one of them hidden under others."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from i2i.contracts import Exported, Instances, Objects
from i2i.formats.views import ArraySource

NAMES = {1: "cell", 2: "N/A", 3: "big cell", 7: "straße"}


def disc(y: float, x: float, radius: float, shape: tuple[int, int]) -> tuple[list[int], np.ndarray]:
    """Box and mask of a disc, where it is in the image."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    mask = (rows - y) ** 2 + (columns - x) ** 2 < radius**2
    ys, xs = np.nonzero(mask)
    box = [int(ys.min()), int(xs.min()), int(ys.max()) + 1, int(xs.max()) + 1]
    return box, mask[box[0] : box[2], box[1] : box[3]]


def instances(shape: tuple[int, int] = (160, 240), count: int = 40, seed: int = 0) -> Instances:
    """Discs in the order of their boxes; the last but one lies under the last."""
    random = np.random.default_rng(seed)
    places = [(random.uniform(0, shape[0] - 30), random.uniform(0, shape[1]), random.uniform(3, 16)) for _ in range(count)]
    found = [disc(*place, shape) for place in sorted(places)]
    found.sort(key=lambda one: tuple(one[0]))
    found += [disc(shape[0] - 9, 40, 4, shape), disc(shape[0] - 9, 40, 7, shape)]
    scores = random.permutation(np.linspace(0.3, 0.9, len(found))).astype(np.float32)
    scores[-2:] = 0.2, 0.95
    classes = random.choice([1, 3, 7], len(found))
    return Instances(np.array([box for box, _ in found]), scores, classes, tuple(mask for _, mask in found))


def drawn(objects: Instances, shape: tuple[int, int]) -> np.ndarray:
    """The label image: the highest score is on top."""
    labels = np.zeros(shape, np.uint32)
    for i in np.argsort(objects.scores, kind="stable").tolist():
        top, left, bottom, right = objects.boxes[i].tolist()
        labels[top:bottom, left:right][objects.masks[i]] = i + 1
    return labels


def known(objects: Instances, own: bool = True, part: int = 7) -> Objects:
    def masks() -> Iterator[tuple[np.ndarray, Instances]]:
        for start in range(0, len(objects), part):
            places = np.arange(start, min(start + part, len(objects)))
            yield places + 1, objects.take(places)

    return Objects(NAMES, objects.scores, objects.classes.astype(np.int16), masks if own else None)


def exported(own: bool = True, shape: tuple[int, int] = (160, 240), **fields: object) -> Exported:
    """A detector's result on noise."""
    found = instances(shape)
    labels = ArraySource(drawn(found, shape), **fields)
    pixels = ArraySource(np.random.default_rng(1).integers(0, 255, (*shape, 3)).astype(np.uint8))
    return Exported(pixels, labels, "labels", objects=known(found, own), name="some/folder/cells.png")
