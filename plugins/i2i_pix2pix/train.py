"""Training of paired translation (``i2i train translate``): Isola et al. 2017."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from i2i.contracts import Model, TrainingRun
from i2i.errors import TrainingError, UsageError
from i2i.models import save_model
from i2i.training import Adversary, Group, Loop, Schedule, check_schedule
from i2i.training import run as run_loop
from i2i_pix2pix.discriminators import Discriminator, layers_of
from i2i_pix2pix.generators import Generator, GeneratorConfig, build
from i2i_pix2pix.losses import discriminator_loss, distance, generator_loss
from i2i_pix2pix.options import TrainOptions
from i2i_pix2pix.pairs import Pair, check_alike, crops, digest, load_folders, load_side_by_side
from i2i_pix2pix.predictor import network_of, read_header
from i2i_pix2pix.ranges import Ranges
from i2i_pix2pix.sheets import write_page, write_samples

_PLACES = ("pairs", "source", "target", "from_")
_MAY_CHANGE = ("steps", "rate", "samples")
_RESNET_DEPTH = 2
_VALIDATED = 16
"""Crops of what is held back, at most; fewer pairs give one each."""


# --------------------------------------------------------------------------------------------------------------- the loss


@dataclass(frozen=True)
class Criterion:
    """``terms``: of l1, l2, gan, cgan. ``weight``: lambda."""

    terms: tuple[str, ...]
    weight: float
    objective: str

    @property
    def adversarial(self) -> str:
        """gan, cgan, or neither."""
        return next((term for term in self.terms if term.endswith("gan")), "")

    def plain(self, network: nn.Module, batch: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """Without an adversary."""
        return self._distance(network(batch[0]), batch[1])

    def learns(self, adversary: nn.Module, batch: tuple[Tensor, ...], made: Tensor) -> dict[str, Tensor]:
        """The discriminator's losses."""
        shown = [self._seen(batch[0], answer) for answer in (batch[1], made)]
        if any(isinstance(layer, nn.BatchNorm2d) for layer in adversary.modules()):
            real, false = (adversary(one).float() for one in shown)  # each by its own statistics
        else:
            real, false = adversary(torch.cat(shown)).float().chunk(2)
        return discriminator_loss(self.objective, real, false)

    def judges(self, adversary: nn.Module, batch: tuple[Tensor, ...], made: Tensor) -> dict[str, Tensor]:
        """The generator's: log D, and lambda times the distance (equation 4)."""
        logits = adversary(self._seen(batch[0], made)).float()
        return {self.adversarial: generator_loss(self.objective, logits)} | self._distance(made, batch[1])

    def _seen(self, source: Tensor, answer: Tensor) -> Tensor:
        """What the discriminator is shown: with ``cgan`` the input as well."""
        return torch.cat([source, answer.to(source.dtype)], 1) if self.adversarial == "cgan" else answer

    def _distance(self, made: Tensor, wanted: Tensor) -> dict[str, Tensor]:
        weight = self.weight if self.adversarial else 1.0
        kinds = [term for term in self.terms if term in ("l1", "l2")]
        return {kind: weight * distance(kind, made.float(), wanted) for kind in kinds}


# --------------------------------------------------------------------------------------------------------------- the data


