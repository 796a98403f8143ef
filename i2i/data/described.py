"""What a model is told of the images that it was trained on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from i2i.contracts import ImageSpec
from i2i.data.crops import Example

_SAME = 1.02
"""Pixel sizes of which the largest is at most so many times the smallest are one."""


def described(examples: Sequence[Example], pixel_size: float, tell: Callable[[str], None]) -> dict[str, Any]:
    """Entries of the model file's header: ``pixel_size``, of a pixel's side in micrometres, as asked for or (0) as the images
    say, and ``channel_names``; each where all images say the same. ``tell``: is told what was found, and what differs."""
    specs = [example.spec for example in examples if example.spec]
    size = _asked(specs, pixel_size, tell) if pixel_size else _pixel_size(specs, tell)
    names = _channel_names(specs, tell)
    return ({"pixel_size": size} if size else {}) | ({"channel_names": list(names)} if names else {})


def _asked(specs: Sequence[ImageSpec], size: float, tell: Callable[[str], None]) -> float:
    others = [side for spec in specs for side in spec.pixel_size or () if not 1 / _SAME <= side / size <= _SAME]
    if others:
        tell(f"some images have pixels of {others[0]:g} um in the file; the model is told {size:g} um, as --pixel-size says")
    return size


def _pixel_size(specs: Sequence[ImageSpec], tell: Callable[[str], None]) -> float | None:
    sides = [side for spec in specs if spec.pixel_size for side in spec.pixel_size]
    if not sides:
        return None
    silent = sum(spec.pixel_size is None for spec in specs)
    if silent or max(sides) > _SAME * min(sides):
        what = f"{silent} of {len(specs)} images do not say theirs" if silent else f"from {min(sides):g} to {max(sides):g} um"
        tell(f"pixel sizes differ ({what}): the model is told none; --pixel-size UM tells it one")
        return None
    size = float(f"{median(sides):.6g}")
    tell(f"pixels of {size:g} um: the model is told, and will see images of other pixels resampled to these")
    return size


def _channel_names(specs: Sequence[ImageSpec], tell: Callable[[str], None]) -> tuple[str, ...]:
    found = {spec.channel_names: None for spec in specs}
    if len(found) > 1:
        kinds = " and ".join(", ".join(names) or "none" for names in list(found)[:2])
        tell(f"channel names differ ({kinds}): the model is told none; --channels with names takes the same of each image")
        return ()
    names = next(iter(found), ())
    return names if all(names) else ()
