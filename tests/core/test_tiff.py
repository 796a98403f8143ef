"""The TIFF reader against tifffile's own whole arrays, its faults, and the writer."""

from __future__ import annotations

import gc
import json
import os
import re
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from i2i.contracts import Metadata
from i2i.errors import InputError, OutputError
from i2i.formats import ArraySource, builtin_formats, detect, open_image, select
from i2i.formats.codestreams import declared_area
from i2i.formats.tiff import TiffSource
from i2i.formats.tiff_write import write
from i2i.geometry import Region

pytestmark = [pytest.mark.filterwarnings("ignore")]
METADATA = Metadata("image", {"model": "nuclei", "precision": "fp32"}, "0123abcd")


@pytest.fixture(autouse=True)
def closing(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Close every source that a test opens."""
    opened: list[TiffSource] = []
    start = TiffSource._open
    monkeypatch.setattr(TiffSource, "_open", lambda self: opened.append(self) or start(self))
    yield
    for source in opened:
        source.close()


def values(*shape: int, dtype: str = "uint16", top: int = 200) -> np.ndarray:
    return np.random.default_rng(1).integers(0, top, shape).astype(dtype)


def whole(source: TiffSource, level: int = 0) -> np.ndarray:
    """Every plane at one level: (planes, H, W, C)."""
    height, width = (source.spec.levels or ((source.spec.height, source.spec.width),))[level]
    region = Region(0, 0, height, width)
    return np.stack([source.read(region, plane, level) for plane in range(source.spec.plane_count)])


def saved(folder: Path, array: np.ndarray, **options: object) -> Path:
    path = folder / "image.tif"
    tifffile.imwrite(path, array, **options)
    return path


# ------------------------------------------------------------------------------------------------------------- layouts

DTYPES = ("uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float16", "float32", "float64")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", [{}, {"tile": (16, 32), "compression": "zlib"}, {"byteorder": ">", "rowsperstrip": 7}])
def test_every_dtype(tmp_path: Path, dtype: str, options: dict[str, object]) -> None:
    array = values(37, 53, dtype=dtype, top=100)
    source = open_image(saved(tmp_path, array, **options))
    assert (source.spec.dtype, source.spec.channels) == (dtype, 1)
    np.testing.assert_array_equal(whole(source)[0, ..., 0], array)


COMPRESSIONS = [
    {"compression": "zlib", "predictor": True},
    {"compression": "zstd", "rowsperstrip": 5},
    {"compression": "lzw", "tile": (16, 16), "predictor": True},
    {"compression": "packbits"},
    {"compression": "lzma", "tile": (32, 16)},
    {"compression": "jpeg2000", "tile": (32, 32)},
    {"compression": "png", "tile": (32, 32)},
    {"bigtiff": True, "tile": (32, 16), "byteorder": ">"},
    {"predictor": True, "compression": "zlib", "byteorder": ">"},
]


@pytest.mark.parametrize("options", COMPRESSIONS, ids=str)
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_compressions_interleaved_and_planar(tmp_path: Path, options: dict[str, object], planar: str) -> None:
    array = values(40, 57, 3, dtype="uint8")
    stored = array if planar == "contig" else np.moveaxis(array, -1, 0)
    source = open_image(saved(tmp_path, stored, photometric="rgb", planarconfig=planar, **options))
    np.testing.assert_array_equal(whole(source)[0], array)


def test_jpeg_tiles(tmp_path: Path) -> None:
    path = saved(tmp_path, values(50, 70, 3, dtype="uint8"), photometric="rgb", compression="jpeg", tile=(32, 32))
    np.testing.assert_array_equal(whole(open_image(path))[0], tifffile.imread(path))


@pytest.mark.parametrize(
    ("shape", "options", "planes", "channels"),
    [
        ((2, 3, 4, 20, 30), {"ome": True, "metadata": {"axes": "TCZYX"}}, (("t", 2), ("z", 4)), 3),
        ((4, 20, 30, 3), {"ome": True, "metadata": {"axes": "ZYXS"}, "photometric": "rgb"}, (("z", 4),), 3),
        ((2, 20, 30, 3), {"ome": True, "metadata": {"axes": "CYXS"}, "photometric": "rgb"}, (("c", 2),), 3),
        ((20, 30, 5), {"metadata": {"axes": "YXC"}, "planarconfig": "contig"}, (), 5),
        ((5, 20, 30), {"metadata": {"axes": "CYX"}, "planarconfig": "separate"}, (), 5),
        ((45, 20, 30), {"ome": True, "metadata": {"axes": "CYX"}}, (), 45),
        ((2, 3, 4, 20, 30), {"imagej": True, "metadata": {"axes": "TZCYX"}}, (("t", 2), ("z", 3)), 4),
        ((6, 20, 30), {"truncate": True}, (("page", 6),), 1),
        ((6, 20, 30), {"metadata": None}, (("page", 6),), 1),
        ((2, 3, 20, 30), {}, (("page", 2), ("page2", 3)), 1),
        ((5, 32, 48), {"volumetric": True, "tile": (2, 16, 16)}, (("z", 5),), 1),
        ((5, 32, 48), {"volumetric": True}, (("z", 5),), 1),
        ((1, 300), {"tile": (16, 16), "compression": "lzw"}, (), 1),
        ((300, 1), {"rowsperstrip": 4, "compression": "zstd"}, (), 1),
        ((1, 1), {}, (), 1),
    ],
)
def test_axes(tmp_path: Path, shape: tuple[int, ...], options: dict[str, object], planes: object, channels: int) -> None:
    array = values(*shape, dtype="uint8")
    source = open_image(saved(tmp_path, array, **{"photometric": "minisblack"} | options))
    assert (source.spec.planes, source.spec.channels, source.spec.notes) == (planes, channels, ())
    axes = options.get("metadata", {}) or {}
    expected = _channels_last(array, axes.get("axes", ""), channels)  # type: ignore[attr-defined]
    np.testing.assert_array_equal(whole(source).ravel(), expected.ravel())


def _channels_last(array: np.ndarray, axes: str, channels: int) -> np.ndarray:
    if channels == 1 or "S" in axes:
        return array
    return np.moveaxis(array, axes.index("C"), -1)


def test_axes_that_do_not_fit_the_pages_are_noted(tmp_path: Path) -> None:
    source = open_image(saved(tmp_path, values(4, 20, 30), photometric="minisblack", metadata={"axes": "XYZ"}))
    assert source.spec.planes == (("page", 4),)
    assert "do not fit" in source.spec.notes[0]


def test_pyramid(tmp_path: Path) -> None:
    base, path = values(96, 128, 3, dtype="uint8"), tmp_path / "image.tif"
    with tifffile.TiffWriter(path) as file:
        options = {"photometric": "rgb", "tile": (32, 32), "compression": "zlib"}
        file.write(base, subifds=2, **options)
        file.write(base[::2, ::2], subfiletype=1, **options)
        file.write(base[::4, ::4], subfiletype=1, **options)
    source = open_image(path)
    assert source.spec.levels == ((96, 128), (48, 64), (24, 32))
    for level in range(3):
        np.testing.assert_array_equal(whole(source, level)[0], base[:: 2**level, :: 2**level])


def test_further_images_are_noted(tmp_path: Path) -> None:
    path = tmp_path / "image.tif"
    with tifffile.TiffWriter(path) as file:
        file.write(values(20, 30), metadata=None)
        file.write(values(21, 37, 3, dtype="uint8"), photometric="rgb", metadata=None)
    assert open_image(path).spec.notes == ("1 more image(s) in the file: only the first is read; --series 1 reads another",)


def test_series_alike_are_planes_of_one_axis(tmp_path: Path) -> None:
    array, path = values(3, 2, 20, 30), tmp_path / "image.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as file:
        for image in array:
            file.write(image, metadata={"axes": "ZYX"}, photometric="minisblack")
    source = open_image(path)
    assert (source.spec.planes, source.spec.notes) == ((("series", 3), ("z", 2)), ())
    np.testing.assert_array_equal(whole(source)[..., 0].reshape(array.shape), array)
    with pytest.raises(IndexError, match="plane 6"):
        source.read(source.spec.region, 6)


def test_series_alike_may_be_stored_in_different_ways(tmp_path: Path) -> None:
    array, path = values(4, 64, 96, 3, dtype="uint8"), tmp_path / "image.tif"
    ways = [{"tile": (16, 32), "compression": "zlib"}, {"rowsperstrip": 5}, {"compression": "lzw"}, {"photometric": "rgb"}]
    with tifffile.TiffWriter(path) as file:
        for image, options in zip(array, ways, strict=True):
            file.write(image, **{"photometric": "rgb", "metadata": None} | options)
        file.write(values(64, 95, 3, dtype="uint8"), photometric="rgb", metadata=None)
        file.write(values(64, 96, 3, dtype="uint16"), photometric="rgb", metadata=None)
    source = open_image(path)
    assert source.spec.planes == (("series", 4),)
    assert source.spec.notes == ("2 more image(s) in the file: only the first is read; --series 4 reads another",)
    np.testing.assert_array_equal(whole(source), array)


def test_series_alike_share_the_resolutions_that_all_have(tmp_path: Path) -> None:
    array, path = values(2, 64, 96, dtype="uint8"), tmp_path / "image.tif"
    with tifffile.TiffWriter(path, ome=True) as file:
        for number, image in enumerate(array):
            file.write(image, subifds=2 - number, tile=(16, 16))
            for step in (2, 4)[: 2 - number]:
                file.write(image[::step, ::step], subfiletype=1, tile=(16, 16))
    source = open_image(path)
    assert (source.spec.planes, source.spec.levels) == ((("series", 2),), ((64, 96), (32, 48)))
    assert source.spec.notes == ("1 resolution(s) that do not match the first are left out",)
    np.testing.assert_array_equal(whole(source, 1)[..., 0], array[:, ::2, ::2])


def test_associated_pictures_of_a_slide_do_not_join(tmp_path: Path) -> None:
    path = tmp_path / "image.svs"
    with tifffile.TiffWriter(path) as file:
        pixels, options = values(64, 64, 3, dtype="uint8"), {"photometric": "rgb", "metadata": None}
        file.write(pixels, tile=(32, 32), description="Aperio Image Library\n|MPP = 0.5", **options)
        file.write(pixels, description="Aperio thumbnail", **options)
        file.write(pixels, subfiletype=1, description="Aperio\nlabel 64x64", **options)
        file.write(pixels, subfiletype=9, description="Aperio\nmacro 64x64", **options)
    with tifffile.TiffFile(path) as file:
        assert [series.name for series in file.series] == ["Baseline", "Thumbnail", "Label", "Macro"]
    spec = open_image(path).spec
    assert (spec.planes, spec.notes) == ((), ())


@pytest.mark.parametrize(
    ("options", "tiling"),
    [({"tile": (16, 32)}, (16, 32)), ({"rowsperstrip": 7}, (7, 53)), ({}, (37, 53)), ({"tile": (48, 64)}, (37, 53))],
)
def test_tiling_is_that_of_the_picture(tmp_path: Path, options: dict[str, object], tiling: tuple[int, int]) -> None:
    for turn in (1, 6):
        source = open_image(saved(tmp_path, values(37, 53), extratags=[(274, 3, 1, turn, True)], **options))
        assert source.spec.tiling == (tiling if turn == 1 else tiling[::-1])


# ------------------------------------------------------------------------------------------------------------- regions


@pytest.fixture(scope="module")
def regional(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, tuple[TiffSource, np.ndarray]]]:
    """Sources of several layouts, with tifffile's array as (planes, H, W, C)."""
    found = {}
    kinds = {
        "tiled": {"tile": (32, 16), "compression": "zlib"},
        "strips": {"rowsperstrip": 9, "compression": "lzw"},
        "raw": {"rowsperstrip": 9, "byteorder": ">"},
        "planar": {"tile": (16, 32), "planarconfig": "separate"},
    }
    for name, options in kinds.items():
        array = values(2, 75, 91, 3)
        stored = np.moveaxis(array, -1, 1) if name == "planar" else array
        path = saved(tmp_path_factory.mktemp(name), stored, photometric="rgb", **options)
        found[name] = TiffSource(path), array
    yield found
    for source, _ in found.values():
        source.close()


@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
def test_any_region_is_what_tifffile_reads(regional: dict[str, tuple[TiffSource, np.ndarray]], data: st.DataObject) -> None:
    source, array = regional[data.draw(st.sampled_from(sorted(regional)))]
    y, x = data.draw(st.integers(0, 74)), data.draw(st.integers(0, 90))
    region = Region(y, x, data.draw(st.integers(1, 75 - y)), data.draw(st.integers(1, 91 - x)))
    plane = data.draw(st.integers(0, 1))
    np.testing.assert_array_equal(source.read(region, plane), array[(plane, *region.slices)])


def test_a_region_outside_is_a_mistake_of_the_caller(regional: dict[str, tuple[TiffSource, np.ndarray]]) -> None:
    with pytest.raises(ValueError, match="inside"):
        regional["tiled"][0].read(Region(70, 0, 10, 10))


def test_only_touched_segments_are_decoded(tmp_path: Path) -> None:
    source = TiffSource(saved(tmp_path, values(128, 128), tile=(32, 32), compression="zlib"))
    source.read(Region(33, 33, 10, 10))
    assert source.decoded_segments == 1
    source.read(Region(30, 40, 4, 60))
    assert source.decoded_segments == 1 + 5  # six tiles are touched, one is in the cache
    assert source.segment_shape == (32, 32)


@pytest.mark.parametrize(
    ("options", "decoded"),
    [
        ({"metadata": {"axes": "CYX"}, "ome": True}, 2),
        ({"planarconfig": "separate", "extrasamples": ["unspecified"] * 4}, 2),
        ({"planarconfig": "contig", "extrasamples": ["unspecified"] * 4}, 1),
    ],
    ids=["pages", "separate samples", "samples"],
)
def test_only_the_chosen_channels_are_decoded(tmp_path: Path, options: dict[str, object], decoded: int) -> None:
    array = values(5, 64, 64)
    stored = np.moveaxis(array, 0, -1) if options.get("planarconfig") == "contig" else array
    path = saved(tmp_path, stored, tile=(32, 32), compression="zlib", photometric="minisblack", **options)
    source = TiffSource(path)
    assert (source.spec.channels, source.spec.planes) == (5, ())
    chosen = select(source, 0, None, "3,1,3", path)
    np.testing.assert_array_equal(chosen.read(chosen.spec.region), np.moveaxis(array[[3, 1, 3]], 0, -1))
    assert source.decoded_segments == 4 * decoded
    np.testing.assert_array_equal(whole(source)[0], np.moveaxis(array, 0, -1))


def test_channels_of_converted_colours_are_chosen_afterwards(tmp_path: Path) -> None:
    path = saved(tmp_path, values(20, 30, 4, dtype="uint8"), photometric="separated", planarconfig="contig")
    source = TiffSource(path)
    chosen = select(source, 0, None, "2,0", path)
    np.testing.assert_array_equal(chosen.read(chosen.spec.region), whole(source)[0, ..., [2, 0]].transpose(1, 2, 0))


def test_plain_strips_read_only_their_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    array = values(200, 300)
    source = TiffSource(saved(tmp_path, array))
    total = []
    read = source._file.read
    monkeypatch.setattr(source._file, "read", lambda offset, count: total.append(count) or read(offset, count))
    np.testing.assert_array_equal(source.read(Region(50, 60, 10, 20))[..., 0], array[50:60, 60:80])
    assert sum(total) == 10 * 20 * 2


def test_threads_read_the_same(tmp_path: Path) -> None:
    array = values(6, 64, 64)
    path = saved(tmp_path, array, tile=(16, 16), compression="zlib", photometric="minisblack")
    source, wrong = TiffSource(path), []

    def work() -> None:
        for plane in (*range(6), *reversed(range(6))):
            if not np.array_equal(source.read(source.spec.region, plane)[..., 0], array[plane]):
                wrong.append(plane)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# -------------------------------------------------------------------------------------------------------------- colour


def test_min_is_white_is_inverted(tmp_path: Path) -> None:
    array = values(20, 30, dtype="uint8")
    source = open_image(saved(tmp_path, array, photometric="miniswhite"))
    np.testing.assert_array_equal(whole(source)[0, ..., 0], 255 - array)


def test_one_bit_becomes_0_and_255(tmp_path: Path) -> None:
    array = values(20, 30) > 100
    source = open_image(saved(tmp_path, array, photometric="minisblack"))
    np.testing.assert_array_equal(whole(source)[0, ..., 0], np.where(array, 255, 0))


def test_palette_is_expanded(tmp_path: Path) -> None:
    array = values(20, 30, dtype="uint8")
    colours = np.random.default_rng(0).integers(0, 65536, (3, 256)).astype("uint16")
    source = open_image(saved(tmp_path, array, photometric="palette", colormap=colours, tile=(16, 16)))
    np.testing.assert_array_equal(whole(source)[0], (colours >> 8).T[array])


def test_alpha_is_dropped_with_a_note(tmp_path: Path) -> None:
    array = values(20, 30, 4, dtype="uint8")
    source = open_image(saved(tmp_path, array, photometric="rgb", extrasamples=["unassalpha"]))
    np.testing.assert_array_equal(whole(source)[0], array[..., :3])
    assert source.spec.notes == ("the alpha channel is dropped",)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_cmyk(tmp_path: Path, dtype: str) -> None:
    top = np.iinfo(dtype).max
    array = np.array([[[0, 0, 0, 0], [top, 0, 0, 0], [0, 0, 0, top], [0, top, top, 0]]], dtype)
    source = open_image(saved(tmp_path, array, photometric="separated", planarconfig="contig"))
    expected = np.array([[1, 1, 1], [0, 1, 1], [0, 0, 0], [1, 0, 0]]) * top
    np.testing.assert_array_equal(whole(source)[0, 0], expected)


TURNS = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: np.rot90,
}