@dataclass(frozen=True)
class Data:
    """Pairs to ``learn`` from, and those ``held`` back; ``ranges``: of each, by its name, frozen."""

    learn: list[Pair]
    held: list[Pair]
    ranges: Ranges
    frozen: Mapping[str, Ranges]

    @property
    def channels(self) -> tuple[int, int]:
        """Of sources and targets."""
        return self.learn[0].source.shape[2], self.learn[0].target.shape[2]

    def batch(self, pairs: Sequence[Pair], options: TrainOptions, size: int, key: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """(N, C, side, side) and (N, C', side, side), as networks see them."""
        chosen, sources, targets = crops(pairs, options.crop, size, options.jitter, options.mirror, key)
        known = [self.frozen[pairs[number].name] for number in chosen]
        seen = torch.stack([ranges.seen(source) for ranges, source in zip(known, sources, strict=True)])
        wanted = torch.stack([ranges.wanted(target) for ranges, target in zip(known, targets, strict=True)])
        return seen.contiguous(memory_format=torch.channels_last), wanted.contiguous(memory_format=torch.channels_last)


def _load(options: TrainOptions, base: Model | None) -> Data:
    """Raises ``UsageError``, ``TrainingError`` or ``InputError``."""
    both = bool(options.source) and bool(options.target)
    if bool(options.pairs) == both or bool(options.source) != bool(options.target):
        raise UsageError("give --pairs, or --source and --target")
    where = options.pairs or options.source
    pairs = (
        load_side_by_side(Path(where), options.direction) if options.pairs else load_folders(Path(where), Path(options.target))
    )
    if len(pairs) < 2:
        raise TrainingError(f"{where}: one pair alone; every tenth is held back, so give two at least")
    check_alike(pairs, where)
    ranges = read_header(base).ranges if base else Ranges.of(pairs, options.normalize, options.units)
    held = pairs[9::10] or pairs[-1:]
    names = {pair.name for pair in held}
    learn = [pair for pair in pairs if pair.name not in names]
    return Data(learn, held, ranges, {pair.name: ranges.frozen(pair.source) for pair in pairs})


# ---------------------------------------------------------------------------------------------------------------- the run


def _config(options: TrainOptions, channels: tuple[int, int] = (1, 1)) -> GeneratorConfig:
    """Raises ``UsageError`` for a network that cannot be."""
    depth = options.depth or (_RESNET_DEPTH if options.generator == "resnet" else int(math.log2(options.crop)))
    try:
        config = GeneratorConfig(
            options.generator, *channels, depth, options.filters, options.norm, options.up, options.dropout,
            options.blocks, options.head,
        ).checked()  # fmt: skip
    except ValueError as error:
        raise UsageError(f"no such network: {error}") from error
    if options.crop % config.stride:
        raise UsageError(f"--crop {options.crop}: a network of depth {depth} needs a multiple of {config.stride}")
    return config


def _check(options: TrainOptions, processes: int) -> None:
    """Raises ``UsageError`` for what cannot be trained with, before the pairs are read."""
    check_schedule(options, options.batch, processes)
    if not options.from_:
        _config(options)
    side = options.crop
    for kernel, stride in layers_of(options.patch):
        side = (side + 2 * (kernel // 4) - kernel) // stride + 1
    if side < 1 and "gan" in options.loss:
        raise UsageError(f"--patch {options.patch}: sees nothing in crops of {options.crop}; give a larger --crop")


def _network(options: TrainOptions, data: Data, base: Model | None) -> Generator:
    if base is None:
        return build(_config(options, data.channels))
    config = read_header(base).generator
    if (config.channels_in, config.channels_out) != data.channels:
        raise TrainingError(
            f"--from {base.name}: is for {config.channels_in} channels to {config.channels_out}, these pairs have "
            f"{data.channels[0]} and {data.channels[1]}"
        )
    network = build(config)
    network.load_state_dict(network_of(base, config).state_dict())
    return network


def _identity(options: TrainOptions, run: TrainingRun, data: Data, base: Model | None) -> dict[str, Any]:
    """What a resumed run must share with the first: all options but those of the schedule, and the pairs wherever they lie."""
    fixed = {name: value for name, value in asdict(options).items() if name not in _PLACES + _MAY_CHANGE}
    known = {"training data": digest(data.learn), "validation data": digest(data.held), "from": base.sha256 if base else None}
    return fixed | known | {"seed": run.seed, "precision": run.precision, "processes": run.part[1]}


def _header(options: TrainOptions, run: TrainingRun, network: Generator, data: Data, base: Model | None) -> dict[str, Any]:
    """What the model file says of itself. No path of the machine that made it."""
    made = {name: value for name, value in asdict(options).items() if name not in _PLACES}
    origin = {"from": {"name": base.name, "sha256": base.sha256}} if base else {}
    return {
        "task": "translate",
        "generator": network.config.as_mapping(),
        "ranges": data.ranges.as_mapping(),
        "training": {"options": made, "seed": run.seed, "precision": run.precision, "pairs": len(data.learn)} | origin,
    }


def train(options: TrainOptions, run: TrainingRun) -> Mapping[str, Any]:
    """Train, and write the last weights to ``run.output``; without an adversary, those that validated best. Returns the figures
    for the report."""
    _check(options, run.part[1])
    base = run.find_model(options.from_) if options.from_ else None
    data = _load(options, base)
    run.message(
        f"{len(data.learn)} pairs to train on, {len(data.held)} to validate; {data.channels[0]} channels to {data.channels[1]}"
    )
    torch.manual_seed(run.seed)
    network = _network(options, data, base)
    loop = _loop(options, run, network, data, base)
    state = run_loop(loop, run.resume)
    sha256 = save_model(run.output, state.best_weights, loop.header)
    return {"model": str(run.output), "sha256": sha256, "steps": state.step, "seconds": state.seconds}


def _loop(options: TrainOptions, run: TrainingRun, network: Generator, data: Data, base: Model | None) -> Loop:
    criterion = Criterion(tuple(options.loss.split("+")), options.lambda_, options.objective)
    kept = data.batch(data.held, replace(options, mirror=False), min(_VALIDATED, max(4, len(data.held))), (run.seed, 10**9))
    adversary = None
    if criterion.adversarial:
        channels = network.config.channels_out + (network.config.channels_in if criterion.adversarial == "cgan" else 0)
        adversary = Adversary(Discriminator(channels, options.patch, norm=options.norm), criterion.learns, criterion.judges)
    return Loop(
        network=network,
        batch=lambda step: data.batch(data.learn, options, options.batch, (run.seed, step)),
        losses=criterion.plain,
        validate=_validation(kept, run.device),
        best="latest" if criterion.adversarial else "closeness",
        schedule=replace(Schedule.of(options), betas=(0.5, 0.999), clip=0.0),
        work=run.work,
        seed=run.seed,
        device=run.device,
        precision=run.precision,
        validate_every=options.validate_every,
        identity=_identity(options, run, data, base),
        header=_header(options, run, network, data, base),
        report=run.report,
        sheet=_sheets(kept, run, options.samples) if options.samples else None,
        tensorboard=run.tensorboard,
        group=Group(*run.part),
        adversary=adversary,
    )


def _validation(kept: tuple[Tensor, Tensor], device: str) -> Callable[[nn.Module], Mapping[str, float]]:
    """The mean distance to what is wanted, and PSNR (of the range -1 .. 1), of crops that are held back. ``latest`` is always 0:
    against an adversary, the last weights are kept, for nearness to the target is not what they are trained for."""

    def validate(network: nn.Module) -> dict[str, float]:
        absolute = square = 0.0
        for source, target in zip(*(torch.split(part, 1) for part in kept), strict=True):
            difference = network(source.to(device)).float().cpu() - target
            absolute += float(difference.abs().mean()) / len(kept[0])
            square += float(difference.square().mean()) / len(kept[0])
        return {"val_l1": absolute / 2, "psnr": 10 * math.log10(4 / max(square, 1e-12)), "closeness": -absolute, "latest": 0.0}

    return validate


def _sheets(kept: tuple[Tensor, Tensor], run: TrainingRun, count: int) -> Callable[[nn.Module, Path], None]:
    def sheet(network: nn.Module, path: Path) -> None:
        sources, targets = (part[:count] for part in kept)
        made = [network(source[None].to(run.device))[0].float().cpu() for source in sources]
        write_samples(path, sources, made, targets)
        write_page(run.work)

    return sheet
