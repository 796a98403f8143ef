"""The region proposal network (Ren et al. 2015, section 3.1), on torchvision's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead, concat_box_prediction_layers

from i2i_maskrcnn.config import MaskRCNNConfig

Target = Mapping[str, Tensor]
"""Of one image: ``boxes`` (M, 4) float32 x1, y1, x2, y2; ``labels`` (M,) int64 from 1; ``masks`` (M, H, W) uint8; ``crowds``
(C, 4): boxes around objects that are not told apart, in which nothing is background."""
_IN_CROWD = 0.5
_OBJECT, _BACKGROUND = 0.7, 0.3
"""Overlap (IoU) with an object from which an anchor is to find it, and below which it is background (section 3.1.2)."""
_AT_A_TIME = 16
_KEPT = 1000
"""Proposals of an image in training, of each level before and of all after suppression: half of torchvision's."""


def in_crowd(boxes: Tensor, crowds: Tensor) -> Tensor:
    """(K,) bool: whether more than half of each box (K, 4) lies in one of the ``crowds`` (C, 4)."""
    if not len(crowds):
        return torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    least, most = torch.maximum(boxes[:, None, :2], crowds[None, :, :2]), torch.minimum(boxes[:, None, 2:], crowds[None, :, 2:])
    shared = (most - least).clamp_min(0).prod(2)
    areas = (boxes[:, 2:] - boxes[:, :2]).clamp_min(0).prod(1)
    return (shared > _IN_CROWD * areas[:, None]).any(1)


def match_anchors(anchors: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """What anchors (N, 4) are to say, given the true boxes (M, 4): labels (N,) float32: 1 object, 0 background, -1 neither
    (section 3.1.2); and for each the number of the object that it overlaps most. As torchvision's, in less time and memory."""
    highest, number = anchors.new_zeros(len(anchors)), torch.zeros(len(anchors), dtype=torch.int64, device=anchors.device)
    nearest = torch.zeros(len(anchors), dtype=torch.bool, device=anchors.device)
    columns = [column.contiguous() for column in anchors.unbind(1)]
    for start in range(0, len(boxes), _AT_A_TIME):
        overlap = _overlap(boxes[start : start + _AT_A_TIME], columns)
        value, place = overlap.max(0)
        number = torch.where(value > highest, place + start, number)
        highest = torch.maximum(highest, value)
        most = overlap.amax(1, keepdim=True)  # each object has its nearest anchors, however little they overlap
        nearest |= ((overlap == most) & (most > 0)).any(0)
    labels = torch.where(highest < _BACKGROUND, 0.0, -1.0)
    labels[nearest | (highest >= _OBJECT)] = 1.0
    return labels, number


def _overlap(boxes: Tensor, columns: Sequence[Tensor]) -> Tensor:
    """(M, N) intersection over union of boxes (M, 4) and others, given as their x1, y1, x2, y2 (N,)."""
    left, top, right, bottom = columns
    first, second, third, fourth = (column[:, None] for column in boxes.unbind(1))
    shared = torch.minimum(right, third).sub_(torch.maximum(left, first)).clamp_(min=0)
    shared *= torch.minimum(bottom, fourth).sub_(torch.maximum(top, second)).clamp_(min=0)
    areas = (right - left) * (bottom - top) + (third - first) * (fourth - second)
    return shared.div_(areas.sub_(shared))


class ProposalNetwork(RegionProposalNetwork):  # type: ignore[misc]
    """torchvision's, with its names of weights. ``joined``: the gradient of what is made of the proposals flows into their
    coordinates (Ren et al. 2017, section 3.2, "non-approximate joint training"); otherwise they are taken as fixed."""

    joined = False

    def assign_targets_to_anchors(self, anchors: list[Tensor], targets: Sequence[Target]) -> tuple[list[Tensor], list[Tensor]]:
        """Of each image the labels of its anchors (N,), and for each anchor a true box (N, 4). Anchors on a crowd are neither
        object nor background."""
        labels, boxes = [], []
        for own, target in zip(anchors, targets, strict=True):
            label, number = match_anchors(own, target["boxes"])
            label[in_crowd(own, target["crowds"]) & (label == 0)] = -1.0
            labels.append(label)
            boxes.append(target["boxes"][number] if len(target["boxes"]) else own)
        return labels, boxes

    def propose(
        self, images: Tensor, features: Mapping[str, Tensor], targets: Sequence[Target] | None
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """In training: the proposals (K, 4) for each of the images (N, C, H, W), and with ``targets`` the losses
        ``rpn_objectness`` and ``rpn_box``."""
        levels = list(features.values())
        shapes = [(images.shape[2], images.shape[3])] * len(images)
        objectness, deltas = self.head(levels)
        anchors = self.anchor_generator(ImageList(images, shapes), [level[:, :1].float() for level in levels])  # as fp32
        counts = [one.shape[1] * one.shape[2] * one.shape[3] for one in objectness]
        objectness, deltas = concat_box_prediction_layers([one.float() for one in objectness], [one.float() for one in deltas])
        boxes = self.box_coder.decode(deltas if self.joined else deltas.detach(), anchors).view(len(images), -1, 4)
        proposals, _ = self.filter_proposals(boxes, objectness, shapes, counts)
        return proposals, self._losses(objectness, deltas, anchors, targets) if targets is not None else {}

    def _losses(self, objectness: Tensor, deltas: Tensor, anchors: list[Tensor], targets: Sequence[Target]) -> dict[str, Tensor]:
        labels, matched = self.assign_targets_to_anchors(anchors, targets)
        if not any(bool((one >= 0).any()) for one in labels):  # a crowd is everywhere
            return {"rpn_objectness": 0 * objectness.sum(), "rpn_box": 0 * deltas.sum()}
        wanted = self.box_coder.encode(matched, anchors)
        first, second = self.compute_loss(objectness, deltas, labels, wanted)
        return {"rpn_objectness": first, "rpn_box": second}


def proposal_network(config: MaskRCNNConfig) -> ProposalNetwork:
    """With fresh weights. Samples 256 anchors of an image, at most half of them objects (section 3.1.3)."""
    sizes = tuple((size,) for size in config.anchor_sizes)
    anchors = AnchorGenerator(sizes, (config.aspect_ratios,) * len(sizes))
    head = RPNHead(config.width, anchors.num_anchors_per_location()[0], conv_depth=config.rpn_depth)
    kept = [{"training": _KEPT, "testing": _KEPT} for _ in range(2)]
    return ProposalNetwork(anchors, head, _OBJECT, _BACKGROUND, 256, 0.5, *kept, nms_thresh=0.7)
