"""``i2i stylize --fast``: one pass through encoder and decoder, for any style (:mod:`i2i_style.decoder`).

What only the whole picture can tell, mean and deviation of the encoder's answers to the content and its colours, is frozen before
the first window is computed; then each pixel depends on its surroundings alone, and windows give what the whole would. Beyond the
picture the engine mirrors it, so that no edge shows."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from i2i.contracts import Array, DensePredictor, Footprint, ImageSpec, Model, Output, Runtime, Source
from i2i.errors import ModelError, UsageError
from i2i.geometry import Region, Tile, round_up
from i2i.models import find_model
from i2i_style.colours import Colours, as_kept, luminance, with_luminance
from i2i_style.decoder import LAYERS, Decoder, DecoderConfig, Palette, Statistics, adain, recoloured
from i2i_style.encoder import Encoder
from i2i_style.encoders import TASK, cards, find_encoder
from i2i_style.objective import Reader, core_of, tiles_of
from i2i_style.options import StylizeOptions
from i2i_style.pixels import to_tensor
from i2i_style.results import as_output, outputs, working_size
from i2i_style.styles import Style, open_rgb, parse_styles, to_rgb

NAME = "adain"
STYLE_SIZE = 768
"""Longer side of a style picture, at most: those of the training."""
_WINDOW = 704
_MOST_WINDOWS = 64
"""That the content's statistics are of: all, or so many of a larger picture, drawn by the seed: about 25 megapixels."""
_LEAST = 1e-5
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
Moments = dict[str, Statistics]


@dataclass(frozen=True)
class Look:
    """What is known of a picture as a whole: of its answers, and of its colours."""

    moments: Moments
    palette: Palette


