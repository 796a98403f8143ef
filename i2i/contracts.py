"""The contracts between the engine and its plugins: plain frozen values and small base classes, numpy only.

A plugin returns :class:`Task`, :class:`ModelCard`, :class:`Format` and :class:`Exporter` values from its hooks. A task's
``load`` gives a predictor, which declares a :class:`Footprint`; from it the engine knows how to tile exactly.

Arrays outside a predictor are HWC in the image's dtype. Predictors are given torch tensors: NCHW, float32, on the device.
"""

from __future__ import annotations

import copy
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from i2i.errors import ModelError, PluginError
from i2i.geometry import Border, Grid, Region

if TYPE_CHECKING:
    import torch

I2I_API = 1
"""The version of these contracts. A plugin module states the one it was written for: ``I2I_API = 1``."""

Array: TypeAlias = npt.NDArray[Any]
Meaning = Literal["image", "probabilities", "classes", "labels"]
"""What the pixels of an output are: it decides how pyramids are made and which formats can hold them."""


# ------------------------------------------------------------------------------------------------------------- images


@dataclass(frozen=True)
class ImageSpec:
    """What is known of an image before a pixel is read.

    ``dtype``: numpy's name. ``pixel_size``: height and width of a pixel in micrometres. ``planes``: the axes besides Y, X
    and channels with their lengths, outermost first, such as ``(("t", 3), ("z", 15))``. ``levels``: (height, width) of
    each resolution, full size first; empty means one. ``notes``: what the reader had to assume; each becomes a warning.
    """

    height: int
    width: int
    channels: int = 1
    dtype: str = "uint8"
    pixel_size: tuple[float, float] | None = None
    channel_names: tuple[str, ...] = ()
    planes: tuple[tuple[str, int], ...] = ()
    levels: tuple[tuple[int, int], ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def region(self) -> Region:
        return Region(0, 0, self.height, self.width)

    @property
    def plane_count(self) -> int:
        return int(np.prod([length for _, length in self.planes], dtype=np.int64))

    @property
    def bytes(self) -> int:
        """Size of one plane at full resolution, uncompressed."""
        return self.height * self.width * self.channels * np.dtype(self.dtype).itemsize


class Source(Protocol):
    """Something that pixels are read from by region: a file, a view of one, a canvas."""

    @property
    def spec(self) -> ImageSpec: ...

    def read(self, region: Region, plane: int = 0, level: int = 0) -> Array:
        """The pixels of ``region`` (inside the image, in pixels of ``level``) of the plane counted in C order of
        ``spec.planes``: (height, width, channels), in ``spec.dtype``. Raises ``InputError`` when they cannot be decoded."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Output:
    """A kind of result that the user asks for with ``--as``: its name, channels, numpy dtype and meaning."""

    name: str
    channels: int
    dtype: str
    meaning: Meaning
    channel_names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Footprint:
    """What a network needs and gives, in pixels of its input. From it follows whether tiling is exact.

    ``halo``: context on each side of a pixel. ``multiple_of``: the network's total stride: sizes and origins of windows
    are multiples of it. ``pad``: the value, after normalisation, that fills the bottom and right up to a multiple.
    ``border``: beyond the image lies the network's own zero padding (``zero``: it gives as many pixels as it sees) or
    mirrored pixels (``mirror``: it gives the window less the halo, rounded up to ``multiple_of``, on each side).
    ``scale``: output pixels for each input pixel along an axis. ``channels_out``: of the raw output. ``merge``: cores are
    cropped, or windows blended. ``norm_scope="image"``: the network normalises over all that it sees, so no tiling is
    exact. ``fixed_tile``: the only window (height and width) that the network takes.
    """

    halo: int = 0
    multiple_of: int = 1
    pad: float = 0.0
    border: Border = "zero"
    scale: int = 1
    channels_in: int = 1
    channels_out: int = 1
    dtype: str = "float32"
    merge: Literal["crop", "blend"] = "crop"
    norm_scope: Literal["pixel", "image"] = "pixel"
    fixed_tile: int | None = None

    def __post_init__(self) -> None:
        if min(self.multiple_of, self.scale, self.channels_in, self.channels_out) < 1 or self.halo < 0:
            raise PluginError(f"footprint with a size below its minimum: {self}")
        if self.fixed_tile is not None and self.fixed_tile % self.multiple_of:
            raise PluginError(f"footprint: fixed_tile {self.fixed_tile} is no multiple of {self.multiple_of}")

    @property
    def exact(self) -> bool:
        """Whether the tiled result is the whole-image result."""
        return self.merge == "crop" and self.norm_scope == "pixel"


# --------------------------------------------------------------------------------------------------------- predictors


@dataclass(frozen=True)
class LabelRule:
    """How classes become labels: components of ``interior`` grow ``dilate`` pixels into ``border``; those of fewer than
    ``min_area`` pixels (of the interior) are dropped. Class numbers are those of the output ``classes``."""

    interior: int = 1
    border: int | None = None
    dilate: int = 0
    min_area: int = 0


@dataclass(frozen=True)
class Instances:
    """Objects found in one window or image, N of them, the same order in every field.

    ``boxes``: (N, 4) int64: top, left, bottom, right, exclusive. ``scores``: (N,) float32 in 0 .. 1. ``classes``: (N,)
    int64 from 1. ``masks``: N boolean arrays, each of the size of its box.
    """

    boxes: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float32]
    classes: npt.NDArray[np.int64]
    masks: tuple[npt.NDArray[np.bool_], ...]

    def __len__(self) -> int:
        return len(self.boxes)

    @staticmethod
    def empty() -> Instances:
        return Instances(
            np.zeros((0, 4), np.int64), np.zeros(0, np.float32), np.zeros(0, np.int64), ()
        )

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

    ``window_bytes``: memory that the network takes for each pixel of a window, in bytes, for the planner.
    """

    kind: ClassVar[Literal["dense", "instances", "image"]]
    footprint: Footprint
    outputs: tuple[Output, ...]
    window_bytes: int = 1024

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


class DensePredictor(Predictor):
    """A network that gives a value for each pixel."""

    kind = "dense"
    label_rule: LabelRule | None = None
    """How an output that means labels is made from the output ``classes``; without one, labels are not offered."""

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        """(N, channels_in, H, W) float32 -> (N, channels_out, H', W') float32; H' and W' as the footprint says."""
        raise NotImplementedError

    def convert(self, raw: npt.NDArray[np.float32], output: Output) -> Array:
        """The raw output (H, W, channels_out) as pixels (H, W, output.channels) of ``output.dtype``."""
        return raw.astype(output.dtype)


class InstancePredictor(Predictor):
    """A detector that gives objects for each window."""

    kind = "instances"
    merge_overlap: float = 0.5
    """Objects of two tiles are one when their masks' intersection is above this share of the smaller mask."""

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
    """What an :class:`ImagePredictor` is given for one stage. ``grid``: windows that keep its memory bounded."""

    source: Source
    grid: Grid
    canvas: WritableSource
    checkpoint: Checkpoint
    seed: int
    device: str
    progress: Callable[[float], None]


class ImagePredictor(Predictor):
    """An iterative method that owns the whole image. The canvas holds its raw output, float32."""

    kind = "image"

    def stages(self, spec: ImageSpec) -> tuple[str, ...]:
        """The names of its stages, in order; each is journaled."""
        return ("iterate",)

    def run(self, stage: str, work: ImageWork) -> None:
        """Do one stage: read ``work.source``, write ``work.canvas``. The result must not depend on ``work.grid``."""
        raise NotImplementedError

    def convert(self, raw: npt.NDArray[np.float32], output: Output) -> Array:
        """The raw output (H, W, channels_out) as pixels (H, W, output.channels) of ``output.dtype``."""
        return raw.astype(output.dtype)


# -------------------------------------------------------------------------------------------------------------- models


@dataclass(frozen=True)
class ModelCard:
    """A model by name: where its file is, what it is made from, what it is for, and what not.

    ``file``: a path, for models that come with a plugin; else ``url``, downloaded into the cache. ``sha256``: of the file.
    ``precisions``: those that were measured to keep the task's accuracy. ``default``: the task's choice for its channels.
    """

    name: str
    task: str
    summary: str
    channels: int
    sha256: str
    licence: str
    data: str
    file: Path | None = None
    url: str | None = None
    precisions: tuple[str, ...] = ("fp32",)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    not_for: str = ""
    made_by: str = ""
    default: bool = False

    @staticmethod
    def from_toml(path: Path) -> ModelCard:
        """The card in a TOML file whose keys are the fields; ``file`` is relative to it. Raises ``ModelError``."""
        try:
            values = tomllib.loads(path.read_text("utf-8"))
            if "file" in values:
                values["file"] = path.parent / values["file"]
            return ModelCard(**values | {"precisions": tuple(values.get("precisions", ("fp32",)))})
        except (OSError, tomllib.TOMLDecodeError, TypeError) as error:
            raise ModelError(f"{path}: not a model card: {error}") from error


@dataclass(frozen=True)
class Model:
    """A model file, opened: ``config`` is what its header says of the network, ``tensors`` its weights by name.

    ``card`` is None for a file given by path. ``sha256`` is the file's.
    """

    name: str
    path: Path
    sha256: str
    config: Mapping[str, Any]
    tensors: Callable[[], dict[str, torch.Tensor]]
    card: ModelCard | None = None


@dataclass(frozen=True)
class Runtime:
    """Where and how a network runs: ``device`` as torch names it, ``precision`` fp32, bf16 or fp16, the backend's name."""

    device: str = "cpu"
    precision: str = "fp32"
    backend: str = "torch"


# --------------------------------------------------------------------------------------------------- what plugins give


@dataclass(frozen=True)
class TrainingRun:
    """What a training function is given: where the model goes, and how to go on.

    ``output``: the model file to write. ``work``: the folder for checkpoints. ``report``: called with (step, steps,
    values) as it goes. ``messages``: lines for the user.
    """

    output: Path
    work: Path
    seed: int
    device: str
    precision: str
    resume: bool
    report: Callable[[int, int, Mapping[str, float]], None]
    message: Callable[[str], None]


@dataclass(frozen=True)
class Training:
    """``run(options, run)`` writes the model to ``run.output`` and returns figures for the report."""

    options: type
    run: Callable[[Any, TrainingRun], Mapping[str, Any]]


@dataclass(frozen=True)
class Evaluation:
    """``measure(prediction, truth, options)`` takes arrays (H, W, C) and gives figures of one image by name;
    ``pool`` turns those of all images into the figures of the set."""

    options: type
    measure: Callable[[Array, Array, Any], Mapping[str, float]]
    pool: Callable[[Sequence[Mapping[str, float]]], Mapping[str, float]]


@dataclass(frozen=True)
class Demo:
    """One picture of ``i2i demo``: a bundled input (its licence allows it) and the options to run with."""

    title: str
    input: Path
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """A command. ``options`` is a frozen dataclass (see :func:`i2i.options.option`) from which the command line is made.

    ``load(options, model, runtime)`` gives the predictor; ``model`` is None for a task with ``needs_model=False``. ``lossy``:
    whether a lossy format such as JPEG may hold the result (a picture), or must not (labels, measurements).
    """

    name: str
    summary: str
    options: type
    load: Callable[[Any, Model | None, Runtime], Predictor]
    train: Training | None = None
    evaluate: Evaluation | None = None
    needs_model: bool = True
    lossy: bool = False
    demos: tuple[Demo, ...] = ()


@dataclass(frozen=True)
class Metadata:
    """What a written file says of itself. ``meaning`` of its pixels; ``record``: model, hash, precision, version ...;
    ``fingerprint``: hex of the run, from which identifiers are derived so that the same run gives the same bytes."""

    meaning: Meaning
    record: Mapping[str, Any]
    fingerprint: str


@dataclass(frozen=True)
class Format:
    """A file format. ``suffixes`` begin with a dot, lower case. ``sniff(head, path)``: whether the first 64 bytes (empty
    for a folder) are of this format. ``open(path)`` gives a source and raises ``InputError``. ``write(path, source, metadata)``
    writes a whole new file at a temporary path that the engine renames. ``dtypes`` and ``channels``: what it can hold; empty means anything.
    """

    name: str
    suffixes: tuple[str, ...]
    summary: str
    sniff: Callable[[bytes, Path], bool]
    open: Callable[[Path], Source]
    write: Callable[[Path, Source, Metadata], None] | None = None
    dtypes: tuple[str, ...] = ()
    channels: tuple[int, ...] = ()
    lossy: bool = False


@dataclass(frozen=True)
class Exported:
    """What an exporter is given: the input, the result on the input's grid, and what its pixels mean."""

    source: Source
    result: Source
    meaning: Meaning


@dataclass(frozen=True)
class Exporter:
    """A further file from the same run: the option ``--<name> FILE``. ``meanings``: of the results that it takes."""

    name: str
    suffix: str
    summary: str
    export: Callable[[Path, Exported], None]
    meanings: tuple[Meaning, ...] = ("labels",)
