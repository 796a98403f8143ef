"""The same U-Net over a large image: i2i, MONAI's sliding window as its users run it and tuned, and the network alone.

    python benchmarks/tiling.py [--side 4096] [--images DIR] [--model FILE] [--runs 1] [--folder DIR] [--quick]

The network: depth 4, 32 filters, three channels in, three classes (ground, rim and inside of a cell), trained for two minutes on
drawn cells (cells.py), once for a --folder; or the RGB model of --model. The image: RGB, a TIFF of deflated tiles of 512 x 512:
other drawn cells, or a mosaic of the RGB images in --images, whose classes mean something with a --model that knows such images.

Each program is a process of its own, from file to file with the same weights, reader and compression. "Seconds" are those inside
it, from before the input is opened until the output is on the disk, without starting Python and importing; "process" is all of
it. "Forward alone" is the network in a loop on the window, batch and precision of i2i's plan, as i2i loads it; only the cores
count as its pixels: a program that did nothing but run this network on these windows would have that speed.

MONAI is no dependency of i2i; its rows are there when it is installed: pip install --no-deps monai. --quick: a side of 1024, a
shorter training, and no overlap of one half. MONAI tuned is run with one and with four windows in a batch; the faster is shown.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from cells import image_of, trained
from machine import machine

TILE = 512
STEPS, QUICK_STEPS = 200, 60


# ------------------------------------------------------------------------------------------------------ image and model


def mosaic(folder: Path, side: int) -> np.ndarray:
    """(side, side, 3) uint8 of the RGB images in a folder, side by side, row by row."""
    from i2i.formats import open_image

    images = []
    for path in sorted(path for path in folder.iterdir() if path.suffix in (".png", ".jpg", ".tif", ".tiff")):
        source = open_image(path)
        if (source.spec.channels, source.spec.dtype) == (3, "uint8"):
            images.append(source.read(source.spec.region))
        source.close()
    if not images:
        sys.exit(f"{folder}: no RGB images of 8 bits")
    canvas, y, number = np.zeros((side, side, 3), np.uint8), 0, 0
    while y < side:
        x, height = 0, side
        while x < side:
            image = images[number % len(images)]
            part = canvas[y : y + image.shape[0], x : x + image.shape[1]]
            part[:] = image[: part.shape[0], : part.shape[1]]
            x, height, number = x + image.shape[1], min(height, image.shape[0]), number + 1
        y += height
    return canvas


def prepared(path: Path, model: Any) -> Any:
    """An image file as i2i normalises it for the model: (1, 3, H, W) float32."""
    import torch

    from i2i.formats.views import ArraySource
    from i2i.normalize import Normalization

    pixels = tifffile.imread(path)
    normalization = Normalization.from_mapping(model.config["normalization"]).freeze(ArraySource(pixels), 0)
    return torch.from_numpy(normalization.apply(pixels)).permute(2, 0, 1)[None]


# ------------------------------------------------------------------------------------------------------------- programs
# Each is run in a process of its own (--program), and gives figures as JSON.


@dataclass(frozen=True)
class Program:
    """``run(folder, output)`` is given the folder with image.tif and model.safetensors, and returns its figures, ``seconds``
    among them. ``forward``: the program that is its network alone."""

    title: str
    run: Callable[[Path, Path], dict[str, Any]]
    needs_bf16: bool = False
    needs_monai: bool = False
    needs_openvino: bool = False
    slow: bool = False
    forward: str = ""


def i2i(precision: str, backend: str = "torch") -> Callable[[Path, Path], dict[str, Any]]:
    def run(folder: Path, output: Path) -> dict[str, Any]:
        from i2i.backends import start_torch

        start_torch()
        from i2i import api

        api.session("segment", {})  # the plugin is imported
        import i2i_unet.predictor  # noqa: F401

        if backend == "openvino":
            from i2i.backends.openvino import load_openvino

            load_openvino()

        started = time.perf_counter()
        options = {"model": str(folder / "model.safetensors"), "precision": precision, "backend": backend}
        report = api.run("segment", folder / "image.tif", output, as_="classes", overwrite=True, **options)
        return {"seconds": time.perf_counter() - started, "plan": dict(report.plan), "phases": report.seconds}

    return run


def monai(overlap: float, mode: str, tuned: bool = False, together: int = 4) -> Callable[[Path, Path], dict[str, Any]]:
    """``sliding_window_inference`` with regions of 512 x 512, ``together`` in a batch. ``tuned``: bf16, channels last, glibc told
    to keep its memory."""

    def run(folder: Path, output: Path) -> dict[str, Any]:
        from i2i.backends import configure_allocator

        if tuned:
            configure_allocator()
        import torch
        from monai.inferers import sliding_window_inference

        from i2i.models import open_model

        started = time.perf_counter()
        model = open_model(folder / "model.safetensors")
        network = plain_network(model)
        layout = torch.channels_last if tuned else torch.contiguous_format
        network = network.to(memory_format=layout)

        def predict(batch: torch.Tensor) -> torch.Tensor:
            with torch.autocast("cpu", torch.bfloat16) if tuned else nullcontext():
                return network(batch.contiguous(memory_format=layout))

        pixels = prepared(folder / "image.tif", model)
        with torch.inference_mode():
            logits = sliding_window_inference(pixels, (TILE, TILE), together, predict, overlap=overlap, mode=mode)
            classes = logits[0].argmax(0).to(torch.uint8).numpy()
        tifffile.imwrite(output, classes, tile=(TILE, TILE), compression="zlib", predictor=2, photometric="minisblack")
        with output.open("rb") as stream:
            os.fsync(stream.fileno())
        return {"seconds": time.perf_counter() - started}

    return run


def plain_network(model: Any) -> Any:
    """The network of a model file as PyTorch builds it."""
    from i2i_unet.network import UNet, UNetConfig

    network = UNet(UNetConfig.from_mapping(model.config["network"])).eval().requires_grad_(False)
    network.load_state_dict({name: value.float() for name, value in model.tensors().items()})
    return network


def forward(precision: str, least: float = 10.0) -> Callable[[Path, Path], dict[str, Any]]:
    """The network as i2i loads it, on random windows of i2i's plan, for ``least`` seconds and five batches at least."""

    def run(folder: Path, output: Path) -> dict[str, Any]:
        plan = json.loads((folder / f"plan-i2i-{precision}.json").read_text())
        from i2i.backends import autocast, start_torch

        start_torch(plan["threads"])
        import torch

        from i2i.contracts import Runtime
        from i2i.models import open_model
        from i2i_unet.predictor import load

        network = load(open_model(folder / "model.safetensors"), Runtime("cpu", precision))
        height, width = plan["window"]
        batch = torch.rand(plan["batch"], 3, height, width).contiguous(memory_format=torch.channels_last)
        times: list[float] = []
        with torch.inference_mode(), autocast("cpu", precision):
            network(batch)
            while len(times) < 5 or sum(times) < least:
                started = time.perf_counter()
                network(batch)
                times.append(time.perf_counter() - started)
        return {"seconds": statistics.median(times) / plan["batch"] * plan["tiles"]}

    return run


