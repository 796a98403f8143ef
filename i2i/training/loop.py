"""The training loop.

A run is a function of its seed: batches and all else that is random are drawn from (seed, step, process), so a run that is
killed and resumed from its checkpoint (weights, optimiser, average of weights) goes on as if nothing had happened. The
checkpoint says what run it is of (``Loop.identity``), and no other run goes on from it.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from i2i.backends import autocast
from i2i.errors import TrainingError
from i2i.models import load_checkpoint, save_checkpoint
from i2i.training.adversary import Adversary, Batch, Losses, Opponent
from i2i.training.group import Group
from i2i.training.record import Record
from i2i.training.schedule import Schedule

_SAMPLES = "samples"


@dataclass(frozen=True)
class Loop:
    """What a run needs. ``batch(step)``: tensors of that step (this process's part of it), input first. ``losses(network,
    batch)``: terms by name, which are added. ``validate(network)``: figures by name, of which ``best`` is to be as large as
    possible. ``sheet(network, path)``: writes a picture of samples at each validation. ``identity``: settings by name (numbers,
    text) that make the run what it is, its data's digest among them; a resumed run must have the same. The schedule's ``steps``
    and ``rate`` are left out of it, so that a diverged run can go on more slowly, and a finished one longer. ``header``: kept in
    the checkpoint, so that it tells what network it holds. ``group``: the processes that train together. ``adversary``: where
    there is one, its losses take the place of ``losses``; it trains in one process.
    """

    network: nn.Module
    batch: Callable[[int], Batch]
    losses: Callable[[nn.Module, Batch], Losses]
    validate: Callable[[nn.Module], Mapping[str, float]]
    best: str
    schedule: Schedule
    work: Path
    seed: int = 0
    device: str = "cpu"
    precision: str = "fp32"
    validate_every: int = 250
    identity: Mapping[str, Any] = field(default_factory=dict)
    header: Mapping[str, Any] = field(default_factory=dict)
    report: Callable[[int, int, Mapping[str, float]], None] = lambda step, steps, values: None
    sheet: Callable[[nn.Module, Path], None] | None = None
    tensorboard: bool = False
    group: Group = field(default_factory=Group)
    adversary: Adversary | None = None


@dataclass
class State:
    """The parts of a run that change; all of it is in the checkpoint. ``waited``: validations since the best one."""

    network: nn.Module
    averaged: AveragedModel
    optimizer: torch.optim.Optimizer
    identity: Mapping[str, Any]
    header: Mapping[str, Any] = field(default_factory=dict)
    step: int = 0
    best: float = -math.inf
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    waited: int = 0
    seconds: float = 0.0
    opponent: Opponent | None = None

    def as_dict(self) -> dict[str, Any]:
        return {
            "identity": dict(self.identity),
            "header": dict(self.header),
            "network": self.network.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "best": self.best,
            "best_weights": self.best_weights,
            "waited": self.waited,
            "seconds": self.seconds,
        } | ({"opponent": self.opponent.as_dict()} if self.opponent else {})

    def restore(self, saved: Mapping[str, Any], path: Path) -> None:
        """Go on from the checkpoint ``saved``, which ``path`` holds. Raises ``TrainingError`` when it is of another run."""
        _check_identity(path, saved.get("identity"), self.identity)
        try:
            self.network.load_state_dict(saved["network"])
            self.averaged.load_state_dict(saved["averaged"])
            self.optimizer.load_state_dict(saved["optimizer"])
            self.step, self.best, self.waited = saved["step"], saved["best"], saved["waited"]
            self.best_weights, self.seconds = saved["best_weights"], saved["seconds"]
            if self.opponent:
                self.opponent.restore(saved["opponent"])
        except (RuntimeError, ValueError, KeyError) as error:
            raise TrainingError(f"{path}: of another network; {_CURE}") from error


_CURE = "--resume needs the options and data of the first run, --overwrite starts again"


def _check_identity(path: Path, saved: Any, identity: Mapping[str, Any]) -> None:
    if not isinstance(saved, Mapping):
        raise TrainingError(f"{path}: does not say what run it is of (an earlier version wrote it); --overwrite starts again")
    names = [name for name in {**saved, **identity} if saved.get(name) != identity.get(name)]
    if names:
        changes = ", ".join(f"{name} was {saved.get(name)}, is {identity.get(name)}" for name in names)
        raise TrainingError(f"{path}: of another run: {changes}; {_CURE}")


def _new_state(loop: Loop) -> State:
    network = loop.network
    if loop.group.size > 1 and loop.device.startswith("cuda"):
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
    network = network.to(loop.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    decay = get_ema_multi_avg_fn(loop.schedule.average)  # type: ignore[no-untyped-call]
    averaged = AveragedModel(network, multi_avg_fn=decay, use_buffers=True)
    state = State(network, averaged, loop.schedule.make_optimizer(network), loop.identity, loop.header)
    if loop.adversary:
        if loop.group.size > 1:
            raise TrainingError("a network with an adversary trains in one process; start it without torchrun")
        opponent = loop.adversary.network.to(loop.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        state.opponent = Opponent(opponent, loop.schedule.make_optimizer(opponent))
    return state


# ---------------------------------------------------------------------------------------------------------------- a step


def _take_step(loop: Loop, state: State, trained: nn.Module, batch: Batch) -> dict[str, float]:
    """``trained``: the state's network, as the processes share it."""
    rate = loop.schedule.rate * loop.schedule.factor(state.step)
    images = batch[0].to(loop.device, memory_format=torch.channels_last)
    placed = (images, *(part.to(loop.device) for part in batch[1:]))
    torch.manual_seed(_seed(loop, state.step))  # of drop-out
    trained.train()
    opposed: dict[str, float] = {}
    with autocast(loop.device, loop.precision):
        if loop.adversary and state.opponent:
            made = trained(images)
            opposed = _oppose(loop, loop.adversary, state, state.opponent, placed, made.detach(), rate)
            losses = loop.adversary.judges(state.opponent.network, placed, made)
        else:
            losses = loop.losses(trained, placed)
    total = _descend(loop, state, state.network, state.optimizer, losses, rate)
    if loop.schedule.average:
        state.averaged.update_parameters(state.network)
    return {name: float(value.detach()) for name, value in losses.items()} | opposed | {"loss": total, "rate": rate}


