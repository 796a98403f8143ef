"""What Mask R-CNN learns from: folders of instance masks, or COCO JSON."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from i2i.data import Data, hold_back, load_pairs, of_equal_channels
from i2i.errors import TrainingError, UsageError
from i2i.normalize import Normalization
from i2i.options import changed
from i2i_maskrcnn.coco import load_coco
from i2i_maskrcnn.examples import ObjectExample, of_one_class
from i2i_maskrcnn.options import TrainOptions

Tell = Callable[[str], None]
_LONGEST_NAME = 200
_CURE = "give --val-images with --val-masks or --val-coco for validation"


@dataclass(frozen=True)
class Objects(Data[ObjectExample]):
    """Examples, and the names of their objects' classes by number."""

    class_names: dict[int, str] = field(default_factory=dict)


def load_objects(
    options: TrainOptions, normalization: Normalization, gray_as_rgb: bool, names: Sequence[str], tell: Tell
) -> Objects:
    """Training and validation examples. ``gray_as_rgb``: gray images become three channels, as the model to start from knows
    them; ``names``: of its channels. Raises ``TrainingError`` for data that cannot be learnt from."""

    def load(images: str, masks: str, coco: str) -> tuple[list[ObjectExample], dict[int, str]]:
        if coco:
            return load_coco(Path(images), Path(coco), normalization, options.category, tell, options.channels, names)
        examples = load_pairs(
            Path(images), Path(masks), normalization, options.ignore,
            ending=options.mask_suffix, channels=options.channels, names=names,
        )  # fmt: skip
        return [of_one_class(example) for example in examples], {1: options.name}

    learn, classes = load(options.images, options.masks, options.coco)
    if options.val_images:
        held, known = load(options.val_images, options.val_masks, options.val_coco)
        if known != classes:
            raise TrainingError(f"{options.val_coco}: other classes than to train on; use --category for both")
        data = Objects(learn, held, class_names=classes)
    else:
        parted = hold_back(learn, options.images, _CURE)
        data = Objects(parted.learn, parted.held, class_names=classes)
    if not any(bool((example.classes > 0).any()) for example in data.learn):
        raise TrainingError(f"{options.masks or options.coco}: no image to train on holds an object: nothing can be learnt")
    return of_equal_channels(data, options.images, gray_as_rgb)


def check_data(options: TrainOptions) -> None:
    """Raises ``UsageError`` for options of data that do not go together."""
    if bool(options.masks) == bool(options.coco):
        raise UsageError("give the objects either as --masks or as --coco")
    alien = changed(options, ("ignore", "name", "mask_suffix") if options.coco else ("category",))
    if alien:
        raise UsageError(f"--{alien[0].replace('_', '-')}: is of {'--masks' if options.coco else '--coco'}; leave it out")
    if not (options.name.isprintable() and 0 < len(options.name) <= _LONGEST_NAME):
        raise UsageError(f"--name: give one line of at most {_LONGEST_NAME} letters")
    if bool(options.val_images) != bool(options.val_masks or options.val_coco) or (options.val_masks and options.val_coco):
        raise UsageError("--val-images goes with either --val-masks or --val-coco")
    if options.val_images and bool(options.val_coco) != bool(options.coco):
        raise UsageError("validate on the kind of truth that is trained on: --masks with --val-masks, --coco with --val-coco")
