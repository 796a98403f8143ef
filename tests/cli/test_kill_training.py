"""A training that is killed is the training that nobody stopped, to the byte."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.kit import files
from tests.cli.lessons import DATA, TINY, make_data

STEPS = ["--steps", "16", "--validate-every", "2", "--dropout", "0.4", "-q"]
SEGMENT = ["train", "segment", *DATA, *TINY, *STEPS]
_SMALL = "--source images --target images --filters 4 --depth 3 --crop 32 --patch 16 --batch 2"
TRANSLATE = ["train", "translate", *_SMALL.split(), *STEPS]
SLOWLY = """
import time
from i2i.training import loop
step = loop._take_step
loop._take_step = lambda *given: (time.sleep(0.06), step(*given))[1]
"""
"""So that there is time to be killed."""


def steps_of(work: Path) -> list[int]:
    """Those that are in the figures; a kill may have torn the last line."""
    path = work / "metrics.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return [json.loads(line)["step"] for line in lines]


def kill(running: subprocess.Popen[bytes], reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 240
    while not reached():
        assert running.poll() is None, running.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    running.send_signal(signal.SIGKILL)
    running.communicate(timeout=60)
    assert running.returncode == -signal.SIGKILL


@pytest.mark.parametrize("words", [SEGMENT, TRANSLATE], ids=["segment", "translate"])
def test_a_training_killed_twice_gives_the_same_model(process, folder, words):
    """With drop-out, augmentation, an average of the weights or an adversary; the second time as soon as the figures go on."""
    make_data(folder)
    undisturbed = process(*words, "-o", "whole.safetensors")
    work, model = folder / "m-training", folder / "m.safetensors"

    kill(process(*words, "-o", model, before=SLOWLY), lambda: len(steps_of(work)) >= 5)
    first = steps_of(work)
    assert 5 <= len(first) < 16 and not model.exists()
    kill(process(*words, "-o", model, "--resume", before=SLOWLY), lambda: len(steps_of(work)) > len(first) + 3)
    assert len(steps_of(work)) < 16 and not model.exists()

    last = process(*words, "-o", model, "--resume")
    for running in (undisturbed, last):
        _, err = running.communicate(timeout=240)
        assert running.returncode == 0, err.decode()
    assert model.read_bytes() == (folder / "whole.safetensors").read_bytes()
    assert steps_of(work) == list(range(1, 17))
    assert files(work / "samples") == files(folder / "whole-training/samples")
    assert not [name for name in files(folder) if ".i2i-" in name], "nothing is left of what was half written"
