"""A network that answers NaN or Inf fails, in one line; thresholds would take it for a picture without objects."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import i2i as package
from i2i.errors import ModelError, NotFinite
from i2i.finite import require_finite
from i2i.models import open_model, save_model
from tests.cli.kit import files, on_disk, picture, refused, save
from tests.faults import networks as tiny

PLACES = {
    "segment": ("", "head.weight"),
    "translate": ("",),
    "stylize": ("",),
    "instances": ("", "rpn.head.cls_logits.bias", "rpn.head.bbox_pred.bias", "box_predictor.cls_score.bias",
                  "box_predictor.bbox_pred.bias", "mask_predictor.mask_fcn_logits.bias"),
}  # fmt: skip
"""By task weights, by the ends of their names, of which one number is wrong; the first of all where there is none."""
CASES = [(task, place, value) for task, places in PLACES.items() for place in places for value in (np.nan, np.inf)]


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    folder = tmp_path_factory.mktemp("good")
    header, weights = tiny.tiny_network(1)
    save_model(folder / "segment.safetensors", weights, header)
    tiny._detector(folder / "instances.safetensors", 1)
    tiny._generator(folder / "translate.safetensors", 1)
    tiny._transformer(folder / "stylize.safetensors")
    return folder


def _broken(good: Path, path: Path, place: str, value: float) -> Path:
    model = open_model(good)
    weights = {name: tensor.clone().float() for name, tensor in model.tensors().items()}
    chosen = next(name for name, tensor in weights.items() if name.endswith(place) and "num_batches" not in name)
    weights[chosen].view(-1)[0] = value
    save_model(path, weights, model.config, half=False)
    return path


@pytest.mark.parametrize(("task", "place", "value"), CASES)
@pytest.mark.filterwarnings("error")
def test_a_wrong_number_among_the_weights_is_told(i2i, good, folder, task, place, value):
    save("a.png", np.stack([picture(64, 64)] * 3, 2) if task == "stylize" else picture(64, 64))
    model = _broken(good / f"{task}.safetensors", folder / "bad.safetensors", place, value)
    result = i2i(task, "a.png", "--model", model, "--precision", "fp32", "-o", "x.tif")
    refused(result, 1, "a.png: bad: the network answers NaN or Inf; is the model file damaged?")
    assert "--precision" not in result.err
    assert files(folder) == ["a.png", "bad.safetensors"], "nothing is published"


def test_a_lower_precision_may_be_the_reason(i2i, good, folder, monkeypatch):
    save("a.png", picture(64, 64))
    model = _broken(good / "segment.safetensors", folder / "bad.safetensors", "", np.nan)
    cure = "or --precision bf16 too small? try --precision fp32"
    refused(i2i("segment", "a.png", "--model", model, "--precision", "bf16", "-o", "x.tif"), 1, "a.png: bad: ", cure)
    on_disk(monkeypatch)
    for words in ([], ["--resume"]):
        refused(i2i("segment", "a.png", "--model", model, "--precision", "fp32", "-o", "x.tif", *words), 1, "a.png: bad: ")
    assert not (folder / "x.tif").exists()


def test_one_bad_image_does_not_stop_the_others(i2i, good, folder):
    """Here all are: the network is the same. Each is named."""
    save("in/a.png", picture(64, 64)), save("in/b.png", picture(64, 64))
    model = _broken(good / "segment.safetensors", folder / "bad.safetensors", "", np.nan)
    result = i2i("segment", "in", "--model", model, "--precision", "fp32", "-o", "out")
    assert result.code == 1 and "in/a.png: bad: the network" in result.err and "in/b.png: bad: the network" in result.err


def test_arrays_too(good, folder):
    model = _broken(good / "segment.safetensors", folder / "bad.safetensors", "", np.nan)
    with pytest.raises(ModelError, match="the network answers NaN or Inf; is the model file damaged"):
        package.load("segment", model=model, precision="fp32")(picture(64, 64))


def test_large_numbers_are_none_of_them():
    large = np.full((50, 50, 2), 3e38, np.float32)
    require_finite(large), require_finite(-large), require_finite(large[:0])
    for value in (np.nan, np.inf, -np.inf):
        large[7, 3, 1] = value
        with pytest.raises(NotFinite):
            require_finite(large)
    opposed = np.array([np.inf, -np.inf, 1], np.float32)
    with pytest.raises(NotFinite):
        require_finite(opposed)
