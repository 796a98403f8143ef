"""The measures of membranes: warping against cases whose end is known and the laws of topology, Rand and information against
their definitions, pixel by pixel and pair by pair."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from i2i.errors import InputError
from i2i.metrics import (
    REGION_THRESHOLDS,
    agreement,
    cells_of,
    pool_regions,
    region_figures,
    splits_and_mergers,
    thinned,
    warp,
    warping_error,
)

EM = Path(__file__).parents[3] / "shared/data/isbi2012-em/test/masks"
masks = hnp.arrays(bool, (7, 8))
small_labels = hnp.arrays(np.uint8, (4, 5), elements=st.integers(0, 3))


def cells(width: int = 3, height: int = 21, at: int = 10, length: int = 24) -> np.ndarray:
    """Two cells, one left and one right of an upright membrane of ``width`` pixels from column ``at``."""
    truth = np.ones((height, length), bool)
    truth[:, at : at + width] = False
    return truth


def left(prediction: np.ndarray, truth: np.ndarray) -> tuple[int, int]:
    """Pixels that still differ after warping, and those of splits and mergers."""
    warped = warp(truth, prediction)
    assert warping_error(prediction, truth) == (warped != prediction).sum() / truth.size
    return int((warped != prediction).sum()), splits_and_mergers(warped, prediction)


# ---------------------------------------------------------------------------------------------------------------- warping


@pytest.mark.parametrize("shift", [-2, -1, 1, 2])
def test_a_shifted_border_costs_nothing(shift: int) -> None:
    assert left(cells(at=10 + shift), cells()) == (0, 0)
    place = np.arange(40)[None] - np.arange(21)[:, None] - 9
    assert left(np.abs(place - shift) > 1, np.abs(place) > 1) == (0, 0)


@pytest.mark.parametrize("width", [1, 2, 5, 9])
def test_a_thinner_or_thicker_border_costs_nothing(width: int) -> None:
    assert left(cells(width), cells(3)) == (0, 0)
    assert left(cells(3), cells(width)) == (0, 0)


@pytest.mark.parametrize(("width", "gap"), [(1, 5), (3, 5), (4, 1), (5, 8)])
def test_a_gap_that_merges_two_cells_costs_a_thin_line_across_it(width: int, gap: int) -> None:
    prediction = cells(width)
    prediction[8 : 8 + gap] = True
    assert left(prediction, cells(width)) == (gap, gap)


@pytest.mark.parametrize("width", [1, 3])
def test_a_border_that_splits_a_cell_costs_a_thin_bridge_across_it(width: int) -> None:
    """It is warped in from both ends, until one row keeps the cell together; beyond the image's edge is membrane."""
    assert left(cells(width), np.ones((21, 24), bool)) == (width, width)


def test_a_cell_that_is_invented_costs_all_its_pixels_a_missed_one_a_single_pixel() -> None:
    nothing, blob = np.zeros((12, 12), bool), np.zeros((12, 12), bool)
    blob[3:7, 4:9] = True
    assert left(blob, nothing) == (20, 0)
    assert left(nothing, blob) == (1, 0)


def test_a_hole_costs_all_its_pixels_where_invented_and_one_where_missed() -> None:
    whole, holed = np.ones((12, 12), bool), np.ones((12, 12), bool)
    holed[4:7, 4:8] = False
    assert left(holed, whole) == (12, 0)
    assert left(whole, holed) == (1, 0)


def test_membranes_part_cells_along_diagonals_too() -> None:
    truth = ~np.eye(9, dtype=bool)
    assert cells_of(truth).max() == 2
    open_end = truth.copy()
    open_end[4, 4] = True
    assert left(open_end, truth) == (1, 1)


def euler(mask: np.ndarray) -> tuple[int, int]:
    """Cells (4 neighbours), and components of what is around them (8 neighbours, the outside being one of them)."""
    return ndimage.label(mask)[1], ndimage.label(~np.pad(mask, 1), np.ones((3, 3)))[1]


@settings(deadline=None, max_examples=150)
@given(masks, masks)
def test_warping_keeps_the_topology_and_moves_towards_the_prediction_only(truth: np.ndarray, prediction: np.ndarray) -> None:
    warped = warp(truth, prediction)
    assert euler(warped) == euler(truth)
    agreed = truth == prediction
    assert (warped[agreed] == truth[agreed]).all()
    assert 0 <= splits_and_mergers(warped, prediction) <= np.count_nonzero(warped != prediction)


