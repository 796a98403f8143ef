"""The examples that segmentation is trained on: loaded from folders, and known by their digest."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import torch

from i2i.contracts import Source
from i2i.data import Example, find_pairs
from i2i.errors import TrainingError
from i2i.formats import builtin_formats, open_image
from i2i.normalize import Normalization
from i2i_unet.options import TrainOptions


def load_examples(images: Path, masks: Path, normalization: Normalization) -> list[Example]:
    """Pairs of an image and its mask of equal size. Raises ``TrainingError`` that names the file that does not fit."""
    suffixes = [suffix for form in builtin_formats() for suffix in form.suffixes]
    examples = [_load(pair.image, pair.truth, normalization) for pair in find_pairs(images, masks, suffixes)]
    channels = {example.image.shape[0] for example in examples}
    if len(channels) > 1:
        raise TrainingError(f"{images}: images of {' and '.join(map(str, sorted(channels)))} channels; train on one kind")
    if not any(bool(example.truth.any()) for example in examples):
        raise TrainingError(f"{masks}: no mask holds an object: every pixel is 0")
    return examples


def _load(image: Path, mask: Path, normalization: Normalization) -> Example:
    with closing(open_image(image)) as pixels, closing(open_image(mask)) as truth:
        return _example(pixels, truth, image, mask, normalization)


def _example(pixels: Source, truth: Source, image: Path, mask: Path, normalization: Normalization) -> Example:
    if (pixels.spec.height, pixels.spec.width) != (truth.spec.height, truth.spec.width):
        sizes = " and ".join(f"{spec.height} x {spec.width}" for spec in (pixels.spec, truth.spec))
        raise TrainingError(f"{mask}: its size differs from the image's ({sizes})")
    if truth.spec.channels != 1:
        raise TrainingError(f"{mask}: a mask has one channel, this has {truth.spec.channels}")
    frozen = normalization.freeze(pixels, 0)
    normal = torch.from_numpy(frozen.apply(pixels.read(pixels.spec.region)))
    labels = torch.from_numpy(truth.read(truth.spec.region)[..., 0].astype(np.int32))
    return Example(normal.permute(2, 0, 1).contiguous(), labels, image.name)


def split(options: TrainOptions, normalization: Normalization) -> tuple[list[Example], list[Example]]:
    """Training and validation examples: two folders, or every tenth image held back."""
    examples = load_examples(Path(options.images), Path(options.masks), normalization)
    if options.val_images:
        return examples, load_examples(Path(options.val_images), Path(options.val_masks or options.masks), normalization)
    if len(examples) < 2:
        raise TrainingError(f"{options.images}: one image alone; give --val-images and --val-masks for validation")
    held = [example for i, example in enumerate(examples) if i % 10 == 9] or examples[-1:]
    kept = [example for example in examples if all(example is not other for other in held)]
    return kept, held


def digest(examples: Sequence[Example]) -> str:
    """How many they are, and 16 hexadecimal digits of a hash of their names, sizes and pixels."""
    found = hashlib.sha256()
    for example in examples:
        found.update(repr((example.name, tuple(example.image.shape))).encode())
        for pixels in (example.image, example.truth):
            found.update(np.ascontiguousarray(pixels.numpy()).data)
    return f"{len(examples)} images ({found.hexdigest()[:16]})"
