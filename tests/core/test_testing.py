"""The contract kit passes for every honest predictor, and catches each way of breaking the contract."""

from __future__ import annotations

import copy
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from i2i.contracts import Footprint
from i2i.testing import ContractError, assert_predictor_contract, assert_task_contract
from tests import toys


@pytest.mark.parametrize("task", [toys.CONVOLVE, toys.FIND, toys.SMOOTH], ids=lambda task: task.name)
def test_toy_tasks_keep_the_contract(task):
    assert_task_contract(task)


@pytest.mark.parametrize("predictor", [toys.Enlarge(), toys.Mirrored(), toys.Renormalised()], ids=lambda p: type(p).__name__)
def test_other_footprints_keep_the_contract(predictor):
    assert_predictor_contract(predictor)


def test_a_halo_one_stride_too_small_is_caught():
    with pytest.raises(ContractError, match="halo 4 is too small"):
        assert_predictor_contract(toys.Convolution(footprint=Footprint(halo=4, multiple_of=2, channels_out=2)))


def test_an_undeclared_group_norm_is_caught():
    network = copy.deepcopy(toys.convolution())
    network.insert(1, nn.GroupNorm(2, 8))
    with pytest.raises(ContractError, match="outside its window"):
        assert_predictor_contract(toys.Convolution(network.requires_grad_(False)))


def test_up_sampling_with_aligned_corners_is_caught():
    network = copy.deepcopy(toys.convolution())
    network[5] = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
    with pytest.raises(ContractError, match="outside its window|differ from the whole image"):
        assert_predictor_contract(toys.Convolution(network, Footprint(halo=16, multiple_of=2, channels_out=2)))


def test_a_stride_that_is_not_declared_is_caught():
    predictor = toys.Convolution(footprint=Footprint(halo=7, multiple_of=1, channels_out=2))
    with pytest.raises(ContractError, match="promises|differ|outside its window"):
        assert_predictor_contract(predictor)


class _TileStatistics(toys.Convolution):
    def normalize(self, pixels):
        return (pixels / max(1, pixels.max())).astype(np.float32)


def test_normalising_each_window_by_itself_is_caught():
    with pytest.raises(ContractError, match="freeze its statistics"):
        assert_predictor_contract(_TileStatistics())


class _Random(toys.Convolution):
    def __call__(self, batch):
        return self.network(batch) + random.random()


def test_randomness_is_caught():
    with pytest.raises(ContractError, match="not deterministic"):
        assert_predictor_contract(_Random())


class _WrongChannels(toys.Convolution):
    def __call__(self, batch):
        return self.network(batch)[:, :1]


class _WrongDtype(toys.Convolution):
    def convert(self, raw, output):
        return super().convert(raw, output).astype(np.float64)


@pytest.mark.parametrize("predictor", [_WrongChannels(), _WrongDtype()], ids=["channels", "dtype"])
def test_shapes_and_types_other_than_declared_are_caught(predictor):
    with pytest.raises(ContractError, match="promises|declares"):
        assert_predictor_contract(predictor)


class _NaN(toys.Enlarge):
    def __call__(self, batch):
        return torch.log(-super().__call__(batch).abs())


def test_nan_is_caught():
    with pytest.raises(ContractError, match="NaN"):
        assert_predictor_contract(_NaN())


class _NoContext(toys.Blobs):
    def __init__(self):
        super().__init__()
        self.footprint = Footprint(halo=0)


def test_objects_lost_between_windows_are_caught():
    with pytest.raises(ContractError, match="lost or counted twice"):
        assert_predictor_contract(_NoContext())


class _NoCheckpoint(toys.Smoother):
    def run(self, stage, work):
        class Nothing:
            load = staticmethod(lambda: None)
            save = staticmethod(lambda state: None)

        super().run(stage, replace(work, checkpoint=Nothing()))


class _Seams(toys.Smoother):
    def __init__(self):
        super().__init__()
        self.footprint = Footprint(halo=0)


def test_an_iterative_method_that_cannot_resume_is_caught():
    with pytest.raises(ContractError, match="no checkpoint"):
        assert_predictor_contract(_NoCheckpoint())


def test_an_iterative_method_with_seams_is_caught():
    with pytest.raises(ContractError, match="change the result"):
        assert_predictor_contract(_Seams())


class _Forgets(toys.Convolution):
    """Its statistics do not hold what __call__ uses."""

    offset = 0.0

    def prepare(self, source, seed):
        prepared = super().prepare(source, seed)
        prepared.offset = float(source.read(source.spec.region).mean())
        return prepared

    def __call__(self, batch):
        return super().__call__(batch) + self.offset * torch.tensor([1.0, -1.0])[:, None, None]


def test_statistics_that_are_not_recorded_are_caught():
    with pytest.raises(ContractError, match="a resumed run would differ"):
        assert_predictor_contract(_Forgets())


class _Crashes(toys.Convolution):
    def convert(self, raw, output):
        return {}[output.name]


def test_a_crash_is_a_broken_contract():
    with pytest.raises(ContractError, match="_Crashes raises KeyError"):
        assert_predictor_contract(_Crashes())


def test_a_task_is_declared_properly():
    with pytest.raises(ContractError, match="lower-case"):
        assert_task_contract(replace(toys.FIND, name="Find Blobs"))
    with pytest.raises(ContractError, match="summary"):
        assert_task_contract(replace(toys.FIND, summary="two\nlines"))
    with pytest.raises(ContractError, match="frozen"):
        assert_task_contract(replace(toys.FIND, options=dict))
