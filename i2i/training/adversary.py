"""A network that learns against the one that is trained (Goodfellow et al., "Generative Adversarial Nets", 2014)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Batch = tuple[Tensor, ...]
Losses = Mapping[str, Tensor]


@dataclass(frozen=True)
class Adversary:
    """The second network, which has an optimiser of its own. In each step the first one's answer to the batch is ``made``. Then
    ``learns(adversary, batch, made)``, through which the first one gets no gradients, are the losses by which the adversary takes
    its step; and ``judges(adversary, batch, made)`` those by which the first one does."""

    network: nn.Module
    learns: Callable[[nn.Module, Batch, Tensor], Losses]
    judges: Callable[[nn.Module, Batch, Tensor], Losses]


@dataclass
class Opponent:
    """The part of an adversary that changes."""

    network: nn.Module
    optimizer: torch.optim.Optimizer

    def as_dict(self) -> dict[str, Any]:
        return {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Take over what :meth:`as_dict` gave."""
        self.network.load_state_dict(saved["network"])
        self.optimizer.load_state_dict(saved["optimizer"])
