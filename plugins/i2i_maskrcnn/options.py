"""The options of instance segmentation, from which the command line is made."""

from __future__ import annotations

from dataclasses import dataclass

from i2i.options import (
    DATA,
    LOSS,
    MODEL,
    NETWORK,
    SCHEDULE,
    AugmentationOptions,
    PairOptions,
    ScheduleOptions,
    option,
)

DETECTION = "Detection"
SCHEMES = ("approximate-joint", "alternating", "non-approximate-joint", "four-step")


@dataclass(frozen=True)
class InstancesOptions:
    """``i2i instances``, beyond those of every image command."""

    score: float = option(-1.0, help="least score of an object, 0 to 1 (default: the model's)", panel=DETECTION)
    nms: float = option(
        -1.0, help="overlap (IoU) of boxes above which the lower score goes (default: the model's)", panel=DETECTION
    )
    soft_nms: bool = option(False, help="lower the scores of overlapping boxes, instead of dropping them", panel=DETECTION)
    min_area: int = option(-1, help="least pixels of an object (default: the model's)", panel=DETECTION)
    overlap: float = option(
        -1.0, help="share of an object under better ones of its class above which it goes (default: the model's)", panel=DETECTION
    )
    classes: list[str] = option(  # noqa: RUF009 (it makes a field)
        [], help="keep objects of this class only, by name; repeat for more", panel=DETECTION, metavar="NAME"
    )
    max_per_tile: int = option(
        0,
        help="most objects in one window (default: one for each 200 pixels that the network sees, at least 300)",
        panel=DETECTION,
        minimum=0,
    )
    object_size: int = option(
        0,
        help="side of the largest objects, in pixels: windows overlap by more (default: the model's)",
        panel=DETECTION,
        minimum=0,
    )
    zoom: float = option(
        0.0,
        help="the network sees the image so many times larger (default: the model's; 1: as it is, 0.5: half as large)",
        panel=DETECTION,
        minimum=0,
    )
    tta: bool = option(False, help="the mean over 8 flips and rotations of each window: 8 times the time", panel=MODEL)


@dataclass(frozen=True, kw_only=True)
class _NetworkOptions:
    """What is learnt, and by which network."""

    images: str = option(help="folder of images", panel=DATA, metavar="DIR")
    masks: str = option(
        "",
        help="folder of masks of the same names: 0 is background, each object has its id (with --mask-suffix: --images)",
        panel=DATA,
        metavar="DIR",
    )
    coco: str = option("", help="or COCO JSON with the objects of the images", panel=DATA, metavar="FILE")
    category: list[str] = option(  # noqa: RUF009 (it makes a field)
        [], help="of --coco: learn this category only; repeat for more", panel=DATA, metavar="NAME"
    )
    val_images: str = option("", help="images to validate on (default: every tenth of --images)", panel=DATA, metavar="DIR")
    val_masks: str = option("", help="their masks", panel=DATA, metavar="DIR")
    val_coco: str = option("", help="or their COCO JSON", panel=DATA, metavar="FILE")
    ignore: int = option(-1, help="value of mask pixels that are neither learnt nor background", panel=DATA, metavar="VALUE")
    name: str = option("object", help="what one object of --masks is called", panel=DATA)
    normalize: str = option(
        "percentile", help="how gray values become about 0 to 1", choices=("percentile", "range", "none"), panel=DATA
    )
    backbone: str = option(
        "resnet18", help="with a feature pyramid", choices=("resnet18", "mobilenet_v3", "resnet50"), panel=NETWORK
    )
    from_: str = option(
        "",
        flag="--from",
        help="go on from this model, such as coco, or a training's checkpoint.pt, with its network",
        panel=NETWORK,
        metavar="NAME_OR_PATH",
    )
    weights: str = option(
        "", help="start the backbone from a classifier's weights, with torchvision's names", panel=NETWORK, metavar="FILE"
    )
    stem_stride: int = option(
        4, help="of a ResNet: 2 sees objects below 16 pixels better, 4 is faster", panel=NETWORK, metavar="2|4"
    )
    stages: int = option(4, help="of the backbone that are used, 2 to 4", panel=NETWORK, minimum=2)
    width: int = option(128, help="channels of the feature pyramid", panel=NETWORK, minimum=8)
    box_width: int = option(256, help="units of the box head (1024 in the paper)", panel=NETWORK, minimum=8)
    mask_width: int = option(128, help="channels of the mask head (256 in the paper)", panel=NETWORK, minimum=8)
    frozen_norm: bool = option(False, help="keep the backbone's batch statistics, as small batches ask for", panel=NETWORK)
    roi: str | None = option(
        None,
        help="features of a region: align is Mask R-CNN's, pool Fast R-CNN's (default: align, or that of --from)",
        choices=("align", "warp", "pool"),
        panel=NETWORK,
    )
    mask_loss: str | None = option(
        None,
        help="sigmoid: each class by itself; softmax: they compete (default: sigmoid, or that of --from)",
        choices=("sigmoid", "softmax"),
        panel=LOSS,
    )
    scheme: str = option(
        "approximate-joint",
        help="how proposals and detector are trained: approximate-joint, alternating, non-approximate-joint (needs --roi warp), "
        "four-step; --steps are those of each step",
        choices=SCHEMES,
        panel=SCHEDULE,
        metavar="NAME",
    )
    until_step: int = option(
        0,
        help="of alternating and four-step: stop after step N; 2 leaves two networks unshared (default: all 4)",
        panel=SCHEDULE,
        minimum=0,
    )


@dataclass(frozen=True, kw_only=True)
class TrainOptions(AugmentationOptions, ScheduleOptions, PairOptions, _NetworkOptions):
    """``i2i train instances``. Its options are in the order of the last base first."""

    batch: int = option(4, help="crops in a batch, of all processes together", panel=SCHEDULE, minimum=1)
    rate: float = option(5e-4, help="largest learning rate", panel=SCHEDULE, minimum=0)
