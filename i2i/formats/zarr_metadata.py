"""What the JSON documents of a Zarr folder say: arrays and groups of Zarr 2 and 3, OME-Zarr 0.4 and 0.5, and older.

The documents are read here, before the library sees them: an array is opened only when its values are plain numbers and
its codecs are known ones, for some (``pickle``) would run what the file says.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from i2i.errors import InputError
from i2i.formats.guard import one_line
from i2i.formats.tiff_metadata import MICROMETRES, SECONDS, Steps, known_steps

DOCUMENTS = ("zarr.json", ".zgroup", ".zarray", ".zattrs")
LARGEST_DOCUMENT = 64 * 2**20
DTYPES = (
    "bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float16", "float32", "float64",
)  # fmt: skip
CODECS = frozenset({
    "bytes", "endian", "transpose", "sharding_indexed",
    "zstd", "gzip", "zlib", "blosc", "lz4", "bz2", "lzma", "shuffle", "delta", "bitround", "fixedscaleoffset", "quantize",
    "packbits", "astype", "crc32", "crc32c", "adler32", "fletcher32", "jenkins_lookup3", "zfpy", "pcodec",
})  # fmt: skip
"""Those that give numbers from bytes and do nothing else."""
UNITS = MICROMETRES | {
    "micrometre": 1.0, "nanometer": 1e-3, "nanometre": 1e-3, "picometer": 1e-6, "angstrom": 1e-4, "millimeter": 1e3,
    "millimetre": 1e3, "centimeter": 1e4, "meter": 1e6, "metre": 1e6, "inch": 25400.0,
}  # fmt: skip


@dataclass(frozen=True)
class Node:
    """An array or a group. ``version``: of Zarr, 2 or 3; ``document``: an array's own; ``ome``: what OME-Zarr says of it."""

    path: Path
    version: int
    is_array: bool
    document: Mapping[str, Any]
    ome: Mapping[str, Any]


def is_zarr(path: Path) -> bool:
    """Whether a folder is an array or a group of Zarr."""
    return any((path / name).is_file() for name in DOCUMENTS)


def read_node(path: Path) -> Node | None:
    """The array or group in a folder; None where there is none. Raises ``InputError`` for a damaged document."""
    document = _document(path / "zarr.json")
    if document is not None:
        inside = _mapping(document.get("attributes"))
        return Node(path, 3, document.get("node_type") == "array", document, _mapping(inside.get("ome", inside)))
    array, group, attributes = (_document(path / name) for name in (".zarray", ".zgroup", ".zattrs"))
    if array is None and group is None and attributes is None:
        return None
    return Node(path, 2, array is not None, array or {}, attributes or {})


def shown(value: object, length: int = 60) -> str:
    """A value from a file as it can stand in a line."""
    text = " ".join(str(value).split())
    return text if len(text) <= length else text[: length - 3] + "..."


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _document(path: Path) -> dict[str, Any] | None:
    try:
        if path.stat().st_size > LARGEST_DOCUMENT:
            raise InputError(f"{path}: more than {LARGEST_DOCUMENT // 2**20} MB of metadata; damaged: get a good copy")
        content = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: no valid JSON ({one_line(error, 80)}); truncated or damaged: get a complete copy") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: no Zarr metadata; damaged: get a good copy")
    return content


# -------------------------------------------------------------------------------------------------------------- arrays


def check_array(node: Node) -> None:
    """Raises ``InputError`` for an array of anything but plain numbers, or with a codec that is not a known one."""
    kind = node.document.get("dtype" if node.version == 2 else "data_type")
    known = kind in DTYPES if node.version == 3 else isinstance(kind, str) and re.fullmatch(r"\|b1|[<>|][iuf][1248]", kind)
    if not known:
        raise InputError(f"{node.path}: values of the kind {shown(kind)} are no pixels; save it as integers or floats")
    for name in _codecs(node.document):
        if name.removeprefix("numcodecs.") not in CODECS:
            raise InputError(f"{node.path}: the codec {shown(name)!r} is not supported; save it with another one, such as zstd")


def _codecs(document: Mapping[str, Any]) -> Iterator[str]:
    """The names of all codecs and filters, those inside of shards too."""
    listed = [document.get("compressor")] if document.get("compressor") else []
    for key in ("filters", "codecs", "index_codecs"):
        listed += document.get(key) or []
    for item in listed:
        if isinstance(item, dict):
            yield str(item.get("id", item.get("name")))
            yield from _codecs(_mapping(item.get("configuration")))
        else:
            yield str(item)


