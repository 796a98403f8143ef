"""Pixels that have to lie somewhere for a while: images that cannot be read by region, levels of a pyramid in the making.

They go to a file without a name, which the system removes with the process, however that ends.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from i2i.contracts import Array, ImageSpec
from i2i.errors import OutputError
from i2i.files import writing
from i2i.geometry import Region

TILE = 512


class Scratch:
    """One plane of pixels in a nameless file of plain tiles, read and written by region; a :class:`~i2i.contracts.Source`.

    What was never written reads as 0. ``folder``: where the file is; None: the system's folder for temporary files
    (``TMPDIR``). Several threads may read; no two may write to one tile at once. Raises ``OutputError`` for a full disk.
    """

    def __init__(self, spec: ImageSpec, folder: Path | None = None) -> None:
        self.spec = spec
        self._dtype = np.dtype(spec.dtype)
        self._shape = (min(TILE, spec.height), min(TILE, spec.width), spec.channels)
        self._bytes = int(np.prod(self._shape)) * self._dtype.itemsize
        self._written: set[int] = set()
        self._folder = folder
        with self._writing():
            self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115  # open as long as the pixels are wanted
            try:
                self._file.truncate(self._bytes * -(-spec.height // self._shape[0]) * -(-spec.width // self._shape[1]))
            except BaseException:
                self._file.close()
                raise

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            with writing(Path(self._folder or tempfile.gettempdir())):
                yield
        except OutputError as error:
            raise OutputError(f"{error}{' (TMPDIR)' if self._folder is None else ''}") from error.__cause__

    def _tiles(self, region: Region) -> Iterator[tuple[int, Region, Region]]:
        """Where each tile that ``region`` touches begins in the file, its place, and the part of it in the region."""
        height, width, _ = self._shape
        columns = -(-self.spec.width // width)
        for row in range(region.y // height, -(-region.bottom // height)):
            for column in range(region.x // width, -(-region.right // width)):
                place = Region(row * height, column * width, height, width)
                yield (row * columns + column) * self._bytes, place, place.intersect(region)

    def read(self, region: Region, plane: int = 0, level: int = 0) -> Array:
        """See :class:`i2i.contracts.Source`."""
        pixels = np.empty((region.height, region.width, self.spec.channels), self._dtype)
        for start, place, part in self._tiles(region):
            pixels[part.relative_to(region).slices] = self._load(start)[part.relative_to(place).slices]
        return pixels

    def write(self, region: Region, pixels: Array) -> None:
        """Replace the pixels of ``region``: (height, width, channels) of the spec's dtype. Quickest for whole tiles, and for
        bands of any height as wide as the image."""
        for start, place, part in self._tiles(region):
            given = pixels[part.relative_to(region).slices]
            if start not in self._written and not given.any():  # what is 0 takes no place on the disk
                continue
            self._written.add(start)
            if part.x == place.x and part.right == min(place.right, self.spec.width):
                rows, above = np.zeros((part.height, *self._shape[1:]), self._dtype), part.y - place.y
                rows[:, : part.width] = given
                self._store(rows, start + above * rows[0].nbytes)
            else:
                tile = self._load(start).copy()
                tile[part.relative_to(place).slices] = given
                self._store(tile, start)

    def _load(self, start: int) -> Array:
        return np.frombuffer(os.pread(self._file.fileno(), self._bytes, start), self._dtype).reshape(self._shape)

    def _store(self, rows: Array, start: int) -> None:
        view = memoryview(rows.tobytes())
        with self._writing():
            while view:
                written = os.pwrite(self._file.fileno(), view, start)
                view, start = view[written:], start + written

    def close(self) -> None:
        """The pixels are gone."""
        self._file.close()
