"""COCO JSON as training data: the instances format of the COCO data set (Lin et al., ECCV 2014; section "Object Detection" of its
data format). Objects are polygons, run lengths, or compressed run lengths, and may overlap."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from i2i.data import load_image
from i2i.errors import TrainingError
from i2i.metrics import checked_code
from i2i.normalize import Normalization
from i2i_maskrcnn.examples import CROWD, ObjectExample

Record = Mapping[str, Any]
_ID = int | str
_FIELDS: Mapping[str, Mapping[str, Any]] = {
    "images": {"id": _ID, "file_name": str},
    "categories": {"id": int, "name": str},
    "annotations": {"id": _ID, "image_id": _ID, "category_id": int},
}
"""What every record of a list must have, and of what type."""
_SHORT = 2**15 - 1
_LONGEST_NAME = 200
_LEAST = 6
"""Numbers of a polygon of three corners."""


def load_coco(
    images: Path,
    annotations: Path,
    normalization: Normalization,
    categories: Sequence[str] = (),
    tell: Callable[[str], None] = lambda text: None,
    channels: str = "",
    names: Sequence[str] = (),
) -> tuple[list[ObjectExample], dict[int, str]]:
    """The images that a COCO JSON names, by file name, each with its objects; and the names of their classes by number.

    ``images``: the folder that file names are relative to. ``channels`` and ``names``: see :func:`i2i.data.load_image`.
    ``categories``: the names of those to learn, of which the objects of others are background; without it, all. Classes are
    numbered from 1 in the order of category ids; categories of one name are one class. An image without annotations is an
    example without objects. Objects that cover no pixel are left out, which ``tell`` is told in one line. Of each image the
    larger objects come first, each in the first layer that is free there.

    Raises ``TrainingError`` that names the file, and the annotation, for JSON that is no such data set, ids that are not known or
    come twice, categories asked for that are not there, boxes without a mask, masks that cannot be read, images that are
    missing, of another size than stated or not fit to learn from; ``InputError`` for images that cannot be read.
    """
    known = _read(annotations)
    numbers = _class_numbers(known["categories"], categories, annotations)
    objects = _by_image(known, numbers, annotations)
    records = sorted(known["images"], key=lambda record: record["file_name"])
    _check_files(images, records, annotations)
    examples, empty = [], 0
    for record in records:
        image, spec = load_image(images / record["file_name"], normalization, channels, names)
        shape = (spec.height, spec.width)
        _check_size(record, shape, images, annotations)
        found = [_object(one, numbers, shape, annotations) for one in objects[record["id"]]]
        layers, classes = _layered([one for one in found if one.area], shape)
        examples.append(ObjectExample(image, layers, record["file_name"], spec=spec, classes=classes))
        empty += sum(not one.area for one in found)
    if empty:
        tell(f"{annotations}: {empty} objects that cover no pixel are left out")
    return examples, {numbers[one["id"]]: one["name"] for one in known["categories"] if one["id"] in numbers}


# ---------------------------------------------------------------------------------------------------------------- the JSON


def _read(path: Path) -> dict[str, list[Record]]:
    """Its lists of records, each with all that it must have."""
    try:
        held = json.loads(path.read_bytes())
    except OSError as error:
        raise TrainingError(f"{path}: {(error.strerror or str(error)).lower()}; check the name") from error
    except (ValueError, RecursionError) as error:
        raise TrainingError(f"{path}: not JSON, or cut off ({error}); write it again") from error
    if isinstance(held, list):
        raise TrainingError(
            f"{path}: is a list, of results perhaps; learn from a data set with images, annotations and categories"
        )
    missing = [key for key in _FIELDS if not (isinstance(held, dict) and isinstance(held.get(key), list))]
    if missing:
        raise TrainingError(f"{path}: no COCO data set: it has no list of {missing[0]}; export the instances format")
    for key, kinds in _FIELDS.items():
        _check_records(held[key], key, kinds, path)
    if not held["images"]:
        raise TrainingError(f"{path}: names no image; give annotated images")
    return {key: held[key] for key in _FIELDS}


def _check_records(records: Sequence[Any], key: str, kinds: Mapping[str, Any], path: Path) -> None:
    seen = set()
    for place, record in enumerate(records, 1):
        for field, kind in kinds.items():
            value = record.get(field) if isinstance(record, dict) else None
            if not isinstance(value, kind):
                raise TrainingError(f"{path}: number {place} of its {key}: {field} is {value!r:.60}; write the file again")
        if record["id"] in seen:
            raise TrainingError(f"{path}: two of its {key} have id {record['id']!r}; give each its own")
        seen.add(record["id"])


def _class_numbers(records: Sequence[Record], asked: Sequence[str], path: Path) -> dict[int, int]:
    """The class number of each category id that is to be learnt."""
    for record in records:
        if not (record["name"].isprintable() and 0 < len(record["name"]) <= _LONGEST_NAME):
            raise TrainingError(f"{path}: category {record['id']}: its name {record['name']!r:.60} is not one line; rename it")
    named = {record["id"]: record["name"] for record in sorted(records, key=lambda record: record["id"])}
    for name in asked:
        if name not in named.values():
            raise TrainingError(f"{path}: has no category {name!r}; it has: {', '.join(dict.fromkeys(named.values()))}")
    kept = {number: name for number, name in named.items() if not asked or name in asked}
    order = list(dict.fromkeys(kept.values()))
    return {number: 1 + order.index(name) for number, name in kept.items()}


def _by_image(known: Mapping[str, Sequence[Record]], numbers: Mapping[int, int], path: Path) -> dict[int | str, list[Record]]:
    """The annotations to learn of each image id."""
    categories = {record["id"] for record in known["categories"]}
    found: dict[int | str, list[Record]] = {record["id"]: [] for record in known["images"]}
    for record in known["annotations"]:
        if record["image_id"] not in found:
            raise TrainingError(
                f"{path}: annotation {record['id']!r}: there is no image {record['image_id']!r}; mend or remove it"
            )
        if record["category_id"] not in categories:
            raise TrainingError(
                f"{path}: annotation {record['id']!r}: no category {record['category_id']}; add it to the categories"
            )
        if record["category_id"] in numbers:
            found[record["image_id"]].append(record)
    return found


# -------------------------------------------------------------------------------------------------------------- the images


def _check_files(folder: Path, records: Sequence[Record], path: Path) -> None:
    names = [record["file_name"] for record in records]
    for name, following in zip(names, [*names[1:], ""], strict=True):
        if not name.isprintable() or Path(name).is_absolute() or ".." in Path(name).parts:
            raise TrainingError(f"{path}: file_name {name!r:.200} is no path inside the folder of images; rename it there")
        if name == following:
            raise TrainingError(f"{path}: two of its images are {name}; make them one, with the annotations of both")
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise TrainingError(f"{folder / missing[0]}: no such file, but {path} names it ({len(missing)} such in all)")


def _check_size(record: Record, shape: tuple[int, int], folder: Path, path: Path) -> None:
    stated = (record.get("height", shape[0]), record.get("width", shape[1]))
    if stated != shape:
        sizes = f"{shape[0]} x {shape[1]}, not {stated[0]} x {stated[1]} as in {path}"
        raise TrainingError(f"{folder / record['file_name']}: its size is {sizes}; give the images that were annotated")


# ------------------------------------------------------------------------------------------------------------- the objects


@dataclass(frozen=True)
class _Object:
    """``mask``: (h, w) bool within ``place``, its box in the image."""

    place: tuple[slice, slice]
    mask: npt.NDArray[np.bool_]
    number: int

    @property
    def area(self) -> int:
        return int(self.mask.sum())


def _object(annotation: Record, numbers: Mapping[int, int], shape: tuple[int, int], path: Path) -> _Object:
    mask = _mask(annotation.get("segmentation"), shape, f"{path}: annotation {annotation['id']!r}")
    rows, columns = _extent(mask, 1), _extent(mask, 0)
    number = CROWD if annotation.get("iscrowd") else numbers[annotation["category_id"]]
    return _Object((rows, columns), mask[rows, columns].copy(), number)


def _extent(mask: npt.NDArray[np.bool_], other: int) -> slice:
    """From the first to the last that the mask holds along an axis, which is not the ``other``."""
    places = np.flatnonzero(mask.any(other))
    return slice(int(places[0]), int(places[-1]) + 1) if len(places) else slice(0)


def _mask(segmentation: Any, shape: tuple[int, int], where: str) -> npt.NDArray[np.bool_]:
    """(H, W) bool. Polygons of fewer than three corners cover nothing."""
    from faster_coco_eval.core import mask

    if not segmentation:
        raise TrainingError(f"{where}: has no segmentation, only a box perhaps; outline the object, or remove it")
    if isinstance(segmentation, list):
        segmentation = [part for part in segmentation if not (isinstance(part, list) and len(part) < _LEAST)]
        if not segmentation:
            return np.zeros(shape, bool)
    try:
        return mask.decode(checked_code(segmentation, shape)).astype(bool)
    except (ValueError, TypeError, OverflowError) as error:
        raise TrainingError(f"{where}: {error}; mend or remove it") from error


def _layered(objects: Sequence[_Object], shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """(L, H, W) int16, or int32 for many objects, of ids from 1; and (ids + 1,) int64 classes. L is at least 1."""
    kind = np.int16 if len(objects) <= _SHORT else np.int32
    layers: list[npt.NDArray[Any]] = [np.zeros(shape, kind)]
    ordered = sorted(objects, key=lambda one: -one.area)
    for number, one in enumerate(ordered, 1):
        free = next((layer for layer in layers if not layer[one.place][one.mask].any()), None)
        if free is None:
            free = np.zeros(shape, kind)
            layers.append(free)
        free[one.place][one.mask] = number
    return torch.from_numpy(np.stack(layers)), torch.tensor([0, *(one.number for one in ordered)])
