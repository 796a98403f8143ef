"""From the canvas to files: where a result can go, and writing all files of an image together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np

from i2i.contracts import Array, Exported, Exporter, Format, ImageSpec, Output, Source
from i2i.engine import Outcome
from i2i.errors import OutputError, UsageError
from i2i.files import replacing
from i2i.formats import format_for_output
from i2i.geometry import Region

Write = Callable[[Path], None]


def make_folder(folder: Path) -> None:
    """The folder with all above it. Raises ``OutputError``."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made: {error.strerror}; choose another place") from error


def place(path: Path, fallback: Path | None, spec: ImageSpec, formats: tuple[Format, ...]) -> Path:
    """Where pixels of ``spec`` can go: ``path``, else ``fallback``. Raises ``OutputError`` when neither holds them."""
    form = format_for_output(path, formats)
    if _holds(form, spec):
        return path
    if fallback is None:
        raise OutputError(f"{path}: {form.name} cannot hold {spec.channels} x {spec.dtype}; give a name that ends in .tif")
    return fallback


def neighbour(path: Path, taken: Sequence[Path], overwrite: bool, reason: OutputError) -> Path:
    """The TIFF beside ``path``, for a result that ``path`` cannot hold for ``reason``. Raises ``OutputError`` when a file is
    there that must stay: one of ``taken`` always, another without ``overwrite``."""
    beside = path.with_suffix(".tif")
    if beside in taken or (beside.exists() and (not overwrite or any(p.exists() and beside.samefile(p) for p in taken))):
        raise OutputError(f"{reason} ({beside} is there already)") from reason
    return beside


def _holds(form: Format, spec: ImageSpec) -> bool:
    return (not form.dtypes or spec.dtype in form.dtypes) and (not form.channels or spec.channels in form.channels)


def check_meaning(exporter: Exporter, output: Output) -> None:
    """Raises ``UsageError`` for a kind of result that the exporter does not take."""
    if output.meaning not in exporter.meanings:
        raise UsageError(f"--{exporter.name} takes {' or '.join(exporter.meanings)}, not {output.name}; choose with --as")


def exporting(exporter: Exporter, exported: Exported) -> Write:
    """What writes an export."""
    return lambda temporary: exporter.export(temporary, exported)


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
        return self._source.read(region).astype(np.uint16)

    def close(self) -> None:
        self._source.close()


def narrow_labels(outcome: Outcome) -> Source:
    """The labels as uint16 where their numbers fit, else uint32."""
    fits = outcome.objects is not None and outcome.objects <= np.iinfo(np.uint16).max
    return _Narrowed(outcome.result) if fits else outcome.result
