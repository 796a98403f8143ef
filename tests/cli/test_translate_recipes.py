"""The recipes of ``examples/translate``, with tiny networks, end to end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from i2i.testing import blobs
from tests.cli.kit import load, save

RECIPES = Path(__file__).parents[2] / "examples/translate"
TINY = "--crop 32 --filters 4 --patch 16 --depth 2 --precision fp32"


def recipe(name: str, *words: str) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"STEPS": "2", "OPTIONS": TINY, "PATH": path}
    return subprocess.run(["sh", str(RECIPES / name), *words], env=environment, capture_output=True, text=True, check=False)


def make_pairs(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(RECIPES / "make_pairs.py"), *words], capture_output=True, text=True, check=False)


@pytest.fixture
def photos(folder) -> str:
    for number in range(11):
        pixels = blobs(40, 60, 3, number)
        pixels[10:30, 15 + number : 40] = 250  # a sharp thing
        save(folder / f"photos/{number:02}.png", pixels)
    return "photos"


@pytest.mark.parametrize(("name", "words"), [("labels_to_facade.sh", []), ("aerial_to_map.sh", ["AtoB"])])
def test_recipes_from_files_side_by_side(folder, name, words):
    for number in range(3):
        for part in ("train", "test"):
            save(folder / f"data/{part}/pairs/{number}.png", blobs(32, 64, 3, number))
    found = recipe(name, "data", "m.safetensors", *words)
    assert found.returncode == 0, found.stderr
    assert "psnr" in found.stdout and load("m-test/2.png").shape == (32, 32, 3)


@pytest.mark.parametrize("name", ["bw_to_colour.sh", "edges_to_photo.sh"])
def test_recipes_from_photographs(photos, folder, name):
    found = recipe(name, photos, "m.safetensors")
    assert found.returncode == 0, found.stderr
    assert "ssim" in found.stdout and load("m-test/09.png").shape == (256, 384, 3)
    source = load("m-pairs/train/source/00.png")
    assert source.shape == (256, 384)
    if name.startswith("bw"):
        with Image.open("m-pairs/train/target/00.png") as target:
            assert np.array_equal(source, np.asarray(target.convert("L")))
    else:
        assert np.unique(source).tolist() == [0, 255] and 0.5 < (source == 255).mean() < 1


def test_halves_and_what_cannot_be_read(folder):
    pixels = blobs(20, 40, 3)
    save(folder / "pairs/a.png", pixels)
    assert make_pairs("split", "pairs", "out").returncode == 0
    assert np.array_equal(load("out/A/a.png"), pixels[:, :20]) and np.array_equal(load("out/B/a.png"), pixels[:, 20:])
    (folder / "empty").mkdir()
    (folder / "broken").mkdir()
    (folder / "broken/x.png").write_bytes(b"no image")
    save(folder / "odd/x.png", pixels[:, :39])
    for where, word in (("empty", "no images"), ("broken", "cannot be read"), ("odd", "39 pixels wide")):
        found = make_pairs("split", where, "no")
        assert found.returncode == 1 and word in found.stderr and len(found.stderr.splitlines()) == 1


def test_every_recipe_is_in_the_table():
    told = (RECIPES / "README.md").read_text()
    names = [path.name for path in RECIPES.glob("*_to_*.sh")]
    assert len(names) == 6 and all(name in told for name in names)
