"""What comes on standard input: an image, as a file, or a list of inputs."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from i2i.contracts import Format
from i2i.errors import InputError, UsageError
from i2i.formats import detect


@contextmanager
def as_file(name: str, formats: Sequence[Format]) -> Iterator[Path]:
    """The file of that name; for ``-`` standard input as one, inside. An ``InputError`` of it names ``-``."""
    if name != "-":
        yield Path(name)
        return
    with tempfile.TemporaryDirectory(prefix="i2i-") as folder:
        path = take_in(Path(folder), formats)
        try:
            yield path
        except InputError as error:
            raise InputError(str(error).replace(str(path), "-")) from error


def take_in(folder: Path, formats: Sequence[Format]) -> Path:
    """Standard input as a file in ``folder`` with the suffix of its format. Raises ``InputError`` when it is closed, or no
    image."""
    path = folder / "input"
    with path.open("wb") as stream:
        shutil.copyfileobj(_stdin("an image"), stream)
    try:
        form = detect(path, formats)
    except InputError as error:
        raise InputError(str(error).replace(str(path), "-")) from error
    return path.rename(path.with_suffix(form.suffixes[0]))


def listed(name: str) -> list[str]:
    """The inputs in the file of that name (``-``: on standard input), one a line, which LF or CRLF ends; blank lines are none.
    Raises ``UsageError`` for a list that cannot be read, or is empty."""
    try:
        data = _stdin("a list").read() if name == "-" else Path(name).read_bytes()
    except OSError as error:
        raise UsageError(f"--inputs-from {name}: {(error.strerror or str(error)).lower()}") from error
    if b"\0" in data:
        raise UsageError(f"--inputs-from {name}: not a text of one path a line; save it as UTF-8")
    lines = (line.removesuffix(b"\r") for line in data.removeprefix(b"\xef\xbb\xbf").split(b"\n"))
    found = [os.fsdecode(line) for line in lines if line.strip()]
    if not found:
        raise UsageError(f"--inputs-from {name}: names no input")
    return found


def _stdin(what: str) -> BinaryIO:
    if sys.stdin is None:
        raise InputError(f"-: standard input is closed; pipe {what} into it")
    return sys.stdin.buffer
