"""Steps a second of `i2i train segment`, and of the same network trained as plain PyTorch trains it.

    python benchmarks/training_speed.py --data DIR --out FOLDER [--steps 15] [--runs 3] [--batch 8] [--crop 256] ...

The network, the pictures (of dsb2018-fluo, in memory), the augmentation, the loss (cross entropy) and the optimiser (AdamW) are
the same. "i2i" is the command as it comes: bf16 where the processor has it, channels last, glibc told to keep its memory, the
next crops made while the network learns. "plain PyTorch" is fp32, in the order channels, rows, columns, with a Dataset and a
DataLoader of default settings. i2i does more in a step: it clips gradients, averages the weights and writes figures. Each run is
a process of its own; the programs take turns; the first steps of a run do not count, and the medians are shown. A run that is
done is not done again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

from experiment import Budget, add_budget, add_folders, budget_of, copied, files_of, kept, say, spread_out, table, train
from machine import machine

SET = "dsb2018-fluo"
LEARN, HELD = 64, 2
WARMUP = 3
BAR = 2.0


def median_step(seconds: list[float]) -> float:
    """The median time of a step, of the moments at which steps ended; the first ``WARMUP`` do not count."""
    return statistics.median(after - before for before, after in pairwise(seconds[WARMUP - 1 :]))


def of_i2i(out: Path, budget: Budget, precision: str, run: int) -> float:
    """Seconds for a step of the command, from the figures that it writes for each but the last, after which it validates."""
    name = f"i2i-{precision}-{run}"
    held = ["--val-images", str(out / "held/images"), "--val-masks", str(out / "held/masks")]
    how = ["--target", "foreground", "--loss", "cross-entropy", "--precision", precision]
    train(out / f"{name}.safetensors", out / "learn/images", out / "learn/masks", *held, *how, *budget.words(validations=1))
    lines = (out / f"{name}-training/metrics.jsonl").read_text("utf-8").splitlines()
    return median_step([json.loads(line)["seconds"] for line in lines][:-1])


def of_plain(out: Path, budget: Budget) -> float:
    """The same in a process of its own, whose memory is as the system gives it."""
    words = [f"--{name}={value}" for name, value in vars(budget).items()]
    command = [sys.executable, __file__, "--plain", "--data", ".", "--out", str(out), *words]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def plain(out: Path, budget: Budget) -> float:
    """PyTorch as its tutorials use it."""
    import torch
    from torch.nn.functional import cross_entropy

    from i2i_unet.network import UNet, UNetConfig

    torch.manual_seed(0)
    network = UNet(UNetConfig(channels=1, classes=2, depth=budget.depth, filters=budget.filters)).train()
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3)
    ended = []
    for images, truth in islice(batches(out, budget), budget.steps):
        loss = cross_entropy(network(images), (truth > 0).long())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        ended.append(time.perf_counter())
    return median_step(ended)


def batches(out: Path, budget: Budget) -> Any:
    """A DataLoader of default settings over augmented crops of the same pictures, which are in memory."""
    import torch

    from i2i.data import Augmentation, Example, crop, generator
    from i2i.formats import open_image
    from i2i.normalize import Normalization

    def example(image: Path, mask: Path) -> Example:
        pixels, truth = open_image(image), open_image(mask)
        normal = Normalization().freeze(pixels, 0).apply(pixels.read(pixels.spec.region))
        labels = torch.from_numpy(truth.read(truth.spec.region)[..., 0].astype("int32"))
        return Example(torch.from_numpy(normal).permute(2, 0, 1).contiguous(), labels, image.name)

    class Crops(torch.utils.data.Dataset):
        def __init__(self) -> None:
            folders = (files_of(out / "learn" / kind) for kind in ("images", "masks"))
            self.examples = [example(image, mask) for image, mask in zip(*folders, strict=True)]

        def __len__(self) -> int:
            return budget.steps * budget.batch

        def __getitem__(self, index: int) -> tuple[torch.Tensor, ...]:
            return crop(self.examples[index % len(self.examples)], budget.crop, Augmentation(), generator(0, index))

    return torch.utils.data.DataLoader(Crops(), batch_size=budget.batch, shuffle=True)


PROGRAMS: Mapping[str, tuple[str, Callable[[Path, Budget, int], float]]] = {
    "i2i": ("i2i train segment", lambda out, budget, run: of_i2i(out, budget, "auto", run)),
    "i2i-fp32": ("i2i train segment --precision fp32", lambda out, budget, run: of_i2i(out, budget, "fp32", run)),
    "plain": ("plain PyTorch, fp32", lambda out, budget, run: of_plain(out, budget)),
}
"""How each is called, and its seconds for a step."""


def prepare(data: Path, out: Path) -> None:
    """Some pictures to learn from, others to validate on, in ``out``."""
    files = spread_out(files_of(data / "train/images"), LEARN + HELD)
    copied(data / "train", out / "learn", files[:-HELD])
    copied(data / "train", out / "held", files[-HELD:])


def measured(out: Path, budget: Budget, runs: int) -> dict[str, list[float]]:
    """The seconds for a step of each program, one after the other, so many times."""
    found: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    for number in range(runs):
        for name, (_, measure) in PROGRAMS.items():
            make = partial(measure, out, budget, number)
            seconds = kept(out, f"{name}-{number}", {"budget": str(budget)}, lambda make=make: {"seconds": make()})["seconds"]
            found[name].append(seconds)
            say(f"{name}: {seconds:.3f} s a step")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_folders(parser, SET)
    parser.add_argument("--runs", type=int, default=3, help="of each program (default: 3)")
    parser.add_argument("--plain", action="store_true", help=argparse.SUPPRESS)
    add_budget(parser, Budget(steps=15, batch=8, crop=256, depth=4, filters=24))
    asked = parser.parse_args()
    budget = budget_of(asked)
    if budget.steps < WARMUP + 3:
        parser.error(f"--steps {budget.steps}: at least {WARMUP + 3}, for the first {WARMUP} and the last do not count")
    if asked.plain:
        print(plain(asked.out, budget))
        return
    prepare(asked.data / SET, asked.out)
    found = measured(asked.out, budget, asked.runs)
    median = {name: statistics.median(seconds) for name, seconds in found.items()}
    print(f"{machine()}; {budget}; runs of each, in turn: {asked.runs}\n")
    rows = [
        [PROGRAMS[name][0], f"{1 / median[name]:.2f}", f"{1 / max(seconds):.2f} to {1 / min(seconds):.2f}",
         f"{median['plain'] / median[name]:.2f}"]
        for name, seconds in found.items()
    ]  # fmt: skip
    print(table(["program", "steps a second", "least to most", "times as fast as plain PyTorch"], rows))
    if median["plain"] / median["i2i"] < BAR:
        sys.exit(f"below the bar of {BAR}")


if __name__ == "__main__":
    main()
