"""The training loop: it knows networks, losses and batches, and nothing of any task.

A run is a function of its seed: batches are drawn from (seed, step), so a run that is killed and resumed from its
checkpoint (weights, optimiser, average of weights, random state) goes on as if nothing had happened. The checkpoint says
what run it is of (``Loop.identity``), and no other run goes on from it.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from i2i.backends import autocast
from i2i.errors import TrainingError
from i2i.models import load_checkpoint, save_checkpoint

_LARGEST_GRADIENT = 10.0
Batch = tuple[Tensor, ...]
Losses = Mapping[str, Tensor]


@dataclass(frozen=True)
class Schedule:
    """``steps`` of AdamW: the learning rate rises linearly for ``warmup`` steps to ``rate``, then falls as a half cosine to 0.

    ``average``: decay of the exponential average of the weights, which is what is validated and kept.
    """

    steps: int
    rate: float = 1e-3
    weight_decay: float = 1e-4
    warmup: int = 100
    average: float = 0.995

    def factor(self, step: int) -> float:
        """The share of ``rate`` used at ``step``, 0 .. 1."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


@dataclass(frozen=True)
class Loop:
    """What a run needs. ``batch(step)``: tensors of that step, input first. ``losses(network, batch)``: terms by name, which
    are added. ``validate(network)``: figures by name, of which ``best`` is to be as large as possible. ``identity``: settings
    by name (numbers, text) that make the run what it is, its data's digest among them; a resumed run must have the same. The
    schedule's ``steps`` and ``rate`` are left out of it, so that a diverged run can go on more slowly, and a finished one longer.
    """

    network: nn.Module
    batch: Callable[[int], Batch]
    losses: Callable[[nn.Module, Batch], Losses]
    validate: Callable[[nn.Module], Mapping[str, float]]
    best: str
    schedule: Schedule
    work: Path
    device: str = "cpu"
    precision: str = "fp32"
    validate_every: int = 250
    identity: Mapping[str, Any] = field(default_factory=dict)
    report: Callable[[int, int, Mapping[str, float]], None] = lambda step, steps, values: None


@dataclass
class State:
    """The parts of a run that change; all of it is in the checkpoint."""

    network: nn.Module
    averaged: AveragedModel
    optimizer: torch.optim.Optimizer
    identity: Mapping[str, Any]
    step: int = 0
    best: float = -math.inf
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        return {
            "identity": dict(self.identity),
            "network": self.network.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "best": self.best,
            "best_weights": self.best_weights,
            "seconds": self.seconds,
            "random": torch.get_rng_state(),
        }

    def restore(self, saved: Mapping[str, Any], path: Path) -> None:
        """Go on from the checkpoint ``saved``, which ``path`` holds. Raises ``TrainingError`` when it is of another run."""
        _check_identity(path, saved.get("identity"), self.identity)
        try:
            self.network.load_state_dict(saved["network"])
            self.averaged.load_state_dict(saved["averaged"])
            self.optimizer.load_state_dict(saved["optimizer"])
            self.step, self.best, self.seconds = saved["step"], saved["best"], saved["seconds"]
            self.best_weights = saved["best_weights"]
            torch.set_rng_state(saved["random"])
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
    network = loop.network.to(loop.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    decay = get_ema_multi_avg_fn(loop.schedule.average)  # type: ignore[no-untyped-call]
    averaged = AveragedModel(network, multi_avg_fn=decay, use_buffers=True)
    schedule = loop.schedule
    optimizer = torch.optim.AdamW(network.parameters(), lr=schedule.rate, weight_decay=schedule.weight_decay)
    return State(network, averaged, optimizer, loop.identity)


def _take_step(loop: Loop, state: State, batch: Batch) -> dict[str, float]:
    rate = loop.schedule.rate * loop.schedule.factor(state.step)
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    images = batch[0].to(loop.device, memory_format=torch.channels_last)
    state.network.train()
    with autocast(loop.device, loop.precision):
        losses = loop.losses(state.network, (images, *(part.to(loop.device) for part in batch[1:])))
    total = torch.stack(list(losses.values())).sum()
    state.optimizer.zero_grad(set_to_none=True)
    total.backward()  # type: ignore[no-untyped-call]
    norm = float(nn.utils.clip_grad_norm_(state.network.parameters(), _LARGEST_GRADIENT))
    _check_finite(loop, state, float(total.detach()), norm)
    state.optimizer.step()
    state.averaged.update_parameters(state.network)
    return {name: float(value.detach()) for name, value in losses.items()} | {"loss": float(total.detach()), "rate": rate}


def _check_finite(loop: Loop, state: State, loss: float, norm: float) -> None:
    """Before the weights take the step: so no checkpoint ever holds what is not a number."""
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise TrainingError(
            f"{loop.work}: diverged at step {state.step} (loss {loss:g}, gradient {norm:g}). "
            "Lower --rate and go on with --resume from the last checkpoint, which is sound"
        )


def _validate(loop: Loop, state: State) -> dict[str, float]:
    network = state.averaged.module
    network.eval()
    with torch.inference_mode(), autocast(loop.device, loop.precision):
        figures = dict(loop.validate(network))
    score = figures[loop.best] if math.isfinite(figures[loop.best]) else -math.inf
    if score >= state.best:
        state.best = score
        state.best_weights = {name: value.detach().clone() for name, value in network.state_dict().items()}
    return figures


def _forget_after(path: Path, step: int) -> None:
    """Drop the lines of steps that a resumed run takes again."""
    if not path.exists():
        return
    lines = path.read_text("utf-8").splitlines()
    kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= step]  # a kill may tear the last
    path.write_text("".join(line + "\n" for line in kept), encoding="utf-8")


def _log(path: Path, values: Mapping[str, float]) -> None:
    with path.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(values) + "\n")


def run(loop: Loop, resume: bool = False) -> State:
    """Train to the schedule's end, with a checkpoint at each validation. ``resume`` goes on from the one in ``loop.work``, and
    starts from the beginning where there is none.

    A resumed run with the first one's schedule ends as if it had never stopped. With another rate or number of steps, the
    steps already taken stay as they are and the rest follow the new schedule from where it stands at that step: the learning
    rate jumps there (up from 0, for a finished run that is given more steps). With no more steps than are done, nothing is
    trained and the best so far is the result.

    Writes ``checkpoint.pt`` and ``metrics.jsonl`` there. Raises ``TrainingError`` when the loss is no longer finite, or the
    checkpoint is of another run.
    """
    os.makedirs(loop.work, exist_ok=True)
    state = _new_state(loop)
    checkpoint = loop.work / "checkpoint.pt"
    if not resume:
        checkpoint.unlink(missing_ok=True)  # killed before its first one, this run must not go on from another's
    elif checkpoint.exists():
        state.restore(load_checkpoint(checkpoint), checkpoint)
    metrics = loop.work / "metrics.jsonl"
    _forget_after(metrics, state.step)
    started = time.monotonic() - state.seconds
    with ThreadPoolExecutor(1) as ahead:
        coming = ahead.submit(loop.batch, state.step)
        while state.step < loop.schedule.steps:
            batch = coming.result()
            coming = ahead.submit(loop.batch, state.step + 1)
            values = _take_step(loop, state, batch)
            state.step += 1
            if state.step % loop.validate_every == 0 or state.step == loop.schedule.steps:
                values |= _validate(loop, state)
                state.seconds = time.monotonic() - started
                save_checkpoint(checkpoint, state.as_dict())
            _log(metrics, {"step": state.step, "seconds": time.monotonic() - started} | values)
            loop.report(state.step, loop.schedule.steps, values)
    return state
