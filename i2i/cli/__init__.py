"""The command line. ``main`` is the program ``i2i``."""

from __future__ import annotations

from i2i.cli.app import main

__all__ = ["main"]
