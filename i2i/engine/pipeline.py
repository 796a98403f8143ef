"""Reading, computing and writing at the same time: one thread reads ahead, one writes behind, the caller computes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, islice
from types import TracebackType
from typing import Any, TypeVar

from i2i.planner import AHEAD

Item = TypeVar("Item")
Value = TypeVar("Value")
BEHIND = 1
"""Blocks that wait to be written while another is."""


def ahead(read: Callable[[Item], Value], items: Iterable[Item], count: int = AHEAD) -> Generator[Value]:
    """``read(item)`` for each item, in order; a thread is up to ``count`` of them ahead. An error is raised at its item. For a
    single item no thread is started: in a run over many small images that would be one for each."""
    some = iter(items)
    first = list(islice(some, 2))
    if len(first) < 2:
        yield from map(read, first)
        return
    reader = ThreadPoolExecutor(1, "i2i-read")
    waiting: deque[Future[Value]] = deque()
    try:
        for item in chain(first, some):
            waiting.append(reader.submit(read, item))
            if len(waiting) > count:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        reader.shutdown(wait=True, cancel_futures=True)


class Behind:
    """Calls made one after another by a thread; at most ``count`` wait (with 0 each is made at once, without a thread). At the
    end, all are done; the first error is raised."""

    def __init__(self, count: int = BEHIND) -> None:
        self._count = count
        self._thread = ThreadPoolExecutor(1, "i2i-write")
        self._waiting: deque[Future[Any]] = deque()

    def __enter__(self) -> Behind:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            while self._waiting and error is None:
                self._waiting.popleft().result()
        finally:
            self._thread.shutdown(wait=True, cancel_futures=True)

    def call(self, work: Callable[..., Any], *values: Any) -> None:
        """``work(*values)``, soon. Waits while too many are; raises what an earlier call has raised."""
        if not self._count:
            work(*values)
            return
        self._waiting.append(self._thread.submit(work, *values))
        while len(self._waiting) > self._count:
            self._waiting.popleft().result()
