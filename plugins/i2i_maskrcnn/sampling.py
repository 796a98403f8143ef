"""RoIAlign without gradients on a CPU, several times faster than torchvision's: each bin is a weighted sum of rows of a table."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def aligned(features: Tensor, regions: Tensor, size: int, scale: float, samples: int) -> Tensor:
    """What ``torchvision.ops.roi_align`` gives (He et al. 2017, section 3), but for rounding.

    ``features``: (N, C, H, W) fp32 or bf16, best channels last, which are not copied. ``regions``: (K, 5) float32, the number of
    the image and x1, y1, x2, y2 in pixels; ``scale``: pixels of the features in one of those. ``samples``: along each side of a
    bin. Gives (K, C, size, size) in the dtype of the features, channels last.
    """
    channels, height, width = features.shape[1:]
    table = features.permute(0, 2, 3, 1).reshape(-1, channels)
    x, across = _corners(regions[:, 1] * scale, regions[:, 3] * scale, width, size, samples)
    y, down = _corners(regions[:, 2] * scale, regions[:, 4] * scale, height, size, samples)
    rows = (regions[:, 0].int() * height)[:, None, None] + y
    places = rows[:, :, None, :, None] * width + x[:, None, :, None, :]
    weights = down[:, :, None, :, None] * across[:, None, :, None, :]
    bag = (2 * samples) ** 2
    values = nn.functional.embedding_bag(
        places.reshape(-1, bag), table, per_sample_weights=weights.reshape(-1, bag).to(table.dtype), mode="sum"
    )
    return values.view(-1, size, size, channels).permute(0, 3, 1, 2)


def _corners(start: Tensor, stop: Tensor, length: int, size: int, samples: int) -> tuple[Tensor, Tensor]:
    """Along one axis of ``length`` pixels, for each of K regions and ``size`` bins, the pixels on both sides of each sample,
    int32, and their weights: (K, size, 2 samples). A sample more than a pixel beyond the features counts as 0."""
    steps = (torch.arange(size * samples, device=start.device) + 0.5) / (size * samples)
    places = start[:, None] + steps * (stop - start).clamp_min(1)[:, None]
    seen = (places >= -1) & (places <= length)
    places = places.clamp(0, length - 1)
    low = places.floor()
    above = places - low
    numbers = torch.stack([low, (low + 1).clamp_max(length - 1)], 2).int()
    weights = torch.stack([1 - above, above], 2) * seen[:, :, None] / samples
    return numbers.view(-1, size, 2 * samples), weights.view(-1, size, 2 * samples)
