"""Style transfer by optimisation (Gatys, Ecker and Bethge, CVPR 2016), from small to full size, for pictures of any size that the
memory holds a few times: the network sees them window by window (:mod:`i2i_style.objective`).

A stage is a size; each begins with the last one's picture, enlarged (Gatys et al., "Controlling Perceptual Factors in Neural
Style Transfer", CVPR 2017, section 6). Between stages the picture lies in the upper left corner of the canvas."""

from __future__ import annotations

import copy
import math
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from i2i.contracts import Array, Footprint, ImagePredictor, ImageSpec, ImageWork, Output, Runtime, Source
from i2i.errors import UsageError
from i2i.formats.resample import resampled
from i2i.geometry import Region, Tile, round_up
from i2i_style.colours import Colours, luminance, luminance_matched, matched, with_luminance
from i2i_style.encoder import Encoder, EncoderConfig
from i2i_style.encoders import find_encoder, known_layers
from i2i_style.layers import content_layers, style_layers
from i2i_style.losses import blended
from i2i_style.objective import Objective, StyleTarget, Weights, grams_of, tiles_of
from i2i_style.optimizers import Optimizer, make_optimizer, vectors
from i2i_style.options import StylizeOptions
from i2i_style.regions import check_mask, parse_masks, read_mask
from i2i_style.results import as_output, outputs, working_size
from i2i_style.styles import Rgb, Style, parse_styles, read_rgb, to_rgb

DEFAULT_SIZE = 512
SMALLEST = 128
"""Longer side of the first size that multi-scale goes through, in pixels."""
STEPS = 150
HISTORY = 10
LEAST_HISTORY = 3
_FRAMES = 48
"""Of an animation."""
_KEEP_SECONDS = 30.0
_STYLE_WINDOW = 1024


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
    count = options.scales or 1 + max(0, math.ceil(math.log2(max(size) / SMALLEST) - 0.5))
    found: list[Scale] = []
    for halvings in reversed(range(count)):
        height, width = (max(1, round(length / 2**halvings)) for length in size)
        steps = math.ceil((options.steps or STEPS) * min(1.0, DEFAULT_SIZE / max(height, width)))
        found.append(Scale(height, width, steps, sum(scale.steps for scale in found)))
    return found


