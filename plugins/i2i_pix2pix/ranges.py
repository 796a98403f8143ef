"""Between the numbers in files and those that networks see and give, about -1 .. 1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from i2i.contracts import Array
from i2i.errors import ModelError, TrainingError
from i2i.formats.views import ArraySource
from i2i.normalize import Normalization
from i2i_pix2pix.options import UNITS
from i2i_pix2pix.pairs import Pair

_DTYPES = ("uint8", "uint16", "float32")


@dataclass(frozen=True)
class Ranges:
    """``source``: how an input's numbers become 0 .. 1, by its own statistics. ``units``: ``own``: an answer has numbers of its
    own, ``low`` to ``high``, of ``dtype``; ``input``: those of the input, in its dtype: what is learnt to be cleaned or
    sharpened keeps its brightness."""

    source: Normalization
    units: str = "own"
    dtype: str = "uint8"
    low: float = 0.0
    high: float = 255.0

    @staticmethod
    def of(pairs: Sequence[Pair], method: str, units: str) -> Ranges:
        """For pairs that are alike. Of 8 bits the whole range; of others the range that the targets have. Raises
        ``TrainingError``."""
        source = Normalization(method=method, low=0.1, high=99.9)
        targets = [pair.target for pair in pairs]
        dtype = targets[0].dtype
        if units == "input":
            if any(pair.source.dtype != dtype or pair.source.shape != pair.target.shape for pair in pairs):
                raise TrainingError("--units input: the targets have other channels or another dtype than the sources")
            return Ranges(source, units)
        if dtype == np.uint8:
            return Ranges(source)
        low, high = min(float(one.min()) for one in targets), max(float(one.max()) for one in targets)
        name = "uint16" if dtype == np.uint16 else "float32"  # which holds signed and wider integers too
        return Ranges(source, units, name, low, high if high > low else low + 1)

    @staticmethod
    def from_mapping(values: Any) -> Ranges:
        """From a model file's header. Raises ``ModelError``."""
        if not isinstance(values, Mapping) or set(values) != {"source", "units", "dtype", "low", "high"}:
            raise ModelError("ranges must be an object of source, units, dtype, low and high")
        source = values["source"]
        if not isinstance(source, Mapping) or values["units"] not in UNITS or values["dtype"] not in _DTYPES:
            raise ModelError(f"ranges: units must be one of {', '.join(UNITS)}, dtype one of {', '.join(_DTYPES)}")
        if not (all(isinstance(values[name], int | float) for name in ("low", "high")) and values["low"] < values["high"]):
            raise ModelError("ranges: low and high must be numbers, low the smaller one")
        return Ranges(Normalization.from_mapping(source), values["units"], values["dtype"], values["low"], values["high"])

    def as_mapping(self) -> dict[str, Any]:
        source = self.source.as_mapping()
        return {"source": source, "units": self.units, "dtype": self.dtype, "low": self.low, "high": self.high}

    def frozen(self, source: Array) -> Ranges:
        """With the statistics of a source (H, W, C) of the training."""
        return Ranges(self.source.freeze(ArraySource(source), 0), self.units, self.dtype, self.low, self.high)

    # ------------------------------------------------------------------------------------------- of crops, (C, h, w) float32

    def seen(self, source: Tensor) -> Tensor:
        """What the network sees of a crop of a source whose statistics are frozen."""
        return 2 * (source - _column(source, self.source.offset)) / _column(source, self.source.scale) - 1

    def wanted(self, target: Tensor) -> Tensor:
        """What it should answer."""
        if self.units == "input":
            return self.seen(target)
        return 2 * (target - self.low) / (self.high - self.low) - 1

    # ---------------------------------------------------------------------------------------------- of arrays, (H, W, C)

    def apply(self, pixels: Array) -> npt.NDArray[np.float32]:
        """What the network sees of pixels of any dtype."""
        return 2 * self.source.apply(pixels) - 1

    def numbers(self, answer: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """The numbers that an answer stands for; not yet rounded, nor cut off at the ends of a dtype's range."""
        share = (answer + 1) / 2
        if self.units == "own":
            return (share * (self.high - self.low) + self.low).astype(np.float32)
        return (share * np.asarray(self.source.scale) + np.asarray(self.source.offset)).astype(np.float32)


def _column(like: Tensor, values: Sequence[float]) -> Tensor:
    return like.new_tensor(values).reshape(-1, 1, 1)
