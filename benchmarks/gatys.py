"""Seconds for an evaluation of Gatys' loss and its gradient: i2i beside plain PyTorch after neural-style-pt's method.

    python benchmarks/gatys.py --vgg19 FILE [--size 512] [--evaluations 10] [--rounds 3]

The same picture, the same layers (style: conv1_1, conv2_1, conv3_1; content: conv3_2), average pooling, the picture's gradient
each time. "plain PyTorch" is what neural-style-pt does: a network of modules that note their losses as the picture passes them,
one backward pass, fp32, channels first, the system's allocator. i2i's rows are its own objective with VGG-19's first blocks in
fp32 and bf16, and with the bundled encoder in both (bf16 is what ``auto`` takes where the processor has it). Each row is a
process of its own; they take turns, and the medians over all rounds are shown. The first four evaluations of a process do not
count: its memory is not its own yet.

``--vgg19``: torchvision's weights of vgg19, or their part up to conv3_2 at least.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from machine import machine

STYLE, CONTENT = ("conv1_1", "conv2_1", "conv3_1"), "conv3_2"
ROWS = {
    "plain PyTorch, VGG-19, fp32": ("plain", "fp32"),
    "i2i, VGG-19, fp32": ("vgg19", "fp32"),
    "i2i, VGG-19, bf16": ("vgg19", "bf16"),
    "i2i, the bundled encoder, fp32": ("compact", "fp32"),
    "i2i, the bundled encoder, bf16": ("compact", "bf16"),
}
BARS = {"i2i, VGG-19, fp32": 3, "i2i, VGG-19, bf16": 6, "i2i, the bundled encoder, bf16": 12}
WARMUP = 4


def pictures(size):
    """Content and style: (1, 3, size, size), smooth noise; what is in them does not change the time."""
    import torch
    from torch.nn import functional

    random = torch.Generator().manual_seed(0)
    coarse = torch.rand((2, 3, size // 16, size // 16), generator=random)
    both = functional.interpolate(coarse, (size, size), mode="bicubic").clamp(0, 1)
    return both[:1].contiguous(), both[1:].contiguous()


def noting():
    """The modules of neural-style-pt that let a picture pass, and note their loss."""
    import torch
    from torch import nn

    class Noted(nn.Module):
        target = None

        def forward(self, values):
            told = self.told(values)
            if self.target is None:
                self.target = told.detach()
            self.loss = nn.functional.mse_loss(told, self.target)
            return values

    class Style(Noted):
        def told(self, values):
            flat = values.view(values.shape[1], -1)
            return torch.mm(flat, flat.t()) / values.nelement()

    class Content(Noted):
        def told(self, values):
            return values

    return Style, Content


def plain(options):
    """A network of modules, as neural-style-pt builds it."""
    import torch
    from torch import nn

    from i2i_style.encoder import VGG19

    encoder, modules, noted = vgg19(options.vgg19), [], []
    style_of, content_of = noting()
    for layer in VGG19.upto([CONTENT]).layers:
        modules += [nn.AvgPool2d(2)] if layer.pooled else []
        modules += [encoder.convolution(layer.name), nn.ReLU(inplace=True)]
        if layer.name in (*STYLE, CONTENT):
            noted.append((content_of if layer.name == CONTENT else style_of)())
            modules.append(noted[-1])
    network = nn.Sequential(*modules).requires_grad_(False)
    content, style = ((image - encoder.mean) / encoder.std for image in pictures(options.size))
    network(style)
    noted[-1].target = None  # the content's is of the content
    network(content)
    x = content.clone().requires_grad_()

    def evaluate():
        x.grad = None
        network(x)
        loss = sum(module.loss for module in noted)
        loss.backward()
        return float(loss.detach())

    return evaluate, torch.get_num_threads()


def vgg19(path):
    """The first blocks of VGG-19, as they are in the file."""
    from safetensors.torch import load_file

    from i2i.models import open_model
    from i2i_style.encoder import VGG19, load_torchvision

    tensors = load_file(path) if str(path).endswith(".safetensors") else open_model(path).tensors()
    return load_torchvision(VGG19.upto([CONTENT]), tensors, str(path)).requires_grad_(False)


def ours(options, kind, precision):
    """i2i's objective, with the allocator that its commands run with."""
    from i2i.backends import start_torch

    start_torch()
    import torch

    from i2i_style.encoders import find_encoder
    from i2i_style.objective import Objective, StyleTarget, Weights, grams_of, tiles_of

    layers = (*STYLE, CONTENT)
    encoder = vgg19(options.vgg19) if kind == "vgg19" else find_encoder("vgg-compact", layers).encoder
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    encoder = encoder.eval().to(dtype, memory_format=torch.channels_last)
    content, style = pictures(options.size)
    size = (options.size, options.size)
    tiles = tiles_of(size, encoder.config, (10**6, 10**6))

    def reader(image):
        return lambda region: image[(..., *region.slices)].contiguous(memory_format=torch.channels_last)

    targets = [StyleTarget(grams_of(encoder, reader(style), size, tiles, STYLE))]
    weights = Weights({CONTENT: 1.0}, dict.fromkeys(STYLE, 1000 / len(STYLE)))
    objective = Objective(encoder, size, tiles, weights, targets, reader(content), winograd=dtype == torch.float32)
    x = content.clone()
    return lambda: objective(x)[0], torch.get_num_threads()


def child(options):
    kind, precision = options.child.split("-")
    evaluate, threads = plain(options) if kind == "plain" else ours(options, kind, precision)
    seconds = []
    for _ in range(WARMUP + options.evaluations):
        begun = time.perf_counter()
        evaluate()
        seconds.append(time.perf_counter() - begun)
    print(json.dumps({"seconds": seconds[WARMUP:], "threads": threads}))


def measured(options):
    """Seconds of every evaluation, by row."""
    found = {name: [] for name in ROWS}
    for number in range(options.rounds):
        for name, (kind, precision) in ROWS.items():
            words = ["--size", str(options.size), "--evaluations", str(options.evaluations), "--child", f"{kind}-{precision}"]
            command = [sys.executable, __file__, "--vgg19", str(options.vgg19), *words]
            done = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=dict(os.environ)).stdout)
            found[name] += done["seconds"]
            print(f"round {number + 1}, {name}: {statistics.median(done['seconds']):.3f} s", file=sys.stderr)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vgg19", type=Path, required=True)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--evaluations", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options)
        return
    found = measured(options)
    first = statistics.median(found["plain PyTorch, VGG-19, fp32"])
    print(
        f"{machine()}; {options.size} x {options.size} pixels, medians of {options.rounds} x {options.evaluations} evaluations\n"
    )
    print("| how | seconds an evaluation | lowest | highest | times as fast | bar |")
    print("|---|---|---|---|---|---|")
    for name, seconds in found.items():
        middle = statistics.median(seconds)
        bar = f"{BARS[name]}" if name in BARS else ""
        print(f"| {name} | {middle:.3f} | {min(seconds):.3f} | {max(seconds):.3f} | {first / middle:.1f} | {bar} |")


if __name__ == "__main__":
    main()
