"""The scripts of ``examples/shell``, run on small images; all of them by their syntax."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli.kit import load

SCRIPTS = Path(__file__).parents[2] / "examples/shell"
PLUGINS = Path(__file__).parents[2] / "plugins"
NUCLEI = PLUGINS / "i2i_unet/samples/nuclei.png"
STYLE = PLUGINS / "i2i_style/samples/starry_night.jpg"


def script(name: str, *words: object, **more: str) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = ["sh", str(SCRIPTS / name), *map(str, words)]
    return subprocess.run(command, env=os.environ | {"PATH": path} | more, capture_output=True, text=True, check=False)


@pytest.fixture
def slides(folder) -> Path:
    """Two pictures of nuclei, one of them in a folder within."""
    with Image.open(NUCLEI) as image:
        small = image.crop((0, 0, 128, 96))
    (folder / "slides/more").mkdir(parents=True)
    small.save(folder / "slides/a.png")
    small.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(folder / "slides/more/b.png")
    return folder / "slides"


@pytest.mark.parametrize("path", sorted(SCRIPTS.glob("*.sh")), ids=lambda path: path.stem)
def test_the_syntax_is_right_and_a_line_says_how_to_start_it(path):
    for shell in filter(shutil.which, ("sh", "bash", "dash")):
        done = subprocess.run([shell, "-n", str(path)], capture_output=True, text=True, check=False)
        assert done.returncode == 0 and not done.stderr, done.stderr
    assert path.name in path.read_text("utf-8") and f"`{path.name}" in (SCRIPTS / "README.md").read_text("utf-8")


def test_slides_become_outlines_and_a_second_run_skips_them(slides, folder):
    done = script("slides_to_geojson.sh", slides, "out")
    assert done.returncode == 0, done.stderr
    for name in ("a", "more/b"):
        count = load(f"out/labels/{name}.png").max()
        outlines = json.loads(Path(f"out/outlines/{name}.geojson").read_text("utf-8"))["features"]
        assert len(outlines) == count >= 2
        assert len(Path(f"out/tables/{name}.csv").read_text("utf-8").splitlines()) == count + 1
    assert len(json.loads(Path("out.json").read_text("utf-8"))["runs"]) == 2
    (slides / "c.png").write_bytes(b"no image")
    again = script("slides_to_geojson.sh", slides, "out")
    assert again.returncode == 3 and "c.png" in again.stderr
    assert [bool(run["error"]) for run in json.loads(Path("out.json").read_text("utf-8"))["runs"]].count(True) == 1


def test_a_folder_of_photos_gets_a_style(slides, folder):
    done = script("stylize_photos.sh", slides, STYLE, "out", "--precision", "fp32")
    assert done.returncode == 0, done.stderr
    before, after = load(slides / "a.png"), load("out/a.png")
    assert after.shape[:2] == before.shape[:2] and np.ptp(after) > 50


def test_the_background_alone_gets_a_style(slides, folder):
    done = script("stylize_background.sh", slides / "a.png", STYLE, "out.png", "--steps", "6", "--size", "full", "--scales", "1")
    assert done.returncode == 0, done.stderr
    assert load("out.png").shape == (96, 128, 3)


def test_the_tasks_of_an_array_share_the_list(slides, folder):
    shutil.copy(slides / "more/b.png", slides / "more/a.png")
    Path("list.txt").write_text("slides/a.png\nslides/more/a.png\n", "utf-8")
    for task, made in (("1", {"more/a"}), ("0", {"a", "more/a"})):
        done = script("slurm_array.sh", "list.txt", "out", SLURM_ARRAY_TASK_ID=task, SLURM_ARRAY_TASK_COUNT="2")
        assert done.returncode == 0, done.stderr
        assert {str(path.relative_to("out/slides").with_suffix("")) for path in Path("out").rglob("?.*")} == made
    with Path("list.txt").open("a", encoding="utf-8") as file:
        file.write("gone.png\n")
    done = script("slurm_array.sh", "list.txt", "out", SLURM_ARRAY_TASK_ID="0", SLURM_ARRAY_TASK_COUNT="2")
    assert done.returncode == 3 and "gone.png" in done.stderr


@pytest.mark.skipif(not shutil.which("parallel"), reason="GNU parallel is not installed")
def test_parallel_runs_them_side_by_side(slides, folder):
    shutil.copy(slides / "more/b.png", slides / "more/a.png")
    done = script("gnu_parallel.sh", slides.rename("many slides"), "out", "2")
    assert done.returncode == 0, done.stderr
    assert {str(path.relative_to("out").with_suffix("")) for path in Path("out").rglob("?.*")} == {"a", "more/a", "more/b"}
