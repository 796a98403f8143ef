"""Training of Mask R-CNN: killed runs of every scheme, what it starts from, what validates it, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision

from i2i.contracts import Instances, Model, TrainingRun
from i2i.errors import ModelError, TrainingError, UsageError
from i2i.models import model_of_checkpoint, open_model, save_model
from i2i_maskrcnn import validate as judged
from i2i_maskrcnn.config import IMAGENET_MEAN
from i2i_maskrcnn.data import Objects, check_data, load_objects
from i2i_maskrcnn.examples import ObjectExample, objects_of
from i2i_maskrcnn.network import build
from i2i_maskrcnn.options import TrainOptions
from i2i_maskrcnn.settings import check, network_config
from i2i_maskrcnn.train import train
from tests.cli.lessons import make_data
from tests.plugins.test_maskrcnn_network import TINY, scene

TINY_OPTIONS = {
    "stem_stride": 2, "stages": 2, "width": 8, "box_width": 16, "mask_width": 8, "crop": 32, "batch": 2, "steps": 4,
    "validate_every": 2, "average": 0.5, "warmup": 1, "samples": 1, "until_step": 0,
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return make_data(tmp_path_factory.mktemp("data"))


def options(data: Path, **changes: Any) -> TrainOptions:
    return TrainOptions(images=str(data / "images"), masks=str(data / "masks"), **TINY_OPTIONS | changes)


class Killed(Exception):
    pass


def run_in(folder: Path, resume: bool = False, die_after: int = 0, told: list[str] | None = None, **changes: Any) -> TrainingRun:
    """``die_after``: so many reports, when the process is killed."""
    folder.mkdir(exist_ok=True)
    reports: list[int] = []

    def report(step: int, steps: int, values: Any) -> None:
        reports.append(step)
        if len(reports) == die_after:
            raise Killed

    def find(name: str) -> Model:
        return model_of_checkpoint(Path(name)) if name.endswith(".pt") else open_model(Path(name))

    messages = [] if told is None else told
    run = TrainingRun(
        folder / "m.safetensors", folder / "m-training", 3, "cpu", "fp32", resume, report, messages.append, find, False, (0, 1)
    )
    run.work.mkdir(exist_ok=True)
    return replace(run, **changes)


# ------------------------------------------------------------------------------------------------------ killed and resumed


@pytest.mark.parametrize(("scheme", "kills"), [
    ("approximate-joint", [3]), ("non-approximate-joint", [3]), ("alternating", [2, 3, 4, 4]), ("four-step", [4, 5, 1, 4]),
])  # fmt: skip
def test_a_killed_training_of_any_scheme_gives_the_same_bytes(tmp_path: Path, data: Path, scheme: str, kills: list[int]) -> None:
    """Killed within steps of the scheme, at their ends and at their beginnings."""
    asked = options(data, scheme=scheme, roi="warp" if scheme.startswith("non") else None)
    figures = train(asked, run_in(tmp_path / "whole"))
    for number, after in enumerate(kills):
        with pytest.raises(Killed):
            train(asked, run_in(tmp_path / "killed", resume=number > 0, die_after=after))
    again = train(asked, run_in(tmp_path / "killed", resume=True))
    whole, killed = ((tmp_path / name / "m.safetensors").read_bytes() for name in ("whole", "killed"))
    assert whole == killed and figures["sha256"] == again["sha256"] and figures["seconds"] > 0
    for path in sorted((tmp_path / "whole").rglob("metrics.jsonl")):
        other = tmp_path / "killed" / path.relative_to(tmp_path / "whole")
        lines = [[json.loads(line) | {"seconds": 0} for line in one.read_text().splitlines()] for one in (path, other)]
        assert lines[0] == lines[1] and len(lines[0]) == 4


def test_more_steps_go_to_the_last_step_of_a_scheme_alone(tmp_path: Path, data: Path) -> None:
    """What earlier ones gave is what later ones were made from."""
    train(options(data, scheme="four-step"), run_in(tmp_path))
    before = (tmp_path / "m-training/step-3/checkpoint.pt").read_bytes()
    assert train(options(data, scheme="four-step", steps=6), run_in(tmp_path, resume=True))["steps"] == 6
    assert (tmp_path / "m-training/step-3/checkpoint.pt").read_bytes() == before
    counts = [len((tmp_path / f"m-training/step-{number}/metrics.jsonl").read_text().splitlines()) for number in range(1, 5)]
    assert counts == [4, 4, 4, 6]


def test_a_new_training_in_an_old_folder_never_goes_on_from_the_old_one(tmp_path: Path, data: Path) -> None:
    asked = options(data, scheme="four-step")
    train(replace(asked, rate=0.01), run_in(tmp_path / "used"))
    with pytest.raises(Killed):
        train(asked, run_in(tmp_path / "used", die_after=1))
    train(asked, run_in(tmp_path / "used", resume=True))
    train(asked, run_in(tmp_path / "new"))
    used, new = ((tmp_path / name / "m.safetensors").read_bytes() for name in ("used", "new"))
    assert used == new


def test_a_training_with_other_options_is_another(tmp_path: Path, data: Path) -> None:
    train(options(data), run_in(tmp_path))
    with pytest.raises(TrainingError, match="mask_loss was None, is softmax"):
        train(options(data, mask_loss="softmax"), run_in(tmp_path, resume=True))


def test_bf16_trains(tmp_path: Path, data: Path) -> None:
    train(options(data, average=0), run_in(tmp_path, precision="bf16"))
    lines = [json.loads(line) for line in (tmp_path / "m-training/metrics.jsonl").read_text().splitlines()]
    assert all(np.isfinite(list(line.values())).all() for line in lines)
    assert {"cls", "box", "mask", "rpn_objectness", "rpn_box", "loss", "rate"} <= lines[0].keys()
    assert lines[0]["loss"] == pytest.approx(sum(lines[0][name] for name in ("cls", "box", "mask", "rpn_objectness", "rpn_box")))
    assert {"ap50", "score", "ar", "recall"} <= lines[1].keys()


# -------------------------------------------------------------------------------------------------- what it starts from


def test_the_backbone_starts_from_a_classifier(tmp_path: Path, data: Path) -> None:
    """torchvision's names; of gray images the first layer sees the sum of the channels."""
    torch.manual_seed(0)
    classifier = torchvision.models.resnet18(weights=None).state_dict()
    torch.save(classifier, tmp_path / "resnet18.pth")
    told: list[str] = []
    train(options(data, weights=str(tmp_path / "resnet18.pth"), steps=1, rate=0.0), run_in(tmp_path, told=told))
    assert any(line.startswith("the backbone starts from") for line in told)
    model = open_model(tmp_path / "m.safetensors")
    held = model.tensors()
    assert held["backbone.body.layer2.1.conv2.weight"].float() == pytest.approx(classifier["layer2.1.conv2.weight"], abs=1e-3)
    stem = held["backbone.body.conv1.weight"].float()
    assert stem == pytest.approx(classifier["conv1.weight"].sum(1, keepdim=True), abs=1e-3)
    assert model.config["network"]["mean"] == [pytest.approx(sum(IMAGENET_MEAN) / 3)]
    assert model.config["training"]["weights"]["name"] == "resnet18" and str(tmp_path) not in json.dumps(model.config)


