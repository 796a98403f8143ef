"""What the options of ``i2i train instances`` ask for: the network, fresh or of another model, and how it learns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path

from torch import Tensor

from i2i.contracts import Model, TrainingRun
from i2i.errors import ModelError, TrainingError, UsageError
from i2i.models import open_model
from i2i.options import NETWORK, changed
from i2i.training import check_schedule
from i2i_maskrcnn.anchors import anchors_from
from i2i_maskrcnn.config import IMAGENET_MEAN, IMAGENET_STD, MaskRCNNConfig
from i2i_maskrcnn.examples import ObjectExample
from i2i_maskrcnn.header import read_header
from i2i_maskrcnn.network import MaskRCNN, build
from i2i_maskrcnn.options import TrainOptions
from i2i_maskrcnn.schemes import SCHEMES, Step

_OPEN = ("from_", "roi", "frozen_norm")
"""Options of the network that may be chosen with --from, too: they have no weights."""
_STEMS = ("conv1.weight", "0.0.weight")
"""The first convolution, which depends on the images' channels."""


# -------------------------------------------------------------------------------------------------------------- the network


def base_model(options: TrainOptions, run: TrainingRun) -> Model | None:
    """The model to fine-tune. Its network is its own: raises ``UsageError`` for options that ask for another."""
    if not options.from_:
        return None
    panel = [item.name for item in fields(options) if item.metadata["panel"] == NETWORK and item.name not in _OPEN]
    alien = changed(options, [*panel, "normalize"])
    if alien:
        raise UsageError(f"--from {options.from_}: the network is that model's; leave out --{alien[0].replace('_', '-')}")
    return run.find_model(options.from_)


def network_config(options: TrainOptions, base: Model | None) -> MaskRCNNConfig:
    """The network, whose channels, classes and, where it is fresh, anchors are yet to be set by the data. Raises ``UsageError``
    for an impossible one."""
    if base:
        known = read_header(base).network
        frozen = known.frozen_norm or options.frozen_norm
        return replace(known, roi=options.roi or known.roi, mask_loss=options.mask_loss or known.mask_loss, frozen_norm=frozen)
    names = ("backbone", "stem_stride", "stages", "width", "box_width", "mask_width", "frozen_norm")
    config = MaskRCNNConfig(
        **{name: getattr(options, name) for name in names},
        roi=options.roi or "align",
        mask_loss=options.mask_loss or "sigmoid",
        anchor_sizes=(32.0,) * (options.stages + 1),
    )
    try:
        return config.checked()
    except ModelError as error:
        raise UsageError(str(error).replace("network: ", "--").replace("_", "-")) from error


def make_network(
    config: MaskRCNNConfig, options: TrainOptions, base: Model | None, examples: Sequence[ObjectExample], run: TrainingRun
) -> MaskRCNN:
    """``config`` with the images' channels: with fresh weights, and anchors from the data, or with those of ``base``. Raises
    ``TrainingError`` when that takes other images, and for data or weights that do not fit."""
    channels = examples[0].image.shape[0]
    if base is None:
        sizes, ratios = anchors_from(examples, config.levels)
        config = replace(config, channels=channels, anchor_sizes=sizes, aspect_ratios=ratios)
        return _with_backbone(config, Path(options.weights), run) if options.weights else build(config)
    if config.channels != channels:
        raise TrainingError(f"--from {base.name}: takes images of {config.channels} channels, these have {channels}")
    network = build(config)
    new = _adopt(network, base)
    run.message(f"goes on from {base.name}" + (f", with new {', '.join(new)}" if new else ""))
    return network


def _adopt(network: MaskRCNN, base: Model) -> list[str]:
    """Take the weights that fit, of earlier names too; gives the names of layers that have none, such as those of other classes.
    Raises ``ModelError`` for those of another network."""
    own = network.state_dict()
    weights = {
        name: value.float() if value.is_floating_point() else value
        for name, value in base.tensors().items()
        if name not in own or own[name].shape == value.shape
    }
    missing = [name for name in network.load_state_dict(weights, strict=False).missing_keys if not _is_counter(name)]
    if len(missing) > len(own) / 2:
        raise ModelError(f"{base.path}: its weights are not those of the network that its header describes; get the model again")
    return sorted({name.rsplit(".", 1)[0] for name in missing})


