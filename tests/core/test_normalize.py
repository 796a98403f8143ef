"""Statistics of the whole image, frozen: exact for small images, from seeded samples for large ones. And NaN."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from i2i.contracts import ImageSpec
from i2i.errors import InputError, ModelError
from i2i.finite import ZeroFilled, count_unusable, make_finite, plan_finite
from i2i.formats.resample import resampled
from i2i.formats.views import ArraySource, View
from i2i.geometry import Region
from i2i.normalize import Normalization, sample_pixels, sample_regions

deterministic = settings(derandomize=True, deadline=None, max_examples=50)
pictures = hnp.array_shapes(min_dims=3, max_dims=3, max_side=9).flatmap(lambda shape: hnp.arrays(np.uint16, shape))


class Lazy:
    """An image of any size whose pixels are computed when they are read: a ramp along x, its square along y in channel 1."""

    def __init__(self, height: int, width: int) -> None:
        self.spec = ImageSpec(height, width, 2, "float64")
        self.pixels_read = 0

    def read(self, region: Region, plane: int = 0, level: int = 0) -> np.ndarray:
        assert self.spec.region.contains(region)
        self.pixels_read += region.area
        y, x = np.mgrid[region.slices]
        return np.stack([x / self.spec.width, (y / self.spec.height) ** 2], -1)

    def close(self) -> None:
        """Nothing is open."""


# -------------------------------------------------------------------------------------------------------- percentiles


@given(pictures)
@deterministic
def test_percentiles_of_a_small_image_are_exact(pixels: np.ndarray) -> None:
    frozen = Normalization("percentile", 10, 90).freeze(ArraySource(pixels), seed=0)
    low, high = np.percentile(pixels.reshape(-1, pixels.shape[2]), [10, 90], axis=0)
    np.testing.assert_allclose(frozen.offset, low)
    np.testing.assert_allclose(frozen.scale, np.where(high > low, high - low, 1))


def test_the_percentiles_become_0_and_1_in_each_channel() -> None:
    pixels = np.stack([np.arange(1001), 7 * np.arange(1001) + 5], -1)[None].astype(np.int32)
    result = Normalization("percentile", 10, 60).freeze(ArraySource(pixels), 0).apply(pixels)
    np.testing.assert_allclose(result[0, [100, 600]], [[0, 0], [1, 1]], atol=1e-6)


def test_a_hot_pixel_changes_nothing() -> None:
    pixels = np.tile(np.arange(100, dtype=np.uint16), (100, 1))[..., None]
    cold = Normalization().freeze(ArraySource(pixels.copy()), 0)
    pixels[50, 50] = 65535
    assert Normalization().freeze(ArraySource(pixels), 0) == cold


def test_a_constant_image_becomes_0() -> None:
    pixels = np.full((5, 5, 1), 200, np.uint8)
    frozen = Normalization().freeze(ArraySource(pixels), 0)
    assert not frozen.apply(pixels).any()
    assert frozen.scale == (1.0,)


@pytest.mark.parametrize("dtype", ["bool", "uint8", "uint16", "uint32", "int16", "float16", "float32", "float64"])
def test_every_dtype_can_be_normalised(dtype: str) -> None:
    pixels = np.arange(100).reshape(10, 10, 1).astype(dtype)
    frozen = Normalization("percentile", 0, 100).freeze(ArraySource(pixels), 0)
    result = frozen.apply(pixels)
    assert result.dtype == np.float32
    assert (result.min(), result.max()) == (0, 1)


def test_a_float16_image_may_span_all_of_float16() -> None:
    pixels = np.array([-60000, 0, 60000], np.float16).reshape(1, 3, 1)
    frozen = Normalization("percentile", 0, 100).freeze(ArraySource(pixels), 0)
    assert frozen.apply(pixels).ravel().tolist() == [0, 0.5, 1]


# ----------------------------------------------------------------------------------------------------------- sampling


def test_a_large_image_is_sampled_by_the_seed() -> None:
    source = Lazy(90_000, 70_000)
    first = Normalization().freeze(source, seed=3)
    assert source.pixels_read <= 2**22
    assert Normalization().freeze(Lazy(90_000, 70_000), seed=3) == first
    assert Normalization().freeze(Lazy(90_000, 70_000), seed=4) != first


def test_of_an_image_that_is_resampled_only_the_places_of_the_samples_are_read() -> None:
    source = Lazy(90_000, 70_000)
    Normalization().freeze(resampled(source, (0.5, 0.5)), seed=0)
    assert source.pixels_read <= 64 * (2 * 256 + 4) ** 2


def test_the_statistics_of_a_plane_are_its_own() -> None:
    class Planes(ArraySource):
        def read(self, region: Region, plane: int = 0, level: int = 0) -> np.ndarray:
            return super().read(region) + np.uint16(100 * plane)

    source = Planes(np.arange(1000, dtype=np.uint16).reshape(20, 50), planes=(("z", 3),))
    offsets = [Normalization("percentile", 0, 100).freeze(View(source, plane), 0).offset for plane in range(3)]
    assert offsets == [(0.0,), (100.0,), (200.0,)]


def test_samples_stand_for_the_whole_image() -> None:
    frozen = Normalization("percentile", 25, 75).freeze(Lazy(50_000, 50_000), seed=0)
    np.testing.assert_allclose(frozen.offset, [0.25, 0.0625], atol=0.12)
    np.testing.assert_allclose(frozen.scale, [0.5, 0.5], atol=0.15)


@pytest.mark.parametrize("shape", [(1, 10_000_000), (10_000_000, 1), (3000, 3000), (2049, 2048)])
def test_samples_lie_in_the_image_at_different_places(shape: tuple[int, int]) -> None:
    spec = ImageSpec(*shape)
    regions = sample_regions(spec, 0)
    assert all(spec.region.contains(region) and region.area for region in regions)
    assert len(set(regions)) > 60


def test_up_to_4_megapixels_every_pixel_counts_once() -> None:
    assert sample_regions(ImageSpec(2048, 2048), 0) == [Region(0, 0, 2048, 2048)]
    pixels = np.arange(24).reshape(2, 4, 3)
    np.testing.assert_array_equal(sample_pixels(ArraySource(pixels), 0), pixels.reshape(8, 3))


# --------------------------------------------------------------------------------------------------------- the others


def test_the_range_of_the_dtype_becomes_0_to_1() -> None:
    for dtype, low, high in (("uint8", 0, 255), ("int16", -32768, 32767), ("float32", 0, 1), ("bool", False, True)):
        pixels = np.array([low, high], dtype).reshape(1, 2, 1)
        frozen = Normalization("range").freeze(ArraySource(pixels), 0)
        assert frozen.apply(pixels).ravel().tolist() == [0, 1]


def test_none_changes_nothing() -> None:
    pixels = np.array([[[3, 200]]], np.uint8)
    result = Normalization("none").freeze(ArraySource(pixels), 0).apply(pixels)
    assert result.tolist() == [[[3, 200]]] and result.dtype == np.float32


@given(pictures, st.sampled_from(["percentile", "range", "none"]))
@deterministic
def test_each_pixel_is_normalised_by_itself(pixels: np.ndarray, method: str) -> None:
    frozen = Normalization(method).freeze(ArraySource(pixels), 0)
    whole = frozen.apply(pixels)
    for y, x in np.ndindex(pixels.shape[:2]):
        np.testing.assert_array_equal(frozen.apply(pixels[y : y + 1, x : x + 1]), whole[y : y + 1, x : x + 1])


@given(pictures)
@deterministic
def test_what_is_recorded_as_json_normalises_the_same_to_the_bit(pixels: np.ndarray) -> None:
    frozen = Normalization("percentile", 3.3, 77.7).freeze(ArraySource(pixels), 0)
    again = Normalization.from_mapping(json.loads(json.dumps(frozen.as_mapping())))
    assert again == frozen
    assert again.apply(pixels).tobytes() == frozen.apply(pixels).tobytes()


@pytest.mark.parametrize("values", [{"method": "zscore"}, {"method": "none", "sigma": 1}, {"methods": "none"}])
def test_an_unknown_normalisation_is_refused_in_one_line(values: dict[str, object]) -> None:
    with pytest.raises(ModelError, match="unknown normalisation") as caught:
        Normalization.from_mapping(values)
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------------------------------------------------ NaN, Inf


def holes(shape: tuple[int, int] = (2100, 60)) -> np.ndarray:
    """Ones with three holes, one of them beyond the first 2048 rows."""
    pixels = np.ones((*shape, 2), np.float32)
    pixels[0, 0, 0], pixels[1, 5, 1], pixels[-1, -1, 1] = np.nan, np.inf, -np.inf
    return pixels


def test_samples_that_are_not_finite_are_counted_over_the_whole_image() -> None:
    assert count_unusable(ArraySource(holes())) == (3, 0)
    assert count_unusable(ArraySource(np.ones((3, 3), np.float16))) == (0, 0)


def test_integers_are_not_read_to_be_counted() -> None:
    class Unread(ArraySource):
        def read(self, *_: object, **__: object):
            raise AssertionError

    assert count_unusable(Unread(np.zeros((3, 3), np.uint8))) == (0, 0)


def test_a_plan_reads_no_pixel_to_count_them() -> None:
    class Unread(ArraySource):
        def read(self, *_: object, **__: object):
            raise AssertionError

    planned, warnings = plan_finite(Unread(holes((3, 9))))
    assert isinstance(planned, ZeroFilled) and warnings == ()
    integers = Unread(np.zeros((3, 3), np.uint8))
    assert plan_finite(integers) == (integers, ())


def test_non_finite_samples_are_refused_with_their_number_and_the_cure() -> None:
    with pytest.raises(InputError, match=r"slide\.tif: 3 samples are NaN or Inf; --nan zero"):
        make_finite(ArraySource(holes()), "error", "slide.tif")


def test_non_finite_samples_read_as_zero_and_are_warned_of() -> None:
    source, warnings = make_finite(ArraySource(holes()), "zero", "slide.tif")
    assert warnings == ("3 samples are NaN or Inf, read as 0",)
    pixels = source.read(Region(0, 0, 2100, 60))
    assert pixels.dtype == np.float32 and np.isfinite(pixels).all()
    assert pixels.sum() == pixels.size - 3
    assert Normalization("percentile").freeze(source, 0).offset == (1.0, 1.0)


@pytest.mark.parametrize(("dtype", "value"), [("float32", -3.4028235e38), ("float64", 1e300)])
def test_samples_too_large_to_be_computed_with_are_as_those_that_are_not_finite(dtype: str, value: float) -> None:
    pixels = holes((4, 9)).astype(dtype)
    pixels[1, 0, 0] = value
    with pytest.raises(InputError, match=r"a\.tif: 4 samples are NaN, Inf or beyond 1e37; --nan zero reads them as 0"):
        make_finite(ArraySource(pixels), "error", "a.tif")
    filled, _ = make_finite(ArraySource(pixels), "zero", "a.tif")
    found = filled.read(Region(0, 0, 4, 9))
    assert found.dtype == dtype and found.sum() == pixels.size - 4


def test_normalised_floats_are_numbers_however_far_apart_the_samples_are() -> None:
    pixels = np.full((64, 64, 1), 1e-40, np.float32)
    pixels[:32], pixels[0, 0] = 2e-40, 1e37
    found = Normalization("percentile").freeze(ArraySource(pixels), 0).apply(pixels)
    assert found.max() == found[0, 0, 0] == 60_000 and found.min() >= 0


def test_a_finite_source_is_left_as_it_is() -> None:
    source = ArraySource(np.ones((3, 3), np.float32))
    assert make_finite(source, "error", "a.tif") == (source, ())


def test_a_filled_source_tells_what_the_first_one_knows_and_closes_it() -> None:
    class Sparse(ArraySource):
        missing_tiles = 4
        closed = False

        def close(self) -> None:
            self.closed = True

    inner = Sparse(holes((3, 9)))
    filled = ZeroFilled(inner)
    filled.close()
    assert filled.missing_tiles == 4 and filled.spec == inner.spec and inner.closed
