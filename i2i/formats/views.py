"""Sources made from others: an array as a source, some planes of an image, a source with another description."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from i2i.contracts import Array, ImageSpec, Source
from i2i.errors import UsageError
from i2i.geometry import Region
from i2i.memory import check_fits


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


class Described:
    """A source whose spec says something else: ``changes`` are fields of :class:`ImageSpec`, the pixels stay as they are."""

    def __init__(self, source: Source, **changes: Any) -> None:
        self._source = source
        self.spec = dataclasses.replace(source.spec, **changes)

    @property
    def missing_tiles(self) -> int:
        """Of the source, where it counts them; else 0."""
        return missing_tiles(self._source)

    def read(self, region: Region, plane: int = 0, level: int = 0) -> Array:
        """See :class:`i2i.contracts.Source`."""
        return self._source.read(region, plane, level)

    def read_channels(self, channels: Sequence[int], region: Region, plane: int = 0, level: int = 0) -> Array:
        """See :func:`read_channels`."""
        return read_channels(self._source, channels, region, plane, level)

    def close(self) -> None:
        self._source.close()


class Noted(Described):
    """A source with further notes in its spec."""

    def __init__(self, source: Source, *notes: str) -> None:
        super().__init__(source, notes=(*source.spec.notes, *notes))


class Selection:
    """Some planes, one level and the chosen channels of a source.

    ``planes``: their numbers (in C order) in the source; ``axes``: those along which they then lie, as in ``ImageSpec.planes``;
    ``names``: what they are called, as in ``ImageSpec.plane_names``. ``channels``: in that order; None: all.
    """

    def __init__(
        self,
        source: Source,
        planes: Sequence[int],
        axes: tuple[tuple[str, int], ...] = (),
        level: int = 0,
        channels: Sequence[int] | None = None,
        names: tuple[str, ...] = (),
    ) -> None:
        self._source, self._planes, self._level = source, planes, level
        self._channels = None if channels is None else list(channels)
        self.spec = dataclasses.replace(_narrowed(source.spec, level, channels), planes=axes, plane_names=names)

    @property
    def missing_tiles(self) -> int:
        """Of the source, where it counts them; else 0."""
        return missing_tiles(self._source)

    def read(self, region: Region, plane: int = 0, level: int = 0) -> Array:
        """See :class:`i2i.contracts.Source`; ``plane`` counts those that were chosen, ``level`` can only be 0."""
        if self._channels is None:
            return self._source.read(region, self._planes[plane], self._level)
        return read_channels(self._source, self._channels, region, self._planes[plane], self._level)

    def read_channels(self, channels: Sequence[int], region: Region, plane: int = 0, level: int = 0) -> Array:
        """See :func:`read_channels`."""
        own = list(channels) if self._channels is None else [self._channels[number] for number in channels]
        return read_channels(self._source, own, region, self._planes[plane], self._level)

    def close(self) -> None:
        self._source.close()


class View(Selection):
    """One plane (counted in C order), one level and the chosen channels (in that order; None: all) of a source."""

    def __init__(self, source: Source, plane: int = 0, level: int = 0, channels: Sequence[int] | None = None) -> None:
        super().__init__(source, (plane,), (), level, channels)


def read_whole(source: Source, path: Path, each: int = 16) -> Array:
    """All pixels of a source of one plane. Raises ``InputError`` where there is too little memory to work on them, at ``each``
    bytes for a sample."""
    spec = source.spec
    check_fits(spec.height * spec.width * spec.channels, each, path)
    return source.read(spec.region)


def missing_tiles(source: Source) -> int:
    """Tiles that a sparse file lacks, among those of the pages read so far; they read as zeros."""
    return int(getattr(source, "missing_tiles", 0))


def read_channels(source: Source, channels: Sequence[int], region: Region, plane: int = 0, level: int = 0) -> Array:
    """Some channels of a region, in that order: (height, width, len(channels)). A source that can leave the others out has a
    method ``read_channels(channels, region, plane, level)``: of 40 channels, each on its own page, one is decoded and not all."""
    reader = getattr(source, "read_channels", None)
    if reader is None:
        return np.ascontiguousarray(picked(source.read(region, plane, level), channels))
    pixels: Array = reader(channels, region, plane, level)
    return pixels


def picked(pixels: Array, channels: Sequence[int]) -> Array:
    """Those channels of pixels (H, W, C), in that order; all of them as they are."""
    numbers = list(channels)
    return pixels if numbers == list(range(pixels.shape[-1])) else pixels[..., numbers]


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
        channel_colours=tuple(spec.channel_colours[i] for i in chosen) if spec.channel_colours else (),
        planes=(),
        plane_names=(),
        levels=(),
        tiling=spec.tiling if level == 0 else None,
        rgb=spec.rgb if tuple(chosen) == tuple(range(spec.channels)) else None,
        profile=spec.profile if tuple(chosen) == tuple(range(spec.channels)) else b"",
    )


def select(source: Source, level: int, plane_text: str | None, channels_text: str | None, path: Path) -> Source:
    """The part of an image that ``--level``, ``--plane "z=3,t=*"`` and ``--channels 0,DAPI`` name.

    An axis of which one plane is chosen is no axis of the result; ``*`` and what is not named keep all of it, ``z=2-5`` keeps
    four planes. Raises ``UsageError`` for a value that the image does not have.
    """
    spec = source.spec
    count = max(1, len(spec.levels))
    if not 0 <= level < count:
        there = f"has levels 0 .. {count - 1}" if count > 1 else "has one level, 0"
        raise UsageError(f"--level {level}: {path} {there}")
    chosen = _chosen_planes(spec, plane_text or "", path)
    numbers, names = [0], [""]
    for axis, length in spec.planes:
        indices = chosen.get(axis, range(length))
        numbers = [number * length + index for number in numbers for index in indices]
        names = [f"{name},{axis}={index}".lstrip(",") if len(indices) > 1 else name for name in names for index in indices]
    axes = tuple((axis, len(chosen.get(axis, range(length)))) for axis, length in spec.planes)
    kept = tuple((axis, length) for axis, length in axes if length > 1)
    told = Described(source, chosen=tuple((axis, indices[0]) for axis, indices in chosen.items() if len(indices) == 1))
    return Selection(told, numbers, kept, level, _channels(spec, channels_text, path), tuple(names) if kept else ())


def one_series(source: Source, text: str, path: Path) -> Source:
    """The image alone that ``--series 1`` names, opened anew; a file's only one, 0, as it is. A source of several has
    ``series_count``, and a method ``series(number)`` that gives None for what cannot be read. Raises ``UsageError``."""
    reopen = getattr(source, "series", None)
    found: Source | None = reopen(int(text)) if reopen is not None and text.isdecimal() else None
    if reopen is None and text == "0" and "series" not in dict(source.spec.planes):
        return source
    if found is None:
        count, planes = getattr(source, "series_count", 1), "series" in dict(source.spec.planes)
        one = f"has them as planes: --plane series={text}" if planes else "has one image, 0"
        there = f"has the images 0 .. {count - 1}" if count > 1 else one
        raise UsageError(f"--series {text}: {path} {there}")
    return found


def _chosen_planes(spec: ImageSpec, text: str, path: Path) -> dict[str, range]:
    """What the text says of each axis that it names."""
    lengths = dict(spec.planes)
    chosen: dict[str, range] = {}
    for part in filter(None, (item.strip() for item in text.split(","))):
        axis, _, value = (item.strip() for item in part.partition("="))
        axis = axis.lower()
        if axis not in lengths:
            there = f"has the axes {', '.join(lengths)}" if lengths else "has one plane: leave --plane out"
            raise UsageError(f"--plane {text}: {path} {there}")
        if axis in chosen:
            raise UsageError(f"--plane {text}: names {axis} twice; a range is {axis}=0-{lengths[axis] - 1}")
        chosen[axis] = _numbers(value, lengths[axis])
        if not chosen[axis]:
            last = lengths[axis] - 1
            raise UsageError(f"--plane {text}: {axis} of {path} is a number from 0 to {last}, a range such as 0-{last}, or *")
    return chosen


def _numbers(text: str, length: int) -> range:
    """The planes that ``3``, ``2-5`` or ``*`` stands for; none for a text that says nothing or goes beyond ``length``."""
    if text == "*":
        return range(length)
    first, dash, last = (item.strip() for item in text.partition("-"))
    if not dash:
        last = first
    if not (first.isdecimal() and last.isdecimal()) or int(last) >= length:
        return range(0)
    return range(int(first), int(last) + 1)


def _channels(spec: ImageSpec, text: str | None, path: Path) -> tuple[int, ...] | None:
    if text is None:
        return None
    names = {name.strip(): i for i, name in reversed(list(enumerate(spec.channel_names)))}
    chosen: list[int] = []
    for part in (item.strip() for item in text.split(",")):
        like = [i for name, i in names.items() if name.casefold() == part.casefold()]
        index = names.get(part, int(part) if part.isdecimal() else like[0] if len(like) == 1 else -1)
        if not 0 <= index < spec.channels:
            named = f" ({', '.join(spec.channel_names)})" if names else ""
            raise UsageError(f"--channels {text}: {path} has the channels 0 .. {spec.channels - 1}{named}")
        chosen.append(index)
    return tuple(chosen)
