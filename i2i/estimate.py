"""How long a run will take: a piece of the image is run for real, and the rest is taken to be like it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from i2i.backends import run_batch
from i2i.canvas import DiskCanvas, MemoryCanvas
from i2i.contracts import Array, ImagePredictor, Source
from i2i.engine import Job, network_for, run_job
from i2i.geometry import AxisGrid, Grid, Region
from i2i.stitch import window_pixels

_SECONDS = 3.0
"""What the network should take for the piece, about."""
_LARGEST = 150_000_000
"""Pixels of the piece, at most, where one core has no more."""


class _Piece:
    """A rectangle of a source as an image of its own."""

    def __init__(self, source: Source, region: Region) -> None:
        self._source, self._region = source, region
        self.spec = replace(source.spec, height=region.height, width=region.width, levels=(), planes=())

    def read(self, region: Region, plane: int = 0, level: int = 0) -> Array:
        return self._source.read(region.shift(self._region.y, self._region.x))

    def close(self) -> None:
        """The source stays open."""


def piece_of(grid: Grid, pixels: float) -> Region:
    """Whole cores from the middle of the image: as many, along both sides alike, as make ``pixels``; all where it has fewer."""
    for count in range(1, max(grid.rows.count, grid.columns.count) + 1):
        (y, bottom), (x, right) = _middle(grid.rows, count), _middle(grid.columns, count)
        piece = Region(y, x, bottom - y, right - x)
        if piece.area >= pixels:
            break
    return piece


def _middle(axis: AxisGrid, count: int) -> tuple[int, int]:
    """Where ``count`` cores, or all, from the middle of an axis begin and end."""
    first = max(0, axis.count - count) // 2
    return axis.core(first)[0], axis.core(min(first + count, axis.count) - 1)[1]


def seconds(job: Job, planes: int, write: Callable[[Path, Source], None]) -> float | None:
    """What running ``job``, and ``planes`` like it, and writing the results with ``write`` (given a folder) should take, without
    opening and preparing. None for an iterative method that cannot tell."""
    if isinstance(job.predictor, ImagePredictor):
        told = job.predictor.seconds(job.source, job.grid)
        return None if told is None else round(planes * told, 3)
    region = piece_of(job.grid, min(_LARGEST, _SECONDS * _rate(job)))
    source = _Piece(job.source, region)
    with tempfile.TemporaryDirectory() as folder:
        canvas = DiskCanvas(Path(folder, "canvas")) if job.plan.canvas == "disk" else MemoryCanvas()
        piece = replace(job, source=source, canvas=canvas)
        laps = _laps(piece, Path(folder), write)
        canvas.close()
    windows, pixels = job.grid.tile_count / piece.grid.tile_count, job.grid.image.area / region.area
    network = laps.pop("infer", 0) + laps.pop("detect", 0)
    return round(planes * (network * windows + sum(laps.values()) * pixels), 3)


def _rate(job: Job) -> float:
    """Pixels of cores that the network does in a second. Its first batch is slower than the rest, and is not counted."""
    tile = job.grid.tile(0, 0)
    window = window_pixels(job.source, job.predictor, tile.window)
    network = network_for(job.predictor, job.grid, job.plan)
    for _ in range(2):
        started = time.monotonic()
        run_batch(network, [window] * job.plan.batch, job.plan.runtime)
        passed = time.monotonic() - started
    return job.plan.batch * tile.core.area / passed


def _laps(job: Job, folder: Path, write: Callable[[Path, Source], None]) -> dict[str, float]:
    """Seconds by stage, and of writing."""
    laps: dict[str, float] = {}
    last = time.monotonic()

    def told(stage: str, share: float) -> None:
        nonlocal last
        now = time.monotonic()
        laps[stage], last = laps.get(stage, 0.0) + now - last, now

    outcome = run_job(replace(job, progress=told))
    write(folder, outcome.result)
    laps["publish"] = time.monotonic() - last
    return laps
