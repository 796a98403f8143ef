"""Tables, outlines and pictures of stacks: of every plane what it has as an image of its own, and where it lies."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from faster_coco_eval.core import mask as masks

from i2i.formats import open_image
from tests.cli.kit import done, files, load, on_disk, picture, save
from tests.cli.test_instances import FEW, model_file

TIMES, DEPTHS = 2, 3
PLACES = [(t, z) for t in range(TIMES) for z in range(DEPTHS)]
_OWN = ("id", "image_id", "label")
EXPORTS = {"csv": "x.csv", "geojson": "x.geojson", "coco": "x.json", "overlay": "x-look.tif", "crops": "x-crops"}


def _plane(number):
    return (picture(seed=number) // (1 + number)).astype(np.uint8)


@pytest.fixture
def stack(folder):
    """``tz.tif``: t = 2 by z = 3; and each plane as an image, ``0.png`` to ``5.png``."""
    planes = [_plane(number) for number in range(TIMES * DEPTHS)]
    for number, pixels in enumerate(planes):
        save(f"planes/{number}.png", pixels)
    return save("tz.tif", np.stack(planes).reshape(TIMES, DEPTHS, 96, 128), metadata={"axes": "TZYX"}, ome=True)


def _words(**changes):
    return [word for name, path in (EXPORTS | changes).items() for word in (f"--{name}", path)]


def _rows(path):
    with Path(path).open(newline="") as stream:
        return list(csv.DictReader(stream))


def _json(path):
    return json.loads(Path(path).read_text())


def _one_by_one(command):
    """Each plane run as an image of its own: rows, features, annotations, picture."""
    for number in range(TIMES * DEPTHS):
        own = {"csv": "1.csv", "geojson": "1.geojson", "coco": "1.json", "overlay": "1.png", "crops": f"one/{number}"}
        done(command(f"planes/{number}.png", "-o", "one.tif", "--overwrite", *_words(**own)))
        features, found = _json("1.geojson")["features"], _json("1.json")
        yield _rows("1.csv"), features, found["annotations"], load("1.png")


def _without(mapping, *names):
    return {name: value for name, value in mapping.items() if name not in names}


@pytest.fixture(params=["segment", "instances"])
def command(request, i2i, segment):
    if request.param == "segment":
        return segment
    tiny = model_file(Path("tiny.safetensors"))
    return lambda *words: i2i("instances", "--model", tiny, *words, *FEW)


@pytest.mark.parametrize("canvas_place", ["memory", "disk"])
def test_each_plane_has_the_objects_that_it_has_alone_and_says_where_it_lies(command, stack, folder, monkeypatch, canvas_place):
    if canvas_place == "disk":
        on_disk(monkeypatch)
    run = done(command("tz.tif", "-o", "x.tif", "--json", *_words())).run
    rows, features, coco, pages = _rows("x.csv"), _json("x.geojson")["features"], _json("x.json"), load("x-look.tif")
    assert list(rows[0])[:3] == ["t", "z", "id"] and pages.shape[:2] == (TIMES, DEPTHS)
    assert len({one["id"] for one in features}) == len(features), "QuPath's ids are unique"
    assert [one["id"] for one in coco["annotations"]] == sorted({one["id"] for one in coco["annotations"]})
    assert [image["file_name"] for image in coco["images"]] == [f"tz-t{t}-z{z}.tif" for t, z in PLACES]
    count = 0
    for number, ((t, z), alone) in enumerate(zip(PLACES, _one_by_one(command), strict=True)):
        here = [row for row in rows if (row["t"], row["z"]) == (str(t), str(z))]
        assert [_without(row, "t", "z") for row in here] == alone[0] and here == rows[count : count + len(here)]
        drawn = [one for one in features if one["geometry"].get("plane") == {"c": -1, "z": z, "t": t}]
        assert [one["geometry"]["coordinates"] for one in drawn] == [one["geometry"]["coordinates"] for one in alone[1]]
        assert [one["properties"] for one in drawn] == [one["properties"] | {"plane": {"t": t, "z": z}} for one in alone[1]]
        annotated = [one for one in coco["annotations"] if one["image_id"] == number + 1]
        assert [_without(one, *_OWN) for one in annotated] == [_without(one, *_OWN) for one in alone[2]]
        assert [one["label"] for one in annotated] == [one["id"] for one in alone[2]]
        assert np.array_equal(pages[t, z], alone[3])
        for kind in ("images", "masks"):
            cut = Path(f"x-crops/{kind}/t{t}-z{z}")
            assert files(cut) == files(Path(f"one/{number}/{kind}"))
            assert all(np.array_equal(load(cut / name), load(Path(f"one/{number}/{kind}/{name}"))) for name in files(cut))
        assert run["objects_by_plane"][f"t={t},z={z}"] == len(here)
        count += len(here)
    assert count == run["objects"] == len(rows) == len(features) == len(coco["annotations"]) > 20
    if "score" in rows[0]:
        assert {row["class"] for row in rows} == {one["name"] for one in coco["categories"]}


def test_a_mask_of_coco_is_that_of_the_plane(segment, stack):
    done(segment("tz.tif", "-o", "x.tif", "--coco", "x.json"))
    labels = load("x.tif").reshape(-1, 96, 128)
    for one in _json("x.json")["annotations"]:
        mask = masks.decode(one["segmentation"]).astype(bool)
        assert np.array_equal(mask, labels[one["image_id"] - 1] == one["label"])


def test_chosen_planes_keep_their_numbers_in_the_file(segment, stack):
    done(segment("tz.tif", "--plane", "t=1,z=1-2", "-o", "x.tif", *_words()))
    assert {row["z"] for row in _rows("x.csv")} == {"1", "2"} and "t" not in _rows("x.csv")[0]
    places = {tuple(one["geometry"]["plane"].values()) for one in _json("x.geojson")["features"]}
    assert places == {(-1, 1, 1), (-1, 2, 1)}, "c, z, t as QuPath has them"
    assert [image["plane"] for image in _json("x.json")["images"]] == [{"t": 1, "z": 1}, {"t": 1, "z": 2}]


def test_one_plane_of_a_stack_has_the_columns_of_an_image_and_lies_in_its_plane(segment, stack):
    run = done(segment("tz.tif", "--plane", "t=1,z=2", "-o", "x.tif", "--json", *_words())).run
    done(segment("planes/5.png", "-o", "one.tif", "--csv", "one.csv", "--geojson", "one.geojson"))
    assert _rows("x.csv") == _rows("one.csv") and run["objects_by_plane"] == {}
    assert {json.dumps(one["geometry"]["plane"]) for one in _json("x.geojson")["features"]} == {'{"c": -1, "z": 2, "t": 1}'}
    assert not any("plane" in one["geometry"] for one in _json("one.geojson")["features"])
    assert [image["file_name"] for image in _json("x.json")["images"]] == ["tz.tif"]


def test_pages_without_a_name_are_qupaths_time_points(segment, folder):
    save("pages.tif", np.stack([_plane(0), _plane(1)]), photometric="minisblack", metadata=None)
    source = open_image(folder / "pages.tif")
    assert source.spec.planes == (("page", 2),)
    source.close()
    done(segment("pages.tif", "-o", "x.tif", "--geojson", "x.geojson", "--csv", "x.csv"))
    assert {one["geometry"]["plane"]["t"] for one in _json("x.geojson")["features"]} == {0, 1}
    assert list(_rows("x.csv")[0])[:2] == ["page", "id"]


def test_a_picture_of_one_page_shows_all_planes_side_by_side(segment, stack):
    done(segment("tz.tif", "-o", "x.tif", "--overlay", "x.png"))
    done(segment("tz.tif", "-o", "y.tif", "--overlay", "y.tif.tif"))
    sheet, pages = load("x.png"), load("y.tif.tif").reshape(-1, 96, 128, 3)
    assert sheet.shape == (2 * 96 + 2, 3 * 128 + 4, 3)
    for number, page in enumerate(pages):
        y, x = number // 3 * 98, number % 3 * 130
        assert np.array_equal(sheet[y : y + 96, x : x + 128], page)
    with tifffile.TiffFile("y.tif.tif") as file:
        assert file.series[0].axes == "TZYXS"


def test_a_sheet_of_many_planes_stays_small(segment, monkeypatch):
    monkeypatch.setattr("i2i.exporters.overlay.LONGEST", 100)
    save("z.tif", np.stack([_plane(0)] * 3), metadata={"axes": "ZYX"}, ome=True)
    done(segment("z.tif", "-o", "x.tif", "--overlay", "x.png"))
    assert load("x.png").shape == (2 * 32 + 2, 2 * 43 + 2, 3)


def test_stacks_of_a_folder_have_their_files(segment, stack, folder):
    save("in/a.tif", tifffile.imread("tz.tif"), metadata={"axes": "TZYX"}, ome=True)
    save("in/b.tif")
    done(segment("in", "-o", "out", "--overlay", "looks", "--csv", "tables"))
    assert files(folder / "looks") == ["a.png", "b.png"]
    assert [next(iter(_rows(f"tables/{name}.csv")[0])) for name in "ab"] == ["t", "id"]
