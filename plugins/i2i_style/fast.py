"""``i2i stylize --fast``: one pass through encoder, style swap and decoder, for any style (:mod:`i2i_style.swap`).

What only the whole picture can tell, the moments of the encoder's answers to the content and of what they are swapped for, and
the colours of what the decoder makes, which are given those of the style, is frozen before the first window is computed; then
each pixel depends on its surroundings alone, and windows give what the whole would. Beyond the picture the engine mirrors it, so
that no edge shows."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from i2i.backends import dtype_of
from i2i.contracts import Array, DensePredictor, Footprint, ImageSpec, Model, Output, Runtime, Source
from i2i.errors import ModelError, UsageError
from i2i.frozen import sample_regions, seen
from i2i.geometry import Region, round_up
from i2i.models import find_model
from i2i_style.colours import Colours, as_kept, change_of, luminance, with_luminance
from i2i_style.decoder import LAYER, Decoder, DecoderConfig
from i2i_style.encoder import COMPACT, Encoder, Layer
from i2i_style.encoders import TASK, cards, find_encoder
from i2i_style.options import StylizeOptions
from i2i_style.pixels import to_array, to_tensor
from i2i_style.regions import Shares, check_mask, over, parse_masks, shares_bytes
from i2i_style.results import as_output, outputs, working_size
from i2i_style.styles import Rgb, Style, open_rgb, parse_styles, to_rgb
from i2i_style.swap import AXES, PATCHES, REACH, SIDE, Moments, Patches, corrected, laid, nearest

NAME = "style-swap"
STYLE_SIZE = 512
"""Longer side of a style picture, at most, where --style-scale is one."""
_LARGEST_STYLE = 1024
"""Where it is more: what all its answers take is held."""
_SIDE = 128
"""Of the windows that a picture above a megapixel is measured in: as many as make a megapixel."""
_CORE = 256
"""Side of what is measured at once."""


@dataclass(frozen=True)
class Look:
    """Of a style: its weight among all, its patches, and the colours that pictures in it have."""

    weight: float
    patches: Patches
    colours: Colours


@dataclass(frozen=True)
class Mix:
    """Styles that are applied together, and what is frozen of them for a picture: the moments of what the content is swapped for,
    and the colours that the decoder makes of that."""

    looks: Sequence[Look]
    found: Moments
    made: Colours

    def as_mapping(self) -> dict[str, Any]:
        """The figures, as JSON values."""
        found = {"mean": self.found.mean.tolist(), "variance": self.found.covariance.diagonal().tolist()}
        return {"swapped": found, "made": self.made.as_mapping()}

    @staticmethod
    def from_mapping(looks: Sequence[Look], values: Mapping[str, Any]) -> Mix:
        mean, variance = (torch.tensor(values["swapped"][name], dtype=torch.float64) for name in ("mean", "variance"))
        return Mix(looks, Moments(mean, variance.diag()), Colours.from_mapping(values["made"]))


class FastPredictor(DensePredictor):
    """``encoder`` and ``decoder`` as they were trained together. It is ready for an image after :meth:`prepare`."""

    gray_as_rgb = True

    def __init__(self, encoder: Encoder, decoder: Decoder, options: StylizeOptions, runtime: Runtime) -> None:
        if not 0 <= options.strength <= 1:
            raise UsageError(f"--strength {options.strength:g}: expected 0 to 1")
        self.options, self.device = options, runtime.device
        self.given = parse_styles(options.style)
        self.masks = parse_masks(options.mask, self.given)
        self.positions = bool(self.masks)
        dtype = dtype_of(runtime.precision)
        self.encoder, self.decoder = (
            network.eval().requires_grad_(False).to(runtime.device, dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
            for network in (encoder, decoder)
        )
        layer = encoder.config.layer(LAYER)
        halo = layer.reach + REACH * layer.stride + Decoder.REACH
        self.footprint = Footprint(halo=halo, multiple_of=layer.stride, border="mirror", channels_in=3, channels_out=3)
        self.window_bytes = 4 * 3 * 4 + 4 * 32 * (4 if dtype == torch.float32 else 2)
        self.held_bytes = _held_bytes(layer, options.style_scale, len(self.given))
        self.margin = round_up(halo, layer.stride)
        self.outputs = outputs(ImageSpec(1, 1, 3))
        self.content: Moments | None = None  # of the content's answers
        self.colours: Colours | None = None  # of the content
        self.mixes: list[Mix] = []  # one of all styles, or with masks one of each
        self.shares: Tensor | None = None  # of the pictures in each mix, (N, H, W); what they leave over is the content's
        self._kept: list[Look] = []  # of the styles: shared by the copies for all images, which threads may make
        self._all_shares = Shares()
        self._lock = threading.Lock()

    def fitted(self, spec: ImageSpec) -> Self:
        result = copy.copy(self)
        result.outputs = outputs(spec)
        result.size = working_size(self.options.size, spec)
        for mask in self.masks:
            check_mask(mask, result.size)
        result.held_bytes += shares_bytes(self.masks, result.size)
        return result

    # ------------------------------------------------------------------------------------------- what is frozen for an image

    def prepare(self, source: Source, seed: int) -> Self:
        """Measure the content, what it is swapped for, and what is made of that; and the styles, once for all images where they
        do not take the content's colours. What the network sees of the picture is what it sees in the run, mirrored beyond it."""
        result = copy.copy(self)
        result.colours = Colours.of_source(source, seed)
        cores = _cores(source.spec, seed)
        parts = [partial(result._answers_to, source, core) for core in cores]
        result.content = Moments.together(result._core_of(answers()) for answers in parts)
        result.mixes = []
        for looks in result._groups():
            near = [result._nearest(answers(), looks) for answers in parts]  # which takes longest, and little memory
            found = Moments.together(result._core_of(_laid(each, looks)) for each in near)
            made = Colours.together(
                result._decoded(answers(), each, looks, found, core.intersect(source.spec.region))
                for answers, each, core in zip(parts, near, cores, strict=True)
            )
            result.mixes.append(Mix(looks, found, made))
        result.shares = self._all_shares.of(self.masks, self.given, self.size)
        return result

    def _groups(self) -> list[list[Look]]:
        """All styles together; with masks each alone."""
        looks = self._looks()
        return [[replace(look, weight=1.0)] for look in looks] if self.masks else [looks]

    def _answers_to(self, source: Source, core: Region, change: Callable[[Rgb], Rgb] | None = None) -> Tensor:
        """(1, C, h, w): of a core and its margin, as a run sees them, mirrored beyond the picture."""
        pixels = seen(source, self, core.grow(self.margin))[..., :3]
        return self._answers(to_tensor(change(pixels) if change else pixels).to(self.device))

    def _core_of(self, answers: Tensor) -> Tensor:
        """Of the answers (1, C, h, w) to a window with a margin, those without."""
        rim = self.margin // self.footprint.multiple_of
        return answers[0, :, rim:-rim, rim:-rim]

    def _decoded(
        self, answers: Tensor, near: list[Tensor], looks: Sequence[Look], found: Moments, core: Region
    ) -> npt.NDArray[np.float32]:
        """The picture of a core, (h, w, 3), its colours as the decoder gives them."""
        made = to_array(self.decoder(self._styled(answers, _laid(near, looks), looks, found)))
        return made[self.margin : self.margin + core.height, self.margin : self.margin + core.width]

    def statistics(self) -> dict[str, Any]:
        if self.content is None or self.colours is None:
            return {}
        mixes = [mix.as_mapping() for mix in self.mixes]
        return {"content": self.content.as_mapping(), "colours": self.colours.as_mapping(), "mixes": mixes}

    def with_statistics(self, statistics: Mapping[str, Any]) -> Self:
        result = copy.copy(self)
        result.colours = Colours.from_mapping(statistics["colours"])
        result.content = Moments.from_mapping(statistics["content"])
        result.mixes = [Mix.from_mapping(*each) for each in zip(result._groups(), statistics["mixes"], strict=True)]
        result.shares = self._all_shares.of(self.masks, self.given, self.size)
        return result

    def _looks(self) -> list[Look]:
        if self.options.keep_colors != "none":  # they depend on the content
            return [self._measured(style) for style in self.given]
        with self._lock:
            if not self._kept:
                self._kept.extend([self._measured(style) for style in self.given])
            return list(self._kept)

    def _measured(self, style: Style) -> Look:
        """The patches and colours of a style. Its answers are computed in windows, and held."""
        assert self.colours is not None
        with closing(open_rgb(style.path, min(_LARGEST_STYLE, max(1, round(STYLE_SIZE * self.options.style_scale))))) as source:
            own = Colours.of_source(source, 0)
            change = as_kept(self.options.keep_colors, own, self.colours)
            rows = [
                torch.cat([self._core_of(self._answers_to(source, core, change)) for core in row], 2)
                for row in _grid(source.spec.region)
            ]
            colours = {"none": own, "histogram": self.colours, "luminance": self.colours.gray()}[self.options.keep_colors]
            return Look(style.weight, Patches.of(torch.cat(rows, 1)), colours)

    # --------------------------------------------------------------------------------------------------------- the network

    def normalize(self, pixels: Array) -> npt.NDArray[np.float32]:
        return to_rgb(pixels)

    def _answers(self, batch: Tensor) -> Tensor:
        seen = luminance(batch).repeat(1, 3, 1, 1) if self.options.keep_colors == "luminance" else batch
        return self.encoder(seen.contiguous(memory_format=torch.channels_last), [LAYER])[LAYER]

    def _nearest(self, answers: Tensor, looks: Sequence[Look]) -> list[Tensor]:
        """For each style, which of its patches take the place of the content's."""
        assert self.content is not None
        return [nearest(answers, self.content.along(look.patches.axes), look.patches) for look in looks]

    def _styled(self, answers: Tensor, values: Tensor, looks: Sequence[Look], found: Moments) -> Tensor:
        """What the decoder sees, of the answers and of what they were swapped for."""
        wanted = Moments.mixed([look.patches.moments for look in looks], [look.weight for look in looks])
        return torch.lerp(answers.float(), corrected(values, found, wanted), self.options.strength).to(answers.dtype)

    def _change(self, mix: Mix) -> tuple[Tensor, Tensor]:
        """(3, 3) and (3, 1, 1): from the colours that the decoder gives to the styles' and, where --strength is below one, the
        content's."""
        assert self.colours is not None
        own = self.colours.gray() if self.options.keep_colors == "luminance" else self.colours
        shares = [1 - self.options.strength, *(self.options.strength * look.weight for look in mix.looks)]
        matrix, shift = change_of(mix.made, Colours.mixed([own, *(look.colours for look in mix.looks)], shares))
        return torch.from_numpy(matrix).to(self.device), torch.from_numpy(shift).to(self.device)[:, None, None]

    def __call__(self, batch: Tensor) -> Tensor:
        answers = self._answers(batch[:, :3])
        inner = (..., slice(self.margin, -self.margin), slice(self.margin, -self.margin))
        pictures = [self._picture(answers, mix, inner) for mix in self.mixes]
        content = batch[:, :3][inner].float()
        if self.options.keep_colors == "luminance":
            pictures = [with_luminance(content, luminance(picture)) for picture in pictures]
        if self.shares is None:
            return pictures[0]
        return over(content, pictures, self.shares, batch[:, 3:][inner])

    def _picture(self, answers: Tensor, mix: Mix, inner: tuple[Any, ...]) -> Tensor:
        """(N, 3, h, w) float32 in the colours of a mix."""
        values = _laid(self._nearest(answers, mix.looks), mix.looks)
        picture = self.decoder(self._styled(answers, values, mix.looks, mix.found))[inner]
        matrix, shift = self._change(mix)
        with torch.autocast(picture.device.type, enabled=False):  # in which it would be rounded to steps of a grey level
            found: Tensor = (matrix @ picture.flatten(2)).reshape(picture.shape) + shift
        return found

    def convert(self, raw: npt.NDArray[np.float32], output: Output) -> Array:
        return as_output(raw, output)


