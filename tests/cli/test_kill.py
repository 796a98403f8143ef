"""Runs in processes of their own, killed at any moment: what was finished is not lost, and nothing else looks finished."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from i2i.models import save_model
from tests.cli.conftest import tiny_network
from tests.cli.kit import done, files, picture, refused, save

IN_FLIGHT = 3
"""Blocks that the network may have seen although the journal does not name them: computed, waiting to be written, written."""
STAGES = ("infer", "components", "labels")
MOMENTS = random.Random(7)

_PROGRAM = """
import os, sys, time
from dataclasses import replace
from i2i import canvas, planner
from i2i_unet.predictor import UNetPredictor

make, call, read = planner.make_plan, UNetPredictor.__call__, canvas.Layer.read

def as_for_a_large_image(*arguments, **settings):
    return replace(make(*arguments, **settings), canvas="disk", cores=1, batch=1, threads=1)

def counted(self, batch):
    os.write(calls, b"." * len(batch))
    return call(self, batch)

def slow_when_published(self, region, *arguments, **settings):
    time.sleep(0.15 if region.width > 400 else 0)
    return read(self, region, *arguments, **settings)

calls = os.open("calls", os.O_CREAT | os.O_APPEND | os.O_WRONLY)
planner.make_plan, UNetPredictor.__call__, canvas.Layer.read = as_for_a_large_image, counted, slow_when_published
from i2i.cli import main
main(sys.argv[1:])
"""


def start(folder: Path, *words: object) -> subprocess.Popen[bytes]:
    """A run in ``folder`` as if its image were large: a canvas on disk, one window a block, time to be killed while it publishes.
    The file ``calls`` there counts the windows that the network has seen."""
    settings = os.environ | {"OMP_NUM_THREADS": "1", "I2I_OFFLINE": "1"}
    command = [sys.executable, "-c", _PROGRAM, "segment", *map(str, words)]
    return subprocess.Popen(command, env=settings, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.fixture
def resume(i2i, folder, monkeypatch, undisturbed) -> Callable[[], dict[str, Any]]:
    """Go on, in this process: the report. The plan is the killed run's."""
    from i2i_unet.predictor import UNetPredictor

    call = UNetPredictor.__call__

    def counted(self, batch):
        with (folder / "calls").open("ab") as stream:
            stream.write(b"." * len(batch))
        return call(self, batch)

    monkeypatch.setattr(UNetPredictor, "__call__", counted)
    return lambda: done(i2i("segment", *undisturbed.words, "--resume")).run


class Undisturbed(NamedTuple):
    """What a run gives that nobody stops."""

    words: tuple[object, ...]
    result: bytes
    blocks: int
    windows: int


@pytest.fixture(scope="module")
def undisturbed(model, tmp_path_factory) -> Undisturbed:
    folder = tmp_path_factory.mktemp("undisturbed")
    prepare(folder)
    words = ("in.tif", "-o", "out.tif", "--model", model, "--precision", "fp32", "--backend", "torch", "--tile", "192", "--json")
    out, err = start(folder, *words).communicate(timeout=300)
    assert out, err.decode()
    (report,) = json.loads(out)["runs"]
    windows = (folder / "calls").stat().st_size
    assert report["plan"]["canvas"] == "disk" and report["plan"]["blocks"] == windows >= 20 and report["objects"] > 100
    assert files(folder) == ["calls", "in.tif", "out.tif"]
    return Undisturbed(words, (folder / "out.tif").read_bytes(), report["blocks_computed"], windows)


def prepare(folder: Path) -> None:
    save(folder / "in.tif", picture(700, 560))


def journal(folder: Path) -> list[str]:
    """The stages of the whole lines that are about blocks."""
    path = folder / "out.tif.i2i-partial/journal.jsonl"
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return [stage for stage in (json.loads(line)["stage"] for line in lines) if stage in STAGES]


def publishing(folder: Path) -> list[Path]:
    """The temporary files beside the output."""
    return list(folder.glob(".out.i2i-*"))


