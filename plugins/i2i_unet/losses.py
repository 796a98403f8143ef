"""The losses of segmentation, each a small function of logits and classes."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def weighted_cross_entropy(logits: Tensor, classes: Tensor, weights: Tensor) -> Tensor:
    """E = -sum_x w(x) log p_l(x)(x) / sum_x w(x) (Ronneberger et al. 2015, equation 1, divided by the sum of weights so
    that the learning rate does not depend on them). 0 where every weight is 0.

    logits (N, C, H, W), classes (N, H, W) int64, weights (N, H, W) float32 >= 0.
    """
    each = functional.cross_entropy(logits.float(), classes, reduction="none")
    return (weights * each).sum() / weights.sum().clamp_min(1e-6)


def soft_dice(logits: Tensor, classes: Tensor, counted: Tensor | None = None) -> Tensor:
    """1 - 2 sum(p t) / (sum(p) + sum(t)), mean over the classes but the background, over the whole batch (Milletari et al.
    2016, section 3, with the plain sums of Sudre et al. 2017). Shapes as above; ``counted``: (N, H, W) bool."""
    probabilities = logits.float().softmax(1)[:, 1:]
    truth = functional.one_hot(classes, logits.shape[1]).movedim(-1, 1)[:, 1:].float()
    if counted is not None:
        probabilities, truth = probabilities * counted[:, None], truth * counted[:, None]
    both = (probabilities * truth).sum((0, 2, 3))
    total = probabilities.sum((0, 2, 3)) + truth.sum((0, 2, 3))
    return 1 - (2 * (both + 1) / (total + 2)).mean()


def balance(counts: Tensor) -> Tensor:
    """w_c of the weight map, (C,) float32: inversely to the class's pixels ``counts`` (C,), so that each class weighs the same in
    all, and the pixels' mean is 1. A class without pixels has 0."""
    counts = counts.double()
    there = counts > 0
    shares = counts.sum() / (there.sum() * counts.clamp_min(1))
    return torch.where(there, shares, 0.0).float()
