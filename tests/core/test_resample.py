"""Images at another pixel size: the same pixels however they are read."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from i2i.contracts import Array, ImageSpec
from i2i.formats import resample
from i2i.formats.resample import Resampled, resampled
from i2i.formats.views import ArraySource
from i2i.geometry import Region

deterministic = settings(derandomize=True, deadline=None, max_examples=40)
factors = st.floats(0.1, 6).map(lambda value: round(value, 3))


def whole(source: Resampled) -> Array:
    return source.read(source.spec.region)


@given(st.data(), factors, factors, st.sampled_from(["uint8", "uint16", "float32", "bool"]), st.booleans())
@deterministic
def test_a_region_is_the_crop_of_the_whole(data: st.DataObject, tall: float, wide: float, dtype: str, nearest: bool) -> None:
    shape = data.draw(st.tuples(st.integers(1, 40), st.integers(1, 40), st.integers(1, 2)))
    pixels = np.random.default_rng(0).uniform(0, 300, shape).astype(dtype)
    spec = resampled(ArraySource(pixels), (tall, wide)).spec
    source = Resampled(ArraySource(pixels), spec, (tall, wide), nearest)
    y, x = data.draw(st.integers(0, spec.height - 1)), data.draw(st.integers(0, spec.width - 1))
    region = Region(y, x, data.draw(st.integers(1, spec.height - y)), data.draw(st.integers(1, spec.width - x)))
    everything = whole(source)
    assert everything.shape == (spec.height, spec.width, shape[2]) and everything.dtype == dtype
    assert source.read(region).tobytes() == everything[region.slices].tobytes()


@pytest.mark.parametrize(("channels", "nearest", "most"), [(1, False, 64), (4, False, 16), (100, False, 5), (1, True, 400)])
def test_a_large_region_is_read_in_pieces_to_the_same_pixels(
    monkeypatch: pytest.MonkeyPatch, channels: int, nearest: bool, most: int
) -> None:
    """``most``: rows of the source that are read at once; 5 for one of the result, which is the least."""
    pixels = np.random.default_rng(1).normal(size=(400, 48, channels)).astype(np.float32)
    source, read = ArraySource(pixels), list[int]()
    made = Resampled(source, resampled(source, (0.5, 0.7)).spec, (0.5, 0.7), nearest)
    expected, original = whole(made), source.read
    monkeypatch.setattr(resample, "_MOST_BYTES", 64 * 48 * 32)
    source.read = lambda region, plane=0, level=0: read.append(region.height) or original(region)  # type: ignore[method-assign]
    assert whole(made).tobytes() == expected.tobytes()
    assert max(read) <= most and len(read) >= 400 // most


@pytest.mark.parametrize("factor", [0.25, 0.5, 1.0, 2.0, 3.7])
def test_a_constant_stays_one_and_a_ramp_a_ramp(factor: float) -> None:
    assert (whole(resampled(ArraySource(np.full((20, 30), 77, np.uint8)), (factor, factor))) == 77).all()
    ramp = np.tile(np.arange(80.0), (3, 1))
    result = whole(resampled(ArraySource(ramp), (1.0, factor)))[0, :, 0]
    centres = (np.arange(len(result)) + 0.5) / factor - 0.5
    inside = slice(round(2 * factor) + 2, -round(2 * factor) - 2)
    np.testing.assert_allclose(result[inside], centres[inside], atol=1e-9)


def test_halving_weighs_four_pixels_and_rounds_integers() -> None:
    row = np.array([[0, 0, 80, 0, 0, 0, 0, 0]], np.uint8)
    assert whole(resampled(ArraySource(row), (1.0, 0.5)))[0, :, 0].tolist() == [11, 30, 0, 0]  # 80/7: three taps at the edge; 3/8
    assert whole(resampled(ArraySource(row / 80), (1.0, 0.5)))[0, :, 0] == pytest.approx([1 / 7, 3 / 8, 0, 0])


def test_shrinking_keeps_the_mean_where_skipping_would_not() -> None:
    stripes = np.tile(np.array([0, 200], np.uint8), (64, 32))
    small = whole(resampled(ArraySource(stripes), (1 / 8, 1 / 8)))[..., 0]
    assert abs(small[1:-1, 1:-1].astype(float) - 100).max() <= 2


@pytest.mark.parametrize("factor", [0.2, 0.5, 0.77, 1.0, 1.5, 4.0])
def test_labels_keep_their_numbers_and_their_places(factor: float) -> None:
    labels = np.zeros((60, 60), np.uint16)
    labels[10:30, 15:45], labels[30:50, 5:25] = 700, 40_000
    there = resampled(ArraySource(labels), (factor, factor))
    spec = replace(there.spec, height=60, width=60)
    there = Resampled(ArraySource(labels), there.spec, (factor, factor), nearest=True)
    back = whole(Resampled(there, spec, (1 / factor, 1 / factor), nearest=True))[..., 0]
    assert set(np.unique(back)) == {0, 700, 40_000}
    for value in (700, 40_000):
        both, either = (back == value) & (labels == value), (back == value) | (labels == value)
        assert both.sum() / either.sum() > (0.7 if factor < 0.5 else 0.9)


def test_the_pixel_size_follows_and_planes_stay() -> None:
    class Planes(ArraySource):
        def read(self, region: Region, plane: int = 0, level: int = 0) -> Array:
            return super().read(region) + np.uint8(plane)

    source = Planes(np.zeros((10, 20), np.uint8), pixel_size=(0.5, 0.25), planes=(("z", 3),), levels=((10, 20), (5, 10)))
    made = resampled(source, (0.5, 0.25))
    assert made.spec == ImageSpec(5, 5, 1, "uint8", (1.0, 1.0), planes=(("z", 3),))
    assert made.read(made.spec.region, 2).min() == 2
    assert resampled(source, (0.01, 0.01)).spec.region == Region(0, 0, 1, 1)
