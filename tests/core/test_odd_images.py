"""Real odd files: each is opened and read in a process of its own, with limits on time and memory, and ends as it should."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms, ImageOps

REPOSITORY = Path(__file__).parents[2]
ODD = REPOSITORY.parent / "shared" / "data" / "odd-images"
SECONDS, BYTES = 20, 10**9
pytestmark = [
    pytest.mark.skipif(not ODD.is_dir(), reason="the folder of odd images (../shared/data/odd-images) is not there"),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="each file is read in a forked process"),
    pytest.mark.filterwarnings("ignore"),
]

SERVER = f"""
import json, os, resource, signal, sys
from pathlib import Path
import imagecodecs, numpy, tifffile
from PIL import Image
from i2i.errors import InputError
from i2i.formats import open_image

def read(path, to):
    signal.alarm({SECONDS})
    try:
        source = open_image(Path(path))
        numpy.save(to, source.read(source.spec.region))
        found = {{"planes": source.spec.planes, "notes": source.spec.notes}}
        source.close()
    except InputError as error:
        found = {{"error": str(error)}}
    found["bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    found["torch"] = "torch" in sys.modules
    Path(to + ".json").write_text(json.dumps(found))
    os._exit(0)

for line in sys.stdin:
    path, to = json.loads(line)
    child = os.fork()
    if child == 0:
        try:
            read(path, to)
        finally:
            os._exit(1)
    print(os.waitpid(child, 0)[1], flush=True)
"""


@pytest.fixture(scope="module")
def server() -> Iterator[subprocess.Popen[str]]:
    """A process that has the libraries ready, and forks for each file."""
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY,
        env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    ) as process:  # fmt: skip
        yield process
        process.stdin.close()  # type: ignore[union-attr]


def ask(server: subprocess.Popen[str], path: Path, folder: Path) -> tuple[dict[str, Any], np.ndarray | None]:
    """What was found out about a file, and its first plane: (H, W, C), or None for an error."""
    assert server.stdin is not None and server.stdout is not None
    to = folder / "pixels.npy"
    server.stdin.write(json.dumps([str(path), str(to)]) + "\n")
    server.stdin.flush()
    status = int(server.stdout.readline())
    assert status == 0, f"it ended with {status} (14: it took more than {SECONDS} s; 11: it crashed; 256: another error)"
    found = json.loads((folder / "pixels.npy.json").read_text())
    return found, np.load(to) if to.exists() else None


# ----------------------------------------------------------------------------------------------------- what to compare to


def by_pillow(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        image.seek(0)
        grey = image.mode in ("1", "L")
        turned = image if image.format == "TIFF" else ImageOps.exif_transpose(image)
        return np.asarray(turned.convert("L" if grey else "RGB"))


def by_colour_management(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        return np.asarray(ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB"))


def by_tifffile(path: Path) -> np.ndarray:
    """The first plane with channels last, as tifffile stores it."""
    with tifffile.TiffFile(path) as file:
        series = file.series[0]
        array, axes = series.asarray(), series.axes
    while axes[0] not in "SCYX":
        array, axes = array[0], axes[1:]
    return np.moveaxis(array, 0, -1) if axes[0] in "SC" else array


def without_alpha(path: Path) -> np.ndarray:
    return by_tifffile(path)[..., :3]


def channels_of_the_first_z(path: Path) -> np.ndarray:
    return np.moveaxis(tifffile.imread(path)[:, 0], 0, -1)


def png_of_16_bits(path: Path) -> np.ndarray:
    import imagecodecs

    return np.asarray(imagecodecs.png_decode(path.read_bytes()))[..., :3]


Outcome = Callable[[Path], np.ndarray] | str
"""A reference for the pixels, or what the error says."""

EXPECTED: dict[str, Outcome] = {
    "CMU-1-Small-Region.svs": by_tifffile,
    "multi-channel-z-series.ome.tif": channels_of_the_first_z,
    "mri.tif": by_pillow,
    "shapes_hyper.tif": by_tifffile,
    "shapes_multi_size.tif": by_tifffile,
    "shapes_lzw_tiled_planar.tif": by_tifffile,
    "shapes_lzw_12bps.tif": by_tifffile,
    "shapes_zstd.tif": by_tifffile,
    "shapes_lzw_predictor3.tif": by_tifffile,
    "12in16bit.tif": by_tifffile,
    "16bit.MM.deflate.tif": by_tifffile,
    "10ct_32bit_128.tiff": by_tifffile,
    "hopper_bigtiff.tif": by_tifffile,
    "hopper_lzma.tif": by_tifffile,
    "hopper_webp.tif": by_tifffile,
    "hopper_jpg.tif": by_tifffile,
    "hopper.Lab.tif": by_colour_management,
    "hopper_gray_4bpp.tif": by_tifffile,
    "multipage.tiff": by_pillow,
    "multipage_single_frame_loop.tiff": by_pillow,
    "multipage_multiple_frame_loop.tiff": by_pillow,
    "tiff_16bit_RGBa.tiff": without_alpha,
    "tiff_tiled_planar_16bit_RGB.tiff": by_tifffile,
    "tiff_strip_cmyk_jpeg.tif": by_pillow,
    "tiff_strip_ycbcr_jpeg_2x2_sampling.tif": by_tifffile,
    "old-style-jpeg-compression.tif": by_tifffile,
    "g4_orientation_6.tif": by_pillow,
    "tiff_overflow_rows_per_strip.tif": "fewer bytes than its header says",
    "tiff_wrong_bits_per_sample.tiff": without_alpha,
    "seek_too_large.tif": "without an image",
    "libtiff_segfault.tif": "65535 samples a pixel",
    "oom-225817ca0f8c663be7ab4b9e717b02c661e66834.tif": "damaged",
    "crash-86214e58da443d2b80820cff9677a38a33dcbbca.tif": "truncated TIFF",
    "crash-0da013a13571cc8eb457a39fee8db18f8a3c7127.tif": by_pillow,
    "crash-1185209cf7655b5aed8ae5e77784dfdd18ab59e9.tif": "truncated TIFF",
    "crash-2020-10-test.tif": "1536 tiles or strips, but places for 1",
    "truncated_jpeg.jpg": "truncated",
    "truncated_image.png": "truncated",
    "pil_sample_cmyk.jpg": by_pillow,
    "hopper_orientation_6.jpg": by_pillow,
    "Landscape_8.jpg": by_pillow,
    "broken_exif_dpi.jpg": by_pillow,
    "mode_16bit.png": png_of_16_bits,
    "predictor-3-rgb-f32.tif": by_tifffile,
    "int16.tif": by_tifffile,
    "gradient-3c-64b.tiff": by_tifffile,
    "miniswhite-1c-1b.tiff": by_pillow,
    "palette-1c-8b.tiff": by_pillow,
    "tiled-oversize-gray-i8.tif": by_tifffile,
    "flower-minisblack-32.tif": by_tifffile,
    "off_luv32.tif": "compression sgilog is not supported",
    "image-tiff-inf_loop-fuzz-000028_src000508_ophavoc_rep4.tif": "truncated TIFF",
    "image-tiff-oom_crash-fuzz-000012_sig06_src000000_ophavoc_rep.tif": "1 tiles or strips, but places for 0",
    "image-tiff-divide_by_zero-fuzz-000000_sig06_src000036_ophavo.tif": "truncated or damaged TIFF;",
    "yb10kx5k.zstd.tiff": by_tifffile,
    "grey10kx5k.tif": by_tifffile,
    "unreadable.svs": "Bogus marker length",
    "fei-sem-rbc.tif": by_tifffile,
    "geotiff.tif": by_tifffile,
}
TOLERANCE = {"hopper.Lab.tif": 10, "tiff_strip_cmyk_jpeg.tif": 1, "pil_sample_cmyk.jpg": 1}
NOTED = {
    "multipage_single_frame_loop.tiff": "circle",
    "multipage_multiple_frame_loop.tiff": "circle",
    "tiff_16bit_RGBa.tiff": "alpha channel is dropped",
    "mode_16bit.png": "3 frames",
}


def table() -> dict[str, str]:
    """Name and what should happen of each file in the folder's own table."""
    lines = (ODD / "SOURCE.md").read_text("utf-8").splitlines() if ODD.is_dir() else []
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")]
    return {row[0]: row[6] for row in rows if row[0] != "file"}


def test_every_file_has_an_expectation() -> None:
    there = {path.name for path in ODD.iterdir()} - {"SOURCE.md"}
    assert there == set(table()) == set(EXPECTED)


def test_expectations_are_those_of_the_table() -> None:
    """What should be read is compared with a reader's pixels; what should be an error is one."""
    for name, should in table().items():
        error = isinstance(EXPECTED[name], str)
        assert error == should.startswith("ERROR") or name == "off_luv32.tif", name


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_an_odd_image_ends_as_it_should(server: subprocess.Popen[str], tmp_path: Path, name: str) -> None:
    path, expected = ODD / name, EXPECTED[name]
    found, pixels = ask(server, path, tmp_path)
    assert found["bytes"] < BYTES and not found["torch"]
    if isinstance(expected, str):
        message = found["error"]
        assert message.startswith(f"{path}: ") and "\n" not in message and expected in message
        assert any(cure in message for cure in ("get a", "save it", "make it again")), message
        return
    assert pixels is not None, found
    reference = expected(path).reshape(pixels.shape)
    assert pixels.dtype == reference.dtype
    if name in TOLERANCE:
        assert np.abs(pixels.astype(int) - reference).max() <= TOLERANCE[name]
    else:
        np.testing.assert_array_equal(pixels, reference)
    assert name not in NOTED or any(NOTED[name] in note for note in found["notes"])
