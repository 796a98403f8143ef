"""``i2i train translate`` and ``i2i translate``: from pairs to a generator, and from there to images of any size."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from i2i.testing import blobs
from tests.cli.kit import done, files, load, refused, save

SAMPLES = Path(__file__).parents[2] / "plugins/i2i_unet/samples"
TINY = ["--filters", "4", "--depth", "3", "--crop", "32", "--patch", "16", "--batch", "2", "--steps", "4",
        "--validate-every", "2", "--precision", "fp32"]  # fmt: skip

CLEANING = "--units input --normalize percentile --loss l1 --head linear --dropout 0 --norm batch"


@pytest.fixture
def train(i2i, folder) -> Callable[..., Any]:
    """``i2i train translate`` of a tiny generator, from gray to RGB."""
    for number in range(3):
        pixels = blobs(40, 50, 3, number)
        save(folder / f"in/{number}.png", pixels[..., 0])
        save(folder / f"out/{number}.png", 255 - pixels)
    return lambda *words: i2i("train", "translate", "--source", "in", "--target", "out", *TINY, *words)


def test_a_trained_generator_translates_images_of_any_size(train, i2i, folder):
    result = done(train("-o", "m.safetensors"))
    assert result.err.splitlines()[0] == "2 pairs to train on, 1 to validate; 1 channels to 3"
    assert [name for name in files(folder) if name.startswith("m")] == [
        "m-training/checkpoint.pt", "m-training/index.html", "m-training/metrics.jsonl", "m-training/samples/step-000002.png",
        "m-training/samples/step-000004.png", "m.safetensors",
    ]  # fmt: skip
    page = (folder / "m-training/index.html").read_text()
    assert "samples/step-000004.png" in page and "<h2>cgan</h2>" in page and "<polyline" in page
    lines = [json.loads(line) for line in (folder / "m-training/metrics.jsonl").read_text().splitlines()]
    assert {"cgan", "l1", "D_real", "D_made", "rate"} <= lines[0].keys() and "psnr" in lines[1]
    for height, width in ((1, 1), (17, 111), (150, 23)):
        photo = save("photo.png", blobs(max(8, height), max(8, width), 1, 5)[:height, :width, 0])
        done(i2i("translate", photo, "--model", "m.safetensors", "-o", "found.png", "--overwrite"))
        assert load("found.png").shape == (height, width, 3)
    refused(i2i("translate", save("rgb.png", blobs(20, 20, 3)), "--model", "m.safetensors"), 1, "rgb.png", "--channels")


@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_tiles_are_the_whole(train, i2i, norm):
    done(train("-o", "m.safetensors", "--norm", norm))
    photo = save("photo.png", blobs(200, 170, 1, 5)[..., 0])
    for words in (("-o", "whole.tif"), ("-o", "tiled.tif", "--tile", "96")):
        done(i2i("translate", photo, "--model", "m.safetensors", "--as", "float", "--precision", "fp32", *words))
    whole, tiled = load("whole.tif"), load("tiled.tif")
    assert whole.dtype == np.float32 and whole.std() > 0.01
    assert np.abs(whole - tiled).max() < 1e-3 * 255


def test_what_is_cleaned_keeps_the_inputs_numbers_and_depth(i2i, folder):
    random = np.random.default_rng(0)
    for number in range(3):
        clean = blobs(40, 50, 1, number)[..., 0].astype(np.uint16) * 10
        save(folder / f"out/{number}.tif", clean)
        save(folder / f"in/{number}.tif", (clean + random.integers(0, 300, clean.shape)).astype(np.uint16))
    done(i2i("train", "translate", "--source", "in", "--target", "out", "-o", "m.safetensors", *TINY, *CLEANING.split()))
    done(i2i("translate", "in/0.tif", "--model", "m.safetensors", "-o", "found.tif"))
    found = tifffile.imread("found.tif")
    assert found.dtype == np.uint16 and found.shape == (40, 50)
    assert 0 < np.median(found) < 3000


def test_pairs_side_by_side_and_a_start_from_a_model(train, i2i, folder):
    done(train("-o", "m.safetensors"))
    for number in range(2):
        pixels = blobs(32, 80, 3, number)
        save(folder / f"pairs/{number}.png", pixels)
    done(i2i("train", "translate", "--pairs", "pairs", "--direction", "BtoA", *TINY, "-o", "p.safetensors"))
    refused(
        i2i("train", "translate", "--pairs", "pairs", *TINY, "--from", "m.safetensors", "-o", "q.safetensors", "-q"),
        1,
        "--from m",
    )
    done(i2i("train", "translate", "--pairs", "pairs", *TINY, "--from", "p.safetensors", "-o", "q.safetensors"))
    assert (folder / "q.safetensors").read_bytes() != (folder / "p.safetensors").read_bytes()


def test_wrong_calls_are_told_in_a_line(train, i2i, folder):
    refused(i2i("train", "translate", *TINY, "-o", "m.safetensors"), 2, "give --pairs, or --source and --target")
    refused(train("-o", "m.safetensors", "--pairs", "in"), 2, "give --pairs, or --source and --target")
    refused(train("-o", "m.safetensors", "--patch", "71"), 2, "--patch 71: choose one of")
    refused(train("-o", "m.safetensors", "--patch", "286"), 2, "--patch 286: sees nothing in crops of 32")
    refused(train("-o", "m.safetensors", "--crop", "36"), 2, "needs a multiple of 8")
    refused(train("-o", "m.safetensors", "--dropout", "1"), 2, "dropout")
    refused(i2i("translate", save("photo.png", blobs(20, 20, 3))), 1, "photo.png", "--model")
    assert not (folder / "m.safetensors").exists()


def test_a_run_that_diverges_says_so_and_goes_on_from_its_checkpoint(train, i2i, folder):
    refused(train("-o", "m.safetensors", "--rate", "1e20", "--steps", "40", "-q"), 1, "diverged at step", "--resume")
    assert not (folder / "m.safetensors").exists()


def test_samples_are_files_of_their_own_and_do_not_depend_on_tiles(train, i2i, folder):
    done(train("-o", "m.safetensors", "--steps", "2"))
    photo = save("in.png", blobs(130, 170, 1, 5)[..., 0])
    common = ("translate", photo, "--model", "m.safetensors", "--precision", "fp32")
    done(i2i(*common, "-o", "plain.png"))
    done(i2i(*common, "-o", "a.png", "--samples", "2", "--statistics", "exact"))
    done(i2i(*common, "-o", "b.png", "--samples", "2", "--statistics", "exact", "--tile", "96"))
    done(i2i(*common, "-o", "c.png", "--samples", "1", "--statistics", "exact", "--seed", "1"))
    assert {"a-1.png", "a-2.png", "b-1.png", "b-2.png", "c.png", "plain.png"} <= set(files(folder))
    first, second, third, plain = (load(f"{name}.png").astype(int) for name in ("a-1", "a-2", "c", "plain"))
    for number in (1, 2):
        assert np.abs(load(f"a-{number}.png").astype(int) - load(f"b-{number}.png")).max() <= 1
    assert np.abs(first - second).mean() > 1 and np.abs(first - plain).mean() > 0.1
    assert np.array_equal(third, second), "the second of two samples is that of the next seed"
    again = i2i(*common, "-o", "a.png", "--samples", "2")
    refused(again, 1, "a-1.png", "--overwrite")
    folder_run = done(i2i("translate", "in", "--model", "m.safetensors", "-o", "many", "--samples", "2", "--json"))
    runs = json.loads(folder_run.out)["runs"]
    assert len(runs) == 6 and sorted(files(folder / "many"))[:2] == ["0-1.png", "0-2.png"]


def test_the_bundled_model_cleans_fluorescence_in_its_own_numbers(i2i, folder):
    """Clean images of the project's samples, which the model never saw, with Poisson noise of 30 photons: in 8 and 16 bits."""
    clean = load(SAMPLES / "nuclei.png").astype(float)[:256, :256]
    peak = np.percentile(clean, 99.9)
    noise = np.random.default_rng(0).poisson(clean / peak * 30) / 30 * peak
    for dtype, factor in ((np.uint8, 1), (np.uint16, 100)):
        noisy = np.clip(noise * factor, 0, np.iinfo(dtype).max).astype(dtype)
        tifffile.imwrite("noisy.tif", noisy)
        done(i2i("translate", "noisy.tif", "-o", "found.tif", "--overwrite"))
        found = tifffile.imread("found.tif")
        assert found.dtype == dtype and found.shape == clean.shape
        errors = [np.square(image / factor - clean).mean() for image in (noisy.astype(float), found.astype(float))]
        assert errors[1] < errors[0] / 4, "at least 6 dB"
