"""Channels by name: those that a model was trained on, found in an image that may have them in another order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from i2i.contracts import ImageSpec, Model, Source
from i2i.errors import ModelError
from i2i.formats.rgb import says_nothing
from i2i.formats.views import Described, Selection

_LONGEST = 200


def names_of(model: Model) -> tuple[str, ...]:
    """The names of the channels that a model was trained on, in its order; none where its file does not say. Raises
    ``ModelError``."""
    names = model.config.get("channel_names", [])
    if not isinstance(names, list) or not all(map(_is_name, names)):
        raise ModelError(f"{model.path}: its channel_names are no list of names of one line each; make the model again")
    return () if says_nothing(names) else tuple(names)


def common_names(models: Sequence[Model]) -> tuple[str, ...]:
    """Of the channels that those of the models that say so were trained on. Raises ``ModelError`` where two say otherwise."""
    known = {names: model.name for model in models if (names := names_of(model))}
    if len(known) > 1:
        raise ModelError(f"{' and '.join(known.values())} were trained on channels of other names; run them one at a time")
    return next(iter(known), ())


def in_order(source: Source, names: Sequence[str]) -> Source:
    """The channels of these names alone, in this order, with a remark; the source as it is where it has just these, or not each
    of them once."""
    spec, wanted = source.spec, _plain(names)
    own = [] if says_nothing(spec.channel_names) else _plain(spec.channel_names)
    if not wanted or own == wanted or any(own.count(name) != 1 for name in wanted):
        return source
    told = Described(source, remarks=(*spec.remarks, f"the channels {_listed(names)} are taken by name, in the model's order"))
    chosen = [own.index(name) for name in wanted]
    return Selection(told, range(spec.plane_count), spec.planes, 0, chosen, spec.plane_names)


def unlike(spec: ImageSpec, models: Sequence[Model]) -> list[str]:
    """A warning for each model that was trained on channels of other names than the image has; none where either has none."""
    own = () if says_nothing(spec.channel_names) else spec.channel_names
    return [
        f"its channels are {_listed(own)}, {model.name} was trained on {_listed(names)}; taken in this order (--channels chooses)"
        for model in models
        if own and (names := names_of(model)) and _plain(names) != _plain(own)
    ]


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and value.isprintable() and 0 < len(value) <= _LONGEST


def _plain(names: Sequence[str]) -> list[str]:
    return [name.strip().casefold() for name in names]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)
