"""The options of ``i2i stylize``."""

from __future__ import annotations

from dataclasses import dataclass

from i2i.options import ADVANCED, MODEL, option

STYLE = "Style"
METHOD = "Method"


@dataclass(frozen=True, kw_only=True)
class StylizeOptions:
    """How a picture is given the style of others. Without ``fast`` and without a model, the method of Gatys et al. (2016)."""

    style: list[str] = option(  # noqa: RUF009 (it makes a field)
        [],
        help="a picture whose style it gets; IMAGE:2 gives it twice the weight; repeat for several",
        metavar="IMAGE[:WEIGHT]",
        panel=STYLE,
    )
    style_scale: float = option(
        1.0,
        help="size of the strokes: the style's side over the result's, over 512 pixels with --fast; it is never enlarged",
        panel=STYLE,
        minimum=0.05,
    )
    mask: list[str] = option(  # noqa: RUF009
        [],
        help="where a style applies: an image, 0 is outside; not:IMAGE for its opposite; one for each --style, in their order",
        metavar="IMAGE",
        panel=STYLE,
    )
    keep_colors: str = option(
        "none",
        help="keep the input's: change its luminance alone, or give the style its colours first",
        choices=("none", "luminance", "histogram"),
        panel=STYLE,
    )
    size: str = option(
        "auto",
        help="longer side of the result, in pixels; auto: at most 512, or full with --fast or --model",
        metavar="auto|full|N",
        panel=STYLE,
    )
    fast: bool = option(False, help="one pass of a network for any style: seconds, and any size", panel=METHOD)
    strength: float = option(1.0, help="of the style, 0 to 1 (with --fast)", panel=METHOD, minimum=0)
    steps: int = option(
        0, help="evaluations at each size up to 512 pixels, halved for each doubling beyond; 0: 150", panel=METHOD, minimum=0
    )
    init: str = option("content", help="where it starts", metavar="content|noise|IMAGE", panel=METHOD)
    scales: int = option(
        0, help="sizes that it goes through, each twice the last; 1: the paper's; 0: from 128 pixels on", panel=METHOD, minimum=0
    )
    alpha: float = option(1.0, help="weight of the content; 0: style only (texture synthesis)", panel=METHOD, minimum=0)
    beta: float = option(500.0, help="weight of the style; 0: content only (reconstruction)", panel=METHOD, minimum=0)
    tv: float = option(0.0, help="weight of the total variation, which makes it smoother", panel=METHOD, minimum=0)
    optimizer: str = option("lbfgs", help="what minimises the loss", choices=("lbfgs", "adam", "gd"), panel=METHOD)
    rate: float = option(0.0, help="step size of the optimiser; 0: its own", panel=METHOD, minimum=0)
    encoder: str = option(
        "vgg-compact",
        help="what tells style and content: vgg-compact (bundled), vgg19, or a file",
        metavar="NAME|FILE",
        panel=MODEL,
    )
    pooling: str = option("auto", help="auto: the encoder's own", choices=("auto", "avg", "max"), panel=MODEL)
    content_layers: str = option("auto", help="such as conv3_2, or conv3_2:1,conv4_1:0.5", metavar="LAYERS", panel=ADVANCED)
    style_layers: str = option("auto", help="such as conv1_1,conv2_1:0.5", metavar="LAYERS", panel=ADVANCED)
    content_loss: str = option(
        "mean", help="over all answers; sum: the paper's, which grows with the size", choices=("mean", "sum"), panel=ADVANCED
    )
    save_every: int = option(0, help="keep the picture every N steps, in the folder OUTPUT-steps", panel=ADVANCED, minimum=0)


OF_GATYS = (
    "steps", "init", "scales", "alpha", "beta", "tv", "optimizer", "rate", "encoder", "pooling", "content_layers", "style_layers",
    "content_loss", "save_every",
)  # fmt: skip
"""Options of the method that optimises the picture: those that pass it through a network once have no use for them."""
