"""What a translation is learnt from: pairs of images, side by side in one file or in two folders, and crops of them.

Pixels are kept in their files' own dtype; a crop is normalised to -1 .. 1 when it is drawn (:mod:`i2i_pix2pix.ranges`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from i2i.contracts import Array, ImageSpec
from i2i.data import find_pairs, generator
from i2i.errors import TrainingError
from i2i.formats import builtin_formats, open_image
from i2i.formats.views import read_whole

JITTER = 286 / 256
"""The shorter side of a pair is at least so many times a crop's: the paper enlarges 256 pixels to 286, and crops 256 of them."""


@dataclass(frozen=True)
class Pair:
    """``source`` and ``target``: (H, W, C) and (H, W, C') of any real dtype, equal in height and width."""

    source: Array
    target: Array
    name: str


def load_side_by_side(folder: Path, direction: str) -> list[Pair]:
    """Files that hold A at the left and B at the right, each half of the width. Raises ``TrainingError`` or ``InputError``."""
    if not folder.is_dir():
        raise TrainingError(f"{folder}: no such folder")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in _suffixes())
    if not paths:
        raise TrainingError(f"{folder}: holds no image")
    return [_halves(path, direction) for path in paths]


def _halves(path: Path, direction: str) -> Pair:
    pixels = _read(path)
    if pixels.shape[1] % 2:
        raise TrainingError(f"{path}: is {pixels.shape[1]} pixels wide, and holds no two images of equal width side by side")
    left, right = np.split(pixels, 2, axis=1)
    return Pair(left, right, path.name) if direction == "AtoB" else Pair(right, left, path.name)


def load_folders(sources: Path, targets: Path) -> list[Pair]:
    """Files of two folders that share their names but for the suffix. Raises ``TrainingError`` or ``InputError``."""
    found = []
    for pair in find_pairs(sources, targets, _suffixes()):
        source, target = _read(pair.image), _read(pair.truth)
        if source.shape[:2] != target.shape[:2]:
            sizes = " and ".join(f"{array.shape[0]} x {array.shape[1]}" for array in (source, target))
            raise TrainingError(f"{pair.truth}: its size differs from that of {pair.image} ({sizes})")
        found.append(Pair(source, target, pair.image.name))
    return found


def _suffixes() -> tuple[str, ...]:
    return tuple(suffix for form in builtin_formats() for suffix in form.suffixes)


def _read(path: Path) -> Array:
    with closing(open_image(path)) as source:
        _check(source.spec, path)
        pixels = read_whole(source, path)
    if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
        raise TrainingError(f"{path}: holds NaN or Inf; put numbers in their place")
    return pixels.astype(np.uint8) * np.uint8(255) if pixels.dtype == bool else pixels


def _check(spec: ImageSpec, path: Path) -> None:
    if spec.plane_count > 1:
        raise TrainingError(f"{path}: holds {spec.plane_count} planes; train on files of one plane each")


def check_alike(pairs: Sequence[Pair], where: str) -> None:
    """Raises ``TrainingError`` where sources, or targets, differ in channels or dtype. ``where``: what messages call them."""
    for kind in ("source", "target"):
        first = getattr(pairs[0], kind)
        for pair in pairs:
            other = getattr(pair, kind)
            if (other.shape[2], other.dtype) != (first.shape[2], first.dtype):
                facts = [
                    f"{array.shape[2]} x {array.dtype} ({name})" for array, name in ((first, pairs[0].name), (other, pair.name))
                ]
                raise TrainingError(f"{where}: {kind}s of {facts[0]} and of {facts[1]}; train on one kind")


# ---------------------------------------------------------------------------------------------------------------- crops


def _piece(pixels: Array, side: int, top: int, left: int, larger: tuple[int, int]) -> Tensor:
    """(C, side, side) float32 of an image brought to the size ``larger``, where that is not its own."""
    own = (pixels.shape[0], pixels.shape[1])
    seen = pixels[top : top + side, left : left + side] if larger == own else pixels
    values = torch.from_numpy(np.ascontiguousarray(seen.transpose(2, 0, 1), dtype=np.float32))
    if larger == own:
        return values
    enlarged = functional.interpolate(values[None], larger, mode="bicubic", align_corners=False)[0]
    return enlarged[:, top : top + side, left : left + side].clamp(float(values.min()), float(values.max()))


def crop(pair: Pair, side: int, jitter: float, mirror: bool, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """(C, side, side) and (C', side, side) of the same place, float32, in the files' own numbers; of a pair whose shorter side
    is brought to ``jitter`` times ``side``, where it is smaller; every other one the other way round, with ``mirror``."""
    height, width = pair.source.shape[:2]
    factor = max(1.0, jitter * side / min(height, width))
    size = (max(side, round(height * factor)), max(side, round(width * factor))) if factor > 1 else (height, width)

    def drawn(most: int) -> int:
        return int(torch.randint(most + 1, (), generator=random))

    top, left = (drawn(length - side) for length in size)
    flipped = drawn(1) and mirror
    both = (_piece(pixels, side, top, left, size) for pixels in (pair.source, pair.target))
    first, second = (pixels.flip(-1) if flipped else pixels for pixels in both)
    return first, second


def crops(
    pairs: Sequence[Pair], side: int, size: int, jitter: float, mirror: bool, key: tuple[int, ...]
) -> tuple[list[int], Tensor, Tensor]:
    """``size`` crops of pairs drawn with replacement: which pairs, sources (N, C, side, side), targets (N, C', side, side). The
    same key gives the same."""
    chosen = torch.randint(len(pairs), (size,), generator=generator(*key)).tolist()
    both = [crop(pairs[number], side, jitter, mirror, generator(*key, i)) for i, number in enumerate(chosen)]
    sources, targets = (torch.stack(list(parts)) for parts in zip(*both, strict=True))
    return chosen, sources, targets


def digest(pairs: Sequence[Pair]) -> str:
    """How many they are, and 16 hexadecimal digits of a hash of their names, sizes and pixels."""
    found = hashlib.sha256()
    for pair in pairs:
        for pixels in (pair.source, pair.target):
            found.update(repr((pair.name, pixels.shape, str(pixels.dtype))).encode())
            found.update(np.ascontiguousarray(pixels).data)
    return f"{len(pairs)} pairs ({found.hexdigest()[:16]})"