PROGRAMS = {
    "i2i-fp32": Program("i2i, fp32", i2i("fp32"), forward="forward-fp32"),
    "i2i-bf16": Program("i2i, bf16", i2i("bf16"), needs_bf16=True, forward="forward-bf16"),
    "openvino-fp32": Program("i2i, OpenVINO fp32", i2i("fp32", "openvino"), needs_openvino=True),
    "openvino-bf16": Program("i2i, OpenVINO bf16", i2i("bf16", "openvino"), needs_bf16=True, needs_openvino=True),
    "monai": Program("MONAI, its defaults: overlap 0.25, constant, fp32", monai(0.25, "constant"), needs_monai=True),
    "monai-gaussian": Program("MONAI, overlap 0.5, gaussian, fp32", monai(0.5, "gaussian"), needs_monai=True, slow=True),
    **{
        f"monai-tuned-{count}": Program(
            f"MONAI tuned: overlap 0.25, bf16, channels last, allocator, batch of {count} (the faster of 1 and 4)",
            monai(0.25, "constant", True, count),
            needs_bf16=True,
            needs_monai=True,
        )
        for count in (1, 4)
    },
    "forward-fp32": Program("forward alone, fp32", forward("fp32")),
    "forward-bf16": Program("forward alone, bf16", forward("bf16"), needs_bf16=True),
}


# ---------------------------------------------------------------------------------------------------------------- table


@dataclass(frozen=True)
class Measured:
    """Medians over the runs of a program. ``classes``: its result, where it has one."""

    seconds: float
    process: float
    peak: int
    classes: np.ndarray | None


def once(name: str, folder: Path) -> tuple[dict[str, Any], float, int]:
    """One process: its figures, its wall time and its peak resident size."""
    started = time.perf_counter()
    child = subprocess.Popen([sys.executable, __file__, "--program", name, "--folder", str(folder)])
    _, status, usage = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - started
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        sys.exit(f"{PROGRAMS[name].title}: ended with {child.returncode}")
    figures = json.loads((folder / f"{name}.json").read_text())
    return figures, seconds, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def measure(name: str, folder: Path, runs: int) -> Measured:
    results = [once(name, folder) for _ in range(runs)]
    figures = results[-1][0]
    if "plan" in figures:
        (folder / f"plan-{name}.json").write_text(json.dumps(figures["plan"]))
    output = folder / f"{name}.tif"
    return Measured(
        statistics.median(figures["seconds"] for figures, _, _ in results),
        statistics.median(seconds for _, seconds, _ in results),
        max(peak for _, _, peak in results),
        tifffile.imread(output) if output.exists() else None,
    )