def _is_counter(name: str) -> bool:
    """Of batches: not all files have them."""
    return name.endswith("num_batches_tracked")


# ------------------------------------------------------------------------------------------------- a backbone's weights


def _with_backbone(config: MaskRCNNConfig, path: Path, run: TrainingRun) -> MaskRCNN:
    """A network whose backbone starts from a classifier's or another detector's, and sees images as that does: less ImageNet's
    mean. Raises ``TrainingError`` for weights of another backbone."""
    if config.channels == 1:
        config = replace(config, mean=(sum(IMAGENET_MEAN) / 3,), std=(sum(IMAGENET_STD) / 3,))
    elif config.channels == 3:
        config = replace(config, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    network = build(config)
    own = network.backbone.body.state_dict()
    given = _of_body(open_model(path).tensors(), own)
    wrong = _misfit(given, own)
    if wrong:
        raise TrainingError(f"--weights {path}: not those of --backbone {config.backbone}: {wrong}; give others, or none")
    fitting = {name: value.float() for name, value in given.items() if name in own and value.shape == own[name].shape}
    network.backbone.body.load_state_dict(fitting, strict=False)
    new = "" if any(name in fitting for name in _STEMS) else ", but for the first layer"
    run.message(f"the backbone starts from {path}{new}")
    return network


def _of_body(weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those of a backbone by its own names; the first layer's are added up over its channels for gray images."""
    for prefix in ("backbone.body.", "body.", "features."):
        held = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
        weights = held or weights
    stems = {
        name: weights[name].float().sum(1, keepdim=True)
        for name in _STEMS
        if name in own and name in weights and weights[name].dim() == 4 and own[name].shape[1] == 1
    }
    return {**weights, **stems}


def _misfit(given: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    """What is missing, of another shape or too much in a part that both have, in words."""
    for name, value in own.items():
        if name in given and given[name].shape != value.shape and name not in _STEMS:
            return f"{name} is {tuple(given[name].shape)}, not {tuple(value.shape)}"
        if name not in given and not _is_counter(name):
            return f"{name} is missing"
    parts = {name.split(".")[0] for name in own}
    extra = sorted(name for name in given if name not in own and name.split(".")[0] in parts)
    return f"{extra[0]} is unknown" if extra else ""


# ------------------------------------------------------------------------------------------------------------ how it learns


def steps_of(options: TrainOptions, config: MaskRCNNConfig) -> tuple[Step, ...]:
    """The scheme's steps. Raises ``UsageError`` for those that it has not, and for a gradient that would not be there."""
    steps = SCHEMES[options.scheme]
    if steps[0].joined and config.roi != "warp":
        raise UsageError(f"--scheme {options.scheme}: only --roi warp has a gradient with respect to the proposals; add it")
    if options.until_step and len(steps) == 1:
        raise UsageError(f"--until-step {options.until_step}: --scheme {options.scheme} has one step; leave it out")
    if options.until_step and not 2 <= options.until_step <= len(steps):
        raise UsageError(f"--until-step {options.until_step}: --scheme {options.scheme}: choose 2 to {len(steps)}")
    return steps[: options.until_step or len(steps)]


def check(options: TrainOptions, config: MaskRCNNConfig, processes: int) -> None:
    """Raises ``UsageError`` for a batch or a crop that this network cannot be trained with, and impossible averages;
    ``ModelError`` for a file of weights that is none."""
    check_schedule(options, options.batch, processes)
    if options.weights:
        open_model(Path(options.weights))
    if options.crop % config.stride:
        raise UsageError(f"--crop {options.crop}: this network needs a multiple of {config.stride}")
