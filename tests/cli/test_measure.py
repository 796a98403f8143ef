"""``--measure``: further columns of the table, of every channel of the file."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import tifffile
from skimage.measure import regionprops

from i2i.models import save_model
from tests.cli.conftest import tiny_network
from tests.cli.kit import done, files, load, picture, refused, save

SHAPE = {
    "perimeter": "perimeter", "major_axis": "axis_major_length", "minor_axis": "axis_minor_length",
    "eccentricity": "eccentricity", "solidity": "solidity", "equivalent_diameter": "equivalent_diameter_area",
}  # fmt: skip


def _rows(path):
    with Path(path).open(newline="") as stream:
        return list(csv.DictReader(stream))


def _two_channels(number=0):
    return np.stack([picture(seed=number), 3 * picture(seed=number + 9).astype(np.uint16)]).astype(np.uint16)


def _assert_measures(rows, labels, channels):
    regions = regionprops(labels)
    assert [int(row["id"]) for row in rows] == [one.label for one in regions] and len(rows) > 5
    for row, one in zip(rows, regions, strict=True):
        shape = {name: getattr(one, skimage) for name, skimage in SHAPE.items()}
        assert {name: float(row[name]) for name in shape} == pytest.approx(shape, rel=1e-5, abs=2e-6)
        for name, pixels in channels.items():
            inside = pixels[labels == one.label].astype(float)
            told = {"mean": inside.mean(), "min": inside.min(), "max": inside.max(), "std": inside.std(), "sum": inside.sum()}
            assert {what: float(row[f"{what}_{name}"]) for what in told} == pytest.approx(told, abs=1e-5)


def test_all_channels_of_the_file_are_measured_also_those_that_the_network_does_not_see(segment, folder):
    pixels = _two_channels()
    save("a.tif", pixels, metadata={"axes": "CYX", "Channel": {"Name": ["DAPI", "GFP"]}}, ome=True)
    done(segment("a.tif", "--channels", "DAPI", "-o", "x.tif", "--csv", "x.csv", "--measure", "shape,intensity"))
    _assert_measures(_rows("x.csv"), load("x.tif"), {"DAPI": pixels[0], "GFP": pixels[1]})
    done(segment("a.tif", "--channels", "0", "-o", "y.tif", "--csv", "y.csv", "--measure", "intensity"))
    assert list(_rows("y.csv")[0])[8:] == [
        f"{what}_{name}" for name in ("DAPI", "GFP") for what in ("mean", "min", "max", "std", "sum")
    ]
    done(segment("a.tif", "--channels", "0", "-o", "z.tif", "--csv", "z.csv"))
    assert list(_rows("z.csv")[0])[-1] == "right", "none of them unless asked for"


def test_each_plane_of_a_stack_is_measured_in_its_own_pixels(segment, folder):
    planes = np.stack([_two_channels(number) for number in range(2)])
    save("z.tif", planes, metadata={"axes": "ZCYX"}, ome=True)
    done(segment("z.tif", "--channels", "0", "-o", "x.tif", "--csv", "x.csv", "--measure", "intensity,shape"))
    rows, labels = _rows("x.csv"), load("x.tif")
    for z in range(2):
        here = [row for row in rows if row["z"] == str(z)]
        names = ["0", "1"] if "mean_0" in rows[0] else ["Channel:0:0", "Channel:0:1"]
        _assert_measures(here, labels[z], dict(zip(names, planes[z], strict=True)))


def test_a_level_is_measured_in_lengths_of_the_full_resolution(segment, folder):
    with tifffile.TiffWriter("a.tif") as file:
        file.write(picture(192, 256), subifds=1)
        file.write(picture(96, 128), subfiletype=1)
    done(segment("a.tif", "--level", "1", "-o", "x.tif", "--csv", "x.csv", "--measure", "shape,intensity"))
    rows, regions, pixels = _rows("x.csv"), regionprops(load("x.tif")), picture(96, 128)
    for row, one in zip(rows, regions, strict=True):
        assert float(row["perimeter"]) == pytest.approx(2 * one.perimeter, abs=1e-5)
        assert float(row["mean_0"]) == pytest.approx(pixels[load("x.tif") == one.label].mean(), abs=1e-5)


def test_what_cannot_be_measured_is_refused(segment, i2i, folder):
    save("a.png")
    refused(segment("a.png", "--csv", "x.csv", "--measure", "colour"), 2, "--measure colour", "shape, intensity")
    refused(segment("a.png", "--measure", "shape"), 2, "--measure shape: is for the table", "--csv")
    assert files(folder) == ["a.png"]


def test_nan_in_a_channel_that_is_measured_alone_is_refused_or_read_as_zero(segment, folder):
    """As in those that the network sees."""
    pixels = _two_channels().astype(np.float32)
    pixels[1, 5, 7] = np.nan
    save("a.tif", pixels, metadata={"axes": "CYX", "Channel": {"Name": ["DAPI", "GFP"]}}, ome=True)
    words = ["a.tif", "--channels", "DAPI", "-o", "x.tif", "--csv", "x.csv", "--measure", "intensity"]
    refused(segment(*words), 1, "a.tif", "NaN")
    assert not (folder / "x.tif").exists()
    done(segment(*words, "--nan", "zero"))
    _assert_intensities = {"DAPI": pixels[0], "GFP": np.nan_to_num(pixels[1])}
    for row in _rows("x.csv"):
        for name, values in _assert_intensities.items():
            assert float(row[f"sum_{name}"]) == pytest.approx(values[load("x.tif") == int(row["id"])].sum(dtype=float), rel=1e-6)


def test_a_model_that_takes_its_channel_by_name_leaves_all_to_be_measured(i2i, folder):
    made, weights = tiny_network(channel_names=["GFP"])
    save_model(folder / "m.safetensors", weights, made)
    save("a.tif", _two_channels(), metadata={"axes": "CYX", "Channel": {"Name": ["DAPI", "GFP"]}}, ome=True)
    words = ("segment", "a.tif", "--model", "m.safetensors", "--precision", "fp32", "--csv", "x.csv", "--measure", "intensity")
    done(i2i(*words, "-o", "x.tif"))
    assert {"mean_DAPI", "mean_GFP"} <= _rows("x.csv")[0].keys()