def _laid(near: list[Tensor], looks: Sequence[Look]) -> Tensor:
    """The patches of all styles, mixed by their weights (Huang and Belongie 2017, section 6: what is decoded is mixed)."""
    parts = [look.weight * laid(each, look.patches) for look, each in zip(looks, near, strict=True)]
    return torch.stack(parts).sum(0)


def _held_bytes(layer: Layer, style_scale: float, styles: int) -> int:
    """What the patches of all styles take, and the answers to the one that is measured, in float64 too."""
    positions = (min(_LARGEST_STYLE, STYLE_SIZE * style_scale) / layer.stride) ** 2
    return round(4 * SIDE**2 * PATCHES * (AXES + layer.channels) * (styles + 1) + 12 * positions * layer.channels)


def _cores(spec: ImageSpec, seed: int) -> list[Region]:
    """What is measured of a picture: all of it up to a megapixel, else as much in windows drawn by the seed."""
    return [core for region in sample_regions(spec, seed, _SIDE) for row in _grid(region) for core in row]


def _grid(region: Region) -> list[list[Region]]:
    """Squares of ``_CORE``, row by row; the last ones go on beyond the region up to a whole position."""
    stride = COMPACT.layer(LAYER).stride
    return [
        [
            Region(y, x, round_up(min(_CORE, region.bottom - y), stride), round_up(min(_CORE, region.right - x), stride))
            for x in range(region.x, region.right, _CORE)
        ]
        for y in range(region.y, region.bottom, _CORE)
    ]


