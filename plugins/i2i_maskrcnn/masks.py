"""From a network's detections to objects with masks of the size of their boxes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from i2i.contracts import Instances
from i2i_maskrcnn.heads import Detections, Rules
from i2i_maskrcnn.network import MaskRCNN

Floats = npt.NDArray[np.float32]


def centred(found: Detections) -> Detections:
    """The same with masks whose cells are in the boxes' own places. The network learns masks from truth that torchvision's
    RoIAlign reads with pixel i at the place i, half a pixel before its centre, and gives them so. (Put at the boxes as they are,
    by torchvision's ``paste_masks_in_image`` too, they lie half a pixel off.)"""
    side = found.masks.shape[-1]
    extent = (found.boxes[:, 2:] - found.boxes[:, :2]).clamp_min(1e-3)
    places = torch.arange(side, device=extent.device) - 0.5 * side / extent[:, :, None]  # (K, 2, side), x before y
    cells = torch.arange(side, device=extent.device)
    weights = (1 - (places.clamp(0, side - 1)[..., None] - cells).abs()).clamp_min(0).to(found.masks)
    return replace(found, masks=weights[:, 1] @ found.masks @ weights[:, 0].transpose(1, 2))


def pasted(mask: Floats, box: Floats, shape: tuple[int, int]) -> tuple[tuple[int, int], Floats]:
    """A mask (m, m) of 0 .. 1 whose cells share out its box (4,) x1, y1, x2, y2, interpolated bilinearly at the pixels of an
    image of ``shape`` whose centres lie in the box. Gives (top, left), and the values (H, W)."""
    left, top, right, bottom = box.tolist()
    rows, above = _weights(top, bottom, shape[0], len(mask))
    columns, before = _weights(left, right, shape[1], len(mask))
    return (above, before), np.asarray(rows @ mask @ columns.T, np.float32)


def _weights(start: float, stop: float, length: int, side: int) -> tuple[Floats, int]:
    """(K, side): how much each cell of a mask from ``start`` to ``stop`` counts at each of the K pixels with their centres there,
    and the first of these."""
    first, last = max(0, int(np.ceil(start - 0.5))), min(length, int(np.ceil(stop - 0.5)))
    places = (np.arange(first, max(first, last), dtype=np.float32) + 0.5 - start) / max(stop - start, 1e-3) * side - 0.5
    distance = np.abs(places.clip(0, side - 1)[:, None] - np.arange(side, dtype=np.float32))
    return np.maximum(0, 1 - distance).astype(np.float32), first


def instances(found: Detections, shape: tuple[int, int], min_area: int = 0, overlap: float = 1.0) -> Instances:
    """The objects of an image of ``shape`` (height, width), from masks that are :func:`centred`; boxes drawn tight around the
    masks. What has no pixel, or fewer than ``min_area``, is left out, and with ``overlap`` below 1 what better ones cover
    (:func:`uncovered`)."""
    boxes, masks = found.boxes.float().cpu().numpy(), found.masks.float().cpu().numpy()
    kept, places, parts = [], [], []
    for number in range(len(boxes)):
        (top, left), values = pasted(masks[number], boxes[number], shape)
        inside = values >= 0.5
        if inside.sum() >= max(1, min_area):
            rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
            tight = inside[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            kept.append(number)
            parts.append(tight)
            places.append((top + rows[0], left + columns[0], top + rows[-1] + 1, left + columns[-1] + 1))
    scores, labels = found.scores.float().cpu().numpy()[kept], found.labels.cpu().numpy()[kept]
    objects = Instances(np.array(places, np.int64).reshape(-1, 4), scores, labels.astype(np.int64), tuple(parts), found.beyond)
    return uncovered(objects, shape, overlap) if overlap < 1 else objects


def uncovered(objects: Instances, shape: tuple[int, int], most: float) -> Instances:
    """Those, of objects best first, of whose mask no more than the share ``most`` lies under better ones of their class: what two
    boxes that overlap little have found twice goes."""
    taken: dict[int, npt.NDArray[np.bool_]] = {}
    kept = []
    for number, label in enumerate(objects.classes.tolist()):
        top, left, bottom, right = objects.boxes[number].tolist()
        under = taken.setdefault(label, np.zeros(shape, bool))[top:bottom, left:right]
        mask = objects.masks[number]
        if np.count_nonzero(under & mask) <= most * np.count_nonzero(mask):
            kept.append(number)
            under |= mask
    return replace(objects.take(kept), beyond=objects.beyond)


def padded(image: Tensor, stride: int) -> Tensor:
    """An image (C, H, W) as a batch of one, its sides filled up to multiples of ``stride`` as the engine fills them."""
    height, width = image.shape[-2:]
    window = nn.functional.pad(image[None], (0, -width % stride, 0, -height % stride))
    return window.contiguous(memory_format=torch.channels_last)


def find_objects(network: MaskRCNN, image: Tensor, rules: Rules, min_area: int = 0, overlap: float = 1.0) -> Instances:
    """The objects of a whole image (channels, H, W), normalised."""
    shape = (image.shape[1], image.shape[2])
    return instances(centred(network.detect(padded(image, network.config.stride), rules, shape)[0]), shape, min_area, overlap)
