"""Even out the illumination of an image: vignetting, shading, a glow

The first line above is what ``i2i --help`` shows; it is read from this file, without importing it.

Each pixel is compared with its background, a Gaussian mean of its surroundings. That is a local filter, so the engine can
tile it and get the very pixels of an untiled run: the footprint says how far the filter looks. What no tile can know, the
brightness of the whole image, is measured once, in ``prepare``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, Any, Self

import numpy as np

import i2i
from i2i.contracts import DensePredictor, Footprint, ImageSpec, Model, Output, Runtime, Source, Task
from i2i.errors import UsageError
from i2i.normalize import sample_pixels
from i2i.options import option

if TYPE_CHECKING:  # torch is imported where it is used, so that i2i flatten --help is quick
    import torch

I2I_API = 1
GAIN = 8.0
"""Dividing makes a pixel at most so many times brighter or darker."""


@dataclass(frozen=True)
class FlattenOptions:
    """Each field is an option of ``i2i flatten`` and a keyword of ``i2i.run("flatten", ...)``."""

    sigma: float = option(50.0, help="width of the Gaussian, in pixels: larger than what is to be kept", minimum=0.5)
    method: str = option("divide", choices=("divide", "subtract"), help="divide for vignetting, subtract for a glow")


class Flatten(DensePredictor):
    """The filter for images like ``spec``. ``levels``: the mean of each channel, which the result keeps; known once prepared."""

    def __init__(self, options: FlattenOptions, spec: ImageSpec, levels: Sequence[float] = ()) -> None:
        self.options, self.spec, self.levels = options, spec, tuple(levels)
        channels = spec.channels
        self.footprint = Footprint(halo=ceil(3 * options.sigma), border="mirror", channels_in=channels, channels_out=channels)
        self.outputs = (Output("image", channels, spec.dtype, "image", spec.channel_names),)
        self.window_bytes = 32 * channels  # measured; the planner chooses the window by it

    # -------------------------------------------------------------------------- what is known before a window is

    def fitted(self, spec: ImageSpec) -> Self:
        """The filter for an image's channels and dtype. (A network that takes one kind of image leaves this out.)"""
        return type(self)(self.options, spec)

    def prepare(self, source: Source, seed: int) -> Self:
        """The filter for this image's brightness, which no window alone can tell."""
        return self.with_statistics({"levels": sample_pixels(source, seed).mean(axis=0, dtype=np.float64).tolist()})

    def statistics(self) -> dict[str, Any]:
        """What a killed run needs to go on with the same filter."""
        return {"levels": list(self.levels)}

    def with_statistics(self, statistics: Mapping[str, Any]) -> Self:
        return type(self)(self.options, self.spec, **statistics)

    # ---------------------------------------------------------------------------------- what is done to a window

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) -> (N, C, H - 2 halo, W - 2 halo): with ``border="mirror"`` the halo is used up."""
        halo = self.footprint.halo
        pixels, background = batch[:, :, halo:-halo, halo:-halo], self._background(batch)
        level = batch.new_tensor(self.levels)[:, None, None]
        if self.options.method == "subtract":
            return pixels - background + level
        return pixels * (level / background).nan_to_num(1.0).clamp(1 / GAIN, GAIN)

    def _background(self, batch: torch.Tensor) -> torch.Tensor:
        """The mean of the surroundings, weighted by a Gaussian that ends at the halo: rows first, then columns."""
        import torch
        from torch.nn.functional import conv2d

        halo, channels = self.footprint.halo, batch.shape[1]
        distance = torch.arange(-halo, halo + 1, device=batch.device)
        weights = torch.exp(-0.5 * (distance / self.options.sigma) ** 2)
        row = (weights / weights.sum()).expand(channels, 1, 1, -1)
        return conv2d(conv2d(batch, row, groups=channels), row.mT, groups=channels)


def _load(options: FlattenOptions, model: Model | None, runtime: Runtime) -> Flatten:
    """``model`` is None, for the task needs none. A background of 8 bits' precision would show in the result."""
    if runtime.precision != "fp32":
        raise UsageError(f"--precision {runtime.precision}: flatten computes in fp32 only; leave the option out")
    return Flatten(options, ImageSpec(1, 1))


@i2i.hookimpl
def i2i_tasks() -> list[Task]:
    """The tasks of this plugin: i2i calls this hook."""
    summary = "Even out the illumination of an image: vignetting, shading, a glow"
    return [Task("flatten", summary, FlattenOptions, _load, needs_model=False, lossy=True)]
