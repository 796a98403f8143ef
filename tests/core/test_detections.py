"""Detections against their truth: figures beside those of pycocotools, files, and which images and classes belong together."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from i2i.contracts import Instances
from i2i.errors import InputError
from i2i.metrics import (
    Annotations,
    checked_code,
    code_of,
    detection_figures,
    is_coco,
    label_figures,
    match_sets,
    proposal_recall,
    read_found,
    read_truth,
)

pycocotools = pytest.importorskip("pycocotools", reason="the figures are compared with those of pycocotools")
SAMPLE = Path(__file__).parents[3] / "shared/data/coco-sample"
SIZE = (240, 320)
NAMES = ["ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large"]


def write(path, held):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(held))
    return path


def text_of(code):
    return {"size": code["size"], "counts": code["counts"].decode()}


def ellipse(random, box):
    """(H, W) bool of an ellipse in a box (top, left, bottom, right), with some noise at its rim."""
    height, width = box[2] - box[0], box[3] - box[1]
    y, x = (np.mgrid[:height, :width] + 0.5) / np.array([height, width]).reshape(2, 1, 1) * 2 - 1
    mask = y**2 + x**2 < 1 + random.normal(0, 0.1, (height, width))
    mask[height // 2, width // 2] = True
    return mask


def annotation(random, box, category, **more):
    code = code_of(ellipse(random, box), box[0], box[1], SIZE)
    from pycocotools import mask

    found = mask.toBbox(code).tolist()
    return {"category_id": category, "segmentation": text_of(code), "bbox": found, "area": float(mask.area(code))} | more


def boxes_of(random, count):
    """Boxes of all sizes that COCO tells apart, as (top, left, bottom, right) in an image of ``SIZE``."""
    sides = np.exp(random.uniform(np.log(5), np.log(180), (count, 2))).astype(int)
    corners = (random.uniform(size=(count, 2)) * (np.array(SIZE) - sides)).astype(int)
    return np.concatenate([corners, corners + sides], 1).tolist()


def moved(random, box):
    """The box a little elsewhere, cut off at the image's end."""
    sides = [box[2] - box[0], box[3] - box[1]] * 2
    return [
        int(np.clip(place + random.normal(0, 0.08) * side, low, high))
        for place, side, low, high in zip(
            box, sides, (0, 0, box[0] + 2, box[1] + 2), (box[2] - 2, box[3] - 2, *SIZE), strict=True
        )
    ]


def scene(seed, images=8, categories=(1, 3, 7), crowds=True):
    """A truth with crowds, small and large objects, and detections: moved, doubled, invented, with scores that often tie.
    Ids have gaps, categories too; one image is without objects, one without detections."""
    random = np.random.default_rng(seed)
    truth, results = [], []
    for image in range(1, images + 1):
        for box in boxes_of(random, 0 if image == 2 else int(random.integers(1, 12))):
            category = int(random.choice(categories))
            crowd = int(crowds and random.uniform() < 0.15)
            truth.append(annotation(random, box, category, image_id=10 * image, iscrowd=crowd, id=len(truth) + 5))
            for _ in range(int(random.integers(0, 4))):
                guess = category if random.uniform() < 0.8 else int(random.choice(categories))
                results.append(annotation(random, moved(random, box), guess, image_id=10 * image))
        invented = boxes_of(random, int(random.integers(1, 6)))
        results += [annotation(random, box, int(random.choice(categories)), image_id=10 * image) for box in invented]
    results = [each | {"score": float(random.integers(1, 20)) / 20} for each in results if each["image_id"] != 30]
    pictures = [
        {"id": 10 * image, "file_name": f"{image}.jpg", "height": SIZE[0], "width": SIZE[1]} for image in range(1, images + 1)
    ]
    named = [{"id": number, "name": f"kind {number}"} for number in categories]
    return {"images": pictures, "annotations": truth, "categories": named}, results


