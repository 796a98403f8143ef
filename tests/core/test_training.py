"""The training loop: a killed run goes on as if nothing had happened."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from i2i.data import generator
from i2i.errors import I2IError, ModelError, OutputError, TrainingError, UsageError
from i2i.models import load_checkpoint, model_of_checkpoint, save_checkpoint
from i2i.training import Group, Loop, Schedule, State, run
from i2i.training.group import device_of, joined, launched
from i2i.training.schedule import CURVES


def network(seed: int) -> nn.Sequential:
    """A few parameters, running statistics, and dropout, which draws from the global random state."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.3), nn.Conv2d(4, 1, 1))


def batch(step: int) -> tuple[Tensor, Tensor]:
    images = torch.randn((2, 1, 8, 8), generator=generator(0, step))
    return images, images.clamp(min=0)


def losses(net: nn.Module, parts: tuple[Tensor, ...]) -> dict[str, Tensor]:
    wrong = net(parts[0]) - parts[1]
    return {"square": wrong.square().mean(), "absolute": wrong.abs().mean()}


def validate(net: nn.Module) -> dict[str, float]:
    assert not net.training
    return {"closeness": -float(sum(losses(net, batch(1000)).values()))}


def loop(work: Path, seed: int = 0, **changes: Any) -> Loop:
    schedule = Schedule(12, 0.02, warmup=3, average=0.9)
    return replace(Loop(network(seed), batch, losses, validate, "closeness", schedule, work, validate_every=4), **changes)


def weights(state: State) -> dict[str, Tensor]:
    """Everything that a run gives: the weights, their average and the best of it."""
    parts = {"network": state.network.state_dict(), "averaged": state.averaged.state_dict(), "best": state.best_weights}
    return {f"{part}.{name}": value.clone() for part, values in parts.items() for name, value in values.items()}


def assert_same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def steps_of(work: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (work / "metrics.jsonl").read_text().splitlines()]


class Killed(Exception):
    pass


def killed_in(step: int):
    """Batches until the run is killed while it waits for that of ``step``."""

    def failing(asked: int) -> tuple[Tensor, Tensor]:
        if asked == step:
            raise Killed
        return batch(asked)

    return failing


# ------------------------------------------------------------------------------------------------- killed and resumed


@pytest.mark.parametrize("step", [1, 4, 5, 7, 8, 11])
def test_a_killed_run_ends_with_the_same_weights_to_the_bit(tmp_path: Path, step: int) -> None:
    undisturbed = run(loop(tmp_path / "one"))
    expected = weights(undisturbed)
    with pytest.raises(Killed):
        run(loop(tmp_path / "two", batch=killed_in(step)))
    resumed = run(loop(tmp_path / "two", seed=99 if step >= 4 else 0), resume=True)
    assert_same(weights(resumed), expected)
    assert (resumed.step, resumed.best) == (12, undisturbed.best)
    assert steps_of(tmp_path / "two") == list(range(1, 13)), "each step is logged once"


def test_a_run_killed_twice_and_while_it_validates_ends_the_same(tmp_path: Path) -> None:
    def failing(net: nn.Module) -> dict[str, float]:
        raise Killed

    expected = weights(run(loop(tmp_path / "one")))
    for changes in ({"batch": killed_in(6)}, {"validate": failing}, {"batch": killed_in(10)}):
        with pytest.raises(Killed):
            run(loop(tmp_path / "two", **changes), resume=True)
    assert_same(weights(run(loop(tmp_path / "two", 5), resume=True)), expected)


def test_a_finished_run_that_is_resumed_changes_nothing(tmp_path: Path) -> None:
    expected = weights(run(loop(tmp_path)))
    assert_same(weights(run(loop(tmp_path, 7), resume=True)), expected)
    assert steps_of(tmp_path) == list(range(1, 13))


IDENTITY = {"border_weight": 3.0, "seed": 0, "training data": "5 images (0123456789abcdef)"}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"border_weight": 4.0}, "border_weight was 3.0, is 4.0;"),
        ({"seed": 1, "border_weight": 4.0}, "border_weight was 3.0, is 4.0, seed was 0, is 1;"),
        ({"training data": "6 images (0)"}, "training data was 5 images (0123456789abcdef), is 6 images (0);"),
        ({"focus": 2}, "focus was None, is 2;"),
    ],
)
def test_another_run_does_not_go_on_from_a_checkpoint(tmp_path: Path, change: dict[str, Any], told: str) -> None:
    run(loop(tmp_path, identity=IDENTITY))
    before = (tmp_path / "checkpoint.pt").read_bytes(), steps_of(tmp_path)
    with pytest.raises(TrainingError) as caught:
        run(loop(tmp_path, identity=IDENTITY | change), resume=True)
    assert str(caught.value).startswith(f"{tmp_path}/checkpoint.pt: of another run: {told}")
    assert "--overwrite starts again" in str(caught.value) and "\n" not in str(caught.value)
    assert before == ((tmp_path / "checkpoint.pt").read_bytes(), steps_of(tmp_path)), "what is there stays as it is"


