"""Results against the truth: the figures of two files, or of two folders."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from i2i import batch
from i2i import options as option_types
from i2i.contracts import Array, Compared, Source
from i2i.errors import InputError, UsageError
from i2i.files import stem_of
from i2i.formats import builtin_formats, open_image
from i2i.formats.views import View, read_whole
from i2i.planes import plane_names
from i2i.publish import renamed
from i2i.registry import Registry

_WORK = 40
"""Bytes that it takes to compare a pixel of two label images (measured); images of colours take more."""


@dataclass(frozen=True)
class EvalReport:
    """``pooled``: figures of the set; ``images``: those of each image by its name, of a stack those of
    each plane (``x z=3``); of files that the task compares as a whole, those of the set, by the name of the truth."""

    pooled: Mapping[str, float]
    images: Mapping[str, Mapping[str, float]]


def evaluate(
    task: str,
    prediction: str | Path,
    truth: str | Path,
    *,
    inside: str | Path = "",
    registry: Registry | None = None,
    **options: Any,
) -> EvalReport:
    """Compare two files, or two folders whose files have the same names but for their suffixes. ``inside``: a file, or a folder
    with the same names: only pixels that are not 0 there count. ``options``: the task's. Raises ``I2IError``."""
    known = (registry or Registry()).task(task)
    if known.evaluate is None:
        raise UsageError(f"{task} has no evaluation")
    values: Any = option_types.make(known.evaluate.options, options)
    whole = known.evaluate.files and known.evaluate.files(Path(prediction), Path(truth), values)
    if whole is not None:
        if inside:
            raise UsageError("--inside goes with images that are compared pixel by pixel; leave it out")
        return EvalReport(whole, {stem_of(Path(truth).name): whole})
    images = {}
    pairs = pairs_of(Path(prediction), Path(truth))
    masks = {name: path for name, path, _ in pairs_of(Path(inside), Path(truth), "mask")} if inside else {}
    for name, first, second in pairs:
        for plane, case in _cases(name, first, second, masks.get(name)):
            shown = f"{name} {plane}".rstrip()
            try:
                images[shown] = known.evaluate.measure(case, values)
            except InputError as error:
                raise InputError(f"{f'{first} {plane}'.rstrip()} (truth: {second}): {error}") from error
    return EvalReport(known.evaluate.pool(list(images.values())), images)


def _cases(name: str, prediction: Path, truth: Path, mask: Path | None) -> Iterator[tuple[str, Compared]]:
    """Each plane of the truth, by its name, such as ``z=3`` (of an image of one plane, an empty one), with that of the prediction
    and, where there is one, of the mask, which may have one plane for all. Raises ``InputError`` where the files differ in size
    or planes, or no pixel counts."""
    with ExitStack() as held:
        found, true = (held.enter_context(closing(open_image(path))) for path in (prediction, truth))
        inside = held.enter_context(closing(open_image(mask))) if mask else None
        count = true.spec.plane_count
        for path, source, counts in ((prediction, found, (count,)), (mask, inside, (1, count))):
            if source is not None and source.spec.plane_count not in counts:
                planes = f"{source.spec.plane_count} plane{'s' * (source.spec.plane_count != 1)}"
                raise InputError(f"{path}: holds {planes}, the truth {truth.name} {count}: compare images of the same planes")
        for number, plane in enumerate(plane_names(true.spec)):
            counted = None
            if mask and inside:
                counted = np.asarray(_pixels(inside, min(number, inside.spec.plane_count - 1), mask).any(axis=2))
            case = Compared(_pixels(found, number, prediction), _pixels(true, number, truth), counted, name)
            _check(case, prediction, truth, mask)
            yield plane, case


def _check(case: Compared, prediction: Path, truth: Path, mask: Path | None) -> None:
    for path, pixels in ((prediction, case.prediction), (mask, case.inside)):
        if pixels is not None and pixels.shape[:2] != case.truth.shape[:2]:
            sizes = [f"{array.shape[0]} x {array.shape[1]}" for array in (pixels, case.truth)]
            raise InputError(f"{path}: is {sizes[0]}, the truth {truth.name} {sizes[1]}: compare images of one size")
    if case.inside is not None and not case.inside.any():
        raise InputError(f"{mask}: is 0 everywhere, so that no pixel counts")


def _pixels(source: Source, plane: int, path: Path) -> Array:
    return read_whole(View(source, plane), path, _WORK)


def pairs_of(prediction: Path, truth: Path, kind: str = "prediction") -> list[tuple[str, Path, Path]]:
    """(name, prediction, truth) of two files, or of the images in two folders and the folders in them, which are named by
    their paths without suffix. Every truth needs a prediction, or what else ``kind`` says the first are. Raises
    ``InputError`` or ``UsageError``."""
    if not truth.is_dir():
        return [(stem_of(truth.name), prediction, truth)]
    if not prediction.is_dir():
        raise InputError(f"{prediction}: {truth} is a folder, so give a folder of {kind}s with the same names")
    predictions, truths = _named(prediction), _named(truth)
    missing = sorted(set(truths) - set(predictions))
    if missing:
        raise InputError(f"{truths[missing[0]]}: no {kind} of that name in {prediction} ({len(missing)} such)")
    return [(name, predictions[name], truths[name]) for name in truths]


def _named(folder: Path) -> dict[str, Path]:
    files, _ = batch.expand([str(folder)], builtin_formats())
    named: dict[str, Path] = {}
    for file in files:
        name = renamed(file.relative, "").as_posix()
        if name in named:
            raise InputError(f"{file.path}: {named[name].name} has the same name but for the suffix; keep one of them")
        named[name] = file.path
    return named
