"""What the network sees of an image, and how its answers become pixels again."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from i2i.contracts import Footprint, Predictor
from i2i.errors import PluginError
from i2i.formats.views import ArraySource
from i2i.geometry import Grid, Region, make_grid, round_up
from i2i.stitch import Blended, Cropped, answer_region, batches, blend_weights, check_answer, tiles_for, window_pixels

deterministic = settings(derandomize=True, deadline=None, max_examples=80)


class Halved(Predictor):
    """Its normalisation is not the identity, and what it pads with is no value of the image."""

    def __init__(self, footprint: Footprint) -> None:
        self.footprint = footprint

    def normalize(self, pixels):
        return pixels.astype(np.float32) / 2 + 1


@dataclass(frozen=True)
class Case:
    pixels: np.ndarray
    footprint: Footprint
    grid: Grid


@st.composite
def cases(draw: st.DrawFn, border: str = "zero", merge: str = "crop") -> Case:
    stride, halo, scale = draw(st.integers(1, 4)), draw(st.integers(0, 6)), draw(st.integers(1, 3))
    height, width, channels = draw(st.integers(1, 40)), draw(st.integers(1, 40)), draw(st.integers(1, 2))
    least = 2 * round_up(halo, stride) + stride
    tile = draw(st.integers(least, least + 12)), draw(st.integers(least, least + 12))
    footprint = Footprint(halo, stride, -7.0, border, scale, channels, channels, merge=merge)
    grid = make_grid((height, width), tile, halo=halo, stride=stride, border=border, cores=draw(st.integers(1, 3)))
    pixels = np.random.default_rng(draw(st.integers(0, 99))).integers(0, 256, (height, width, channels), np.uint8)
    return Case(pixels, footprint, grid)


def every_tile(grid: Grid):
    return grid.tiles(grid.image)


# ----------------------------------------------------------------------------------------------- what the network sees


@given(cases("zero"))
@deterministic
def test_a_window_is_a_view_of_the_normalised_and_padded_image(case: Case) -> None:
    height, width, _ = case.pixels.shape
    below, right = case.grid.rows.padded - height, case.grid.columns.padded - width
    whole = np.pad(case.pixels / 2 + 1, ((0, below), (0, right), (0, 0)), constant_values=-7)
    for tile in every_tile(case.grid):
        seen = window_pixels(ArraySource(case.pixels), Halved(case.footprint), tile.window)
        assert seen.dtype == np.float32
        np.testing.assert_array_equal(seen, whole[tile.window.slices])


@given(cases("mirror"))
@deterministic
def test_a_window_is_a_view_of_the_mirrored_image(case: Case) -> None:
    reach = 60
    mirrored = np.pad(case.pixels, ((reach, reach), (reach, reach), (0, 0)), mode="reflect") / 2 + 1
    for tile in every_tile(case.grid):
        seen = window_pixels(ArraySource(case.pixels), Halved(case.footprint), tile.window)
        np.testing.assert_array_equal(seen, mirrored[tile.window.shift(reach, reach).slices])


def test_only_the_pixels_under_a_window_are_read() -> None:
    class Recorded(ArraySource):
        def read(self, region, plane=0, level=0):
            assert self.spec.region.contains(region)
            read.append(region)
            return super().read(region)

    read: list[Region] = []
    source = Recorded(np.zeros((1000, 1000), np.uint8))
    window_pixels(source, Halved(Footprint(border="mirror")), Region(-10, 500, 30, 30))
    window_pixels(source, Halved(Footprint()), Region(990, 500, 30, 30))
    assert read == [Region(0, 500, 20, 30), Region(990, 500, 10, 30)]


# ------------------------------------------------------------------------------------------------------- their answers


def answers_to(case: Case):
    """A raw output that differs at every pixel, and its part under each tile's window as a network would give it."""
    scale, image = case.footprint.scale, case.grid.image
    reach = 64 * scale
    shape = (image.height * scale + 2 * reach, image.width * scale + 2 * reach, case.footprint.channels_out)
    output = np.random.default_rng(0).normal(size=shape).astype(np.float32)

    def answer(covered: Region):
        return output[covered.scaled(scale).shift(reach, reach).slices]

    return output[image.scaled(scale).shift(reach, reach).slices], answer


@given(st.one_of(cases("zero"), cases("mirror")))
@deterministic
def test_cropped_cores_give_the_whole_output_whatever_the_blocks(case: Case) -> None:
    expected, answer = answers_to(case)
    for region in (case.grid.image, *(block.region for block in case.grid.blocks())):
        merged = Cropped(case.footprint, region)
        for tile in tiles_for(case.grid, case.footprint, region):
            covered = answer_region(case.footprint, tile.window, case.grid.rows.halo)
            check_answer(case.footprint, answer(covered), covered)
            merged.add(tile, covered, answer(covered))
        np.testing.assert_array_equal(merged.result(), expected[region.scaled(case.footprint.scale).slices])


