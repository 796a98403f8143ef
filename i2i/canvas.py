"""Where results grow: named layers of pixels, and a journal of what is done.

The canvas is in memory when small. Else it is a folder ``<output>.i2i-partial`` beside the output::

    manifest.json     what the run is: fingerprint, plan, frozen statistics
    journal.jsonl     a line for each block that a stage has finished (the data cannot say so: a missing chunk reads as zeros)
    layers/<name>     a Zarr array, one chunk for each block
    blocks/<stage>    what a stage keeps for a block besides pixels; a stage's checkpoint
    lock              held as long as the run lives, also by one whose canvas is in memory

Where an image has several planes, the names of layers and stages are those of a folder for each plane: ``p0003/infer``.

A run that is killed leaves the folder; a resumed one reads the journal and goes on.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from i2i.contracts import Array, ImageSpec
from i2i.errors import OutputError
from i2i.files import remove, replacing, writing
from i2i.geometry import Region

PARTIAL = ".i2i-partial"
MANIFEST = "manifest.json"
JOURNAL = "journal.jsonl"
_LOCK = "lock"


def partial_folder(output: Path) -> Path:
    """Where an unfinished run of ``output`` keeps its work."""
    return output.with_name(output.name + PARTIAL)


class Layer:
    """One array of pixels (height, width, channels), read and written by region. A :class:`~i2i.contracts.WritableSource`.

    What is read is the reader's own: it does not change with later writes, nor the layer with it.
    """

    def __init__(self, spec: ImageSpec, pixels: Any, folder: Path = Path()) -> None:
        self.spec = spec
        self._pixels = pixels
        self._folder = folder

    def read(self, region: Region, plane: int = 0, level: int = 0) -> Array:
        rows, columns = region.slices
        return np.array(self._pixels[rows, columns])

    def write(self, region: Region, pixels: Array) -> None:
        rows, columns = region.slices
        with writing(self._folder):
            self._pixels[rows, columns] = pixels

    def close(self) -> None:
        """Nothing to close."""


class DiskLayer(Layer):
    """A layer whose pixels are a Zarr array in ``folder``, from ``origin`` (y, x) on. ``changed``: takes the files that were
    written to."""

    def __init__(self, spec: ImageSpec, pixels: Any, origin: tuple[int, int], folder: Path, changed: set[Path]) -> None:
        super().__init__(spec, pixels, folder)
        self._origin, self._changed = origin, changed

    def read(self, region: Region, plane: int = 0, level: int = 0) -> Array:
        return super().read(region.shift(*self._origin))

    def write(self, region: Region, pixels: Array) -> None:
        region = region.shift(*self._origin)
        super().write(region, pixels)
        height, width, _ = self._pixels.chunks
        for row in range(region.y // height, -(-region.bottom // height)):
            for column in range(region.x // width, -(-region.right // width)):
                self._changed.add(self._folder / self._pixels.metadata.encode_chunk_key((row, column, 0)))


class Canvas(Protocol):
    """Layers, a journal, and what stages keep for their blocks."""

    def layer(self, name: str, spec: ImageSpec, chunk: tuple[int, int], origin: tuple[int, int] = (0, 0)) -> Layer:
        """The layer of that name, made if it is new. ``chunk``: height and width of a block in its pixels; ``origin``: where the
        image begins on the raster of chunks, so that no two blocks share one."""
        ...

    def done(self, stage: str) -> frozenset[int]:
        """The blocks that a stage has finished."""
        ...

    def mark(self, stage: str, block: int) -> None: ...

    def store(self, stage: str, block: int, arrays: Mapping[str, Array]) -> None:
        """Keep arrays for a block; replaces what was kept, atomically."""
        ...

    def fetch(self, stage: str, block: int) -> dict[str, Array] | None: ...

    def close(self) -> None: ...

    def remove(self) -> None:
        """All of it: the run is finished."""
        ...


class MemoryCanvas:
    """A canvas that is gone when the process ends."""

    def __init__(self) -> None:
        self._layers: dict[str, Layer] = {}
        self._done: dict[str, set[int]] = {}
        self._kept: dict[tuple[str, int], dict[str, Array]] = {}

    def layer(self, name: str, spec: ImageSpec, chunk: tuple[int, int], origin: tuple[int, int] = (0, 0)) -> Layer:
        if name not in self._layers:
            self._layers[name] = Layer(spec, np.zeros((spec.height, spec.width, spec.channels), spec.dtype))
        return self._layers[name]

    def done(self, stage: str) -> frozenset[int]:
        return frozenset(self._done.get(stage, ()))

    def mark(self, stage: str, block: int) -> None:
        self._done.setdefault(stage, set()).add(block)

    def store(self, stage: str, block: int, arrays: Mapping[str, Array]) -> None:
        self._kept[stage, block] = {name: np.array(value) for name, value in arrays.items()}

    def fetch(self, stage: str, block: int) -> dict[str, Array] | None:
        return self._kept.get((stage, block))

    def close(self) -> None:
        """Nothing to close."""

    def remove(self) -> None:
        self._layers.clear()
        self._kept.clear()


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """The partial folder of an output, made and locked: no other run writes this output inside. What of it is empty at the end
    goes, with the folders above that were made for it. A killed run holds nothing. Raises ``OutputError``."""
    import filelock

    made = [place for place in (folder, *folder.parents) if not place.exists()]
    lock = filelock.FileLock(folder / _LOCK, thread_local=False)  # the thread that publishes may be another
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except filelock.Timeout as error:
        raise OutputError(f"{folder}: another run is writing this output; wait for it, or choose another -o") from error
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made: {error.strerror}; choose another -o") from error
    try:
        yield
    finally:
        remove(folder / _LOCK)
        lock.release()
        with suppress(OSError):  # one that is not empty stays, and all above it
            for place in made or [folder]:
                place.rmdir()


def clear(folder: Path) -> None:
    """Remove what a partial folder holds, but its lock. First what says that blocks are done: a run that is killed here must
    not be resumed on half a folder."""
    for name in (MANIFEST, JOURNAL):
        remove(folder / name)
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.name != _LOCK:
            remove(path)


class DiskCanvas:
    """A canvas in a folder, which its owner has :func:`claimed`. Raises ``OutputError``."""

    def __init__(self, folder: Path) -> None:
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._journal = Journal(folder / JOURNAL)
        self.folder = folder
        self._layers: dict[str, Layer] = {}
        self._changed: set[Path] = set()

    def layer(self, name: str, spec: ImageSpec, chunk: tuple[int, int], origin: tuple[int, int] = (0, 0)) -> Layer:
        if name not in self._layers:
            place = self.folder / "layers" / name
            with writing(self.folder):
                pixels = _zarr_array(place, spec, chunk, origin)
                self._layers[name] = DiskLayer(spec, pixels, origin, place, self._changed)
            self._changed.add(place / "zarr.json")
        return self._layers[name]

    def done(self, stage: str) -> frozenset[int]:
        return frozenset(self._journal.done.get(stage, ()))

    def mark(self, stage: str, block: int) -> None:
        """The pixels are on the disk before the journal says so: it must be true after a power cut as well (half a millisecond
        a block, measured)."""
        with writing(self.folder):
            while self._changed:
                with suppress(FileNotFoundError), self._changed.pop().open("rb") as stream:  # a chunk of zeros is no file
                    os.fsync(stream.fileno())
        self._journal.add(stage, block)

    def _kept(self, stage: str, block: int) -> Path:
        return self.folder / "blocks" / f"{stage}-{block}.npz"

    def store(self, stage: str, block: int, arrays: Mapping[str, Array]) -> None:
        path = self._kept(stage, block)
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary, temporary.open("wb") as stream:
            np.savez(stream, **arrays)  # type: ignore[arg-type]  # its stub takes the names for its own option

    def fetch(self, stage: str, block: int) -> dict[str, Array] | None:
        path = self._kept(stage, block)
        if not path.exists():
            return None
        with np.load(path, allow_pickle=False) as stored:
            return dict(stored)

    def close(self) -> None:
        self._journal.close()

    def remove(self) -> None:
        """What the folder holds; the folder itself goes with the claim on it, if there is one."""
        self.close()
        clear(self.folder)
        with suppress(OSError):
            self.folder.rmdir()


def _zarr_array(path: Path, spec: ImageSpec, chunk: tuple[int, int], origin: tuple[int, int]) -> Any:
    import zarr

    if (path / "zarr.json").exists():
        return zarr.open_array(path, mode="r+")
    shape = (spec.height + origin[0], spec.width + origin[1], spec.channels)
    return zarr.create_array(path, shape=shape, chunks=(*chunk, spec.channels), dtype=spec.dtype, overwrite=True)


class Journal:
    """Lines of JSON, ``{"stage": ..., "block": ...}``, appended unbuffered; a torn last line counts as not written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.done: dict[str, set[int]] = {}
        whole = 0
        for line in path.read_bytes().splitlines(keepends=True) if path.exists() else []:
            entry = _parse(line)
            if entry is None:
                break
            self.done.setdefault(entry[0], set()).add(entry[1])
            whole += len(line)
        self._stream = path.open("ab", buffering=0)
        self._stream.truncate(whole)

    def add(self, stage: str, block: int) -> None:
        with writing(self.path):
            self._stream.write(json.dumps({"stage": stage, "block": block}).encode() + b"\n")
        self.done.setdefault(stage, set()).add(block)

    def close(self) -> None:
        self._stream.close()


