"""What is mutated: small valid files of every format that i2i reads, made here, and the files of a folder."""

from __future__ import annotations

import io
import struct
import tempfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image

Files = Mapping[str, bytes]
"""The files of an input by their paths below it; a single file has the path ``""``."""
LARGE = 150_000
"""Bytes above which a file of the folder is drawn less often: most of it is pixels, and it takes longer."""


@dataclass(frozen=True)
class Seed:
    """A file or a folder to be mutated. ``weight``: how often it is drawn, beside the others."""

    name: str
    suffix: str
    files: Files
    weight: float = 1.0


def all_seeds(folder: Path | None) -> list[Seed]:
    """Those made here, and those of a folder: half of the draws each. In the same order each time."""
    made = made_seeds()
    found = [] if folder is None else folder_seeds(folder)
    if not found:
        return made
    share = sum(seed.weight for seed in made) / sum(seed.weight for seed in found)
    return made + [Seed(seed.name, seed.suffix, seed.files, seed.weight * share) for seed in found]


def folder_seeds(folder: Path) -> list[Seed]:
    """The files of a folder by name, documents aside; large ones and those of many pixels seldom."""
    paths = sorted(path for path in folder.iterdir() if path.is_file() and path.suffix not in (".md", ".txt", ".json"))
    return [Seed(path.name, path.suffix, {"": path.read_bytes()}, _weight(path)) for path in paths]


def _weight(path: Path) -> float:
    return 0.15 if path.stat().st_size > LARGE or "10kx5k" in path.name else 1.0


def picture(height: int = 40, width: int = 52, channels: int = 1, dtype: str = "uint8") -> np.ndarray:
    """(H, W) or (H, W, C): a ramp with noise."""
    ramp = np.add.outer(np.arange(height), np.arange(width))[..., None] * np.arange(1, channels + 1)
    pixels = ramp + np.random.default_rng(7).integers(0, 40, (height, width, channels))
    pixels = pixels if np.dtype(dtype).kind in "fc" else pixels % (100 if dtype == "int8" else 250)
    return pixels.astype(dtype)[..., 0] if channels == 1 else pixels.astype(dtype)


def made_seeds() -> list[Seed]:
    """A few hundred bytes to some kilobytes each."""
    rasters = [Seed(f"made-{name}", f".{name.split('-')[0]}", {"": make()}) for name, make in _RASTERS.items()]
    tiffs = [Seed(f"made-tif-{name}", ".tif", {"": _tiff(**settings)}) for name, settings in _TIFFS.items()]
    zarrs = [Seed(f"made-zarr-{name}", ".zarr", _folder(make), 2.0) for name, make in _ZARRS.items()]
    pieces = {"ome-pyramid": _pyramid, "two-series": _two_series, "palette": _palette, "giant-strip": _giant_strip}
    more = [Seed(f"made-tif-{name}", ".tif", {"": make()}, 0.2 if name == "giant-strip" else 2) for name, make in pieces.items()]
    return sorted(rasters + tiffs + zarrs + more, key=lambda seed: seed.name)


# ---------------------------------------------------------------------------------------------------------------- TIFF


def _tiff(pixels: np.ndarray, **settings: Any) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, pixels, **({"metadata": None} | settings))
    return stream.getvalue()


def _stack(*shape: int, dtype: str = "uint8") -> np.ndarray:
    return np.random.default_rng(3).integers(0, 200, shape).astype(dtype)


