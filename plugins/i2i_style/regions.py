"""``--mask``: where in the picture each style applies, and the masks on the grids of the encoder's layers."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from i2i.contracts import Array, ImageSpec, Source
from i2i.errors import InputError, UsageError
from i2i.formats import open_image
from i2i.formats.resample import Resampled
from i2i.geometry import Region
from i2i_style.encoder import pool
from i2i_style.styles import Style

_TOLERANCE = 0.02
"""By which a mask's aspect may differ from the picture's, beside a pixel of rounding."""
_WHITE = 5
"""A gray picture is a drawing when its lightest pixel is as near as this to the largest value: JPEG may miss it a little."""
_BLACK = 16 / 255
"""A coloured picture is inside where its largest channel is above this share: JPEG leaves faint traces."""
_STRIP = 2**22
"""Pixels that are looked at at a time."""


@dataclass(frozen=True)
class Mask:
    """An image that says where a style applies. ``opposite``: it applies outside of it."""

    path: Path
    opposite: bool = False


def parse_masks(texts: Sequence[str], styles: Sequence[Style]) -> tuple[Mask, ...]:
    """``mask.png``, or ``not:mask.png`` for its opposite, in the order of ``styles``: as many, or none. Raises ``UsageError``."""
    if texts and len(texts) != len(styles):
        raise UsageError(f"--mask: {len(texts)} for {len(styles)} of --style; give one for each style, in their order, or none")
    return tuple(Mask(Path(text.removeprefix("not:")), text.startswith("not:")) for text in texts)


def check_mask(mask: Mask, size: tuple[int, int]) -> None:
    """See that a mask is an image with the aspect of a picture of ``size`` (height, width). Its pixels are not read. Raises
    ``InputError`` or ``UsageError``."""
    with closing(open_image(mask.path)) as source:
        _check(mask.path, source.spec, size)


def read_mask(mask: Mask, size: tuple[int, int]) -> Tensor:
    """A mask for a picture of ``size`` (height, width): (1, 1, H, W) float32, 0 outside, 1 inside, means at its
    borders.

    Of the file's pixels, floats and booleans are weights from 0 to 1. Coloured ones are inside where they are not black. Gray
    integers are weights, 0 to 1 from black to white, where the picture has white in it (a drawing, with soft edges); else they
    are labels or classes, inside where they are above 0. A file of any size is read piece by piece, twice. Raises ``InputError``
    for what is no image of one to four channels, and ``UsageError`` for another aspect than the picture's and for no inside.
    """
    with closing(open_image(mask.path)) as source:
        _check(mask.path, source.spec, size)
        weights = _Inside(source, _is_drawing(source))
        factors = size[0] / source.spec.height, size[1] / source.spec.width
        spec = dataclasses.replace(weights.spec, height=size[0], width=size[1])
        pixels: npt.NDArray[np.float32] = Resampled(weights, spec, factors).read(spec.region)
    inside = torch.from_numpy(pixels.reshape(1, 1, *size)).clamp_(0, 1)
    if mask.opposite:
        inside.neg_().add_(1)
    if not bool(inside.any()):
        whole = "all of it is inside, so its opposite is empty" if mask.opposite else "nothing in it is inside, all is black or 0"
        raise UsageError(f"{mask.path}: {whole}; give a mask with some of the picture in it")
    return inside


def read_shares(masks: Sequence[Mask], styles: Sequence[Style], size: tuple[int, int] | None) -> Tensor | None:
    """(N, H, W) float32, 0 to 1: what each of N pictures gives to a picture of ``size``; their sum is how far it is inside any
    mask, and where masks overlap the styles share by their weights. None without masks. Raises as :func:`read_mask`."""
    if not masks or size is None:
        return None
    inside = torch.cat([read_mask(mask, size)[0] for mask in masks])
    cover = inside.amax(0)
    weighted = inside.mul_(torch.tensor([style.weight for style in styles])[:, None, None])
    return weighted.mul_(cover / weighted.sum(0).clamp_min_(1e-9))


def shares_bytes(masks: Sequence[Mask], size: tuple[int, int]) -> int:
    """What :func:`read_shares` takes: a plane of fp32 for each mask, and four while they are read."""
    return 4 * (len(masks) + 4) * size[0] * size[1] if masks else 0


class Shares:
    """What :func:`read_shares` gave last, for planes of a stack and pictures of one size. Threads may ask at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last: tuple[tuple[int, int] | None, Tensor | None] = (None, None)

    def of(self, masks: Sequence[Mask], styles: Sequence[Style], size: tuple[int, int] | None) -> Tensor | None:
        """As :func:`read_shares` of these, always the same masks and styles."""
        with self._lock:
            if self._last[0] != size:
                self._last = (size, read_shares(masks, styles, size))
            return self._last[1]


