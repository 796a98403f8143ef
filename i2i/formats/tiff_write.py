"""Writing TIFF: tiled, deflate, OME-XML, tile by tile, and the same bytes whenever the same run is written."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from i2i.contracts import Array, ImageSpec, Metadata, Source
from i2i.errors import OutputError
from i2i.formats.guard import quieten_tifffile
from i2i.geometry import Region, round_up

DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64")
CHANNELS: tuple[int, ...] = ()
"""Any number of them."""
TILE = 512
SPAN_BYTES = 64 * 2**20
"""What is read from the source at once: tiles side by side, at most a row of them."""
CLASSIC_LIMIT = 4_000_000_000 - 50_000_000
"""Uncompressed bytes above which the file is a BigTIFF: tables, metadata and incompressible data need room as well."""
NAMESPACE = "i2i"


def write(path: Path, source: Source, metadata: Metadata) -> None:
    """Write a source of one plane. Three channels of uint8 or uint16 that mean "image" are RGB; any other channels are
    one page each, as OME's C axis. ``metadata.record`` is kept as JSON in an OME MapAnnotation, key ``record``,
    namespace ``i2i``. Raises ``OutputError`` for a dtype that OME-TIFF has no name for."""
    spec = source.spec
    _check(path, spec)
    rgb = spec.channels == 3 and spec.dtype in ("uint8", "uint16") and metadata.meaning == "image"
    tile = (min(TILE, round_up(spec.height, 16)), min(TILE, round_up(spec.width, 16)))
    groups: list[tuple[int, ...]] = [(0, 1, 2)] if rgb else [(channel,) for channel in range(spec.channels)]
    import tifffile

    quieten_tifffile()
    with tifffile.TiffWriter(path, bigtiff=spec.bytes > CLASSIC_LIMIT, ome=True, byteorder="<") as file:
        file.write(
            _tiles(source, groups, tile),
            shape=_shape(spec, rgb),
            dtype=np.dtype(spec.dtype),
            tile=tile,
            photometric="rgb" if rgb else "minisblack",
            planarconfig="contig" if rgb else None,
            compression="zlib",
            predictor=2 if np.dtype(spec.dtype).kind in "iu" else False,
            software="i2i",
            metadata=_ome(spec, rgb, metadata),
            buffersize=2**25,
            **_resolution(spec),
        )


def _check(path: Path, spec: ImageSpec) -> None:
    if spec.dtype not in DTYPES:
        raise OutputError(f"{path}: TIFF cannot hold {spec.dtype} with OME metadata; it can hold {', '.join(DTYPES)}")
    if spec.plane_count != 1:
        raise OutputError(f"{path}: one plane at a time is written, and the image has {spec.plane_count}; choose one")


def _shape(spec: ImageSpec, rgb: bool) -> tuple[int, ...]:
    if rgb:
        return spec.height, spec.width, 3
    return (spec.height, spec.width) if spec.channels == 1 else (spec.channels, spec.height, spec.width)


def _tiles(source: Source, groups: list[tuple[int, ...]], tile: tuple[int, int]) -> Iterator[Array]:
    """The tiles of each page in raster order, cut at the image's end: (h, w, 3), or (h, w) of one channel."""
    spec = source.spec
    column = tile[0] * tile[1] * spec.channels * np.dtype(spec.dtype).itemsize
    span = max(1, SPAN_BYTES // column) * tile[1]
    for group in groups:
        for y in range(0, spec.height, tile[0]):
            for x in range(0, spec.width, span):
                piece = Region(y, x, min(tile[0], spec.height - y), min(span, spec.width - x))
                pixels = source.read(piece)[..., list(group)]
                for left in range(0, piece.width, tile[1]):
                    part = pixels[:, left : left + tile[1]]
                    yield np.ascontiguousarray(part if len(group) > 1 else part[..., 0])


def _ome(spec: ImageSpec, rgb: bool, metadata: Metadata) -> dict[str, Any]:
    """What tifffile makes OME-XML from. The identifier comes from the run's fingerprint: tifffile's own is random."""
    record = json.dumps(dict(metadata.record), sort_keys=True, ensure_ascii=True, default=str)
    ome: dict[str, Any] = {
        "axes": "YXS" if rgb else "YX" if spec.channels == 1 else "CYX",
        "Creator": "i2i",
        "UUID": str(uuid.uuid5(uuid.NAMESPACE_OID, metadata.fingerprint)),
        "MapAnnotation": {"Namespace": NAMESPACE, "Value": {"meaning": metadata.meaning, "record": record}},
    }
    if spec.pixel_size is not None:
        height, width = spec.pixel_size
        ome |= {"PhysicalSizeX": width, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": height, "PhysicalSizeYUnit": "µm"}
    if len(spec.channel_names) == spec.channels and not rgb:
        ome["Channel"] = {"Name": list(spec.channel_names)}
    return ome


def _resolution(spec: ImageSpec) -> dict[str, Any]:
    if spec.pixel_size is None:
        return {}
    height, width = spec.pixel_size
    return {"resolution": (10_000 / width, 10_000 / height), "resolutionunit": "CENTIMETER"}
