"""The command line in processes of their own, with limits on time and memory. Each is a fork of one that has torch and plugins
ready, so that hundreds of calls cost little."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SECONDS = 20
"""After so long a call is ended by its alarm."""
BYTES = 800_000_000
"""No process may hold more. torch and the libraries hold 0.45 GB, a good image of these sizes at most 0.15 GB more; the least
``--memory`` that i2i takes is 1.5 GB."""
_LEFT = 50_000_000
"""More, for each call that the same process has made before: what is kept of it. After a detector's fourth call 0.67 to 0.81 GB
were held, at different times."""

_SERVER = """
import contextlib, functools, gc, io, json, os, signal, sys

answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
import imagecodecs, numpy, onnxruntime, tifffile, torch, torchvision, yaml
from PIL import Image
from i2i import api, installed, training
from i2i.cli import app, main
import i2i.cli.run, i2i.cli.learn, i2i.cli.manage
from i2i.backends import start_torch
import i2i_bioimageio.predictor, i2i_maskrcnn.predictor, i2i_pix2pix.predictor, i2i_style.feedforward, i2i_unet.predictor
Image.init()
start_torch(1)
for name in ("entry_points", "distribution"):  # what is installed stays as it is
    setattr(installed, name, functools.cache(getattr(installed, name)))

def once(make):
    return functools.cache(lambda name: functools.cache(make(name)))

for kind in ("_image", "_train", "_eval"):  # and so do the commands that are made of it
    setattr(app, kind, once(getattr(app, kind)))
for words in json.loads(sys.argv[1]):  # what is imported and made at first calls
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()), contextlib.suppress(SystemExit):
        main(words)
gc.freeze()  # what is there stays, and is not looked at again

def redirect(place, number, mode):
    opened = os.open(place, mode)
    os.dup2(opened, number)
    os.close(opened)

def call(asked):
    os.chdir(asked["folder"])
    os.environ.update(asked["environment"])
    redirect(asked["in"], 0, os.O_RDONLY)
    redirect(asked["out"], 1, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    redirect(asked["err"], 2, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    exec(asked["before"], {})
    code = 99
    try:
        signal.alarm(asked["seconds"])
        main(asked["words"])
    except SystemExit as stop:
        code = stop.code or 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        signal.alarm(0)
        sys.stdout.flush()
        sys.stderr.flush()
    return code

for line in sys.stdin:
    child = os.fork()
    if child == 0:
        for asked in json.loads(line):
            answers.write(str(call(asked)) + " ")
            answers.flush()
        os._exit(0)
    _, status, used = os.wait4(child, 0)
    told = [os.waitstatus_to_exitcode(status), used.ru_maxrss * 1024]
    answers.write(json.dumps(told) + chr(10))
    answers.flush()
"""


_UNDRAWN = """
import torch
torch.Tensor.uniform_ = torch.Tensor.normal_ = lambda weights, *given, **more: weights
"""
"""A detector's first weights take longer than all the rest, and are replaced by those of its file."""


@dataclass(frozen=True)
class Call:
    """``i2i WORDS`` in ``folder``. ``before``: Python that is run first; ``stdout``: where that goes, if not back."""

    folder: Path
    words: Sequence[object]
    before: str = ""
    stdin: bytes = b""
    environment: Mapping[str, str] = field(default_factory=dict)
    stdout: str = ""


@dataclass(frozen=True)
class Ended:
    """How a call ended. ``code``: the exit code, or the negated number of the signal that ended it (14: its alarm)."""

    code: int
    stdout: bytes
    err: str

    @property
    def lines(self) -> list[str]:
        return self.err.splitlines()

    @property
    def json(self) -> Any:
        return json.loads(self.stdout)


@dataclass(frozen=True)
class Program:
    """``streams``: a folder for what goes in and comes out."""

    process: subprocess.Popen[str]
    streams: Path

    def run(self, folder: Path, *words: object, **settings: Any) -> Ended:
        """One call, within the limits. ``settings``: as of :class:`Call`."""
        (ended,) = self.run_all([Call(folder, words, **settings)])
        return ended

    def run_all(self, calls: Sequence[Call]) -> list[Ended]:
        """Calls one after the other in one process, offline, with a cache of their own. It may not hold more than ``BYTES``, and
        what calls leave."""
        asked = [self._asked(number, call) for number, call in enumerate(calls)]
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        done, _, told = self.process.stdout.readline().partition("[")
        status, held = json.loads(f"[{told}")
        codes = done.split()
        codes += [status] * (len(calls) - len(codes))  # of the call that ended the process, and those that it kept from
        assert held < BYTES + (len(calls) - 1) * _LEFT, f"{held / 1e6:.0f} MB were held: {[call.words for call in calls]}"
        return [
            Ended(int(code), b"" if call.stdout else _read(one["out"]), _read(one["err"]).decode("utf-8", "replace"))
            for code, call, one in zip(codes, calls, asked, strict=True)
        ]

    def _asked(self, number: int, call: Call) -> dict[str, Any]:
        places = {name: str(self.streams / f"{name}-{number}") for name in ("in", "out", "err")}
        for name, place in places.items():
            Path(place).write_bytes(call.stdin if name == "in" else b"")
        own = {"I2I_OFFLINE": "1", "I2I_CACHE_DIR": str(self.streams / "cache"), "COLUMNS": "80"}
        return places | ({"out": call.stdout} if call.stdout else {}) | {
            "folder": str(call.folder), "words": [str(word) for word in call.words],
            "before": _UNDRAWN * (call.words[0] == "instances") + call.before,
            "seconds": SECONDS, "environment": own | dict(call.environment),
        }  # fmt: skip


def _read(place: str) -> bytes:
    return Path(place).read_bytes()


@contextmanager
def serving(streams: Path, first: Sequence[Sequence[str]]) -> Iterator[Program]:
    """``first``: the words of calls that the server makes itself before it forks."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    command = [sys.executable, "-c", _SERVER, json.dumps(first)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=streams, env=environment
    ) as process:
        yield Program(process, streams)
        assert process.stdin is not None
        process.stdin.close()
