"""What a file says of its image besides the pixels is not lost on the way to the result."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from i2i.contracts import ImageSpec
from i2i.formats import open_image
from tests.cli.kit import done, picture, save


def spec_of(path: str) -> ImageSpec:
    with closing(open_image(Path(path))) as source:
        return source.spec


def stack(path: str) -> str:
    """An OME-TIFF of two times with three slices."""
    sizes = {f"PhysicalSize{axis}": size for axis, size in (("X", 325.0), ("Y", 325.0), ("Z", 1500.0))}
    units = {f"PhysicalSize{axis}Unit": "nm" for axis in "XYZ"}
    pixels = np.stack([np.stack([picture(32, 48, seed=seed)] * 3) for seed in (0, 1)])
    said = sizes | units | {"axes": "TZYX", "Name": "drosophila wing", "TimeIncrement": 0.5, "TimeIncrementUnit": "min"}
    save(path, pixels, ome=True, photometric="minisblack", metadata=said)
    return path


@pytest.mark.parametrize("out", ["out.tif", "out.ome.zarr"])
def test_the_steps_of_planes_and_the_name_of_the_image_are_carried_over(segment, i2i, out):
    stack("in.ome.tif")
    done(segment("in.ome.tif", "-o", out))
    found = spec_of(out)
    assert found.planes == (("t", 2), ("z", 3)) and found.name == "drosophila wing"
    assert dict(found.steps) == pytest.approx({"z": 1.5, "t": 30.0}) and found.pixel_size == pytest.approx((0.325, 0.325))
    shown = done(i2i("info", out)).out
    assert "t: 2 (0 .. 1, 30 s apart), z: 3 (0 .. 2, 1.5 um apart)" in shown and "drosophila wing" in shown
    done(segment(out, "-o", "again.tif", "--plane", "t=1"))
    assert spec_of("again.tif").planes == (("z", 3),) and dict(spec_of("again.tif").steps) == pytest.approx({"z": 1.5})
    done(segment(out, "-o", "one.tif", "--plane", "t=1,z=0"))
    assert spec_of("one.tif").steps == ()


def test_bio_formats_finds_the_steps_where_it_looks(segment):
    stack("in.ome.tif")
    done(segment("in.ome.tif", "-o", "out.tif"))
    with tifffile.TiffFile("out.tif") as file:
        xml = file.ome_metadata
    said = ('PhysicalSizeZ="1.5"', 'PhysicalSizeZUnit="µm"', 'TimeIncrement="30.0"', 'Name="drosophila wing"')
    assert [text for text in said if text not in xml] == []


@pytest.mark.parametrize("path", ["in.ome.tif", "in.ome.zarr"])
def test_colours_of_channels_are_carried_over_with_their_names(i2i, path):
    pixels = np.stack([picture(32, 48, seed=seed) for seed in range(2)])
    blue, red = 0x0000FFFF, 0xFF0000FF - 2**32
    channels = {"Name": ["DAPI", "RFP"], "Color": [blue, red]}
    save("in.ome.tif", pixels, ome=True, photometric="minisblack", metadata={"axes": "CYX", "Channel": channels})
    if path == "in.ome.zarr":
        done(i2i("translate", "in.ome.tif", "--channels", "rfp", "-o", path))
    done(i2i("translate", path, "--channels", "rfp", "-o", "out.ome.zarr"))
    assert '"color": "FF0000"' in Path("out.ome.zarr/zarr.json").read_text()
    done(i2i("translate", path, "--channels", "RFP", "-o", "out.tif"))
    assert (spec_of("out.tif").channel_names, spec_of("out.tif").channel_colours) == (("RFP",), ("FF0000",))
    done(i2i("segment", path, "--channels", "RFP", "-o", "labels.tif"))
    assert spec_of("labels.tif").channel_colours == ()


def test_the_steps_of_a_stack_of_imagej(i2i):
    pixels = np.stack([picture(16, 16)] * 3)
    known = {"axes": "ZYX", "spacing": 2.0, "unit": "micron"}
    save("z.tif", pixels, imagej=True, resolution=(4, 4), metadata=known)
    save("t.tif", pixels, imagej=True, metadata={"axes": "TYX", "finterval": 0.25})
    save("unknown.tif", pixels, imagej=True, metadata={"axes": "ZYX", "spacing": 2.0, "unit": "pixel"})
    save("odd.tif", pixels, imagej=True, metadata={"axes": "ZYX", "spacing": -1.0, "unit": "um"})
    found = {name: dict(spec_of(f"{name}.tif").steps) for name in ("z", "t", "unknown", "odd")}
    assert found == {"z": {"z": 2.0}, "t": {"t": 0.25}, "unknown": {}, "odd": {}}
    assert spec_of("z.tif").name == ""


# ----------------------------------------------------------------------------------------------------------- colours


SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def photo(path: str, **said: object) -> str:
    pixels = np.stack([picture(48, 64, seed=seed) for seed in range(3)], 2)
    Image.fromarray(pixels).save(path, **said)
    return path


def colours_of(path: str) -> tuple[bytes, tuple[float, float] | None]:
    with Image.open(path) as image:
        dpi = image.info.get("dpi")
        return image.info.get("icc_profile", b""), dpi and (round(float(dpi[0]), 1), round(float(dpi[1]), 1))


@pytest.mark.parametrize("given", ["in.png", "in.jpg", "in.tif", "in.webp"])
def test_a_picture_keeps_the_profile_of_its_colours(i2i, given):
    photo(given, icc_profile=SRGB)
    for made in ("out.png", "out.jpg", "out.webp", "out.tif"):
        done(i2i("stylize", given, "--style", given, "--fast", "-o", made, "-q"))
        assert colours_of(made)[0] == SRGB, made
    assert "colours     ICC profile sRGB built-in" in done(i2i("info", given)).out
    assert done(i2i("info", "--json", "out.tif")).json["profile"] == "sRGB built-in"


def test_a_picture_keeps_its_resolution_on_paper(i2i):
    photo("in.jpg", dpi=(300, 150)), photo("in.png", dpi=(300, 150))
    for given in ("in.jpg", "in.png"):
        for made in ("out.png", "out.jpg", "out.tif"):
            done(i2i("stylize", given, "--style", given, "--fast", "-o", made, "-q", "--overwrite"))
            assert colours_of(made) == (b"", (300.0, 150.0)), made


def test_numbers_that_are_no_colours_have_no_profile(i2i):
    photo("in.png", icc_profile=SRGB, dpi=(300, 300))
    for made in ("out.png", "out.tif"):
        done(i2i("segment", "in.png", "-o", made))
        assert colours_of(made)[0] == b""
    with Image.open("in.png") as image:
        image.convert("L").save("gray.jpg", icc_profile=SRGB)
    done(i2i("translate", "gray.jpg", "-o", "gray.png"))
    assert colours_of("gray.png")[0] == b"" and spec_of("gray.jpg").profile == b""


@pytest.mark.parametrize("broken", [b"", SRGB[:100], SRGB[:-1], b"x" * len(SRGB), SRGB.replace(b"RGB ", b"CMYK")])
def test_a_profile_that_is_none_is_left_out(broken):
    photo("in.png", icc_profile=broken)
    assert spec_of("in.png").profile == b""
