"""What plugins give: models, tasks, formats, exporters, each a frozen value."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from i2i.contracts.images import Array, ImageSpec, Meaning, Source
from i2i.contracts.predictors import Instances, Predictor
from i2i.errors import ModelError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class ModelCard:
    """A model by name: where its file is, what it is made from, what it is for, and what not.

    ``file``: a path, for models that come with a plugin; else ``url``, downloaded into the cache. ``sha256``: of the file, which
    is one of i2i's, or weights alone (safetensors, or a state dict of PyTorch) where the task knows the tensors' names.
    ``precisions``: those that were measured to keep the task's accuracy. ``default``: the task's choice for its channels.
    ``pixel_size``: of the images that it was trained on, in micrometres; images of another are resampled to it.
    ``gray_as_rgb``: of three channels, and takes a gray image as three equal ones: its predictor says so too. ``part``: a part
    of a method that has an option of its own for it: no choice for ``--model``.
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
    pixel_size: float | None = None
    gray_as_rgb: bool = False
    part: bool = False

    def takes(self, channels: int) -> bool:
        """Whether images of so many channels are what it was trained on."""
        return channels == self.channels or (self.gray_as_rgb and channels == 1)

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

    ``card`` is None for a file given by path. ``sha256`` is the file's. ``config`` is empty for a file of weights alone: the task
    knows the network by the tensors' names, or refuses it.
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


@dataclass(frozen=True)
class TrainingRun:
    """What a training function is given: where the model goes, and how to go on.

    ``output``: the model file to write. ``work``: the folder for checkpoints. ``report``: called with (step, steps,
    values) as it goes. ``message``: lines for the user. ``find_model``: the model of this task by name or path, or of a
    checkpoint, to start from. ``part``: the number of this process among those that train together, and how many they are; the
    first alone writes the model.
    """

    output: Path
    work: Path
    seed: int
    device: str
    precision: str
    resume: bool
    report: Callable[[int, int, Mapping[str, float]], None]
    message: Callable[[str], None]
    find_model: Callable[[str], Model]
    tensorboard: bool = False
    part: tuple[int, int] = (0, 1)


@dataclass(frozen=True)
class Training:
    """``run(options, run)`` writes the model to ``run.output`` and returns figures for the report."""

    options: type
    run: Callable[[Any, TrainingRun], Mapping[str, Any]]


@dataclass(frozen=True)
class Compared:
    """An image's prediction beside its truth: arrays (H, W, C), each as its file holds it. ``inside``: (H, W) bool, the pixels
    that count; None: all do. The heights and widths are equal. ``name``: of the truth, its path in the folder without suffix."""

    prediction: Array
    truth: Array
    inside: Array | None = None
    name: str = ""


@dataclass(frozen=True)
class Evaluation:
    """``measure(case, options)`` gives figures of one image by name; ``pool`` turns those of all images into the figures of
    the set, the means over the images named ``mean_...``. ``headline``: patterns, as of file names, of the figures that are
    shown without ``-v``; empty: all.

    ``files(prediction, truth, options)`` is asked first, where there is one: the figures of the set from files or folders that
    are no images, or are compared as a whole, such as COCO JSON; None: compare them image by image, with ``measure``."""

    options: type
    measure: Callable[[Compared, Any], Mapping[str, float]]
    pool: Callable[[Sequence[Mapping[str, float]]], Mapping[str, float]]
    headline: tuple[str, ...] = ()
    files: Callable[[Path, Path, Any], Mapping[str, float] | None] | None = None


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

    ``join(predictors)`` makes one of those of several models (``--model A --model B``), in the order given, not yet prepared;
    it raises ``ModelError`` that says which two do not go together, and why. A task without it takes one model.

    ``files(options)``: the files that the options name and that decide the result: their content is part of the run's identity,
    and none of them is ever written over. ``meanings``: of the results that it gives; exporters that take none of them are not
    offered; empty: any. ``precisions``: those that it vouches for where it runs without a model, whose card would say.
    ``results(options)``: how many results an input gets, each with a seed of its own and a number in its name; one, without.
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
    join: Callable[[Sequence[Predictor]], Predictor] | None = None
    files: Callable[[Any], Sequence[Path]] | None = None
    meanings: tuple[Meaning, ...] = ()
    precisions: tuple[str, ...] = ("fp32",)
    results: Callable[[Any], int] | None = None


