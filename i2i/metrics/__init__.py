"""How good a result is: objects in label images, classes of pixels, regions between membranes, and figures of many images
pooled.

The figures of an image are a flat dict that holds counts beside scores, so a set can be *pooled* (counts added, then
scored: each object, or pixel, weighs the same) and *averaged* (each image weighs the same). See :func:`pool_objects`.
"""

from __future__ import annotations

from i2i.metrics.classes import ClassScores, as_classes, class_figures, class_scores, pool_classes
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
from i2i.metrics.sets import Figures, add_figures, mean_figures
from i2i.metrics.warping import splits_and_mergers, warp, warping_error

__all__ = [
    "REGION_THRESHOLDS",
    "THRESHOLDS",
    "Agreement",
    "ClassScores",
    "Counts",
    "Figures",
    "Overlaps",
    "PairCounts",
    "add_figures",
    "agreement",
    "as_classes",
    "average_precision",
    "cells_of",
    "class_figures",
    "class_scores",
    "close_pairs",
    "jaccard_counts",
    "match_labels",
    "mean_figures",
    "merged_pairs",
    "object_figures",
    "pair_figures",
    "pool_classes",
    "pool_objects",
    "pool_pairs",
    "pool_regions",
    "region_figures",
    "splits_and_mergers",
    "thinned",
    "warp",
    "warping_error",
]
