"""The discriminator of Isola et al. (2017, section 3.2.2 and 6.1.2): it tells of each N x N patch whether it is real.

Convolutions of 4 x 4, those but the last two with stride 2; a patch of 1 x 1 by convolutions of 1 x 1 (the paper's PixelGAN)."""

from __future__ import annotations

from torch import Tensor, nn

from i2i.errors import UsageError
from i2i_pix2pix.generators import NORMS, initialise

_MOST = 6
_WIDEST = 8


def receptive_field(layers: list[tuple[int, int]]) -> int:
    """Side, in pixels, of what one answer sees through convolutions of (kernel, stride), first to last."""
    side = 1
    for kernel, stride in reversed(layers):
        side = (side - 1) * stride + kernel
    return side


def _strided(count: int) -> list[tuple[int, int]]:
    return [(4, 2)] * count + [(4, 1)] * 2


PATCHES = {1: [(1, 1)] * 3} | {receptive_field(_strided(count)): _strided(count) for count in range(1, _MOST)}
"""The convolutions, (kernel, stride) each, by the side of the patch: 1, 16, 34, 70, 142 and 286."""


def layers_of(patch: int) -> list[tuple[int, int]]:
    """Raises ``UsageError`` for a patch that no such network sees."""
    if patch not in PATCHES:
        raise UsageError(f"--patch {patch}: choose one of {', '.join(map(str, PATCHES))}")
    return PATCHES[patch]


class Discriminator(nn.Module):
    """(N, channels, H, W) -> (N, 1, h, w): a logit for each patch, above 0 for real. For ``cgan`` the channels are those of input
    and answer together, for ``gan`` those of the answer."""

    def __init__(self, channels: int, patch: int = 70, filters: int = 64, norm: str = "instance") -> None:
        super().__init__()
        layers = layers_of(patch)
        assert receptive_field(layers) == patch
        self.patch = patch
        parts: list[nn.Module] = []
        width = channels
        for number, (kernel, stride) in enumerate(layers):
            first, last = number == 0, number == len(layers) - 1
            wider = 1 if last else filters * min(2**number, _WIDEST)
            normed = not (first or last)
            parts.append(nn.Conv2d(width, wider, kernel, stride, kernel // 4, bias=not normed))
            parts += [NORMS[norm](wider)] if normed else []
            parts += [] if last else [nn.LeakyReLU(0.2, inplace=True)]
            width = wider
        self.layers = nn.Sequential(*parts)
        self.apply(initialise)

    def forward(self, pixels: Tensor) -> Tensor:
        answer: Tensor = self.layers(pixels)
        return answer
