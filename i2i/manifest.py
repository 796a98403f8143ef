"""What a run on disk is: its fingerprint, its plan and its frozen statistics, so that a killed one goes on as it was begun."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from i2i.canvas import MANIFEST, Canvas, DiskCanvas
from i2i.canvas import clear as clear_folder
from i2i.contracts import Model, Output
from i2i.errors import InputError, OutputError
from i2i.files import replacing
from i2i.options import RunOptions
from i2i.planner import Plan
from i2i.version import __version__

_RESULT_OPTIONS = (
    "as_",
    "level",
    "series",
    "plane",
    "channels",
    "nan",
    "pixel_size",
    "seed",
    "model",
    "device",
    "precision",
    "backend",
)
_RESULTS = "results.json"
_MEGABYTE = 2**20
_HASHED_WHOLE = 64 * _MEGABYTE


def fingerprint(
    task: str,
    options: Any,
    run: RunOptions,
    path: Path,
    models: Sequence[Model],
    output: Output,
    files: Sequence[Path] = (),
    frames: bool = False,
) -> str:
    """Hex of what decides the result: the content of ``path``, the models, the task's own options, the ``files`` that these name
    and the run's options, this version; and whether ``frames`` of an animation are kept, which a run that goes on must have from
    its start. Raises ``InputError`` for one of the files that cannot be read."""
    known = {
        "version": __version__,
        "input": _content_hash(path),
        "task": task,
        "models": [model.sha256 for model in models],
        "files": [(_hash_of_file(file), _stamp(file)) for file in files],
        "frames": frames,
        "output": output.name,
        "options": {name: getattr(run, name) for name in _RESULT_OPTIONS} | asdict(options),
    }
    return hashlib.sha256(json.dumps(known, sort_keys=True, default=str).encode()).hexdigest()


def _hash_of_file(path: Path) -> str:
    try:
        return _content_hash(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error


def _content_hash(path: Path) -> str:
    """sha256 of a file up to 64 MB; above that of its size and its first and last megabytes. Of a folder, of the names, sizes
    and times of all files in it."""
    if path.is_dir():
        return _folder_hash(path)
    stat = path.stat()
    digest = hashlib.sha256(str(stat.st_size).encode())
    with path.open("rb") as stream:
        if stat.st_size <= _HASHED_WHOLE:
            digest.update(stream.read())
        else:
            digest.update(stream.read(_MEGABYTE))
            stream.seek(-_MEGABYTE, 2)
            digest.update(stream.read(_MEGABYTE))
    return digest.hexdigest()


def _folder_hash(folder: Path) -> str:
    digest = hashlib.sha256()
    for place, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            stat = os.stat(os.path.join(place, name))
            digest.update(os.fsencode(f"{os.path.relpath(place, folder)}/{name} {stat.st_size} {stat.st_mtime_ns}\n"))
    return digest.hexdigest()


def unfinished(folder: Path) -> bool:
    """Whether a killed run has left its work there."""
    return (folder / MANIFEST).exists()


def _stamp(path: Path) -> list[int]:
    """Size and time of a file that is too large to be hashed whole: changed in its middle it has the same fingerprint."""
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns] if stat.st_size > _HASHED_WHOLE else []


def clear(folder: Path, overwrite: bool) -> None:
    """Remove what a killed run left. Raises ``OutputError`` when that is a run to go on with, and is not to be thrown away."""
    if unfinished(folder) and not overwrite:
        raise OutputError(f"{folder}: a run that did not finish; --resume goes on with it, --overwrite starts again")
    clear_folder(folder)


def note_results(folder: Path, paths: Iterable[Path]) -> None:
    """Before files get their names, all of one run: which. A run that is killed among these goes on over those that have them."""
    with replacing(folder / _RESULTS) as temporary:
        temporary.write_text(json.dumps([os.path.abspath(path) for path in paths]), encoding="utf-8")


def noted_results(folder: Path) -> frozenset[str]:
    """The paths, whole ones, of :func:`note_results`; none where there are none yet, or the note is torn."""
    try:
        return frozenset(json.loads((folder / _RESULTS).read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return frozenset()


def begin(folder: Path, identity: str, source: Path, plan: Plan, statistics: Sequence[Mapping[str, Any]]) -> Canvas:
    """The canvas of a new run of the input ``source``. ``statistics``: those of each plane."""
    canvas = DiskCanvas(folder)
    values = {"fingerprint": identity, "input": _stamp(source), "plan": plan.as_mapping(), "statistics": list(statistics)}
    try:
        with replacing(folder / MANIFEST) as temporary:
            temporary.write_text(json.dumps(values, indent=1), encoding="utf-8")
    except OutputError:
        canvas.remove()
        raise
    return canvas


def resume(folder: Path, identity: str, source: Path, planes: int = 1) -> tuple[Canvas, Plan, list[Mapping[str, Any]]]:
    """The canvas and plan of a killed run, and the statistics of each plane. Raises ``OutputError`` when it is not the same run,
    or is damaged."""
    path = folder / MANIFEST
    try:
        recorded = json.loads(path.read_text("utf-8"))
        same = recorded["fingerprint"] == identity and recorded["input"] == _stamp(source)
        plan = Plan.from_mapping(recorded["plan"])
        statistics: list[Mapping[str, Any]] = [dict(recorded["statistics"][plane]) for plane in range(planes)]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise OutputError(f"{path}: unreadable; --overwrite starts again") from error
    if not same:
        raise OutputError(
            f"{folder}: was begun with another input, model, option or version; repeat those, or --overwrite starts again"
        )
    return DiskCanvas(folder), plan, statistics
