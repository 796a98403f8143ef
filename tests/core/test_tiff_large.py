"""Large TIFF files: segments that are too large to be decoded whole, several of them at once, slides that open at once."""

from __future__ import annotations

import errno
import io
import json
import os
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from i2i.contracts import Array
from i2i.errors import InputError, OutputError
from i2i.formats import scratch, spool, streams, tiff_segments
from i2i.formats.tiff import SPOOLED, WIDE, TiffSource
from i2i.geometry import Region

pytestmark = [pytest.mark.filterwarnings("ignore")]
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def closing(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Close every source that a test opens."""
    opened: list[TiffSource] = []
    start = TiffSource._open
    monkeypatch.setattr(TiffSource, "_open", lambda self: opened.append(self) or start(self))
    yield
    for source in opened:
        source.close()


def values(*shape: int, dtype: str = "uint8", top: int = 200) -> Array:
    return np.random.default_rng(1).integers(0, top, shape).astype(dtype)


@pytest.fixture
def giant(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every segment above 2 kB counts as giant, and is read in steps that do not divide it."""
    monkeypatch.setattr(tiff_segments, "CACHE_BYTES", 2000)
    monkeypatch.setattr(tiff_segments, "CHUNK", 501)
    monkeypatch.setattr(spool, "BAND_BYTES", 1500)
    monkeypatch.setattr(streams, "PIECE", 333)


def whole(source: TiffSource, level: int = 0) -> Array:
    """Every plane at one level, (planes, H, W, C), each in two reads that overlap."""
    height, width = (source.spec.levels or ((source.spec.height, source.spec.width),))[level]
    planes = []
    for plane in range(source.spec.plane_count):
        below = source.read(Region(height // 2, 0, height - height // 2, width), plane, level)
        pixels = source.read(Region(0, 0, height, width), plane, level)
        np.testing.assert_array_equal(pixels[height // 2 :], below)
        planes.append(pixels)
    return np.stack(planes)


def opened(folder: Path, array: Array, **options: Any) -> TiffSource:
    path = folder / "image.tif"
    tifffile.imwrite(path, array, **options)
    return TiffSource(path)


# ---------------------------------------------------------------------------------------------------- giant segments

STREAMED = [{"compression": name} for name in ("zlib", "deflate", "zstd", "lzma", "lzw", "packbits")]
CUT = [{}, {"rowsperstrip": 31}, {"tile": (64, 48)}]


@pytest.mark.usefixtures("giant")
@pytest.mark.parametrize("cut", CUT, ids=["strip", "strips", "tiles"])
@pytest.mark.parametrize("options", STREAMED, ids=lambda options: options["compression"])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_giant_segments_are_copied_once(tmp_path: Path, options: dict[str, Any], planar: str, cut: dict[str, Any]) -> None:
    array = values(101, 83, 3, dtype="uint16")
    stored = array if planar == "contig" else np.moveaxis(array, -1, 0)
    source = opened(tmp_path, stored, photometric="rgb", planarconfig=planar, **cut, **options)
    assert source.spec.remarks == (SPOOLED,) == ("stored in one piece: copied once to a scratch file",)
    np.testing.assert_array_equal(whole(source)[0], array)
    grid = source._pictures[0].levels[0].grid
    assert grid.giant and grid.streamed == (options["compression"] not in ("lzw", "packbits"))
    assert source.decoded_segments == grid.count


@pytest.mark.usefixtures("giant")
@pytest.mark.parametrize("byteorder", "<>")
@pytest.mark.parametrize("compression", ["zlib", "zstd", "lzma"])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint32", "uint64", "float16", "float32", "float64"])
def test_predictors_are_undone_row_by_row(tmp_path: Path, dtype: str, compression: str, byteorder: str) -> None:
    array = values(90, 71, 2, dtype=dtype)
    predictor = dtype != "uint64"  # tifffile writes none for it
    source = opened(
        tmp_path, array, compression=compression, predictor=predictor, byteorder=byteorder, planarconfig="contig",
        photometric="minisblack", rowsperstrip=50,
    )  # fmt: skip
    assert source._pictures[0].levels[0].grid.streamed
    np.testing.assert_array_equal(whole(source)[0], array)


@pytest.mark.usefixtures("giant")
def test_giant_strips_of_bits(tmp_path: Path) -> None:
    array = values(300, 133) > 90
    source = opened(tmp_path, array, compression="zlib", photometric="minisblack")
    np.testing.assert_array_equal(whole(source)[0, ..., 0], np.where(array, 255, 0))


@pytest.mark.usefixtures("giant")
def test_a_giant_strip_whose_bytes_begin_with_the_lowest_bit(tmp_path: Path) -> None:
    grey, path = values(71, 71), tmp_path / "image.tif"
    data = bytes(int(f"{byte:08b}"[::-1], 2) for byte in zlib.compress(grey.tobytes()))
    bigtiff(path, 71, strip(71, 8, len(data)) | {266: (3, 1, 2)}, data)
    np.testing.assert_array_equal(whole(TiffSource(path))[0, ..., 0], grey)


@pytest.mark.usefixtures("giant")
@pytest.mark.parametrize(
    "options",
    [
        {"compression": "jpeg", "photometric": "rgb"},
        {"compression": "jpeg2000", "photometric": "rgb"},
        {"tile": (64, 64), "photometric": "rgb"},
        {"compression": "zlib", "volumetric": True, "tile": (2, 32, 48), "photometric": "rgb"},
    ],
    ids=["jpeg", "jpeg2000", "plain tiles", "volume"],
)
def test_other_giant_segments(tmp_path: Path, options: dict[str, Any]) -> None:
    array = values(5, 80, 101, 3) if "volumetric" in options else values(80, 101, 3)
    source = opened(tmp_path, array, **options)
    assert SPOOLED in source.spec.remarks
    expected = tifffile.imread(tmp_path / "image.tif")
    np.testing.assert_array_equal(whole(source), expected.reshape(-1, 80, 101, 3))


@pytest.mark.usefixtures("giant")
def test_giant_segments_of_pages_levels_and_turned_pictures(tmp_path: Path) -> None:
    array = values(3, 90, 120, 3)
    with tifffile.TiffWriter(tmp_path / "image.tif") as file:
        options: dict[str, Any] = {"photometric": "rgb", "compression": "zlib", "extratags": [(274, 3, 1, 6, True)]}
        file.write(array, subifds=1, **options)
        file.write(array[:, ::2, ::2], subfiletype=1, **options)
    source = TiffSource(tmp_path / "image.tif")
    for level, step in ((0, 1), (1, 2)):
        expected = np.rot90(array[:, ::step, ::step], -1, (1, 2))
        np.testing.assert_array_equal(whole(source, level), expected)


@pytest.mark.usefixtures("giant")
def test_a_missing_giant_strip_reads_as_what_means_no_data(tmp_path: Path) -> None:
    array = values(90, 71) + 1
    for nodata in (0, 7):
        path = tmp_path / f"{nodata}.tif"
        tifffile.imwrite(path, array, compression="zlib", rowsperstrip=40, extratags=[(42113, 2, 0, str(nodata), True)])
        with tifffile.TiffFile(path, mode="r+") as file:
            page = file.pages[0]
            for code, table in ((273, page.dataoffsets), (279, page.databytecounts)):
                page.tags[code].overwrite([0 if i == 1 else value for i, value in enumerate(table)])
        source = TiffSource(path)
        expected = array.copy()
        expected[40:80] = nodata
        np.testing.assert_array_equal(whole(source)[0, ..., 0], expected)
        assert source.missing_tiles == 1


@pytest.fixture
def spooled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[TiffSource, Array]:
    monkeypatch.setattr(tiff_segments, "CACHE_BYTES", 2000)
    monkeypatch.setattr(spool, "BAND_BYTES", 300_000)
    array = values(2, 1100, 1303, 2, dtype="uint16")
    options = {"photometric": "minisblack", "planarconfig": "contig", "rowsperstrip": 601}
    return opened(tmp_path, array, compression="zstd", **options), array


@given(data=st.data())
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
def test_any_region_of_a_copied_image(spooled: tuple[TiffSource, Array], data: st.DataObject) -> None:
    source, array = spooled
    y, x = data.draw(st.integers(0, 1099)), data.draw(st.integers(0, 1302))
    region = Region(y, x, data.draw(st.integers(1, 1100 - y)), data.draw(st.integers(1, 1303 - x)))
    plane = data.draw(st.integers(0, 1))
    np.testing.assert_array_equal(source.read(region, plane), array[(plane, *region.slices)])


@pytest.mark.usefixtures("giant")
@pytest.mark.parametrize("compression", ["zlib", "zstd", "lzma"])
def test_a_giant_strip_that_ends_early_is_truncated(tmp_path: Path, compression: str) -> None:
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, values(50, 400), compression=compression, extratags=[(257, 3, 1, 50, True)])
    with tifffile.TiffFile(path, mode="r+") as file:
        for code, value in ((257, 55), (278, 55)):
            file.pages[0].tags[code].overwrite(value)
    source = TiffSource(path)
    with pytest.raises(InputError, match=r"image\.tif: truncated or damaged TIFF \(.*ends at row 50 of 55"):
        source.read(Region(0, 0, 10, 10))


@pytest.mark.usefixtures("giant")
@pytest.mark.parametrize(("compression", "place"), [("zlib", 300), ("zstd", 0), ("lzma", 300)])  # zstd has no checksum here
def test_a_damaged_giant_strip(tmp_path: Path, compression: str, place: int) -> None:
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, values(50, 400), compression=compression)
    with tifffile.TiffFile(path) as file:
        start = file.pages[0].dataoffsets[0]
    content = bytearray(path.read_bytes())
    content[start + place : start + place + 600] = bytes(600)
    path.write_bytes(content)
    source = TiffSource(path)
    with pytest.raises(InputError, match=r"image\.tif: truncated or damaged TIFF"):
        source.read(source.spec.region)


@pytest.mark.usefixtures("giant")
@pytest.mark.parametrize(("side", "place"), [(1024, 0.4), (1040, 1)], ids=["too many bytes", "rows beyond the image"])
def test_the_checksum_behind_the_last_row_is_looked_at(tmp_path: Path, side: int, place: float) -> None:
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, values(1024, side, dtype="uint8", top=2), compression="zlib", tile=(side, side))
    with tifffile.TiffFile(path) as file:
        start, size = file.pages[0].dataoffsets[0], file.pages[0].databytecounts[0]
    content = bytearray(path.read_bytes())
    content[start + int(place * (size - 1))] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="incorrect data check"):
        TiffSource(path).read(Region(0, 0, 10, 10))


def test_what_cannot_be_decoded_in_parts_has_a_limit(tmp_path: Path) -> None:
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, values(8, 8), compression="lzw")
    with tifffile.TiffFile(path, mode="r+") as file:
        for code in (256, 257, 278):
            file.pages[0].tags[code].overwrite(40_000)
    with pytest.raises(InputError, match=r"image\.tif: one tile or strip decodes to 1\.6 GB.*tiled TIFF"):
        TiffSource(path)


