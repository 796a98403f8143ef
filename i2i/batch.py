"""Many inputs: which files they are, where each result goes, and what became of each.

Everything that can be refused is refused before the first image is touched: outputs that exist, two inputs with one
output, an output that is its input, a format that cannot hold the result.
"""

from __future__ import annotations

import glob
import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from i2i import report as reports
from i2i.contracts import Exporter, Format
from i2i.engine import DeviceFull, Progress
from i2i.errors import I2IError, InputError, UsageError, unforeseen
from i2i.outputs import check, check_folders, complete_output
from i2i.publish import renamed
from i2i.report import RunReport
from i2i.session import Computed, Item, Session

_MAGIC = "*?["
_LOG = logging.getLogger("i2i")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Input:
    """A file, and its place below the folder that was given (its name, for a file given as such). ``top``: the file; for an
    image inside a Zarr, such as a field of a plate, that Zarr: results lie beside it. Such an image is called after all of its
    place, ``plate-A-1-0.zarr``. ``problem``: why it is no image: a folder that cannot be searched."""

    path: Path
    relative: Path
    top: Path
    problem: str = ""


# ------------------------------------------------------------------------------------------------------------- inputs


def expand(inputs: Sequence[str], formats: Sequence[Format], output: str = "") -> tuple[list[Input], bool]:
    """The files that the inputs name, and whether they are several by their nature (a folder, a glob, more than one). What
    lies in the folder ``output`` is left out: the results of the last run are no inputs of the next. A folder that cannot be
    searched is one of them, with its ``problem``.

    Raises ``UsageError`` when one names nothing.
    """
    suffixes = frozenset(suffix for form in formats for suffix in form.suffixes)
    found: list[Input] = []
    several = len(inputs) > 1
    for text in inputs:
        path = Path(text)
        if path.is_dir() and path.suffix.lower() not in suffixes and not _is_image(path, formats):
            files = list(_in_folder(path, suffixes, Path(output).absolute() if output else None))
            several = True
        elif not path.exists() and any(c in text for c in _MAGIC):
            matches = [Path(match) for match in sorted(glob.glob(text, recursive=True))]
            if not matches:
                raise UsageError(f"{text}: matches no file; in quotes, ** stands for folders of any depth")
            images = {match for match in matches if match.suffix.lower() in suffixes or _is_image(match, formats)}
            alone = [match for match in matches if match in images and images.isdisjoint(match.parents)]
            files = [_input(match, match.relative_to(_glob_root(text)), formats) for match in alone]
            several = True
        else:
            files = [_input(path, Path(path.name), formats)]
        if not files:
            raise UsageError(f"{text}: no image there ({', '.join(sorted(suffixes))})")
        found += files
    return found, several


def _is_image(path: Path, formats: Sequence[Format]) -> bool:
    """Whether a folder is an image, or holds images as its parts."""
    return path.is_dir() and any(form.sniff(b"", path) for form in formats)


def _input(path: Path, relative: Path, formats: Sequence[Format]) -> Input:
    """The input at ``path``, which may lie inside a Zarr."""
    place = Path(os.path.abspath(path))
    around = [folder for folder in place.parents if path.is_dir() and _is_image(folder, formats)]
    if not around:
        return Input(path, relative, path)
    top, inner = around[-1], place.relative_to(around[-1]).parts
    name = "-".join([renamed(top, "").name, *inner]) + top.suffix
    shown = top if path.is_absolute() else Path(os.path.relpath(top.parent)) / top.name
    return Input(path, Path(*relative.parts[: -len(inner) - 1], name), shown)


def _in_folder(folder: Path, suffixes: frozenset[str], without: Path | None) -> Iterator[Input]:
    unread: list[OSError] = []
    for root, folders, files in os.walk(folder, onerror=unread.append):
        stores = [name for name in folders if Path(name).suffix.lower() in suffixes]
        folders[:] = sorted(name for name in folders if name not in stores and _is_searched(Path(root, name), without))
        for name in sorted([*files, *stores]):
            if Path(name).suffix.lower() in suffixes and not name.startswith("."):
                path = Path(root) / name
                yield Input(path, path.relative_to(folder), path)
    for error in unread:
        path = Path(error.filename)
        told = f"{path}: cannot be searched: {error.strerror}; what is in it is left out"
        yield Input(path, path.relative_to(folder), path, told)


def _is_searched(folder: Path, without: Path | None) -> bool:
    return not folder.name.startswith(".") and not folder.name.endswith(".i2i-partial") and folder.absolute() != without


def _glob_root(pattern: str) -> Path:
    """The folder above a pattern's first wildcard."""
    fixed: list[str] = []
    for part in Path(pattern).parts:
        if any(c in part for c in _MAGIC):
            break
        fixed.append(part)
    return Path(*fixed)


# ------------------------------------------------------------------------------------------------------------ outputs


