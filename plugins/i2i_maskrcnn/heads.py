"""The heads for boxes and masks (He et al. 2017, section 3), on torchvision's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss, maskrcnn_loss, project_masks_on_boxes
from torchvision.ops import batched_nms, clip_boxes_to_image

from i2i.errors import NotFinite
from i2i_maskrcnn.config import MaskRCNNConfig
from i2i_maskrcnn.proposals import Target, in_crowd
from i2i_maskrcnn.regions import RegionFeatures
from i2i_maskrcnn.suppress import soft_suppressed

MASKS_AT_A_TIME, BOXES_AT_A_TIME = 64, 512
_SMALLEST = 1e-2
"""Sides of a box that is an object, in pixels, as in torchvision."""
_FEWEST = 8
"""Regions that the heads are given at a time, at least."""


@dataclass(frozen=True)
class Rules:
    """Which detections stay: ``score`` at least, ``nms``: of two boxes of a class whose intersection over union is above it the
    lower goes, or with ``soft`` its score falls (Bodla et al. 2017); at most ``most`` of an image, of ``classes`` only (all when
    empty)."""

    score: float = 0.05
    nms: float = 0.5
    soft: bool = False
    most: int = 100
    classes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Detections:
    """K objects of one image, best first: ``boxes`` (K, 4) float32 x1, y1, x2, y2 in pixels, ``scores`` (K,) 0 .. 1, ``labels``
    (K,) int64 from 1, ``masks`` (K, m, m) float32 0 .. 1 within the boxes; ``beyond``: how many more there would have been."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    masks: Tensor
    beyond: int = 0


