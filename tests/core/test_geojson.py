"""Polygons drawn again give the objects, whatever the blocks, and what QuPath reads is as it reads it."""

from __future__ import annotations

import json
import uuid
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from i2i.contracts import Array, Exported
from i2i.exporters import geojson, outlines
from i2i.exporters.geojson import GEOJSON, write_geojson
from i2i.exporters.known import Known
from i2i.exporters.outlines import Outline, find_outlines
from i2i.formats.views import ArraySource
from i2i.geometry import Region
from tests.cli.kit import blobs
from tests.core import scenes

deterministic = settings(derandomize=True, deadline=None, max_examples=80)


class Watched(ArraySource):
    """An array as a source that remembers the regions that were read."""

    def __init__(self, array: Array, **fields: object) -> None:
        super().__init__(array, **fields)
        self.regions: list[Region] = []

    def read(self, region: Region, plane: int = 0, level: int = 0) -> Array:
        assert self.spec.region.contains(region)
        self.regions.append(region)
        return super().read(region, plane, level)


def drawn(rings: Any, shape: tuple[int, ...]) -> np.ndarray:
    """The pixels inside closed rings of x, y by the even-odd rule: those with an odd number of vertical edges to their left."""
    crossings = np.zeros((shape[0], shape[1] + 1), np.int64)
    for ring in rings:
        assert ring[0] == ring[-1], "closed"
        for (x, y), (other_x, other_y) in pairwise(ring):
            assert (x == other_x) != (y == other_y), "along edges of pixels, no point twice"
            if x == other_x:
                crossings[min(y, other_y) : max(y, other_y), x] += 1
    return np.cumsum(crossings, axis=1)[:, :-1] % 2 == 1


def area(ring: Any) -> int:
    """The shoelace formula, twice the area: positive for what is counter-clockwise with y up."""
    return sum(x * other_y - other_x * y for (x, y), (other_x, other_y) in pairwise(ring))


def closed(outline: Outline) -> list[list[list[list[int]]]]:
    return [[[*ring.tolist(), ring[0].tolist()] for ring in part] for part in outline.parts]


def corners_of(mask: np.ndarray) -> int:
    """How many corners the outlines of a mask have: a place where its pixels meet diagonally counts twice."""
    padded = np.pad(mask, 1).astype(int)
    quads = np.stack([padded[:-1, :-1], padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]])
    diagonal = (quads.sum(0) == 2) & (quads[0] == quads[3])
    return int((quads.sum(0) % 2).sum() + 2 * diagonal.sum())


def check(labels: np.ndarray, found: list[Outline]) -> None:
    """That these are the outlines of the objects, and valid polygons."""
    assert [outline.number for outline in found] == np.unique(labels[labels > 0]).tolist()
    for outline in found:
        mask, parts = labels == outline.number, closed(outline)
        assert sum(len(ring) - 1 for part in parts for ring in part) == corners_of(mask), "none that is not a corner"
        components, count = ndimage.label(mask)
        assert len(parts) == count
        for number, part in enumerate(parts, 1):
            assert np.array_equal(drawn(part, labels.shape), components == number), "in the order of their first pixels"
            assert [area(ring) > 0 for ring in part] == [True] + [False] * (len(part) - 1), "the outer ring, then holes"
            assert all(len(set(map(tuple, ring[1:]))) == len(ring) - 1 for ring in part), "no ring meets itself"
            assert all(ring[0] == min(ring, key=lambda point: (point[1], point[0])) for ring in part)
        assert outline.area == mask.sum()
        ys, xs = np.nonzero(mask)
        np.testing.assert_allclose(outline.centre, (ys.mean() + 0.5, xs.mean() + 0.5), rtol=1e-12)


def cut(labels: np.ndarray, side: int, corners: int, rows: int = 2, **fields: object) -> tuple[list[Outline], Watched]:
    source = Watched(labels, **fields)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outlines, "_SIDE", side)
        patch.setattr(outlines, "_CORNERS", corners)
        patch.setattr(outlines, "_ROWS", rows)
        return list(find_outlines(source)), source


