"""How good a result is: objects in label images, detections as COCO measures them, classes of pixels, regions between
membranes, and figures of many images pooled.

The figures of an image are a flat dict that holds counts beside scores, so a set can be *pooled* (counts added, then
scored: each object, or pixel, weighs the same) and *averaged* (each image weighs the same). See :func:`pool_objects`.
"""

from __future__ import annotations

from i2i.metrics.classes import ClassScores, as_classes, class_figures, class_scores, pool_classes
from i2i.metrics.coco import AnnotatedSet, is_coco, read_found, read_truth
from i2i.metrics.detections import MOST, PROPOSALS, Annotations, detection_figures, proposal_recall, recall_figures
from i2i.metrics.labels import label_figures, only_channel, pool_labels
from i2i.metrics.matching import Matched, match_sets
from i2i.metrics.neighbours import PairCounts, close_pairs, merged_pairs, pair_figures, pool_pairs
from i2i.metrics.objects import (
    THRESHOLDS,
    Counts,
    Overlaps,
    average_precision,
    jaccard_counts,
    match_labels,
    object_figures,
    pool_objects,
)
from i2i.metrics.regions import REGION_THRESHOLDS, Agreement, agreement, cells_of, pool_regions, region_figures, thinned
from i2i.metrics.runs import checked_code, code_of
from i2i.metrics.sets import Figures, add_figures, mean_figures
from i2i.metrics.warping import splits_and_mergers, warp, warping_error

__all__ = [
    "MOST",
    "PROPOSALS",
    "REGION_THRESHOLDS",
    "THRESHOLDS",
    "Agreement",
    "AnnotatedSet",
    "Annotations",
    "ClassScores",
    "Counts",
    "Figures",
    "Matched",
    "Overlaps",
    "PairCounts",
    "add_figures",
    "agreement",
    "as_classes",
    "average_precision",
    "cells_of",
    "checked_code",
    "class_figures",
    "class_scores",
    "close_pairs",
    "code_of",
    "detection_figures",
    "is_coco",
    "jaccard_counts",
    "label_figures",
    "match_labels",
    "match_sets",
    "mean_figures",
    "merged_pairs",
    "object_figures",
    "only_channel",
    "pair_figures",
    "pool_classes",
    "pool_labels",
    "pool_objects",
    "pool_pairs",
    "pool_regions",
    "proposal_recall",
    "read_found",
    "read_truth",
    "recall_figures",
    "region_figures",
    "splits_and_mergers",
    "thinned",
    "warp",
    "warping_error",
]
