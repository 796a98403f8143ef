"""Images through pipes: data on stdout, words on stderr, and a reader that goes away."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import tifffile

from tests.cli.kit import picture, save
from tests.faults.images import BAD
from tests.faults.program import Call, Program
from tests.faults.test_bad_images import assert_one_line
from tests.faults.uses import IMAGE_TASKS, image_words, tree

CLOSED = "import os; reading, writing = os.pipe(); os.close(reading); os.dup2(writing, 1); os.close(writing)"
"""Nobody reads stdout any more."""


@pytest.mark.parametrize("task", IMAGE_TASKS)
def test_dashes_stand_for_stdin_and_stdout(task: str, program: Program, networks: Path, folder: Path) -> None:
    """The same pixels as from file to file; progress and notes are not on stdout."""
    content = save(folder / "a.tif", picture(64, 80)).read_bytes()
    words = image_words(networks, task)
    file, through, back, into = program.run_all([
        Call(folder, [*words, "a.tif", "-o", "out.tif"]),
        Call(folder, [*words, "-", "-o", "-", "--format", "tif"], stdin=content),
        Call(folder, [*words, "a.tif", "-o", "-", "--format", "tif"]),
        Call(folder, [*words, "-", "-o", "in.tif"], stdin=content),
    ])  # fmt: skip
    assert [ended.code for ended in (file, through, back, into)] == [0, 0, 0, 0], (through, back, into)
    expected = tifffile.imread(folder / "out.tif")
    for ended in (through, back):
        np.testing.assert_array_equal(tifffile.imread(io.BytesIO(ended.stdout)), expected)
        assert ended.err == ""
    assert file.stdout == into.stdout == b""
    np.testing.assert_array_equal(tifffile.imread(folder / "in.tif"), expected)
    assert set(tree(folder)) == {"a.tif", "out.tif", "in.tif"}


@pytest.mark.parametrize("task", IMAGE_TASKS)
def test_a_closed_pipe_ends_quietly_and_a_full_one_does_not(task: str, program: Program, networks: Path, folder: Path) -> None:
    save(folder / "a.tif", picture(64, 80))
    words = [*image_words(networks, task), "a.tif", "-o", "-", "--format", "tif"]
    closed, json, full = program.run_all([
        Call(folder, words, CLOSED),
        Call(folder, [*words[:-4], "-o", "out.tif", "--json"], CLOSED),
        Call(folder, words, stdout="/dev/full"),
    ])  # fmt: skip
    assert (closed.code, closed.err) == (0, ""), closed
    assert (json.code, json.err.count("error"), "Traceback" in json.err) == (0, 0, False), json
    assert_one_line(full, 1, "stdout: cannot be written: No space left", "choose another place")
    assert set(tree(folder)) == {"a.tif", "out.tif"}


@pytest.mark.parametrize("task", IMAGE_TASKS)
def test_a_bad_image_on_stdin_is_called_by_its_dash(task: str, program: Program, networks: Path, folder: Path) -> None:
    calls, told = [], []
    for group, case in (("truncated", "empty file"), ("truncated", "cut at 50%, strips"), ("structure", "random bytes")):
        fault = BAD[group][case]
        fault.make(folder / "bad")
        content = (folder / "bad").read_bytes()
        (folder / "bad").unlink()
        told.append(fault.told)
        calls.append(Call(folder, [*image_words(networks, task), "-", "-o", "-", "--format", "tif"], stdin=content))
    for ended, words in zip(program.run_all(calls), told, strict=True):
        assert_one_line(ended, 1, "-: ", words)
    assert tree(folder) == {}