_RGB, _GREY, _TILE = picture(channels=3), picture(), (16, 32)
UUID = "00000000-0000-4000-8000-000000000000"
"""Of OME-XML: tifffile would draw another one each time."""
_TIFFS: dict[str, dict[str, Any]] = {
    "strips": {"pixels": _GREY, "rowsperstrip": 16},
    "tiled-16": {"pixels": picture(dtype="uint16"), "tile": _TILE},
    "zlib-rgb": {"pixels": _RGB, "tile": _TILE, "compression": "zlib", "predictor": True},
    "zlib-strips": {"pixels": _GREY, "rowsperstrip": 9, "compression": "zlib"},
    "planar": {"pixels": np.moveaxis(_RGB, -1, 0), "tile": _TILE, "planarconfig": "separate", "photometric": "rgb"},
    "big-zstd": {"pixels": _RGB, "tile": _TILE, "compression": "zstd", "bigtiff": True},
    "big-endian-lzw": {"pixels": picture(dtype="uint16"), "rowsperstrip": 8, "compression": "lzw", "byteorder": ">"},
    "packbits": {"pixels": _GREY, "compression": "packbits"},
    "lzma": {"pixels": _GREY, "tile": _TILE, "compression": "lzma"},
    "jpeg": {"pixels": _RGB, "tile": _TILE, "compression": "jpeg"},
    "jpeg-grey": {"pixels": _GREY, "rowsperstrip": 16, "compression": "jpeg"},
    "jpeg2000": {"pixels": _RGB, "tile": _TILE, "compression": "jpeg2000"},
    "webp": {"pixels": _RGB, "tile": _TILE, "compression": "webp"},
    "png": {"pixels": _RGB, "tile": _TILE, "compression": "png"},
    "jpegxl": {"pixels": _RGB, "tile": _TILE, "compression": "jpegxl"},
    "lerc": {"pixels": picture(dtype="float32"), "tile": _TILE, "compression": "lerc"},
    "float-predictor": {"pixels": picture(dtype="float32"), "compression": "zlib", "predictor": 3},
    "float64": {"pixels": picture(dtype="float64")},
    "float16": {"pixels": picture(dtype="float16"), "compression": "zlib"},
    "int8": {"pixels": picture(dtype="int8")},
    "int32": {"pixels": picture(dtype="int32"), "rowsperstrip": 10},
    "complex": {"pixels": picture(dtype="complex64")},
    "bits": {"pixels": _GREY > 100, "bitspersample": 1},
    "white": {"pixels": _GREY, "photometric": "miniswhite"},
    "cmyk": {"pixels": picture(channels=4), "photometric": "separated"},
    "alpha": {"pixels": picture(channels=4), "photometric": "rgb", "extrasamples": ["unassalpha"]},
    "channels-7": {"pixels": picture(channels=7), "photometric": "minisblack", "planarconfig": "contig"},
    "turned": {"pixels": _RGB, "extratags": [(274, 3, 1, 6, True)]},
    "pages": {"pixels": _stack(3, 20, 24), "photometric": "minisblack"},
    "shaped": {"pixels": _stack(3, 2, 20, 24), "photometric": "minisblack", "metadata": {"axes": "TZYX"}},
    "truncated-shaped": {"pixels": _stack(4, 20, 24), "photometric": "minisblack", "truncate": True, "metadata": {}},
    "volume": {"pixels": _stack(6, 20, 24), "tile": (2, 16, 16), "photometric": "minisblack", "volumetric": True},
    "imagej": {"pixels": _stack(2, 3, 2, 20, 24, dtype="uint16"), "imagej": True,
               "metadata": {"axes": "TZCYX", "unit": "um", "spacing": 0.5}, "resolution": (4.0, 4.0)},
    "ome": {"pixels": _stack(2, 3, 2, 20, 24, dtype="uint16"), "ome": True, "metadata": {
        "axes": "TZCYX", "UUID": UUID, "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5, "Channel": {"Name": ["DAPI", "GFP"]}}},
    "ome-rgb": {"pixels": _RGB, "ome": True, "tile": _TILE, "compression": "zlib", "metadata": {"axes": "YXS", "UUID": UUID}},
    "aperio": {"pixels": _RGB, "tile": _TILE, "compression": "jpeg",
               "description": "Aperio Image Library v11\n52x40 [0,0 52x40] (16x32) JPEG/RGB Q=70|AppMag = 20|MPP = 0.4990"},
    "resolution": {"pixels": _GREY, "resolution": (20000.0, 20000.0), "resolutionunit": "CENTIMETER"},
}  # fmt: skip


def _pyramid() -> bytes:
    stream, pixels = io.BytesIO(), picture(64, 80, 3)
    with tifffile.TiffWriter(stream, ome=True) as file:
        common: dict[str, Any] = {"tile": (16, 16), "compression": "zlib", "photometric": "rgb"}
        file.write(pixels, subifds=2, metadata={"axes": "YXS", "UUID": UUID}, **common)
        file.write(pixels[::2, ::2], subfiletype=1, metadata=None, **common)
        file.write(pixels[::4, ::4], subfiletype=1, metadata=None, **common)
    return stream.getvalue()


def _two_series() -> bytes:
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream) as file:
        file.write(picture(30, 20), metadata=None)
        file.write(picture(20, 30, 3), metadata=None, photometric="rgb")
    return stream.getvalue()


def _palette() -> bytes:
    colours = np.random.default_rng(1).integers(0, 2**16, (3, 256)).astype(np.uint16)
    return _tiff(_GREY, photometric="palette", colormap=colours)


def _giant_strip() -> bytes:
    """One strip of 72 MB, in few bytes: it is decoded as a stream."""
    return _tiff(np.zeros((7200, 10000), np.uint8), rowsperstrip=7200, compression="zlib")


# ------------------------------------------------------------------------------------------------------------- rasters


def _pillow(kind: str, pixels: np.ndarray | Image.Image, **settings: Any) -> Callable[[], bytes]:
    def make() -> bytes:
        stream = io.BytesIO()
        image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
        image.save(stream, kind, **settings)
        return stream.getvalue()

    return make


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk with its length and its checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


PNG_HEAD = b"\x89PNG\r\n\x1a\n"
_ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))


