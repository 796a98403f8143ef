"""Which models an image is run with, and their predictor, loaded once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from i2i.backends import pick_device, pick_precision, start_torch
from i2i.contracts import DensePredictor, ImageSpec, Model, Output, Predictor, Runtime, Source, Task
from i2i.errors import ModelError, UsageError
from i2i.formats.views import Described, Selection
from i2i.models import Progress, default_model, find_model
from i2i.options import RunOptions
from i2i.registry import Registry

Ready = tuple[tuple[Model, ...], Predictor, Runtime]
"""The models (none for a task that needs none), the predictor of all of them on its device, and how it runs."""


@dataclass
class Loader:
    """``options`` are the task's own, ``run`` those that every image command has; ``progress`` gives what is told of the download
    of a model of that name. Safe to use from several threads. Raises ``UsageError`` for several models of a task that takes
    one."""

    task: Task
    options: Any
    run: RunOptions
    registry: Registry
    progress: Callable[[str], Progress] | None = None
    _ready: dict[tuple[str, ...], Ready] = field(default_factory=dict)
    _loading: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        if len(self._asked) > 1 and self.task.join is None:
            raise UsageError(f"--model: {self.task.name} takes one model, and {len(self._asked)} are given; choose one")

    @property
    def _asked(self) -> tuple[str, ...]:
        return tuple(filter(None, self.run.model))

    def model_names(self, spec: ImageSpec) -> tuple[str, ...]:
        """What ``--model`` says, else the task's default for the image's channels; none when the task needs none."""
        if self._asked or not self.task.needs_model:
            return self._asked
        return (default_model(self.task.name, spec.channels, self.registry.models(self.task.name)).name,)

    def predictor(self, *names: str) -> Ready:
        """The models of those names, ready to run; loaded once."""
        with self._loading:
            if names not in self._ready:
                self._ready[names] = self._load(names)
        return self._ready[names]

    def _load(self, names: Sequence[str]) -> Ready:
        start_torch()
        cards = self.registry.models(self.task.name)
        models = tuple(find_model(name, self.task.name, cards, self.progress and self.progress(name)) for name in names)
        device = pick_device(self.run.device)
        runtime = Runtime(device, pick_precision(self.run.precision, device, _vouched(models, self.task.precisions)), "torch")
        predictors = [self.task.load(self.options, model, runtime) for model in models or (None,)]
        joined = self.task.join(predictors) if self.task.join and len(predictors) > 1 else predictors[0]
        return models, joined, runtime

    def for_image(self, spec: ImageSpec, name: str) -> Ready:
        """The same for an image, which messages call ``name``. Raises ``ModelError`` when no model fits."""
        try:
            chosen = self.model_names(spec)
        except ModelError as error:
            raise ModelError(f"{name}: {error}{self._with_fewer(spec.channels)}") from error
        return self.predictor(*chosen)

    def _with_fewer(self, channels: int) -> str:
        """The default that would take some of an image's channels: the widest."""
        cards = [card for card in self.registry.models(self.task.name) if card.default and card.channels < channels]
        if not cards:
            return ""
        widest = max(cards, key=lambda card: card.channels)
        return f"; --channels {_first(widest.channels)} would do for {widest.name}"

    def check_channels(self, spec: ImageSpec, predictor: Predictor, models: Sequence[Model], name: str) -> None:
        """Raises ``ModelError`` when the image has not the channels that the models take."""
        wanted = predictor.footprint.channels_in
        if spec.channels == wanted:
            return
        cards = self.registry.models(self.task.name)
        fitting = [card.name for card in cards if card.takes(spec.channels)]
        some = _first(1 if spec.channels < wanted and predictor.gray_as_rgb else wanted)
        choice = f"choose with --channels, such as --channels {some}"
        cure = f"--model {fitting[0]} fits, or {choice}" if fitting else choice
        what = "+".join(model.name for model in models) or self.task.name
        raise ModelError(f"{name}: has {_channels(spec.channels)}, {what} takes {wanted}; {cure}")

    def choose_output(self, predictor: Predictor) -> Output:
        """The kind of result asked for, the predictor's first by default. Raises ``UsageError``, also where objects are to be
        left out and it has none."""
        named = {output.name: output for output in predictor.outputs}
        output = named.get(self.run.as_) if self.run.as_ else predictor.outputs[0]
        if output is None:
            raise UsageError(f"--as {self.run.as_}: with these options this model gives {', '.join(named)}")
        if isinstance(predictor, DensePredictor) and predictor.keep.asked and output.meaning != "labels":
            flag = predictor.keep.asked[0].replace("_", "-")
            raise UsageError(f"--{flag} takes labels, not {output.name}; leave it out, or choose with --as")
        return output


def as_trained(source: Source, predictor: Predictor) -> Source:
    """The source as the predictor was trained to see it: a gray image as three equal channels where ``gray_as_rgb`` says so, any
    other as it is; with a remark on that, and those of the predictor."""
    spec = source.spec
    if not predictor.gray_as_rgb or (spec.channels, predictor.footprint.channels_in) != (1, 3):
        return Described(source, remarks=(*spec.remarks, *predictor.remarks)) if predictor.remarks else source
    remarks = (*spec.remarks, "gray: the model sees it as three equal channels, as it was trained to", *predictor.remarks)
    return Selection(
        Described(source, remarks=remarks), range(spec.plane_count), spec.planes, channels=(0, 0, 0), names=spec.plane_names
    )


def _vouched(models: Sequence[Model], own: tuple[str, ...] = ("fp32",)) -> tuple[str, ...]:
    """The precisions that the cards of all models vouch for; for a model without a card, fp32 alone; without a model, the task's
    ``own``."""
    given = [model.card.precisions if model.card else ("fp32",) for model in models]
    return tuple(name for name in given[0] if all(name in each for each in given)) if given else own


def _channels(count: int) -> str:
    return f"{count} channel{'s' * (count != 1)}"


def _first(count: int) -> str:
    """Such as ``0,1,2``."""
    return ",".join(map(str, range(count)))