def reference(truth, results, kind, most=100):
    """pycocotools' twelve figures by our names, without those that it gives as -1."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    results = copy.deepcopy(results)
    for each in results:
        each.pop("bbox" if kind == "segm" else "segmentation")
        each.pop("area", None)
    with contextlib.redirect_stdout(io.StringIO()):
        true = COCO()
        true.dataset = copy.deepcopy(truth)
        true.createIndex()
        judge = COCOeval(true, true.loadRes(results), kind)
        judge.params.maxDets = [1, 10, most]
        judge.evaluate(), judge.accumulate()
    precision, recall = judge.eval["precision"], judge.eval["recall"]
    parts = [precision[..., 0, 2], precision[0, ..., 0, 2], precision[5, ..., 0, 2]]
    parts += [precision[..., size, 2] for size in (1, 2, 3)] + [recall[..., 0, place] for place in range(3)]
    parts += [recall[..., size, 2] for size in (1, 2, 3)]
    names = [name if name != "ar100" else f"ar{most}" for name in NAMES]
    return {name: part[part > -1].mean() for name, part in zip(names, parts, strict=True) if (part > -1).any()}


def ours(tmp_path, truth, results, **options):
    true = read_truth(write(tmp_path / "truth.json", truth))
    matched = match_sets(read_found(write(tmp_path / "found.json", results), true), true, options.pop("ignore_classes", False))
    return detection_figures(matched.found, matched.true, matched.names, **options)


def of_one_class(truth, results):
    """All as class 1; with ``useCats = 0`` pycocotools would put equal scores in the order of their classes."""
    records = [[each | {"category_id": 1} for each in some] for some in (truth["annotations"], results)]
    return truth | {"annotations": records[0], "categories": [{"id": 1, "name": "any"}]}, records[1]


def assert_equal(figures, truth, results, most=100):
    for prefix, kind in (("box", "bbox"), ("mask", "segm")):
        expected = reference(truth, results, kind, most)
        found = {name.removeprefix(f"{prefix}_"): value for name, value in figures.items() if name.startswith(f"{prefix}_")}
        assert len(expected) >= 7 and set(found) - set(expected) <= {"ar100"}
        assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-9)


# -------------------------------------------------------------------------------------------------- beside pycocotools


@pytest.mark.parametrize("seed", range(6))
def test_figures_are_those_of_pycocotools(tmp_path, seed):
    truth, results = scene(seed)
    figures = ours(tmp_path, truth, results)
    assert_equal(figures, truth, results)
    assert 0.05 < figures["box_ap"] < 0.95 and figures["detections"] == len(results) and figures["images"] == 8
    assert figures["true"] == sum(not each["iscrowd"] for each in truth["annotations"]) < len(truth["annotations"])


@pytest.mark.parametrize("most", [12, 100, 300])
def test_the_cap_is_an_option(tmp_path, most):
    """An image with more objects than COCO counts."""
    random = np.random.default_rng(1)
    boxes = [[12 * y, 16 * x, 12 * y + 10, 16 * x + 14] for y in range(10) for x in range(20)]
    truth, results = scene(0, images=1, categories=(1,), crowds=False)
    truth["annotations"] = [annotation(random, box, 1, image_id=10, iscrowd=0, id=n) for n, box in enumerate(boxes, 1)]
    results = [each | {"score": 0.5 + n / 1000} for n, each in enumerate(truth["annotations"])]
    figures = ours(tmp_path, truth, results, most=most)
    assert_equal(figures, truth, results, most)
    assert figures[f"mask_ar{most}"] == pytest.approx(min(1, most / 200)) and (figures["mask_ap50"] == 1) == (most >= 200)
    assert figures.get("beyond_max_detections", 0) == max(0, 200 - most)
    assert "box_ar1000" not in figures and ("box_ar100" in figures) == (most >= 100)


def test_classes_can_be_left_out(tmp_path):
    truth, results = scene(3)
    figures = ours(tmp_path, truth, results, ignore_classes=True)
    assert_equal(figures, *of_one_class(truth, results))
    assert figures["box_ap"] != ours(tmp_path, truth, results)["box_ap"]


def test_figures_of_each_class_are_those_of_the_class_alone(tmp_path):
    truth, results = scene(4)
    figures = ours(tmp_path, truth, results)
    for number in (1, 3, 7):
        alone = copy.deepcopy(truth)
        alone["annotations"] = [each for each in truth["annotations"] if each["category_id"] == number]
        alone["categories"] = [{"id": number, "name": "x"}]
        expected = reference(alone, [each for each in results if each["category_id"] == number], "segm")
        own = {name: figures[f"class/kind {number}/mask_{name}"] for name in expected}
        assert own == pytest.approx(expected, abs=1e-9)
    single = ours(tmp_path, alone, [each for each in results if each["category_id"] == 7])
    assert not any(name.startswith("class/") for name in single)


@pytest.mark.skipif(not SAMPLE.is_dir(), reason="the data set ../shared/data/coco-sample is not there")
def test_figures_on_photographs_are_those_of_pycocotools(tmp_path):
    """83 photographs, 71 classes, polygons and crowds; detections are other objects' and moved masks."""
    from faster_coco_eval.core import mask
    from pycocotools.coco import COCO

    path, random = SAMPLE / "train/instances.json", np.random.default_rng(0)
    truth, results = json.loads(path.read_text()), []
    with contextlib.redirect_stdout(io.StringIO()):
        known = COCO(str(path))
    for each in truth["annotations"]:
        if random.uniform() < 0.9:
            shift = int(random.integers(0, 1 + int(each["bbox"][2]) // 8))
            code = mask.encode(np.asfortranarray(np.roll(mask.decode(known.annToRLE(each)), shift, axis=1)))
            score = round(float(random.uniform()), 1)
            given = {"segmentation": text_of(code), "bbox": mask.toBbox(code).tolist(), "score": score}
            results.append(given | {name: each[name] for name in ("image_id", "category_id")})
    figures = ours(tmp_path, truth, results)
    assert_equal(figures, truth, results)
    assert (figures["images"], figures["true"]) == (83, 619 - 6) and 0.2 < figures["mask_ap"] < 0.95
    assert ours(tmp_path, truth, truth | {"annotations": results}) == figures


def test_a_set_is_perfect_against_itself_and_nothing_found_is_nought(tmp_path):
    truth, _ = scene(5, crowds=False)
    figures = ours(tmp_path, truth, truth)
    assert {figures[name] for name in ("box_ap", "box_ap50", "box_ap_small", "mask_ap", "mask_ap75", "mask_ar100")} == {1}
    nothing = ours(tmp_path, truth, [])
    assert nothing["box_ap"] == nothing["mask_ap"] == nothing["mask_ar100"] == 0 and nothing["detections"] == 0


def test_boxes_alone_have_no_figures_of_masks(tmp_path):
    truth, results = scene(0)
    for each in results:
        del each["segmentation"]
    figures = ours(tmp_path, truth, results)
    assert not any(name.startswith("mask_") for name in figures)
    expected = reference(truth, [each | {"segmentation": []} for each in results], "bbox")
    assert figures["box_ap"] == pytest.approx(expected["ap"], abs=1e-9)


def test_scores_that_are_no_numbers_are_refused():
    one = Annotations.of_labels(np.eye(4, dtype=np.uint8))
    with pytest.raises(InputError, match="not a finite number"):
        detection_figures([replace(one, scores=np.array([np.nan]))], [one])


def test_more_pairs_than_memory_holds_are_refused():
    many = 20_000
    boxes, ones = np.ones((many, 4)), np.ones(many)
    each = Annotations(boxes, ones.astype(np.int64), ones, ones, np.zeros(many, bool))
    with pytest.raises(InputError, match="compare label images"):
        detection_figures([each], [each], most=many)


# ---------------------------------------------------------------------------------------------------------------- recall


def test_recall_of_proposals_is_that_of_pycocotools():
    truth, results = scene(7, images=12)
    random = np.random.default_rng(0)
    results += [annotation(random, box, 1, image_id=50, score=0.4) for box in boxes_of(random, 150)]
    corners = {"true": {image["id"]: [] for image in truth["images"]}, "found": {image["id"]: [] for image in truth["images"]}}
    scores = {image["id"]: [] for image in truth["images"]}
    for each in truth["annotations"]:
        x, y, w, h = each["bbox"]
        if not each["iscrowd"]:
            corners["true"][each["image_id"]].append([x, y, x + w, y + h])
    for each in results:
        x, y, w, h = each["bbox"]
        corners["found"][each["image_id"]].append([x, y, x + w, y + h])
        scores[each["image_id"]].append(each["score"])
    given = [[np.array(part[name]).reshape(-1, 4) for name in scores] for part in (corners["found"], corners["true"])]
    ranks = [np.array(score) for score in scores.values()]
    figures = proposal_recall(given[0], ranks, given[1])
    for limit in (10, 100, 1000):
        expected = reference(*of_one_class(truth, results), "bbox", limit)
        assert figures[f"ar{limit}"] == pytest.approx(expected[f"ar{limit}"], abs=1e-9)
    assert 0.2 < figures["ar10"] < figures["ar1000"] <= figures["recall50_1000"]
    turned = [[each[:, [1, 0, 3, 2]] for each in part] for part in given]
    assert proposal_recall(turned[0], ranks, turned[1]) == pytest.approx(figures)


def test_recall_by_hand():
    """Two true boxes: one met exactly by the second best proposal, one with an IoU of 0.6 by the third."""
    truth = np.array([[0, 0, 10, 10], [20, 20, 30, 30]])
    boxes = np.array([[0, 0, 10, 10], [50, 50, 60, 60], [20, 20, 30, 26]])
    figures = proposal_recall([boxes], [np.array([0.5, 0.9, 0.1])], [truth], limits=(1, 2, 3))
    assert [figures[f"recall50_{limit}"] for limit in (1, 2, 3)] == [0, 0.5, 1]
    assert [figures[f"ar{limit}"] for limit in (1, 2, 3)] == pytest.approx([0, 0.5, 0.5 + 0.5 * 0.3])
    nothing = np.zeros((0, 4))
    assert proposal_recall([nothing], [np.zeros(0)], [truth])["ar1000"] == 0
    assert "ar10" not in proposal_recall([boxes], [np.ones(3)], [nothing])


# ------------------------------------------------------------------------------------------------------------------ masks


def mask_of_runs(runs, size):
    """Compressed as they are, empty ones too."""
    from faster_coco_eval.core import mask

    return text_of(mask.frPyObjects({"size": list(size), "counts": runs}, *size))


@settings(deadline=None, max_examples=60)
@given(
    hnp.arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))), st.integers(0, 40), st.integers(0, 300), st.integers(0, 3)
)
def test_codes_are_those_of_the_whole_mask(mask, top, left, below):
    from pycocotools import mask as masks

    size = (top + mask.shape[0] + below, left + mask.shape[1])
    whole = np.zeros(size, np.uint8)
    whole[top : top + mask.shape[0], left:][:, : mask.shape[1]] = mask
    code = code_of(mask, top, left, size)
    assert code == masks.encode(np.asfortranarray(whole))
    assert checked_code(text_of(code), size) == code
    runs = np.diff(np.flatnonzero(np.diff(whole.T.ravel(), prepend=0, append=2)), prepend=0).tolist()
    assert checked_code({"size": list(size), "counts": runs}, size) == code
    with_empty_ones = [each for run in runs for each in (run, 0, 0)]
    assert checked_code({"size": list(size), "counts": with_empty_ones}, size) == code
    assert checked_code(mask_of_runs(with_empty_ones, size), size) == code


