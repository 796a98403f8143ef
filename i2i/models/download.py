"""The cache of model files, and the downloads that fill it.

A download goes to ``<name>.part`` under a lock and gets its final name when its sha256 is right, so a file with that
name is always whole. What an interrupted download has left is continued by a Range request. (pooch would do all but
that: it begins again.)
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from http.client import HTTPException, HTTPResponse
from pathlib import Path, PurePosixPath
from typing import TypeAlias
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import platformdirs
from filelock import FileLock

from i2i.contracts import ModelCard
from i2i.errors import ModelError
from i2i.models.files import hash_file

Progress: TypeAlias = Callable[[int, int | None], None]
"""Called with the bytes that are there and the file's whole size, None when the server does not say."""

TIMEOUT = 30.0
"""Seconds without an answer after which a connection counts as broken."""
ATTEMPTS = 3
"""Connections for one file; each goes on where the one before broke off."""
_CHUNK = 2**18
_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_+-]*(\.[A-Za-z0-9_+-]+)*", re.ASCII)
_TORCH_SUFFIXES = {".pth", ".pt"}
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")


def cache_dir() -> Path:
    """The folder of downloaded models: ``I2I_CACHE_DIR``, else the system's place for caches. It need not exist."""
    chosen = os.environ.get("I2I_CACHE_DIR")
    return Path(chosen).expanduser() if chosen else Path(platformdirs.user_cache_dir("i2i", appauthor=False))


def offline() -> bool:
    """Whether ``I2I_OFFLINE`` forbids the network (any value but 0, no, false or nothing)."""
    return os.environ.get("I2I_OFFLINE", "").strip().lower() not in {"", "0", "no", "false"}


def cached_path(card: ModelCard) -> Path:
    """Where the cache has the card's file: versions of a model lie side by side. Raises ``ModelError`` for a name that
    is not plain (letters, digits, ``-``, ``_``, ``+``, single dots) or a sha256 that is none."""
    if not _SAFE_NAME.fullmatch(card.name) or len(card.name) > 100:
        raise ModelError(f"model name {card.name[:100]!r}: use letters, digits, - and _ only; tell the plugin's author")
    if not _SHA256.fullmatch(card.sha256):
        raise ModelError(f"model {card.name}: its card has no valid sha256; tell the plugin's author")
    suffix = PurePosixPath(urlsplit(card.url or "").path).suffix
    kind = suffix if suffix in _TORCH_SUFFIXES else ".safetensors"
    return cache_dir() / f"{card.name}-{card.sha256[:12].lower()}{kind}"


def fetch(card: ModelCard, progress: Progress | None = None) -> Path:
    """The card's file: the bundled one, else the cached one, else it is downloaded and checked.

    Several processes may ask at once: one downloads, the others wait. Raises ``ModelError`` that says where to put the
    file by hand when there is no network.
    """
    if card.file is not None and card.file.is_file():
        return card.file
    if card.url is None:
        raise ModelError(f"model {card.name}: its file {card.file} is missing; reinstall the package it came with")
    path = cached_path(card)
    if _is_whole(path, card):
        return path
    if offline():
        raise _unavailable(card, path, "not in the cache, and I2I_OFFLINE is set: unset it")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(path.name + ".lock")):
            if not _is_whole(path, card):
                _download(card, path, progress)
    except OSError as error:
        raise ModelError(f"{path}: cannot be written: {error.strerror or error}; choose I2I_CACHE_DIR") from error
    return path


def _is_whole(path: Path, card: ModelCard) -> bool:
    return path.is_file() and hash_file(path) == card.sha256.lower()


def _unavailable(card: ModelCard, path: Path, reason: str) -> ModelError:
    return ModelError(
        f"model {card.name}: {reason}, or download {card.url} (sha256 {card.sha256}) on another machine and put it at {path}, "
        "or give that file in place of the name"
    )


def _download(card: ModelCard, path: Path, progress: Progress | None) -> None:
    """Fill ``path``; when what was continued turns out wrong, once more from the beginning."""
    part = path.with_name(path.name + ".part")
    continued = part.exists()
    if not (continued and _is_whole(part, card)):
        _receive(card, path, part, progress)
        if continued and not _is_whole(part, card):
            part.unlink()
            _receive(card, path, part, progress)
    if not _is_whole(part, card):
        found = hash_file(part)
        part.unlink()
        raise ModelError(
            f"model {card.name}: {card.url} gave another file (sha256 {found}, not {card.sha256}); it was deleted: "
            "try again, or tell the plugin's author"
        )
    _sync_and_rename(part, path)


def _sync_and_rename(part: Path, path: Path) -> None:
    with part.open("rb+") as stream:
        os.fsync(stream.fileno())
    os.replace(part, path)


def _receive(card: ModelCard, path: Path, part: Path, progress: Progress | None) -> None:
    """Get the rest of ``part``, over several connections if need be."""
    if urlsplit(card.url or "").scheme not in {"http", "https"}:
        raise ModelError(f"model {card.name}: its url {card.url!r} is not http or https; tell the plugin's author")
    reason = ""
    for _ in range(ATTEMPTS):
        try:
            if _receive_once(str(card.url), part, progress):
                return
            reason = "the connection broke off"
        except HTTPError as error:
            error.close()
            reason = f"the server says {error.code} {error.reason}"
            if error.code < 500 and error.code not in {408, 416, 429}:
                break
        except (URLError, HTTPException) as error:
            why = error.reason if isinstance(error, URLError) else error
            why = why.strerror or why if isinstance(why, OSError) else why
            reason = f"no connection ({' '.join(str(why).split())[:100]})"
    raise _unavailable(card, path, f"the download failed, {reason}: try again (it goes on where it stopped)")


def _receive_once(url: str, part: Path, progress: Progress | None) -> bool:
    """One connection, from the end of ``part``. Returns whether all has come that the server announced."""
    have = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "i2i", "Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    try:
        response: HTTPResponse = urlopen(Request(url, headers=headers), timeout=TIMEOUT)
    except HTTPError as error:
        if error.code == 416:  # nothing there to continue: begin again
            part.unlink(missing_ok=True)
        raise
    with response:
        goes_on = response.status == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        if response.status == 206 and not goes_on:
            part.unlink(missing_ok=True)
            return False
        return _append(response, part, have if goes_on else 0, progress)


def _append(response: HTTPResponse, part: Path, have: int, progress: Progress | None) -> bool:
    length = response.headers.get("Content-Length")
    whole = have + int(length) if length and length.isdecimal() else None
    with part.open("ab" if have else "wb") as stream:
        for chunk in _chunks(response):
            stream.write(chunk)
            have += len(chunk)
            if progress:
                progress(have, whole)
    return whole is None or have >= whole


def _chunks(response: HTTPResponse) -> Iterator[bytes]:
    """What the server sends. Its failures become ``URLError``, so that they differ from those of the disk."""
    try:
        while chunk := response.read(_CHUNK):
            yield chunk
    except (OSError, HTTPException) as error:
        raise URLError(str(error)) from error
