"""Masks as COCO writes them: lengths of runs, column by column, first of background, then of the object, and so on.

Compressed, a run from the fourth on is written as its difference to the last but one, in groups of five bits, six of which
are a character from ``0`` on (maskApi.c of the COCO API). What a file holds is checked before the library sees it, which
does not end for some damaged codes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt

Code = dict[str, Any]
"""``{"size": [height, width], "counts": bytes}``: a mask as compressed runs."""

_Numbers = npt.NDArray[np.int64]
_LONGEST = 7
"""Characters of one run, at most: 35 bits."""
_LONGEST_SIDE = 2**17
"""Of an image, in pixels: its runs have 35 bits then."""


def code_of(mask: npt.NDArray[np.bool_], top: int, left: int, size: tuple[int, int]) -> Code:
    """The code of an object in an image of ``size`` (height, width) from its box-sized mask (H, W) bool, whose first pixel lies
    at row ``top``, column ``left``. No array of the image's size is made."""
    columns, rows = np.nonzero(mask.T)
    places = (columns + left).astype(np.int64) * size[0] + rows + top
    first = np.flatnonzero(np.diff(places, prepend=-2) != 1)
    last = np.append(first[1:], len(places)) - 1 if len(places) else first
    return _of_changes(np.stack([places[first], places[last] + 1], 1).ravel(), size)


def checked_code(segmentation: Any, size: tuple[int, int]) -> Code:
    """The code of a ``segmentation`` of COCO JSON in an image of ``size`` (height, width): polygons, runs, or compressed runs.

    Raises ``ValueError`` with the reason for what is none of these or does not fit the image.
    """
    if not 0 < min(size) <= max(size) <= _LONGEST_SIDE:
        raise ValueError(f"masks of {size[0]} x {size[1]} pixels cannot be compared")
    if isinstance(segmentation, Mapping):
        return _checked_runs(segmentation, size)
    if isinstance(segmentation, Sequence) and not isinstance(segmentation, str) and len(segmentation):
        return _filled(segmentation, size)
    raise ValueError("its segmentation is neither polygons nor runs")


def _checked_runs(segmentation: Mapping[str, Any], size: tuple[int, int]) -> Code:
    given = segmentation.get("size")
    if list(given or ()) != list(size):
        raise ValueError(f"its mask is of size {given}, the image of {list(size)}")
    counts = segmentation.get("counts")
    lengths = _decompressed(counts) if isinstance(counts, str | bytes) else _integers(counts)
    pixels = size[0] * size[1]
    if ((lengths < 0) | (lengths > pixels)).any() or lengths.sum() != pixels:
        raise ValueError("the runs of its mask do not add up to the image")
    if isinstance(counts, str | bytes) and lengths[1:].all():
        return {"size": list(size), "counts": _as_bytes(counts)}
    places, times = np.unique(lengths[:-1].cumsum(), return_counts=True)  # the library takes an empty run for the end
    return _of_changes(places[times % 2 == 1], size)


def _integers(counts: Any) -> _Numbers:
    try:
        lengths = np.array(counts)
    except ValueError:  # a list of lists of several lengths
        lengths = np.array(None)
    if lengths.ndim != 1 or lengths.dtype.kind not in "iu":
        raise ValueError("the runs of its mask are no whole numbers")
    return lengths.astype(np.int64)


def _as_bytes(counts: Any) -> bytes:
    return counts if isinstance(counts, bytes) else counts.encode("ascii", "replace")


def _decompressed(counts: str | bytes) -> _Numbers:
    """The runs of a compressed code; ``ValueError`` for characters that are none of it."""
    groups = np.frombuffer(_as_bytes(counts), np.uint8).astype(np.int64) - 48
    ends = np.flatnonzero(groups & 32 == 0)
    if not len(groups) or groups.min() < 0 or groups.max() > 63 or ends[-1:].tolist() != [len(groups) - 1]:
        raise ValueError("the compressed runs of its mask are damaged")
    starts = np.append(0, ends[:-1] + 1)
    lengths = ends - starts + 1
    if lengths.max() > _LONGEST:
        raise ValueError("the compressed runs of its mask are damaged")
    shifts = 5 * (np.arange(len(groups)) - np.repeat(starts, lengths))
    values = np.add.reduceat((groups & 31) << shifts, starts)
    values -= np.where(groups[ends] & 16, 1 << (5 * lengths), 0)
    values[1::2] = values[1::2].cumsum()  # each is a difference to the last but one, from the fourth on
    values[2::2] = values[2::2].cumsum()
    return values


def _of_changes(places: _Numbers, size: tuple[int, int]) -> Code:
    """``places``: in order, those of the pixels at which background and object take turns, column by column."""
    from faster_coco_eval.core import mask

    pixels = size[0] * size[1]
    lengths = np.diff(places[places < pixels], prepend=0, append=pixels)
    return cast(Code, mask.frPyObjects({"size": list(size), "counts": lengths.tolist()}, *size))


def _filled(polygons: Sequence[Any], size: tuple[int, int]) -> Code:
    """The code of what lies in any of the polygons (x, y, x, y ...)."""
    from faster_coco_eval.core import mask

    reach = 2 * max(size)
    for polygon in polygons:
        try:
            corners = np.array(polygon, np.float64)
        except (ValueError, TypeError) as error:
            raise ValueError("its polygons are no lists of numbers") from error
        if corners.ndim != 1 or len(corners) < 6 or len(corners) % 2:
            raise ValueError("one of its polygons has fewer than three corners, or half a corner")
        if not (np.abs(corners) <= reach).all():
            raise ValueError("one of its polygons lies far outside the image")
    return cast(Code, mask.merge(mask.frPyObjects([[float(x) for x in polygon] for polygon in polygons], *size)))
