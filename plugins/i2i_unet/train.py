"""Training of segmentation networks (``i2i train segment``)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
from scipy import ndimage
from torch import Tensor, nn

from i2i.channels import names_of
from i2i.contracts import Model, TrainingRun
from i2i.data import IGNORED, Augmentation, Data, Example, batch, described, digest, generator, masks_beside
from i2i.models import save_model
from i2i.normalize import Normalization
from i2i.training import Group, Loop, Schedule
from i2i.training import run as run_loop
from i2i_unet.architectures import Config, Network
from i2i_unet.borders import kept_border_map
from i2i_unet.examples import load_data
from i2i_unet.losses import balance, soft_dice, weighted_cross_entropy
from i2i_unet.network import centre_crop, valid_size
from i2i_unet.options import TrainOptions
from i2i_unet.patch import PatchConfig, patch_batch
from i2i_unet.predictor import read_header
from i2i_unet.settings import base_model, batch_size, check, make_network, network_config
from i2i_unet.targets import BACKGROUND, INTERIOR, Target
from i2i_unet.validate import best_rule, class_counts, known_classes, validate, write_samples

# --------------------------------------------------------------------------------------------------------------- the loss


@dataclass(frozen=True)
class Criterion:
    """The loss. ``terms``: of weighted, cross-entropy, dice; ``class_weights``: w_c of each class (C,); ``border_weight``: w0."""

    target: Target
    terms: tuple[str, ...]
    class_weights: Tensor
    border_weight: float
    dice_weight: float

    def __call__(self, network: nn.Module, parts: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """Of crops: images, truth, and with border weights their map. Truth is cropped to what the network gives."""
        logits = network(parts[0])
        truth, *maps = (centre_crop(part, logits) for part in parts[1:])
        classes, counted = self.target.classes(truth), truth != IGNORED
        found: dict[str, Tensor] = {}
        if "dice" not in self.terms or len(self.terms) > 1:
            found["cross_entropy"] = weighted_cross_entropy(logits, classes, self._weights(classes, maps) * counted)
        if "dice" in self.terms:
            found["dice"] = (self.dice_weight if found else 1) * soft_dice(logits, classes, counted)
        return found

    def _weights(self, classes: Tensor, maps: Sequence[Tensor]) -> Tensor:
        """w_c + w0 exp(...) (Ronneberger et al. 2015, equation 2); the second part not inside objects."""
        weights = self.class_weights.to(classes.device)[classes]
        outside = classes != INTERIOR if self.target.instances else classes == BACKGROUND
        return weights + self.border_weight * maps[0] * outside if maps else weights


def _criterion(options: TrainOptions, target: Target, data: Data[Example]) -> Criterion:
    weights = balance(class_counts(target, data.learn)) if options.class_balance else torch.ones(len(target.class_names))
    return Criterion(target, tuple(options.loss.split("+")), weights, options.border_weight, options.dice_weight)


def _patch_losses(network: nn.Module, parts: tuple[Tensor, ...]) -> dict[str, Tensor]:
    return {"cross_entropy": nn.functional.cross_entropy(network(parts[0]).float(), parts[1])}


def _with_borders(options: TrainOptions, target: Target, run: TrainingRun, examples: list[Example]) -> list[Example]:
    """With the border weight map of each, where the loss has one."""
    if not options.loss.startswith("weighted") or not options.border_weight:
        return examples
    folder = run.work / "border-weights"

    def with_map(example: Example) -> Example:
        truth = example.truth.clamp_min(0).numpy()
        objects = truth if target.instances else ndimage.label(truth > 0)[0]
        return replace(example, weights=torch.from_numpy(kept_border_map(objects, options.border_sigma, folder)))

    return [with_map(example) for example in examples]


# ---------------------------------------------------------------------------------------------------------------- batches


def _batches(
    options: TrainOptions, run: TrainingRun, config: Config, target: Target, data: Data[Example]
) -> Callable[[int], Any]:
    """The batch of each step: this process's part of it."""
    varied, count = Augmentation.of(options), batch_size(options, config)
    if isinstance(config, PatchConfig):
        images = [example.image for example in data.learn]
        classes = [known_classes(target, example) for example in data.learn]
        share, size = len(range(run.part[0], count, run.part[1])), config.patch_size
        vary, even = options.augment, options.class_balance
        return lambda step: patch_batch(images, classes, size, share, generator(run.seed, step, run.part[0]), vary, even)
    side = options.crop if config.padding == "same" else valid_size(config, options.crop)
    learn = _with_borders(options, target, run, data.learn)
    return lambda step: batch(learn, side, count, varied, (run.seed, step), run.part)


# ---------------------------------------------------------------------------------------------------------------- the run


_LISTED = 16
"""Classes whose names are told; more are mostly object ids."""
_FADED = 3
"""After so many times its reach, an average has all but forgotten where it began."""
_PLACES = ("images", "masks", "val_images", "val_masks", "mask_suffix", "from_")
_MAY_CHANGE = ("steps", "rate", "samples")