@pytest.mark.parametrize("value", sorted(TURNS))
def test_orientation(tmp_path: Path, value: int) -> None:
    array = values(37, 53, 3, dtype="uint8")
    tags = [(274, 3, 1, value, True)]
    source = open_image(
        saved(tmp_path, array, photometric="rgb", tile=(16, 16), extratags=tags, resolution=(5e3, 2e4), resolutionunit=3)
    )
    expected = TURNS[value](array)
    assert (source.spec.height, source.spec.width) == expected.shape[:2]
    assert source.spec.pixel_size == ((2.0, 0.5) if value > 4 else (0.5, 2.0))
    np.testing.assert_array_equal(whole(source)[0], expected)
    region = Region(5, 11, 20, 9)
    np.testing.assert_array_equal(source.read(region), expected[region.slices])


# ------------------------------------------------------------------------------------------------------------ metadata


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"ome": True, "metadata": {"PhysicalSizeX": 0.5, "PhysicalSizeY": 250.0, "PhysicalSizeYUnit": "nm"}}, (0.25, 0.5)),
        ({"imagej": True, "metadata": {"unit": "um"}, "resolution": (2, 4)}, (0.25, 0.5)),
        ({"imagej": True, "metadata": {"unit": "inch"}, "resolution": (72, 72)}, None),
        ({"resolution": (20000, 40000), "resolutionunit": "CENTIMETER"}, (0.25, 0.5)),
        ({"resolution": (300, 300), "resolutionunit": "INCH"}, None),
        ({"resolution": (1, 1), "resolutionunit": "NONE"}, None),
        ({}, None),
    ],
)
def test_pixel_size(tmp_path: Path, options: dict[str, object], expected: tuple[float, float] | None) -> None:
    size = open_image(saved(tmp_path, values(20, 30), **options)).spec.pixel_size
    assert size == (None if expected is None else pytest.approx(expected))


