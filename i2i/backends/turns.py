"""Who may use torch when: tracing a network patches torch and the network for all threads of the process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Turns:
    """Any number of threads are inside together (``shared``), or one is ``alone``: it waits until the others have left, and who
    comes meanwhile waits for it."""

    def __init__(self) -> None:
        self._gate = threading.Lock()
        self._changed = threading.Condition()
        self._inside = 0

    @contextmanager
    def shared(self) -> Iterator[None]:
        with self._gate, self._changed:
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        with self._gate:
            with self._changed:
                self._changed.wait_for(lambda: not self._inside)
            yield


torch_turns = Turns()
"""Networks are run in ``shared`` and traced ``alone``: one that runs while another is traced gives wrong pixels, and two that
are traced at once spoil each other (torch 2.14)."""
