"""Every object is cut out of the input once, with the mask that belongs to it, whatever the classes and the pixels are."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from i2i.contracts import Array, Exported
from i2i.exporters import crops, known
from i2i.exporters.crops import write_crops
from i2i.formats.views import ArraySource
from i2i.geometry import Region
from tests.cli.kit import blobs, files, load
from tests.core import scenes

MARGIN = 8


class Watched(ArraySource):
    """An array as a source that remembers the regions that were read."""

    def __init__(self, array: Array, **fields: object) -> None:
        super().__init__(array, **fields)
        self.regions: list[Region] = []

    def read(self, region: Region, plane: int = 0, level: int = 0) -> Array:
        assert self.spec.region.contains(region) and region.area
        self.regions.append(region)
        return super().read(region, plane, level)


def segmented(labels: np.ndarray, pixels: np.ndarray, **fields: object) -> Exported:
    return Exported(ArraySource(pixels, **fields), ArraySource(labels), "labels", name="a.tif")


def grown(ys: np.ndarray, xs: np.ndarray, shape: tuple[int, ...]) -> tuple[slice, slice]:
    rows = slice(max(0, ys.min() - MARGIN), min(shape[0], ys.max() + 1 + MARGIN))
    return rows, slice(max(0, xs.min() - MARGIN), min(shape[1], xs.max() + 1 + MARGIN))


@pytest.mark.parametrize("channels", [1, 3])
def test_each_object_has_a_picture_and_a_mask(channels: int, tmp_path: Path) -> None:
    labels = blobs(90, 120).astype(np.uint16)
    labels[40:44, 60:66] = 300
    pixels = np.random.default_rng(0).integers(0, 255, (90, 120, channels)).astype(np.uint8)
    write_crops(tmp_path, segmented(labels, pixels))
    numbers = np.unique(labels[labels > 0]).tolist()
    assert files(tmp_path) == sorted(f"{kind}/{number}.png" for kind in ("images", "masks") for number in numbers)
    for number in numbers:
        place = grown(*np.nonzero(labels == number), labels.shape)
        found, expected = load(tmp_path / f"images/{number}.png"), pixels[place]
        assert np.array_equal(found, expected if channels == 3 else expected[..., 0])
        assert np.array_equal(load(tmp_path / f"masks/{number}.png"), (labels[place] == number) * np.uint8(255))


def test_objects_of_several_classes_are_in_folders_with_their_own_masks(tmp_path: Path) -> None:
    result, found = scenes.exported(), scenes.instances()
    pixels = result.source.read(result.source.spec.region)
    labels = scenes.drawn(found, pixels.shape[:2])
    write_crops(tmp_path, result)
    names = {1: "cell", 3: "big cell", 7: "straße"}
    visible = np.unique(labels)[1:].tolist()
    expected = [f"{kind}/{names[int(found.classes[i - 1])]}/{i}.png" for kind in ("images", "masks") for i in visible]
    assert files(tmp_path) == sorted(expected) and len(found) - 1 not in visible
    hidden = 0
    for i in visible:
        top, left, bottom, right = found.boxes[i - 1].tolist()
        whole = np.zeros(labels.shape, bool)
        whole[top:bottom, left:right] = found.masks[i - 1]
        place = grown(*np.nonzero(whole), labels.shape)
        name = names[int(found.classes[i - 1])]
        assert np.array_equal(load(tmp_path / "images" / name / f"{i}.png"), pixels[place])
        mask = load(tmp_path / "masks" / name / f"{i}.png")
        assert np.array_equal(mask, whole[place] * np.uint8(255))
        hidden += not np.array_equal(mask > 0, labels[place] == i)
    assert hidden, "some objects are in part below others, and their masks are whole"


def test_without_masks_of_their_own_objects_are_what_the_label_image_shows(tmp_path: Path) -> None:
    result, found = scenes.exported(own=False), scenes.instances()
    labels = scenes.drawn(found, (160, 240))
    write_crops(tmp_path, result)
    masks = {int(path.stem): path for path in (tmp_path / "masks").rglob("*.png")}
    assert sorted(masks) == np.unique(labels)[1:].tolist()
    for number, path in masks.items():
        place = grown(*np.nonzero(labels == number), labels.shape)
        assert np.array_equal(load(path) > 0, labels[place] == number)


def test_one_class_needs_no_folder(tmp_path: Path) -> None:
    result = scenes.exported()
    write_crops(tmp_path, replace(result, objects=replace(result.objects, class_names={1: "nucleus"})))
    assert all(Path(name).parent.name in ("images", "masks") for name in files(tmp_path))


@pytest.mark.parametrize(
    ("name", "folder"), [("../../etc", "_.._etc"), ("/a\\b", "_a_b"), (" . ", "_"), ("traffic light", "traffic light"),
                         ("x" * 300, "x" * 60), ("", "1"), ("été_2-b.c", "été_2-b.c"),
                         ("Con", "_Con"), ("nul.txt", "_nul.txt"), ("console", "console"),
                         ("x" * 59 + ". y", "x" * 59)])  # fmt: skip
def test_a_class_is_a_folder_in_ours_whatever_it_is_called(name: str, folder: str, tmp_path: Path) -> None:
    labels = np.zeros((9, 9), np.uint8)
    labels[4, 4] = 1
    one = scenes.instances().take([0])
    objects = replace(scenes.known(one, own=False), class_names={int(one.classes[0]): name, 99: "other"})
    if not name:
        objects = replace(objects, classes=np.array([1], np.int16))
    write_crops(tmp_path / "crops", replace(segmented(labels, labels), objects=objects))
    assert files(tmp_path) == [f"crops/images/{folder}/1.png", f"crops/masks/{folder}/1.png"]


@pytest.mark.parametrize(
    ("dtype", "channels", "kept"),
    [("uint16", 1, "uint16"), ("uint8", 2, "uint8"), ("float32", 1, "float32"), ("float16", 1, "float32"),
     ("int64", 1, "float64"), ("uint16", 3, "uint16"), ("uint8", 4, "uint8")],
)  # fmt: skip
def test_what_is_no_plain_picture_is_a_tiff_of_the_same_values(dtype: str, channels: int, kept: str, tmp_path: Path) -> None:
    labels = np.zeros((40, 50), np.uint16)
    labels[20:24, 30:36] = 7
    pixels = np.random.default_rng(0).integers(0, 200, (40, 50, channels)).astype(dtype)
    write_crops(tmp_path, segmented(labels, pixels, pixel_size=(0.5, 0.25)))
    assert files(tmp_path) == ["images/7.tif", "masks/7.png"]
    found = tifffile.imread(tmp_path / "images/7.tif")
    expected = pixels[12:32, 22:44]
    if channels != 3:
        expected = expected[..., 0] if channels == 1 else np.moveaxis(expected, 2, 0)
    assert found.dtype == kept and np.array_equal(found, expected)


def test_a_file_says_where_it_is_from_and_what_it_shows(tmp_path: Path) -> None:
    result, found = scenes.exported(), scenes.instances()
    write_crops(tmp_path, result)
    with Image.open(next((tmp_path / "images").rglob("9.png"))) as image:
        record = json.loads(image.text["i2i"])["record"]
    top, left = found.boxes[8, :2].tolist()
    name = scenes.NAMES[int(found.classes[8])]
    expected = {"object": 9, "top": max(0, top - MARGIN), "left": max(0, left - MARGIN), "class_name": name}
    assert record.items() >= expected.items() and abs(record["score"] - found.scores[8]) < 1e-6


def test_objects_of_an_enlarged_result_are_cut_out_of_the_input(tmp_path: Path) -> None:
    labels = np.zeros((40, 60), np.uint16)
    labels[21:26, 31:38] = 3
    pixels = np.random.default_rng(0).integers(0, 255, (20, 30, 1)).astype(np.uint8)
    write_crops(tmp_path, segmented(labels, pixels))
    assert np.array_equal(load(tmp_path / "images/3.png"), pixels[2:20, 7:27, 0])
    assert np.array_equal(load(tmp_path / "masks/3.png") > 0, (labels == 3)[4:40:2, 14:54:2])


def test_a_folder_holds_ten_thousand_at_most(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(crops, "_IN_A_FOLDER", 10)
    labels = np.zeros((60, 60), np.uint16)
    labels[::10, ::10] = np.arange(1, 37).reshape(6, 6)
    write_crops(tmp_path, segmented(labels, labels.astype(np.uint8)))
    images = [name for name in files(tmp_path) if name.startswith("images")]
    expected = {"images": range(1, 10), "images/10": range(10, 20), "images/20": range(20, 30), "images/30": range(30, 37)}
    assert images == sorted(f"{folder}/{number}.png" for folder, numbers in expected.items() for number in numbers)


def test_objects_are_cut_out_by_their_places_and_the_files_do_not_depend_on_it(monkeypatch, tmp_path: Path) -> None:
    """So that tiles of a slide are decoded about once."""
    labels = blobs(200, 300).astype(np.uint16)
    labels = np.random.default_rng(0).permutation(labels.max() + 1).astype(np.uint16)[labels]
    labels[labels == labels[0, 0]] = 0
    pixels = Watched(np.random.default_rng(0).integers(0, 255, (200, 300, 3)).astype(np.uint8))
    result = Exported(pixels, ArraySource(labels), "labels")
    write_crops(tmp_path / "a", result)
    pixels.regions.clear()
    monkeypatch.setattr(crops, "_CELL", 50)
    write_crops(tmp_path / "b", result)
    cells = [
        ((region.y + MARGIN * (region.y > 0)) // 50, (region.x + MARGIN * (region.x > 0)) // 50) for region in pixels.regions
    ]
    order = list(dict.fromkeys(cells))
    assert len(cells) == len(np.unique(labels)) - 1 and len(order) > 10
    assert sum(a != b for a, b in pairwise(cells)) < len(order) + 5, "one cell after the other"
    monkeypatch.setattr(crops, "_AT_A_TIME", 3)
    write_crops(tmp_path / "c", result)
    contents = [
        {path.relative_to(root): path.read_bytes() for path in root.rglob("*.png")} for root in map(tmp_path.joinpath, "abc")
    ]
    assert contents[0] == contents[1] == contents[2]


def test_a_large_object_is_read_piece_by_piece(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr("i2i.formats.png_write.BAND_BYTES", 3000)
    labels = np.zeros((500, 100), np.uint8)
    labels[10:490, 20:80] = 1
    pixels, found = Watched(np.zeros((500, 100, 1), np.uint8)), Watched(labels)
    write_crops(tmp_path, Exported(pixels, found, "labels"))
    assert max(region.area for region in pixels.regions) <= 3000
    assert np.array_equal(load(tmp_path / "masks/1.png") > 0, labels[2:498, 12:88] > 0)


@pytest.mark.parametrize("detected", [False, True])
def test_an_image_without_objects_has_an_empty_folder(detected: bool, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(known, "_SIDE", 4)
    labels = np.zeros((9, 9), np.uint16)
    objects = scenes.known(scenes.instances().take([])) if detected else None
    write_crops(tmp_path, replace(segmented(labels, labels), objects=objects))
    assert files(tmp_path) == []