def stop(running: subprocess.Popen[bytes], reached: Callable[[], bool], number: int = signal.SIGKILL) -> bytes:
    """Send the signal as soon as the moment is reached. Returns what the run has said on stderr."""
    deadline = time.monotonic() + 120
    while not reached():
        assert running.poll() is None, running.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.001)
    running.send_signal(number)
    _, err = running.communicate(timeout=60)
    return err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_keeps_its_work_and_says_so(
    undisturbed: Undisturbed, folder: Path, i2i: Callable[..., Any], resume: Callable[[], dict[str, Any]], number: int
) -> None:
    """Then its journal is torn, as by a machine that stops, other options are refused, and it goes on."""
    prepare(folder)
    running = start(folder, *undisturbed.words)
    err = stop(running, lambda: journal(folder).count("infer") >= 5, number)
    assert running.returncode == 130 and err.decode().endswith("\ninterrupted\n") and "--resume" in err.decode()
    assert not (folder / "out.tif").exists() and not publishing(folder)

    path = folder / "out.tif.i2i-partial/journal.jsonl"
    path.write_bytes(path.read_bytes()[:-7])
    torn, kept = path.read_bytes(), len(journal(folder))
    words = [word for word in undisturbed.words if word != "--json"]
    for other in (["--seed", "1"], ["--as", "classes"], ["--nan", "zero"]):
        refused(i2i("segment", *words, "--resume", *other), 1, "out.tif.i2i-partial", "another", "--overwrite")
    refused(i2i("segment", *words), 1, "out.tif.i2i-partial", "--resume", "--overwrite")
    assert path.read_bytes() == torn and kept >= 4, "a refusal costs nothing"

    report = resume()
    assert (report["blocks_reused"], report["blocks_computed"]) == (kept, undisturbed.blocks - kept)
    assert (folder / "out.tif").read_bytes() == undisturbed.result
    windows = (folder / "calls").stat().st_size
    assert undisturbed.windows + 1 <= windows <= undisturbed.windows + IN_FLIGHT + 1, "the block of the torn line is done again"
    assert files(folder) == ["calls", "in.tif", "out.tif"]


def test_a_run_killed_at_a_moment_of_every_stage_in_turn_goes_on_to_the_same_bytes(
    undisturbed: Undisturbed, folder: Path, resume: Callable[[], dict[str, Any]]
) -> None:
    """The last of them while the result is published."""
    prepare(folder)
    for stage in (*STAGES, "publish"):
        blocks = max(1, round(MOMENTS.random() * undisturbed.windows))
        running = start(folder, *undisturbed.words, *(() if stage == STAGES[0] else ("--resume",)))
        stop(
            running,
            lambda stage=stage, blocks=blocks: (
                bool(publishing(folder)) if stage == "publish" else journal(folder).count(stage) >= blocks
            ),
        )
        assert running.returncode == -signal.SIGKILL
        assert not (folder / "out.tif").exists()
        assert stage == "publish" or blocks <= journal(folder).count(stage) <= undisturbed.windows
    kept = len(journal(folder))
    assert kept == undisturbed.blocks
    report = resume()
    assert (report["blocks_reused"], report["blocks_computed"]) == (kept, 0)
    assert (folder / "out.tif").read_bytes() == undisturbed.result
    assert undisturbed.windows <= (folder / "calls").stat().st_size <= undisturbed.windows + IN_FLIGHT
    assert files(folder) == ["calls", "in.tif", "out.tif"], "nothing is left of the killed runs"


@pytest.mark.parametrize("kind", ["tta", "models"])
def test_a_killed_mean_goes_on_to_the_same_bytes_and_only_as_that_mean(
    folder: Path, i2i: Callable[..., Any], model: Path, tmp_path_factory: pytest.TempPathFactory, kind: str
) -> None:
    header, weights = tiny_network(depth=1)
    save_model(other := tmp_path_factory.mktemp("other") / "other.safetensors", weights, header)
    mean = ["--tta"] if kind == "tta" else ["--model", other]
    plain = ["in.tif", "-o", "out.tif", "--precision", "fp32", "--backend", "torch", "--tile", "192", "--model", model]
    prepare(folder)
    out, err = start(folder, *plain, *mean).communicate(timeout=300)
    whole = (folder / "out.tif").read_bytes()
    (folder / "out.tif").unlink()

    stop(start(folder, *plain, *mean), lambda: journal(folder).count("infer") >= 8)
    assert len(journal(folder)) >= 8 and not (folder / "out.tif").exists(), (out, err)
    refused(i2i("segment", *plain, "--resume"), 1, "out.tif.i2i-partial", "another input, model, option")
    report = done(i2i("segment", *plain, *mean, "--resume", "--json")).run
    assert report["blocks_reused"] >= 8 and (folder / "out.tif").read_bytes() == whole
    assert files(folder) == ["calls", "in.tif", "out.tif"]
