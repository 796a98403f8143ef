"""Colour models as files store them, turned into plain grey or RGB. All arrays are (H, W, C)."""

from __future__ import annotations

import numpy as np

from i2i.contracts import Array


def bits_to_grey(pixels: Array) -> Array:
    """Booleans as uint8: 0 and 255, so that a 1-bit picture looks like any other black and white one."""
    return pixels.astype(np.uint8) * np.uint8(255)


def invert(pixels: Array, bits: int) -> Array:
    """Min-is-white as min-is-black: unsigned integers of ``bits`` bits, signed ones, or booleans. Floats have no
    largest value, and are returned as they are."""
    if pixels.dtype == bool:
        return ~pixels
    if pixels.dtype.kind == "u":
        return np.asarray(pixels.dtype.type(2**bits - 1) - pixels)
    return ~pixels if pixels.dtype.kind == "i" else pixels


def palette_table(colours: Array) -> Array:
    """The (N, 3) uint8 table of a TIFF ColorMap (3, N) of 16-bit values; maps of 8-bit values are taken as such."""
    wide = colours.max(initial=0) > 255
    return np.ascontiguousarray((colours >> 8 if wide else colours).astype(np.uint8).T)


def look_up(pixels: Array, table: Array) -> Array:
    """Indices (H, W, 1) as colours (H, W, 3) uint8. Indices beyond the table take its last colour."""
    return np.asarray(table[np.minimum(pixels[..., 0], len(table) - 1)])


def cmyk_to_rgb(pixels: Array) -> Array:
    """CMYK (0: no ink) of 8 or 16 bits as RGB of the same dtype: (1 - ink) (1 - black), without an ICC profile."""
    top = float(np.iinfo(pixels.dtype).max)
    light = (top - pixels[..., :4].astype(np.float32)) / top
    return np.asarray(np.rint(light[..., :3] * light[..., 3:] * top).astype(pixels.dtype))


def ycbcr_to_rgb(pixels: Array) -> Array:
    """Full-range YCbCr of ITU-R BT.601 (TIFF's default coefficients), uint8, as RGB uint8."""
    y, blue, red = np.moveaxis(pixels[..., :3].astype(np.float32), -1, 0)
    blue, red = blue - 128, red - 128
    rgb = np.stack([y + 1.402 * red, y - 0.344136 * blue - 0.714136 * red, y + 1.772 * blue], axis=-1)
    return np.asarray(np.clip(np.rint(rgb), 0, 255).astype(np.uint8))


def lab_to_rgb(pixels: Array, signed: bool) -> Array:
    """CIE L*a*b* (D50) as sRGB of the same dtype, uint8 or uint16. ``signed``: a* and b* are two's complement, as in
    TIFF's CIELab; else they are offset by 128, as in ICCLab."""
    dtype, scale = pixels.dtype, 1 if pixels.dtype == np.uint8 else 257
    lightness = pixels[..., 0].astype(np.float32) / np.iinfo(dtype).max * 100
    a, b = (_chroma(pixels[..., i], signed) for i in (1, 2))
    return np.asarray(_lab_to_srgb(lightness, a, b, scale).astype(dtype))


def _chroma(values: Array, signed: bool) -> Array:
    one = 1 if values.dtype == np.uint8 else 256
    if signed:
        return np.asarray(values.view(f"i{values.itemsize}").astype(np.float32) / one)
    return values.astype(np.float32) / one - 128


_D50 = np.array([0.9642, 1.0, 0.8249], np.float32)
_XYZ_D50_TO_LINEAR_SRGB = np.array(
    [[3.1338561, -1.6168667, -0.4906146], [-0.9787684, 1.9161415, 0.0334540], [0.0719453, -0.2289914, 1.4052427]],
    np.float32,
)


def _lab_to_srgb(lightness: Array, a: Array, b: Array, scale: int) -> Array:
    """Through XYZ, with the Bradford-adapted matrix and the sRGB curve; the result is 0 .. 255 * scale."""
    fy = (lightness + 16) / 116
    f = np.stack([fy + a / 500, fy, fy - b / 200], axis=-1)
    xyz = np.where(f > 6 / 29, f**3, (f - 4 / 29) * 3 * (6 / 29) ** 2) * _D50
    linear = np.clip(xyz @ _XYZ_D50_TO_LINEAR_SRGB.T, 0, 1)
    rgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.asarray(np.rint(rgb * 255 * scale))
