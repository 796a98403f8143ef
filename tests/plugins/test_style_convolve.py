"""Convolutions by Winograd's filtering, in strips or at once: right to rounding, whatever the size and the number of threads."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from i2i_style import convolve as module
from i2i_style.convolve import can_winograd, convolve, halved

CPU = torch.device("cpu")
quick = pytest.mark.skipif(not can_winograd(CPU, torch.float32), reason="this build of torch, or this processor, has no NNPACK")


def given(*size, channels=(32, 40), dtype=torch.float32):
    random = torch.Generator().manual_seed(sum(size))
    values = torch.rand((1, channels[0], *size), generator=random)
    weight = torch.randn((channels[1], channels[0], 3, 3), generator=random) / 17
    return values.to(dtype), weight.to(dtype), torch.randn(channels[1], generator=random).to(dtype)


def error(found, values, weight, bias):
    wanted = functional.conv2d(values.double(), weight.double(), None if bias is None else bias.double(), padding=1)
    assert found.shape == wanted.shape
    return float((found - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (2, 300), (5, 3), (17, 20), (64, 65)])
@pytest.mark.parametrize("channels", [(3, 8), (32, 40), (40, 3), (64, 64)])
def test_it_is_the_convolution(size, channels):
    values, weight, bias = given(*size, channels=channels)
    for winograd in (False, can_winograd(CPU, torch.float32)):
        assert error(convolve(values, weight, bias, winograd=winograd), values, weight, bias) < 1e-5
        assert error(convolve(values, weight, winograd=winograd), values, weight, None) < 1e-5


@quick
@pytest.mark.parametrize("height", [1, 3, 10, 11, 30, 31, 47])
def test_strips_are_the_whole(height, monkeypatch):
    values, weight, bias = given(height, 50)
    whole = convolve(values, weight, bias, winograd=True)
    calls = []
    one = module._nnpack
    monkeypatch.setattr(module, "WORKSPACE", 4 * 72 * 64 * 9 * 2)  # two rows of pieces
    monkeypatch.setattr(module, "_nnpack", lambda strip, *others: calls.append(strip.shape[2]) or one(strip, *others))
    strips = convolve(values, weight, bias, winograd=True)
    assert torch.allclose(strips, whole, atol=1e-5)
    assert error(strips, values, weight, bias) < 1e-5
    assert max(calls) <= 12 and len(calls) == -(-height // 10)


@quick
def test_the_number_of_threads_changes_nothing():
    values, weight, bias = given(90, 70)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = convolve(values, weight, bias, winograd=True)
        torch.set_num_threads(2)
        assert torch.equal(convolve(values, weight, bias, winograd=True), one)
    finally:
        torch.set_num_threads(before)


def test_it_is_for_fp32_on_a_cpu():
    assert not can_winograd(CPU, torch.bfloat16) and not can_winograd(torch.device("meta"), torch.float32)


@pytest.mark.parametrize("size", [(2, 2), (5, 8), (9, 7)])
def test_halved_is_the_mean_of_two_by_two(size):
    values = torch.rand((1, 6, *size), generator=torch.Generator().manual_seed(1))
    assert torch.allclose(halved(values), functional.avg_pool2d(values, 2), atol=1e-6)