def _oppose(
    loop: Loop, adversary: Adversary, state: State, opponent: Opponent, batch: Batch, made: Tensor, rate: float
) -> dict[str, float]:
    """The adversary's step. Its weights have no gradients in what follows, the network's step."""
    opponent.network.train().requires_grad_(True)
    losses = adversary.learns(opponent.network, batch, made)
    with torch.autocast(loop.device.split(":")[0], enabled=False):
        _descend(loop, state, opponent.network, opponent.optimizer, losses, rate)
    opponent.network.requires_grad_(False)
    return {name: float(value.detach()) for name, value in losses.items()}


def _descend(
    loop: Loop, state: State, network: nn.Module, optimizer: torch.optim.Optimizer, losses: Losses, rate: float
) -> float:
    """A step down the sum of the losses, which is returned."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    total = torch.stack(list(losses.values())).sum()
    network.zero_grad(set_to_none=True)
    total.backward()  # type: ignore[no-untyped-call]
    _check_finite(loop, state, "loss", total)
    if loop.schedule.clip:
        norm = nn.utils.get_total_norm([weights.grad for weights in network.parameters() if weights.grad is not None])
        _check_finite(loop, state, "gradient", norm)
        if norm > loop.schedule.clip:
            nn.utils.clip_grads_with_norm_(network.parameters(), loop.schedule.clip, norm)
    optimizer.step()
    return float(total.detach())


def _seed(loop: Loop, step: int) -> int:
    return int(np.random.SeedSequence((loop.seed, step, loop.group.rank)).generate_state(1, np.uint32)[0])


def _check_finite(loop: Loop, state: State, name: str, value: Tensor) -> None:
    """Of the loss and the gradient before the weights take the step, and of the weights before they are kept: so no checkpoint
    ever holds what is not a number."""
    if not math.isfinite(float(value.detach())):
        raise TrainingError(
            f"{loop.work}: diverged at step {state.step} ({name} {float(value.detach()):g}). "
            "Lower --rate and go on with --resume from the last checkpoint, which is sound"
        )


# ------------------------------------------------------------------------------------------------------------ validation


def _validate(loop: Loop, state: State) -> dict[str, float]:
    if not loop.schedule.average:
        state.averaged.update_parameters(state.network)  # a plain copy, which is not worth its time at each step
    network = state.averaged.module
    network.eval()
    with torch.inference_mode(), autocast(loop.device, loop.precision):
        figures = dict(loop.validate(network))
        if loop.sheet:
            folder = loop.work / _SAMPLES
            folder.mkdir(exist_ok=True)
            loop.sheet(network, folder / f"step-{state.step:06d}.png")
    score = figures[loop.best] if math.isfinite(figures[loop.best]) else -math.inf
    state.waited = 0 if score > state.best else state.waited + 1
    if score >= state.best:
        state.best = score
        state.best_weights = {name: value.detach().clone() for name, value in network.state_dict().items()}
    return figures


def _validated(loop: Loop, state: State, started: float) -> dict[str, float]:
    """The figures of a validation that is due, after which there is a checkpoint; the first process does it for all."""
    if state.step % loop.validate_every and state.step != loop.schedule.steps:
        return {}
    figures = {}
    networks = [state.network, *([state.opponent.network] if state.opponent else [])]
    weights = [part.detach() for network in networks for part in network.parameters()]
    _check_finite(loop, state, "weights", nn.utils.get_total_norm(weights, norm_type=math.inf))
    if loop.group.first:
        figures = _validate(loop, state)
        state.seconds = time.monotonic() - started
        save_checkpoint(loop.work / "checkpoint.pt", state.as_dict())
    loop.group.wait()
    return figures


def _goes_on(loop: Loop, state: State) -> bool:
    patience = loop.schedule.patience
    if state.step >= loop.schedule.steps:
        return False
    asked = patience and state.step % loop.validate_every == 0
    return not (asked and loop.group.agreed(state.waited >= patience))


# --------------------------------------------------------------------------------------------------------------- the run


def run(loop: Loop, resume: bool = False) -> State:
    """Train to the schedule's end, or until ``patience`` runs out, with a checkpoint at each validation. ``resume`` goes on from
    the one in ``loop.work``, and starts from the beginning where there is none.

    A resumed run with the first one's schedule ends as if it had never stopped. With another rate or number of steps, the
    steps already taken stay as they are and the rest follow the new schedule from where it stands at that step: the learning
    rate jumps there (up from 0, for a finished run that is given more steps). With no more steps than are done, nothing is
    trained and the best so far is the result.

    Writes ``checkpoint.pt``, ``metrics.jsonl`` and the samples there. Raises ``TrainingError`` when the loss is no longer finite,
    or the checkpoint is of another run.
    """
    os.makedirs(loop.work, exist_ok=True)
    state = _begin(loop, resume)
    trained = loop.group.shared(state.network, loop.device)
    started = time.monotonic() - state.seconds
    with ThreadPoolExecutor(1) as ahead, _record(loop, state) as record:
        coming = ahead.submit(loop.batch, state.step)
        while _goes_on(loop, state):
            batch = coming.result()
            coming = ahead.submit(loop.batch, state.step + 1)
            values = _take_step(loop, state, trained, batch)
            state.step += 1
            values |= _validated(loop, state, started)
            if record:
                record.add({"step": state.step, "seconds": time.monotonic() - started} | values)
                loop.report(state.step, loop.schedule.steps, values)
    return state


def _begin(loop: Loop, resume: bool) -> State:
    """The state at the start: a new one, or that of the checkpoint."""
    state = _new_state(loop)
    checkpoint = loop.work / "checkpoint.pt"
    if resume and checkpoint.exists():
        state.restore(load_checkpoint(checkpoint), checkpoint)
    elif loop.group.first:
        checkpoint.unlink(missing_ok=True)  # killed before its first one, this run must not go on from another's
        for sheet in (loop.work / _SAMPLES).glob("step-*.png"):
            sheet.unlink()
    loop.group.wait()
    return state


def _record(loop: Loop, state: State) -> AbstractContextManager[Record | None]:
    return Record(loop.work, state.step, loop.tensorboard) if loop.group.first else nullcontext()
