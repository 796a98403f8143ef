"""OME-Zarr by region: images of versions 0.4 (Zarr 2) and 0.5 (Zarr 3), files of several images, and plain arrays.

One chunk is decoded at a time, and only those that a region touches: memory is bounded by the largest chunk and a small
cache. Labels that lie beside an image are images of their own, and are not touched.
"""

from __future__ import annotations

import dataclasses
import itertools
import lzma
import math
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from i2i.contracts import Array, Format, ImageSpec
from i2i.errors import InputError
from i2i.formats.colour import bits_to_grey
from i2i.formats.guard import guard, one_line
from i2i.formats.rgb import is_rgb
from i2i.formats.tiff_segments import SegmentCache
from i2i.formats.views import picked
from i2i.formats.zarr_metadata import DTYPES, Multiscale, Node, check_array, inside, is_zarr, multiscale_of, read_node, shown
from i2i.formats.zarr_write import COMPRESSIONS, check, write
from i2i.geometry import Region

CHUNK_LIMIT = 512 * 2**20
"""The largest decoded chunk, in bytes: more is a damaged header, or an image that only a rewrite makes usable."""
INDEX_ENTRY = 16
"""Bytes of a shard's index for each of its chunks."""
MOST_VALUES = 2**50
"""Of all planes: no disk holds more. (What a header makes of absent chunks reads as zeros, and takes for ever.)"""
MOST_CHANNELS_GUESSED = 4
OLD_AXES = "tczyx"
"""Those of OME-Zarr before 0.3, which does not name them."""


