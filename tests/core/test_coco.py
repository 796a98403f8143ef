"""COCO's own tools read what is written: the same masks, and a score of 1.0 against itself."""

from __future__ import annotations

import json
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faster_coco_eval import COCO as FasterCOCO
from faster_coco_eval import COCOeval_faster
from faster_coco_eval.core import mask as faster
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as original
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from i2i.contracts import Exported
from i2i.exporters import coco, known, outlines
from i2i.exporters.coco import write_coco
from i2i.exporters.crops import write_crops
from i2i.exporters.geojson import GEOJSON
from i2i.exporters.known import OwnMask
from i2i.exporters.outlines import find_outlines
from i2i.exporters.table import TABLE
from i2i.formats.views import ArraySource
from i2i.geometry import Region
from tests.cli.kit import blobs
from tests.core import scenes
from tests.core.test_geojson import features_of

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:pycocotools")
deterministic = settings(derandomize=True, deadline=None, max_examples=80)
noise = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=14))


def written(path: Path, exported: Exported) -> dict[str, Any]:
    write_coco(path, exported)
    return json.loads(path.read_text("ascii"))


def of_labels(labels: np.ndarray, **fields: object) -> Exported:
    source = ArraySource(labels, **fields)
    return Exported(source, source, "labels", name="a.tif")


def decoded(annotation: dict[str, Any]) -> np.ndarray:
    """The mask as both tools read it."""
    encoded = annotation["segmentation"]
    mask = original.decode(encoded).astype(bool)
    assert np.array_equal(faster.decode(encoded).astype(bool), mask)
    return mask


def counts_of(mask: np.ndarray) -> dict[str, Any]:
    encoded = original.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(mask.shape), "counts": encoded["counts"].decode("ascii")}


# ----------------------------------------------------------------------------------------------------- run lengths


@given(noise.filter(np.any), st.integers(0, 5), st.integers(0, 5), st.integers(0, 3), st.integers(0, 300))
@example(np.ones((3, 2), bool), 0, 0, 0, 0)
@example(np.ones((4, 3), bool), 0, 2, 0, 1)
@deterministic
def test_an_own_mask_is_encoded_as_cocos_tools_do(mask: np.ndarray, top: int, left: int, below: int, right: int) -> None:
    whole = np.pad(mask, ((top, below), (left, right)))
    own = OwnMask(5, Region(top, left, *mask.shape), mask)
    annotation = coco._annotation(coco._of_mask(own), whole.shape, 3)
    encoded = annotation["segmentation"]
    assert encoded == counts_of(whole)
    assert annotation["area"] == whole.sum() and annotation["bbox"] == original.toBbox(encoded).tolist()


