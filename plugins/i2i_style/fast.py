"""``i2i stylize --fast``: one pass through encoder, style swap and decoder, for any style (:mod:`i2i_style.swap`).

What only the whole picture can tell, the moments of the encoder's answers to the content and of what they are swapped for, and
the colours of what the decoder makes, which are given those of the style, is frozen before the first window is computed; then
each pixel depends on its surroundings alone, and windows give what the whole would. Beyond the picture the engine mirrors it, so
that no edge shows."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from i2i.contracts import Array, DensePredictor, Footprint, ImageSpec, Model, Output, Runtime, Source
from i2i.errors import ModelError, UsageError
from i2i.geometry import Tile, round_up
from i2i.models import find_model
from i2i_style.colours import Colours, as_kept, change_of, luminance, with_luminance
from i2i_style.decoder import LAYER, Decoder, DecoderConfig
from i2i_style.encoder import Encoder
from i2i_style.encoders import TASK, cards, find_encoder
from i2i_style.objective import core_of, tiles_of
from i2i_style.options import StylizeOptions
from i2i_style.pixels import to_array, to_tensor
from i2i_style.results import as_output, outputs, working_size
from i2i_style.styles import Style, open_rgb, parse_styles, to_rgb
from i2i_style.swap import REACH, Moments, Patches, corrected, swapped

NAME = "style-swap"
STYLE_SIZE = 512
"""Longer side of a style picture, at most, where --style-scale is one."""
_LARGEST_STYLE = 1024
"""Where it is more: what all its answers take is held."""
_HELD = 2**26
"""Bytes that a style's patches take at most, and besides them the comparison of patches, and what is held for the moments."""
_WINDOW = 704
_MOST_WINDOWS = 64
"""That the content's moments are of: all, or so many of a larger picture, drawn by the seed: about 25 megapixels."""
_MADE_WINDOW = 320
_MADE_WINDOWS = 16
"""The same for what they are swapped for, which is held, and the colours of what is made of it."""
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Look:
    """Of a style: its weight among all, its patches, and the colours that pictures in it have."""

    weight: float
    patches: Patches
    colours: Colours


