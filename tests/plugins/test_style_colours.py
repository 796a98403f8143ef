"""Colours: measured in pieces as in one, matched exactly, and a luminance that leaves the rest as it is."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from i2i.formats.views import ArraySource
from i2i_style import colours
from i2i_style.colours import Colours, luminance, luminance_matched, matched, with_luminance

YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])


def painting(seed=0, shape=(40, 50), middle=0.5, spread=0.06):
    """(H, W, 3): correlated colours that stay inside 0 .. 1."""
    random = np.random.default_rng(seed)
    mixed = random.normal(size=(*shape, 3)) @ (np.eye(3) + 0.3 * random.uniform(-1, 1, (3, 3)))
    return np.clip(middle + spread * mixed / mixed.std(), 0, 1).astype(np.float32)


def direct(picture):
    flat = picture.reshape(-1, 3).astype(np.float64)
    return flat.mean(0), np.cov(flat.T, bias=True)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    st.integers(1, 70), st.integers(1, 70), st.integers(1, 30), st.sampled_from(["uint8", "uint16", "float32"]), st.integers(0, 9)
)
def test_colours_of_a_file_do_not_depend_on_the_pieces(height, width, piece, dtype, seed):
    picture = painting(seed, (height, width))
    pixels = picture if dtype == "float32" else (picture * np.iinfo(dtype).max).round().astype(dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(colours, "_PIECE", piece)
        patch.setattr(colours, "_MOST_PIECES", 70 * 70)
        found = Colours.of_source(ArraySource(pixels), 0)
    scaled = pixels if dtype == "float32" else pixels / np.iinfo(dtype).max
    mean, covariance = direct(scaled)
    assert np.allclose(found.mean, mean, atol=1e-6) and np.allclose(found.covariance, covariance, atol=1e-6)
    measured = Colours.together([picture])
    assert np.allclose(measured.mean, mean, atol=3e-3) and np.allclose(measured.covariance, covariance, atol=3e-3)


def test_a_gray_file_has_three_equal_colours():
    found = Colours.of_source(ArraySource(np.arange(256, dtype=np.uint8).reshape(16, 16)), 0)
    assert np.allclose(found.mean, 0.5) and np.ptp(np.array(found.covariance)) < 1e-12


def test_of_a_huge_file_pieces_are_drawn_by_the_seed(monkeypatch):
    monkeypatch.setattr(colours, "_PIECE", 10)
    monkeypatch.setattr(colours, "_MOST_PIECES", 16)
    picture, regions = painting(1, (200, 310)), []

    class Watched(ArraySource):
        def read(self, region, plane=0, level=0):
            regions.append(region)
            return super().read(region)

    found = [Colours.of_source(Watched(picture), seed) for seed in (1, 1, 2)]
    assert found[0] == found[1] != found[2] and hash(found[0]) == hash(found[1])
    assert len(regions) == 3 * 16 and len(set(regions[:16])) == 16 and regions[:16] == regions[16:32]
    mean, covariance = direct(picture)
    assert np.allclose(found[0].mean, mean, atol=0.02) and np.allclose(found[0].covariance, covariance, atol=0.005)


def test_colours_go_through_json():
    found = Colours.together([painting(3)])
    assert Colours.from_mapping(json.loads(json.dumps(found.as_mapping()))) == found


@pytest.mark.parametrize("seed", range(4))
def test_a_matched_picture_has_the_wanted_mean_and_covariance(seed):
    style, content = painting(seed, middle=0.4), painting(seed + 10, middle=0.55)
    own, wanted = Colours.together([style]), Colours.together([content])
    result = matched(style, own, wanted)
    assert result.dtype == np.float32
    assert np.mean((result == 0) | (result == 1)) < 1e-3, "else little is cut off, and the figures say nothing"
    mean, covariance = direct(result)
    assert np.allclose(mean, wanted.mean, atol=1e-3)
    assert np.linalg.norm(covariance - wanted.covariance) < 0.02 * np.linalg.norm(wanted.covariance)


def test_matching_is_the_symmetric_root_and_not_choleskys():
    """For covariances with the same axes each axis is scaled alone, and to its own colours a picture stays as it is."""
    style = painting(2)
    own = Colours.together([style])
    assert np.allclose(matched(style, own, own), style, atol=1e-5)
    wider = Colours(own.mean, tuple(tuple(2.25 * value for value in row) for row in own.covariance))
    expected = np.array(own.mean) + 1.5 * (style - np.array(own.mean))
    assert np.allclose(matched(style, own, wider), expected.clip(0, 1), atol=2e-3)


def test_a_gray_or_flat_style_gets_no_colours_of_its_noise():
    content = Colours.together([painting(5, spread=0.1)])
    gray = painting(6)[..., :1].repeat(3, 2)
    noisy = (gray + np.random.default_rng(0).normal(0, 1e-4, gray.shape)).clip(0, 1).astype(np.float32)
    for style in (gray, noisy, np.full((9, 9, 3), 0.3, np.float32)):
        result = matched(style, Colours.together([style]), content)
        assert np.isfinite(result).all() and np.allclose(result.mean((0, 1)), content.mean, atol=5e-3)
    one, other = (matched(style, Colours.together([style]), content) for style in (gray, noisy))
    assert np.abs(one - other).max() < 0.03


def test_what_leaves_the_range_is_cut_off():
    style = painting(7)
    bright = Colours((0.95, 0.95, 0.95), tuple(map(tuple, (0.05 * np.eye(3)).tolist())))
    result = matched(style, Colours.together([style]), bright)
    assert result.max() == 1 and result.min() >= 0


# ---------------------------------------------------------------------------------------------------------- luminance


def test_luminance_is_the_y_of_yiq():
    picture = painting(8)
    assert luminance(picture).shape == (40, 50, 1) and luminance(picture).dtype == np.float32
    assert np.allclose(luminance(picture), (picture @ YIQ.T)[..., :1], atol=1e-6)


def test_a_new_luminance_leaves_i_and_q():
    content, wanted = painting(8), luminance(painting(9))
    result = with_luminance(content, wanted)
    assert result.dtype == np.float32
    inside = ((result > 0) & (result < 1)).all(2)
    assert inside.mean() > 0.95
    before, after = content @ YIQ.T, result @ YIQ.T
    assert np.allclose(after[inside][:, 1:], before[inside][:, 1:], atol=1e-5)
    assert np.allclose(after[inside][:, :1], wanted[inside], atol=1e-5)
    assert np.allclose(with_luminance(content, luminance(content)), content, atol=1e-6)
    assert float(with_luminance(content, wanted + 2).max()) == 1


def test_batches_of_torch_are_the_same():
    content, style = painting(8), painting(9)
    batch, other = (torch.from_numpy(picture.transpose(2, 0, 1).copy())[None].repeat(2, 1, 1, 1) for picture in (content, style))
    assert luminance(other).shape == (2, 1, 40, 50)
    result = with_luminance(batch, luminance(other))
    expected = with_luminance(content, luminance(style)).transpose(2, 0, 1)
    assert result.shape == batch.shape and torch.allclose(result[1], torch.from_numpy(expected), atol=1e-6)


def test_a_styles_luminance_is_given_the_contents_mean_and_deviation():
    content, style = painting(10, middle=0.6, spread=0.03), painting(11, middle=0.3)
    result = luminance_matched(luminance(style), Colours.together([style]), Colours.together([content]))
    wanted = luminance(content)
    assert result.shape == (40, 50, 1) and result.dtype == np.float32
    assert float(result.mean()) == pytest.approx(float(wanted.mean()), abs=1e-4)
    assert float(result.std()) == pytest.approx(float(wanted.std()), rel=0.02)
    flat = luminance_matched(
        np.full((5, 5, 1), 0.2, np.float32), Colours.together([np.full((5, 5, 3), 0.2, np.float32)]), Colours.together([content])
    )
    assert np.allclose(flat, wanted.mean(), atol=1e-4)
