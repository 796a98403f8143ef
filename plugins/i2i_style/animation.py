"""``--animate FILE.gif``: the pictures on the way of an iterative method, and the result, as an animated GIF.

All frames share one palette, and at one place one colour becomes one entry of it: what does not change does not flicker.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from i2i.contracts import Array, Exported, Exporter, Source
from i2i.errors import UsageError
from i2i.formats.resample import resampled
from i2i.geometry import Region
from i2i_style.styles import to_rgb

LONGEST = 480
"""Pixels of the longer side."""
_MOST = 120
"""Frames besides the result: of more, as many are taken at even distances."""
_FRAME_MS, _LAST_MS = 80, 2000
_COLOURS = 255  # one of 256 is left for "as in the frame before"
_SAMPLE = 64
"""Side of what the palette is chosen from of each frame."""
_BITS = 5
_DITHER = 14.0
"""By how many grey levels, from lowest to highest, the dither shifts a colour."""

Picture = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class _Palette:
    """``colours``: (N, 3) uint8. ``table``: the number of the nearest one, by the upper bits of red, green and blue."""

    colours: Picture
    table: Picture

    def numbers(self, picture: Picture) -> Picture:
        """(H, W, 3) -> (H, W): the entries nearest to the colours, which a fixed pattern has shifted (ordered dither)."""
        height, width = picture.shape[:2]
        pattern = np.tile(_BAYER, (-(-height // 8), -(-width // 8)))[:height, :width, None]
        shifted = np.clip(picture + pattern * np.float32(_DITHER), 0, 255).astype(np.uint8) >> (8 - _BITS)
        return self.table[shifted[..., 0], shifted[..., 1], shifted[..., 2]]


def _bayer(size: int) -> npt.NDArray[np.float32]:
    """Bayer's pattern, a power of two wide: each value once, evenly over -0.5 .. 0.5."""
    pattern = np.zeros((1, 1))
    while len(pattern) < size:
        pattern = np.block([[4 * pattern, 4 * pattern + 2], [4 * pattern + 3, 4 * pattern + 1]])
    return ((pattern + 0.5) / size**2 - 0.5).astype(np.float32)


_BAYER = _bayer(8)


def _palette(samples: Iterable[Picture]) -> _Palette:
    """The colours for all frames, chosen by octree from a small picture of each."""
    from PIL import Image
    from scipy.spatial import KDTree

    mosaic = Image.fromarray(np.concatenate(list(samples)))
    chosen = mosaic.quantize(_COLOURS, Image.Quantize.FASTOCTREE).convert("RGB")
    colours = np.unique(np.asarray(chosen).reshape(-1, 3), axis=0)
    steps = (np.arange(2**_BITS) + 0.5) * 2 ** (8 - _BITS) - 0.5
    corners = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), -1)
    return _Palette(colours, KDTree(colours).query(corners)[1].astype(np.uint8))


def _fitted(picture: Array, size: tuple[int, int]) -> Picture:
    """A frame of any size at ``size`` (height, width), RGB uint8."""
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(np.rint(to_rgb(picture) * 255).astype(np.uint8)))
    return np.asarray(image.resize((size[1], size[0]), Image.Resampling.BICUBIC, reducing_gap=3))


def _result(source: Source) -> Array:
    """The result, at most ``LONGEST`` pixels a side, read piece by piece."""
    factor = min(1.0, LONGEST / max(source.spec.height, source.spec.width))
    smaller = source if factor == 1 else resampled(source, (factor, factor))
    return smaller.read(Region(0, 0, smaller.spec.height, smaller.spec.width))


def _all(exported: Exported, count: int, last: Array) -> Iterator[Array]:
    """At most ``_MOST`` of the ``count`` frames, one at a time, and the result at the end."""
    wanted = set(np.linspace(0, count - 1, min(count, _MOST)).round().astype(int).tolist())
    if exported.frames is not None:
        yield from (frame for number, frame in enumerate(exported.frames()) if number in wanted)
    yield last


def _count(exported: Exported) -> int:
    return sum(1 for _ in exported.frames()) if exported.frames is not None else 0


def _export(path: Path, exported: Exported) -> None:
    """Write the GIF. Raises ``UsageError`` where the method gave no pictures on its way."""
    from PIL import Image

    count = _count(exported)
    if not count:
        raise UsageError(
            f"{path}: there are no pictures on the way to the result, which was made in one pass; leave --animate out"
        )
    last = _result(exported.result)
    size = last.shape[:2]
    sample = (min(_SAMPLE, size[0]), _SAMPLE)
    palette = _palette([_fitted(picture, sample) for picture in _all(exported, count, last)])

    def images() -> Iterator[Image.Image]:
        for picture in _all(exported, count, last):
            image = Image.fromarray(palette.numbers(_fitted(picture, size)))
            image.putpalette(palette.colours.tobytes())
            yield image

    frames = images()
    durations = [_FRAME_MS] * min(count, _MOST) + [_LAST_MS]
    next(frames).save(
        path, format="GIF", save_all=True, append_images=frames, duration=durations, loop=0, disposal=1, optimize=True,
        palette=palette.colours.tobytes(),
    )  # fmt: skip


ANIMATE = Exporter(
    name="animate",
    suffix=".gif",
    summary=f"an animated GIF of the steps to the result, at most {LONGEST} pixels a side",
    export=_export,
    meanings=("image",),
    suffixes=(".gif",),
    frames=True,
)
