"""The options of an evaluation of objects, from which the command line is made."""

from __future__ import annotations

from dataclasses import dataclass

from i2i.options import option

HEADLINE = (
    "images", "ap*", "f1_*", "precision50", "recall50", "[ps]q", "aji", "merged", "split", "merged_share",
    "true", "detections", "left_out", "beyond_max_detections",
    "box_ap*", "box_ar[0-9]*", "mask_ap*", "mask_ar[0-9]*", "ar[0-9]*", "recall50_*",
)  # fmt: skip
"""The figures that are shown without ``-v``."""


@dataclass(frozen=True)
class EvalOptions:
    """``i2i eval instances``."""

    max_detections: int = option(
        100, help="COCO JSON: the best N of each image and class count (default: 100, as COCO does)", minimum=1
    )
    ignore_classes: bool = option(False, help="COCO JSON: a detection may match an object of any class")
    proposals: bool = option(False, help="recall of the boxes alone, of any class: of the best 10, 100 and 1000 in each image")
