"""Memory and time for a pixel do not grow with the image: `i2i segment --as classes --memory 2GB` on ever larger TIFFs.

    python benchmarks/memory.py [--sizes 8192,32768,100000] [--as classes] [--memory 2GB] [--backend torch] [--folder DIR]
                                [--keep] [--quick]

The images are procedural: 64 different tiles of 512 x 512 with nuclei-like spots, in an order without a period, deflated. The
network is a light U-Net (depth 2, 4 filters, weights drawn at random), so that reading, stitching and writing count. Each run is
a process of its own; its peak is what the system says of it (`wait4`). The estimates are those of `--dry-run`. The largest size
takes about 6 GB for the image, a few for the canvas and the result, and some 20 minutes. Seconds for a megapixel are those of
the phases compute and publish. A run that fails is told on stderr, and the others go on. --quick: 2048 and 4096.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from machine import machine

TILE, BANK = 512, 64
I2I = [sys.executable, "-c", "from i2i.cli import main; main()"]


# ------------------------------------------------------------------------------------------------------------- images


def field(side: int, seed: int) -> np.ndarray:
    """(side, side) uint8: soft bright spots of several sizes, one for each 900 pixels, on a dark and slightly noisy ground."""
    random = np.random.default_rng(seed)
    reach = 20
    light = np.zeros((side + 2 * reach, side + 2 * reach), np.float32)
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    for _ in range(side * side // 900):
        row, column = random.integers(reach, side + reach, 2)
        spot = np.exp(-(x**2 + y**2) / (2 * random.uniform(2, 7) ** 2)) * random.uniform(80, 200)
        light[row - reach : row + reach + 1, column - reach : column + reach + 1] += spot
    noise = 16 + random.integers(0, 4, (side, side))
    return np.clip(light[reach:-reach, reach:-reach] + noise, 0, 255).astype(np.uint8)


def bank() -> list[bytes]:
    """The deflated tiles."""
    return [zlib.compress(field(TILE, seed).tobytes(), 6) for seed in range(BANK)]


def chosen(row: int, column: int) -> int:
    """Which of the tiles lies there."""
    return zlib.crc32(f"{row} {column}".encode()) % BANK


def write_image(path: Path, side: int, tiles: list[bytes]) -> None:
    """(side, side) uint8, tile by tile."""
    count = -(-side // TILE)

    def encoded() -> Iterator[bytes]:
        return (tiles[chosen(row, column)] for row in range(count) for column in range(count))

    tifffile.imwrite(
        path, encoded(), shape=(side, side), dtype=np.uint8, tile=(TILE, TILE), compression="zlib",
        bigtiff=side > 2**15, metadata=None, photometric="minisblack",
    )  # fmt: skip


def image_bytes(side: int, tiles: list[bytes]) -> int:
    return (-(-side // TILE)) ** 2 * sum(map(len, tiles)) // len(tiles)


def disk_needed(side: int, kind: str, tiles: list[bytes]) -> int:
    """Bytes for the image, the canvas and the result: at most a byte for each pixel of the latter two (labels: four), for both
    are compressed, and the result may have a pyramid."""
    return image_bytes(side, tiles) + side * side * (4 if kind == "labels" else 1)


# -------------------------------------------------------------------------------------------------------------- model


def save_light_model(path: Path) -> None:
    """A U-Net of depth 2 with 4 filters, two classes and a label rule; about 30 MP/s of forward on two cores in bf16."""
    import torch

    from i2i.models import save_model
    from i2i_unet.network import UNet, UNetConfig

    torch.manual_seed(1)
    network = UNet(UNetConfig(channels=1, classes=2, depth=2, filters=4)).eval()
    with torch.no_grad():
        seen = torch.from_numpy(field(TILE, 0).astype(np.float32) / 255)[None, None]
        centre = network(seen).median(3).values.median(2).values[0]
        network.head.bias -= centre + torch.tensor([0.0, 0.05])
    header = {
        "task": "segment", "network": asdict(network.config), "normalization": {"method": "range"},
        "class_names": ["background", "spot"], "label_rule": {"interior": 1, "min_area": 8},
    }  # fmt: skip
    save_model(path, network.state_dict(), header)


def precision() -> str:
    """bf16 where the processor computes it."""
    command = "from i2i.backends import has_bf16; print(has_bf16('cpu'))"
    answer = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True).stdout
    return "bf16" if answer.strip() == "True" else "fp32"


# --------------------------------------------------------------------------------------------------------------- runs


@dataclass(frozen=True)
class Measured:
    """A process: its report, its wall time in seconds and its peak resident size in bytes."""

    report: dict[str, Any]
    seconds: float
    peak: int


class Failed(Exception):
    """A run ended with an error: its words and its stderr."""


def measure(command: list[str], folder: Path) -> Measured:
    """Run a command that prints i2i's JSON report. Raises ``Failed``."""
    with (folder / "report.json").open("w+b") as out, (folder / "errors.txt").open("w+b") as err:
        started = time.monotonic()
        child = subprocess.Popen(command, stdout=out, stderr=err)
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.monotonic() - started
        child.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        text, said = out.read(), err.read()
    if child.returncode:
        raise Failed(f"{' '.join(command[3:])} ended with {child.returncode}: {said.decode()}{text.decode()}")
    unit = 1 if sys.platform == "darwin" else 1024
    return Measured(json.loads(text)["runs"][0], seconds, usage.ru_maxrss * unit)


