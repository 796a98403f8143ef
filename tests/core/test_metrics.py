"""Metrics against cases worked out by hand, their own laws, and a brute-force implementation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from i2i.errors import InputError, UsageError
from i2i.metrics import (
    THRESHOLDS,
    Counts,
    PairCounts,
    add_figures,
    as_classes,
    average_precision,
    class_figures,
    class_scores,
    close_pairs,
    jaccard_counts,
    match_labels,
    mean_figures,
    merged_pairs,
    object_figures,
    pair_figures,
    pool_classes,
    pool_objects,
    pool_pairs,
)

small_labels = hnp.arrays(np.uint16, (6, 7), elements=st.integers(0, 4))
thresholds = st.sampled_from([0.1, 0.25, 1 / 3, 0.4, 0.5, 0.6, 0.75, 1.0])


def counts(prediction: np.ndarray, truth: np.ndarray, iou: float) -> Counts:
    return average_precision(match_labels(prediction, truth), iou)


def brute_force(prediction: np.ndarray, truth: np.ndarray, threshold: float) -> Counts:
    """Every one-to-one assignment is tried, with IoU of masks."""
    found, true = [[image == i for i in np.unique(image) if i] for image in (prediction, truth)]
    hit = [[(p & t).sum() / (p | t).sum() >= threshold for t in true] for p in found]
    if len(found) > len(true):
        hit = [list(row) for row in zip(*hit, strict=True)]
    many, few = max(len(found), len(true)), min(len(found), len(true))
    best = max(sum(hit[i][j] for i, j in enumerate(order)) for order in itertools.permutations(range(many), few))
    return Counts(int(best), len(found) - int(best), len(true) - int(best))


def test_a_case_worked_out_by_hand() -> None:
    truth, prediction = np.zeros((2, 4, 10), np.int32)
    truth[:, 0:4], truth[0, 6:10], truth[3, 9] = 1, 2, 3
    prediction[:, 1:4], prediction[0, 6:8], prediction[2, 6] = 70_000, 5, 9
    overlaps = match_labels(prediction, truth)
    assert overlaps.prediction.tolist() == [2, 1, 12]  # in the order of ids: 5, 9, 70000
    assert overlaps.truth.tolist() == [16, 4, 1]
    assert dict(zip(map(tuple, overlaps.pairs.tolist()), overlaps.iou.tolist(), strict=True)) == {
        (2, 0): 0.75,
        (0, 1): 0.5,
    }
    assert average_precision(overlaps, 0.5) == Counts(2, 1, 1)
    assert average_precision(overlaps, 0.75) == Counts(1, 2, 2)
    assert average_precision(overlaps, 0.8) == Counts(0, 3, 3)
    assert (Counts(2, 1, 1).ap, Counts(2, 1, 1).f1) == (0.5, 2 / 3)
    assert (Counts(3, 1, 0).precision, Counts(3, 1, 0).recall) == (0.75, 1.0)


def test_the_threshold_itself_counts() -> None:
    truth = np.ones((1, 10), np.uint8)
    prediction = (np.arange(10)[None] < 7).astype(np.uint8)
    assert counts(prediction, truth, 0.7).tp == 1
    assert 0.7 in THRESHOLDS


def test_at_half_and_below_each_object_has_one_partner() -> None:
    assert counts(np.array([[1, 1]]), np.array([[1, 2]]), 0.5) == Counts(1, 0, 1)
    assert counts(np.array([[1, 1, 1]]), np.array([[1, 2, 3]]), 0.3) == Counts(1, 0, 2)
    # the first prediction must leave the larger overlap to the second
    prediction, truth = np.array([[1, 1, 1, 1, 2, 2]]), np.array([[1, 2, 2, 2, 2, 2]])
    assert counts(prediction, truth, 0.25) == Counts(2, 0, 0)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint32, np.uint64, np.int64, bool])
def test_every_integer_type(dtype: type) -> None:
    labels = np.array([[0, 1], [0, 1]], dtype)
    assert counts(labels, labels.astype(np.uint32), 0.5) == Counts(1, 0, 0)


def test_ids_far_above_the_number_of_pixels() -> None:
    labels = np.array([[0, 2**32 - 1, 7]], np.uint32)
    assert counts(labels, labels.astype(np.uint64) * 2**31, 1.0) == Counts(2, 0, 0)
    assert counts(np.full((2, 2), 2**32 - 1, np.uint32), np.ones((2, 2), np.uint8), 1.0) == Counts(1, 0, 0)


@pytest.mark.parametrize("shape", [(3, 4), (0, 0), (0, 5)])
def test_empty_images_score_one(shape: tuple[int, int]) -> None:
    nothing = np.zeros(shape, np.uint16)
    figures = object_figures(nothing, nothing)
    assert figures["ap"] == figures["ap50"] == figures["f1_95"] == 1.0
    assert figures["tp50"] == figures["fp50"] == figures["fn50"] == 0


def test_one_empty_image_scores_zero() -> None:
    some, nothing = np.eye(3, dtype=np.uint8), np.zeros((3, 3), np.uint8)
    assert (counts(some, nothing, 0.5), counts(nothing, some, 0.5)) == (Counts(0, 1, 0), Counts(0, 0, 1))
    assert counts(some, nothing, 0.5).ap == counts(nothing, some, 0.5).f1 == 0.0
    for found in (counts(some, nothing, 0.5), counts(nothing, some, 0.5)):
        assert found.precision == found.recall == 0.0, "or an image in which nothing is found would raise the mean precision"


@given(small_labels, thresholds)
def test_identity_is_perfect(labels: np.ndarray, iou: float) -> None:
    found = counts(labels, labels, iou)
    assert (found.ap, found.f1, found.fp, found.fn) == (1.0, 1.0, 0, 0)


@given(small_labels, small_labels, thresholds, st.permutations(range(1, 5)))
def test_names_of_objects_do_not_matter(prediction: np.ndarray, truth: np.ndarray, iou: float, order: list[int]) -> None:
    renamed = np.array([0, *order])[prediction] * 1_000_000_007
    assert counts(renamed, truth, iou) == counts(prediction, truth, iou)


@given(small_labels, small_labels, thresholds)
def test_exchanging_the_images_exchanges_the_errors(prediction: np.ndarray, truth: np.ndarray, iou: float) -> None:
    one, other = counts(prediction, truth, iou), counts(truth, prediction, iou)
    assert (one.tp, one.fp, one.fn) == (other.tp, other.fn, other.fp)
    assert one.f1 == other.f1


@given(small_labels, small_labels, thresholds)
def test_equals_brute_force(prediction: np.ndarray, truth: np.ndarray, iou: float) -> None:
    assert counts(prediction, truth, iou) == brute_force(prediction, truth, iou)


@given(small_labels, small_labels)
def test_more_is_found_at_lower_thresholds(prediction: np.ndarray, truth: np.ndarray) -> None:
    found = [counts(prediction, truth, iou).tp for iou in (0.2, 0.5, 0.7, 0.9)]
    assert found == sorted(found, reverse=True)


@pytest.mark.parametrize("iou", [0.0, -0.5, 1.01, float("nan")])
def test_impossible_thresholds(iou: float) -> None:
    with pytest.raises(UsageError, match="above 0, up to 1"):
        average_precision(match_labels(np.ones((1, 1), int), np.ones((1, 1), int)), iou)


def test_input_errors_are_one_line() -> None:
    ones = np.ones((2, 3), np.uint8)
    for prediction, truth in ((ones, ones[:1]), (ones * 0.5, ones), (ones, -ones.astype(int))):
        for measure in (match_labels, lambda p, t: class_scores(p, t, 2)):
            with pytest.raises(InputError) as caught:
                measure(prediction, truth)
            assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="prediction is 2 x 3, the truth 1 x 3"):
        match_labels(ones, ones[:1])


def test_figures_of_objects_pooled_and_averaged() -> None:
    truth = np.array([[1, 0, 2, 0, 3]])
    images = [
        object_figures(np.array([[1, 0, 2, 0, 0]]), truth, [0.5]),
        object_figures(truth, truth * (truth == 1), [0.5]),
    ]
    expected = {"ap": 2 / 3, "ap50": 2 / 3, "f1_50": 0.8, "tp50": 2, "fp50": 0, "fn50": 1, "precision50": 1.0, "recall50": 2 / 3}
    assert images[0].items() >= expected.items()
    pooled = pool_objects(images)
    assert (pooled["tp50"], pooled["fp50"], pooled["fn50"], pooled["images"]) == (3, 2, 1, 2)
    assert (pooled["ap50"], pooled["f1_50"]) == (0.5, 6 / 9)
    assert pooled["mean_ap50"] == pytest.approx((2 / 3 + 1 / 3) / 2)
    assert pooled["mean_f1_50"] == pytest.approx((0.8 + 0.5) / 2)
    assert pool_objects([]) == {"images": 0}


def test_panoptic_quality_and_aji_worked_out_by_hand() -> None:
    truth, prediction = np.zeros((2, 4, 12), np.int32)
    truth[:, 0:4], truth[:, 5:7], truth[0, 8], truth[3, 11] = 1, 2, 3, 4  # 16, 8, 1 and 1 pixels
    prediction[:, 1:4], prediction[0:2, 5:7], prediction[2:4, 5:7], prediction[0, 8:12] = 1, 2, 3, 4
    figures = object_figures(prediction, truth)  # IoU 12/16, 4/8 twice, 1/4
    assert (figures["matched"], figures["sq"]) == (1, 0.75)
    assert figures["pq"] == 0.75 / (1 + 3 / 2 + 3 / 2)
    shared, union = jaccard_counts(match_labels(prediction, truth))
    assert (shared, union) == (12 + 4 + 1, 16 + 8 + 4 + 1 + 4)  # one of the halves, the lone true pixel, the other half
    assert figures["aji"] == shared / union
    pooled = pool_objects([figures, object_figures(truth, truth)])
    assert pooled["pq"] == pytest.approx(2 * (0.75 + 4) / (8 + 8))
    assert pooled["aji"] == (17 + 26) / (33 + 26)
    assert pooled["mean_pq"] == pytest.approx((figures["pq"] + 1) / 2)


def test_merged_and_split_objects_are_counted() -> None:
    truth = np.array([[1, 1, 1, 2, 2, 2, 0, 3, 3, 3, 3, 0, 4, 4]])
    prediction = np.array([[5, 5, 5, 5, 5, 0, 0, 6, 6, 7, 7, 0, 8, 8]])
    figures = object_figures(prediction, truth)
    assert (figures["merged"], figures["split"]) == (2, 2)
    assert match_labels(prediction, truth).holders.tolist() == [0, 0, -1, 3]  # exactly half is not more than half
    swapped = object_figures(truth, prediction)
    assert (swapped["merged"], swapped["split"]) == (2, 2)
    assert (object_figures(truth, truth)["merged"], object_figures(truth, truth)["split"]) == (0, 0)


@given(small_labels, small_labels)
def test_qualities_stay_in_their_range_and_are_1_for_the_truth_itself(prediction: np.ndarray, truth: np.ndarray) -> None:
    figures, own = object_figures(prediction, truth), object_figures(truth, truth)
    assert own["pq"] == own["aji"] == own.get("sq", 1.0) == 1.0
    assert 0 <= figures["aji"] <= 1
    assert figures["pq"] <= min(figures["f1_50"], figures.get("sq", 0.0)) or figures["pq"] == 1.0
    assert figures["merged"] <= figures["true"]
    assert figures["split"] <= figures["predicted"]


def brute_force_pairs(truth: np.ndarray, gap: int) -> list[list[int]]:
    places = {i: np.argwhere(truth == i) for i in np.unique(truth) if i}
    return [
        [int(a), int(b)]
        for a, b in itertools.combinations(places, 2)
        if ((places[a][:, None] - places[b][None]) ** 2).sum(axis=2).min() <= (gap + 1) ** 2
    ]


@given(small_labels, st.integers(0, 4))
def test_close_pairs_equal_brute_force(truth: np.ndarray, gap: int) -> None:
    assert close_pairs(truth, gap).tolist() == brute_force_pairs(truth, gap)


def test_pairs_that_nearly_touch_and_are_merged() -> None:
    truth = np.array([[7, 7, 0, 9, 9, 9, 0, 0, 0, 300, 300]], np.uint16)  # 7 and 9 are one pixel apart, 9 and 300 three
    assert close_pairs(truth).tolist() == [[7, 9]]
    assert close_pairs(truth, 3).tolist() == [[7, 9], [9, 300]]
    assert close_pairs(truth, 0).tolist() == []
    both = np.array([[1, 1, 1, 1, 1, 0, 0, 0, 0, 2, 2]])
    half = np.array([[1, 1, 1, 1, 0, 0, 0, 0, 0, 2, 2]])  # holds a third of 9
    assert merged_pairs(both, truth) == PairCounts(1, 1)
    assert merged_pairs(half, truth) == merged_pairs(truth, truth) == PairCounts(1, 0)
    assert merged_pairs(np.zeros_like(truth), truth, 3) == PairCounts(2, 0)
    assert merged_pairs(np.ones_like(truth), truth, 3).share == 1.0
    assert PairCounts(0, 0).share == 0.0
    with pytest.raises(UsageError, match="0 or more"):
        close_pairs(truth, -1)


def test_shares_are_not_off_by_a_rounding() -> None:
    """As 1 - 4/5 they would be."""
    assert PairCounts(5, 1).share == 0.2
    assert class_scores(np.array([[0, 1, 1, 1, 1]]), np.ones((1, 5), int), 2).pixel_error == 0.2


def test_merged_pairs_of_a_set_are_added() -> None:
    truth = np.array([[1, 0, 2, 0, 3]])
    images = [pair_figures(np.array([[1, 1, 1, 0, 2]]), truth, 1), pair_figures(truth * 0, truth * 0, 1)]
    assert images == [{"merged_share": 0.5, "pairs": 2, "merged_pairs": 1}, {"pairs": 0, "merged_pairs": 0}]
    images.append(pair_figures(truth, truth, 3))
    pooled = {"merged_share": 0.2, "pairs": 5, "merged_pairs": 1, "mean_merged_share": 0.25}
    assert pool_pairs(images) == pytest.approx(pooled)
    assert pool_pairs([]) == {"pairs": 0, "merged_pairs": 0}


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
def test_masks_of_0_and_255_are_classes_0_and_1(dtype: type) -> None:
    assert as_classes(np.array([[0, 255, 255]], dtype)).tolist() == [[0, 1, 1]]
    for values in ([0, 1, 2], [0, 254, 255], [0, 0, 0], [0, 255, 300], [1, 255, 255]):
        if max(values) <= np.iinfo(dtype).max:
            assert as_classes(np.array([values], dtype)).tolist() == [values]
    assert as_classes(np.array([True, False])).tolist() == [True, False]
    assert as_classes(np.zeros((0, 3), dtype)).shape == (0, 3)


def test_the_mean_over_thresholds() -> None:
    truth = np.ones((1, 10), np.uint8)
    figures = object_figures((np.arange(10)[None] < 7).astype(np.uint8), truth)
    assert figures["ap"] == pytest.approx(0.5)  # 0.5 to 0.7 of ten thresholds
    assert figures["ap70"] == 1.0
    assert figures["ap75"] == 0.0


def test_classes_worked_out_by_hand() -> None:
    truth = np.array([[0, 0, 1, 1], [0, 0, 1, 2]])
    prediction = np.array([[0, 0, 0, 1], [0, 1, 1, 1]])
    scores = class_scores(prediction, truth, 4)
    assert scores.iou.tolist()[:3] == [3 / 5, 2 / 5, 0.0]
    assert scores.dice.tolist()[:3] == [6 / 8, 4 / 7, 0.0]
    assert np.isnan(scores.iou[3])
    assert np.isnan(scores.dice[3])
    assert scores.pixel_error == 3 / 8
    figures = class_figures(scores, ["ground", "cell", "border", "other"])
    assert figures["iou"] == pytest.approx(1 / 3)
    assert (figures["iou_cell"], figures["true_ground"], "iou_other" in figures) == (2 / 5, 4, False)


def test_bool_masks_and_ignored_pixels() -> None:
    truth = np.array([[0, 1, 255, 255]], np.uint8)
    scores = class_scores(np.array([[False, True, True, False]]), truth, 2, ignore=255)
    assert scores.iou.tolist() == [1.0, 1.0]
    assert scores.pixel_error == 0.0
    with pytest.raises(InputError, match="truth holds 255"):
        class_scores(truth // 255, truth, 2)


@given(small_labels, small_labels)
def test_class_scores_equal_their_definition(prediction: np.ndarray, truth: np.ndarray) -> None:
    scores = class_scores(prediction, truth, 5)
    for number in range(5):
        p, t = prediction == number, truth == number
        if (p | t).any():
            assert scores.iou[number] == (p & t).sum() / (p | t).sum()
            assert scores.dice[number] == 2 * (p & t).sum() / (p.sum() + t.sum())
    assert scores.pixel_error == pytest.approx((prediction != truth).mean())


def test_figures_of_classes_pooled_and_averaged() -> None:
    zeros, ones = np.zeros((1, 4), np.uint8), np.ones((1, 4), np.uint8)
    images = [class_figures(class_scores(p, t, 2)) for p, t in ((zeros, zeros), (np.array([[0, 1, 1, 1]]), ones))]
    pooled = pool_classes(images)
    assert (pooled["iou_0"], pooled["iou_1"], pooled["pixel_error"]) == (4 / 5, 3 / 4, 1 / 8)
    assert (pooled["mean_iou_0"], pooled["mean_iou_1"], pooled["mean_pixel_error"]) == (0.5, 0.75, 1 / 8)
    assert pool_classes([])["images"] == 0


def test_sums_and_means_skip_what_an_image_lacks() -> None:
    images = [{"a": 1.0, "b": 3.0}, {"a": 2.0}]
    assert add_figures(images) == {"a": 3.0, "b": 3.0}
    assert mean_figures(images) == {"mean_a": 1.5, "mean_b": 3.0}