def over(content: Tensor, pictures: Sequence[Tensor], shares: Tensor, places: Tensor) -> Tensor:
    """Windows of pictures over those of the content, (K, 3, h, w) float32, by the ``shares`` (N, H, W) of the whole picture.
    ``places`` (K, 2, h, w): the row and column of each pixel; beyond the picture it has the shares at its edge."""
    found = []
    for place in places.long().cpu():
        rows, columns = (
            line.clamp(0, side - 1) for line, side in zip((place[0, :, 0], place[1, 0]), shares.shape[1:], strict=True)
        )
        found.append(shares[:, rows[:, None], columns])
    mine = torch.stack(found).to(content.device)
    parts = [mine[:, number, None] * picture for number, picture in enumerate(pictures)]
    return (1 - mine.sum(1, keepdim=True)) * content + torch.stack(parts).sum(0)


def pooled(mask: Tensor, stride: int) -> Tensor:
    """A mask (1, 1, H, W) on the grid of a layer of that stride, a power of two: means of 2 x 2, again and again, with sizes
    rounded down as the encoder's poolings do it. Of a window that begins at multiples of the stride it is the window of the whole
    mask's."""
    while stride > 1:
        mask, stride = pool(mask, "avg"), stride // 2
    return mask


def _check(path: Path, spec: ImageSpec, size: tuple[int, int]) -> None:
    if spec.channels not in (1, 2, 3, 4):
        raise InputError(f"{path}: has {spec.channels} channels; give a mask of one, or a picture")
    height, width = size
    at_width, at_height = spec.height * width / spec.width, spec.width * height / spec.height
    if min(abs(at_width - height) - _TOLERANCE * height, abs(at_height - width) - _TOLERANCE * width) > 1:
        shape = f"{spec.width} x {spec.height} pixels have not the shape of the picture, {width} x {height}"
        raise UsageError(f"{path}: {shape}; draw the mask over the picture")


def _channels(pixels: Array) -> Array:
    """Without alpha: (H, W, 1 or 3)."""
    return pixels[..., :3] if pixels.shape[2] >= 3 else pixels[..., :1]


def _is_coloured(pixels: Array) -> bool:
    return pixels.shape[2] == 3 and bool((pixels != pixels[..., :1]).any())


def _is_drawing(source: Source) -> bool | None:
    """Whether the integers of a gray picture are weights; None for a coloured one. A pass over all of it."""
    spec = source.spec
    if np.dtype(spec.dtype).kind not in "iu":
        return True
    rows, most = max(1, _STRIP // spec.width), 0
    for y in range(0, spec.height, rows):
        pixels = _channels(source.read(Region(y, 0, min(rows, spec.height - y), spec.width)))
        if _is_coloured(pixels):
            return None
        most = max(most, int(pixels.max()))
    return most >= np.iinfo(spec.dtype).max - _WHITE


class _Inside:
    """A mask's file as weights: (H, W, 1) float32, 0 .. 1. A :class:`~i2i.contracts.Source`."""

    def __init__(self, source: Source, drawing: bool | None) -> None:
        self._source, self._drawing = source, drawing
        self.spec = ImageSpec(source.spec.height, source.spec.width, 1, "float32")

    def read(self, region: Region, plane: int = 0, level: int = 0) -> Array:
        pixels = _channels(self._source.read(region))
        if pixels.dtype.kind not in "iu":
            return np.nan_to_num(pixels.max(2, keepdims=True).astype(np.float32)).clip(0, 1)
        largest = float(np.iinfo(pixels.dtype).max)
        if self._drawing is None:
            return (pixels.max(2, keepdims=True) > _BLACK * largest).astype(np.float32)
        first = pixels[..., :1]
        return ((first / np.float32(largest)).clip(0, 1) if self._drawing else first > 0).astype(np.float32)

    def close(self) -> None:
        self._source.close()
