"""Training data as users have them: how images and masks are paired, and what a model knows of the images it was trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import i2i as package
from i2i.data import load_pairs
from i2i.models import open_model, save_model
from i2i.normalize import Normalization
from tests.cli.conftest import tiny_network
from tests.cli.kit import done, files, load, picture, refused, save
from tests.cli.lessons import BRIEF, TINY, ids, make_data
from tests.cli.test_train_instances import TINY as MASKRCNN

UM = {"PhysicalSizeXUnit": "µm", "PhysicalSizeYUnit": "µm"}


@pytest.fixture
def train(i2i):
    """``i2i train segment`` of a tiny network, for two steps."""
    return lambda *words: i2i("train", "segment", "--steps", 2, *TINY, *words)


def header(path="m.safetensors"):
    return open_model(Path(path)).config


# ----------------------------------------------------------------------------------------------------------------- pairs


def test_labels_that_i2i_wrote_are_masks_of_their_images(train, i2i, folder):
    for number in range(2):
        save(f"images/{number}.ome.tif", picture(64, 80, seed=number), ome=True)
    done(i2i("segment", "images", "-o", "masks"))
    assert files(folder / "masks") == ["0.tif", "1.tif"]
    done(train("--images", "images", "--masks", "masks", "-o", "m.safetensors"))
    done(i2i("segment", "images", "-o", "found", "--model", "m.safetensors"))
    done(i2i("eval", "segment", "found", "masks"))


def _beside(ending, count=2):
    """Images and their masks in one folder, ``data``, as cellpose has them."""
    for number in range(count):
        save(f"data/{number}.png", picture(64, 80, seed=number))
        save(f"data/{number}{ending}.tif", ids(number).astype(np.uint16))


@pytest.mark.parametrize("task", ["segment", "instances"])
def test_masks_lie_among_their_images(i2i, task):
    _beside("_masks")
    words = TINY if task == "segment" else MASKRCNN
    told = done(i2i("train", task, "--images", "data", "--mask-suffix", "_masks", *words, "--steps", 2, "-o", "m.safetensors"))
    assert "1 images to train on, 1 to validate" in told.err
    assert "mask_suffix" not in header()["training"]["options"]


def test_masks_for_validation_lie_among_their_images_too(train, folder):
    _beside("-segment", 3)
    (folder / "data").rename(folder / "learn")
    _beside("-segment", 1)
    told = done(train("--images", "learn", "--val-images", "data", "--mask-suffix", "-segment", "-o", "m.safetensors"))
    assert "3 images to train on, 1 to validate" in told.err


def test_without_masks_or_their_ending_nothing_is_trained(train, i2i):
    _beside("_masks")
    refused(train("--images", "data", "-o", "m.safetensors"), 2, "--masks", "--mask-suffix")
    refused(train("--images", "data", "--mask-suffix", "_seg", "-o", "m.safetensors"), 1, "data", "ends in _seg")
    words = ["--images", "data", "--coco", "x.json", "--mask-suffix", "_masks", "-o", "m.safetensors"]
    refused(i2i("train", "instances", *words), 2, "--mask-suffix: is of --masks")


@pytest.mark.parametrize("task", ["segment", "instances"])
def test_planes_of_a_stack_are_images_of_their_own(i2i, task):
    """With masks of their own; held back together, told of each, and read as they are from files of one plane."""
    for name, numbers in (("a", range(3)), ("b", range(3, 5))):
        for number in numbers:
            save(f"single/{number}.png", picture(64, 80, seed=number))
            save(f"single/{number}_m.tif", ids(number).astype(np.uint16))
        stack = [np.stack([load(f"single/{number}{end}") for number in numbers]) for end in (".png", "_m.tif")]
        save(f"stacks/{name}.tif", stack[0], ome=True, metadata={"axes": "ZYX"})
        save(f"stacks/{name}_m.tif", stack[1], ome=True, metadata={"axes": "ZYX"})
    words = ["train", task, *(TINY if task == "segment" else MASKRCNN), "--steps", 2, "--mask-suffix", "_m", "--average", "0"]
    told = done(i2i(*words, "--images", "stacks", "-o", "m.safetensors")).err
    assert "3 images to train on, 2 to validate" in told
    if task == "segment":
        done(i2i(task, "stacks/a.tif", "--model", "m.safetensors", "-o", "found/a.tif"))
        assert len(done(i2i("eval", "segment", "found/a.tif", "stacks/a_m.tif", "--json")).json["images"]) == 3
    single = load_pairs(Path("single"), Path("single"), Normalization(), ending="_m")
    stacked = load_pairs(Path("stacks"), Path("stacks"), Normalization(), ending="_m")
    for one, other in zip(single, stacked, strict=True):
        assert torch.equal(one.image, other.image) and torch.equal(one.truth, other.truth)


# ------------------------------------------------------------------------------------------------------------ pixel sizes


def _sized(*sizes):
    """An image for each pixel size in micrometres, and their masks."""
    for number, size in enumerate(sizes):
        told = {"PhysicalSizeX": size, "PhysicalSizeY": size} | UM if size else {}
        save(f"images/{number}.tif", picture(64, 80, seed=number), ome=True, metadata={"axes": "YX"} | told)
        save(f"masks/{number}.tif", ids(number).astype(np.uint16))


DATA = ["--images", "images", "--masks", "masks", "-o", "m.safetensors"]


@pytest.mark.parametrize("task", ["segment", "instances"])
def test_a_model_knows_the_pixel_size_of_its_images(i2i, task):
    _sized(0.5, 0.502, 0.5)
    words = TINY if task == "segment" else MASKRCNN
    told = done(i2i("train", task, *DATA, *words, "--steps", 2)).err
    assert header()["pixel_size"] == 0.5 and "pixels of 0.5 um: the model is told" in told
    save("a.tif", picture(), ome=True, metadata={"axes": "YX", "PhysicalSizeX": 1.0, "PhysicalSizeY": 1.0} | UM)
    assert done(i2i(task, "a.tif", "--model", "m.safetensors", "-o", "x.tif", "--json")).run["resampled"] == [2.0, 2.0]


@pytest.mark.parametrize(
    ("sizes", "words", "found", "told"),
    [
        ([0.5, 0.52], [], None, "pixel sizes differ (from 0.5 to 0.52 um): the model is told none; --pixel-size UM"),
        ([0.5, None], [], None, "pixel sizes differ (1 of 2 images do not say theirs)"),
        ([0.5, None], ["--pixel-size", "0.25"], 0.25, "pixels of 0.5 um in the file; the model is told 0.25 um, as --pixel-size"),
        ([0.25, None], ["--pixel-size", "0.25"], 0.25, ""),
        ([None, None], [], None, ""),
    ],
)
def test_pixel_sizes_that_differ_are_told_and_the_option_settles_it(train, sizes, words, found, told):
    _sized(*sizes)
    err = done(train(*DATA, *words)).err
    assert header().get("pixel_size") == found and told in err and ("pixel" in err) == bool(told)


# --------------------------------------------------------------------------------------------------------------- channels


def _named(path, names, seed):
    """Channels of those names: nuclei as DAPI, noise as GFP, a flat RFP."""
    plain = picture(64, 80, seed=seed)
    noise = np.random.default_rng(seed).integers(0, 250, plain.shape, np.uint8)
    known = {"DAPI": plain, "GFP": noise, "RFP": plain // 4 + noise // 8}
    pixels = np.stack([known.get(name, plain) for name in names])
    told = {"axes": "CYX", "Channel": {"Name": list(names)}} if names[0] else {"axes": "CYX"}
    return save(path, pixels, ome=True, metadata=told, photometric="minisblack")


def _images(*each):
    for number, names in enumerate(each):
        _named(f"images/{number}.tif", names, number)
        save(f"masks/{number}.tif", ids(number).astype(np.uint16))


def _run(i2i, name, *words):
    words = [name, "--model", "m.safetensors", "--as", "probabilities", "--precision", "fp32", *words]
    reported = done(i2i("segment", *words, "-o", "x.tif", "--overwrite", "--json")).run
    return load("x.tif"), reported["notes"], reported["warnings"]


ORDER = ("DAPI", "GFP", "RFP")


def test_names_that_a_writer_has_made_up_say_nothing(i2i):
    made, weights = tiny_network(channel_names=["Channel 0"])
    save_model(Path("m.safetensors"), weights, made)
    save("one.tif", picture(), ome=True, metadata={"axes": "YX", "Channel": {"Name": "DAPI"}})
    done(i2i("segment", "one.tif", "--model", "m.safetensors", "-o", "x.tif", "--strict"))
    pixels = np.stack([picture(seed=seed) for seed in range(3)])
    three = {"axes": "CYX", "Channel": {"Name": ["Channel 0", "Channel 1", "Channel 2"]}}
    save("three.tif", pixels, ome=True, photometric="minisblack", metadata=three)
    refused(i2i("segment", "three.tif", "--model", "m.safetensors", "-o", "y.tif"), 1, "three.tif: has 3 channels, m takes 1")


def test_a_model_finds_its_channels_by_name(train, i2i):
    _images(ORDER, ORDER)
    done(train(*DATA))
    assert header()["channel_names"] == list(ORDER)
    expected, notes, warnings = _run(i2i, _named("same.tif", ORDER, 7))
    assert (notes, warnings) == ([], [])
    for names in (("RFP", "DAPI", "GFP"), ("Cy5", "GFP", "RFP", "DAPI")):
        found, notes, warnings = _run(i2i, _named("other.tif", names, 7))
        assert np.array_equal(found, expected) and warnings == []
        assert notes == ["the channels DAPI, GFP, RFP are taken by name, in the model's order"]
    loaded = package.load("segment", model="m.safetensors", precision="fp32", as_="probabilities")
    found = loaded(np.moveaxis(load("other.tif"), 0, 2), channel_names=names)
    assert np.array_equal(np.moveaxis(found, 2, 0), expected)


def test_channels_of_other_names_are_a_warning_and_those_without_are_none(train, i2i):
    _images(ORDER, ORDER)
    done(train(*DATA))
    _named("a.tif", ORDER, 7), _named("b.tif", ("DAPI", "GFP", "Cy3"), 7), _named("c.tif", ("", "", ""), 7)
    warned = "its channels are {}, m was trained on DAPI, GFP, RFP; taken in this order (--channels chooses)"
    assert _run(i2i, "b.tif")[1:] == ([], [warned.format("DAPI, GFP, Cy3")])
    assert _run(i2i, "c.tif")[1:] == ([], [])
    found, notes, warnings = _run(i2i, "a.tif", "--channels", "2,0,1")
    assert (notes, warnings) == ([], [warned.format("RFP, DAPI, GFP")])
    assert not np.array_equal(found, _run(i2i, "a.tif")[0])


def test_channels_that_are_chosen_for_training_are_found_again(train, i2i):
    _images(ORDER, ("GFP", "DAPI"))
    done(train(*DATA, "--channels", "DAPI"))
    assert header()["channel_names"] == ["DAPI"] and header()["network"]["channels"] == 1
    expected = _run(i2i, _named("one.tif", ("DAPI", "GFP"), 7), "--channels", "0")[0]
    found, notes, _ = _run(i2i, _named("two.tif", ORDER, 7))
    assert np.array_equal(found, expected) and "DAPI are taken by name" in notes[0]
    done(train(*DATA[:-1], "n.safetensors", "--channels", "0"))
    assert "channel_names" not in header("n.safetensors")
    refused(train(*DATA[:-1], "o.safetensors", "--channels", "RFP"), 2, "--channels RFP", "images/1.tif", "GFP, DAPI")


def test_names_that_differ_among_the_images_are_told_and_not_written(train):
    _images(ORDER, ("RFP", "DAPI", "GFP"))
    told = done(train(*DATA)).err
    assert "channel names differ (DAPI, GFP, RFP and RFP, DAPI, GFP): the model is told none" in told
    assert "channel_names" not in header()


def test_training_that_goes_on_from_a_model_takes_its_channels_in_its_order(train, i2i):
    _images(ORDER, ORDER)
    done(train(*DATA))
    _images(("RFP", "DAPI", "GFP"), ORDER)
    done(i2i("train", "segment", *DATA[:-1], "n.safetensors", "--from", "m.safetensors", "--steps", 2, *BRIEF))
    assert header("n.safetensors")["channel_names"] == list(ORDER)


def test_instances_find_their_channels_by_name(i2i):
    _images(ORDER, ORDER)
    done(i2i("train", "instances", *DATA, *MASKRCNN, "--steps", 2, "--channels", "GFP,DAPI"))
    assert header()["channel_names"] == ["GFP", "DAPI"]
    told = done(i2i("instances", _named("a.tif", ORDER, 7), "--model", "m.safetensors", "-o", "x.tif", "--json")).run
    assert "GFP, DAPI are taken by name" in told["notes"][0] and told["warnings"] == []


def test_models_of_other_channels_do_not_run_together(train, i2i):
    _images(ORDER, ORDER)
    done(train(*DATA))
    done(train(*DATA[:-1], "n.safetensors", "--channels", "2,1,0"))
    words = ["--model", "m.safetensors", "--model", "n.safetensors"]
    refused(i2i("segment", "images/0.tif", *words), 1, "m and n were trained on channels of other names")


@pytest.mark.parametrize("names", [7, ["a", 1], ["a\nb"], [""], "DAPI"])
def test_a_model_whose_channel_names_are_none_is_refused(i2i, names):
    made, weights = tiny_network(channel_names=names)
    save_model(Path("m.safetensors"), weights, made)
    _named("a.tif", ("DAPI",), 7)
    refused(i2i("segment", "a.tif", "--model", "m.safetensors"), 1, "m.safetensors", "channel_names")


# ---------------------------------------------------------------------------------------------------------------- options


def test_options_come_from_a_file_and_those_given_come_first(i2i, folder):
    make_data(folder)
    (folder / "train.toml").write_text(
        'images = "images"\nmasks = "masks"\noutput = "m.safetensors"\nsteps = 5\ncrop = 32\nbatch = 2\ndepth = 1\nfilters = 4\n'
        'precision = "fp32"\nvalidate-every = 1\naugment = false\nrate = 1e-2\n'
    )
    done(i2i("train", "segment", "--config", "train.toml", "--steps", 2))
    made = header()["training"]["options"]
    assert (made["steps"], made["crop"], made["augment"], made["rate"]) == (2, 32, False, 0.01)
    assert len((folder / "m-training/metrics.jsonl").read_text().splitlines()) == 2
    (folder / "train.toml").write_text("stepps = 5\n")
    refused(i2i("train", "segment", "--config", "train.toml", *DATA), 2, "train.toml", "no option --stepps")