def test_codes_of_slides_need_no_array_of_their_size():
    code = code_of(np.ones((100, 80), bool), 89_000, 99_000, (90_000, 100_000))
    assert checked_code(text_of(code), (90_000, 100_000)) == code
    from faster_coco_eval.core import mask

    assert mask.area(code) == 8000 and mask.toBbox(code).tolist() == [99_000, 89_000, 80, 100]


def test_polygons_are_filled_as_pycocotools_does():
    from pycocotools import mask

    polygons = [[2.5, 3, 30, 4.5, 20, 28.2], [40, 2, 60.5, 2, 60.5, 20, 40, 20]]
    expected = mask.merge(mask.frPyObjects(polygons, 50, 70))
    assert checked_code(polygons, (50, 70)) == expected and mask.area(expected) > 500


@pytest.mark.parametrize(
    ("segmentation", "reason"),
    [
        (None, "neither polygons nor runs"),
        ("abc", "neither polygons nor runs"),
        ([], "neither polygons nor runs"),
        ([[]], "fewer than three corners"),
        ([[1, 1, 2, 2]], "fewer than three corners"),
        ([[1, 1, 2, 2, 3, 1, 4]], "half a corner"),
        ([[1, 1, 2, float("nan"), 3, 1]], "far outside"),
        ([[1, 1, 2, 1e12, 3, 1]], "far outside"),
        ([["a"]], "no lists of numbers"),
        ({"size": [6, 5], "counts": [30]}, "of size"),
        ({"counts": [30]}, "of size"),
        ({"size": [5, 6], "counts": [29]}, "do not add up"),
        ({"size": [5, 6], "counts": [40, -10]}, "do not add up"),
        ({"size": [5, 6], "counts": [1.5, 28.5]}, "no whole numbers"),
        ({"size": [5, 6], "counts": [[1], [2, 3]]}, "no whole numbers"),
        ({"size": [5, 6]}, "no whole numbers"),
        ({"size": [5, 6], "counts": ""}, "damaged"),
        ({"size": [5, 6], "counts": "\xff\xffab~~~~"}, "damaged"),
        ({"size": [5, 6], "counts": "oooooooooo0"}, "damaged"),
        ({"size": [5, 6], "counts": "o"}, "damaged"),
        ({"size": [5, 6], "counts": "0Z1"}, "do not add up"),
    ],
)
def test_damaged_masks_are_refused_before_the_library_sees_them(segmentation, reason):
    """With some of these it does not end, or asks for all memory."""
    with pytest.raises(ValueError, match=reason):
        checked_code(segmentation, (5, 6))