def picture_of(*rows: str) -> np.ndarray:
    return np.array([[int(letter, 36) for letter in row.replace(" ", "0")] for row in rows], np.uint16)


NESTED = picture_of("1111111", "1     1", "1 111 1", "1 1 1 1", "1 111 1", "1     1", "1111111")
PINCHED = picture_of("1111", "1 11", "11 1", "1111", " 1 1", "1 1 ")
RING_OF_DIAGONALS = picture_of("  1  ", " 1 1 ", "1   1", " 1 1 ", "  1  ")
HOLES_BESIDE = picture_of("111111111 11", "1 1 1 1 1 11", "111111111   ", "1  11 1 1 1 ", "1 1 1111111 ", "111111  222 ")


@given(
    hnp.arrays(np.uint16, hnp.array_shapes(min_dims=2, max_dims=2, max_side=16), elements=st.integers(0, 2)),
    st.integers(1, 17), st.integers(1, 60), st.integers(1, 3),
)  # fmt: skip
@example(NESTED, 3, 5, 1)
@example(PINCHED, 2, 5, 1)
@example(RING_OF_DIAGONALS, 2, 1, 1)
@example(HOLES_BESIDE, 4, 9, 1)
@deterministic
def test_polygons_of_noise_give_the_objects_whatever_the_blocks(labels: np.ndarray, side: int, corners: int, rows: int) -> None:
    """Two ids, or one: many parts, holes in holes, and pixels that meet at their corners only."""
    check(labels, cut(labels, side, corners, rows)[0])


@given(st.integers(2, 30), st.integers(2, 30), st.floats(0.3, 0.8), st.floats(0, 3), st.integers(1, 41), st.integers(1, 400),
       st.integers(0, 999), st.booleans())  # fmt: skip
@deterministic
def test_polygons_of_blobs_give_the_objects_whatever_the_blocks(
    height: int, width: int, share: float, smooth: float, side: int, corners: int, seed: int, touching: bool
) -> None:
    """Components, or pieces of a mosaic without any background, with ids in any order."""
    random = np.random.default_rng(seed)
    field = ndimage.gaussian_filter(random.random((height, width)), smooth)
    labels = ndimage.label(field < np.quantile(field, share))[0].astype(np.uint32)
    if touching:
        labels = np.digitize(field, np.quantile(field, [0.2, 0.4, 0.6, 0.8])).astype(np.uint32) + 1
    labels = random.permutation(labels.max() + 1).astype(np.uint32)[labels]
    check(labels, cut(labels, side, corners)[0])


@pytest.mark.parametrize(("labels", "rings"), [(NESTED, [2, 2]), (PINCHED, [3, 1, 1]), (RING_OF_DIAGONALS, [1] * 8)])
def test_parts_and_holes(labels: np.ndarray, rings: list[int]) -> None:
    """Nested parts; two holes that touch, and parts that do; parts that touch all around."""
    (outline,) = find_outlines(ArraySource(labels))
    assert [len(part) for part in outline.parts] == rings


def test_a_hole_that_is_shut_by_a_corner_is_a_hole() -> None:
    """Both holes touch at a corner, and one of them the outside."""
    (outline,) = find_outlines(ArraySource(picture_of("111 ", "1 1 ", "11 1", " 111")))
    (part,) = closed(outline)
    assert part[0] == [[0, 0], [3, 0], [3, 2], [4, 2], [4, 4], [1, 4], [1, 3], [0, 3], [0, 0]]
    assert part[1:] == [[[1, 1], [1, 2], [2, 2], [2, 1], [1, 1]], [[2, 2], [2, 3], [3, 3], [3, 2], [2, 2]]]


