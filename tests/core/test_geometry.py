"""Where tiles lie: the laws of the grid, for any size, window, halo, stride and border."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from i2i.geometry import Block, Grid, Region, make_grid, mirror, round_up

deterministic = settings(derandomize=True, deadline=None, max_examples=150)
small = st.integers(-20, 20)
regions = st.builds(Region, small, small, st.integers(0, 20), st.integers(0, 20))
borders = st.sampled_from(["zero", "mirror"])


@st.composite
def grids(draw: st.DrawFn, border: str | None = None) -> Grid:
    """Any grid that has room for a core, of images up to 90 pixels along each axis."""
    stride, halo = draw(st.integers(1, 6)), draw(st.integers(0, 9))
    least = 2 * round_up(halo, stride) + stride
    size = draw(st.integers(1, 90)), draw(st.integers(1, 90))
    tile = draw(st.integers(least, least + 40)), draw(st.integers(least, least + 40))
    fixed = draw(st.booleans())
    if fixed:
        tile = tile[0] // stride * stride, tile[1] // stride * stride
    return make_grid(
        size, tile, halo=halo, stride=stride, border=border or draw(borders), fixed=fixed, cores=draw(st.integers(1, 4))
    )


def every_tile(grid: Grid):
    return [grid.tile(row, column) for row in range(grid.rows.count) for column in range(grid.columns.count)]


def axes(grid: Grid, region: Region):
    """(axis, start, stop) of a region along both axes."""
    return [(grid.rows, region.y, region.bottom), (grid.columns, region.x, region.right)]


def counted(grid: Grid, parts: list[Region]) -> np.ndarray:
    """How often each pixel of the image is in one of ``parts``."""
    counts = np.zeros((grid.rows.size, grid.columns.size), int)
    for part in parts:
        assert grid.image.contains(part)
        counts[part.slices] += 1
    return counts


# ------------------------------------------------------------------------------------------------------------ regions


@given(regions, regions)
@deterministic
def test_an_intersection_holds_the_pixels_of_both(one: Region, other: Region) -> None:
    def pixels(region: Region) -> set[tuple[int, int]]:
        return {(y, x) for y in range(region.y, region.bottom) for x in range(region.x, region.right)}

    both = one.intersect(other)
    assert pixels(both) == pixels(one) & pixels(other)
    assert both.area == len(pixels(both))
    assert (not pixels(other)) or one.contains(other) == (pixels(other) <= pixels(one))


@given(regions, regions, st.integers(1, 4), st.integers(0, 5))
@deterministic
def test_regions_move_grow_and_scale(region: Region, origin: Region, factor: int, margin: int) -> None:
    assert region.relative_to(origin).shift(origin.y, origin.x) == region
    assert region.grow(margin).grow(-margin) == region
    assert region.grow(margin).contains(region)
    assert region.scaled(factor).area == factor**2 * region.area


# ---------------------------------------------------------------------------------------------------------- the cores


@given(grids())
@deterministic
def test_cores_share_no_pixel_and_leave_none_out(grid: Grid) -> None:
    assert (counted(grid, [tile.core for tile in every_tile(grid)]) == 1).all()
    assert grid.tile_count == len(every_tile(grid))


@given(grids())
@deterministic
def test_a_window_holds_its_core_and_the_halo_or_ends_with_the_padded_image(grid: Grid) -> None:
    for tile in every_tile(grid):
        for (axis, first, last), (_, start, stop) in zip(axes(grid, tile.core), axes(grid, tile.window), strict=True):
            mirrored = axis.border == "mirror"
            assert start <= first and last <= stop
            assert start <= first - axis.halo or (start == 0 and not mirrored)
            assert stop >= last + axis.halo or (stop == axis.padded and not mirrored)
            assert mirrored or (start >= 0 and stop <= axis.padded)


@given(grids("mirror"))
@deterministic
def test_a_mirrored_window_less_the_halo_begins_with_its_core(grid: Grid) -> None:
    for tile in every_tile(grid):
        answer = tile.window.grow(-grid.rows.halo)
        assert (answer.y, answer.x) == (tile.core.y, tile.core.x)
        assert answer.contains(tile.core)


@given(grids())
@deterministic
def test_windows_have_one_shape(grid: Grid) -> None:
    assert {(tile.window.height, tile.window.width) for tile in every_tile(grid)} == {grid.window_shape}


@given(st.integers(1, 200), st.integers(1, 60), st.integers(0, 9), st.integers(1, 6), borders)
@deterministic
def test_windows_begin_and_end_at_multiples_of_the_stride(size: int, extra: int, halo: int, stride: int, border: str) -> None:
    tile = 2 * round_up(halo, stride) + stride + extra
    axis = make_grid((size, 1), (tile, tile), halo=halo, stride=stride, border=border).rows
    assert axis.window <= tile
    assert axis.halo >= halo
    for length in (axis.window, axis.step, axis.halo, axis.padded, *(axis.window_start(i) for i in range(axis.count))):
        assert length % stride == 0


def test_an_image_smaller_than_a_window_is_one_window_padded_to_the_stride() -> None:
    grid = make_grid((37, 5), (256, 256), halo=20, stride=16)
    assert grid.tile_count == grid.block_count == 1
    assert grid.tile(0, 0).window == Region(0, 0, 48, 16)
    assert grid.tile(0, 0).core == grid.image


def test_a_block_is_no_larger_than_the_image() -> None:
    assert make_grid((500, 30), (64, 64), cores=3).block_shape == (192, 30)
    assert make_grid((100, 30), (64, 64), cores=3).block_shape == (100, 30)


def test_a_fixed_window_is_as_large_as_asked_for_small_images_and_large_ones() -> None:
    for size in (1, 10, 64, 65, 500):
        assert make_grid((size, size), (64, 64), halo=8, stride=16, fixed=True).window_shape == (64, 64)
        assert make_grid((size, size), (64, 64), halo=8, stride=16, fixed=True, border="mirror").window_shape == (64, 64)


@pytest.mark.parametrize("border", ["zero", "mirror"])
def test_a_window_without_room_for_a_core_is_refused(border: str) -> None:
    with pytest.raises(ValueError, match="a window of 207 pixels is too small: at least 208 are needed"):
        make_grid((1000, 1000), (207, 300), halo=90, stride=16, border=border)
    assert make_grid((1000, 1000), (208, 300), halo=90, stride=16, border=border).rows.step == 16


def test_the_papers_network_steps_by_a_multiple_of_its_stride() -> None:
    grid = make_grid((2000, 2000), (576, 576), halo=92, stride=16, border="mirror")
    assert (grid.rows.halo, grid.rows.step) == (96, 384)


# --------------------------------------------------------------------------------------------------------- the blocks


@given(grids())
@deterministic
def test_blocks_share_no_pixel_and_leave_none_out(grid: Grid) -> None:
    blocks = list(grid.blocks())
    assert [block.index for block in blocks] == list(range(grid.block_count))
    assert (counted(grid, [block.region for block in blocks]) == 1).all()
    for block in blocks:
        assert block == Block(block.index, block.index // grid.shape[1], block.index % grid.shape[1], block.region)
        assert block.region.height <= grid.block_shape[0] + 2 * grid.rows.lead
        assert block.region.width <= grid.block_shape[1] + 2 * grid.columns.lead


@given(grids())
@deterministic
def test_no_two_blocks_share_a_chunk_of_the_raster_that_begins_at_the_origin(grid: Grid) -> None:
    (height, width), (y, x) = grid.block_shape, grid.origin
    owners: dict[tuple[int, int], int] = {}
    for block in grid.blocks():
        place = block.region.shift(y, x)
        for row in range(place.y // height, -(-place.bottom // height)):
            for column in range(place.x // width, -(-place.right // width)):
                assert owners.setdefault((row, column), block.index) == block.index


@given(grids(), st.data())
@deterministic
def test_tiles_and_blocks_of_a_region_are_those_that_share_a_pixel_with_it(grid: Grid, data: st.DataObject) -> None:
    image = grid.image
    y, x = data.draw(st.integers(0, image.height - 1)), data.draw(st.integers(0, image.width - 1))
    region = Region(y, x, data.draw(st.integers(1, image.height - y)), data.draw(st.integers(1, image.width - x)))
    assert grid.tiles(region) == [tile for tile in every_tile(grid) if tile.core.intersect(region).area]
    assert list(grid.blocks_touching(region)) == [block for block in grid.blocks() if block.region.intersect(region).area]


@given(grids())
@deterministic
def test_each_core_belongs_to_one_block(grid: Grid) -> None:
    found = [tile for block in grid.blocks() for tile in grid.tiles(block.region)]
    assert sorted(found, key=lambda tile: tile.core) == sorted(every_tile(grid), key=lambda tile: tile.core)
    for block in grid.blocks():
        assert all(block.region.contains(tile.core) for tile in grid.tiles(block.region))


@given(grids(), st.data())
@deterministic
def test_tiles_cover_any_region_and_none_is_idle(grid: Grid, data: st.DataObject) -> None:
    region = data.draw(inside(grid.image))
    tiles = grid.tiles(region)
    assert (counted(grid, [tile.core for tile in tiles])[region.slices] == 1).all()
    assert all(tile.core.intersect(region).area for tile in tiles)


@given(grids(), st.data())
@deterministic
def test_tiles_touching_a_region_are_all_that_reach_into_it(grid: Grid, data: st.DataObject) -> None:
    region = data.draw(inside(grid.image))
    assert grid.tiles_touching(region) == [tile for tile in every_tile(grid) if tile.window.intersect(region).area]


def inside(image: Region) -> st.SearchStrategy[Region]:
    """Any region of an image that has a pixel."""

    def span(length: int) -> st.SearchStrategy[tuple[int, int]]:
        return st.tuples(st.integers(0, length - 1), st.integers(1, length)).map(
            lambda pair: (pair[0], min(pair[1], length - pair[0]))
        )

    return st.tuples(span(image.height), span(image.width)).map(lambda s: Region(s[0][0], s[1][0], s[0][1], s[1][1]))


# --------------------------------------------------------------------------------------------------------- mirroring


@given(st.integers(1, 12), st.integers(0, 40), st.integers(0, 40))
@deterministic
def test_mirroring_is_what_numpy_pads(size: int, before: int, after: int) -> None:
    padded = np.pad(np.arange(size), (before, after), mode="reflect")
    assert [mirror(i, size) for i in range(-before, size + after)] == padded.tolist()


def test_an_axis_of_one_pixel_repeats() -> None:
    assert {mirror(i, 1) for i in range(-9, 9)} == {0}


@given(st.integers(-50, 50), st.integers(1, 12))
@deterministic
def test_rounding_up_gives_the_next_multiple(value: int, multiple: int) -> None:
    result = round_up(value, multiple)
    assert result % multiple == 0 and 0 <= result - value < multiple