def test_objects_of_label_images_are_those_of_a_detector():
    labels = np.zeros((20, 30), np.uint16)
    labels[2:6, 3:9], labels[10:12, 20:30], labels[4:5, 3:5] = 7, 300, 0
    found = Annotations.of_labels(labels)
    assert found.boxes.tolist() == [[3, 2, 6, 4], [20, 10, 10, 2]] and found.areas.tolist() == [22, 20]
    assert set(found.scores) == set(found.classes) == {1} and not found.crowds.any() and found.masks
    from faster_coco_eval.core import mask

    np.testing.assert_array_equal(mask.decode(list(found.masks)).transpose(2, 0, 1), [labels == 7, labels == 300])
    masks = (labels[2:6, 3:9] == 7, labels[10:12, 20:30] == 300)
    boxes = np.array([[2, 3, 6, 9], [10, 20, 12, 30]])
    same = Annotations.of_instances(Instances(boxes, np.ones(2, np.float32), np.ones(2, np.int64), masks), (20, 30))
    assert same.masks == found.masks and same.boxes.tolist() == found.boxes.tolist()
    assert len(Annotations.of_labels(labels * 0)) == 0 and len(Annotations.of_labels(labels * 0 + 3)) == 1


# ------------------------------------------------------------------------------------------------------------------ files


