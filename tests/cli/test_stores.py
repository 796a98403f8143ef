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
