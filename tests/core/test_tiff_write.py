"""The TIFF writer: compressions, pyramids, planes, threads, memory; what other programs read of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from i2i.contracts import Array, ImageSpec, Meaning, Metadata, Source
from i2i.errors import OutputError
from i2i.formats import ArraySource, open_image, pyramid, tiff_ome, tiff_write
from i2i.formats.pyramid import halve, level_shapes
from i2i.formats.tiff import TIFF_FORMAT
from i2i.formats.tiff_layout import Axis, Layout
from i2i.formats.tiff_write import write
from i2i.geometry import Region

METADATA = Metadata("image", {"model": "nuclei"}, "0123abcd")
Planes = tuple[tuple[str, int], ...]


class Given(ArraySource):
    """Planes (planes, H, W, C) as a source; remembers how many pixels were read."""

    def __init__(self, array: Array, planes: Planes = (), **fields: object) -> None:
        super().__init__(array[0], planes=planes, **fields)
        self._all = array
        self.read_pixels = 0

    def read(self, region: Region, plane: int = 0, level: int = 0) -> Array:
        self.read_pixels += region.area
        return self._all[plane][region.slices]


def values(*shape: int, dtype: str = "uint8", top: int = 200) -> Array:
    return np.random.default_rng(1).integers(0, top, shape).astype(dtype)


def slope(height: int, width: int) -> Array:
    """A picture without noise, (H, W, 3) uint8."""
    y, x = np.mgrid[:height, :width]
    return np.stack([y // 8 % 256, x // 16 % 256, (y + x) // 32 % 256], axis=-1).astype(np.uint8)


def of_level(source: Source, level: int) -> Array:
    """Every plane at one level: (planes, H, W, C)."""
    height, width = (source.spec.levels or ((source.spec.height, source.spec.width),))[level]
    return np.stack([source.read(Region(0, 0, height, width), plane, level) for plane in range(source.spec.plane_count)])


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of 16 pixels, pyramids above 40."""
    shrink(monkeypatch)


def shrink(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(tiff_write, "TILE", 16)
    patch.setattr(pyramid, "ABOVE", 40)
    patch.setattr(pyramid, "SMALLEST", 16)


# ---------------------------------------------------------------------------------------------------- what i2i reads back


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    height=st.integers(1, 80),
    width=st.integers(1, 80),
    channels=st.integers(1, 4),
    dtype=st.sampled_from(tiff_write.DTYPES[:-1]),
    meaning=st.sampled_from(("image", "probabilities", "classes", "labels")),
    planes=st.sampled_from([(), (("z", 3),), (("t", 2), ("z", 2)), (("page", 4),)]),
    compression=st.sampled_from(("", "zlib", "zstd", "lzw", "none")),
    threads=st.sampled_from([1, 3]),
    span=st.sampled_from([1, 1500, 2**20]),
)
def test_every_level_comes_back(
    tmp_path: Path, height: int, width: int, channels: int, dtype: str, meaning: Meaning, planes: Planes,
    compression: str, threads: int, span: int,
) -> None:  # fmt: skip
    count = int(np.prod([length for _, length in planes], dtype=int))
    expected = values(count, height, width, channels, dtype=dtype, top=127)
    names = tuple(f"c{i}" for i in range(channels))
    source = Given(expected, planes, pixel_size=(0.25, 0.5), channel_names=names)
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch)
        patch.setattr(tiff_write, "SPAN_BYTES", span)
        write(tmp_path / "out.tif", source, Metadata(meaning, {}, "0", compression, threads))
        shapes = level_shapes(height, width)
    assert source.read_pixels == count * height * width
    found = open_image(tmp_path / "out.tif")
    rgb = channels == 3 and meaning == "image" and dtype in ("uint8", "uint16")
    assert found.spec.planes == planes
    assert (found.spec.pixel_size, found.spec.dtype) == ((0.25, 0.5), dtype)
    assert found.spec.channel_names == (() if rgb else names)
    assert found.spec.levels == (tuple(shapes) if len(shapes) > 1 else ())
    for level in range(len(shapes)):
        np.testing.assert_array_equal(of_level(found, level), expected)
        expected = np.stack([halve(plane, meaning) for plane in expected])
    found.close()