def test_zstd_without_its_library_is_decoded_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "_zstd", lambda: None)
    monkeypatch.setattr(tiff_segments, "CACHE_BYTES", 2000)
    array = values(90, 71)
    source = opened(tmp_path, array, compression="zstd")
    assert source._pictures[0].levels[0].grid.giant and not source._pictures[0].levels[0].grid.streamed
    np.testing.assert_array_equal(whole(source)[0, ..., 0], array)


@pytest.mark.parametrize("frames", [1, 3])
def test_zstd_streams_of_several_frames(frames: int) -> None:
    import imagecodecs

    data = values(300_000).tobytes() + bytes(5_000_000)
    packed = b"".join(bytes(imagecodecs.zstd_encode(data)) for _ in range(frames))
    pieces = list(streams.unzstd(packed[i : i + 999] for i in range(0, len(packed), 999)))
    assert b"".join(pieces) == data * frames
    assert max(len(piece) for piece in pieces) <= streams.PIECE


# ---------------------------------------------------------------------------------------------------------- wide strips


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of 4 kB, and bands that are several strips, but not a whole number of them."""
    monkeypatch.setattr(tiff_segments, "CACHE_BYTES", 4000)
    monkeypatch.setattr(spool, "BAND_BYTES", 2500)


WIDE_STRIPS = {
    "lzw": {"compression": "lzw", "rowsperstrip": 3, "predictor": True},
    "zlib, turned": {"compression": "zlib", "rowsperstrip": 1, "extratags": [(274, 3, 1, 8, True)]},
    "zstd, planar": {"compression": "zstd", "rowsperstrip": 7, "planarconfig": "separate"},
    "one row of pixels a band": {"compression": "zlib", "rowsperstrip": 10},
}


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("options", WIDE_STRIPS.values(), ids=WIDE_STRIPS)
@given(data=st.data())
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
def test_any_regions_of_wide_strips(tmp_path: Path, options: dict[str, Any], data: st.DataObject) -> None:
    array = values(2, 75, 131, 3)
    stored = np.moveaxis(array, -1, 1) if "planarconfig" in options else array
    source = opened(tmp_path, stored, photometric="rgb", **options)
    expected = np.rot90(array, 1, (1, 2)) if "extratags" in options else array
    height, width = expected.shape[1:3]
    assert source.spec.remarks == (WIDE,) == ("stored in wide strips: copied once to a scratch file",)
    for _ in range(data.draw(st.integers(1, 4))):
        y, x = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
        region = Region(y, x, data.draw(st.integers(1, height - y)), data.draw(st.integers(1, width - x)))
        plane = data.draw(st.integers(0, 1))
        np.testing.assert_array_equal(source.read(region, plane), expected[(plane, *region.slices)])
    np.testing.assert_array_equal(whole(source), expected)
    grid = source._pictures[0].levels[0].grid
    assert grid.wide and not grid.giant and source.decoded_segments == 2 * grid.count
    source.close()


@pytest.mark.usefixtures("narrow")
def test_only_the_strips_of_a_region_and_their_band_are_copied(tmp_path: Path) -> None:
    array = values(90, 100)
    source = opened(tmp_path, array, compression="zlib", rowsperstrip=5)
    np.testing.assert_array_equal(source.read(Region(50, 20, 10, 10))[..., 0], array[50:60, 20:30])
    assert source.decoded_segments == 5  # 2500 bytes: rows 50 to 74
    source.read(Region(50, 60, 20, 40))
    assert source.decoded_segments == 5


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize(
    ("shape", "options", "wide"),
    [
        ((100, 39), {"rowsperstrip": 8, "compression": "zlib"}, False),
        ((100, 41), {"rowsperstrip": 8, "compression": "zlib"}, True),
        ((100, 41), {"rowsperstrip": 8}, False),
        ((100, 60), {"tile": (16, 64), "compression": "zlib"}, False),
        ((3, 100, 39), {"rowsperstrip": 8, "compression": "zlib", "metadata": {"axes": "ZYX"}}, False),
        ((3, 100, 39), {"rowsperstrip": 8, "compression": "zlib", "metadata": {"axes": "CYX"}}, True),
        ((3, 100, 39), {"rowsperstrip": 8, "compression": "zlib", "planarconfig": "separate"}, True),
    ],
)
def test_strips_are_wide_when_the_cache_cannot_hold_those_of_a_window(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], options: dict[str, Any], wide: bool
) -> None:
    array, photometric = values(*shape), "rgb" if "planarconfig" in options else "minisblack"
    source = opened(tmp_path, array, photometric=photometric, **options)
    assert (source.spec.remarks == (WIDE,)) == wide
    np.testing.assert_array_equal(
        whole(source).ravel(), (np.moveaxis(array, 0, -1) if source.spec.channels > 1 else array).ravel()
    )
    monkeypatch.setattr(tiff_segments, "WINDOW_ROWS", 20)
    assert TiffSource(tmp_path / "image.tif").spec.notes == ()


@pytest.mark.usefixtures("narrow")
def test_missing_and_damaged_wide_strips(tmp_path: Path) -> None:
    array, path = values(90, 71) + 1, tmp_path / "image.tif"
    tifffile.imwrite(path, array, compression="zlib", rowsperstrip=8, extratags=[(42113, 2, 0, "7", True)])
    with tifffile.TiffFile(path, mode="r+") as file:
        page = file.pages[0]
        start = page.dataoffsets[11]
        for code, table in ((273, page.dataoffsets), (279, page.databytecounts)):
            page.tags[code].overwrite([0 if i == 1 else value for i, value in enumerate(table)])
    content = bytearray(path.read_bytes())
    content[start + 10 : start + 40] = bytes(30)
    path.write_bytes(content)
    source = TiffSource(path)
    array[8:16] = 7
    np.testing.assert_array_equal(source.read(Region(0, 0, 24, 71))[..., 0], array[:24])
    for _ in range(2):
        with pytest.raises(InputError, match=r"image\.tif: truncated or damaged TIFF"):
            source.read(Region(86, 0, 4, 71))
    np.testing.assert_array_equal(source.read(Region(0, 0, 64, 71))[..., 0], array[:64])
    assert source.missing_tiles == 1


# ----------------------------------------------------------------------------------------------------------- the copies

COPIED = {"photometric": "minisblack", "compression": "zlib"}


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("rows", [5, 90], ids=["wide strips", "giant strip"])
def test_copies_of_pages_read_before_are_given_up(tmp_path: Path, rows: int) -> None:
    array = values(7, 90, 71)
    source = opened(tmp_path, array, rowsperstrip=rows, **COPIED)
    copies = source._pictures[0].levels[0]._spool._copies
    source.read(source.spec.region, 0)
    first = copies[0, 0]
    for plane in (*range(7), 0, 6, 0):
        np.testing.assert_array_equal(source.read(source.spec.region, plane)[..., 0], array[plane])
        assert len(copies) <= 2
    assert list(copies) == [(6, 0), (0, 0)] and first.pixels._file.closed
    left = [item.pixels._file for item in copies.values()]
    source.close()
    assert not copies and all(file.closed for file in left)


@pytest.mark.usefixtures("narrow")
def test_a_copy_that_is_read_is_not_given_up(tmp_path: Path) -> None:
    array = values(5, 90, 71)
    source = opened(tmp_path, array, rowsperstrip=5, **COPIED)
    source.read(source.spec.region, 0)
    copies = source._pictures[0].levels[0]._spool
    with copies._used(0, 0) as copied:
        for plane in range(1, 5):
            source.read(source.spec.region, plane)
        np.testing.assert_array_equal(copied.pixels.read(Region(0, 0, 90, 71))[..., 0], array[0])
    assert list(copies._copies) == [(0, 0), (4, 0)]
    source.read(source.spec.region, 3)
    assert copied.pixels._file.closed and list(copies._copies) == [(4, 0), (3, 0)]


def no_room_for_the_file(patch: pytest.MonkeyPatch) -> None:
    class Full(io.FileIO):
        def truncate(self, size: int | None = None) -> int:
            raise OSError(errno.EFBIG, "no room")

    def make(**options: Any) -> io.FileIO:
        with tempfile.NamedTemporaryFile() as file:
            return Full(os.dup(file.fileno()), "r+")

    patch.setattr(scratch.tempfile, "TemporaryFile", make)


def no_room_for_the_pixels(patch: pytest.MonkeyPatch) -> None:
    write, room = os.pwrite, [3]

    def refuse(*arguments: Any) -> int:
        room[0] -= 1
        if room[0] < 0:
            raise OSError(errno.ENOSPC, "no room")
        return write(*arguments)

    patch.setattr(os, "pwrite", refuse)


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("fault", [no_room_for_the_file, no_room_for_the_pixels])
@pytest.mark.parametrize("rows", [5, 90], ids=["wide strips", "giant strip"])
def test_a_full_disk_is_one_line_and_the_next_read_tries_again(tmp_path: Path, rows: int, fault: Any) -> None:
    array = values(90, 171)
    source = opened(tmp_path, array, rowsperstrip=rows, **COPIED)
    for _ in range(2):
        with pytest.MonkeyPatch.context() as patch:
            fault(patch)
            with pytest.raises(OutputError, match=r"^\S+: cannot be written: no room; choose another place \(TMPDIR\)$"):
                source.read(source.spec.region)
    np.testing.assert_array_equal(source.read(source.spec.region)[..., 0], array)


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("rows", [5, 90], ids=["wide strips", "giant strip"])
def test_threads_that_read_first_copy_once(tmp_path: Path, rows: int) -> None:
    array, wrong = values(2, 90, 71), []
    source = opened(tmp_path, array, rowsperstrip=rows, **COPIED)
    together, load = threading.Barrier(6), source._file.read
    source._file.read = lambda *place: time.sleep(0.002) or load(*place)  # type: ignore[func-returns-value,method-assign]

    def read(number: int) -> None:
        together.wait(20)
        for y in (0, 40, 20, 60):
            region = Region(y, number, 30, 60)
            if not np.array_equal(source.read(region, number % 2)[..., 0], array[number % 2][region.slices]):
                wrong.append(number)

    threads = [threading.Thread(target=read, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and source.decoded_segments == 2 * source._pictures[0].levels[0].grid.count


# ------------------------------------------------------------------------------------------------------ several threads


@pytest.mark.parametrize("options", [{"tile": (64, 64)}, {"rowsperstrip": 16}], ids=["tiles", "wide strips"])
def test_segments_are_decoded_by_several_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    array = values(256, 256, 3)
    monkeypatch.setattr(tiff_segments, "CACHE_BYTES", 100_000)
    source = opened(tmp_path, array, compression="zlib", photometric="rgb", **options)
    assert (source.spec.remarks == (WIDE,)) == ("rowsperstrip" in options)
    monkeypatch.setattr(tiff_segments, "available_cores", lambda: 3)
    page, names, meeting = source._pictures[0].levels[0]._page, set(), threading.Barrier(3)
    decode = page.decode

    def slow(*args: Any, **options: Any) -> Any:
        if len(names) < 3:
            names.add(threading.current_thread().name)
            meeting.wait(20)
        return decode(*args, **options)

    page.__dict__["decode"] = slow
    np.testing.assert_array_equal(source.read(source.spec.region), array)
    assert len(names) == 3 and source.decoded_segments == 16


def test_a_segment_that_two_threads_want_is_decoded_once(tmp_path: Path) -> None:
    array = values(64, 64)
    source = opened(tmp_path, array, tile=(64, 64), compression="zlib")
    page, wrong, begun = source._pictures[0].levels[0]._page, [], threading.Event()
    decode = page.decode

    def slow(*args: Any, **options: Any) -> Any:
        begun.wait(10)
        time.sleep(0.05)
        return decode(*args, **options)

    page.__dict__["decode"] = slow

    def read() -> None:
        if not np.array_equal(source.read(source.spec.region)[..., 0], array):
            wrong.append(1)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    begun.set()
    for thread in threads:
        thread.join()
    assert not wrong and source.decoded_segments == 1


def test_an_error_reaches_every_thread_that_waits_and_the_next_try(tmp_path: Path) -> None:
    cache, tries = tiff_segments.SegmentCache(), []
    begun, go = threading.Event(), threading.Event()

    def fail() -> Array:
        begun.set()
        go.wait(10)
        raise ValueError("damaged")

    def get(make: Any) -> None:
        try:
            tries.append(cache.get((1,), make))
        except ValueError as error:
            tries.append(str(error))

    first = threading.Thread(target=get, args=(fail,))
    first.start()
    begun.wait(10)
    second = threading.Thread(target=get, args=(fail,))
    second.start()
    go.set()
    first.join()
    second.join()
    assert tries == ["damaged", "damaged"]
    get(lambda: np.ones(1))
    assert tries[2] == 1


def test_the_cache_keeps_what_was_used_last_up_to_its_limit() -> None:
    cache, made = tiff_segments.SegmentCache(1000), []

    def get(key: int, size: int) -> None:
        cache.get((key,), lambda: made.append(key) or np.zeros(size, np.uint8))

    for key, size in ((1, 400), (2, 400), (1, 400), (3, 400), (1, 400), (2, 400), (4, 2000), (4, 2000), (1, 400)):
        get(key, size)
    assert made == [1, 2, 3, 2, 4, 1]


# ------------------------------------------------------------------------------------------------------------- slides


def bigtiff(path: Path, side: int, tags: dict[int, tuple[int, int, int]], data: bytes = b"", size: int = 0) -> None:
    """A BigTIFF of one page, ``side`` pixels square; ``tags``: type, count, value. ``data`` follows the directory."""
    base = {256: (4, 1, side), 257: (4, 1, side), 258: (3, 1, 8), 259: (3, 1, 1), 262: (3, 1, 1), 277: (3, 1, 1)}
    entries = sorted((base | tags).items())
    out = struct.pack("<2sHHHQQ", b"II", 43, 8, 0, 16, len(entries))
    out += b"".join(struct.pack("<HHQQ", code, *entry) for code, entry in entries) + bytes(8)
    with path.open("wb") as file:
        file.write(out.ljust(1024, b"\0") + data)
        file.truncate(max(size, 1024 + len(data)))


def strip(rows: int, compression: int, length: int) -> dict[int, tuple[int, int, int]]:
    """The tags of one strip with ``length`` bytes, stored where :func:`bigtiff` puts its data."""
    return {257: (4, 1, rows), 278: (4, 1, rows), 259: (3, 1, compression), 273: (16, 1, 1024), 279: (16, 1, length)}


def child(code: str, *words: object) -> dict[str, Any]:
    """What a fresh process prints as JSON; ``peak()`` gives the bytes that it has taken since ``start()``."""
    head = (
        "import json, resource, sys, time; from pathlib import Path; import numpy, tifffile, imagecodecs\n"
        "from i2i.formats import open_image; from i2i.geometry import Region; from i2i.errors import InputError\n"
        "def high(): return int(next(x for x in open('/proc/self/status') if x.startswith('VmHWM')).split()[1]) * 1024\n"
        "base = high()\n"
    )
    environment = os.environ | {"OMP_NUM_THREADS": "2"}
    run = subprocess.run(
        [sys.executable, "-c", head + code, *map(str, words)],
        capture_output=True, text=True, check=False, cwd=REPOSITORY, env=environment, timeout=120,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    return dict(json.loads(run.stdout))


needs_linux = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is measured through /proc")


@needs_linux
def test_a_slide_of_30_gigabytes_opens_at_once(tmp_path: Path) -> None:
    side, tile = 196 * 512, 512
    count, length = 196 * 196, 512 * 512 * 3
    first = 1024 + 16 * count
    table = (first + np.arange(count, dtype="<u8") * length).tobytes() + np.full(count, length, "<u8").tobytes()
    tags = {
        258: (3, 3, 8 | 8 << 16 | 8 << 32), 262: (3, 1, 2), 277: (3, 1, 3), 322: (4, 1, tile), 323: (4, 1, tile),
        324: (16, count, 1024), 325: (16, count, 1024 + 8 * count),
    }  # fmt: skip
    path = tmp_path / "slide.tif"
    bigtiff(path, side, tags, table, first + count * length)
    with path.open("r+b") as file:
        file.seek(first + (97 * 196 + 97) * length)
        file.write(b"\x07" * length)
    assert path.stat().st_size > 30e9
    code = (
        "start = time.process_time()\n"
        "source = open_image(Path(sys.argv[1]))\n"
        "pixels = source.read(Region(97 * 512 - 500, 97 * 512 - 500, 2048, 2048))\n"
        "took = time.process_time() - start\n"
        "found = {'took': took, 'memory': high() - base, 'sum': int(pixels.sum(dtype='i8')), 'shape': pixels.shape}\n"
        "print(json.dumps(found | {'tiling': source.spec.tiling}))"
    )
    found = child(code, path)
    assert found["shape"] == [2048, 2048, 3] and found["sum"] == 7 * length and found["tiling"] == [512, 512]
    assert found["took"] < 2 and found["memory"] < 150e6, found


GIANT = """
start = time.process_time()
source = open_image(Path(sys.argv[1]))
try:
    pixels = source.read(Region(9000, 3000, 1000, 1000))
    result = {"sum": int(pixels.sum(dtype="i8"))}
