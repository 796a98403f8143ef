"""The patch classifier of Ciresan, Giusti, Gambardella and Schmidhuber (NIPS 2012), which the U-Net replaced: a network that is
given the square around a pixel, and says the class of that pixel."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from i2i.contracts import Footprint
from i2i.errors import ModelError, TrainingError
from i2i_unet.network import initialise

_HIDDEN = 200
_CHUNK_BYTES = 32 << 20
_CHUNK_MOST = 4096
_CANDIDATES, _CANDIDATES_EACH = 4096, 64


@dataclass(frozen=True)
class PatchConfig:
    """An architecture. ``patch_size``: the side of the square that a pixel's class is read from, in pixels, odd: 65 and 95 in the
    paper. ``filters``: maps of every convolution, 48 in the paper."""

    channels: int = 1
    classes: int = 2
    patch_size: int = 65
    filters: int = 48

    @staticmethod
    def from_mapping(values: Mapping[str, Any]) -> PatchConfig:
        """From a model file's header, less ``arch``. Raises ``ModelError`` for unknown or impossible values."""
        try:
            return PatchConfig(**values).checked()
        except (TypeError, ValueError) as error:
            raise ModelError(f"the model file describes no patch classifier that this version knows: {error}") from error

    def checked(self) -> PatchConfig:
        """Itself, or ``ValueError`` that says which value is impossible."""
        limits = {"channels": (1, 1024), "classes": (2, 256), "patch_size": (9, 127), "filters": (1, 1024)}
        for name, (least, most) in limits.items():
            value = getattr(self, name)
            if not (isinstance(value, int) and least <= value <= most):
                raise ValueError(f"{name} {value!r}: a whole number from {least} to {most}")
        if self.patch_size % 2 == 0:
            raise ValueError(f"patch_size {self.patch_size}: an odd number, for the pixel to be its centre")
        return self

    @property
    def reach(self) -> int:
        """Pixels on each side of the centre."""
        return self.patch_size // 2

    def as_mapping(self) -> dict[str, Any]:
        return {"arch": "patch", **asdict(self)}


def kernels(patch_size: int) -> tuple[int, ...]:
    """The sides of the convolutions' kernels, one a stage: 4 for a map of odd side, 5 for an even one, so that the pooling meets
    an even side; stages follow until the map has fewer than 9 pixels a side."""
    sizes = []
    while patch_size >= 9:
        sizes.append(4 + (patch_size + 1) % 2)
        patch_size = (patch_size - sizes[-1] + 1) // 2
    return tuple(sizes)


class PatchNet(nn.Module):
    """(B, channels, N, N) patches -> logits (B, classes) of their centres, float.

    Stages of one unpadded convolution, ReLU and 2x2 max-pooling, then a fully connected layer of 200 and one of the classes. With
    N = 95 it is layer for layer the paper's N4: 48 maps, kernels 4, 5, 4, 4, a last map of 3 x 3. For other N the same rule
    (:func:`kernels`) makes fewer stages: 3 for 49 and 65, 2 for 33, 1 for 17. Changed from the paper: ReLU and He initialisation
    for its activations, and no warping of the patch (foveation, non-uniform sampling), which its N4 did without too.
    """

    def __init__(self, config: PatchConfig) -> None:
        super().__init__()
        self.config = config.checked()
        layers: list[nn.Module] = []
        side, channels = config.patch_size, config.channels
        for kernel in kernels(config.patch_size):
            layers += [nn.Conv2d(channels, config.filters, kernel), nn.ReLU(inplace=True), nn.MaxPool2d(2)]
            side, channels = (side - kernel + 1) // 2, config.filters
        self.features = nn.Sequential(*layers)
        self.hidden = nn.Linear(channels * side**2, _HIDDEN)
        self.head = nn.Linear(_HIDDEN, config.classes)
        self.apply(initialise)

    def forward(self, patches: Tensor) -> Tensor:
        return self.head(torch.relu(self.hidden(self.features(patches).flatten(1))))


# ---------------------------------------------------------------------------------------------------------- whole images


def footprint(config: PatchConfig) -> Footprint:
    """What the engine has to know of this network: half a patch of context, mirrored beyond the image; any pixel may be first."""
    return Footprint(halo=config.reach, border="mirror", channels_in=config.channels, channels_out=config.classes)


def forward_window(network: PatchNet, window: Tensor) -> Tensor:
    """(B, channels, H, W) -> logits (B, classes, H - N + 1, W - N + 1) of the pixels that have a whole patch in the window.

    The network is called for the patch of every pixel, in chunks that are the same for all windows of a size. Neighbours' patches
    have nearly all pixels in common, and all is computed again for each: that is what made the method slow, and why the U-Net
    replaced it; it is kept on purpose. (The same logits could be had from one convolutional pass.)
    """
    size = network.config.patch_size
    patches = window.unfold(2, size, 1).unfold(3, size, 1)  # a view: (B, C, H', W', N, N)
    logits = window.new_empty((window.shape[0], network.config.classes, *patches.shape[2:4]))
    for rows, columns in _chunks(patches.shape[2], patches.shape[3], _chunk(network.config, window.dtype.itemsize)):
        for image, part in enumerate(patches[:, :, rows, columns]):
            height, width = part.shape[1:3]
            given = part.permute(1, 2, 0, 3, 4).reshape(-1, part.shape[0], size, size)
            logits[image, :, rows, columns] = network(given).T.reshape(-1, height, width)
    return logits


