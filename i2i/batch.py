"""Many inputs: which files they are, where each result goes, and what became of each.

Everything that can be refused is refused before the first image is touched: outputs that exist, two inputs with one
output, an output that is its input.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from i2i import report as reports
from i2i.canvas import partial_folder
from i2i.contracts import Exporter, Format
from i2i.engine import Progress
from i2i.errors import I2IError, OutputError, UsageError
from i2i.formats import format_for_output
from i2i.options import RunOptions
from i2i.report import RunReport
from i2i.session import Item, Session

_MAGIC = "*?["


@dataclass(frozen=True)
class _Input:
    """A file, and its place below the folder that was given (its name, for a file given as such)."""

    path: Path
    relative: Path


def _readable(formats: Sequence[Format]) -> frozenset[str]:
    return frozenset(suffix for form in formats for suffix in form.suffixes)


def _in_folder(folder: Path, suffixes: frozenset[str]) -> Iterator[_Input]:
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and not name.endswith(".i2i-partial"))
        stores = [name for name in folders if Path(name).suffix.lower() in suffixes]
        folders[:] = [name for name in folders if name not in stores]
        for name in sorted([*files, *stores]):
            if Path(name).suffix.lower() in suffixes and not name.startswith("."):
                path = Path(root) / name
                yield _Input(path, path.relative_to(folder))


def expand(inputs: Sequence[str], formats: Sequence[Format]) -> tuple[list[_Input], bool]:
    """The files that the inputs name, and whether they are several by their nature (a folder, a glob, more than one).

    Raises ``UsageError`` when one names nothing.
    """
    suffixes = _readable(formats)
    found: list[_Input] = []
    several = len(inputs) > 1
    for text in inputs:
        path = Path(text)
        if path.is_dir() and path.suffix.lower() not in suffixes:
            files = list(_in_folder(path, suffixes))
            several = True
        elif not path.exists() and any(c in text for c in _MAGIC):
            files = [_Input(Path(p), Path(p).relative_to(_glob_root(text))) for p in sorted(glob.glob(text, recursive=True))]
            files = [file for file in files if file.path.suffix.lower() in suffixes]
            several = True
        else:
            files = [_Input(path, Path(path.name))]
        if not files:
            raise UsageError(f"{text}: no image there ({', '.join(sorted(suffixes))})")
        found += files
    return found, several


def _glob_root(pattern: str) -> Path:
    """The folder above a pattern's first wildcard."""
    fixed: list[str] = []
    for part in Path(pattern).parts:
        if any(c in part for c in _MAGIC):
            break
        fixed.append(part)
    return Path(*fixed)


def _output_suffix(path: Path, formats: Sequence[Format], lossy: bool) -> str:
    """The input's own where that format can be written and loses nothing; else PNG for pictures, TIFF for the rest."""
    suffix = path.suffix.lower()
    for form in formats:
        if suffix in form.suffixes:
            if form.write is not None and (lossy or not form.lossy):
                return suffix
            return ".png" if form.lossy or form.name in ("bmp", "raster") else ".tif"
    return ".tif"


def plan_items(
    session: Session, inputs: Sequence[str], output: str, exports: Mapping[str, str], names: Mapping[str, str] | None = None
) -> list[Item]:
    """An item for each input. ``output``: ``-o``, may be empty. ``exports``: exporter name -> file, or folder for several.
    ``names``: how messages call an input. Raises ``UsageError`` or ``OutputError`` before anything is written."""
    formats, task = session.formats, session.task
    files, several = expand(inputs, formats)
    exporters = {exporter.name: exporter for exporter in session.registry.exporters(task.name)}
    items = []
    for file in files:
        suffix = _output_suffix(file.path, formats, task.lossy)
        target, free = _target(file, files, several, output, task.name, suffix)
        named = _export_paths(exports, exporters, file, several)
        shown = (names or {}).get(str(file.path), str(file.path))
        items.append(Item(file.path, target, shown, free, named))
    _check(items, session.run, formats)
    return items


