"""Which model an image is run with, and its predictor, loaded once."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

from i2i.backends import pick_device, pick_precision, start_torch
from i2i.contracts import ImageSpec, Model, Output, Predictor, Runtime, Task
from i2i.errors import ModelError, UsageError
from i2i.models import default_model, find_model
from i2i.options import RunOptions
from i2i.registry import Registry


@dataclass
class Loader:
    """``options`` are the task's own, ``run`` those that every image command has. Safe to use from several threads."""

    task: Task
    options: Any
    run: RunOptions
    registry: Registry
    _predictors: dict[str, tuple[Model | None, Predictor, Runtime]] = field(default_factory=dict)
    _loading: threading.Lock = field(default_factory=threading.Lock)

    def model_name(self, spec: ImageSpec) -> str:
        """What ``--model`` says, else the task's default for the image's channels; empty when the task needs none."""
        if self.run.model or not self.task.needs_model:
            return self.run.model
        return default_model(self.task.name, spec.channels, self.registry.models(self.task.name)).name

    def predictor(self, name: str) -> tuple[Model | None, Predictor, Runtime]:
        """The model of that name, its predictor on the device, and how it runs; loaded once."""
        with self._loading:
            if name not in self._predictors:
                self._predictors[name] = self._load(name)
        return self._predictors[name]

    def _load(self, name: str) -> tuple[Model | None, Predictor, Runtime]:
        start_torch()
        model = find_model(name, self.task.name, self.registry.models(self.task.name)) if name else None
        device = pick_device(self.run.device)
        vouched = model.card.precisions if model and model.card else ("fp32",)
        runtime = Runtime(device, pick_precision(self.run.precision, device, vouched), "torch")
        return model, self.task.load(self.options, model, runtime), runtime

    def for_image(self, spec: ImageSpec, name: str) -> tuple[Model | None, Predictor, Runtime]:
        """The same for an image, which messages call ``name``. Raises ``ModelError`` when no model fits."""
        try:
            chosen = self.model_name(spec)
        except ModelError as error:
            raise ModelError(f"{name}: {error}") from error
        return self.predictor(chosen)

    def check_channels(self, spec: ImageSpec, predictor: Predictor, model: Model | None, name: str) -> None:
        """Raises ``ModelError`` when the image has not the channels that the model takes."""
        wanted = predictor.footprint.channels_in
        if spec.channels == wanted:
            return
        cards = self.registry.models(self.task.name)
        fitting = [card.name for card in cards if card.channels == spec.channels]
        choice = "choose with --channels, such as --channels " + ",".join(map(str, range(wanted)))
        cure = f"--model {fitting[0]} fits, or {choice}" if fitting else choice
        what = model.name if model else self.task.name
        raise ModelError(f"{name}: has {_channels(spec.channels)}, {what} takes {wanted}; {cure}")

    def choose_output(self, predictor: Predictor) -> Output:
        """The kind of result asked for, the predictor's first by default. Raises ``UsageError``."""
        if not self.run.as_:
            return predictor.outputs[0]
        for output in predictor.outputs:
            if output.name == self.run.as_:
                return output
        raise UsageError(f"--as {self.run.as_}: this model gives {', '.join(output.name for output in predictor.outputs)}")


def _channels(count: int) -> str:
    return f"{count} channel{'s' * (count != 1)}"
