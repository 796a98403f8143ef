"""The objects of a set of images from files: COCO JSON (a data set, or a list of results) or label images."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from i2i.errors import InputError
from i2i.formats import builtin_formats, open_image
from i2i.formats.views import read_whole
from i2i.metrics.detections import Annotations
from i2i.metrics.labels import check_ids, only_channel
from i2i.metrics.runs import Code, checked_code

Record = Mapping[str, Any]
Size = tuple[int, int]


@dataclass(frozen=True)
class AnnotatedSet:
    """What a file or folder says of a set of images. All but ``classes`` by the image's id, as text.

    ``files``: file names. ``sizes``: (height, width), where they are known. ``objects``: those of each image. ``classes``: their
    names by number, empty where a name is not known; none at all where objects have no classes. ``listed``: a list of
    results, whose ids are those of the truth, and which does not name images without a result.
    """

    path: Path
    files: Mapping[str, str]
    sizes: Mapping[str, Size]
    objects: Mapping[str, Annotations]
    classes: Mapping[int, str]
    listed: bool = False


# ------------------------------------------------------------------------------------------------------------- files


def is_coco(path: Path) -> bool:
    """Whether a path is a JSON file, or a folder that holds such files and no image. A store (OME-Zarr) is an image."""
    if _is_folder(path):
        return bool(_below(path, (".json",))) and not _below(path, _suffixes())
    return path.suffix.lower() == ".json"


def read_truth(path: Path) -> AnnotatedSet:
    """The true objects of a COCO data set, of a folder of such, of a label image or a folder of these. Raises ``InputError``."""
    found = _read(path, None)
    if not any(map(len, found.objects.values())):
        raise InputError(f"{path}: the truth holds no object; give annotated images")
    return found


def read_found(path: Path, truth: AnnotatedSet) -> AnnotatedSet:
    """The same of a prediction, which may also be a list of results with the truth's ids. Raises ``InputError``."""
    return _read(path, truth)


def _read(path: Path, truth: AnnotatedSet | None) -> AnnotatedSet:
    if not _is_folder(path):
        return _coco(path, truth) if path.suffix.lower() == ".json" else _of_labels(path, [path])
    if files := _below(path, (".json",)):
        return _joined(path, [_coco(file, truth) for file in files])
    return _of_labels(path, _below(path, _suffixes()))


def _is_folder(path: Path) -> bool:
    """Whether it is a folder, and no store, which is one image."""
    return path.is_dir() and path.suffix.lower() not in _suffixes()


@cache
def _suffixes() -> tuple[str, ...]:
    return tuple(suffix for form in builtin_formats() for suffix in form.suffixes)


def _below(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """The files with such suffixes in a folder and those in it, by path; without hidden ones and what is in stores."""
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.suffix.lower() in suffixes)
    return [folder / path for path in sorted(paths) if not (_is_hidden(path) or _is_in_store(path))]


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _is_in_store(path: Path) -> bool:
    return any(place.suffix.lower() in _suffixes() for place in path.parents)


def _of_labels(path: Path, files: Sequence[Path]) -> AnnotatedSet:
    if not files:
        raise InputError(f"{path}: holds neither COCO JSON nor label images")
    names = {str(number): file for number, file in enumerate(files, 1)}
    objects, sizes = {}, {}
    for name, file in names.items():
        source = open_image(file)
        try:
            if source.spec.plane_count > 1:
                raise InputError(f"{file}: holds {source.spec.plane_count} planes; compare files of one plane each")
            objects[name] = _labelled(file, read_whole(source, file, 40))
            sizes[name] = (source.spec.height, source.spec.width)
        finally:
            source.close()
    return AnnotatedSet(path, {name: file.as_posix() for name, file in names.items()}, sizes, objects, {})


def _labelled(path: Path, pixels: Any) -> Annotations:
    try:
        labels = only_channel(pixels, "label image")
        check_ids(labels, "label image")
        return Annotations.of_labels(labels)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _joined(path: Path, parts: Sequence[AnnotatedSet]) -> AnnotatedSet:
    """A folder of data sets as one. Images are named with the folder of their file: what i2i writes names them without."""
    for part in parts:
        if part.listed:
            raise InputError(f"{part.path}: is a list of results; a folder is to hold COCO data sets, which name their images")
        if part.classes != parts[0].classes:
            raise InputError(f"{part.path}: has other categories than {parts[0].path.name}; compare them one by one")
    keyed = [(f"{number} {name}", name, part) for number, part in enumerate(parts) for name in part.files]
    return AnnotatedSet(
        path,
        {key: (part.path.parent / part.files[name]).as_posix() for key, name, part in keyed},
        {key: part.sizes[name] for key, name, part in keyed if name in part.sizes},
        {key: part.objects[name] for key, name, part in keyed},
        parts[0].classes,
    )


# ---------------------------------------------------------------------------------------------------------- COCO JSON