def _target(
    file: _Input, files: Sequence[_Input], several: bool, output: str, task: str, suffix: str
) -> tuple[Path, bool]:
    """The output path of an input, and whether its suffix was chosen here."""
    if several:
        folder = Path(output) if output else _default_folder(files, task)
        return folder / file.relative.with_suffix(suffix), True
    if not output:
        return file.path.with_name(f"{file.path.stem}-{task}{suffix}"), True
    path = Path(output)
    if path.is_dir() and path.suffix.lower() != ".zarr":
        return path / file.relative.with_suffix(suffix), True
    return path, False


def _default_folder(files: Sequence[_Input], task: str) -> Path:
    """``<folder>-<task>`` beside the folder that holds the inputs."""
    first = files[0]
    root = Path(*first.path.absolute().parts[: len(first.path.absolute().parts) - len(first.relative.parts)])
    return root.with_name(f"{root.name}-{task}")


def _export_paths(
    exports: Mapping[str, str], exporters: Mapping[str, Exporter], file: _Input, several: bool
) -> dict[str, Path]:
    paths = {}
    for name, text in exports.items():
        folder = several or Path(text).is_dir()
        paths[name] = Path(text) / file.relative.with_suffix(exporters[name].suffix) if folder else Path(text)
    return paths


def _check(items: Sequence[Item], run: RunOptions, formats: Sequence[Format]) -> None:
    taken: dict[Path, Item] = {}
    for item in items:
        format_for_output(item.output, formats)
        for path in (item.output, *item.exports.values()):
            place = Path(os.path.abspath(path))
            if place in taken:
                raise UsageError(f"{taken[place].name} and {item.name} would both write {path}; rename one, or run them apart")
            taken[place] = item
    sources = {_identity(item.path): item for item in items}
    for item in items:
        for path in (item.output, *item.exports.values()):
            if (known := _identity(path)) and known in sources:
                raise UsageError(f"{path}: the output is the input {sources[known].name}; choose another path")
    _refuse_existing(items, run)


def _identity(path: Path) -> tuple[int, int] | None:
    """Device and inode, the same for links to one file; None where there is nothing."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _refuse_existing(items: Sequence[Item], run: RunOptions) -> None:
    if run.overwrite or run.skip_existing or run.resume or run.dry_run:
        return
    existing = [path for item in items for path in (item.output, *item.exports.values()) if path.exists()]
    if existing:
        more = f" ({len(existing)} such)" if len(existing) > 1 else ""
        raise OutputError(f"{existing[0]}: exists{more}; --overwrite replaces it, --skip-existing leaves it")


def _is_complete(item: Item, run: RunOptions) -> bool:
    """Whether to leave an item alone: its output is there, whole (files get their names only when complete)."""
    if not (run.skip_existing or run.resume) or run.overwrite:
        return False
    return item.output.exists() and not partial_folder(item.output).exists()


def process(
    session: Session,
    items: Sequence[Item],
    progress: Callable[[Item], Progress] = lambda item: lambda stage, share: None,
    finished: Callable[[RunReport], None] = lambda report: None,
) -> list[RunReport]:
    """Every item, ``--jobs`` at a time; one that fails does not stop the others. Reports in the order of the items."""

    def one(item: Item) -> RunReport:
        if _is_complete(item, session.run):
            result = RunReport(session.task.name, item.name, str(item.output), reports.SKIPPED)
        else:
            result = _attempt(session, item, progress(item))
        finished(result)
        return result

    if session.run.jobs == 1 or len(items) == 1:
        return [one(item) for item in items]
    with ThreadPoolExecutor(session.run.jobs) as workers:
        return list(workers.map(one, items))


def _attempt(session: Session, item: Item, progress: Progress) -> RunReport:
    try:
        if not session.run.dry_run:
            _make_folder(item.output.parent)
        return session.process(item, progress)
    except I2IError as error:
        return RunReport(session.task.name, item.name, str(item.output), reports.FAILED, error=str(error))


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made: {error.strerror}; choose another -o") from error