def test_truths_are_one_bit_and_come_back_black_and_white(tmp_path: Path, small: None) -> None:
    array = values(50, 45, 1, dtype="bool", top=2)
    write(tmp_path / "out.tif", ArraySource(array), Metadata("classes", {}, "0"))
    source = open_image(tmp_path / "out.tif")
    np.testing.assert_array_equal(of_level(source, 0)[0], array * np.uint8(255))
    np.testing.assert_array_equal(of_level(source, 1)[0], array[::2, ::2] * np.uint8(255))
    source.close()
    with tifffile.TiffFile(tmp_path / "out.tif") as file:
        assert file.pages[0].bitspersample == 1
        assert 'Type="bit"' in (file.ome_metadata or "")


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("compression", tiff_write.COMPRESSIONS)
def test_the_same_bytes_for_any_number_of_threads(
    tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch, compression: str, threads: int
) -> None:
    source = ArraySource(values(130, 90, 3), pixel_size=(0.5, 0.5))
    write(tmp_path / "a.tif", source, Metadata("image", {"a": 1}, "f", compression))
    monkeypatch.setattr(tiff_write, "QUEUE_BYTES", 4 * 16 * 16 * 3)  # several rounds of the pool
    write(tmp_path / "b.tif", source, Metadata("image", {"a": 1}, "f", compression, threads))
    assert (tmp_path / "a.tif").read_bytes() == (tmp_path / "b.tif").read_bytes()


# ------------------------------------------------------------------------------------------------------------ compressions

TAGS = {"": 8, "zlib": 8, "zstd": 50000, "lzw": 5, "jpeg": 7, "none": 1}


@pytest.mark.parametrize(
    ("dtype", "meaning", "predictor"),
    [("uint8", "image", 2), ("uint16", "probabilities", 2), ("uint8", "classes", 1), ("uint32", "labels", 1),
     ("float32", "probabilities", 1)],
)  # fmt: skip
@pytest.mark.parametrize("compression", ["", "zlib", "zstd", "lzw", "none"])
def test_compression_and_predictor(tmp_path: Path, compression: str, dtype: str, meaning: Meaning, predictor: int) -> None:
    write(tmp_path / "out.tif", ArraySource(values(20, 30, dtype=dtype)), Metadata(meaning, {}, "0", compression))
    with tifffile.TiffFile(tmp_path / "out.tif") as file:
        assert file.pages[0].compression == TAGS[compression]
        assert file.pages[0].predictor == (1 if compression == "none" else predictor)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shape", [(1200, 1030), (50, 41)])
def test_jpeg_is_nearly_the_picture(tmp_path: Path, channels: int, shape: tuple[int, int]) -> None:
    """Up to its edges, where the codec is given more of the same."""
    array = slope(*shape)[..., :channels]
    write(tmp_path / "out.tif", ArraySource(array), Metadata("image", {}, "0", "jpeg", 2))
    source = open_image(tmp_path / "out.tif")
    error = np.abs(of_level(source, 0)[0].astype(int) - array)
    source.close()
    assert error.max() < 16
    assert error.mean() < 1.5
    with tifffile.TiffFile(tmp_path / "out.tif") as file:
        assert file.pages[0].compression == 7
        assert file.pages[0].photometric.name == ("YCBCR" if channels == 3 else "MINISBLACK")


@pytest.mark.parametrize(
    ("array", "meaning"),
    [
        (values(20, 20), "labels"),
        (values(20, 20), "classes"),
        (values(20, 20, 3), "probabilities"),
        (values(20, 20, 2), "image"),
        (values(20, 20, dtype="uint16"), "image"),
    ],
)
def test_jpeg_of_what_it_would_change(tmp_path: Path, array: Array, meaning: Meaning) -> None:
    with pytest.raises(OutputError, match=r"out\.tif: JPEG .*choose another compression"):
        write(tmp_path / "out.tif", ArraySource(array), Metadata(meaning, {}, "0", "jpeg"))
    assert not (tmp_path / "out.tif").exists()


def test_an_unknown_compression(tmp_path: Path) -> None:
    assert TIFF_FORMAT.compressions == ("zlib", "zstd", "lzw", "jpeg", "none")
    with pytest.raises(OutputError, match="no compression lz4; choose zlib, zstd, lzw, jpeg, none"):
        write(tmp_path / "out.tif", ArraySource(values(8, 8)), Metadata("image", {}, "0", "lz4"))


