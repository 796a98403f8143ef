"""``--crops DIR`` and ``--coco FILE``: whole or not there, as all outputs are, and nothing else is lost for them."""

from __future__ import annotations

import json
from dataclasses import replace
from types import MappingProxyType

import numpy as np
import pytest
from pycocotools import mask as masks

from i2i.contracts import Array, Instances
from i2i.options import RunOptions
from i2i.publish import EXPORT_MARK
from i2i.registry import Registry
from i2i.session import Item, Session
from tests import toys
from tests.cli.kit import done, files, load, on_disk, picture, refused, save

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:pycocotools")


def crops(folder):
    return [name for name in files(folder) if not name.startswith(".")]


def test_all_files_hold_the_objects_of_the_labels(segment, folder):
    save("a.png")
    words = ("--coco", "a.json", "--crops", "crops", "--csv", "a.csv", "--geojson", "a.geojson")
    run = done(segment("a.png", *words, "--json")).run
    labels, document = load("a-segment.png"), json.loads((folder / "a.json").read_text())
    numbers = list(range(1, run["objects"] + 1))
    assert [one["id"] for one in document["annotations"]] == numbers and len(numbers) > 3
    assert len((folder / "a.csv").read_text().splitlines()) == len(numbers) + 1
    assert len(json.loads((folder / "a.geojson").read_text())["features"]) == len(numbers)
    assert crops(folder / "crops") == sorted(f"{kind}/{number}.png" for kind in ("images", "masks") for number in numbers)
    for one in document["annotations"]:
        assert np.array_equal(masks.decode(one["segmentation"]) > 0, labels == one["id"])
    assert run["exports"]["crops"] == "crops"


class Layered(toys.Blobs):
    """Each bright component is three objects: itself, one that is hidden under it, and one of the same form a little aside."""

    class_names = MappingProxyType({1: "disc", 2: "core", 5: "shadow"})

    def _find(self, image: Array) -> Instances:
        found = super()._find(image)
        small = [mask & np.pad(mask, 1)[:-2, 1:-1] & np.pad(mask, 1)[2:, 1:-1] for mask in found.masks]
        core = Instances(found.boxes, found.scores / 2, np.full(len(found), 2), tuple(small))
        shadow = Instances(found.boxes + np.array([0, 3, 0, 3]), found.scores / 4, np.full(len(found), 5), found.masks)
        inside = shadow.boxes[:, 3] <= image.shape[1]
        return Instances.join(
            [found, core.take(np.flatnonzero([mask.any() for mask in small])), shadow.take(np.flatnonzero(inside))]
        )


def test_a_detectors_files_agree_and_masks_are_the_objects_own(folder):
    path, output = save("in/a.png", picture(150, 220)), folder / "labels.tif"
    names = {"coco": "a.json", "csv": "a.csv", "geojson": "a.geojson", "crops": "crops", "overlay": "a.png"}
    item = Item(path, output, "in/a.png", None, {name: folder / place for name, place in names.items()})
    task = replace(toys.FIND, load=lambda *_: Layered())
    report = Session(task, toys.BlobOptions(), RunOptions(device="cpu", tile="128"), Registry()).process(item)
    labels, document = load(output), json.loads((folder / "a.json").read_text())
    visible = np.unique(labels)[1:].tolist()
    rows = [row.split(",") for row in (folder / "a.csv").read_text().splitlines()]
    features = json.loads((folder / "a.geojson").read_text())["features"]
    assert report.objects == len(visible) and visible[-1] > len(visible) > 20, "some are hidden"
    assert [one["id"] for one in document["annotations"]] == visible == [int(row[0]) for row in rows[1:]]
    assert [feature["properties"]["label"] for feature in features] == visible
    kinds = {1: "disc", 5: "shadow"}
    expected = [
        f"{part}/{kinds[one['category_id']]}/{one['id']}.png" for one in document["annotations"] for part in ("images", "masks")
    ]
    assert crops(folder / "crops") == sorted(expected), "of the class core none is on top"
    assert [row[1] for row in rows] == ["class", *(kinds[one["category_id"]] for one in document["annotations"])]
    assert [float(row[2]) for row in rows[1:]] == [one["score"] for one in document["annotations"]]
    assert document["images"] == [{"id": 1, "file_name": "a.png", "height": 150, "width": 220}]
    total = sum(masks.decode(one["segmentation"]).astype(int) for one in document["annotations"])
    assert np.array_equal(total > 0, labels > 0) and total.max() > 1, "masks are whole where objects lie on each other"