PHILIPS = """<?xml version="1.0"?><DataObject ObjectType="DPUfsImport"><Attribute Name="PIM_DP_SCANNED_IMAGES"><Array>
<DataObject ObjectType="DPScannedImage"><Attribute Name="DICOM_PIXEL_SPACING" PMSVR="IDoubleArray">"0.5" "0.5"</Attribute>
</DataObject><DataObject ObjectType="DPScannedImage"><Attribute Name="PIIM_PIXEL_DATA_REPRESENTATION_SEQUENCE"><Array>{}
</Array></Attribute></DataObject></Array></Attribute></DataObject>"""
SPACING = """<DataObject ObjectType="PixelDataRepresentation">
<Attribute Name="DICOM_PIXEL_SPACING" Group="0x0028" Element="0x0030" PMSVR="IDoubleArray">{0}{1}{0} {0}{2}{0}</Attribute>
</DataObject>"""


@pytest.mark.parametrize("quote", ['"', "&quot;", ""])
def test_pixel_size_of_a_philips_slide(tmp_path: Path, quote: str) -> None:
    sizes = [("0.000226891", "2.5E-04"), ("0.000453782", "5E-04")]
    text = PHILIPS.format("".join(SPACING.format(quote, *size) for size in sizes))
    pixels, path = values(64, 96, 3, dtype="uint8"), tmp_path / "image.tiff"
    with tifffile.TiffWriter(path) as file:
        for step in (1, 2):
            options = {"description": text if step == 1 else f"level={step}", "tile": (16, 16), "software": "Philips DP v1.0"}
            file.write(pixels[::step, ::step], photometric="rgb", metadata=None, subfiletype=step - 1, **options)
    with tifffile.TiffFile(path) as file:
        assert file.is_philips
    source = open_image(path)
    assert (source.spec.levels, source.spec.notes) == (((64, 96), (32, 48)), ())
    assert source.spec.pixel_size == pytest.approx((0.226891, 0.25))
    np.testing.assert_array_equal(whole(source, 1)[0], pixels[::2, ::2])


