"""Whatever a library raises for a bad file becomes one line that names the file and the cure."""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from i2i.errors import InputError

DAMAGED = (
    OSError,
    EOFError,
    ValueError,  # tifffile.TiffFileError and decoding errors among them
    RuntimeError,  # all errors of imagecodecs, NotImplementedError, RecursionError
    LookupError,
    ArithmeticError,
    TypeError,
    AttributeError,
    AssertionError,
    SystemError,  # of numcodecs, for a length below 0
    SyntaxError,  # Pillow's word for a broken PNG; XML that does not parse
    MemoryError,
    ImportError,
    struct.error,
)
"""What tifffile, imagecodecs, numcodecs, Pillow and struct raise for a file that they cannot read."""
MUTE = (TypeError, AttributeError, AssertionError, LookupError, ArithmeticError, SystemError, struct.error)
"""Those whose text says something of their code, and nothing of the file."""
MUTE_TEXTS = ("The truth value of an array", "invalid literal for int()", "cannot identify image file")
"""The same of other errors."""


def one_line(error: BaseException, length: int = 160) -> str:
    """The error's text without line breaks, or its type where it has none."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= length else text[: length - 3] + "..."


@contextmanager
def guard(path: Path, kind: str) -> Iterator[None]:
    """Turn every ``DAMAGED`` error raised inside into an ``InputError`` for the file, of the given kind ("TIFF"); what the
    libraries log, and numpy says of their arithmetic with a damaged header, is kept off stderr."""
    quieten()
    try:
        with np.errstate(all="ignore"):
            yield
    except DAMAGED as error:
        raise InputError(f"{path}: {_reason(error, kind)}") from error


def _reason(error: BaseException, kind: str) -> str:
    detail = one_line(error)
    if isinstance(error, MemoryError):
        return f"needs more memory than there is ({detail}); a damaged header, or save it as a tiled TIFF"
    if isinstance(error, PermissionError):
        return "no permission to read it; change its permissions (chmod +r)"
    if isinstance(error, ImportError) or "missing 'imagecodecs'" in detail or "requires the 'imagecodecs'" in detail:
        return f"needs a codec that is not installed ({detail}); pip install imagecodecs"
    mute = isinstance(error, MUTE) or detail.startswith(MUTE_TEXTS)
    if isinstance(error, NotImplementedError) or ("not supported" in detail and not mute):
        return f"this kind of {kind} is not supported ({detail}); save it with another compression, such as deflate"
    said = "" if mute else f" ({detail})"
    return f"truncated or damaged {kind}{said}; get a good copy, or save it again"


def quieten() -> None:
    """Keep the logs of tifffile and imagecodecs off stderr; programs that configure logging still get them."""
    for name in ("tifffile", "imagecodecs"):
        logger = logging.getLogger(name)
        if not any(isinstance(handler, logging.NullHandler) for handler in logger.handlers):
            logger.addHandler(logging.NullHandler())
