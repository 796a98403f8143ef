"""The canvas: the same in memory and on disk, for one process at a time, and honest about what is done."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from i2i import files
from i2i.canvas import (
    Canvas,
    DiskCanvas,
    Journal,
    MemoryCanvas,
    StageCheckpoint,
    claimed,
    clear,
    layer_spec,
    partial_folder,
)
from i2i.contracts import ImageSpec
from i2i.errors import OutputError
from i2i.geometry import Region

SPEC = ImageSpec(20, 30, 2, "float32")


@pytest.fixture(params=["memory", "disk"])
def canvas(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Canvas]:
    made = MemoryCanvas() if request.param == "memory" else DiskCanvas(tmp_path / "out.i2i-partial")
    yield made
    made.close()


# ------------------------------------------------------------------------------------------- the same in both kinds


def test_a_layer_is_zero_where_nothing_was_written(canvas: Canvas) -> None:
    layer = canvas.layer("image", SPEC, (8, 8))
    pixels = np.random.default_rng(0).normal(size=(8, 6, 2)).astype(np.float32)
    layer.write(Region(8, 24, 8, 6), pixels)
    expected = np.zeros((20, 30, 2), np.float32)
    expected[8:16, 24:] = pixels
    whole = layer.read(Region(0, 0, 20, 30))
    np.testing.assert_array_equal(whole, expected)
    assert whole.dtype == np.float32
    np.testing.assert_array_equal(layer.read(Region(7, 23, 3, 3)), expected[7:10, 23:26])


def test_a_layer_is_made_once(canvas: Canvas) -> None:
    canvas.layer("image", SPEC, (8, 8)).write(Region(0, 0, 1, 1), np.ones((1, 1, 2)))
    assert canvas.layer("image", SPEC, (8, 8)).read(Region(0, 0, 1, 1)).tolist() == [[[1, 1]]]
    assert not canvas.layer("other", SPEC, (8, 8)).read(Region(0, 0, 1, 1)).any()


def test_pixels_that_were_read_are_the_readers_own(canvas: Canvas) -> None:
    layer = canvas.layer("image", SPEC, (8, 8))
    before = layer.read(SPEC.region)
    layer.write(Region(0, 0, 1, 1), np.ones((1, 1, 2)))
    assert not before.any(), "a later write changed them"
    before += 5
    assert layer.read(Region(0, 0, 1, 2)).tolist() == [[[1, 1], [0, 0]]], "the reader changed the layer"


def test_arrays_that_were_stored_stay_as_they_were(canvas: Canvas) -> None:
    state = np.arange(3)
    canvas.store("stage", 4, {"state": state, "step": np.array(7)})
    state += 1
    fetched = canvas.fetch("stage", 4)
    assert fetched is not None
    assert fetched["state"].tolist() == [0, 1, 2] and int(fetched["step"]) == 7
    canvas.store("stage", 4, {"state": state})
    assert {name: value.tolist() for name, value in (canvas.fetch("stage", 4) or {}).items()} == {"state": [1, 2, 3]}
    assert canvas.fetch("stage", 5) is None and canvas.fetch("other", 4) is None


def test_blocks_are_done_for_the_stage_that_did_them(canvas: Canvas) -> None:
    canvas.mark("one", 3)
    canvas.mark("one", 5)
    canvas.mark("two", 3)
    assert (canvas.done("one"), canvas.done("two"), canvas.done("three")) == ({3, 5}, {3}, frozenset())


def test_a_checkpoint_is_its_stages_own(canvas: Canvas) -> None:
    first, second = StageCheckpoint(canvas, "one"), StageCheckpoint(canvas, "two")
    assert first.load() is None
    first.save({"x": np.array([1.5])})
    assert second.load() is None
    assert (first.load() or {})["x"].tolist() == [1.5]


@given(st.data())
@settings(derandomize=True, deadline=None, max_examples=10)
def test_memory_and_disk_hold_the_same_after_any_writes(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    spec = ImageSpec(data.draw(st.integers(1, 12)), data.draw(st.integers(1, 12)), 1, "uint16")
    chunk = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 12))
    disk = DiskCanvas(tmp_path_factory.mktemp("canvas"))
    layers = [kind.layer("image", spec, chunk) for kind in (MemoryCanvas(), disk)]
    for _ in range(data.draw(st.integers(0, 4))):
        y, x = data.draw(st.integers(0, spec.height - 1)), data.draw(st.integers(0, spec.width - 1))
        region = Region(y, x, data.draw(st.integers(1, 12)), data.draw(st.integers(1, 12))).intersect(spec.region)
        value = data.draw(st.integers(0, 9))
        for layer in layers:
            layer.write(region, np.full((region.height, region.width, 1), value))
    np.testing.assert_array_equal(layers[0].read(spec.region), layers[1].read(spec.region))
    disk.remove()


# ------------------------------------------------------------------------------------------------------------ on disk


def test_a_folder_that_is_opened_again_has_everything(tmp_path: Path) -> None:
    first = DiskCanvas(tmp_path / "run")
    first.layer("image", SPEC, (8, 8)).write(Region(0, 0, 8, 8), np.ones((8, 8, 2)))
    first.store("infer", 0, {"found": np.arange(2)})
    first.mark("infer", 0)
    first.close()
    second = DiskCanvas(tmp_path / "run")
    assert second.layer("image", SPEC, (8, 8)).read(Region(0, 0, 9, 9)).sum() == 128
    assert second.done("infer") == {0} and second.fetch("infer", 0) is not None
    second.close()


def test_two_runs_on_one_output_exclude_each_other(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "deep" / "out.tif.i2i-partial"
    with claimed(folder):
        with pytest.raises(OutputError, match="another run is writing this output; wait for it, or"), claimed(folder):
            pass
        assert (folder / "lock").exists(), "the one that was refused has taken nothing away"
        with claimed(tmp_path / "other"):
            pass
    assert not list(tmp_path.iterdir()), "nothing of it stays, nor of the folders that were made for it"


def test_a_claim_leaves_what_is_not_its_own(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with claimed(tmp_path / "there" / "run"):
        (tmp_path / "there" / "run" / "manifest.json").write_text("{}")
    assert [path.name for path in (tmp_path / "there" / "run").iterdir()] == ["manifest.json"]
    with claimed(tmp_path / "there" / "run"):
        clear(tmp_path / "there" / "run")
        assert (tmp_path / "there" / "run" / "lock").exists()
    assert not list((tmp_path / "there").iterdir())


def test_the_lock_of_a_process_that_was_killed_holds_nobody_up(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    program = f"""
import os, signal
from pathlib import Path
from i2i.canvas import claimed
with claimed(Path({str(folder)!r})):
    os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", program], check=False)
    assert (folder / "lock").exists()
    with claimed(folder):
        pass
    assert not folder.exists()


