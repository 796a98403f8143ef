"""Files that are whole or not there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from i2i.errors import OutputError


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
    to the disk and renamed to ``path``; after an error nothing is left of it.

    Raises ``OutputError`` for what the system refuses.
    """
    temporary = path.with_name(f".{path.stem}.{uuid4().hex[:8]}{path.suffix}")
    try:
        with writing(path):
            yield temporary
            _flush(temporary)
            _take_place(temporary, path)
            _flush(path.parent)
    finally:
        remove(temporary)


def _take_place(new: Path, path: Path) -> None:
    """Rename ``new`` to ``path``; a folder that is there, which a rename does not replace, steps aside first."""
    old = path.with_name(f"{new.name}.old")
    if new.is_dir() and path.is_dir():
        os.replace(path, old)
    os.replace(new, path)
    remove(old)


def remove(path: Path) -> None:
    """Remove a file or a folder with all it holds, if it is there."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(FileNotFoundError, NotADirectoryError):
            path.unlink()


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