except InputError as error:
    result = {"error": str(error)}
import os
used = 0
for name in os.listdir("/proc/self/fd"):
    try:
        if "(deleted)" in os.readlink("/proc/self/fd/" + name): used += os.stat("/proc/self/fd/" + name).st_blocks * 512
    except OSError: pass
print(json.dumps(result | {"memory": high() - base, "took": time.process_time() - start, "disk": used}))
"""


@needs_linux
@pytest.mark.parametrize("compression", ["zlib", "zstd"])
def test_one_strip_of_250_megabytes_takes_little_memory(tmp_path: Path, compression: str) -> None:
    import imagecodecs

    band = np.tile(np.arange(250, dtype=np.uint8), (100, 100))
    if compression == "zlib":
        packer = zlib.compressobj(1)
        data = b"".join(packer.compress(band.tobytes()) for _ in range(100)) + packer.flush()
    else:
        data = b"".join(bytes(imagecodecs.zstd_encode(band.tobytes())) for _ in range(100))
    path = tmp_path / "strip.tif"
    bigtiff(path, 25_000, strip(10_000, {"zlib": 8, "zstd": 50000}[compression], len(data)), data)
    found = child(GIANT, path)
    assert found["sum"] == 1000 * 1000 * 124.5
    assert found["memory"] < 150e6, found


@needs_linux
@pytest.mark.parametrize("side", [10**6, 30_000])
@pytest.mark.parametrize("compression", [8, 50000, 34925, 1])
def test_a_tiny_file_that_claims_a_giant_strip_fails_fast(tmp_path: Path, compression: int, side: int) -> None:
    import imagecodecs

    plain = bytes(20_000_000)
    pack = {
        8: imagecodecs.zlib_encode,
        50000: imagecodecs.zstd_encode,
        34925: imagecodecs.lzma_encode,
        1: lambda data: data[:1000],
    }
    data = bytes(pack[compression](plain))
    path = tmp_path / "strip.tif"
    bigtiff(path, side, strip(side, compression, len(data)), data)
    code = GIANT.replace("source = open_image(Path(sys.argv[1]))\ntry:\n", "try:\n    source = open_image(Path(sys.argv[1]))\n")
    found = child(code, path)
    assert found["error"].startswith(str(path)) and ("truncated" in found["error"] or "fewer bytes" in found["error"])
    assert found["memory"] < 100e6 and found["disk"] < 1e6 and found["took"] < 10, found
