"""Steps a second of `i2i train translate` by the paper's recipe, and of the same networks as plain PyTorch trains them.

    python benchmarks/translate_speed.py --pairs DIR --out FOLDER [--direction BtoA] [--steps 24] [--runs 3]

The U-Net of depth 8 and 64 filters, the discriminator of 70 x 70 patches, conditional, L1 of weight 100, batches of one crop of
256 x 256. "i2i" is the command as it comes: bf16 where the processor has it, channels last, glibc told to keep its memory.
"plain PyTorch" has the settings of the public implementation: fp32, batch normalisation, the order channels, rows, columns, a
DataLoader, Adam; one step does what its `optimize_parameters` does. Each run is a process of its own; the programs take turns;
the first steps of a run do not count, and the medians are shown.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from experiment import I2I, files_of, say, table
from machine import machine

WARMUP = 8
BAR = 1.8
CROP, LARGER = 256, 286


def median_step(moments: list[float]) -> float:
    """The median time of a step, of the moments at which steps ended; the first ``WARMUP`` do not count."""
    return statistics.median(after - before for before, after in pairwise(moments[WARMUP - 1 :]))


def of_i2i(asked: argparse.Namespace, precision: str) -> float:
    """Seconds for a step of the command, from the figures that it writes for each but the last, after which it validates."""
    model = asked.out / f"{precision}.safetensors"
    words = ["--steps", str(asked.steps + 1), "--validate-every", str(asked.steps + 1), "--samples", "0", "--overwrite", "-q"]
    data = ["--pairs", str(asked.pairs), "--direction", asked.direction, "--precision", precision]
    subprocess.run([*I2I, "train", "translate", *data, *words, "-o", str(model)], check=True)
    lines = (asked.out / f"{precision}-training/metrics.jsonl").read_text("utf-8").splitlines()
    return median_step([json.loads(line)["seconds"] for line in lines][:-1])


def of_plain(asked: argparse.Namespace) -> float:
    words = ["--pairs", str(asked.pairs), "--out", str(asked.out), "--direction", asked.direction, "--steps", str(asked.steps)]
    done = subprocess.run([sys.executable, __file__, "--plain", *words], check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def batches(asked: argparse.Namespace) -> Iterator[Any]:
    """(source, target), (1, 3, 256, 256) in -1 .. 1: enlarged, cropped, mirrored; over and over."""
    import numpy as np
    import torch
    from PIL import Image

    class Pairs(torch.utils.data.Dataset):
        files = files_of(asked.pairs)

        def __len__(self) -> int:
            return len(self.files)

        def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
            whole = Image.open(self.files[index]).convert("RGB")
            half = whole.width // 2
            places = torch.randint(LARGER - CROP + 1, (2,)).tolist()
            mirrored = bool(torch.rand(()) < 0.5)

            def half_of(left: int) -> torch.Tensor:
                part = whole.crop((left, 0, left + half, whole.height)).resize((LARGER, LARGER), Image.Resampling.BICUBIC)
                pixels = torch.from_numpy(np.array(part)).permute(2, 0, 1).float() / 127.5 - 1
                piece = pixels[:, places[0] : places[0] + CROP, places[1] : places[1] + CROP]
                return piece.flip(-1) if mirrored else piece

            both = half_of(0), half_of(half)
            return both if asked.direction == "AtoB" else both[::-1]

    while True:
        yield from torch.utils.data.DataLoader(Pairs(), batch_size=1, shuffle=True)


def plain(asked: argparse.Namespace) -> float:
    """PyTorch as the public implementation uses it."""
    import torch
    from torch import nn

    from i2i_pix2pix.discriminators import Discriminator
    from i2i_pix2pix.generators import GeneratorConfig, build

    torch.manual_seed(0)
    maker, judge = build(GeneratorConfig(norm="batch")).train(), Discriminator(6, 70, norm="batch").train()
    optimizers = [torch.optim.Adam(network.parameters(), 2e-4, betas=(0.5, 0.999)) for network in (maker, judge)]
    gan, l1 = nn.BCEWithLogitsLoss(), nn.L1Loss()

    def told(seen: torch.Tensor, real: bool) -> torch.Tensor:
        logits = judge(seen)
        return gan(logits, torch.ones_like(logits) if real else torch.zeros_like(logits))

    moments: list[float] = []
    for source, target in batches(asked):
        made = maker(source)
        judge.requires_grad_(True)
        optimizers[1].zero_grad()
        ((told(torch.cat([source, made.detach()], 1), False) + told(torch.cat([source, target], 1), True)) / 2).backward()
        optimizers[1].step()
        judge.requires_grad_(False)
        optimizers[0].zero_grad()
        (told(torch.cat([source, made], 1), True) + 100 * l1(made, target)).backward()
        optimizers[0].step()
        moments.append(time.perf_counter())
        if len(moments) == asked.steps:
            return median_step(moments)
    raise AssertionError


PROGRAMS = {
    "i2i train translate": lambda asked: of_i2i(asked, "auto"),
    "i2i train translate --precision fp32": lambda asked: of_i2i(asked, "fp32"),
    "plain PyTorch, fp32": of_plain,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=Path, required=True, help="folder of files that hold A at the left and B at the right")
    parser.add_argument("--direction", choices=("AtoB", "BtoA"), default="BtoA")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=24, help=f"of each run, of which the first {WARMUP} do not count")
    parser.add_argument("--runs", type=int, default=3, help="of each program (default: 3)")
    parser.add_argument("--plain", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.steps < WARMUP + 3:
        parser.error(f"--steps {asked.steps}: at least {WARMUP + 3}")
    if asked.plain:
        print(plain(asked))
        return
    asked.out.mkdir(parents=True, exist_ok=True)
    found: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    for _ in range(asked.runs):
        for name, measure in PROGRAMS.items():
            found[name].append(measure(asked))
            say(f"{name}: {found[name][-1]:.3f} s a step")
    median = {name: statistics.median(seconds) for name, seconds in found.items()}
    slow = median["plain PyTorch, fp32"]
    print(f"{machine()}; {asked.runs} runs of each, in turn, of {asked.steps} steps\n")
    head = ["program", "steps a second", "least to most", "times as fast as plain PyTorch"]
    rows = [
        [name, f"{1 / median[name]:.2f}", f"{1 / max(seconds):.2f} to {1 / min(seconds):.2f}", f"{slow / median[name]:.2f}"]
        for name, seconds in found.items()
    ]
    print(table(head, rows))
    if slow / median["i2i train translate"] < BAR:
        sys.exit(f"below the bar of {BAR}")


if __name__ == "__main__":
    main()
