"""Objects over tiles, piece by piece: which are kept, which are one, how they are joined, numbered, drawn and stored."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from i2i.contracts import Instances
from i2i.errors import PluginError
from i2i.geometry import Grid, Region, Tile, make_grid
from i2i.instances import Candidates, Detected, Finished, Held, Packed, draw, make_catalogue, select_candidates, sweep
from i2i.instances.candidates import BOTTOM, LEFT, RIGHT, TOP
from i2i.instances.joining import join_parts
from i2i.instances.overlap import agree, intersection, related

deterministic = settings(derandomize=True, deadline=None, max_examples=80)
Box = tuple[int, int, int, int]
ONE_BLOCK = make_grid((100_000, 1000), (100_000, 1000))


def objects(*boxes: Box, scores: tuple[float, ...] = (), masks=()) -> Instances:
    """Instances of class 1: full boxes (top, left, bottom, right) with falling scores, unless given others."""
    scores = scores or tuple(1 - 0.01 * i for i in range(len(boxes)))
    masks = masks or tuple(np.ones((bottom - top, right - left), bool) for top, left, bottom, right in boxes)
    ones = np.ones(len(boxes), np.int64)
    return Instances(np.array(boxes, np.int64).reshape(-1, 4), np.array(scores, np.float32), ones, tuple(masks))


def packed(found: Instances) -> Packed:
    masks = tuple(np.packbits(mask, axis=1) for mask in found.masks)
    return Packed(found.boxes.astype(np.int32), found.scores, found.classes.astype(np.int16), masks)


def candidates(found: Instances, *tiles: int, cuts: tuple[int, ...] = ()) -> Candidates:
    areas = np.array([mask.sum() for mask in found.masks], np.int64)
    sides = np.array(cuts or [0] * len(found), np.uint8)
    return Candidates(**vars(packed(found)), areas=areas, tiles=np.array(tiles, np.int64), cuts=sides)


@st.composite
def many_objects(draw: st.DrawFn) -> Instances:
    """Up to six objects within 40 x 40 pixels, with any masks of a pixel or more and any scores, equal ones among them."""
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    boxes, masks = [], []
    for _ in range(draw(st.integers(0, 6))):
        top, left, height, width = random.integers(0, 30), random.integers(0, 30), random.integers(1, 11), random.integers(1, 11)
        boxes.append((top, left, top + height, left + width))
        masks.append(random.random((height, width)) < 0.7)
        masks[-1][0, 0] = True
    scores = tuple(np.round(random.random(len(boxes)), 1))
    return objects(*boxes, scores=scores, masks=masks)


def plane(found: Instances, i: int, side: int = 50) -> np.ndarray:
    canvas = np.zeros((side, side), bool)
    top, left, bottom, right = found.boxes[i]
    canvas[top:bottom, left:right] = found.masks[i]
    return canvas


# ----------------------------------------------------------------------------------------------------------- selecting

IMAGE = Region(0, 0, 200, 200)
TILE = Tile(Region(40, 40, 20, 20), Region(20, 20, 60, 60))


def selected(box: Box, halo: int = 20, tile: Tile = TILE) -> list[int]:
    """The cuts of the candidates that come of an object at ``box`` of the image."""
    window = objects(box).shift(-tile.window.y, -tile.window.x)
    result = select_candidates(window, tile, IMAGE, halo, 7)
    assert (result.tiles == 7).all()
    assert len(result) == 0 or tuple(result.boxes[0]) == box
    return result.cuts.tolist()


def test_a_complete_object_belongs_to_the_tiles_that_have_its_centre_in_the_core_or_the_margin() -> None:
    assert selected((45, 45, 55, 55)) == [0]
    assert selected((25, 45, 35, 55)) == [0], "a centre on the margin's first row is inside"
    assert selected((24, 45, 34, 55)) == []
    assert selected((65, 45, 75, 55)) == [], "a centre on the row after the margin's last is outside"
    assert selected((64, 45, 74, 55)) == [0]


def test_where_the_last_window_is_moved_inward_its_margin_is_too() -> None:
    shifted = Tile(Region(180, 40, 20, 20), Region(120, 20, 80, 60))
    assert selected((125, 45, 140, 55), tile=shifted) == [0]
    assert selected((125, 45, 134, 55), tile=shifted) == []


@pytest.mark.parametrize("off", [0, 1])
@pytest.mark.parametrize("side", [TOP, LEFT, BOTTOM, RIGHT])
def test_an_object_that_comes_near_its_windows_edge_is_a_part(side: int, off: int) -> None:
    box = {
        TOP: (20 + off, 45, 50, 50), LEFT: (45, 20 + off, 50, 50), BOTTOM: (45, 45, 80 - off, 50), RIGHT: (45, 45, 50, 80 - off),
    }[side]  # fmt: skip
    assert selected(box) == [side]


def test_two_pixels_from_the_edge_it_is_complete() -> None:
    assert selected((22, 45, 78, 50)) == [0]


def test_a_part_without_a_pixel_in_the_core_is_another_tiles() -> None:
    assert selected((20, 45, 40, 55)) == []
    assert selected((20, 45, 41, 55)) == [TOP]
    window = objects((20, 45, 50, 50), masks=[np.arange(30)[:, None].repeat(5, 1) < 20]).shift(-20, -20)
    assert len(select_candidates(window, TILE, IMAGE, 20, 7)) == 0, "its box alone is in the core"


@pytest.mark.parametrize("box", [(0, 5, 10, 15), (5, 0, 15, 10), (190, 5, 200, 15), (5, 190, 15, 200)])
def test_the_images_own_edge_cuts_nothing(box: Box) -> None:
    assert selected(box, tile=Tile(IMAGE, IMAGE)) == [0]
    assert selected(box, tile=Tile(IMAGE, Region(0, 0, 208, 208))) == [0], "nor does the padding beyond it"


def test_what_lies_beyond_the_image_is_left_out() -> None:
    tile = Tile(IMAGE, Region(-8, -8, 216, 216))
    found = objects((-3, 5, 4, 15), (195, 195, 208, 208), (-8, 0, -2, 9), (3, 203, 9, 208)).shift(8, 8)
    result = select_candidates(found, tile, IMAGE, 8, 0)
    assert result.boxes.tolist() == [[0, 5, 4, 15], [195, 195, 200, 200]]
    assert result.areas.tolist() == [40, 25] and [mask.shape for mask in result.masks] == [(4, 2), (5, 1)]


def test_objects_without_a_pixel_are_no_objects() -> None:
    found = objects((45, 45, 50, 50), masks=[np.zeros((5, 5), bool)])
    assert len(select_candidates(found.shift(-20, -20), TILE, IMAGE, 20, 0)) == 0


def test_a_mask_that_does_not_fit_its_box_is_the_plugins_fault() -> None:
    with pytest.raises(PluginError, match=r"mask of \(4, 5\) for a box of 5 x 5"):
        select_candidates(objects((30, 30, 35, 35), masks=[np.ones((4, 5), bool)]), TILE, IMAGE, 20, 0)


# ------------------------------------------------------------------------------------------------------------- overlaps


@given(many_objects())
@deterministic
def test_masks_share_the_pixels_that_both_cover(found: Instances) -> None:
    table = candidates(found, *range(len(found)))
    for i in range(len(found)):
        for j in range(len(found)):
            assert i == j or not _meet(found, i, j) or intersection(table, i, j) == (plane(found, i) & plane(found, j)).sum()


def _meet(found: Instances, i: int, j: int) -> bool:
    a, b = found.boxes[i], found.boxes[j]
    return bool((np.maximum(a[:2], b[:2]) < np.minimum(a[2:], b[2:])).all())


@given(many_objects(), st.integers(0, 6), st.integers(0, 80), st.sampled_from([0.1, 0.5, 0.8]))
@deterministic
def test_all_pairs_that_share_enough_are_found_once(found: Instances, known: int, moved: int, overlap: float) -> None:
    table = candidates(found.shift(moved, 3 * moved), *(i // 2 for i in range(len(found))))
    expected = {
        (i, j)
        for i in range(len(found))
        for j in range(max(known, i + 1), len(found))
        if i // 2 != j // 2
        and (plane(found, i) & plane(found, j)).sum() > overlap * min(found.masks[i].sum(), found.masks[j].sum())
    }
    pairs = related(table, known, overlap, lambda number: TILE)
    assert len(pairs) == len(expected) and {tuple(sorted(pair)) for pair in pairs.tolist()} == expected


# ------------------------------------------------------------------------------------------------------------- merging


def merge(table: Candidates, overlap: float, grid: Grid = ONE_BLOCK) -> Finished:
    finished, held = sweep(Held.nothing(), table, grid, grid.block(0), overlap)
    assert not len(held.candidates), "one block is the whole image"
    return finished


def test_the_same_object_of_several_tiles_stays_once_with_its_best_score() -> None:
    found = objects((10, 10, 20, 20), (10, 10, 20, 20), (11, 10, 20, 20), scores=(0.5, 0.9, 0.7))
    assert merge(candidates(found, 1, 2, 3), 0.5).scores.tolist() == [np.float32(0.9)]


def test_of_equal_scores_the_upper_left_stays() -> None:
    found = objects((11, 10, 21, 20), (10, 12, 20, 22), (10, 11, 20, 21), scores=(0.5, 0.5, 0.5))
    assert merge(candidates(found, 1, 2, 3), 0.5).boxes.tolist() == [[10, 11, 20, 21]]


def test_an_object_goes_only_for_one_that_stays() -> None:
    row = objects((0, 0, 10, 10), (0, 4, 10, 14), (0, 8, 10, 18), scores=(0.9, 0.8, 0.7))
    assert merge(candidates(row, 1, 2, 3), 0.5).boxes[:, 1].tolist() == [0, 8], "the one in the middle goes, and takes none along"


def test_objects_of_one_tile_are_never_merged() -> None:
    found = objects((10, 10, 20, 20), (10, 10, 20, 20))
    assert len(merge(candidates(found, 1, 1), 0.5)) == 2


def test_objects_of_two_classes_are_never_merged() -> None:
    table = candidates(objects((10, 10, 20, 20), (10, 10, 20, 20)), 1, 2)
    table.classes[1] = 2
    assert sorted(merge(table, 0.5).classes) == [1, 2]


def test_objects_that_overlap_little_are_two() -> None:
    half = objects((0, 0, 10, 10), (0, 5, 10, 15))
    assert len(merge(candidates(half, 1, 2), 0.5)) == 2
    assert len(merge(candidates(half, 1, 2), 0.49)) == 1


def test_a_piece_of_a_complete_object_is_that_object() -> None:
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
def test_what_stays_does_not_depend_on_the_order(found: Instances, random) -> None:
    order = list(range(len(found)))
    random.shuffle(order)
    tiles = np.arange(len(found)) // 2
    once = merge(candidates(found, *tiles), 0.3)
    again = merge(candidates(found.take(order), *tiles[order]), 0.3)

    def known(result: Finished) -> list[tuple]:
        return sorted((*box, float(score), bits.tobytes()) for box, score, bits in zip(*_columns(result), strict=True))

    assert known(once) == known(again)


def _columns(result: Finished):
    return result.boxes.tolist(), result.scores, result.masks


@given(many_objects())
@deterministic
def test_what_stays_is_what_going_through_them_one_by_one_keeps(found: Instances) -> None:
    """The definition: highest score first, each stays that shares too little with all that stay."""
    table = candidates(found, *range(len(found)))
    boxes = found.boxes
    kept: list[int] = []
    for i in np.lexsort((boxes[:, 3], boxes[:, 2], boxes[:, 1], boxes[:, 0], -found.scores)).tolist():
        shares = [(plane(found, i) & plane(found, j)).sum() / min(found.masks[i].sum(), found.masks[j].sum()) for j in kept]
        if all(share <= 0.3 for share in shares):
            kept.append(i)
    assert sorted(map(tuple, merge(table, 0.3).boxes.tolist())) == sorted(map(tuple, boxes[kept].tolist()))


# ------------------------------------------------------------------------------------------------------------- joining

SEEN = make_grid((60, 200), (60, 60), halo=10)  # windows begin at 0, 40, 80, 120 and 140; cores at 0, 50, 90, 130 and 170


def tile_of(number: int) -> Tile:
    return SEEN.tile(*divmod(number, SEEN.columns.count))


def test_parts_agree_where_both_windows_see() -> None:
    parts = objects((20, 30, 40, 60), (20, 40, 40, 100), (5, 40, 12, 60))
    table = candidates(parts, 0, 1, 1, cuts=(RIGHT, LEFT | RIGHT, LEFT))
    assert agree(table, 0, 1, tile_of)
    assert not agree(table, 0, 2, tile_of)


def test_a_piece_of_an_object_agrees_with_the_whole_of_it() -> None:
    """A horseshoe: one object in its window, two in the next."""
    shoe = np.zeros((30, 45), bool)
    shoe[:, :10] = shoe[:10] = shoe[20:] = True
    legs = [np.ones((10, 30), bool)] * 2
    found = objects((20, 15, 50, 60), (20, 40, 30, 70), (40, 40, 50, 70), masks=(shoe, *legs))
    table = candidates(found, 0, 1, 1, cuts=(RIGHT, LEFT, LEFT))
    assert agree(table, 0, 1, tile_of) and agree(table, 0, 2, tile_of)
    assert merge(table, 0.5, SEEN_WHOLE).boxes.tolist() == [[20, 15, 50, 70]]


SEEN_WHOLE = make_grid((60, 200), (60, 60), halo=10, cores=9)


def test_a_joined_object_is_the_union_of_its_parts_with_the_mean_score() -> None:
    found = objects((20, 35, 30, 60), (20, 40, 30, 100), (20, 80, 30, 130), scores=(0.9, 0.6, 0.3))
    table = candidates(found, 0, 1, 2, cuts=(RIGHT, LEFT | RIGHT, LEFT))
    (merged,) = [merge(table, 0.5, SEEN_WHOLE)]
    assert merged.boxes.tolist() == [[20, 35, 30, 130]] and merged.pixels(0, merged.region(0)).all()
    assert merged.scores.tolist() == pytest.approx([(25 * 0.9 + 60 * 0.6 + 50 * 0.3) / 135])
    assert merged.incomplete.tolist() == [False]


def test_in_a_core_its_own_tiles_word_counts() -> None:
    ragged = np.ones((12, 25), bool)
    ragged[10:, 15:] = False
    found = objects((20, 35, 32, 60), (20, 40, 30, 70), masks=(ragged, np.ones((10, 30), bool)))
    joined = join_parts(candidates(found, 0, 1, cuts=(RIGHT, LEFT)), tile_of)
    assert joined.boxes.tolist() == [[20, 35, 32, 70]]
    expected = np.ones((12, 35), bool)
    expected[10:, 15:] = False
    np.testing.assert_array_equal(joined.pixels(0, joined.region(0)), expected)
    sloppy = objects((20, 35, 32, 60), (20, 40, 30, 70))
    again = join_parts(candidates(sloppy, 0, 1, cuts=(RIGHT, LEFT)), tile_of)
    np.testing.assert_array_equal(again.pixels(0, again.region(0)), expected)


def test_an_object_that_goes_on_where_no_window_finds_it_is_incomplete() -> None:
    found = objects((20, 35, 30, 60), (20, 40, 30, 100))
    table = candidates(found, 0, 1, cuts=(RIGHT, LEFT | RIGHT))
    assert merge(table, 0.5, SEEN_WHOLE).incomplete.tolist() == [True]
    lone = merge(table.take(np.array([0])), 0.5, SEEN_WHOLE)
    assert lone.incomplete.tolist() == [True] and lone.boxes.tolist() == [[20, 35, 30, 60]], "it is kept all the same"


def test_a_part_of_what_is_complete_elsewhere_is_left_out_and_a_speck_leaves_nothing_out() -> None:
    table = candidates(objects((20, 45, 30, 95), (20, 40, 30, 60)), 1, 0, cuts=(0, RIGHT))
    assert merge(table, 0.5, SEEN_WHOLE).boxes.tolist() == [[20, 45, 30, 95]]
    speck = candidates(objects((22, 50, 25, 53), (20, 30, 30, 60)), 1, 0, cuts=(0, RIGHT))
    assert sorted(merge(speck, 0.5, SEEN_WHOLE).boxes.tolist()) == [[20, 30, 30, 60], [22, 50, 25, 53]]


@given(many_objects(), st.integers(0, 17))
@deterministic
def test_parts_are_united_bit_by_bit(found: Instances, moved: int) -> None:
    """All of one tile, whose core holds them: the union is all there is."""
    assume(len(found) > 1)
    table = candidates(found.shift(0, moved), *[0] * len(found), cuts=(RIGHT,) * len(found))
    joined = join_parts(table, lambda number: Tile(Region(0, 0, 99, 99), Region(0, 0, 99, 99)))
    union = np.any([plane(found, i) for i in range(len(found))], axis=0)
    rows, columns = np.flatnonzero(union.any(axis=1)), np.flatnonzero(union.any(axis=0))
    assert joined.boxes.tolist() == [[rows[0], columns[0] + moved, rows[-1] + 1, columns[-1] + 1 + moved]]
    np.testing.assert_array_equal(joined.pixels(0, Region(0, moved, 50, 50)), union)


# ----------------------------------------------------------------------------------------------------- numbering, drawing


def finished(found: Instances) -> Finished:
    return Finished(**vars(packed(found)), incomplete=np.zeros(len(found), bool))


def test_objects_are_numbered_by_cell_then_row_then_column() -> None:
    grid = make_grid((3000, 3000), (1500, 1500))
    found = [
        objects((5, 1020, 9, 1030), (7, 0, 8, 2)),
        objects((0, 1025, 3, 1026)),
        objects((7, 1, 9, 2)),
        objects((1500, 3, 1501, 4)),
    ]
    catalogue = make_catalogue(grid, [finished(part) for part in found])
    assert [ids.tolist() for ids in catalogue.ids] == [[1, 2], [4], [3], [5]]
    assert catalogue.parts.tolist() == [0, 0, 2, 1, 3] and catalogue.places.tolist() == [0, 1, 0, 0, 0]
    assert catalogue.touching == [[0, 1, 2], [], [3], []]
    assert catalogue.incomplete == 0


@given(many_objects(), st.integers(1, 4))
@deterministic
def test_numbers_do_not_depend_on_the_parts(found: Instances, count: int) -> None:
    grid = make_grid((60, 60), (60, 15))
    together = make_catalogue(grid, [finished(found), *[Finished.empty()] * 3])
    apart = [finished(found.take(range(i, len(found), count))) for i in range(count)]
    catalogue = make_catalogue(grid, [*apart, *[Finished.empty()] * (4 - count)])
    assert catalogue.scores.tolist() == together.scores.tolist()
    (given_out,) = [list(catalogue.masks(apart.__getitem__))] if len(found) else [[(np.zeros(0), Instances.empty())]]
    ids, seen = (np.concatenate([one[0] for one in given_out]), Instances.join([one[1] for one in given_out]))
    assert ids.tolist() == list(range(1, len(found) + 1))
    assert seen.boxes[:, :2].tolist() == sorted(found.boxes[:, :2].tolist())
    assert seen.scores.tolist() == catalogue.scores.tolist()
    for i in range(len(seen)):
        assert any(np.array_equal(plane(seen, i), plane(found, j)) for j in range(len(found)))


def drawn(found: Instances, region: Region) -> np.ndarray:
    return draw(packed(found), np.arange(1, len(found) + 1, dtype=np.uint32), region)[0]


def test_the_higher_score_is_drawn_on_top_and_of_equals_the_lower_id() -> None:
    first, second, equal = (
        drawn(objects((0, 0, 2, 2), (1, 1, 3, 3), scores=scores), Region(0, 0, 3, 3))
        for scores in ((0.8, 0.4), (0.4, 0.8), (0.5, 0.5))
    )
    assert first.dtype == np.uint32
    assert first.tolist() == [[1, 1, 0], [1, 1, 2], [0, 2, 2]] == equal.tolist()
    assert second.tolist() == [[1, 1, 0], [1, 2, 2], [0, 2, 2]]


def test_objects_below_others_are_not_seen() -> None:
    found = packed(objects((0, 0, 9, 9), (2, 2, 4, 4), (2, 7, 4, 12), scores=(0.8, 0.4, 0.3)))
    assert draw(found, np.array([7, 9, 4], np.uint32), Region(0, 0, 10, 12))[1].tolist() == [4, 7]
    assert draw(found, np.array([7, 9, 4], np.uint32), Region(0, 0, 10, 9))[1].tolist() == [7]


def test_only_the_mask_is_drawn() -> None:
    ring = np.ones((3, 3), bool)
    ring[1, 1] = False
    assert drawn(objects((2, 2, 5, 5), masks=[ring]), Region(2, 2, 3, 3)).tolist() == [[1, 1, 1], [1, 0, 1], [1, 1, 1]]


@given(many_objects(), st.integers(7, 20), st.integers(5, 20))
@deterministic
def test_drawing_does_not_depend_on_the_blocks(found: Instances, height: int, width: int) -> None:
    grid = make_grid((45, 45), (height, width))
    parts = [finished(found), *[Finished.empty()] * (grid.block_count - 1)]
    catalogue = make_catalogue(grid, parts)
    whole = drawn(packed(found).take(np.argsort(catalogue.ids[0])).instances(), grid.image)
    for block in grid.blocks():
        labels, seen = draw(*catalogue.near(block.index, parts.__getitem__, block.region), block.region)
        np.testing.assert_array_equal(labels, whole[block.region.slices])
        assert sorted(seen) == [number for number in np.unique(labels) if number]


# ------------------------------------------------------------------------------------------------------------- storing


@given(many_objects(), st.integers(0, 9))
@deterministic
def test_what_is_stored_comes_back(found: Instances, beyond: int) -> None:
    table = candidates(found, *range(len(found)), cuts=tuple(range(len(found))))
    back = Detected.of_arrays(Detected(table, beyond, 2).arrays())
    assert (back.beyond, back.full) == (beyond, 2)
    held = Held.of_arrays(Held(table, np.array([[0, 1]])).arrays())
    assert held.pairs.tolist() == [[0, 1]]
    for again in (back.candidates, held.candidates):
        for name, value in table.columns().items():
            np.testing.assert_array_equal(value, getattr(again, name))
            assert value.dtype == getattr(again, name).dtype
        for before, after in zip(table.masks, again.masks, strict=True):
            np.testing.assert_array_equal(before, after)
    assert Detected(table).arrays()["bits"].size <= sum(mask.shape[0] * (mask.shape[1] // 8 + 1) for mask in found.masks)


@given(many_objects())
@deterministic
def test_packed_objects_are_those_that_were_packed(found: Instances) -> None:
    back = packed(found).instances()
    columns = ((one.boxes, one.scores, one.classes, *one.masks) for one in (found, back))
    for before, after in zip(*columns, strict=True):
        np.testing.assert_array_equal(before, after)
        assert before.dtype == after.dtype
    assert len(Packed.join([])) == len(Candidates.empty()) == 0
