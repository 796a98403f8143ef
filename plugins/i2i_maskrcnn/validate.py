"""What a network in training is judged by, the rules that suit it best, and a sheet of samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchvision.ops import box_iou

from i2i.contracts import Instances
from i2i.metrics import THRESHOLDS, Annotations, average_precision, detection_figures, match_labels
from i2i.pictures import outlined, picture_of, write_sheet
from i2i_maskrcnn.data import Objects
from i2i_maskrcnn.examples import ObjectExample, known_boxes, objects_of
from i2i_maskrcnn.heads import Rules
from i2i_maskrcnn.masks import centred, find_objects, instances, padded
from i2i_maskrcnn.network import MaskRCNN

_SCORES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
_OVERLAPS = (0.3, 0.4, 0.5, 0.6)
_AREAS = (0, 4, 8, 12, 16, 20, 24, 32)
_SHOWN = 512
_MOST, _EACH = 600, 200
"""Objects in an image, at least, and pixels for each that it may hold."""
_COCO = Rules(score=0.05, nms=0.5, most=100)
OVERLAP = 0.3
"""Share of an object under better ones above which it goes, where no true ones overlap."""
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Chosen:
    """The rules that a model's header recommends."""

    score: float = 0.5
    nms: float = 0.5
    min_area: int = 0
    overlap: float = OVERLAP


# ------------------------------------------------------------------------------------------------------- in training


def main_figure(examples: Sequence[ObjectExample], network: MaskRCNN) -> str:
    """Which figure of :func:`validate` is to be as large as possible."""
    if "heads" not in network.learns:
        return "ar"
    return "mask_ap" if _as_coco(examples, network) else "ap50"


def _as_coco(examples: Sequence[ObjectExample], network: MaskRCNN) -> bool:
    """Whether objects overlap, or are of several classes: no label image holds them."""
    return network.config.classes > 1 or any(len(example.truth) > 1 for example in examples)


def validate(examples: Sequence[ObjectExample], device: str, network: MaskRCNN) -> dict[str, float]:
    """``ar``: recall of the proposals' boxes, mean over the IoU 0.5, 0.55 .. 0.95, and ``recall``: that at 0.5. Of the objects
    ``ap50``: mean over images of AP at IoU 0.5 of the label images, at the ``score`` that suits best; or, where they overlap or
    are of several classes, COCO's ``mask_ap``, ``mask_ap50`` and ``box_ap``. A network whose heads do not learn has the first two
    alone."""
    coco = _as_coco(examples, network)
    met, found = [], []
    for example in examples:
        seen = _see(network, example, device)
        met.append(_best_overlaps(known_boxes(example), seen.proposals[0].cpu()))
        if "heads" in network.learns:
            rules = _COCO if coco else Rules(min(_SCORES), most=_most(example))
            found.append(seen.found(rules, 1.0 if coco else OVERLAP))
    figures = _recalls(torch.cat(met))
    if not found:
        return figures
    return figures | (_coco_figures(found, examples, network.config.classes) if coco else _label_figures(found, examples))


@dataclass(frozen=True)
class _Seen:
    """What a network sees of an image of ``shape``, once for several rules."""

    network: MaskRCNN
    features: dict[str, Tensor]
    proposals: list[Tensor]
    shape: tuple[int, int]

    def found(self, rules: Rules, overlap: float) -> Instances:
        detections = self.network.roi_heads.detect(self.features, self.proposals, self.shape, rules)
        return instances(centred(detections[0]), self.shape, 0, overlap)


def _see(network: MaskRCNN, example: ObjectExample, device: str) -> _Seen:
    shape = (example.image.shape[1], example.image.shape[2])
    window = padded(example.image.to(device), network.config.stride)
    features, proposals, _ = network.propose(window, _most(example), shape)
    return _Seen(network, features, proposals, shape)


