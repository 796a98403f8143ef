"""``--geojson``: what the command writes are the outlines of the labels that it writes."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tifffile

from tests.cli.kit import done, files, load, picture, refused, save
from tests.core.test_geojson import drawn, features_of, polygons


def test_the_polygons_are_those_of_the_labels(segment, folder):
    save("a.png")
    count = done(segment("a.png", "--geojson", "a.geojson", "--json")).run["objects"]
    labels, features = load("a-segment.png"), features_of(folder / "a.geojson")
    assert [feature["properties"]["label"] for feature in features] == list(range(1, count + 1)) and count > 3
    for feature in features:
        rings = [ring for polygon in polygons(feature) for ring in polygon]
        assert np.array_equal(drawn(rings, labels.shape), labels == feature["properties"]["label"])


@pytest.mark.parametrize(("level", "size"), [(0, (192, 256)), (1, (192, 256)), (1, (193, 257))])
def test_the_measurements_are_those_of_the_table(segment, folder, level, size):
    """In pixels of the full resolution; the last level is not a whole number of times smaller."""
    options = {"resolution": (40_000, 40_000), "resolutionunit": "CENTIMETER"}
    with tifffile.TiffWriter("a.tif") as file:
        file.write(picture(*size), subifds=1, **options)
        file.write(picture(96, 128), subfiletype=1)
    done(segment("a.tif", "--level", level, "-o", "x.tif", "--geojson", "a.json", "--csv", "a.csv"))
    tall, wide = (size[0] / 96, size[1] / 128) if level else (1, 1)
    head, *rows = (line.split(",") for line in (folder / "a.csv").read_text().splitlines())
    found = [feature["properties"]["measurements"] for feature in features_of(folder / "a.json")]
    labels, count = load("x.tif"), 0
    for row, measurements in zip(rows, found, strict=True):
        table = dict(zip(head, map(float, row), strict=True))
        ys, xs = np.nonzero(labels == int(row[0]))
        in_pixels = {"area": len(ys) * tall * wide, "y": (ys.mean() + 0.5) * tall - 0.5, "x": (xs.mean() + 0.5) * wide - 0.5}
        in_pixels |= {"top": ys.min() * tall, "right": (xs.max() + 1) * wide}
        assert {name: table[name] for name in in_pixels} == pytest.approx(in_pixels, abs=0.0051)
        in_um = {"area_um2": in_pixels["area"] / 16, "y_um": (in_pixels["y"] + 0.5) / 4, "top_um": in_pixels["top"] / 4}
        assert {name: table[name] for name in in_um} == pytest.approx(in_um, abs=0.0001)
        same = {"Area px^2": "area", "Area \u00b5m^2": "area_um2", "Centroid Y \u00b5m": "y_um", "Centroid X \u00b5m": "x_um"}
        assert {name: table[column] for name, column in same.items()} == {name: measurements[name] for name in same}
        assert measurements["Centroid X px"] == pytest.approx(table["x"] + 0.5, abs=0.011)
        count += 1
    assert count > 3 and all("." in row[1] for row in rows) == (size == (193, 257)), "whole where they can be"


def test_several_images_have_their_outlines_in_a_folder(segment, folder):
    save("set/a.png"), save("set/sub/b.tif")
    done(segment("set", "-o", "out", "--geojson", "outlines"))
    assert files(folder / "outlines") == ["a.geojson", "sub/b.geojson"]


def test_an_image_without_objects_has_an_empty_collection(segment, folder):
    save("a.tif", np.zeros((64, 64), np.uint8))
    if done(segment("a.tif", "--geojson", "a.geojson", "--json")).run["objects"] == 0:
        assert json.loads((folder / "a.geojson").read_text()) == {"type": "FeatureCollection", "features": []}


def test_what_it_cannot_be_is_refused_before_anything_is_written(segment, folder):
    save("a.png")
    refused(segment("a.png", "--as", "classes", "--geojson", "a.geojson"), 2, "--geojson takes labels", "--as")
    refused(segment("a.png", "--geojson", "a.xml"), 2, "a.xml", ".geojson")
    assert files(folder) == ["a.png"]
