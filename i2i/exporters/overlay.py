"""A picture of the result over its input, at most 2048 pixels a side. Of several planes a TIFF has a page for each, and any other
format, which holds one picture, has them side by side, row by row in their order."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from i2i.contracts import Array, Exported, Exporter, ImageSpec, Metadata, Objects, Source
from i2i.exporters.known import known_of
from i2i.formats import tiff_write
from i2i.geometry import Region, round_up
from i2i.pictures import Picture, colours, outlined, picture_of, tinted
from i2i.version import __version__

LONGEST = 2048
_BYTES = 2**24
"""Of the pixels that are reduced at a time."""
_TINT = 0.2
_LARGE = 48
_TEXT, _PAD = 12, 2
"""Pixels of the picture: the least length of an object that has a text, the text's height, and the room around it."""
_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
_PAGES = (".tif", ".tiff")
_GAP = 2


def reduced(source: Source, factor: int, mean: bool) -> Array:
    """A source made ``factor`` times smaller, piece by piece: (H, W, C). Means of squares, float32, or top left pixels."""
    spec = source.spec
    shape = -(-spec.height // factor), -(-spec.width // factor), spec.channels
    result = np.empty(shape, np.float32 if mean else spec.dtype)
    for region in _pieces(spec, factor):
        pixels = source.read(region)
        y, x = region.y // factor, region.x // factor
        small = _mean(pixels, factor) if mean else pixels[::factor, ::factor]
        result[y : y + small.shape[0], x : x + small.shape[1]] = small
    return result


def _pieces(spec: ImageSpec, factor: int) -> Iterator[Region]:
    """The image in squares of ``_BYTES``, or wider where the file holds wide strips; sides are multiples of ``factor``."""
    pixels = _BYTES // (spec.channels * np.dtype(spec.dtype).itemsize)
    side, strip = math.isqrt(pixels), spec.tiling[1] if spec.tiling else 0
    columns = round_up(strip, factor) if strip > side else _multiple(side, factor)
    rows = _multiple(pixels // columns, factor)
    for y in range(0, spec.height, rows):
        for x in range(0, spec.width, columns):
            yield Region(y, x, rows, columns).intersect(spec.region)


def _multiple(length: int, factor: int) -> int:
    """The largest multiple of ``factor`` up to ``length``, and at least one."""
    return max(1, length // factor) * factor


def _mean(pixels: Array, factor: int) -> Array:
    if factor == 1:
        return pixels.astype(np.float32)
    rows = np.add.reduceat(pixels, np.arange(0, pixels.shape[0], factor), axis=0, dtype=np.float32)
    both = np.add.reduceat(rows, np.arange(0, pixels.shape[1], factor), axis=1)
    counts = (_counts(pixels.shape[0], factor)[:, None] * _counts(pixels.shape[1], factor)[None, :])[..., None]
    return (both / counts).astype(np.float32)


def _counts(length: int, factor: int) -> Array:
    starts = np.arange(0, length, factor)
    return np.minimum(starts + factor, length) - starts


def draw(exported: Exported, longest: int = LONGEST) -> Picture:
    """One plane: objects outlined, those of a detector with class and score; classes tinted; of a picture that became another,
    both side by side. No side is above ``longest`` pixels."""
    spec = exported.result.spec
    beside = exported.meaning in ("image", "probabilities")
    factor = -(-max(spec.height, spec.width * (1 + beside)) // longest)
    result = reduced(exported.result, factor, mean=beside)
    below = _below(exported, factor, result.shape[:2])
    if beside:
        return np.concatenate([below, picture_of(result)], axis=1)
    labels = result[..., 0]
    if exported.meaning != "labels":
        return tinted(labels, below)
    if exported.objects is None:
        return outlined(labels, below)
    return _named(outlined(labels, _lightly_tinted(labels, below)), labels, exported.objects)


def _lightly_tinted(labels: Array, below: Picture) -> Picture:
    mixed = ((1 - _TINT) * below + _TINT * colours(labels)).astype(np.uint8)
    return np.where((labels > 0)[..., None], mixed, below)


def _named(picture: Picture, labels: Array, objects: Objects) -> Picture:
    """With class and score at the top left of large objects, the highest scores first, where there is room; of one class
    nothing is written."""
    if len(objects.class_names) < 2:
        return picture
    from PIL import Image, ImageDraw, ImageFont

    known = known_of(objects)
    image = Image.fromarray(picture)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(_TEXT)
    taken = np.zeros(labels.shape, bool)
    for number, y, x in sorted(_large(labels), key=lambda found: (-(known(found[0]).score or 0), found)):
        one = known(number)
        text = f"{one.class_name} {one.score:.2f}"
        height, width = _extent(draw.textbbox((0, 0), text, font))
        place = Region(max(0, min(y, image.height - height)), max(0, min(x, image.width - width)), height, width)
        if taken[place.slices].any():
            continue
        taken[place.slices] = True
        lighter = colours(np.array([[number]]))[0, 0] // 2 + 128
        draw.rectangle((place.x, place.y, place.right - 1, place.bottom - 1), (0, 0, 0))
        draw.text((place.x + _PAD, place.y + _PAD), text, tuple(lighter.tolist()), font)
    return np.asarray(image)


def _extent(box: tuple[float, float, float, float]) -> tuple[int, int]:
    """Height and width of a text, with some room around it."""
    return math.ceil(box[3]) + 2 * _PAD, math.ceil(box[2]) + 2 * _PAD


def _large(labels: Array) -> Iterator[tuple[int, int, int]]:
    """Id, top and left of the objects in the picture that there is room for text in."""
    from scipy import ndimage

    for number, place in enumerate(ndimage.find_objects(labels.astype(np.int32)), 1):
        if place is not None and max(side.stop - side.start for side in place) >= _LARGE:
            yield number, place[0].start, place[1].start


def _below(exported: Exported, factor: int, shape: tuple[int, ...]) -> Picture:
    """The input at the size ``shape`` of the result made ``factor`` times smaller, whatever the scale between them."""
    from PIL import Image

    scale = max(1, exported.result.spec.height // exported.source.spec.height)
    below = picture_of(reduced(exported.source, max(1, factor // scale), mean=True))
    if below.shape[:2] == shape:
        return below
    return np.asarray(Image.fromarray(below).resize((shape[1], shape[0])))


class _Pages:
    """The pictures of all planes as a source, of which one is in memory: the one that was read last."""

    def __init__(self, exported: Exported) -> None:
        self._planes = exported.each()
        self._plane, self._picture = 0, draw(next(self._planes))
        height, width, channels = self._picture.shape
        axes = exported.result.spec.planes if exported.planes else ()
        self.spec = ImageSpec(height, width, channels, planes=axes)

    def read(self, region: Region, plane: int = 0, level: int = 0) -> Array:
        """See :class:`i2i.contracts.Source`. No plane after a later one."""
        while self._plane < plane:
            self._plane, self._picture = self._plane + 1, draw(next(self._planes))
        return self._picture[region.slices]

    def close(self) -> None:
        """Nothing is open."""


def _sheet(exported: Exported) -> Picture:
    """All planes side by side, smaller the more there are."""
    count = exported.result.spec.plane_count
    columns = math.isqrt(count - 1) + 1
    longest = max(1, (LONGEST + _GAP) // columns - _GAP)
    sheet = np.zeros((0, 0, 3), np.uint8)
    for number, one in enumerate(exported.each()):
        picture = draw(one, longest)
        height, width = (length + _GAP for length in picture.shape[:2])
        if not number:
            sheet = np.zeros((-(-count // columns) * height - _GAP, columns * width - _GAP, 3), np.uint8)
        y, x = number // columns * height, number % columns * width
        sheet[y : y + picture.shape[0], x : x + picture.shape[1]] = picture
    return sheet


def _export(path: Path, exported: Exported) -> None:
    """In the format of the path's suffix."""
    from PIL import Image

    if path.suffix.lower() in _PAGES:
        tiff_write.write(path, _Pages(exported), Metadata("image", {"program": f"i2i {__version__}"}, ""))
        return
    picture = draw(exported) if exported.planes is None else _sheet(exported)
    Image.fromarray(picture).save(path, format=_FORMATS[path.suffix.lower()])


OVERLAY = Exporter(
    name="overlay",
    suffix=".png",
    summary="a picture of the result over the input, at most 2048 pixels a side",
    export=_export,
    meanings=("labels", "classes", "probabilities", "image"),
    suffixes=(*_FORMATS, *_PAGES),
    planes=True,
)