@pytest.fixture
def given_files(tmp_path):
    """``truth.json`` of two images with two classes, and its records to change."""
    truth, results = scene(8, images=4, categories=(2, 9))
    write(tmp_path / "truth.json", truth)
    return tmp_path, truth, results


def figures_of(folder, found, **options):
    true = read_truth(folder / "truth.json")
    matched = match_sets(read_found(found, true), true, **options)
    return detection_figures(matched.found, matched.true, matched.names), matched


def test_results_a_data_set_and_a_folder_of_these_are_one(given_files):
    """Images are matched by name, classes too, whatever numbers they have."""
    folder, truth, results = given_files
    expected, _ = figures_of(folder, write(folder / "results.json", results))
    categories = [{"id": 1, "name": "kind 9"}, {"id": 2, "name": "kind 2"}, {"id": 3, "name": "kind of cat"}]
    other = {2: 2, 9: 1}
    for image in truth["images"]:
        own = [each | {"category_id": other[each["category_id"]]} for each in results if each["image_id"] == image["id"]]
        held = {
            "images": [image | {"id": 1, "file_name": image["file_name"].replace(".jpg", ".ome.tif")}],
            "annotations": [each | {"image_id": 1, "id": place, "area": 1} for place, each in enumerate(own, 1)],
            "categories": categories,
        }
        write(folder / f"found/sub/{image['id']}.json", held)
    assert is_coco(folder / "found") and is_coco(folder / "truth.json") and not is_coco(folder / "truth.png")
    figures, matched = figures_of(folder, folder / "found")
    assert figures == expected and matched.left_out == 0 and matched.names == {2: "kind 2", 9: "kind 9"}