@given(
    hnp.arrays(np.uint16, hnp.array_shapes(min_dims=2, max_dims=2, max_side=14), elements=st.integers(0, 2)), st.integers(1, 9)
)
@deterministic
def test_objects_of_a_label_image_are_encoded_as_cocos_tools_do(labels: np.ndarray, side: int) -> None:
    """From their outlines, with holes and parts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outlines, "_SIDE", side)
        found = [coco._annotation(coco._of_outline(one), labels.shape, 1) for one in find_outlines(ArraySource(labels))]
    assert [one["id"] for one in found] == np.unique(labels[labels > 0]).tolist()
    for one in found:
        mask = labels == one["id"]
        assert one["segmentation"] == counts_of(mask) and one["area"] == mask.sum()
        assert one["bbox"] == original.toBbox(one["segmentation"]).tolist()


@given(noise.filter(np.any), st.floats(1, 4), st.floats(1, 4))
@deterministic
def test_a_larger_grid_takes_each_pixel_to_some(mask: np.ndarray, tall: float, wide: float) -> None:
    """Rows and columns are repeated, each at least once; so objects stay apart, and none is lost."""
    shape = coco._of_mask(OwnMask(1, Region(0, 0, *mask.shape), mask)).scaled(tall, wide)
    edges = [np.floor(np.arange(n + 1) * factor + 0.5).astype(int) for n, factor in zip(mask.shape, (tall, wide), strict=True)]
    assert all((np.diff(each) >= 1).all() for each in edges)
    annotation = coco._annotation(shape, (int(edges[0][-1]), int(edges[1][-1])), 1)
    expected = mask.repeat(np.diff(edges[0]), axis=0).repeat(np.diff(edges[1]), axis=1)
    assert np.array_equal(decoded(annotation), expected)


@pytest.mark.parametrize("side", [50_000, 100_000])
def test_an_image_larger_than_any_memory_has_short_counts(side: int) -> None:
    """An array of it would have 10^10 pixels, more than 32 bits count."""
    mask = scenes.disc(6, 6, 6, (13, 13))[1]
    place = Region(side - 40, side - 30, *mask.shape)
    annotation = coco._annotation(coco._of_mask(OwnMask(1, place, mask)), (side, side), 1)
    encoded = annotation["segmentation"]
    assert encoded["size"] == [side, side] and len(encoded["counts"]) < 100
    assert annotation["bbox"] == [place.x, place.y, place.width, place.height]
    assert faster.toBbox([encoded]).tolist() == [annotation["bbox"]]
    assert original.area(encoded) == faster.area(encoded) == annotation["area"] == mask.sum()
    other = coco._annotation(coco._of_mask(OwnMask(1, place.shift(0, 2), mask)), (side, side), 1)["segmentation"]
    small = [counts_of(np.pad(mask, ((0, 0), sides))) for sides in ((0, 2), (2, 0))]
    expected = original.iou([small[0]], [small[1]], [0])
    assert 0.5 < expected < 1 and original.iou([encoded], [other], [0]) == expected


# ---------------------------------------------------------------------------------------------------------- the file


def test_a_detectors_objects_keep_their_own_masks(tmp_path: Path) -> None:
    shape = (160, 240)
    result, found = scenes.exported(), scenes.instances()
    document = written(tmp_path / "a.json", result)
    visible = np.unique(result.result.read(result.result.spec.region))[1:].tolist()
    assert [one["id"] for one in document["annotations"]] == visible and len(found) - 1 not in visible
    total = np.zeros(shape, int)
    for one in document["annotations"]:
        place = one["id"] - 1
        top, left, bottom, right = found.boxes[place].tolist()
        whole = np.zeros(shape, bool)
        whole[top:bottom, left:right] = found.masks[place]
        assert np.array_equal(decoded(one), whole)
        assert one["bbox"] == [left, top, right - left, bottom - top] and one["area"] == whole.sum()
        assert one["category_id"] == found.classes[place] and abs(one["score"] - found.scores[place]) < 1e-6
        assert (one["image_id"], one["iscrowd"]) == (1, 0)
        total += whole
    assert total.max() > 1, "they overlap"


def test_without_masks_of_their_own_objects_are_what_the_label_image_shows(tmp_path: Path) -> None:
    result = scenes.exported(own=False)
    labels = result.result.read(result.result.spec.region)[..., 0]
    document = written(tmp_path / "a.json", result)
    assert len(document["annotations"]) == len(np.unique(labels)) - 1
    for one in document["annotations"]:
        assert np.array_equal(decoded(one), labels == one["id"])
        assert one["score"] == round(float(result.objects.scores[one["id"] - 1]), 6)


def test_the_image_and_the_categories(tmp_path: Path) -> None:
    document = written(tmp_path / "a.json", scenes.exported())
    assert list(document) == ["info", "images", "categories", "annotations"]
    assert document["images"] == [{"id": 1, "file_name": "cells.png", "height": 160, "width": 240}]
    named = [{"id": 1, "name": "cell"}, {"id": 3, "name": "big cell"}, {"id": 7, "name": "straße"}]
    assert document["categories"] == named, "a gap has none"


def test_a_class_without_a_name_is_called_by_its_number(tmp_path: Path) -> None:
    result = scenes.exported()
    document = written(tmp_path / "a.json", replace(result, objects=replace(result.objects, class_names={1: "cell"})))
    assert [one["name"] for one in document["categories"]] == ["cell", "3", "7"]


def test_segmented_objects_are_of_one_category_without_scores(tmp_path: Path) -> None:
    labels = blobs(90, 120).astype(np.uint16)
    document = written(tmp_path / "a.json", of_labels(labels))
    assert document["categories"] == [{"id": 1, "name": "object"}]
    assert [one["id"] for one in document["annotations"]] == np.unique(labels[labels > 0]).tolist()
    assert all(one["category_id"] == 1 and "score" not in one for one in document["annotations"])
    assert all(np.array_equal(decoded(one), labels == one["id"]) for one in document["annotations"])


@pytest.mark.parametrize("own", [False, True])
def test_objects_of_a_level_are_on_the_pixels_of_the_full_resolution(own: bool, tmp_path: Path) -> None:
    result = replace(scenes.exported(own), scale=(3.0, 2.0))
    document = written(tmp_path / "a.json", result)
    assert document["images"][0]["height"] == 480 and document["images"][0]["width"] == 480
    plain = written(tmp_path / "b.json", replace(result, scale=(1.0, 1.0)))
    for one, other in zip(document["annotations"], plain["annotations"], strict=True):
        assert np.array_equal(decoded(one), decoded(other).repeat(3, 0).repeat(2, 1))
        assert one["area"] == 6 * other["area"] and one["score"] == other["score"]


def test_a_result_finer_than_its_image_is_on_its_own_pixels(tmp_path: Path) -> None:
    """On the image's, small objects would have none."""
    labels = np.zeros((6, 8), np.uint16)
    labels[1, 1] = 1
    document = written(tmp_path / "a.json", replace(of_labels(labels), scale=(0.5, 0.5)))
    assert (document["images"][0]["height"], document["annotations"][0]["area"]) == (6, 1)


