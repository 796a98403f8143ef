"""The writers of PNG, JPEG and WebP on large images: read by region, bounded, refused where they cannot be read again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from i2i.contracts import Array, Format, ImageSpec, Metadata
from i2i.errors import OutputError
from i2i.formats import ArraySource, png_write, raster_write
from i2i.formats.raster import JPEG_FORMAT, PNG_FORMAT, WEBP_FORMAT
from i2i.geometry import Region

METADATA = Metadata("image", {}, "0")


class Counted(ArraySource):
    """Remembers the regions that were read."""

    def __init__(self, array: Array) -> None:
        super().__init__(array)
        self.regions: list[Region] = []

    def read(self, region: Region, plane: int = 0, level: int = 0) -> Array:
        self.regions.append(region)
        return super().read(region)


def bands(height: int, width: int, rows: int) -> list[Region]:
    return [Region(y, 0, min(rows, height - y), width) for y in range(0, height, rows)]


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_does_not_depend_on_the_bands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, channels: int) -> None:
    source = Counted(np.random.default_rng(0).integers(0, 255, (50, 40, channels)).astype(np.uint8))
    raster_write.write_jpeg(tmp_path / "a.jpg", source, METADATA)
    monkeypatch.setattr(raster_write, "BAND_BYTES", 7 * 40 * channels)
    source.regions.clear()
    raster_write.write_jpeg(tmp_path / "b.jpg", source, METADATA)
    assert source.regions == bands(50, 40, 7)
    assert (tmp_path / "a.jpg").read_bytes() == (tmp_path / "b.jpg").read_bytes()


@pytest.mark.parametrize(("dtype", "channels"), [("uint8", 1), ("uint8", 3), ("uint16", 1), ("uint16", 3)])
def test_png_does_not_depend_on_the_bands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, channels: int) -> None:
    source = Counted(np.random.default_rng(0).integers(0, 255, (50, 40, channels)).astype(dtype))
    row = 40 * channels * np.dtype(dtype).itemsize
    raster_write.write_png(tmp_path / "a.png", source, METADATA)
    monkeypatch.setattr(png_write, "BAND_BYTES", 21 * row)
    monkeypatch.setattr(png_write, "FILTER_BYTES", 4 * row)
    source.regions.clear()
    raster_write.write_png(tmp_path / "b.png", source, METADATA)
    assert source.regions == bands(50, 40, 21)
    pixels = PNG_FORMAT.open(tmp_path / "b.png").read(Region(0, 0, 50, 40))
    np.testing.assert_array_equal(pixels, source.read(source.spec.region))
    with Image.open(tmp_path / "a.png") as one, Image.open(tmp_path / "b.png") as other:
        assert one.tobytes() == other.tobytes()


class Described:
    """Only a description: nothing may be read."""

    def __init__(self, spec: ImageSpec) -> None:
        self.spec = spec


@pytest.mark.parametrize("form", [JPEG_FORMAT, WEBP_FORMAT])
def test_more_pixels_than_are_read_again(tmp_path: Path, form: Format) -> None:
    path = tmp_path / f"out{form.suffixes[0]}"
    assert form.write is not None
    with pytest.raises(OutputError, match=r"out\.\w+: \.\w+ is read up to 178,956,970 pixels; write a \.tif"):
        form.write(path, Described(ImageSpec(16_383, 10_924, 3)), METADATA)  # type: ignore[arg-type]
    assert not path.exists()


def test_the_limit_is_that_of_the_reader() -> None:
    assert raster_write.PIXEL_LIMIT in (2 * (Image.MAX_IMAGE_PIXELS or 0), 2 * (Image.MAX_IMAGE_PIXELS or 0) - 1)


@pytest.mark.parametrize("form", [PNG_FORMAT, JPEG_FORMAT, WEBP_FORMAT])
def test_several_planes(tmp_path: Path, form: Format) -> None:
    path = tmp_path / f"out{form.suffixes[0]}"
    assert form.write is not None
    assert not form.planes
    with pytest.raises(OutputError, match=r"out\.\w+: \.\w+ holds one plane, and the image has 6; write a \.tif"):
        form.write(path, Described(ImageSpec(8, 8, 3, planes=(("t", 2), ("z", 3)))), METADATA)  # type: ignore[arg-type]