def test_a_level_is_in_pixels_of_the_full_resolution(segment, folder):
    import tifffile

    pixels = picture(200, 300)
    with tifffile.TiffWriter("a.tif") as file:
        file.write(pixels, tile=(64, 64), subifds=1)
        file.write(pixels[::2, ::2], tile=(64, 64), subfiletype=1)
    done(segment("a.tif", "--level", "1", "--coco", "a.json", "-o", "o.tif"))
    labels, document = load("o.tif"), json.loads((folder / "a.json").read_text())
    assert labels.shape == (100, 150) and (document["images"][0]["height"], document["images"][0]["width"]) == (200, 300)
    for one in document["annotations"]:
        assert np.array_equal(masks.decode(one["segmentation"])[::2, ::2] > 0, labels == one["id"])


def test_several_images_have_a_folder_each(segment, folder):
    save("set/a.png"), save("set/sub/b.tif")
    done(segment("set", "-o", "out", "--crops", "crops", "--coco", "jsons"))
    assert files(folder / "jsons") == ["a.json", "sub/b.json"]
    assert {name.rsplit("/", 2)[0] for name in files(folder / "crops") if "images" in name} == {"a", "sub/b"}


def test_a_folder_that_is_there_is_refused_as_every_output_is(segment, folder):
    save("a.png")
    done(segment("a.png", "--crops", "crops/"))
    before = files(folder)
    refused(segment("a.png", "-o", "b.png", "--crops", "crops"), 1, "crops: exists", "--overwrite")
    assert files(folder) == before
    assert done(segment("a.png", "--crops", "crops", "--skip-existing", "--json")).run["status"] == "skipped"
    (folder / "a-segment.png").unlink()
    refused(segment("a.png", "--crops", "crops", "--skip-existing"), 1, "crops: exists", "still to be computed")
    (folder / "crops/images/old.png").touch()
    done(segment("a.png", "--crops", "crops", "--overwrite"))
    assert files(folder) == before, "replaced as a whole"


def test_a_complete_output_without_its_folder_is_no_complete_one(segment):
    save("a.png")
    done(segment("a.png"))
    refused(segment("a.png", "--crops", "crops", "--skip-existing"), 1, "crops is missing", "--overwrite")


def test_a_folder_of_the_users_own_is_not_replaced(segment, folder):
    save("a.png"), save("photos/holiday.png")
    refused(segment("a.png", "--crops", "photos", "--overwrite"), 1, "photos: holds what --crops did not write")
    (folder / "empty").mkdir()
    done(segment("a.png", "--crops", "empty", "--overwrite"))
    assert (folder / "empty" / EXPORT_MARK).exists() and (folder / "photos/holiday.png").exists()
    (folder / "file").touch()
    refused(segment("a.png", "--crops", "file", "--overwrite"), 1, "file: is a file, and --crops writes a folder")


@pytest.mark.parametrize("name", [".", "..", "in", "in/.."])
def test_a_folder_that_holds_the_input_is_refused(segment, folder, name):
    save("in/a.png")
    told = "in/a.png: is in in, which --crops writes" if name == "in" else f"--crops {name}: is the current folder, or holds it"
    refused(segment("in/a.png", "-o", "o.png", "--crops", name, "--overwrite"), 2, told)
    assert files(folder) == ["in/a.png"]


