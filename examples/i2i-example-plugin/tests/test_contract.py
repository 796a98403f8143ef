"""The plugin keeps i2i's contract, and does what it says."""

from __future__ import annotations

import numpy as np
import pytest
from i2i_flatten import FlattenOptions, i2i_tasks

import i2i
from i2i.testing import assert_task_contract, blobs


@pytest.mark.parametrize("method", ["divide", "subtract"])
@pytest.mark.parametrize(("channels", "dtype"), [(1, "uint8"), (3, "uint16"), (2, "float32")])
def test_contract(method, channels, dtype):
    (task,) = i2i_tasks()
    image = blobs(71, 93, channels).astype(dtype) * (200 if dtype == "uint16" else 1)
    assert_task_contract(task, options=FlattenOptions(sigma=2.0, method=method), images=[image])


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_vignetting_goes_and_the_rest_stays(dtype):
    y, x = np.mgrid[-1:1:90j, -1:1:120j]
    image = (200 * (1 - 0.3 * (x**2 + y**2)))[..., None].repeat(3, 2).astype(dtype)
    flat = i2i.load("flatten", sigma=5.0)(image)
    assert flat.shape == image.shape
    assert flat.dtype == image.dtype
    assert flat.std() < 0.2 * image.std()
    assert abs(float(flat.mean()) - float(image.mean())) < 2


def test_black_stays_black():
    assert not i2i.load("flatten", sigma=2.0)(np.zeros((20, 30), np.uint8)).any()


@pytest.mark.parametrize(("edge", "place", "value"), [(15, 15, 255), (45, 44, 0)])
def test_what_leaves_the_range_is_cut_off(edge, place, value):
    step = np.zeros((60, 60), np.uint8)
    step[:, edge:] = 255
    flat = i2i.load("flatten", sigma=2.0, method="subtract")(step)
    assert (flat[:, place] == value).all()