@pytest.mark.parametrize("spacing", ["", "0.1", "a b", "1e 2-3", "0 0", "1e-999 1", "- -"])
def test_a_strange_pixel_size_of_a_philips_slide_is_none(tmp_path: Path, spacing: str) -> None:
    text = f'<DataObject><Attribute Name="DICOM_PIXEL_SPACING">{spacing}</Attribute></DataObject>'
    path = saved(tmp_path, values(20, 30), description=text, software="Philips DP v1.0", metadata=None)
    assert open_image(path).spec.pixel_size is None


def test_channel_names(tmp_path: Path) -> None:
    metadata = {"axes": "CYX", "Channel": {"Name": ["DAPI", "GFP"]}}
    source = open_image(saved(tmp_path, values(2, 20, 30), ome=True, metadata=metadata, photometric="minisblack"))
    assert source.spec.channel_names == ("DAPI", "GFP")


# ------------------------------------------------------------------------------------------------------- several files

UUIDS = {
    "a.ome.tif": "urn:uuid:11111111-1111-1111-1111-111111111111",
    "b.ome.tif": "urn:uuid:22222222-2222-2222-2222-222222222222",
}


def spread(folder: Path, name: str = "b.ome.tif", counted: bool = True, **options: object) -> np.ndarray:
    """An image of 4 planes in two files, the OME-XML of both naming them; the second, ``name``, may be stored differently."""
    array, names = values(4, 37, 53, dtype="uint8"), {"a.ome.tif": "a.ome.tif", "b.ome.tif": name}
    page = ('IFD="', '" PlaneCount="1"') if counted else ("",)
    places = [
        f'<TiffData FirstZ="{z}" {f"{z % 2}".join(page)}><UUID FileName="{names[file]}">{UUIDS[file]}</UUID></TiffData>'
        for z, file in enumerate(("a.ome.tif", "a.ome.tif", "b.ome.tif", "b.ome.tif"))
    ]
    for number, file in enumerate(UUIDS):
        text = (
            f'<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="{UUIDS[file]}"><Image ID="Image:0">'
            '<Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint8" SizeX="53" SizeY="37" SizeZ="4" SizeC="1" SizeT="1">'
            f'<Channel ID="Channel:0:0" SamplesPerPixel="1"/>{"".join(places)}</Pixels></Image></OME>'
        )
        further = {"rowsperstrip": 9, "compression": "zlib"} | (options if number else {})
        with tifffile.TiffWriter(folder / file) as writer:
            for i in (0, 1):
                writer.write(array[2 * number + i], description=None if i else text, metadata=None, **further)
    return array