def plan_items(
    session: Session,
    inputs: Sequence[str],
    output: str,
    exports: Mapping[str, str],
    names: Mapping[str, str] | None = None,
    several: bool = False,
) -> list[Item]:
    """An item for each input, also for those that have a problem. ``output``: ``-o``, may be empty. ``exports``: exporter name ->
    file (or folder, as the exporter has it), or for several inputs the folder of these.
    ``names``: how messages call an input; ``several``: they are several by their nature (a list), even one.

    Raises ``UsageError``, ``InputError`` or ``OutputError`` before anything is written."""
    formats, task = session.formats, session.task
    files, many = expand(inputs, formats, output)
    several |= many
    if several and _names_a_file(output, formats):
        count = f"there are {len(files)} inputs" if len(files) > 1 else "the input is a folder, pattern or list"
        raise UsageError(f"-o {output}: names one file, and {count}; give a folder, such as {Path(output).stem}/")
    exporters = {exporter.name: exporter for exporter in session.registry.exporters(task.name)}
    asked = "." + session.run.format.lower().lstrip(".") if session.run.format else ""
    items: list[Item] = []
    unread: list[Item] = []
    for file in files:
        if file.problem:
            unread.append(Item(file.path, Path(output, file.relative), str(file.path), problem=file.problem))
            continue
        suffix = asked or _suffix(file.path, formats, task.lossy)
        target, free = _target(file, files, several, output, task.name, suffix)
        if asked and not target.name.lower().endswith(asked):
            raise UsageError(f"--format {session.run.format}: -o {output} says otherwise; leave one of them out")
        fallback = renamed(target, ".tif") if free and not asked and suffix != ".tif" else None
        shown = (names or {}).get(str(file.path), str(file.path))
        item = Item(file.path, target, shown, fallback, _export_paths(exports, exporters, file, several))
        items += _numbered(item, task.results(session.options) if task.results else 1)
    outputs = {item.output for item in items}
    items = [replace(item, fallback=None) if item.fallback in outputs else item for item in items]
    check(items, session.run, formats, task, exporters, session.files)
    return items + unread


def _names_a_file(output: str, formats: Sequence[Format]) -> bool:
    path = Path(output)
    known = any(path.suffix.lower() in form.suffixes for form in formats)
    return known and not output.endswith(("/", os.sep)) and (path.suffix.lower() == ".zarr" or not path.is_dir())


def _numbered(item: Item, count: int) -> list[Item]:
    """An item for each of several results: their files have a number, from 1, behind their names."""
    if count == 1:
        return [item]

    def named(path: Path, number: int) -> Path:
        stem = renamed(path, "").name
        return path.with_name(f"{stem}-{number + 1}{path.name[len(stem) :]}")

    return [
        replace(
            item, output=named(item.output, number), fallback=item.fallback and named(item.fallback, number), number=number,
            exports={name: named(path, number) for name, path in item.exports.items()},
        )
        for number in range(count)
    ]  # fmt: skip


def _suffix(path: Path, formats: Sequence[Format], lossy: bool) -> str:
    """The input's own where that format can be written and loses nothing; else PNG for pictures, TIFF for the rest."""
    suffix = path.suffix.lower()
    for form in formats:
        if suffix in form.suffixes:
            if form.write is not None and (lossy or not form.lossy):
                return suffix
            return ".png" if form.lossy or form.name == "BMP" else ".tif"
    return ".tif"


def _target(file: Input, files: Sequence[Input], several: bool, output: str, task: str, suffix: str) -> tuple[Path, bool]:
    """The output path of an input, and whether its suffix was chosen here."""
    if several:
        folder = Path(output) if output else _default_folder(files, task)
        return folder / renamed(file.relative, suffix), True
    if not output:
        return renamed(file.top.with_name(file.relative.name), f"-{task}{suffix}"), True
    path = Path(output)
    if output.endswith(("/", os.sep)) or (path.is_dir() and path.suffix.lower() != ".zarr"):
        return path / renamed(file.relative, suffix), True
    if not path.suffix:
        raise UsageError(f"-o {output}: end it with a suffix for a file, such as {output}{suffix}, or with / for a folder")
    return path, False


def _default_folder(files: Sequence[Input], task: str) -> Path:
    """``<folder>-<task>`` beside the folder that holds the inputs; ``<plate>-<task>`` beside the Zarr that holds all of them."""
    first = files[0]
    if first.top != first.path and all(file.top == first.top for file in files):
        return renamed(first.top, f"-{task}")
    root = first.top.parents[len(first.relative.parts) - 1]
    folder = root.absolute() if root.name in ("", "..") else root
    if not folder.name:
        raise UsageError(f"{first.path}: say with -o where the results go")
    named = folder.with_name(f"{folder.name}-{task}")
    return named if folder is root else Path(os.path.relpath(named))