def test_pixels_are_on_the_disk_before_the_journal_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    canvas = DiskCanvas(tmp_path / "run")
    layer, flushed, journaled = canvas.layer("p0001/image", SPEC, (8, 8)), [], []
    chunks = tmp_path / "run/layers/p0001/image/c"

    def fsync(handle: int) -> None:
        journaled.append(canvas.done("infer"))
        flushed.append(os.readlink(f"/proc/self/fd/{handle}"))

    monkeypatch.setattr(os, "fsync", fsync)
    layer.write(Region(8, 8, 12, 16), np.ones((12, 16, 2)))
    layer.write(Region(0, 0, 8, 8), np.zeros((8, 8, 2)))
    canvas.mark("infer", 0)
    made = [str(chunks / place / "0") for place in ("1/1", "1/2", "2/1", "2/2")]
    assert sorted(flushed) == [*made, str(chunks.with_name("zarr.json"))]
    assert not any(journaled) and canvas.done("infer") == {0}
    flushed.clear()
    canvas.store("infer", 1, {})
    canvas.mark("next", 0)
    assert not [path for path in flushed if "layers" in path], "what is on the disk is not flushed again"
    canvas.close()


@pytest.mark.parametrize("torn", [b'{"stage": "infer", "bl', b'{"stage": "infer"}\n', b"\0\0\0\0\n", b"\xff\xfe\n", b"7\n"])
def test_a_torn_line_counts_as_not_written(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    journal.add("infer", 0)
    journal.add("infer", 1)
    journal.close()
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    again = Journal(path)
    assert again.done == {"infer": {0, 1}}
    again.add("infer", 2)
    again.close()
    assert path.read_bytes() == whole + b'{"stage": "infer", "block": 2}\n'
    last = Journal(path)
    assert last.done == {"infer": {0, 1, 2}}
    last.close()


def test_a_journal_cut_at_any_byte_names_only_blocks_whose_lines_are_whole(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    for block in range(3):
        journal.add("infer", block)
    journal.close()
    whole = path.read_bytes()
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        cut = Journal(path)
        cut.close()
        assert cut.done.get("infer", set()) == set(range(whole[:length].count(b"\n")))


def test_a_layer_that_was_half_made_is_made_again(tmp_path: Path) -> None:
    (tmp_path / "run" / "layers" / "image").mkdir(parents=True)
    canvas = DiskCanvas(tmp_path / "run")
    assert not canvas.layer("image", SPEC, (8, 8)).read(SPEC.region).any()
    canvas.close()


def test_a_kill_during_the_removal_leaves_nothing_that_could_be_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    folder = tmp_path / "run"
    canvas = DiskCanvas(folder)
    (folder / "manifest.json").write_text("{}")
    canvas.layer("image", SPEC, (8, 8)).write(Region(0, 0, 8, 8), np.ones((8, 8, 2)))
    canvas.mark("infer", 0)
    monkeypatch.setattr(files.shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        canvas.remove()
    monkeypatch.undo()
    assert folder.exists() and not (folder / "manifest.json").exists()
    again = DiskCanvas(folder)
    assert not again.done("infer")
    again.remove()
    assert not folder.exists()


def test_a_canvas_may_be_closed_after_it_was_removed(tmp_path: Path) -> None:
    canvas = DiskCanvas(tmp_path / "run")
    canvas.remove()
    canvas.close()
    assert not list(tmp_path.iterdir())


@contextmanager
def disk_of(size: int) -> Iterator[None]:
    """No file can grow beyond ``size`` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_one_line_and_what_was_done_stays(tmp_path: Path) -> None:
    canvas = DiskCanvas(tmp_path / "run")
    layer = canvas.layer("image", SPEC, (8, 8))
    layer.write(Region(0, 0, 8, 8), np.ones((8, 8, 2)))
    canvas.mark("infer", 0)
    noise = np.random.default_rng(0).normal(size=(8, 8, 2))
    for write in (
        lambda: layer.write(Region(8, 8, 8, 8), noise),
        lambda: canvas.store("infer", 1, {"noise": noise}),
        lambda: canvas.mark("infer", 1),
        lambda: canvas.layer("more", SPEC, (8, 8)),
    ):
        with disk_of(20), pytest.raises(OutputError, match=r"run\S*: cannot be written: File too large"):
            write()
    assert canvas.done("infer") == {0}
    canvas.close()
    again = DiskCanvas(tmp_path / "run")
    assert again.done("infer") == {0}
    assert again.layer("image", SPEC, (8, 8)).read(Region(0, 0, 8, 8)).all()
    assert again.fetch("infer", 1) is None
    again.close()


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"file/run: cannot be written: Not a directory"):
        DiskCanvas(tmp_path / "file" / "run")
    with pytest.raises(OutputError, match=r"file/run: cannot be made: Not a directory"), claimed(tmp_path / "file" / "run"):
        pass


# ------------------------------------------------------------------------------------------------------------- the rest


def test_the_partial_folder_lies_beside_the_output() -> None:
    assert partial_folder(Path("results/a.ome.tif")) == Path("results/a.ome.tif.i2i-partial")


def test_a_layer_of_a_finer_grid_has_smaller_pixels_and_one_plane() -> None:
    spec = ImageSpec(10, 20, 3, "uint8", (0.5, 0.25), ("r", "g", "b"), (("z", 5),), ((10, 20), (5, 10)), ("a note",))
    assert layer_spec(spec, 1, "float32", 2, ("mask",)) == ImageSpec(20, 40, 1, "float32", (0.25, 0.125), ("mask",))
