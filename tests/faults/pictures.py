"""The images of the fault table that are read, with the pixels that a network must see, which are computed without i2i."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import imagecodecs
import numpy as np
import numpy.typing as npt
import tifffile
from PIL import Image, ImageCms

from tests.cli.kit import picture
from tests.faults.images import tiny

Pixels = npt.NDArray[np.generic]
HEIGHT, WIDTH = 48, 61


@dataclass(frozen=True)
class Picture:
    """``make`` writes the file and returns its planes (P, H, W, C). ``told``: words of the only warning; none: there is none."""

    make: Callable[[Path], Pixels]
    suffix: str = ".tif"
    told: str = ""


def gray(dtype: str = "uint8", top: float = 200, seed: int = 0) -> Pixels:
    """(H, W): a picture of discs with values up to ``top``."""
    pixels = picture(HEIGHT, WIDTH, seed).astype(np.float64)
    return (pixels / pixels.max() * top).astype(dtype)


def rgb(dtype: str = "uint8", top: float = 200) -> Pixels:
    return np.stack([gray(dtype, top, seed) for seed in range(3)], axis=-1)


def planes(pixels: Pixels) -> Pixels:
    """(H, W) or (H, W, C) as one plane (1, H, W, C)."""
    return (pixels if pixels.ndim == 3 else pixels[..., np.newaxis])[np.newaxis]


def stored(pixels: Pixels, **settings: object) -> Callable[[Path], Pixels]:
    """A TIFF of one plane, stored in a certain way."""

    def make(path: Path) -> Pixels:
        photometric = "rgb" if pixels.ndim == 3 else "minisblack"
        tifffile.imwrite(path, pixels, **{"photometric": photometric, **settings})
        return planes(pixels)

    return make


# ---------------------------------------------------------------------------------------------------------------------- values

DTYPES = {
    "uint8": 255, "uint16": 60_000, "uint32": 2**24, "int16": 30_000, "float16": 1, "float32": 1, "float64": 1,
}  # fmt: skip
"""With their largest values; what stylizes wants floats of at most 1, and float32 holds integers up to 2^24."""


def signed(path: Path) -> Pixels:
    return stored(gray("int16", 30_000) - np.int16(9000), tile=(32, 32), compression="zlib", predictor=True)(path)


def truths(path: Path) -> Pixels:
    pixels = gray() > 90
    tifffile.imwrite(path, pixels, photometric="minisblack")
    return planes(pixels * np.uint8(255))


VALUES = {
    **{
        name: Picture(stored(gray(name, top), tile=(32, 32), compression="zlib", predictor=True))
        for name, top in DTYPES.items()
        if name != "int16"
    },
    "int16": Picture(signed),
    "bool": Picture(truths),
    "constant image": Picture(stored(np.full((HEIGHT, WIDTH), 77, np.uint8))),
}  # fmt: skip

# ---------------------------------------------------------------------------------------------------------------------- colour


def palette(path: Path) -> Pixels:
    indices, colours = gray(), np.random.default_rng(0).integers(0, 256, (256, 3)).astype(np.uint8)
    image = Image.fromarray(indices, "L")
    image.putpalette(colours.tobytes())
    image.save(path)
    return planes(colours[indices])


def cmyk(path: Path) -> Pixels:
    inks = np.concatenate([rgb(), gray(seed=5)[..., None] // 2], axis=-1)
    Image.fromarray(inks, "CMYK").save(path)
    with Image.open(path) as image:
        return planes(np.asarray(image.convert("RGB")))


def with_alpha(mode: str) -> Callable[[Path], Pixels]:
    def make(path: Path) -> Pixels:
        pixels = gray()[..., None] if mode == "LA" else rgb()
        Image.fromarray(np.concatenate([pixels, gray(seed=9)[..., None]], axis=-1), mode).save(path)
        return planes(pixels)

    return make


def one_bit(path: Path) -> Pixels:
    bits = gray() > 90
    Image.fromarray(bits).save(path)
    return planes(bits * np.uint8(255))


def deep_png(pixels: Pixels) -> Callable[[Path], Pixels]:
    def make(path: Path) -> Pixels:
        path.write_bytes(imagecodecs.png_encode(pixels))
        return planes(pixels)

    return make


def with_profile(path: Path) -> Pixels:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(rgb()).save(path, icc_profile=profile)
    return planes(rgb())


TURNS: dict[int, Callable[[Pixels], Pixels]] = {
    2: np.fliplr, 3: lambda pixels: np.rot90(pixels, 2), 6: lambda pixels: np.rot90(pixels, -1), 8: np.rot90,
}  # fmt: skip


def turned(value: int) -> Callable[[Path], Pixels]:
    def make(path: Path) -> Pixels:
        exif = Image.Exif()
        exif[274] = value
        Image.fromarray(gray()).save(path, quality=95, exif=exif)
        with Image.open(path) as image:
            return planes(TURNS[value](np.asarray(image)))

    return make


def min_is_white(path: Path) -> Pixels:
    tifffile.imwrite(path, gray(), photometric="miniswhite")
    return planes(255 - gray())


def subsampled(path: Path) -> Pixels:
    """Two by two pixels share their colour."""
    tifffile.imwrite(path, rgb(), photometric="rgb", compression="jpeg", tile=(48, 64), subsampling=(2, 2))
    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        assert page.photometric.name == "YCBCR" and page.subsampling == (2, 2)
        found = page.asarray()
    assert np.abs(found.astype(int) - rgb()).mean() < 20
    return planes(found)


ALPHA = "the alpha channel is dropped"
COLOUR = {
    "palette, PNG": Picture(palette, ".png"),
    "palette, TIFF": Picture(palette),
    "CMYK": Picture(cmyk),
    "LA": Picture(with_alpha("LA"), ".png", ALPHA),
    "RGBA": Picture(with_alpha("RGBA"), ".png", ALPHA),
    "1-bit, PNG": Picture(one_bit, ".png"),
    "1-bit, TIFF": Picture(one_bit),
    "16-bit PNG": Picture(deep_png(gray("uint16", 60_000)), ".png"),
    "16-bit PNG, RGB": Picture(deep_png(rgb("uint16", 60_000)), ".png"),
    "ICC profile": Picture(with_profile, ".png"),
    **{f"EXIF orientation {value}": Picture(turned(value), ".jpg") for value in TURNS},
    "MinIsWhite": Picture(min_is_white),
    "YCbCr-subsampled JPEG-in-TIFF": Picture(subsampled),
}

# ---------------------------------------------------------------------------------------------------------------------- layout


def stack(axes: str, *sizes: int) -> Callable[[Path], Pixels]:
    """An OME-TIFF with these axes before Y and X; what is on the axis C are channels."""

    def make(path: Path) -> Pixels:
        count = int(np.prod(sizes))
        pixels = np.stack([gray("uint16", 4000, seed) for seed in range(count)]).reshape(*sizes, HEIGHT, WIDTH)
        tifffile.imwrite(path, pixels, ome=True, photometric="minisblack", metadata={"axes": f"{axes}YX"})
        last = np.moveaxis(pixels, axes.index("C"), -1) if "C" in axes else pixels[..., np.newaxis]
        return last.reshape(-1, HEIGHT, WIDTH, last.shape[-1])

    return make


def pyramid(path: Path) -> Pixels:
    with tifffile.TiffWriter(path) as writer:
        writer.write(gray(), tile=(16, 16), photometric="minisblack", subifds=2, metadata=None)
        for level in (1, 2):
            writer.write(gray()[:: 2**level, :: 2**level], tile=(16, 16), photometric="minisblack", subfiletype=1)
    return planes(gray())


def several(path: Path) -> Pixels:
    with tifffile.TiffWriter(path) as writer:
        writer.write(gray(), photometric="minisblack")
        writer.write(gray()[:20, :30], photometric="minisblack")
    return planes(gray())


def planar(path: Path) -> Pixels:
    tifffile.imwrite(path, rgb().transpose(2, 0, 1), photometric="rgb", planarconfig="separate")
    return planes(rgb())


def three_pages(path: Path) -> Pixels:
    """Three pages of 16 bits without a word on what they are; tifffile would guess RGB and store them as one."""
    pixels = np.stack([gray("uint16", 4000, seed) for seed in range(3)])
    tifffile.imwrite(path, pixels, photometric="minisblack", metadata=None)
    return pixels[..., np.newaxis]


def too_many_bytes(path: Path) -> Pixels:
    """One plain strip has the size that the picture has: libtiff and tifffile put such a count right, and so it is read."""
    path.write_bytes(tiny({279: 10**6}))
    return planes((np.arange(256) % 64).astype(np.uint8).reshape(16, 16))


LAYOUT = {
    "BigTIFF": Picture(stored(gray("uint16", 4000), bigtiff=True)),
    "big-endian": Picture(stored(gray("uint16", 4000), byteorder=">")),
    "planar": Picture(planar),
    "multi-series": Picture(several, told="1 more image(s) in the file: only the first is read; --series 1 reads another"),
    "SubIFD pyramid": Picture(pyramid),
    "Z": Picture(stack("Z", 2), ".ome.tif"),
    "C": Picture(stack("C", 3), ".ome.tif"),
    "T": Picture(stack("T", 2), ".ome.tif"),
    "TCZYX": Picture(stack("TCZ", 2, 3, 2), ".ome.tif"),
    "3-plane uint16 guessed as RGB": Picture(three_pages),
    "45 channels": Picture(stack("C", 45), ".ome.tif"),
    "image smaller than a tile": Picture(stored(gray()[:20, :30], tile=(256, 256))),
    "1 x N": Picture(stored(gray()[:1])),
    "StripByteCounts mismatch, too many, one plain strip": Picture(too_many_bytes),
}

GOOD: dict[str, dict[str, Picture]] = {"values": VALUES, "colour": COLOUR, "layout": LAYOUT}
"""By group and case: those that are read."""