@dataclass(frozen=True)
class Metadata:
    """What a written file says of itself. ``meaning`` of its pixels; ``record``: model, hash, precision, version ...;
    ``fingerprint``: hex of the run, from which identifiers are derived so that the same run gives the same bytes.
    ``compression``: one of the format's ``compressions``, or empty for its usual one. ``threads``: that may encode. ``profile``
    and ``dpi``, as in ``ImageSpec``, of a picture in the colours of its input."""

    meaning: Meaning
    record: Mapping[str, Any]
    fingerprint: str
    compression: str = ""
    threads: int = 1
    profile: bytes = field(default=b"", repr=False)
    dpi: tuple[float, float] | None = None


@dataclass(frozen=True)
class Format:
    """A file format. ``suffixes`` begin with a dot, lower case. ``sniff(head, path)``: whether the first 64 bytes (empty
    for a folder) are of this format. ``open(path)`` gives a source and raises ``InputError``. ``write(path, source, metadata)``
    writes a whole new file at a temporary path that the engine renames. ``dtypes`` and ``channels``: what it can hold; empty
    means anything. ``compressions``: the values of ``--compression`` that it knows; ``planes``: whether it holds images of
    several planes. ``check(path, spec, metadata)``: raises ``OutputError`` for what else it cannot hold; asked before anything is
    computed.
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
    compressions: tuple[str, ...] = ()
    planes: bool = False
    check: Callable[[Path, ImageSpec, Metadata], None] | None = None


@dataclass(frozen=True)
class Objects:
    """What a detector knows of the objects of a label image beyond their pixels. The object with the id i is at i - 1.

    ``class_names``: by class number. ``scores``: (N,) float32, 0 .. 1. ``classes``: (N,) int16 class numbers. ``masks``: gives
    the objects' own masks, on the grid of the label image, in parts in the order of their ids: (ids (M,) int64, M instances);
    in the label image, where two overlap, one is on top. None where only the label image tells. Ids that are nowhere on top
    have no pixel in the label image: exporters leave them out.
    """

    class_names: Mapping[int, str]
    scores: npt.NDArray[np.float32]
    classes: npt.NDArray[np.int16]
    masks: Callable[[], Iterator[tuple[npt.NDArray[np.int64], Instances]]] | None = None


@dataclass(frozen=True)
class Exported:
    """What an exporter is given: the input, the result on the input's grid, and what its pixels mean. ``scale``: height and width
    of a pixel of the result in pixels of the input's full resolution, which is not 1 where another level was run, or where the
    method works at another size: the input is given at that size then. ``objects``: where the result is of a detector. ``name``:
    of the input, as the user knows it. ``frames``: gives the pictures on the way of an iterative method, (H, W, C) uint8, in the
    order of the steps, each time from the first; None where no exporter that is asked for takes any.

    ``plane``: where a stack's plane lies in its file, such as ``{"t": 0, "z": 3}``; empty for an image that is no stack.
    ``planes``: of an image of several planes, gives each as an image of one, in C order; ``objects`` are theirs then, and in
    memory for one at a time. None for an image of one plane. ``measure``: what ``--measure`` asks for besides; ``every``: the
    input with all channels of its file, also those that were not chosen; None where these are all."""

    source: Source
    result: Source
    meaning: Meaning
    scale: tuple[float, float] = (1.0, 1.0)
    objects: Objects | None = None
    name: str = ""
    frames: Callable[[], Iterator[Array]] | None = None
    plane: Mapping[str, int] = field(default_factory=dict)
    planes: Callable[[], Iterator[Exported]] | None = None
    measure: tuple[str, ...] = ()
    every: Source | None = None

    def each(self) -> Iterator[Exported]:
        """The planes one after the other; of an image of one plane, itself."""
        return iter((self,)) if self.planes is None else self.planes()

    @property
    def axes(self) -> tuple[str, ...]:
        """Those along which its several planes lie, outermost first."""
        return () if self.planes is None else tuple(axis for axis, _ in self.result.spec.planes)


@dataclass(frozen=True)
class Exporter:
    """A further file from the same run: the option ``--<name> FILE``. ``meanings``: of the results that it takes;
    ``suffixes``: those that FILE may have, any by default. ``folder``: it writes a folder, ``--<name> DIR``:
    ``export`` is given an empty one, and ``suffix`` is "" then. ``frames``: it takes the pictures on the way of an iterative
    method, and is refused for any other. ``planes``: it takes images of several planes (:meth:`Exported.each`), and is refused
    for them else."""

    name: str
    suffix: str
    summary: str
    export: Callable[[Path, Exported], None]
    meanings: tuple[Meaning, ...] = ("labels",)
    suffixes: tuple[str, ...] = ()
    folder: bool = False
    frames: bool = False
    planes: bool = False