def _parse(line: bytes) -> tuple[str, int] | None:
    try:
        entry = json.loads(line)
        return (str(entry["stage"]), int(entry["block"])) if line.endswith(b"\n") else None
    except (ValueError, KeyError, TypeError):
        return None


@dataclass(frozen=True)
class StageCheckpoint:
    """Where a stage of an iterative method keeps its state. A :class:`~i2i.contracts.Checkpoint`."""

    canvas: Canvas
    stage: str

    def load(self) -> dict[str, Array] | None:
        return self.canvas.fetch(f"checkpoint-{self.stage}", 0)

    def save(self, state: Mapping[str, Array]) -> None:
        self.canvas.store(f"checkpoint-{self.stage}", 0, state)


def layer_spec(spec: ImageSpec, channels: int, dtype: str, scale: int = 1, names: tuple[str, ...] = ()) -> ImageSpec:
    """The spec of a layer on the grid of an image of ``spec``, ``scale`` times as large."""
    pixel_size = None if spec.pixel_size is None else (spec.pixel_size[0] / scale, spec.pixel_size[1] / scale)
    return replace(
        spec,
        height=spec.height * scale,
        width=spec.width * scale,
        channels=channels,
        dtype=dtype,
        pixel_size=pixel_size,
        channel_names=names,
        channel_colours=spec.channel_colours if names == spec.channel_names else (),
        planes=(),
        levels=(),
        notes=(),
        tiling=None,
        remarks=(),
    )
