"""Evaluation through the command line: folders of small images against their truths."""

from __future__ import annotations

import csv
import re

import numpy as np
import pytest

from tests.cli.kit import blobs, done, load, picture, refused, save


def main_table(result):
    """The cells of each row of the first table, by its first cell."""
    rows = [re.split(r"  +", line) for line in result.out.split("\n\n")[0].splitlines()]
    return {row[0]: row[1:] for row in rows}


@pytest.fixture
def judged(folder):
    """Truths of three images, one in a folder of its own, and predictions: right, half right, nothing found."""
    truth = blobs(64, 80).astype(np.uint16)
    half = np.where(truth % 2 == 0, truth, 0).astype(np.uint16)
    for name, prediction in (("a", truth), ("b", half), ("sub/c", np.zeros_like(truth))):
        save(f"truth/{name}.tif", truth), save(f"found/{name}.png", prediction)
    (folder / "truth/notes.txt").write_text("not an image")
    return folder


def test_a_file_equal_to_its_truth_is_perfect(i2i, judged):
    result = done(i2i("eval", "segment", "found/a.png", "truth/a.tif"))
    rows = main_table(result)
    assert rows["metric"] == ["value"] and rows["ap50"] == rows["f1_50"] == rows["pq"] == ["1.0000"] and "fn50" not in rows
    assert not any(name.startswith("mean_") for name in rows)
    assert main_table(done(i2i("eval", "segment", "found/a.png", "truth/a.tif", "--verbose")))["fn50"] == ["0"]


def test_eval_shows_the_figures_that_are_asked_for_most(i2i, judged):
    shown = done(i2i("eval", "segment", "found", "truth"))
    names = "metric images ap ap50 f1_50 precision50 recall50 pq sq aji merged split"
    assert list(main_table(shown)) == names.split()
    assert len(shown.out.splitlines()) == 12 + 1 + 11
    every = done(i2i("eval", "segment", "found", "truth", "-v"))
    assert {"tp50", "pairs", "merged_pairs", "aji_union"} <= set(main_table(every))
    save("near.png", np.array([[1, 1, 0, 2, 2]], np.uint8)), save("joined.png", np.ones((1, 5), np.uint8))
    assert main_table(done(i2i("eval", "segment", "joined.png", "near.png")))["merged_share"] == ["1.0000"]
    save("c.png", (load("truth/a.tif") > 0).astype(np.uint8))
    assert "dice" in done(i2i("eval", "segment", "c.png", "c.png", "--kind", "classes")).out


def test_folders_are_matched_by_name_and_pooled(i2i, judged):
    given = done(i2i("eval", "segment", "found", "truth", "--json")).json
    assert list(given["images"]) == ["a", "b", "sub/c"]
    ids = np.unique(load("truth/a.tif"))[1:]
    right = len(ids) + np.count_nonzero(ids % 2 == 0)
    assert given["pooled"]["tp50"] == right and given["pooled"]["fn50"] == 3 * len(ids) - right
    assert given["images"]["sub/c"]["ap50"] == 0
    head = done(i2i("eval", "segment", "found", "truth")).out.splitlines()[0]
    assert head.split("  ")[0] == "metric" and "mean of images" in head


def test_classes_are_judged_as_such(i2i, judged):
    save("c.png", (load("truth/a.tif") > 0).astype(np.uint8))
    given = done(i2i("eval", "segment", "c.png", "c.png", "--kind", "classes", "--json")).json
    assert given["pooled"]["iou"] == given["pooled"]["dice"] == 1 and given["pooled"]["pixel_error"] == 0


