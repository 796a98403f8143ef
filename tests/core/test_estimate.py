"""The estimate of a dry run: a piece of the image stands for all of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from i2i import estimate
from i2i.canvas import MemoryCanvas
from i2i.contracts import Source
from i2i.engine import Job
from i2i.formats import ArraySource
from i2i.geometry import make_grid
from i2i.planner import Plan
from tests import toys


@settings(max_examples=80, deadline=None)
@given(
    st.tuples(st.integers(1, 900), st.integers(1, 900)), st.tuples(st.integers(64, 300), st.integers(64, 300)),
    st.floats(1, 1e6),
)  # fmt: skip
def test_the_piece_is_whole_cores_and_as_large_as_was_asked(size, tile, pixels) -> None:
    grid = make_grid(size, tile, halo=16, stride=4)
    piece = estimate.piece_of(grid, pixels)
    assert grid.image.contains(piece)
    assert sum(tile.core.area for tile in grid.tiles(piece)) == piece.area, "whole cores"
    assert piece.area >= min(pixels, grid.image.area)
    if piece != grid.image:
        assert piece.area <= 4 * max(pixels, grid.tile(0, 0).core.area)


class Slow(toys.Convolution):
    """A network that takes five milliseconds, by its own clock, for a thousand pixels of its window."""

    now = 0.0

    def __call__(self, batch):
        self.now += batch.shape[0] * batch.shape[2] * batch.shape[3] * 5e-6
        return super().__call__(batch)


def test_the_estimate_is_the_time_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    source = ArraySource(np.random.default_rng(0).integers(0, 255, (1000, 800, 1)).astype(np.uint8))
    predictor = Slow().prepare(source, 0)
    monkeypatch.setattr(estimate, "_SECONDS", 0.5)
    monkeypatch.setattr(estimate, "time", SimpleNamespace(monotonic=lambda: predictor.now))
    plan = Plan((128, 128), 2, 1, 1, "cpu", "fp32", "torch", "memory", 0, True)
    job = Job(source, predictor, predictor.outputs[0], plan, MemoryCanvas())
    window = job.grid.window_shape
    network = job.grid.tile_count * window[0] * window[1] * 5e-6
    written: list[tuple[int, int]] = []

    def write(path: Path, result: Source) -> None:
        assert path.is_dir()
        written.append((result.spec.height, result.spec.width))
        predictor.now += 0.02

    found = estimate.seconds(job, 3, write)
    assert found is not None and len(written) == 1
    pixels = source.spec.height * source.spec.width / (written[0][0] * written[0][1])
    assert pixels > 2, "a piece, not all of it"
    assert found == pytest.approx(3 * (network + 0.02 * pixels), rel=0.01)
    assert estimate.seconds(replace(job, predictor=toys.Smoother()), 1, write) is None


def test_the_images_own_canvas_stays_untouched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(estimate, "_SECONDS", 0.01)
    predictor = toys.Convolution()
    source = ArraySource(np.zeros((300, 300, 1), np.uint8))
    plan = Plan((128, 128), 1, 1, 1, "cpu", "fp32", "torch", "disk", 0, True)
    canvas = MemoryCanvas()
    job = Job(source, predictor.prepare(source, 0), predictor.outputs[0], plan, canvas)
    monkeypatch.setattr(estimate.tempfile, "tempdir", str(tmp_path))
    assert estimate.seconds(job, 1, lambda path, result: None) is not None
    assert not canvas.done("infer") and not list(tmp_path.iterdir())
