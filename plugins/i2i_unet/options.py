"""The options of segmentation, from which the command line is made."""

from __future__ import annotations

from dataclasses import dataclass

from i2i.options import option

DATA = "Data"
NETWORK = "Network"
SCHEDULE = "Training"


@dataclass(frozen=True)
class SegmentOptions:
    """``i2i segment`` has none beyond those of every image command."""


@dataclass(frozen=True)
class TrainOptions:
    """``i2i train segment``."""

    images: str = option(help="folder of images", panel=DATA, metavar="DIR")
    masks: str = option(help="folder of masks with the images' names", panel=DATA, metavar="DIR")
    val_images: str = option("", help="images to validate on (default: every tenth of the others)", panel=DATA, metavar="DIR")
    val_masks: str = option("", help="their masks", panel=DATA, metavar="DIR")
    target: str = option(
        "border",
        help="masks of object ids: learn border (background, interior, border) or foreground; or masks of classes",
        choices=("border", "foreground", "classes"),
        panel=DATA,
    )
    normalize: str = option("percentile", help="of the gray values", choices=("percentile", "range", "none"), panel=DATA)
    arch: str = option("unet", help="original is the paper's", choices=("unet", "original"), panel=NETWORK)
    depth: int = option(4, help="times that the image is halved", panel=NETWORK, minimum=1)
    filters: int = option(24, help="channels of the first level", panel=NETWORK, minimum=1)
    padding: str = option("same", help="of the convolutions", choices=("same", "valid"), panel=NETWORK)
    norm: str = option("batch", help="normalisation layers", choices=("batch", "instance", "group", "none"), panel=NETWORK)
    up: str = option("transposed", help="up-sampling", choices=("transposed", "resize"), panel=NETWORK)
    dropout: float = option(0.0, help="drop-out at the end of the contracting path", panel=NETWORK, minimum=0)
    steps: int = option(2000, help="batches to train on", panel=SCHEDULE, minimum=1)
    batch: int = option(8, help="crops in a batch", panel=SCHEDULE, minimum=1)
    crop: int = option(256, help="side of a crop (valid: of its output), in pixels", panel=SCHEDULE, minimum=16)
    rate: float = option(1e-3, help="largest learning rate", panel=SCHEDULE, minimum=0)
    gap_weight: float = option(3.0, help="weight of pixels between two objects", panel=SCHEDULE, minimum=0)
    dice_weight: float = option(0.5, help="weight of the Dice loss beside cross entropy", panel=SCHEDULE, minimum=0)
    augment: bool = option(True, help="vary the crops: flip, rotate, scale, deform, gray values", panel=SCHEDULE)
    validate_every: int = option(250, help="steps between validations and checkpoints", panel=SCHEDULE, minimum=1)


@dataclass(frozen=True)
class EvalOptions:
    """``i2i eval segment``."""

    kind: str = option("labels", help="what the files hold: labels (object ids) or classes", choices=("labels", "classes"))
