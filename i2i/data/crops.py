"""Examples, and augmented crops of them.

Augmentation is one resampling: rotation, scale, flip and elastic deformation (Ronneberger et al. 2015, section 3.1) are
composed into one sampling grid, so that pixels are interpolated once. Randomness comes from a generator that the caller
derives from (seed, step), so that a resumed run sees the same crops.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from i2i.contracts import ImageSpec
from i2i.options import AugmentationOptions


@dataclass(frozen=True)
class Example:
    """One training image: ``image`` (C, H, W) float32, normalised; ``truth`` (H, W) integer labels or classes, below 2**24, or
    (L, H, W) layers of them, at least one, for objects that overlap; ``weights`` (H, W) float16 or float32 of the pixels in the
    loss, where it has any; ``spec``: what the image's file says, of the channels that were taken."""

    image: Tensor
    truth: Tensor
    name: str = ""
    weights: Tensor | None = None
    spec: ImageSpec | None = None


@dataclass(frozen=True)
class Augmentation:
    """How crops are varied; each part is off at its zero. ``shift``: a crop is anywhere in the image, not one of those side by
    side that cover it. ``rotate``: up to this angle in degrees, ``scale``: up to this factor either way, ``flip``: along each
    axis, ``elastic``: sigma in pixels of the displacements on a 3x3 grid (10 in the paper), ``gray``: sigma of contrast,
    brightness and gamma (of several channels: for all together, and a little for each), ``noise`` and ``blur``: largest sigma
    (in normalised gray values; in pixels)."""

    shift: bool = True
    rotate: float = 180.0
    flip: bool = True
    scale: float = 1.4
    elastic: float = 6.0
    gray: float = 0.15
    noise: float = 0.05
    blur: float = 1.0

    @property
    def moves(self) -> bool:
        """Whether pixels come to lie between those of the image."""
        return bool(self.rotate or self.elastic or self.scale > 1)

    @staticmethod
    def of(options: AugmentationOptions) -> Augmentation:
        """As the options of a training say."""
        if not options.augment:
            return NO_AUGMENTATION
        return Augmentation(**{item.name: getattr(options, item.name) for item in fields(Augmentation)})


_OWN = 0.3
"""Of the variation of gray values: what a channel has of its own, beside what all have."""
NO_AUGMENTATION = Augmentation(shift=False, rotate=0, flip=False, scale=1, elastic=0, gray=0, noise=0, blur=0)


def generator(*key: int) -> torch.Generator:
    """A random generator that depends on nothing but ``key``."""
    state = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])
    return torch.Generator().manual_seed(state % 2**63)


def _uniform(random: torch.Generator, low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand((), generator=random))


def _sign(flip: bool, random: torch.Generator) -> float:
    return -1.0 if flip and _uniform(random, 0, 1) < 0.5 else 1.0


def _linear_map(augmentation: Augmentation, random: torch.Generator) -> Tensor:
    """(2, 2): from offsets in the crop to offsets in the image, order x, y."""
    angle = math.radians(_uniform(random, -augmentation.rotate, augmentation.rotate))
    zoom = math.exp(_uniform(random, -1, 1) * math.log(max(1.0, augmentation.scale)))
    x, y = _sign(augmentation.flip, random), _sign(augmentation.flip, random)
    cos, sin = zoom * math.cos(angle), zoom * math.sin(angle)
    return torch.tensor([[x * cos, -y * sin], [x * sin, y * cos]])


def _displacement(side: int, sigma: float, random: torch.Generator) -> Tensor:
    """(side, side, 2) smooth displacements in pixels: a coarse 3x3 grid, interpolated bicubically (section 3.1)."""
    coarse = sigma * torch.randn((1, 2, 3, 3), generator=random)
    smooth = functional.interpolate(coarse, (side, side), mode="bicubic", align_corners=True)
    return smooth[0].permute(1, 2, 0)


