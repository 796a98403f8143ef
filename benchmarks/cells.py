"""Drawn cells whose truth is known, and the network of tiling.py that is trained on them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

CLASSES = ["ground", "rim", "inside"]
COLOURS = np.array([[232, 206, 224], [92, 52, 124], [164, 116, 184]], np.float32)
"""Of the classes: a pale ground, and stained cells with a darker rim."""
REACH = 20
CROP, CROPS = 128, 8
RATE = 2e-3


def cells(side: int, *seed: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """An image (side, side, 3) uint8 of round cells, one for each 1500 pixels, under noise and uneven light; and its classes
    (side, side) uint8: ground 0, rim 1 (3 pixels wide), inside 2."""
    dice = np.random.default_rng(seed)
    depth = np.zeros((side + 2 * REACH, side + 2 * REACH), np.float32)  # pixels from the edge of the nearest cell
    centre = np.hypot(*np.mgrid[-REACH : REACH + 1, -REACH : REACH + 1]).astype(np.float32)
    for _ in range(side * side // 1500):
        row, column = dice.integers(REACH, side + REACH, 2)
        part = depth[row - REACH : row + REACH + 1, column - REACH : column + REACH + 1]
        np.maximum(part, dice.uniform(7, REACH) - centre, out=part)
    depth = depth[REACH:-REACH, REACH:-REACH]
    truth = np.where(depth > 3, 2, np.where(depth > 0, 1, 0)).astype(np.uint8)
    light = 1 + 0.1 * np.sin(np.arange(side) / 90 + dice.uniform(0, 6))
    noisy = COLOURS[truth] * light[:, None, None] + dice.normal(0, 10, (side, side, 3))
    return np.clip(noisy, 0, 255).astype(np.uint8), truth


def image_of(side: int, tile: int = 512) -> npt.NDArray[np.uint8]:
    """(side, side, 3) uint8: 16 pieces with cells, turned, in an order without a short period. None is trained on."""
    parts = [cells(tile, 0, number)[0] for number in range(16)]
    count = -(-side // tile)
    rows = [np.concatenate([np.rot90(parts[(7 * y + 3 * x) % 16], y * x % 4) for x in range(count)], 1) for y in range(count)]
    return np.ascontiguousarray(np.concatenate(rows)[:side, :side])


def trained(path: Path, steps: int) -> None:
    """Write the model file of a U-Net (depth 4, 32 filters, RGB) that has learnt the three classes in ``steps`` steps."""
    from i2i.backends import start_torch

    start_torch()
    import torch

    from i2i.models import save_model
    from i2i_unet.network import UNet, UNetConfig

    torch.manual_seed(1)
    network = UNet(UNetConfig(channels=3, classes=3, depth=4, filters=32, norm="batch")).to(memory_format=torch.channels_last)
    fit(network.train(), steps)
    header = {
        "task": "segment", "network": network.config.as_mapping(), "normalization": {"method": "range"}, "class_names": CLASSES,
    }  # fmt: skip
    save_model(path, network.state_dict(), header, half=False)


def fit(network: Any, steps: int) -> None:
    """AdamW on ``CROPS`` fresh crops a step, the learning rate falling to 0; in bf16 where the processor has it."""
    import torch
    from torch.nn.functional import cross_entropy

    from i2i.backends import autocast, has_bf16

    optimizer = torch.optim.AdamW(network.parameters(), RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    precision = "bf16" if has_bf16("cpu") else "fp32"
    for step in range(steps):
        images, truth = (np.stack(part) for part in zip(*(cells(CROP, 1, step, i) for i in range(CROPS)), strict=True))
        batch = torch.from_numpy(images).permute(0, 3, 1, 2).float().div_(255)
        with autocast("cpu", precision):
            loss = cross_entropy(network(batch).float(), torch.from_numpy(truth).long())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 20 == 19:
            print(f"training: step {step + 1} of {steps}, loss {loss.item():.4f}", file=sys.stderr)
