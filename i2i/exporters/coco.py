"""The objects as COCO JSON: one image, its categories, and an annotation a line, by id, with a run-length encoded mask. Each of
several planes is an image, and ids count on from one to the next; ``label`` is that in the label image then.

Masks and boxes are on the pixels of the image at its full resolution. The mask is the object's own where a detector gives
it, so that masks may overlap; else its pixels in the label image. Objects without a pixel in the label image are left out.

Counts are made from the edges of a mask, never from an array as large as the image. Above 65,536 x 65,536 pixels
pycocotools counts beyond its 32 bits when it makes boxes of masks; those in the file, and faster-coco-eval, are right.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath

import numpy as np
import numpy.typing as npt

from i2i.contracts import Exported, Exporter, Objects
from i2i.exporters.known import OwnMask, class_name, known_of, own_masks, plane_tag
from i2i.exporters.outlines import Outline, find_outlines
from i2i.version import __version__

_NO_CLASS = "N/A"
_ROWS = 256
"""Of an own mask that are looked at at a time."""

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class _Shape:
    """A mask by its horizontal edges: E of them, each in the line ``y`` between two rows, from column ``x0`` to before ``x1``."""

    number: int
    y: Ints
    x0: Ints
    x1: Ints

    def scaled(self, tall: float, wide: float) -> _Shape:
        """On a grid that is finer by these factors, none below 1: edges move to the nearest line, and none meet."""
        return _Shape(self.number, _nearest(self.y, tall), _nearest(self.x0, wide), _nearest(self.x1, wide))


def write_coco(path: Path, exported: Exported) -> None:
    """Write the objects of a label image (H, W, 1). Where its pixels are larger than those of the image (``exported.scale``),
    masks are drawn on the image's; where they are smaller, the label image is taken for the image. Memory is bounded as that
    of :func:`i2i.exporters.outlines.find_outlines`, or by the own masks that come at a time, and by the largest outline."""
    spec = exported.result.spec
    tall, wide = (max(1.0, factor) for factor in exported.scale)
    size = math.floor(spec.height * tall + 0.5), math.floor(spec.width * wide + 0.5)
    with path.open("w", newline="\n", encoding="ascii") as stream:
        stream.write(_head(exported, size))
        separator, before = "\n", 0
        for image, one in enumerate(exported.each(), 1):
            objects, known, last = one.objects, known_of(one.objects), 0
            for shape in _shapes(one):
                last = shape.number
                category = 1 if objects is None else int(objects.classes[last - 1])
                annotation = _annotation(shape.scaled(tall, wide), size, category)
                if exported.planes:
                    annotation |= {"id": before + last, "image_id": image, "label": last}
                score = known(last).score
                stream.write(separator + _text(annotation if score is None else annotation | {"score": score}))
                separator = ",\n"
            before += last
        stream.write("\n]}\n")


def _head(exported: Exported, size: tuple[int, int]) -> str:
    """All before the annotations, a line each."""
    info = {"description": "objects found by i2i", "version": __version__}
    images, named = [], dict[int, str]()
    for number, one in enumerate(exported.each(), 1):
        images.append({"id": number, **_file(exported, one), "height": size[0], "width": size[1]})
        named |= _categories(one.objects)
    categories = [{"id": number, "name": named[number]} for number in sorted(named)]
    return f'{{"info":{_text(info)},\n"images":{_text(images)},\n"categories":{_text(categories)},\n"annotations":['


def _file(exported: Exported, one: Exported) -> dict[str, object]:
    """``file_name`` is without folders, as COCO has it, and tells which of several planes it is: that of a file, were the plane
    in one of its own."""
    name = PurePath(exported.name)
    if exported.planes is None:
        return {"file_name": name.name}
    return {"file_name": f"{name.stem}-{plane_tag(one.plane)}{name.suffix}", "plane": dict(one.plane)}


def _categories(objects: Objects | None) -> dict[int, str]:
    """Names by numbers: all that the detector knows, whether found or not, but for the gaps of COCO's numbers."""
    if objects is None:
        return {1: "object"}
    named = {number for number, name in objects.class_names.items() if name != _NO_CLASS}
    return {number: class_name(objects, number) for number in named | set(np.unique(objects.classes).tolist())}


