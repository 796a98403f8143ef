"""Slides: both readers give the same pixels, and the scanned areas of a Leica slide are put together."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile

from i2i.contracts import ImageSpec
from i2i.errors import InputError
from i2i.formats import builtin_formats, detect, open_image, slides
from i2i.formats.tiff import TiffSource
from i2i.geometry import Region

ODD = Path(__file__).parents[3] / "shared" / "data" / "odd-images"
NEEDS_TIFFSLIDE = pytest.mark.skipif(importlib.util.find_spec("tiffslide") is None, reason="tiffslide is not installed")
UNIT = 500
"""Nanometres of a pixel."""


@pytest.fixture(autouse=True)
def closing(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Close every source that a test opens."""
    opened: list[TiffSource | slides.SlideSource] = []
    for kind in (TiffSource, slides.SlideSource):
        start = kind._open
        monkeypatch.setattr(kind, "_open", lambda self, start=start: opened.append(self) or start(self))
    yield
    for source in opened:
        source.close()


def picture(height: int, width: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)


def leica(path: Path, *areas: tuple[int, int, list[np.ndarray]], tile: int = 64) -> Path:
    """A slide of 1500 x 2000 pixels: its overview, then each area at its place (y, x) with its resolutions."""
    images = [(0, 0, 1500, 2000, [picture(30, 40, 0)])]
    images += [(y, x, *levels[0].shape[:2], levels) for y, x, levels in areas]
    pages = [page for *_, levels in images for page in levels]
    text, first = f'<scn xmlns="x"><collection sizeX="{2000 * UNIT}" sizeY="{1500 * UNIT}">', 0
    for y, x, height, width, levels in images:
        sizes = [
            f'<dimension sizeX="{p.shape[1]}" sizeY="{p.shape[0]}" r="{r}" ifd="{first + r}"/>' for r, p in enumerate(levels)
        ]
        first += len(levels)
        text += (
            '<image><creationDate>2020</creationDate><device model="m" version="1"/>'
            f"<pixels>{''.join(sizes)}</pixels>"
            f'<view sizeX="{width * UNIT}" sizeY="{height * UNIT}" offsetX="{x * UNIT}" offsetY="{y * UNIT}"/>'
            "<scanSettings><objectiveSettings><objective>20</objective></objectiveSettings><illuminationSettings>"
            "<numericalAperture>0.4</numericalAperture><illuminationSource>brightfield</illuminationSource>"
            "</illuminationSettings></scanSettings></image>"
        )
    with tifffile.TiffWriter(path) as file:
        for i, page in enumerate(pages):
            description = f"{text}</collection></scn>" if i == 0 else None
            file.write(page, tile=(tile, tile), compression="zlib", photometric="rgb", description=description, metadata=None)
    return path


@NEEDS_TIFFSLIDE
def test_one_area_is_the_picture(tmp_path: Path) -> None:
    levels = [picture(300, 400, 1), picture(150, 200, 2)]
    source = open_image(leica(tmp_path / "x.scn", (200, 700, levels)))
    assert source.spec == ImageSpec(300, 400, 3, "uint8", (0.5, 0.5), levels=((300, 400), (150, 200)), tiling=(64, 64), rgb=True)
    for level, expected in enumerate(levels):
        for region in (Region(0, 0, *expected.shape[:2]), Region(37, 101, 90, 77), Region(149, 199, 1, 1)):
            np.testing.assert_array_equal(source.read(region, 0, level), expected[region.slices])
    with pytest.raises(ValueError, match="not inside"):
        source.read(Region(0, 0, 151, 200), 0, 1)


