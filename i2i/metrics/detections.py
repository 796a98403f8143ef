"""Detections against the truth as COCO measures them: average precision and average recall of boxes and of masks.

A detection is right where its intersection over union (IoU) with a true object of its class that no better detection has taken
reaches a threshold; AP is the mean precision at 101 recalls, over the thresholds 0.5, 0.55 ... 0.95 and the classes (Lin et al.,
ECCV 2014, and the COCO API). Detections of a crowd (``iscrowd``) are neither right nor wrong. faster-coco-eval computes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from i2i.contracts import Array, Instances
from i2i.cores import available_cores
from i2i.errors import InputError
from i2i.metrics.objects import number_objects
from i2i.metrics.runs import Code, code_of

Kind = Literal["box", "mask"]
Floats = npt.NDArray[np.float64]
MOST = 100
"""Detections of an image that COCO counts, the best ones."""
PROPOSALS = (10, 100, 1000)
_SIZES = ("small", "medium", "large")
_PAIRS = 2**28
"""Detections times true objects of one image and class, at most: the IoU of each pair is kept, in 8 bytes."""


@dataclass(frozen=True)
class Annotations:
    """The objects of one image as COCO annotates them, N of them, the same order in every field.

    ``boxes``: (N, 4) float64: x, y, width, height in pixels. ``classes``: (N,) int64, any numbers. ``scores``: (N,) float64,
    finite; of the truth they are not read. ``masks``: N codes of the image's size; None: there are boxes alone. ``areas``: (N,)
    float64 in pixels: those of the truth say which objects are small (below 32 x 32), medium and large (from 96 x 96).
    ``crowds``: (N,) bool, those that stand for many objects.
    """

    boxes: Floats
    classes: npt.NDArray[np.int64]
    scores: Floats
    areas: Floats
    crowds: npt.NDArray[np.bool_]
    masks: tuple[Code, ...] | None = None

    def __len__(self) -> int:
        return len(self.boxes)

    @staticmethod
    def of_instances(found: Instances, size: tuple[int, int]) -> Annotations:
        """Those of a detector, or the truth as such, in an image of ``size`` (height, width)."""
        top, left, bottom, right = found.boxes.T.astype(np.float64)
        corners = found.boxes[:, :2].tolist()
        masks = tuple(code_of(mask, y, x, size) for mask, (y, x) in zip(found.masks, corners, strict=True))
        areas = np.array([mask.sum() for mask in found.masks], np.float64)
        boxes, crowds = np.stack([left, top, right - left, bottom - top], 1), np.zeros(len(found), bool)
        return Annotations(boxes, found.classes.astype(np.int64), found.scores.astype(np.float64), areas, crowds, masks)

    @staticmethod
    def of_labels(labels: Array) -> Annotations:
        """The objects of a label image (H, W) in the order of their ids, each of class 1 with score 1. Raises ``InputError`` for
        an array that holds no labels."""
        from scipy.ndimage import find_objects

        numbers = number_objects(labels, "label image")[0].reshape(labels.shape) + 1
        places = find_objects(numbers)
        masks = tuple(numbers[place] == number for number, place in enumerate(places, 1))
        boxes = [[rows.start, columns.start, rows.stop, columns.stop] for rows, columns in places]
        ones = np.ones(len(places))
        objects = Instances(np.array(boxes, np.int64).reshape(-1, 4), ones.astype(np.float32), ones.astype(np.int64), masks)
        return Annotations.of_instances(objects, (labels.shape[0], labels.shape[1]))


def detection_figures(
    found: Sequence[Annotations], true: Sequence[Annotations], names: Mapping[int, str] | None = None, most: int = MOST
) -> dict[str, float]:
    """COCO's figures of a set of images: those found in each image, and the true ones, image by image.

    ``box_ap``, ``box_ap50``, ``box_ap75``, ``box_ap_small``, ``box_ap_medium``, ``box_ap_large``: average precision, 0 .. 1;
    ``box_ar1``, ``box_ar10``, ``box_ar100``: average recall with so many detections an image and class, up to ``most``, which
    bounds AP too; ``box_ar_small`` ... Where found and true objects all have masks, ``mask_ap`` and so on too. ``names``: of
    classes by number; where there are several, ``class/NAME/box_ap`` and so on. A figure without any true object is left
    out. ``images``, ``true`` (without crowds) and ``detections`` are counts, and ``beyond_max_detections``, where there are any:
    detections that do not count because of ``most``. Raises ``InputError`` for scores that are not finite, and for more objects
    in an image than can be compared.
    """
    figures: dict[str, float] = {"images": len(true), "true": _count(true), "detections": sum(map(len, found))}
    if beyond := sum(int(np.maximum(np.unique(each.classes, return_counts=True)[1] - most, 0).sum()) for each in found):
        figures["beyond_max_detections"] = beyond
    limits = [step for step in (1, 10, 100) if step < most] + [most]
    with_masks = all(each.masks is not None for each in (*found, *true))
    kinds: tuple[Kind, ...] = ("box", "mask") if with_masks else ("box",)
    for kind in kinds:
        figures |= _scored(_measured(found, true, kind, limits), kind, names or {})
    return figures


def proposal_recall(
    boxes: Sequence[Array], scores: Sequence[Array], truth: Sequence[Array], limits: Sequence[int] = PROPOSALS
) -> dict[str, float]:
    """How many true objects the best proposals meet, whatever their class; image by image.

    ``boxes``: (N, 4) of each image, ``truth``: (T, 4), first and last corner, in pixels, with one order of the axes in both;
    ``scores``: (N,), any numbers. ``ar100`` is the average recall of 100 proposals an image: the mean over the IoU thresholds
    0.5, 0.55 ... 0.95; ``recall50_100`` the recall at 0.5; and so on for each of ``limits``. Without any true object: none.
    Raises ``InputError`` for scores that are not finite.
    """
    found = [_of_corners(each, np.asarray(score)) for each, score in zip(boxes, scores, strict=True)]
    return recall_figures(found, [_of_corners(each, np.ones(len(each))) for each in truth], limits)


def recall_figures(
    found: Sequence[Annotations], true: Sequence[Annotations], limits: Sequence[int] = PROPOSALS
) -> dict[str, float]:
    """The same as :func:`proposal_recall` of annotations; crowds and classes do not count."""
    limits = sorted(limits)
    table = _measured([_of_one_class(each) for each in found], [_of_one_class(each) for each in true], "box", limits)
    recall = table.recall[:, 0, 0] if table.recall.size else np.full((1, len(limits)), -1.0)  # thresholds, limits
    figures: dict[str, float] = {f"ar{limit}": float(recall[:, place].mean()) for place, limit in enumerate(limits)}
    figures |= {f"recall50_{limit}": float(recall[0, place]) for place, limit in enumerate(limits)}
    return {"images": len(true), "true": _count(true)} | {name: value for name, value in figures.items() if value >= 0}


def _of_corners(corners: Array, scores: Array) -> Annotations:
    corners = np.asarray(corners, np.float64).reshape(-1, 4)
    boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1)
    one = np.ones(len(boxes), np.int64)
    return Annotations(boxes, one, scores.astype(np.float64), boxes[:, 2] * boxes[:, 3], np.zeros(len(boxes), bool))


def _of_one_class(each: Annotations) -> Annotations:
    kept = ~each.crowds  # a crowd takes no proposal from a single object, so that recall is the same without
    one = np.ones(int(kept.sum()), np.int64)
    return Annotations(each.boxes[kept], one, each.scores[kept], each.areas[kept], each.crowds[kept])


def _count(true: Sequence[Annotations]) -> int:
    return sum(int((~each.crowds).sum()) for each in true)


# ------------------------------------------------------------------------------------------------- the library's tables


@dataclass(frozen=True)
class _Table:
    """``precision``: (thresholds, recalls, classes, sizes, limits), ``recall``: the same without recalls; -1 where nothing is
    true. The first of the sizes is all. ``limits``: of detections an image."""

    precision: Floats
    recall: Floats
    classes: tuple[int, ...]
    limits: tuple[int, ...]


def _measured(found: Sequence[Annotations], true: Sequence[Annotations], kind: Kind, limits: Sequence[int]) -> _Table:
    from faster_coco_eval import COCO, COCOeval_faster

    _check(found, true, limits[-1])
    classes = sorted({int(number) for each in true for number in each.classes})
    if not classes:
        return _Table(np.zeros(0), np.zeros(0), (), tuple(limits))
    sets = (_as_coco(true, kind, classes, False), _as_coco(found, kind, classes, True))
    judge = COCOeval_faster(
        *(COCO(each) for each in sets),
        iouType="bbox" if kind == "box" else "segm",
        print_function=lambda *_: None,
        rle_iou_max_workers=available_cores(),
    )
    judge.params.maxDets = list(limits)
    judge.evaluate()
    judge.accumulate()
    precision, recall = (np.asarray(judge.eval[name], np.float64) for name in ("precision", "recall"))
    return _Table(precision, recall, tuple(classes), tuple(limits))


def _check(found: Sequence[Annotations], true: Sequence[Annotations], most: int) -> None:
    for each, other in zip(found, true, strict=True):
        if not np.isfinite(each.scores).all():
            raise InputError("a score is not a finite number: remove such detections")
        if min(len(each), most) * len(other) > _PAIRS:
            raise InputError(
                f"{len(each)} detections beside {len(other)} objects in one image are too many for COCO's figures: "
                "compare label images, or count fewer detections"
            )


def _as_coco(images: Sequence[Annotations], kind: Kind, classes: Sequence[int], judged: bool) -> dict[str, Any]:
    """A COCO data set of the images; ``judged``: the detections', whose areas are those of what is compared."""
    records: list[dict[str, Any]] = []
    for number, each in enumerate(images, 1):
        boxes, areas = each.boxes.tolist(), _areas(each, kind, judged)
        for place in range(len(each)):
            record = {
                "id": len(records) + 1, "image_id": number, "category_id": int(each.classes[place]), "bbox": boxes[place],
                "area": areas[place], "iscrowd": int(each.crowds[place]), "score": float(each.scores[place]),
            }  # fmt: skip
            if kind == "mask" and each.masks is not None:
                record["segmentation"] = each.masks[place]
            records.append(record)
    sizes = [{"id": number, "height": 0, "width": 0} for number in range(1, len(images) + 1)]
    return {"images": sizes, "annotations": records, "categories": [{"id": number} for number in classes]}