def wanted(quick: bool) -> Iterator[str]:
    """The programs that can run here; a line on stderr for each that cannot."""
    from i2i.backends import has_bf16

    bf16 = has_bf16("cpu")
    monai_there, openvino_there = (importlib.util.find_spec(name) is not None for name in ("monai", "openvino"))
    for name, program in PROGRAMS.items():
        if program.needs_bf16 and not bf16:
            print(f"left out, for this processor has no bf16: {program.title}", file=sys.stderr)
        elif program.needs_monai and not monai_there:
            print(f"left out, for MONAI is not there (pip install --no-deps monai): {program.title}", file=sys.stderr)
        elif program.needs_openvino and not openvino_there:
            print(f"left out, for OpenVINO is not there (pip install openvino): {program.title}", file=sys.stderr)
        elif not (quick and program.slow):
            yield name


def row(name: str, found: dict[str, Measured], megapixels: float) -> str:
    program, one = PROGRAMS[name], found[name]
    base, alone, exact = found.get("monai"), found.get(program.forward), found["i2i-fp32"].classes
    ratio = f"{base.seconds / one.seconds:.2f}" if base else "-"
    share = f"{alone.seconds / one.seconds:.0%}" if alone else "-"
    same = "-" if one.classes is None or exact is None else f"{(one.classes == exact).mean():.4%}"
    whole = "-" if one.classes is None else f"{one.process:.1f}"
    return (
        f"| {program.title} | {one.seconds:.1f} | {whole} | {megapixels / one.seconds:.2f} | {one.peak / 1e9:.2f} GB "
        f"| {ratio} | {share} | {same} |"
    )


@contextmanager
def work_folder(asked: Path | None) -> Iterator[Path]:
    if asked:
        asked.mkdir(parents=True, exist_ok=True)
        yield asked
    else:
        with tempfile.TemporaryDirectory() as name:
            yield Path(name)


def make_inputs(folder: Path, side: int, asked: argparse.Namespace) -> None:
    image = mosaic(asked.images, side) if asked.images else image_of(side)
    tifffile.imwrite(folder / "image.tif", image, tile=(TILE, TILE), compression="zlib", photometric="rgb", metadata=None)
    steps = QUICK_STEPS if asked.quick else STEPS
    model = asked.model or folder / f"trained-{steps}.safetensors"
    if not asked.model and not model.exists():
        trained(model, steps)
    shutil.copyfile(model, folder / "model.safetensors")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=4096, help="of the image, in pixels")
    parser.add_argument("--images", type=Path, help="folder of RGB images to make the image of")
    parser.add_argument("--model", type=Path, help="a model file for RGB (default: one is trained)")
    parser.add_argument("--runs", type=int, default=1, help="of each program; the medians are shown")
    parser.add_argument("--folder", type=Path, help="where the files go (default: a temporary folder)")
    parser.add_argument("--quick", action="store_true", help="side 1024, without the slowest row")
    parser.add_argument("--program", choices=PROGRAMS, help=argparse.SUPPRESS)
    parser.add_argument("--inputs", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    asked = parse()
    side = 1024 if asked.quick else asked.side
    if asked.program:
        figures = PROGRAMS[asked.program].run(asked.folder, asked.folder / f"{asked.program}.tif")
        (asked.folder / f"{asked.program}.json").write_text(json.dumps(figures))
        return
    if asked.inputs:
        make_inputs(asked.folder, side, asked)
        return
    with work_folder(asked.folder) as folder:
        # in a process of its own: what a parent has in memory would count in the peaks of its children
        words = [*sys.argv[1:], "--inputs", "--folder", str(folder)]
        subprocess.run([sys.executable, __file__, *words], check=True)
        names = subprocess.run([sys.executable, "-c", _NAMES.format(asked.quick)], cwd=Path(__file__).parent, check=True,
                               stdout=subprocess.PIPE, text=True).stdout.split()  # fmt: skip
        found = {name: measure(name, folder, asked.runs) for name in names}
        tuned = [name for name in found if name.startswith("monai-tuned")]
        if tuned:
            del found[max(tuned, key=lambda name: found[name].seconds)]
        plan = json.loads((folder / "plan-i2i-fp32.json").read_text())
        network = f"model {asked.model.name}" if asked.model else "U-Net of depth 4 with 32 filters"
        windows = f"i2i's windows {plan['window'][0]} x {plan['window'][1]}, {plan['batch']} in a batch"
        print(f"{machine()}; {side} x {side} RGB, {network}; {windows}\n")
        print("| program | seconds | process | MP/s | peak memory | times as fast as MONAI's defaults | share of forward alone "
              "| classes as i2i in fp32 |")  # fmt: skip
        print("|---|---|---|---|---|---|---|---|")
        for name in found:
            print(row(name, found, side * side / 1e6))


_NAMES = "import tiling; print(*tiling.wanted({}))"


if __name__ == "__main__":
    main()
