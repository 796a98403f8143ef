"""Style transfer by optimisation (Gatys, Ecker and Bethge, CVPR 2016), from small to full size, for pictures of any size that the
memory holds a few times: the network sees them window by window (:mod:`i2i_style.objective`).

A stage is a size; each begins with the last one's picture, enlarged (Gatys et al., "Controlling Perceptual Factors in Neural
Style Transfer", CVPR 2017, section 6). Between stages the picture lies in the upper left corner of the canvas."""

from __future__ import annotations

import copy
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from i2i.backends import dtype_of
from i2i.contracts import Array, Footprint, ImagePredictor, ImageSpec, ImageWork, Output, Runtime, Source
from i2i.errors import UsageError
from i2i.geometry import Grid, Region, round_up
from i2i_style.animation import LONGEST
from i2i_style.colours import Colours, as_kept, luminance, with_luminance
from i2i_style.convolve import WORKSPACE, can_winograd
from i2i_style.encoder import Encoder, EncoderConfig
from i2i_style.encoders import find_encoder, known_layers
from i2i_style.layers import content_layers, style_layers
from i2i_style.losses import blended
from i2i_style.objective import Objective, StyleTarget, Weights, grams_of, tiles_of
from i2i_style.optimizers import Optimizer, make_optimizer, vectors
from i2i_style.options import StylizeOptions
from i2i_style.pixels import shown, shrunk, to_array, to_tensor
from i2i_style.regions import check_mask, parse_masks, read_mask
from i2i_style.results import as_output, outputs, working_size
from i2i_style.styles import Rgb, Style, open_rgb, parse_styles, read_rgb, to_rgb

DEFAULT_SIZE = 512
SMALLEST = 128
"""Longer side of the first size that multi-scale goes through, in pixels."""
STEPS = 150
HISTORY = 10
LEAST_HISTORY = 3
_FRAMES = 48
"""Of an animation."""
_KEEP_SECONDS = 30.0
_CORE = 448
_TRIES = 4
"""Evaluations by which the time of all is told; the first ones take longer, for the memory is not the process's own yet."""
_SHOWN_BYTES = 15
"""A pixel of a picture on its way to a file, or to the canvas."""


@dataclass(frozen=True)
class Scale:
    """One size of the picture: height and width, and how many evaluations it gets; ``before``: those of the smaller sizes."""

    height: int
    width: int
    steps: int
    before: int

    @property
    def size(self) -> tuple[int, int]:
        return self.height, self.width

    @property
    def name(self) -> str:
        return f"{max(self.size)}px"


def scales_of(size: tuple[int, int], options: StylizeOptions) -> list[Scale]:
    """From small to large, each about twice the one before, the last one ``size``."""
    most = 1 + int(math.log2(max(size)))
    count = min(most, options.scales or 1 + max(0, math.ceil(math.log2(max(size) / SMALLEST) - 0.5)))
    found: list[Scale] = []
    for halvings in reversed(range(count)):
        height, width = (max(1, round(length / 2**halvings)) for length in size)
        steps = math.ceil((options.steps or STEPS) * min(1.0, DEFAULT_SIZE / max(height, width)))
        found.append(Scale(height, width, steps, sum(scale.steps for scale in found)))
    return found


_MOST_TARGETS = 64
"""Sizes and styles whose Gram matrices are kept for the next image: 2.4 MB each at most of the encoders there are."""


