"""``--min-area``, ``--max-area`` and ``--clear-border``: which objects of the labels stay, whole whatever the windows."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import i2i as package
from i2i import filters
from i2i.contracts import ObjectFilter
from i2i.formats.views import ArraySource
from tests.cli.kit import done, files, load, on_disk, picture, refused, save
from tests.cli.test_plane_exports import _json


def _expected(labels: np.ndarray, least: int = 0, most: int = 2**31, clear: bool = False) -> np.ndarray:
    """The definition."""
    result, number = np.zeros_like(labels), 0
    edge = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    for one in np.unique(labels[labels > 0]):
        if least <= (labels == one).sum() <= most and not (clear and one in edge):
            number += 1
            result[labels == one] = number
    return result


CASES = {
    "least": (["--min-area", "120"], {"least": 120}),
    "most": (["--max-area", "150"], {"most": 150}),
    "border": (["--clear-border"], {"clear": True}),
    "all": (["--min-area", "60", "--max-area", "400", "--clear-border"], {"least": 60, "most": 400, "clear": True}),
    "none is left": (["--min-area", "100000"], {"least": 100_000}),
}


@pytest.fixture
def image(folder):
    return save("a.png", picture(200, 260))


@pytest.mark.parametrize("case", CASES)
def test_objects_that_are_wanted_stay_and_are_numbered_again(segment, image, case):
    words, wanted = CASES[case]
    done(segment("a.png", "-o", "all.tif"))
    run = done(segment("a.png", "-o", "x.tif", *words, "--csv", "x.csv", "--geojson", "x.geojson", "--json")).run
    every, kept = load("all.tif"), load("x.tif")
    expected = _expected(every, **wanted)
    assert np.array_equal(kept, expected) and expected.max() < every.max() and (expected.max() > 3 or case == "none is left")
    with Path("x.csv").open() as stream:
        areas = {int(row["id"]): int(row["area"]) for row in csv.DictReader(stream)}
    assert areas == {number: int((kept == number).sum()) for number in range(1, kept.max() + 1)}
    assert run["objects"] == len(areas) == len(_json("x.geojson")["features"])


def test_the_same_in_windows_as_in_the_whole(segment, image, monkeypatch):
    """Objects across tiles count whole, not by their parts; and so do those across the pieces that are read at a time."""
    words = CASES["all"][0]
    done(segment("a.png", "-o", "whole.tif", *words))
    monkeypatch.setattr(filters, "_SIDE", 50)
    on_disk(monkeypatch, cores=1)
    done(segment("a.png", "-o", "x.tif", "--tile", "64", *words))
    assert np.array_equal(load("x.tif"), load("whole.tif")) and load("x.tif").max() > 3


def test_each_plane_has_its_own(segment, folder):
    planes = [picture(200, 260, seed=seed) for seed in range(3)]
    save("z.tif", np.stack(planes), metadata={"axes": "ZYX"}, ome=True)
    words, wanted = CASES["all"]
    run = done(segment("z.tif", "-o", "x.tif", *words, "--json")).run
    done(segment("z.tif", "-o", "all.tif"))
    expected = [_expected(plane, **wanted) for plane in load("all.tif")]
    assert np.array_equal(load("x.tif"), expected)
    assert list(run["objects_by_plane"].values()) == [one.max() for one in expected] and run["objects"] == sum(
        map(np.max, expected)
    )


def test_areas_are_pixels_of_the_result_where_the_network_sees_others(i2i, models, folder):
    from i2i.models import open_model, save_model

    grey = open_model(models / "grey.safetensors")
    save_model(folder / "sized.safetensors", grey.tensors(), {**grey.config, "pixel_size": 2.0})
    save("a.png", picture(200, 260))
    words = ["segment", "a.png", "--model", "sized.safetensors", "--precision", "fp32", "--pixel-size", "1"]
    done(i2i(*words, "-o", "all.tif"))
    done(i2i(*words, "-o", "x.tif", "--min-area", "100", "--clear-border"))
    assert np.array_equal(load("x.tif"), _expected(load("all.tif"), least=100, clear=True)) and load("x.tif").max() > 3


def test_what_no_object_can_be_or_is_no_object_is_refused(segment, image, folder):
    refused(segment("a.png", "--min-area", "9", "--max-area", "8"), 2, "--min-area 9: is above --max-area 8")
    refused(segment("a.png", "--as", "classes", "--clear-border"), 2, "--clear-border takes labels, not classes", "--as")
    refused(segment("a.png", "--float", "--max-area", "8"), 2, "--max-area takes labels, not probabilities")
    refused(segment("a.png", "--min-area", "-1"), 2, "--min-area")
    assert files(folder) == ["a.png"]


def test_a_resumed_run_leaves_out_the_same(segment, image, monkeypatch, folder):
    on_disk(monkeypatch)
    words = ["a.png", *CASES["all"][0]]
    done(segment(*words, "-o", "whole.tif"))
    with monkeypatch.context() as patched:
        patched.setattr("i2i.session.narrow_labels", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert segment(*words, "-o", "x.tif").code == 130
    refused(segment("a.png", "-o", "x.tif", "--resume"), 1, "another input, model, option")
    done(segment(*words, "-o", "x.tif", "--resume"))
    assert (folder / "x.tif").read_bytes() == (folder / "whole.tif").read_bytes()


def test_arrays_too(model, image):
    labels = package.load("segment", model=model, precision="fp32")(picture(200, 260))
    kept = package.load("segment", model=model, precision="fp32", min_area=100, clear_border=True)(picture(200, 260))
    assert np.array_equal(kept, _expected(labels, least=100, clear=True)) and kept.max() > 1


def test_labels_that_a_grid_has_lost_are_no_objects():
    """Resampled, an object may have no pixel; ids that are left stay consecutive."""
    labels = np.array([[3, 0, 7], [0, 3, 0]], np.uint32)
    source, counts = filters.filtered(ArraySource(labels), [9], ObjectFilter(max_area=50))
    assert counts == [2] and source.read(source.spec.region)[..., 0].tolist() == [[1, 0, 2], [0, 1, 0]]
    assert replace(ObjectFilter(), clear_border=True).asked == ("clear_border",) and not ObjectFilter().asked