def blended(case: Case, region: Region, answer) -> np.ndarray:
    merged = Blended(case.footprint, region, case.grid.rows.halo)
    for tile in tiles_for(case.grid, case.footprint, region):
        covered = answer_region(case.footprint, tile.window, case.grid.rows.halo)
        merged.add(tile, covered, answer(tile, covered))
    return merged.result()


@given(st.one_of(cases("zero", "blend"), cases("mirror", "blend")))
@deterministic
def test_windows_that_agree_blend_to_what_they_agree_on(case: Case) -> None:
    expected, answer = answers_to(case)
    result = blended(case, case.grid.image, lambda tile, covered: answer(covered))
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)


def noise(case: Case):
    """A different answer for each tile."""

    def answer(tile, covered: Region) -> np.ndarray:
        scale = case.footprint.scale
        random = np.random.default_rng([tile.core.y, tile.core.x])
        return random.normal(size=(covered.height * scale, covered.width * scale, case.footprint.channels_out)).astype(np.float32)

    return answer


@given(cases("zero", "blend"))
@deterministic
def test_blending_does_not_depend_on_the_blocks(case: Case) -> None:
    whole = blended(case, case.grid.image, noise(case))
    for block in case.grid.blocks():
        part = blended(case, block.region, noise(case))
        np.testing.assert_array_equal(part, whole[block.region.scaled(case.footprint.scale).slices])


@given(cases("zero", "blend"))
@deterministic
def test_a_blended_pixel_lies_between_the_answers_of_its_windows(case: Case) -> None:
    scale, image = case.footprint.scale, case.grid.image.scaled(case.footprint.scale)
    low = np.full((image.height, image.width, case.footprint.channels_out), np.inf)
    high = -low
    for tile in every_tile(case.grid):
        part = tile.window.intersect(case.grid.image)
        seen = noise(case)(tile, tile.window)[part.relative_to(tile.window).scaled(scale).slices]
        place = part.scaled(scale).slices
        low[place], high[place] = np.minimum(low[place], seen), np.maximum(high[place], seen)
    result = blended(case, case.grid.image, noise(case))
    assert (result >= low - 1e-6).all() and (result <= high + 1e-6).all()


@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 20))
@deterministic
def test_weights_are_symmetric_positive_and_at_most_one(height: int, width: int, ramp: int) -> None:
    weights = blend_weights(height, width, ramp)
    assert weights.shape == (height, width, 1)
    assert (weights > 0).all() and (weights <= 1).all()
    np.testing.assert_allclose(weights, weights[::-1, ::-1])
    assert ramp or (weights == 1).all()


@pytest.mark.parametrize("ramp", [1, 2, 7, 16])
def test_weights_of_two_windows_that_overlap_by_the_ramp_add_up_to_one(ramp: int) -> None:
    middle = blend_weights(2 * ramp + 10, 2 * ramp + 10, ramp)[ramp + 5, :, 0]
    np.testing.assert_allclose(middle[-ramp:] + middle[:ramp], 1)
    np.testing.assert_array_equal(middle[ramp:-ramp], 1)


def test_no_window_has_an_edge_in_a_blended_image() -> None:
    """Two windows that disagree by 1 meet in a slope without a step."""
    grid = make_grid((64, 160), (64, 96), halo=16, stride=1)
    case = Case(np.zeros((64, 160, 1)), Footprint(halo=16, merge="blend"), grid)

    def answer(tile, covered: Region) -> np.ndarray:
        return np.full((covered.height, covered.width, 1), float(tile.core.x > 0), np.float32)

    row = blended(case, grid.image, answer)[32, :, 0]
    assert row[0] == 0 and row[-1] == 1
    assert np.abs(np.diff(row)).max() < 0.06


# ------------------------------------------------------------------------------------------------------------ the rest


@pytest.mark.parametrize("shape", [(10, 10, 1), (20, 20, 2), (20, 10, 1)])
def test_an_answer_of_another_shape_than_promised_is_refused(shape: tuple[int, int, int]) -> None:
    footprint = Footprint(scale=2)
    check_answer(footprint, np.zeros((20, 20, 1)), Region(0, 0, 10, 10))
    with pytest.raises(PluginError, match=r"promises \(20, 20, 1\)"):
        check_answer(footprint, np.zeros(shape), Region(0, 0, 10, 10))


def test_batches_keep_the_order_and_their_size() -> None:
    tiles = make_grid((10, 70), (10, 10)).tiles(Region(0, 0, 10, 70))
    parts = list(batches(tiles, 3))
    assert [len(part) for part in parts] == [3, 3, 1]
    assert [tile for part in parts for tile in part] == tiles
