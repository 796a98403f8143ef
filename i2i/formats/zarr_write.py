"""Writing OME-Zarr 0.5: a folder of Zarr 3 arrays, one for each resolution, and the same bytes whenever the same run is
written."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from i2i.contracts import Array, ImageSpec, Metadata, Source
from i2i.errors import OutputError
from i2i.formats.pyramid import levels
from i2i.formats.zarr_metadata import DTYPES
from i2i.geometry import Region

COMPRESSIONS = ("zstd", "zlib", "none")
CHUNK, SMALLEST_CHUNK = 1024, 128
SPAN_BYTES = 32 * 2**20
"""What is read from the source at once: one chunk of all channels, which are smaller where there are many channels."""
NAMESPACE, VERSION = "i2i", "0.5"
COLOURS = ("FF0000", "00FF00", "0000FF", "FF00FF", "00FFFF", "FFFF00")
ZSTD_LEVEL, ZLIB_LEVEL = 3, 6


def write(path: Path, source: Source, metadata: Metadata) -> None:
    """Write all planes of a source, with its resolutions, as the folder ``path``: axes t, c, z, y, x as there are.

    A chunk is 1024 x 1024 of one plane and one channel, or smaller where one of all channels is above 32 MB. Pixel sizes
    are in micrometres; ``metadata`` goes to the attribute ``i2i``. Raises ``OutputError`` for what OME-Zarr cannot hold.
    """
    import zarr

    spec, measured = source.spec, _Measured(source)
    if spec.dtype not in DTYPES:
        raise OutputError(f"{path}: OME-Zarr cannot hold {spec.dtype}; it can hold {', '.join(DTYPES)}")
    axes, count = _axes(path, spec), 0
    group = zarr.create_group(path, zarr_format=3)
    with closing(levels(measured, metadata.meaning, path.parent)) as sources:
        for level in sources:
            _write_level(group, str(count), level, axes, metadata)
            count += 1
    group.update_attributes({"ome": _ome(measured, axes, count, metadata), NAMESPACE: _record(metadata)})


class _Measured:
    """A source that keeps the ``range`` of what was read of each channel: (2, channels), the least and the largest."""

    def __init__(self, source: Source) -> None:
        self._source, self.spec = source, source.spec
        self.range: Array | None = None

    def read(self, region: Region, plane: int = 0, level: int = 0) -> Array:
        """See :class:`i2i.contracts.Source`."""
        pixels = self._source.read(region, plane)
        if self.spec.channel_names:
            numbers = pixels.view(np.uint8) if pixels.dtype == bool else pixels
            found = np.stack([np.fmin.reduce(numbers, axis=(0, 1)), np.fmax.reduce(numbers, axis=(0, 1))])
            old = found if self.range is None else self.range
            self.range = np.stack([np.fmin(found[0], old[0]), np.fmax(found[1], old[1])])
        return pixels

    def close(self) -> None:
        """The source is its owner's."""


def check(path: Path, spec: ImageSpec, metadata: Metadata) -> None:
    """Raises ``OutputError`` for what an OME-Zarr cannot hold."""
    _axes(path, spec)


def _axes(path: Path, spec: ImageSpec) -> tuple[str, ...]:
    """The names of the axes in OME-Zarr's order: time, then channels or another axis, then space."""
    lengths = dict(spec.planes)
    others = [name for name in lengths if name not in ("t", "z")]
    if _has_channels(spec):
        others.append("c")
    if len(others) > 1:
        raise OutputError(f"{path}: OME-Zarr has no room for the axes {' and '.join(others)} in one image; choose one plane")
    return (*(["t"] if "t" in lengths else []), *others, *(["z"] if "z" in lengths else []), "y", "x")


def _has_channels(spec: ImageSpec) -> bool:
    return spec.channels > 1 or len(spec.channel_names) == 1


def _write_level(group: Any, name: str, level: Source, axes: tuple[str, ...], metadata: Metadata) -> None:
    """One resolution: every plane of ``level`` is read once, chunk by chunk in raster order."""
    spec = level.spec
    side = _side(spec)
    sizes = {"y": side, "x": side}
    lengths = {"c": spec.channels} | dict(spec.planes) | {"y": spec.height, "x": spec.width}
    array = group.create_array(
        name,
        shape=tuple(lengths[axis] for axis in axes),
        chunks=tuple(sizes.get(axis, 1) for axis in axes),
        dtype=spec.dtype,
        compressors=_compressors(metadata.compression),
        fill_value=0,
        dimension_names=axes,
    )
    with ThreadPoolExecutor(max(1, metadata.threads)) as workers:
        for plane in range(spec.plane_count):
            for region in _regions(spec, side):
                pixels = level.read(region, plane)
                places = [_place(spec, axes, plane, channel, region) for channel in range(spec.channels)]
                parts = [np.ascontiguousarray(pixels[..., channel]) for channel in range(spec.channels)]
                list(workers.map(array.set_basic_selection, places, parts))