@pytest.mark.parametrize("dtype", ["uint64", "int64", "float16", "complex64"])
def test_what_ome_has_no_name_for(tmp_path: Path, dtype: str) -> None:
    with pytest.raises(OutputError, match=f"cannot hold {dtype} .*it can hold uint8"):
        write(tmp_path / "out.tif", ArraySource(values(8, 8, dtype=dtype)), METADATA)


# ------------------------------------------------------------------------------------------------------------------ planes

TOLD = [
    (("t", 3),), (("z", 3),), (("t", 2), ("z", 3)), (("z", 2), ("t", 3)), (("page", 4),), (("t", 2), ("page", 3)),
    (("page", 2), ("t", 3)), (("page", 2), ("z", 3)), (("t", 2), ("page", 2), ("z", 2)), (("a", 2), ("z", 3)),
    (("z", 2), ("h", 3)), (("t", 2), ("z", 2), ("r", 2)), (("p", 2),), (("e", 2),),
]  # fmt: skip
TOLD_OF_RGB = [(("c", 2),), (("t", 2), ("c", 2)), (("c", 2), ("z", 2)), (("page", 2), ("c", 2))]
KINDS: list[tuple[int, str, Meaning]] = [(1, "uint16", "labels"), (3, "uint8", "image"), (2, "float32", "probabilities")]


def written(path: Path, planes: Planes, channels: int, dtype: str, meaning: Meaning) -> Array:
    count = int(np.prod([length for _, length in planes], dtype=int))
    array = values(count, 50, 45, channels, dtype=dtype)
    write(path, Given(array, planes, channel_names=("a", "b", "c")[:channels]), Metadata(meaning, {}, "0"))
    return array


@pytest.mark.parametrize(("channels", "dtype", "meaning"), KINDS)
@pytest.mark.parametrize("planes", TOLD, ids=str)
def test_planes_that_ome_names(tmp_path: Path, small: None, planes: Planes, channels: int, dtype: str, meaning: Meaning) -> None:
    array = written(tmp_path / "out.tif", planes, channels, dtype, meaning)
    source = open_image(tmp_path / "out.tif")
    assert (source.spec.planes, source.spec.channels, source.spec.notes) == (planes, channels, ())
    assert source.spec.channel_names == (() if channels == 3 else ("a", "b")[:channels])
    np.testing.assert_array_equal(of_level(source, 0), array)
    np.testing.assert_array_equal(of_level(source, 2), [halve(halve(plane, meaning), meaning) for plane in array])
    source.close()


@pytest.mark.parametrize("planes", TOLD_OF_RGB, ids=str)
def test_colour_pages_may_have_an_axis_of_channels(tmp_path: Path, small: None, planes: Planes) -> None:
    array = written(tmp_path / "out.tif", planes, 3, "uint8", "image")
    source = open_image(tmp_path / "out.tif")
    assert (source.spec.planes, source.spec.channels) == (planes, 3)
    np.testing.assert_array_equal(of_level(source, 1), [halve(plane, "image") for plane in array])
    source.close()


FOLDED = [
    (("page", 2), ("t", 2), ("z", 2)), (("page", 2), ("page2", 2)), (("position", 3), ("t", 2)), (("series", 2),),
    (("c", 2), ("page", 2)), (("a", 2), ("r", 2)), (("series", 2), ("z", 3)), (("position", 2), ("page", 2)),
]  # fmt: skip


def layout_of(path: Path) -> tuple[Layout, str]:
    """The layout as OME tells it, and the OME-XML."""
    with tifffile.TiffFile(path) as file:
        series = file.series[0]
        axes = tuple(zip(series.axes, series.shape, strict=True))
        over = tuple((letter, length) for letter, length in axes if letter not in "YXS")
        planes = tuple((letter.lower(), length) for letter, length in over if letter != "C")
        c = len(over) - 1 if over[-1][0] == "C" else None
        return Layout(over, planes, c), file.ome_metadata or ""


