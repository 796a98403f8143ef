"""Checkpoints of a training run: torch's own file, written whole or not at all, read as data and never as a program."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from i2i.contracts import Model
from i2i.errors import ModelError, OutputError
from i2i.files import replacing
from i2i.models.files import hash_file
from i2i.models.state_dicts import DAMAGE

_CURE = "train again without --resume, or give --from a model file"


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write ``state``: tensors, numbers, strings, None, and dicts, lists and tuples of them. Raises ``OutputError``."""
    import torch

    with replacing(path) as temporary:
        try:
            torch.save(dict(state), temporary)
        except RuntimeError as error:  # torch's word for a full disk, a folder that is not there
            raise OutputError(f"{path}: cannot be written: is the folder there, the disk full?") from error


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The state that :func:`save_checkpoint` wrote, its tensors on the CPU.

    Raises ``ModelError`` for a file that is absent, damaged, compressed (a bomb), or holds more than data.
    """
    import torch

    _check_archive(path)
    try:
        with path.open("rb") as stream:  # given a path, torch decides by its suffix what the file is
            state = torch.load(stream, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise ModelError(f"{path}: holds more than data, and is not loaded: not a checkpoint of i2i train; {_CURE}") from error
    except DAMAGE as error:
        raise ModelError(f"{path}: a damaged checkpoint; delete it, and {_CURE}") from error
    if not isinstance(state, dict):
        raise ModelError(f"{path}: not a checkpoint of i2i train; {_CURE}")
    return state


def model_of_checkpoint(path: Path) -> Model:
    """The best weights so far of a training, as a model. Raises ``ModelError``."""
    from torch import Tensor

    if not path.is_file():
        raise ModelError(f"{path}: no such file")
    state = load_checkpoint(path)
    header, weights = state.get("header"), state.get("best_weights")
    if not (isinstance(header, Mapping) and header and isinstance(weights, Mapping) and weights):
        raise ModelError(f"{path}: does not say what network it holds; give the model file that its training wrote")
    if not all(isinstance(tensor, Tensor) for tensor in weights.values()):
        raise ModelError(f"{path}: its weights are no tensors; give the model file that its training wrote")
    return Model(path.absolute().parent.name, path, hash_file(path), header, lambda: dict(weights))


def _check_archive(path: Path) -> None:
    """torch writes its zip archives uncompressed: anything else is not its work, or a bomb."""
    if not path.is_file():
        raise ModelError(f"{path}: no such checkpoint; train without --resume")
    try:
        with zipfile.ZipFile(path) as archive:
            stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in archive.infolist())
    except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError) as error:
        raise ModelError(f"{path}: not a checkpoint of i2i train, or a damaged one; {_CURE}") from error
    if not stored:
        raise ModelError(f"{path}: a compressed archive, not a checkpoint of i2i train; {_CURE}")
