"""The options of segmentation, from which the command line is made."""

from __future__ import annotations

from dataclasses import dataclass

from i2i.options import (
    AUGMENTATION,
    DATA,
    INPUT,
    LOSS,
    MODEL,
    NETWORK,
    SCHEDULE,
    AugmentationOptions,
    PairOptions,
    ScheduleOptions,
    option,
)

OBJECTS = "Objects"
LOSSES = ("weighted", "cross-entropy", "dice", "weighted+dice", "cross-entropy+dice")


@dataclass(frozen=True)
class SegmentOptions:
    """``i2i segment``, beyond those of every image command."""

    zoom: float = option(
        0.0,
        help="the network sees the image so many times larger (default: as pixel sizes say; 1: as it is, 0.5: half as large)",
        panel=MODEL,
        minimum=0,
    )
    tta: bool = option(False, help="the mean over 8 flips and rotations of each window: 8 times the time", panel=MODEL)
    min_area: int = option(
        0, help="least pixels of an object in the result (default: the model's own bound alone)", panel=OBJECTS, minimum=0
    )
    max_area: int = option(0, help="most pixels of an object in the result (default: any number)", panel=OBJECTS, minimum=0)
    clear_border: bool = option(False, help="drop objects that touch the image's edge", panel=OBJECTS)
    float_: bool = option(False, flag="--float", help="probabilities, as float32, 0 to 1 (without: uint8, 0 to 255)", panel=INPUT)


@dataclass(frozen=True, kw_only=True)
class _SegmentationOptions:
    """What is learnt, and by which network."""

    images: str = option(help="folder of images", panel=DATA, metavar="DIR")
    masks: str = option(
        "",
        help="folder of masks of the same names and sizes, 0 is background (default with --mask-suffix: --images)",
        panel=DATA,
        metavar="DIR",
    )
    val_images: str = option("", help="images to validate on (default: every tenth of --images)", panel=DATA, metavar="DIR")
    val_masks: str = option("", help="their masks", panel=DATA, metavar="DIR")
    target: str = option(
        "border",
        help="border, foreground: parts objects, from masks of their ids; classes: masks of class numbers (or 0 and 255)",
        choices=("border", "foreground", "classes"),
        panel=DATA,
    )
    ignore: int = option(-1, help="value of mask pixels that are neither learnt from nor judged", panel=DATA, metavar="VALUE")
    normalize: str = option(
        "percentile", help="how gray values become about 0 to 1", choices=("percentile", "range", "none"), panel=DATA
    )
    arch: str = option(
        "unet",
        help="unet: as the options below say; original: the paper's; patch: what it replaced, pixel by pixel",
        choices=("unet", "original", "patch"),
        panel=NETWORK,
    )
    from_: str = option(
        "",
        flag="--from",
        help="go on from this model, or a training's checkpoint.pt, with its network",
        panel=NETWORK,
        metavar="NAME_OR_PATH",
    )
    depth: int = option(4, help="times that the image is halved", panel=NETWORK, minimum=1)
    filters: int = option(24, help="channels of the first level, doubled at each halving", panel=NETWORK, minimum=1)
    padding: str = option("same", help="of the convolutions; valid is the paper's", choices=("same", "valid"), panel=NETWORK)
    norm: str = option("batch", help="normalisation layers", choices=("batch", "instance", "group", "none"), panel=NETWORK)
    up: str = option("transposed", help="up-sampling; transposed is the paper's", choices=("transposed", "resize"), panel=NETWORK)
    dropout: float = option(
        0.0, help="drop-out at the end of the contracting path, 0 to 1 (default: 0)", panel=NETWORK, minimum=0
    )
    patch_size: int = option(65, help="of --arch patch: side of what a pixel is classified by, odd", panel=NETWORK, minimum=9)
    loss: str = option(
        "weighted+dice",
        help="weighted (cross entropy with the paper's border weights), cross-entropy, dice, weighted+dice, cross-entropy+dice",
        choices=LOSSES,
        panel=LOSS,
        metavar="NAME",
    )
    border_weight: float = option(
        10.0, help="of weighted: w0 of the paper, the weight between objects that nearly touch; 0: none", panel=LOSS, minimum=0
    )
    border_sigma: float = option(5.0, help="of weighted: how far that reaches, in pixels", panel=LOSS, minimum=0.1)
    class_balance: bool = option(False, help="weigh each class by how rare it is", panel=LOSS)
    dice_weight: float = option(0.5, help="weight of Dice beside cross entropy", panel=LOSS, minimum=0)


@dataclass(frozen=True, kw_only=True)
class TrainOptions(AugmentationOptions, ScheduleOptions, PairOptions, _SegmentationOptions):
    """``i2i train segment``. Its options are in the order of the last base first."""

    batch: int = option(
        0,
        help="crops in a batch, of all processes together (default: 8; of --arch patch: 512 patches)",
        panel=SCHEDULE,
        minimum=0,
    )
    crop: int = option(
        256,
        help="side of a crop in pixels, a multiple of 2 to the depth (of --padding valid: side of its output)",
        panel=SCHEDULE,
        minimum=16,
    )
    optimizer: str = option("adamw", help="sgd is the paper's", choices=("adamw", "sgd"), panel=SCHEDULE)
    momentum: float = option(0.99, help="of sgd", panel=SCHEDULE, minimum=0)
    augment: bool = option(
        True, help="vary the crops, as the options below say (of --arch patch: 8 flips and rotations)", panel=AUGMENTATION
    )


HEADLINE = (
    "images", "ap*", "f1_*", "precision50", "recall50", "[ps]q", "aji", "merged", "split", "merged_share",
    "iou*", "dice*", "pixel_*", "rand_*", "warping_*", "split_merge_*", "v_*",
)  # fmt: skip
"""The figures of an evaluation that are shown without ``-v``."""


@dataclass(frozen=True)
class EvalOptions:
    """``i2i eval segment``."""

    kind: str = option(
        "labels",
        help="what the files hold: labels (object ids); classes (or masks of 0 and 255); regions: cells between membranes, "
        "predicted as classes or as probabilities",
        choices=("labels", "classes", "regions"),
    )
    ignore: int | None = option(None, help="do not count pixels whose truth is N", metavar="N", minimum=0)
    foreground: int = option(1, help="regions: the class of the cells", minimum=0)