@pytest.mark.parametrize("compression", ["zlib", None])
@pytest.mark.parametrize("name", UUIDS)
def test_an_image_in_two_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, compression: str | None) -> None:
    array = spread(tmp_path)
    if compression is None:
        monkeypatch.setattr("i2i.formats.tiff_segments.CACHE_BYTES", 1000)  # copied to a scratch file
    source = open_image(tmp_path / name)
    assert source.spec.planes == (("z", 4),)
    np.testing.assert_array_equal(whole(source)[..., 0], array)


def test_plain_planes_in_two_files(tmp_path: Path) -> None:
    array = spread(tmp_path)
    for name, part in (("a.ome.tif", array[:2]), ("b.ome.tif", array[2:])):
        with tifffile.TiffFile(tmp_path / name) as file:
            text = file.pages[0].description
        tifffile.imwrite(tmp_path / name, part, description=text, metadata=None, photometric="minisblack")
    np.testing.assert_array_equal(whole(open_image(tmp_path / "a.ome.tif"))[..., 0], array)


@pytest.mark.parametrize("name", ["old.ome.tif", "/data/old.ome.tif"])
def test_a_file_that_was_renamed_holds_its_planes(tmp_path: Path, name: str) -> None:
    array = spread(tmp_path)
    with tifffile.TiffFile(tmp_path / "a.ome.tif") as file:
        text = file.pages[0].description.replace(UUIDS["b.ome.tif"], UUIDS["a.ome.tif"])
    text = re.sub(r'IFD="(\d)"', "", re.sub(r'FileName="[^"]*"', f'FileName="{name}"', text))
    text = re.sub(r'FirstZ="(\d)"', r'FirstZ="\1" IFD="\1"', text)
    tifffile.imwrite(tmp_path / "new.ome.tif", array, description=text, metadata=None, photometric="minisblack")
    source = open_image(tmp_path / "new.ome.tif")
    assert (source.spec.planes, source.spec.notes) == ((("z", 4),), ())
    np.testing.assert_array_equal(whole(source)[..., 0], array)


@pytest.mark.parametrize("kind", ["missing", "no image", "empty"])
def test_planes_in_a_file_that_cannot_be_read_are_noted(tmp_path: Path, kind: str) -> None:
    array, other = spread(tmp_path), tmp_path / "b.ome.tif"
    if kind == "missing":
        other.unlink()
    else:
        other.write_bytes(b"no image" if kind == "no image" else b"")
    source = open_image(tmp_path / "a.ome.tif")
    named = ("1 file(s) that its OME-XML names are missing, such as b.ome.tif",) if kind == "missing" else ()
    assert source.spec.notes == (*named, "2 of 4 pages are missing, and read as zeros")
    array[2:] = 0
    np.testing.assert_array_equal(whole(source)[..., 0], array)


def test_a_missing_file_without_the_number_of_its_planes(tmp_path: Path) -> None:
    spread(tmp_path, counted=False)
    (tmp_path / "a.ome.tif").unlink()
    fails(tmp_path / "b.ome.tif", "missing")


def test_a_second_file_that_is_cut(tmp_path: Path) -> None:
    spread(tmp_path)
    content = (tmp_path / "b.ome.tif").read_bytes()
    for length in range(0, len(content), 151):
        (tmp_path / "b.ome.tif").write_bytes(content[:length])
        try:
            source = open_image(tmp_path / "a.ome.tif")
            whole(source)
            assert "pages are missing, and read as zeros" in source.spec.notes[-1]
        except InputError as error:
            assert "\n" not in str(error)
            assert re.search("truncated|damaged", str(error))
    gc.collect()  # tifffile leaves the second file open when its pages end early


@pytest.mark.parametrize("options", [{"tile": (16, 16)}, {"compression": "lzw"}, {"predictor": True}], ids=str)
def test_a_second_file_that_is_stored_otherwise(tmp_path: Path, options: dict[str, object]) -> None:
    spread(tmp_path, **options)
    with pytest.raises(InputError, match=r"b\.ome\.tif: its pages are not stored as those of a\.ome\.tif"):
        read_all(tmp_path / "a.ome.tif")