def _side(spec: ImageSpec) -> int:
    """Pixels on a side of a chunk."""
    side, pixel = CHUNK, spec.channels * np.dtype(spec.dtype).itemsize
    while side > SMALLEST_CHUNK and side**2 * pixel > SPAN_BYTES:
        side //= 2
    return side


def _compressors(name: str) -> Any:
    from zarr.codecs import GzipCodec, ZstdCodec

    class Undated(GzipCodec):
        """Without the time in its header."""

        def _encode_sync(self, chunk_bytes: Any, chunk_spec: Any) -> Any:
            data = gzip.compress(chunk_bytes.to_bytes(), self.level, mtime=0)
            return chunk_spec.prototype.buffer.from_bytes(data)

        async def _encode_single(self, chunk_bytes: Any, chunk_spec: Any) -> Any:
            return await asyncio.to_thread(self._encode_sync, chunk_bytes, chunk_spec)

    known = {"zstd": ZstdCodec(level=ZSTD_LEVEL), "zlib": Undated(level=ZLIB_LEVEL), "none": None}
    return known[name or COMPRESSIONS[0]]


def _regions(spec: ImageSpec, side: int) -> Iterator[Region]:
    for y in range(0, spec.height, side):
        for x in range(0, spec.width, side):
            yield Region(y, x, side, side).intersect(spec.region)


def _place(spec: ImageSpec, axes: tuple[str, ...], plane: int, channel: int, region: Region) -> tuple[Any, ...]:
    """Where the pixels of one plane and one channel are in the array."""
    index = np.unravel_index(plane, [length for _, length in spec.planes]) if spec.planes else ()
    where: dict[str, Any] = {"c": channel}  # of RGB pictures, c may be an axis of planes
    where |= zip((name for name, _ in spec.planes), map(int, index), strict=True)
    where |= {"y": region.slices[0], "x": region.slices[1]}
    return tuple(where[axis] for axis in axes)


# ------------------------------------------------------------------------------------------------------------ metadata


def _record(metadata: Metadata) -> Mapping[str, Any]:
    record = json.loads(json.dumps(dict(metadata.record), sort_keys=True, default=str))
    return {"fingerprint": metadata.fingerprint, "meaning": metadata.meaning, "record": record}


def _ome(source: _Measured, axes: tuple[str, ...], count: int, metadata: Metadata) -> Mapping[str, Any]:
    spec = source.spec
    nearest = metadata.meaning in ("labels", "classes")
    multiscale: dict[str, Any] = {
        "axes": [_axis(name, spec) for name in axes],
        "datasets": [_dataset(level, axes, spec) for level in range(count)],
        "type": "nearest" if nearest else "mean",
    }
    if spec.name:
        multiscale["name"] = spec.name
    ome: dict[str, Any] = {"version": VERSION, "multiscales": [multiscale]}
    if nearest:  # by this viewers know that the numbers are names, and show them as labels
        ome["image-label"] = {"version": VERSION}
    if len(spec.channel_names) == spec.channels and source.range is not None:
        ome["omero"] = {"channels": [_channel(i, spec, source.range[:, i]) for i in range(spec.channels)]}
    return ome


def _axis(name: str, spec: ImageSpec) -> Mapping[str, str]:
    kind = {"t": "time", "c": "channel", "z": "space", "y": "space", "x": "space"}.get(name, "custom")
    known = {"y", "x"} if spec.pixel_size is not None else set()
    unit = {"unit": "second" if name == "t" else "micrometer"} if name in known | set(dict(spec.steps)) else {}
    return {"name": name, "type": kind, **unit}


def _dataset(level: int, axes: tuple[str, ...], spec: ImageSpec) -> Mapping[str, Any]:
    height, width = spec.pixel_size or (1.0, 1.0)
    sizes = dict(spec.steps) | {"y": height * 2.0**level, "x": width * 2.0**level}
    scale = [sizes.get(axis, 1.0) for axis in axes]
    return {"path": str(level), "coordinateTransformations": [{"type": "scale", "scale": scale}]}


def _channel(index: int, spec: ImageSpec, found: Array) -> Mapping[str, Any]:
    """A channel as viewers want it: its name, a colour, and the values from black to white."""
    low, high = found.tolist() if np.isfinite(found).all() else (0, 1)
    usual = "FFFFFF" if spec.channels == 1 else COLOURS[index % len(COLOURS)]
    colour = spec.channel_colours[index] if spec.channel_colours else usual
    window = {"min": low, "start": low, "end": high, "max": high}
    return {"label": spec.channel_names[index], "color": colour, "active": True, "window": window}