def _identity(options: TrainOptions, run: TrainingRun, data: Data[Example], base: Model | None) -> dict[str, Any]:
    """What a resumed run must share with the first: all options but those of the schedule, and the data wherever they lie.
    The device may be another, which changes the last bits only."""
    fixed = {name: value for name, value in asdict(options).items() if name not in _PLACES + _MAY_CHANGE}
    found = {"training data": digest(data.learn), "validation data": digest(data.held)}
    known = {"from": base.sha256 if base else None, "seed": run.seed, "precision": run.precision, "processes": run.part[1]}
    return fixed | known | found


def _header(
    options: TrainOptions,
    run: TrainingRun,
    config: Config,
    target: Target,
    data: Data[Example],
    base: Model | None,
) -> dict[str, Any]:
    """What the model file says of itself: enough to run it, and how it was made. No path of the machine that made it."""
    made = {name: value for name, value in asdict(options).items() if name not in _PLACES}
    origin = {"from": {"name": base.name, "sha256": base.sha256}} if base else {}
    return {
        "task": "segment",
        "network": config.as_mapping(),
        "normalization": _normalization(options, base).as_mapping(),
        "class_names": list(target.class_names),
        "label_rule": asdict(target.rule) if target.rule else None,
        "training": {"options": made, "seed": run.seed, "precision": run.precision, "images": len(data.learn)} | origin,
        **described(data.all, options.pixel_size, run.message),
    } | ({"gray_as_rgb": True} if data.gray_as_rgb else {})


def _loop(
    options: TrainOptions, run: TrainingRun, network: Network, target: Target, data: Data[Example], base: Model | None
) -> Loop:
    config = network.config
    shown = data.held[: options.samples]
    patches = isinstance(config, PatchConfig)
    return Loop(
        network=network,
        batch=_batches(options, run, config, target, data),
        losses=_patch_losses if patches else _criterion(options, target, data),
        validate=partial(validate, target, data.held, run.device),
        best="accuracy" if patches else target.metric,
        schedule=Schedule.of(options),
        work=run.work,
        seed=run.seed,
        device=run.device,
        precision=run.precision,
        validate_every=options.validate_every,
        identity=_identity(options, run, data, base),
        header=_header(options, run, config, target, data, base),
        report=run.report,
        sheet=None if patches or not shown else lambda net, path: write_samples(path, target, shown, run.device, net),
        tensorboard=run.tensorboard,
        group=Group(*run.part),
    )


def _normalization(options: TrainOptions, base: Model | None) -> Normalization:
    return read_header(base).normalization if base else Normalization(method=options.normalize)


def _tell(options: TrainOptions, data: Data[Example], target: Target, run: TrainingRun) -> None:
    """What is learnt from what, and what may not be meant."""
    names, reach = target.class_names, 1 / (1 - options.average)
    listed = ", ".join(names) if len(names) <= _LISTED else f"{len(names)}; object ids need --target border or foreground"
    run.message(f"{len(data.learn)} images to train on, {len(data.held)} to validate; classes: {listed}")
    if data.gray_as_rgb:
        run.message("gray images are repeated to three channels")
    if not options.from_ and options.average and options.steps < _FADED * reach:
        run.message(
            f"the weights kept are a mean over about {reach:.0f} steps (--average {options.average:g}), in which the first of "
            f"{options.steps} still weigh: more --steps, or --average 0, will do better"
        )


def train(options: TrainOptions, run: TrainingRun) -> Mapping[str, Any]:
    """Train, and write the weights that validated best to ``run.output``. Returns the figures for the report."""
    options, base = masks_beside(options), base_model(options, run)
    config = network_config(options, base)
    check(options, config, run.part[1])  # before the data are read
    gray_as_rgb, names = (read_header(base).gray_as_rgb, names_of(base)) if base else (False, ())
    data = load_data(options, _normalization(options, base), gray_as_rgb, names)
    target = Target.of(options.target, data.all)
    _tell(options, data, target, run)
    torch.manual_seed(run.seed)
    network = make_network(config, base, data.learn[0].image.shape[0], target, run)
    loop = _loop(options, run, network, target, data, base)
    state = run_loop(loop, run.resume)
    if run.part[0]:
        return {}  # the first process writes the model
    if state.step < options.steps:
        run.message(f"stopped after {state.step} steps: {options.patience} validations in a row were no better")
    network.load_state_dict(state.best_weights)
    rule = best_rule(target, data, network.eval(), run.device)
    sha256 = save_model(run.output, state.best_weights, {**loop.header, "label_rule": asdict(rule) if rule else None})
    figures = {"model": str(run.output), "sha256": sha256, loop.best: state.best, "steps": state.step, "seconds": state.seconds}
    return figures | ({"dilate": rule.dilate, "min_area": rule.min_area} if rule else {})


__all__ = ["Criterion", "train"]