@pytest.mark.parametrize(
    "kind", ["above", "inside and above", "absolute", "backslashes", "disk", "share", "entity", "folder", "pipe"]
)
def test_files_outside_the_folder_are_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    name = {
        "above": "../b.ome.tif", "inside and above": "x/../../b.ome.tif", "absolute": str(tmp_path / "b.ome.tif"),
        "backslashes": "..\\b.ome.tif", "disk": "C:b.ome.tif", "share": "//host/b.ome.tif",
        "entity": "&#46;&#x2e;&#47;b.ome.tif",
    }.get(kind, "b.ome.tif")  # fmt: skip
    array = spread(folder, name)
    (folder / "b.ome.tif").rename(tmp_path / "b.ome.tif")
    if kind == "folder":
        (folder / "b.ome.tif").mkdir()
    elif kind == "pipe":
        os.mkfifo(folder / "b.ome.tif")
    names, start = [], tifffile.TiffFile.__init__
    monkeypatch.setattr(
        tifffile.TiffFile, "__init__", lambda self, file, **options: names.append(Path(file).name) or start(self, file, **options)
    )
    source = open_image(folder / "a.ome.tif")
    assert set(names) == {"a.ome.tif"}
    assert source.spec.planes == (("page", 2),)
    assert len(source.spec.notes) == 1 and "no file in its folder, and is ignored" in source.spec.notes[0]
    np.testing.assert_array_equal(whole(source)[..., 0], array[:2])


# -------------------------------------------------------------------------------------------------------------- faults


def fails(path: Path, pattern: str | None = None) -> str:
    """Opening and reading the file raises one line that names it; the line is returned."""
    with pytest.raises(InputError, match=pattern) as caught:
        read_all(path)
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith(str(path))
    return text


def read_all(path: Path) -> np.ndarray:
    source = open_image(path)
    try:
        return whole(source)
    finally:
        source.close()


CUT = {
    "raw tiled": {"tile": (32, 32)},
    "zlib tiled": {"tile": (32, 32), "compression": "zlib"},
    "strips": {"rowsperstrip": 8},
    "one strip": {},
    "zlib strips": {"rowsperstrip": 8, "compression": "zlib"},
}


@pytest.mark.parametrize("share", [0.5, 0.9])
@pytest.mark.parametrize("kind", CUT)
def test_cut_files(tmp_path: Path, kind: str, share: float) -> None:
    path = saved(tmp_path, values(128, 128, top=65535), **CUT[kind])
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    assert re.search("truncated|damaged|cut off", fails(path))


@pytest.mark.parametrize("head", [b"II*\0", b"MM\0*", b"II+\0", b"II*\0\x08\0\0\0", b"II*\0\xff\xff\xff\x7f"])
def test_magic_only(tmp_path: Path, head: bytes) -> None:
    path = tmp_path / "image.tif"
    path.write_bytes(head)
    fails(path)


def test_any_cut_is_read_or_an_input_error(tmp_path: Path) -> None:
    path = saved(tmp_path, values(40, 40, 3, dtype="uint8"), photometric="rgb", tile=(16, 16), compression="zlib", ome=True)
    content = path.read_bytes()
    for length in range(0, len(content), 23):
        path.write_bytes(content[:length])
        try:
            read_all(path)
        except InputError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize("seed", range(60))
def test_flipped_bytes_are_read_or_an_input_error(tmp_path: Path, seed: int) -> None:
    options = [{"tile": (16, 16), "compression": "zlib"}, {}, {"compression": "jpeg"}, {"imagej": True}][seed % 4]
    path = saved(tmp_path, values(40, 40, dtype="uint8"), **options)
    random = np.random.default_rng(seed)
    content = bytearray(path.read_bytes())
    for place in random.integers(4, min(400, len(content)), 8):
        content[place] = random.integers(256)
    path.write_bytes(content)
    try:
        source = open_image(path)
        source.read(Region(0, 0, min(64, source.spec.height), min(64, source.spec.width)))
    except InputError as error:
        assert "\n" not in str(error)


LONG, SHORT = 4, 3


def tiny(tags: dict[int, int], data: bytes = bytes(64), next_page: int = 0) -> bytes:
    """A little-endian TIFF of one page, 8 x 8 grey, with some tags replaced or added."""
    base = {256: 8, 257: 8, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: 8, 279: 64}
    entries = {key: value for key, value in sorted((base | tags).items()) if value is not None}
    offset = 8 + len(data)
    out = struct.pack("<2sHI", b"II", 42, offset) + data + struct.pack("<H", len(entries))
    out += b"".join(struct.pack("<HHII", key, LONG, 1, value) for key, value in entries.items())
    return out + struct.pack("<I", offset if next_page else 0)


LIES = {
    "1e6 pixels a side": {256: 10**6, 257: 10**6, 278: 10**6},
    "1e6 pixels a side, zlib": {256: 10**6, 257: 10**6, 278: 10**6, 259: 8},
    "5e4 pixels a side, zlib": {256: 50_000, 257: 50_000, 278: 50_000, 259: 8},
    "5e4 pixels a side, one row a strip": {256: 50_000, 257: 50_000, 278: 1, 259: 8},
    "tiles of 2^20": {322: 2**20, 323: 2**20, 324: 8, 325: 64, 273: None, 279: None, 278: None},
    "tiles of 2^20, zlib": {322: 2**20, 323: 2**20, 324: 8, 325: 64, 259: 8, 273: None, 279: None, 278: None},
    "no width": {256: 0},
    "no height": {257: 0},
    "offset past the end": {273: 10**6},
    "too few bytes": {279: 10},
    "too many bytes, zlib": {279: 10**6, 259: 8},
    "65535 samples": {277: 65535},
    "no rows in a strip": {278: 0},
    "unknown compression": {259: 12345},
    "unknown predictor": {259: 8, 317: 77},
    "strange bits": {258: 77},
    "zlib of garbage": {259: 8},
    "LZW of garbage": {259: 5, 256: 4000, 257: 4000, 278: 4000},
    "JPEG of garbage": {259: 7},
    "no offsets": {273: None},
    "no data": {273: 0, 279: 0},
}


@pytest.mark.parametrize("lie", LIES)
def test_lying_headers(tmp_path: Path, lie: str) -> None:
    path = tmp_path / "image.tif"
    path.write_bytes(tiny(LIES[lie]))  # type: ignore[arg-type]
    fails(path)


