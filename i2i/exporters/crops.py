"""Each object as a picture of its own, cut out of the input with a margin, and its mask of the same size.

``DIR/images/12.png`` and ``DIR/masks/12.png`` are of the object 12. Where a detector knows several classes, they are in folders
of these names. From id 10,000 on, ten thousand ids are in a folder, ``10000/10012.png``. Each of several planes has a folder of
its own, ``DIR/images/t0-z3/12.png``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np

from i2i.contracts import Array, Exported, Exporter, ImageSpec, Metadata, Objects, Source
from i2i.exporters.known import Known, OwnMask, known_of, own_masks, plane_tag
from i2i.exporters.table import measure
from i2i.formats import raster_write, tiff_write
from i2i.geometry import Region
from i2i.version import __version__

_MARGIN = 8
_IN_A_FOLDER = 10_000
_AT_A_TIME = 2**16
"""Objects that are cut out in the order of their places, not ids, so that tiles of the input are seldom read again."""
_CELL = 1024
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
"""Names that are no folder's on Windows."""


@dataclass(frozen=True)
class _Cut:
    """An object's id, its box in the label image, and where a detector gave it its own mask."""

    number: int
    box: Region
    own: OwnMask | None = None


class _Window:
    """A region of a source as a source, with a dtype that every TIFF reader knows."""

    def __init__(self, source: Source, region: Region) -> None:
        self._source, self._region = source, region
        self.spec = replace(_plain(source.spec), height=region.height, width=region.width, dtype=_dtype(source.spec.dtype))

    def read(self, region: Region, plane: int = 0, level: int = 0) -> Array:
        """See :class:`i2i.contracts.Source`."""
        return self._source.read(region.shift(self._region.y, self._region.x)).astype(self.spec.dtype, copy=False)

    def close(self) -> None:
        """The source is another's."""


class _Mask:
    """The mask of an object as a source, uint8, 255 in it. ``region``: of the input, each pixel ``scale`` of the labels high."""

    def __init__(self, labels: Source, cut: _Cut, region: Region, scale: int) -> None:
        self._labels, self._cut, self._region, self._scale = labels, cut, region, scale
        plain = _plain(labels.spec)
        self.spec = replace(plain, height=region.height, width=region.width, channels=1, dtype="uint8", pixel_size=None)

    def read(self, region: Region, plane: int = 0, level: int = 0) -> Array:
        """See :class:`i2i.contracts.Source`."""
        place = region.shift(self._region.y, self._region.x)
        own = self._cut.own
        inside = self._of_labels(place) if own is None else _of_mask(own, place)
        return (inside[..., None] * 255).astype(np.uint8)

    def _of_labels(self, place: Region) -> Array:
        pixels = self._labels.read(place.scaled(self._scale))[:: self._scale, :: self._scale, 0]
        found: Array = pixels == self._cut.number
        return found

    def close(self) -> None:
        """The labels are another's."""


def _of_mask(own: OwnMask, place: Region) -> Array:
    inside = np.zeros((place.height, place.width), bool)
    part = place.intersect(own.box)
    if part.area:
        inside[part.relative_to(place).slices] = own.mask[part.relative_to(own.box).slices]
    return inside


def _plain(spec: ImageSpec) -> ImageSpec:
    return replace(spec, planes=(), levels=(), tiling=None, notes=(), remarks=())


def _dtype(name: str) -> str:
    return name if name in tiff_write.DTYPES else "float32" if name == "float16" else "float64"


def write_crops(folder: Path, exported: Exported) -> None:
    """Write into the empty ``folder`` a picture and a mask of each object of a label image (H, W, 1), by the parts of the image
    in which they begin. uint8 of 1 or 3 channels is PNG, all else TIFF. Files are written piece by piece: memory is bounded as
    that of the table, or by the own masks that come at a time."""
    for one in exported.each():
        _write_plane(folder, one, f"{plane_tag(one.plane)}/" if exported.planes else "")


def _write_plane(folder: Path, exported: Exported, inside: str) -> None:
    scale = max(1, exported.result.spec.height // exported.source.spec.height)
    known = known_of(exported.objects)
    for cut in _cuts(exported, scale):
        one = known(cut.number)
        name = f"{inside}{_class_folder(exported.objects, one)}{_number_folder(cut.number)}{cut.number}"
        region = _with_margin(cut.box, scale, exported.source.spec.region)
        record = {"program": f"i2i {__version__}", "object": cut.number, "top": region.y, "left": region.x, **asdict(one)}
        record |= exported.plane
        _write(folder / "images" / name, _Window(exported.source, region), Metadata("image", record, ""))
        _write(folder / "masks" / name, _Mask(exported.result, cut, region, scale), Metadata("labels", record, ""))


def _cuts(exported: Exported, scale: int) -> Iterator[_Cut]:
    """Some at a time by their places: the input is decoded about once."""
    objects = exported.objects
    if objects is not None and objects.masks is not None and scale == 1:
        for some in own_masks(objects, exported.result):
            yield from sorted((_Cut(own.number, own.box, own) for own in some), key=_place)
        return
    rows = measure(exported.result)
    while some_rows := list(islice(rows, _AT_A_TIME)):
        yield from sorted(map(_cut, some_rows), key=_place)


def _cut(row: tuple[float, ...]) -> _Cut:
    top, left, bottom, right = map(int, row[4:8])
    return _Cut(int(row[0]), Region(top, left, bottom - top, right - left))


def _place(cut: _Cut) -> tuple[int, int, int]:
    return cut.box.y // _CELL, cut.box.x // _CELL, cut.number


def _with_margin(box: Region, scale: int, image: Region) -> Region:
    """In pixels of the input, of which a pixel is ``scale`` of the box's."""
    top, left, bottom, right = box.y // scale, box.x // scale, -(-box.bottom // scale), -(-box.right // scale)
    return Region(top, left, bottom - top, right - left).grow(_MARGIN).intersect(image)


def _class_folder(objects: Objects | None, known: Known) -> str:
    """None where there is one class. Whatever a model calls its classes, the folder is one in ours."""
    if objects is None or len(objects.class_names) < 2:
        return ""
    name = re.sub(r"[^\w .-]", "_", known.class_name).strip(" .")[:60].rstrip(" .") or "_"
    return f"_{name}/" if _RESERVED.fullmatch(name) else f"{name}/"


def _number_folder(number: int) -> str:
    return f"{number // _IN_A_FOLDER * _IN_A_FOLDER}/" if number >= _IN_A_FOLDER else ""


def _write(stem: Path, source: Source, metadata: Metadata) -> None:
    stem.parent.mkdir(parents=True, exist_ok=True)
    if source.spec.dtype == "uint8" and source.spec.channels in (1, 3):
        raster_write.write_png(stem.with_name(f"{stem.name}.png"), source, metadata)
    else:
        tiff_write.write(stem.with_name(f"{stem.name}.tif"), source, metadata)


CROPS = Exporter(
    name="crops",
    suffix="",
    summary="each object cut out of the input, DIR/images, and its mask, DIR/masks",
    export=write_crops,
    folder=True,
    planes=True,
)