def test_nothing_else_is_written_into_the_folder(segment, folder):
    save("a.png")
    refused(segment("a.png", "--crops", "out", "-o", "out/labels.png"), 2, "out/labels.png: is in out, which --crops writes")
    refused(segment("a.png", "--crops", "out", "--csv", "out/a.csv"), 2, "out/a.csv", "--crops")
    refused(segment("a.png", "--crops", "a-segment.png"), 2, "a-segment.png: is to hold two results")
    assert files(folder) == ["a.png"]


def test_crops_of_other_results_are_refused_before_anything_is_computed(segment, folder):
    save("a.png")
    for words in (("--crops", "crops"), ("--coco", "a.json")):
        refused(segment("a.png", "--as", "classes", *words), 2, f"{words[0]} takes labels", "--as")
    refused(segment("a.png", "--coco", "a.txt"), 2, "--coco a.txt", ".json")
    assert files(folder) == ["a.png"]


def test_a_run_that_fails_leaves_no_folder(segment, folder, monkeypatch):
    from i2i.errors import OutputError

    def fail(*_):
        raise OutputError("a.json: no room")

    save("a.png")
    monkeypatch.setattr("i2i.exporters.coco._annotation", fail)
    refused(segment("a.png", "--crops", "crops", "--coco", "a.json"), 1, "a.json: no room")
    assert files(folder) == ["a.png"] and not (folder / "crops").exists()


def test_a_killed_run_goes_on_and_writes_the_folder(segment, folder, monkeypatch):
    save("a.png")
    done(segment("a.png", "-o", "b.png", "--crops", "expected"))
    on_disk(monkeypatch)

    def killed(_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("i2i.session.write_all", killed)
        assert segment("a.png", "--crops", "crops").code == 130
    assert (folder / "a-segment.png.i2i-partial").exists() and not (folder / "crops").exists()
    done(segment("a.png", "--crops", "crops", "--resume"))
    contents = [{name: (folder / root / name).read_bytes() for name in files(folder / root)} for root in ("crops", "expected")]
    assert contents[0] == contents[1] and len(contents[0]) > 6


def test_a_run_killed_while_files_get_their_names_goes_on_over_its_own_alone(segment, folder, monkeypatch):
    from i2i import files as i2i_files

    words = ("--crops", "crops", "--csv", "a.csv")
    save("a.png"), on_disk(monkeypatch)
    rename = i2i_files._take_place

    def killed(new, path):
        if path.name == "a-segment.png":
            raise KeyboardInterrupt
        rename(new, path)

    with monkeypatch.context() as patch:
        patch.setattr(i2i_files, "_take_place", killed)
        assert segment("a.png", *words).code == 130
    assert (folder / "crops/images").exists() and (folder / "a.csv").exists() and not (folder / "a-segment.png").exists()
    refused(segment("a.png", *words), 1, "exists", "--overwrite")
    (folder / "mine.csv").write_text("mine")
    refused(segment("a.png", "--csv", "mine.csv", "--resume"), 1, "mine.csv: exists")
    assert done(segment("a.png", *words, "--resume", "--json")).run["blocks_computed"] == 0
    done(segment("a.png", "-o", "b.png", "--crops", "expected", "--csv", "b.csv"))
    assert files(folder / "crops") == files(folder / "expected")
    assert (folder / "a.csv").read_bytes() == (folder / "b.csv").read_bytes()
    assert (folder / "a-segment.png").read_bytes() == (folder / "b.png").read_bytes()
    assert not list(folder.glob("*.i2i-partial"))


def test_the_help_names_a_folder(i2i, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    text = done(i2i("segment", "--help")).out
    line = next(line for line in text.splitlines() if "--crops" in line)
    assert "DIR" in line and "--coco" in text and "FILE" in next(line for line in text.splitlines() if "--coco" in line)
