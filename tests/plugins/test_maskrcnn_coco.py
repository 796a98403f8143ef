"""COCO JSON as training data: the masks are those of pycocotools, each object is in one layer, and what does not fit is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as reference

from i2i.errors import InputError, TrainingError
from i2i.normalize import Normalization
from i2i_maskrcnn.coco import _layered, _object, load_coco
from i2i_maskrcnn.examples import ObjectExample

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:pycocotools")

SAMPLE = Path(__file__).parents[3] / "shared/data/coco-sample/train"
HEIGHT, WIDTH = 40, 50
NONE = Normalization("none")
TRIANGLE, SQUARE = [5.5, 5, 30, 6, 12, 31.25], [20, 20, 35, 20, 35, 35, 20, 35]


def rectangle(top: int, left: int, bottom: int, right: int) -> dict[str, Any]:
    """Run lengths of a rectangle, not compressed."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[top:bottom, left:right] = 1
    ends = np.flatnonzero(np.diff(mask.T.ravel(), prepend=0)).tolist()
    return {"size": [HEIGHT, WIDTH], "counts": np.diff([0, *ends, mask.size]).tolist()}


def compressed(runs: dict[str, Any]) -> dict[str, Any]:
    code = reference.frPyObjects(runs, HEIGHT, WIDTH)
    return {"size": code["size"], "counts": code["counts"].decode()}


def mask_of(segmentation: Any, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """(H, W) bool, as pycocotools has it."""
    code = reference.frPyObjects(segmentation, height, width) if not _is_compressed(segmentation) else segmentation
    return reference.decode(reference.merge(code) if isinstance(code, list) else code).astype(bool)


def _is_compressed(segmentation: Any) -> bool:
    return isinstance(segmentation, dict) and isinstance(segmentation["counts"], str)


def annotation(number: int, segmentation: Any, **more: Any) -> dict[str, Any]:
    return {"id": number, "image_id": 1, "category_id": 3, "segmentation": segmentation, "iscrowd": 0} | more


@pytest.fixture
def data(tmp_path: Path) -> dict[str, Any]:
    """Two images in a folder, and the JSON that describes them."""
    (tmp_path / "images").mkdir()
    for name in ("b.png", "a.png"):
        Image.new("RGB", (WIDTH, HEIGHT), (10, 20, 30)).save(tmp_path / "images" / name)
    size = {"height": HEIGHT, "width": WIDTH}
    return {
        "images": [{"id": 1, "file_name": "b.png"} | size, {"id": 2, "file_name": "a.png"} | size],
        "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
        "annotations": [annotation(1, [TRIANGLE])],
    }


@pytest.fixture
def load(tmp_path: Path, data: dict[str, Any]) -> Callable[..., Any]:
    def loaded(*categories: str, told: list[str] | None = None) -> tuple[list[ObjectExample], dict[int, str]]:
        path = tmp_path / "truth.json"
        path.write_text(json.dumps(data))
        return load_coco(tmp_path / "images", path, NONE, categories, (told if told is not None else []).append)

    return loaded


def objects_of(example: ObjectExample) -> list[tuple[bytes, int]]:
    """The mask and class of each object, sorted; each id is in one layer."""
    assert example.truth.ndim == 3 and example.truth.shape[1:] == example.image.shape[1:] and example.classes[0] == 0
    ids = [(layer.numpy(), number) for layer in example.truth for number in layer.unique().tolist() if number]
    assert sorted(number for _, number in ids) == list(range(1, len(example.classes)))
    return sorted(((layer == number).tobytes(), int(example.classes[number])) for layer, number in ids)


# ------------------------------------------------------------------------------------------------------------- what is read


def test_all_kinds_of_masks_are_read(data: dict[str, Any], load: Callable[..., Any]) -> None:
    """One object of two polygons, of runs and of compressed runs, and a crowd."""
    given = [[TRIANGLE, SQUARE], rectangle(2, 3, 9, 11), compressed(rectangle(1, 1, 30, 8)), rectangle(0, 0, 40, 50)]
    data["annotations"] = [
        annotation(10 + i, one, category_id=(3, 7, 3, 7)[i], iscrowd=int(i == 3)) for i, one in enumerate(given)
    ]
    (empty, example), names = load()
    assert names == {1: "cat", 2: "dog"}, "in the order of ids"
    assert [empty.name, example.name] == ["a.png", "b.png"]
    assert objects_of(empty) == [] and empty.truth.shape == (1, HEIGHT, WIDTH) and empty.classes.tolist() == [0]
    assert objects_of(example) == sorted(
        (mask_of(one).tobytes(), number) for one, number in zip(given, (1, 2, 1, -1), strict=True)
    )
    assert example.image.shape == (3, HEIGHT, WIDTH) and example.image[:, 0, 0].tolist() == [10, 20, 30]


def test_only_the_categories_asked_for_are_learnt(data: dict[str, Any], load: Callable[..., Any]) -> None:
    data["categories"].append({"id": 9, "name": "cat"})
    data["annotations"] = [annotation(i, [SQUARE], category_id=number) for i, number in enumerate((3, 7, 9))]
    data["annotations"][1]["segmentation"] = []
    (_, example), names = load("cat")
    assert names == {1: "cat"} and example.classes.tolist() == [0, 1, 1], "categories of one name are one class"
    data["annotations"][1]["segmentation"] = [SQUARE]
    (_, example), names = load()
    assert names == {1: "cat", 2: "dog"} and sorted(example.classes.tolist()) == [0, 1, 1, 2]
    (_, example), names = load("dog", "cat")
    assert names == {1: "cat", 2: "dog"}


def test_objects_of_no_pixel_are_left_out_and_counted(data: dict[str, Any], load: Callable[..., Any]) -> None:
    beyond = [60, 10, 70, 10, 70, 20]
    parts = [[beyond], [[1, 1, 5, 5]], [[]], [TRIANGLE, [1, 1, 5, 5]], {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]}]
    data["annotations"] = [annotation(number, part) for number, part in enumerate(parts)]
    told: list[str] = []
    (_, example), _ = load(told=told)
    assert objects_of(example) == [(mask_of([TRIANGLE]).tobytes(), 1)]
    assert len(told) == 1 and told[0].endswith("truth.json: 4 objects that cover no pixel are left out")


