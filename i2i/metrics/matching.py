"""Which images and classes of a prediction are which of the truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

import numpy as np

from i2i.errors import InputError
from i2i.files import stem_of
from i2i.metrics.coco import AnnotatedSet
from i2i.metrics.detections import Annotations


@dataclass(frozen=True)
class Matched:
    """``found`` and ``true``: objects image by image, with the truth's class numbers; ``names`` of these. ``left_out``: how many
    detections are of a class that the truth does not have."""

    found: Sequence[Annotations]
    true: Sequence[Annotations]
    names: Mapping[int, str]
    left_out: int


def match_sets(found: AnnotatedSet, true: AnnotatedSet, ignore_classes: bool = False) -> Matched:
    """The objects of each true image beside those found in it.

    Images are matched by file name without suffix, and with as many of the folders above as tell them apart; a single one is
    that of the other side. Classes are matched by name where both sides have names, else by number; a single one is
    that of the other side; all are one with ``ignore_classes``, or where a side has none. Images that only the prediction has
    do not count. Raises ``InputError`` for true images without a prediction, for other sizes, and where all classes are unknown.
    """
    pairs = [(name, name) for name in true.files] if found.listed else _pairs(found, true)
    for first, second in pairs:
        _check_size(found, first, true, second)
    numbers = {} if ignore_classes or not (found.classes and true.classes) else _numbers(found, true)
    seen = [found.objects[first] for first, _ in pairs]
    if not numbers:
        return Matched([_of_one(each) for each in seen], [_of_one(true.objects[name]) for _, name in pairs], {}, 0)
    kept = [_renumbered(each, numbers) for each in seen]
    left_out = sum(map(len, seen)) - sum(map(len, kept))
    return Matched(kept, [true.objects[name] for _, name in pairs], true.classes if all(true.classes.values()) else {}, left_out)


def _pairs(found: AnnotatedSet, true: AnnotatedSet) -> list[tuple[str, str]]:
    if len(found.files) == len(true.files) == 1:
        return [(next(iter(found.files)), next(iter(true.files)))]
    by_stem: dict[str, list[tuple[tuple[str, ...], str]]] = {}
    for name, file in found.files.items():
        parts = _parts(file)
        by_stem.setdefault(parts[0], []).append((parts, name))
    pairs, missing = [], []
    for name, file in true.files.items():
        parts = _parts(file)
        rivals = sorted(((_common(parts, other), key) for other, key in by_stem.get(parts[0], ())), reverse=True)
        if not rivals:
            missing.append(file)
        elif len(rivals) > 1 and rivals[0][0] == rivals[1][0]:
            raise InputError(f"{found.path}: holds several images named {parts[0]}, like {file} of the truth; name them apart")
        else:
            pairs.append((rivals[0][1], name))
    if missing:
        raise InputError(f"{found.path}: no prediction for the image {missing[0]} of {true.path} ({len(missing)} such)")
    _check_shared(found, true, pairs)
    return pairs


def _check_shared(found: AnnotatedSet, true: AnnotatedSet, pairs: Sequence[tuple[str, str]]) -> None:
    """Raises ``InputError`` where one predicted image is that of two true ones."""
    owners: dict[str, str] = {}
    for first, second in pairs:
        if first in owners:
            both = f"{true.files[owners[first]]} and {true.files[second]} of {true.path}"
            raise InputError(f"{found.path}: {found.files[first]} is the only prediction for {both}; give each its own")
        owners[first] = second


def _parts(file: str) -> tuple[str, ...]:
    """The name without suffix (``.ome.tif`` is one), then its folders from the last on."""
    path = PurePosixPath(file.replace("\\", "/"))
    return (stem_of(path.name), *reversed(path.parts[:-1]))


def _common(first: Sequence[str], second: Sequence[str]) -> int:
    equal = [one == other for one, other in zip(first, second, strict=False)]
    return len(equal) if all(equal) else equal.index(False)


def _check_size(found: AnnotatedSet, first: str, true: AnnotatedSet, second: str) -> None:
    sizes = [found.sizes.get(first), true.sizes.get(second)]
    if all(sizes) and sizes[0] != sizes[1]:
        shown = [f"{size[0]} x {size[1]}" for size in sizes if size]
        raise InputError(f"{found.path}: {found.files[first]} is {shown[0]}, in the truth {shown[1]}: compare images of one size")


def _numbers(found: AnnotatedSet, true: AnnotatedSet) -> dict[int, int]:
    """The truth's class number for that of the prediction. Raises ``InputError`` where none of those found is known."""
    if found.listed or len(found.classes) == len(true.classes) == 1:
        return dict(zip(found.classes, true.classes, strict=True))
    if all(found.classes.values()) and all(true.classes.values()):
        by_name = {name: number for number, name in true.classes.items()}
        numbers = {number: by_name[name] for number, name in found.classes.items() if name in by_name}
    else:
        numbers = {number: number for number in found.classes if number in true.classes}
    used = {int(number) for each in found.objects.values() for number in each.classes}
    if used.isdisjoint(numbers) and (used or not numbers):
        shown = [", ".join(name or str(number) for number, name in each.classes.items())[:80] for each in (found, true)]
        raise InputError(f"{found.path}: its categories ({shown[0]}) are none of the truth's ({shown[1]}); give --ignore-classes")
    return numbers


def _renumbered(each: Annotations, numbers: Mapping[int, int]) -> Annotations:
    kept = [place for place, number in enumerate(each.classes.tolist()) if number in numbers]
    masks = tuple(each.masks[place] for place in kept) if each.masks is not None else None
    classes = np.array([numbers[int(each.classes[place])] for place in kept], np.int64)
    return Annotations(each.boxes[kept], classes, each.scores[kept], each.areas[kept], each.crowds[kept], masks)


def _of_one(each: Annotations) -> Annotations:
    return replace(each, classes=np.ones(len(each), np.int64))
