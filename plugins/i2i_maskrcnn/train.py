"""Training of Mask R-CNN (``i2i train instances``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from i2i.channels import names_of
from i2i.contracts import Model, TrainingRun
from i2i.data import Augmentation, described, digest, masks_beside
from i2i.models import load_checkpoint, open_model, save_model
from i2i.normalize import Normalization
from i2i.training import Group, Loop, Schedule, State
from i2i.training import run as run_loop
from i2i_maskrcnn.config import MaskRCNNConfig
from i2i_maskrcnn.data import Objects, check_data, load_objects
from i2i_maskrcnn.examples import ObjectExample, crops, known_boxes, targets
from i2i_maskrcnn.header import Header, read_header
from i2i_maskrcnn.network import MaskRCNN, build
from i2i_maskrcnn.options import TrainOptions
from i2i_maskrcnn.schemes import SCHEMES, Step, begin
from i2i_maskrcnn.settings import base_model, check, make_network, network_config, steps_of
from i2i_maskrcnn.validate import best_rules, main_figure, validate, write_samples

_PLACES = ("images", "masks", "coco", "val_images", "val_masks", "val_coco", "mask_suffix", "from_", "weights")
_MAY_CHANGE = ("steps", "rate", "samples", "until_step")


def _losses(network: nn.Module, batch: tuple[Tensor, ...]) -> Mapping[str, Tensor]:
    images, boxes, labels, masks = batch
    return network(images, targets(boxes, labels, masks))


@dataclass(frozen=True)
class _Training:
    """What the steps of a scheme share. ``header``: without the rules, which are chosen at the end; ``seen``: what else the model
    is told of the images."""

    options: TrainOptions
    run: TrainingRun
    data: Objects
    header: Header
    base: Model | None
    seen: Mapping[str, Any]

    def folder(self, number: int) -> Path:
        """Where a step keeps its checkpoint."""
        return self.run.work if self._count == 1 else self.run.work / f"step-{number + 1}"

    def loop(self, network: MaskRCNN, step: Step, number: int) -> Loop:
        options, run, data = self.options, self.run, self.data
        varied, shown = Augmentation.of(options), data.held[: options.samples]
        whole = "heads" in step.learns
        return Loop(
            network=network,
            batch=lambda at: crops(data.learn, options.crop, options.batch, varied, (run.seed, number, at), run.part),
            losses=_losses,
            validate=partial(validate, data.held, run.device),
            best=main_figure(data.held, network),
            schedule=self._schedule(number),
            work=self.folder(number),
            seed=run.seed,
            device=run.device,
            precision=run.precision,
            validate_every=options.validate_every,
            identity=self._identity(number),
            header=replace(self.header, network=network.config).as_mapping() | {**self.seen, "training": self._made()},
            report=run.report,
            sheet=(lambda net, path: write_samples(path, shown, run.device, net)) if whole and shown else None,  # type: ignore[arg-type]
            tensorboard=run.tensorboard,
            group=Group(*run.part),
        )

    def _schedule(self, number: int) -> Schedule:
        """Of a step after which another has begun, one that is over: what follows was made from it as it is."""
        asked = Schedule.of(self.options)
        begun = number + 1 < self._count and (self.folder(number + 1) / "checkpoint.pt").exists()
        return replace(asked, steps=1) if self.run.resume and begun else asked

    @property
    def _count(self) -> int:
        return len(SCHEMES[self.options.scheme])

    def _identity(self, number: int) -> dict[str, Any]:
        """What a resumed run must share with the first: all options but those of the schedule, and the data wherever they lie."""
        fixed = {name: value for name, value in asdict(self.options).items() if name not in _PLACES + _MAY_CHANGE}
        found = {
            "training data": digest(self.data.learn),
            "validation data": digest(self.data.held),
            "step of the scheme": number,
        }
        known = {"seed": self.run.seed, "precision": self.run.precision, "processes": self.run.part[1]}
        return fixed | {name: source["sha256"] for name, source in self._sources().items()} | known | found

    def _sources(self) -> dict[str, dict[str, str]]:
        """The models that it starts from, by option. No path of the machine."""
        sources = {"from": self.base} if self.base else {}
        if self.options.weights:
            sources["weights"] = open_model(Path(self.options.weights))
        return {name: {"name": model.name, "sha256": model.sha256} for name, model in sources.items()}

    def _made(self) -> dict[str, Any]:
        """How the model was made."""
        made = {name: value for name, value in asdict(self.options).items() if name not in _PLACES}
        kept = {"options": made, "seed": self.run.seed, "precision": self.run.precision, "images": len(self.data.learn)}
        return kept | self._sources()

    def forget(self) -> None:
        """Of an earlier training in the same folder: it must not be gone on with when this one is killed."""
        for path in self.run.work.rglob("checkpoint.pt"):
            path.unlink()


def _object_size(examples: list[ObjectExample]) -> int:
    """The side that one true object in a thousand exceeds, in pixels."""
    boxes = torch.cat([known_boxes(example) for example in examples])
    return int(np.ceil(np.quantile((boxes[:, 2:] - boxes[:, :2]).amax(1).numpy(), 0.999)))


def _start(
    options: TrainOptions, run: TrainingRun, config: MaskRCNNConfig, base: Model | None
) -> tuple[Objects, MaskRCNN, Header]:
    known = read_header(base) if base else None
    normalization = known.normalization if known else Normalization(method=options.normalize)
    channels = names_of(base) if base else ()
    data = load_objects(options, normalization, known is not None and known.gray_as_rgb, channels, run.message)
    names = ", ".join(data.class_names.values())
    run.message(f"{len(data.learn)} images to train on, {len(data.held)} to validate; classes: {names}")
    if data.gray_as_rgb:
        run.message("gray images are repeated to three channels")
    torch.manual_seed(run.seed)
    network = make_network(replace(config, classes=len(data.class_names)), options, base, data.learn, run)
    size = _object_size(data.all)
    return data, network, Header(network.config, normalization, data.class_names, object_size=size, gray_as_rgb=data.gray_as_rgb)


def train(options: TrainOptions, run: TrainingRun) -> Mapping[str, Any]:
    """Train, and write the weights that validated best to ``run.output``. Returns the figures for the report."""
    options = options if options.coco else masks_beside(options)
    check_data(options)
    base = base_model(options, run)
    config = network_config(options, base)
    steps = steps_of(options, config)
    check(options, config, run.part[1])  # before the data are read
    data, network, header = _start(options, run, config, base)
    training = _Training(options, run, data, header, base, described(data.all, options.pixel_size, run.message))
    if not run.resume:
        Group(*run.part).led(training.forget)
    seconds = 0.0
    first = last = {name: value.clone() for name, value in network.state_dict().items()}
    for number, step in enumerate(steps):
        if len(steps) > 1:
            run.message(f"step {number + 1} of {len(steps)}: {' and '.join(step.learns)}; changes {', '.join(step.trained)}")
        network = begin(step, network.config, first, last)
        loop = training.loop(network, step, number)
        state = run_loop(loop, run.resume)
        seconds += state.seconds
        last = load_checkpoint(loop.work / "checkpoint.pt")["best_weights"]  # of several processes, the first alone has them
    return {} if run.part[0] else _finish(training, loop, state) | {"seconds": seconds}


def _finish(training: _Training, loop: Loop, state: State) -> dict[str, Any]:
    options, run, data = training.options, training.run, training.data
    if options.patience and state.step < options.steps:
        run.message(f"stopped after {state.step} steps: {options.patience} validations in a row were no better")
    network = build(cast(MaskRCNN, loop.network).config)
    network.load_state_dict(state.best_weights)
    network.eval().to(run.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    with torch.inference_mode():
        chosen = best_rules(data, network, run.device)
    sha256 = save_model(run.output, state.best_weights, {**loop.header, **asdict(chosen)})
    figures = {"model": str(run.output), "sha256": sha256, loop.best: state.best, "steps": state.step}
    return figures | asdict(chosen)
