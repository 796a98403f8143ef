"""Training through the command line, on data and networks so small that they take a moment."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.cli.kit import blobs, done, files, load, picture, refused, save
from tests.cli.lessons import DATA, TINY, ids, make_data


@pytest.fixture
def train(i2i, folder):
    """``i2i train segment`` of a tiny network."""
    make_data(folder)
    return lambda *words, steps=6: i2i("train", "segment", *DATA, "--steps", steps, *TINY, *words)


# -------------------------------------------------------------------------------------------------------------- training


def test_training_writes_a_model_that_segments(train, i2i, folder):
    result = done(train("-o", "new/m.safetensors"))
    lines = result.err.splitlines()
    assert lines[0] == "5 images to train on, 1 to validate; classes: background, interior, border"
    validated = [line for line in lines if line.startswith("step") and "ap50" in line]
    assert [line.split("  ")[0] for line in validated] == ["step 3/6", "step 6/6"]
    assert [name for name in files(folder / "new") if "border-weights" not in name] == [
        "m-training/checkpoint.pt", "m-training/metrics.jsonl", "m-training/samples/step-000003.png",
        "m-training/samples/step-000006.png", "m.safetensors",
    ]  # fmt: skip
    assert len(list((folder / "new/m-training/border-weights").iterdir())) == 5, "one for each image to train on"
    assert len((folder / "new/m-training/metrics.jsonl").read_text().splitlines()) == 6
    done(i2i("segment", "images/0.png", "--model", "new/m.safetensors", "-o", "x.png"))
    assert load("x.png").shape == (64, 80)


def test_training_reports_its_figures_as_json(train, folder):
    figures = done(train("-o", "m.safetensors", "--json")).json
    assert figures["model"] == "m.safetensors" and len(figures["sha256"]) == 64 and 0 <= figures["ap50"] <= 1
    assert done(train("-o", "n.safetensors", "-q")).err == ""
    assert (folder / "n.safetensors").read_bytes() == (folder / "m.safetensors").read_bytes()


def test_training_on_masks_of_classes_learns_classes(train, i2i, folder):
    for number in range(6):
        save(f"masks/{number}.tif", (blobs(64, 80, seed=number) > 0).astype(np.uint8))
    result = done(train("-o", "m.safetensors", "--target", "classes"))
    assert "accuracy" in result.err
    assert done(i2i("segment", "images/0.png", "--model", "m.safetensors", "--json")).run["kind"] == "classes"


def test_resumed_training_is_training_that_never_stopped(train, folder):
    done(train("-o", "whole.safetensors", steps=9))
    done(train("-o", "m.safetensors", steps=9))
    saved = (folder / "m-training/checkpoint.pt").read_bytes()
    done(train("-o", "m.safetensors", "--resume", steps=12))
    assert (folder / "m-training/checkpoint.pt").read_bytes() != saved
    steps = [json.loads(line)["step"] for line in (folder / "m-training/metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 13))
    assert (folder / "whole.safetensors").exists()


def test_interrupted_training_says_how_to_go_on(train, folder, monkeypatch):
    from i2i.cli.learn import _Ticker

    report = _Ticker.report

    def stop(self, step, steps, values):
        report(self, step, steps, values)
        if step == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(_Ticker, "report", stop)
    result = train("-o", "m.safetensors")
    assert result.code == 130 and "--resume" in result.err and result.err.endswith("\ninterrupted\n")
    assert not (folder / "m.safetensors").exists()
    monkeypatch.setattr(_Ticker, "report", report)
    refused(train("-o", "m.safetensors"), 1, "m-training", "--resume", "--overwrite")
    done(train("-o", "m.safetensors", "--resume"))
    done(train("-o", "n.safetensors"))
    assert (folder / "m.safetensors").read_bytes() == (folder / "n.safetensors").read_bytes()


def test_an_existing_model_is_refused_and_overwrite_starts_again(train, folder):
    done(train("-o", "m.safetensors"))
    before = (folder / "m.safetensors").read_bytes()
    refused(train("-o", "m.safetensors"), 1, "m.safetensors: exists", "--overwrite")
    done(train("-o", "m.safetensors", "--overwrite"))
    assert (folder / "m.safetensors").read_bytes() == before
    refused(train("-o", "m.safetensors", "--overwrite", "--resume"), 2, "--resume", "--overwrite")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--border-weight", "5"], "border_weight was 10.0, is 5.0"),
        (["--loss", "dice"], "loss was weighted+dice, is dice"),
        (["--seed", "1"], "seed was 0, is 1"),
        (["--precision", "bf16"], "precision was fp32, is bf16"),
        (["--filters", "8"], "filters was 4, is 8"),
    ],
)
def test_training_does_not_go_on_with_other_options(train, folder, words, told):
    done(train("-o", "m.safetensors", "-q"))
    before = (folder / "m.safetensors").read_bytes()
    result = train("-o", "m.safetensors", "--resume", "-q", *words)
    refused(result, 1, "m-training/checkpoint.pt: of another run", told, "--overwrite")
    assert (folder / "m.safetensors").read_bytes() == before


def test_training_does_not_go_on_with_other_data_wherever_they_lie(train, folder):
    done(train("-o", "m.safetensors", "-q"))
    (folder / "images").rename(folder / "moved")
    done(train("-o", "m.safetensors", "--resume", "-q", "--images", "moved", "--rate", "0.0005"))
    pixels = load("moved/2.png").copy()
    pixels[5, 5] += 1
    save("moved/2.png", pixels)
    refused(train("-o", "m.safetensors", "--resume", "-q", "--images", "moved"), 1, "training data was 5 images (")


def test_finished_training_that_is_resumed_gives_the_same_model(train, folder):
    done(train("-o", "m.safetensors"))
    before = (folder / "m.safetensors").read_bytes()
    done(train("-o", "m.safetensors", "--resume"))
    assert (folder / "m.safetensors").read_bytes() == before
    (folder / "m.safetensors").unlink()
    done(train("-o", "m.safetensors", "--resume"))
    assert (folder / "m.safetensors").read_bytes() == before


def test_a_model_without_a_checkpoint_is_never_replaced_by_resume(train, folder):
    (folder / "m.safetensors").write_bytes(b"a model")
    refused(train("-o", "m.safetensors", "--resume"), 1, "m.safetensors: exists", "no checkpoint", "--overwrite starts again")
    assert (folder / "m.safetensors").read_bytes() == b"a model" and not (folder / "m-training").exists()


def test_resume_with_nothing_there_starts_and_says_so(train, folder):
    result = done(train("-o", "m.safetensors", "--resume"))
    assert result.err.splitlines()[0] == "m-training: no checkpoint to go on from: training starts from the beginning"
    assert (folder / "m.safetensors").exists()


# --------------------------------------------------------------------------------------------- data that cannot be learnt


def test_a_model_must_be_named_as_one(train, folder):
    refused(train("-o", "m.pt"), 2, "m.pt", ".safetensors")


def _lone_image(folder):
    (folder / "masks/3.tif").unlink()


def _lone_mask(folder):
    (folder / "images/3.png").unlink()


def _other_size(folder):
    save("masks/3.tif", blobs(64, 81))


def _no_labels(folder):
    for number in range(6):
        save(f"masks/{number}.tif", np.zeros((64, 80), np.uint8))


def _mixed_channels(folder):
    (folder / "images/3.png").unlink()
    save("images/3.tif", np.stack([picture(64, 80)] * 2, 2), photometric="minisblack", planarconfig="contig")


def _not_a_number(folder):
    (folder / "images/3.png").unlink()
    save("images/3.tif", np.where(ids(3) == 1, np.nan, ids(3)).astype(np.float32))


def _enormous_ids(folder):
    save("masks/3.tif", ids(3).astype(np.uint32) << 28)


def _coloured_mask(folder):
    (folder / "masks/3.tif").unlink()
    save("masks/3.png", np.stack([picture(64, 80)] * 3, 2))


def _damaged(folder):
    (folder / "images/3.png").write_bytes((folder / "images/3.png").read_bytes()[:200])


def _image_for_mask(folder):
    save("masks/3.tif", picture(64, 80))


def _stack_of_images(folder):
    (folder / "images/3.png").unlink()
    save("images/3.tif", np.stack([picture(64, 80)] * 2), metadata={"axes": "ZYX"}, ome=True)


def _stack_of_masks(folder):
    save("masks/3.tif", np.stack([ids(3).astype(np.uint16)] * 2), metadata={"axes": "ZYX"}, ome=True)


def _one_value(folder):
    for number in range(6):
        save(f"masks/{number}.tif", np.where(ids(number), 255, 0).astype(np.uint8))


def _two_of_a_name(folder):
    save("images/3.tif", picture(64, 80))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_lone_image, ["images/3.png", "masks"]),
        (_lone_mask, ["masks/3.tif", "images"]),
        (_other_size, ["masks/3.tif", "size", "64 x 80 and 64 x 81"]),
        (_no_labels, ["masks", "no mask holds an object"]),
        (_mixed_channels, ["images", "1 (0.png) and 2 (3.tif) channels", "train on one kind"]),
        (_not_a_number, ["images/3.tif", "NaN or Inf"]),
        (_enormous_ids, ["masks/3.tif", "holds values from 0 to ", "below 16777216"]),
        (_coloured_mask, ["masks/3.png", "one channel, this has 3", "numbers, not colours"]),
        (_image_for_mask, ["masks/3.tif", "looks like an image", "swapped"]),
        (_stack_of_images, ["masks/3.tif", "holds 1 plane, its image 2"]),
        (_stack_of_masks, ["masks/3.tif", "holds 2 planes, its image 1"]),
        (_one_value, ["--target border", "no mask holds two ids", "--target foreground or classes"]),
        (_damaged, ["images/3.png", "truncated"]),
        (_two_of_a_name, ["images/3", "same name"]),
    ],
)
def test_data_that_do_not_fit_are_refused_before_training_and_nothing_is_left(train, folder, spoil, words):
    spoil(folder)
    before = files(folder)
    refused(train("-o", "m.safetensors"), 1, *words)
    assert files(folder) == before and not (folder / "m-training").exists()


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["--images", "none"], 1, ["none: no such folder"]),
        (["--steps", "0"], 2, ["--steps 0", "at least 1"]),
        (["--target", "circles"], 2, ["--target circles", "border, foreground, classes"]),
        (["--device", "abacus"], 2, ["--device abacus", "cpu"]),
    ],
)
def test_training_that_cannot_be_is_refused(train, folder, words, code, told):
    refused(train("-o", "m.safetensors", *words), code, *told)
    assert not (folder / "m-training").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--depth", "9"], "no such network: depth 9"),
        (["--filters", "5000"], "no such network: filters 5000"),
        (["--dropout", "2"], "no such network: dropout 2"),
        (["--arch", "original"], "--arch original has no --depth; leave it out"),
        (["--arch", "patch"], "--arch patch has no --depth; leave it out"),
        (["--patch-size", "9"], "--arch unet has no --patch-size; leave it out"),
        (["--crop", "33"], "--crop 33: a network of depth 1 needs a multiple of 2"),
        (["--average", "1"], "--average 1: must be below 1"),
        (["--momentum", "1.5"], "--momentum 1.5: must be below 1"),
        (["--val-images", "images"], "--val-images and --val-masks go together"),
        (["--val-masks", "masks"], "--val-images and --val-masks go together"),
        (["--from", "none.pt"], "--from none.pt: the network is that model's; leave out --depth"),
    ],
)
def test_a_training_that_cannot_be_is_refused_before_the_data_are_read(train, folder, words, told):
    (folder / "masks/3.tif").unlink()
    refused(train("-o", "m.safetensors", *words), 2, told)
    assert not (folder / "m-training").exists()