@settings(deadline=None, max_examples=100)
@given(masks, masks)
def test_nothing_that_is_left_can_be_flipped(truth: np.ndarray, prediction: np.ndarray) -> None:
    warped = warp(truth, prediction)
    for y, x in np.argwhere(warped != prediction):
        changed = warped.copy()
        changed[y, x] ^= True
        window = np.pad(warped, 1)[y : y + 3, x : x + 3]
        near = np.pad(changed, 1)[y : y + 3, x : x + 3]
        assert euler(changed) != euler(warped) or euler(window) != euler(near)


@given(masks)
def test_the_truth_itself_has_no_error(truth: np.ndarray) -> None:
    assert left(truth, truth) == (0, 0)


def test_warping_is_the_same_each_time_and_leaves_its_input_alone() -> None:
    random = np.random.default_rng(5)
    truth, prediction = random.random((2, 60, 70)) > 0.4
    before = truth.copy(), prediction.copy()
    assert (warp(truth, prediction) == warp(truth, prediction)).all()
    assert (truth == before[0]).all()
    assert (prediction == before[1]).all()
    with pytest.raises(InputError, match="60 x 70"):
        warp(truth, prediction[1:])


# ---------------------------------------------------------------------------------------------------- Rand and information


def pair_by_pair(prediction: np.ndarray, truth: np.ndarray) -> tuple[int, int, int]:
    """Pairs of true cell pixels in one region, of both, the predicted, the true partition; predicted 0 is no region."""
    places = [(p, t) for p, t in zip(prediction.ravel().tolist(), truth.ravel().tolist(), strict=True) if t]
    together = [(a[0] == b[0] > 0, a[1] == b[1]) for a, b in itertools.combinations(places, 2)]
    return sum(p and t for p, t in together), sum(p for p, _ in together), sum(t for _, t in together)


@settings(deadline=None)
@given(small_labels, small_labels)
def test_pairs_equal_their_definition(prediction: np.ndarray, truth: np.ndarray) -> None:
    found = agreement(prediction, truth)
    assert (found.both, found.predicted, found.true) == pair_by_pair(prediction, truth)


def adapted_rand_error(prediction: np.ndarray, truth: np.ndarray) -> float:
    """1 - F-score of pairs from the table of overlaps, without the truth's 0: the formula of other programs."""
    table = np.zeros((truth.max() + 1, prediction.max() + 1))
    np.add.at(table, (truth.ravel(), prediction.ravel()), 1)
    table = table[1:]
    pixels = table.sum()
    both = (table**2).sum() - pixels
    predicted, true = (table.sum(axis=0) ** 2).sum() - pixels, (table.sum(axis=1) ** 2).sum() - pixels
    return 1 - 2 * both / (predicted + true)


def test_rand_is_the_adapted_rand_error_where_each_predicted_membrane_pixel_is_a_region() -> None:
    random = np.random.default_rng(2)
    truth = ndimage.label(random.random((40, 50)) > 0.35)[0]
    prediction = ndimage.label(random.random((40, 50)) > 0.35)[0]
    apart = np.where(prediction > 0, prediction, prediction.max() + 1 + np.arange(prediction.size).reshape(prediction.shape))
    assert 1 - agreement(prediction, truth).rand == pytest.approx(adapted_rand_error(apart, truth), abs=1e-12)
    assert 1 - agreement(apart, truth).rand == pytest.approx(adapted_rand_error(apart, truth), abs=1e-12)


@settings(deadline=None)
@given(small_labels, small_labels)
def test_information_equals_its_definition(prediction: np.ndarray, truth: np.ndarray) -> None:
    found, true = prediction[truth > 0].astype(int), truth[truth > 0]
    alone = np.flatnonzero(found == 0)
    found[alone] = 100 + alone

    def bits(keys: np.ndarray) -> float:
        shares = np.unique(keys, return_counts=True)[1] / len(keys) if len(keys) else np.ones(1)
        return -(shares * np.log2(shares)).sum() * len(keys)

    got = agreement(prediction, truth)
    mutual = bits(found) + bits(true) - bits(1000 * found + true)
    assert (got.information, got.predicted_entropy) == pytest.approx((mutual, bits(found)), abs=1e-9)
    assert got.true_entropy == pytest.approx(bits(true), abs=1e-9)


def test_regions_of_the_same_pixels_agree_whatever_their_names() -> None:
    truth = np.array([[1, 1, 0, 2, 2, 2]])
    assert agreement(truth * 40, truth).rand == agreement(truth * 40, truth).info == 1.0
    merged = agreement(np.ones_like(truth), truth)
    assert (merged.both, merged.predicted, merged.true) == (1 + 3, 10, 4)
    assert merged.info == 0.0
    assert agreement(truth * 0, truth * 0).rand == 1.0


