"""What a training shows of itself: samples as PNG, and a page of all of them with the curves of the losses."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from torch import Tensor

from i2i.files import replacing
from i2i.pictures import Picture, write_sheet

_WIDTH, _HEIGHT, _POINTS = 720, 160, 360


def write_samples(path: Path, sources: Iterable[Tensor], made: Iterable[Tensor], targets: Iterable[Tensor]) -> None:
    """A PNG with a row for each: input, output, target, (C, H, W) in about -1 .. 1."""
    write_sheet(path, [[shown(picture) for picture in row] for row in zip(sources, made, targets, strict=True)])


def shown(pixels: Tensor) -> Picture:
    """(H, W, 3) uint8: of three channels or more the first three, of fewer the first as gray."""
    values = ((pixels.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    picture: Picture = values[..., :3] if values.shape[2] >= 3 else np.repeat(values[..., :1], 3, 2)
    return picture


def write_page(work: Path) -> None:
    """``index.html`` in a training's folder: its losses, and its sheets, the last one first."""
    lines = _lines(work / "metrics.jsonl")
    names = sorted({name for line in lines for name in line} - {"step", "seconds", "rate", "latest", "closeness"})
    curves = "".join(f"<h2>{html.escape(name)}</h2>{_curve(lines, name)}" for name in names)
    sheets = sorted((work / "samples").glob("step-*.png"), reverse=True)
    pictures = "".join(f'<h2>{sheet.stem}</h2><img src="samples/{sheet.name}" alt="input, output, target">' for sheet in sheets)
    style = "<style>body{font:14px sans-serif;margin:2em}</style>"
    head = f"<!doctype html><meta charset=utf-8><title>i2i train translate</title>{style}"
    with replacing(work / "index.html") as temporary:
        temporary.write_text(f"{head}<h1>Losses</h1>{curves}<h1>Input, output, target</h1>{pictures}", encoding="utf-8")


def _lines(path: Path) -> list[dict[str, float]]:
    text = path.read_text("utf-8") if path.exists() else ""
    return [json.loads(line) for line in text.splitlines() if line.endswith("}")]


def _curve(lines: list[Mapping[str, float]] | list[dict[str, float]], name: str) -> str:
    """An SVG of a figure over the steps: means of at most ``_POINTS`` spans."""
    known = [(line["step"], line[name]) for line in lines if name in line]
    spans = np.array_split(np.array(known, float), min(_POINTS, len(known)))
    points = np.array([span.mean(0) for span in spans])
    low, high = points[:, 1].min(), points[:, 1].max()
    x = points[:, 0] / max(1.0, points[-1, 0]) * _WIDTH
    y = _HEIGHT - (points[:, 1] - low) / max(1e-12, high - low) * (_HEIGHT - 4) - 2
    path = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
    return (
        f'<p>{high:.4g} to {low:.4g}</p><svg width="{_WIDTH}" height="{_HEIGHT}" style="background:#f4f4f4">'
        f'<polyline fill="none" stroke="#246" points="{path}"/></svg>'
    )
