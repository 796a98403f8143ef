"""Outputs that cannot be, for every task: one line, and nothing at the output path that was not there before."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile

from i2i.canvas import claimed, partial_folder
from tests.cli.kit import picture, save
from tests.faults.program import Call, Program
from tests.faults.test_bad_images import assert_one_line
from tests.faults.uses import IMAGE_TASKS, image_words, prepare, train_words, tree

ORDINARY = """
import ctypes
ctypes.CDLL(None).capset((ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)())
"""
"""Gives up what root may do on Linux beyond its own files' permissions; nothing for other users."""
SMALL_FILES = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (400, 400))"
"""No file may be larger than 400 bytes."""
TRAINED = ("segment", "instances", "translate", "stylize")


@pytest.fixture(autouse=True)
def image(folder: Path) -> Path:
    return save(folder / "a.tif", picture(64, 80))


@pytest.fixture
def full(folder: Path) -> Iterator[Path]:
    """A folder on a disk of 8 kB that are taken."""
    place = folder / "full"
    place.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8k", "none", place], capture_output=True, check=False)
    if made.returncode:
        pytest.skip("this user may not mount a small disk")
    (place / "much").write_bytes(bytes(8192))
    yield place
    subprocess.run(["umount", place], check=True)


def learn(networks: Path, folder: Path, task: str, output: str) -> list[str]:
    """``i2i train TASK`` on good data, with another output."""
    prepare(folder, "train segment, an image", "image.tif")
    save(folder / "images/2.tif", picture(64, 80))
    data = {"translate": ["--source", "images", "--target", "images"], "stylize": ["--images", "images", "--style", "good.tif"]}
    *words, _ = train_words(networks, task)
    return [*words, output, *data.get(task, ["--images", "images", "--masks", "masks"])]


# ------------------------------------------------------------------------------------------------------------------ tasks


@pytest.mark.parametrize("task", IMAGE_TASKS)
def test_outputs_that_are_refused(task: str, program: Program, networks: Path, folder: Path) -> None:
    """The output is the input, also by a link, is there already, has a suffix that nobody writes, or is a file where a folder
    should be; two inputs would write one output."""
    words = image_words(networks, task)
    (folder / "symbolic.tif").symlink_to("a.tif")
    os.link(folder / "a.tif", folder / "hard.tif")
    save(folder / "there.tif", picture(10, 10))
    save(folder / "two/a.tif"), save(folder / "two/a.png")
    (folder / "locked").mkdir(mode=0o555)
    cases = [
        (2, "a.tif: the output is the input", "choose another", ["a.tif", "-o", "a.tif", "--overwrite"]),
        (2, "symbolic.tif: the output is the input", "choose another", ["a.tif", "-o", "symbolic.tif", "--overwrite"]),
        (2, "hard.tif: the output is the input", "choose another", ["a.tif", "-o", "hard.tif", "--overwrite"]),
        (1, "there.tif: exists", "--overwrite replaces it", ["a.tif", "-o", "there.tif"]),
        (2, "out.xyz: no format is written", "these work", ["a.tif", "-o", "out.xyz"]),
        (1, "a.tif: cannot be made: it is a file", "choose another place", ["there.tif", "-o", "a.tif/out.tif"]),
        (1, "locked/out.tif: cannot be written: Permission denied", "choose another", ["a.tif", "-o", "locked/out.tif"]),
        (1, "locked/new: cannot be made: Permission denied", "choose another", ["a.tif", "-o", "locked/new/out.tif"]),
        (2, "two/a.png and two/a.tif would both write out/a.tif", "rename one", ["two", "-o", "out", "--format", "tif"]),
    ]
    before = tree(folder)
    calls = [Call(folder, [*words, *given], ORDINARY) for *_, given in cases]
    for (code, told, cure, _), ended in zip(cases, program.run_all(calls), strict=True):
        assert_one_line(ended, code, told, told, cure)
    assert tree(folder) == before


@pytest.mark.parametrize("task", IMAGE_TASKS)
def test_a_missing_folder_is_made(task: str, program: Program, networks: Path, folder: Path) -> None:
    ended = program.run(folder, *image_words(networks, task), "a.tif", "-o", "new/deep/out.tif")
    assert ended.code == 0 and tifffile.imread(folder / "new/deep/out.tif").shape[:2] == (64, 80), ended


@pytest.mark.parametrize("task", IMAGE_TASKS)
def test_two_runs_on_one_output_exclude_each_other(task: str, program: Program, networks: Path, folder: Path) -> None:
    with claimed(partial_folder(folder / "out.tif")):
        ended = program.run(folder, *image_words(networks, task), "a.tif", "-o", "out.tif")
        assert_one_line(ended, 1, "out.tif.i2i-partial: another run is writing this output", "wait for it")
    assert list(tree(folder)) == ["a.tif"]
    assert program.run(folder, *image_words(networks, task), "a.tif", "-o", "out.tif").code == 0