@pytest.mark.parametrize("shape", [(1, 1), (1, 30), (30, 1), (2, 2)])
@pytest.mark.parametrize("side", [1, 7, 64])
def test_images_of_one_row_or_column(shape: tuple[int, int], side: int) -> None:
    labels = np.random.default_rng(1).integers(0, 3, shape).astype(np.uint16)
    check(labels, cut(labels, side, 5)[0])
    check(np.ones_like(labels), cut(np.ones_like(labels), side, 5)[0])


def test_an_object_larger_than_the_room_for_corners(monkeypatch) -> None:
    """It has corners in every block, and others lie before, in and after it."""
    labels = blobs(90, 120).astype(np.uint32)
    comb = (np.arange(120) % 8 < 3)[None, :] | (np.arange(90) == 40)[:, None]
    labels = np.where(comb, 50, np.where(labels > 0, labels * 10, 0)).astype(np.uint32)
    found, source = cut(labels, 16, 50)
    check(labels, found)
    assert max(region.area for region in source.regions) <= 17 * 17


def test_ids_may_be_far_apart() -> None:
    labels = np.zeros((9, 12), np.uint32)
    labels[0, 0], labels[0:9, 5], labels[8, 11], labels[3, 2:4] = 2**32 - 1, 40_000_000, 7, 3
    check(labels, cut(labels, 4, 6)[0])


def test_no_more_corners_are_held_than_there_is_room_for(monkeypatch) -> None:
    """Objects of four corners each, sixteen in a block: never more than the limit and a block's."""
    held: list[int] = []
    trace = outlines._trace
    monkeypatch.setattr(outlines, "_trace", lambda corners: held.append(len(corners)) or trace(corners))
    labels = np.zeros((64, 64), np.uint32)
    labels[::2, ::2] = np.arange(1, 1025).reshape(32, 32)
    found, source = cut(labels, 8, 300)
    assert len(found) == 1024 and sum(held) == 4096 and max(held) <= 300
    assert len(held) <= 2 * 4096 / 300 + 1, "and not much fewer"
    assert len(source.regions) < 8 * 64, "a range is not looked for where it is not"


def test_outlines_are_made_as_they_are_asked_for() -> None:
    labels = np.repeat(np.arange(1, 9, dtype=np.uint32), 10)[:, None]
    source = Watched(labels)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outlines, "_SIDE", 10)
        patch.setattr(outlines, "_CORNERS", 8)
        found = find_outlines(source)
        assert next(found).number == 1 and len(source.regions) == 8
        assert [outline.number for outline in found] == list(range(2, 9)) and len(source.regions) > 8


# ------------------------------------------------------------------------------------------------------------- the file


def features_of(path: Path) -> list[dict[str, Any]]:
    document = json.loads(path.read_text("ascii"))
    assert list(document) == ["type", "features"] and document["type"] == "FeatureCollection"
    return list(document["features"])


def polygons(feature: dict[str, Any]) -> list[Any]:
    """The polygons of a feature, each a list of rings."""
    kind, coordinates = feature["geometry"]["type"], feature["geometry"]["coordinates"]
    assert kind in ("Polygon", "MultiPolygon") and (kind == "Polygon" or len(coordinates) > 1)
    return [coordinates] if kind == "Polygon" else list(coordinates)


def written(folder: Path, labels: np.ndarray, **fields: object) -> list[dict[str, Any]]:
    source = ArraySource(labels, **fields)
    GEOJSON.export(folder / "a.geojson", Exported(source, source, "labels"))
    return features_of(folder / "a.geojson")


def test_a_file_holds_the_objects(tmp_path: Path) -> None:
    labels = blobs(200, 160)
    labels[5:9, 5:9], labels[6, 6], labels[190:195, 150:] = 500, 0, 500
    features = written(tmp_path, labels)
    assert [feature["properties"]["label"] for feature in features] == np.unique(labels[labels > 0]).tolist()
    for feature in features:
        rings = [ring for polygon in polygons(feature) for ring in polygon]
        assert np.array_equal(drawn(rings, labels.shape), labels == feature["properties"]["label"])
    last = features[-1]["geometry"]
    assert (last["type"], [len(polygon) for polygon in last["coordinates"]]) == ("MultiPolygon", [2, 1])


