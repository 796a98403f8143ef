"""Shapes and intensities of objects are those of scikit-image, in pieces of any size."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from skimage.measure import regionprops

from i2i.contracts import Exported
from i2i.exporters import measures, outlines
from i2i.formats.views import ArraySource
from tests.cli.kit import blobs

deterministic = settings(derandomize=True, deadline=None, max_examples=40)
_SKIMAGE = ("perimeter", "axis_major_length", "axis_minor_length", "eccentricity", "solidity", "equivalent_diameter_area")


def _exported(labels: np.ndarray, pixels: np.ndarray, **fields: object) -> Exported:
    return Exported(ArraySource(pixels), ArraySource(labels), "labels", measure=("shape", "intensity"), **fields)


def _expected(labels: np.ndarray, pixels: np.ndarray) -> list[list[float]]:
    rows = []
    for one in regionprops(labels):
        inside = pixels[labels == one.label].astype(np.float64)
        told = [(values.mean(), values.min(), values.max(), values.std(), values.sum()) for values in inside.T]
        rows.append([*(getattr(one, name) for name in _SKIMAGE), *np.concatenate(told)])
    return rows


@given(
    hnp.arrays(np.uint16, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=16), elements=st.integers(0, 4)),
    st.integers(1, 9), st.integers(1, 3),
)  # fmt: skip
@deterministic
@pytest.mark.filterwarnings("ignore")
def test_any_labels_have_scikit_images_measures(labels: np.ndarray, side: int, ids: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 60_000, (*labels.shape, 2)).astype(np.uint16)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measures, "_SIDE", side)
        patch.setattr(measures, "_IDS", ids)
        patch.setattr(outlines, "_SIDE", side)
        found = list(measures.measured(_exported(labels, pixels)))
    expected = _expected(labels, pixels)
    assert len(found) == len(expected)
    np.testing.assert_allclose(np.array(found), np.array(expected), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("size", [(200, 260), (60, 900)])
def test_discs_have_scikit_images_measures(size: tuple[int, int]) -> None:
    labels = blobs(*size)
    pixels = np.random.default_rng(0).normal(1e4, 1, (*size, 3)).astype(np.float32)
    found = list(measures.measured(_exported(labels, pixels)))
    np.testing.assert_allclose(np.array(found), np.array(_expected(labels, pixels)), rtol=1e-5, atol=2e-4)
    assert len(found) > 20


def test_lengths_are_of_the_full_resolution_and_places_do_not_matter() -> None:
    labels = np.zeros((30, 40), np.uint32)
    labels[5:15, 8:20] = 1
    small = np.array(list(measures.measured(_exported(labels, labels[..., None]))))
    large = np.array(list(measures.measured(_exported(labels, labels[..., None], scale=(3.0, 3.0)))))
    lengths = [0, 1, 2, 5]
    np.testing.assert_allclose(large[:, lengths], 3 * small[:, lengths], rtol=1e-6)
    np.testing.assert_array_equal(np.delete(large, lengths, 1), np.delete(small, lengths, 1))


def test_far_from_the_origin_nothing_is_lost() -> None:
    sums = measures._Sums(1, 1, 0)
    disc = np.pad((blobs(64, 64) > 0).astype(np.uint32), measures._RIM)
    near = measures._Sums(1, 1, 0)
    sums.add(disc, measures.Region(99_000, 98_000, 64, 64), None)
    near.add(disc, measures.Region(0, 0, 64, 64), None)
    (outline,) = outlines.find_outlines(ArraySource(disc[measures._RIM : -measures._RIM, measures._RIM : -measures._RIM]))
    assert measures._shape(sums, 0, outline, 1.0) == pytest.approx(measures._shape(near, 0, outline, 1.0), abs=1e-5)


def test_a_result_finer_than_its_image_takes_the_pixels_under_it() -> None:
    labels = np.zeros((8, 8), np.uint32)
    labels[3:6, 2:7] = 1
    pixels = np.arange(16, dtype=np.uint8).reshape(4, 4, 1)
    ((*_, mean, low, high, _, total),) = measures.measured(_exported(labels, pixels))
    under = pixels.repeat(2, 0).repeat(2, 1)[labels > 0].astype(float)
    assert (mean, low, high, total) == (pytest.approx(under.mean(), abs=1e-6), under.min(), under.max(), under.sum())


def test_channels_have_their_names_or_numbers() -> None:
    labels, pixels = np.ones((4, 4), np.uint8), np.zeros((4, 4, 2), np.uint8)
    named = Exported(ArraySource(pixels, channel_names=("DAPI", "GFP")), ArraySource(labels), "labels", measure=("intensity",))
    assert measures.columns(named)[::5] == ["mean_DAPI", "mean_GFP"]
    assert measures.columns(_exported(labels, pixels))[6::5] == ["mean_0", "mean_1"]
