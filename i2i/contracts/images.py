"""Images as the engine sees them: what is known of one, where pixels come from, what a network needs around them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from i2i.errors import PluginError
from i2i.geometry import Border, Region

Array: TypeAlias = npt.NDArray[Any]
Meaning = Literal["image", "probabilities", "classes", "labels"]
"""What the pixels of an output are: it decides how pyramids are made and which formats can hold them."""


@dataclass(frozen=True)
class ImageSpec:
    """What is known of an image before a pixel is read.

    ``dtype``: numpy's name. ``pixel_size``: height and width of a pixel in micrometres. ``planes``: the axes besides Y, X
    and channels with their lengths, outermost first, such as ``(("t", 3), ("z", 15))``. ``levels``: (height, width) of
    each resolution, full size first; empty means one. ``notes``: what the reader had to assume; each becomes a warning.
    ``remarks``: what it does that costs time or room and changes no pixel: shown, and no warning.
    ``plane_names``: of each plane in C order, such as ``z=3``, where they do not count from 0: of an image of which some were
    chosen. ``chosen``: the axes of which one plane was chosen, and its number in the file. ``tiling``: height and width of the
    tiles, strips or chunks that the file stores, where it has any. ``rgb``: whether
    three channels are red, green and blue, as far as the file tells; None: it does not, or they are not three. ``steps``: how
    far apart the planes of an axis are: of ``z`` in micrometres, of ``t`` in seconds, where that is known. ``name``: what the
    file calls the image. ``profile``: the ICC profile of its colours, if it has one that is for its channels. ``dpi``: dots for
    each inch, down and across, on paper, of a picture whose resolution is not that of a measuring instrument.
    ``channel_colours``: of every channel that has a name, as viewers are to show it: ``RRGGBB`` in hex.
    """

    height: int
    width: int
    channels: int = 1
    dtype: str = "uint8"
    pixel_size: tuple[float, float] | None = None
    channel_names: tuple[str, ...] = ()
    planes: tuple[tuple[str, int], ...] = ()
    levels: tuple[tuple[int, int], ...] = ()
    notes: tuple[str, ...] = ()
    tiling: tuple[int, int] | None = None
    remarks: tuple[str, ...] = ()
    plane_names: tuple[str, ...] = ()
    rgb: bool | None = None
    steps: tuple[tuple[str, float], ...] = ()
    name: str = ""
    profile: bytes = field(default=b"", repr=False)
    dpi: tuple[float, float] | None = None
    channel_colours: tuple[str, ...] = ()
    chosen: tuple[tuple[str, int], ...] = ()

    @property
    def region(self) -> Region:
        return Region(0, 0, self.height, self.width)

    @property
    def plane_count(self) -> int:
        return int(np.prod([length for _, length in self.planes], dtype=np.int64))

    @property
    def bytes(self) -> int:
        """Size of one plane at full resolution, uncompressed."""
        return self.height * self.width * self.channels * np.dtype(self.dtype).itemsize


class Source(Protocol):
    """Something that pixels are read from by region: a file, a view of one, a canvas. It may have more, which
    :func:`i2i.formats.views.missing_tiles` and :func:`i2i.formats.views.read_channels` look for."""

    @property
    def spec(self) -> ImageSpec: ...

    def read(self, region: Region, plane: int = 0, level: int = 0) -> Array:
        """The pixels of ``region`` (inside the image, in pixels of ``level``) of the plane counted in C order of
        ``spec.planes``: (height, width, channels), in ``spec.dtype``. Raises ``InputError`` when they cannot be decoded."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Output:
    """A kind of result that the user asks for with ``--as``: its name, channels, numpy dtype and meaning. ``keeps_channels``:
    each channel is made of the input's channel of the same number, and has its name."""

    name: str
    channels: int
    dtype: str
    meaning: Meaning
    channel_names: tuple[str, ...] = ()
    keeps_channels: bool = False


@dataclass(frozen=True)
class Footprint:
    """What a network needs and gives, in pixels of its input. From it follows whether tiling is exact.

    ``halo``: context on each side of a pixel. ``multiple_of``: the network's total stride: sizes and origins of windows
    are multiples of it. ``pad``: the value, or one for each channel, after normalisation, that fills the bottom and right up to
    a multiple; ``mirror``: they are mirrored.
    ``border``: beyond the image lies the network's own zero padding (``zero``: it gives as many pixels as it sees) or
    mirrored pixels (``mirror``: it gives the window less the halo, rounded up to ``multiple_of``, on each side).
    ``scale``: output pixels for each input pixel along an axis. ``channels_out``: of the raw output. ``merge``: cores are
    cropped, or windows blended. ``norm_scope="image"``: the network normalises over all that it sees, so no tiling is
    exact. ``fixed_tile``: the only window (height and width) that the network takes.
    """

    halo: int = 0
    multiple_of: int = 1
    pad: float | tuple[float, ...] | Literal["mirror"] = 0.0
    border: Border = "zero"
    scale: int = 1
    channels_in: int = 1
    channels_out: int = 1
    merge: Literal["crop", "blend"] = "crop"
    norm_scope: Literal["pixel", "image"] = "pixel"
    fixed_tile: int | None = None

    def __post_init__(self) -> None:
        if min(self.multiple_of, self.scale, self.channels_in, self.channels_out) < 1 or self.halo < 0:
            raise PluginError(f"footprint with a size below its minimum: {self}")
        if self.fixed_tile is not None and self.fixed_tile % self.multiple_of:
            raise PluginError(f"footprint: fixed_tile {self.fixed_tile} is no multiple of {self.multiple_of}")

    @property
    def exact(self) -> bool:
        """Whether the tiled result is the whole-image result."""
        return self.merge == "crop" and self.norm_scope == "pixel"