def _interlaced() -> bytes:
    """RGB of 8 bits in the seven passes of Adam7, which Pillow does not write."""
    passes = [_RGB[y::down, x::across] for y, x, down, across in _ADAM7]
    rows = b"".join(b"\0" + row.tobytes() for part in passes for row in part)
    header = struct.pack(">IIBBBBB", _RGB.shape[1], _RGB.shape[0], 8, 2, 0, 0, 1)
    body = ((b"IHDR", header), (b"pHYs", struct.pack(">IIB", 5000, 5000, 1)), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return PNG_HEAD + b"".join(png_chunk(kind, data) for kind, data in body)


def _deep_rgb() -> bytes:
    import imagecodecs

    return bytes(imagecodecs.png_encode(picture(channels=3, dtype="uint16")))


def _turned() -> Image.Exif:
    exif = Image.Exif()
    exif[274], exif[282], exif[283], exif[296], exif[305] = 6, 300.0, 300.0, 2, "i2i"
    return exif


_IMAGE = Image.fromarray(_RGB)
_ALPHA = Image.fromarray(picture(channels=4))
_RASTERS: dict[str, Callable[[], bytes]] = {
    "png-grey": _pillow("PNG", _GREY, dpi=(3000, 3000)),
    "png-rgb": _pillow("PNG", _RGB, exif=_turned()),
    "png-alpha": _pillow("PNG", _ALPHA),
    "png-16": _pillow("PNG", picture(dtype="uint16")),
    "png-16-rgb": _deep_rgb,
    "png-palette": _pillow("PNG", _IMAGE.quantize(20), transparency=3),
    "png-1": _pillow("PNG", Image.fromarray(_GREY).convert("1")),
    "png-interlaced": _interlaced,
    "png-frames": _pillow("PNG", _IMAGE, save_all=True, append_images=[_IMAGE.rotate(90)]),
    "jpg-grey": _pillow("JPEG", _GREY),
    "jpg-rgb": _pillow("JPEG", _RGB, exif=_turned()),
    "jpg-progressive": _pillow("JPEG", _RGB, progressive=True, restart_marker_blocks=2),
    "jpg-cmyk": _pillow("JPEG", _IMAGE.convert("CMYK")),
    "webp-lossy": _pillow("WEBP", _RGB, exif=_turned()),
    "webp-lossless": _pillow("WEBP", _ALPHA, lossless=True),
    "webp-frames": _pillow("WEBP", _IMAGE, save_all=True, append_images=[_IMAGE.rotate(90)]),
    "bmp-rgb": _pillow("BMP", _RGB),
    "bmp-grey": _pillow("BMP", _GREY),
    "bmp-1": _pillow("BMP", Image.fromarray(_GREY).convert("1")),
}


# ---------------------------------------------------------------------------------------------------------------- Zarr


def _folder(make: Callable[[Path], None]) -> Files:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "image.zarr"
        make(root)
        paths: Sequence[Path] = sorted(path for path in root.rglob("*") if path.is_file())
        return {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}


def _axes(names: str) -> list[dict[str, str]]:
    kinds = {"t": "time", "c": "channel"}
    return [
        {"name": name, "type": kinds.get(name, "space"), **({"unit": "micrometer"} if name in "yx" else {})} for name in names
    ]


def _multiscale(names: str, levels: int) -> dict[str, Any]:
    scales = [[0.5 * 2**level if name in "yx" else 1.0 for name in names] for level in range(levels)]
    datasets = [
        {"path": str(level), "coordinateTransformations": [{"type": "scale", "scale": scale}]}
        for level, scale in enumerate(scales)
    ]
    return {"axes": _axes(names), "datasets": datasets}


def _image(root: Path, version: int, names: str, pixels: np.ndarray, levels: int = 1, **settings: Any) -> None:
    """An OME-Zarr image; each level has half the pixels of the last one."""
    import zarr

    group = zarr.create_group(root, zarr_format=version)
    more: dict[str, Any] = {"dimension_names": list(names)} if version == 3 else {}
    for level in range(levels):
        part = pixels[..., :: 2**level, :: 2**level]
        array = group.create_array(str(level), shape=part.shape, dtype=part.dtype, **more, **settings)
        array[...] = part
    ome: dict[str, Any] = {"multiscales": [_multiscale(names, levels) | ({} if version == 3 else {"version": "0.4"})]}
    if "c" in names:
        ome["omero"] = {"channels": [{"label": f"channel {i}"} for i in range(pixels.shape[names.index("c")])]}
    group.update_attributes({"ome": {"version": "0.5", **ome}} if version == 3 else ome)


def _zarr_3(root: Path) -> None:
    _image(root, 3, "czyx", _stack(2, 2, 24, 28, dtype="uint16"), 2, chunks=(1, 1, 16, 16))


def _zarr_2(root: Path) -> None:
    _image(root, 2, "tcyx", _stack(2, 3, 24, 28), 2, chunks=(1, 3, 16, 16))


def _zarr_shards(root: Path) -> None:
    _image(root, 3, "yx", _stack(48, 48), chunks=(8, 8), shards=(24, 24))


def _zarr_plain(root: Path) -> None:
    import zarr

    array = zarr.create_array(root, shape=(24, 28), dtype="float32", chunks=(16, 16), zarr_format=3, compressors=None)
    array[...] = picture(24, 28, dtype="float32")


def _zarr_series(root: Path) -> None:
    """As bioformats2raw writes several images."""
    import zarr

    for name in ("0", "1"):
        _image(root / name, 2, "yx", _stack(20, 24), chunks=(16, 16))
    zarr.create_group(root, zarr_format=2, attributes={"bioformats2raw.layout": 3})
    zarr.create_group(root / "OME", zarr_format=2, attributes={"series": ["0", "1"]})


_ZARRS: dict[str, Callable[[Path], None]] = {
    "3": _zarr_3, "2": _zarr_2, "shards": _zarr_shards, "plain": _zarr_plain, "series": _zarr_series,
}  # fmt: skip
