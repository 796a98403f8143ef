"""What the options of ``i2i train segment`` ask for: the network, fresh or of another model, and how it learns."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from i2i.contracts import Model, TrainingRun
from i2i.errors import ModelError, TrainingError, UsageError
from i2i.options import NETWORK, changed
from i2i.training import check_schedule
from i2i_unet.architectures import Config, Network, adapt, build
from i2i_unet.network import UNetConfig, original
from i2i_unet.options import TrainOptions
from i2i_unet.patch import PatchConfig
from i2i_unet.predictor import read_header
from i2i_unet.targets import Target

_CROPS, _PATCHES = 8, 512
"""In a batch, unless the user says."""
_OF_PATCH = ("patch_size",)


# ------------------------------------------------------------------------------------------------------------ the network


def base_model(options: TrainOptions, run: TrainingRun) -> Model | None:
    """The model to fine-tune. Its network is its own: raises ``UsageError`` for options that ask for another."""
    if not options.from_:
        return None
    alien = _changed(options) + changed(options, ("arch", "normalize"))
    if alien:
        raise UsageError(f"--from {options.from_}: the network is that model's; leave out --{_dashed(alien[0])}")
    return run.find_model(options.from_)


def network_config(options: TrainOptions, base: Model | None) -> Config:
    """The architecture. Its channels and classes are yet to be set, by the data. Raises ``UsageError`` for an impossible one, and
    for options that would do nothing."""
    if base:
        return read_header(base).network
    asked = _changed(options)
    alien = {
        "unet": [name for name in asked if name in _OF_PATCH],
        "original": asked,
        "patch": [name for name in asked if name not in _OF_PATCH],
    }[options.arch]
    if alien:
        raise UsageError(f"--arch {options.arch} has no --{_dashed(alien[0])}; leave it out")
    try:
        return _described(options).checked()
    except ValueError as error:
        raise UsageError(f"no such network: {error}") from error


def _described(options: TrainOptions) -> Config:
    if options.arch == "original":
        return original()
    if options.arch == "patch":
        return PatchConfig(patch_size=options.patch_size)
    return UNetConfig(
        depth=options.depth, filters=options.filters, padding=options.padding,
        norm=options.norm, up=options.up, dropout=options.dropout,
    )  # fmt: skip


def _changed(options: TrainOptions) -> list[str]:
    """The options of the network that are not at their defaults, but for which architecture."""
    panel = [item.name for item in fields(options) if item.metadata["panel"] == NETWORK]
    return changed(options, [name for name in panel if name not in ("arch", "from_")])


def _default_of(name: str) -> Any:
    return next(item.default for item in fields(TrainOptions) if item.name == name)


def _dashed(name: str) -> str:
    return name.strip("_").replace("_", "-")


def make_network(config: Config, base: Model | None, channels: int, target: Target, run: TrainingRun) -> Network:
    """With fresh weights, or those of ``base``. Raises ``TrainingError`` when that takes other images."""
    if base and config.channels != channels:
        raise TrainingError(f"--from {base.name}: takes images of {config.channels} channels, these have {channels}")
    try:
        network = build(replace(config, channels=channels, classes=len(target.class_names)))
    except ValueError as error:
        raise TrainingError(f"no such network: {error}") from error
    if base:
        _start_from(base, network, run)
    return network


def _start_from(base: Model, network: Network, run: TrainingRun) -> None:
    try:
        fresh = adapt(network, base.tensors())
    except ModelError as error:
        raise ModelError(f"{base.path}: {error}") from error
    run.message(f"goes on from {base.name}" + (f", with a new {fresh[0].split('.')[0]}" if fresh else ""))


# ----------------------------------------------------------------------------------------------------------- how it learns


def check(options: TrainOptions, config: Config, processes: int) -> None:
    """Raises ``UsageError`` for a batch, a crop or a loss that this network cannot be trained with, and impossible averages."""
    check_schedule(options, batch_size(options, config), processes)
    if isinstance(config, PatchConfig) and options.loss not in ("cross-entropy", _default_of("loss")):
        raise UsageError(f"--loss {options.loss}: a patch classifier has cross-entropy alone")
    if isinstance(config, UNetConfig) and config.padding == "same" and options.crop % config.stride:
        raise UsageError(f"--crop {options.crop}: a network of depth {config.depth} needs a multiple of {config.stride}")


def batch_size(options: TrainOptions, config: Config) -> int:
    return options.batch or (_PATCHES if isinstance(config, PatchConfig) else _CROPS)
