"""The objects as GeoJSON polygons that QuPath (0.4 and later) opens: one feature a line, by id.

Coordinates are pixels, x before y, along the edges of pixels: the top left pixel covers 0 .. 1. Outer rings are
counter-clockwise as RFC 7946 has it, where y points up; on an image, where y points down, they run clockwise. So centroids in
pixels are 0.5 more than those of the table, where integers are the centres of pixels; micrometres are the same.

The plane of a stack is where QuPath has it, in the geometry: ``"plane": {"c": -1, "z": 3, "t": 0}``, all channels. Pages that the
file does not name are its t, as Bio-Formats counts them. QuPath has no other axes: the property ``plane`` names them all.
"""

from __future__ import annotations

import json
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from itertools import chain
from pathlib import Path

import numpy as np

from i2i.contracts import Exported, Exporter, Source
from i2i.exporters.known import Known, known_of
from i2i.exporters.outlines import Outline, Points, find_outlines
from i2i.pictures import colours

_POINTS = 2**14
"""Written at a time."""
Scale = tuple[float, float]
Plane = Mapping[str, int]
_NOTHING = known_of(None)


def write_geojson(path: Path, labels: Source, known: Callable[[int], Known] = _NOTHING, scale: Scale = (1, 1)) -> None:
    """Write the objects of a label image (H, W, 1) as a feature collection. ``known``: of the object with an id. ``scale``: how
    many pixels of the image on which they are to be drawn a pixel of ``labels`` is high and wide, where that image is a
    larger one. Memory is bounded as that of :func:`i2i.exporters.outlines.find_outlines`."""
    _write(path, _features(labels, known, scale, {}))


def _write(path: Path, features: Iterable[Iterator[str]]) -> None:
    with path.open("w", newline="\n", encoding="ascii") as stream:
        stream.write('{"type":"FeatureCollection","features":[')
        separator = "\n"
        for pieces in features:
            stream.write(separator)
            stream.writelines(pieces)
            separator = ",\n"
        stream.write("\n]}\n")


def _features(labels: Source, known: Callable[[int], Known], scale: Scale, plane: Plane) -> Iterator[Iterator[str]]:
    """Those of the objects of one plane, each in pieces."""
    for outline in find_outlines(labels):
        properties = _properties(outline, known(outline.number), labels.spec.pixel_size, scale)
        yield _feature(outline, properties | ({"plane": plane} if plane else {}), scale, plane)


def _feature(outline: Outline, properties: Mapping[str, object], scale: Scale, plane: Plane) -> Iterator[str]:
    """The text of a feature, in pieces of bounded length."""
    x, y = outline.parts[0][0][0].tolist()
    name = " ".join(map(str, (outline.number, outline.area, x, y, *(f"{axis}{at}" for axis, at in plane.items()))))
    head = {"type": "Feature", "id": str(uuid.uuid5(uuid.NAMESPACE_OID, name)), "properties": properties}
    yield _text(head)[:-1]
    several = len(outline.parts) > 1
    yield f',"geometry":{{"type":"{"MultiPolygon" if several else "Polygon"}","coordinates":'
    yield "[" * several
    for place, part in enumerate(outline.parts):
        yield "," * (place > 0) + "["
        for number, ring in enumerate(part):
            yield "," * (number > 0) + "["
            yield from _ring(ring, scale)
            yield "]"
        yield "]"
    yield "]" * several
    if plane:
        yield f',"plane":{_text({"c": -1, "z": plane.get("z", 0), "t": plane.get("t", plane.get("page", 0))})}'
    yield "}}"


def _ring(points: Points, scale: Scale) -> Iterator[str]:
    """The points of a ring and, at its end, the first one again."""
    for start in range(0, len(points), _POINTS):
        yield _text(_scaled(points[start : start + _POINTS], scale))[1:-1] + ","
    yield _text(_scaled(points[:1], scale))[1:-1]


def _scaled(points: Points, scale: Scale) -> list[list[float]]:
    """Integers, unless a pixel becomes no whole number of pixels."""
    whole = all(float(factor).is_integer() for factor in scale)
    larger: list[list[float]] = (points * np.array(scale[::-1], int if whole else float)).round(2).tolist()
    return larger


def _properties(outline: Outline, known: Known, pixel_size: Scale | None, scale: Scale) -> dict[str, object]:
    """As QuPath reads them: measurements are numbers by name, a class has a colour."""
    properties: dict[str, object] = {
        "objectType": "detection",
        "name": str(outline.number),
        "label": outline.number,
        "color": _palette()[outline.number % 256],
    }
    if known.class_name:
        colour = _palette()[zlib.crc32(known.class_name.encode()) % 256]
        properties["classification"] = {"name": known.class_name, "color": colour}
    measurements = _measured(outline, scale, "px", 2)
    if pixel_size is not None:
        measurements |= _measured(outline, pixel_size, "µm", 4)
    if known.score is not None:
        measurements["Score"] = known.score
    return properties | {"measurements": measurements}


def _measured(outline: Outline, scale: Scale, unit: str, digits: int) -> dict[str, float]:
    """Named as in QuPath's own tables. The centroid is that of the polygon: the first pixel's is 0.5, 0.5."""
    (y, x), (tall, wide) = outline.centre, scale
    values = {f"Area {unit}^2": outline.area * tall * wide, f"Centroid X {unit}": x * wide, f"Centroid Y {unit}": y * tall}
    return {name: round(value, digits) for name, value in values.items()}


@cache
def _palette() -> list[list[int]]:
    """The colours of the ids 0 .. 255, after which they repeat: those of the overlay."""
    palette: list[list[int]] = colours(np.arange(256)).tolist()
    return palette


def _text(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def _export(path: Path, exported: Exported) -> None:
    planes = exported.each()
    parts = (_features(one.result, known_of(one.objects), one.scale, dict(one.plane)) for one in planes)
    _write(path, chain.from_iterable(parts))


GEOJSON = Exporter(
    name="geojson",
    suffix=".geojson",
    summary="the outlines of the objects as GeoJSON polygons, for QuPath",
    export=_export,
    suffixes=(".geojson", ".json"),
    planes=True,
)
