"""Proposals at inference, as torchvision's: only what may become one is decoded, and there are as many as a dense image needs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import batched_nms, clip_boxes_to_image, remove_small_boxes

from i2i_maskrcnn.heads import require_finite
from i2i_maskrcnn.proposals import ProposalNetwork

_FIRST = 1000
"""Proposals that are taken whatever their score, of each level before suppression and of an image after it, as in torchvision."""
_BEFORE, _AFTER = 4, 2
"""Beyond those: so many for each object that may be in the image, before and after suppression ..."""
_LEAST = 0.5
"""... with at least this score: more likely an object than not. (A trained network gives hundreds of
anchors around each object a score above 0.05.)"""
_SMALLEST = 1e-3
_OVERLAP = 0.7


def proposed(
    rpn: ProposalNetwork, levels: Sequence[Tensor], padded: tuple[int, int], shape: tuple[int, int], most: int
) -> list[tuple[Tensor, Tensor]]:
    """Of each of N images boxes (K, 4) float32 x1, y1, x2, y2 in its pixels, and scores (K,) 0 .. 1, best first.

    ``levels``: of the pyramid, (N, C, H_l, W_l), finest first. ``padded``: height and width of the images, ``shape``: of what is
    not padding. ``most``: objects that one of them may hold."""
    predicted = [tuple(one[0] for one in rpn.head([level])) for level in levels]
    require_finite(*(one for both in predicted for one in both))
    found = []
    for image in range(len(levels[0])):
        parts = [
            _of_level(rpn, number, objectness[image], deltas[image], padded, most)
            for number, (objectness, deltas) in enumerate(predicted)
        ]
        found.append(_suppressed(parts, shape, most))
    return found


def _of_level(
    rpn: ProposalNetwork, number: int, objectness: Tensor, deltas: Tensor, padded: tuple[int, int], most: int
) -> tuple[Tensor, Tensor]:
    """The best boxes of one level and their scores. ``objectness``: (A, H, W) for A shapes of anchors, ``deltas``: (4 A, H,
    W)."""
    shapes, height, width = objectness.shape
    flat = objectness.permute(1, 2, 0).reshape(-1).float()
    best, index = flat.topk(min(len(flat), max(_FIRST, _BEFORE * most)))
    scores = best.sigmoid()
    good = _worth(scores)
    index, scores = index[good], scores[good]
    place, kind = index // shapes, index % shapes
    moved = deltas.flatten(1).view(shapes, 4, -1)[kind, :, place].float()
    cells = rpn.anchor_generator.cell_anchors[number].to(moved)
    steps = torch.stack([place % width * (padded[1] // width), place // width * (padded[0] // height)], 1)
    anchors = cells[kind] + torch.cat([steps, steps], 1)
    return rpn.box_coder.decode_single(moved, anchors), scores


def _worth(scores: Tensor) -> Tensor:
    """Of scores, best first, which are the first ones or high enough."""
    return (torch.arange(len(scores), device=scores.device) < _FIRST) | (scores >= _LEAST)


def _suppressed(parts: Sequence[tuple[Tensor, Tensor]], shape: tuple[int, int], most: int) -> tuple[Tensor, Tensor]:
    boxes = clip_boxes_to_image(torch.cat([own for own, _ in parts]), shape)
    scores = torch.cat([own for _, own in parts])
    level = torch.cat([torch.full_like(own, number) for number, (_, own) in enumerate(parts)])
    large = remove_small_boxes(boxes, _SMALLEST)
    boxes, scores, level = boxes[large], scores[large], level[large]
    kept = batched_nms(boxes, scores, level, _OVERLAP)[: max(_FIRST, _AFTER * most)]
    kept = kept[_worth(scores[kept])]
    return boxes[kept], scores[kept]