class Heads(RoIHeads):  # type: ignore[misc]
    """torchvision's, with its names of weights. ``mask_loss``: sigmoid, or softmax over the classes and none of them."""

    mask_loss = "sigmoid"

    # ------------------------------------------------------------------------------------------------------------ training

    def losses(self, features: Mapping[str, Tensor], proposals: list[Tensor], targets: Sequence[Target]) -> dict[str, Tensor]:
        """``cls``, ``box`` and ``mask``: L_cls, L_box and L_mask (section 3). Where proposals have a gradient it flows through
        the features of their regions, and, of those on objects, through what the box head is to say of them: a proposal nearer to
        its object asks for less. Which object that is, and the part of its mask, are taken as fixed."""
        boxes, matched, labels = self._sampled(proposals, targets)
        nothing = self._nothing(features)
        if not sum(map(len, boxes)):  # in a crowd that is everywhere, nothing is background
            return {"cls": nothing, "box": nothing, "mask": nothing}
        objects = [torch.where(label[:, None] > 0, one, one.detach()) for one, label in zip(boxes, labels, strict=True)]
        wanted = self.box_coder.encode(self._matched_boxes(targets, matched), objects)
        logits, deltas = self._boxes(self.box_roi_pool(features, boxes))
        cls, box = fastrcnn_loss(logits, deltas, labels, list(wanted))
        positive = [torch.nonzero(one > 0)[:, 0] for one in labels]
        chosen = [one[places] for one, places in zip(boxes, positive, strict=True)]
        numbers = [one[places] for one, places in zip(matched, positive, strict=True)]
        if not sum(map(len, chosen)):  # batch normalisation has no statistics of nothing
            return {"cls": cls, "box": box, "mask": nothing}
        return {"cls": cls, "box": box, "mask": self._mask_loss(self._masks(features, chosen), chosen, numbers, targets)}

    def _nothing(self, features: Mapping[str, Tensor]) -> Tensor:
        """0, with a gradient of 0 for everything, which several processes average."""
        every = [*self.parameters(), *(features[name] for name in self.box_roi_pool.names)]
        return torch.stack([0 * tensor.flatten()[:1].float().sum() for tensor in every]).sum()

    def _sampled(self, proposals: list[Tensor], targets: Sequence[Target]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """The proposals to learn from, with the true boxes among them; for each the number of its object, and its label."""
        boxes = [torch.cat([one, target["boxes"]]) for one, target in zip(proposals, targets, strict=True)]
        given = [one.detach() for one in boxes]
        true, classes = [target["boxes"] for target in targets], [target["labels"] for target in targets]
        matched, labels = self.assign_targets_to_proposals(given, true, classes)
        for label, one, target in zip(labels, given, targets, strict=True):
            label[in_crowd(one, target["crowds"]) & (label == 0)] = -1
        kept = self.subsample(labels)
        found = [[one[places] for one, places in zip(several, kept, strict=True)] for several in (boxes, matched, labels)]
        return found[0], found[1], found[2]

    @staticmethod
    def _matched_boxes(targets: Sequence[Target], matched: list[Tensor]) -> list[Tensor]:
        """The true box of each; of an image without objects, none that counts."""
        boxes = [target["boxes"] if len(target["boxes"]) else target["boxes"].new_zeros((1, 4)) for target in targets]
        return [true[numbers] for true, numbers in zip(boxes, matched, strict=True)]

    def _mask_loss(self, logits: Tensor, boxes: list[Tensor], matched: list[Tensor], targets: Sequence[Target]) -> Tensor:
        """Of logits (K, 1 + classes, m, m), against the part of each object's mask that its proposal holds. ``sigmoid``: binary
        cross entropy of the true class's mask; the others add nothing (section 3). ``softmax``: cross entropy over the classes
        and the background, pixel by pixel (section 4.2, "multinomial vs. independent masks")."""
        boxes = [one.detach() for one in boxes]
        masks, classes = [target["masks"] for target in targets], [target["labels"] for target in targets]
        if self.mask_loss == "sigmoid":
            return maskrcnn_loss(logits, boxes, masks, classes, matched)
        side = logits.shape[-1]
        inside = torch.cat([project_masks_on_boxes(*one, side) for one in zip(masks, boxes, matched, strict=True)]) >= 0.5
        labels = torch.cat([one[numbers] for one, numbers in zip(classes, matched, strict=True)])
        return nn.functional.cross_entropy(logits, inside * labels[:, None, None])

    # ------------------------------------------------------------------------------------------------------------- the parts

    def _boxes(self, features: Tensor) -> tuple[Tensor, Tensor]:
        logits, deltas = self.box_predictor(self.box_head(features.to(self._dtype)))
        return logits.float(), deltas.float()

    def _masks(self, features: Mapping[str, Tensor], boxes: list[Tensor]) -> Tensor:
        """(K, 1 + classes, m, m) logits."""
        seen = self.mask_roi_pool(features, boxes).to(self._dtype)
        return self.mask_predictor(self.mask_head(seen)).float()

    @property
    def _dtype(self) -> torch.dtype:
        return self.box_predictor.cls_score.weight.dtype

    # ------------------------------------------------------------------------------------------------------------ inference

    def detect(
        self, features: Mapping[str, Tensor], proposals: list[Tensor], shape: tuple[int, int], rules: Rules
    ) -> list[Detections]:
        """The objects of each image; ``shape``: height and width of all."""
        found = []
        for number, boxes in enumerate(proposals):
            own = self.box_roi_pool.prepared({name: level[number : number + 1] for name, level in features.items()})
            found.append(self._detect_one(own, boxes, shape, rules))
        return found

    def _detect_one(self, features: Mapping[str, Tensor], proposals: Tensor, shape: tuple[int, int], rules: Rules) -> Detections:
        parts = [
            [values[: len(part)] for values in self._boxes(self.box_roi_pool(features, [filled(part, BOXES_AT_A_TIME)]))]
            for part in torch.split(proposals, BOXES_AT_A_TIME)
        ]
        logits, deltas = (torch.cat(both) for both in zip(*parts, strict=True))
        require_finite(logits, deltas)
        boxes, scores, labels = self._candidates(logits, deltas, proposals, shape, rules)
        if rules.soft:
            kept, scores = soft_suppressed(boxes, scores, labels, rules.nms, rules.score)
        else:
            kept = batched_nms(boxes, scores, labels, rules.nms)
            scores = scores[kept]
        beyond = max(0, len(kept) - rules.most)
        kept, scores = kept[: rules.most], scores[: rules.most]
        boxes, labels = boxes[kept], labels[kept]
        return Detections(boxes, scores, labels, self._mask_probabilities(features, boxes, labels), beyond)

    def _candidates(
        self, logits: Tensor, deltas: Tensor, proposals: Tensor, shape: tuple[int, int], rules: Rules
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes (K, 4), scores and labels, each proposal once for each class that it may be of."""
        scores = logits.softmax(1)
        chosen = torch.zeros_like(scores, dtype=torch.bool)
        chosen[:, list(rules.classes) or slice(1, None)] = True
        rows, labels = torch.nonzero(chosen & (scores >= rules.score), as_tuple=True)
        decoded = self.box_coder.decode(deltas, [proposals]).view(len(proposals), -1, 4)
        boxes = clip_boxes_to_image(decoded[rows, labels], shape)
        large = (boxes[:, 2:] - boxes[:, :2]).amin(1) >= _SMALLEST
        return boxes[large], scores[rows, labels][large], labels[large]

    def _mask_probabilities(self, features: Mapping[str, Tensor], boxes: Tensor, labels: Tensor) -> Tensor:
        parts = []
        for some, own in zip(torch.split(boxes, MASKS_AT_A_TIME), torch.split(labels, MASKS_AT_A_TIME), strict=True):
            logits = self._masks(features, [filled(some, MASKS_AT_A_TIME)])[: len(some)]
            require_finite(logits)
            chances = logits.sigmoid() if self.mask_loss == "sigmoid" else logits.softmax(1)
            parts.append(chances[torch.arange(len(own), device=own.device), own])
        side = 2 * self.mask_roi_pool.output_size[0]
        return torch.cat(parts) if parts else boxes.new_zeros((0, side, side))


def require_finite(*answers: Tensor) -> None:
    """Raises ``NotFinite``: a score that is NaN is above no threshold, and all would be well without an object."""
    if not all(bool(answer.isfinite().all()) for answer in answers):
        raise NotFinite


def filled(boxes: Tensor, most: int) -> Tensor:
    """Boxes (K, 4) with idle ones after them, as many as the next power of 2 or ``most``. What computes convolutions keeps what
    it has made for each size of a batch: were there any number of sizes, memory would grow from window to window."""
    size = min(most, max(_FEWEST, 1 << (len(boxes) - 1).bit_length()))
    return torch.cat([boxes, boxes.new_tensor([[0, 0, 1, 1]]).expand(size - len(boxes), -1)])


def heads(config: MaskRCNNConfig, names: Sequence[str], box_head: nn.Module) -> Heads:
    """With fresh weights. ``names``: of the pyramid's levels that regions are taken from. Learns from 128 proposals of an
    image, at most half of them objects: those that overlap a true box by 0.5."""
    norm = nn.BatchNorm2d if config.head_norm else None
    box_pool = RegionFeatures(names, config.strides[: len(names)], 7, config.roi)
    mask_pool = RegionFeatures(names, config.strides[: len(names)], 14, config.roi)
    classes = config.classes + 1
    masks = MaskRCNNHeads(config.width, [config.mask_width] * config.mask_convolutions, 1, norm)
    predictor = MaskRCNNPredictor(config.mask_width, config.mask_width, classes)
    boxes = FastRCNNPredictor(config.box_width, classes)
    built = Heads(box_pool, box_head, boxes, 0.5, 0.5, 128, 0.5, None, 0.05, 0.5, 100, mask_pool, masks, predictor)
    built.mask_loss = config.mask_loss
    return built