@pytest.mark.parametrize("other", ["resnet34", "resnet50", "mobilenet_v3_large"])
def test_the_weights_of_another_backbone_are_refused(tmp_path: Path, data: Path, other: str) -> None:
    torch.save(getattr(torchvision.models, other)(weights=None).state_dict(), tmp_path / "other.pth")
    with pytest.raises(TrainingError, match=r"other\.pth: not those of --backbone resnet18: .*; give others, or none"):
        train(options(data, weights=str(tmp_path / "other.pth")), run_in(tmp_path))


def test_a_detectors_backbone_is_taken_and_mobilenets(tmp_path: Path, data: Path) -> None:
    train(options(data, steps=1), run_in(tmp_path / "one"))
    torch.save(open_model(tmp_path / "one/m.safetensors").tensors(), tmp_path / "detector.pth")
    torch.save(torchvision.models.mobilenet_v3_large(weights=None).state_dict(), tmp_path / "mobile.pth")
    for weights, changes in (("detector.pth", {}), ("mobile.pth", {"backbone": "mobilenet_v3", "stem_stride": 4})):
        told: list[str] = []
        train(options(data, weights=str(tmp_path / weights), steps=1, **changes), run_in(tmp_path / weights[:3], told=told))
        assert any(line.startswith("the backbone starts from") for line in told)


