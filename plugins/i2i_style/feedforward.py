"""``i2i stylize --model``: the network of one style as the engine runs it, window by window, normalised by statistics of the
whole image that are frozen before."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from i2i.backends import dtype_of
from i2i.contracts import Array, DensePredictor, Footprint, ImageSpec, Model, Output, Runtime, Source
from i2i.errors import ModelError, PluginError, UsageError
from i2i.frozen import Statistics, frozen, measure, sample_windows
from i2i.geometry import round_up
from i2i.options import changed
from i2i_style.colours import luminance, with_luminance
from i2i_style.options import StylizeOptions
from i2i_style.regions import Shares, check_mask, over, parse_masks, shares_bytes
from i2i_style.results import as_output, outputs, working_size
from i2i_style.styles import Style, to_rgb
from i2i_style.transformer import STRIDE, Transformer, TransformerConfig, folded

KIND = "transfer"
_CURE = "get the model again, or make it with i2i train stylize"
_LIVE = 5
"""Values that live at once for each pixel of a window, over the channels at full size (measured)."""


class TransferPredictor(DensePredictor):
    """RGB in 0 .. 1 in the style of ``network``, a network with float32 weights. It can be called once it is prepared."""

    gray_as_rgb = True

    def __init__(self, network: Transformer, options: StylizeOptions, runtime: Runtime, style: str = "") -> None:
        self.network = network.eval().requires_grad_(False)
        self.options = options
        self.runtime = runtime
        self.footprint = Footprint(network.config.halo, STRIDE, border="mirror", channels_in=3, channels_out=3)
        self.outputs = outputs(ImageSpec(1, 1, 3))
        self.window_bytes = _LIVE * network.config.channels * self._dtype.itemsize
        self.remarks = (f"style: {style}",) if style else ()
        self.masks = parse_masks(options.mask, [Style(Path(style))])
        self.positions = bool(self.masks)
        self.traceable = not self.masks
        self.shares: Tensor | None = None  # of the picture in the style: what it leaves over is the content's
        self._all_shares = Shares()
        self._shape = (1, 1)
        self._known: Statistics = {}
        self._fixed: Transformer | None = None

    @property
    def _dtype(self) -> torch.dtype:
        return dtype_of(self.runtime.precision)

    def _placed(self, network: Transformer) -> Transformer:
        return network.to(self.runtime.device, self._dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def fitted(self, spec: ImageSpec) -> Self:
        result = copy.copy(self)
        result.outputs = outputs(spec)
        if self.options.size not in ("auto", "full"):
            result.size = working_size(self.options.size, spec)
        result._shape = result.size or (spec.height, spec.width)
        for mask in self.masks:
            check_mask(mask, result._shape)
        result.held_bytes += shares_bytes(self.masks, result._shape)
        return result

    def prepare(self, source: Source, seed: int) -> Self:
        windows = sample_windows(source, self, seed, STRIDE)[:, :3]
        network = self._placed(copy.deepcopy(self.network))
        placed = windows.to(self.runtime.device, self._dtype).contiguous(memory_format=torch.channels_last)
        known = measure(network, placed)
        return self.with_statistics({"normalization": known})

    def statistics(self) -> dict[str, Any]:
        return {"normalization": self._known}

    def with_statistics(self, statistics: Mapping[str, Any]) -> Self:
        prepared = copy.copy(self)
        prepared._known = dict(statistics["normalization"])
        prepared.shares = self._all_shares.of(self.masks, [Style(Path())], self._shape)
        prepared._fixed = self._placed(folded(copy.deepcopy(frozen(self.network, prepared._known))))
        return prepared

    def normalize(self, pixels: Array) -> npt.NDArray[np.float32]:
        return to_rgb(pixels)

    def __call__(self, batch: Tensor) -> Tensor:
        if self._fixed is None:
            raise PluginError("the network of a style was called before its statistics were measured: prepare comes first")
        margin = round_up(self.footprint.halo, STRIDE)
        core = (..., slice(margin, batch.shape[-2] - margin), slice(margin, batch.shape[-1] - margin))
        answer = self._fixed(batch[:, :3].to(self._fixed.head.weight.dtype))[core].float()
        content = batch[:, :3][core].float()
        if self.options.keep_colors == "luminance":
            answer = with_luminance(content, luminance(answer))
        return answer if self.shares is None else over(content, [answer], self.shares, batch[:, 3:][core])

    def exportable(self) -> nn.Module:
        """With the statistics of what it is given, as it was trained; RGB in 0 .. 1 both ways."""
        return self.network

    def convert(self, raw: npt.NDArray[np.float32], output: Output) -> Array:
        return as_output(raw, output)


def load_transfer(model: Model, options: StylizeOptions, runtime: Runtime) -> TransferPredictor:
    """The predictor of a model file. Raises ``ModelError`` when its header or its tensors are not those of such a network, and
    ``UsageError`` for options that a network of one style has no use for."""
    _check(options)
    config, style = read_header(model)
    with torch.device("meta"):
        network = Transformer(config)
    expected, tensors = network.state_dict(), model.tensors()
    wrong = sorted(tensors.keys() ^ expected.keys()) or [name for name in expected if tensors[name].shape != expected[name].shape]
    if wrong:
        raise ModelError(f"{model.path}: its weights do not fit the network its header describes ({wrong[0]}); {_CURE}")
    network.load_state_dict({name: value.float() for name, value in tensors.items()}, assign=True)
    return TransferPredictor(network, options, runtime, style)


def read_header(model: Model) -> tuple[TransformerConfig, str]:
    """The network that a model file's header describes, and the name of its style. Raises ``ModelError``."""
    config = model.config
    if config.get("task") != "stylize" or config.get("kind") != KIND:
        raise ModelError(f"{model.path}: not a network of one style; i2i train stylize makes them")
    style = config.get("style", "")
    try:
        if not (isinstance(style, str) and style.isprintable() and len(style) <= 200):
            raise ModelError("style must be a name in one line")
        return TransformerConfig.from_mapping(config.get("transformer")), style
    except ModelError as error:
        raise ModelError(f"{model.path}: a header that cannot be used: {error}; {_CURE}") from error


def _check(options: StylizeOptions) -> None:
    given = ["style"] * bool(options.style) + changed(options, ("style_scale", "strength", "fast"))
    if given:
        flag = "--" + given[0].replace("_", "-")
        raise UsageError(f"{flag}: the network of --model has one style, which is its own; leave out {flag}, or --model")
    if options.keep_colors == "histogram":
        raise UsageError("--keep-colors histogram: the style of --model is given, and cannot get other colours; take luminance")
