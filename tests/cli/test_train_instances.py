"""``i2i train instances``: from folders of masks and from COCO JSON, and ``i2i instances`` with what it wrote."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from i2i.models import load_checkpoint, open_model
from tests.cli.kit import done, files, load, picture, refused, save
from tests.cli.lessons import DATA, ids, make_data
from tests.cli.test_train_processes import by_hand

NETWORK = ["--stem-stride", "2", "--stages", "2", "--width", "8", "--box-width", "16", "--mask-width", "8", "--crop", "32"]
TINY = [*NETWORK, "--batch", "2", "--steps", "4", "--validate-every", "2", "--average", "0.5", "--precision", "fp32"]
COCO = ["--images", "images", "--coco", "objects.json"]


def make_coco(folder: Path, classes: int = 2) -> Path:
    """The objects of the same pictures as COCO JSON, of classes in turn: their boxes as polygons, and one more over another."""
    make_data(folder)
    images, annotations = [], []
    for number in range(6):
        images.append({"id": number, "file_name": f"{number}.png", "height": 64, "width": 80})
        found = ids(number)
        for one in [*np.unique(found)[1:], -1]:
            rows, columns = np.nonzero(found == one if one > 0 else found > 0)
            left, top, right, bottom = (int(value) for value in (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
            if one < 0:
                right, bottom = left + 9, top + 9
            annotations.append({
                "id": len(annotations) + 1, "image_id": number, "category_id": 10 * (1 + len(annotations) % classes),
                "segmentation": [[left, top, right, top, right, bottom, left, bottom]], "iscrowd": 0,
                "bbox": [left, top, right - left, bottom - top], "area": (right - left) * (bottom - top),
            })  # fmt: skip
    categories = [{"id": 10 * number, "name": f"kind {number}"} for number in range(1, classes + 1)]
    held = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "objects.json").write_text(json.dumps(held))
    return folder


def lines_of(work: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (work / "metrics.jsonl").read_text().splitlines()]


# ------------------------------------------------------------------------------------------------------ folders and COCO


def test_a_model_is_trained_from_folders_and_finds_objects(i2i, folder):
    make_data(folder)
    told = done(i2i("train", "instances", *DATA, *TINY, "-o", "m.safetensors", "--name", "disc", "--json"))
    assert "5 images to train on, 1 to validate; classes: disc" in told.err
    assert told.json["steps"] == 4 and {"ap50", "score", "nms", "min_area", "sha256", "seconds"} <= told.json.keys()
    lines = lines_of(folder / "m-training")
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    for line in lines:
        terms = [line[name] for name in ("cls", "box", "mask", "rpn_objectness", "rpn_box")]
        assert line["loss"] == pytest.approx(sum(terms), rel=1e-4) and np.isfinite(terms).all()
    assert {"ap50", "ar", "recall"} <= lines[1].keys()
    assert files(folder / "m-training/samples") == ["step-000002.png", "step-000004.png"]

    model = open_model(folder / "m.safetensors")
    assert model.config["class_names"] == {"1": "disc"} and model.config["object_size"] > 8
    assert str(folder) not in json.dumps(model.config) and "images" not in model.config["training"]["options"]
    done(i2i("instances", "images/0.png", "-o", "found.tif", "--model", "m.safetensors", "--score", "0"))
    assert load("found.tif").shape == (64, 80)


def test_a_model_is_trained_from_coco_json_with_several_classes(i2i, folder):
    make_coco(folder)
    told = done(i2i("train", "instances", *COCO, *TINY, "-o", "m.safetensors", "--mask-loss", "softmax"))
    assert "classes: kind 1, kind 2" in told.err and "mask_ap" in told.err
    assert {"mask_ap", "mask_ap50", "box_ap", "ar"} <= lines_of(folder / "m-training")[1].keys()
    assert open_model(folder / "m.safetensors").config["class_names"] == {"1": "kind 1", "2": "kind 2"}
    done(i2i("instances", "images/0.png", "-o", "found.tif", "--model", "m.safetensors", "--score", "0", "--coco", "found.json"))
    assert {one["name"] for one in json.loads(Path("found.json").read_text())["categories"]} == {"kind 1", "kind 2"}

    # one of them, validated on other files; the network goes on from the model of both
    words = [
        *COCO,
        "--category",
        "kind 2",
        "--val-images",
        "images",
        "--val-coco",
        "objects.json",
        "--crop",
        "32",
        "--steps",
        "1",
    ]
    told = done(i2i("train", "instances", *words, "--batch", "2", "--from", "m.safetensors", "-o", "n.safetensors"))
    assert "6 images to train on, 6 to validate; classes: kind 2" in told.err
    assert "goes on from m, with new roi_heads.box_predictor" in told.err
    assert open_model(folder / "n.safetensors").config["network"]["mask_loss"] == "softmax"


def test_two_unshared_networks_run_and_colour_images_are_learnt(i2i, folder):
    make_data(folder)
    for number in range(5):
        save(folder / f"images/{number}.png", np.stack([picture(64, 80, seed=number)] * 3, -1))
    words = ["train", "instances", *DATA, *TINY, "--scheme", "four-step", "-o", "m.safetensors"]
    told = done(i2i(*words, "--until-step", "2"))
    assert "step 1 of 2: rpn; changes backbone, rpn" in told.err and "gray images are repeated to three channels" in told.err
    model = open_model(folder / "m.safetensors")
    assert model.config["network"]["shared"] is False and model.config["network"]["channels"] == 3
    done(i2i("instances", "images/0.png", "images/5.png", "-o", "found", "--model", "m.safetensors", "--score", "0"))
    assert len(files(folder / "found")) == 2


# ------------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--images", "masks", "--masks", "images"], "are --images and --masks swapped"),
        ([*DATA, "--coco", "objects.json"], "give the objects either as --masks or as --coco"),
        (["--images", "images"], "give the objects either as --masks or as --coco"),
        ([*COCO, "--category", "cat"], "objects.json: has no category 'cat'; it has: kind 1, kind 2"),
        ([*DATA, "--category", "cat"], "--category: is of --coco"),
        ([*DATA, "--scheme", "non-approximate-joint"], "only --roi warp has a gradient"),
        ([*DATA, "--scheme", "four-step", "--until-step", "5"], "--until-step 5: --scheme four-step: choose 2 to 4"),
        ([*DATA, "--until-step", "2"], "--until-step 2: --scheme approximate-joint has one step"),
        ([*DATA, "--scheme", "three-step"], "--scheme three-step: choose one of"),
        ([*DATA, "--crop", "40", "--stages", "3"], "--crop 40: this network needs a multiple of 32"),
        ([*DATA, "--weights", "objects.json"], "objects.json"),
        ([*DATA, "--weights", "nowhere.pth"], "nowhere.pth: no such file"),
        ([*DATA, "--from", "nowhere.safetensors"], "nowhere.safetensors: no such file"),
        (["--images", "images", "--masks", "nowhere"], "nowhere: no such folder"),
        (["--images", "images", "--coco", "nowhere.json"], "nowhere.json: no such file"),
    ],
)
def test_what_cannot_be_is_one_line(i2i, folder, words, told):
    make_coco(folder)
    for number in range(6):  # a picture that is no mask
        save(folder / f"images/{number}.png", np.random.default_rng(number).integers(0, 255, (64, 80), np.uint8))
    result = i2i("train", "instances", "-o", "m.safetensors", *words, *([] if "--crop" in words else ["--crop", "64"]), "-q")
    assert result.code in (1, 2)
    refused(result, result.code, told)
    assert not (folder / "m.safetensors").exists() and not (folder / "m-training").exists()


# ------------------------------------------------------------------------------------------------ killed, and in company

SLOWLY = """
import time
from i2i.training import loop
step = loop._take_step
loop._take_step = lambda *given: (time.sleep(0.2), step(*given))[1]
"""
"""So that there is time to be killed."""


def test_a_four_step_training_killed_in_its_third_step_gives_the_same_model(process, folder):
    """All are processes of their own: what a process did before may change the last bits of a sum."""
    make_data(folder)
    words = ["train", "instances", *DATA, *TINY, "--scheme", "four-step", "--validate-every", "1", "-q"]
    running = process(*words, "-o", "m.safetensors", before=SLOWLY)
    deadline, reached = time.monotonic() + 240, folder / "m-training/step-3/checkpoint.pt"
    while not reached.exists():
        assert running.poll() is None and time.monotonic() < deadline, running.communicate()
        time.sleep(0.005)
    running.send_signal(signal.SIGKILL)
    running.communicate(timeout=60)
    assert running.returncode == -signal.SIGKILL
    assert not (folder / "m.safetensors").exists() and not (folder / "m-training/step-4/checkpoint.pt").exists()
    for last in (process(*words, "-o", "m.safetensors", "--resume"), process(*words, "-o", "whole.safetensors")):
        said = last.communicate(timeout=240)
        assert last.returncode == 0, said
    assert (folder / "m.safetensors").read_bytes() == (folder / "whole.safetensors").read_bytes()


def test_a_scheme_that_was_stopped_after_two_steps_goes_on(i2i, folder):
    make_data(folder)
    words = ["train", "instances", *DATA, *TINY, "--scheme", "four-step"]
    done(i2i(*words, "-o", "m.safetensors", "--until-step", "2", "-q"))
    half = open_model(folder / "m.safetensors")
    assert half.config["network"]["shared"] is False and any(name.startswith("proposal_backbone") for name in half.tensors())
    refused(i2i(*words, "-o", "m.safetensors", "-q"), 1, "m.safetensors: exists")
    (folder / "m.safetensors").unlink()
    refused(i2i(*words, "-o", "m.safetensors", "-q"), 1, "holds a training run")
    going_on = done(i2i(*words, "-o", "m.safetensors", "--resume"))
    assert "no checkpoint" not in going_on.err
    done(i2i(*words, "-o", "whole.safetensors", "-q"))
    assert (folder / "m.safetensors").read_bytes() == (folder / "whole.safetensors").read_bytes()
    assert open_model(folder / "m.safetensors").config["network"]["shared"] is True


@pytest.mark.parametrize("scheme", ["approximate-joint", "alternating"])
def test_two_processes_train_every_step_of_a_scheme(folder, scheme):
    """Whatever a step leaves alone, all that it learns has a gradient in both."""
    make_data(folder)
    words = ["train", "instances", *DATA, *TINY, "--steps", "2", "--scheme", scheme, "--optimizer", "sgd", "-o", "m.safetensors"]
    for code, said, _ in by_hand(*words):
        assert code == 0, said
    assert open_model(folder / "m.safetensors").config["network"]["shared"] is (scheme == "approximate-joint")
    for path in (folder / "m-training").rglob("checkpoint.pt"):
        saved = load_checkpoint(path)
        assert saved["step"] == 2 and all(bool(value.isfinite().all()) for value in saved["network"].values())
