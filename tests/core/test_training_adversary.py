"""A network that is trained against another: both learn, both are in the checkpoint."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from i2i.data import generator
from i2i.errors import TrainingError
from i2i.training import Adversary, Group, Loop, Schedule, State, run


def batch(step: int) -> tuple[Tensor, Tensor]:
    images = torch.rand((2, 1, 8, 8), generator=generator(1, step))
    return images, 1 - images


def learns(net: nn.Module, parts: tuple[Tensor, ...], made: Tensor) -> dict[str, Tensor]:
    assert not made.requires_grad
    return {"D_real": functional.softplus(-net(parts[1])).mean(), "D_made": functional.softplus(net(made)).mean()}


def judges(net: nn.Module, parts: tuple[Tensor, ...], made: Tensor) -> dict[str, Tensor]:
    assert not any(parameter.requires_grad for parameter in net.parameters())
    return {"gan": functional.softplus(-net(made)).mean(), "l1": (made - parts[1]).abs().mean()}


def loop(work: Path, seed: int = 0, **changes: Any) -> Loop:
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Dropout(0.3), nn.Conv2d(4, 1, 3, padding=1))
    opponent = nn.Sequential(nn.Conv2d(1, 4, 4, 2, 1), nn.BatchNorm2d(4), nn.LeakyReLU(0.2), nn.Conv2d(4, 1, 1))
    never = {"losses": lambda net, parts: pytest.fail("an adversary's losses take the place of these")}

    def validate(net: nn.Module) -> dict[str, float]:
        return {"l1": -float((net(batch(99)[0]) - batch(99)[1]).abs().mean())}

    values = {
        "network": network, "batch": batch, "validate": validate,
        "best": "l1", "schedule": Schedule(12, 0.02, warmup=1, average=0, betas=(0.5, 0.999)), "work": work, "validate_every": 4,
        "adversary": Adversary(opponent, learns, judges),
    }  # fmt: skip
    return Loop(**never | values | changes)


def weights(state: State) -> list[Tensor]:
    assert state.opponent is not None
    return [value.clone() for net in (state.network, state.opponent.network) for value in net.state_dict().values()]


def test_both_learn(tmp_path: Path) -> None:
    made = loop(tmp_path)
    assert made.adversary is not None
    before = [value.clone() for net in (made.network, made.adversary.network) for value in net.state_dict().values()]
    reported: list[dict[str, float]] = []
    state = run(replace(made, report=lambda step, steps, values: reported.append(dict(values))))
    assert all(not torch.equal(a, b) for a, b in zip(before, weights(state), strict=True))
    assert {"D_real", "D_made", "gan", "l1", "loss", "rate"} <= reported[0].keys()
    assert reported[0]["loss"] == pytest.approx(reported[0]["gan"] + reported[0]["l1"])


def test_its_step_is_that_of_its_own_losses(tmp_path: Path) -> None:
    """The first step of both, by hand."""
    made = loop(tmp_path, schedule=Schedule(1, 0.02, warmup=0, average=0, betas=(0.5, 0.999), curve="constant"))
    twin = loop(tmp_path / "twin")
    assert twin.adversary is not None
    optimizer = torch.optim.AdamW(twin.adversary.network.parameters(), lr=0.02, betas=(0.5, 0.999), weight_decay=1e-4)
    state = run(made)
    torch.manual_seed(_first_seed())
    with torch.no_grad():
        network = twin.network.to(memory_format=torch.channels_last)  # in which drop-out draws in another order
        answer = network.train()(batch(0)[0].to(memory_format=torch.channels_last))
    sum(learns(twin.adversary.network.train(), batch(0), answer).values()).backward()  # type: ignore[union-attr]
    nn.utils.clip_grad_norm_(twin.adversary.network.parameters(), 10.0)
    optimizer.step()
    assert state.opponent is not None
    for name, value in twin.adversary.network.state_dict().items():
        found = state.opponent.network.state_dict()[name]
        counted = "running" in name or "num" in name  # it sees what was made once more, to judge it
        idle = name == "0.bias"  # a normalisation comes after it: its gradient is rounding
        assert counted or idle or torch.allclose(found, value, atol=1e-6), name


def _first_seed() -> int:
    import numpy as np

    return int(np.random.SeedSequence((0, 0, 0)).generate_state(1, np.uint32)[0])


class Killed(Exception):
    pass


@pytest.mark.parametrize("step", [2, 6, 9])
def test_a_killed_run_ends_with_the_same_weights_to_the_bit(tmp_path: Path, step: int) -> None:
    def failing(asked: int) -> tuple[Tensor, Tensor]:
        if asked == step:
            raise Killed
        return batch(asked)

    expected = weights(run(loop(tmp_path / "one")))
    with pytest.raises(Killed):
        run(loop(tmp_path / "two", batch=failing))
    resumed = run(loop(tmp_path / "two", seed=9 if step >= 5 else 0), resume=True)
    assert all(torch.equal(a, b) for a, b in zip(weights(resumed), expected, strict=True))


def test_an_adversary_that_diverges_stops_the_run(tmp_path: Path) -> None:
    def wrong(net: nn.Module, parts: tuple[Tensor, ...], made: Tensor) -> dict[str, Tensor]:
        return {"D_real": net(parts[1]).mean() * float("inf")}

    made = loop(tmp_path)
    assert made.adversary is not None
    with pytest.raises(TrainingError, match="diverged at step 0"):
        run(replace(made, adversary=replace(made.adversary, learns=wrong)))


def test_it_trains_in_one_process(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="trains in one process"):
        run(loop(tmp_path, group=Group(0, 2)))