def test_images_of_one_name_are_told_apart_by_their_folders(given_files):
    folder, truth, results = given_files
    truth["images"] = [
        image | {"file_name": f"{'ab'[place % 2]}/x{place // 2}.png"} for place, image in enumerate(truth["images"])
    ]
    write(folder / "truth.json", truth)
    expected, _ = figures_of(folder, write(folder / "results.json", results))
    for image in truth["images"]:
        own = [each for each in results if each["image_id"] == image["id"]]
        alone = image | {"file_name": Path(image["file_name"]).name}  # as i2i writes it
        held = {"images": [alone], "annotations": own, "categories": truth["categories"]}
        write((folder / "found" / image["file_name"]).with_suffix(".json"), held)
    assert figures_of(folder, folder / "found")[0] == expected
    flat = {"images": [image | {"file_name": Path(image["file_name"]).name} for image in truth["images"]]}
    with pytest.raises(InputError, match="several images named x0"):
        figures_of(folder, write(folder / "flat.json", truth | flat))


def test_classes_that_the_truth_does_not_have_are_left_out_and_counted(given_files):
    folder, truth, results = given_files
    expected, _ = figures_of(folder, write(folder / "a.json", results))
    stranger = results[0] | {"category_id": 50, "score": 1.0}
    more = truth | {"annotations": [*results, stranger], "categories": [*truth["categories"], {"id": 50, "name": "dog"}]}
    figures, matched = figures_of(folder, write(folder / "b.json", more))
    assert figures == expected and matched.left_out == 1
    only = more | {"annotations": [stranger]}
    with pytest.raises(
        InputError, match=r"c.json: its categories .*dog.* none of the truth's \(kind 2, kind 9\).*--ignore-classes"
    ):
        figures_of(folder, write(folder / "c.json", only))
    assert figures_of(folder, folder / "c.json", ignore_classes=True)[1].left_out == 0


def test_single_classes_are_one_whatever_they_are_called(given_files):
    folder, truth, _ = given_files
    truth["annotations"] = [each | {"category_id": 2, "iscrowd": 0} for each in truth["annotations"]]
    write(folder / "truth.json", truth | {"categories": [{"id": 2, "name": "nuclei"}]})
    found = [each | {"category_id": 1} for each in truth["annotations"]]
    held = truth | {"annotations": found, "categories": [{"id": 1, "name": "nucleus"}]}
    assert figures_of(folder, write(folder / "a.json", held))[0]["mask_ap"] == 1
    assert figures_of(folder, write(folder / "b.json", held | {"categories": []}))[0]["mask_ap"] == 1


def test_label_images_stand_for_objects_without_a_class(given_files):
    folder, truth, _ = given_files
    labels = {image["id"]: np.zeros(SIZE, np.uint16) for image in truth["images"]}
    boxes = [[20, 30, 60, 90], [100, 200, 140, 230]]
    truth["annotations"] = []
    for image, (top, left, bottom, right), number in zip((10, 10, 20), [*boxes, boxes[0]], (4, 9, 2), strict=True):
        labels[image][top:bottom, left:right] = number
        code = code_of(np.ones((bottom - top, right - left), bool), top, left, SIZE)
        truth["annotations"].append(
            {"id": number, "image_id": image, "category_id": 9 if number == 9 else 2, "segmentation": text_of(code)}
        )
    write(folder / "truth.json", truth)
    (folder / "labels").mkdir()
    for image, pixels in labels.items():
        tifffile.imwrite(folder / f"labels/{image // 10}.ome.tif", pixels)
    figures, matched = figures_of(folder, folder / "labels")
    assert figures["mask_ap"] == figures["box_ap"] == 1 and figures["true"] == 3 and not matched.names
    true = read_truth(folder / "labels")
    back = match_sets(read_found(folder / "truth.json", true), true)
    assert detection_figures(back.found, back.true)["mask_ap"] == 1
    tifffile.imwrite(folder / "labels/1.ome.tif", labels[10][:-1])
    with pytest.raises(InputError, match=r"labels: .*1.ome.tif is 239 x 320, in the truth 240 x 320"):
        figures_of(folder, folder / "labels")
    tifffile.imwrite(folder / "labels/1.ome.tif", (labels[10] > 0).astype(np.uint8) * 255)
    with pytest.raises(InputError, match=r"1.ome.tif: the label image holds 0 and 255 alone"):
        figures_of(folder, folder / "labels")


