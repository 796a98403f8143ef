"""Ctrl-C and SIGTERM end a run as ``KeyboardInterrupt``, also where a library has swallowed that: what is raised within an import
that may fail, or within a callback of C, can go no farther."""

from __future__ import annotations

import signal
import threading

_asked = threading.Event()


def listen() -> None:
    """From now on. A process that was started with SIGINT ignored, as in the background of a script, goes on ignoring it."""
    _asked.clear()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _interrupt)


def check() -> None:
    """Called now and then by the main thread. Raises ``KeyboardInterrupt`` when it was asked for and has come to nothing."""
    if _asked.is_set() and threading.current_thread() is threading.main_thread():
        _asked.clear()
        raise KeyboardInterrupt


def _interrupt(*_: object) -> None:
    _asked.set()
    raise KeyboardInterrupt
