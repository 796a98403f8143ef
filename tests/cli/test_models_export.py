"""``i2i models export``: files that other programs run, with the same answers."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from i2i.testing import blobs
from tests.cli.kit import done, load, refused, save


def run(path: str, pixels: np.ndarray) -> np.ndarray:
    """(H, W, C) in what the network sees -> (H, W, C')."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (answer,) = session.run(None, {"pixels": np.moveaxis(pixels, 2, 0)[None].astype(np.float32)})
    return np.moveaxis(answer[0], 0, 2)


@pytest.mark.parametrize(
    "network", ["--norm instance --depth 3", "--norm batch --up resize --depth 2", "--generator resnet --blocks 1 --norm group"]
)
def test_a_generators_file_gives_what_i2i_gives(i2i, folder, network):
    for number in range(2):
        pixels = blobs(40, 40, 3, number)
        save(folder / f"in/{number}.png", pixels[..., 0])
        save(folder / f"out/{number}.png", 255 - pixels)
    tiny = ["--filters", "8", "--crop", "32", "--patch", "16", "--steps", "2", "--precision", "fp32"]
    done(i2i("train", "translate", "--source", "in", "--target", "out", "-o", "m.safetensors", *tiny, *network.split()))
    told = done(i2i("models", "export", "m.safetensors", "-o", "m.onnx"))
    assert told.out.startswith("m.onnx: 1 channels to 3, sides of multiples of ") and "checked by running it" in told.err
    image = blobs(64, 96, 1, 7)[..., 0]
    done(
        i2i(
            "translate",
            save("photo.png", image),
            "--model",
            "m.safetensors",
            "-o",
            "o.tif",
            "--as",
            "float",
            "--precision",
            "fp32",
        )
    )
    answer = (run("m.onnx", image[..., None] / 127.5 - 1) + 1) * 127.5
    wanted = np.moveaxis(load("o.tif"), 0, 2)
    assert np.abs(answer - wanted).max() < 1e-3 * 255 and np.ptp(wanted) > 5


def test_a_bundled_models_file_knows_its_model(i2i):
    found = done(i2i("models", "export", "nuclei-fluo", "-o", "n.onnx", "--json")).json
    assert found["difference"] < 1e-5 and (found["channels_in"], found["channels_out"], found["multiple_of"]) == (1, 3, 16)
    told = {entry.key: entry.value for entry in onnx.load("n.onnx").metadata_props}
    assert told["model"] == "nuclei-fluo" and len(told["sha256"]) == 64
    assert json.loads(told["i2i"])["task"] == "segment"
    assert run("n.onnx", np.zeros((48, 16, 1))).shape == (48, 16, 3)


@pytest.mark.filterwarnings("ignore:.torch.jit.load. is deprecated:FutureWarning")  # who loads such a file knows
@pytest.mark.parametrize("name", ["nuclei-fluo", "denoise-fluo"])
def test_a_torchscript_file_gives_what_the_network_gives_and_knows_its_model(i2i, name):
    found = done(i2i("models", "export", name, "-o", "n.pt", "--json")).json
    assert found["format"] == "torchscript" and found["difference"] < 1e-5
    told = {"i2i.json": ""}
    network = torch.jit.load("n.pt", _extra_files=told)
    assert network(torch.zeros(1, 1, 48, 16)).shape == (1, found["channels_out"], 48, 16)
    assert json.loads(told["i2i.json"])["model"] == name


def test_a_file_that_answers_otherwise_is_not_left(i2i, folder, monkeypatch):
    monkeypatch.setattr("i2i.exchange._TOLERANCE", -1.0)
    refused(i2i("models", "export", "nuclei-fluo", "-o", "n.pt"), 1, "torchscript differ by")
    assert not list(folder.glob("n.*"))


def test_what_has_no_such_file_is_told_in_a_line(i2i, folder):
    refused(i2i("models", "export", "nuclei", "-o", "n.onnx"), 1, "nuclei", "more than a network")
    refused(i2i("models", "export", "nuclei-fluo", "-o", "n.pth"), 2, "n.pth", ".onnx or .pt or .ts")
    refused(i2i("models", "export", "nuclei-fluo", "-o", "n.pt", "--format", "onnx"), 2, "n.pt", "of onnx ends in .onnx")
    refused(i2i("models", "export", "nuclei-fluo", "-o", "n.pt", "--format", "caffe"), 2, "caffe", "onnx, torchscript")
    refused(i2i("models", "export", "style-swap", "-o", "n.onnx"), 1, "style-swap", "does not run alone")
    refused(i2i("models", "export", "vgg-compact", "-o", "n.onnx"), 1, "vgg-compact", "a part of what stylize does")
    refused(i2i("models", "export", "zebra", "-o", "n.onnx"), 1, "'zebra'", "i2i models list")
    (folder / "there.onnx").write_bytes(b"")
    refused(i2i("models", "export", "nuclei-fluo", "-o", "there.onnx"), 1, "there.onnx", "--overwrite")
    assert not (folder / "n.onnx").exists()