def test_the_figures_of_each_image_go_to_a_table(i2i, judged, folder):
    done(i2i("eval", "segment", "found", "truth", "--csv", "figures.csv"))
    with (folder / "figures.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["image"] for row in rows] == ["a", "b", "sub/c"] and [float(row["ap50"]) for row in rows][::2] == [1, 0]
    refused_table = i2i("eval", "segment", "found", "truth", "--csv", "none/figures.csv")
    refused(refused_table, 1, "none/figures.csv", "cannot be written")


def test_what_cannot_be_compared_is_named(i2i, judged, folder):
    (folder / "found/b.png").unlink()
    refused(i2i("eval", "segment", "found", "truth"), 1, "truth/b.tif", "no prediction of that name in found", "(1 such)")
    refused(i2i("eval", "segment", "found/a.png", "truth"), 1, "found/a.png", "truth is a folder")
    refused(i2i("eval", "segment", "none.png", "truth/a.tif"), 1, "none.png: no such file")
    save("small.png", picture(10, 10)), save("rgb.png", np.stack([picture(64, 80)] * 3, 2))
    refused(i2i("eval", "segment", "small.png", "truth/a.tif"), 1, "small.png", "10 x 10", "64 x 80")
    refused(i2i("eval", "segment", "rgb.png", "truth/a.tif"), 1, "rgb.png", "3 channels")
    (folder / "empty").mkdir()
    refused(i2i("eval", "segment", "found", "empty"), 2, "empty: no image there")
    refused(i2i("eval", "segment", "a", "b", "--kind", "boxes"), 2, "--kind boxes", "labels, classes, regions")


def test_results_of_a_folder_are_judged_against_its_truths(segment, i2i, judged):
    for name in ("a", "sub/c"):
        save(f"images/{name}.png", picture(64, 80))
    save("images/b.png", picture(64, 80, seed=1))
    done(segment("images", "-q"))
    assert done(i2i("eval", "segment", "images-segment", "truth", "--json")).json["pooled"]["images"] == 3


def test_ap_and_f1_are_shown_by_threshold(i2i, judged):
    pooled = done(i2i("eval", "segment", "found", "truth", "--json")).json["pooled"]
    lines = done(i2i("eval", "segment", "found", "truth")).out.split("\n\n")[1].splitlines()
    assert re.split(r"  +", lines[0]) == ["threshold", "AP", "AP, mean", "F1", "F1, mean"]
    assert [line.split()[0] for line in lines[1:]] == ["0.5", "0.55", "0.6", "0.65", "0.7", "0.75", "0.8", "0.85", "0.9", "0.95"]
    names = ("ap75", "mean_ap75", "f1_75", "mean_f1_75")
    assert lines[6].split() == ["0.75", *(f"{pooled[name]:.4f}" for name in names)]
    one = done(i2i("eval", "segment", "found/a.png", "truth/a.tif")).out.split("\n\n")[1].splitlines()
    assert one[0].split() == ["threshold", "AP", "F1"] and one[1].split() == ["0.5", "1.0000", "1.0000"]


# ---------------------------------------------------------------------------------------------------- only some of the pixels


def test_only_pixels_inside_count_for_objects(i2i, judged):
    """Objects are restricted to the mask: what lies outside is neither missed nor invented."""
    truth, inside = load("truth/a.tif"), np.zeros((64, 80), np.uint8)
    inside[:, :40] = 200
    wrong = np.where(inside > 0, truth, np.arange(64 * 80, dtype=np.uint16).reshape(64, 80))
    save("wrong.tif", wrong), save("inside.png", inside)
    figures = done(i2i("eval", "segment", "wrong.tif", "truth/a.tif", "--inside", "inside.png", "--json")).json["pooled"]
    assert figures["ap"] == 1 and figures["true"] == len(np.unique(truth[:, :40])) - 1
    assert done(i2i("eval", "segment", "wrong.tif", "truth/a.tif", "--json")).json["pooled"]["ap"] < 0.5


def test_only_pixels_inside_count_for_classes(i2i, judged):
    for name in ("a", "b", "sub/c"):
        save(f"inside/{name}.png", np.stack([np.tile(np.arange(80) < 20, (64, 1)) * np.uint8(255)] * 3, 2))  # saved as colours
        save(f"classes/{name}.png", (load(f"truth/{name}.tif") > 0).astype(np.uint8))
        half = (load(f"truth/{name}.tif") > 0) ^ (np.arange(80) >= 20)
        save(f"halves/{name}.png", half.astype(np.uint8))
    words = ["eval", "segment", "halves", "classes", "--kind", "classes", "--json"]
    inside = done(i2i(*words, "--inside", "inside")).json["pooled"]
    assert inside["pixel_error"] == 0 and inside["true_0"] + inside["true_1"] == 3 * 64 * 20
    assert done(i2i(*words)).json["pooled"]["pixel_error"] == pytest.approx(0.75)


def test_a_mask_that_does_not_fit_is_refused(i2i, judged, folder):
    words = ["eval", "segment", "found", "truth", "--inside"]
    for name in ("a", "b"):
        save(f"inside/{name}.png", np.ones((64, 80), np.uint8))
    refused(i2i(*words, "inside"), 1, "truth/sub/c.tif: no mask of that name in inside", "(1 such)")
    refused(i2i(*words, "inside/a.png"), 1, "inside/a.png: truth is a folder", "folder of masks")
    save("inside/sub/c.png", np.ones((64, 81), np.uint8))
    refused(i2i(*words, "inside"), 1, "inside/sub/c.png: is 64 x 81, the truth c.tif 64 x 80")
    save("inside/sub/c.png", np.zeros((64, 80), np.uint8))
    refused(i2i(*words, "inside"), 1, "inside/sub/c.png", "no pixel counts")
    refused(i2i("eval", "segment", "found/a.png", "truth/a.tif", "--inside", "none.png"), 1, "none.png: no such file")


def test_masks_of_0_and_255_are_classes_0_and_1(i2i, judged):
    ones = (load("truth/a.tif") > 0).astype(np.uint8)
    save("mask.png", ones * 255), save("classes.png", ones)
    for found, true in (("mask.png", "classes.png"), ("classes.png", "mask.png"), ("mask.png", "mask.png")):
        figures = done(i2i("eval", "segment", found, true, "--kind", "classes", "--json")).json["pooled"]
        assert figures["dice_1"] == figures["iou_0"] == 1 and "true_255" not in figures


def test_pixels_to_ignore_are_not_counted(i2i, folder):
    truth = np.array([[0, 1, 1, 255, 255, 7]], np.uint8)
    save("truth.png", truth), save("found.png", np.array([[0, 1, 0, 1, 0, 7]], np.uint8))
    words = ["eval", "segment", "found.png", "truth.png", "--kind", "classes", "--json"]
    figures = done(i2i(*words, "--ignore", "255")).json["pooled"]
    assert figures["pixel_error"] == 0.25 and figures["true_7"] == 1
    save("truth.png", truth * 0 + 255)
    refused(i2i(*words, "--ignore", "255"), 1, "found.png", "no pixel counts")


@pytest.mark.parametrize("kind", ["labels", "regions"])
def test_pixels_to_ignore_are_not_counted_whatever_the_files_hold(i2i, folder, kind):
    truth = np.array([[0, 1, 1, 0, 255, 255, 255, 0, 1, 1]], np.uint8)
    save("truth.png", truth), save("found.png", np.array([[0, 1, 1, 0, 0, 1, 1, 0, 1, 1]], np.uint8))
    words = ["eval", "segment", "found.png", "truth.png", "--kind", kind, "--json", "--ignore", "255"]
    figures = done(i2i(*words)).json["pooled"]
    assert figures["ap" if kind == "labels" else "v_rand"] == 1 and figures.get("pixel_error", 0) == 0
    save("truth.png", truth * 0 + 255)
    refused(i2i(*words), 1, "found.png", "no pixel counts")


def test_a_mask_taken_for_object_ids_is_refused(i2i, judged):
    """It would be one object, and a right one as soon as half of its pixels are."""
    mask = np.where(load("truth/a.tif") > 0, 255, 0).astype(np.uint8)
    save("mask.png", mask), save("nothing.png", mask * 0)
    refused(i2i("eval", "segment", "found/a.png", "mask.png"), 1, "found/a.png", "no object ids", "--kind classes")
    done(i2i("eval", "segment", "nothing.png", "nothing.png"))


def test_ids_taken_for_classes_are_refused(i2i, folder):
    save("ids.tif", np.array([[0, 70000]], np.uint32))
    refused(i2i("eval", "segment", "ids.tif", "ids.tif", "--kind", "classes"), 1, "ids.tif", "70000", "0 .. 255")


def test_each_plane_of_a_stack_is_compared_as_an_image(i2i, folder):
    planes = [blobs(seed=seed).astype(np.uint16) for seed in range(3)]
    for number, plane in enumerate(planes):
        save(f"single/{number}.tif", plane), save(f"seen/{number}.tif", np.where(plane == number + 1, 0, plane))
    stack, seen = np.stack(planes), np.stack([load(f"seen/{number}.tif") for number in range(3)])
    save("stack.ome.tif", stack, metadata={"axes": "ZYX"}), save("seen.ome.tif", seen, metadata={"axes": "ZYX"})
    inside = np.ones(planes[0].shape, np.uint8)
    inside[:, :40] = 0
    save("inside.png", inside)
    for words in ([], ["--inside", "inside.png"]):
        found = done(i2i("eval", "segment", "seen.ome.tif", "stack.ome.tif", "--json", *words)).json
        figures = [
            done(i2i("eval", "segment", f"seen/{number}.tif", f"single/{number}.tif", "--json", *words)).json["pooled"]["tp50"]
            for number in range(3)
        ]
        assert list(found["images"]) == ["stack z=0", "stack z=1", "stack z=2"]
        assert [one["tp50"] for one in found["images"].values()] == figures and found["pooled"]["tp50"] == sum(figures)


def test_stacks_of_other_planes_are_refused(i2i, folder):
    save("stack.ome.tif", np.zeros((3, 16, 16), np.uint8), metadata={"axes": "ZYX"})
    save("flat.png", np.zeros((16, 16), np.uint8))
    refused(i2i("eval", "segment", "stack.ome.tif", "flat.png"), 1, "stack.ome.tif: holds 3 planes, the truth flat.png 1")
    refused(i2i("eval", "segment", "flat.png", "stack.ome.tif"), 1, "flat.png: holds 1 plane, the truth stack.ome.tif 3")


# -------------------------------------------------------------------------------------------------------------------- regions


@pytest.fixture
def membranes(folder):
    """Truths of two images with two cells each, as masks of 0 and 255; probabilities whose gap is closed from 0.6 on."""
    truth = np.full((32, 40), 255, np.uint8)
    truth[:, 19:21] = 0
    probability = np.where(truth > 0, 0.95, 0.2)
    probability[10:14, 19:21] = 0.55
    for name in "ab":
        save(f"truth/{name}.png", truth)
        save(f"classes/{name}.png", (probability > 0.5).astype(np.uint8))
        save(f"grey/{name}.png", np.rint(255 * probability).astype(np.uint8))
        both = np.stack([1 - probability, probability])
        save(f"bytes/{name}.tif", np.rint(255 * both).astype(np.uint8), photometric="minisblack", planarconfig="separate")
        save(f"floats/{name}.tif", both.astype(np.float32), photometric="minisblack", planarconfig="separate")
    return folder


def test_regions_of_classes_and_of_probabilities(i2i, membranes):
    def figures(folder):
        return done(i2i("eval", "segment", folder, "truth", "--kind", "regions", "--json")).json["pooled"]

    classes, grey, channels, floats = map(figures, ("classes", "grey", "bytes", "floats"))
    assert grey == channels == floats
    assert classes["split_merge_error"] == classes["warping_error"] == 8 / (2 * 32 * 40)
    assert classes["rand_error"] > 0.3 and not any(name.startswith("best_") for name in classes)
    assert {name: grey[name] for name in classes} == classes
    assert (grey["best_rand_error"], grey["best_rand_error_at"]) == (0, 0.6)
    assert figures("truth")["v_info"] == 1


def test_the_table_of_regions_shows_the_best_threshold(i2i, membranes):
    rows = main_table(done(i2i("eval", "segment", "grey", "truth", "--kind", "regions")))
    assert rows["metric"] == ["all together", "mean of images", "best", "at threshold"]
    assert rows["rand_error"][2:] == ["0.0000", "0.6"]
    scores = "pixel_error pixel_f_error rand_error warping_error split_merge_error v_rand v_info"
    assert list(rows) == ["metric", "images", *scores.split()]
    assert "best" not in main_table(done(i2i("eval", "segment", "classes", "truth", "--kind", "regions")))["metric"]


def test_another_class_can_be_the_cells(i2i, membranes):
    save("truth.png", np.where(load("truth/a.png") > 0, 2, 0).astype(np.uint8))
    words = ["eval", "segment", "truth.png", "truth.png", "--kind", "regions", "--json"]
    assert done(i2i(*words, "--foreground", "2")).json["pooled"]["foreground"] == 32 * 38
    refused(i2i(*words, "--foreground", "3"), 1, "truth.png", "class 3 (--foreground)")
    bytes_ = ["eval", "segment", "bytes/a.tif", "truth/a.png", "--kind", "regions"]
    refused(i2i(*bytes_[:3], "truth.png", "--kind", "regions", "--foreground", "2"), 1, "bytes/a.tif", "2 channels")


def test_what_are_no_probabilities_is_refused(i2i, membranes):
    save("high.tif", np.full((32, 40), 3.5, np.float32)), save("ids.tif", np.full((32, 40), 70000, np.int32))
    for name in ("high.tif", "ids.tif"):
        refused(i2i("eval", "segment", name, "truth/a.png", "--kind", "regions"), 1, name, "probabilities are")
    refused(
        i2i("eval", "segment", "truth/a.png", "grey/a.png", "--kind", "regions"), 1, "truth: grey/a.png", "no image of classes"
    )
    refused(i2i("eval", "segment", "high.tif", "truth/a.png", "--kind", "regions"), 1, "float32 from 3.5 to 3.5")


def test_python_takes_the_same_options(membranes):
    from i2i.api import evaluate

    save("inside.png", np.eye(32, 40, dtype=np.uint8))
    report = evaluate("segment", "grey/a.png", membranes / "truth/a.png", inside="inside.png", kind="regions")
    assert report.pooled["pixels"] == 32 and list(report.images) == ["a"]
