"""Reading ahead and writing behind: in order, bounded, and no error is lost."""

from __future__ import annotations

import threading
import time
from contextlib import closing

import pytest

from i2i.engine.pipeline import Behind, ahead


def test_values_come_in_order_and_are_read_by_another_thread() -> None:
    threads = set()

    def read(item: int) -> int:
        threads.add(threading.current_thread())
        return item * item

    assert list(ahead(read, range(20))) == [item * item for item in range(20)]
    assert threads and threading.current_thread() not in threads


def test_a_single_value_and_a_call_that_need_not_wait_start_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading.Thread, "start", lambda thread: pytest.fail("a thread was started"))
    assert list(ahead(lambda item: item + 1, [1])) == [2] and list(ahead(lambda item: item + 1, [])) == []
    done: list[int] = []
    with Behind(0) as behind:
        behind.call(done.append, 1)
        assert done == [1]
        with pytest.raises(ZeroDivisionError):
            behind.call(divmod, 1, 0)


def test_no_more_is_read_ahead_than_was_allowed() -> None:
    started: list[int] = []
    values = ahead(lambda item: started.append(item) or item, range(50), count=2)
    for taken in range(10):
        assert next(values) == taken
        time.sleep(0.005)
        assert len(started) <= taken + 1 + 2
    values.close()


def test_reading_goes_on_while_a_value_is_used() -> None:
    second = threading.Event()
    values = ahead(lambda item: second.set() if item == 1 else None, range(3))
    next(values)
    assert second.wait(5), "the next one is read without being asked for"
    values.close()


def test_an_error_of_reading_is_raised_at_its_place_and_the_thread_ends() -> None:
    def read(item: int) -> int:
        if item == 3:
            raise ValueError("three")
        return item

    before = threading.active_count()
    with closing(ahead(read, range(10))) as values:
        assert [next(values) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(ValueError, match="three"):
            next(values)
    assert threading.active_count() == before


def test_calls_are_made_one_after_another_and_all_of_them() -> None:
    done: list[int] = []
    with Behind() as behind:
        for item in range(30):
            behind.call(done.append, item)
    assert done == list(range(30))


def test_no_more_calls_wait_than_were_allowed() -> None:
    gate, done = threading.Event(), []

    def slow(item: int) -> None:
        gate.wait(5)
        done.append(item)

    with Behind(count=1) as behind:
        behind.call(slow, 0)
        waiting = threading.Thread(target=behind.call, args=(slow, 1))
        waiting.start()
        waiting.join(0.05)
        assert waiting.is_alive(), "the second call waits until the first is made"
        gate.set()
        waiting.join(5)
        assert not waiting.is_alive()
    assert done == [0, 1]


@pytest.mark.parametrize("last", [False, True])
def test_an_error_of_a_call_is_raised_by_a_later_one_or_at_the_end(last: bool) -> None:
    def fail() -> None:
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"), Behind() as behind:
        behind.call(fail)
        if not last:
            for _ in range(3):
                behind.call(time.sleep, 0)


def test_the_callers_own_error_is_not_replaced() -> None:
    def fail() -> None:
        raise OSError("no space left")

    with pytest.raises(ZeroDivisionError), Behind() as behind:
        behind.call(fail)
        raise ZeroDivisionError
