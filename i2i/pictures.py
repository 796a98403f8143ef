"""Pictures for the eye: images stretched to eight bits, objects and classes in colours, sheets of several."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from i2i.contracts import Array
from i2i.files import replacing

Picture = npt.NDArray[np.uint8]
_GAP = 8


def picture_of(pixels: Array) -> Picture:
    """(H, W, C) of any range as an RGB picture (H, W, 3) uint8, stretched between percentiles."""
    pixels = pixels[..., :3] if pixels.shape[2] >= 3 else pixels[..., :1].repeat(3, axis=2)
    low, high = np.percentile(pixels, [0.5, 99.8])
    if high <= low:
        high = low + 1
    return (np.clip((pixels - low) / (high - low), 0, 1) * 255).astype(np.uint8)


def colours(labels: Array) -> Picture:
    """(H, W) of ids -> (H, W, 3): a colour that depends on the id alone; neighbouring ids differ."""
    table = np.array([colorsys.hsv_to_rgb((i * 0.618) % 1, 0.8, 1.0) for i in range(256)]) * 255
    return table.astype(np.uint8)[labels.astype(np.int64) % 256]


def outlines(labels: Array) -> npt.NDArray[np.bool_]:
    """(H, W): pixels of an object with another id among their four neighbours."""
    edge = np.zeros(labels.shape, bool)
    vertical, horizontal = labels[1:] != labels[:-1], labels[:, 1:] != labels[:, :-1]
    edge[1:] |= vertical
    edge[:-1] |= vertical
    edge[:, 1:] |= horizontal
    edge[:, :-1] |= horizontal
    return edge & (labels > 0)


def tinted(labels: Array, below: Picture) -> Picture:
    """Where ``labels`` (H, W) are not 0, the picture (H, W, 3) ``below`` with a tint of their colours."""
    mixed = (0.6 * below + 0.4 * colours(labels)).astype(np.uint8)
    return np.where((labels > 0)[..., None], mixed, below)


def outlined(labels: Array, below: Picture) -> Picture:
    """The picture (H, W, 3) ``below`` with the outlines of the objects ``labels`` (H, W)."""
    return np.where(outlines(labels)[..., None], colours(labels), below)


def write_png(path: Path, picture: Array) -> None:
    """A picture (H, W, C) uint8 as a PNG: gray, or the first three channels as colours. Raises ``OutputError``."""
    from PIL import Image

    shown = picture[..., :3] if picture.shape[2] >= 3 else picture[..., 0]
    with replacing(path) as temporary:
        Image.fromarray(np.ascontiguousarray(shown)).save(temporary, format="PNG")


def write_sheet(path: Path, rows: Sequence[Sequence[Picture]]) -> None:
    """A PNG of pictures in rows, each at the top left of its place, on white. Raises ``OutputError``."""
    from PIL import Image

    heights = [max(picture.shape[0] for picture in row) for row in rows]
    widths = [max(row[i].shape[1] for row in rows if i < len(row)) for i in range(max(map(len, rows)))]
    sheet = np.full((sum(heights) + _GAP * (len(rows) + 1), sum(widths) + _GAP * (len(widths) + 1), 3), 255, np.uint8)
    top = _GAP
    for row, height in zip(rows, heights, strict=True):
        left = _GAP
        for picture, width in zip(row, widths, strict=False):
            sheet[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
            left += width + _GAP
        top += height + _GAP
    with replacing(path) as temporary:
        Image.fromarray(sheet).save(temporary, format="PNG")
