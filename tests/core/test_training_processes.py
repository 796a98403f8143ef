"""Several processes that train together have one network, and take the steps that one process would take."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import torch
from torch import nn

from i2i.data import NO_AUGMENTATION, Example, batch, generator
from i2i.training import Group, Loop, Schedule, run

ROOT = Path(__file__).parents[2]

PROGRAM = """
import sys
from pathlib import Path

from i2i.errors import OutputError
from i2i.training.group import joined
from tests.core.test_training_processes import trained

folder = Path(sys.argv[1])
with joined("cpu") as group:
    for norm in ("none", "batch"):
        trained(folder, norm, group)

    def fail():
        raise OutputError(f"of process {group.rank}")
    try:
        group.led(fail)
    except OutputError as error:
        (folder / f"{group.rank}.txt").write_text(f"{error}, {group.agreed(group.rank)}")
"""


def trained(folder: Path, norm: str, group: Group) -> None:
    """Train a little; what this process ends with goes to a file: steps and weights."""
    random = generator(4)
    examples = [Example(torch.randn(1, 12, 12, generator=random), torch.randint(3, (12, 12), generator=random)) for _ in range(5)]
    torch.manual_seed(1)
    middle = [nn.BatchNorm2d(4), nn.Dropout(0.3)] if norm == "batch" else []
    network = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), *middle, nn.ReLU(), nn.Conv2d(4, 3, 1))
    loop = Loop(
        network,
        batch=lambda step: batch(examples, 8, 4, NO_AUGMENTATION, (0, step), (group.rank, group.size)),
        losses=lambda net, parts: {"cross_entropy": nn.functional.cross_entropy(net(parts[0]), parts[1])},
        validate=lambda net: {"figure": 1.0},
        best="figure",
        schedule=Schedule(6, 0.1, warmup=2, average=0, optimizer="sgd", patience=1),
        work=folder / norm,
        validate_every=2,
        group=group,
    )
    state = run(loop)
    torch.save((state.step, dict(network.named_parameters())), folder / f"{norm}-{group.rank}-of-{group.size}.pt")


def launch(folder: Path, processes: int) -> None:
    """As a launcher does: each process is told which one it is, of how many, and where they meet."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": processes, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": 1}
    command = [sys.executable, "-W", "error::UserWarning", "-c", PROGRAM, str(folder)]
    environments = [
        os.environ | {key: str(value) for key, value in (shared | {"RANK": rank}).items()} for rank in range(processes)
    ]
    running = [subprocess.Popen(command, env=environment, cwd=ROOT) for environment in environments]
    assert [one.wait(timeout=240) for one in running] == [0] * processes


def test_two_processes_train_one_network(tmp_path: Path) -> None:
    """They stop together, agree on what the first one says, and fail together when it fails. Where the loss is a mean and no
    layer looks at the batch, their steps are those of one process up to rounding. With drop-out each drops others, and their
    weights are the same still."""
    launch(tmp_path, 2)
    trained(tmp_path, "none", Group())
    found = {path.stem: torch.load(path) for path in tmp_path.glob("*.pt")}
    assert {steps for steps, _ in found.values()} == {4} and len(found) == 5, "patience ran out in all"
    for name, weight in found["none-0-of-1"][1].items():
        torch.testing.assert_close(found["none-0-of-2"][1][name], weight, rtol=1e-5, atol=1e-6)
    for norm in ("none", "batch"):
        one, other = (found[f"{norm}-{rank}-of-2"][1] for rank in (0, 1))
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert [(tmp_path / f"{rank}.txt").read_text() for rank in (0, 1)] == ["of process 0, 0"] * 2
