"""Model files: safetensors with one metadata key, ``i2i``, that holds the network's settings as JSON; or the weights alone, as
safetensors or as PyTorch's own files (:mod:`i2i.models.state_dicts`)."""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from i2i.contracts import Model, ModelCard
from i2i.errors import ModelError
from i2i.files import replacing
from i2i.models.state_dicts import is_state_dict, load_state_dict

if TYPE_CHECKING:
    import torch

METADATA_KEY = "i2i"
_CHUNK = 2**20
_UNSAFE_TENSOR = re.compile(r"(^|[/\\])\.\.|^[/\\]|[\x00-\x1f\x7f-\x9f]")
_PICKLE = (
    "a pickle, which can run any program when it is loaded; i2i never opens one. "
    "Save the weights alone where you trust it (torch.save of a state_dict, or safetensors), or get the model with: "
    "i2i models get NAME"
)
_PAGE = "a web page, not a model: the download went wrong; delete it and get the model itself"
_OTHER_KINDS = (
    (b"\x80", _PICKLE),
    (b"<", _PAGE),
    (b"version https://git-lfs", "a Git LFS pointer, not the model: run git lfs pull"),
)


def open_model(path: Path, card: ModelCard | None = None) -> Model:
    """The model in the file ``path``: its header is read and its bytes are hashed, no tensor is loaded.

    A file of weights alone (safetensors without settings for i2i, or a state dict of PyTorch) has an empty ``config``: the task
    must know the network by the tensors' names, or refuse it. ``tensors()`` of the model reads the weights as they are stored
    onto the CPU. With a ``card`` the file's sha256 must be the card's. Raises ``ModelError`` for any other file; what a state
    dict holds is read, and refused, by ``tensors()``.
    """
    if not os.path.isfile(path):
        reason = "a folder" if os.path.isdir(path) else "no such file"
        raise ModelError(f"{path}: {reason}; give a model file, or a name from: i2i models list")
    sha256 = _checked_hash(path, card) if card else None
    config = {} if is_state_dict(path) else _read_config(path)
    sha256 = sha256 or hash_file(path)
    return Model(card.name if card else path.stem, path, sha256, config, partial(_load_tensors, path, sha256), card)


def save_model(path: Path, tensors: Mapping[str, torch.Tensor], config: Mapping[str, Any], half: bool = True) -> str:
    """Write a model file, whole or not at all, and return its sha256. The same values give the same bytes.

    ``config``: JSON values (not NaN). ``half``: floating tensors become fp16, save those with values that fp16 cannot
    hold (above 65504). Raises ``ModelError`` for a config or a tensor's name that :func:`open_model` would not take,
    ``OutputError`` when the file cannot be written.
    """
    from safetensors.torch import save

    _check_names(path, tensors)
    try:
        settings = json.dumps(dict(config), sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ModelError(f"{path}: the model's settings are not plain JSON: {error}") from error
    data = save({name: _stored(tensors[name], half) for name in sorted(tensors)}, {METADATA_KEY: settings})
    with replacing(path) as temporary:
        temporary.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def hash_file(path: Path) -> str:
    """The file's sha256 in hex, computed once for a file that stays as it is. Raises ``ModelError``.

    A file changed in the last two seconds is not remembered: the next change could bear the same time.
    """
    try:
        status = os.stat(path)
        recent = time.time_ns() - status.st_mtime_ns < 2_000_000_000
        hashed = _hash.__wrapped__ if recent else _hash
        return hashed(os.path.abspath(path), status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error


@lru_cache(maxsize=64)
def _hash(path: str, inode: int, size: int, modified: int, changed: int) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _checked_hash(path: Path, card: ModelCard) -> str:
    sha256 = hash_file(path)
    if sha256 != card.sha256.lower():
        bundled = card.file is not None and path == card.file
        cure = "reinstall the package it came with" if bundled else f"delete it and run: i2i models get {card.name}"
        raise ModelError(f"{path}: damaged or changed (its sha256 is not that of {card.name}); {cure}")
    return sha256


def _read_config(path: Path) -> dict[str, Any]:
    """The settings in the header of safetensors, none where it has no such key.

    safetensors checks the header (below 100 MB, its tensors fill the file exactly).
    """
    try:
        with safe_open(path, framework="numpy") as opened:
            _check_names(path, opened.keys())
            text = (opened.metadata() or {}).get(METADATA_KEY)
    except SafetensorError as error:
        raise ModelError(f"{path}: {_what_is_wrong(path, error)}") from error
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error}") from error
    return {} if text is None else _parse_config(path, text)


def _parse_config(path: Path, text: str) -> dict[str, Any]:
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: the model's settings are not JSON: {error}; get the model again") from error
    if not isinstance(config, dict):
        raise ModelError(f"{path}: the model's settings are not a JSON object; get the model again")
    return config


def _check_names(path: Path, names: Mapping[str, Any] | list[str]) -> None:
    for name in names:
        if _UNSAFE_TENSOR.search(name):
            raise ModelError(
                f"{path}: the tensor name {name[:99]!r} could leave a folder, or command a terminal: do not trust this file"
            )


def _what_is_wrong(path: Path, error: SafetensorError) -> str:
    """What a file that is not sound safetensors is, and what to do: for people; nothing is decided by it."""
    with path.open("rb") as stream:
        head = stream.read(512)
    size, header = path.stat().st_size, int.from_bytes(head[:8], "little")
    if not size:
        return "an empty file; delete it and get the model again"
    if head[8:9] == b"{" and 8 + header > 100_000_000:
        return f"a safetensors header of {header} bytes, above the limit of 100 MB: do not trust this file"
    if head[8:9] == b"{":
        return f"damaged or cut short at {size} bytes ({_one_line(error)}); delete it and get the model again"
    kinds = [text for start, text in _OTHER_KINDS if head.lstrip().startswith(start)]
    if head[257:262] == b"ustar":
        kinds.append("a tar archive; i2i reads no weights from one")
    if path.suffix.lower() in {".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".bin"}:
        kinds.append(_PICKLE)
    return kinds[0] if kinds else "not a safetensors file, nor weights of PyTorch; give a model file"


def _one_line(error: Exception) -> str:
    return "".join(c if c.isprintable() else " " for c in str(error))[:200]


def _stored(tensor: torch.Tensor, half: bool) -> torch.Tensor:
    """A contiguous copy on the CPU that shares no memory, in fp16 if asked for and if it can be."""
    import torch

    tensor = tensor.detach().cpu()
    if half and tensor.is_floating_point():
        narrow = tensor.to(torch.float16)
        if torch.equal(narrow.isfinite(), tensor.isfinite()):
            tensor = narrow
    return tensor.clone(memory_format=torch.contiguous_format)


def _load_tensors(path: Path, sha256: str) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    if hash_file(path) != sha256:
        raise ModelError(f"{path}: changed since it was opened; run it again")
    try:
        tensors = load_state_dict(path) if is_state_dict(path) else dict(load_file(path))
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: cannot be read: {_one_line(error)}; get the model again") from error
    _check_names(path, tensors)
    return tensors
