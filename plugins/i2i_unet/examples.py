"""The examples that segmentation is trained on: loaded from folders, and known by their digest."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from i2i.contracts import Array, Source
from i2i.data import Example, find_pairs
from i2i.errors import TrainingError, UsageError
from i2i.formats import builtin_formats, open_image
from i2i.normalize import Normalization
from i2i_unet.options import TrainOptions
from i2i_unet.targets import IGNORED

_MOST, _SHORT = 2**24, 2**15 - 1
"""Values of a mask are below the first, for crops hold them as float32; up to the second they take two bytes."""
_RESTLESS = 0.25
"""At most this share of a mask's pixels differs from the left neighbour: up to 0.05 in masks of small nuclei and of membranes,
0.2 to 0.98 in photographs and micrographs."""


@dataclass(frozen=True)
class Data:
    """What there is to ``learn`` from, and what is ``held`` back for validation. ``gray_as_rgb``: among images of three channels
    are gray ones, which were repeated."""

    learn: list[Example]
    held: list[Example]
    gray_as_rgb: bool = False

    def each(self, change: Callable[[Example], Example]) -> Data:
        return replace(self, learn=[change(one) for one in self.learn], held=[change(one) for one in self.held])

    @property
    def all(self) -> list[Example]:
        return [*self.learn, *self.held]


def load_data(options: TrainOptions, normalization: Normalization, gray_as_rgb: bool = False) -> Data:
    """Training and validation examples: two folders, or every tenth image held back. ``gray_as_rgb``: images that are all gray
    become three channels, as the model to start from knows them. Raises ``TrainingError`` that names the file that does not fit,
    or ``UsageError``."""
    if bool(options.val_images) != bool(options.val_masks):
        raise UsageError("--val-images and --val-masks go together: give both, or neither")
    learn = _load_folder(Path(options.images), Path(options.masks), normalization, options.ignore)
    if options.val_images:
        held = _load_folder(Path(options.val_images), Path(options.val_masks), normalization, options.ignore)
    elif len(learn) < 2:
        raise TrainingError(f"{options.images}: one image alone; give --val-images and --val-masks for validation")
    else:
        held = learn[9::10] or learn[-1:]
        learn = [example for example in learn if all(example is not other for other in held)]
    data = _of_equal_channels(Data(learn, held), options.images, gray_as_rgb)
    if not any(bool((example.truth > 0).any()) for example in data.learn):
        raise TrainingError(f"{options.masks}: no mask holds an object: every pixel is 0")
    return _as_asked(data, options.target)


def _load_folder(images: Path, masks: Path, normalization: Normalization, ignore: int) -> list[Example]:
    suffixes = [suffix for form in builtin_formats() for suffix in form.suffixes]
    return [_load(pair.image, pair.truth, normalization, ignore) for pair in find_pairs(images, masks, suffixes)]


def _load(image: Path, mask: Path, normalization: Normalization, ignore: int) -> Example:
    with closing(open_image(image)) as pixels, closing(open_image(mask)) as truth:
        _check_pair(pixels, truth, image, mask)
        frozen = normalization.freeze(pixels, 0)
        normal = torch.from_numpy(frozen.apply(pixels.read(pixels.spec.region)))
        if not bool(normal.isfinite().all()):
            raise TrainingError(f"{image}: holds NaN or Inf; put numbers in their place")
        values = truth.read(truth.spec.region)[..., 0]
    return Example(normal.permute(2, 0, 1).contiguous(), _truth(values, mask, ignore), image.name)


def _truth(values: Array, mask: Path, ignore: int) -> Tensor:
    """(H, W) int16, or int32 for large ids."""
    least, most = int(values.min()), int(values.max())
    if least < IGNORED or most >= _MOST:
        raise TrainingError(f"{mask}: holds values from {least} to {most}; number what it shows from 1 on, below {_MOST}")
    if np.mean(values[:, 1:] != values[:, :-1]) > _RESTLESS:
        raise TrainingError(f"{mask}: looks like an image, not like a mask; are --images and --masks swapped, is it a JPEG?")
    labels = torch.from_numpy(values.astype(np.int32 if most > _SHORT else np.int16))
    if 0 <= ignore <= most:
        labels[labels == ignore] = IGNORED
    return labels


def _check_pair(pixels: Source, truth: Source, image: Path, mask: Path) -> None:
    for path, source in ((image, pixels), (mask, truth)):
        if source.spec.plane_count > 1:
            raise TrainingError(f"{path}: holds {source.spec.plane_count} planes; train on files of one plane each")
    if (pixels.spec.height, pixels.spec.width) != (truth.spec.height, truth.spec.width):
        sizes = " and ".join(f"{spec.height} x {spec.width}" for spec in (pixels.spec, truth.spec))
        raise TrainingError(f"{mask}: its size differs from the image's ({sizes})")
    if truth.spec.channels != 1:
        raise TrainingError(f"{mask}: a mask has one channel, this has {truth.spec.channels}; save numbers, not colours")
    if np.dtype(truth.spec.dtype).kind not in "iub":
        raise TrainingError(f"{mask}: a mask holds whole numbers, this is {truth.spec.dtype}")


def _of_equal_channels(data: Data, images: str, gray_as_rgb: bool) -> Data:
    """With gray images among those of three channels repeated to three; all of them with ``gray_as_rgb``."""
    found: dict[int, str] = {}
    for example in data.all:
        found.setdefault(example.image.shape[0], example.name)
    if len(found) == 1 and not (gray_as_rgb and 1 in found):
        return data
    if set(found) <= {1, 3}:
        return replace(data.each(lambda one: replace(one, image=one.image.expand(3, -1, -1))), gray_as_rgb=True)
    kinds = " and ".join(f"{count} ({found[count]})" for count in sorted(found))
    raise TrainingError(f"{images}: images of {kinds} channels; train on one kind")


def _as_asked(data: Data, target: str) -> Data:
    """Masks of 0 and 255 are classes 0 and 1. Where foreground is to be learnt from masks of one value, its parts are objects."""
    if target == "classes":
        binary = all(bool(((one.truth <= 0) | (one.truth == 255)).all()) for one in data.all)
        return data.each(lambda one: replace(one, truth=one.truth.clamp_max(1))) if binary else data
    if target == "foreground" and all(len(np.unique(one.truth[one.truth > 0])) <= 1 for one in data.all):
        return data.each(_parted)
    return data


def _parted(example: Example) -> Example:
    parts = torch.from_numpy(ndimage.label(example.truth.numpy() > 0)[0])
    return replace(example, truth=torch.where(example.truth < 0, IGNORED, parts))


def digest(examples: Sequence[Example]) -> str:
    """How many they are, and 16 hexadecimal digits of a hash of their names, sizes and pixels."""
    found = hashlib.sha256()
    for example in examples:
        found.update(repr((example.name, tuple(example.image.shape))).encode())
        for pixels in (example.image, example.truth.to(torch.int32)):
            found.update(np.ascontiguousarray(pixels.numpy()).data)
    return f"{len(examples)} images ({found.hexdigest()[:16]})"