def _shapes(exported: Exported) -> Iterator[_Shape]:
    """By id."""
    objects = exported.objects
    if objects is not None and objects.masks is not None:
        for some in own_masks(objects, exported.result):
            yield from (_of_mask(one) for one in some if one.mask.any())
    else:
        yield from map(_of_outline, find_outlines(exported.result))


def _of_mask(own: OwnMask) -> _Shape:
    """A strip at a time: a mask may be nearly as large as the image."""
    lines = own.mask.shape[0] + 1
    strips = [_edges(own.mask, first, min(first + _ROWS, lines)) for first in range(0, lines, _ROWS)]
    y, x = np.concatenate(strips, axis=1)
    return _Shape(own.number, y + own.box.y, x + own.box.x, x + own.box.x + 1)


def _edges(mask: npt.NDArray[np.bool_], first: int, end: int) -> Ints:
    """The y and x (2, E) of the edges in the lines ``first`` .. ``end`` - 1, each of which lies above the row of its number."""
    rows = mask[max(0, first - 1) : end]
    rows = np.pad(rows, ((first == 0, end > len(mask)), (0, 0)))
    y, x = np.nonzero(rows[1:] != rows[:-1])
    return np.stack([y + first, x])


def _of_outline(outline: Outline) -> _Shape:
    rings = [ring for part in outline.parts for ring in part]
    begin = np.concatenate(rings).astype(np.int64)
    end = np.concatenate([np.roll(ring, -1, axis=0) for ring in rings])
    level = begin[:, 1] == end[:, 1]
    x = np.stack([begin[level, 0], end[level, 0]])
    return _Shape(outline.number, begin[level, 1], x.min(axis=0), x.max(axis=0))


def _nearest(values: Ints, factor: float) -> Ints:
    """Halves go up: numbers that differ still differ."""
    return values if factor == 1 else np.floor(values * factor + 0.5).astype(np.int64)


def _annotation(shape: _Shape, size: tuple[int, int], category: int) -> dict[str, object]:
    counts = _counts(shape, *size)
    top, left = int(shape.y.min()), int(shape.x0.min())
    return {
        "id": shape.number,
        "image_id": 1,
        "category_id": category,
        "segmentation": {"size": list(size), "counts": _compressed(counts)},
        "area": int(counts[1::2].sum()),
        "bbox": [left, top, int(shape.x1.max()) - left, int(shape.y.max()) - top],
        "iscrowd": 0,
    }


def _counts(shape: _Shape, height: int, width: int) -> Ints:
    """How many pixels outside, inside, outside ... follow each other, column by column. In each column edges are in turn where
    the mask begins and where it ends."""
    lengths = shape.x1 - shape.x0
    columns = np.arange(lengths.sum()) + np.repeat(shape.x0 - np.cumsum(lengths) + lengths, lengths)
    places = np.sort(columns * height + np.repeat(shape.y, lengths))
    goes_on = np.flatnonzero(places[1:] == places[:-1])  # from the foot of a column to the head of the next
    places = np.delete(places, np.concatenate([goes_on, goes_on + 1]))
    counts = np.diff(places, prepend=0, append=height * width)
    return counts if counts[-1] else counts[:-1]


def _compressed(counts: Ints) -> str:
    """As COCO's tools write them: from the fourth on the difference to the last but one, in characters of five bits, the lowest
    first, with a sixth bit where more follow; 48 is added."""
    values = counts.copy()
    values[3:] -= counts[1:-2]
    size = np.where(values < 0, ~values, values)  # a sign bit is needed, too
    shifts = 5 * np.arange(int(size.max()).bit_length() // 5 + 1)
    more = size[:, None] >> (shifts + 4) > 0
    needed = np.concatenate([np.ones((len(size), 1), bool), more[:, :-1]], axis=1)
    characters = 48 + ((values[:, None] >> shifts) & 31) + 32 * more
    return characters[needed].astype(np.uint8).tobytes().decode("ascii")


def _text(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


COCO = Exporter(
    name="coco",
    suffix=".json",
    summary="the objects as COCO JSON: masks (RLE), boxes, classes, scores",
    export=write_coco,
    suffixes=(".json",),
    planes=True,
)
