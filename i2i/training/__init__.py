"""Training: it knows networks, losses and batches, and nothing of any task."""

from __future__ import annotations

from i2i.training.adversary import Adversary, Batch, Losses
from i2i.training.group import Group
from i2i.training.loop import Loop, State, run
from i2i.training.schedule import Schedule, check_schedule

__all__ = ["Adversary", "Batch", "Group", "Loop", "Losses", "Schedule", "State", "check_schedule", "run"]