def _centre(length: int, side: int, shift: bool, random: torch.Generator) -> float:
    """Of a crop along an axis: anywhere, or of one of the crops that cover the axis side by side."""
    half = min(side, length) / 2
    if shift:
        return _uniform(random, half, length - half)
    count = -(-length // side)
    number = int(torch.randint(count, (), generator=random))
    return half + (length - 2 * half) * (number / (count - 1) if count > 1 else 0)


def _sampling_grid(shape: tuple[int, int], side: int, augmentation: Augmentation, random: torch.Generator) -> Tensor:
    """(side, side, 2) positions x, y in the image, in pixels. Whole ones, where nothing moves pixels in between."""
    steps = torch.arange(side) - (side - 1) / 2
    offsets = torch.stack(torch.meshgrid(steps, steps, indexing="xy"), -1)
    if augmentation.elastic:
        offsets = offsets + _displacement(side, augmentation.elastic, random)
    centre = torch.tensor([_centre(length, side, augmentation.shift, random) for length in (shape[1], shape[0])]) - 0.5
    if not augmentation.moves:
        centre = torch.floor(centre - steps[0]) + steps[0]
    return offsets @ _linear_map(augmentation, random).T + centre


def _resample(pixels: Tensor, positions: Tensor, mode: str) -> Tensor:
    """(C, H, W) at (side, side, 2) positions -> (C, side, side) float32; beyond the image it is mirrored. ``mode``: bilinear or
    nearest; or exact, for positions that are whole."""
    if mode == "exact":
        x, y = (_mirrored(positions[..., axis].long(), pixels.shape[2 - axis]) for axis in (0, 1))
        return pixels[:, y, x].float()
    size = torch.tensor([pixels.shape[2], pixels.shape[1]])
    grid = (2 * positions + 1) / size - 1
    return functional.grid_sample(pixels[None].float(), grid[None], mode=mode, padding_mode="reflection", align_corners=False)[0]


def _mirrored(index: Tensor, length: int) -> Tensor:
    """Beyond the image at its edge, the outermost pixel comes twice, as grid_sample has it."""
    index = index.remainder(2 * length)
    return torch.minimum(index, 2 * length - 1 - index)


def _gaussian(sigma: float) -> Tensor:
    """(1, 1, 1, K) normalised weights, three sigma on each side."""
    reach = math.ceil(3 * sigma)
    weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    return (weights / weights.sum())[None, None, None]


def _blur(image: Tensor, sigma: float) -> Tensor:
    weights = _gaussian(sigma)
    reach = weights.shape[-1] // 2
    rows = functional.conv2d(functional.pad(image[:, None], (reach, reach, 0, 0), mode="replicate"), weights)
    both = functional.conv2d(functional.pad(rows, (0, 0, reach, reach), mode="replicate"), weights.transpose(2, 3))
    return both[:, 0]


def _each_channel(count: int, random: torch.Generator) -> Tensor:
    """(3, count, 1, 1): three normal numbers, of several channels a little different for each."""
    shared = torch.randn((3, 1, 1, 1), generator=random)
    return shared + _OWN * torch.randn((3, count, 1, 1), generator=random) if count > 1 else shared


def _vary_gray(image: Tensor, augmentation: Augmentation, random: torch.Generator) -> Tensor:
    if augmentation.blur and _uniform(random, 0, 1) < 0.25:
        image = _blur(image, _uniform(random, 0.2, max(0.2, augmentation.blur)))
    if augmentation.gray:
        contrast, brightness, gamma = augmentation.gray * _each_channel(image.shape[0], random)
        image = image.sign() * image.abs().pow(torch.exp(2 * gamma))
        image = image * torch.exp(2 * contrast) + brightness * 0.5
    if augmentation.noise:
        sigma = _uniform(random, 0, augmentation.noise)
        image = image + sigma * torch.randn(image.shape, generator=random)
    return image


def crop(example: Example, side: int, augmentation: Augmentation, random: torch.Generator) -> tuple[Tensor, ...]:
    """An augmented crop: image (C, side, side) float32, truth (side, side) or (L, side, side) int64, and where the example has
    them weights (side, side) float32. Truth is resampled by nearest neighbour, each layer at the same positions. Where nothing
    moves pixels, all are the image's own."""
    positions = _sampling_grid((example.image.shape[1], example.image.shape[2]), side, augmentation, random)
    smooth, nearest = ("bilinear", "nearest") if augmentation.moves else ("exact", "exact")
    image = _vary_gray(_resample(example.image, positions, smooth), augmentation, random)
    layers = _resample(example.truth.reshape(-1, *example.truth.shape[-2:]), positions, nearest).long()
    truth = layers.reshape(*example.truth.shape[:-2], side, side)
    if example.weights is None:
        return image, truth
    return image, truth, _resample(example.weights[None], positions, smooth)[0]


def batch(
    examples: Sequence[Example],
    side: int,
    size: int,
    augmentation: Augmentation,
    key: tuple[int, ...],
    part: tuple[int, int] = (0, 1),
) -> tuple[Tensor, ...]:
    """``size`` crops of examples drawn with replacement: images (N, C, side, side), truths (N, side, side), and weights like them
    where the examples have any; truths in layers are (N, L, side, side), L being that of all examples. The same key gives the
    same batch. ``part``: (i, n) gives every n-th crop from the i-th on, the share of one of n processes."""
    chosen = torch.randint(len(examples), (size,), generator=generator(*key)).tolist()
    crops = [crop(examples[chosen[i]], side, augmentation, generator(*key, i)) for i in range(part[0], size, part[1])]
    return tuple(torch.stack(parts) for parts in zip(*crops, strict=True))
