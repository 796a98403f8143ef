"""From the canvas to files: where a result can go, and writing all files of an image together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np

from i2i.contracts import Array, Exported, Exporter, Format, ImageSpec, Output, Predictor, Source
from i2i.errors import OutputError, UsageError
from i2i.files import is_one_of, remove, replacing, stem_of
from i2i.formats import format_for_output
from i2i.geometry import Region
from i2i.pictures import write_png

Write = Callable[[Path], None]
EXPORT_MARK = ".i2i-export"
"""An empty file in each folder that an exporter wrote: only such a folder is ever replaced."""


def renamed(path: Path, ending: str) -> Path:
    """The path with another ending for its suffix, as :func:`~i2i.files.stem_of` knows it."""
    return path.with_name(stem_of(path.name) + ending)


def steps_folder(output: Path) -> Path:
    """Where the pictures on the way to an output go: ``out.png-steps`` beside ``out.png``."""
    return output.with_name(f"{output.name}-steps")


def begin_steps(output: Path, kept: Sequence[Path], overwrite: bool) -> None:
    """Before a new run: no picture on the way of another is there, or they go. Raises ``OutputError``."""
    there = sorted(steps_folder(output).glob("step-*.png"))
    if there and not overwrite:
        raise OutputError(f"{there[0].parent}: holds the pictures of another run; --overwrite replaces them")
    for path in there:
        if not is_one_of(path, kept):
            remove(path)


def write_step(output: Path, kept: Sequence[Path], plane: str, step: int, picture: Array) -> None:
    """A picture (H, W, C) uint8 on the way to ``output``: ``step-00050.png`` in the folder beside it, whole or not there.
    ``plane``: such as ``t=0,z=3``. Raises ``OutputError``, also where one of the files ``kept`` has that name."""
    named = f"-{plane.replace('=', '').replace(',', '-')}" if plane else ""
    path = steps_folder(output) / f"step-{step:05d}{named}.png"
    if is_one_of(path, kept):
        raise OutputError(f"{path}: is an input, and a picture on the way would replace it; choose another -o")
    make_folder(path.parent)
    write_png(path, picture)


def make_folder(folder: Path) -> None:
    """The folder with all above it. Raises ``OutputError``."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made: {error.strerror}; choose another place") from error


def place(path: Path, fallback: Path | None, spec: ImageSpec, formats: tuple[Format, ...]) -> Path:
    """Where pixels of ``spec`` can go: ``path``, else ``fallback``. Raises ``OutputError`` when neither holds them."""
    for chosen in (path, *([fallback] if fallback else [])):
        if _holds(format_for_output(chosen, formats), spec):
            return chosen
    form = format_for_output(path, formats)
    if spec.plane_count > 1 and not form.planes:
        one = ",".join(f"{axis}=0" for axis, _ in spec.planes)
        suffixes = _suffixes_with_planes(formats)
        raise OutputError(
            f"{path}: {form.name} holds one plane, and there are {spec.plane_count}; choose one, such as --plane {one}{suffixes}"
        )
    raise OutputError(f"{path}: {form.name} cannot hold {spec.channels} x {spec.dtype}; give a name that ends in .tif")


def _suffixes_with_planes(formats: tuple[Format, ...]) -> str:
    holding = [form.suffixes[0] for form in formats if form.planes and form.write is not None]
    return f", or give a name that ends in {' or '.join(holding)}" if holding else ""


def check_compression(path: Path, form: Format, compression: str) -> None:
    """Raises ``UsageError`` for a ``--compression`` that the format does not know."""
    if compression in ("auto", *form.compressions):
        return
    known = ", ".join(form.compressions)
    cure = f"knows {known}" if known else "has none to choose; leave it out, or give a name that ends in .tif"
    raise UsageError(f"--compression {compression}: {path}: {form.name} {cure}")


def neighbour(path: Path, taken: Sequence[Path], overwrite: bool, reason: OutputError) -> Path:
    """The TIFF beside ``path``, for a result that ``path`` cannot hold for ``reason``. Raises ``OutputError`` when a file is
    there that must stay: one of ``taken`` always, another without ``overwrite``."""
    beside = path.with_suffix(".tif")
    if beside in taken or (beside.exists() and (not overwrite or is_one_of(beside, taken))):
        raise OutputError(f"{reason} ({beside} is there already)") from reason
    return beside


def _holds(form: Format, spec: ImageSpec) -> bool:
    fits = (not form.dtypes or spec.dtype in form.dtypes) and (not form.channels or spec.channels in form.channels)
    return fits and (form.planes or spec.plane_count == 1)


def check_export(exporter: Exporter, predictor: Predictor, output: Output, planes: tuple[tuple[str, int], ...]) -> None:
    """Raises ``UsageError`` for a kind of result that the exporter does not take, for several planes where it takes one, and for
    pictures on the way of a method that has none."""
    if exporter.frames and predictor.kind != "image":
        raise UsageError(f"--{exporter.name}: shows the steps to a result, and this one is made in one pass; leave it out")
    if output.meaning not in exporter.meanings:
        raise UsageError(f"--{exporter.name} takes {' or '.join(exporter.meanings)}, not {output.name}; choose with --as")
    if planes and not exporter.planes:
        one = ",".join(f"{axis}=0" for axis, _ in planes)
        raise UsageError(f"--{exporter.name} takes one plane; choose one, such as --plane {one}")


def exporting(exporter: Exporter, exported: Exported) -> Write:
    """What writes an export: a file, or into a folder that is made for it and marked as replaceable."""

    def write(temporary: Path) -> None:
        if exporter.folder:
            temporary.mkdir()
            (temporary / EXPORT_MARK).touch()
        exporter.export(temporary, exported)

    return write


def write_all(files: Mapping[Path, Write]) -> None:
    """Write files under temporary names, then rename them, the first one last: none appears unless all could be written."""
    with ExitStack() as stack:
        for path, write in files.items():
            make_folder(path.parent)
            write(stack.enter_context(replacing(path)))


class _Narrowed:
    """Labels as uint16."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.spec = replace(source.spec, dtype="uint16")

    def read(self, region: Region, plane: int = 0, level: int = 0) -> Array:
        return self._source.read(region, plane).astype(np.uint16)

    def close(self) -> None:
        self._source.close()


def narrow_labels(labels: Source, most: int | None) -> Source:
    """The labels as uint16 where their numbers fit, else as they are. ``most``: the largest number in any plane."""
    return _Narrowed(labels) if most is not None and most <= np.iinfo(np.uint16).max else labels
