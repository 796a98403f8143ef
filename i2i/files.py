"""Files that are whole or not there."""

from __future__ import annotations

import os
import platform
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from uuid import uuid4
from zlib import crc32

from i2i.errors import OutputError

_TEMPORARY = re.compile(r"^\..*\.i2i-(?P<host>[0-9a-f]{8})-(?P<pid>\d+)-[0-9a-f]{8}")
_swept: set[Path] = set()


def stem_of(name: str) -> str:
    """A file's name without its suffix, of which ``.ome.tif``, ``.ome.zarr`` and ``.tar.gz`` are one: what results are named by,
    and what images, masks and predictions are paired by."""
    stem = Path(name).stem
    return Path(stem).stem if Path(stem).suffix.lower() in (".ome", ".tar") else stem


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """What the system refuses while ``path`` is written (a folder that is missing or read-only, a full disk) becomes an
    ``OutputError`` that names it."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}; choose another place") from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path in the folder of ``path``, with its suffix, to write a file or a folder to. At the end it is flushed
    to the disk and renamed to ``path``; after an error nothing is left of it. What killed processes left in the folder goes.

    Raises ``OutputError`` for what the system refuses.
    """
    _sweep(path.parent)
    temporary = path.with_name(f".{path.stem}.i2i-{_host()}-{os.getpid()}-{uuid4().hex[:8]}{path.suffix}")
    try:
        with writing(path):
            yield temporary
            _flush(temporary)
            _take_place(temporary, path)
            _sync(path.parent)
    finally:
        remove(temporary)


def _take_place(new: Path, path: Path) -> None:
    """Rename ``new`` to ``path``; a folder that is there, which a rename does not replace, steps aside first."""
    old = path.with_name(f"{new.name}.old")
    if new.is_dir() and path.is_dir():
        os.replace(path, old)
    os.replace(new, path)
    remove(old)


def identity(path: Path) -> tuple[int, int] | None:
    """Device and inode, the same for links to one file; None where there is nothing."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def is_one_of(path: Path, others: Iterable[Path]) -> bool:
    """Whether ``path`` is there, and is one of ``others`` or a link to it."""
    own = identity(path)
    return own is not None and any(identity(other) == own for other in others)


def remove(path: Path) -> None:
    """Remove a file or a folder with all it holds, if it is there."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(FileNotFoundError, NotADirectoryError):
            path.unlink()


def _sweep(folder: Path) -> None:
    """Remove the temporary files that processes of this host have left which are no more. Once a folder: it may be large."""
    folder = folder.absolute()
    if folder in _swept:
        return
    _swept.add(folder)
    with suppress(OSError):
        for name in os.listdir(folder):
            found = _TEMPORARY.search(name)
            if found and found["host"] == _host() and not _is_alive(int(found["pid"])):
                remove(folder / name)


@cache
def _host() -> str:
    """Hex of where a process id means the same: this machine, and the container on it."""
    try:
        space = os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        space = 0
    return f"{crc32(f'{platform.node()} {space}'.encode()):08x}"


def _is_alive(process: int) -> bool:
    if os.name == "nt":  # where signal 0 ends the process
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _flush(path: Path) -> None:
    """What was written to ``path`` is on the disk: a file, or a folder with the files in it."""
    if path.is_dir() and hasattr(os, "sync"):
        os.sync()  # thousands of files one by one would take minutes
    _sync(path)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
