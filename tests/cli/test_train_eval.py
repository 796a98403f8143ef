"""Training and evaluation through the command line, on data and networks so small that they take a moment."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from tests.cli.kit import blobs, done, files, load, picture, refused, save

TINY = ["--depth", "1", "--filters", "4", "--crop", "32", "--batch", "2", "--precision", "fp32", "--validate-every", "3"]


@pytest.fixture
def data(folder):
    """Six pictures of discs in ``images``, and their ids in ``masks``."""
    for number in range(6):
        save(f"images/{number}.png", picture(64, 80, seed=number))
        save(f"masks/{number}.tif", blobs(64, 80, seed=number).astype(np.uint16))
    return folder


@pytest.fixture
def train(i2i, data):
    """``i2i train segment`` of a tiny network."""

    def call(*words, steps=6):
        return i2i("train", "segment", "--images", "images", "--masks", "masks", "--steps", steps, *TINY, *words)

    return call


# -------------------------------------------------------------------------------------------------------------- training


def test_training_writes_a_model_that_segments(train, i2i, folder):
    result = done(train("-o", "new/m.safetensors"))
    lines = result.err.splitlines()
    assert lines[0] == "5 images to train on, 1 to validate; classes: background, interior, border"
    assert [line.split("  ")[0] for line in lines[1:3]] == ["step 3/6", "step 6/6"] and "ap50" in lines[2]
    assert files(folder / "new") == ["m-training/checkpoint.pt", "m-training/metrics.jsonl", "m.safetensors"]
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
        (["--gap-weight", "5"], "gap_weight was 3.0, is 5.0"),
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
    save("images/3.png", np.stack([picture(64, 80)] * 3, 2))


def _coloured_mask(folder):
    (folder / "masks/3.tif").unlink()
    save("masks/3.png", np.stack([picture(64, 80)] * 3, 2))


def _damaged(folder):
    (folder / "images/3.png").write_bytes((folder / "images/3.png").read_bytes()[:200])


def _two_of_a_name(folder):
    save("images/3.tif", picture(64, 80))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_lone_image, ["images/3.png", "masks"]),
        (_lone_mask, ["masks/3.tif", "images"]),
        (_other_size, ["masks/3.tif", "size", "64 x 80 and 64 x 81"]),
        (_no_labels, ["masks", "no mask holds an object"]),
        (_mixed_channels, ["images", "1 and 3 channels"]),
        (_coloured_mask, ["masks/3.png", "one channel", "3"]),
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
        (["--padding", "valid", "--up", "resize"], "valid convolutions"),
        (["--depth", "9"], "depth 9"),
        (["--filters", "5000"], "filters 5000"),
        (["--dropout", "2"], "dropout 2"),
    ],
)
def test_a_network_that_cannot_be_is_refused_before_the_data_are_read(train, folder, words, told):
    (folder / "masks/3.tif").unlink()
    refused(train("-o", "m.safetensors", *words), 1, "no such network", told)
    assert not (folder / "m-training").exists()


# ------------------------------------------------------------------------------------------------------------ evaluation


@pytest.fixture
def judged(folder):
    """Truths of three images, one in a folder of its own, and predictions: right, half right, nothing found."""
    truth = blobs(64, 80).astype(np.uint16)
    half = np.where(truth % 2 == 0, truth, 0).astype(np.uint16)
    for name, prediction in (("a", truth), ("b", half), ("sub/c", np.zeros_like(truth))):
        save(f"truth/{name}.tif", truth), save(f"found/{name}.png", prediction)
    (folder / "truth/notes.txt").write_text("not an image")
    return folder


def test_a_file_equal_to_its_truth_is_perfect(i2i, judged):
    result = done(i2i("eval", "segment", "found/a.png", "truth/a.tif"))
    rows = dict(line.split() for line in result.out.splitlines())
    assert rows["metric"] == "value" and rows["ap50"] == rows["f1_50"] == "1.0000" and "fn50" not in rows
    assert not any(name.startswith("mean_") for name in rows)
    every = done(i2i("eval", "segment", "found/a.png", "truth/a.tif", "--verbose")).out
    assert dict(line.split() for line in every.splitlines())["fn50"] == "0"


def test_eval_shows_the_figures_that_are_asked_for_most(i2i, judged):
    shown = done(i2i("eval", "segment", "found", "truth")).out.splitlines()
    assert {line.split()[0] for line in shown} == {"metric", "images", "ap", "ap50", "ap75", "f1_50"}
    save("c.png", (load("truth/a.tif") > 0).astype(np.uint8))
    assert "dice" in done(i2i("eval", "segment", "c.png", "c.png", "--kind", "classes")).out


def test_folders_are_matched_by_name_and_pooled(i2i, judged):
    given = done(i2i("eval", "segment", "found", "truth", "--json")).json
    assert list(given["images"]) == ["a", "b", "sub/c"]
    ids = np.unique(load("truth/a.tif"))[1:]
    right = len(ids) + np.count_nonzero(ids % 2 == 0)
    assert given["pooled"]["tp50"] == right and given["pooled"]["fn50"] == 3 * len(ids) - right
    assert given["images"]["sub/c"]["ap50"] == 0
    head = done(i2i("eval", "segment", "found", "truth")).out.splitlines()[0]
    assert head.split("  ")[0] == "metric" and "mean of images" in head


def test_classes_are_judged_as_such(i2i, judged):
    save("c.png", (load("truth/a.tif") > 0).astype(np.uint8))
    given = done(i2i("eval", "segment", "c.png", "c.png", "--kind", "classes", "--json")).json
    assert given["pooled"]["iou"] == given["pooled"]["dice"] == 1 and given["pooled"]["pixel_error"] == 0


def test_the_figures_of_each_image_go_to_a_table(i2i, judged, folder):
    done(i2i("eval", "segment", "found", "truth", "--csv", "figures.csv"))
    with (folder / "figures.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["image"] for row in rows] == ["a", "b", "sub/c"] and [float(row["ap50"]) for row in rows][::2] == [1, 0]
    refused_table = i2i("eval", "segment", "found", "truth", "--csv", "none/figures.csv")
    refused(refused_table, 1, "none/figures.csv", "cannot be written")


def test_what_cannot_be_compared_is_named(i2i, judged, folder):
    (folder / "found/b.png").unlink()
    refused(i2i("eval", "segment", "found", "truth"), 1, "truth/b.tif", "no prediction of that name in found", "(1 such)")
    refused(i2i("eval", "segment", "found/a.png", "truth"), 1, "found/a.png", "truth is a folder")
    refused(i2i("eval", "segment", "none.png", "truth/a.tif"), 1, "none.png: no such file")
    save("small.png", picture(10, 10)), save("rgb.png", np.stack([picture(64, 80)] * 3, 2))
    refused(i2i("eval", "segment", "small.png", "truth/a.tif"), 1, "small.png", "10 x 10", "64 x 80")
    refused(i2i("eval", "segment", "rgb.png", "truth/a.tif"), 1, "rgb.png", "3 channels")
    (folder / "empty").mkdir()
    refused(i2i("eval", "segment", "found", "empty"), 2, "empty: no image there")
    refused(i2i("eval", "segment", "a", "b", "--kind", "boxes"), 2, "--kind boxes", "labels, classes")


def test_results_of_a_folder_are_judged_against_its_truths(segment, i2i, judged):
    for name in ("a", "sub/c"):
        save(f"images/{name}.png", picture(64, 80))
    save("images/b.png", picture(64, 80, seed=1))
    done(segment("images", "-q"))
    assert done(i2i("eval", "segment", "images-segment", "truth", "--json")).json["pooled"]["images"] == 3
