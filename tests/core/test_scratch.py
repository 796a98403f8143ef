"""Scratch pixels: what was written is read, by any region; nothing is left on the disk."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from i2i.contracts import ImageSpec
from i2i.formats import scratch
from i2i.formats.scratch import Scratch
from i2i.geometry import Region


@settings(max_examples=60, deadline=None)
@given(height=st.integers(1, 90), width=st.integers(1, 90), data=st.data())
def test_regions_read_what_was_written(height: int, width: int, data: st.DataObject) -> None:
    before, scratch.TILE = scratch.TILE, 32
    try:
        pixels = Scratch(ImageSpec(height, width, 2, "uint16"))
    finally:
        scratch.TILE = before
    expected = np.zeros((height, width, 2), np.uint16)
    with closing(pixels):  # hypothesis may end an example wherever it draws
        random = np.random.default_rng(data.draw(st.integers(0, 99)))
        for _ in range(data.draw(st.integers(1, 5))):
            y, x = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
            region = Region(y, x, data.draw(st.integers(1, height - y)), data.draw(st.integers(1, width - x)))
            values = random.integers(0, 3, (region.height, region.width, 2)).astype(np.uint16) * data.draw(st.integers(0, 1))
            pixels.write(region, values)
            expected[region.slices] = values
            np.testing.assert_array_equal(pixels.read(region), values)
        np.testing.assert_array_equal(pixels.read(pixels.spec.region), expected)


@settings(max_examples=40, deadline=None)
@given(height=st.integers(1, 90), width=st.integers(1, 90), data=st.data())
def test_bands_as_wide_as_the_image_are_written_without_reading(height: int, width: int, data: st.DataObject) -> None:
    tops = data.draw(st.lists(st.tuples(st.integers(0, height - 1), st.integers(1, height), st.integers(0, 2)), max_size=6))
    before, scratch.TILE = scratch.TILE, 32
    try:
        pixels = Scratch(ImageSpec(height, width, 1, "float32"))
    finally:
        scratch.TILE = before
    expected, loaded = np.zeros((height, width, 1), np.float32), []
    load = pixels._load
    with closing(pixels), pytest.MonkeyPatch.context() as patch:
        patch.setattr(pixels, "_load", lambda start: loaded.append(start) or load(start))
        for y, rows, value in tops:
            band = Region(y, 0, min(rows, height - y), width)
            pixels.write(band, np.full((band.height, width, 1), value, np.float32))
            expected[band.slices] = value
        assert not loaded
        np.testing.assert_array_equal(pixels.read(pixels.spec.region), expected)


def test_nothing_has_a_name_and_zeros_take_no_place(tmp_path: Path) -> None:
    pixels = Scratch(ImageSpec(4096, 4096, 1, "uint8"), tmp_path)
    pixels.write(Region(0, 0, 4096, 4096), np.zeros((4096, 4096, 1), np.uint8))
    assert not list(tmp_path.iterdir())
    import os

    assert os.fstat(pixels._file.fileno()).st_blocks * 512 < 100_000
    pixels.close()