def test_thinned_cells_meet_in_the_middle() -> None:
    assert thinned(np.array([[1, 0, 0, 0, 0, 2]])).tolist() == [[1, 1, 1, 2, 2, 2]]
    assert thinned(np.zeros((2, 3), int)).tolist() == [[0, 0, 0], [0, 0, 0]]


# --------------------------------------------------------------------------------------------------------- figures of images


def test_scores_after_thinning_do_not_depend_on_the_thickness_of_membranes() -> None:
    figures = region_figures(cells(7, at=8), cells(3), thresholds=(0.5,))
    assert figures["v_rand"] == figures["v_info"] == 1.0
    assert figures["rand_error"] > 0.1
    assert (figures["pixel_error"], figures["warping_error"]) == (4 / 24, 0.0)
    assert figures["pixel_f_error"] == pytest.approx(1 - 2 * 17 / (17 + 21), abs=1e-12)


def test_the_best_threshold_of_a_probability_map() -> None:
    truth = cells(1)
    prediction = np.where(truth, 0.9, 0.35).astype(np.float32)
    prediction[9:12, 10] = 0.45
    figures = region_figures(prediction, truth)
    assert figures["rand_error"] == figures["pixel_error"] == 0.0  # at 0.5
    sunk = region_figures(prediction + 0.1, truth)  # the gap is open at 0.5
    assert sunk["warping_error"] == sunk["split_merge_error"] == 3 / truth.size
    assert sunk["rand_error"] > 0.2
    assert (sunk["best_rand_error"], sunk["best_rand_error_at"]) == (0.0, 0.6)
    assert (sunk["best_v_rand"], sunk["best_v_rand_at"]) == (1.0, 0.6)
    assert {f"wrong{round(100 * threshold)}" for threshold in REGION_THRESHOLDS} <= set(sunk)


def test_only_pixels_inside_count() -> None:
    truth, inside = cells(), np.zeros((21, 24), bool)
    inside[:10] = True
    prediction = truth.copy()
    prediction[10:] = False
    figures = region_figures(prediction, truth, inside, (0.5,))
    assert figures["pixels"] == 240
    assert [figures[name] for name in ("pixel_error", "rand_error", "warping_error")] == [0.0, 0.0, 0.0]
    assert region_figures(prediction, truth, thresholds=(0.5,))["pixel_error"] > 0.4


def test_a_set_is_scored_at_one_threshold_from_added_counts() -> None:
    truth = cells(1)
    low, high = np.where(truth, 0.35, 0.05), np.where(truth, 0.95, 0.65)
    images = [region_figures(low, truth), region_figures(high, truth)]
    assert [image["best_pixel_error"] for image in images] == [0.0, 0.0]
    pooled = pool_regions(images)
    wrong = [sum(image[f"wrong{step}"] for image in images) for step in (30, 70)]
    assert pooled["best_pixel_error"] == pytest.approx(min(wrong) / (2 * truth.size))
    assert pooled["best_pixel_error"] > 0
    assert pooled["images"] == 2
    assert pooled["mean_rand_error"] == pytest.approx((images[0]["rand_error"] + images[1]["rand_error"]) / 2)
    assert not any(name.startswith(("mean_best", "mean_wrong")) for name in pooled)
    assert pool_regions([]) == {"images": 0}


def test_images_with_other_thresholds_are_pooled_at_those_that_all_have() -> None:
    truth = cells(1)
    pooled = pool_regions([region_figures(truth * 0.9, truth), region_figures(truth, truth, thresholds=(0.5,))])
    assert pooled["pixel_error"] == 0.0
    assert "best_pixel_error" not in pooled
    assert pooled["pixels"] == 2 * truth.size


@pytest.mark.skipif(not EM.is_dir(), reason="the EM data (../shared/data/isbi2012-em) are not there")
def test_real_membranes() -> None:
    from i2i.formats import open_image

    source = open_image(sorted(EM.iterdir())[0])
    truth = source.read(source.spec.region)[..., 0] > 0
    source.close()
    perfect = region_figures(truth, truth, thresholds=(0.5,))
    assert (perfect["rand_error"], perfect["warping_error"], perfect["v_rand"]) == (0.0, 0.0, 1.0)
    thinner = ndimage.binary_dilation(truth, iterations=1)
    figures = region_figures(thinner, truth, thresholds=(0.5,))
    assert figures["warping_error"] < figures["pixel_error"] / 20
    assert figures["split_merge_error"] <= figures["warping_error"]