@pytest.mark.parametrize(("channels", "dtype", "meaning"), KINDS)
@pytest.mark.parametrize("planes", FOLDED, ids=str)
def test_other_planes_are_one_axis_whose_names_are_noted(
    tmp_path: Path, small: None, planes: Planes, channels: int, dtype: str, meaning: Meaning
) -> None:
    array = written(tmp_path / "out.tif", planes, channels, dtype, meaning)
    layout, xml = layout_of(tmp_path / "out.tif")
    assert layout.planes == (("t", len(array)),)
    noted = tiff_ome.recorded(layout, xml)
    assert noted.planes == planes
    assert noted.channels == layout.channels
    pages = [noted.page(plane, channel) for plane in range(len(array)) for channel in range(noted.channels)]
    assert pages == [(number, 0) for number in range(len(pages))]
    with tifffile.TiffFile(tmp_path / "out.tif") as file:
        stored = np.stack([page.asarray() for page in file.pages]).reshape(len(array), -1, 50, 45, 3 if channels == 3 else 1)
    expected = array[:, np.newaxis] if channels == 3 else np.moveaxis(array, -1, 1)[..., np.newaxis]
    np.testing.assert_array_equal(stored, expected)
    source = open_image(tmp_path / "out.tif")
    assert (source.spec.planes, source.spec.channels, source.spec.notes) == (planes, channels, ())
    np.testing.assert_array_equal(of_level(source, 0), array)
    np.testing.assert_array_equal(of_level(source, 1), [halve(plane, meaning) for plane in array])
    source.close()


@pytest.mark.parametrize(
    "noted", ["", "null", "[]", "[3]", '[["t", 5]]', '[["t", -2], ["z", -3]]', '[["a", "x"]]', "{", '[["t", 1e99]]'], ids=str
)
def test_a_note_that_does_not_fit_is_left_alone(noted: str) -> None:
    layout = Layout((("T", 6), ("C", 2)), (("t", 6),), 1)
    root = ElementTree.Element("{x}MapAnnotation", Namespace="i2i")
    ElementTree.SubElement(root, "{x}M", K="planes").text = noted
    assert tiff_ome.recorded(layout, ElementTree.tostring(root, "unicode")) == layout


def test_a_note_of_another_program_is_left_alone() -> None:
    axes: tuple[Axis, ...] = (("T", 6),)
    layout = Layout(axes, (("t", 6),), None)
    root = ElementTree.Element("{x}MapAnnotation", Namespace="other")
    ElementTree.SubElement(root, "{x}M", K="planes").text = '[["i2i", 6]]'
    assert tiff_ome.recorded(layout, ElementTree.tostring(root, "unicode")) == layout
    assert tiff_ome.recorded(layout, None) == tiff_ome.recorded(layout, "<not i2i") == layout


def test_axes_of_one_step_are_left_out(tmp_path: Path, small: None) -> None:
    array = written(tmp_path / "out.tif", (("t", 1), ("z", 3)), 1, "uint16", "labels")
    source = open_image(tmp_path / "out.tif")
    assert source.spec.planes == (("z", 3),)
    np.testing.assert_array_equal(of_level(source, 0), array)
    source.close()


# ----------------------------------------------------------------------------------------------------------------- BigTIFF


@pytest.mark.parametrize(
    ("planes", "channels", "compression", "bytes_at_most"),
    [
        ((), 1, "", 48 * 48),  # 33 x 33 pixels: 3 x 3 tiles of 16
        ((), 1, "lzw", int(48 * 48 * 1.5)),
        ((), 4, "", 48 * 48 * 4),
        ((("z", 5),), 2, "", 48 * 48 * 10),
    ],
)
def test_bigtiff_by_itself(
    tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch, planes: Planes, channels: int, compression: str,
    bytes_at_most: int,
) -> None:  # fmt: skip
    count = int(np.prod([length for _, length in planes], dtype=int))
    source = Given(values(count, 33, 33, channels), planes)
    for limit, magic in ((bytes_at_most, b"II+\0"), (2 * bytes_at_most + 2**16, b"II*\0")):
        monkeypatch.setattr(tiff_write, "CLASSIC_LIMIT", limit)
        write(tmp_path / "out.tif", source, Metadata("probabilities", {}, "0", compression))
        assert (tmp_path / "out.tif").read_bytes()[:4] == magic


