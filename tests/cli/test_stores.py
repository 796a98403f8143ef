"""Zarr stores on the command line: folders that are images."""

from __future__ import annotations

import os

import numpy as np
import pytest
import zarr

from i2i.contracts import Output
from i2i.manifest import fingerprint
from i2i.options import RunOptions
from tests import toys
from tests.cli import kit


@pytest.fixture
def store(folder):
    """A plain Zarr array, whose folder's name says nothing."""
    array = zarr.create_array(folder / "scan", shape=(96, 128), chunks=(64, 64), dtype="uint8")
    array[:] = kit.picture()
    return folder / "scan"


def test_a_store_is_known_by_its_content(segment, store, folder):
    assert segment("scan", "-o", "a.tif").code == 0
    kit.save("picture.tif")
    assert segment("picture.tif", "-o", "b.tif").code == 0
    assert np.array_equal(kit.load("a.tif"), kit.load("b.tif"))


def test_a_store_goes_in_and_comes_out(segment, store, folder):
    assert segment("scan", "-o", "out.ome.zarr").code == 0
    assert segment("scan", "-o", "named.ome.zarr", "--format", "ome.zarr").code == 0
    first, second = (zarr.open_group(name, mode="r")["0"][:] for name in ("out.ome.zarr", "named.ome.zarr"))
    assert first.shape[-2:] == (96, 128) and first.max() > 3 and np.array_equal(first, second)
    assert segment("scan", "-o", "other.zarr", "--format", "png").code == 2


def test_stores_in_a_folder_are_inputs(segment, folder):
    for name in ("a.zarr", "sub/b.ome.zarr"):
        zarr.create_array(folder / "in" / name, shape=(96, 128), chunks=(64, 64), dtype="uint8")[:] = kit.picture()
    assert segment("in", "-o", "out").code == 0
    assert sorted(os.listdir("out")) == ["a.zarr", "sub"] and len(os.listdir("out/sub")) == 1


def test_a_changed_chunk_makes_another_input(store):
    def identity() -> str:
        return fingerprint("t", toys.NoOptions(), RunOptions(), store, (), Output("classes", 1, "uint8", "classes"))

    before = identity()
    assert identity() == before
    chunk = next(path for path in store.rglob("*") if path.is_file() and path.name != "zarr.json")
    status = chunk.stat()
    os.utime(chunk, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert identity() != before


# ---------------------------------------------------------------------------------------------------------------- plates


@pytest.fixture
def plate(folder):
    """Two wells of two fields each, as OME-Zarr 0.5 has them."""
    root = zarr.create_group(folder / "plate.zarr", zarr_format=3)
    wells = [{"path": path, "rowIndex": 0, "columnIndex": i} for i, path in enumerate(("A/1", "A/2"))]
    names = {"rows": [{"name": "A"}], "columns": [{"name": "1"}, {"name": "2"}]}
    root.update_attributes({"ome": {"version": "0.5", "plate": {"wells": wells, **names}}})
    axes = [{"name": axis, "type": "space"} for axis in "yx"]
    scale = [{"type": "scale", "scale": [1.0, 1.0]}]
    image = {"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": scale}]}
    for path in ("A/1", "A/2"):
        well = root.create_group(path)
        well.update_attributes({"ome": {"version": "0.5", "well": {"images": [{"path": "0"}, {"path": "1"}]}}})
        for field in "01":
            one = well.create_group(field)
            one.create_array("0", shape=(48, 64), dtype="uint8")[:] = kit.picture(48, 64)
            one.update_attributes({"ome": {"version": "0.5", "multiscales": [image]}})
    return folder / "plate.zarr"


def test_no_result_lands_in_a_plate_by_default(segment, plate, folder, monkeypatch):
    before = kit.files(plate)
    kit.done(segment("plate.zarr/A/1/0"))
    kit.done(segment(plate / "A/2/0"))
    monkeypatch.chdir(plate / "A")
    kit.done(segment("1/1"))
    assert kit.files(plate) == before
    assert sorted(path.name for path in folder.glob("*.tif")) == [f"plate-A-{well}-segment.tif" for well in ("1-0", "1-1", "2-0")]


def test_fields_of_one_name_do_not_collide(segment, plate):
    kit.done(segment("plate.zarr/A/1/0", "plate.zarr/A/2/0", "-o", "out"))
    assert sorted(os.listdir("out")) == ["plate-A-1-0.tif", "plate-A-2-0.tif"]
    kit.done(segment("plate.zarr/A/1/0", "-o", "one/"))
    assert os.listdir("one") == ["plate-A-1-0.tif"]


def test_a_glob_takes_the_fields_of_a_plate(segment, plate, folder):
    kit.done(segment("plate.zarr/*/*/[01]", "--csv", "tables"))
    fields = [f"plate-A-{well}-{field}" for well in "12" for field in "01"]
    assert sorted(os.listdir("plate-segment")) == [f"{name}.tif" for name in fields]
    assert sorted(os.listdir("tables")) == [f"{name}.csv" for name in fields]
    kit.done(segment("*.zarr/A/*/0", "-o", "out"))
    assert sorted(os.listdir("out")) == ["plate-A-1-0.tif", "plate-A-2-0.tif"]


def test_a_glob_does_not_take_what_is_inside_of_what_it_takes(segment, folder):
    array = zarr.create_group(folder / "in/a.zarr").create_array("0", shape=(48, 64), dtype="uint8")
    array[:] = kit.picture(48, 64)
    kit.save("in/b.png", kit.picture(48, 64))
    shown = segment("in/**", "--dry-run", "-o", "out")
    assert [line for line in shown.out.splitlines() if "->" in line][-1].startswith(
        "in/b.png -> "
    ) and "a.zarr/0" not in shown.out


def test_a_plate_and_a_well_say_how_all_fields_are_given(segment, plate):
    kit.refused(segment("plate.zarr"), 1, "plate.zarr: a plate of many images", "one: A/1/0 in it", "'plate.zarr/*/*/*'")
    kit.refused(segment("plate.zarr/A/2"), 1, "one: 0 in it", "'plate.zarr/A/2/*'")
