"""Labels from classes: the same for every way of cutting the image into blocks, and those of a plain flood fill."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from i2i import components
from i2i.canvas import DiskCanvas, layer_spec
from i2i.components import FREE, BlockComponents, block_components, finish_block, grow, label_array, local_labels, resolve
from i2i.contracts import Footprint, LabelRule, Output
from i2i.engine.job import Job, Outcome
from i2i.engine.labels import label
from i2i.formats.views import ArraySource
from i2i.geometry import Grid, make_grid
from i2i.testing import blobs

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
    final, parts, rows = np.zeros(classes.shape, np.uint32), {}, {}
    pixels = {block.index: classes[block.region.slices] for block in grid.blocks()}
    local = {index: local_labels(part, rule) for index, part in pixels.items()}
    for index in order or range(grid.block_count):
        parts[index] = block_components(local[index], pixels[index], rule)
    count = resolve(grid, rule, parts.__getitem__, rows.__setitem__)
    for index in order or range(grid.block_count):
        block = grid.block(index)
        labels = finish_block(grid, rule, block, pixels[index], local[index], rows.__getitem__)
        final[block.region.slices] = labels
    return final, count


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


def test_objects_grow_into_free_pixels_only_and_what_stays_free_is_no_object() -> None:
    labels = np.zeros((3, 9), np.uint32)
    labels[1, 1:8] = [7, FREE, FREE, FREE, 0, FREE, 3]
    grow(labels, 2)
    assert labels[1].tolist() == [0, 7, 7, 7, 0, 0, 3, 3, 0]
    assert not labels[[0, 2]].any() and labels.dtype == np.uint32


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (5, 5)])
def test_an_image_without_objects_has_no_labels(shape: tuple[int, int]) -> None:
    labels, count = over_blocks(np.zeros(shape, np.uint8), LabelRule(1, 2, 2, 3), make_grid(shape, (2, 2)))
    assert count == 0 and not labels.any() and labels.dtype == np.uint32


# ------------------------------------------------------------------------------------------------------- large images


def blob_classes(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Many objects, some of which touch only through the border class."""
    return np.array([0, 2, 1], np.uint8)[np.digitize(blobs(height, width, 1, seed)[..., 0], [60, 90])]


@pytest.mark.parametrize("block", [(40, 40), (7, 64), (150, 3), (61, 133)])
@pytest.mark.parametrize("dilate", [0, 2, 9])
def test_labels_over_many_blocks_are_those_of_the_whole(block: tuple[int, int], dilate: int) -> None:
    classes, rule = blob_classes(150, 133), LabelRule(1, 2, dilate, 5)
    expected = label_array(classes, rule)
    assert expected.max() > 8
    labels, count = over_blocks(classes, rule, make_grid(classes.shape, block))
    np.testing.assert_array_equal(labels, expected)
    assert count == expected.max()


def test_local_numbers_may_come_in_any_order() -> None:
    """The first pixels of a block's components need not rise with their numbers."""
    classes = blob_classes(60, 50)
    grid = make_grid(classes.shape, classes.shape)
    local = local_labels(classes, LabelRule())
    turned = np.where(local, local.max() + 1 - local, 0).astype(np.uint32)
    rows: dict[int, components.RowNumbers] = {}
    count = resolve(grid, LabelRule(), lambda _: block_components(turned, classes, LabelRule()), rows.__setitem__)
    found = finish_block(grid, LabelRule(), grid.block(0), classes, turned, rows.__getitem__)
    assert count == local.max() > 3
    np.testing.assert_array_equal(found, label_array(classes, LabelRule()))


def test_only_components_at_block_borders_are_held_for_the_whole_image() -> None:
    grid, count = make_grid((80 * 200, 400), (200, 200)), 20_000
    frame = np.zeros((4, 200), np.uint32)
    frame[0, 5:9] = frame[1, 5:9] = 3  # joins all blocks of a column into one object
    part = BlockComponents(np.full(count, 2, np.uint32), np.arange(0, 2 * count, 2, dtype=np.uint32), frame.ravel())
    fetched, rows = [], []

    def fetch(index: int) -> BlockComponents:
        fetched.append(index)
        return BlockComponents(part.areas.copy(), part.firsts.copy(), part.frame.copy())

    tracemalloc.start()
    found = resolve(grid, LabelRule(min_area=2), fetch, lambda row, numbers: rows.append((row, int(numbers.count))))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found == grid.block_count * (count - 1) + 2
    assert [row for row, _ in rows] == list(range(80)) and rows[-1][1] == found
    assert sorted(fetched) == sorted([*range(grid.block_count)] * 2)
    assert peak < 8e6 < 4 * found, "less than an integer for each object"


# --------------------------------------------------------------------------------------------------- killed and resumed


def label_on_disk(folder: Path, classes: np.ndarray, rule: LabelRule) -> tuple[np.ndarray, Outcome]:
    """The engine's stages on a canvas in ``folder``, which may hold those of a run that was killed."""
    source, grid = ArraySource(classes), make_grid(classes.shape, (9, 11))
    predictor = SimpleNamespace(footprint=Footprint())
    canvas = DiskCanvas(folder)
    try:
        layer = canvas.layer("classes", layer_spec(source.spec, 1, "uint8"), grid.block_shape)
        layer.write(grid.image, classes[..., None])
        job = Job(source, predictor, Output("labels", 1, "uint32", "labels"), SimpleNamespace(grid=lambda *_: grid), canvas)
        outcome = Outcome(source)
        label(job, outcome, layer, rule)
        return outcome.result.read(grid.image)[..., 0], outcome
    finally:
        canvas.close()


@contextmanager
def killed_before(name: str, stage: str, number: int) -> Iterator[None]:
    """The run is interrupted instead of keeping or journaling that block of a stage."""
    original = getattr(DiskCanvas, name)

    def interrupted(canvas: DiskCanvas, given: str, block: int, *rest: object) -> None:
        if (given, block) == (stage, number):
            raise KeyboardInterrupt
        original(canvas, given, block, *rest)

    with mock.patch.object(DiskCanvas, name, interrupted), pytest.raises(KeyboardInterrupt):
        yield


@pytest.mark.parametrize(
    ("name", "stage", "number", "reused"),
    [
        ("store", "components", 5, 5), ("mark", "components", 5, 5), ("store", "numbers", 0, 12), ("store", "numbers", 2, 12),
        ("mark", "labels", 0, 12), ("mark", "labels", 7, 19),
    ],
)  # fmt: skip
def test_a_killed_run_goes_on_to_the_same_labels(name: str, stage: str, number: int, reused: int, tmp_path: Path) -> None:
    classes, rule = blob_classes(36, 30, 3), LabelRule(1, 2, 3, 4)
    with killed_before(name, stage, number):
        label_on_disk(tmp_path, classes, rule)
    never = mock.patch.object(components, "resolve", side_effect=AssertionError("numbered again"))
    with never if stage == "labels" else mock.patch.object(components, "resolve", wraps=components.resolve):
        labels, outcome = label_on_disk(tmp_path, classes, rule)
    np.testing.assert_array_equal(labels, label_array(classes, rule))
    assert (outcome.reused, outcome.reused + outcome.computed, outcome.objects) == (reused, 24, labels.max())