def test_training_goes_on_from_a_model_of_other_classes(tmp_path: Path, data: Path) -> None:
    config = replace(TINY, classes=4, roi="warp", mask_loss="softmax", frozen_norm=True)
    header = {"task": "instances", "network": config.as_mapping(), "normalization": {"method": "range"},
              "class_names": {"1": "a", "2": "b", "3": "c", "4": "d"}}  # fmt: skip
    torch.manual_seed(0)
    weights = build(config).state_dict()
    save_model(tmp_path / "base.safetensors", weights, header)
    told: list[str] = []
    asked = TrainOptions(
        images=str(data / "images"), masks=str(data / "masks"), from_=str(tmp_path / "base.safetensors"), crop=32, batch=2,
        steps=1, rate=0.0, average=0, name="disc", scheme="non-approximate-joint",
    )  # fmt: skip
    train(asked, run_in(tmp_path, told=told))
    (line,) = (line for line in told if line.startswith("goes on from base"))
    assert line.endswith("with new roi_heads.box_predictor.bbox_pred, roi_heads.box_predictor.cls_score, "
                         "roi_heads.mask_predictor.mask_fcn_logits")  # fmt: skip
    model = open_model(tmp_path / "m.safetensors")
    network = model.config["network"]
    assert (network["classes"], network["roi"], network["mask_loss"], network["frozen_norm"]) == (1, "warp", "softmax", True)
    assert model.config["class_names"] == {"1": "disc"} and model.config["normalization"]["method"] == "range"
    assert network["anchor_sizes"] == list(TINY.anchor_sizes)
    assert model.tensors()["backbone.body.conv1.weight"].float() == pytest.approx(weights["backbone.body.conv1.weight"], abs=1e-3)


def test_a_model_of_another_network_is_not_gone_on_with(tmp_path: Path, data: Path) -> None:
    header = {"task": "instances", "network": TINY.as_mapping(), "normalization": {"method": "range"}, "class_names": {"1": "a"}}
    save_model(tmp_path / "base.safetensors", {"a.weight": torch.zeros(3)}, header)
    asked = TrainOptions(
        images=str(data / "images"), masks=str(data / "masks"), from_=str(tmp_path / "base.safetensors"), crop=32
    )
    with pytest.raises(ModelError, match="not those of the network that its header describes"):
        train(asked, run_in(tmp_path))
    with pytest.raises(UsageError, match=r"the network is that model's; leave out --width"):
        train(replace(asked, width=16), run_in(tmp_path))


# ---------------------------------------------------------------------------------------------------- what validates it


class Oracle(torch.nn.Module):
    """In the place of a network: the heads give what they are told to."""

    def __init__(self, config: Any = TINY, learns: tuple[str, ...] = ("rpn", "heads")) -> None:
        super().__init__()
        self.config, self.learns = config, learns


def of_true(example: ObjectExample, scores: list[float]) -> Instances:
    true = objects_of(example.truth, example.classes)
    known = np.flatnonzero(true.classes > 0)[: len(scores)]
    return replace(true.take(known), scores=np.array(scores, np.float32))


def test_overlapping_objects_and_several_classes_are_judged_as_coco_does() -> None:
    example = scene()
    one, several = Oracle(), Oracle(replace(TINY, classes=2))
    assert judged.main_figure([example], one) == judged.main_figure([example], several) == "mask_ap"
    flat = replace(example, truth=example.truth[:1])
    assert judged.main_figure([flat], one) == "ap50" and judged.main_figure([flat], several) == "mask_ap"
    assert judged.main_figure([flat], Oracle(learns=("rpn",))) == "ar"

    right = of_true(example, [0.9, 0.8])
    assert judged._coco_figures([right], [example], 2) == {"mask_ap": 1.0, "mask_ap50": 1.0, "box_ap": 1.0}
    swapped = replace(right, classes=right.classes[::-1].copy())
    assert judged._coco_figures([swapped], [example], 2)["mask_ap"] == 0.0
    crowd = objects_of(example.truth, example.classes)
    (place,) = np.flatnonzero(crowd.classes < 0)
    extra = replace(crowd.take([place]), classes=np.array([2]), scores=np.array([0.99], np.float32))
    both = Instances(
        np.concatenate([extra.boxes, right.boxes]), np.concatenate([extra.scores, right.scores]),
        np.concatenate([extra.classes, right.classes]), (*extra.masks, *right.masks),
    )  # fmt: skip
    assert judged._coco_figures([both], [example], 2)["mask_ap"] == 1.0, "what lies in a crowd is neither right nor wrong"
    assert judged._coco_figures([Instances.empty()], [example], 2) == {"mask_ap": 0.0, "mask_ap50": 0.0, "box_ap": 0.0}


