"""Predictors: what a task's ``load`` gives, one base class for each kind, and what they exchange with the engine."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, Self

import numpy as np
import numpy.typing as npt

from i2i.contracts.images import Array, Footprint, ImageSpec, Output, Source
from i2i.errors import ModelError, PluginError
from i2i.geometry import Grid, Region

if TYPE_CHECKING:
    import torch

    from i2i.contracts.plugins import Model


@dataclass(frozen=True)
class LabelRule:
    """How classes become labels: components of ``interior`` grow ``dilate`` pixels into ``border``; those of fewer than
    ``min_area`` pixels (of the interior) are dropped. Class numbers are those of the output ``classes``."""

    interior: int = 1
    border: int | None = None
    dilate: int = 0
    min_area: int = 0


@dataclass(frozen=True)
class ObjectFilter:
    """Which objects of a result that means labels stay: those of ``min_area`` pixels of the result or more, of ``max_area`` at
    the most (0: any), and with ``clear_border`` those that have no pixel at the image's edge."""

    min_area: int = 0
    max_area: int = 0
    clear_border: bool = False

    @property
    def asked(self) -> tuple[str, ...]:
        """The names of the fields that leave something out."""
        return tuple(item.name for item in fields(self) if getattr(self, item.name))


@dataclass(frozen=True)
class Instances:
    """Objects found in one window or image, N of them, the same order in every field.

    ``boxes``: (N, 4) int64: top, left, bottom, right, exclusive. ``scores``: (N,) float32 in 0 .. 1. ``classes``: (N,)
    int64 from 1. ``masks``: N boolean arrays, each of the size of its box. ``beyond``: how many more a detector found than it
    may give for one window.
    """

    boxes: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float32]
    classes: npt.NDArray[np.int64]
    masks: tuple[npt.NDArray[np.bool_], ...]
    beyond: int = 0

    def __len__(self) -> int:
        return len(self.boxes)

    @staticmethod
    def empty() -> Instances:
        return Instances(np.zeros((0, 4), np.int64), np.zeros(0, np.float32), np.zeros(0, np.int64), ())

    def take(self, indices: Iterable[int]) -> Instances:
        """Those at ``indices``, in that order."""
        chosen = np.fromiter(indices, np.int64)
        masks = tuple(self.masks[i] for i in chosen)
        return Instances(self.boxes[chosen], self.scores[chosen], self.classes[chosen], masks)

    def shift(self, dy: int, dx: int) -> Instances:
        return Instances(self.boxes + np.array([dy, dx, dy, dx]), self.scores, self.classes, self.masks)

    @staticmethod
    def join(parts: Sequence[Instances]) -> Instances:
        if not parts:
            return Instances.empty()
        return Instances(
            np.concatenate([part.boxes for part in parts]),
            np.concatenate([part.scores for part in parts]),
            np.concatenate([part.classes for part in parts]),
            tuple(mask for part in parts for mask in part.masks),
        )


class Predictor:
    """What every predictor has. A subclass sets ``footprint`` and ``outputs``, of which the first is the default.

    ``window_bytes``: memory that the network takes for each pixel of a window, in bytes, for the planner; ``held_bytes``: what it
    takes besides, whatever the window, where that is much. ``gray_as_rgb``: a network of three channels that was trained on gray
    images too, as three equal channels, and is given them so. ``zoom``: how many times as high and wide as the image's own the
    pixels are that the network computes, for the planner. ``resample``: how many times as high and wide the engine makes the
    image for it, whatever pixel sizes say, and its result as many times smaller; 0: as pixel sizes say. ``remarks``: what the
    user may want to know of how it sees the image: shown, and no warning. ``size``: height and width of the image that it works
    on and gives, where these may not be the input's own; the engine resamples the input to it. ``parts``: models that it is made
    of besides that of ``--model``: recorded with the run."""

    kind: ClassVar[Literal["dense", "instances", "image"]]
    footprint: Footprint
    outputs: tuple[Output, ...]
    window_bytes: int = 1024
    held_bytes: int = 0
    gray_as_rgb: bool = False
    zoom: float = 1.0
    resample: float = 0.0
    remarks: tuple[str, ...] = ()
    size: tuple[int, int] | None = None
    parts: tuple[Model, ...] = ()

    def fitted(self, spec: ImageSpec) -> Self:
        """The predictor for images of this kind, before a pixel is read: a method that takes any channels, dtypes or sizes sets
        its footprint, outputs and ``size`` here. A network takes what it was trained on, and is returned as it is."""
        return self

    def within(self, spec: ImageSpec, room: int) -> Self:
        """The predictor for an image of ``spec`` (of the size that it works on) and ``room`` bytes for its work, windows and all
        it holds: a method that can hold more or less chooses here, and says so in ``held_bytes`` and ``remarks``. A function of
        its arguments alone, not changed by :meth:`prepare`: it is called for the plan and again before the run, and a resumed run
        chooses with the same room."""
        return self

    def prepare(self, source: Source, seed: int) -> Self:
        """A predictor whose image-wide statistics are frozen: no tile decides alone what only the image can tell."""
        return self

    def statistics(self) -> dict[str, Any]:
        """What :meth:`prepare` froze, as JSON values: recorded in the manifest."""
        return {}

    def with_statistics(self, statistics: Mapping[str, Any]) -> Self:
        """The prepared predictor that gave ``statistics``: how a resumed run goes on. A subclass that has any overrides it."""
        if statistics:
            raise PluginError(f"{type(self).__name__} has no with_statistics, and cannot go on from recorded statistics")
        return copy.copy(self)

    def normalize(self, pixels: Array) -> npt.NDArray[np.float32]:
        """(H, W, C) in the image's dtype -> (H, W, C) float32 as the network wants it. Pixel by pixel: no statistics."""
        return pixels.astype(np.float32)


