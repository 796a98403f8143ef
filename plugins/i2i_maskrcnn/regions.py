"""Features of regions: RoIAlign (He et al. 2017, section 3), RoIPool (Girshick 2015, section 2.1) and RoI warping
(Dai, He, Sun 2016, "Instance-aware semantic segmentation via multi-task network cascades", section 3.2), whose result has a
gradient with respect to the boxes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torchvision.ops import roi_align, roi_pool

from i2i_maskrcnn.sampling import aligned

_SAMPLES = 2
"""Along each side of a bin."""
_CANONICAL_SIDE, _CANONICAL_LEVEL = 224, 4
"""A region of this side belongs to the pyramid's level of stride 2**4 (Lin et al. 2017, equation 1)."""


class RegionFeatures(nn.Module):
    """Features of equal size for regions of any size, each from the pyramid's level that fits it.

    ``names``: of the levels used, finest first; ``strides``: theirs, powers of 2; ``size``: side of the result. ``kind``: align
    (gives what torchvision's ``MultiScaleRoIAlign`` gives), warp or pool.
    """

    def __init__(self, names: Sequence[str], strides: Sequence[int], size: int, kind: str) -> None:
        super().__init__()
        self.names, self.strides, self.size, self.kind = tuple(names), tuple(strides), size, kind
        self.output_size = (size, size)

    def forward(self, features: Mapping[str, Tensor], boxes: Sequence[Tensor], shapes: object = None) -> Tensor:
        """``features``: (N, C, H_l, W_l) of each level. ``boxes``: of each of N images (K_n, 4) float32 x1, y1, x2, y2 in its
        pixels. Gives (sum of K_n, C, size, size) float32. In training every level gets a gradient, of 0 where it has no region,
        as several processes need it."""
        regions = _numbered(boxes)
        first = features[self.names[0]]
        result = regions.new_zeros((len(regions), first.shape[1], self.size, self.size))
        level = self._levels(regions)
        for number, (name, stride) in enumerate(zip(self.names, self.strides, strict=True)):
            chosen = torch.nonzero(level == number)[:, 0]
            if len(chosen) or torch.is_grad_enabled():
                found = self._of_level(features[name], regions[chosen], 1 / stride)
                result = result.index_copy(0, chosen, found)
        return result

    def _of_level(self, features: Tensor, regions: Tensor, scale: float) -> Tensor:
        if self._by_rows(features):
            return aligned(features, regions, self.size, scale, _SAMPLES).float()
        features = features.float()
        if self.kind == "align":
            return roi_align(features, regions, self.size, scale, _SAMPLES)
        if self.kind == "pool":
            return roi_pool(features, regions, self.size, scale)
        return roi_warp(features, regions, self.size, scale)

    def _by_rows(self, features: Tensor) -> bool:
        return self.kind == "align" and features.device.type == "cpu" and not torch.is_grad_enabled()

    def prepared(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The levels as regions are read fastest from them, for many calls without gradients."""
        first = features[self.names[0]]
        if self._by_rows(first):
            return {name: features[name].contiguous(memory_format=torch.channels_last) for name in self.names}
        return {name: features[name].float().contiguous() for name in self.names}

    def _levels(self, regions: Tensor) -> Tensor:
        """(K,) int64: the number of each region's level (Lin et al. 2017, equation 1)."""
        sides = (regions[:, 3:] - regions[:, 1:3]).detach().clamp_min(0).prod(1).sqrt()
        wanted = torch.floor(_CANONICAL_LEVEL + torch.log2(sides / _CANONICAL_SIDE + 1e-12) + 1e-6)
        lowest, highest = (torch.tensor(float(stride)).log2() for stride in (self.strides[0], self.strides[-1]))
        return (wanted.clamp(float(lowest), float(highest)) - lowest).long()


def _numbered(boxes: Sequence[Tensor]) -> Tensor:
    """(K, 5): the number of the image before its boxes."""
    parts = [torch.cat([torch.full_like(one[:, :1], number), one], 1) for number, one in enumerate(boxes)]
    return torch.cat(parts).float()


def roi_warp(features: Tensor, regions: Tensor, size: int, scale: float) -> Tensor:
    """Crop and resize by bilinear sampling on a grid that depends on the box, then maxima of 2 x 2 (Dai et al. 2016, equation 3
    and the text after it). Differentiable in ``features`` (N, C, H, W) and in the coordinates of ``regions`` (K, 5): the number
    of the image, and x1, y1, x2, y2 in pixels. ``scale``: pixels of the features in one of those. Gives (K, C, size, size)."""
    height, width = features.shape[-2:]
    side = _SAMPLES * size
    steps = (torch.arange(side, device=features.device, dtype=regions.dtype) + 0.5) / side
    start, extent = regions[:, 1:3] * scale, (regions[:, 3:] - regions[:, 1:3]) * scale
    places = start[:, None] + steps[None, :, None] * extent[:, None]  # (K, side, 2) x, y where a pixel's centre is at 0.5
    x, y = 2 * places[..., 0] / width - 1, 2 * places[..., 1] / height - 1
    grid = torch.stack([x[:, None, :].expand(-1, side, -1), y[:, :, None].expand(-1, -1, side)], -1)
    if not len(regions):
        return features.new_zeros((0, features.shape[1], size, size)) + 0 * features.sum()  # with a gradient
    result = features.new_zeros((len(regions), features.shape[1], side, side))
    for number, sheet in enumerate(features):
        chosen = torch.nonzero(regions[:, 0] == number)[:, 0]
        if len(chosen):
            wanted = grid[chosen].reshape(1, -1, side, 2)
            seen = nn.functional.grid_sample(sheet[None], wanted, padding_mode="border", align_corners=False)
            result = result.index_copy(0, chosen, seen.reshape(-1, len(chosen), side, side).transpose(0, 1))
    return nn.functional.max_pool2d(result, _SAMPLES)
