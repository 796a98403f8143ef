"""``--geojson``: what the command writes are the outlines of the labels that it writes."""

from __future__ import annotations

import json

import numpy as np

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


def test_the_measurements_are_those_of_the_table(segment, folder):
    save("a.tif", picture(), resolution=(40_000, 40_000), resolutionunit="CENTIMETER")
    done(segment("a.tif", "--geojson", "a.json", "--csv", "a.csv"))
    head, *rows = (line.split(",") for line in (folder / "a.csv").read_text().splitlines())
    found = [feature["properties"]["measurements"] for feature in features_of(folder / "a.json")]
    for row, measurements in zip(rows, found, strict=True):
        expected = dict(zip(head, map(float, row), strict=True))
        assert measurements["Area px^2"] == expected["area"] and measurements["Area \u00b5m^2"] == expected["area_um2"]
        assert abs(measurements["Centroid X px"] - expected["x"] - 0.5) < 0.011
        assert abs(measurements["Centroid Y \u00b5m"] - expected["y_um"] - 0.125) < 0.001


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
