"""Labels from classes: the same for every way of cutting the image into blocks, and those of a plain flood fill."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from i2i.components import finish_block, grow, label_array, label_block, resolve
from i2i.contracts import LabelRule
from i2i.geometry import Grid, Region, make_grid

deterministic = settings(derandomize=True, deadline=None, max_examples=120)
images = hnp.array_shapes(min_dims=2, max_dims=2, max_side=16).flatmap(
    lambda shape: hnp.arrays(np.uint8, shape, elements=st.integers(0, 2))
)
rules = st.builds(
    LabelRule,
    interior=st.just(1),
    border=st.sampled_from([None, 2]),
    dilate=st.integers(0, 4),
    min_area=st.integers(0, 5),
)
sides = st.integers(1, 9)


def over_blocks(classes: np.ndarray, rule: LabelRule, grid: Grid, order: list[int] | None = None) -> tuple[np.ndarray, int]:
    """The labels of an image computed block by block, and how many there are."""
    local, final = np.zeros(classes.shape, np.uint32), np.zeros(classes.shape, np.uint32)
    parts = {}
    for index in order or range(grid.block_count):
        region = grid.block(index).region
        local[region.slices], parts[index] = label_block(classes[region.slices], rule, region, classes.shape[1])

    def read(region: Region) -> np.ndarray:
        return local[region.slices]

    mapping = resolve(grid, [parts[index] for index in range(grid.block_count)], read, rule)
    for index in order or range(grid.block_count):
        block = grid.block(index)
        final[block.region.slices] = finish_block(grid, mapping, rule, block, read, lambda r: classes[r.slices])
    return final, mapping.count


def flood_fill(classes: np.ndarray, rule: LabelRule) -> np.ndarray:
    """The definition: components by flood fill in raster order, small ones dropped, then growth pixel by pixel."""
    labels, seen, count = np.zeros(classes.shape, np.uint32), np.zeros(classes.shape, bool), 0
    for start in np.ndindex(classes.shape):
        if classes[start] != rule.interior or seen[start]:
            continue
        stack, found = [start], []
        seen[start] = True
        while stack:
            y, x = stack.pop()
            found.append((y, x))
            for near in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                inside = 0 <= near[0] < classes.shape[0] and 0 <= near[1] < classes.shape[1]
                if inside and classes[near] == rule.interior and not seen[near]:
                    seen[near] = True
                    stack.append(near)
        if len(found) >= rule.min_area:
            count += 1
            labels[tuple(zip(*found, strict=True))] = count
    for _ in range(rule.dilate if rule.border is not None else 0):
        before = labels.copy()
        for y, x in zip(*np.nonzero((before == 0) & (classes == rule.border)), strict=True):
            around = before[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2]
            labels[y, x] = min(around[around > 0], default=0)
    return labels


@given(images, rules, sides, sides)
@deterministic
def test_labels_over_blocks_are_those_of_a_flood_fill(classes: np.ndarray, rule: LabelRule, height: int, width: int) -> None:
    labels, count = over_blocks(classes, rule, make_grid(classes.shape, (height, width)))
    np.testing.assert_array_equal(labels, flood_fill(classes, rule))
    assert count == labels.max()


@given(images, rules)
@deterministic
def test_labels_of_a_whole_array_are_those_of_a_flood_fill(classes: np.ndarray, rule: LabelRule) -> None:
    np.testing.assert_array_equal(label_array(classes, rule), flood_fill(classes, rule))


@given(images, rules, sides, st.randoms(use_true_random=False))
@deterministic
def test_the_order_of_the_blocks_changes_nothing(classes: np.ndarray, rule: LabelRule, side: int, random) -> None:
    grid = make_grid(classes.shape, (side, side))
    order = list(range(grid.block_count))
    random.shuffle(order)
    np.testing.assert_array_equal(over_blocks(classes, rule, grid, order)[0], over_blocks(classes, rule, grid)[0])


def test_a_spiral_over_many_blocks_is_one_object() -> None:
    classes = np.zeros((31, 31), np.uint8)
    for ring in range(0, 15, 2):
        last = 30 - ring
        classes[ring, max(0, ring - 2) : last + 1] = classes[ring : last + 1, last] = 1
        classes[last, ring : last + 1] = classes[ring + 2 : last + 1, ring] = 1
    labels, count = over_blocks(classes, LabelRule(min_area=int(classes.sum())), make_grid((31, 31), (4, 5)))
    assert count == 1
    np.testing.assert_array_equal(labels, classes)


def test_objects_are_numbered_by_their_first_pixel_not_by_their_block() -> None:
    classes = np.zeros((6, 8), np.uint8)
    classes[3, 0] = classes[0, 5] = classes[1, 1] = 1
    labels, _ = over_blocks(classes, LabelRule(), make_grid((6, 8), (6, 2)))
    assert (labels[0, 5], labels[1, 1], labels[3, 0]) == (1, 2, 3)


def test_the_first_pixel_may_be_in_a_later_block_than_the_rest() -> None:
    classes = np.array([[0, 0, 0, 1], [1, 0, 1, 1], [1, 1, 1, 0]], np.uint8)
    other = np.array([[0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]], np.uint8)
    labels, _ = over_blocks(classes | other, LabelRule(), make_grid((3, 4), (3, 1)))
    np.testing.assert_array_equal(labels, 2 * classes.astype(int) + other)


def test_areas_are_those_of_whole_objects() -> None:
    classes = np.ones((1, 12), np.uint8)
    assert over_blocks(classes, LabelRule(min_area=12), make_grid((1, 12), (1, 1)))[1] == 1
    assert over_blocks(classes, LabelRule(min_area=13), make_grid((1, 12), (1, 1)))[1] == 0


def test_the_lowest_number_wins_where_two_objects_meet() -> None:
    classes = np.array([[1, 2, 2, 2, 1]], np.uint8)
    rule = LabelRule(interior=1, border=2, dilate=3)
    assert label_array(classes, rule).tolist() == [[1, 1, 1, 2, 2]]


@pytest.mark.parametrize("dilate", [1, 2, 5])
def test_an_object_grows_that_far_and_only_into_the_border_class(dilate: int) -> None:
    classes = np.full((15, 15), 2, np.uint8)
    classes[7, 7], classes[:, 9:] = 1, 0
    labels, _ = over_blocks(classes, LabelRule(1, 2, dilate), make_grid((15, 15), (2, 3)))
    expected = np.zeros_like(labels)
    expected[7 - dilate : 8 + dilate, 7 - dilate : min(9, 8 + dilate)] = 1
    np.testing.assert_array_equal(labels, expected)


def test_a_dropped_speck_does_not_grow() -> None:
    classes = np.array([[1, 2, 2, 2, 1, 1]], np.uint8)
    assert label_array(classes, LabelRule(1, 2, 2, min_area=2)).tolist() == [[0, 0, 1, 1, 1, 1]]


def test_growing_leaves_its_input_alone() -> None:
    labels = np.array([[7, 0, 0, 0]], np.uint32)
    grown = grow(labels, np.ones((1, 4), bool), 2)
    assert grown.tolist() == [[7, 7, 7, 0]] and grown.dtype == np.uint32
    assert labels.tolist() == [[7, 0, 0, 0]]


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (5, 5)])
def test_an_image_without_objects_has_no_labels(shape: tuple[int, int]) -> None:
    labels, count = over_blocks(np.zeros(shape, np.uint8), LabelRule(1, 2, 2, 3), make_grid(shape, (2, 2)))
    assert count == 0 and not labels.any() and labels.dtype == np.uint32