def _areas(each: Annotations, kind: Kind, judged: bool) -> list[float]:
    if not judged:
        return each.areas.tolist()
    if kind == "box" or each.masks is None or not len(each):
        return (each.boxes[:, 2] * each.boxes[:, 3]).tolist()
    from faster_coco_eval.core import mask

    return [float(area) for area in mask.area(list(each.masks))]


def _scored(table: _Table, kind: Kind, names: Mapping[int, str]) -> dict[str, float]:
    every = {f"{kind}_{name}": value for name, value in _summary(table, slice(None)).items()}
    for place, number in enumerate(table.classes):
        if number in names and len(table.classes) > 1:
            own = _summary(table, slice(place, place + 1))
            every |= {f"class/{names[number]}/{kind}_{name}": value for name, value in own.items()}
    return every


def _summary(table: _Table, classes: slice) -> dict[str, float]:
    """COCO's figures of the chosen classes: means of what is not -1."""
    if not table.precision.size:
        return {}
    precision, recall = table.precision[:, :, classes], table.recall[:, classes]
    parts = {"ap": precision[:, :, :, 0, -1], "ap50": precision[0, :, :, 0, -1], "ap75": precision[5, :, :, 0, -1]}
    parts |= {f"ap_{size}": precision[:, :, :, place, -1] for place, size in enumerate(_SIZES, 1)}
    parts |= {f"ar{limit}": recall[:, :, 0, place] for place, limit in enumerate(table.limits)}
    parts |= {f"ar_{size}": recall[:, :, place, -1] for place, size in enumerate(_SIZES, 1)}
    return {name: float(part[part > -1].mean()) for name, part in parts.items() if (part > -1).any()}