def test_the_tiny_file_is_good_without_lies(tmp_path: Path) -> None:
    path = tmp_path / "image.tif"
    path.write_bytes(tiny({}, bytes(range(64))))
    np.testing.assert_array_equal(read_all(path)[0, ..., 0], np.arange(64).reshape(8, 8))


def test_ifd_with_1e10_entries(tmp_path: Path) -> None:
    path = tmp_path / "image.tif"
    path.write_bytes(struct.pack("<2sHHHQQ", b"II", 43, 8, 0, 16, 10**10) + bytes(500))
    fails(path)


def test_circular_ifd_is_read_once_with_a_note(tmp_path: Path) -> None:
    path = tmp_path / "image.tif"
    path.write_bytes(tiny({}, next_page=1))
    source = open_image(path)
    assert source.spec.plane_count == 1
    assert "circle" in source.spec.notes[0]


def test_jpeg_tile_that_claims_to_be_huge(tmp_path: Path) -> None:
    path = saved(tmp_path, values(64, 64, dtype="uint8"), compression="jpeg", tile=(64, 64))
    content = path.read_bytes()
    place = content.index(b"\xff\xc0") + 5
    path.write_bytes(content[:place] + struct.pack(">HH", 60_000, 60_000) + content[place + 4 :])
    fails(path, "pixels")


def huge_png(data: bytes) -> bytes:
    return data[:16] + struct.pack(">II", 60_000, 60_000) + data[24:]


def huge_webp(data: bytes) -> bytes:
    side = 16_383
    if data[12:16] == b"VP8L":
        return data[:21] + struct.pack("<I", (side - 1) | (side - 1) << 14) + data[25:]
    return data[:26] + struct.pack("<HH", side, side) + data[30:]


def huge_webp_canvas(data: bytes) -> bytes:
    canvas = b"VP8X" + struct.pack("<I", 10) + bytes(4) + (16_382).to_bytes(3, "little") * 2
    return data[:12] + canvas + data[12:]


def huge_jpeg_2000(data: bytes) -> bytes:
    place = data.index(b"\xff\x4f\xff\x51") + 8
    return data[:place] + struct.pack(">II", 60_000, 60_000) + data[place + 8 :]


def huge_lerc(data: bytes) -> bytes:
    return data[:14] + struct.pack("<ii", 60_000, 60_000) + data[22:]


def huge_jpeg_xl(data: bytes) -> bytes:
    """Sides in the form of 30 bits, no ratio."""
    number = 0 | 3 << 1 | 59_999 << 3 | 0 << 33 | 3 << 36 | 59_999 << 38
    return data[:2] + number.to_bytes(9, "little") + data[11:]


HUGE = [
    ("png", {}, huge_png), ("webp", {"lossless": True}, huge_webp), ("webp", {"lossless": False, "level": 50}, huge_webp),
    ("webp", {"lossless": True}, huge_webp_canvas), ("jpeg2000", {}, huge_jpeg_2000), ("lerc", {}, huge_lerc),
    ("jpegxl", {}, huge_jpeg_xl), ("jpegxl", {"usecontainer": True}, None),
]  # fmt: skip


@pytest.mark.parametrize(("codec", "options", "enlarge"), HUGE, ids=lambda value: getattr(value, "__name__", str(value)))
def test_streams_in_tiles_that_claim_to_be_huge(tmp_path: Path, codec: str, options: dict[str, object], enlarge: object) -> None:
    array = values(64, 64, 3, dtype="uint8")
    path = saved(tmp_path, array, compression=codec, compressionargs=options, tile=(64, 64), photometric="rgb")
    np.testing.assert_array_equal(read_all(path)[0], tifffile.imread(path))
    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        start, count, compression = page.dataoffsets[0], page.databytecounts[0], page.compression
    content = path.read_bytes()
    data = content[start : start + count]
    assert declared_area(data, compression) == 64 * 64
    if enlarge is not None:
        path.write_bytes(content[:start] + (enlarge(data) + bytes(64))[:count] + content[start + count :])  # type: ignore[operator]
        fails(path, "64 x 64 pixels holds a stream of")


def test_corrupt_tile(tmp_path: Path) -> None:
    path = saved(tmp_path, values(64, 64), compression="zlib", tile=(32, 32))
    with tifffile.TiffFile(path) as file:
        offset = file.pages[0].dataoffsets[3]
    content = bytearray(path.read_bytes())
    content[offset + 20 : offset + 80] = bytes(60)
    path.write_bytes(content)
    open_image(path).read(Region(0, 0, 32, 32))
    fails(path, "damaged")


def test_missing_tiles_read_as_zeros_and_are_counted(tmp_path: Path) -> None:
    array = values(64, 64) + 1
    path = saved(tmp_path, array, compression="zlib", tile=(32, 32))
    with tifffile.TiffFile(path, mode="r+") as file:
        page = file.pages[0]
        for code, table in ((324, page.dataoffsets), (325, page.databytecounts)):
            page.tags[code].overwrite([0 if i == 1 else value for i, value in enumerate(table)])
    source = open_image(path)
    pixels = whole(source)[0, ..., 0]
    array[:32, 32:] = 0
    np.testing.assert_array_equal(pixels, array)
    assert source.missing_tiles == 1  # type: ignore[attr-defined]


def test_complex_is_refused(tmp_path: Path) -> None:
    fails(saved(tmp_path, values(8, 8).astype("complex64")), "complex")


def test_absurd_ome_sizes_are_not_believed(tmp_path: Path) -> None:
    path = saved(tmp_path, values(20, 30), ome=True)
    with tifffile.TiffFile(path, mode="r+") as file:
        text = file.pages[0].description.replace('SizeT="1"', 'SizeT="2000000000"')
        file.pages[0].tags[270].overwrite(text)
    source = open_image(path)
    assert source.spec.planes == ()
    assert "absurd" in source.spec.notes[0]