def test_the_levels_count_too(tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    source = ArraySource(values(1600, 1600))
    monkeypatch.setattr(tiff_write, "CLASSIC_LIMIT", int(1600 * 1600 * 1.3))
    write(tmp_path / "out.tif", source, METADATA)
    assert (tmp_path / "out.tif").read_bytes()[:4] == b"II+\0"
    monkeypatch.setattr(pyramid, "ABOVE", 1600)
    write(tmp_path / "out.tif", source, METADATA)
    assert (tmp_path / "out.tif").read_bytes()[:4] == b"II*\0"


# ---------------------------------------------------------------------------------------------------------- other programs


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Array]]:
    """A colour image with a pyramid, as it is written without options, and its levels."""
    array = slope(4100, 1300)
    path = tmp_path_factory.mktemp("slide") / "out.tif"
    write(path, ArraySource(array, pixel_size=(0.5, 0.25)), METADATA)
    expected = [array]
    while max(expected[-1].shape) > 512:
        expected.append(halve(expected[-1], "image"))
    return path, expected


def test_tifffile_and_zarr_open_it(slide: tuple[Path, list[Array]]) -> None:
    import zarr

    path, expected = slide
    with tifffile.TiffFile(path) as file:
        assert len(file.pages) == 1
        assert [level.shape for level in file.series[0].levels] == [level.shape for level in expected]
        assert all(level.keyframe.tile == (512, 512) for level in file.series[0].levels)
        assert [level.keyframe.subfiletype for level in file.series[0].levels] == [0, 1, 1, 1, 1]
        for level, pixels in zip(file.series[0].levels, expected, strict=True):
            np.testing.assert_array_equal(level.asarray(), pixels)
        with file.aszarr() as store:
            group = zarr.open_group(store, mode="r")
            np.testing.assert_array_equal(group["1"][1000:1100, 600:], expected[1][1000:1100, 600:])  # type: ignore[index]


def test_pillow_opens_it(slide: tuple[Path, list[Array]]) -> None:
    with Image.open(slide[0]) as image:
        np.testing.assert_array_equal(np.asarray(image), slide[1][0])
        assert image.info["dpi"] == pytest.approx((40_000 * 2.54, 20_000 * 2.54))


def test_libvips_opens_it(slide: tuple[Path, list[Array]]) -> None:
    pyvips = pytest.importorskip("pyvips", reason="pyvips is not installed", exc_type=ImportError)
    path, expected = slide
    image = pyvips.Image.tiffload(str(path))
    assert image.get("n-subifds") == len(expected) - 1
    assert (image.xres, image.yres) == pytest.approx((4000, 2000))  # pixels for each millimetre
    np.testing.assert_array_equal(image.crop(700, 3000, 600, 1000).numpy(), expected[0][3000:4000, 700:1300])
    for number, pixels in enumerate(expected[1:]):
        np.testing.assert_array_equal(pyvips.Image.tiffload(str(path), subifd=number).numpy(), pixels)


@pytest.mark.parametrize(
    ("dtype", "meaning", "compression"),
    [("uint16", "image", "zlib"), ("int16", "image", "lzw"), ("uint32", "labels", "zlib"), ("uint8", "classes", "none"),
     ("float32", "probabilities", "zlib"), ("bool", "classes", "zlib")],
)  # fmt: skip
def test_libvips_reads_every_kind(tmp_path: Path, small: None, dtype: str, meaning: Meaning, compression: str) -> None:
    """Zstandard is left out: not every libtiff is built with it."""
    pyvips = pytest.importorskip("pyvips", reason="pyvips is not installed", exc_type=ImportError)
    array = values(60, 50, 1, dtype=dtype, top=2 if dtype == "bool" else 120)
    path = tmp_path / "out.tif"
    write(path, ArraySource(array), Metadata(meaning, {}, "0", compression))
    white = np.uint8(255) if dtype == "bool" else array.dtype.type(1)
    np.testing.assert_array_equal(pyvips.Image.tiffload(str(path)).numpy(), array[..., 0] * white)
    np.testing.assert_array_equal(pyvips.Image.tiffload(str(path), subifd=0).numpy(), halve(array, meaning)[..., 0] * white)


