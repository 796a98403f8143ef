"""An image on standard input, as a file."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from i2i.contracts import Format
from i2i.errors import InputError
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
    if sys.stdin is None:
        raise InputError("-: standard input is closed; pipe an image into it")
    path = folder / "input"
    with path.open("wb") as stream:
        shutil.copyfileobj(sys.stdin.buffer, stream)
    try:
        form = detect(path, formats)
    except InputError as error:
        raise InputError(str(error).replace(str(path), "-")) from error
    return path.rename(path.with_suffix(form.suffixes[0]))