def nearest(values: npt.NDArray[np.float32], dtype: str) -> Array:
    """``values`` in ``dtype``: for integers rounded, and cut off at the ends of its range."""
    if np.dtype(dtype).kind not in "iu":
        return values.astype(dtype)
    limits = np.iinfo(dtype)
    return values.astype(np.float64).round().clip(limits.min, limits.max).astype(dtype)


class DensePredictor(Predictor):
    """A network that gives a value for each pixel."""

    kind = "dense"
    label_rule: LabelRule | None = None
    """How an output that means labels is made from the output ``classes``; without one, labels are not offered."""
    keep: ObjectFilter = ObjectFilter()
    """Which objects of labels stay: the user's wish, where the label rule is the model's."""
    positions: bool = False
    """Whether the network sees, in two channels behind those of the image, the row and the column of each pixel: for what is to
    be random, and yet the same in every tile."""
    traceable: bool = False
    """Whether ``__call__`` is a pure function of the batch made of torch operations, the same ones whatever the pixels are, so
    that other backends than torch may run it."""

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        """(N, channels_in, H, W) float32 -> (N, channels_out, H', W') float32; H' and W' as the footprint says. With
        ``positions``, two channels more go in."""
        raise NotImplementedError

    def exportable(self) -> torch.nn.Module:
        """The network alone, for other programs: (N, channels_in, H, W) float32, normalised, H and W such as the footprint says,
        to what it says of them. Raises ``ModelError`` where there is none."""
        if not self.traceable:
            raise ModelError("the network cannot be exported: it does more than tensors show")
        return traced(self)

    def convert(self, raw: npt.NDArray[np.float32], output: Output) -> Array:
        """The raw output (H, W, channels_out) as pixels (H, W, output.channels) of ``output.dtype``; of integers, the nearest
        that the dtype can hold."""
        return nearest(raw, output.dtype)


def traced(predictor: DensePredictor) -> torch.nn.Module:
    """A predictor as a module that torch can trace."""
    from torch import nn

    class Traced(nn.Module):
        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            return predictor(batch)

    return Traced()


class InstancePredictor(Predictor):
    """A detector that gives objects for each window."""

    kind = "instances"
    merge_overlap: float = 0.5
    """Objects of one class, of two tiles, are one when their masks' intersection is above this share of the smaller mask."""
    class_names: Mapping[int, str] = MappingProxyType({1: "object"})
    """The names of the classes by their numbers, from 1; there may be gaps."""

    def __call__(self, batch: torch.Tensor) -> list[Instances]:
        """(N, channels_in, H, W) float32 -> N ``Instances`` in pixels of the window."""
        raise NotImplementedError


class Checkpoint(Protocol):
    """Where an iterative method keeps its state, so that a killed run goes on."""

    def load(self) -> dict[str, Array] | None:
        """The state saved last in this stage, or None at its start."""
        ...

    def save(self, state: Mapping[str, Array]) -> None:
        """Replace the saved state, atomically."""
        ...


class WritableSource(Source, Protocol):
    """A source whose pixels can be replaced: the canvas."""

    def write(self, region: Region, pixels: Array) -> None: ...


@dataclass(frozen=True)
class ImageWork:
    """What an :class:`ImagePredictor` is given for one stage. ``grid``: windows that keep its memory bounded. ``snapshot``:
    called with the number of a step, counted over all stages, and the picture so far, (H, W, C) uint8 of any size: it becomes a
    file beside the output. ``frame``: the same for an animation; None where none is asked for. A step that is repeated after a
    kill replaces what it gave before."""

    source: Source
    grid: Grid
    canvas: WritableSource
    checkpoint: Checkpoint
    seed: int
    device: str
    progress: Callable[[float], None]
    snapshot: Callable[[int, Array], None] = lambda step, picture: None
    frame: Callable[[int, Array], None] | None = None


class ImagePredictor(Predictor):
    """An iterative method that owns the whole image. The canvas holds its raw output, float32.

    ``snapshots``: whether it was asked for pictures on its way, which it gives to ``work.snapshot``."""

    kind = "image"
    snapshots: bool = False

    def stages(self, spec: ImageSpec) -> tuple[str, ...]:
        """The names of its stages, in order, none of them convert or frames; each is journaled."""
        return ("iterate",)

    def seconds(self, source: Source, grid: Grid) -> float | None:
        """What all stages should take, from a try of a small part of the work; None where that cannot be told. It is asked of a
        prepared predictor that was given its room, for a dry run."""
        return None

    def run(self, stage: str, work: ImageWork) -> None:
        """Do one stage: read ``work.source``, write ``work.canvas``. The result must not depend on ``work.grid``."""
        raise NotImplementedError

    def convert(self, raw: npt.NDArray[np.float32], output: Output) -> Array:
        """The raw output (H, W, channels_out) as pixels (H, W, output.channels) of ``output.dtype``; of integers, the nearest
        that the dtype can hold."""
        return nearest(raw, output.dtype)