def test_the_first_pixel_covers_0_to_1_and_x_comes_first(tmp_path: Path) -> None:
    labels = np.zeros((3, 9), np.uint8)
    labels[1, 4:7] = 3
    (feature,) = written(tmp_path, labels)
    assert feature["geometry"] == {"type": "Polygon", "coordinates": [[[4, 1], [7, 1], [7, 2], [4, 2], [4, 1]]]}
    assert all(isinstance(value, int) for ring in feature["geometry"]["coordinates"] for point in ring for value in point)


@pytest.mark.parametrize("size", [None, (0.5, 0.25)])
def test_properties_are_those_that_qupath_reads(size: tuple[float, float] | None, tmp_path: Path) -> None:
    labels = np.zeros((6, 8), np.uint16)
    labels[1:3, 2:7] = 9
    (feature,) = written(tmp_path, labels, pixel_size=size)
    assert list(feature) == ["type", "id", "properties", "geometry"] and feature["type"] == "Feature"
    assert str(uuid.UUID(feature["id"])) == feature["id"], "others are not kept"
    properties = feature["properties"]
    assert (properties["objectType"], properties["name"], properties["label"]) == ("detection", "9", 9)
    assert len(properties["color"]) == 3 and all(0 <= value <= 255 for value in properties["color"])
    pixels = {"Area px^2": 10, "Centroid X px": 4.5, "Centroid Y px": 2.0}
    micrometres = {"Area µm^2": 1.25, "Centroid X µm": 1.125, "Centroid Y µm": 1.0}
    assert properties["measurements"] == (pixels | micrometres if size else pixels)
    assert "classification" not in properties


def test_a_class_and_a_score_are_written_where_they_are_known(tmp_path: Path) -> None:
    labels = np.zeros((4, 9), np.uint16)
    labels[:, 1], labels[:, 3], labels[:, 5], labels[:, 7] = 1, 2, 3, 4
    known = {1: Known("tumour", 0.75), 2: Known("straße"), 3: Known("tumour"), 4: Known(score=0.5)}
    write_geojson(tmp_path / "a.json", ArraySource(labels), known.__getitem__)
    properties = [feature["properties"] for feature in features_of(tmp_path / "a.json")]
    classes = [each.get("classification", {"name": None}) for each in properties]
    assert [each["name"] for each in classes] == ["tumour", "straße", "tumour", None]
    assert classes[0] == classes[2] and len(classes[0]["color"]) == 3, "QuPath takes a class with a colour only"
    assert classes[0]["color"] != classes[1]["color"]
    assert [each["measurements"].get("Score") for each in properties] == [0.75, None, None, 0.5]


def test_a_detectors_objects_have_class_and_score(tmp_path: Path) -> None:
    GEOJSON.export(tmp_path / "a.json", scenes.exported())
    found = scenes.instances()
    for feature in features_of(tmp_path / "a.json"):
        place = feature["properties"]["label"] - 1
        assert feature["properties"]["classification"]["name"] == scenes.NAMES[int(found.classes[place])]
        assert feature["properties"]["measurements"]["Score"] == round(float(found.scores[place]), 6)


