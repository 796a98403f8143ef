"""What a network of one style learns from: photographs from a folder, of which it sees crops, and the picture of the style.

Pictures are (3, H, W) uint8 tensors: thousands of photographs fit in memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from i2i.data import generator
from i2i.errors import TrainingError
from i2i.formats import builtin_formats
from i2i_style.styles import read_rgb

STYLE_SIDE = 512
"""The style's longer side, in pixels, at the scale 1."""
_MOST = 2000
_ROOM = 2
"""The shorter side of a photograph is kept up to so many sides of a crop: crops show more of it, or less."""
_HELD = 16


@dataclass(frozen=True)
class Photographs:
    """Those to ``learn`` from, and those ``held`` back for validation; all at least as large as a crop."""

    learn: list[Tensor]
    held: list[Tensor]


def load_photographs(folder: Path, side: int, seed: int, tell: Callable[[str], None]) -> Photographs:
    """The pictures in a folder and its folders, at most 2,000 that the seed draws: every tenth is held back, up to 16. Larger
    ones are shrunk to twice the crop's ``side``, or their longer side to four times that, smaller ones enlarged to it. Raises
    ``TrainingError`` for no such folder and fewer than two pictures, ``InputError`` for a file that is none."""
    paths = _chosen(folder, seed, tell)
    pictures = [_read(path, _ROOM**2 * side) for path in paths]
    small = sum(min(picture.shape[1:]) < side for picture in pictures)
    if small:
        tell(f"{small} photographs are smaller than a crop of {side} pixels, and are enlarged")
    pictures = [_fitted(picture, side) for picture in pictures]
    held = set(range(9, len(pictures), 10)[:_HELD]) or {len(pictures) - 1}
    return Photographs(
        [picture for number, picture in enumerate(pictures) if number not in held],
        [picture for number, picture in enumerate(pictures) if number in held],
    )


def _chosen(folder: Path, seed: int, tell: Callable[[str], None]) -> list[Path]:
    if not folder.is_dir():
        raise TrainingError(f"{folder}: no such folder; --images takes a folder of photographs")
    suffixes = {suffix for form in builtin_formats() for suffix in form.suffixes}
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in suffixes and path.is_file())
    if len(paths) < 2:
        raise TrainingError(f"{folder}: holds {len(paths) or 'no'} photograph; give a folder of many, such as 300")
    if len(paths) <= _MOST:
        return paths
    tell(f"{_MOST} of {len(paths)} photographs are drawn: more would not fit in memory")
    return [paths[number] for number in sorted(torch.randperm(len(paths), generator=generator(seed))[:_MOST].tolist())]


def _read(path: Path, longest: int) -> Tensor:
    return torch.from_numpy(np.rint(read_rgb(path, longest) * 255).astype(np.uint8)).permute(2, 0, 1).contiguous()


def _fitted(picture: Tensor, side: int) -> Tensor:
    """With a shorter side of at least ``side`` and at most twice that."""
    shorter = min(picture.shape[1:])
    wanted = min(max(shorter, side), _ROOM * side)
    height, width = (max(wanted, round(length * wanted / shorter)) for length in picture.shape[1:])
    return _resized(picture, height, width)


def _resized(picture: Tensor, height: int, width: int) -> Tensor:
    if picture.shape[1:] == (height, width):
        return picture
    resized = functional.interpolate(picture[None].float(), (height, width), mode="bilinear", antialias=True)
    return resized[0].round().clamp(0, 255).to(torch.uint8)


def style_picture(path: Path, scale: float) -> Tensor:
    """The picture of a style, its longer side ``scale`` times 512 pixels. Raises ``InputError``."""
    wanted = max(8, round(STYLE_SIDE * scale))
    picture = _read(path, wanted)
    longest = max(picture.shape[1:])
    height, width = (max(8, round(length * wanted / longest)) for length in picture.shape[1:])
    return _resized(picture, height, width)


def batch(photographs: Sequence[Tensor], side: int, size: int, key: tuple[int, ...], part: tuple[int, int]) -> tuple[Tensor]:
    """``size`` crops (N, 3, side, side), float32 in 0 .. 1, of photographs drawn with replacement. The same key gives the same
    batch. ``part``: (i, n) gives every n-th crop from the i-th on, the share of one of n processes."""
    drawn = torch.randint(len(photographs), (size,), generator=generator(*key)).tolist()
    crops = [crop(photographs[drawn[i]], side, generator(*key, i)) for i in range(part[0], size, part[1])]
    return (as_batch(torch.stack(crops), "cpu"),)


def crop(photograph: Tensor, side: int, random: torch.Generator) -> Tensor:
    """(3, side, side) uint8: a square of any size from ``side`` to the photograph's shorter side, anywhere in it, shrunk to
    ``side``; every other one the other way round."""

    def drawn(most: int) -> int:
        return int(torch.randint(most + 1, (), generator=random))

    seen = side + drawn(min(photograph.shape[1:]) - side)
    top, left = (drawn(length - seen) for length in photograph.shape[1:])
    square = _resized(photograph[:, top : top + seen, left : left + seen], side, side)
    return square.flip(-1) if drawn(1) else square


def whole_crops(photographs: Sequence[Tensor], side: int) -> Tensor:
    """(N, 3, side, side) uint8: of each the largest square in its middle, shrunk."""
    squares = []
    for photograph in photographs:
        seen = min(photograph.shape[1:])
        top, left = ((length - seen) // 2 for length in photograph.shape[1:])
        squares.append(_resized(photograph[:, top : top + seen, left : left + seen], side, side))
    return torch.stack(squares)


def as_batch(pictures: Tensor, device: str) -> Tensor:
    """(N, 3, H, W) uint8 -> float32 in 0 .. 1, on the device, channels last."""
    return (pictures.to(device).float() / 255).contiguous(memory_format=torch.channels_last)


def digest(pictures: Sequence[Tensor]) -> str:
    """How many they are, and 16 hexadecimal digits of a hash of their sizes and pixels."""
    found = hashlib.sha256()
    for picture in pictures:
        found.update(repr(tuple(picture.shape)).encode())
        found.update(picture.contiguous().numpy().data)
    return f"{len(pictures)} ({found.hexdigest()[:16]})"
