"""Kill a run at random moments, go on with it, and compare: the bytes of the result, and what was computed twice.

    python benchmarks/resume.py [--side 4608] [--kills 20] [--model NAME] [--memory 1.5GB] [--seed 0] [--folder DIR] [--quick]

`i2i segment --as labels` of a mosaic of the bundled samples, whose canvas is on disk under this budget. The moments are drawn at
random over the stages infer, components, labels and publish: a share of the stage's blocks, then a share of the time that one
takes. A quarter of them is while the result is published, which is short. Blocks that the journal of the killed run names are not
computed again; windows that the network saw twice are those of blocks that were in flight. --quick: 8 kills, a model with few
filters.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tifffile
from machine import machine

STAGES = ("infer", "components", "labels")
IN_FLIGHT = 3
"""Blocks that the network may have seen although the journal does not name them: computed, waiting to be written, written."""
PROGRAM = """
import os, sys
from i2i.backends import configure_allocator
configure_allocator()
from i2i_unet.predictor import UNetPredictor
call, calls = UNetPredictor.__call__, os.open("calls", os.O_CREAT | os.O_APPEND | os.O_WRONLY)
def counted(self, batch):
    os.write(calls, b"." * len(batch))
    return call(self, batch)
UNetPredictor.__call__ = counted
from i2i.cli import main
main(sys.argv[1:])
"""
"""``i2i``, which adds a byte to the file ``calls`` for each window that the network sees."""


@dataclass(frozen=True)
class Runs:
    """The same run again and again, in ``folder``."""

    folder: Path
    words: list[str]

    @property
    def output(self) -> Path:
        return self.folder / "out.tif"

    def start(self, *more: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", PROGRAM, "segment", "in.tif", "-o", "out.tif", "--as", "labels", "--json", "-q"]
        return subprocess.Popen([*command, *self.words, *more], cwd=self.folder, stdout=subprocess.PIPE)

    def report(self, running: subprocess.Popen[bytes]) -> dict[str, Any]:
        out, _ = running.communicate()
        if running.returncode:
            sys.exit(f"ended with {running.returncode}: {out.decode()}")
        return json.loads(out)["runs"][0]

    def journal(self) -> list[str]:
        """The stages of the blocks that are journaled."""
        path = self.folder / "out.tif.i2i-partial/journal.jsonl"
        lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
        return [stage for stage in (json.loads(line)["stage"] for line in lines) if stage in STAGES]

    def publishing(self) -> bool:
        return any(self.folder.glob(".out.i2i-*"))

    def windows(self) -> int:
        """That the network has seen since the last call."""
        path = self.folder / "calls"
        size = path.stat().st_size if path.exists() else 0
        path.unlink(missing_ok=True)
        return size

    def take(self) -> str:
        """The hash of the result, which goes."""
        digest = hashlib.sha256(self.output.read_bytes()).hexdigest()
        self.output.unlink()
        return digest


@dataclass(frozen=True)
class Undisturbed:
    """The run that nobody stops. ``seconds``: of a block of each stage, and of publishing."""

    digest: str
    blocks: int
    all_blocks: int
    windows: int
    seconds: dict[str, float]


def undisturbed(runs: Runs) -> Undisturbed:
    running, spans = runs.start(), dict[str, list[float]]()
    while running.poll() is None:
        stage = "publish" if runs.publishing() else (["start", *runs.journal()])[-1]
        spans.setdefault(stage, []).append(time.monotonic())
        time.sleep(0.002)
    report = runs.report(running)
    if report["plan"]["canvas"] != "disk":
        sys.exit("the canvas of this image is in memory, where nothing is journaled: give a larger --side or less --memory")
    blocks = report["plan"]["blocks"]
    seconds = {stage: times[-1] - times[0] for stage, times in spans.items()}
    each = {stage: seconds.get(stage, 0.0) / (1 if stage == "publish" else blocks) for stage in (*STAGES, "publish")}
    return Undisturbed(runs.take(), blocks, report["blocks_computed"], runs.windows(), each)


@dataclass(frozen=True)
class Moment:
    """``share``: of the stage's blocks; ``wait``: in seconds, after that."""

    stage: str
    share: float
    wait: float


