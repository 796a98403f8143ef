"""What Mask R-CNN is trained on: images with their objects, and batches of crops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import Tensor

from i2i.contracts import Instances
from i2i.data import Augmentation, Example, crop, generator

CROWD = -1
_SHORT = 2**15
_LEAST = 4
"""Pixels of an object in a crop below which it is cut off too far to be learnt."""


@dataclass(frozen=True)
class ObjectExample(Example):
    """``truth``: (L, H, W) layers of object ids from 1, each id in one layer, so that objects may overlap; 0 is none.
    ``classes``: (ids + 1,) int64, the class number of each id, from 1; -1 for a crowd, which is neither learnt nor background."""

    classes: Tensor = field(default_factory=lambda: torch.zeros(1, dtype=torch.int64))


def of_one_class(example: Example) -> ObjectExample:
    """An image of instance masks, whose objects are all of class 1, numbered from 1 without gaps; negative ids are a crowd."""
    found, places = np.unique(example.truth.numpy(), return_inverse=True)
    numbers, labels = np.zeros(len(found), np.int32), [0]
    for place, value in enumerate(found):
        if value:
            numbers[place] = len(labels)
            labels.append(1 if value > 0 else CROWD)
    kind = np.int16 if len(labels) <= _SHORT else np.int32
    layers = numbers[places].reshape(example.truth.shape).astype(kind)[None]
    return ObjectExample(example.image, torch.from_numpy(layers), example.name, spec=example.spec, classes=torch.tensor(labels))


def objects_of(layers: Tensor, classes: Tensor, least: int = 1) -> Instances:
    """The objects in layers of ids (L, H, W), with masks of the size of their boxes; -1 is the class of crowds, and of objects of
    fewer than ``least`` pixels."""
    places: list[tuple[int, int, int, int]] = []
    masks: list[npt.NDArray[np.bool_]] = []
    labels: list[int] = []
    for layer in layers.numpy():
        for number, place in enumerate(ndimage.find_objects(layer.astype(np.int32)), 1):
            if place is not None:
                rows, columns = place
                places.append((rows.start, columns.start, rows.stop, columns.stop))
                masks.append(layer[place] == number)
                labels.append(int(classes[number]) if np.count_nonzero(masks[-1]) >= least else CROWD)
    boxes = np.array(places, np.int64).reshape(-1, 4)
    return Instances(boxes, np.ones(len(boxes), np.float32), np.array(labels, np.int64), tuple(masks))


def corners(objects: Instances) -> Tensor:
    """(M, 4) float32 x1, y1, x2, y2 of their boxes, in pixels."""
    return torch.from_numpy(objects.boxes[:, [1, 0, 3, 2]]).float()


def known_boxes(example: ObjectExample) -> Tensor:
    """(M, 4) float32 x1, y1, x2, y2 of its objects without crowds, in pixels."""
    objects = objects_of(example.truth, example.classes)
    return corners(objects)[torch.from_numpy(objects.classes > 0)]


def crops(
    examples: Sequence[ObjectExample],
    side: int,
    size: int,
    augmentation: Augmentation,
    key: tuple[int, ...],
    part: tuple[int, int] = (0, 1),
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``size`` crops of examples drawn with replacement: images (N, C, side, side) float32, boxes (N, M, 4) float32, labels (N,
    M) int64, masks (N, M, side, side) uint8. M is the most objects that one has, at least 1; the labels of what the others lack
    are 0. The same key gives the same. ``part``: (i, n) gives every n-th crop from the i-th on."""
    chosen = torch.randint(len(examples), (size,), generator=generator(*key)).tolist()
    images, truths = [], []
    for number in range(part[0], size, part[1]):
        example = examples[chosen[number]]
        image, layers = crop(example, side, augmentation, generator(*key, number))[:2]
        images.append(image)
        truths.append(objects_of(layers, example.classes, _LEAST))
    most = max([1, *map(len, truths)])
    boxes, labels = torch.zeros(len(truths), most, 4), torch.zeros(len(truths), most, dtype=torch.int64)
    masks = torch.zeros(len(truths), most, side, side, dtype=torch.uint8)
    for place, truth in enumerate(truths):
        boxes[place, : len(truth)], labels[place, : len(truth)] = corners(truth), torch.from_numpy(truth.classes)
        for whole, mask, (top, left, bottom, right) in zip(masks[place].numpy(), truth.masks, truth.boxes.tolist(), strict=False):
            whole[top:bottom, left:right] = mask
    return torch.stack(images), boxes, labels, masks


def targets(boxes: Tensor, labels: Tensor, masks: Tensor) -> list[dict[str, Tensor]]:
    """The targets of each image of a batch of :func:`crops`, as the network takes them."""
    found = []
    for box, label, mask in zip(boxes, labels, masks, strict=True):
        known = label > 0
        found.append({"boxes": box[known], "labels": label[known], "masks": mask[known], "crowds": box[label == CROWD]})
    return found