class FastPredictor(DensePredictor):
    """``encoder`` and ``decoder`` as they were trained together. It is ready for an image after :meth:`prepare`."""

    gray_as_rgb = True

    def __init__(self, encoder: Encoder, decoder: Decoder, options: StylizeOptions, runtime: Runtime) -> None:
        if not 0 <= options.strength <= 1:
            raise UsageError(f"--strength {options.strength:g}: expected 0 to 1")
        self.options, self.device = options, runtime.device
        self.given = parse_styles(options.style)
        dtype = _DTYPES[runtime.precision]
        self.encoder, self.decoder = (
            network.eval().requires_grad_(False).to(runtime.device, dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
            for network in (encoder, decoder)
        )
        seen = encoder.config.layer(LAYER)
        halo = seen.reach + REACH * seen.stride + Decoder.REACH
        self.footprint = Footprint(halo=halo, multiple_of=seen.stride, border="mirror", channels_in=3, channels_out=3)
        self.window_bytes = 4 * 3 * 4 + 4 * 32 * (4 if dtype == torch.float32 else 2)
        self.held_bytes = _HELD * (2 + len(self.given))
        self.outputs = outputs(ImageSpec(1, 1, 3))
        self.styles: list[Look] = []
        self.own: list[Moments] = []  # of the content's answers, along the axes of each style
        self.found: Moments | None = None  # of what they are swapped for
        self.colours: Colours | None = None  # of the content
        self.made: Colours | None = None  # of what the decoder gives
        self._kept: list[Look] = []  # of the styles: shared by the copies for all images

    def fitted(self, spec: ImageSpec) -> Self:
        result = copy.copy(self)
        result.outputs = outputs(spec)
        result.size = working_size(self.options.size, spec)
        return result

    # ------------------------------------------------------------------------------------------- what is frozen for an image

    def prepare(self, source: Source, seed: int) -> Self:
        """Measure the content, in windows; what is made of some of them; and the styles, once for all images where they do not
        take the content's colours."""
        result = copy.copy(self)
        result.colours = Colours.of_source(source, seed)
        result.styles = result._styles()
        size = (source.spec.height, source.spec.width)

        def some(window: int, most: int) -> list[Tile]:
            return _some(tiles_of(size, self.encoder.config, (window, window)), most, seed)

        def answers(tile: Tile) -> Tensor:
            return result._answers(to_tensor(to_rgb(source.read(tile.window))).to(self.device))

        content = moments(self.encoder, answers, size, some(_WINDOW, _MOST_WINDOWS))
        result.own = [content.along(style.patches.axes) for style in result.styles]
        seen = {tile: answers(tile) for tile in some(_MADE_WINDOW, _MADE_WINDOWS)}
        values = {tile: result._swapped(each) for tile, each in seen.items()}
        result.found = moments(self.encoder, values.__getitem__, size, seen)
        result.made = Colours.together(result._decoded(seen[tile], values[tile], tile) for tile in seen)
        return result

    def _decoded(self, answers: Tensor, values: Tensor, tile: Tile) -> npt.NDArray[np.float32]:
        """The picture of a core, (h, w, 3), its colours as the decoder gives them."""
        inner = tile.core.relative_to(tile.window)
        return to_array(self.decoder(self._styled(answers, values)))[inner.slices]

    def statistics(self) -> dict[str, Any]:
        if self.found is None or self.colours is None or self.made is None:
            return {}
        return {
            "content": [each.as_mapping() for each in self.own],
            "swapped": {"mean": self.found.mean.tolist(), "variance": self.found.covariance.diagonal().tolist()},
            "colours": self.colours.as_mapping(),
            "made": self.made.as_mapping(),
        }

    def with_statistics(self, statistics: Mapping[str, Any]) -> Self:
        result = copy.copy(self)
        result.colours, result.made = (Colours.from_mapping(statistics[name]) for name in ("colours", "made"))
        result.styles = result._styles()
        result.own = [Moments.from_mapping(each) for each in statistics["content"]]
        mean, variance = (torch.tensor(statistics["swapped"][name], dtype=torch.float64) for name in ("mean", "variance"))
        result.found = Moments(mean, variance.diag())
        return result

    def _styles(self) -> list[Look]:
        if self.options.keep_colors != "none":  # they depend on the content
            return [self._measured(style) for style in self.given]
        if not self._kept:
            self._kept += [self._measured(style) for style in self.given]
        return self._kept

    def _measured(self, style: Style) -> Look:
        """The patches and colours of a style. Its answers are computed in windows, and held."""
        assert self.colours is not None
        with closing(open_rgb(style.path, min(_LARGEST_STYLE, max(1, round(STYLE_SIZE * self.options.style_scale))))) as source:
            size, own = (source.spec.height, source.spec.width), Colours.of_source(source, 0)
            change = as_kept(self.options.keep_colors, own, self.colours)
            stride = self.encoder.config.layer(LAYER).stride
            rows: dict[int, list[Tensor]] = {}
            for tile in tiles_of(size, self.encoder.config, (_WINDOW, _WINDOW)):
                answers = self._answers(to_tensor(change(source.read(tile.window))).to(self.device))
                rows.setdefault(tile.core.y, []).append(answers[0][(slice(None), *core_of(answers, tile, size, stride))])
            whole = torch.cat([torch.cat(parts, 2) for parts in rows.values()], 1)
            colours = {"none": own, "histogram": self.colours, "luminance": self.colours.gray()}[self.options.keep_colors]
            return Look(style.weight, Patches.of(whole), colours)

    # --------------------------------------------------------------------------------------------------------- the network

    def normalize(self, pixels: Array) -> npt.NDArray[np.float32]:
        return to_rgb(pixels)

    def _answers(self, batch: Tensor) -> Tensor:
        seen = luminance(batch).repeat(1, 3, 1, 1) if self.options.keep_colors == "luminance" else batch
        return self.encoder(seen.contiguous(memory_format=torch.channels_last), [LAYER])[LAYER]

    def _swapped(self, answers: Tensor) -> Tensor:
        """By the patches of all styles, mixed by their weights (Huang and Belongie 2017, section 6: what is decoded is mixed)."""
        total = torch.zeros_like(answers, dtype=torch.float32)
        for style, own in zip(self.styles, self.own, strict=True):
            total.add_(swapped(answers, own, style.patches), alpha=style.weight)
        return total

    def _styled(self, answers: Tensor, values: Tensor) -> Tensor:
        """What the decoder sees, of the answers and of what they were swapped for."""
        assert self.found is not None
        wanted = Moments.mixed([style.patches.moments for style in self.styles], [style.weight for style in self.styles])
        return torch.lerp(answers.float(), corrected(values, self.found, wanted), self.options.strength).to(answers.dtype)

    def _change(self) -> tuple[Tensor, Tensor]:
        """(3, 3) and (3, 1, 1): from the colours that the decoder gives to the styles' and, where --strength is below one, the
        content's."""
        assert self.colours is not None and self.made is not None
        own = self.colours.gray() if self.options.keep_colors == "luminance" else self.colours
        shares = [1 - self.options.strength, *(self.options.strength * style.weight for style in self.styles)]
        matrix, shift = change_of(self.made, Colours.mixed([own, *(style.colours for style in self.styles)], shares))
        return torch.from_numpy(matrix).to(self.device), torch.from_numpy(shift).to(self.device)[:, None, None]

    def __call__(self, batch: Tensor) -> Tensor:
        answers = self._answers(batch)
        margin = round_up(self.footprint.halo, self.footprint.multiple_of)
        inner = (..., slice(margin, batch.shape[2] - margin), slice(margin, batch.shape[3] - margin))
        matrix, shift = self._change()
        picture = self.decoder(self._styled(answers, self._swapped(answers)))[inner]
        picture = (matrix @ picture.flatten(2)).reshape(picture.shape) + shift
        if self.options.keep_colors == "luminance":
            picture = with_luminance(batch[inner], luminance(picture))
        return picture

    def convert(self, raw: npt.NDArray[np.float32], output: Output) -> Array:
        return as_output(raw, output)


def _some(tiles: Sequence[Tile], most: int, seed: int) -> list[Tile]:
    if len(tiles) <= most:
        return list(tiles)
    chosen = np.random.default_rng(seed).choice(len(tiles), most, replace=False)
    return [tiles[number] for number in np.sort(chosen)]


@torch.no_grad()
def moments(encoder: Encoder, answers: Callable[[Tile], Tensor], size: tuple[int, int], tiles: Iterable[Tile]) -> Moments:
    """Of what ``answers`` gives for the tiles' windows, (1, C, h, w), over their cores."""
    count, parts = 0, []
    for tile in tiles:
        values = answers(tile)
        core = values[0][(slice(None), *core_of(values, tile, size, encoder.config.layer(LAYER).stride))]
        positions = core[0].numel()
        if positions:
            parts.append((positions, Moments.of(core)))
            count += positions
    mean = torch.stack([positions / count * part.mean for positions, part in parts]).sum(0)
    square = torch.stack(
        [positions / count * (part.covariance + torch.outer(part.mean, part.mean)) for positions, part in parts]
    ).sum(0)
    return Moments(mean, square - torch.outer(mean, mean))


def load(options: StylizeOptions, model: Model | None, runtime: Runtime) -> FastPredictor:
    """The predictor of ``--fast``, or of a decoder that ``--model`` names. Raises ``ModelError`` or ``UsageError``."""
    known = model or find_model(NAME, TASK, cards())
    found = find_encoder("vgg-compact", [LAYER])
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