@pytest.mark.parametrize("kind", ["empty", "random", "missing", "folder", "unreadable", "device"])
def test_what_is_no_image(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "image.tif"
    if kind == "folder":
        path.mkdir()
    elif kind == "device":
        path = Path("/dev/null")
    elif kind != "missing":
        path.write_bytes(b"" if kind == "empty" else np.random.default_rng(0).bytes(500))
    expected = {"empty": "empty", "random": "not an image", "missing": "no such file", "folder": "folder"}
    if kind == "unreadable":
        path.chmod(0)
        if _may_read(path):
            pytest.skip("this user may read everything")
    fails(path, expected.get(kind, "permission|device"))


def _may_read(path: Path) -> bool:
    try:
        path.open("rb").close()
    except PermissionError:
        return False
    return True


def test_no_logging_on_stderr(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "image.tif"
    path.write_bytes(tiny({273: None}))
    fails(path)
    assert capfd.readouterr() == ("", "")


# -------------------------------------------------------------------------------------------------------------- writer


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64"])
@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_written_files_come_back(tmp_path: Path, dtype: str, channels: int) -> None:
    array = values(70, 1100, channels, dtype=dtype, top=120)
    names = tuple(f"c{i}" for i in range(channels))
    path = tmp_path / "out.tif"
    write(path, ArraySource(array, pixel_size=(0.25, 0.5), channel_names=names), METADATA)
    source = open_image(path)
    np.testing.assert_array_equal(whole(source)[0], array)
    assert source.spec.pixel_size == (0.25, 0.5)
    rgb = channels == 3 and dtype in ("uint8", "uint16")
    assert source.spec.channel_names == (() if rgb else names)
    assert (source.spec.planes, source.spec.notes) == ((), ())
    with tifffile.TiffFile(path) as file:
        assert file.is_ome
        assert file.series[0].axes == ("YXS" if rgb else "YX" if channels == 1 else "CYX")
        page = file.pages[0]
        assert (page.tilelength, page.tilewidth) == (80, 512)
        assert page.compression == 8
        assert page.predictor == (1 if dtype.startswith("float") else 2)


def test_probabilities_of_three_channels_are_no_colours(tmp_path: Path) -> None:
    path = tmp_path / "out.tif"
    write(path, ArraySource(values(20, 30, 3, dtype="uint8")), Metadata("probabilities", {}, "0"))
    with tifffile.TiffFile(path) as file:
        assert (file.series[0].axes, file.pages[0].photometric.name) == ("CYX", "MINISBLACK")
    assert open_image(path).spec.channels == 3


def test_writing_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    source = ArraySource(values(600, 700, 3, dtype="uint8"), pixel_size=(0.5, 0.5))
    for name in ("a.tif", "b.tif"):
        write(tmp_path / name, source, METADATA)
    assert (tmp_path / "a.tif").read_bytes() == (tmp_path / "b.tif").read_bytes()
    write(tmp_path / "b.tif", source, Metadata("image", METADATA.record, "another run"))
    assert (tmp_path / "a.tif").read_bytes() != (tmp_path / "b.tif").read_bytes()


def test_the_record_is_in_the_ome_xml(tmp_path: Path) -> None:
    path = tmp_path / "out.tif"
    write(path, ArraySource(values(20, 30)), Metadata("labels", {"note": 'a < b & "c" µ'}, "0"))
    with tifffile.TiffFile(path) as file:
        root = ElementTree.fromstring(file.ome_metadata or "")
    found = {item.get("K"): item.text for item in root.iter() if item.tag.endswith("}M")}
    assert found["meaning"] == "labels"
    assert json.loads(found["record"] or "") == {"note": 'a < b & "c" µ'}


class Counted(ArraySource):
    """Remembers the largest piece that was read."""

    largest = 0

    def read(self, region: Region, plane: int = 0, level: int = 0) -> np.ndarray:
        self.largest = max(self.largest, region.area)
        return super().read(region, plane, level)


def test_the_writer_streams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("i2i.formats.tiff_write.SPAN_BYTES", 2 * 512 * 512)
    source = Counted(values(1100, 2000, dtype="uint8"))
    write(tmp_path / "out.tif", source, METADATA)
    assert source.largest == 512 * 1024
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out.tif"), source.read(source.spec.region)[..., 0])


def test_bigtiff_when_it_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, source = tmp_path / "out.tif", ArraySource(values(20, 30))
    write(path, source, METADATA)
    assert path.read_bytes()[:4] == b"II*\0"
    monkeypatch.setattr("i2i.formats.tiff_write.CLASSIC_LIMIT", 1000)
    write(path, source, METADATA)
    assert path.read_bytes()[:4] == b"II+\0"


def test_what_ome_has_no_name_for_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="float16"):
        write(tmp_path / "out.tif", ArraySource(values(8, 8, dtype="float16")), METADATA)


def test_slides_are_their_own_format(tmp_path: Path) -> None:
    path = saved(tmp_path, values(8, 8)).rename(tmp_path / "image.svs")
    assert detect(path, builtin_formats()).name == "slide"
    assert open_image(path).spec.notes == ()


def test_errors_name_the_path_that_was_given(tmp_path: Path) -> None:
    """And not the one that a link leads to."""
    whole = tmp_path / "whole.tif"
    tifffile.imwrite(whole, np.zeros((64, 64), np.uint8), tile=(16, 16))
    (tmp_path / "elsewhere").mkdir()
    cut = tmp_path / "elsewhere" / "cut.tif"
    cut.write_bytes(whole.read_bytes()[:-600])
    link = tmp_path / "link.tif"
    link.symlink_to(cut)
    with pytest.raises(InputError, match=r"link\.tif"):
        open_image(link).read(Region(0, 0, 64, 64))