@pytest.mark.parametrize("scale", [(1.0, 1.0), (3.0, 2.0)])
def test_shapely_finds_the_polygons_valid_and_of_the_right_area(scale: tuple[float, float], tmp_path: Path) -> None:
    """Of overlapping objects, of noise with parts, holes and pixels that meet at corners, and of parts in holes."""
    noise = np.random.default_rng(0).integers(0, 4, (40, 50)).astype(np.uint16)
    labels = np.zeros((160, 290), np.uint16)
    labels[:, :240], labels[:40, 240:], labels[60:67, 250:257] = (
        scenes.drawn(scenes.instances(), (160, 240)),
        noise + 100,
        NESTED * 200,
    )
    write_geojson(tmp_path / "a.json", ArraySource(labels), scale=scale)
    features = features_of(tmp_path / "a.json")
    assert len(features) == len(np.unique(labels)) - 1
    for feature in features:
        polygon, mask = shapely.geometry.shape(feature["geometry"]), labels == feature["properties"]["label"]
        assert polygon.is_valid, shapely.is_valid_reason(polygon)
        assert polygon.area == mask.sum() * scale[0] * scale[1]
        ys, xs = np.nonzero(mask)
        bounds = (xs.min() * scale[1], ys.min() * scale[0], (xs.max() + 1) * scale[1], (ys.max() + 1) * scale[0])
        assert polygon.bounds == bounds
        inside = shapely.contains_xy(
            polygon, *(np.mgrid[: labels.shape[1], : labels.shape[0]] + 0.5) * np.array(scale[::-1])[:, None, None]
        )
        assert np.array_equal(inside.T, mask), "drawn again it is the object, pixel by pixel"


@pytest.mark.parametrize(("scale", "right", "bottom"), [((3, 2), 14, 9), ((1.5, 2.333), 16.33, 4.5)])
def test_the_objects_of_a_smaller_image_are_drawn_on_the_larger_one(
    scale: tuple[float, float], right: float, bottom: float, tmp_path: Path
) -> None:
    labels = np.zeros((6, 8), np.uint16)
    labels[1:3, 2:7] = 9
    write_geojson(tmp_path / "a.json", ArraySource(labels, pixel_size=(0.5, 0.25)), scale=scale)
    (feature,) = features_of(tmp_path / "a.json")
    (ring,) = feature["geometry"]["coordinates"]
    assert ring[2] == [right, bottom] and {type(value) for value in ring[2]} == {type(right)}
    measurements = feature["properties"]["measurements"]
    assert measurements["Area px^2"] == round(10 * scale[0] * scale[1], 2) and measurements["Area µm^2"] == 1.25
    assert measurements["Centroid Y px"] == 2 * scale[0] and measurements["Centroid Y µm"] == 1.0


def test_a_feature_is_a_line_and_the_same_each_time(tmp_path: Path, monkeypatch) -> None:
    labels = blobs(150, 150).astype(np.uint32)
    features = written(tmp_path, labels)
    text = (tmp_path / "a.geojson").read_bytes()
    assert [json.loads(line.rstrip(b",")) for line in text.splitlines()[1:-1]] == features
    assert len({feature["id"] for feature in features}) == len(features)
    monkeypatch.setattr(geojson, "_POINTS", 3)
    monkeypatch.setattr(outlines, "_SIDE", 40)
    monkeypatch.setattr(outlines, "_CORNERS", 100)
    written(tmp_path, labels)
    assert (tmp_path / "a.geojson").read_bytes() == text, "and does not depend on the pieces"


def test_objects_of_other_images_have_other_identifiers(tmp_path: Path) -> None:
    labels = blobs(90, 90)
    here, there = ({feature["id"] for feature in written(tmp_path, np.roll(labels, shift, 1))} for shift in (0, 3))
    assert here and not here & there


def test_colours_of_neighbouring_ids_differ(tmp_path: Path) -> None:
    labels = np.repeat(np.arange(1, 301, dtype=np.uint16), 2)[None]
    colours = [tuple(feature["properties"]["color"]) for feature in written(tmp_path, labels)]
    assert all(sum(abs(a - b) for a, b in zip(*pair, strict=True)) > 60 for pair in pairwise(colours))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "int32"])
def test_an_image_without_objects_has_no_features(dtype: str, tmp_path: Path) -> None:
    assert written(tmp_path, np.zeros((5, 6), dtype)) == []