class FastPredictor(DensePredictor):
    """``encoder`` and ``decoder`` as they were trained together. It is ready for an image after :meth:`prepare`."""

    gray_as_rgb = True

    def __init__(self, encoder: Encoder, decoder: Decoder, options: StylizeOptions, runtime: Runtime) -> None:
        if not 0 <= options.strength <= 1:
            raise UsageError(f"--strength {options.strength:g}: expected 0 to 1")
        self.options, self.device = options, runtime.device
        self.styles = parse_styles(options.style)
        dtype = _DTYPES[runtime.precision]
        self.encoder, self.decoder = (
            network.eval().requires_grad_(False).to(runtime.device, dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
            for network in (encoder, decoder)
        )
        coarse = encoder.config.layer(LAYERS[1])
        halo = round_up(Decoder.REACH, coarse.stride) + coarse.reach
        self.footprint = Footprint(halo=halo, multiple_of=coarse.stride, border="mirror", channels_in=3, channels_out=3)
        self.window_bytes = 4 * 3 * 4 + 4 * 32 * (4 if dtype == torch.float32 else 2)
        self.outputs = outputs(ImageSpec(1, 1, 3))
        self.colours: Colours | None = None
        self.content: Look | None = None
        self.wanted: Look | None = None
        self._kept: list[Look] = []  # of the styles, mixed: shared by the copies for all images

    def fitted(self, spec: ImageSpec) -> Self:
        result = copy.copy(self)
        result.outputs = outputs(spec)
        result.size = working_size(self.options.size, spec)
        return result

    # ------------------------------------------------------------------------------------------- what is frozen for an image

    def prepare(self, source: Source, seed: int) -> Self:
        """Measure the content, in windows; and the styles, once for all images where they do not take the content's colours."""
        result = copy.copy(self)
        result.colours = Colours.of_source(source, seed)
        size = (source.spec.height, source.spec.width)
        tiles = _some(tiles_of(size, self.encoder.config, (_WINDOW, _WINDOW)), seed)

        def read(region: Region) -> Tensor:
            return self._seen(to_tensor(to_rgb(source.read(region))).to(self.device))

        return result._ready(moments(self.encoder, read, size, tiles))

    def statistics(self) -> dict[str, Any]:
        if self.content is None or self.colours is None:
            return {}
        return {"content": _as_mapping(self.content.moments), "colours": self.colours.as_mapping()}

    def with_statistics(self, statistics: Mapping[str, Any]) -> Self:
        result = copy.copy(self)
        result.colours = Colours.from_mapping(statistics["colours"])
        return result._ready(_from_mapping(statistics["content"], self.device))

    def _ready(self, content: Moments) -> Self:
        """Itself, with what the content and the styles are like. What the answers are given is a mean of the styles' by their
        weights, and of the content's where --strength is below one. To mix these is to mix the features that are decoded, as the
        paper's section 6 does: both are linear in them."""
        assert self.colours is not None
        self.content = Look(content, self._palette(self.colours))
        styles = self._styles()
        shares = [1 - self.options.strength, self.options.strength]
        self.wanted = Look(_mixed([content, styles.moments], shares), styles.palette)
        return self

    def _styles(self) -> Look:
        if self._kept:
            return self._kept[0]
        looks, weights = [self._measured(style) for style in self.styles], [style.weight for style in self.styles]
        mixed = Look(
            _mixed([look.moments for look in looks], weights),
            Palette(
                _mean([look.palette.mean for look in looks], weights), _mean([look.palette.covariance for look in looks], weights)
            ),
        )
        if self.options.keep_colors == "none":  # else they depend on the content
            self._kept.append(mixed)
        return mixed

    def _palette(self, colours: Colours) -> Palette:
        """Of what the network sees: with ``--keep-colors luminance`` three equal channels."""
        mean, covariance = torch.tensor(colours.mean), torch.tensor(colours.covariance)
        if self.options.keep_colors == "luminance":
            shares = luminance(torch.eye(3)[..., None, None])[:, 0, 0, 0]
            mean, covariance = (shares @ mean).expand(3), (shares @ covariance @ shares).expand(3, 3)
        return Palette(mean[None].to(self.device), covariance[None].to(self.device))

    def _measured(self, style: Style) -> Look:
        assert self.colours is not None
        with closing(open_rgb(style.path, max(1, round(STYLE_SIZE * self.options.style_scale)))) as source:
            size, own = (source.spec.height, source.spec.width), Colours.of_source(source, 0)
            change = as_kept(self.options.keep_colors, own, self.colours)

            def read(region: Region) -> Tensor:
                return to_tensor(change(source.read(region))).to(self.device)

            found = moments(self.encoder, read, size, tiles_of(size, self.encoder.config, (_WINDOW, _WINDOW)))
            if self.options.keep_colors != "none":
                own = self.colours
            return Look(found, self._palette(own))

    # --------------------------------------------------------------------------------------------------------- the network

    def normalize(self, pixels: Array) -> npt.NDArray[np.float32]:
        return to_rgb(pixels)

    def _seen(self, batch: Tensor) -> Tensor:
        return luminance(batch).repeat(1, 3, 1, 1) if self.options.keep_colors == "luminance" else batch

    def __call__(self, batch: Tensor) -> Tensor:
        assert self.content is not None and self.wanted is not None
        seen = self._seen(batch)
        answers = self.encoder(seen, LAYERS)
        fine, coarse = (adain(answers[name], self.content.moments[name], self.wanted.moments[name]) for name in LAYERS)
        colours = recoloured(seen, self.content.palette, self.wanted.palette, self.options.strength)
        margin = round_up(self.footprint.halo, self.footprint.multiple_of)
        inner = (..., slice(margin, batch.shape[2] - margin), slice(margin, batch.shape[3] - margin))
        picture = self.decoder(fine, coarse, colours)[inner].float()
        if self.options.keep_colors == "luminance":
            picture = with_luminance(batch[inner], luminance(picture))
        return picture

    def convert(self, raw: npt.NDArray[np.float32], output: Output) -> Array:
        return as_output(raw, output)


def _some(tiles: Sequence[Tile], seed: int) -> list[Tile]:
    if len(tiles) <= _MOST_WINDOWS:
        return list(tiles)
    chosen = np.random.default_rng(seed).choice(len(tiles), _MOST_WINDOWS, replace=False)
    return [tiles[number] for number in np.sort(chosen)]


@torch.no_grad()
def moments(encoder: Encoder, read: Reader, size: tuple[int, int], tiles: Iterable[Tile]) -> Moments:
    """Mean and deviation of the answers of ``LAYERS`` over the cores of the tiles, summed in float64."""
    sums: dict[str, tuple[Tensor, Tensor]] = {}
    counts = dict.fromkeys(LAYERS, 0)
    for tile in tiles:
        window = read(tile.window).contiguous(memory_format=torch.channels_last)
        for name, values in encoder(window, LAYERS).items():
            rows, columns = core_of(values, tile, size, encoder.config.layer(name).stride)
            flat = values[0, :, rows, columns].flatten(1).float()
            parts = flat.sum(1).cpu().double(), flat.square().sum(1).cpu().double()
            sums[name] = (sums[name][0] + parts[0], sums[name][1] + parts[1]) if name in sums else parts
            counts[name] += flat.shape[1]
    found, device = {}, encoder.convolution("conv1_1").weight.device
    for name, (first, second) in sums.items():
        count = max(1, counts[name])
        mean = first / count
        deviation = ((second / count - mean.square()).clamp_min(0) + _LEAST).sqrt()
        found[name] = Statistics(*(each.float()[None, :, None, None].to(device) for each in (mean, deviation)))
    return found


def _mixed(parts: Sequence[Moments], weights: Sequence[float]) -> Moments:
    return {
        name: Statistics(
            _mean([part[name].mean for part in parts], weights), _mean([part[name].deviation for part in parts], weights)
        )
        for name in LAYERS
    }


def _mean(tensors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    return torch.stack([weight * tensor for weight, tensor in zip(weights, tensors, strict=True)]).sum(0)


def _as_mapping(found: Moments) -> dict[str, Any]:
    return {
        name: {"mean": each.mean.flatten().tolist(), "deviation": each.deviation.flatten().tolist()}
        for name, each in found.items()
    }


def _from_mapping(values: Mapping[str, Any], device: str) -> Moments:
    def tensor(numbers: Sequence[float]) -> Tensor:
        return torch.tensor(numbers, dtype=torch.float32, device=device)[None, :, None, None]

    return {name: Statistics(tensor(values[name]["mean"]), tensor(values[name]["deviation"])) for name in LAYERS}


def load(options: StylizeOptions, model: Model | None, runtime: Runtime) -> FastPredictor:
    """The predictor of ``--fast``, or of a decoder that ``--model`` names. Raises ``ModelError`` or ``UsageError``."""
    known = model or find_model(NAME, TASK, cards())
    found = find_encoder("vgg-compact", LAYERS)
    predictor = FastPredictor(found.encoder, read_decoder(known, found.model), options, runtime)
    predictor.parts = (found.model,) if model else (found.model, known)
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
