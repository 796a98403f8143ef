"""The options of ``i2i train stylize``."""

from __future__ import annotations

from dataclasses import dataclass

from i2i.options import DATA, LOSS, NETWORK, SCHEDULE, ScheduleOptions, option


@dataclass(frozen=True, kw_only=True)
class _StyleOptions:
    """The style, what it is learnt on, and what of it counts."""

    style: str = option(help="the picture whose style is learnt", metavar="IMAGE", panel=DATA)
    images: str = option(help="folder of photographs, any, with those in its folders: 300 do", metavar="DIR", panel=DATA)
    style_scale: float = option(
        1.0, help="size of the strokes: the style's longer side over 512 pixels", panel=DATA, minimum=0.05
    )
    channels: int = option(
        16, help="of the network at full size: twice as many at half of it, four times at a quarter", panel=NETWORK, minimum=1
    )
    blocks: int = option(5, help="residual blocks", panel=NETWORK, minimum=1)
    encoder: str = option(
        "vgg-compact",
        help="the network that style and content are told by: vgg-compact (bundled), vgg19, or a file",
        metavar="NAME|FILE",
        panel=LOSS,
    )
    content_weight: float = option(1.0, help="how much the content counts", panel=LOSS, minimum=0)
    style_weight: float = option(50.0, help="how much the style counts", panel=LOSS, minimum=0)
    tv: float = option(1.0, help="weight of the total variation, which makes it smoother", panel=LOSS, minimum=0)


@dataclass(frozen=True, kw_only=True)
class TrainOptions(ScheduleOptions, _StyleOptions):
    """``i2i train stylize``. Its options are in the order of the last base first."""

    steps: int = option(2400, help="batches to train on; --resume with more goes on longer", panel=SCHEDULE, minimum=1)
    batch: int = option(4, help="crops in a batch, of all processes together", panel=SCHEDULE, minimum=1)
    weight_decay: float = option(0.0, help="pull of the weights to 0", panel=SCHEDULE, minimum=0)
