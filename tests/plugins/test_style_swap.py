"""Style swap against a direct computation, and that it depends on no more than it says."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from i2i_style import swap
from i2i_style.swap import REACH, Moments, Patches, corrected, swapped


def answers(channels, height, width, seed):
    random = torch.Generator().manual_seed(seed)
    mixed = torch.randn((channels, channels), generator=random)
    values = torch.einsum("ij,jhw->ihw", mixed, torch.randn((channels, height, width), generator=random))
    return (values + torch.randn((channels, 1, 1), generator=random)).clamp_min(0)


def directly(content, style):
    """By loops, in float64: whitened by the two covariances along the style's axes; patches; correlations; means."""
    content, style = content.double().numpy(), style.double().numpy()
    channels, height, width = content.shape
    flat = style.reshape(channels, -1)
    axes = np.linalg.eigh(np.cov(flat, bias=True))[1].T[::-1][: swap.AXES]

    def white(values):
        along = axes @ values.reshape(channels, -1)
        spread, turned = np.linalg.eigh(np.cov(along, bias=True))
        root = (turned * (spread + 0.01 * spread.mean()) ** -0.5) @ turned.T
        return (root @ (along - along.mean(1, keepdims=True))).reshape(len(axes), *values.shape[1:])

    whites, edged = np.pad(white(style), ((0, 0), (1, 1), (1, 1)), "edge"), np.pad(style, ((0, 0), (1, 1), (1, 1)), "edge")
    own = np.pad(white(content), ((0, 0), (1, 1), (1, 1)))
    total, count = np.zeros((channels, height + 2, width + 2)), np.zeros((height + 2, width + 2))
    places = [(y, x) for y in range(style.shape[1]) for x in range(style.shape[2])]
    for y in range(height):
        for x in range(width):
            patch = own[:, y : y + 3, x : x + 3]
            keys = [whites[:, v : v + 3, u : u + 3] for v, u in places]
            best = int(np.argmax([(patch * key).sum() / np.linalg.norm(key) for key in keys]))
            v, u = places[best]
            total[:, y : y + 3, x : x + 3] += edged[:, v : v + 3, u : u + 3]
            count[y : y + 3, x : x + 3] += 1
    return (total / count)[:, 1:-1, 1:-1]


def made(content, style):
    patches = Patches.of(style)
    return swapped(content[None], Moments.of(content).along(patches.axes), patches)[0]


@given(st.integers(3, 40), st.integers(5, 9), st.integers(5, 9), st.integers(0, 99))
def test_it_is_what_loops_give(channels, height, width, seed):
    content, style = answers(channels, height, width, seed), answers(channels, 8, 6, seed + 1000)
    found, wanted = made(content, style).numpy(), directly(content, style)
    inner = (slice(None), slice(REACH, height - REACH), slice(REACH, width - REACH))
    assert np.allclose(found[inner], wanted[inner], atol=1e-4)


def test_a_picture_in_its_own_style_stays_as_it_is():
    content = answers(7, 20, 24, 3)
    inner = (slice(None), slice(REACH, -REACH), slice(REACH, -REACH))
    assert torch.allclose(made(content, content)[inner], content[inner], atol=1e-5)


@given(st.integers(0, 12), st.integers(0, 12), st.integers(6, 14), st.integers(0, 99))
def test_a_window_gives_what_the_whole_gives(top, left, side, seed):
    content, style = answers(6, 26, 26, seed), answers(6, 12, 15, seed + 1000)
    patches = Patches.of(style)
    own = Moments.of(content).along(patches.axes)
    whole = swapped(content[None], own, patches)[0]
    part = swapped(content[None, :, top : top + side, left : left + side], own, patches)[0]
    inner = slice(REACH, side - REACH)
    assert torch.allclose(
        part[:, inner, inner], whole[:, top + REACH : top + side - REACH, left + REACH : left + side - REACH], atol=1e-5
    )


def test_it_sees_as_far_as_it_says():
    content, style = answers(6, 21, 21, 5), answers(6, 12, 15, 6)
    patches = Patches.of(style)
    own = Moments.of(content).along(patches.axes)
    before = swapped(content[None], own, patches)[0]
    changed = content.clone()
    changed[:, 10, 10] += torch.arange(6) * 3.0
    different = (swapped(changed[None], own, patches)[0] - before).abs().sum(0) > 1e-6
    rows, columns = torch.nonzero(different, as_tuple=True)
    assert int((rows - 10).abs().max()) <= REACH and int((columns - 10).abs().max()) <= REACH
    assert int((rows - 10).abs().max()) == REACH


def test_a_batch_is_its_items():
    style = Patches.of(answers(6, 12, 15, 1))
    both = torch.stack([answers(6, 9, 11, 2), answers(6, 9, 11, 3)])
    own = Moments.of(both[0]).along(style.axes)
    found = swapped(both, own, style)
    for number in range(2):
        assert torch.equal(found[number], swapped(both[number : number + 1], own, style)[0])


def test_of_many_patches_some_are_drawn(monkeypatch):
    values = answers(5, 30, 40, 1)
    every = Patches.of(values)
    assert len(every.keys) == 1200 and every.values.shape == (9, 1200, 5)
    monkeypatch.setattr(swap, "PATCHES", 100)
    some, same, others = Patches.of(values), Patches.of(values), Patches.of(values, seed=1)
    assert len(some.keys) == 100 and torch.equal(some.keys, same.keys) and not torch.equal(some.keys, others.keys)
    known = {tuple(row.tolist()) for row in every.values[4]}
    assert all(tuple(row.tolist()) in known for row in some.values[4])


def test_whitened_answers_have_no_covariance():
    values = answers(6, 40, 50, 2).double()
    found = Moments.of(values)
    white = torch.einsum("ij,jhw->ihw", found.whitening(), values)
    assert torch.allclose(Moments.of(white).covariance, torch.eye(6, dtype=torch.float64), atol=0.3)
    assert torch.allclose(found.deviation, values.flatten(1).std(1, correction=0))


def test_means_and_deviations_are_given_and_none_is_more_than_doubled():
    values, wanted = answers(5, 30, 30, 3) + 5, 0.3 * answers(5, 20, 20, 3) + 9
    found = Moments.of(corrected(values[None], Moments.of(values), Moments.of(wanted))[0])
    factor = Moments.of(wanted).deviation / Moments.of(values).deviation
    assert (factor < 2).all() and torch.allclose(found.mean, Moments.of(wanted).mean, atol=1e-3)
    assert torch.allclose(found.deviation, Moments.of(wanted).deviation, atol=1e-3)
    strong = Moments.of(corrected(values[None] + 90, Moments.of(values + 90), Moments.of(40 * wanted + 90))[0])
    assert torch.allclose(strong.deviation, 2 * Moments.of(values).deviation, rtol=1e-3)
    assert (corrected(values[None], Moments.of(values), Moments.of(wanted - 50)) >= 0).all()


def test_moments_go_through_json():
    found = Moments.of(answers(6, 9, 9, 4))
    again = Moments.from_mapping(json.loads(json.dumps(found.as_mapping())))
    assert torch.equal(again.mean, found.mean) and torch.equal(again.covariance, found.covariance)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (2, 2)])
def test_small_and_even_pictures(size):
    content, flat = answers(6, *size, 1), torch.full((6, 5, 5), 3.0)
    assert made(content, answers(6, *size, 2)).shape == content.shape
    assert torch.allclose(made(content, flat), torch.full_like(content, 3.0), atol=1e-5)
    assert torch.isfinite(made(flat, answers(6, 9, 9, 2))).all()