def run(side: int, asked: argparse.Namespace, folder: Path, tiles: list[bytes], settings: list[str]) -> tuple[Measured, Measured]:
    """The dry run and the run of one size."""
    image, output = folder / f"image-{side}.tif", folder / f"result-{side}.tif"
    if not image.exists():
        write_image(image.with_suffix(".part"), side, tiles)
        image.with_suffix(".part").rename(image)
    command = [*I2I, "segment", str(image), "-o", str(output), *settings, "--json", "-q"]
    try:
        planned = measure([*command, "--dry-run", "--overwrite"], folder)
        return planned, measure([*command, "--overwrite"], folder)
    finally:
        output.unlink(missing_ok=True)
        shutil.rmtree(folder / f"{output.name}.i2i-partial", ignore_errors=True)
        if not asked.keep:
            image.unlink()


def forward_rate(model: Path, number: str) -> float:
    """Megapixels that the network alone does in a second, as i2i loads it, on all cores: median of 9 windows of 1024 x 1024."""
    from i2i.backends import run_batch, start_torch

    start_torch()
    from i2i.contracts import Runtime
    from i2i.models import open_model
    from i2i_unet.predictor import load

    runtime = Runtime("cpu", number)
    network, window = load(open_model(model), runtime), np.zeros((1024, 1024, 1), np.float32)
    times = []
    for _ in range(10):
        started = time.perf_counter()
        run_batch(network, [window], runtime)
        times.append(time.perf_counter() - started)
    return 1024**2 / 1e6 / statistics.median(times[1:])


def per_megapixel(side: int, measured: Measured) -> float:
    """Seconds of computing and publishing."""
    return real_seconds(measured) / side**2 * 1e6


def real_seconds(measured: Measured) -> float:
    """Those that the dry run estimates: without opening and preparing."""
    seconds = measured.report["seconds"]
    return float(seconds["compute"] + seconds["publish"])


def row(side: int, planned: Measured, measured: Measured, least: tuple[float, int]) -> str:
    plan, seconds = planned.report["plan"], measured.report["seconds"]
    each = per_megapixel(side, measured)
    phases = ", ".join(f"{name} {value:.1f}" for name, value in seconds.items() if value >= 0.05)
    found, real = plan.get("seconds"), real_seconds(measured)
    return (
        f"| {side} x {side} | {plan['canvas']} | {measured.seconds:.0f} ({phases}) "
        f"| {'-' if found is None else f'{found:.1f} / {real:.1f} = {found / real:.2f}'} "
        f"| {each:.4f} ({each / least[0]:.2f}) | {measured.peak / 1e9:.2f} GB ({measured.peak / least[1]:.2f}) "
        f"| {plan['memory'] / 1e9:.2f} GB / {measured.peak / 1e9:.2f} GB = {plan['memory'] / measured.peak:.2f} |"
    )


def check_disk(sizes: list[int], asked: argparse.Namespace, folder: Path, tiles: list[bytes]) -> None:
    """Ends the benchmark when the folder has not the room; says what is needed."""
    needs = [disk_needed(side, asked.kind, tiles) for side in sizes]
    needed = (sum if asked.keep else max)(needs)
    free = shutil.disk_usage(folder).free
    print(f"{folder}: up to {needed / 1e9:.1f} GB of disk needed, {free / 1e9:.1f} GB free", file=sys.stderr)
    if needed > free:
        sys.exit("not enough: choose another --folder, or smaller --sizes")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="8192,32768,100000", help="sides of the images, in pixels")
    parser.add_argument("--as", dest="kind", choices=("classes", "labels"), default="classes", help="kind of result")
    parser.add_argument("--memory", default="2GB", help="the budget")
    parser.add_argument("--backend", default="torch", choices=("auto", "torch", "openvino"), help="what runs the network")
    parser.add_argument("--folder", type=Path, help="where the images and results go (default: the system's temporary folder)")
    parser.add_argument("--keep", action="store_true", help="keep the images, and use those that are there")
    parser.add_argument("--quick", action="store_true", help="sizes 2048 and 4096")
    asked = parser.parse_args()
    if asked.keep and not asked.folder:
        parser.error("--keep needs --folder")
    return asked


def main() -> None:
    asked = parse()
    sizes = [2048, 4096] if asked.quick else sorted(int(size) for size in asked.sizes.split(","))
    tiles = bank()
    with tempfile.TemporaryDirectory() as temporary:
        folder = asked.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        check_disk(sizes, asked, folder, tiles)
        model = Path(temporary) / "light.safetensors"
        subprocess.run([sys.executable, "-c", f"import memory; memory.save_light_model(memory.Path({str(model)!r}))"],
                       cwd=Path(__file__).parent, check=True)  # fmt: skip
        number = precision()
        settings = ["--as", asked.kind, "--memory", asked.memory, "--model", str(model), "--precision", number,
                    "--backend", asked.backend]  # fmt: skip
        words = f"import memory; print(round(memory.forward_rate(memory.Path({str(model)!r}), {number!r}), 1))"
        rate = subprocess.run([sys.executable, "-c", words], cwd=Path(__file__).parent, check=True,
                              stdout=subprocess.PIPE, text=True).stdout.strip()  # fmt: skip
        print(
            f"{machine()}; `i2i segment --as {asked.kind} --memory {asked.memory} --backend {asked.backend}`, U-Net of depth 2 "
            f"with 4 filters, {number}, whose forward alone in torch does {rate} MP/s\n"
        )
        print("| image | canvas | seconds of the process (by phase) | compute and publish, seconds: estimated / real "
              "| seconds per megapixel (to the smallest) | peak memory (to the smallest) | peak: estimated / real |")  # fmt: skip
        print("|---|---|---|---|---|---|---|", flush=True)
        least = None
        failed = False
        for side in sizes:
            try:
                planned, measured = run(side, asked, folder, tiles, settings)
            except Failed as error:
                print(f"{side} x {side}: {error}", file=sys.stderr)
                failed = True
                continue
            least = least or (per_megapixel(side, measured), measured.peak)
            print(row(side, planned, measured, least), flush=True)
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    main()
