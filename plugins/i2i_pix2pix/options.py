"""The options of paired translation, from which the command line is made."""

from __future__ import annotations

from dataclasses import dataclass

from i2i.options import AUGMENTATION, DATA, LOSS, NETWORK, SCHEDULE, ScheduleOptions, option

KINDS = ("unet", "encoder-decoder", "resnet")
OBJECTIVES = ("vanilla", "lsgan", "hinge")
UNITS = ("own", "input")
STATISTICS = ("auto", "sampled", "exact")
TERMS = ("l1", "l2", "gan", "cgan", "l1+gan", "l1+cgan")


@dataclass(frozen=True, kw_only=True)
class TranslateOptions:
    """``i2i translate``, beyond those of every image command."""

    samples: int = option(0, help="answers with the noise of training, a file each; 0: one, without noise", minimum=0)
    statistics: str = option(
        "auto",
        help="of instance and group normalisation: exact over all of the image (slower), or sampled in parts of it; "
        "auto: exact up to 4096 x 4096 pixels where the generator tiles exactly",
        choices=STATISTICS,
    )


@dataclass(frozen=True, kw_only=True)
class _TranslationOptions:
    """What is learnt, and by which networks."""

    pairs: str = option("", help="folder of files that hold A at the left and B at the right", panel=DATA, metavar="DIR")
    direction: str = option("AtoB", help="of --pairs: what becomes what", choices=("AtoB", "BtoA"), panel=DATA)
    source: str = option("", help="folder of inputs, in place of --pairs", panel=DATA, metavar="DIR")
    target: str = option("", help="folder of what they are to become, of the same names and sizes", panel=DATA, metavar="DIR")
    normalize: str = option(
        "range", help="how an input's numbers become about -1 to 1", choices=("range", "percentile"), panel=DATA
    )
    units: str = option(
        "own", help="numbers of the answer: its own, or those of the input (cleaned, sharpened ...)", choices=UNITS, panel=DATA
    )
    generator: str = option("unet", help="the paper's U-Net, the same without skips, or residual", choices=KINDS, panel=NETWORK)
    depth: int = option(
        0, help="times that it halves the image; 0: until a crop is one pixel (resnet: 2)", panel=NETWORK, minimum=0
    )
    filters: int = option(
        64, help="channels of its first layer, doubled at each halving, up to 8 times", panel=NETWORK, minimum=1
    )
    blocks: int = option(9, help="of resnet", panel=NETWORK, minimum=0)
    norm: str = option(
        "instance",
        help="normalisation layers; instance is the paper's, with batches of one",
        choices=("batch", "instance", "group"),
        panel=NETWORK,
    )
    from_: str = option(
        "",
        flag="--from",
        help="go on from this model, or a training's checkpoint.pt, with its network",
        panel=NETWORK,
        metavar="NAME_OR_PATH",
    )
    up: str = option(
        "transposed", help="up-sampling; resize leaves no checkerboard", choices=("transposed", "resize"), panel=NETWORK
    )
    dropout: float = option(0.5, help="the paper's noise; 0: none", panel=NETWORK, minimum=0)
    head: str = option(
        "tanh", help="tanh is the paper's; linear for numbers without limits", choices=("tanh", "linear"), panel=NETWORK
    )
    patch: int = option(
        70, help="side of what the discriminator tells as real or not: 1, 16, 34, 70, 142 or 286", panel=NETWORK, minimum=1
    )
    loss: str = option("l1+cgan", help="what is made small", choices=TERMS, panel=LOSS)
    lambda_: float = option(100.0, flag="--lambda", help="weight of l1 or l2 beside gan or cgan", panel=LOSS, minimum=0)
    objective: str = option("vanilla", help="of gan and cgan", choices=OBJECTIVES, panel=LOSS)
    jitter: float = option(
        286 / 256,
        help="pairs smaller than so many crops are enlarged to that, and crops cut of them",
        panel=AUGMENTATION,
        minimum=1,
    )
    mirror: bool = option(True, help="every other crop the other way round", panel=AUGMENTATION)


@dataclass(frozen=True, kw_only=True)
class TrainOptions(ScheduleOptions, _TranslationOptions):
    """``i2i train translate``: the recipe of the paper. Its options are in the order of the last base first."""

    steps: int = option(20_000, help="batches to train on; --resume with more goes on longer", panel=SCHEDULE, minimum=1)
    batch: int = option(1, help="crops in a batch", panel=SCHEDULE, minimum=1)
    rate: float = option(2e-4, help="largest learning rate", panel=SCHEDULE, minimum=0)
    weight_decay: float = option(0.0, help="pull of the weights to 0", panel=SCHEDULE, minimum=0)
    schedule: str = option(
        "linear", help="of the learning rate", choices=("cosine", "poly", "step", "constant", "linear"), panel=SCHEDULE
    )
    warmup: int = option(0, help="steps until the learning rate is reached", panel=SCHEDULE, minimum=0)
    average: float = option(0.0, help="decay of the average of weights that is kept; 0: none", panel=SCHEDULE, minimum=0)


@dataclass(frozen=True, kw_only=True)
class EvalOptions:
    """``i2i eval translate``."""

    range: float = option(0.0, help="of the numbers; 0: 255 for 8 bits, else that of each truth", minimum=0)
    perceptual: bool = option(False, help="also the distance that the encoder of style transfer sees")
    scorer: str = option(
        "", help="model of i2i train segment that finds classes in predictions (FCN-score)", metavar="NAME_OR_PATH"
    )
    labels: str = option("", help="with --scorer: the true classes, a folder of the truths' names, or a file", metavar="DIR")
    ignore: int | None = option(None, help="with --scorer: a class of the labels that does not count")
