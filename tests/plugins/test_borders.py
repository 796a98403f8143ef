"""The border weight map: the paper's formula, object by object."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from i2i_unet import borders
from i2i_unet.borders import border_map, kept_border_map


def plainly(labels: np.ndarray, sigma: float) -> np.ndarray:
    """exp(-(d1 + d2)^2 / (2 sigma^2)), with the distance of every pixel to every pixel of every object."""
    pixels = np.argwhere(np.ones(labels.shape, bool))
    far = np.full((2, len(pixels)), np.inf)
    to_each = [
        np.sqrt(((pixels[:, None] - np.argwhere(labels == number)[None]) ** 2).sum(2)).min(1)
        for number in np.unique(labels[labels > 0])
    ]
    nearest = np.sort(np.concatenate([far, np.reshape(to_each, (-1, len(pixels)))]), axis=0)
    return np.exp(-((nearest[0] + nearest[1]) ** 2) / (2 * sigma**2)).reshape(labels.shape)


def rectangles(seed: int, height: int, width: int, count: int) -> np.ndarray:
    """Rectangles that touch, overlap and leave room, whose numbers have gaps; some of several parts."""
    random = np.random.default_rng(seed)
    labels = np.zeros((height, width), np.int32)
    for number in random.choice(np.arange(1, 40), count, replace=False):
        top, left = random.integers(height), random.integers(width)
        labels[top : top + random.integers(1, 8), left : left + random.integers(1, 8)] = number
    return labels


@given(st.integers(0, 9999), st.integers(1, 30), st.integers(1, 30), st.integers(0, 7), st.sampled_from([1.0, 2.5, 5.0]))
@settings(derandomize=True, deadline=None, max_examples=40)
def test_the_map_is_the_papers_formula(seed: int, height: int, width: int, count: int, sigma: float) -> None:
    labels = rectangles(seed, height, width, count)
    found = border_map(labels, sigma)
    assert found.dtype == np.float32 and found.shape == labels.shape
    np.testing.assert_allclose(found, plainly(labels, sigma), atol=1e-3)


def test_far_objects_of_a_large_image_do_not_disturb_each_other() -> None:
    """Each is looked at in its own box: what is cut off weighs nothing."""
    labels = np.zeros((40, 300), np.int32)
    labels[10:20, 10:20], labels[12:22, 24:30], labels[5:9, 250:260] = 5, 9, 2
    np.testing.assert_allclose(border_map(labels, 4), plainly(labels, 4), atol=1e-4)


@pytest.mark.parametrize("dtype", [np.int16, np.int32])
def test_the_map_of_known_pixels(dtype: type) -> None:
    labels = np.zeros((5, 20), dtype)
    labels[:, :4], labels[:, 8:12], labels[:, 12:16] = 1, 4, 3
    row = border_map(labels, 5.0)[2]
    assert row[5] == pytest.approx(np.exp(-((2 + 3) ** 2) / 50)), "two pixels from one, three from the next"
    assert row[11] == row[12] == pytest.approx(np.exp(-1 / 50)), "in one, beside the other"
    assert row[19] == pytest.approx(np.exp(-((4 + 8) ** 2) / 50))


def test_one_object_alone_has_no_border() -> None:
    labels = np.zeros((9, 9), np.int32)
    assert not border_map(labels, 5).any()
    labels[2:5, 2:5] = 3
    assert not border_map(labels, 5).any()


def test_a_map_is_computed_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[float] = []
    compute = borders.border_map
    monkeypatch.setattr(borders, "border_map", lambda labels, sigma: calls.append(sigma) or compute(labels, sigma))
    labels = rectangles(3, 24, 30, 6)
    first = kept_border_map(labels, 5, tmp_path / "kept")
    again = kept_border_map(labels.astype(np.int16), 5, tmp_path / "kept")
    assert calls == [5] and first.dtype == np.float16 and np.array_equal(first, again)
    np.testing.assert_allclose(first, compute(labels, 5), atol=1e-3)
    kept_border_map(labels, 4, tmp_path / "kept")
    changed = labels.copy()
    changed[0, 0] = 77
    kept_border_map(changed, 5, tmp_path / "kept")
    kept_border_map(labels.reshape(30, 24), 5, tmp_path / "kept")
    assert calls == [5, 4, 5, 5] and len(list((tmp_path / "kept").iterdir())) == 4
