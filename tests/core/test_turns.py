"""Running and tracing networks in several threads: many run together, one traces alone."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec

import numpy as np
import pytest

from i2i.backends import compile_network, confirm_backend, run_batch, to_array
from i2i.backends.turns import Turns
from i2i.contracts import Runtime
from i2i_unet.network import UNetConfig
from tests.core.test_backends import FP32, UNetLike, windows


def test_many_are_inside_together_and_one_is_alone() -> None:
    turns, inside, most, wrong = Turns(), [], [], []

    def work(number: int) -> None:
        alone = number % 5 == 0
        with turns.alone() if alone else turns.shared():
            inside.append(number)
            most.append(len(inside))
            time.sleep(0.002)
            wrong.extend([number] if alone and inside != [number] else [])
            inside.remove(number)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(60)))
    assert not wrong and max(most) > 1


def test_who_comes_after_one_that_waits_to_be_alone_waits_for_it() -> None:
    turns, order, entered, leave = Turns(), [], threading.Event(), threading.Event()

    def first() -> None:
        with turns.shared():
            entered.set()
            leave.wait(5)
            order.append("first")

    def alone() -> None:
        with turns.alone():
            order.append("alone")

    def late() -> None:
        with turns.shared():
            order.append("late")

    with ThreadPoolExecutor(3) as pool:
        pool.submit(first)
        assert entered.wait(5)
        pool.submit(alone)
        time.sleep(0.05)
        pool.submit(late)
        time.sleep(0.05)
        leave.set()
    assert order == ["first", "alone", "late"]


def test_an_error_inside_lets_the_others_in() -> None:
    turns = Turns()
    for place in (turns.shared, turns.alone):
        with pytest.raises(ValueError, match="inside"), place():
            raise ValueError("inside")
    with turns.alone(), pytest.raises(ValueError, match="inside"):
        raise ValueError("inside")
    with turns.shared():
        pass


@pytest.mark.skipif(find_spec("openvino") is None, reason="openvino is not installed")
def test_networks_traced_in_one_thread_and_run_in_another_give_the_same_bytes() -> None:
    """Without turns nearly every trace beside another fails, and a third of the answers differ in their last bits."""
    predictor, pixels = UNetLike(UNetConfig(1, 3, depth=2, filters=8), "fp32"), windows(1, 48, 48)
    compile_network(predictor, (1, 1, 48, 48), FP32)
    expected, tracing = to_array(run_batch(predictor, pixels, Runtime())), threading.Event()

    def confirm() -> list[tuple[str, list[str]]]:
        return [confirm_backend("auto", predictor, pixels[0], FP32) for _ in range(3)]

    def run() -> int:
        wrong = 0
        while not tracing.is_set():
            wrong += not np.array_equal(to_array(run_batch(predictor, pixels, Runtime())), expected)
        return wrong

    with ThreadPoolExecutor(3) as pool:
        running, confirmed = pool.submit(run), [pool.submit(confirm) for _ in range(2)]
        try:
            found = [one for future in confirmed for one in future.result()]
        finally:
            tracing.set()
    assert found == [("openvino", [])] * 6 and running.result() == 0
