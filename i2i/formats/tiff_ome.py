"""What a written TIFF says of itself: OME-XML with axes, pixel size, channel names and the record of the run."""

from __future__ import annotations

import dataclasses
import json
import math
import uuid
from typing import Any
from xml.etree import ElementTree

from i2i.contracts import ImageSpec, Metadata
from i2i.formats.tiff_layout import Axis, Layout

NAMESPACE = "i2i"
LETTERS = {"t": "T", "z": "Z", "c": "C", "page": "Q", "a": "A", "p": "P", "r": "R", "h": "H", "e": "E"}
"""OME's letter for an axis over planes. T, Z and C are its own; it keeps one more inside T or Z ("modulo"): Q is any other,
A an angle, P a phase, R a tile, H a lifetime, E a wavelength."""


STEPS = {"z": ("Z", "PhysicalSizeZ", "µm"), "t": ("T", "TimeIncrement", "s")}
"""Of an axis: OME's letter, and how it calls the step and its unit."""


def plane_axes(spec: ImageSpec, rgb: bool) -> tuple[Axis, ...]:
    """The axes over planes as OME letters with their lengths, outermost first; a single T, for all of them in C order, where
    OME cannot say it. Axes of one step are left out. ``rgb``: the channels are on one page, else C is their axis."""
    planes = _stored(spec)
    letters = [LETTERS.get(name, "") for name, _ in planes]
    taken = letters if rgb else [*letters, "C"]
    if not all(letters) or len(set(taken)) < len(taken) or not _modulo_fits(letters):
        return (("T", spec.plane_count),)
    return tuple((letter, length) for letter, (_, length) in zip(letters, planes, strict=True))


def recorded(layout: Layout, xml: str | None) -> Layout:
    """The layout with the planes' own names and lengths, where :func:`description` had to note them; else as it is."""
    planes = _noted_planes(xml) if xml and NAMESPACE in xml else ()
    found, noted = ([length for _, length in axes] for axes in (layout.planes, planes))
    channels = layout.axes[-1:] if layout.c is not None else ()
    ours = layout.depth == 1 and layout.c in (None, len(layout.axes) - 1)
    if not ours or min(noted, default=0) < 1 or math.prod(noted) != math.prod(found):
        return layout
    return dataclasses.replace(layout, axes=planes + channels, planes=planes, c=len(planes) if channels else None)


def _noted_planes(xml: str) -> tuple[Axis, ...]:
    try:
        found = (item for item in ElementTree.fromstring(xml).iter() if item.tag.endswith("}MapAnnotation"))
        ours = [item for item in found if item.get("Namespace") == NAMESPACE]
        noted = [item.text or "" for annotation in ours for item in annotation.iter() if item.get("K") == "planes"]
        return tuple((str(name), int(length)) for name, length in json.loads(noted[0]))
    except (ElementTree.ParseError, ValueError, TypeError, IndexError):
        return ()


def _stored(spec: ImageSpec) -> tuple[Axis, ...]:
    """The planes without axes of one step: a TIFF does not tell those from none."""
    return tuple((name, length) for name, length in spec.planes if length > 1)


def _modulo_fits(letters: list[str]) -> bool:
    """Whether at most one axis is neither T, Z nor C, and it lies inside T or Z: the one before it, or one that is free."""
    inside = [i for i, letter in enumerate(letters) if letter not in "TZC"]
    if not inside:
        return True
    before = letters[: inside[0]][-1:]
    return len(inside) == 1 and before != ["C"] and (bool(before) or not {"T", "Z"} <= set(letters))


def description(spec: ImageSpec, planes: tuple[Axis, ...], inner: str, metadata: Metadata) -> dict[str, Any]:
    """What tifffile makes OME-XML from. ``planes``: of :func:`plane_axes`; ``inner``: the letters of the axes inside them. The
    identifier comes from the run's fingerprint: tifffile's own is random.

    A MapAnnotation of the namespace ``i2i`` holds ``meaning``, ``record`` (JSON), and ``planes`` (JSON: names and lengths,
    outermost first, of the pages' axes before the channels') where the letters do not tell them.
    """
    record = json.dumps(dict(metadata.record), sort_keys=True, ensure_ascii=True, default=str)
    notes = {"meaning": metadata.meaning, "record": record}
    if [letter for letter, _ in planes] != [LETTERS.get(name) for name, _ in _stored(spec)]:
        notes["planes"] = json.dumps(_stored(spec))
    ome: dict[str, Any] = {
        "axes": "".join(letter for letter, _ in planes) + inner,
        "Creator": "i2i",
        "UUID": str(uuid.uuid5(uuid.NAMESPACE_OID, metadata.fingerprint)),
        "MapAnnotation": {"Namespace": NAMESPACE, "Value": notes},
    }
    if spec.pixel_size is not None:
        height, width = spec.pixel_size
        ome |= {"PhysicalSizeX": width, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": height, "PhysicalSizeYUnit": "µm"}
    letters = [letter for letter, _ in planes]
    for axis, (letter, key, unit) in STEPS.items():
        if axis in dict(spec.steps) and letter in letters:
            ome |= {key: dict(spec.steps)[axis], f"{key}Unit": unit}
    if spec.name:
        ome["Name"] = spec.name
    if len(spec.channel_names) == spec.channels and "S" not in inner:
        ome["Channel"] = {"Name": list(spec.channel_names)}
        if spec.channel_colours:
            ome["Channel"]["Color"] = [_signed(int(colour + "FF", 16)) for colour in spec.channel_colours]
    return ome


def _signed(number: int) -> int:
    """A number of 32 bits as OME writes colours."""
    return number - 2**32 if number >= 2**31 else number