def _export_paths(exports: Mapping[str, str], exporters: Mapping[str, Exporter], file: Input, several: bool) -> dict[str, Path]:
    paths = {}
    for name, text in exports.items():
        if text == "-":
            raise UsageError(f"--{name} -: is a file of its own, and stdout is for the image; give a name")
        exporter = exporters[name]
        folder = several or (not exporter.folder and (text.endswith(("/", os.sep)) or Path(text).is_dir()))
        paths[name] = Path(text) / renamed(file.relative, exporter.suffix) if folder else Path(text)
    return paths


# ----------------------------------------------------------------------------------------------------------------- run


def process_one(session: Session, item: Item, progress: Progress = lambda stage, share: None) -> RunReport:
    """One item, or nothing when its output is complete and may stay. Raises ``I2IError``."""
    computed = _compute(session, item, progress)
    return computed.finish() if isinstance(computed, Computed) else computed


def _compute(session: Session, item: Item, progress: Progress) -> Computed | RunReport:
    """One item up to its files; the report when its output is complete and may stay. Raises ``I2IError``."""
    if item.problem:
        raise InputError(item.problem)
    there = complete_output(item, session)
    if there is not None:
        path, warnings = there
        return RunReport(session.task.name, item.name, str(path), reports.SKIPPED, warnings=warnings)
    if not session.run.dry_run:
        check_folders(item)
    return _with_room(session.seeded(item.number), item, progress)


def _with_room(session: Session, item: Item, progress: Progress, told: tuple[str, ...] = ()) -> Computed:
    """The item up to its files; on a device whose memory is full from the beginning again, with smaller windows, and told so."""
    try:
        computed = session.compute(item, progress)
        computed.report.warnings[:0] = told
        return computed
    except DeviceFull as full:
        plan = full.plan
    side = min(plan.tile)
    text = f"the memory of {plan.device} was full; began again with windows of {plan.batch} x {side} x {side} pixels"
    if session.run.strict:
        raise InputError(f"{item.name}: {text} (an error because of --strict)")
    return _with_room(session.with_windows(side, plan.batch), item, progress, (*told, text))


def process(
    session: Session,
    items: Sequence[Item],
    progress: Callable[[Item], Progress] = lambda item: lambda stage, share: None,
    finished: Callable[[RunReport], None] = lambda report: None,
) -> list[RunReport]:
    """Every item, ``--jobs`` at a time; one that fails does not stop the others. Reports in the order of the items."""
    if session.run.jobs == 1:
        return _one_by_one(session, items, progress, finished)
    stop = threading.Event()

    def one(item: Item) -> RunReport:
        result = _attempt(session, item, lambda: process_one(session, item, _stoppable(progress(item), stop)))
        finished(result)
        return result

    with ThreadPoolExecutor(session.run.jobs) as workers:
        futures = [workers.submit(one, item) for item in items]
        try:
            return [future.result() for future in futures]
        except BaseException:
            stop.set()
            workers.shutdown(wait=False, cancel_futures=True)
            raise


def _one_by_one(
    session: Session, items: Sequence[Item], progress: Callable[[Item], Progress], finished: Callable[[RunReport], None]
) -> list[RunReport]:
    """In this thread; but the files of a small result are written by another while the next image is computed, which has ended
    that when this returns or is interrupted."""

    def end(item: Item, computed: Computed | RunReport) -> RunReport:
        result = _attempt(session, item, computed.finish) if isinstance(computed, Computed) else computed
        finished(result)
        return result

    done: list[RunReport] = []
    written: list[Future[RunReport]] = []
    with ThreadPoolExecutor(1, "i2i-publish") as writer:
        for item in items:
            computed = _attempt(session, item, partial(_compute, session, item, progress(item)))
            done += [written.pop().result()] if written else []
            if isinstance(computed, Computed) and computed.small and item is not items[-1]:
                written.append(writer.submit(end, item, computed))
            else:
                done.append(end(item, computed))
    return done


def _stoppable(progress: Progress, stop: threading.Event) -> Progress:
    """Progress that ends its thread's image when the main thread was interrupted."""

    def told(stage: str, share: float) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        progress(stage, share)

    return told


def _attempt(session: Session, item: Item, work: Callable[[], Result]) -> Result | RunReport:
    """What ``work`` gives; when it fails, a report of that."""
    try:
        return work()
    except I2IError as error:
        failure: Exception = error
        text, code = str(error).replace(str(item.path), item.name), error.exit_code
        if isinstance(error, InputError) and ": " not in text:  # of a plugin that was given pixels alone
            text = f"{item.name}: {text}"
    except Exception as error:  # a plugin may raise anything, and one image must not stop the others
        failure = error
        text, code = f"{item.name}: {unforeseen(error, session.task.name)}", 1
    _LOG.debug("%s", item.name, exc_info=failure)
    return RunReport(session.task.name, item.name, str(item.output), reports.FAILED, error=text, exit_code=code)
