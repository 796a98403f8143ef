"""Normalisations that look at a whole image, frozen: exactly, or from windows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from i2i.contracts import DensePredictor, Footprint, ImageSpec
from i2i.formats.views import ArraySource
from i2i.frozen import WHOLE, cover, frozen, measure, measure_exactly, sample_regions, sample_windows
from i2i.geometry import Region
from i2i.stitch import window_pixels
from i2i.testing import blobs


class Seeing(DensePredictor):
    footprint = Footprint(pad="mirror", channels_in=2, multiple_of=4)


def network(norm: str) -> nn.Sequential:
    """Two halvings, two norms, registered in another order than they are passed; sees 3 pixels around its cores at least."""

    def layer(channels: int) -> nn.Module:
        return nn.GroupNorm(2, channels) if norm == "group" else nn.InstanceNorm2d(channels, affine=norm == "affine")

    torch.manual_seed(0)
    found = nn.Sequential(nn.Conv2d(2, 4, 4, 2, 1), layer(4), nn.ReLU(), nn.Conv2d(4, 6, 4, 2, 1), layer(6), nn.Conv2d(6, 3, 1))
    with torch.no_grad():
        for part in found:
            if isinstance(part, nn.GroupNorm | nn.InstanceNorm2d) and part.weight is not None:
                part.weight.uniform_(0.5, 1.5)
                part.bias.uniform_(-0.5, 0.5)
    return found.double().eval() if norm != "plain" else found.eval()


def exactly(plain: nn.Module, image: np.ndarray, side: int) -> dict:
    source, predictor = ArraySource(image), Seeing()
    return measure_exactly(
        plain, lambda: ((w.to(plain[0].weight.dtype), core) for w, core in cover(source, predictor, 8, 4, side))
    )


@pytest.mark.parametrize("norm", ["plain", "affine", "group"])
@given(height=st.integers(1, 90), width=st.integers(1, 90), side=st.sampled_from([16, 24, 64]))
@settings(derandomize=True, deadline=None, max_examples=12)
def test_statistics_summed_over_cores_are_those_of_the_whole_image(norm, height, width, side):
    plain, image = network(norm), blobs(max(8, height), max(8, width), 2)[:height, :width]
    rows, columns = (max(32, -(-length // 4) * 4) for length in image.shape[:2])
    seen = window_pixels(ArraySource(image), Seeing(), Region(0, 0, rows, columns))
    whole = torch.from_numpy(seen).permute(2, 0, 1)[None].to(plain[0].weight.dtype)
    known = exactly(plain, image, side)
    assert torch.allclose(frozen(plain, known)(whole), plain(whole), atol=1e-8 if norm != "plain" else 1e-4)
    at_once = measure(plain, whole)
    for name, values in known.items():
        assert np.allclose(values["mean"], at_once[name]["mean"]) and np.allclose(values["variance"], at_once[name]["variance"])


def test_a_halo_that_is_too_small_is_noticed():
    image, predictor = blobs(64, 64, 2), Seeing()
    known = measure_exactly(
        network("affine"), lambda: ((w.double(), core) for w, core in cover(ArraySource(image), predictor, 0, 4, 16))
    )
    assert not np.allclose(known["4"]["mean"], exactly(network("affine"), image, 16)["4"]["mean"], rtol=1e-6)


@given(height=st.integers(1, 200), width=st.integers(1, 200), side=st.sampled_from([32, 64]), halo=st.integers(0, 40))
@settings(derandomize=True, deadline=None, max_examples=30)
def test_cores_tile_the_padded_image_and_lie_in_their_windows(height, width, side, halo):
    source = ArraySource(np.zeros((height, width, 2), np.uint8))
    total = 0
    for window, core in cover(source, Seeing(), halo, 4, side):
        assert Region(0, 0, *window.shape[2:]).contains(core)
        total += core.area
    assert total == np.prod([max(32, -(-length // 4) * 4) for length in (height, width)])


def test_a_frozen_network_shares_weights_and_leaves_the_other_as_it_was():
    plain, image = network("affine"), torch.rand(1, 2, 40, 40, dtype=torch.float64)
    plain.append(plain[2])  # a layer that is passed twice stays one
    expected, known = plain(image), measure(plain, image)
    made = frozen(plain, known)
    assert made[6] is made[2] and all(made[place].weight is plain[place].weight for place in (0, 3))
    assert torch.equal(plain(image), expected) and isinstance(plain[1], nn.InstanceNorm2d)


def test_larger_windows_are_fewer():
    spec = ImageSpec(5000, 3000, 1)
    assert [len(sample_regions(spec, 0, side)) for side in (256, 512, 1024)] == [15, 4, 1]
    assert all(spec.region.contains(region) for region in sample_regions(spec, 0, 512))


def test_the_margin_of_windows_does_not_count():
    """Of an even image, a layer that sees black beyond the windows' edges must be told the inside alone."""
    plain = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.InstanceNorm2d(3)).eval()
    source = ArraySource(np.full((1100, 1100, 2), 200, np.uint8))
    assert source.spec.region.area > WHOLE
    windows = sample_windows(source, Seeing(), 0, 4)
    assert windows.shape == (16, 2, 256, 256)
    assert max(measure(plain, windows)["1"]["variance"]) > 1
    assert max(measure(plain, windows, 4)["1"]["variance"]) < 1e-3


def test_a_thin_image_has_a_middle():
    """Windows of an image of few rows are as high as it is: a margin may not leave nothing of them, at any size of a layer."""
    source = ArraySource(np.random.default_rng(0).integers(0, 255, (40, 30_000, 2), dtype=np.uint8))
    windows = sample_windows(source, Seeing(), 0, 4)
    known = measure(network("affine").float(), windows, 63)
    assert all(np.isfinite(values["mean"] + values["variance"]).all() for values in known.values())
