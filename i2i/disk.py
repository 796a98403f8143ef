"""Room on the disk: what a run needs is there before it begins, and when it runs out all the same, that is said."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from i2i.contracts import Format, ImageSpec, Output
from i2i.errors import OutputError

_FULL = (errno.ENOSPC, errno.EDQUOT)
_COMPRESSED = 0.1
"""The share of their size to which labels, classes and masks shrink at least; mostly far more."""
_PYRAMID = 4 / 3
_PYRAMID_ABOVE = 4096


def _share(output: Output, lossy: bool = False) -> float:
    """The share of its raw bytes that a result takes, at the very least: pictures and fractions hardly shrink."""
    hard = output.meaning == "image" or np.dtype(output.dtype).kind == "f"
    return 1 if hard and not lossy else _COMPRESSED


def canvas_needs(spec: ImageSpec, output: Output, pixel_bytes: int) -> int:
    """Bytes that a canvas on disk takes, at the least. ``spec``: of the result on the network's grid, all planes;
    ``pixel_bytes``: of a pixel in all layers."""
    return int(spec.height * spec.width * spec.plane_count * pixel_bytes * _share(output))


def output_needs(spec: ImageSpec, output: Output, form: Format, compression: str) -> int:
    """Bytes that a result of ``spec`` takes as a file, at the least; with its pyramid, which formats have that hold planes."""
    levels = _PYRAMID if form.planes and max(spec.height, spec.width) > _PYRAMID_ABOVE else 1
    share = _share(output, form.lossy or compression == "jpeg")
    return int(spec.bytes * spec.plane_count * levels * share)


def check_room(output: Path, needed: int) -> None:
    """Raises ``OutputError`` when the disk of ``output`` has not so many bytes free."""
    folder = next(place for place in output.absolute().parents if place.exists())
    free = shutil.disk_usage(folder).free
    if free < needed:
        sizes = f"at least {_text(needed)} are needed, {_text(free)} are free"
        raise OutputError(f"{folder}: too little room on the disk: {sizes}; free some, or choose another -o")


def _text(size: int) -> str:
    return f"{size / 1e9:.3g} GB" if size >= 1e9 else f"{size / 1e6:.3g} MB"


@contextmanager
def full_disk_told(output: Path, kept: bool) -> Iterator[None]:
    """A disk that runs full inside is an ``OutputError`` that says how to go on; ``kept``: whether what is done stays."""
    try:
        yield
    except OutputError as error:
        if not _is_full(error):
            raise
        cure = "what is done is kept, and --resume goes on" if kept else "then run it again"
        place, found, _ = str(error).partition(": cannot be written")
        where = f" of {place}" if found else ""
        raise OutputError(f"{output}: no room is left on the disk{where}; free some: {cure}") from error


def _is_full(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        error = error.__cause__ or error.__context__
    return False
