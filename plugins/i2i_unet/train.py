"""Training of segmentation networks (``i2i train segment``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from i2i.components import label_array
from i2i.contracts import LabelRule, TrainingRun
from i2i.data import NO_AUGMENTATION, Augmentation, Example, batch
from i2i.errors import TrainingError
from i2i.geometry import mirror, round_up
from i2i.metrics import average_precision, match_labels, object_figures, pool_objects
from i2i.models import save_model
from i2i.normalize import Normalization
from i2i.training import Loop, Schedule
from i2i.training import run as run_loop
from i2i_unet import targets
from i2i_unet.examples import digest, split
from i2i_unet.losses import pixel_weights, soft_dice, weighted_cross_entropy
from i2i_unet.network import UNet, UNetConfig, centre_crop, forward_window, margin, original, valid_size
from i2i_unet.options import TrainOptions


@dataclass(frozen=True)
class Target:
    """What the network learns: ``classes`` by name; ``instances``: from object ids, or as the mask states them."""

    class_names: tuple[str, ...]
    instances: bool

    @staticmethod
    def of(options: TrainOptions, examples: Sequence[Example]) -> Target:
        if options.target == "border":
            return Target(targets.CLASS_NAMES, True)
        if options.target == "foreground":
            return Target(targets.CLASS_NAMES[:2], True)
        count = 1 + max(int(example.truth.max()) for example in examples)
        if count > 256:
            raise TrainingError(f"--target classes: the masks hold ids up to {count - 1}; object ids need --target border")
        return Target(tuple(f"class {i}" for i in range(count)), False)

    @property
    def rule(self) -> LabelRule | None:
        if not self.instances:
            return None
        return targets.LABEL_RULE if len(self.class_names) == 3 else replace(targets.LABEL_RULE, border=None, dilate=0)

    def classes(self, truth: Tensor) -> Tensor:
        """(N, H, W) of what the masks state -> (N, H, W) int64 classes."""
        if not self.instances:
            return truth
        return targets.interior_border(truth) if len(self.class_names) == 3 else (truth > 0).long()


def _network_config(options: TrainOptions, channels: int, classes: int) -> UNetConfig:
    if options.arch == "original":
        return original(channels, classes)
    config = UNetConfig(
        channels, classes, options.depth, options.filters, options.padding, options.norm, options.up, options.dropout
    )
    try:
        return config.checked()
    except ValueError as error:
        raise TrainingError(f"no such network: {error}") from error


def _losses(options: TrainOptions, target: Target, network: nn.Module, parts: tuple[Tensor, ...]) -> dict[str, Tensor]:
    images, truth = parts
    logits = network(images)
    truth = centre_crop(truth, logits)
    classes = target.classes(truth)
    weights = pixel_weights(targets.between_objects(truth), options.gap_weight) if target.instances else torch.ones(truth.shape)
    return {
        "cross_entropy": weighted_cross_entropy(logits, classes, weights.to(logits.device)),
        "dice": options.dice_weight * soft_dice(logits, classes),
    }


def predict_classes(network: UNet, image: Tensor) -> Tensor:
    """(C, H, W) normalised -> (H, W) int64 classes, whole: padded as the engine pads."""
    config = network.config
    height, width = image.shape[-2:]
    padded = [round_up(length, config.stride) for length in (height, width)]
    if config.padding == "valid":
        context = round_up(margin(config), config.stride)
        rows, columns = (
            torch.tensor([mirror(i, length) for i in range(-context, whole + context)])
            for length, whole in zip((height, width), padded, strict=True)
        )
        window = image[None, :, rows][..., columns]
    else:
        window = functional.pad(image[None], (0, padded[1] - width, 0, padded[0] - height))
    logits = forward_window(network, window.contiguous(memory_format=torch.channels_last))
    return logits[0, :, :height, :width].float().argmax(0)


def _validate(target: Target, examples: Sequence[Example], device: str, network: nn.Module) -> dict[str, float]:
    """Mean over images of AP at IoU 0.5 for objects, of the share of right pixels for classes."""
    assert isinstance(network, UNet)
    scores = []
    for example in examples:
        classes = predict_classes(network, example.image.to(device)).cpu()
        if target.rule is None:
            scores.append(float((classes == example.truth).float().mean()))
            continue
        labels = label_array(classes.numpy().astype(np.uint8), target.rule)
        counts = average_precision(match_labels(labels, example.truth.numpy()), 0.5)
        scores.append(counts.ap)
    return {_metric(target): float(np.mean(scores))}


def best_rule(target: Target, examples: Sequence[Example], network: UNet, device: str) -> LabelRule | None:
    """The label rule that gives the validation images the highest AP, mean over IoU 0.5 to 0.95: how far objects grow into
    the border class, and what is too small to be one."""
    if target.rule is None:
        return None
    with torch.inference_mode():
        predicted = [predict_classes(network, example.image.to(device)).cpu().numpy().astype(np.uint8) for example in examples]
    truths = [example.truth.numpy() for example in examples]
    growths = (0, 1, 2, 3) if target.rule.border is not None else (0,)
    rules = [replace(target.rule, dilate=dilate, min_area=area) for dilate in growths for area in (0, 4, 8, 12, 16, 24, 32)]

    def score(rule: LabelRule) -> float:
        figures = [object_figures(label_array(found, rule), truth) for found, truth in zip(predicted, truths, strict=True)]
        return pool_objects(figures)["mean_ap"]

    return max(rules, key=score)


def _metric(target: Target) -> str:
    return "ap50" if target.instances else "accuracy"


_PLACES = ("images", "masks", "val_images", "val_masks")
_MAY_CHANGE = ("steps", "rate")


def _identity(options: TrainOptions, run: TrainingRun, examples: Sequence[Example], held: Sequence[Example]) -> dict[str, Any]:
    """What a resumed run must share with the first: all options but those of the schedule, and the data wherever they lie.
    The device may be another, which changes the last bits only."""
    fixed = {name: value for name, value in asdict(options).items() if name not in _PLACES + _MAY_CHANGE}
    data = {"training data": digest(examples), "validation data": digest(held)}
    return fixed | {"seed": run.seed, "precision": run.precision} | data


def _header(
    options: TrainOptions, run: TrainingRun, config: UNetConfig, target: Target, rule: LabelRule | None, images: int
) -> dict[str, Any]:
    """What the model file says of itself: enough to run it, and how it was made. No path of the machine that made it."""
    made = {name: value for name, value in asdict(options).items() if name not in _PLACES}
    return {
        "task": "segment",
        "network": config.as_mapping(),
        "normalization": Normalization(method=options.normalize).as_mapping(),
        "class_names": list(target.class_names),
        "label_rule": asdict(rule) if rule else None,
        "training": {"options": made, "seed": run.seed, "precision": run.precision, "images": images},
    }


def _loop(
    options: TrainOptions, run: TrainingRun, network: UNet, target: Target, examples: Sequence[Example], held: Sequence[Example]
) -> Loop:
    config = network.config
    side = options.crop if config.padding == "same" else valid_size(config, options.crop)
    augmentation = Augmentation() if options.augment else NO_AUGMENTATION
    return Loop(
        network=network,
        batch=lambda step: batch(examples, side, options.batch, augmentation, (run.seed, step)),
        losses=lambda net, parts: _losses(options, target, net, parts),
        validate=lambda net: _validate(target, held, run.device, net),
        best=_metric(target),
        schedule=Schedule(options.steps, options.rate),
        work=run.work,
        device=run.device,
        precision=run.precision,
        validate_every=options.validate_every,
        identity=_identity(options, run, examples, held),
        report=run.report,
    )


def train(options: TrainOptions, run: TrainingRun) -> Mapping[str, Any]:
    """Train, and write the weights that validated best to ``run.output``. Returns the figures for the report."""
    _network_config(options, 1, 2)  # an impossible network is refused before the data are read
    examples, held = split(options, Normalization(method=options.normalize))
    target = Target.of(options, examples)
    run.message(f"{len(examples)} images to train on, {len(held)} to validate; classes: {', '.join(target.class_names)}")
    torch.manual_seed(run.seed)
    network = UNet(_network_config(options, examples[0].image.shape[0], len(target.class_names)))
    state = run_loop(_loop(options, run, network, target, examples, held), run.resume)
    network.load_state_dict(state.best_weights)
    rule = best_rule(target, held, network.eval(), run.device)
    sha256 = save_model(run.output, state.best_weights, _header(options, run, network.config, target, rule, len(examples)))
    figures = {"model": str(run.output), "sha256": sha256, _metric(target): state.best, "seconds": state.seconds}
    return figures | ({"dilate": rule.dilate, "min_area": rule.min_area} if rule else {})
