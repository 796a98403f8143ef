"""PNG, JPEG, WebP and BMP, and the choice of a format."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from i2i.contracts import Metadata
from i2i.errors import InputError, OutputError, UsageError
from i2i.formats import ArraySource, builtin_formats, detect, format_for_output, open_image, raster
from i2i.formats.scratch import Scratch
from i2i.geometry import Region

METADATA = Metadata("image", {"model": "nuclei"}, "0123abcd")
REPOSITORY = Path(__file__).parents[2]


def values(*shape: int, dtype: str = "uint8") -> np.ndarray:
    return np.random.default_rng(1).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def smooth() -> np.ndarray:
    y, x = np.mgrid[:64, :96]
    return np.stack([2 * y, 2 * x, y + x], axis=-1).astype(np.uint8)


def read(path: Path) -> np.ndarray:
    source = open_image(path)
    try:
        return source.read(source.spec.region)
    finally:
        source.close()


def fails(path: Path, pattern: str | None = None) -> None:
    """Opening and reading the file raises one line that names it."""
    with pytest.raises(InputError, match=pattern) as caught:
        read(path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(path))


# ------------------------------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize("suffix", [".png", ".bmp"])
@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_modes(tmp_path: Path, suffix: str, mode: str) -> None:
    image = Image.fromarray(smooth()).convert(mode)
    path = tmp_path / f"image{suffix}"
    image.save(path)
    grey = mode in "1L"
    expected = np.asarray(image.convert("L" if grey else "RGB"))
    source = open_image(path)
    assert (source.spec.channels, source.spec.dtype, source.spec.notes) == (1 if grey else 3, "uint8", ())
    np.testing.assert_array_equal(read(path), expected.reshape(64, 96, -1))
    region = Region(3, 5, 20, 30)
    np.testing.assert_array_equal(source.read(region), expected.reshape(64, 96, -1)[region.slices])


@pytest.mark.parametrize(("mode", "channels"), [("LA", 1), ("RGBA", 3)])
@pytest.mark.parametrize("suffix", [".png", ".webp"])
def test_alpha_is_dropped_with_a_note(tmp_path: Path, suffix: str, mode: str, channels: int) -> None:
    array = values(32, 48, channels + 1)
    array[..., -1] |= 1  # WebP forgets the colours under full transparency
    path = tmp_path / f"image{suffix}"
    Image.fromarray(array, mode).save(path, lossless=True, exact=True)
    source = open_image(path)
    assert source.spec.notes == ("the alpha channel is dropped",)
    expected = array[..., :-1]
    np.testing.assert_array_equal(read(path), np.broadcast_to(expected, (32, 48, source.spec.channels)))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_png_of_16_bits_is_not_clipped(tmp_path: Path, channels: int) -> None:
    import imagecodecs

    array = values(20, 30, channels, dtype="uint16")
    path = tmp_path / "image.png"
    path.write_bytes(imagecodecs.png_encode(array))
    source = open_image(path)
    colours = 1 if channels < 3 else 3
    assert (source.spec.dtype, source.spec.channels, len(source.spec.notes)) == ("uint16", colours, 1 - channels % 2)
    np.testing.assert_array_equal(read(path), array[..., :colours])


@pytest.mark.parametrize("value", range(1, 9))
def test_exif_orientation(tmp_path: Path, value: int) -> None:
    exif = Image.Exif()
    exif[274] = value
    for path in (tmp_path / "image.jpg", tmp_path / "image.png", tmp_path / "image.webp"):
        Image.fromarray(smooth()).save(path, exif=exif)
        with Image.open(path) as image:
            expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
        assert open_image(path).spec.region == Region(0, 0, *expected.shape[:2])
        np.testing.assert_array_equal(read(path), expected)


def test_exif_orientation_of_16_bits(tmp_path: Path) -> None:
    exif, array = Image.Exif(), values(20, 30, dtype="uint16")
    exif[274] = 6
    Image.fromarray(array).save(tmp_path / "image.png", exif=exif)
    np.testing.assert_array_equal(read(tmp_path / "image.png")[..., 0], np.rot90(array, -1))


def test_cmyk_jpeg(tmp_path: Path) -> None:
    path = tmp_path / "image.jpg"
    Image.fromarray(smooth()).convert("CMYK").save(path, quality=100)
    assert np.abs(read(path).astype(int) - smooth()).mean() < 2


@pytest.mark.parametrize("suffix", [".png", ".webp"])
def test_first_frame_of_an_animation(tmp_path: Path, suffix: str) -> None:
    frames = [Image.fromarray(values(16, 16, 3) // (i + 1)) for i in range(3)]
    path = tmp_path / f"image{suffix}"
    frames[0].save(path, save_all=True, append_images=frames[1:], lossless=True)
    assert open_image(path).spec.notes == ("3 frames: only the first is read",)
    np.testing.assert_array_equal(read(path), np.asarray(frames[0]))


# --------------------------------------------------------------------------------------------------------- large images

LARGE = [
    (".png", "L", "uint8"), (".png", "1", "uint8"), (".png", "P", "uint8"), (".png", "RGB", "uint8"), (".png", "RGBA", "uint8"),
    (".png", "I;16", "uint16"), (".jpg", "L", "uint8"), (".jpg", "RGB", "uint8"), (".jpg", "CMYK", "uint8"),
    (".webp", "RGB", "uint8"), (".bmp", "RGB", "uint8"),
]  # fmt: skip


@pytest.mark.parametrize("turn", [1, 3, 5, 6])
@pytest.mark.parametrize(("suffix", "mode", "dtype"), LARGE)
def test_large_images_go_to_a_scratch_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, mode: str, dtype: str, turn: int
) -> None:
    """The same pixels as from memory."""
    array = values(130, 203, dtype=dtype) if mode == "I;16" else np.tile(smooth(), (3, 3, 1))[:130, :203]
    image = Image.fromarray(array) if mode == "I;16" else Image.fromarray(array).convert(mode)
    path, exif = tmp_path / f"image{suffix}", Image.Exif()
    exif[274] = turn
    image.save(path, **({} if suffix == ".bmp" else {"exif": exif}))
    expected = read(path)
    monkeypatch.setattr(raster, "MEMORY", 10_000)
    monkeypatch.setattr(raster, "BLOCK", (48, 64))
    source = open_image(path)
    assert source.spec.remarks[-1] == "decoded whole: copied once to a scratch file"
    for region in (Region(7, 11, 100, 90), source.spec.region, Region(60, 0, 1, 1)):
        np.testing.assert_array_equal(source.read(region), expected[region.slices])
    assert isinstance(source._pixels, Scratch)
    source.close()
    assert source._pixels is None


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_large_png_of_16_bits_goes_to_a_scratch_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, channels: int) -> None:
    import imagecodecs

    array, path = values(130, 203, channels, dtype="uint16"), tmp_path / "image.png"
    path.write_bytes(imagecodecs.png_encode(array))
    monkeypatch.setattr(raster, "MEMORY", 10_000)
    np.testing.assert_array_equal(read(path), array[..., :3])


def test_a_large_image_that_is_cut_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raster, "MEMORY", 1000)
    path = tmp_path / "image.png"
    path.write_bytes(encoded(".png", "")[:8000])
    fails(path, "truncated")


def test_the_decoded_image_is_not_kept_in_memory(tmp_path: Path) -> None:
    """100 million grey pixels: Pillow holds them while they are moved, and afterwards nobody does."""
    path = tmp_path / "image.png"
    Image.new("L", (10_000, 10_000), 7).save(path, compress_level=1)
    code = (
        "import sys; from pathlib import Path; import numpy; from PIL import Image, PngImagePlugin\n"
        "from i2i.formats import open_image; from i2i.geometry import Region\n"
        "def memory(what): return int(next(x for x in open('/proc/self/status') if x.startswith(what)).split()[1]) / 1024\n"
        "source = open_image(Path(sys.argv[1])); base = memory('VmRSS')\n"
        "assert source.read(Region(4000, 4000, 512, 512)).sum() == 7 * 512 * 512\n"
        "print(memory('VmHWM') - base, memory('VmRSS') - base)"
    )
    if not Path("/proc/self/status").exists():
        pytest.skip("memory is measured through /proc")
    run = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    peak, rest = map(float, run.stdout.split())
    assert peak < 150 and rest < 40, (peak, rest)


# -------------------------------------------------------------------------------------------------------------- faults


def encoded(suffix: str, kind: str) -> bytes:
    if kind == "16 bits":
        import imagecodecs

        return bytes(imagecodecs.png_encode(values(64, 64, 3, dtype="uint16")))
    buffer = io.BytesIO()
    array = values(64, 64, 3)
    options = {"progressive": True} if kind == "progressive" else {}
    Image.fromarray(array).save(buffer, {".jpg": "JPEG"}.get(suffix, suffix[1:].upper()), **options)
    return buffer.getvalue()


CUTS = [(".png", ""), (".png", "16 bits"), (".jpg", ""), (".jpg", "progressive"), (".webp", ""), (".bmp", "")]


@pytest.mark.parametrize(("suffix", "kind"), CUTS)
@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.98])
def test_truncated_files(tmp_path: Path, suffix: str, kind: str, share: float) -> None:
    content = encoded(suffix, kind)
    path = tmp_path / f"image{suffix}"
    path.write_bytes(content[: int(len(content) * share)])
    fails(path, "truncated")


@pytest.mark.parametrize(("suffix", "kind"), CUTS)
@pytest.mark.parametrize("seed", range(8))
def test_damaged_files_are_read_or_an_input_error(tmp_path: Path, suffix: str, kind: str, seed: int) -> None:
    content = bytearray(encoded(suffix, kind))
    random = np.random.default_rng(seed)
    for place in random.integers(8, min(200, len(content)), 4):
        content[place] = random.integers(256)
    path = tmp_path / f"image{suffix}"
    path.write_bytes(content)
    try:
        read(path)
    except InputError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize("kind", ["", "16 bits"])
def test_png_with_a_wrong_checksum(tmp_path: Path, kind: str) -> None:
    content = bytearray(encoded(".png", kind))
    content[len(content) // 2] ^= 1
    path = tmp_path / "image.png"
    path.write_bytes(content)
    fails(path, "damaged")


@pytest.mark.parametrize(("suffix", "magic"), [(".png", b"\x89PNG\r\n\x1a\n"), (".jpg", b"\xff\xd8\xff"), (".bmp", b"BM")])
def test_magic_only(tmp_path: Path, suffix: str, magic: bytes) -> None:
    path = tmp_path / f"image{suffix}"
    path.write_bytes(magic)
    fails(path)


def test_pixel_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "image.png"
    Image.fromarray(smooth()).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    fails(path, "2,000 pixels")


def test_png_that_claims_to_be_huge(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    Image.fromarray(smooth()).save(path)
    content = path.read_bytes()
    header = b"IHDR" + (10**6).to_bytes(4, "big") * 2 + content[24:29]
    path.write_bytes(content[:12] + header + zlib.crc32(header).to_bytes(4, "big") + content[33:])
    fails(path, "pixels")


# ------------------------------------------------------------------------------------------------------------- writing

WRITABLE = [(".png", "uint8", 1), (".png", "uint8", 3), (".png", "uint16", 1), (".png", "uint16", 3)]


@pytest.mark.parametrize(("suffix", "dtype", "channels"), WRITABLE)
@pytest.mark.parametrize("shape", [(37, 53), (1, 300), (300, 1)])
def test_png_comes_back(tmp_path: Path, suffix: str, dtype: str, channels: int, shape: tuple[int, int]) -> None:
    array = values(*shape, channels, dtype=dtype)
    path = tmp_path / f"out{suffix}"
    form = format_for_output(path, builtin_formats())
    assert form.write is not None
    form.write(path, ArraySource(array, pixel_size=(0.25, 0.5)), METADATA)
    source = open_image(path)
    np.testing.assert_array_equal(read(path), array)
    assert source.spec.pixel_size == pytest.approx((0.25, 0.5))
    with Image.open(path) as image:
        image.verify()
        assert json.loads(image.info["i2i"])["record"] == METADATA.record


@pytest.mark.parametrize(("suffix", "channels"), [(".jpg", 1), (".jpg", 3), (".webp", 3)])
def test_lossy_formats_come_back_nearly(tmp_path: Path, suffix: str, channels: int) -> None:
    array = smooth()[..., :channels]
    path = tmp_path / f"out{suffix}"
    form = format_for_output(path, builtin_formats())
    assert form.write is not None
    assert form.lossy
    form.write(path, ArraySource(array, pixel_size=(0.25, 0.5)), METADATA)
    source = open_image(path)
    assert np.abs(read(path).astype(int) - array).mean() < 2
    assert source.spec.pixel_size == pytest.approx((0.25, 0.5))
    with Image.open(path) as image:
        assert json.loads(image.getexif()[270])["record"] == METADATA.record


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_writing_twice_gives_the_same_bytes(tmp_path: Path, suffix: str) -> None:
    form = format_for_output(Path(f"a{suffix}"), builtin_formats())
    assert form.write is not None
    for name in ("a", "b"):
        form.write(tmp_path / name, ArraySource(smooth()), METADATA)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize(
    ("suffix", "array"),
    [
        (".png", values(8, 8, 2)),
        (".png", values(8, 8, 1).astype("float32")),
        (".jpg", values(8, 8, 3, dtype="uint16")),
        (".webp", values(8, 8, 1)),
        (".webp", np.zeros((1, 16_384, 3), np.uint8)),
        (".jpg", np.zeros((1, 65_501, 3), np.uint8)),
    ],
)
def test_what_a_format_cannot_hold(tmp_path: Path, suffix: str, array: np.ndarray) -> None:
    form = format_for_output(Path(f"a{suffix}"), builtin_formats())
    assert form.write is not None
    with pytest.raises(OutputError, match=r"write a \.tif"):
        form.write(tmp_path / f"a{suffix}", ArraySource(array), METADATA)
    assert not (tmp_path / f"a{suffix}").exists()


# ------------------------------------------------------------------------------------------------------------- formats


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp", ".tif"])
@pytest.mark.parametrize("named", [".tif", ".png", ".dat"])
def test_content_decides(tmp_path: Path, suffix: str, named: str) -> None:
    path = tmp_path / f"image{suffix}"
    Image.fromarray(smooth()).save(path)
    path = path.rename(tmp_path / f"image{named}")
    source = open_image(path)
    found = detect(path, builtin_formats())
    assert suffix in found.suffixes
    if named in (suffix, ".dat"):
        assert source.spec.notes == ()
    else:
        assert source.spec.notes == (f"named {named} but its content is {found.name}: read as {found.name}",)
    source.close()


@pytest.mark.parametrize(
    ("name", "found"),
    [("a.tif", "TIFF"), ("a.OME.TIFF", "TIFF"), ("a.b.PNG", "PNG"), ("a.jpeg", "JPEG"), ("a.webp", "WebP")],
)
def test_suffix_of_an_output(name: str, found: str) -> None:
    assert format_for_output(Path(name), builtin_formats()).name == found


@pytest.mark.parametrize("name", ["a.svs", "a.bmp", "a.xyz", "a", "tif"])
def test_suffix_that_is_not_written(name: str) -> None:
    with pytest.raises(UsageError, match=r"\.tif, .*\.png"):
        format_for_output(Path(name), builtin_formats())


def test_importing_the_formats_imports_no_library() -> None:
    code = (
        "import sys, i2i.formats; i2i.formats.builtin_formats();"
        "print(sorted({'torch', 'tifffile', 'PIL', 'imagecodecs', 'zarr'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert run.stdout.strip() == "[]"
