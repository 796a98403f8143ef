"""Edits of the JSON documents of a Zarr folder: values of other kinds and sizes, fields that go or appear."""

from __future__ import annotations

import json
from collections.abc import Iterator
from random import Random
from typing import Any

Place = tuple[Any, Any]
"""A list or an object of a document, and the index or the key of what is in it."""
VALUES: tuple[Any, ...] = (
    0, 1, -1, 2, 3, 16, 255, 10**6, 2**31, 2**53, 2**63, 2**64, 10**30, 0.5, -0.5, 1e308, float("nan"), float("inf"), True,
    False, None, "", "y", "x", "c", "..", "../..", "/", "0", "0/0", "a\nb", "\0", "é" * 300, [], [1], [16, 16], [1, 1, 1, 1],
    {}, {"name": "y"}, "uint8", "float32", "|u1", "<f8", ">u2", "|O", "<U4", "|V8", "zstd", "blosc", "gzip", "bytes", "pickle",
    "vlen-utf8", "big", "C", "F", "regular", "default", "v2", "space", "micrometer", "NaN", "array", "group", [["a", "<u1"]],
    {"id": "zlib"},
)  # fmt: skip
KEYS = (
    "filters", "dimension_separator", "order", "fill_value", "compressor", "storage_transformers", "plate", "well",
    "multiscales", "ome", "bioformats2raw.layout", "axes", "datasets", "omero", "attributes", "dimension_names",
    "consolidated_metadata", "node_type", "codecs",
)  # fmt: skip


def is_document(name: str) -> bool:
    return name.rsplit("/", 1)[-1] in ("zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata")


def edit(random: Random, content: bytes) -> bytes:
    """The document with one value changed, dropped, doubled or added; as it is where it is no JSON."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return content
    places = list(_places(document))
    if not places or random.random() < 0.02:
        return json.dumps(random.choice(VALUES)).encode()
    _change(random, *random.choice(places), places)
    return json.dumps(document).encode()


def _places(value: Any) -> Iterator[Place]:
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in inside:
        yield value, key
        yield from _places(inner)


def _change(random: Random, holder: Any, key: Any, places: list[Place]) -> None:
    draw, present = random.random(), holder[key]
    if draw < 0.15:
        del holder[key]
    elif draw < 0.25 and isinstance(holder, dict):
        holder[random.choice(KEYS)] = random.choice(VALUES)
    elif draw < 0.3 and isinstance(holder, list):
        holder.append(present)
    elif draw < 0.4:
        other, name = random.choice(places)
        holder[key] = json.loads(json.dumps(other[name]))
    elif draw < 0.6 and isinstance(present, int) and not isinstance(present, bool):
        holder[key] = random.choice((present * 2, present + 1, present - 1, -present, present * 1000, present // 2))
    else:
        holder[key] = random.choice(VALUES)
