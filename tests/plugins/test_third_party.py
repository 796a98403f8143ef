"""A stranger's package, installed beside i2i from wheels: nothing of the checkout is seen, and nothing is downloaded."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples/i2i-example-plugin"
DISTRIBUTION = "i2i-example-flatten"
MODEL = ROOT / "examples/i2i-example-model"
"""A package with a model and no code of its own."""
MODEL_DISTRIBUTION = "i2i-example-nuclei"


@dataclass(frozen=True)
class Place:
    """A fresh environment, and a folder outside the checkout in which its commands are run."""

    folder: Path
    wheels: tuple[Path, ...]
    """Of the engine, the plugin, the model, and the plugin of the document."""

    @property
    def programs(self):
        return self.folder / "env" / "bin"

    def call(self, program, *words):
        """The finished process of a program of the environment, or of a path."""
        own = ("PYTHON", "PYTEST", "I2I_", "VIRTUAL_ENV")
        env = {name: value for name, value in os.environ.items() if not name.startswith(own)}
        env |= {"I2I_CACHE_DIR": str(self.folder / "cache"), "I2I_OFFLINE": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        command = [str(self.programs / program), *map(str, words)]
        return subprocess.run(command, cwd=self.folder, env=env, capture_output=True, text=True, timeout=300, check=False)

    def done(self, program, *words):
        """Its stdout; it has to succeed."""
        finished = self.call(program, *words)
        assert finished.returncode == 0, finished.stdout + finished.stderr
        return finished.stdout

    def pip(self, *words):
        """pip of the tests' own environment, at work in the fresh one."""
        return self.done(sys.executable, "-m", "pip", "--python", self.programs / "python", *words)


def build_wheel(project, folder):
    """The wheel of a project, by the build backend that is installed."""
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(project)]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    (wheel,) = folder.glob("*.whl")
    return wheel


def written_down(folder):
    """The folder that ``docs/plugins.md`` tells a reader to make: its blocks of code, in the order of the text."""
    folder.mkdir()
    blocks = re.findall(r"```(?:python|toml)\n(.+?)```", (ROOT / "docs/plugins.md").read_text("utf-8"), re.S)
    for name, block in zip(("i2i_unsharp.py", "pyproject.toml", "test_unsharp.py"), blocks, strict=True):
        (folder / name).write_text(block, "utf-8")
    return folder


def make_environment(folder):
    """A virtual environment that sees the installed dependencies, but neither i2i nor a plugin, nor what ``.pth`` files add."""
    venv.create(folder / "env", symlinks=True)
    dependencies = folder / "dependencies"
    dependencies.mkdir()
    for site in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        for found in Path(site).iterdir():
            if found.suffix != ".pth" and not found.name.startswith(("i2i", "_i2i", "__pycache__")):
                (dependencies / found.name).symlink_to(found)
    (packages,) = (folder / "env" / "lib").glob("python*/site-packages")
    (packages / "dependencies.pth").write_text(f"{dependencies}\n")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stranger")
    project = shutil.copytree(EXAMPLE, folder / "project")
    model = shutil.copytree(MODEL, folder / "model")
    made = {"engine": ROOT, "example": project, "model": model, "document": written_down(folder / "document")}
    wheels = tuple(build_wheel(source, folder / f"{name}-wheel") for name, source in made.items())
    make_environment(folder)
    made = Place(folder, wheels)
    made.pip("install", "--no-deps", "--no-index", *wheels)
    return made


def test_only_what_was_installed_is_seen(place):
    program = """
import i2i, i2i_flatten, json
from importlib.metadata import entry_points
print(json.dumps([i2i.__file__, i2i_flatten.__file__, sorted((e.name, e.dist.name) for e in entry_points(group="i2i"))]))
"""
    engine, example, entries = json.loads(place.done("python", "-c", program))
    assert Path(engine).is_relative_to(place.folder / "env")
    assert Path(example).is_relative_to(place.folder / "env")
    assert len({name for name, _ in entries}) == len(entries)
    assert ["flatten", DISTRIBUTION] in entries
    assert ["segment", "i2i-engine"] in entries


def test_it_is_listed_beside_the_others(place):
    listed = json.loads(place.done("i2i", "plugins", "list", "--json"))
    assert listed["broken"] == []
    (found,) = [plugin for plugin in listed["plugins"] if plugin["distribution"] == DISTRIBUTION]
    assert found["tasks"] == ["flatten"]
    assert "good    flatten" in place.done("i2i", "plugins", "check")


def test_the_help_lists_it_without_importing_it(place):
    program = """
import sys
from i2i.cli import main
try:
    main(["--help"])
finally:
    print({"i2i_flatten", "torch"} & {*sys.modules})
"""
    helped = place.done("python", "-c", program)
    assert "Even out the illumination" in helped
    assert helped.splitlines()[-1] == "set()"
    assert "--sigma" in place.done("i2i", "flatten", "--help")


