"""``i2i train stylize`` and ``i2i stylize --model``: from photographs and a style to a network, and from there to pictures."""

from __future__ import annotations

import numpy as np
import pytest

from i2i.testing import blobs
from tests.cli.kit import done, files, load, refused, save

TINY = ["--encoder", "encoder.safetensors", "--channels", "4", "--blocks", "1", "--crop", "64", "--batch", "2", "--steps", "2",
        "--validate-every", "2", "--warmup", "1", "--style-scale", "0.1", "--average", "0", "--precision", "fp32"]  # fmt: skip


@pytest.fixture
def train(i2i, folder):
    """``i2i train stylize`` of a tiny network, by an encoder of random weights."""
    import torch

    from i2i.models import save_model
    from i2i_style.encoder import Encoder, EncoderConfig

    torch.manual_seed(0)
    config = EncoderConfig(((4, 4), (8, 8), (8,)))
    header = {"task": "stylize", "kind": "encoder", "encoder": config.as_mapping()}
    save_model(folder / "encoder.safetensors", Encoder(config).state_dict(), header)
    for number in range(3):
        save(folder / f"photos/{number}.png", blobs(70, 90, 3, number))
    save(folder / "waves.png", blobs(40, 50, 3, 7))
    return lambda *words: i2i("train", "stylize", "--style", "waves.png", "--images", "photos", *TINY, *words)


def test_a_trained_network_stylizes_pictures_of_any_size(train, i2i, folder):
    result = done(train("-o", "m.safetensors"))
    assert result.err.splitlines()[0] == "2 photographs to train on, 1 to validate; style: waves.png"
    assert "agreement" in result.err
    assert [name for name in files(folder) if name.startswith("m")] == [
        "m-training/checkpoint.pt", "m-training/metrics.jsonl", "m-training/samples/step-000002.png", "m.safetensors",
    ]  # fmt: skip
    photo = save("photo.png", blobs(150, 210, 3, 5))
    report = done(i2i("stylize", photo, "--model", "m.safetensors", "-o", "whole.png", "--json")).run
    assert report["kind"] == "image"
    done(i2i("stylize", photo, "--model", "m.safetensors", "-o", "tiled.png", "--tile", "96"))
    whole, tiled = load("whole.png").astype(int), load("tiled.png").astype(int)
    assert whole.shape == (150, 210, 3) and np.abs(whole - tiled).max() <= 1
    assert np.abs(whole - load(photo)).max() > 10


def test_gray_deep_and_smaller_pictures(train, i2i, folder):
    done(train("-o", "m.safetensors"))
    stylize = ["--model", "m.safetensors", "-o"]
    gray = save("gray.png", blobs(60, 80, 1)[..., 0])
    done(i2i("stylize", gray, *stylize, "g.png"))
    assert load("g.png").shape == (60, 80, 3)
    deep = save("deep.tif", blobs(60, 80, 3).astype(np.uint16) * 257)
    done(i2i("stylize", deep, *stylize, "d.tif"))
    assert load("d.tif").dtype == np.uint16
    done(i2i("stylize", deep, *stylize, "s.tif", "--size", "40"))
    assert load("s.tif").shape == (30, 40, 3)


def test_what_a_network_of_one_style_cannot_do_is_one_line(train, i2i):
    done(train("-o", "m.safetensors"))
    photo = save("photo.png", blobs(60, 80, 3))
    refused(i2i("stylize", photo, "--model", "m.safetensors", "--style", "waves.png"), 2, "--style", "leave out")
    refused(i2i("stylize", photo, "--model", "m.safetensors", "--keep-colors", "histogram"), 2, "luminance")


def test_a_style_and_photographs_are_needed(train, i2i):
    refused(train("-o", "m.safetensors", "--images", "nowhere"), 1, "nowhere: no such folder")
    refused(train("-o", "m.safetensors", "--style", "none.png"), 1, "none.png")
    refused(i2i("train", "stylize", "-o", "m.safetensors", "--images", "photos"), 2, "--style")
