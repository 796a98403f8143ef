"""``i2i instances``: its options, its models, what it says, with a tiny network of random weights."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.models.detection import maskrcnn_resnet50_fpn_v2

from i2i import loading
from i2i.errors import ModelError
from i2i.models import save_model
from i2i.normalize import Normalization
from i2i_maskrcnn.config import MaskRCNNConfig
from i2i_maskrcnn.header import Header
from i2i_maskrcnn.network import build
from tests.cli.kit import done, load, picture, refused, save

CONFIG = MaskRCNNConfig(
    channels=1, classes=2, stem_stride=2, stages=2, width=8, box_width=16, mask_width=8, mask_convolutions=1,
    anchor_sizes=(8, 12, 18),
)  # fmt: skip
FEW = ["--precision", "fp32", "--device", "cpu"]


def model_file(path: Path, config: MaskRCNNConfig = CONFIG, **changes: Any) -> Path:
    """Random weights under which both classes are found everywhere, with many scores."""
    torch.manual_seed(5)
    network = build(config)
    head = network.roi_heads.box_predictor
    for name, weight in network.rpn.head.named_parameters():
        weight.data *= 20 if name.endswith("weight") else 1
    head.cls_score.weight.data *= 30
    head.bbox_pred.weight.data *= 0.1
    names = dict(enumerate(("dark", "bright")[: config.classes], 1))
    known: dict[str, Any] = {"score": 0.3, "nms": 0.3, "overlap": 0.5, "object_size": 24} | changes
    header = Header(config, Normalization("range"), names, **known)
    save_model(path, network.state_dict(), header.as_mapping(), half=False)
    return path


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    return model_file(tmp_path_factory.mktemp("detector") / "tiny.safetensors")


@pytest.fixture
def find(i2i, tiny):
    """``i2i instances`` with the tiny network; the objects in its COCO JSON besides."""

    def call(*words: Any) -> tuple[Any, list[dict[str, Any]]]:
        result = done(i2i("instances", "a.png", "-o", "a.tif", "--coco", "a.json", "--overwrite", "--model", tiny, *FEW, *words))
        return result, json.loads(Path("a.json").read_text())["annotations"]

    return call


@pytest.fixture(autouse=True)
def image(folder):
    return save("a.png", picture(96, 128))


# ---------------------------------------------------------------------------------------------------------------- options


def test_all_files_hold_the_same_objects(i2i, tiny):
    exports = ["--coco", "a.json", "--csv", "a.csv", "--geojson", "a.geojson", "--overlay", "o.png", "--crops", "crops"]
    result = done(i2i("instances", "a.png", "-o", "a.tif", "--model", tiny, *exports, "--json", *FEW))
    labels, objects = load("a.tif"), json.loads(Path("a.json").read_text())["annotations"]
    assert (labels.dtype, labels.shape) == (np.uint16, (96, 128))
    ids = sorted(set(np.unique(labels)) - {0})
    assert len(ids) > 5
    with Path("a.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    features = json.loads(Path("a.geojson").read_text())["features"]
    assert {len(objects), len(rows), len(features), len(list(Path("crops/masks").rglob("*.*"))), result.run["objects"]} == {
        len(ids)
    }
    assert [int(row["id"]) for row in rows] == ids
    assert {row["class"] for row in rows} == {"dark", "bright"}


def test_score(find):
    (_, every), (_, sure) = find(), find("--score", "0.6")
    assert 0 < len(sure) < len(every)
    assert min(one["score"] for one in sure) >= 0.6
    assert min(one["score"] for one in every) >= 0.3


def test_classes(find):
    _, every = find()
    assert {one["category_id"] for one in every} == {1, 2}
    _, bright = find("--classes", "bright")
    assert {one["category_id"] for one in bright} == {2}
    _, both = find("--classes", "bright", "--classes", "dark")
    assert both == every


def test_least_area(find):
    (_, every), (_, large) = find(), find("--min-area", "60")
    assert min(one["area"] for one in every) < 60
    assert large
    assert all(np.count_nonzero(load("a.tif") == one) > 0 for one in range(1, len(large) + 1))
    assert len(large) < len(every)


def test_suppression(find):
    counts = {}
    for nms in ("0.05", "0.3", "0.9"):
        counts[nms] = len(find("--nms", nms, "--overlap", "1")[1])
    assert counts["0.05"] < counts["0.3"] <= counts["0.9"]
    soft, hard = find("--soft-nms", "--overlap", "1")[1], find("--overlap", "1")[1]
    assert sorted(one["score"] for one in soft) != sorted(one["score"] for one in hard)
    assert len(find("--overlap", "0")[1]) <= len(find("--overlap", "0.5")[1])


def test_what_is_more_than_a_window_may_give_is_told(find):
    result, few = find("--max-per-tile", "3")
    assert len(few) <= 3
    assert "--max-per-tile" in result.err
    assert "--max-per-tile" not in find()[0].err


def test_larger_objects_ask_for_larger_overlaps(i2i, tiny, monkeypatch):
    monkeypatch.setattr("i2i.estimate._SECONDS", 0.1)  # what is run for the estimate
    save("large.tif", picture(700, 900))
    tiles = {}
    for size in ("24", "200"):
        words = ["--object-size", size, "--tile", "400", "--max-per-tile", "20", "--dry-run", "--json"]
        tiles[size] = done(i2i("instances", "large.tif", "-o", "l.tif", "--model", tiny, *words, *FEW)).run["plan"]["tiles"]
    assert tiles["24"] < tiles["200"]


def test_views(find):
    (_, plain), (result, several) = find("--score", "0.2"), find("--score", "0.2", "--tta", "--max-per-tile", "2000")
    assert several
    assert [one["score"] for one in several] != [one["score"] for one in plain]
    save("a.png", np.rot90(picture(96, 128)))
    _, turned = find("--score", "0.2", "--tta", "--max-per-tile", "2000")
    assert len(turned) == pytest.approx(len(several), rel=0.2)
    assert result.err.count("warning") == 0
    _, halved = find("--score", "0.2", "--tta", "--max-per-tile", "2000", "--precision", "bf16")
    assert len(halved) == pytest.approx(len(turned), rel=0.2)


def test_zoom_and_view(i2i, folder):
    model = model_file(folder / "view.safetensors", view=(48, 64))
    words = ["instances", "a.png", "-o", "a.tif", "--model", model, "--json", "--overwrite", *FEW]
    assert done(i2i(*words)).run["notes"] == [
        "the model sees it at 0.5 times its size, as it was trained to; --zoom 1: in full detail"
    ]
    assert done(i2i(*words, "--zoom", "1")).run["notes"] == []
    assert done(i2i(*words, "--zoom", "1.5")).run["objects"] > 0


def test_tiles_in_bf16(find):
    save("a.png", picture(200, 260))
    for words in (["--tile", "144"], ["--tile", "144", "--precision", "bf16"]):
        _, objects = find(*words)
        assert len(objects) == len(np.unique(load("a.tif"))) - 1 > 20


# ----------------------------------------------------------------------------------------------------------------- models


def test_without_a_model_it_says_what_to_do(i2i):
    save("five.tif", np.zeros((5, 20, 20), np.uint8), photometric="minisblack", planarconfig="separate")
    refused(i2i("instances", "five.tif", "-o", "b.tif", "--channels", "0,1"), 1, "--model")


def test_wrong_options_are_one_line(i2i, tiny):
    words = ["instances", "a.png", "-o", "b.tif", "--model", tiny]
    refused(i2i(*words, "--classes", "cat"), 2, "--classes cat", "dark, bright")
    refused(i2i(*words, "--score", "2"), 2, "--score 2", "0 to 1")
    refused(i2i(*words, "--model", tiny), 2, "--model", "takes one")


def test_wrong_models_are_one_line(i2i, folder, model):
    refused(i2i("instances", "a.png", "-o", "b.tif", "--model", model), 1, "segment", "instances")
    torch.save({"conv.weight": torch.zeros(3)}, "other.pth")
    refused(i2i("instances", "a.png", "-o", "b.tif", "--model", "other.pth"), 1, "other.pth", "torchvision")
    rgb = model_file(folder / "rgb.safetensors", MaskRCNNConfig(**vars(CONFIG) | {"channels": 3}))
    refused(i2i("instances", "a.png", "-o", "b.tif", "--model", rgb), 1, "a.png", "3")


def test_cocos_model_offline_says_where_to_put_it(i2i, folder):
    save("photo.png", np.stack([picture()] * 3, 2))
    result = i2i("instances", "photo.png", "-o", "b.tif", "--model", "coco")
    refused(result, 1, "I2I_OFFLINE", "maskrcnn_resnet50_fpn_v2_coco-73cbd019.pth", str(folder / "cache"))


@pytest.mark.parametrize("quiet", [[], ["-q"]])
def test_a_download_is_told_of(i2i, monkeypatch, quiet):
    def find_model(name, task, cards, progress):
        if progress:
            progress(10**6, 186 * 10**6)
        raise ModelError(f"{name}: broken off")

    monkeypatch.setattr(loading, "find_model", find_model)
    lines = i2i("instances", "a.png", "-o", "b.tif", "--model", "coco", *quiet).err.splitlines()
    assert lines[-1].endswith("coco: broken off")
    assert lines[:-1] == ([] if quiet else ["coco: downloaded 1 MB of 186 MB"])


def test_weights_of_torchvision_run_and_export(i2i):
    torch.manual_seed(0)
    network = maskrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None, num_classes=91)
    network.roi_heads.box_predictor.cls_score.bias.data[1] = 6  # all are persons
    torch.save(network.state_dict(), "weights.pth")
    save("photo.png", np.stack([picture(64, 80)] * 3, 2))
    words = [
        "--coco",
        "c.json",
        "--geojson",
        "g.geojson",
        "--zoom",
        "1",
        "--json",
        "--max-per-tile",
        "20",
        "--overlap",
        "1",
        *FEW,
    ]
    result = done(i2i("instances", "photo.png", "-o", "b.tif", "--model", "weights.pth", *words))
    annotations, features = json.loads(Path("c.json").read_text()), json.loads(Path("g.geojson").read_text())["features"]
    assert result.run["objects"] == len(annotations["annotations"]) == len(features)
    assert result.run["objects"] > 0
    names = {one["id"]: one["name"] for one in annotations["categories"]}
    assert (len(names), names[1]) == (80, "person")
    assert 1 in {one["category_id"] for one in annotations["annotations"]} <= set(names)
