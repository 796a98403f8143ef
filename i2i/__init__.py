"""i2i: one engine for every image-to-image task, on images of any size.

``i2i.run("segment", "slide.tif", "mask.tif")`` does what the command line does; ``i2i.load("segment")`` gives a predictor to
call on arrays. Plugins use ``i2i.hookimpl`` and the types of :mod:`i2i.contracts`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from i2i.version import __version__

if TYPE_CHECKING:
    from i2i.api import evaluate, load, run, train
    from i2i.hookspecs import hookimpl

__all__ = ["__version__", "evaluate", "hookimpl", "load", "run", "train"]

_HOMES = {"run": "i2i.api", "load": "i2i.api", "train": "i2i.api", "evaluate": "i2i.api", "hookimpl": "i2i.hookspecs"}


def __getattr__(name: str) -> Any:
    """Import what is asked for, and no more: ``import i2i`` stays quick."""
    if name not in _HOMES:
        raise AttributeError(f"module 'i2i' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
