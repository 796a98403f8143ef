"""Training by several processes that ``torchrun`` starts, on the CPU."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys

import pytest
import torch

from i2i.errors import UsageError
from i2i.models import load_checkpoint, open_model
from i2i_unet.network import UNetConfig
from i2i_unet.options import TrainOptions
from i2i_unet.settings import check
from tests.cli.kit import done, files
from tests.cli.lessons import DATA, make_data

NETWORK = ["--depth", "1", "--filters", "4", "--norm", "none", "--crop", "32", "--batch", "4", "--precision", "fp32"]
LINEAR = ["--loss", "cross-entropy", "--optimizer", "sgd", "--rate", "0.01", "--warmup", "0", "--schedule", "constant"]
WORDS = ["train", "segment", *DATA, *NETWORK, *LINEAR, "--average", "0", "--validate-every", "2"]


PIPES = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}


def ended(*running):
    """The exit code, the lines on stderr and the stdout of each process."""
    texts = [one.communicate(timeout=280) for one in running]
    return [(one.returncode, said.splitlines(), out) for one, (out, said) in zip(running, texts, strict=True)]


def torchrun(*words):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "i2i"]
    return ended(subprocess.Popen([*launcher, *words], env=os.environ | {"OMP_NUM_THREADS": "1"}, **PIPES))[0]


def by_hand(*words, before=("", "")):
    """As a launcher does, whose own start takes seconds: two processes that know their number and where they meet. ``before``:
    Python that each runs first."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    shared = os.environ | where | {"WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    programs = [f"{hook}\nfrom i2i.cli import main\nmain({[str(word) for word in words]!r})" for hook in before]
    return ended(
        *(
            subprocess.Popen([sys.executable, "-c", program], env=shared | {"RANK": str(rank)}, **PIPES)
            for rank, program in enumerate(programs)
        )
    )


def test_two_processes_train_the_model_that_one_trains(i2i, folder):
    """Where the loss is a mean, up to rounding: half a batch each, their gradients averaged. And a run goes on."""
    make_data(folder)
    code, said, out = torchrun(*WORDS, "--steps", "4", "-o", "m.safetensors")
    assert code == 0, said
    assert sum(line.startswith("5 images to train on") for line in said) == 1 and not out
    assert [name for name in files(folder) if name.startswith("m")] == sorted(
        ["m-training/checkpoint.pt", "m-training/metrics.jsonl", "m.safetensors"]
        + [f"m-training/samples/step-00000{step}.png" for step in (2, 4)]
        + [f"masks/{number}.tif" for number in range(6)]
    )
    done(i2i(*WORDS, "--steps", "4", "-o", "alone.safetensors", "-q"))
    both, alone = (load_checkpoint(folder / f"{name}-training/checkpoint.pt") for name in ("m", "alone"))
    assert both["step"] == alone["step"] == 4
    for name, tensor in alone["network"].items():
        torch.testing.assert_close(both["network"][name], tensor, rtol=1e-4, atol=1e-6)

    for code, said, _ in by_hand(*WORDS, "--steps", "6", "-o", "m.safetensors", "--resume"):
        assert code == 0, said
    done(i2i(*WORDS, "--steps", "6", "-o", "alone.safetensors", "--resume", "-q"))
    both, alone = (load_checkpoint(folder / f"{name}-training/checkpoint.pt") for name in ("m", "alone"))
    assert both["step"] == 6 and len((folder / "m-training/metrics.jsonl").read_text().splitlines()) == 6
    for name, tensor in alone["network"].items():
        torch.testing.assert_close(both["network"][name], tensor, rtol=1e-4, atol=1e-6)
    assert open_model(folder / "m.safetensors").config["network"]["depth"] == 1


def test_an_error_of_one_process_is_a_readable_line_of_each(folder):
    """Of the first one, which looks at the output while the others wait for it."""
    (folder / "m.safetensors").write_bytes(b"a model")
    found = by_hand(*WORDS, "-o", "m.safetensors")
    assert found == [(1, ["error: m.safetensors: exists; --overwrite replaces it"], "")] * 2
    assert not (folder / "m-training").exists()


KILLED = """
import os, signal
from i2i.training import loop
take, taken = loop._take_step, []
loop._take_step = lambda *given: taken.append(1) or (os.kill(os.getpid(), signal.SIGKILL) if len(taken) == 4 else take(*given))
"""


def test_a_process_that_is_killed_ends_the_others_in_one_line(folder):
    """They would wait for ever. (An abort was seen once in hundreds of runs, before `i2i.cli` left without torch's teardown. One
    by gloo's own threads, which name it, would be an end as well.)"""
    make_data(folder)
    (code, said, out), (other, *_) = by_hand(*WORDS, "--steps", "6", "-o", "m.safetensors", "-q", before=("", KILLED))
    assert (other, out) == (-signal.SIGKILL, "")
    line = "error: another process of this training is gone; start all of them again, with --resume"
    assert (code, said) == (1, [line]) or (code == -signal.SIGABRT and "gloo" in "".join(said)), (code, said)
    assert (folder / "m-training/checkpoint.pt").exists() and not (folder / "m.safetensors").exists()


def test_a_batch_has_a_crop_for_each_process():
    options = TrainOptions(images="images", masks="masks", batch=3)
    check(options, UNetConfig(), 3)
    with pytest.raises(UsageError, match="--batch 3: fewer than the 4 processes"):
        check(options, UNetConfig(), 4)