def test_a_checkpoint_that_does_not_say_what_run_it_is_of_is_refused(tmp_path: Path) -> None:
    run(loop(tmp_path))
    saved = load_checkpoint(tmp_path / "checkpoint.pt")
    del saved["identity"]
    save_checkpoint(tmp_path / "checkpoint.pt", saved)
    with pytest.raises(TrainingError, match="does not say what run it is of"):
        run(loop(tmp_path), resume=True)


def test_a_checkpoint_of_another_network_is_one_line(tmp_path: Path) -> None:
    run(loop(tmp_path))
    with pytest.raises(TrainingError, match="of another network; --resume needs") as caught:
        run(loop(tmp_path, network=nn.Conv2d(1, 1, 3, padding=1)), resume=True)
    assert "\n" not in str(caught.value)


def test_the_rest_of_a_run_follows_the_schedule_that_it_is_resumed_with(tmp_path: Path) -> None:
    run(loop(tmp_path, identity=IDENTITY))
    slower = Schedule(16, 0.01, warmup=3, average=0.9)
    assert run(loop(tmp_path, identity=IDENTITY, schedule=slower), resume=True).step == 16
    rates = [json.loads(line)["rate"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rates[12:] == pytest.approx([slower.rate * slower.factor(step) for step in range(12, 16)])


def test_a_run_that_is_resumed_with_fewer_steps_keeps_its_best(tmp_path: Path) -> None:
    expected = weights(run(loop(tmp_path)))
    state = run(loop(tmp_path, seed=3, schedule=Schedule(8, 0.02, warmup=3, average=0.9)), resume=True)
    assert state.step == 12
    assert_same(weights(state), expected)


def test_without_resume_a_run_starts_again(tmp_path: Path) -> None:
    first = weights(run(loop(tmp_path)))
    assert_same(weights(run(loop(tmp_path))), first)
    assert steps_of(tmp_path) == list(range(1, 13))


def test_a_run_that_starts_again_never_goes_on_from_what_was_there(tmp_path: Path) -> None:
    expected = weights(run(loop(tmp_path / "one")))
    run(loop(tmp_path / "two", seed=5))
    with pytest.raises(Killed):
        run(loop(tmp_path / "two", batch=killed_in(2)))
    assert_same(weights(run(loop(tmp_path / "two"), resume=True)), expected)


def test_two_seeds_give_two_networks(tmp_path: Path) -> None:
    one, other = (weights(run(loop(tmp_path / str(seed), seed))) for seed in (0, 1))
    assert not torch.equal(one["network.0.weight"], other["network.0.weight"])


def test_a_damaged_checkpoint_is_one_line(tmp_path: Path) -> None:
    run(loop(tmp_path))
    checkpoint = tmp_path / "checkpoint.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:-200])
    with pytest.raises(ModelError, match=r"checkpoint\.pt") as caught:
        run(loop(tmp_path), resume=True)
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------------------------------------------------- divergence


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_ends_the_run_and_the_checkpoint_stays_sound(tmp_path: Path, value: float) -> None:
    def diverging(net: nn.Module, parts: tuple[Tensor, ...]) -> dict[str, Tensor]:
        calls.append(1)
        return {"square": losses(net, parts)["square"] * (value if len(calls) == 7 else 1)}

    calls: list[int] = []
    with pytest.raises(TrainingError, match=r"diverged at step 6 .* Lower --rate") as caught:
        run(loop(tmp_path, losses=diverging))
    assert "\n" not in str(caught.value)
    saved = load_checkpoint(tmp_path / "checkpoint.pt")
    assert saved["step"] == 4
    assert all(torch.isfinite(tensor).all() for tensor in (*saved["network"].values(), *saved["averaged"].values()))
    assert run(loop(tmp_path), resume=True).step == 12


@pytest.mark.parametrize(("clip", "told"), [(10.0, 7), (0.0, 8)])
def test_a_gradient_that_is_not_finite_never_reaches_a_checkpoint(tmp_path: Path, clip: float, told: int) -> None:
    """The loss is finite, its gradient is not, and the step is one that would be saved."""

    def steep(net: nn.Module, parts: tuple[Tensor, ...]) -> dict[str, Tensor]:
        calls.append(1)
        wall = (net[0].weight * 0).abs().sqrt().sum() if len(calls) == 8 else 0
        return {"square": losses(net, parts)["square"] + wall}

    calls: list[int] = []
    made = loop(tmp_path, losses=steep)
    with pytest.raises(TrainingError, match=f"diverged at step {told}"):
        run(replace(made, schedule=replace(made.schedule, clip=clip)))
    saved = load_checkpoint(tmp_path / "checkpoint.pt")
    assert saved["step"] == 4
    assert all(torch.isfinite(tensor).all() for tensor in saved["network"].values())


def test_a_torn_line_of_the_metrics_is_forgotten(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        run(loop(tmp_path, batch=killed_in(6)))
    with (tmp_path / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 5, "lo')
    run(loop(tmp_path), resume=True)
    assert steps_of(tmp_path) == list(range(1, 13))


# ------------------------------------------------------------------------------------------------------- what is kept


def test_weights_are_kept_even_when_no_validation_gives_a_number(tmp_path: Path) -> None:
    assert run(loop(tmp_path, validate=lambda net: {"closeness": math.nan})).best_weights


def test_the_best_average_is_kept_not_the_last(tmp_path: Path) -> None:
    figures = iter([0.5, 0.9, 0.2])
    kept: list[dict[str, Tensor]] = []

    def scripted(net: nn.Module) -> dict[str, float]:
        kept.append({name: value.clone() for name, value in net.state_dict().items()})
        return {"closeness": next(figures)}

    state = run(loop(tmp_path, validate=scripted))
    assert state.best == 0.9
    assert_same(state.best_weights, kept[1])
    assert not torch.equal(kept[1]["0.weight"], kept[2]["0.weight"])


def test_the_average_of_weights_follows_the_network_slowly(tmp_path: Path) -> None:
    state = run(loop(tmp_path, schedule=Schedule(12, 0.02, warmup=3, average=0.999)))
    moved = (state.network[0].weight - network(0)[0].weight).abs().mean()
    averaged = (state.averaged.module[0].weight - network(0)[0].weight).abs().mean()
    assert 0 < averaged < 0.5 * moved


def test_an_average_of_decay_0_is_the_network_itself(tmp_path: Path) -> None:
    state = run(loop(tmp_path, schedule=Schedule(12, 0.02, warmup=3, average=0)))
    one, other = state.network.state_dict(), state.averaged.module.state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one if "num_batches" not in name)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_each_optimizer_takes_the_steps_of_torchs_own(tmp_path: Path, optimizer: str) -> None:
    schedule = Schedule(3, 0.02, 0.01, warmup=2, average=0, optimizer=optimizer, momentum=0.8)

    def layers() -> nn.Sequential:
        """The second one, of four channels, lies in another order once it is channels last."""
        torch.manual_seed(4)
        return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 1, 3, padding=1))

    plain = loop(tmp_path, schedule=schedule, network=layers())
    found = run(replace(plain, losses=lambda net, parts: {"square": net(parts[0]).square().mean()})).network
    net = layers()
    if optimizer == "adamw":
        learning: torch.optim.Optimizer = torch.optim.AdamW(net.parameters(), lr=1, weight_decay=0.01)
    else:
        learning = torch.optim.SGD(net.parameters(), lr=1, weight_decay=0.01, momentum=0.8)
    for step, rate in enumerate((0.01, 0.02, 0.02)):
        learning.param_groups[0]["lr"] = rate
        learning.zero_grad()
        net(batch(step)[0]).square().mean().backward()
        learning.step()
    torch.testing.assert_close(found.state_dict(), net.state_dict(), rtol=1e-5, atol=1e-6)


def test_training_stops_when_patience_runs_out_and_so_does_a_run_that_goes_on(tmp_path: Path) -> None:
    figures = iter([0.5, 0.9, 0.9, 0.8, 0.7])
    patient = Schedule(40, 0.02, warmup=3, average=0.9, patience=2)
    state = run(loop(tmp_path, schedule=patient, validate=lambda net: {"closeness": next(figures)}, validate_every=2))
    assert (state.step, state.best, state.waited) == (8, 0.9, 2), "one that is as good is no better"
    again = run(loop(tmp_path, schedule=patient, validate_every=2), resume=True)
    assert again.step == 8
    assert_same(weights(again), weights(state))


def test_a_sheet_of_samples_is_made_at_each_validation(tmp_path: Path) -> None:
    def sheet(net: nn.Module, path: Path) -> None:
        assert not net.training
        path.write_text("a picture")

    run(loop(tmp_path, sheet=sheet))
    assert sorted(path.name for path in (tmp_path / "samples").iterdir()) == [
        "step-000004.png", "step-000008.png", "step-000012.png",
    ]  # fmt: skip


def test_the_best_weights_of_a_checkpoint_are_a_model(tmp_path: Path) -> None:
    state = run(loop(tmp_path / "m-training", header={"task": "segment"}))
    model = model_of_checkpoint(tmp_path / "m-training/checkpoint.pt")
    assert (model.name, model.config) == ("m-training", {"task": "segment"}) and len(model.sha256) == 64
    assert_same(model.tensors(), state.best_weights)
    run(loop(tmp_path / "n-training"))
    for path, told in (("n-training/checkpoint.pt", "does not say what network"), ("none.pt", "none.pt: no such file")):
        with pytest.raises(ModelError, match=told):
            model_of_checkpoint(tmp_path / path)


def test_training_lowers_the_loss(tmp_path: Path) -> None:
    told: list[tuple[int, int, Mapping[str, float]]] = []
    longer = Schedule(60, 0.02, warmup=3, average=0.9)
    run(loop(tmp_path, schedule=longer, report=lambda *values: told.append(values), validate_every=60))
    assert [step for step, _, _ in told] == list(range(1, 61)) and {steps for _, steps, _ in told} == {60}
    assert told[-1][2]["loss"] < 0.7 * told[0][2]["loss"]
    assert told[-1][2]["loss"] == pytest.approx(told[-1][2]["square"] + told[-1][2]["absolute"], rel=1e-5)


# ------------------------------------------------------------------------------------------------------- the schedule


def test_the_rate_rises_linearly_and_falls_as_a_half_cosine_to_zero() -> None:
    schedule = Schedule(steps=110, warmup=10)
    factors = [schedule.factor(step) for step in range(111)]
    assert factors[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert factors[10] == 1 and factors[60] == pytest.approx(0.5) and factors[110] == pytest.approx(0)
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert Schedule(steps=5, warmup=5).factor(5) == 1, "a schedule that is all warm-up divides by nothing"


@pytest.mark.parametrize(
    ("curve", "shares"),
    [
        ("cosine", [1, 0.853553, 0.5, 0.146447, 0]),
        ("poly", [1, 0.75**0.9, 0.5**0.9, 0.25**0.9, 0]),
        ("step", [1, 1, 0.1, 0.01, 0.01]),
        ("constant", [1, 1, 1, 1, 1]),
    ],
)
def test_each_curve(curve: str, shares: list[float]) -> None:
    schedule = Schedule(steps=104, warmup=4, curve=curve)
    assert [schedule.factor(step) for step in (4, 29, 54, 79, 104)] == pytest.approx(shares, abs=1e-6)
    assert schedule.factor(0) == 0.25 and curve in CURVES
    assert Schedule(steps=8, warmup=0, curve=curve).factor(0) == 1


# ---------------------------------------------------------------------------------------------------------- tensorboard


def test_figures_for_tensorboard_can_be_read_back_and_those_that_are_taken_again_count_once(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with pytest.raises(Killed):
        run(loop(tmp_path, tensorboard=True, batch=killed_in(6)))
    run(loop(tmp_path, tensorboard=True), resume=True)
    read = EventAccumulator(str(tmp_path / "tensorboard"))
    read.Reload()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    for name in ("loss", "square", "rate", "closeness"):
        told = [(event.step, event.value) for event in read.Scalars(name)]
        assert told == [(line["step"], pytest.approx(line[name], rel=1e-5)) for line in lines if name in line]
    assert [event.step for event in read.Scalars("closeness")] == [4, 8, 12]


def test_without_tensorboard_its_option_is_a_usage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UsageError, match=r"--tensorboard needs the package tensorboard: pip install"):
        run(loop(tmp_path, tensorboard=True))


# ------------------------------------------------------------------------------------------------------ several processes


def test_a_process_that_nothing_launched_is_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined("cpu") as group:
        assert group == Group(0, 1) == launched() and group.first
        group.wait()
        assert group.agreed("a value") == "a value" and device_of("cuda") == "cuda"

    def failing() -> None:
        raise OutputError("x.safetensors: exists")

    with pytest.raises(I2IError, match="x.safetensors: exists"):
        group.led(failing)


def test_what_a_launcher_says_is_obeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("RANK", "3"), ("WORLD_SIZE", "4"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    assert launched() == Group(3, 4) and not launched().first
    assert (device_of("cuda"), device_of("cpu")) == ("cuda:1", "cpu")
    with (
        pytest.raises(UsageError, match=r"WORLD_SIZE is 4, but .* start several processes with torchrun") as caught,
        joined("cpu"),
    ):
        pass
    assert "\n" not in str(caught.value)