def uneven(channels):
    """Dark corners and fine detail, (240, 320, channels) float, 20 .. 250."""
    y, x = np.mgrid[-1:1:240j, -1:1:320j]
    detail = np.random.default_rng(0).normal(1, 0.02, (240, 320, channels))
    return (220 * (1 - 0.4 * (x**2 + y**2)))[..., None] * detail


def background(pixels):
    """Means of squares of 40 pixels, (6, 8, channels)."""
    return pixels.astype(float).reshape(6, 40, 8, 40, -1).mean((1, 3))


def assert_flatter(before, after):
    assert after.shape == before.shape
    assert after.dtype == before.dtype
    assert background(after).std() < 0.4 * background(before).std()
    assert abs(after.mean() - before.mean()) < 0.02 * before.mean()


def test_pictures_become_flat(place):
    """A PNG in colour and a TIFF of two channels of 16 bits, each written as it was read."""
    picture, plate = uneven(3).astype(np.uint8), (200 * uneven(2)).astype(np.uint16)
    Image.fromarray(picture).save(place.folder / "picture.png")
    metadata = {"axes": "CYX", "Channel": {"Name": ["DAPI", "GFP"]}}
    tifffile.imwrite(place.folder / "plate.ome.tif", np.moveaxis(plate, 2, 0), metadata=metadata)
    options = ("--sigma", "20", "--tile", "256", "--json")
    report = json.loads(place.done("i2i", "flatten", "picture.png", "plate.ome.tif", "-o", "flat", *options))
    first, second = (Path(place.folder, run["output"]) for run in report["runs"])
    assert all(run["plan"]["exact"] for run in report["runs"])
    assert_flatter(picture, np.asarray(Image.open(first)))
    assert_flatter(plate, np.moveaxis(tifffile.imread(second), 0, 2))
    with tifffile.TiffFile(second) as file:
        assert "DAPI" in file.ome_metadata


def test_its_own_tests_pass(place):
    tests = place.folder / "project" / "tests"
    place.done("python", "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", tests)


def test_the_model_of_another_package_is_one_among_the_others(place):
    cards = json.loads(place.done("i2i", "models", "list", "--json"))
    (card,) = [card for card in cards if card["name"] == "nuclei-quick"]
    assert (card["task"], card["where"]) == ("segment", "bundled") and not card["default"]
    shutil.copy(ROOT / "plugins/i2i_unet/samples/nuclei.png", place.folder / "nuclei.png")
    report = json.loads(place.done("i2i", "segment", "nuclei.png", "-o", "n.tif", "--model", "nuclei-quick", "--json"))
    (run,) = report["runs"]
    assert run["model"] == "nuclei-quick" and run["objects"] > 10
    place.done("python", "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", place.folder / "model" / "tests")


def test_the_plugin_of_the_document_is_one_among_the_others(place):
    assert "good    unsharp of i2i-unsharp" in place.done("i2i", "plugins", "check")
    assert "Sharpen an image by an unsharp mask" in place.done("i2i", "--help")
    step = np.zeros((60, 300, 3), np.uint8)
    step[:, 150:] = 100
    Image.fromarray(step).save(place.folder / "step.png")
    place.done("i2i", "unsharp", "step.png", "--amount", "2")
    sharp = np.asarray(Image.open(place.folder / "step-unsharp.png"))
    assert sharp.shape == step.shape and 120 < sharp.max() <= 200 and sharp[0, 0, 0] == 0
    place.done("python", "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", place.folder / "document")


def test_without_its_package_the_model_is_not_known(place):
    place.pip("uninstall", "-y", MODEL_DISTRIBUTION)
    try:
        gone = place.call("i2i", "segment", "nuclei.png", "-o", "gone.tif", "--model", "nuclei-quick")
        assert gone.returncode == 1 and "nuclei-quick" in gone.stderr and "Traceback" not in gone.stderr
        assert not (place.folder / "gone.tif").exists()
    finally:
        place.pip("install", "--no-deps", "--no-index", place.wheels[2])


def test_it_can_be_uninstalled(place):
    place.pip("uninstall", "-y", DISTRIBUTION)
    try:
        assert "flatten" not in place.done("i2i", "--help")
        gone = place.call("i2i", "flatten", "picture.png")
        assert gone.returncode == 2
        assert "flatten" in gone.stderr
        assert "Traceback" not in gone.stderr
        assert "good    segment" in place.done("i2i", "plugins", "check")
    finally:
        place.pip("install", "--no-deps", "--no-index", place.wheels[1])
