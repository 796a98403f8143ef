"""The same window seen from several sides (``--tta``), and what the network says of it each time joined to one answer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import batched_nms, box_iou

from i2i_maskrcnn.heads import Detections

VIEWS = tuple((turns, flip) for flip in (False, True) for turns in range(4))
_SAME = 0.5
"""Overlap (IoU) of boxes of one class, of several views, above which they are one object."""
_AT_A_TIME = 1024
_TINY = 1e-9


def seen(batch: Tensor, view: tuple[int, bool]) -> Tensor:
    """Images (N, C, H, W) flipped and then turned."""
    turns, flip = view
    return torch.rot90(batch.flip(-1) if flip else batch, turns, (-2, -1))


def upright(found: Detections, view: tuple[int, bool], shape: tuple[int, int]) -> Detections:
    """What was found in a view of an image of ``shape`` (height, width), in the image's own pixels."""
    turns, flip = view
    masks = torch.rot90(found.masks, -turns, (-2, -1))
    boxes = found.boxes
    height, width = (shape[1], shape[0]) if turns % 2 else shape
    for _ in range(turns):  # each turns the view back by a quarter, clockwise
        left, top, right, bottom = boxes.unbind(1)
        boxes = torch.stack([height - bottom, left, height - top, right], 1)
        height, width = width, height
    if flip:
        left, top, right, bottom = boxes.unbind(1)
        boxes, masks = torch.stack([width - right, top, width - left, bottom], 1), masks.flip(-1)
    return Detections(boxes, found.scores, found.labels, masks, found.beyond)


def joined(parts: Sequence[Detections], score: float, most: int) -> Detections:
    """One answer of several views. Boxes of a class that overlap a better one by more than half are one object (weighted boxes
    fusion, Solovyev et al. 2021, section 3, with the best box in the place of the mean so far), each view's best of them. Its box
    and mask are the means weighted by score. Its score is their sum over the number of views, so that what few views show is less
    sure; below ``score`` it goes. The best ``most`` stay."""
    if not any(len(part.boxes) for part in parts):
        return parts[0]
    boxes, masks, scores = (
        torch.cat([getattr(part, name) for part in parts]).float()
        for name in ("boxes", "masks", "scores")  # of a network in bf16
    )
    labels = torch.cat([part.labels for part in parts])
    view = torch.cat([torch.full_like(part.labels, number) for number, part in enumerate(parts)])
    leaders = batched_nms(boxes, scores, labels, _SAME)
    group = _groups(boxes, labels, leaders)
    members = _one_of_each(group * len(parts) + view, scores)
    members = members[group[members] >= 0]
    group, weights = group[members], scores[members]
    total = weights.new_zeros(len(leaders)).index_add(0, group, weights)
    weights = weights / total[group].clamp_min(_TINY)
    found = Detections(
        boxes.new_zeros((len(leaders), 4)).index_add(0, group, weights[:, None] * boxes[members]),
        total / len(parts), labels[leaders],
        masks.new_zeros((len(leaders), *masks.shape[1:])).index_add(0, group, weights[:, None, None] * masks[members]),
    )  # fmt: skip
    order = found.scores.argsort(descending=True, stable=True)
    order = order[found.scores[order] >= score]
    kept, beyond = order[:most], max(0, len(order) - most)
    return Detections(found.boxes[kept], found.scores[kept], found.labels[kept], found.masks[kept], beyond)


def _groups(boxes: Tensor, labels: Tensor, leaders: Tensor) -> Tensor:
    """(K,) for each box the place in ``leaders`` (L,), which are the best first, of the first that it is one object with; -1:
    of none."""
    place = torch.full_like(labels, -1)
    for some in torch.split(torch.arange(len(boxes), device=boxes.device), _AT_A_TIME):
        same = (box_iou(boxes[some], boxes[leaders]) > _SAME) & (labels[some, None] == labels[None, leaders])
        place[some] = torch.where(same.any(1), same.int().argmax(1), -1)
    place[leaders] = torch.arange(len(leaders), device=boxes.device)
    return place


def _one_of_each(keys: Tensor, scores: Tensor) -> Tensor:
    """The places of the best of each key."""
    order = scores.argsort(descending=True, stable=True)
    _, numbers = torch.unique(keys[order], return_inverse=True)
    first = numbers.new_full((int(numbers.max()) + 1,), len(keys))
    return order[first.scatter_reduce(0, numbers, torch.arange(len(keys), device=keys.device), "amin")]