def _refused(folder, held, words, name="found.json"):
    with pytest.raises(InputError, match=words) as caught:
        figures_of(folder, write(folder / name, held))
    assert name in str(caught.value) and "\n" not in str(caught.value)


def test_what_is_no_coco_json_is_refused(given_files):
    folder, truth, results = given_files
    for held in ({}, [1], {"images": []}, [{"bbox": []}], 7, {"images": {}, "annotations": []}):
        _refused(folder, held, "neither a COCO data set .* nor a list of COCO results")
    (folder / "found.json").write_text('{"images": [')
    with pytest.raises(InputError, match=r"found.json: not JSON, or cut off"):
        figures_of(folder, folder / "found.json")
    with pytest.raises(InputError, match=r"none.json: no such file"):
        figures_of(folder, folder / "none.json")
    _refused(folder, truth | {"images": [{"height": 3}]}, "an image without id")
    with pytest.raises(InputError, match=r"results.json: is a list of results; the truth is a COCO data set"):
        read_truth(write(folder / "results.json", results))
    with pytest.raises(InputError, match=r"empty.json: the truth holds no object"):
        read_truth(write(folder / "empty.json", truth | {"annotations": []}))
    write(folder / "many/a.json", results)
    with pytest.raises(InputError, match=r"a.json: is a list of results; a folder is to hold COCO data sets"):
        figures_of(folder, folder / "many")
    (folder / "nothing").mkdir()
    with pytest.raises(InputError, match="nothing: holds neither COCO JSON nor label images"):
        figures_of(folder, folder / "nothing")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"score": float("nan")}, "annotation number 3: its score is 'nan', no finite number"),
        ({"score": "high"}, "annotation number 3: its score is 'high'"),
        ({"category_id": 77}, "annotation number 3: category 77 is unknown; there are 2, 9"),
        ({"image_id": 99}, "annotation number 3: there is no image 99"),
        ({"bbox": [1, 2, 3]}, "annotation number 3: its box"),
        ({"bbox": {"x": 1}}, "annotation number 3: its box"),
        ({"bbox": [1, 2, -3, 4]}, "annotation number 3: its box"),
        ({"segmentation": {"size": [9, 9], "counts": "0"}}, r"its mask is of size \[9, 9\], the image of \[240, 320\]"),
        ({"segmentation": None}, "annotation number 3: its segmentation is neither"),
        ({"area": float("inf")}, "its area is 'inf'"),
    ],
)
def test_a_damaged_record_is_named(given_files, changes, words):
    folder, _, results = given_files
    results[2] = results[2] | changes
    _refused(folder, results, words)


def test_what_a_record_lacks_is_named(given_files):
    folder, truth, results = given_files
    _refused(folder, [{"image_id": 10, "category_id": 2, "score": 1}], "annotation number 1: it has no bbox")
    _refused(folder, [results[0] | {"id": 4}, {k: v for k, v in results[1].items() if k != "score"}], "needs a score in each")
    half = [{k: v for k, v in each.items() if k != "score" or place} for place, each in enumerate(results)]
    _refused(folder, truth | {"annotations": half}, "annotation number 1: it has no score")
    bare = [{"id": image["id"], "file_name": image["file_name"]} for image in truth["images"]]
    _refused(folder, truth | {"images": bare, "annotations": results}, "it has a mask, but its image no height and width")


def test_images_that_match_none_are_named(given_files):
    folder, truth, results = given_files
    other = [image | {"file_name": f"photo {image['id']}.jpg"} for image in truth["images"]]
    _refused(folder, truth | {"images": other, "annotations": results}, r"no prediction for the image 1.jpg of .*\(4 such\)")
    _refused(folder, truth | {"images": [*other[:1], *truth["images"][1:]]}, r"1.jpg of .*\(1 such\)")
    small = [image | {"height": 241} for image in truth["images"]]
    plain = [{k: v for k, v in each.items() if k != "segmentation"} for each in results]
    _refused(folder, truth | {"images": small, "annotations": plain}, "1.jpg is 241 x 320, in the truth 240 x 320")