def test_images_that_the_json_does_not_name_are_not_read(tmp_path: Path, load: Callable[..., Any]) -> None:
    (tmp_path / "images/c.png").write_text("no image")
    assert [one.name for one in load()[0]] == ["a.png", "b.png"]


def test_a_size_that_is_not_stated_is_the_images(data: dict[str, Any], load: Callable[..., Any]) -> None:
    del data["images"][0]["height"], data["images"][0]["width"]
    assert objects_of(load()[0][1]) == [(mask_of([TRIANGLE]).tobytes(), 1)]


# ---------------------------------------------------------------------------------------------------------------- layers

boxes = st.tuples(st.integers(0, 30), st.integers(0, 40), st.integers(1, 12), st.integers(1, 12))


@given(st.lists(boxes, max_size=12))
@settings(derandomize=True, deadline=None, max_examples=30)
def test_each_object_is_in_the_first_layer_that_is_free(places: list[tuple[int, int, int, int]]) -> None:
    """Larger ones first: one in a later layer overlaps an earlier one in each layer before."""
    numbers = {number: number + 1 for number in range(12)}
    runs = [rectangle(y, x, min(y + h, HEIGHT), min(x + w, WIDTH)) for y, x, h, w in places]
    objects = [
        _object(annotation(number, one, category_id=number), numbers, (HEIGHT, WIDTH), Path("a"))
        for number, one in enumerate(runs)
    ]
    layers, classes = _layered(objects, (HEIGHT, WIDTH))
    areas = np.bincount(layers.numpy().ravel(), minlength=len(classes))
    for number in range(1, len(classes)):
        mask = mask_of(runs[int(classes[number]) - 1])
        (place,) = (at for at, layer in enumerate(layers) if bool((layer == number).any()))
        assert np.array_equal(layers[place].numpy() == number, mask)
        for earlier in layers[:place].numpy():
            assert any(0 < other < number for other in earlier[mask].tolist()), "it was not free"
    assert (np.diff(areas[1:]) <= 0).all()
    assert sorted(classes.tolist()) == [0, *range(1, len(places) + 1)]
    assert (layers.numpy() > 0).any((1, 2)).all() or not places, "no layer is empty"


# ---------------------------------------------------------------------------------------------------------------- errors


