"""Which models an image is run with, and their predictor, loaded once."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from i2i.backends import pick_device, pick_precision, start_torch
from i2i.channels import common_names
from i2i.contracts import DensePredictor, ImageSpec, Model, ModelCard, Output, Predictor, Runtime, Source, Task
from i2i.errors import ModelError, UsageError
from i2i.formats.views import Described, Selection
from i2i.models import Progress, default_model, find_model, hash_file
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
            fewer = self._with_fewer(spec.channels, [card for card in self._cards if card.default])
            raise ModelError(
                f"{name}: {error}" + (f"; --channels {fewer[1]} would do for {fewer[0]}" if fewer else "")
            ) from error
        if chosen and not (self._asked or self.run.channels) and spec.rgb is False:
            names = spec.channel_names
            told = f" ({', '.join(names)})" if names else ""
            one = (
                f"choose with --channels {_plain(names)}, or "
                if any(card.default and card.takes(1) for card in self._cards)
                else ""
            )
            raise ModelError(f"{name}: its 3 channels{told} are no RGB picture; {one}say --channels 0,1,2")
        return self.predictor(*chosen)

    def taken_as_rgb(self, spec: ImageSpec, models: Sequence[Model], predictor: Predictor) -> tuple[str, ...]:
        """A warning for three channels that are no RGB picture where the user asked for what takes one: a model that comes with a
        card, or a method without a model. Whoever trained a model of their own knows its channels."""
        rgb = all(model.card is not None for model in models) if models else predictor.gray_as_rgb
        if spec.rgb is not False or self.run.channels or not rgb or predictor.footprint.channels_in != spec.channels:
            return ()
        named = f" ({', '.join(spec.channel_names)})" if spec.channel_names else ""
        return (f"its 3 channels{named} are no RGB picture, and are taken as red, green and blue; --channels chooses",)

    @property
    def _cards(self) -> list[ModelCard]:
        known = self.registry.models(self.task.name)
        return [card for card in known if card.task == self.task.name and not card.part]

    def _with_fewer(self, channels: int, cards: Sequence[ModelCard]) -> tuple[str, str] | None:
        """The name of the card that would take the most of an image's channels, but not all; and which."""
        fitting = [
            (count, card.default, card.channels == count, card.name)
            for card in cards
            for count in (card.channels, 1)
            if count < channels and card.takes(count)
        ]
        if not fitting:
            return None
        count, *_, name = max(fitting)
        return name, _first(count)

    def channel_names(self, spec: ImageSpec) -> tuple[str, ...]:
        """Of the channels that the models for an image of named channels were trained on; none where they do not say. Raises
        ``ModelError`` where two say otherwise."""
        try:
            chosen = self.model_names(spec) if spec.channel_names else ()
        except ModelError:  # which is told where the models are needed
            chosen = ()
        return common_names(self.predictor(*chosen)[0]) if chosen else ()

    def check_channels(self, spec: ImageSpec, predictor: Predictor, models: Sequence[Model], name: str) -> None:
        """Raises ``ModelError`` when the image has not the channels that the models take."""
        wanted = predictor.footprint.channels_in
        if spec.channels == wanted:
            return
        what = "+".join(model.name for model in models) or self.task.name
        cures = ", or ".join(self._cures(spec.channels, wanted, predictor.gray_as_rgb))
        raise ModelError(f"{name}: has {_channels(spec.channels)}, {what} takes {wanted}; {cures}")

    def _cures(self, channels: int, wanted: int, gray_as_rgb: bool) -> list[str]:
        fitting = sorted(self._cards, key=lambda card: (card.channels != channels, not card.default))
        cures = [f"--model {card.name} fits" for card in fitting if card.takes(channels)][:1]
        if channels > wanted or gray_as_rgb:
            some = _first(wanted if channels > wanted else 1)
            return [*cures, f"choose with --channels, such as --channels {some}"]
        if cures:
            return cures
        fewer = self._with_fewer(channels, self._cards)
        if fewer:
            return [f"--model {fewer[0]} --channels {fewer[1]} fits"]
        return [f"give an image of {_channels(wanted)}, or a model for {channels}"]

    def made_otherwise(self, record: Mapping[str, str]) -> str:
        """How a result whose file has this ``record`` was made, where that is not how it would be now: by another task or model,
        or as another kind, such as ``was made by other.safetensors``. Empty where it is, or cannot be told."""
        task, kind = record.get("task", self.task.name), record.get("kind", "")
        if task != self.task.name:
            return f"was made by {task}"
        hashes = self._hashes
        whole = self.task.join is not None  # such predictors have no parts: more hashes are of more models
        fitting = [
            names
            for names, sha256 in hashes.items()
            if record.get("sha256") == sha256 or (not whole and f"{record.get('sha256')}+".startswith(f"{sha256}+"))
        ]
        if "sha256" in record and hashes and not fitting:
            return f"was made by another model ({record.get('model', 'of no name')} {record['sha256'][:8]})"
        if not kind or (not self.run.as_ and (kind in _USUAL or not fitting)):
            return ""
        wanted = self.run.as_ or self.choose_output(self.predictor(*fitting[0])[1]).name
        return f"holds {kind}, not {wanted}" if kind != wanted else ""

    @cached_property
    def _hashes(self) -> Mapping[tuple[str, ...], str]:
        """By the names of models that a run may use, their sha256, joined as in a record; nothing is downloaded. Empty where
        they cannot be told."""
        cards = {card.name: card for card in self.registry.models(self.task.name) if not card.part}
        if not self._asked:
            return {(card.name,): card.sha256.lower() for card in cards.values() if card.default and self.task.needs_model}
        files = [name for name in self._asked if name not in cards]
        if not all(map(os.path.isfile, files)):
            return {}
        found = [cards[name].sha256.lower() if name in cards else hash_file(Path(name)) for name in self._asked]
        return {self._asked: "+".join(found)}

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


_USUAL = ("labels", "image")
"""The kinds that a method gives without ``--as`` whenever it can: the model need not be loaded to tell."""


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


def _plain(names: Sequence[str]) -> str:
    """The first channel as ``--channels`` takes it: its name, or 0 where that would want quotes."""
    return names[0] if names and re.fullmatch(r"[\w.+-]+", names[0]) else "0"


def _first(count: int) -> str:
    """Such as ``0,1,2``."""
    return ",".join(map(str, range(count)))
