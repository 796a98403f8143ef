"""Training by several processes: those that a launcher such as ``torchrun`` starts, one for each device."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
from torch import distributed as dist
from torch import nn

from i2i.errors import I2IError, TrainingError, UsageError

T = TypeVar("T")
_PATIENCE = timedelta(days=1)
"""Of processes that wait for the first one: it validates alone. One that dies is the launcher's to see."""


@dataclass(frozen=True)
class Group:
    """This process among those that train together: number ``rank`` of ``size``. The first one validates and writes."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        return self.rank == 0

    def shared(self, network: nn.Module, device: str) -> nn.Module:
        """The network as it is trained: with several processes, gradients are averaged over them after each backward pass."""
        if self.size == 1:
            return network
        return nn.parallel.DistributedDataParallel(network, [torch.device(device)] if device.startswith("cuda") else None)

    def agreed(self, value: T) -> T:
        """What the first process says."""
        if self.size == 1:
            return value
        said = [value]
        dist.broadcast_object_list(said, 0)
        return said[0]

    def led(self, action: Callable[[], None]) -> None:
        """Do it in the first process alone, before any goes on. Its error is raised in all of them."""
        failed: I2IError | None = None
        try:
            if self.first:
                action()
        except I2IError as error:
            failed = error
        failed = self.agreed(failed)
        if failed:
            raise failed

    def wait(self) -> None:
        """Until every process is here."""
        if self.size > 1:
            dist.barrier()


def launched() -> Group:
    """The group that the launcher's environment describes; a single process without one."""
    return Group(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))


def device_of(device: str) -> str:
    """The device of this process: of several with CUDA, each takes the one of its local rank."""
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if device == "cuda" and launched().size > 1 else device


def _is_lost(error: RuntimeError) -> bool:
    """Whether it says that another process does not answer: gloo has no class for that, but names itself."""
    return isinstance(error, dist.DistError) or "gloo" in str(error)


@contextmanager
def joined(device: str) -> Iterator[Group]:
    """Meet the other processes of the launcher, if there are any. Raises ``UsageError`` when it does not say where they meet, and
    ``TrainingError`` when one of them is lost."""
    group = launched()
    if group.size == 1:
        yield group
        return
    if device.startswith("cuda"):
        torch.cuda.set_device(device)
    try:
        dist.init_process_group("nccl" if device.startswith("cuda") else "gloo", timeout=_PATIENCE)
    except ValueError as error:
        raise UsageError(f"WORLD_SIZE is {group.size}, but {error}; start several processes with torchrun") from error
    lost = False
    try:
        yield group
        group.wait()  # they leave together: where one is gone while another still talks to it, that one may be aborted
    except RuntimeError as error:
        lost = _is_lost(error)
        if not lost:
            raise
        raise TrainingError("another process of this training is gone; start all of them again, with --resume") from error
    finally:
        if not lost:  # taking down what has lost a member may abort this process: `i2i.cli` leaves without that
            dist.destroy_process_group()