class GatysPredictor(ImagePredictor):
    """``encoder`` on its device, in its precision; ``options`` as the command line has them."""

    gray_as_rgb = True

    def __init__(self, encoder: Encoder, options: StylizeOptions, runtime: Runtime) -> None:
        known = [layer.name for layer in encoder.config.layers]
        self.options = options
        self.styles = parse_styles(options.style) if options.beta or options.style else ()
        self.masks = parse_masks(options.mask, self.styles)
        self.weights = _weights(options, known)
        self.encoder = encoder.to(runtime.device, dtype_of(runtime.precision), memory_format=torch.channels_last)  # type: ignore[call-overload]
        last = encoder.config.layers[-1]
        self.footprint = Footprint(halo=last.reach, multiple_of=last.stride, channels_in=3, channels_out=3)
        self.window_bytes = window_bytes(encoder.config, 4 if runtime.precision == "fp32" else 2)
        self.device = runtime.device
        self.outputs = outputs(ImageSpec(1, 1, 3))
        self.colours: Colours | None = None
        self.optimizer, self.history = options.optimizer, HISTORY
        self.snapshots = options.save_every > 0
        self.keep_content = True
        self._can_winograd = can_winograd(torch.device(runtime.device), dtype_of(runtime.precision))
        self.winograd = False
        self._targets: dict[tuple[Path, int], dict[str, Tensor]] = {}  # of styles, by size: shared by all images of a run
        self._lock = threading.Lock()

    # --------------------------------------------------------------------------------------------- before the first pixel

    def fitted(self, spec: ImageSpec) -> Self:
        result = copy.copy(self)
        result.outputs = outputs(spec)
        result.size = working_size(self.options.size, spec, DEFAULT_SIZE)
        for mask in self.masks:
            check_mask(mask, (spec.height, spec.width))
        if self.options.size == "auto" and result.size != (spec.height, spec.width):
            made = f"{result.size[1]} x {result.size[0]}"
            result.remarks = (f"made {made} pixels; --size full keeps {spec.width} x {spec.height}, --size N gives another",)
        return result

    def within(self, spec: ImageSpec, room: int) -> Self:
        """What is held besides windows: the picture, the content, the optimiser's vectors. L-BFGS takes as many pairs as there is
        room for, a window of good size set aside; below ``LEAST_HISTORY`` Adam takes its place."""
        result = copy.copy(self)
        pixels = spec.height * spec.width
        fixed = pixels * (12 + _SHOWN_BYTES + 3 * np.dtype(spec.dtype).itemsize) + self._mask_bytes(pixels)
        free = room - fixed - self._least_window(spec)
        if self.optimizer == "lbfgs":
            fitting = [m for m in range(LEAST_HISTORY, HISTORY + 1) if 12 * pixels * vectors("lbfgs", m) <= free]
            result.optimizer, result.history = ("lbfgs", fitting[-1]) if fitting else ("adam", 0)
            told = (
                f"L-BFGS with {result.history} pairs" if fitting else "Adam in place of L-BFGS, for which --memory is too small"
            )
            if result.history < HISTORY:
                result.remarks = (*self.remarks, f"optimiser: {told}")
        result.held_bytes = fixed + 12 * pixels * vectors(result.optimizer, result.history)
        if result.held_bytes + self._least_window(spec) > room:
            needed = (result.held_bytes + self._least_window(spec) - room) / 1e9
            raise UsageError(
                f"--memory: {spec.width} x {spec.height} pixels need {needed:.1f} GB more for each image at a time; give a "
                "smaller --size, fewer --jobs, or take --fast"
            )
        kept = int(pixels * self._content_bytes())
        result.keep_content = result.held_bytes + kept + self._least_window(spec) <= room
        if result.keep_content:
            result.held_bytes += kept
        result.winograd = self._can_winograd and result.held_bytes + WORKSPACE + self.window_bytes * pixels <= room
        result.held_bytes += WORKSPACE if result.winograd else 0
        return result

    def _least_window(self, spec: ImageSpec) -> int:
        """Bytes of the smallest window worth having."""
        return self.window_bytes * min(self._side, spec.height) * min(self._side, spec.width)

    @property
    def _side(self) -> int:
        """Of a window of which the halo is not most; the styles are seen in such, whatever the content's are."""
        return 2 * round_up(self.footprint.halo, self.footprint.multiple_of) + _CORE

    def _mask_bytes(self, pixels: int) -> int:
        return 4 * pixels * sum(mask is not None for mask in self.masks)

    def _content_bytes(self) -> float:
        """That the kept answers to the content take for a pixel."""
        size = self.encoder.convolution("conv1_1").weight.element_size()
        return sum(
            layer.channels * size / layer.stride**2 for layer in self.encoder.config.layers if layer.name in self.weights.content
        )

    def prepare(self, source: Source, seed: int) -> Self:
        """Measure the content's colours, where they are kept; and see all pictures that are named once, small: what is wrong with
        one is told before anything is begun."""
        result = copy.copy(self)
        if self.options.keep_colors != "none":
            result.colours = Colours.of_source(source, seed)
        first = scales_of((source.spec.height, source.spec.width), self.options)[0]
        result._style_targets(first)
        if self.options.init not in ("content", "noise"):
            read_rgb(Path(self.options.init), max(first.size))
        return result

    def statistics(self) -> dict[str, Any]:
        return {"colours": self.colours.as_mapping()} if self.colours else {}

    def with_statistics(self, statistics: Mapping[str, Any]) -> Self:
        result = copy.copy(self)
        result.colours = Colours.from_mapping(statistics["colours"]) if statistics else None
        return result

    def normalize(self, pixels: Array) -> npt.NDArray[np.float32]:
        return to_rgb(pixels)

    def convert(self, raw: npt.NDArray[np.float32], output: Output) -> Array:
        return as_output(raw, output)

    # ------------------------------------------------------------------------------------------------------------ a stage

    def stages(self, spec: ImageSpec) -> tuple[str, ...]:
        return tuple(scale.name for scale in scales_of((spec.height, spec.width), self.options))

    def seconds(self, source: Source, grid: Grid) -> float:
        """From an evaluation of one window, at all sizes."""
        spec = source.spec
        scales = scales_of((spec.height, spec.width), self.options)
        size = (min(spec.height, grid.window_shape[0]), min(spec.width, grid.window_shape[1]))
        targets = [replace(target, mask=None) for target in self._style_targets(scales[0])]
        x = torch.full((1, 3, *size), 0.5, device=self.device)
        tiles = tiles_of(size, self.encoder.config, size)
        tried = Objective(self.encoder, size, tiles, self.weights, targets, lambda _: x, winograd=self.winograd)
        taken = []
        for _ in range(_TRIES):
            begun = time.monotonic()
            tried(x)
            taken.append(time.monotonic() - begun)
        pixel = min(taken) / (size[0] * size[1])
        return sum(scale.steps * pixel * _computed(scale, self.encoder.config, grid) for scale in scales)

    def run(self, stage: str, work: ImageWork) -> None:
        spec = work.source.spec
        scales = scales_of((spec.height, spec.width), self.options)
        number = next(i for i, scale in enumerate(scales) if scale.name == stage)
        scale = scales[number]
        picture = shrunk(work.source, scale.size)
        x = self._minimised(picture, scales[: number + 1], scales[-1].before + scales[-1].steps, work)
        region = Region(0, 0, *scale.size)
        work.canvas.write(region, self._finished(x, picture) if scale is scales[-1] else to_array(x))

    def _minimised(self, picture: Array, scales: Sequence[Scale], all_steps: int, work: ImageWork) -> Tensor:
        """The picture of the last of ``scales``: (1, 3, H, W)."""
        objective = self._objective(scales[-1], work, picture)
        optimizer = make_optimizer(self.optimizer, self.options.rate, self.history)
        saved = work.checkpoint.load()
        if saved is None:
            x, step = self._start(scales, work, picture), 0
        else:
            x, step = torch.tensor(saved.pop("x")).to(self.device), int(saved.pop("step"))  # a copy, aligned as torch likes it
            optimizer.restore(saved, x)
        every = max(1, all_steps // _FRAMES)
        self._minimise(x, step, scales[-1], objective, optimizer, work, partial(self._show, picture, every, work))
        return x

    def _minimise(
        self, x: Tensor, step: int, scale: Scale, objective: Objective, optimizer: Optimizer, work: ImageWork,
        show: Callable[[Tensor, int], None],
    ) -> None:  # fmt: skip
        """Take the steps that are left, with a checkpoint now and then and at the end."""
        last, interval = time.monotonic(), _KEEP_SECONDS

        def keep(done: int) -> None:
            work.checkpoint.save({"x": x.cpu().numpy(), "step": np.array(done), **optimizer.state()})

        while step < scale.steps:
            loss = optimizer.step(x, objective)
            if not math.isfinite(loss):
                raise UsageError(f"the loss is no longer finite after {scale.before + step} steps; lower --rate, or --beta")
            step += 1
            work.progress(step / scale.steps)
            show(x, scale.before + step)
            if time.monotonic() - last > interval and step < scale.steps:
                begun = time.monotonic()
                keep(step)
                last = time.monotonic()
                interval = max(_KEEP_SECONDS, 20 * (last - begun))
        keep(step)

    def _show(self, picture: Array, every: int, work: ImageWork, x: Tensor, step: int) -> None:
        """Pictures on the way, for those who asked, as the result is made."""
        asked = self.options.save_every and step % self.options.save_every == 0
        framed = work.frame is not None and step % every == 0
        if not (asked or framed):
            return
        x = to_tensor(self._finished(x, picture))
        if asked:
            work.snapshot(step, shown(x))
        if framed and work.frame is not None:
            factor = min(1.0, LONGEST / max(x.shape[2:]))
            size = [max(1, round(length * factor)) for length in x.shape[2:]]
            work.frame(step, shown(x if factor == 1 else functional.interpolate(x, size, mode="bilinear", antialias=True)))

    def _content(self, picture: Array) -> Rgb:
        """What the network is shown of the content: with ``--keep-colors luminance`` its luminance alone."""
        seen = to_rgb(picture)
        return luminance(seen).repeat(3, 2) if self.options.keep_colors == "luminance" else seen

    def _finished(self, x: Tensor, picture: Array) -> Rgb:
        found = to_array(x)
        return with_luminance(to_rgb(picture), luminance(found)) if self.options.keep_colors == "luminance" else found

    def _start(self, scales: Sequence[Scale], work: ImageWork, picture: Array) -> Tensor:
        """The picture that the last of ``scales`` begins with: (1, 3, H, W)."""
        size = scales[-1].size
        if len(scales) > 1:
            smaller = to_tensor(work.canvas.read(Region(0, 0, *scales[-2].size))).to(self.device)
            return functional.interpolate(smaller, size, mode="bicubic", align_corners=False).contiguous()
        if self.options.init == "content":
            return to_tensor(self._content(picture)).to(self.device)
        if self.options.init == "noise":
            random = torch.Generator().manual_seed(work.seed)
            return (0.5 + 0.25 * torch.randn((1, 3, *size), generator=random)).to(self.device)
        given = to_tensor(read_rgb(Path(self.options.init), max(size)))
        return functional.interpolate(given, size, mode="bilinear", antialias=True).contiguous().to(self.device)

    def _objective(self, scale: Scale, work: ImageWork, picture: Array) -> Objective:
        def read(region: Region) -> Tensor:
            return to_tensor(self._content(picture[region.slices])).to(self.device)

        tiles = tiles_of(scale.size, self.encoder.config, work.grid.window_shape)
        targets = self._style_targets(scale)
        return Objective(self.encoder, scale.size, tiles, self.weights, targets, read, self.keep_content, self.winograd)

    # ------------------------------------------------------------------------------------------------------------- styles

    def _style_targets(self, scale: Scale) -> list[StyleTarget]:
        if not self.weights.style:
            return []
        grams = [self._style_grams(style, max(scale.size)) for style in self.styles]
        if not self.masks:
            names, shares = self.weights.style, [style.weight for style in self.styles]
            return [StyleTarget({name: blended([each[name] for each in grams], shares) for name in names})]
        return [
            StyleTarget(each, read_mask(mask, scale.size).to(self.device), style.weight * len(self.styles))
            for style, mask, each in zip(self.styles, self.masks, grams, strict=True)
        ]

    def _style_grams(self, style: Style, longest: int) -> dict[str, Tensor]:
        """The Gram matrices of a style picture as it belongs to a picture whose longer side is ``longest``; computed once, where
        they do not depend on the content's colours."""
        with self._lock:
            if (style.path, longest) in self._targets:
                return self._targets[style.path, longest]
            found = self._measure(style, max(1, round(longest * self.options.style_scale)))
            if self.colours is None:
                if len(self._targets) >= _MOST_TARGETS:  # a folder of pictures of all sizes
                    self._targets.clear()
                self._targets[style.path, longest] = found
            return found

    def _measure(self, style: Style, longest: int) -> dict[str, Tensor]:
        """Of a style picture at that size, window by window."""
        with closing(open_rgb(style.path, longest)) as source:
            size = (source.spec.height, source.spec.width)
            content = self.colours
            change = as_kept(self.options.keep_colors, Colours.of_source(source, 0), content) if content else None

            def read(region: Region) -> Tensor:
                pixels = source.read(region)
                return to_tensor(change(pixels) if change else pixels).to(self.device)

            tiles = tiles_of(size, self.encoder.config, (self._side, self._side))
            return grams_of(self.encoder, read, size, tiles, tuple(self.weights.style))


def _weights(options: StylizeOptions, known: Sequence[str]) -> Weights:
    content = content_layers(options.content_layers, known) if options.alpha else {}
    style = style_layers(options.style_layers, known) if options.beta else {}
    if not (content or style):
        raise UsageError("--alpha 0 --beta 0: there is nothing to make the picture from; give one of them a weight")
    return Weights(
        {name: options.alpha * weight for name, weight in content.items()},
        {name: options.beta * weight for name, weight in style.items()},
        options.tv,
        options.content_loss == "sum",
    )


def window_bytes(config: EncoderConfig, size: int) -> int:
    """Bytes that forward and backward take for a pixel of a window, with answers of ``size`` bytes: those kept for the way back,
    three of the widest layers on the way, and what is in fp32 whatever the size."""
    values = [layer.channels / layer.stride**2 for layer in config.layers]
    return int(size * (sum(values) + 3 * max(values)) + 64)


def _computed(scale: Scale, config: EncoderConfig, grid: Grid) -> float:
    """Pixels that an evaluation passes forward and back. Of several windows each is passed forward twice, a third of the work of
    both."""
    tiles = tiles_of(scale.size, config, grid.window_shape)
    return sum(tile.window.area for tile in tiles) * (1 if len(tiles) == 1 else 4 / 3)


def load(options: StylizeOptions, runtime: Runtime) -> GatysPredictor:
    """The predictor of ``i2i stylize`` without a model. Raises ``UsageError`` or ``ModelError``."""
    known = known_layers(options.encoder)
    weights = _weights(options, known)
    found = find_encoder(options.encoder, weights.layers, options.pooling)
    predictor = GatysPredictor(found.encoder, options, runtime)
    predictor.parts = (found.model,)
    return predictor