def _change(key: str, number: int = 0, **values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda data: data[key][number].update(values)


def _twice(key: str, **values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda data: data[key].append(data[key][0] | values)


def _segment(value: Any) -> Callable[[dict[str, Any]], None]:
    return _change("annotations", segmentation=value)


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (_change("images", 1, file_name="c.png"), r"images/c.png: no such file, but .*truth.json names it \(1 such in all\)"),
        (_change("images", file_name="../images/b.png"), "truth.json: file_name '../images/b.png' is no path inside the folder"),
        (_change("images", file_name="a.png"), "truth.json: two of its images are a.png"),
        (_change("images", height=41), r"images/b.png: its size is 40 x 50, not 41 x 50 as in .*truth.json"),
        (_change("images", file_name=None), "truth.json: number 1 of its images: file_name is None"),
        (_change("annotations", category_id=4), "truth.json: annotation 1: no category 4"),
        (_change("annotations", image_id=9), "truth.json: annotation 1: there is no image 9"),
        (_change("annotations", id=None), "truth.json: number 1 of its annotations: id is None"),
        (_segment([]), "truth.json: annotation 1: has no segmentation, only a box perhaps"),
        (_segment(None), "truth.json: annotation 1: has no segmentation, only a box perhaps"),
        (_segment([[1, 1, 5, 5, 9, 1, 3]]), "truth.json: annotation 1: .*corner"),
        (_segment([[1, 1, 5, 5, float("nan"), 1]]), "truth.json: annotation 1: .*polygon"),
        (_segment([[1, 1, 5, 5, 10**400, 1]]), "truth.json: annotation 1: "),
        (_segment([[1, 1, 5, 5, 1e9, 1]]), "truth.json: annotation 1: .*polygon"),
        (_segment(TRIANGLE), "truth.json: annotation 1: .*polygon"),
        (_segment({"size": [HEIGHT, WIDTH], "counts": [3, 4]}), "truth.json: annotation 1: .*runs"),
        (_segment({"size": 5, "counts": [3, 4]}), "truth.json: annotation 1: "),
        (_segment({"size": [HEIGHT, WIDTH], "counts": "zzzz"}), "truth.json: annotation 1: .*runs"),
        (_segment({"size": [WIDTH, HEIGHT], "counts": [3, 1997]}), "truth.json: annotation 1: .*size"),
        (_twice("images", file_name="c.png"), "truth.json: two of its images have id 1"),
        (_twice("annotations"), "truth.json: two of its annotations have id 1"),
        (_twice("categories"), "truth.json: two of its categories have id 7"),
        (_change("categories", name="a\nb"), "truth.json: category 7: its name 'a.nb' is not one line"),
        (lambda data: data.pop("annotations"), "truth.json: no COCO data set: it has no list of annotations"),
        (lambda data: data.update(images=[], annotations=[]), "truth.json: names no image"),
        (lambda data: data["annotations"].append(5), "truth.json: number 2 of its annotations: id is None"),
    ],
)
def test_what_does_not_fit_is_named(
    data: dict[str, Any], load: Callable[..., Any], spoil: Callable[[dict[str, Any]], None], text: str
) -> None:
    spoil(data)
    with pytest.raises(TrainingError, match=text) as caught:
        load()
    assert "\n" not in str(caught.value)


def test_categories_that_are_not_there_are_told_with_those_that_are(load: Callable[..., Any]) -> None:
    with pytest.raises(TrainingError, match="truth.json: has no category 'cow'; it has: cat, dog$"):
        load("cat", "cow")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"[]", "truth.json: is a list, of results perhaps"),
        (b'{"images": [', r"truth.json: not JSON, or cut off \("),
        (b"\xff\xfe\x00\xff", "truth.json: not JSON"),
        (b"[" * 100_000, "truth.json: not JSON"),
        (b"5", "truth.json: no COCO data set: it has no list of images"),
        (None, "truth.json: no such file"),
    ],
)
def test_files_that_are_no_data_set_are_named(tmp_path: Path, content: bytes | None, text: str) -> None:
    if content is not None:
        (tmp_path / "truth.json").write_bytes(content)
    with pytest.raises(TrainingError, match=text) as caught:
        load_coco(tmp_path, tmp_path / "truth.json", NONE)
    assert "\n" not in str(caught.value)


def test_an_image_that_cannot_be_read_is_named(tmp_path: Path, load: Callable[..., Any]) -> None:
    (tmp_path / "images/a.png").write_bytes((tmp_path / "images/a.png").read_bytes()[:60])
    with pytest.raises(InputError, match=r"images/a\.png"):
        load()


# ------------------------------------------------------------------------------------------------------------- real data


@pytest.mark.skipif(not SAMPLE.is_dir(), reason="the sample of COCO is not here")
def test_the_masks_of_real_annotations_are_those_of_pycocotools() -> None:
    examples, names = load_coco(SAMPLE / "images", SAMPLE / "instances.json", Normalization("range"))
    held = json.loads((SAMPLE / "instances.json").read_text())
    order = {one["id"]: 1 + place for place, one in enumerate(sorted(held["categories"], key=lambda one: one["id"]))}
    assert len(examples) == 83 and names == {order[one["id"]]: one["name"] for one in held["categories"]}
    images = {one["file_name"]: one for one in held["images"]}
    for example in examples:
        image = images[example.name]
        known = [one for one in held["annotations"] if one["image_id"] == image["id"]]
        numbers = [-1 if one["iscrowd"] else order[one["category_id"]] for one in known]
        masks = [mask_of(one["segmentation"], image["height"], image["width"]) for one in known]
        assert objects_of(example) == sorted((mask.tobytes(), number) for mask, number in zip(masks, numbers, strict=True))
    classes = [number for example in examples for number in example.classes[1:].tolist()]
    assert len(classes) == 619 and classes.count(-1) == 6 and max(len(example.truth) for example in examples) <= 5
