"""Objects over tiles: which are kept, which are one, how they are drawn and stored."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from i2i.contracts import Instances
from i2i.geometry import Region, Tile, make_grid
from i2i.instances import Candidates, draw, intersection, join_candidates, merge, pack, select_candidates, unpack

deterministic = settings(derandomize=True, deadline=None, max_examples=80)


def objects(*boxes: tuple[int, int, int, int], scores: tuple[float, ...] = (), masks=()) -> Instances:
    """Instances of full boxes (top, left, bottom, right) with falling scores, unless given others."""
    scores = scores or tuple(1 - 0.01 * i for i in range(len(boxes)))
    masks = masks or tuple(np.ones((bottom - top, right - left), bool) for top, left, bottom, right in boxes)
    return Instances(
        np.array(boxes, np.int64).reshape(-1, 4), np.array(scores, np.float32), np.arange(1, len(boxes) + 1), tuple(masks)
    )


def candidates(found: Instances, *tiles: int) -> Candidates:
    return Candidates(found, np.array(tiles, np.int64))


@st.composite
def many_objects(draw: st.DrawFn) -> Instances:
    """Up to six objects within 40 x 40 pixels, with any masks and any scores, equal ones among them."""
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    boxes, masks = [], []
    for _ in range(draw(st.integers(0, 6))):
        top, left, height, width = random.integers(0, 30), random.integers(0, 30), random.integers(1, 11), random.integers(1, 11)
        boxes.append((top, left, top + height, left + width))
        masks.append(random.random((height, width)) < 0.7)
    scores = tuple(np.round(random.random(len(boxes)), 1))
    return objects(*boxes, scores=scores, masks=masks)


# ----------------------------------------------------------------------------------------------------------- selecting

IMAGE = Region(0, 0, 200, 200)
TILE = Tile(Region(40, 40, 20, 20), Region(20, 20, 60, 60))


def selected(box: tuple[int, int, int, int], margin: int = 0, tile: Tile = TILE) -> tuple[int, int]:
    """How many candidates come of an object at ``box`` of the image, and how many are cut."""
    window = objects(box).shift(-tile.window.y, -tile.window.x)
    result = select_candidates(window, tile, IMAGE, margin, 7)
    assert (result.tiles == 7).all()
    assert len(result.objects) == 0 or tuple(result.objects.boxes[0]) == box
    return len(result.objects), result.cut


def test_an_object_belongs_to_the_tile_that_has_its_centre_in_the_core() -> None:
    assert selected((45, 45, 55, 55)) == (1, 0)
    assert selected((35, 45, 45, 55)) == (1, 0), "a centre on the core's first row is inside"
    assert selected((55, 45, 65, 55)) == (0, 0), "a centre on the row after the core's last is outside"


def test_a_margin_keeps_objects_whose_centre_jitters() -> None:
    assert selected((56, 45, 66, 55), margin=2) == (1, 0)
    assert selected((58, 45, 68, 55), margin=2) == (0, 0)


@pytest.mark.parametrize("box", [(20, 45, 75, 50), (25, 45, 80, 50), (45, 20, 50, 75), (45, 25, 50, 80)])
def test_an_object_that_touches_its_windows_edge_is_cut_and_counted(box: tuple[int, int, int, int]) -> None:
    assert selected(box) == (0, 1)


def test_an_object_that_is_another_tiles_is_not_counted_as_cut() -> None:
    assert selected((20, 45, 30, 55)) == (0, 0)


@pytest.mark.parametrize("box", [(0, 5, 10, 15), (5, 0, 15, 10), (190, 5, 200, 15), (5, 190, 15, 200)])
def test_the_images_own_edge_cuts_nothing(box: tuple[int, int, int, int]) -> None:
    assert selected(box, tile=Tile(IMAGE, IMAGE)) == (1, 0)
    assert selected(box, tile=Tile(IMAGE, Region(0, 0, 208, 208))) == (1, 0), "nor does the padding beyond it"


def test_joining_keeps_the_order_of_the_blocks_and_adds_what_was_cut() -> None:
    parts = [
        Candidates(objects((0, 0, 2, 2)), np.array([3]), 1),
        Candidates(Instances.empty(), np.zeros(0, np.int64), 2),
        Candidates(objects((9, 9, 10, 10), (5, 5, 6, 7)), np.array([1, 1])),
    ]
    joined = join_candidates(iter(parts))
    assert joined.objects.boxes[:, 0].tolist() == [0, 9, 5]
    assert joined.tiles.tolist() == [3, 1, 1] and joined.cut == 3
    assert len(join_candidates([]).objects) == 0


# ------------------------------------------------------------------------------------------------------------- merging


@given(many_objects())
@deterministic
def test_masks_share_the_pixels_that_both_cover(found: Instances) -> None:
    def plane(i: int) -> np.ndarray:
        canvas = np.zeros((50, 50), bool)
        top, left, bottom, right = found.boxes[i]
        canvas[top:bottom, left:right] = found.masks[i]
        return canvas

    for i in range(len(found)):
        for j in range(len(found)):
            assert intersection(found, i, found, j) == (plane(i) & plane(j)).sum()


def test_the_same_object_of_several_tiles_stays_once_with_its_best_score() -> None:
    found = objects((10, 10, 20, 20), (10, 10, 20, 20), (11, 10, 20, 20), scores=(0.5, 0.9, 0.7))
    merged = merge(candidates(found, 1, 2, 3), 0.5)
    assert merged.scores.tolist() == [np.float32(0.9)]
    assert merged.classes.tolist() == [2]


def test_objects_of_one_tile_are_never_merged() -> None:
    found = objects((10, 10, 20, 20), (10, 10, 20, 20))
    assert len(merge(candidates(found, 1, 1), 0.5)) == 2


def test_objects_that_overlap_little_are_two() -> None:
    half = objects((0, 0, 10, 10), (0, 5, 10, 15))
    assert len(merge(candidates(half, 1, 2), 0.5)) == 2
    assert len(merge(candidates(half, 1, 2), 0.49)) == 1


def test_a_part_of_an_object_is_the_object() -> None:
    found = objects((0, 0, 40, 40), (5, 5, 10, 10))
    assert merge(candidates(found, 1, 2), 0.5).boxes.tolist() == [[0, 0, 40, 40]]


def test_boxes_that_overlap_without_sharing_a_pixel_are_two_objects() -> None:
    upper = np.triu(np.ones((10, 10), bool), 1)
    found = objects((0, 0, 10, 10), (0, 0, 10, 10), masks=(upper, ~upper))
    assert len(merge(candidates(found, 1, 2), 0.5)) == 2


def test_objects_far_from_the_origin_and_across_cells_are_compared() -> None:
    found = objects((120, 250, 140, 270), (120, 250, 140, 270), (90_000, 5, 90_300, 400), (90_001, 5, 90_300, 400))
    assert len(merge(candidates(found, 1, 2, 3, 4), 0.5)) == 2
    assert len(merge(candidates(objects((100, 0, 200, 10), (130, 0, 200, 10)), 1, 2), 0.5)) == 1


@given(many_objects(), st.randoms(use_true_random=False))
@deterministic
def test_merging_depends_on_neither_the_order_of_blocks_nor_a_second_time(found: Instances, random) -> None:
    scores = (np.arange(len(found)) / 10).astype(np.float32)
    distinct = Instances(found.boxes, scores, found.classes, found.masks)
    order = list(range(len(found)))
    random.shuffle(order)
    tiles = np.arange(len(found)) // 2
    once = merge(candidates(distinct, *tiles), 0.3)
    assert {*merge(candidates(distinct.take(order), *tiles[order]), 0.3).classes} == {*once.classes}
    again = merge(candidates(once, *range(len(once))), 1.0)
    assert again.classes.tolist() == once.classes.tolist()


def test_objects_are_numbered_by_row_then_column() -> None:
    found = objects((5, 0, 6, 1), (0, 9, 1, 10), (0, 2, 1, 3))
    assert merge(candidates(found, 0, 0, 0), 0.5).boxes[:, :2].tolist() == [[0, 2], [0, 9], [5, 0]]


# ------------------------------------------------------------------------------------------------------------- drawing


def test_the_higher_score_is_drawn_on_top() -> None:
    first, second = (
        draw(objects((0, 0, 2, 2), (1, 1, 3, 3), scores=scores), Region(0, 0, 3, 3)) for scores in ((0.8, 0.4), (0.4, 0.8))
    )
    assert first.dtype == np.uint32
    assert first.tolist() == [[1, 1, 0], [1, 1, 2], [0, 2, 2]]
    assert second.tolist() == [[1, 1, 0], [1, 2, 2], [0, 2, 2]]


def test_only_the_mask_is_drawn() -> None:
    ring = np.ones((3, 3), bool)
    ring[1, 1] = False
    assert draw(objects((2, 2, 5, 5), masks=[ring]), Region(2, 2, 3, 3)).tolist() == [[1, 1, 1], [1, 0, 1], [1, 1, 1]]


@given(many_objects(), st.integers(1, 20), st.integers(1, 20))
@deterministic
def test_drawing_does_not_depend_on_the_blocks(found: Instances, height: int, width: int) -> None:
    grid = make_grid((45, 45), (height, width))
    whole = draw(found, grid.image)
    for block in grid.blocks():
        np.testing.assert_array_equal(draw(found, block.region), whole[block.region.slices])


def test_objects_that_reach_beyond_the_image_are_drawn_as_far_as_it_goes() -> None:
    assert draw(objects((-1, -1, 1, 1), (2, 2, 9, 9)), Region(0, 0, 3, 3)).tolist() == [[1, 0, 0], [0, 0, 0], [0, 0, 2]]


# ------------------------------------------------------------------------------------------------------------- storing


@given(many_objects(), st.integers(0, 9))
@deterministic
def test_what_is_packed_can_be_unpacked(found: Instances, cut: int) -> None:
    stored = pack(Candidates(found, np.arange(len(found)), cut))
    back = unpack(stored)
    for before, after in zip(
        (found.boxes, found.scores, found.classes, *found.masks),
        (back.objects.boxes, back.objects.scores, back.objects.classes, *back.objects.masks),
        strict=True,
    ):
        np.testing.assert_array_equal(before, after)
        assert before.dtype == after.dtype
    assert back.tiles.tolist() == list(range(len(found))) and back.cut == cut
    assert stored["masks"].size <= sum(mask.size // 8 + 1 for mask in found.masks)
