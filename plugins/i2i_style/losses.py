"""The losses of Gatys, Ecker and Bethge, "Image Style Transfer Using Convolutional Neural Networks" (CVPR 2016), and their
derivatives, each a function of one layer's answers F: N channels at M positions.

Gram matrices are divided by the number of positions, so that pictures of different sizes compare; where both have the same, as in
the paper, E_l is the paper's. The total variation is that of Mahendran and Vedaldi (2015), with beta = 2.
"""

from __future__ import annotations

import torch
from torch import Tensor


def gram(values: Tensor) -> Tensor:
    """G_ij = sum_k F_ik F_jk / M (equation 3, over M) of (M, N), or of each of (B, N, h, w): (N, N) or (B, N, N)."""
    flat = values if values.dim() == 2 else values.flatten(2).transpose(1, 2)
    return flat.transpose(-1, -2) @ flat / flat.shape[-2]


def style_loss(found: Tensor, wanted: Tensor) -> Tensor:
    """E_l = 1 / (4 N^2) sum_ij (G_ij - A_ij)^2 (equation 4) of Gram matrices (N, N)."""
    return (found - wanted).square().mean() / 4


def style_derivative(found: Tensor, wanted: Tensor, count: float) -> Tensor:
    """1 / (N^2 M) (G - A), (N, N): answers F (M', N), some or all of the ``count`` = M positions that G is of, times it are
    dE_l / dF (equation 6, where the ReLU's own derivative is left to back-propagation)."""
    return (found - wanted) / (found.numel() * count)


def content_loss(values: Tensor, wanted: Tensor) -> Tensor:
    """1/2 sum_ij (F_ij - P_ij)^2 (equation 1)."""
    return (values - wanted).square().sum() / 2


def content_gradient(values: Tensor, wanted: Tensor) -> Tensor:
    """Its derivative, F - P (equation 2, where the ReLU's own derivative is left to back-propagation)."""
    return values - wanted


def total_variation(image: Tensor, height: int, width: int) -> Tensor:
    """Half the sum of the squared differences between each of the upper left ``height`` x ``width`` pixels of (1, C, H, W) and
    its neighbours below and to the right, where it has any."""
    down = image[..., 1 : height + 1, :width] - image[..., : min(height, image.shape[-2] - 1), :width]
    right = image[..., :height, 1 : width + 1] - image[..., :height, : min(width, image.shape[-1] - 1)]
    return (down.square().sum() + right.square().sum()) / 2


def blended(grams: list[Tensor], weights: list[float]) -> Tensor:
    """The Gram matrix that stands for several styles: sum_k w_k E_l(G, A_k), with weights that sum to one, differs from
    E_l(G, sum_k w_k A_k) only by what does not depend on G."""
    return torch.stack([weight * each for weight, each in zip(weights, grams, strict=True)]).sum(0)