def test_openslide_opens_it(slide: tuple[Path, list[Array]]) -> None:
    """The full size with its pixel size. Its driver for plain TIFFs takes levels from the list of pages alone, not from
    SubIFDs, where OME has them: they are not seen, and not taken for other images."""
    openslide = pytest.importorskip("openslide", reason="openslide is not installed", exc_type=ImportError)
    path, expected = slide
    with openslide.OpenSlide(path) as image:
        assert image.properties["openslide.vendor"] == "generic-tiff"
        assert image.dimensions == (1300, 4100)
        assert image.level_count == 1
        assert float(image.properties["openslide.mpp-x"]) == pytest.approx(0.25)
        assert float(image.properties["openslide.mpp-y"]) == pytest.approx(0.5)
        region = np.asarray(image.read_region((700, 3000), 0, (500, 900)))[..., :3]
    np.testing.assert_array_equal(region, expected[0][3000:3900, 700:1200])


# ------------------------------------------------------------------------------------------------------------------ memory

CHILD = """
import sys
from pathlib import Path
import numpy as np
import imagecodecs, tifffile
from i2i.contracts import ImageSpec, Metadata
from i2i.formats.tiff_write import write

class Endless:
    def __init__(self, height, width, channels):
        self.spec = ImageSpec(height, width, channels, "uint8")
    def read(self, region, plane=0, level=0):
        row = (np.arange(region.x, region.right) // 5 % 256).astype(np.uint8)
        pixels = np.empty((region.height, region.width, self.spec.channels), np.uint8)
        for y in range(region.height):
            pixels[y] = (row ^ np.uint8((region.y + y) // 7 % 256))[:, np.newaxis]
        return pixels

def high():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) * 1024

path, metadata = Path(sys.argv[1]), Metadata(sys.argv[5], {}, "0", "zstd", 2)
write(path, Endless(64, 64, int(sys.argv[4])), metadata)
before = high()
write(path, Endless(*map(int, sys.argv[2:5])), metadata)
print(high() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not tell the most memory used")
@pytest.mark.parametrize(
    ("size", "meaning"), [((16_384, 16_384, 1), "image"), ((600, 100_000, 3), "image"), ((1100, 20_000, 7), "probabilities")]
)
def test_memory_does_not_grow_with_the_image(tmp_path: Path, size: tuple[int, int, int], meaning: str) -> None:
    command = [sys.executable, "-c", CHILD, str(tmp_path / "out.tif"), *map(str, size), meaning]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 150_000_000
    with tifffile.TiffFile(tmp_path / "out.tif") as file:
        assert len(file.series[0].levels) == len(level_shapes(*size[:2]))


def test_a_source_that_fails_leaves_nothing_open(tmp_path: Path, small: None) -> None:
    class Failing(ArraySource):
        def read(self, region: Region, plane: int = 0, level: int = 0) -> Array:
            if region.y >= 48:
                raise OutputError("no further")
            return super().read(region)

    before = len(list(Path("/dev/fd").iterdir()))
    with pytest.raises(OutputError, match="no further"):
        write(tmp_path / "out.tif", Failing(values(100, 50, 2)), Metadata("probabilities", {}, "0", "", 2))
    assert len(list(Path("/dev/fd").iterdir())) == before


def test_pixel_sizes_of_levels(tmp_path: Path, small: None) -> None:
    write(tmp_path / "out.tif", ArraySource(values(41, 60), pixel_size=(0.5, 1.0)), METADATA)
    with tifffile.TiffFile(tmp_path / "out.tif") as file:
        found = []
        for level in file.series[0].levels:
            across, down = (level.keyframe.tags[code].value for code in (282, 283))
            found.append((1e4 * down[1] / down[0], 1e4 * across[1] / across[0]))
    assert found == [pytest.approx(size) for size in ((0.5, 1), (0.5 * 41 / 21, 2), (0.5 * 41 / 11, 4))]


def test_a_spec_may_say_what_it_likes_of_levels(tmp_path: Path, small: None) -> None:
    """Levels and tiles of the input are not those of the result."""
    spec = ImageSpec(50, 50, 1, "uint8", levels=((50, 50), (25, 25), (7, 7)), tiling=(7, 7))
    source = ArraySource(values(50, 50))
    source.spec = spec
    write(tmp_path / "out.tif", source, METADATA)
    found = open_image(tmp_path / "out.tif")
    assert found.spec.levels == ((50, 50), (25, 25), (13, 13))
    found.close()