def moments(whole: Undisturbed, count: int, seed: int) -> list[Moment]:
    """A quarter while publishing; the others over the blocks of all stages, half of them in ``infer``, which takes longest."""
    draw = random.Random(seed)
    stages = [("publish", "infer", "components", "infer", "publish", "labels", "infer", "infer")[i % 8] for i in range(count)]
    return [Moment(stage, draw.random(), draw.random() * whole.seconds[stage]) for stage in stages]


def kill(runs: Runs, moment: Moment, blocks: int) -> bool:
    """Start a run and kill it at the moment. False when it had ended before."""
    running = runs.start()
    wanted = int(moment.share * blocks)
    reached: Callable[[], bool] = (
        runs.publishing if moment.stage == "publish" else lambda: runs.journal().count(moment.stage) >= wanted
    )
    while not reached() and running.poll() is None:
        time.sleep(0.001)
    time.sleep(moment.wait)
    running.send_signal(signal.SIGKILL)
    running.communicate()
    return running.returncode == -signal.SIGKILL


def row(number: int, runs: Runs, moment: Moment, whole: Undisturbed) -> tuple[str, bool]:
    """One kill: a line of the table, and whether all is as it should be."""
    if not kill(runs, moment, whole.blocks):
        runs.take()
        runs.windows()
        return f"| {number} | {moment.stage} | the run had ended before it was killed | | | |", True
    left, journaled = runs.output.exists(), len(runs.journal())
    report = runs.report(runs.start("--resume"))
    same, again = runs.take() == whole.digest, runs.windows() - whole.windows
    allowed = IN_FLIGHT * -(-whole.windows // whole.blocks)
    if left:  # killed after the result had its name, while the partial folder went: there is nothing left to do
        done = f"the result was there | {report['blocks_computed']} | {again} of {whole.windows}"
        return f"| {number} | {moment.stage} | {done} | {'yes' if same else 'NO'} |", same and not report["blocks_computed"]
    right = same and report["blocks_reused"] == journaled and 0 <= again <= allowed
    right = right and journaled + report["blocks_computed"] == whole.all_blocks
    blocks = f"{journaled} of {whole.all_blocks} | {report['blocks_computed']}"
    return f"| {number} | {moment.stage} | {blocks} | {again} of {whole.windows} | {'yes' if same else 'NO'} |", right


def save_small_model(path: Path) -> None:
    """A U-Net of depth 2 with 4 filters, drawn at random: its labels are many and mean nothing."""
    import torch

    from i2i.models import save_model
    from i2i_unet.network import UNet, UNetConfig

    torch.manual_seed(3)
    network = UNet(UNetConfig(1, 3, 2, 4))
    header = {
        "task": "segment", "network": network.config.as_mapping(), "normalization": {"method": "percentile"},
        "class_names": ["background", "interior", "border"], "label_rule": {"interior": 1, "border": 2, "dilate": 1},
    }  # fmt: skip
    save_model(path, network.state_dict(), header)


def prepare(asked: argparse.Namespace, folder: Path) -> Runs:
    from tiling_exact import SAMPLES, mosaic

    tifffile.imwrite(folder / "in.tif", mosaic(SAMPLES, asked.side), tile=(512, 512), compression="zlib")
    if asked.quick:
        save_small_model(folder / "small.safetensors")
    model = "small.safetensors" if asked.quick else asked.model
    return Runs(folder, ["--model", model, "--memory", asked.memory, "--backend", "torch"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=4608, help="of the image, in pixels")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--model", default="nuclei-fluo")
    parser.add_argument("--memory", default="1.5GB", help="the budget: above a sixteenth of it the canvas is on disk")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--folder", type=Path, help="where the files go (default: a temporary folder)")
    parser.add_argument("--quick", action="store_true", help="8 kills, a model with few filters")
    asked = parser.parse_args()
    if asked.folder:
        asked.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=asked.folder) as name:
        runs = prepare(asked, Path(name))
        whole = undisturbed(runs)
        print(f"{machine()}; {asked.side} x {asked.side}, labels, {whole.blocks} blocks in each of {len(STAGES)} stages\n")
        print("| kill | in stage | blocks journaled | blocks computed after | windows computed twice | bytes identical |")
        print("|---|---|---|---|---|---|", flush=True)
        results = []
        for number, moment in enumerate(moments(whole, 8 if asked.quick else asked.kills, asked.seed), 1):
            text, right = row(number, runs, moment, whole)
            results.append(right)
            print(text, flush=True)
    if not all(results):
        sys.exit("NOT as promised")


if __name__ == "__main__":
    main()