class ZarrSource:
    """A Zarr folder, opened: its first image, or all where they are alike. Safe to read from several threads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._cache = SegmentCache()
        with _guarded(path):
            node = read_node(path)
            if node is None:
                raise InputError(f"{path}: holds no Zarr metadata; an incomplete copy: get a whole one")
            found = _images(node)
            images = [self._levels(image) for image in found]
            specs = [_describe(levels, image) for levels, image in zip(images, found, strict=True)]
            self.spec, self._images = _joined(specs, images)
        self._planes = self.spec.plane_count // len(self._images)

    def _levels(self, image: Multiscale) -> list[Level]:
        """The resolutions that hold the same planes and channels as the first, up to one that does not."""
        levels: list[Level] = []
        for path in image.paths:
            node = read_node(path)
            level = Level(node, image.axes, self._cache) if node is not None and node.is_array else None
            if level is None or (levels and level.kind != levels[0].kind):
                break
            levels.append(level)
        if not levels:
            raise InputError(f"{image.paths[0]}: holds no array, though its image names it; an incomplete copy: get a whole one")
        return levels

    def read(self, region: Region, plane: int = 0, level: int = 0) -> Array:
        """See :class:`i2i.contracts.Source`."""
        return self.read_channels(range(self.spec.channels), region, plane, level)

    def read_channels(self, channels: Sequence[int], region: Region, plane: int = 0, level: int = 0) -> Array:
        """See :func:`i2i.formats.views.read_channels`."""
        image, plane = divmod(plane, self._planes)
        found = self._images[image][level]
        if not found.region.contains(region):
            raise ValueError(f"{region} is not inside the image, {found.region}")
        with _guarded(self._path):
            pixels = found.read(region, plane, channels)
        return bits_to_grey(pixels) if pixels.dtype == bool else pixels

    def close(self) -> None:
        """Nothing is open."""


class Level:
    """One resolution of one image: an array with an axis y, an axis x, perhaps one of channels, and those of planes.

    ``names``: of the array's axes; none where nothing says so, and they are guessed. Raises ``InputError``.
    """

    def __init__(self, node: Node, names: Sequence[str], cache: SegmentCache) -> None:
        check_array(node)
        self._array, self._cache, self._key = _open(node), cache, id(self)
        shape, chunks = self._array.shape, self._array.chunks
        self.names, self.notes = _named(node, names, shape)
        _check(node.path, shape, chunks, self._array)
        lengths = dict(zip(self.names, shape, strict=True))
        self._chunks = dict(zip(self.names, chunks, strict=True))
        self.region = Region(0, 0, lengths["y"], lengths["x"])
        self.channels = lengths.get("c", 1)
        self.planes = tuple((name, n) for name, n in lengths.items() if name not in ("c", "y", "x") and n > 1)
        self.dtype = np.dtype(self._array.dtype).newbyteorder("=")
        self.tiling = min(self._chunks["y"], lengths["y"]), min(self._chunks["x"], lengths["x"])

    @property
    def kind(self) -> object:
        """What all resolutions of an image share."""
        return self.planes, self.channels, self.dtype

    def read(self, region: Region, plane: int, wanted: Sequence[int]) -> Array:
        """Stored values of the ``wanted`` channels of a plane: (height, width, len(wanted)), native order."""
        pixels = np.empty((region.height, region.width, len(wanted)), self.dtype)
        for place, channels in self._touched(region, wanted):
            here = [i for i, channel in enumerate(wanted) if channels.start <= channel < channels.stop]
            held = [wanted[i] - channels.start for i in here]
            run = slice(here[0], here[-1] + 1)  # several times as fast as a list of numbers
            common = region.intersect(place)
            values = picked(self._chunk(plane, place, channels)[common.relative_to(place).slices], held)
            pixels[(*common.relative_to(region).slices, run if run.stop - run.start == len(here) else here)] = values
        return pixels

    def _touched(self, region: Region, wanted: Sequence[int]) -> Iterator[tuple[Region, slice]]:
        """The part of the image and the channels of each chunk that shares pixels with ``region`` and ``wanted`` channels."""
        height, width = self._chunks["y"], self._chunks["x"]
        step = self._chunks.get("c", 1)
        rows = range(region.y // height, -(-region.bottom // height))
        columns = range(region.x // width, -(-region.right // width))
        firsts = sorted({channel - channel % step for channel in wanted})
        for row, column, first in itertools.product(rows, columns, firsts):
            place = Region(row * height, column * width, height, width).intersect(self.region)
            yield place, slice(first, min(first + step, self.channels))

    def _chunk(self, plane: int, place: Region, channels: slice) -> Array:
        """What a chunk holds of one plane: (height, width, channels)."""
        key = (self._key, plane, place.y, place.x, channels.start)
        return self._cache.get(key, lambda: self._decode(plane, place, channels))

    def _decode(self, plane: int, place: Region, channels: slice) -> Array:
        index = np.unravel_index(plane, [n for _, n in self.planes]) if self.planes else ()
        where: dict[str, Any] = dict(zip((name for name, _ in self.planes), map(int, index), strict=True))
        where |= {"y": place.slices[0], "x": place.slices[1], "c": channels}
        values = np.asarray(self._array[tuple(where.get(name, 0) for name in self.names)])
        kept = [name for name in self.names if name in ("y", "x", "c")]
        if "c" not in kept:
            kept, values = [*kept, "c"], values[..., np.newaxis]
        return np.ascontiguousarray(values.transpose([kept.index(name) for name in "yxc"]), self.dtype)


def _open(node: Node) -> Any:
    import zarr

    from i2i.formats.zarr_store import BoundedStore

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about codecs and dtypes that no specification has yet
        store = BoundedStore(node.path, CHUNK_LIMIT)
        return zarr.open_array(store, mode="r", zarr_format=2 if node.version == 2 else 3)


def _check(path: Path, shape: Sequence[int], chunks: Sequence[int], array: Any) -> None:
    """Refuse what no region could be read from."""
    if 0 in shape or 0 in chunks:
        raise InputError(f"{path}: an image with a side of 0 pixels; get a good copy")
    if math.prod(shape) > MOST_VALUES:
        raise InputError(f"{path}: declares more pixels than any disk holds; a damaged header: get a good copy")
    size = math.prod(chunks) * array.dtype.itemsize
    index = math.prod(array.shards) // math.prod(chunks) * INDEX_ENTRY if array.shards else 0
    if max(size, index) > CHUNK_LIMIT:
        raise InputError(
            f"{path}: one chunk decodes to {max(size, index) / 1e9:.1f} GB; "
            "a damaged header, or save it with smaller chunks, such as 1024 x 1024"
        )


def _named(node: Node, names: Sequence[str], shape: Sequence[int]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of an array's axes, and a note where they are guessed. Raises ``InputError`` for names that do not fit."""
    stored = node.document.get("dimension_names") or ()
    if not names and {"y", "x"} <= set(stored) and len(set(stored)) == len(stored):
        names = [shown(name, 20) for name in stored]
    if names:
        if len(names) != len(shape):
            raise InputError(f"{node.path}: {len(shape)} axes, and its image names {len(names)}; damaged: get a good copy")
        return tuple(names), ()
    guessed = _guess(node.path, shape)
    return guessed, (f"its axes have no names: read as {', '.join(guessed)}",)


def _guess(path: Path, shape: Sequence[int]) -> tuple[str, ...]:
    if len(shape) == 2:
        return "y", "x"
    if len(shape) == 3 and shape[-1] <= MOST_CHANNELS_GUESSED:
        return "y", "x", "c"
    if len(shape) == 3 and shape[0] <= MOST_CHANNELS_GUESSED:
        return "c", "y", "x"
    if len(shape) == len(OLD_AXES):
        return tuple(OLD_AXES)
    sizes = " x ".join(map(str, shape))
    raise InputError(f"{path}: an array of {sizes} whose axes have no names; save it as OME-Zarr, which names them")