# -------------------------------------------------------------------------------------------------------------- images


@dataclass(frozen=True)
class Multiscale:
    """One image: the names of its axes, the folders of its resolutions (full size first), and what is known of it."""

    axes: tuple[str, ...]
    paths: tuple[Path, ...]
    pixel_size: tuple[float, float] | None
    channel_names: tuple[str, ...]
    notes: tuple[str, ...]
    steps: Steps = ()
    name: str = ""
    channel_colours: tuple[str, ...] = ()


def multiscale_of(node: Node) -> Multiscale:
    """The first image that ``multiscales`` describes. Raises ``InputError`` for a description that says too little."""
    try:
        entries = node.ome["multiscales"]
        entry = entries[0]
        paths = tuple(inside(node.path, item["path"]) for item in entry["datasets"])
        sizes = _sizes(entry, entry["datasets"][0])
    except (LookupError, TypeError, AttributeError) as error:
        raise InputError(f"{node.path}: its OME-Zarr metadata name no resolution; damaged: get a good copy") from error
    notes = (f"{len(entries) - 1} more image(s) in the file: only the first is read",) if len(entries) > 1 else ()
    side = sizes.get("y", math.nan), sizes.get("x", math.nan)
    return Multiscale(
        axes=_names(node.path, entry.get("axes")),
        paths=paths,
        pixel_size=side if all(1e-5 < length < 1e5 for length in side) else None,
        channel_names=_channel_names(node.ome),
        notes=notes,
        steps=known_steps(**{axis: (sizes.get(axis), 1.0) for axis in ("z", "t")}),
        name=shown(entry.get("name") or ""),
        channel_colours=_channel_colours(node.ome),
    )


def inside(folder: Path, path: str) -> Path:
    """A folder that the metadata of another name. Raises ``InputError`` for one outside of it."""
    parts = Path(path).parts
    if ".." in parts or Path(path).is_absolute():
        raise InputError(f"{folder}: its metadata point outside of it ({shown(path)}); copy the whole image into one folder")
    return folder / path


def _names(path: Path, axes: Any) -> tuple[str, ...]:
    """The names of the axes, of OME-Zarr 0.4 and later (dictionaries) or 0.3; none where there are none."""
    names = tuple(shown(axis.get("name") if isinstance(axis, dict) else axis, 20).lower() for axis in axes or ())
    if names and (names.count("y") != 1 or names.count("x") != 1 or len(set(names)) < len(names)):
        raise InputError(f"{path}: the axes {shown(', '.join(names))} are no picture's; each of y and x is needed once")
    return names


def _sizes(entry: Mapping[str, Any], dataset: Mapping[str, Any]) -> dict[str, float]:
    """How far the samples along each axis are apart, in micrometres or seconds; NaN where a unit is missing, none without a
    scale."""
    axes = [axis if isinstance(axis, dict) else {} for axis in entry.get("axes") or ()]
    scales = [_scale(item, len(axes)) for item in (dataset, entry)]
    if scales[0] is None:
        return {}
    sizes = {}
    for i, axis in enumerate(axes):
        known = SECONDS if axis.get("name") == "t" else UNITS
        unit = known.get(str(axis.get("unit", "")).lower(), math.nan)
        sizes[str(axis.get("name")).lower()] = unit * math.prod(scale[i] for scale in scales if scale is not None)
    return sizes


def _scale(item: Mapping[str, Any], count: int) -> list[float] | None:
    """The numbers of the first transformation that scales ``count`` axes."""
    for transform in item.get("coordinateTransformations") or ():
        scale = transform.get("scale") if transform.get("type") == "scale" else None
        if isinstance(scale, list) and len(scale) == count and all(isinstance(value, (int, float)) for value in scale):
            return scale
    return None


def _channel_names(ome: Mapping[str, Any]) -> tuple[str, ...]:
    channels = _mapping(ome.get("omero")).get("channels")
    return tuple(shown(_mapping(item).get("label") or "") for item in channels) if isinstance(channels, list) else ()


def _channel_colours(ome: Mapping[str, Any]) -> tuple[str, ...]:
    """Of every channel, or none."""
    channels = _mapping(ome.get("omero")).get("channels")
    given = [str(_mapping(item).get("color")) for item in channels] if isinstance(channels, list) else []
    return tuple(given) if all(re.fullmatch("[0-9A-Fa-f]{6}", colour) for colour in given) else ()