def load(options: StylizeOptions, model: Model | None, runtime: Runtime) -> FastPredictor:
    """The predictor of ``--fast``, or of a decoder that ``--model`` names. Raises ``ModelError`` or ``UsageError``."""
    known = model or find_model(NAME, TASK, cards())
    found = find_encoder("vgg-compact", [LAYER])
    predictor = FastPredictor(found.encoder, read_decoder(known, found.model), options, runtime)
    predictor.parts = (found.model,) if model else (found.model, known)
    if predictor.decoder.config.seen != found.encoder.config.layer(LAYER).channels:
        raise ModelError(
            f"{known.path}: a header that cannot be used: the encoder's answers have other channels; get the model again"
        )
    return predictor


def read_decoder(model: Model, encoder: Model) -> Decoder:
    """The network of a decoder's file. Raises ``ModelError`` when it is none, or was trained on another encoder."""
    if model.config.get("encoder") != encoder.sha256:
        raise ModelError(f"{model.path}: was trained on another encoder than {encoder.name}; get the two of one version")
    try:
        decoder = Decoder(DecoderConfig.from_mapping(model.config["decoder"]))
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{model.path}: a header that cannot be used: {error}; get the model again") from error
    tensors = model.tensors()
    for name, own in decoder.state_dict().items():
        if name not in tensors or tensors[name].shape != own.shape:
            raise ModelError(f"{model.path}: {name} is missing or has another shape; get the model again")
    decoder.load_state_dict({name: tensors[name].float() for name in decoder.state_dict()})
    return decoder
