"""Training of a network of one style (``i2i train stylize``; Johnson, Alahi and Fei-Fei, ECCV 2016, section 3.2).

What is made small is what ``i2i stylize`` makes small for one picture: content at one layer of the encoder, Gram matrices at
others (:mod:`i2i_style.layers`), and the total variation; here it is the mean over crops of photographs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from i2i.contracts import TrainingRun
from i2i.errors import UsageError
from i2i.models import save_model
from i2i.pictures import Picture, write_sheet
from i2i.training import Group, Loop, Schedule, check_schedule
from i2i.training import run as run_loop
from i2i_style.encoder import Encoder
from i2i_style.encoders import FoundEncoder, find_encoder, known_layers
from i2i_style.feedforward import KIND
from i2i_style.layers import content_layers, style_layers
from i2i_style.losses import content_loss, gram, style_loss, total_variation
from i2i_style.photographs import Photographs, as_batch, batch, digest, load_photographs, style_picture, whole_crops
from i2i_style.train_options import TrainOptions
from i2i_style.transformer import LARGEST, STRIDE, Transformer, TransformerConfig

_PLACES = ("style", "images", "encoder")
_MAY_CHANGE = ("steps", "rate", "samples")
_SMALLEST = 64
_AT_ONCE = 4

# --------------------------------------------------------------------------------------------------------------- the loss


@dataclass(frozen=True)
class Criterion:
    """The loss of a batch of crops (N, 3, H, W). ``style``: the Gram matrix (C, C) that is wanted at each layer; ``weights``: of
    content, style and variation, then by layer."""

    encoder: Encoder
    style: Mapping[str, Tensor]
    content_layers: Mapping[str, float]
    style_layers: Mapping[str, float]
    weights: tuple[float, float, float]

    def __call__(self, network: nn.Module, parts: tuple[Tensor, ...]) -> dict[str, Tensor]:
        with torch.no_grad():
            wanted = self.encoder(parts[0], self.content_layers)
        result = network(parts[0]).float()
        found = self.encoder(result, {**self.content_layers, **self.style_layers})
        with torch.autocast(result.device.type, enabled=False):
            return self._terms(result, {name: answers.float() for name, answers in found.items()}, wanted)

    def _terms(self, result: Tensor, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
        content = [
            weight * content_loss(found[name], wanted[name].float()) / found[name].numel()
            for name, weight in self.content_layers.items()
        ]
        style = [weight * style_loss(gram(found[name]), self.style[name]) for name, weight in self.style_layers.items()]
        variation = total_variation(result, *result.shape[-2:]) / (result.numel() // 3)
        terms = (torch.stack(content).sum(), torch.stack(style).sum(), variation)
        return {
            name: weight * term for name, weight, term in zip(("content", "style", "variation"), self.weights, terms, strict=True)
        }


def _criterion(options: TrainOptions, found: FoundEncoder, picture: Tensor, run: TrainingRun) -> Criterion:
    known = known_layers(options.encoder)
    content, style = content_layers("auto", known), style_layers("auto", known)
    encoder = found.encoder.to(run.device)
    with torch.no_grad():
        grams = {name: gram(answers)[0] for name, answers in encoder(picture.to(run.device), style).items()}
    dtype = torch.bfloat16 if run.precision == "bf16" else torch.float32
    encoder = encoder.to(dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Criterion(encoder, grams, content, style, (options.content_weight, options.style_weight, options.tv))


# ------------------------------------------------------------------------------------------------------------- validation


@dataclass(frozen=True)
class _Judge:
    """What a network is judged by: crops that are kept back (N, 3, H, W), uint8."""

    criterion: Criterion
    crops: Tensor
    device: str
    shown: int

    def figures(self, network: nn.Module) -> dict[str, float]:
        """The mean loss, term by term; ``agreement``: less than 0, the negative of their sum."""
        total: dict[str, float] = {}
        for part in torch.split(self.crops, _AT_ONCE):
            for name, value in self.criterion(network, (as_batch(part, self.device),)).items():
                total[name] = total.get(name, 0.0) + float(value) * len(part) / len(self.crops)
        return total | {"agreement": -sum(total.values())}

    def sheet(self, network: nn.Module, path: Path) -> None:
        """A PNG with a row for each crop: the photograph, and what becomes of it."""
        crops = self.crops[: self.shown]
        results = [network(as_batch(crop[None], self.device))[0] for crop in crops]
        write_sheet(path, [[_picture(crop / 255), _picture(made)] for crop, made in zip(crops, results, strict=True)])


def _picture(pixels: Tensor) -> Picture:
    found: Picture = (pixels.float().clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    return found


# ---------------------------------------------------------------------------------------------------------------- the run


def _identity(options: TrainOptions, run: TrainingRun, known: dict[str, str], photographs: Photographs) -> dict[str, Any]:
    """What a resumed run must share with the first: all options but those of the schedule, and the pictures wherever they lie."""
    fixed = {name: value for name, value in asdict(options).items() if name not in _PLACES + _MAY_CHANGE}
    data = {"photographs": digest(photographs.learn), "validation photographs": digest(photographs.held)}
    return fixed | known | data | {"seed": run.seed, "precision": run.precision, "processes": run.part[1]}


def _header(options: TrainOptions, run: TrainingRun, config: TransformerConfig, known: dict[str, str]) -> dict[str, Any]:
    """What the model file says of itself: enough to run it, and how it was made. No path of the machine that made it."""
    made = {name: value for name, value in asdict(options).items() if name not in _PLACES}
    return {
        "task": "stylize",
        "kind": KIND,
        "transformer": config.as_mapping(),
        "style": "".join(sign for sign in Path(options.style).stem if sign.isprintable())[:200],
        "training": {"options": made, "seed": run.seed, "precision": run.precision} | known,
    }


def _check(options: TrainOptions, processes: int) -> None:
    """Raises ``UsageError`` for what cannot be trained with."""
    check_schedule(options, options.batch, processes)
    if options.crop % STRIDE or options.crop < _SMALLEST:
        raise UsageError(f"--crop {options.crop}: must be a multiple of {STRIDE}, at least {_SMALLEST}")
    for name, most in LARGEST.items():
        if getattr(options, name) > most:
            raise UsageError(f"--{name} {getattr(options, name)}: at most {most}")
    if not (options.style_weight or options.content_weight):
        raise UsageError("--content-weight 0 --style-weight 0: there is nothing to learn; give one of them a weight")


def train(options: TrainOptions, run: TrainingRun) -> Mapping[str, Any]:
    """Train, and write the weights that validated best to ``run.output``. Returns the figures for the report."""
    _check(options, run.part[1])  # before the data are read
    loop = _loop(options, run)
    state = run_loop(loop, run.resume)
    if run.part[0]:
        return {}  # the first process writes the model
    if state.step < options.steps:
        run.message(f"stopped after {state.step} steps: {options.patience} validations in a row were no better")
    sha256 = save_model(run.output, state.best_weights, loop.header)
    return {"model": str(run.output), "sha256": sha256, loop.best: state.best, "steps": state.step, "seconds": state.seconds}


def _loop(options: TrainOptions, run: TrainingRun) -> Loop:
    layers = known_layers(options.encoder)
    found = find_encoder(options.encoder, [*content_layers("auto", layers), *style_layers("auto", layers)])
    picture = style_picture(Path(options.style), options.style_scale)
    photographs = load_photographs(Path(options.images), options.crop, run.seed, run.message)
    run.message(f"{len(photographs.learn)} photographs to train on, {len(photographs.held)} to validate; style: {options.style}")
    criterion = _criterion(options, found, as_batch(picture[None], "cpu"), run)
    judge = _Judge(criterion, whole_crops(photographs.held, options.crop), run.device, options.samples)
    known = {"style picture": digest([picture]), "encoder": found.model.sha256}
    torch.manual_seed(run.seed)
    network = Transformer(TransformerConfig(options.channels, options.blocks))
    return Loop(
        network=network,
        batch=lambda step: batch(photographs.learn, options.crop, options.batch, (run.seed, step), run.part),
        losses=criterion,
        validate=judge.figures,
        best="agreement",
        schedule=Schedule.of(options),
        work=run.work,
        seed=run.seed,
        device=run.device,
        precision=run.precision,
        validate_every=options.validate_every,
        identity=_identity(options, run, known, photographs),
        header=_header(options, run, network.config, known),
        report=run.report,
        sheet=judge.sheet if options.samples else None,
        tensorboard=run.tensorboard,
        group=Group(*run.part),
    )