def test_an_annotation_is_a_line_and_does_not_depend_on_the_pieces(tmp_path: Path, monkeypatch) -> None:
    result = scenes.exported(own=False)
    document = written(tmp_path / "a.json", result)
    text = (tmp_path / "a.json").read_bytes()
    assert [json.loads(line.rstrip(b",")) for line in text.splitlines()[4:-1]] == document["annotations"]
    own = written(tmp_path / "b.json", scenes.exported())
    monkeypatch.setattr(outlines, "_SIDE", 40)
    monkeypatch.setattr(outlines, "_CORNERS", 100)
    monkeypatch.setattr(known, "_SIDE", 30)
    monkeypatch.setattr(coco, "_ROWS", 3)
    write_coco(tmp_path / "a.json", result)
    assert (tmp_path / "a.json").read_bytes() == text
    assert written(tmp_path / "b.json", scenes.exported()) == own


def test_a_large_own_mask_takes_little_more_than_itself() -> None:
    mask = np.ones((4000, 4000), bool)
    tracemalloc.start()
    try:
        shape = coco._of_mask(OwnMask(1, Region(5, 6, 4000, 4000), mask))
        assert tracemalloc.get_traced_memory()[1] < mask.nbytes / 2
    finally:
        tracemalloc.stop()
    assert shape.y.tolist() == [5] * 4000 + [4005] * 4000 and shape.x1.max() == 4006


@pytest.mark.parametrize("detected", [False, True])
def test_an_image_without_objects_has_no_annotations(detected: bool, tmp_path: Path) -> None:
    result = of_labels(np.zeros((5, 6), np.uint16))
    if detected:
        result = replace(result, objects=scenes.known(scenes.instances().take([])))
    assert written(tmp_path / "a.json", result)["annotations"] == []
    assert COCO(tmp_path / "a.json").getImgIds() == [1]


# ----------------------------------------------------------------------------------------------- what others make of it


@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize("own", [False, True])
def test_pycocotools_scores_it_1_against_itself(kind: str, own: bool, tmp_path: Path) -> None:
    written(tmp_path / "a.json", scenes.exported(own))
    truth = COCO(tmp_path / "a.json")
    annotations = truth.dataset["annotations"]
    evaluation = COCOeval(truth, truth.loadRes([dict(one) for one in annotations]), kind)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1.0) and len(annotations) < 100, "as many as COCO counts"


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_faster_coco_eval_scores_it_1_against_itself(kind: str, tmp_path: Path) -> None:
    document = written(tmp_path / "a.json", scenes.exported())
    truth = FasterCOCO(str(tmp_path / "a.json"))
    evaluation = COCOeval_faster(truth, truth.loadRes([dict(one) for one in document["annotations"]]), kind)
    evaluation.run()
    assert evaluation.stats[0] == pytest.approx(1.0)


@pytest.mark.parametrize("own", [False, True])
def test_all_files_hold_the_same_objects(own: bool, tmp_path: Path) -> None:
    """One is hidden by another, and is in none of them."""
    result = scenes.exported(own)
    labels = result.result.read(result.result.spec.region)
    expected = np.unique(labels[labels > 0]).tolist()
    GEOJSON.export(tmp_path / "a.geojson", result)
    TABLE.export(tmp_path / "a.csv", result)
    write_crops(tmp_path / "crops", result)
    rows = (tmp_path / "a.csv").read_text("utf-8").splitlines()[1:]
    crops = [int(path.stem) for path in (tmp_path / "crops" / "images").rglob("*.png")]
    assert len(scenes.instances()) - 1 not in expected and len(expected) > 30
    assert [one["id"] for one in written(tmp_path / "a.json", result)["annotations"]] == expected
    assert [feature["properties"]["label"] for feature in features_of(tmp_path / "a.geojson")] == expected
    assert [int(row.split(",")[0]) for row in rows] == expected and sorted(crops) == expected
