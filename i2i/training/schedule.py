"""How a network learns: the optimiser, and the learning rate of each step."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from i2i.errors import UsageError
from i2i.options import ScheduleOptions

CURVES: dict[str, Callable[[float], float]] = {
    "cosine": lambda done: 0.5 * (1 + math.cos(math.pi * done)),
    "poly": lambda done: (1 - done) ** 0.9,
    "step": lambda done: 0.1 ** math.floor(3 * min(done, 0.999)),
    "constant": lambda done: 1.0,
    "linear": lambda done: min(1.0, 2 * (1 - done)),
}
"""The share of the learning rate after a share ``done`` of the steps, 0 .. 1. ``cosine``: half a cosine to 0 (Loshchilov and
Hutter 2017); ``poly``: falls to 0 with the power 0.9 (Chen et al. 2017, DeepLab); ``step``: a tenth after each third;
``linear``: constant for half of the steps, then down to 0 (Isola et al. 2017, their code)."""

OPTIMIZERS = ("adamw", "sgd")


@dataclass(frozen=True)
class Schedule:
    """``steps`` of an optimiser: the learning rate rises linearly for ``warmup`` steps to ``rate``, then follows ``curve``.

    ``optimizer``: ``adamw`` (Loshchilov and Hutter 2019), or ``sgd`` with ``momentum`` (0.99 in Ronneberger et al. 2015).
    ``betas``: of ``adamw``. ``average``: decay of the exponential average of the weights, which is what is validated and kept; 0
    keeps the weights themselves. ``patience``: validations without a better one after which training stops; 0 never stops early.
    ``clip``: norm of the gradient above which it is scaled down to that; 0 never does.
    """

    steps: int
    rate: float = 1e-3
    weight_decay: float = 1e-4
    warmup: int = 100
    average: float = 0.995
    curve: str = "cosine"
    optimizer: str = "adamw"
    momentum: float = 0.9
    patience: int = 0
    betas: tuple[float, float] = (0.9, 0.999)
    clip: float = 10.0

    @staticmethod
    def of(options: ScheduleOptions) -> Schedule:
        """As the options of a training say."""
        return Schedule(
            options.steps, options.rate, options.weight_decay, options.warmup, options.average,
            options.schedule, options.optimizer, options.momentum, options.patience,
        )  # fmt: skip

    def factor(self, step: int) -> float:
        """The share of ``rate`` used at ``step``, 0 .. 1."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return CURVES[self.curve](min(1.0, done))

    def make_optimizer(self, network: nn.Module) -> torch.optim.Optimizer:
        """Of the parameters that learn, in the order in which their numbers lie in memory: PyTorch's optimisers take nearly twice
        as long for weights that are channels last."""
        pairs = [(weights, _as_they_lie(weights, weights.detach())) for weights in network.parameters() if weights.requires_grad]
        views = [view for _, view in pairs]
        optimizer: torch.optim.Optimizer
        if self.optimizer == "sgd":
            optimizer = torch.optim.SGD(views, lr=self.rate, momentum=self.momentum, weight_decay=self.weight_decay)
        else:
            optimizer = torch.optim.AdamW(views, lr=self.rate, betas=self.betas, weight_decay=self.weight_decay, fused=True)

        def lend(*_: object) -> None:
            for weights, view in pairs:
                view.grad = None if weights.grad is None else _as_they_lie(weights, weights.grad)

        optimizer.register_step_pre_hook(lend)
        optimizer.register_step_post_hook(lambda *_: optimizer.zero_grad(set_to_none=True))
        return optimizer


def _as_they_lie(weights: Tensor, numbers: Tensor) -> Tensor:
    """A view of ``numbers``, those of ``weights`` or their gradients."""
    last = weights.dim() == 4 and not weights.is_contiguous() and weights.is_contiguous(memory_format=torch.channels_last)
    return numbers.permute(0, 2, 3, 1) if last else numbers


def check_schedule(options: ScheduleOptions, batch: int, processes: int) -> None:
    """Raises ``UsageError`` for averages of 1 and above, and for a ``batch`` of which a process would have no part."""
    if batch < processes:
        raise UsageError(f"--batch {options.batch}: fewer than the {processes} processes that train")
    for name in ("average", "momentum"):
        if getattr(options, name) >= 1:
            raise UsageError(f"--{name} {getattr(options, name):g}: must be below 1")
