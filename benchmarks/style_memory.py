"""Memory of `i2i stylize` (the method of Gatys et al.) on a large picture, beside what the same takes with the whole picture at
once.

    python benchmarks/style_memory.py --photo FILE --style FILE --encoder VGG19.safetensors [--size 4096] [--memory 3GB] [--steps
    2]

VGG-19 from conv1_1 to conv3_4, fp32. The large picture runs within ``--memory``, a process of its own; its peak is what the
system says of it (``wait4``). Beside it, two smaller sizes in a single window with as much memory as they want: the difference of
their peaks gives the bytes for a pixel that the whole-image method needs, and from that what it would need at the large size
(calculated, not run)."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from experiment import I2I
from machine import machine

LAYERS = ["--style-layers", "conv1_1,conv2_1,conv3_1,conv3_4", "--content-layers", "conv3_2"]
SMALL = (768, 1280)


def run(options, folder, size, more):
    """The report, seconds and peak bytes of one picture."""
    command = [
        *I2I, "stylize", str(options.photo), "--style", str(options.style), "--encoder", str(options.encoder),
        "--size", str(size), "--scales", "1", "--steps", str(steps(options.steps, size)), "--precision", "fp32", *LAYERS,
        "-o", str(folder / f"{size}.png"), "--json", *more,
    ]  # fmt: skip
    begun = time.monotonic()
    with (folder / "report.json").open("wb") as out:
        child = subprocess.Popen(command, stdout=out)
        _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {child.returncode}")
    report = json.loads((folder / "report.json").read_text("utf-8"))["runs"][0]
    return report, time.monotonic() - begun, usage.ru_maxrss * (1024 if sys.platform != "darwin" else 1)


def steps(wanted, size):
    """What to ask for so that the size gets ``wanted``: --steps are those of sizes up to 512."""
    return round(wanted * max(1, size / 512))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photo", type=Path, required=True, help="a square one is enlarged to the size asked for")
    parser.add_argument("--style", type=Path, required=True)
    parser.add_argument("--encoder", type=Path, required=True)
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--memory", default="3GB")
    parser.add_argument("--steps", type=int, default=2)
    options = parser.parse_args()
    print(f"{machine()}; VGG-19, conv1_1 to conv3_4, fp32\n")
    print("| how | size | windows | optimiser | seconds an evaluation, all included | peak, GB |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        peaks = []
        for size in SMALL:
            report, seconds, peak = run(options, folder, size, ["--tile", str(size), "--memory", "64GB"])
            peaks.append((report, peak))
            row("whole picture in one window", report, seconds / options.steps, peak)
        report, seconds, peak = run(options, folder, options.size, ["--memory", options.memory])
        row(f"i2i, --memory {options.memory}", report, seconds / options.steps, peak)
    areas = [side * side for side in SMALL]
    for_each = (peaks[1][1] - peaks[0][1]) / (areas[1] - areas[0])
    needed = peaks[0][1] + for_each * (options.size**2 - areas[0])
    size = f"{options.size} x {options.size}"
    print(f"\nwhole picture at once: {for_each:.0f} bytes for a pixel, so {needed / 1e9:.0f} GB at {size} (calculated)")


def row(how, report, seconds, peak):
    told = next((note for note in report["notes"] if note.startswith("optimiser")), "L-BFGS").removeprefix("optimiser: ")
    size, windows = Path(report["output"]).stem, report["plan"]["tiles"]
    print(f"| {how} | {size} | {windows} | {told} | {seconds:.1f} | {peak / 1e9:.2f} |", flush=True)


if __name__ == "__main__":
    main()
