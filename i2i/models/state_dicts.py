"""PyTorch's own weight files (.pth, .pt): state dicts, read as data and never as a program.

Two kinds are read: the zip archive that ``torch.save`` writes, and the plain file that it wrote before PyTorch 1.6. Both hold a
pickle, which torch's weights-only reader takes apart without calling anything but what makes tensors; nothing falls back to more.
Importing this module does not import torch.
"""

from __future__ import annotations

import struct
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

from i2i.errors import ModelError

if TYPE_CHECKING:
    import torch

DAMAGE = (
    *(RuntimeError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, AssertionError),
    *(EOFError, OSError, MemoryError, ImportError, struct.error),
)
"""What torch raises for a file that is damaged, or made to look like one of its own."""
_ZIP = b"PK\x03\x04"
_OLD = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
"""The first bytes of a file of PyTorch before 1.6: a number of its own, pickled."""
_CURE = "save the weights alone, with torch.save(model.state_dict(), FILE) or as safetensors"


def is_state_dict(path: Path) -> bool:
    """Whether the file is of one of the two kinds, by its first bytes and its table of contents: no tensor is read.

    Raises ``ModelError`` for a zip archive that torch did not write, is cut short, compressed (a bomb) or a program
    (TorchScript), and for a file that cannot be read.
    """
    try:
        with path.open("rb") as stream:
            head = stream.read(len(_OLD))
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror or error}") from error
    if head.startswith(_ZIP):
        _check_archive(path)
    return head.startswith(_ZIP) or head == _OLD


def load_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """The tensors by name, on the CPU, in the dtypes of the file: what the file holds itself, or under ``model`` or
    ``state_dict``. An archive is mapped into memory, not copied.

    Raises ``ModelError`` for a file that holds a program, is damaged, or has no such dict of plain tensors.
    """
    weights = _weights(_load(path))
    if weights is None:
        raise ModelError(f"{path}: holds no dict of tensors by name, alone or under model or state_dict; {_CURE}")
    return {name: tensor.detach() for name, tensor in weights.items()}


def _check_archive(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError) as error:
        raise ModelError(f"{path}: a damaged archive, or one cut short; delete it and get the model again") from error
    names = [entry.filename.rpartition("/")[2] for entry in entries if entry.filename.count("/") < 2]
    if "data.pkl" not in names:
        raise ModelError(f"{path}: a zip archive without weights of PyTorch; give a model file")
    if "constants.pkl" in names:
        raise ModelError(f"{path}: a program (TorchScript), which i2i never loads; {_CURE}")
    stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
    if not stored or sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise ModelError(f"{path}: a compressed archive, which PyTorch does not write: do not trust this file")


def _load(path: Path) -> Any:
    import torch

    try:
        with path.open("rb") as stream, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's remarks on what is refused below
            # by its name torch would take a file for safetensors, and only by its name it maps one into memory
            mapped = stream.read(len(_ZIP)) == _ZIP and path.suffix != ".safetensors"
            stream.seek(0)
            return torch.load(str(path) if mapped else stream, map_location="cpu", weights_only=True, mmap=mapped)
    except UnpicklingError as error:
        reason = "holds more than tensors (a program, or objects), or is damaged, and is not loaded"
        raise ModelError(f"{path}: {reason}; where you trust it, {_CURE}") from error
    except DAMAGE as error:
        raise ModelError(f"{path}: a damaged file of PyTorch, or one cut short; delete it and get the model again") from error


def _weights(found: Any) -> Mapping[str, torch.Tensor] | None:
    """The dict of tensors in what a file holds, if there is one."""
    if not isinstance(found, dict):
        return None
    inner = [found[key] for key in ("model", "state_dict") if isinstance(found.get(key), dict)]
    weights = inner[0] if inner else found
    plain = all(isinstance(name, str) and _is_plain(value) for name, value in weights.items())
    return weights if weights and plain else None


def _is_plain(value: Any) -> bool:
    """Whether it is a tensor of numbers that the file really holds: no sparse one, none that repeats its numbers."""
    import torch

    if type(value) not in {torch.Tensor, torch.nn.Parameter} or value.layout != torch.strided or value.is_quantized:
        return False
    return bool(value.device.type == "cpu" and value.nbytes <= value.untyped_storage().nbytes())
