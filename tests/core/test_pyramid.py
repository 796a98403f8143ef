"""Pyramids: sizes, halves against plain arithmetic, and levels made while the source is read once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from i2i.contracts import Array, ImageSpec, Meaning, Source
from i2i.formats import ArraySource, pyramid
from i2i.formats.pyramid import Stack, halve, level_shapes, levels
from i2i.geometry import Region

DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64")


@pytest.mark.parametrize(
    ("size", "shapes"),
    [
        ((1, 1), [(1, 1)]),
        ((4096, 4096), [(4096, 4096)]),
        ((4097, 10), [(4097, 10), (2049, 5), (1025, 3), (513, 2), (257, 1)]),
        ((3, 8192), [(3, 8192), (2, 4096), (1, 2048), (1, 1024), (1, 512)]),
    ],
)
def test_sizes(size: tuple[int, int], shapes: list[tuple[int, int]]) -> None:
    assert level_shapes(*size) == shapes


def plain(pixels: Array, meaning: Meaning) -> Array:
    """What halve is to give, pixel by pixel, in Python's own numbers."""
    height, width, channels = pixels.shape
    result = np.empty((-(-height // 2), -(-width // 2), channels), pixels.dtype)
    for y, x, c in np.ndindex(result.shape):
        square = [value.item() for value in pixels[2 * y : 2 * y + 2, 2 * x : 2 * x + 2, c].ravel()]
        if meaning in ("labels", "classes"):
            result[y, x, c] = square[0]
        else:
            result[y, x, c] = (2 * sum(square) + len(square)) // (2 * len(square))
    return result


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    channels=st.integers(1, 3),
    dtype=st.sampled_from(DTYPES),
    meaning=st.sampled_from(("image", "probabilities", "classes", "labels")),
    extreme=st.booleans(),
    seed=st.integers(0, 99),
)
def test_halves_of_integers(
    height: int, width: int, channels: int, dtype: str, meaning: Meaning, extreme: bool, seed: int
) -> None:
    limits, random = np.iinfo(dtype), np.random.default_rng(seed)
    pixels = random.integers(limits.min, limits.max, (height, width, channels), dtype, endpoint=True)
    if extreme:
        pixels = random.choice(np.array([limits.min, limits.max, limits.max - 1], dtype), pixels.shape)
    halved = halve(pixels, meaning)
    assert halved.dtype == pixels.dtype
    np.testing.assert_array_equal(halved, plain(pixels, meaning))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_halves_of_floats(dtype: str) -> None:
    pixels = np.array([[0, 1, 4], [2, 4, 5], [60_000, 60_000, -1]], dtype)[..., np.newaxis]
    expected = np.array([[1.75, 4.5], [60_000, -1]], dtype)
    np.testing.assert_array_equal(halve(pixels, "image")[..., 0], expected)
    np.testing.assert_array_equal(halve(pixels, "labels")[..., 0], pixels[::2, ::2, 0])


def test_halves_of_truths() -> None:
    pixels = np.array([[1, 0, 0, 0], [1, 0, 1, 0]], bool)[..., np.newaxis]
    np.testing.assert_array_equal(halve(pixels, "image")[..., 0], [[True, False]])
    np.testing.assert_array_equal(halve(pixels, "classes")[..., 0], [[True, False]])


@pytest.mark.parametrize("width", [1, 64, 65])
def test_bands_are_not_seen(width: int) -> None:
    """What is halved in bands is the same as in one piece."""
    pixels = np.random.default_rng(0).integers(0, 255, (3 * 2 * pyramid.BAND + 7, width, 2)).astype(np.uint8)
    np.testing.assert_array_equal(halve(pixels, "image"), plain(pixels, "image"))


class Planes(ArraySource):
    """Planes of an array (planes, H, W, C); remembers how many pixels of each were read."""

    def __init__(self, array: Array, planes: tuple[tuple[str, int], ...]) -> None:
        super().__init__(array[0], planes=planes, pixel_size=(0.5, 1.0))
        self._all = array
        self.read_pixels = np.zeros(len(array), int)

    def read(self, region: Region, plane: int = 0, level: int = 0) -> Array:
        self.read_pixels[plane] += region.area
        return self._all[plane][region.slices]


def pieces(spec: ImageSpec, side: int) -> Iterator[tuple[int, Region]]:
    for plane in range(spec.plane_count):
        for y in range(0, spec.height, side):
            for x in range(0, spec.width, side):
                yield plane, Region(y, x, side, side).intersect(spec.region)


def read_all(source: Source, side: int) -> Array:
    spec = source.spec
    pixels = np.empty((spec.plane_count, spec.height, spec.width, spec.channels), spec.dtype)
    for plane, region in pieces(spec, side):
        pixels[plane][region.slices] = source.read(region, plane)
    return pixels


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    planes=st.sampled_from([(), (("z", 3),), (("t", 2), ("z", 2))]),
    meaning=st.sampled_from(("image", "labels")),
    side=st.sampled_from([2, 6, 32]),
)
def test_levels_are_made_while_the_source_is_read_once(
    height: int, width: int, planes: tuple[tuple[str, int], ...], meaning: Meaning, side: int
) -> None:
    count = int(np.prod([length for _, length in planes], dtype=int))
    expected = np.random.default_rng(0).integers(0, 200, (count, height, width, 2)).astype(np.uint8)
    source = Planes(expected, planes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pyramid, "ABOVE", 40)
        patch.setattr(pyramid, "SMALLEST", 16)
        shapes = level_shapes(height, width)
        found = []
        with closing(levels(source, meaning, Path())) as sources:
            for level in sources:
                found.append((level.spec.height, level.spec.width))
                assert level.spec.planes == planes
                assert level.spec.pixel_size == pytest.approx((height / found[-1][0] * 0.5, width / found[-1][1]))
                np.testing.assert_array_equal(read_all(level, side), expected)
                expected = np.stack([halve(plane, meaning) for plane in expected])
    assert found == shapes
    assert (source.read_pixels == height * width).all()


def test_planes_of_a_stack_do_not_touch(tmp_path: Path) -> None:
    stack = Stack(ImageSpec(700, 30, 1, "uint16", planes=(("t", 2), ("z", 2))), tmp_path)
    for plane in range(4):
        stack.write(Region(0, 0, 700, 30), np.full((700, 30, 1), plane + 1, np.uint16), plane)
    assert [set(stack.read(Region(1, 2, 699, 5), plane).ravel()) for plane in range(4)] == [{1}, {2}, {3}, {4}]
    assert not list(tmp_path.iterdir())
    stack.close()


def test_scratch_files_are_closed_when_the_writer_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[Stack] = []
    close = Stack.close
    monkeypatch.setattr(pyramid, "ABOVE", 40)
    monkeypatch.setattr(Stack, "close", lambda self: closed.append(self) or close(self))
    sources = levels(ArraySource(np.zeros((3000, 3000), np.uint8)), "image", tmp_path)
    next(sources).read(Region(0, 0, 2, 2))
    next(sources)
    assert not closed  # the second is still to be read
    sources.close()
    assert len(closed) == 2