@NEEDS_TIFFSLIDE
def test_areas_lie_where_they_were_scanned(tmp_path: Path) -> None:
    one, other = [picture(300, 400, 1), picture(150, 200, 2)], [picture(200, 500, 3), picture(100, 250, 4)]
    source = open_image(leica(tmp_path / "x.scn", (100, 200, one), (500, 100, other)))
    assert source.spec.levels == ((600, 500), (300, 250))
    assert source.spec.notes == ("2 scanned areas in one picture: what lies between them reads as 0",)
    for level, scale in ((0, 1), (1, 2)):
        expected = np.zeros((600 // scale, 500 // scale, 3), np.uint8)
        expected[: 300 // scale, 100 // scale :] = one[level]
        expected[400 // scale :] = other[level]
        np.testing.assert_array_equal(source.read(Region(0, 0, *expected.shape[:2]), 0, level), expected)
        part = Region(250 // scale, 80 // scale, 200 // scale, 60 // scale)
        np.testing.assert_array_equal(source.read(part, 0, level), expected[part.slices])


def test_without_tiffslide_the_own_reader_says_what_it_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = leica(tmp_path / "x.scn", (200, 700, [picture(300, 400, 1), picture(150, 200, 2)]))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    source = open_image(path)
    assert (source.spec.height, source.spec.width) == (30, 40)
    assert "pip install 'i2i-engine[slides]'" in source.spec.notes[-1]


@NEEDS_TIFFSLIDE
def test_what_tiffslide_cannot_read_the_own_reader_does(tmp_path: Path) -> None:
    plain = picture(40, 50, 1)
    tifffile.imwrite(tmp_path / "plain.scn", plain, photometric="rgb")
    source = open_image(tmp_path / "plain.scn")
    np.testing.assert_array_equal(source.read(source.spec.region), plain)
    assert "not a Leica slide" in source.spec.notes[-1]
    path = leica(tmp_path / "x.scn", (200, 700, [picture(300, 400, 1), picture(150, 200, 2)]))
    path.write_bytes(path.read_bytes().replace(b"offsetX", b"nothing"))
    assert open_image(path).spec.height == 30


@NEEDS_TIFFSLIDE
def test_a_damaged_slide_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = leica(tmp_path / "x.scn", (200, 700, [picture(300, 400, 1), picture(150, 200, 2)]))
    data = path.read_bytes()
    path.write_bytes(data[:200])
    with pytest.raises(InputError, match=r"x\.scn"):
        open_image(path)
    path.write_bytes(data)
    with tifffile.TiffFile(path) as file:
        offsets = file.pages[1].dataoffsets
    path.write_bytes(data[: offsets[3]] + b"damaged!" * 8 + data[offsets[3] + 64 :])
    source = open_image(path)
    source.read(Region(0, 0, 64, 64))
    with pytest.raises(InputError, match=r"x\.scn: truncated or damaged slide"):
        source.read(Region(0, 0, 64, 300))
    path.write_bytes(data)
    monkeypatch.setattr(slides, "CHUNK_LIMIT", 10_000)
    assert "decodes to" in open_image(path).spec.notes[-1]


def test_only_leica_slides_go_this_way(tmp_path: Path) -> None:
    for suffix, name in ((".scn", "Leica slide"), (".svs", "slide"), (".ndpi", "slide"), (".bif", "slide"), (".tif", "TIFF")):
        tifffile.imwrite(tmp_path / f"x{suffix}", picture(20, 30, 1), photometric="rgb")
        assert detect(tmp_path / f"x{suffix}", builtin_formats()).name == name
    (tmp_path / "y.scn").write_bytes(b"no slide at all")
    with pytest.raises(InputError, match="not an image"):
        open_image(tmp_path / "y.scn")


@NEEDS_TIFFSLIDE
@pytest.mark.skipif(not ODD.is_dir(), reason="the folder of odd images (../shared/data/odd-images) is not there")
def test_an_aperio_slide_has_the_same_pixels_either_way() -> None:
    from tiffslide.tiffslide import PROPERTY_NAME_MPP_X, TiffSlide

    path = ODD / "CMU-1-Small-Region.svs"
    source = TiffSource(path)
    with TiffSlide(path) as slide:
        found = slide.read_region((0, 0), 0, slide.dimensions, as_array=True)
        np.testing.assert_array_equal(source.read(source.spec.region), found)
        assert source.spec.pixel_size == (slide.properties[PROPERTY_NAME_MPP_X],) * 2