def _coco(path: Path, truth: AnnotatedSet | None) -> AnnotatedSet:
    """``truth``: that of the prediction in ``path``; None where this is the truth itself."""
    try:
        held = json.loads(path.read_text("utf-8-sig"))
    except OSError as error:
        raise InputError(f"{path}: {(error.strerror or str(error)).lower()}; check the name") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON, or cut off: {error}; write it again") from error
    if isinstance(held, dict) and all(isinstance(held.get(key), list) for key in ("images", "annotations")):
        return _data_set(path, held, truth is not None)
    if isinstance(held, list) and all(isinstance(each, dict) and {"image_id", "category_id"} <= set(each) for each in held):
        return _results(path, held, truth)
    raise InputError(f"{path}: neither a COCO data set (images, annotations, categories) nor a list of COCO results")


def _data_set(path: Path, held: Record, judged: bool) -> AnnotatedSet:
    try:
        files = {str(each["id"]): str(each.get("file_name", each["id"])) for each in held["images"]}
        sizes = {str(each["id"]): (int(each["height"]), int(each["width"])) for each in held["images"] if "height" in each}
        classes = {int(np.int64(each["id"])): str(each.get("name", "")) for each in held.get("categories") or ()}
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise InputError(f"{path}: an image without id and size, or a category without id: {error!r}; write it again") from error
    if len(files) < len(held["images"]):
        raise InputError(f"{path}: several images have one id; number them apart")
    known = AnnotatedSet(path, files, sizes, {}, classes)
    return replace(known, objects=_objects(known, held["annotations"], judged))


def _results(path: Path, held: Sequence[Record], truth: AnnotatedSet | None) -> AnnotatedSet:
    if truth is None:
        raise InputError(f"{path}: is a list of results; the truth is a COCO data set, with images and annotations")
    if any("score" not in each for each in held):
        raise InputError(f"{path}: a list of results needs a score in each; add them, or give a COCO data set")
    known = replace(truth, path=path, listed=True)
    return replace(known, objects=_objects(known, held, True))


def _objects(known: AnnotatedSet, records: Sequence[Record], judged: bool) -> dict[str, Annotations]:
    """The records of each image. Raises ``InputError`` that names the record."""
    by_image: dict[str, list[_Object]] = {name: [] for name in known.files}
    scored = judged and any("score" in each for each in records if isinstance(each, dict))
    masked = any(each.get("segmentation") for each in records if isinstance(each, dict))
    for place, record in enumerate(records):
        name = record.get("id", f"number {place + 1}") if isinstance(record, dict) else f"number {place + 1}"
        try:
            image = str(record["image_id"])
            if image not in by_image:
                raise ValueError(f"there is no image {image}")
            by_image[image].append(_object(record, known.sizes.get(image), known.classes, scored, masked))
        except KeyError as error:
            raise InputError(f"{known.path}: annotation {name}: it has no {error.args[0]}; mend or remove it") from error
        except (ValueError, TypeError, OverflowError) as error:
            raise InputError(f"{known.path}: annotation {name}: {error}; mend or remove it") from error
    return {name: _stacked(objects, masked) for name, objects in by_image.items()}


@dataclass(frozen=True)
class _Object:
    box: tuple[float, ...]
    number: int
    score: float
    area: float
    crowd: bool
    mask: Code | None


def _object(record: Record, size: Size | None, classes: Mapping[int, str], scored: bool, masked: bool) -> _Object:
    """One annotation. Raises ``KeyError`` for what is missing, ``ValueError`` or ``TypeError`` for what is wrong."""
    mask = None
    if masked:
        if not size:
            raise ValueError("it has a mask, but its image no height and width")
        mask = checked_code(record["segmentation"], size)
    box = _box(record["bbox"] if mask is None or record.get("bbox") else _box_of(mask))
    number = int(_number(record, "category_id")) if classes else 1
    if classes and number not in classes:
        known = ", ".join(map(str, sorted(classes)))
        raise ValueError(f"category {number} is unknown; there are {known}")
    score = _number(record, "score") if scored else 1.0
    area = _number(record, "area") if "area" in record else _area_of(mask) if mask else box[2] * box[3]
    return _Object(box, number, score, area, bool(record.get("iscrowd", 0)), mask)


def _number(record: Record, name: str) -> float:
    try:
        value = float(record[name])
    except (ValueError, TypeError):
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"its {name} is {str(record[name])[:40]!r}, no finite number")
    return value


def _box(values: Any) -> tuple[float, ...]:
    try:
        box = tuple(map(float, values))
    except (ValueError, TypeError):
        box = ()
    if len(box) != 4 or not all(map(math.isfinite, box)) or min(box[2:]) < 0:
        raise ValueError(f"its box is {str(values)[:80]}, not x, y, width, height")
    return box


def _box_of(mask: Code) -> Any:
    from faster_coco_eval.core import mask as masks

    return masks.toBbox(mask)


def _area_of(mask: Code) -> float:
    from faster_coco_eval.core import mask as masks

    return float(masks.area(mask))


def _stacked(objects: Sequence[_Object], masked: bool) -> Annotations:
    return Annotations(
        np.array([each.box for each in objects], np.float64).reshape(-1, 4),
        np.array([each.number for each in objects], np.int64),
        np.array([each.score for each in objects], np.float64),
        np.array([each.area for each in objects], np.float64),
        np.array([each.crowd for each in objects], bool),
        tuple(each.mask for each in objects if each.mask) if masked or not objects else None,
    )