# -------------------------------------------------------------------------------------------------------------- images


def _images(node: Node) -> list[Multiscale]:
    """The images in a folder. Raises ``InputError`` for none, and for so many that one has to be named."""
    if node.is_array:
        return [Multiscale((), (node.path,), None, (), ())]
    if "plate" in node.ome or "well" in node.ome:
        parts = "*" if "well" in node.ome else "*/*/*"
        raise InputError(f"{node.path}: a plate of many images; all, in quotes: '{node.path}/{parts}'; one: {_field(node)} in it")
    if "multiscales" in node.ome:
        return [multiscale_of(node)]
    if "bioformats2raw.layout" in node.ome:
        return _series(node)
    inside = sorted(path.name for path in node.path.iterdir() if path.is_dir())[:4]
    cure = f"; name an image in it, such as {node.path / inside[0]}" if inside else "; get a good copy"
    raise InputError(f"{node.path}: a Zarr group that is no OME-Zarr image{cure}")


def _field(node: Node) -> str:
    """Where the first field of a plate or well is in it, as far as its metadata say."""
    try:
        if "well" in node.ome:
            return shown(node.ome["well"]["images"][0]["path"])
        place = shown(node.ome["plate"]["wells"][0]["path"])
        well = read_node(node.path / place)
        return f"{place}/{_field(well) if well is not None and 'well' in well.ome else 0}"
    except (LookupError, TypeError):
        return "0" if "well" in node.ome else "A/1/0"


def _series(node: Node) -> list[Multiscale]:
    """The images of a folder that bioformats2raw has written: those that it lists, or 0, 1, 2 ..."""
    listed = read_node(node.path / "OME")
    names = listed.ome.get("series") if listed is not None else None
    found = []
    for name in names if isinstance(names, list) else map(str, itertools.count()):
        image = read_node(inside(node.path, str(name)))
        if image is None or "multiscales" not in image.ome:
            break
        found.append(multiscale_of(image))
    if not found:
        raise InputError(f"{node.path}: a Zarr group without an image; an incomplete copy: get a whole one")
    return found


def _describe(levels: list[Level], image: Multiscale) -> ImageSpec:
    first = levels[0]
    sizes = tuple((level.region.height, level.region.width) for level in levels)
    left_out = len(image.paths) - len(levels)
    noted = (f"{left_out} resolution(s) that do not match the first are left out",) if left_out else ()
    named = len(image.channel_names) == first.channels and all(image.channel_names)
    names = image.channel_names if named else ()
    as_rgb = first.dtype == np.uint8 or first.names[-1] == "c"
    return ImageSpec(
        height=first.region.height,
        width=first.region.width,
        channels=first.channels,
        dtype="uint8" if first.dtype == bool else first.dtype.name,
        pixel_size=image.pixel_size,
        channel_names=names,
        channel_colours=image.channel_colours if named else (),
        planes=first.planes,
        levels=sizes if len(sizes) > 1 else (),
        notes=(*image.notes, *first.notes, *noted),
        tiling=first.tiling,
        steps=image.steps,
        name=image.name,
        rgb=is_rgb(first.channels, names, as_rgb),
    )


def _joined(specs: list[ImageSpec], images: list[list[Level]]) -> tuple[ImageSpec, list[list[Level]]]:
    """Images of one shape and dtype as planes along an axis ``series``; of others the first, with a note."""
    first = specs[0]
    if len(specs) == 1:
        return first, images
    shapes = {(spec.height, spec.width, spec.channels, spec.dtype, spec.planes, spec.levels) for spec in specs}
    if len(shapes) == 1:
        return dataclasses.replace(first, planes=(("series", len(specs)), *first.planes)), images
    more = f"{len(specs) - 1} more image(s) in the file: only the first is read"
    return dataclasses.replace(first, notes=(*first.notes, more)), images[:1]


@contextmanager
def _guarded(path: Path) -> Iterator[None]:
    """:func:`~i2i.formats.guard.guard`, and what decoders raise that is none of Python's usual errors."""
    with guard(path, "Zarr"):
        try:
            yield
        except (zlib.error, lzma.LZMAError) as error:
            raise ValueError(one_line(error)) from error


def _sniff(head: bytes, path: Path) -> bool:
    return not head and is_zarr(path)


ZARR_FORMAT = Format(
    name="OME-Zarr",
    suffixes=(".zarr", ".ome.zarr"),
    summary="a folder of compressed chunks with resolutions and OME metadata; any number of planes",
    sniff=_sniff,
    open=ZarrSource,
    write=write,
    dtypes=DTYPES,
    compressions=COMPRESSIONS,
    planes=True,
    check=check,
)
