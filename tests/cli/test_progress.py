"""How far a run is: bars on a terminal, whatever its width; lines elsewhere."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest

from i2i.cli.progress import Progress, shortened
from i2i.report import RunReport
from tests.cli.kit import picture, save

_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def _on_terminal(words, folder, columns):
    """What the program writes to a terminal of so many columns."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES", "NO_COLOR")}
    command = [sys.executable, "-m", "i2i", *map(str, words)]
    with subprocess.Popen(command, cwd=folder, stderr=theirs, stdout=subprocess.PIPE, env=environment | {"TERM": "xterm"}) as run:
        os.close(theirs)
        told = b""
        while chunk := _read(ours):
            told += chunk
        assert run.wait(60) == 0 and run.stdout.read() == b""
    os.close(ours)
    return told.decode()


def _read(terminal):
    try:
        return os.read(terminal, 65536)
    except OSError:  # Linux's word for the other side's end
        return b""


def test_a_terminal_shows_images_and_the_one_in_work_within_its_width(folder, model):
    name = "plate_[red]_with_a_very_long_name_of_well_" + "x" * 40
    for number in range(2):
        save(f"set/{name}_{number}.png", picture(200, 300))
    told = _on_terminal(["segment", "set", "-o", "out", "--model", model, "--tile", "64"], folder, columns=64)
    lines = [line.strip() for line in re.split(r"[\r\n]+", _CONTROL.sub("", told))]
    bars = [line for line in lines if "%" in line]
    assert any("1 of 2 images" in line for line in bars) and any("infer" in line and "plate_[r" in line for line in bars)
    assert all(len(line) <= 64 for line in bars), max(bars, key=len)
    assert f"out/{name}_1.png" in told and "[2/2] " in told, "a path that is broken into lines cannot be copied"
    assert "2 done" in lines


@pytest.mark.parametrize(
    ("name", "room", "seen"),
    [
        ("a.png", 5, "a.png"),
        ("abcdefghij.png", 9, "abcd….png"),
        ("abcdefghij.png", 10, "abcd…j.png"),
        ("abcdefghij.png", -5, "abc….png"),
    ],
)
def test_a_long_name_keeps_its_ends(name, room, seen):
    assert shortened(name, room) == seen


@pytest.mark.parametrize(
    ("settings", "seen"),
    [
        ({}, ["warning: a: w", "note: a: n", "a -> b: 1.0 s"]),
        ({"silent": True}, ["warning: a: w"]),
        ({"quiet": True}, []),
    ],
)
def test_a_log_has_a_line_for_each_image(capsys, settings, seen):
    with Progress(1, **settings) as progress:
        progress.finished(RunReport("segment", "a", "b", seconds={"compute": 1.0}, warnings=["w"], notes=["n"]))
        progress.finished(RunReport("segment", "a", "b", status="failed", error="a: broken"))
    assert capsys.readouterr().err.splitlines() == [*seen, "error: a: broken"]
