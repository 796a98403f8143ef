"""Sources made from others: an array as a source, one plane of an image, a source with a note."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from i2i.contracts import Array, ImageSpec, Source
from i2i.errors import InputError, UsageError
from i2i.geometry import Region


class ArraySource:
    """An array (H, W, C) or (H, W) as a source of one plane; ``fields`` are those of :class:`ImageSpec` to set, such as
    ``pixel_size`` and ``channel_names``."""

    def __init__(self, array: Array, **fields: Any) -> None:
        self._array = array if array.ndim == 3 else array[..., np.newaxis]
        height, width, channels = self._array.shape
        self.spec = ImageSpec(height, width, channels, self._array.dtype.name, **fields)

    def read(self, region: Region, plane: int = 0, level: int = 0) -> Array:
        """See :class:`i2i.contracts.Source`."""
        return self._array[region.slices]

    def close(self) -> None:
        """Nothing is open."""


class Noted:
    """A source with further notes in its spec."""

    def __init__(self, source: Source, *notes: str) -> None:
        self._source = source
        self.spec = dataclasses.replace(source.spec, notes=(*source.spec.notes, *notes))

    @property
    def missing_tiles(self) -> int:
        """Of the source, where it counts them; else 0."""
        return missing_tiles(self._source)

    def read(self, region: Region, plane: int = 0, level: int = 0) -> Array:
        """See :class:`i2i.contracts.Source`."""
        return self._source.read(region, plane, level)

    def close(self) -> None:
        self._source.close()


class View:
    """One plane (counted in C order), one level and the chosen channels (in that order; None: all) of a source."""

    def __init__(self, source: Source, plane: int = 0, level: int = 0, channels: Sequence[int] | None = None) -> None:
        self._source, self._plane, self._level = source, plane, level
        self._channels = None if channels is None else list(channels)
        self.spec = _narrowed(source.spec, level, channels)

    @property
    def missing_tiles(self) -> int:
        """Of the source, where it counts them; else 0."""
        return missing_tiles(self._source)

    def read(self, region: Region, plane: int = 0, level: int = 0) -> Array:
        """See :class:`i2i.contracts.Source`; ``plane`` and ``level`` can only be 0."""
        pixels = self._source.read(region, self._plane, self._level)
        return pixels if self._channels is None else np.ascontiguousarray(pixels[..., self._channels])

    def close(self) -> None:
        self._source.close()


def missing_tiles(source: Source) -> int:
    """Tiles that a sparse file lacks, among those of the pages read so far; they read as zeros."""
    return int(getattr(source, "missing_tiles", 0))


def _narrowed(spec: ImageSpec, level: int, channels: Sequence[int] | None) -> ImageSpec:
    height, width = spec.levels[level] if spec.levels else (spec.height, spec.width)
    size = spec.pixel_size
    chosen = range(spec.channels) if channels is None else channels
    return dataclasses.replace(
        spec,
        height=height,
        width=width,
        channels=len(chosen),
        pixel_size=None if size is None else (size[0] * spec.height / height, size[1] * spec.width / width),
        channel_names=tuple(spec.channel_names[i] for i in chosen) if spec.channel_names else (),
        planes=(),
        levels=(),
    )


def select(source: Source, level: int, plane_text: str | None, channels_text: str | None, path: Path) -> Source:
    """The part of an image that ``--level``, ``--plane "z=3,t=0"`` and ``--channels 0,DAPI`` name.

    Raises ``UsageError`` for a value that the image does not have, and ``InputError`` when it has several planes and
    the text leaves open which one.
    """
    spec = source.spec
    count = max(1, len(spec.levels))
    if not 0 <= level < count:
        there = f"has levels 0 .. {count - 1}" if count > 1 else "has one level, 0"
        raise UsageError(f"--level {level}: {path} {there}")
    plane = _plane(spec, plane_text, path)
    return View(source, plane, level, _channels(spec, channels_text, path))


def _plane(spec: ImageSpec, text: str | None, path: Path) -> int:
    """The plane's number in C order."""
    chosen = _assignments(spec, text or "", path)
    missing = [axis for axis, length in spec.planes if length > 1 and axis not in chosen]
    if missing:
        axes = " x ".join(f"{axis} (0 .. {length - 1})" for axis, length in spec.planes)
        cure = ",".join(f"{axis}={chosen.get(axis, 0)}" for axis, _ in spec.planes)
        raise InputError(f"{path}: has {spec.plane_count} planes along {axes}: choose one, for example --plane {cure}")
    number = 0
    for axis, length in spec.planes:
        number = number * length + chosen.get(axis, 0)
    return number


def _assignments(spec: ImageSpec, text: str, path: Path) -> dict[str, int]:
    lengths = dict(spec.planes)
    chosen: dict[str, int] = {}
    for part in filter(None, (item.strip() for item in text.split(","))):
        axis, _, value = (item.strip() for item in part.partition("="))
        axis = axis.lower()
        if axis not in lengths:
            there = f"has the axes {', '.join(lengths)}" if lengths else "has one plane: leave --plane out"
            raise UsageError(f"--plane {text}: {path} {there}")
        if value == "*":
            raise UsageError(f"--plane {text}: one plane at a time is supported for now; name one, such as {axis}=0")
        if not value.isdecimal() or int(value) >= lengths[axis]:
            raise UsageError(f"--plane {text}: {axis} of {path} is a number from 0 to {lengths[axis] - 1}")
        chosen[axis] = int(value)
    return chosen


def _channels(spec: ImageSpec, text: str | None, path: Path) -> tuple[int, ...] | None:
    if text is None:
        return None
    names = {name: i for i, name in reversed(list(enumerate(spec.channel_names)))}
    chosen: list[int] = []
    for part in (item.strip() for item in text.split(",")):
        index = names.get(part, int(part) if part.isdecimal() else -1)
        if not 0 <= index < spec.channels:
            named = f" ({', '.join(spec.channel_names)})" if names else ""
            raise UsageError(f"--channels {text}: {path} has the channels 0 .. {spec.channels - 1}{named}")
        chosen.append(index)
    return tuple(chosen)