def test_one_prediction_is_not_that_of_two_images(given_files):
    folder, truth, results = given_files
    truth["images"] = [image | {"file_name": f"{image['id']}/x.png"} for image in truth["images"]]
    write(folder / "truth.json", truth)
    one = truth["images"][:1]
    held = truth | {"images": one, "annotations": [each for each in results if each["image_id"] == one[0]["id"]]}
    more = held | {"images": [*one, {"id": 77, "file_name": "y.png"}]}
    _refused(folder, more, r"10/x.png is the only prediction for 10/x.png and 20/x.png of .*; give each its own")


def test_images_of_one_id_are_refused(given_files):
    folder, truth, _ = given_files
    twice = [*truth["images"], truth["images"][0] | {"file_name": "other.jpg"}]
    _refused(folder, truth | {"images": twice}, "several images have one id; number them apart")


def test_json_may_begin_with_a_mark_of_its_encoding(given_files):
    folder, _, results = given_files
    (folder / "marked.json").write_text(json.dumps(results), encoding="utf-8-sig")
    assert figures_of(folder, folder / "marked.json")[0] == figures_of(folder, write(folder / "plain.json", results))[0]


@pytest.mark.parametrize("name", ["labels/1.ome.zarr", "labels"])
def test_a_store_is_one_image_though_json_is_in_it(tmp_path, name):
    from i2i.contracts import Metadata
    from i2i.formats import builtin_formats, format_for_output
    from i2i.formats.views import ArraySource

    labels = np.zeros((20, 30), np.uint16)
    labels[2:6, 3:9] = 7
    path = tmp_path / "labels/1.ome.zarr"
    path.parent.mkdir()
    form = format_for_output(path, builtin_formats())
    form.write(path, ArraySource(labels), Metadata("labels", {}, "00"))
    assert list(path.rglob("*.json")) and not is_coco(tmp_path / name)
    found = read_truth(tmp_path / name)
    assert list(found.sizes.values()) == [(20, 30)] and [len(each) for each in found.objects.values()] == [1]


def test_figures_of_label_images_are_those_of_objects():
    labels = np.zeros((9, 9, 1), np.uint16)
    labels[1:4, 1:4], labels[5:8, 5:8] = 1, 2
    inside = np.zeros((9, 9), bool)
    inside[:4] = True
    assert label_figures(labels, labels)["true"] == 2 and label_figures(labels, labels, inside)["true"] == 1
    with pytest.raises(InputError, match="object ids: number its objects, or so"):
        label_figures(labels, (labels > 0).astype(np.uint8) * 255, otherwise=", or so")
    with pytest.raises(InputError, match="prediction has 2 channels; labels have one"):
        label_figures(np.concatenate([labels, labels], 2), labels)


@pytest.mark.skipif(not SAMPLE.is_dir(), reason="the data set ../shared/data/coco-sample is not there")
def test_label_images_with_records_become_coco_json(tmp_path):
    """The script, on the test images of the data set: pycocotools reads the same pixels."""
    from faster_coco_eval.core import mask
    from pycocotools.coco import COCO

    script, out = Path(__file__).parents[2] / "benchmarks/coco_sample.py", tmp_path / "persons.json"
    words = [sys.executable, str(script), str(SAMPLE / "test"), str(out), "--category", "person"]
    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout == "24 images, 60 objects, 1 categories\n"
    with contextlib.redirect_stdout(io.StringIO()):
        known = COCO(str(out))
    records = {each["image"]: each["instances"] for each in json.loads((SAMPLE / "test/instances.json").read_text())}
    for image in known.imgs.values():
        people = [each for each in records[image["file_name"]] if each["category"] == "person"]
        for each, annotation in zip(people, known.loadAnns(known.getAnnIds(image["id"])), strict=True):
            assert (annotation["area"], annotation["bbox"]) == (each["pixels"], each["bbox"])
            assert mask.area(known.annToRLE(annotation)) == each["pixels"] and annotation["iscrowd"] == each["iscrowd"]
    true = read_truth(out)
    found = match_sets(read_found(SAMPLE / "test/masks", true), true)
    figures = detection_figures(found.found, found.true)
    assert figures["mask_ar100"] == pytest.approx(1) and figures["detections"] == 172
    failed = subprocess.run([*words[:-1], "dodo"], capture_output=True, text=True, check=False)
    assert failed.returncode == 1 and "no object of dodo" in failed.stderr
