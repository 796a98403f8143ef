"""Training: it knows networks, losses and batches, and nothing of any task."""

from __future__ import annotations

from i2i.training.group import Group
from i2i.training.loop import Batch, Loop, Losses, State, run
from i2i.training.schedule import Schedule, check_schedule

__all__ = ["Batch", "Group", "Loop", "Losses", "Schedule", "State", "check_schedule", "run"]
