"""Training a network of one style: photographs and crops, the loss, and a run that can be killed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import i2i
from i2i.data import generator
from i2i.errors import InputError, TrainingError, UsageError
from i2i.models import open_model, save_model
from i2i.testing import blobs
from i2i_style.encoder import Encoder, EncoderConfig
from i2i_style.photographs import crop, digest, load_photographs, style_picture, whole_crops
from i2i_style.train import Criterion
from i2i_style.transformer import Transformer, TransformerConfig

SMALL = EncoderConfig(((4, 4), (8, 8), (8,)))
LAYERS = ("conv1_1", "conv2_1", "conv3_1")


def small_encoder() -> Encoder:
    torch.manual_seed(0)
    return Encoder(SMALL).eval().requires_grad_(False)


def save_picture(path, height, width, seed=0, channels=3):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = blobs(height, width, channels, seed)
    Image.fromarray(pixels if channels == 3 else pixels[..., 0]).save(path)


@pytest.fixture
def place(tmp_path):
    """Six photographs, one of them in a folder of its own, a style, and an encoder of random weights."""
    for number in range(5):
        save_picture(tmp_path / f"photos/{number}.png", 70, 90, number)
    save_picture(tmp_path / "photos/more/5.png", 66, 64, 5, channels=1)
    save_picture(tmp_path / "waves.png", 40, 50, 9)
    header = {"task": "stylize", "kind": "encoder", "encoder": SMALL.as_mapping()}
    save_model(tmp_path / "encoder.safetensors", small_encoder().state_dict(), header)
    return tmp_path


def trained(place, name="m.safetensors", **options):
    values = {
        "style": str(place / "waves.png"), "images": str(place / "photos"), "encoder": str(place / "encoder.safetensors"),
        "style_scale": 0.1, "channels": 2, "blocks": 1, "crop": 64, "batch": 2, "steps": 4, "warmup": 1, "average": 0.5,
        "validate_every": 2, "samples": 1, "precision": "fp32",
    }  # fmt: skip
    return i2i.train("stylize", place / name, **values | options)


# ---------------------------------------------------------------------------------------------------------------- photographs


def test_photographs_are_brought_to_a_side_that_crops_fit_in(tmp_path):
    for name, size in {"a": (40, 80), "b": (100, 130), "c/d": (300, 900)}.items():
        save_picture(tmp_path / f"{name}.png", *size)
    (tmp_path / "readme.txt").write_text("no picture")
    told: list[str] = []
    found = load_photographs(tmp_path, 64, 0, told.append)
    assert [tuple(picture.shape) for picture in found.learn] == [(3, 64, 128), (3, 100, 130)]
    assert [tuple(picture.shape) for picture in found.held] == [(3, 85, 256)], "read at four crops' sides at most"
    assert told == ["1 photographs are smaller than a crop of 64 pixels, and are enlarged"]
    assert whole_crops([*found.learn, *found.held], 64).shape == (3, 3, 64, 64)


def test_too_many_photographs_are_drawn_by_the_seed(tmp_path, monkeypatch):
    from i2i_style import photographs

    monkeypatch.setattr(photographs, "_MOST", 4)
    for number in range(8):
        save_picture(tmp_path / f"{number}.png", 64, 64, number)
    told: list[str] = []
    first, again, other = (load_photographs(tmp_path, 64, seed, told.append) for seed in (0, 0, 1))
    assert len(first.learn) + len(first.held) == 4 and told[0].startswith("4 of 8 photographs are drawn")
    assert digest(first.learn) == digest(again.learn) != digest(other.learn)


def test_crops_are_squares_of_the_photograph_of_any_size_either_way_round():
    height, width, side = 96, 140, 64
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    photograph = torch.stack([rows, columns, rows]).to(torch.uint8)
    crops = [crop(photograph, side, generator(number)).int() for number in range(60)]
    assert all(found.shape == (3, side, side) for found in crops)
    down = torch.tensor([float(found[0, -1, 5] - found[0, 0, 5]) for found in crops])
    across = torch.tensor([float(found[1, 5, -1] - found[1, 5, 0]) for found in crops])
    assert bool((down > 0).all()) and 15 < int((across < 0).sum()) < 45
    assert bool(((across.abs() - down).abs() <= 2).all()), "squares stay squares"
    assert float(down.min()) < 70 and float(down.max()) > 85
    assert torch.equal(crop(photograph, side, generator(3)).int(), crops[3])


def test_the_style_is_brought_to_its_scale(tmp_path):
    save_picture(tmp_path / "s.png", 100, 200)
    assert style_picture(tmp_path / "s.png", 0.25).shape == (3, 64, 128)
    assert style_picture(tmp_path / "s.png", 1.0).shape == (3, 256, 512)
    with pytest.raises(InputError, match="none.png"):
        style_picture(tmp_path / "none.png", 1.0)


# ------------------------------------------------------------------------------------------------------------------- the loss


def test_the_loss_is_that_of_the_papers():
    encoder, weights = small_encoder().double(), {"conv1_1": 0.5, "conv2_1": 0.25}
    style = {"conv1_1": torch.rand(4, 4), "conv2_1": torch.rand(8, 8)}
    criterion = Criterion(encoder, style, {"conv3_1": 2.0}, weights, (3, 5, 7))
    image, made = torch.rand((2, 3, 24, 20)), torch.rand((2, 3, 24, 20))
    found = criterion(lambda seen: made, (image,))
    content = style_sum = variation = 0.0
    for one, wanted in zip(made.double(), image.double(), strict=True):
        answers, known = (encoder(picture[None], LAYERS) for picture in (one, wanted))
        content += 2 * float((answers["conv3_1"] - known["conv3_1"]).square().mean()) / 2 / 2
        for name, weight in weights.items():
            flat = answers[name][0].flatten(1)
            style_sum += weight * float((flat @ flat.T / flat.shape[1] - style[name]).square().mean()) / 4 / 2
        differences = one.diff(dim=1).square().sum() + one.diff(dim=2).square().sum()
        variation += float(differences) / 2 / (24 * 20) / 2
    expected = {"content": 3 * content, "style": 5 * style_sum, "variation": 7 * variation}
    assert {name: float(value) for name, value in found.items()} == pytest.approx(expected, rel=1e-4)


def test_the_loss_reaches_the_weights_of_the_network_and_no_others():
    encoder, plain = small_encoder(), Transformer(TransformerConfig(2, 1))
    criterion = Criterion(encoder, {"conv1_1": torch.rand(4, 4)}, {"conv3_1": 1.0}, {"conv1_1": 1.0}, (1, 1, 1))
    torch.stack(list(criterion(plain, (torch.rand((1, 3, 32, 32)),)).values())).sum().backward()
    assert all(part.grad is not None and bool(part.grad.abs().sum() > 0) for part in plain.parameters())
    assert all(part.grad is None for part in encoder.parameters())


# --------------------------------------------------------------------------------------------------------------------- the run


def test_a_killed_training_ends_as_one_that_never_stopped(place):
    whole = trained(place, "whole.safetensors")

    def stop(step, steps, values):
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(place, report=stop)
    resumed = trained(place, resume=True)
    assert (place / "m.safetensors").read_bytes() == (place / "whole.safetensors").read_bytes()
    assert resumed["agreement"] == whole["agreement"] < 0 and resumed["steps"] == 4
    config = open_model(place / "m.safetensors").config
    assert (config["kind"], config["style"], config["transformer"]) == ("transfer", "waves", {"channels": 2, "blocks": 1})
    assert str(place) not in str(config)


def test_a_run_goes_on_with_its_own_style_and_photographs_alone(place):
    trained(place, steps=2)
    save_picture(place / "other.png", 40, 50, 11)
    with pytest.raises(TrainingError, match="style picture was"):
        trained(place, style=str(place / "other.png"), resume=True)
    save_picture(place / "photos/6.png", 70, 70, 6)
    with pytest.raises(TrainingError, match="photographs was 5 .* is 6 "):
        trained(place, resume=True)
    with pytest.raises(TrainingError, match="style_weight was"):
        trained(place, style_weight=1.0, resume=True)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"images": "nowhere"}, TrainingError, "nowhere: no such folder"),
        ({"style": "none.png"}, InputError, "none.png"),
        ({"crop": 66}, UsageError, "--crop 66: must be a multiple of 4"),
        ({"crop": 32}, UsageError, "at least 64"),
        ({"channels": 1000}, UsageError, "--channels 1000: at most 256"),
        ({"style_weight": 0.0, "content_weight": 0.0}, UsageError, "nothing to learn"),
    ],
)
def test_what_cannot_be_trained_with_is_said(place, monkeypatch, options, error, words):
    monkeypatch.chdir(place)
    with pytest.raises(error, match=words):
        trained(place, **options)


def test_a_folder_without_photographs_is_said(place):
    (place / "empty").mkdir()
    with pytest.raises(TrainingError, match="holds no photograph; give a folder of many"):
        trained(place, images=str(place / "empty"))


def test_a_file_that_only_looks_like_a_photograph_is_named(place):
    (place / "photos/broken.jpg").write_bytes(b"not a picture")
    with pytest.raises(InputError, match=r"broken\.jpg"):
        trained(place)


def test_the_losses_fall(place):
    seen = []

    def note(step, steps, values):
        seen.append(values["loss"])

    trained(place, steps=40, validate_every=40, samples=0, report=note, rate=0.01)
    assert np.mean(seen[-8:]) < 0.8 * np.mean(seen[:8])