@pytest.mark.parametrize("task", IMAGE_TASKS)
def test_a_file_that_may_not_grow_is_an_error(task: str, program: Program, networks: Path, folder: Path) -> None:
    for given, before in (["-o", "out.tif"], SMALL_FILES), (["-o", "there.tif", "--overwrite"], SMALL_FILES):
        save(folder / "there.tif", picture(10, 10))
        files = tree(folder)
        ended = program.run(folder, *image_words(networks, task), "a.tif", *given, before=before)
        assert_one_line(ended, 1, given[1], "cannot be written: File too large", "choose another place")
        assert tree(folder) == files


@pytest.mark.parametrize("task", IMAGE_TASKS)
def test_no_space_is_left(task: str, program: Program, networks: Path, folder: Path, full: Path) -> None:
    """Foreseen where the size of the result is known before; else found out when it is written."""
    words = image_words(networks, task)
    later = "from i2i import begin; begin.check_room = lambda *given: None"
    for before in ("", later):
        ended = program.run(folder, *words, "a.tif", "-o", "full/out.tif", before=before)
        assert_one_line(ended, 1, "", "room", "free some")
        assert list(tree(full)) == ["much"]


@pytest.mark.parametrize("task", IMAGE_TASKS)
def test_a_result_of_more_than_4_gb_is_a_bigtiff_by_itself(task: str, program: Program, networks: Path, folder: Path) -> None:
    """As if 4 GB were a kilobyte."""
    before = "from i2i.formats import tiff_write; tiff_write.CLASSIC_LIMIT = 1000"
    for name, limited, magic in (("small.tif", "", b"II*\0"), ("large.tif", before, b"II+\0")):
        assert program.run(folder, *image_words(networks, task), "a.tif", "-o", name, before=limited).code == 0
        assert (folder / name).read_bytes()[:4] == magic
    np.testing.assert_array_equal(tifffile.imread(folder / "small.tif"), tifffile.imread(folder / "large.tif"))


EVERY_OTHER = """
import torch
from i2i.contracts import LabelRule
from i2i_unet.predictor import UNetPredictor
UNetPredictor.__call__ = lambda self, batch: torch.cat([0.5 - batch, batch - 0.5, 0 * batch - 9], 1)
UNetPredictor.label_rule = property(lambda self: LabelRule(interior=1), lambda self, rule: None)
"""
"""The network finds what is bright, pixel by pixel."""


def test_more_than_65535_labels(program: Program, networks: Path, folder: Path) -> None:
    """They are 32-bit numbers in a TIFF, and are not cut off in a PNG."""
    dots = np.zeros((520, 520), np.uint8)
    dots[::2, ::2] = 200
    save(folder / "dots.png", dots)
    words = ["segment", "--model", networks / "segment-1.safetensors", "dots.png", "--json"]
    told = program.run(folder, *words, before=EVERY_OTHER)
    assert told.code == 0, told
    (run,) = told.json["runs"]
    labels = tifffile.imread(folder / "dots-segment.tif")
    assert run["objects"] == 260**2 > 65_535 and labels.dtype == np.uint32
    np.testing.assert_array_equal(labels[::2, ::2], np.arange(1, 260**2 + 1).reshape(260, 260))
    assert np.count_nonzero(labels) == 260**2
    before = tree(folder)
    ended = program.run(folder, *words[:-1], "-o", "x.png", "--strict", before=EVERY_OTHER)
    assert_one_line(ended, 1, "x.png: PNG cannot hold", "uint32", "ends in .tif")
    assert tree(folder) == before


# --------------------------------------------------------------------------------------------------------------- training


@pytest.mark.parametrize("task", TRAINED)
def test_models_that_cannot_be_written(task: str, program: Program, networks: Path, folder: Path) -> None:
    (folder / "there.safetensors").write_bytes(b"a model")
    (folder / "locked").mkdir(mode=0o555)
    cases = [
        (1, "there.safetensors", "--overwrite", "there.safetensors"),
        (2, "", ".safetensors", "model.onnx"),
        (1, "locked", "Permission denied", "locked/model.safetensors"),
        (1, "there.safetensors", "", "there.safetensors/model.safetensors"),
    ]
    calls = [Call(folder, learn(networks, folder, task, output), ORDINARY) for *_, output in cases]
    before = tree(folder)
    for (code, start, told, _), ended in zip(cases, program.run_all(calls), strict=True):
        assert_one_line(ended, code, start, told)
    assert tree(folder) == before


@pytest.mark.parametrize("task", TRAINED)
def test_a_training_that_may_write_no_more_is_one_line(task: str, program: Program, networks: Path, folder: Path) -> None:
    words = learn(networks, folder, task, "model.safetensors")
    before = tree(folder)
    ended = program.run(folder, *words, before=SMALL_FILES)
    assert (ended.code, ended.lines[-1][:7]) == (1, "error: "), ended
    assert "cannot be written: " in ended.lines[-1] and "choose another place" in ended.lines[-1] and "Traceback" not in ended.err
    left = tree(folder).keys() - before.keys()
    assert not (folder / "model.safetensors").exists() and not [name for name in left if ".i2i-" in name], left
