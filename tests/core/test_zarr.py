"""OME-Zarr: every region of every kind of array against the array, what is written against other readers, and faults."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import json
import lzma
import pickle
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import imagecodecs
import numcodecs
import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ome_zarr_models.v05 import Image
from zarr.codecs import GzipCodec, ZstdCodec

from i2i.contracts import ImageSpec, Metadata
from i2i.errors import InputError, OutputError
from i2i.formats import ArraySource, builtin_formats, detect, format_for_output, open_image, select, zarr_read
from i2i.formats.pyramid import halve, level_shapes
from i2i.formats.zarr_metadata import DTYPES
from i2i.formats.zarr_read import ZarrSource
from i2i.formats.zarr_store import check_chunk
from i2i.formats.zarr_write import COMPRESSIONS, write
from i2i.geometry import Region

METADATA = Metadata("image", {"model": "nuclei", "precision": "fp32"}, "0123abcd")


def values(*shape: int, dtype: str = "uint16", top: int = 200) -> np.ndarray:
    return np.random.default_rng(1).integers(0, top, shape).astype(dtype)


def whole(source: ZarrSource, level: int = 0) -> np.ndarray:
    """Every plane at one level: (planes, H, W, C)."""
    height, width = (source.spec.levels or ((source.spec.height, source.spec.width),))[level]
    region = Region(0, 0, height, width)
    return np.stack([source.read(region, plane, level) for plane in range(source.spec.plane_count)])


def planes_of(array: np.ndarray, axes: str) -> np.ndarray:
    """(planes, H, W, C) from an array with those axes."""
    if "c" not in axes:
        axes, array = axes + "c", array[..., np.newaxis]
    outer = [axis for axis in axes if axis not in "cyx"]
    array = array.transpose([axes.index(axis) for axis in (*outer, *"yxc")])
    return array.reshape(-1, *array.shape[-3:])


def ome_zarr(path: Path, arrays: list[np.ndarray], axes: str, version: int = 3, **options: object) -> Path:
    """An image as others write it: OME-Zarr 0.4 on Zarr 2, or 0.5 on Zarr 3."""
    group = zarr.create_group(path, zarr_format=version)
    for i, array in enumerate(arrays):
        names = {"dimension_names": list(axes)} if version == 3 else {}
        created = group.create_array(str(i), shape=array.shape, dtype=array.dtype, **{"chunks": array.shape} | options | names)
        created[...] = array
    space = {"type": "space", "unit": "micrometer"}
    kinds = {"t": {"type": "time"}, "c": {"type": "channel"}}
    multiscale = {
        "axes": [{"name": axis, **kinds.get(axis, space)} for axis in axes],
        "datasets": [
            {"path": str(i), "coordinateTransformations": [{"type": "scale", "scale": [0.5 * 2**i] * len(axes)}]}
            for i in range(len(arrays))
        ],
    }
    ome = {"multiscales": [multiscale | ({"version": "0.4"} if version == 2 else {})]}
    group.update_attributes(ome if version == 2 else {"ome": {"version": "0.5", **ome}})
    return path


def edit(path: Path, **changes: object) -> None:
    """Change top-level values of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# ------------------------------------------------------------------------------------------------------------- reading


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_region_of_any_array(tmp_path: Path, data: st.DataObject) -> None:
    outer = data.draw(st.lists(st.sampled_from("tzc"), unique=True))
    axes = "".join([*outer, *data.draw(st.permutations("yx"))] if data.draw(st.booleans()) else ["y", "x", *outer])
    shape = [data.draw(st.integers(1, 40 if axis in "yx" else 3)) for axis in axes]
    chunks = tuple(data.draw(st.integers(1, size)) for size in shape)
    version = data.draw(st.sampled_from([2, 3]))
    shards = tuple(2 * chunk for chunk in chunks) if version == 3 and data.draw(st.booleans()) else None
    arrays = [values(*shape), values(*(-(-n // 2) if axis in "yx" else n for n, axis in zip(shape, axes, strict=True)))]
    small = tuple(min(pair) for pair in zip(chunks, arrays[1].shape, strict=True))
    sharded = {} if shards is None else {"shards": shards}
    path = ome_zarr(tmp_path / str(uuid4()), arrays, axes, version, chunks=chunks if shards else small, **sharded)
    source = ZarrSource(path)
    expected = [planes_of(array, axes) for array in arrays]
    for _ in range(4):
        level, plane = data.draw(st.integers(0, 1)), data.draw(st.integers(0, len(expected[0]) - 1))
        height, width = source.spec.levels[level]
        y, x = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
        region = Region(y, x, data.draw(st.integers(1, height - y)), data.draw(st.integers(1, width - x)))
        np.testing.assert_array_equal(source.read(region, plane, level), expected[level][plane][region.slices])
    assert source.spec.levels == tuple(item.shape[1:3] for item in expected)
    assert source.spec.plane_count == len(expected[0]) and source.spec.channels == expected[0].shape[-1]


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype(tmp_path: Path, dtype: str, version: int) -> None:
    array = values(20, 30, dtype=dtype, top=2)
    source = open_image(ome_zarr(tmp_path / "x.zarr", [array], "yx", version))
    expected = array.astype("uint8") * 255 if dtype == "bool" else array
    assert source.spec.dtype == expected.dtype.name
    np.testing.assert_array_equal(whole(source)[0, ..., 0], expected)


def test_what_the_specification_calls_an_image(tmp_path: Path) -> None:
    path = ome_zarr(tmp_path / "x.zarr", [values(2, 3, 4, 30, 50), values(2, 3, 4, 15, 25)], "tczyx", chunks=(1, 1, 1, 16, 20))
    ome = json.loads((path / "zarr.json").read_text())["attributes"]["ome"]
    edit(path / "zarr.json", attributes={"ome": ome | {"omero": {"channels": [{"label": name} for name in "abc"]}}})
    spec = ImageSpec(
        30, 50, 3, "uint16", (0.5, 0.5), ("a", "b", "c"), (("t", 2), ("z", 4)), ((30, 50), (15, 25)), tiling=(16, 20),
        rgb=False, steps=(("z", 0.5),),
    )  # fmt: skip
    assert open_image(path).spec == spec


@pytest.mark.parametrize(
    ("unit", "factor"),
    [("micrometer", 1), ("µm", 1), ("nanometer", 1e-3), ("nm", 1e-3), ("millimeter", 1e3), ("parsec", None), (None, None)],
)
def test_units(tmp_path: Path, unit: str | None, factor: float | None) -> None:
    path = ome_zarr(tmp_path / "x.zarr", [values(20, 30)], "yx", 2)
    attributes = json.loads((path / ".zattrs").read_text())
    entry = attributes["multiscales"][0]
    for axis in entry["axes"]:
        del axis["unit"]
        axis |= {"unit": unit} if unit else {}
    entry["coordinateTransformations"] = [{"type": "scale", "scale": [2, 3]}]
    (path / ".zattrs").write_text(json.dumps(attributes))
    size = open_image(path).spec.pixel_size
    assert size is None if factor is None else size == pytest.approx((1.0 * factor, 1.5 * factor))


@pytest.mark.parametrize(
    ("shape", "channels", "names"), [((20, 30), 1, "y, x"), ((20, 30, 3), 3, "y, x, c"), ((4, 20, 30), 4, "c, y, x")]
)
def test_a_plain_array_and_what_is_guessed_of_it(tmp_path: Path, shape: tuple[int, ...], channels: int, names: str) -> None:
    array = values(*shape)
    zarr.create_array(tmp_path / "x.zarr", data=array, zarr_format=2)
    source = open_image(tmp_path / "x.zarr")
    assert (source.spec.channels, source.spec.notes) == (channels, (f"its axes have no names: read as {names}",))
    np.testing.assert_array_equal(whole(source), planes_of(array, names.replace(", ", "")))


def test_a_plain_array_that_names_its_axes(tmp_path: Path) -> None:
    array = values(9, 20, 30)
    zarr.create_array(tmp_path / "x.zarr", data=array, dimension_names=("z", "y", "x"))
    source = open_image(tmp_path / "x.zarr")
    assert (source.spec.planes, source.spec.notes) == ((("z", 9),), ())
    np.testing.assert_array_equal(whole(source)[..., 0], array)


def test_axes_as_old_versions_name_them(tmp_path: Path) -> None:
    array = values(2, 1, 3, 20, 30)
    path = ome_zarr(tmp_path / "x.zarr", [array], "tczyx", 2)
    attributes = json.loads((path / ".zattrs").read_text())
    attributes["multiscales"][0]["axes"] = list("tczyx")
    (path / ".zattrs").write_text(json.dumps(attributes))
    assert (open_image(path).spec.planes, open_image(path).spec.notes) == ((("t", 2), ("z", 3)), ())
    del attributes["multiscales"][0]["axes"]
    (path / ".zattrs").write_text(json.dumps(attributes))
    assert open_image(path).spec.notes == ("its axes have no names: read as t, c, z, y, x",)


def series(path: Path, *shapes: tuple[int, int]) -> Path:
    """A folder of images as bioformats2raw writes it."""
    zarr.create_group(path, zarr_format=2, attributes={"bioformats2raw.layout": 3})
    for i, shape in enumerate(shapes):
        ome_zarr(path / str(i), [values(*shape) + np.uint16(i)], "yx", 2)
    return path


def test_equal_images_are_planes(tmp_path: Path) -> None:
    source = open_image(series(tmp_path / "x.zarr", (20, 30), (20, 30)))
    assert (source.spec.planes, source.spec.notes) == ((("series", 2),), ())
    np.testing.assert_array_equal(whole(source)[1], whole(source)[0] + 1)


def test_a_list_of_images_cannot_point_outside(tmp_path: Path) -> None:
    series(tmp_path / "other", (20, 30))
    path = series(tmp_path / "x.zarr", (20, 30))
    for place in ("../other/0", str(tmp_path / "other/0")):
        zarr.create_group(path / "OME", zarr_format=2, attributes={"series": [place]}, overwrite=True)
        assert "outside" in refused(path)


def test_of_different_images_the_first_is_read(tmp_path: Path) -> None:
    source = open_image(series(tmp_path / "x.zarr", (20, 30), (10, 15), (5, 5)))
    assert (source.spec.height, source.spec.planes) == (20, ())
    assert source.spec.notes == ("2 more image(s) in the file: only the first is read",)
    assert whole(source).shape == (1, 20, 30, 1)


def test_resolutions_that_are_missing_or_do_not_match_are_left_out(tmp_path: Path) -> None:
    path = ome_zarr(tmp_path / "x.zarr", [values(4, 20, 30), values(4, 10, 15), values(2, 5, 8)], "zyx")
    spec = open_image(path).spec
    assert spec.levels == ((20, 30), (10, 15))
    assert spec.notes == ("1 resolution(s) that do not match the first are left out",)


def test_missing_chunks_are_the_fill_value(tmp_path: Path) -> None:
    path = ome_zarr(tmp_path / "x.zarr", [np.full((20, 30), 9, "uint8")], "yx", chunks=(10, 30), fill_value=4)
    (path / "0/c/1/0").unlink()
    pixels = whole(open_image(path))[0, ..., 0]
    assert (pixels[:10] == 9).all() and (pixels[10:] == 4).all()


def test_only_the_chunks_of_the_region_are_touched(tmp_path: Path) -> None:
    array = values(3, 64, 64)
    path = ome_zarr(tmp_path / "x.zarr", [array], "cyx", chunks=(1, 16, 16))
    for chunk in (path / "0/c").glob("*/*/*"):
        if chunk.parts[-2:] != ("1", "2"):
            chunk.write_bytes(b"damaged")
    source = open_image(path)
    np.testing.assert_array_equal(source.read(Region(16, 32, 16, 16)), planes_of(array, "cyx")[0][16:32, 32:48])
    with pytest.raises(InputError):
        source.read(Region(15, 32, 16, 16))


def test_only_the_chunks_of_chosen_channels_are_touched(tmp_path: Path) -> None:
    array = values(5, 20, 30)
    path = ome_zarr(tmp_path / "x.zarr", [array], "cyx", chunks=(2, 20, 30))
    (path / "0/c/0/0/0").write_bytes(b"damaged")
    source = select(open_image(path), 0, None, "4,2,3,2", path)
    np.testing.assert_array_equal(source.read(source.spec.region), np.moveaxis(array[[4, 2, 3, 2]], 0, -1))
    with pytest.raises(InputError):
        select(open_image(path), 0, None, "4,1", path).read(source.spec.region)


def test_threads_read_what_one_reads(tmp_path: Path) -> None:
    array = values(300, 400)
    source = open_image(ome_zarr(tmp_path / "x.zarr", [array], "yx", chunks=(32, 48)))
    regions = [Region(y, x, 100, 100) for y in range(0, 201, 20) for x in range(0, 301, 20)]
    with ThreadPoolExecutor(8) as workers:
        for region, pixels in zip(regions, workers.map(source.read, regions), strict=True):
            np.testing.assert_array_equal(pixels[..., 0], array[region.slices])


def test_a_region_outside_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not inside"):
        open_image(ome_zarr(tmp_path / "x.zarr", [values(20, 30)], "yx")).read(Region(0, 0, 21, 30))


# -------------------------------------------------------------------------------------------------------------- faults


def refused(path: Path) -> str:
    """The one line that says why an image cannot be opened, or its pixels not be read."""
    with pytest.raises(InputError) as caught:
        whole(open_image(path))
    line = str(caught.value)
    assert line.startswith(str(path)) and "\n" not in line and len(line) < 160 + 2 * len(str(path))
    return line


def test_plates_and_wells_name_a_field(tmp_path: Path) -> None:
    path = tmp_path / "x.zarr"
    zarr.create_group(path, attributes={"ome": {"plate": {"wells": [{"path": "B/3"}]}}})
    zarr.create_group(path / "B/3", attributes={"ome": {"well": {"images": [{"path": "2"}]}}})
    ome_zarr(path / "B/3/2", [values(20, 30)], "yx")
    for place, field in ((path, "B/3/2"), (path / "B/3", "2")):
        assert f"one: {field} in it" in refused(place)
    assert open_image(path / "B/3/2").spec.height == 20
    edit(path / "zarr.json", attributes={"ome": {"plate": {}}})
    assert "one: " in refused(path)


def test_a_group_names_what_is_in_it(tmp_path: Path) -> None:
    zarr.create_group(tmp_path / "x.zarr")
    assert "no OME-Zarr image; get a good copy" in refused(tmp_path / "x.zarr")
    zarr.create_array(tmp_path / "x.zarr/raw", data=values(20, 30))
    assert refused(tmp_path / "x.zarr").endswith(f"name an image in it, such as {tmp_path}/x.zarr/raw")


def test_folders_that_are_no_zarr(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a folder without an image .* name a file in it"):
        detect(tmp_path, builtin_formats())
    (tmp_path / "x.zarr").write_bytes(b"")
    with pytest.raises(InputError, match="empty"):
        detect(tmp_path / "x.zarr", builtin_formats())


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "null", '{"a": ' * 100_000, "\0", '{"multiscales": 3}', '{"multiscales": [{}]}']
)
def test_damaged_json(tmp_path: Path, content: str) -> None:
    for version, name in ((2, ".zattrs"), (3, "zarr.json")):
        path = ome_zarr(tmp_path / f"{version}.zarr", [values(20, 30)], "yx", version)
        (path / name).write_text(content)
        refused(path)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"data_type": "string"}, "no pixels"),
        ({"data_type": {"name": "numpy.datetime64", "configuration": {}}}, "no pixels"),
        ({"data_type": "complex64"}, "no pixels"),
        ({"codecs": [{"name": "bytes"}, {"name": "nonsense"}]}, "codec 'nonsense' is not supported"),
        ({"codecs": 5}, "damaged"),
        ({"codecs": []}, "damaged"),
        ({"shape": [20, 0]}, "0 pixels"),
        ({"shape": [20]}, "damaged"),
        ({"shape": [2**70, 30]}, "more pixels than any disk holds"),
        ({"shape": [-20, 30]}, "damaged"),
        ({"shape": [2, 20, 30], "dimension_names": None}, "damaged"),
        ({"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [10**6, 10**6]}}}, "smaller chunks"),
        ({"chunk_grid": {"name": "odd", "configuration": {}}}, "damaged"),
        ({"node_type": "group"}, "no array"),
    ],
)
def test_damaged_arrays(tmp_path: Path, changes: dict[str, object], reason: str) -> None:
    path = ome_zarr(tmp_path / "x.zarr", [values(20, 30)], "yx")
    edit(path / "0/zarr.json", **changes)
    assert reason in refused(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"dtype": "|O", "filters": [{"id": "pickle"}]},
        {"dtype": "|O", "filters": [{"id": "vlen-utf8"}]},
        {"dtype": [["a", "<u2"]]},
        {"compressor": {"id": "pickle"}},
        {"filters": [{"id": "pickle"}]},
        {"compressor": {"id": "nonsense"}},
        {"compressor": "zstd"},
        {"dtype": "<f16"},
    ],
)
def test_what_could_run_code_is_refused(tmp_path: Path, changes: dict[str, object]) -> None:
    path, told = ome_zarr(tmp_path / "x.zarr", [values(20, 30)], "yx", 2), tmp_path / "told"
    edit(path / "0/.zarray", **changes)

    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (told,)  # type: ignore[return-value]

    (path / "0/0.0").write_bytes(pickle.dumps(Payload()))
    refused(path)
    assert not told.exists()