def _most(example: ObjectExample) -> int:
    return max(_MOST, example.image.shape[1] * example.image.shape[2] // _EACH)


def _best_overlaps(truth: Tensor, proposals: Tensor) -> Tensor:
    """(M,) the IoU of each true box (M, 4) with the proposal (K, 4) that fits best."""
    if not len(truth) or not len(proposals):
        return torch.zeros(len(truth))
    return torch.cat([box_iou(part, proposals).amax(1) for part in torch.split(truth, 256)])


def _recalls(overlaps: Tensor) -> dict[str, float]:
    """Without any true object, 1."""
    shares = [float((overlaps >= least).float().mean()) if len(overlaps) else 1.0 for least in THRESHOLDS]
    return {"ar": float(np.mean(shares)), "recall": shares[0]}


def _label_figures(found: Sequence[Instances], examples: Sequence[ObjectExample]) -> dict[str, float]:
    scores: dict[float, float] = {}
    for score in _SCORES:
        pairs = [_pair(objects, example, score, 0, 1) for objects, example in zip(found, examples, strict=True)]
        scores[score] = float(np.mean([average_precision(match_labels(*pair), 0.5).ap for pair in pairs]))
    best = max(scores, key=lambda score: scores[score])
    return {"ap50": scores[best], "score": best}


def _coco_figures(found: Sequence[Instances], examples: Sequence[ObjectExample], classes: int) -> dict[str, float]:
    sizes = [(example.image.shape[1], example.image.shape[2]) for example in examples]
    given = [Annotations.of_instances(objects, size) for objects, size in zip(found, sizes, strict=True)]
    figures = detection_figures(given, [_annotated(example, classes) for example in examples], most=_COCO.most)
    return {name: figures.get(name, 0.0) for name in ("mask_ap", "mask_ap50", "box_ap")}


def _annotated(example: ObjectExample, classes: int) -> Annotations:
    """The truth; a crowd is one of every class."""
    objects = objects_of(example.truth, example.classes)
    single, crowds = np.flatnonzero(objects.classes > 0), np.flatnonzero(objects.classes < 0)
    every = objects.take([*single, *np.repeat(crowds, classes)])
    labels = np.concatenate([objects.classes[single], np.tile(np.arange(1, classes + 1), len(crowds))])
    annotated = Annotations.of_instances(every, (example.image.shape[1], example.image.shape[2]))
    return replace(annotated, classes=labels, crowds=np.arange(len(labels)) >= len(single))


# ------------------------------------------------------------------------------------------------------ label images


def drawn(objects: Instances, shape: tuple[int, int], score: float = 0.0, min_area: int = 0) -> Labels:
    """(H, W) of numbers from 1: those of at least ``score`` and ``min_area``, the higher score on top."""
    labels = np.zeros(shape, np.int64)
    for number in np.argsort(objects.scores, kind="stable").tolist():
        mask = objects.masks[number]
        if objects.scores[number] >= score and mask.sum() >= min_area:
            top, left, bottom, right = objects.boxes[number].tolist()
            labels[top:bottom, left:right][mask] = number + 1
    return labels


def true_labels(example: ObjectExample, label: int = 0) -> tuple[Labels, npt.NDArray[np.bool_]]:
    """(H, W) of the ids of a class, or of all for 0, later layers on top; and the pixels of crowds alone, which do not count."""
    labels, crowd = np.zeros(example.truth.shape[1:], np.int64), np.zeros(example.truth.shape[1:], bool)
    for layer in example.truth.numpy().astype(np.int64):
        classes = example.classes.numpy()[layer]
        labels = np.where((classes == label) if label else (classes > 0), layer, labels)
        crowd |= classes < 0
    return labels, crowd & (labels == 0)


def _pair(objects: Instances, example: ObjectExample, score: float, area: int, label: int) -> tuple[Labels, Labels]:
    """Found and true objects of a class as label images."""
    truth, crowd = true_labels(example, label)
    chosen = objects.take(np.flatnonzero(objects.classes == label))
    return np.where(crowd, 0, drawn(chosen, truth.shape, score, area)), truth


# --------------------------------------------------------------------------------------------------------- the rules


def best_rules(data: Objects, network: MaskRCNN, device: str) -> Chosen:
    """The rules with which the validation images score highest (mean over them, and in each over its classes, of AP at IoU 0.5
    and of AP over IoU 0.5 to 0.95). Never is an area too small that more than one true object in a hundred, of all images,
    has."""
    coco = _as_coco(data.held, network)
    overlap = 1.0 if coco else OVERLAP
    found: dict[float, list[Instances]] = {nms: [] for nms in _OVERLAPS}
    for example in data.held:
        seen = _see(network, example, device)
        for nms, several in found.items():
            several.append(seen.found(Rules(min(_SCORES), nms, most=_COCO.most if coco else _most(example)), overlap))
    scores = {(score, nms): _score(found[nms], data.held, score, 0) for nms in _OVERLAPS for score in _SCORES}
    score, nms = max(scores, key=lambda rules: scores[rules])
    areas = [area for area in _AREAS if area <= _small(data.all)]
    return Chosen(score, nms, max(areas, key=lambda area: _score(found[nms], data.held, score, area)), overlap)


def _score(found: Sequence[Instances], examples: Sequence[ObjectExample], score: float, area: int) -> float:
    return float(np.mean([_image_score(*both, score, area) for both in zip(found, examples, strict=True)]))


def _image_score(objects: Instances, example: ObjectExample, score: float, area: int) -> float:
    classes = {*objects.classes[objects.scores >= score].tolist(), *example.classes[example.classes > 0].tolist()}
    scores = [_class_score(*_pair(objects, example, score, area, label)) for label in sorted(classes)]
    return float(np.mean(scores)) if scores else 2.0


def _class_score(prediction: Labels, truth: Labels) -> float:
    overlaps = match_labels(prediction, truth)
    scores = [average_precision(overlaps, least).ap for least in THRESHOLDS]
    return scores[0] + float(np.mean(scores))


def _small(examples: Sequence[ObjectExample]) -> float:
    """The area that one true object in a hundred does not reach, in pixels."""
    areas = []
    for example in examples:
        objects = objects_of(example.truth, example.classes)
        areas += [mask.sum() for mask, label in zip(objects.masks, objects.classes, strict=True) if label > 0]
    return float(np.quantile(areas, 0.01)) if areas else 0.0


def write_samples(path: Path, examples: Sequence[ObjectExample], device: str, network: MaskRCNN) -> None:
    """A PNG with a row for each example: the image, the truth, what the network finds; at most 512 pixels a side."""
    rows = []
    for example in examples:
        image = example.image[:, :_SHOWN, :_SHOWN]
        below = picture_of(image.permute(1, 2, 0).numpy())
        truth, _ = true_labels(replace(example, image=image, truth=example.truth[:, :_SHOWN, :_SHOWN]))
        found = find_objects(network, image.to(device), Rules(0.5, most=_MOST), 0, OVERLAP)
        rows.append([below, outlined(truth, below), outlined(drawn(found, truth.shape), below)])
    write_sheet(path, rows)
