"""The examples that segmentation is trained on, as its target needs them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage

from i2i.data import IGNORED, Data, Example, hold_back, load_pairs, of_equal_channels
from i2i.errors import TrainingError, UsageError
from i2i.normalize import Normalization
from i2i_unet.options import TrainOptions


def load_data(
    options: TrainOptions, normalization: Normalization, gray_as_rgb: bool = False, names: Sequence[str] = ()
) -> Data[Example]:
    """Training and validation examples: two folders, or every tenth image held back. ``gray_as_rgb``: images that are all gray
    become three channels, as the model to start from knows them; ``names``: of its channels. Raises ``TrainingError`` that names
    the file that does not fit, or ``UsageError``."""
    if not options.masks:
        raise UsageError("--masks is required: a folder; or --mask-suffix, for masks among their images")
    if bool(options.val_images) != bool(options.val_masks):
        raise UsageError("--val-images and --val-masks go together: give both, or neither")

    def load(images: str, masks: str) -> list[Example]:
        return load_pairs(
            Path(images), Path(masks), normalization, options.ignore,
            ending=options.mask_suffix, channels=options.channels, names=names,
        )  # fmt: skip

    learn = load(options.images, options.masks)
    if options.val_images:
        data = Data(learn, load(options.val_images, options.val_masks))
    else:
        data = hold_back(learn, options.images, "give --val-images and --val-masks for validation")
    data = of_equal_channels(data, options.images, gray_as_rgb)
    if not any(bool((example.truth > 0).any()) for example in data.learn):
        raise TrainingError(f"{options.masks}: no mask holds an object: every pixel is 0")
    return _as_asked(data, options.target)


def _as_asked(data: Data[Example], target: str) -> Data[Example]:
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
