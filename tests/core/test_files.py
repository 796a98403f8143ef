"""Files are whole or not there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from i2i.errors import OutputError
from i2i.files import remove, replacing, writing


def test_a_file_gets_its_name_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "result.tif"
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert not path.exists()
        assert temporary.suffix == ".tif" and temporary.parent == tmp_path, "formats look at the suffix; a rename needs one disk"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_error_leaves_what_was_there_and_nothing_else(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "result.tif"
    path.write_text("old")
    with pytest.raises(error), replacing(path) as temporary:
        temporary.write_text("half")
        raise error
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_takes_its_place_like_a_file(tmp_path: Path) -> None:
    path = tmp_path / "result.zarr"
    with replacing(path) as temporary:
        temporary.mkdir()
        (temporary / "chunk").write_text("0")
    assert (path / "chunk").read_text() == "0"
    with pytest.raises(ValueError), replacing(path) as temporary:
        temporary.mkdir()
        raise ValueError
    assert (path / "chunk").read_text() == "0"
    with replacing(path) as temporary:
        temporary.mkdir()
    assert list(tmp_path.iterdir()) == [path] and not list(path.iterdir()), "the old folder is gone with all it held"


@pytest.mark.parametrize("place", ["missing/result.tif", "file/result.tif"])
def test_what_the_system_refuses_is_one_line_that_names_the_file(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OutputError) as caught, replacing(tmp_path / place) as temporary:
        temporary.write_text("new")
    assert place in str(caught.value) and "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_body_that_writes_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written"), replacing(tmp_path / "result.tif"):
        pass
    assert not list(tmp_path.iterdir())


def test_two_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "result.tif"
    with replacing(path) as first, replacing(path) as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first", "the one that ends last stays"


def test_only_errors_of_the_system_are_translated(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="full: cannot be written: No space left"), writing(tmp_path / "full"):
        raise OSError(28, "No space left on device")
    with pytest.raises(KeyError), writing(tmp_path):
        raise KeyError


def test_removing_what_is_not_there_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    remove(tmp_path / "missing")
    remove(tmp_path / "file" / "below")
    remove(tmp_path / "file")
    (tmp_path / "folder" / "deep").mkdir(parents=True)
    remove(tmp_path / "folder")
    assert not list(tmp_path.iterdir())


_KILLED = """
import os, signal
from pathlib import Path
from i2i.files import replacing
with replacing(Path("result.tif")) as file, replacing(Path("store.zarr")) as folder:
    file.write_text("half"), folder.mkdir(), (folder / "chunk").touch()
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL")
def test_what_a_killed_process_left_goes_with_the_next_write_and_what_a_living_one_writes_stays(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", _KILLED], cwd=tmp_path, check=False)
    left = sorted(tmp_path.iterdir())
    assert [path.suffix for path in left] == [".tif", ".zarr"] and all(path.name.startswith(".") for path in left)
    _, host, process, _ = left[0].name.split("-")
    living = tmp_path / left[0].name.replace(f"-{process}-", f"-{os.getppid()}-")
    elsewhere = tmp_path / left[0].name.replace(host, "0" * 8)
    living.touch(), elsewhere.touch(), (tmp_path / ".hidden.tif").touch()
    with replacing(tmp_path / "other.tif") as temporary:
        temporary.touch()
    assert set(tmp_path.iterdir()) == {living, elsewhere, tmp_path / ".hidden.tif", tmp_path / "other.tif"}
