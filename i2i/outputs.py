"""What can be refused of the outputs before the first image is touched, and which of them are complete already."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from i2i.canvas import partial_folder
from i2i.contracts import Exporter, Format, Task
from i2i.errors import InputError, OutputError, UsageError
from i2i.files import identity
from i2i.formats import format_for_output
from i2i.manifest import noted_results, unfinished
from i2i.options import RunOptions
from i2i.provenance import record_of
from i2i.publish import EXPORT_MARK, check_compression
from i2i.session import Item, Session


def check(
    items: Sequence[Item],
    run: RunOptions,
    formats: Sequence[Format],
    task: Task,
    exporters: Mapping[str, Exporter],
    files: Sequence[Path] = (),
) -> None:
    """Raises ``UsageError`` or ``OutputError`` for outputs that cannot be, that are in each other's way or there already;
    ``InputError`` for one of the ``files`` that the task reads besides that is not there."""
    for path in files:
        if not path.exists():
            raise InputError(f"{path}: no such file")
    for item in items:
        form = format_for_output(item.output, formats)
        if form.lossy and not task.lossy:
            raise UsageError(f"{item.output}: {form.name} loses what {task.name} measures; use .png or .tif")
        check_compression(item.output, form, run.compression)
        for name, path in item.exports.items():
            _check_suffix(exporters[name], path)
    if run.measure and not all("csv" in item.exports for item in items):
        raise UsageError(f"--measure {run.measure}: is for the table; give it a file with --csv")
    _refuse_collisions(items)
    _refuse_inputs(items, files)
    folders = {path: name for item in items for name, path in item.exports.items() if exporters[name].folder}
    _refuse_what_lies_in(folders, items, files)
    if not run.dry_run:
        todo = [item for item in items if _kept_output(item, run) is None]
        _refuse_foreign(folders, todo)
        if not (run.overwrite or run.skip_existing or run.resume):  # those are of single images: see complete_output
            _refuse_existing(todo, run)


def _check_suffix(exporter: Exporter, path: Path) -> None:
    known = exporter.suffixes
    if known and path.suffix.lower() not in known:
        endings = " or ".join([", ".join(known[:-1]), known[-1]]) if len(known) > 1 else known[0]
        raise UsageError(f"--{exporter.name} {path}: end it with {endings}")


def _files(item: Item) -> list[Path]:
    return [item.output, *item.exports.values()]


def _refuse_collisions(items: Sequence[Item]) -> None:
    taken: dict[Path, Item] = {}
    for item in items:
        for path in _files(item):
            place = Path(os.path.abspath(path))
            if taken.get(place) is item:
                raise UsageError(f"{path}: is to hold two results; give each a path of its own")
            if place in taken:
                raise UsageError(f"{taken[place].name} and {item.name} would both write {path}; rename one, or run them apart")
            taken[place] = item


def _refuse_inputs(items: Sequence[Item], files: Sequence[Path]) -> None:
    sources = {identity(path): str(path) for path in files} | {identity(item.path): item.name for item in items}
    for item in items:
        for path in _files(item):
            if (known := identity(path)) and known in sources:
                raise UsageError(f"{path}: the output is the input {sources[known]}; choose another path")


def _refuse_what_lies_in(folders: Mapping[Path, str], items: Sequence[Item], files: Sequence[Path]) -> None:
    """A folder that is written is written whole, and replaced whole: nothing else is in it."""
    if not folders:
        return
    places = {Path(os.path.realpath(path)): path for path in folders}
    here = Path(os.path.realpath("."))
    for folder in [places[place] for place in (here, *here.parents) if place in places]:
        raise UsageError(f"--{folders[folder]} {folder}: is the current folder, or holds it; choose a new one")
    for path in [*files, *(path for item in items for path in (item.path, *_files(item)))]:
        for folder in [places[place] for place in Path(os.path.realpath(path)).parents if place in places]:
            raise UsageError(
                f"{path}: is in {folder}, which --{folders[folder]} writes as a whole; choose another folder for that"
            )


def _refuse_foreign(folders: Mapping[Path, str], items: Sequence[Item]) -> None:
    """What is where a folder is to be and was not written by an exporter stays, even with ``--overwrite``."""
    for path in [path for item in items for path in item.exports.values() if path in folders and path.exists()]:
        if not path.is_dir():
            raise OutputError(f"{path}: is a file, and --{folders[path]} writes a folder; choose another name")
        if not (path / EXPORT_MARK).exists() and any(path.iterdir()):
            raise OutputError(f"{path}: holds what --{folders[path]} did not write, and is not replaced; choose another folder")


# ------------------------------------------------------------------------------------------------- what is there already


def complete_output(item: Item, session: Session) -> tuple[Path, list[str]] | None:
    """The output of an item that is to be left alone, with warnings: it is there, whole (files get their names only when
    complete, the output after its exports). None: the image is to be computed.

    Raises ``OutputError`` for what is there and is no image, was made otherwise (with ``--resume``; else a warning), lacks an
    export that is asked for, or is an export without its output: of ``--skip-existing`` and ``--resume`` these are matters of
    one image, which stop no other."""
    run = session.run
    there = _kept_output(item, run)
    if there is None:
        if (run.skip_existing or run.resume) and not run.dry_run:
            _refuse_existing([item], run)
        return None
    try:
        record = record_of(there, session.formats)
    except InputError as error:
        raise OutputError(f"{there}: exists, and is no complete result; --overwrite replaces it") from error
    missing = [path for path in item.exports.values() if not path.exists()]
    if missing:
        raise OutputError(f"{there}: complete, but {missing[0]} is missing; --overwrite computes both again")
    other = session.loader.made_otherwise(record)
    if other and (run.resume or run.strict):
        raise OutputError(f"{there}: exists, and {other}; --overwrite replaces it")
    return there, [f"{there} is left as it is: it {other}; --overwrite replaces it"] if other else []


def _kept_output(item: Item, run: RunOptions) -> Path | None:
    """What is where the output goes and is not to be written over. What it is, is another question."""
    folder = partial_folder(item.output)
    begun = folder.exists() if run.resume else unfinished(folder)
    if not (run.skip_existing or run.resume) or run.overwrite or begun:
        return None
    return next((path for path in (item.output, item.fallback) if path is not None and path.exists()), None)


def _refuse_existing(items: Sequence[Item], run: RunOptions) -> None:
    """No file that is there is written over."""
    existing = [path for item in items for path in _in_the_way(item, run) if path.exists()]
    if existing:
        more = f" ({len(existing)} such)" if len(existing) > 1 else ""
        keeping = run.skip_existing or run.resume
        cure = " and its image is still to be computed; --overwrite replaces it" if keeping else "; --overwrite replaces it"
        raise OutputError(f"{existing[0]}: exists{more}{cure}" + ("" if keeping else ", --skip-existing leaves it"))


def _in_the_way(item: Item, run: RunOptions) -> list[Path]:
    """The files that an item would write over. None when a killed run goes on that was to replace them: its output is there;
    nor those that it was giving their names when it was killed."""
    folder = partial_folder(item.output)
    resumed = run.resume and folder.exists()
    if resumed and item.output.exists():
        return []
    own = noted_results(folder) if resumed else ()
    return [path for path in _files(item) if os.path.abspath(path) not in own]


def check_folders(item: Item) -> None:
    """Raises ``OutputError`` when a folder that the item needs cannot be made; makes none."""
    for path in _files(item):
        folder = path.parent
        there = next((place for place in (folder, *folder.parents) if place.exists()), folder)
        if not there.is_dir():
            raise OutputError(f"{there}: cannot be made: it is a file; choose another place")
        if not os.access(there, os.W_OK | os.X_OK):
            what = f"{path}: cannot be written" if there == folder else f"{folder}: cannot be made"
            raise OutputError(f"{what}: {os.strerror(_refusal(there))}; choose another place")


def _refusal(folder: Path) -> int:
    """The system's error for a folder that may not be written."""
    return errno.EROFS if os.statvfs(folder).f_flag & os.ST_RDONLY else errno.EACCES
