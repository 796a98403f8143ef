"""Suppression of double detections by falling scores."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import box_iou


def soft_suppressed(boxes: Tensor, scores: Tensor, labels: Tensor, threshold: float, least: float) -> tuple[Tensor, Tensor]:
    """Soft-NMS with the linear penalty (Bodla et al. 2017, "Soft-NMS", equation in section 3): box by box, the best one left
    stays, and the scores of those of its class that overlap it by more than ``threshold`` fall by the factor 1 - IoU.

    ``boxes`` (K, 4) x1, y1, x2, y2, ``scores`` and ``labels`` (K,). Gives the places of those whose score stays at or above
    ``least`` (from 0), best first, and their new scores. The memory is that of one row of overlaps at a time.
    """
    left = scores.clone()
    places: list[int] = []
    found: list[Tensor] = []
    while len(left):
        highest, place = left.max(0)
        if highest < least:
            break
        best = int(place)
        places.append(best)
        found.append(highest)
        overlap = box_iou(boxes[best : best + 1], boxes)[0] * (labels == labels[best])
        left = torch.where((overlap > threshold) & (left > 0), left * (1 - overlap), left)  # those taken stay at -1
        left[best] = -1
    return torch.tensor(places, dtype=torch.int64, device=boxes.device), torch.stack(found) if found else scores[:0]
