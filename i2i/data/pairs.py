"""Files to learn from: images, and masks of the same names, or of names with a common ending."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from i2i.channels import in_order
from i2i.contracts import ImageSpec, Source
from i2i.data.crops import Example
from i2i.errors import TrainingError
from i2i.files import stem_of
from i2i.formats import builtin_formats, open_image
from i2i.formats.views import View, read_whole, select
from i2i.normalize import Normalization

AnyOptions = TypeVar("AnyOptions", bound=Any)

IGNORED = -1
"""The truth of pixels that are not learnt from."""
_MOST, _SHORT = 2**24, 2**15 - 1
"""Values of a mask are below the first, for crops hold them as float32; up to the second they take two bytes."""
_RESTLESS = 0.25
"""At most this share of a mask's pixels differs from the left neighbour: up to 0.05 in masks of small nuclei and of membranes,
0.2 to 0.98 in photographs and micrographs."""
_FEW = 32
"""So many values are a mask of classes, however restless: a small one of facades, say."""


@dataclass(frozen=True)
class Pair:
    """An image and its truth: files of the same name but for the suffix."""

    image: Path
    truth: Path


def find_pairs(images: Path, truths: Path, suffixes: Iterable[str], ending: str = "") -> list[Pair]:
    """The files of two folders that share their names but for the suffix (:func:`~i2i.files.stem_of`), sorted. ``ending``: what
    the names of truths have more, such as ``_masks``: files with it are no images, without it no truths, and the folders may be
    one. Raises ``TrainingError`` naming the first that has no partner."""
    known = tuple(suffixes)
    named = _named(images, known), _named(truths, known)
    found = {name: path for name, path in named[0].items() if not (ending and name.endswith(ending))}
    true = {name.removesuffix(ending): path for name, path in named[1].items() if name.endswith(ending)}
    for files, folder, kind in ((found, images, "does not end"), (true, truths, "ends")):
        if not files:
            raise TrainingError(f"{folder}: holds no image whose name {kind} in {ending}")
    for files, others, other, more in ((found, true, truths, ending), (true, found, images, "")):
        lone = sorted(set(files) - set(others))
        if lone:
            name = f"named {lone[0]}{more}" if ending else "of that name"
            raise TrainingError(f"{files[lone[0]]}: no file {name} in {other} ({len(lone)} such in all)")
    return [Pair(found[name], true[name]) for name in sorted(found)]


def _named(folder: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    """The images in a folder by their names without suffix."""
    if not folder.is_dir():
        raise TrainingError(f"{folder}: no such folder")
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        name = stem_of(path.name)
        if path.suffix.lower() not in suffixes or path.name.startswith("."):
            continue
        if name in files:
            raise TrainingError(f"{path}: {files[name].name} has the same name; keep one of them")
        files[name] = path
    if not files:
        raise TrainingError(f"{folder}: holds no image ({', '.join(suffixes)})")
    return files


def masks_beside(options: AnyOptions) -> AnyOptions:
    """With ``--mask-suffix``, masks lie among their images where no folder is given for them."""
    if not options.mask_suffix:
        return options
    places = {"masks": options.masks or options.images, "val_masks": options.val_masks or options.val_images}
    return replace(options, **places)


def load_pairs(
    images: Path,
    masks: Path,
    normalization: Normalization,
    ignore: int = IGNORED,
    *,
    ending: str = "",
    channels: str = "",
    names: Sequence[str] = (),
) -> list[Example]:
    """The images of one folder with their masks of another, sorted by name; of a stack, each plane with that of its mask.
    ``ignore``: the value of mask pixels that are not learnt from; ``ending``: what the names of masks have more
    (:func:`find_pairs`); ``channels`` and ``names``: those of the images (:func:`load_image`). Raises ``TrainingError`` that
    names the file that does not fit, ``InputError`` for one that cannot be read, ``UsageError`` for channels that are not
    there."""
    suffixes = [suffix for form in builtin_formats() for suffix in form.suffixes]
    found = []
    for pair in find_pairs(images, masks, suffixes, ending):
        with closing(open_image(pair.image)) as image, closing(open_image(pair.truth)) as truth:
            size = image.spec
            _check_mask(truth.spec, pair.truth, (size.height, size.width), size.plane_count)
            for plane in range(size.plane_count):
                pixels, spec = _image(image, plane, pair.image, normalization, channels, names)
                labels = _labels(View(truth, plane), pair.truth, ignore)
                found.append(Example(pixels, labels, pair.image.name, spec=spec))
    return found


def load_image(
    path: Path, normalization: Normalization, channels: str = "", names: Sequence[str] = ()
) -> tuple[Tensor, ImageSpec]:
    """(C, H, W) float32: the pixels of an image of one plane, normalised by its own statistics; and what its file says of them.
    ``channels``: those to take, by index or name as ``--channels`` has it; without it, ``names``: of the channels to take in this
    order where the image has them all. Raises ``TrainingError`` for several planes, NaN or Inf, ``InputError`` for a file that
    cannot be read, ``UsageError`` for channels that are not there."""
    with closing(open_image(path)) as opened:
        if opened.spec.plane_count > 1:
            raise TrainingError(f"{path}: holds {opened.spec.plane_count} planes; train on files of one plane each")
        return _image(opened, 0, path, normalization, channels, names)


def _image(
    opened: Source, plane: int, path: Path, normalization: Normalization, channels: str, names: Sequence[str]
) -> tuple[Tensor, ImageSpec]:
    source = View(select(opened, 0, None, channels, path) if channels else in_order(opened, names), plane)
    pixels = torch.from_numpy(normalization.freeze(source, 0).apply(read_whole(source, path)))
    if not bool(pixels.isfinite().all()):
        raise TrainingError(f"{path}: holds NaN or Inf; put numbers in their place")
    return pixels.permute(2, 0, 1).contiguous(), source.spec


def load_labels(path: Path, shape: tuple[int, int], ignore: int = IGNORED) -> Tensor:
    """(H, W) int16, or int32 for large numbers: the labels or classes in a mask, 0 to 2**24 - 1, and ``IGNORED`` where it holds
    ``ignore``. ``shape``: of its image, height and width. Raises ``TrainingError`` for what is no mask or of another size, and
    ``InputError`` for a file that cannot be read."""
    with closing(open_image(path)) as source:
        _check_mask(source.spec, path, shape)
        return _labels(source, path, ignore)


def _labels(source: Source, path: Path, ignore: int) -> Tensor:
    """Of a source of one plane."""
    values = read_whole(source, path)[..., 0]
    least, most = int(values.min()), int(values.max())
    if least < IGNORED or most >= _MOST:
        raise TrainingError(f"{path}: holds values from {least} to {most}; number what it shows from 1 on, below {_MOST}")
    restless = np.count_nonzero(values[:, 1:] != values[:, :-1]) > _RESTLESS * values[:, 1:].size
    if restless and len(np.unique(values)) > _FEW:
        raise TrainingError(f"{path}: looks like an image, not like a mask; are --images and --masks swapped, is it a JPEG?")
    labels = torch.from_numpy(values.astype(np.int32 if most > _SHORT else np.int16))
    if 0 <= ignore <= most:
        labels[labels == ignore] = IGNORED
    return labels


def _check_mask(spec: ImageSpec, path: Path, shape: tuple[int, int], planes: int = 1) -> None:
    if spec.plane_count != planes:
        held = f"{spec.plane_count} plane{'s' * (spec.plane_count != 1)}"
        raise TrainingError(f"{path}: holds {held}, its image {planes}; save the mask of each plane")
    if (spec.height, spec.width) != shape:
        sizes = " and ".join(f"{height} x {width}" for height, width in (shape, (spec.height, spec.width)))
        raise TrainingError(f"{path}: its size differs from the image's ({sizes})")
    if spec.channels != 1:
        raise TrainingError(f"{path}: a mask has one channel, this has {spec.channels}; save numbers, not colours")
    if np.dtype(spec.dtype).kind not in "iub":
        raise TrainingError(f"{path}: a mask holds whole numbers, this is {spec.dtype}")