def test_the_recall_of_proposals() -> None:
    truth = torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30]])
    overlaps = judged._best_overlaps(truth, torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 26]]))
    assert overlaps.tolist() == pytest.approx([1.0, 0.6])
    assert judged._recalls(overlaps) == {"recall": 1.0, "ar": pytest.approx((10 + 3) / 20)}
    assert judged._recalls(judged._best_overlaps(truth, truth[:0])) == {"recall": 0.0, "ar": 0.0}
    assert judged._recalls(torch.zeros(0))["ar"] == 1.0


def test_the_rules_are_chosen_for_the_class_they_are_of(monkeypatch) -> None:
    """A sure detection of the wrong class costs as much as one of nothing."""
    example = scene()
    right = of_true(example, [0.9, 0.75])
    wrong = replace(right, classes=right.classes[::-1].copy(), scores=np.array([0.45, 0.45], np.float32))
    found = Instances(
        np.concatenate([right.boxes, wrong.boxes]), np.concatenate([right.scores, wrong.scores]),
        np.concatenate([right.classes, wrong.classes]), right.masks + wrong.masks,
    )  # fmt: skip
    monkeypatch.setattr(judged, "_see", lambda *given: type("Seen", (), {"found": lambda self, rules, overlap: found})())
    data = Objects([example], [example], class_names={1: "a", 2: "b"})
    chosen = judged.best_rules(data, Oracle(replace(TINY, classes=2)), "cpu")
    assert chosen.score in (0.5, 0.6, 0.7) and (chosen.min_area, chosen.overlap) == (0, 1.0)


# ------------------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"masks": ""}, "either as --masks or as --coco"),
        ({"coco": "a.json"}, "either as --masks or as --coco"),
        ({"category": ["person"]}, "--category: is of --coco"),
        ({"masks": "", "coco": "a.json", "name": "cell"}, "--name: is of --masks"),
        ({"masks": "", "coco": "a.json", "ignore": 3}, "--ignore: is of --masks"),
        ({"name": "two\nlines"}, "--name: give one line"),
        ({"val_masks": "m"}, "--val-images goes with either"),
        ({"val_images": "i"}, "--val-images goes with either"),
        ({"val_images": "i", "val_masks": "m", "val_coco": "c"}, "--val-images goes with either"),
        ({"val_images": "i", "val_coco": "c"}, "validate on the kind of truth that is trained on"),
    ],
)
def test_options_of_data_that_do_not_go_together_are_refused(given: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        check_data(TrainOptions(**{"images": "images", "masks": "masks"} | given))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"crop": 50}, "--crop 50: this network needs a multiple of 64"),
        ({"average": 1.0}, "--average 1: must be below 1"),
        ({"momentum": 1.5}, "--momentum 1.5: must be below 1"),
        ({"batch": 1}, "--batch 1: fewer than the 2 processes"),
    ],
)
def test_what_the_network_cannot_be_trained_with_is_refused(given: dict[str, Any], told: str) -> None:
    asked = TrainOptions(images="a", masks="b", **given)
    with pytest.raises(UsageError, match=told):
        check(asked, network_config(asked, None), 2)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"stem_stride": 3}, "--stem-stride 3 must be one of 2, 4"),
        ({"stages": 7}, "--stages 7 must be 2 to 4"),
        ({"backbone": "mobilenet_v3", "stem_stride": 2}, "stem-stride 2 is of a ResNet"),
    ],
)
def test_impossible_networks_are_refused(given: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        network_config(TrainOptions(images="a", masks="b", **given), None)


def test_data_without_objects_are_refused(tmp_path: Path, data: Path) -> None:
    from i2i.normalize import Normalization
    from tests.cli.kit import save

    for number in range(3):
        save(tmp_path / f"images/{number}.png")
        save(tmp_path / f"masks/{number}.tif", np.zeros((96, 128), np.uint16))
    asked = TrainOptions(images=str(tmp_path / "images"), masks=str(tmp_path / "masks"))
    with pytest.raises(TrainingError, match="no image to train on holds an object"):
        load_objects(asked, Normalization(), False, (), lambda text: None)
