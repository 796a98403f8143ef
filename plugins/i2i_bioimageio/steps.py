"""What is done to the numbers before and after the network, as model descriptions name it: each step a scale and an offset for
each channel, or a function of a pixel alone. Statistics are the whole image's, frozen, so that tiles do not change them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from i2i.errors import ModelError

Numbers = npt.NDArray[np.float32]
_MEASURED = ("zero_mean_unit_variance", "scale_range")
_FIXED = ("fixed_zero_mean_unit_variance", "scale_linear", "clip", "binarize", "sigmoid", "softmax", "ensure_dtype")


@dataclass(frozen=True)
class Step:
    """``gain`` and ``offset``: for each channel, or one for all: numbers times gain plus offset. Of a step that measures they are
    empty until :meth:`frozen`."""

    name: str
    arguments: Mapping[str, Any]
    gain: tuple[float, ...] = ()
    offset: tuple[float, ...] = field(default=())

    @staticmethod
    def of(name: str, arguments: Mapping[str, Any]) -> Step:
        """Raises ``ModelError`` for a step that is not known, and for statistics of other tensors or of a data set."""
        if name not in _MEASURED + _FIXED:
            raise ModelError(f"the step {name!r} is not known; there are {', '.join(_MEASURED + _FIXED)}")
        if arguments.get("reference_tensor"):
            raise ModelError(f"the step {name} measures another tensor; those that measure their own can be run")
        step = Step(name, arguments)
        if name == "fixed_zero_mean_unit_variance" or (name == _MEASURED[0] and arguments.get("mode") == "fixed"):
            mean, deviation = _many(arguments["mean"]), np.asarray(_many(arguments["std"]))
            return replace(step, gain=tuple((1 / deviation).tolist()), offset=tuple((-np.asarray(mean) / deviation).tolist()))
        if name == "scale_linear":
            return replace(step, gain=_many(arguments.get("gain", 1.0)), offset=_many(arguments.get("offset", 0.0)))
        return step

    @property
    def measures(self) -> bool:
        return self.name in _MEASURED and not self.gain

    def frozen(self, pixels: Numbers) -> Step:
        """With the statistics of (K, C) numbers that stand for the image."""
        axes = self.arguments.get("axes")
        together = axes is None or "c" in axes or "channel" in axes
        seen = pixels.astype(np.float64).reshape(-1, 1) if together else pixels.astype(np.float64)
        eps = float(self.arguments.get("eps", 1e-6))
        if self.name == "zero_mean_unit_variance":
            low, span = seen.mean(0), seen.std(0) + eps
        else:
            limits = [float(self.arguments.get(f"{end}_percentile", default)) for end, default in (("min", 0.0), ("max", 100.0))]
            low, high = np.percentile(seen, limits, axis=0)
            span = high - low + eps
        return replace(self, gain=tuple((1 / span).tolist()), offset=tuple((-low / span).tolist()))

    def apply(self, numbers: Numbers) -> Numbers:
        """(..., C) -> (..., C)."""
        if self.name == "clip":
            return numbers.clip(float(self.arguments.get("min", -np.inf)), float(self.arguments.get("max", np.inf)))
        if self.name == "binarize":
            return (numbers > np.asarray(_many(self.arguments["threshold"]), np.float32)).astype(np.float32)
        if self.name == "sigmoid":
            return np.asarray(1 / (1 + np.exp(-numbers)), np.float32)
        if self.name == "softmax":
            powers = np.exp(numbers - numbers.max(-1, keepdims=True))
            return powers / powers.sum(-1, keepdims=True)
        if self.name == "ensure_dtype":
            return numbers
        return numbers * np.asarray(self.gain, np.float32) + np.asarray(self.offset, np.float32)


def _many(value: Any) -> tuple[float, ...]:
    return tuple(map(float, value)) if isinstance(value, list | tuple) else (float(value),)
