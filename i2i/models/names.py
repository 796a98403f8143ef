"""Which model is meant: by name, by path, or by the channels of an image."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from i2i.contracts import Model, ModelCard
from i2i.errors import ModelError
from i2i.models.download import Progress, fetch
from i2i.models.files import open_model


def find_model(name_or_path: str | Path, task: str, cards: Sequence[ModelCard], progress: Progress | None = None) -> Model:
    """The model of ``task`` that ``name_or_path`` means: a name among ``cards``, fetched if need be, else a file.

    A card's exact name comes before a file of that name (which is given as ``./name``). What has a separator or a
    suffix, or exists, is a path; a name from outside is only ever compared with those of the cards. A file whose
    settings have the key ``task`` must say this task. Raises ``ModelError``.
    """
    whole = [card for card in cards if not card.part]
    if any(card.part and card.task == task and card.name == name_or_path for card in cards):
        raise ModelError(f"{name_or_path} is a part of a method, and has an option of its own; {_names(task, whole)}")
    return _find(whole, name_or_path, task, progress)


def find_part(name_or_path: str | Path, task: str, cards: Sequence[ModelCard], progress: Progress | None = None) -> Model:
    """The same for a part of a method: among the cards of such."""
    return _find([card for card in cards if card.part], name_or_path, task, progress)


def _find(cards: Sequence[ModelCard], name_or_path: str | Path, task: str, progress: Progress | None) -> Model:
    known = [card for card in cards if card.task == task and card.name == name_or_path]
    if known:
        return open_model(fetch(known[0], progress), known[0])
    elsewhere = sorted({card.task for card in cards if card.name == name_or_path})
    if elsewhere and not os.path.isfile(name_or_path):
        raise ModelError(f"{name_or_path} is a model for {', '.join(elsewhere)}, not for {task}; {_names(task, cards)}")
    if not _is_path(name_or_path):
        raise ModelError(f"no model for {task} is named {str(name_or_path)[:80]!r}; {_names(task, cards)}")
    return _open_for(Path(name_or_path), task)


def default_model(task: str, channels: int, cards: Sequence[ModelCard]) -> ModelCard:
    """The card that ``task`` uses for images of ``channels`` channels. Raises ``ModelError`` that lists the cards."""
    models = [card for card in cards if card.task == task]
    fitting = [card for card in models if card.default and card.takes(channels)]
    if fitting:
        return min(fitting, key=lambda card: card.channels != channels)
    if not models:
        raise ModelError(f"there is no model for {task}: install one, or give a file with --model")
    listed = ", ".join(f"{card.name} ({card.channels})" for card in models)
    raise ModelError(
        f"no default model for {task} takes {channels} channel{'s' * (channels != 1)}; "
        f"choose one with --model, or fitting channels with --channels; models and their channels: {listed}"
    )


def _is_path(text: str | Path) -> bool:
    return isinstance(text, Path) or any(s in text for s in "/\\") or bool(Path(text).suffix) or os.path.exists(text)


def _open_for(path: Path, task: str) -> Model:
    model = open_model(path)
    made_for = model.config.get("task", task)
    if made_for != task:
        raise ModelError(f"{path}: a model for {made_for}, not for {task}; give a model for {task}")
    return model


def _names(task: str, cards: Sequence[ModelCard]) -> str:
    names = sorted(card.name for card in cards if card.task == task)
    return f"models for {task}: {', '.join(names)}" if names else f"there is none for {task} but files"