class GatysPredictor(ImagePredictor):
    """``encoder`` on its device, in its precision; ``options`` as the command line has them."""

    gray_as_rgb = True

    def __init__(self, encoder: Encoder, options: StylizeOptions, runtime: Runtime) -> None:
        known = [layer.name for layer in encoder.config.layers]
        self.options = options
        self.styles = parse_styles(options.style) if options.beta or options.style else ()
        self.masks = parse_masks(options.mask, self.styles)
        self.weights = _weights(options, known)
        self.encoder = encoder.to(runtime.device, _DTYPES[runtime.precision], memory_format=torch.channels_last)  # type: ignore[call-overload]
        last = encoder.config.layers[-1]
        self.footprint = Footprint(halo=last.reach, multiple_of=last.stride, channels_in=3, channels_out=3)
        self.window_bytes = window_bytes(encoder.config, 4 if runtime.precision == "fp32" else 2)
        self.device = runtime.device
        self.outputs = outputs(ImageSpec(1, 1, 3))
        self.colours: Colours | None = None
        self.optimizer, self.history = options.optimizer, HISTORY
        self.keep_content = True
        self._targets: dict[Any, dict[str, Tensor]] = {}  # of styles, by all that they depend on: shared by all images of a run
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
        fixed = pixels * 3 * (4 + np.dtype(spec.dtype).itemsize) + self._mask_bytes(pixels)
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
                f"--memory: {spec.width} x {spec.height} pixels need {needed:.1f} GB more; give a smaller --size, or take --fast"
            )
        kept = int(pixels * self._content_bytes())
        result.keep_content = result.held_bytes + kept + self._least_window(spec) <= room
        if result.keep_content:
            result.held_bytes += kept
        return result

    def _least_window(self, spec: ImageSpec) -> int:
        """Bytes of the smallest window worth having."""
        side = 2 * round_up(self.footprint.halo, self.footprint.multiple_of) + 448
        return self.window_bytes * min(side, spec.height) * min(side, spec.width)

    def _mask_bytes(self, pixels: int) -> int:
        return 4 * pixels * sum(mask is not None for mask in self.masks)

    def _content_bytes(self) -> float:
        """That the kept answers to the content take for a pixel."""
        size = self.encoder.convolution("conv1_1").weight.element_size()
        return sum(
            layer.channels * size / layer.stride**2 for layer in self.encoder.config.layers if layer.name in self.weights.content
        )

    def prepare(self, source: Source, seed: int) -> Self:
        if self.options.keep_colors == "none":
            return self
        result = copy.copy(self)
        result.colours = Colours.of_source(source, seed)
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

    def run(self, stage: str, work: ImageWork) -> None:
        spec = work.source.spec
        scales = scales_of((spec.height, spec.width), self.options)
        number = next(i for i, scale in enumerate(scales) if scale.name == stage)
        scale = scales[number]
        picture = _shrunk(work.source, scale.size)
        content = self._content(picture)
        objective = self._objective(scale, work, content)
        optimizer = make_optimizer(self.optimizer, self.options.rate, self.history)
        saved = work.checkpoint.load()
        if saved is None:
            x, step = self._start(scale, scales[number - 1] if number else None, work, content), 0
        else:
            x, step = torch.tensor(saved.pop("x")).to(self.device), int(saved.pop("step"))  # a copy, aligned as torch likes it
            optimizer.restore(saved, x)
        self._minimise(x, step, scale, scales, objective, optimizer, work)
        region = Region(0, 0, *scale.size)
        work.canvas.write(region, self._finished(x, picture) if scale is scales[-1] else _to_array(x))

    def _minimise(
        self,
        x: Tensor,
        step: int,
        scale: Scale,
        scales: Sequence[Scale],
        objective: Objective,
        optimizer: Optimizer,
        work: ImageWork,
    ) -> None:
        """Take the steps that are left, with a checkpoint now and then and at the end."""
        last = time.monotonic()
        interval = _KEEP_SECONDS
        all_steps = scales[-1].before + scales[-1].steps
        every = max(1, all_steps // _FRAMES)

        def keep(done: int) -> None:
            work.checkpoint.save({"x": x.cpu().numpy(), "step": np.array(done), **optimizer.state()})

        while step < scale.steps:
            loss = optimizer.step(x, objective)
            if not math.isfinite(loss):
                raise UsageError(f"the loss is no longer finite after {scale.before + step} steps; lower --rate, or --beta")
            step += 1
            work.progress(step / scale.steps)
            self._show(x, scale.before + step, every, work)
            if time.monotonic() - last > interval and step < scale.steps:
                begun = time.monotonic()
                keep(step)
                last = time.monotonic()
                interval = max(_KEEP_SECONDS, 20 * (last - begun))
        keep(step)

    def _show(self, x: Tensor, step: int, every: int, work: ImageWork) -> None:
        """Pictures on the way, for those who asked."""
        asked = self.options.save_every and step % self.options.save_every == 0
        framed = work.frame is not None and step % every == 0
        if not (asked or framed):
            return
        picture = np.rint(255 * _to_array(x).clip(0, 1)).astype(np.uint8)
        if asked:
            work.snapshot(step, picture)
        if framed and work.frame is not None:
            work.frame(step, picture)

    def _content(self, picture: Array) -> Array:
        """What the network is shown of the content: with ``--keep-colors luminance`` its luminance alone."""
        if self.options.keep_colors != "luminance":
            return picture
        return luminance(to_rgb(picture)).repeat(3, 2)

    def _finished(self, x: Tensor, picture: Array) -> Rgb:
        found = _to_array(x)
        return with_luminance(to_rgb(picture), luminance(found)) if self.options.keep_colors == "luminance" else found

    def _start(self, scale: Scale, before: Scale | None, work: ImageWork, content: Array) -> Tensor:
        """The picture that a size begins with: (1, 3, H, W)."""
        if before is not None:
            smaller = _to_tensor(work.canvas.read(Region(0, 0, *before.size))).to(self.device)
            return functional.interpolate(smaller, scale.size, mode="bicubic", align_corners=False).contiguous()
        if self.options.init == "content":
            return _to_tensor(to_rgb(content)).to(self.device)
        if self.options.init == "noise":
            random = torch.Generator().manual_seed(work.seed)
            return (0.5 + 0.25 * torch.randn((1, 3, *scale.size), generator=random)).to(self.device)
        given = _to_tensor(read_rgb(Path(self.options.init)))
        return functional.interpolate(given, scale.size, mode="bilinear", antialias=True).contiguous().to(self.device)

    def _objective(self, scale: Scale, work: ImageWork, content: Array) -> Objective:
        def read(region: Region) -> Tensor:
            return _to_tensor(to_rgb(content[region.slices])).to(self.device).contiguous(memory_format=torch.channels_last)

        tiles = tiles_of(scale.size, self.encoder.config, work.grid.window_shape)
        return Objective(self.encoder, scale.size, tiles, self.weights, self._style_targets(scale, work), read, self.keep_content)

    # ------------------------------------------------------------------------------------------------------------- styles

    def _style_targets(self, scale: Scale, work: ImageWork) -> list[StyleTarget]:
        if not self.weights.style:
            return []
        window = max(work.grid.window_shape)
        grams = [self._style_grams(style, max(scale.size), min(window, _STYLE_WINDOW)) for style in self.styles]
        if not self.masks:
            names, shares = self.weights.style, [style.weight for style in self.styles]
            return [StyleTarget({name: blended([each[name] for each in grams], shares) for name in names})]
        return [
            StyleTarget(each, read_mask(mask, scale.size).to(self.device), style.weight * len(self.styles))
            for style, mask, each in zip(self.styles, self.masks, grams, strict=True)
        ]

    def _style_grams(self, style: Style, longest: int, window: int) -> dict[str, Tensor]:
        """The Gram matrices of a style picture as it belongs to a picture whose longer side is ``longest``; computed once."""
        key = (style.path, longest, self.colours)
        with self._lock:
            if key not in self._targets:
                picture = self._in_colours(read_rgb(style.path, max(1, round(longest * self.options.style_scale))))
                self._targets[key] = self._measure(picture, window)
            return self._targets[key]

    def _measure(self, picture: Rgb, window: int) -> dict[str, Tensor]:
        size = picture.shape[:2]
        tiles: list[Tile] = tiles_of((size[0], size[1]), self.encoder.config, (window, window))

        def read(region: Region) -> Tensor:
            return _to_tensor(picture[region.slices]).to(self.device).contiguous(memory_format=torch.channels_last)

        return grams_of(self.encoder, read, (size[0], size[1]), tiles, tuple(self.weights.style))

    def _in_colours(self, picture: Rgb) -> Rgb:
        """The style picture as ``--keep-colors`` has it: in the content's colours, or its luminance like the content's."""
        if self.colours is None:
            return picture
        if self.options.keep_colors == "histogram":
            return matched(picture, Colours.measured(picture), self.colours)
        return luminance_matched(luminance(picture), self.colours).repeat(3, 2)


_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


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
    and the gradients of the widest two."""
    layers = config.layers
    kept = sum(layer.channels / layer.stride**2 for layer in layers)
    pooled = sum(layer.channels_in / layer.stride**2 for layer in layers if layer.pooled)
    widest = max(layer.channels / layer.stride**2 for layer in layers)
    return int(size * (kept + pooled + 3 * widest) + 64)


def _shrunk(source: Source, size: tuple[int, int]) -> Array:
    """The source's pixels at ``size``, (H, W, C) in its dtype."""
    spec = source.spec
    if size == (spec.height, spec.width):
        return source.read(spec.region)
    smaller = resampled(source, (size[0] / spec.height, size[1] / spec.width))
    return smaller.read(Region(0, 0, *size))


def _to_tensor(picture: npt.NDArray[np.float32]) -> Tensor:
    """(H, W, 3) -> (1, 3, H, W)."""
    return torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1)))[None]


def _to_array(x: Tensor) -> npt.NDArray[np.float32]:
    return x[0].permute(1, 2, 0).cpu().numpy()


def load(options: StylizeOptions, runtime: Runtime) -> GatysPredictor:
    """The predictor of ``i2i stylize`` without a model. Raises ``UsageError`` or ``ModelError``."""
    known = known_layers(options.encoder)
    weights = _weights(options, known)
    found = find_encoder(options.encoder, weights.layers, options.pooling)
    predictor = GatysPredictor(found.encoder, replace(options), runtime)
    predictor.parts = (found.model,)
    return predictor
