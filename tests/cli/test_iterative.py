"""The command of an iterative method: its plan, its pictures on the way, streams, a kill."""

from __future__ import annotations

import io
import os
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from i2i.cli.run import image_command
from i2i.errors import UsageError
from tests import toys
from tests.cli.kit import files, load
from tests.core.test_iterative import PIXELS, interrupting


@pytest.fixture
def sketch(folder, capsysbinary, monkeypatch):
    """``i2i sketch``: the exit code, stdout and stderr."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    Image.fromarray(PIXELS).save("in.png")
    command = image_command(toys.SKETCH, toys.Toys())

    def call(*words, stdin=b""):
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(stdin)))
        capsysbinary.readouterr()
        settings = ["--tile", "64", "--memory", "2GB", "--device", "cpu"]
        code = command.main([*map(str, words), *settings], prog_name="i2i sketch", standalone_mode=False)
        captured = capsysbinary.readouterr()
        return code, captured.out, captured.err.decode()

    return call


def test_a_dry_run_shows_the_size_and_that_the_time_is_unknown(sketch, folder):
    code, out, err = sketch("in.png", "--width", "45", "--save-every", "2", "--flip", "f.npz", "--dry-run")
    lines = out.decode().splitlines()
    assert (code, lines[0]) == (0, "in.png -> in-sketch.png")
    assert "  size       45 x 30 pixels, to which the input is brought" in lines and lines[-1] == "  time       unknown"
    assert err == "note: in.png: smaller steps: --memory is small\n"
    assert files(folder) == ["in.png"]


def test_the_result_its_frames_and_the_pictures_on_the_way(sketch, folder):
    code, _, err = sketch("in.png", "--width", "45", "--save-every", "4", "--flip", "f.npz")
    assert code == 0 and err.splitlines()[0] == "note: in.png: smaller steps: --memory is small"
    steps = [f"in-sketch.png-steps/step-0000{step}.png" for step in (4, 8)]
    assert files(folder) == sorted(["f.npz", *steps, "in-sketch.png", "in.png"])
    np.testing.assert_array_equal(load(steps[1]), load("in-sketch.png"))
    with np.load("f.npz") as told:
        np.testing.assert_array_equal(told["frames"][[1, 3]], [load(path) for path in steps])


def test_a_killed_command_goes_on_with_resume(sketch, folder):
    sketch("in.png", "-o", "whole.png", "--flip", "whole.npz")
    with interrupting(8):
        code, _, err = sketch("in.png", "-o", "out.png", "--flip", "out.npz")
    assert code == 130 and err.endswith("what is done is kept: the same command with --resume goes on\n")
    assert not (folder / "out.png").exists() and (folder / "out.png.i2i-partial").is_dir()
    code, _, err = sketch("in.png", "-o", "out.png", "--flip", "out.npz", "--resume")
    assert code == 0 and "1 block from before" in err
    for suffix in ("png", "npz"):
        assert (folder / f"out.{suffix}").read_bytes() == (folder / f"whole.{suffix}").read_bytes()


def test_streams(sketch, folder):
    """Pictures on the way have no place beside stdout, which is said."""
    sketch("in.png", "-o", "out.png")
    code, out, err = sketch("-", "-o", "-", "--format", "png", stdin=(folder / "in.png").read_bytes())
    assert (code, out, err) == (0, (folder / "out.png").read_bytes(), "")
    code, out, err = sketch("-", "-o", "-", "--format", "png", "--save-every", "4", stdin=(folder / "in.png").read_bytes())
    assert code == 0
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(out))), load("out.png"))
    assert err == "warning: pictures on the way are kept beside a file, and -o - has none; give one with -o\n"
    assert files(folder) == ["in.png", "out.png"]


def test_what_cannot_be_is_refused(sketch, folder):
    with pytest.raises(UsageError, match="the output is the input tone.npy"):
        np.save("tone.npy", np.zeros(2))
        os.link("tone.npy", "tone.png")
        sketch("in.png", "-o", "tone.png", "--tone", "tone.npy", "--overwrite")
    code, _, err = sketch("in.png", "--verify", "2")
    assert code == 2 and err.startswith("error: --verify recomputes single pixels, which sketch cannot; leave it out")
    assert files(folder) == ["in.png", "tone.npy", "tone.png"]


def test_only_exporters_of_pictures_are_offered(sketch):
    offered = {name for item in image_command(toys.SKETCH, toys.Toys()).params for name in item.opts}
    assert {"--overlay", "--flip"} <= offered and not {"--csv", "--coco", "--geojson", "--crops"} & offered
