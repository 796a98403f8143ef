"""Figures of objects against their truth (``i2i eval instances``): label images, COCO JSON, or one of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from i2i.contracts import Compared
from i2i.errors import InputError
from i2i.metrics import (
    detection_figures,
    is_coco,
    label_figures,
    match_sets,
    pool_labels,
    read_found,
    read_truth,
    recall_figures,
)
from i2i_maskrcnn.eval_options import EvalOptions


def measure(case: Compared, options: EvalOptions) -> Mapping[str, float]:
    """Figures of one image: label images of integers, one channel each. Raises ``InputError`` for anything else."""
    return label_figures(case.prediction, case.truth, case.inside)


def pool(figures: Sequence[Mapping[str, float]]) -> Mapping[str, float]:
    """The figures of a set of images."""
    return pool_labels(figures)


def files(prediction: Path, truth: Path, options: EvalOptions) -> Mapping[str, float] | None:
    """COCO's figures where one of the two is COCO JSON, or a folder of it, or where recall of proposals is asked for; else None.

    The other may be label images: their objects have the score 1 and no class, and classes do not count then. ``left_out``:
    detections of classes that the truth does not have. Raises ``InputError``.
    """
    if not (options.proposals or is_coco(prediction) or is_coco(truth)):
        return None
    true = read_truth(truth)
    matched = match_sets(read_found(prediction, true), true, options.ignore_classes or options.proposals)
    try:
        if options.proposals:
            return recall_figures(matched.found, matched.true)
        found = detection_figures(matched.found, matched.true, matched.names, options.max_detections)
    except InputError as error:
        raise InputError(f"{prediction} (truth: {truth}): {error}") from error
    return found | ({"left_out": matched.left_out} if matched.left_out else {})
