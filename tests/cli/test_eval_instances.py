"""``i2i eval instances``: label images, COCO JSON, and one of each."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from i2i.metrics import Annotations
from tests.cli.kit import blobs, done, refused, save


def coco(path, labels, classes, names, score=None):
    """The objects of label images by file name as a COCO data set: those with odd numbers are of the second class."""
    images, annotations = [], []
    for number, (name, pixels) in enumerate(labels.items(), 1):
        images.append({"id": number, "file_name": name, "height": pixels.shape[0], "width": pixels.shape[1]})
        found = Annotations.of_labels(pixels)
        for place, (box, code) in enumerate(zip(found.boxes.tolist(), found.masks, strict=True)):
            segmentation = {"size": code["size"], "counts": code["counts"].decode()}
            one = {"id": len(annotations) + 1, "image_id": number, "category_id": classes[place % len(classes)], "bbox": box}
            more = {} if score is None else {"score": score + place / 100}
            annotations.append(one | {"segmentation": segmentation, "area": found.areas[place], "iscrowd": 0} | more)
    categories = [{"id": number, "name": name} for number, name in names.items()]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))


@pytest.fixture
def judged(folder):
    """Two images in ``truth`` (label images) and ``truth.json``; predictions that lack half of the objects of the second."""
    whole = {"a.png": blobs(64, 80).astype(np.uint16), "b.png": blobs(64, 80, seed=1).astype(np.uint16)}
    part = whole | {"b.png": np.where(whole["b.png"] % 2 == 0, whole["b.png"], 0)}
    for name, pixels in whole.items():
        save(f"truth/{name[0]}.tif", pixels), save(f"found/{name}", part[name])
    coco(folder / "truth.json", whole, (3, 8), {3: "cat", 8: "dog"})
    coco(
        folder / "found.json",
        whole | {"b.png": np.where(whole["b.png"] < 3, whole["b.png"], 0)},
        (1, 2),
        {1: "cat", 2: "dog"},
        0.5,
    )
    return folder


def pooled(result):
    return done(result).json["pooled"]


def test_label_images_are_judged_as_those_of_segment(i2i, judged):
    words = ["found", "truth", "--json"]
    figures = done(i2i("eval", "instances", *words)).json
    assert figures == done(i2i("eval", "segment", *words)).json and 0.5 < figures["pooled"]["ap50"] < 1
    save("left.png", np.tile(np.arange(80) < 40, (64, 1)).astype(np.uint8))
    inside = pooled(i2i("eval", "instances", "found/a.png", "truth/a.tif", "--inside", "left.png", "--json"))
    assert inside["ap"] == 1 and inside["true"] < figures["images"]["a"]["true"]


def test_coco_json_gives_the_figures_of_coco(i2i, judged):
    figures = pooled(i2i("eval", "instances", "found.json", "truth.json", "--json"))
    assert 0.5 < figures["mask_ap"] < 1 and figures["mask_ap"] == pytest.approx(figures["box_ap"]) and figures["images"] == 2
    assert figures["class/cat/mask_ap50"] > 0 and "left_out" not in figures
    shown = done(i2i("eval", "instances", "found.json", "truth.json")).out
    assert "box_ap75" in shown and "mask_ar100" in shown and "class/" not in shown and "ar_small" not in shown
    every = done(i2i("eval", "instances", "found.json", "truth.json", "-v")).out
    assert "class/dog/mask_ap" in every and "mask_ar_small" in every


def test_detections_that_count_are_limited_by_an_option(i2i, judged):
    words = ["eval", "instances", "truth.json", "truth.json", "--json"]
    assert pooled(i2i(*words))["mask_ap"] == 1
    few = pooled(i2i(*words, "--max-detections", "1"))
    assert few["beyond_max_detections"] > 0 and few["mask_ap"] < 1 and few["mask_ar1"] < 1 and "mask_ar10" not in few
    assert "mask_ar2000" in pooled(i2i(*words, "--max-detections", "2000"))


def test_classes_are_ignored_when_asked(i2i, judged):
    held = json.loads((judged / "found.json").read_text())
    held["categories"] = [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}]
    (judged / "wrong.json").write_text(json.dumps(held))
    words = ["eval", "instances", "wrong.json", "truth.json", "--json"]
    assert pooled(i2i(*words))["mask_ap"] == 0 and pooled(i2i(*words, "--ignore-classes"))["mask_ap"] > 0.5
    held["categories"][1]["name"] = "horse"
    (judged / "wrong.json").write_text(json.dumps(held))
    assert pooled(i2i(*words))["left_out"] > 0


def test_label_images_and_coco_json_can_be_compared(i2i, judged):
    figures = pooled(i2i("eval", "instances", "found", "truth.json", "--json"))
    assert 0.5 < figures["mask_ap"] < 1 and not any(name.startswith("class/") for name in figures)
    assert pooled(i2i("eval", "instances", "truth.json", "truth", "--json"))["mask_ap"] == 1
    assert pooled(i2i("eval", "instances", "truth", "truth.json", "--json"))["mask_ap"] == 1


def test_recall_of_proposals(i2i, judged):
    held = json.loads((judged / "truth.json").read_text())["annotations"]
    few = [{"image_id": each["image_id"], "category_id": 1, "bbox": each["bbox"], "score": 0.5} for each in held[::2]]
    (judged / "proposals.json").write_text(json.dumps([each | {"category_id": 3} for each in few]))
    result = done(i2i("eval", "instances", "proposals.json", "truth.json", "--proposals"))
    assert "ar1000" in result.out and "recall50_10 " in result.out
    figures = pooled(i2i("eval", "instances", "proposals.json", "truth.json", "--proposals", "--json"))
    assert figures["ar1000"] == figures["recall50_1000"] == pytest.approx(len(few) / len(held))
    assert pooled(i2i("eval", "instances", "truth", "truth", "--proposals", "--json"))["ar100"] == 1


def test_the_figures_of_a_set_are_a_row_of_the_table(i2i, judged, folder):
    done(i2i("eval", "instances", "found.json", "truth.json", "--csv", "figures.csv"))
    with (folder / "figures.csv").open(newline="") as stream:
        (row,) = csv.DictReader(stream)
    assert row["image"] == "truth" and 0.5 < float(row["mask_ap"]) < 1


def test_what_cannot_be_compared_is_named(i2i, judged, folder):
    words = ["eval", "instances"]
    refused(i2i(*words, "found.json", "none.json"), 1, "none.json: no such file")
    refused(i2i(*words, "none.json", "truth.json"), 1, "none.json: no such file")
    refused(
        i2i(*words, "found/a.png", "truth.json"), 1, "found/a.png: no prediction for the image b.png of truth.json", "(1 such)"
    )
    refused(i2i(*words, "found.json", "truth.json", "--inside", "found"), 2, "--inside", "leave it out")
    refused(i2i(*words, "found.json", "truth.json", "--max-detections", "0"), 2, "--max-detections")
    (folder / "odd.json").write_text('{"a": 1}')
    refused(i2i(*words, "odd.json", "truth.json"), 1, "odd.json: neither a COCO data set", "nor a list of COCO results")
    (folder / "odd.json").write_text('[{"image_id": "\\u001b[2J", "category_id": 3, "score": 1}]')
    refused(i2i(*words, "odd.json", "truth.json"), 1, "odd.json: annotation number 1: there is no image ?[2J")
    (folder / "odd.json").write_text('[{"image_id": 1, "category_id": 3, "bbox": [1, 2, 3, 4], "score": NaN}]')
    refused(i2i(*words, "odd.json", "truth.json"), 1, "odd.json: annotation number 1: its score is 'nan'")
