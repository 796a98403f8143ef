"""Every option of training, each on a tiny network for a few steps; and training that starts from another model."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from i2i.models import open_model, save_model
from i2i_unet.network import original
from tests.cli.conftest import tiny_network
from tests.cli.kit import blobs, done, load, picture, refused, save
from tests.cli.lessons import BRIEF, DATA, TINY, ids, make_data


@pytest.fixture
def train(i2i, folder):
    """``i2i train segment``, brief; of a tiny U-Net, unless ``network`` says otherwise."""
    make_data(folder)
    return lambda *words, steps=2, network=TINY: i2i("train", "segment", *DATA, "--steps", steps, *network, *words)


@pytest.fixture
def segments(i2i):
    """Whether the model segments a picture into something of its size: the kind of its result."""

    def call(model):
        found = done(i2i("segment", "images/0.png", "--model", model, "-o", "x.png", "--overwrite", "--json")).run
        assert load("x.png").shape == (64, 80)
        return found["kind"]

    return call


def tensors(path):
    return open_model(path).tensors()


def assert_same(one, other):
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


FAST = ["--rate", "0.01", "--warmup", "0", "--average", "0", "-q"]
"""So that a few steps are seen in weights of 16 bits."""


# ------------------------------------------------------------------------------------------------------------- options


@pytest.mark.parametrize(
    "words",
    [
        ["--loss", "weighted", "--optimizer", "sgd", "--rate", "0.01"],
        ["--loss", "cross-entropy", "--schedule", "poly", "--warmup", "0"],
        ["--loss", "dice", "--schedule", "step", "--warmup", "1"],
        ["--loss", "cross-entropy+dice", "--schedule", "constant", "--class-balance"],
        ["--loss", "weighted+dice", "--class-balance", "--border-weight", "3", "--border-sigma", "2"],
        ["--norm", "instance", "--target", "foreground"],
        ["--norm", "group", "--average", "0"],
        ["--norm", "none", "--dropout", "0.5"],
        ["--up", "resize", "--no-shift", "--no-flip", "--rotate", "0", "--elastic", "0", "--scale", "1"],
        ["--padding", "valid", "--up", "transposed", "--no-augment"],
        ["--padding", "valid", "--up", "resize", "--normalize", "range"],
        ["--gray", "0", "--noise", "0", "--blur", "0", "--precision", "bf16", "--samples", "0"],
    ],
    ids=" ".join,
)
def test_a_network_is_trained_as_the_options_say_and_segments(train, segments, folder, words):
    done(train("-o", "m.safetensors", *words, "-q"))
    assert segments("m.safetensors") == "labels"
    made = open_model(folder / "m.safetensors").config
    stated = made["training"]["options"] | made["network"] | made["training"]
    for word, value in zip(words, [*words[1:], "--"], strict=True):
        if word.startswith("--") and not value.startswith("--"):
            assert str(stated[word[2:].replace("-", "_")]).removesuffix(".0") == value
    weighted = "weighted" in made["training"]["options"]["loss"]
    assert (folder / "m-training/border-weights").exists() == weighted
    assert (folder / "m-training/samples").exists() == ("--samples" not in words)
    terms = json.loads((folder / "m-training/metrics.jsonl").read_text().splitlines()[0])
    assert ("dice" in terms, "cross_entropy" in terms) == ("dice" in str(stated["loss"]), stated["loss"] != "dice")


def test_the_papers_network_is_trained(train, segments, folder, monkeypatch):
    """With fewer filters, for the time that it takes."""
    monkeypatch.setattr("i2i_unet.settings.original", lambda: replace(original(), filters=2))
    done(train("-o", "m.safetensors", "--arch", "original", steps=1, network=["--batch", "1", "--crop", "16"]))
    assert segments("m.safetensors") == "labels"
    assert open_model(folder / "m.safetensors").config["network"] == replace(original(), filters=2, classes=3).as_mapping()


def test_a_patch_classifier_is_trained(train, segments, folder):
    words = ["--arch", "patch", "--patch-size", "9", "--batch", "64", "--validate-every", "1", "--precision", "fp32"]
    found = done(train("-o", "m.safetensors", *words, "--json", "-q", network=[])).json
    assert 0 < found["accuracy"] <= 1 and "ap50" not in found
    assert segments("m.safetensors") == "labels"
    assert not (folder / "m-training/border-weights").exists()
    other = train("-o", "n.safetensors", *words, "--loss", "dice", network=[])
    refused(other, 2, "--loss dice: a patch classifier has cross-entropy alone")


def test_training_stops_when_validation_gets_no_better(train, folder):
    still = ["--rate", "0", "--norm", "none", "--patience", "2", "--validate-every", "2"]
    result = done(train("-o", "m.safetensors", *still, "--json", steps=20))
    assert result.json["steps"] == 6 == len((folder / "m-training/metrics.jsonl").read_text().splitlines())
    assert "stopped after 6 steps: 2 validations in a row were no better" in result.err.splitlines()
    before = (folder / "m.safetensors").read_bytes()
    done(train("-o", "m.safetensors", *still, "--resume", "-q", steps=20))
    assert (folder / "m.safetensors").read_bytes() == before
    assert "stopped" not in done(train("-o", "n.safetensors", *still, steps=6)).err


def test_options_of_augmentation_change_what_is_learnt(train, folder):
    ways = [[], ["--no-augment"], ["--no-shift"], ["--no-flip"], ["--rotate", "0"], ["--gray", "0"]]
    for number, words in enumerate(ways):
        done(train("-o", f"{number}.safetensors", *words, *FAST))
    found = {
        b"".join(tensor.numpy().tobytes() for tensor in tensors(folder / f"{i}.safetensors").values()) for i in range(len(ways))
    }
    assert len(found) == len(ways)


# --------------------------------------------------------------------------------------------------------------- masks


def all_masks(change):
    for number in range(6):
        save(f"masks/{number}.tif", change(ids(number)).astype(np.uint8))


def names(path):
    return open_model(path).config["class_names"]


def test_masks_of_0_and_255_are_two_classes(train, segments, folder):
    all_masks(lambda labels: 255 * (labels > 0))
    done(train("-o", "m.safetensors", "--target", "classes", *FAST))
    all_masks(lambda labels: labels > 0)
    done(train("-o", "n.safetensors", "--target", "classes", *FAST))
    assert names(folder / "m.safetensors") == ["class 0", "class 1"] and segments("m.safetensors") == "classes"
    assert (folder / "m.safetensors").read_bytes() == (folder / "n.safetensors").read_bytes()


def test_an_ignored_value_is_no_class_and_what_it_hides_does_not_matter(train, folder):
    def hidden(labels, value):
        classes = (labels > 0).astype(int)
        classes[:20] = value
        return classes

    for name, value in (("m", 255), ("n", 7)):
        all_masks(lambda labels, value=value: hidden(labels, value))
        done(train("-o", f"{name}.safetensors", "--target", "classes", "--ignore", value, *FAST, steps=3))
        assert names(folder / f"{name}.safetensors") == ["class 0", "class 1"]
    assert_same(tensors(folder / "m.safetensors"), tensors(folder / "n.safetensors"))
    done(train("-o", "o.safetensors", "--target", "classes", *FAST))
    assert len(names(folder / "o.safetensors")) == 8


def test_foreground_is_learnt_from_masks_of_one_value_and_borders_are_not(train, segments, folder):
    all_masks(lambda labels: 255 * (labels > 0))
    done(train("-o", "m.safetensors", "--target", "foreground", "-q"))
    assert names(folder / "m.safetensors") == ["background", "interior"] and segments("m.safetensors") == "labels"
    refused(train("-o", "n.safetensors"), 1, "--target border: no mask holds two ids")


def test_a_class_that_only_validation_shows_is_a_class(train, folder):
    all_masks(lambda labels: labels > 0)
    save("masks/5.tif", (2 * (ids(5) > 0)).astype(np.uint8))
    done(train("-o", "m.safetensors", "--target", "classes", *FAST))
    assert names(folder / "m.safetensors") == ["class 0", "class 1", "class 2"]


def test_gray_images_among_those_of_three_channels_are_repeated(train, i2i, folder):
    save("images/3.png", np.stack([picture(64, 80)] * 3, 2))
    assert "gray images are repeated to three channels" in done(train("-o", "m.safetensors")).err
    made = open_model(folder / "m.safetensors").config
    assert made["network"]["channels"] == 3 and made["gray_as_rgb"]
    for name in ("images/0.png", "images/3.png"):
        done(i2i("segment", name, "--model", "m.safetensors", "-o", "x.png", "--overwrite"))


def test_many_classes_are_counted_and_object_ids_suspected(train):
    all_masks(lambda labels: 5 * labels)
    told = done(train("-o", "m.safetensors", "--target", "classes")).err
    assert "; object ids need --target border or foreground" in told and "class 1" not in told


def test_an_average_that_begins_with_untaught_weights_is_told(train):
    assert "mean over about 200 steps (--average 0.995)" in done(train("-o", "a.safetensors")).err
    for number, words in enumerate((["--average", "0"], ["--average", "0.3"], ["--from", "a.safetensors"])):
        told = done(train("-o", f"{number}.safetensors", *words, steps=6, network=BRIEF if "--from" in words else TINY)).err
        assert "mean over" not in told


def test_sheets_of_a_training_that_is_overwritten_do_not_stay(train, folder):
    done(train("-o", "m.safetensors", "-q", steps=6))
    assert [path.name for path in sorted(folder.glob("m-training/samples/*"))] == ["step-000003.png", "step-000006.png"]
    done(train("-o", "m.safetensors", "-q", "--overwrite", steps=4))
    assert [path.name for path in sorted(folder.glob("m-training/samples/*"))] == ["step-000003.png", "step-000004.png"]


def test_folders_of_their_own_for_validation(train, folder):
    for number in range(2):
        save(f"held/images/{number}.png", picture(40, 48, seed=number))
        save(f"held/masks/{number}.tif", blobs(40, 48, seed=number).astype(np.uint16))
    result = done(train("-o", "m.safetensors", "--val-images", "held/images", "--val-masks", "held/masks"))
    assert result.err.startswith("6 images to train on, 2 to validate")


# ------------------------------------------------------------------------------------------------------- another model


@pytest.fixture
def taught(train, folder):
    """``base.safetensors``, without batch norm, whose running means would go on changing."""
    done(train("-o", "base.safetensors", "--norm", "none", "--normalize", "range", "-q", steps=3))
    return folder


STILL = ["--rate", "0", "--average", "0", "-q"]


def test_training_starts_from_the_weights_of_a_model_or_of_a_checkpoint(train, taught):
    """A rate of 0 leaves them as they are."""
    for name, start in (("m", "base.safetensors"), ("n", "base-training/checkpoint.pt")):
        done(train("-o", f"{name}.safetensors", "--from", start, *STILL, network=BRIEF))
        assert_same(tensors(taught / f"{name}.safetensors"), tensors(taught / "base.safetensors"))
        made, base = (open_model(taught / f"{one}.safetensors").config for one in (name, "base"))
        assert (made["network"], made["normalization"]) == (base["network"], base["normalization"])
        assert made["training"]["from"]["name"] == start.split("/", maxsplit=1)[0].removesuffix(".safetensors")
    told = done(train("-o", "o.safetensors", "--from", "base.safetensors", *FAST[:-1], network=BRIEF)).err.splitlines()
    assert "goes on from base" in told
    moved, base = tensors(taught / "o.safetensors"), tensors(taught / "base.safetensors")
    assert not torch.equal(moved["head.weight"], base["head.weight"])


def test_training_starts_from_a_bundled_model(train, segments):
    told = done(train("-o", "m.safetensors", "--from", "nuclei-fluo", "--target", "border", steps=1, network=BRIEF)).err
    assert "goes on from nuclei-fluo" in told and segments("m.safetensors") == "labels"


def test_a_model_that_knows_gray_images_as_rgb_learns_from_gray_images(train, i2i):
    """One that does not know them refuses them."""
    for name, known in (("knows", {"gray_as_rgb": True}), ("not", {})):
        header, weights = tiny_network(channels=3, **known)
        save_model(Path(f"{name}.safetensors"), weights, header)
    told = done(train("-o", "m.safetensors", "--from", "knows.safetensors", network=BRIEF)).err
    assert "gray images are repeated to three channels" in told
    made = open_model(Path("m.safetensors")).config
    assert made["network"]["channels"] == 3 and made["gray_as_rgb"]
    done(i2i("segment", "images/0.png", "--model", "m.safetensors", "-o", "x.png"))
    refused(train("-o", "n.safetensors", "--from", "not.safetensors", "-q", network=BRIEF), 1, "--from not", "3 channels")


def test_another_number_of_classes_gets_a_new_head(train, taught, segments):
    result = done(
        train("-o", "m.safetensors", "--from", "base.safetensors", *STILL[:-1], "--target", "foreground", network=BRIEF)
    )
    assert "goes on from base, with a new head" in result.err.splitlines()
    found, base = tensors(taught / "m.safetensors"), tensors(taught / "base.safetensors")
    assert found["head.weight"].shape[0] == 2 and segments("m.safetensors") == "labels"
    assert_same(*({name: tensor for name, tensor in one.items() if "head" not in name} for one in (found, base)))


def test_what_does_not_go_with_another_model_is_refused(train, taught):
    begun = ["-o", "m.safetensors", "--from", "base.safetensors"]
    refused(train(*begun, "--filters", "8", network=BRIEF), 2, "--from base.safetensors", "leave out --filters")
    refused(train(*begun, "--arch", "original", network=BRIEF), 2, "leave out --arch")
    refused(train(*begun, "--normalize", "none", network=BRIEF), 2, "leave out --normalize")
    refused(train(*begun, "--crop", "33", network=BRIEF), 2, "--crop 33", "depth 1 needs a multiple of 2")
    refused(train("-o", "m.safetensors", "--from", "none.pt", network=BRIEF), 1, "none.pt: no such file")
    refused(train("-o", "m.safetensors", "--from", "none", network=BRIEF), 1, "none")
    for number in range(6):
        save(f"images/{number}.png", np.stack([picture(64, 80, seed=number)] * 3, 2))
    refused(train(*begun, "-q", network=BRIEF), 1, "--from base: takes images of 1 channels, these have 3")
    assert not (taught / "m-training").exists()


def test_training_that_started_from_another_model_is_resumed_with_it(train, taught):
    begun = ["--from", "base.safetensors", "--schedule", "constant", *FAST]
    done(train("-o", "whole.safetensors", *begun, steps=6, network=BRIEF))
    done(train("-o", "m.safetensors", *begun, steps=3, network=BRIEF))
    done(train("-o", "m.safetensors", *begun, "--resume", steps=6, network=BRIEF))
    assert_same(tensors(taught / "m.safetensors"), tensors(taught / "whole.safetensors"))
    again = ["-o", "m.safetensors", "--schedule", "constant", *FAST, "--resume"]
    refused(train(*again, "--from", "whole.safetensors", network=BRIEF), 1, "of another run: from was ")
    refused(train(*again, network=BRIEF), 1, "of another run: from was ", "is None")


# --------------------------------------------------------------------------------------------------------- tensorboard


def test_without_tensorboard_its_option_costs_nothing(train, folder, monkeypatch):
    """The refusal comes before the checkpoint that is there is given up."""
    done(train("-o", "m.safetensors", "-q"))
    before = (folder / "m-training/checkpoint.pt").read_bytes()

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    result = train("-o", "m.safetensors", "--overwrite", "--tensorboard")
    refused(result, 2, "--tensorboard needs the package tensorboard: pip install 'i2i-engine[tensorboard]'")
    assert (folder / "m-training/checkpoint.pt").read_bytes() == before