def test_codecs_inside_of_shards_are_checked(tmp_path: Path) -> None:
    path = ome_zarr(tmp_path / "x.zarr", [values(20, 30)], "yx", chunks=(10, 10), shards=(20, 30))
    codecs = json.loads((path / "0/zarr.json").read_text())["codecs"]
    codecs[0]["configuration"]["codecs"].append({"name": "nonsense"})
    edit(path / "0/zarr.json", codecs=codecs)
    assert "codec 'nonsense'" in refused(path)


@pytest.mark.parametrize("codec", ["none", "zstd", "gzip", "blosc", "crc32c"])
@pytest.mark.parametrize("damage", ["cut off", "empty", "reversed"])
def test_damaged_chunks(tmp_path: Path, codec: str, damage: str) -> None:
    from zarr.codecs import BloscCodec, Crc32cCodec, GzipCodec, ZstdCodec

    known = {"none": None, "zstd": ZstdCodec(), "gzip": GzipCodec(), "blosc": BloscCodec(), "crc32c": Crc32cCodec()}
    path = ome_zarr(tmp_path / "x.zarr", [values(20, 30)], "yx", compressors=known[codec])
    chunk = path / "0/c/0/0"
    data = chunk.read_bytes()
    chunk.write_bytes({"cut off": data[: len(data) // 2], "empty": b"", "reversed": data[::-1]}[damage])
    if (codec, damage) == ("none", "reversed"):  # plain values have nothing that says that they are wrong
        assert whole(open_image(path)).shape == (1, 20, 30, 1)
    else:
        assert "truncated or damaged Zarr" in refused(path)


def _zeros_of_unknown_size(data: bytes) -> bytes:
    """As many zeros as Zstandard, in a frame that does not say how many: blocks of a repeated byte."""
    sizes = [min(2**17, len(data) - start) for start in range(0, len(data), 2**17)]
    blocks = [(size << 3 | 2 | (number == len(sizes) - 1)).to_bytes(3, "little") + b"\0" for number, size in enumerate(sizes)]
    return b"\x28\xb5\x2f\xfd\0\x58" + b"".join(blocks)


PACKED = {
    "gzip": gzip.compress, "zlib": zlib.compress, "bz2": bz2.compress, "xz": lzma.compress,
    "two gzip": lambda data: gzip.compress(data[: len(data) // 2]) + gzip.compress(data[len(data) // 2 :]),
    "zstd": lambda data: bytes(imagecodecs.zstd_encode(data)), "zstd of unknown size": _zeros_of_unknown_size,
    "blosc": lambda data: bytes(numcodecs.Blosc().encode(data)),
}  # fmt: skip


@pytest.mark.parametrize("kind", PACKED)
def test_what_a_chunk_unpacks_to_is_known_before(kind: str) -> None:
    packed = PACKED[kind](bytes(3_000_000))
    check_chunk(packed, 3_000_000)
    with pytest.raises(ValueError, match="unpacks to more than"):
        check_chunk(packed, 2_999_999)
    for damaged in (packed[:5], packed[: len(packed) // 2], packed[:20] + b"\xff" * 20 + packed[40:]):
        check_chunk(damaged, 3_000_000)


@pytest.mark.parametrize(("version", "codec"), [(2, "zlib"), (2, "zstd"), (3, "gzip"), (3, "zstd")])
def test_a_chunk_that_would_fill_the_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int, codec: str
) -> None:
    made = numcodecs.get_codec({"id": codec}) if version == 2 else {"gzip": GzipCodec(), "zstd": ZstdCodec()}[codec]
    path = ome_zarr(tmp_path / "x.zarr", [values(20, 30)], "yx", version, compressors=made)
    (path / ("0/0.0" if version == 2 else "0/c/0/0")).write_bytes(PACKED[codec](bytes(3_000_000)))
    monkeypatch.setattr(zarr_read, "CHUNK_LIMIT", 2_000_000)
    source = ZarrSource(path)
    with pytest.raises(InputError, match=r"x\.zarr: .*a chunk unpacks to more than 0\.0 GB.*; get a good copy"):
        source.read(source.spec.region)


@pytest.mark.parametrize("codec", ["zlib", "lzma", "bz2", "lz4", "zstd"])
def test_codecs_of_zarr_2(tmp_path: Path, codec: str) -> None:
    import numcodecs

    array = values(20, 30)
    path = ome_zarr(tmp_path / "x.zarr", [array], "yx", 2, compressors=numcodecs.get_codec({"id": codec}))
    np.testing.assert_array_equal(whole(open_image(path))[0, ..., 0], array)
    chunk = path / "0/0/0" if (path / "0/0/0").exists() else path / "0/0.0"
    chunk.write_bytes(chunk.read_bytes()[:30] + b"\0" * 40)
    assert "truncated or damaged Zarr" in refused(path)


def test_a_chunk_that_is_too_large_is_refused_but_a_shard_is_not_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zarr_read, "CHUNK_LIMIT", 20_000)
    array = values(200, 300, dtype="uint8")
    path = ome_zarr(tmp_path / "x.zarr", [array], "yx", chunks=(100, 200))
    np.testing.assert_array_equal(whole(open_image(path))[0, ..., 0], array)
    edit(path / "0/zarr.json", chunk_grid={"name": "regular", "configuration": {"chunk_shape": [100, 201]}})
    assert "one chunk decodes to" in refused(path)
    path = ome_zarr(tmp_path / "y.zarr", [array], "yx", chunks=(100, 100), shards=(200, 300))
    np.testing.assert_array_equal(whole(open_image(path))[0, ..., 0], array)
    codecs = json.loads((path / "0/zarr.json").read_text())["codecs"]
    edit(path / "0/zarr.json", codecs=[*codecs, {"name": "crc32c"}])
    assert "one chunk decodes to" in refused(path)
    edit(path / "0/zarr.json", codecs=codecs, chunk_grid={"name": "regular", "configuration": {"chunk_shape": [10**6, 10**6]}})
    assert "one chunk decodes to" in refused(path)


def test_axes_that_are_no_pictures(tmp_path: Path) -> None:
    path = ome_zarr(tmp_path / "x.zarr", [values(20, 30)], "yx")
    ome = json.loads((path / "zarr.json").read_text())["attributes"]["ome"]
    for axes in ("ab", "yy", "zyx"):
        ome["multiscales"][0]["axes"] = [{"name": axis} for axis in axes]
        edit(path / "zarr.json", attributes={"ome": ome})
        assert "axes" in refused(path)
    zarr.create_array(tmp_path / "y.zarr", data=values(7, 20, 30))
    assert "7 x 20 x 30 whose axes have no names" in refused(tmp_path / "y.zarr")


def test_metadata_cannot_point_outside(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "other", data=values(20, 30))
    path = ome_zarr(tmp_path / "x.zarr", [values(20, 30)], "yx")
    ome = json.loads((path / "zarr.json").read_text())["attributes"]["ome"]
    for place in ("../other", str(tmp_path / "other")):
        ome["multiscales"][0]["datasets"][0]["path"] = place
        edit(path / "zarr.json", attributes={"ome": ome})
        assert "outside" in refused(path)


# ------------------------------------------------------------------------------------------------------------- writing


def written(path: Path, array: np.ndarray, metadata: Metadata = METADATA, **fields: object) -> Path:
    write(path, ArraySource(array, **fields), metadata)
    return path


class Planes:
    """Planes (N, H, W, C) as a source."""

    def __init__(self, pixels: np.ndarray, planes: tuple[tuple[str, int], ...], **fields: object) -> None:
        self._pixels = pixels
        self.spec = ImageSpec(*pixels.shape[1:], pixels.dtype.name, planes=planes, **fields)

    def read(self, region: Region, plane: int = 0, level: int = 0) -> np.ndarray:
        return self._pixels[plane][region.slices]

    def close(self) -> None:
        """Nothing is open."""


@pytest.mark.parametrize("meaning", ["image", "labels"])
def test_other_readers_find_every_level_and_the_pixel_size(tmp_path: Path, meaning: str) -> None:
    array = values(4103, 1500, 2, dtype="uint8")
    fields = {"pixel_size": (0.5, 0.25), "channel_names": ("DAPI", "GFP")}
    path = written(tmp_path / "x.ome.zarr", array, Metadata(meaning, {}, "ab"), **fields)
    group = zarr.open_group(path, mode="r")
    image = Image.from_zarr(group)
    multiscale = image.ome_attributes.multiscales[0]
    assert [axis.name for axis in multiscale.axes] == ["c", "y", "x"]
    assert {axis.unit for axis in multiscale.axes if axis.type == "space"} == {"micrometer"}
    shapes, expected = level_shapes(4103, 1500), array
    assert len(multiscale.datasets) == len(shapes) == 5
    for k, dataset in enumerate(multiscale.datasets):
        found = group[dataset.path]
        assert found.chunks == (1, 1024, 1024) and found.shape == (2, *shapes[k])
        np.testing.assert_array_equal(np.moveaxis(found[...], 0, -1), expected)
        assert dataset.coordinateTransformations[0].scale == [1, 0.5 * 2**k, 0.25 * 2**k]
        expected = halve(expected, meaning)
    assert image.ome_attributes.model_dump()["omero"]["channels"][1] == {
        "label": "GFP", "color": "00FF00", "active": True, "window": {"min": 0, "start": 0, "end": 199, "max": 199},
    }  # fmt: skip
    source = open_image(path)
    assert (source.spec.pixel_size, source.spec.channel_names) == ((0.5, 0.25), ("DAPI", "GFP"))
    assert source.spec.levels == tuple(shapes)


@pytest.mark.parametrize("meaning", ["image", "labels"])
def test_ome_zarr_reads_every_level_and_the_pixel_size(tmp_path: Path, meaning: str) -> None:
    """The reference program, that viewers read through."""
    from ome_zarr.io import parse_url
    from ome_zarr.reader import Reader

    array = values(4103, 600, 2, dtype="uint8")
    fields = {"pixel_size": (0.5, 0.25), "channel_names": ("DAPI", "GFP")}
    path = written(tmp_path / "x.ome.zarr", array, Metadata(meaning, {}, "ab"), **fields)
    (node,) = Reader(parse_url(path, mode="r"))()
    assert node.metadata["channel_names"] == ["DAPI", "GFP"]
    expected = array
    for k, level in enumerate(node.data):
        np.testing.assert_array_equal(np.moveaxis(np.asarray(level), 0, -1), expected)
        (scaling,) = node.metadata["coordinateTransformations"][k]
        assert scaling["scale"] == [1, 0.5 * 2**k, 0.25 * 2**k]
        expected = halve(expected, meaning)
    assert len(node.data) == len(level_shapes(4103, 600)) == 5


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_comes_back(tmp_path: Path, dtype: str) -> None:
    array = values(30, 40, dtype=dtype, top=2)
    path = written(tmp_path / "x.zarr", array, channel_names=("a",))
    np.testing.assert_array_equal(zarr.open_array(path / "0", mode="r")[0], array)
    assert (
        Image.from_zarr(zarr.open_group(path, mode="r")).ome_attributes.model_dump()["omero"]["channels"][0]["window"]["max"] == 1
    )


@pytest.mark.parametrize(
    ("planes", "channels", "axes"),
    [
        ((("t", 2), ("z", 3)), 2, "tczyx"),
        ((("z", 3), ("t", 2)), 1, "tzyx"),
        ((("page", 4),), 1, ("page", "y", "x")),
        ((("series", 2), ("z", 3)), 1, ("series", "z", "y", "x")),
        ((), 1, "yx"),
    ],
)
def test_planes_and_their_order(tmp_path: Path, planes: tuple[tuple[str, int], ...], channels: int, axes: object) -> None:
    count = int(np.prod([n for _, n in planes], dtype=int))
    pixels = values(count, 20, 30, channels)
    path = tmp_path / "x.zarr"
    write(path, Planes(pixels, planes), METADATA)
    assert zarr.open_array(path / "0", mode="r").metadata.dimension_names == tuple(axes)  # type: ignore[call-overload]
    Image.from_zarr(zarr.open_group(path, mode="r"))
    source = open_image(path)
    lengths = [n for _, n in planes]
    order = [[name for name, _ in planes].index(name) for name, _ in source.spec.planes]
    expected = pixels.reshape(*lengths, 20, 30, channels).transpose([*order, *range(len(planes), len(planes) + 3)])
    np.testing.assert_array_equal(whole(source), expected.reshape(pixels.shape))


def test_an_axis_of_channels_among_the_planes_keeps_all_of_them(tmp_path: Path) -> None:
    """A file of several RGB pictures to a position has such planes, and labels for each."""
    pixels = values(6, 20, 30, 1)
    write(tmp_path / "x.zarr", Planes(pixels, (("c", 2), ("z", 3))), METADATA)
    array = zarr.open_array(tmp_path / "x.zarr/0", mode="r")
    assert array.metadata.dimension_names == ("c", "z", "y", "x")  # type: ignore[call-overload]
    np.testing.assert_array_equal(array[...].reshape(pixels.shape), pixels)
    np.testing.assert_array_equal(whole(open_image(tmp_path / "x.zarr")), np.moveaxis(pixels.reshape(2, 3, 20, 30), 0, -1))
    with pytest.raises(OutputError, match="no room for the axes c and c"):
        write(tmp_path / "y.zarr", Planes(values(2, 20, 30, 3), (("c", 2),)), METADATA)


def test_what_has_no_place_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="no room for the axes page and c"):
        write(tmp_path / "x.zarr", Planes(values(4, 20, 30, 2), (("page", 4),)), METADATA)
    with pytest.raises(OutputError, match="cannot hold complex64"):
        written(tmp_path / "x.zarr", values(20, 30, dtype="complex64"))
    assert not (tmp_path / "x.zarr").exists()


def digest(path: Path) -> dict[str, str]:
    files = (file for file in path.rglob("*") if file.is_file())
    return {str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.mark.parametrize("compression", [*COMPRESSIONS, ""])
def test_compressions_and_the_same_bytes(tmp_path: Path, compression: str) -> None:
    array = values(1200, 1500, 3, dtype="uint8", top=9)
    metadata = [Metadata("image", {"b": 1, "a": Path("x")}, "ab", compression, threads) for threads in (1, 4)]
    one, other = (written(tmp_path / f"{i}.zarr", array, item) for i, item in enumerate(metadata))
    assert digest(one) == digest(other)
    np.testing.assert_array_equal(whole(open_image(one))[0], array)
    codecs = [codec["name"] for codec in json.loads((one / "0/zarr.json").read_text())["codecs"]]
    assert codecs == ["bytes", *{"zlib": ["gzip"], "none": []}.get(compression, ["zstd"])]
    chunk = (one / "0/c/0/0/0").read_bytes()
    assert compression != "zlib" or gzip.decompress(chunk) == array[:1024, :1024, 0].tobytes()
    assert len(chunk) == 2**20 or compression != "none"


def test_the_record_is_kept(tmp_path: Path) -> None:
    path = written(tmp_path / "x.zarr", values(20, 30))
    kept = zarr.open_group(path, mode="r").attrs["i2i"]
    assert kept == {"fingerprint": "0123abcd", "meaning": "image", "record": {"model": "nuclei", "precision": "fp32"}}


def test_chunks_are_smaller_where_there_are_many_channels(tmp_path: Path) -> None:
    array = values(300, 300, 70, dtype="float32")
    path = written(tmp_path / "x.zarr", array)
    assert zarr.open_array(path / "0", mode="r").chunks == (1, 256, 256)
    np.testing.assert_array_equal(whole(open_image(path))[0], array)


def test_no_scale_is_invented_and_nan_is_no_limit(tmp_path: Path) -> None:
    array = values(20, 30, dtype="float32")
    array[3, 4], array[5, 6] = np.nan, np.inf
    path = written(tmp_path / "x.zarr", array, channel_names=("a",))
    assert (open_image(path).spec.pixel_size, open_image(path).spec.channel_names) == (None, ("a",))
    json.loads((path / "zarr.json").read_text(), parse_constant=pytest.fail)
    np.testing.assert_array_equal(whole(open_image(path))[0, ..., 0], array)


@pytest.mark.parametrize("name", ["x.zarr", "x.ome.zarr", "X.OME.ZARR"])
def test_the_name_asks_for_it(name: str) -> None:
    form = format_for_output(Path(name), builtin_formats())
    assert (form.name, form.planes, form.compressions) == ("OME-Zarr", True, ("zstd", "zlib", "none"))


CHILD = """
import sys
from pathlib import Path
import numpy as np, zarr
from i2i.contracts import ImageSpec, Metadata
from i2i.formats.zarr_read import ZarrSource
from i2i.formats.zarr_store import check_chunk
from i2i.formats.zarr_write import write
from i2i.geometry import Region

def status(key):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(key)) / 1024

class Big:
    spec = ImageSpec(8192, 8192, 2, "uint16")
    def read(self, region, plane=0, level=0):
        y, x = np.ogrid[region.y:region.bottom, region.x:region.right]
        return np.stack([y * 7 + x * 3, y ^ x], axis=-1).astype(np.uint16)
    def close(self): pass

folder = Path(sys.argv[1])
class Small(Big):
    spec = ImageSpec(64, 64, 2, "uint16")
write(folder / "small.zarr", Small(), Metadata("image", {}, "ab"))  # all that is imported, all threads that are started
before = status("VmRSS")
write(folder / "big.zarr", Big(), Metadata("image", {}, "ab", threads=2))
source = ZarrSource(folder / "big.zarr")
for y in range(0, 8192, 512):
    for x in range(0, 8192, 512):
        region = Region(y, x, 512, 512)
        assert (source.read(region) == Big().read(region)).all()
print(status("VmHWM") - before, len(source.spec.levels))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is measured as Linux tells it")
def test_memory_does_not_grow_with_the_image(tmp_path: Path) -> None:
    out = subprocess.run([sys.executable, "-c", CHILD, str(tmp_path)], capture_output=True, text=True, check=True, timeout=120)
    grown, levels = out.stdout.split()
    assert float(grown) < 200 and int(levels) == 5  # the pixels are 256 MB