def _chunks(height: int, width: int, most: int) -> Iterator[tuple[slice, slice]]:
    """Rectangles of at most ``most`` pixels that cover an image, in raster order."""
    columns = min(width, most)
    rows = max(1, most // columns)
    return ((slice(y, y + rows), slice(x, x + columns)) for y, x in product(range(0, height, rows), range(0, width, columns)))


def _patch_bytes(config: PatchConfig, itemsize: int) -> int:
    """Memory for one patch: itself and the first convolution's output, which is the largest, before and after its pooling and
    once more as scratch space."""
    maps = config.filters * (config.patch_size - kernels(config.patch_size)[0] + 1) ** 2
    return itemsize * (2 * config.channels * config.patch_size**2 + 9 * maps // 4)


def _chunk(config: PatchConfig, itemsize: int) -> int:
    """Patches for one call of the network: what fits in memory of a fixed size, 4096 at most."""
    return max(1, min(_CHUNK_MOST, _CHUNK_BYTES // _patch_bytes(config, itemsize)))


def window_bytes(config: PatchConfig, itemsize: int = 4) -> int:
    """Memory for each pixel of a window, in bytes: its logits, and its share of a chunk of patches as it is for a window of
    128 x 128 pixels. A chunk takes the same for larger windows, so that this is too much for them: it keeps windows of a method
    of a few thousand pixels a second small."""
    return 2 * config.classes * itemsize + _chunk(config, itemsize) * _patch_bytes(config, itemsize) // 128**2


# ------------------------------------------------------------------------------------------------------------- training


def patch_batch(
    images: Sequence[Tensor],
    classes: Sequence[Tensor],
    size: int,
    batch: int,
    random: torch.Generator,
    augment: bool,
    balance: bool = True,
) -> tuple[Tensor, Tensor]:
    """Patches (B, C, size, size) float32 around random pixels of the images, and their classes (B,) int64.

    ``images``: (C, H, W) float32, normalised; ``classes``: (H, W) int64, of the same sizes; pixels of -1 have no class and are
    never a centre. ``size``: odd. What a patch sees beyond the image is mirrored, as it is when the whole image is classified.
    ``balance``: every class as often as the others, as in the paper; else every pixel as likely as the others. ``augment``: each
    patch is one of its 8 rotations and mirrorings. The same ``random`` gives the same batch. Raises ``TrainingError`` when hardly
    a pixel has a class.
    """
    numbers, pixels, labels = _pixels(classes, batch, random, balance)
    flips = torch.rand((3, batch), generator=random) < 0.5 if augment else torch.zeros((3, batch), dtype=torch.bool)
    patches = images[0].new_empty((batch, images[0].shape[0], size, size))
    for number in sorted(set(numbers.tolist())):
        chosen = numbers == number
        width = images[number].shape[2]
        rows, columns = pixels[chosen] // width, pixels[chosen] % width
        patches[chosen] = _patches(images[number], rows, columns, size, flips[:, chosen])
    return torch.where(flips[2, :, None, None, None], patches.transpose(2, 3), patches), labels


def _pixels(classes: Sequence[Tensor], count: int, random: torch.Generator, balance: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The image, the pixel in raster order and the class of ``count`` random pixels, (count,) int64 each: of many that are drawn,
    each with the inverse of its class's frequency among them, or all that have a class alike."""
    ends = torch.tensor([truth.numel() for truth in classes]).cumsum(0)
    drawn = torch.randint(int(ends[-1]), (max(_CANDIDATES, count * _CANDIDATES_EACH),), generator=random)
    numbers = torch.searchsorted(ends, drawn, right=True)
    pixels = drawn - torch.cat([ends.new_zeros(1), ends])[numbers]
    labels = torch.empty_like(drawn)
    for number in sorted(set(numbers.tolist())):
        here = numbers == number
        labels[here] = classes[number].reshape(-1)[pixels[here]]
    stated = labels >= 0
    if not stated.any():
        raise TrainingError("the masks leave nearly every pixel without a class; give masks that state more")
    rarity = 1 / (1 + labels).bincount().float() if balance else torch.ones(int(labels.max()) + 2)
    chosen = torch.multinomial(rarity[1 + labels] * stated, count, replacement=True, generator=random)
    return numbers[chosen], pixels[chosen], labels[chosen]


def _patches(image: Tensor, rows: Tensor, columns: Tensor, size: int, flips: Tensor) -> Tensor:
    """(n, C, size, size): the patches of ``image`` (C, H, W) around n pixels, turned upside down and left to right where
    ``flips`` (3, n) says so."""
    steps = torch.arange(size) - size // 2
    y, x = (
        _mirrored(centre[:, None] + torch.where(flip[:, None], -steps, steps), length)
        for centre, flip, length in zip((rows, columns), flips[:2], image.shape[1:], strict=True)
    )
    return image[:, y[:, :, None], x[:, None, :]].transpose(0, 1)


def _mirrored(index: Tensor, length: int) -> Tensor:
    """:func:`i2i.geometry.mirror` of many indices."""
    period = max(1, 2 * (length - 1))
    index = index.remainder(period)
    return torch.where(index < length, index, period - index)
