"""Exporters read pieces of bounded size, and what they write does not depend on the pieces."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from i2i.contracts import Array, Exported, Objects
from i2i.exporters import overlay, table
from i2i.formats.views import ArraySource
from i2i.geometry import Region
from tests.core import scenes

deterministic = settings(derandomize=True, deadline=None, max_examples=60)


class Watched(ArraySource):
    """An array as a source that remembers the regions that were read."""

    def __init__(self, array: Array, **fields: object) -> None:
        super().__init__(array, **fields)
        self.regions: list[Region] = []

    def read(self, region: Region, plane: int = 0, level: int = 0) -> Array:
        assert self.spec.region.contains(region)
        self.regions.append(region)
        return super().read(region, plane, level)


# ------------------------------------------------------------------------------------------------------------ overlay


def reduced_whole(pixels: np.ndarray, factor: int, mean: bool) -> np.ndarray:
    """The definition: of each square of the whole image its mean, or its top left pixel."""
    if not mean:
        return pixels[::factor, ::factor]
    rows, columns = range(0, pixels.shape[0], factor), range(0, pixels.shape[1], factor)
    squares = [[pixels[y : y + factor, x : x + factor].mean((0, 1), dtype=float) for x in columns] for y in rows]
    return np.array(squares)


@given(
    hnp.array_shapes(min_dims=3, max_dims=3, max_side=40).filter(lambda shape: shape[2] <= 3),
    st.integers(1, 9), st.booleans(), st.integers(16, 400), st.sampled_from([None, (4, 4), (1, 40)]), st.integers(0, 99),
)  # fmt: skip
@deterministic
def test_a_reduced_image_does_not_depend_on_the_pieces(
    shape: tuple[int, int, int], factor: int, mean: bool, size: int, tiling: tuple[int, int] | None, seed: int
) -> None:
    pixels = np.random.default_rng(seed).integers(0, 60_000, shape).astype(np.uint16)
    source = Watched(pixels, tiling=tiling)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(overlay, "_BYTES", size)
        small = overlay.reduced(source, factor, mean)
    np.testing.assert_allclose(small, reduced_whole(pixels, factor, mean), rtol=1e-5)
    assert small.dtype == (np.float32 if mean else np.uint16)
    assert sum(region.area for region in source.regions) == shape[0] * shape[1], "each pixel is read once"


@pytest.mark.parametrize("shape", [(60, 9000), (9000, 60), (700, 800)])
def test_an_overlay_reads_pieces_of_bounded_size(shape: tuple[int, int], monkeypatch) -> None:
    monkeypatch.setattr(overlay, "_BYTES", 30_000)
    source = Watched(np.zeros((*shape, 3), np.uint8))
    overlay.reduced(source, 7, True)
    assert max(region.area * 3 for region in source.regions) <= 30_000
    assert len(source.regions) <= 4 * shape[0] * shape[1] * 3 / 30_000 + 4, "and not of fewer pixels than need be"


def test_wide_strips_are_read_whole(monkeypatch) -> None:
    monkeypatch.setattr(overlay, "_BYTES", 10_000)
    source = Watched(np.zeros((100, 2000, 1), np.uint8), tiling=(1, 2000))
    overlay.reduced(source, 3, True)
    assert {(region.x, region.width) for region in source.regions} == {(0, 2000)}
    assert max(region.area for region in source.regions) <= 10_000


def test_the_picture_is_that_of_one_piece(monkeypatch) -> None:
    random = np.random.default_rng(0)
    pixels, labels = random.integers(0, 255, (90, 2500, 3)).astype(np.uint8), np.zeros((90, 2500, 1), np.uint32)
    labels[20:70, ::40] = 7
    exported = Exported(ArraySource(pixels), ArraySource(labels), "labels")
    whole = overlay.draw(exported)
    monkeypatch.setattr(overlay, "_BYTES", 3000)
    np.testing.assert_array_equal(overlay.draw(exported), whole)
    assert whole.shape == (45, 1250, 3)


def detected(names: dict[int, str], size: int = 60) -> tuple[Exported, np.ndarray]:
    """Two large objects, of which the second one has the higher score, and a small one, on what is nowhere black."""
    pixels = np.full((200, 300, 3), 90, np.uint8)
    pixels[..., 0], pixels[..., 2] = np.arange(300) // 2, 200 - np.arange(300) // 2
    labels = np.zeros((200, 300), np.uint32)
    labels[40 : 40 + size, 30 : 30 + size], labels[120:190, 270:300], labels[150:160, 50:60] = 1, 2, 3
    objects = Objects(names, np.array([0.5, 0.875, 0.9], np.float32), np.array([1, 2, 2], np.int16))
    return Exported(ArraySource(pixels), ArraySource(labels), "labels", objects=objects), labels


def test_detected_objects_are_tinted_and_the_large_ones_named() -> None:
    result, labels = detected({1: "cat", 2: "dog"})
    shown = overlay.draw(result).astype(int)
    plain = overlay.draw(replace(result, objects=None)).astype(int)
    inside = np.zeros(labels.shape, bool)
    inside[45:95, 35:85] = True
    black = (shown == 0).all(2)
    assert (shown[inside & ~black] != plain[inside & ~black]).any(1).mean() > 0.9, "tinted"
    boxes = ndimage.find_objects(ndimage.label(ndimage.binary_closing(black, np.ones((5, 5))))[0])
    assert len(boxes) == 2, "two texts"
    assert (boxes[0][0].start, boxes[0][1].start) == (40, 30), "at the top left"
    assert boxes[1][0].start == 120 and black[121:131, 299].all(), "moved into the picture"
    untouched = (labels == 0) & ~ndimage.binary_dilation(black, iterations=12)
    assert np.array_equal(shown[untouched], plain[untouched])


def test_objects_of_one_class_have_no_texts() -> None:
    shown = overlay.draw(detected({2: "nucleus"})[0])
    assert not (shown == 0).all(2).any()


def test_of_texts_in_one_place_the_higher_score_has_it() -> None:
    result, labels = detected({1: "cat", 2: "dog"})
    labels[45:115, 35:120] = 2
    both, alone = overlay.draw(result), np.where(labels == 2, labels, 0)
    assert np.array_equal(both[46:58, 38:80], overlay.draw(replace(result, result=ArraySource(alone)))[46:58, 38:80])


def test_a_text_wider_than_the_picture_is_cut_off() -> None:
    result, _ = detected({1: "x" * 100, 2: "dog"})
    assert overlay.draw(result).shape == (200, 300, 3)


# -------------------------------------------------------------------------------------------------------------- table


def rows_of(labels: np.ndarray, tall: float, wide: float) -> list[tuple[float, ...]]:
    """The definition, object by object."""
    rows = []
    for number in np.unique(labels[labels > 0]).tolist():
        ys, xs = np.nonzero(labels == number)
        y, x, area = ys.mean(), xs.mean(), len(ys)
        box = (ys.min(), xs.min(), ys.max() + 1, xs.max() + 1)
        sides = [side * size for side, size in zip(box, (tall, wide) * 2, strict=True)]
        rows.append((number, area, y, x, *box, area * tall * wide, (y + 0.5) * tall, (x + 0.5) * wide, *sides))
    return rows


def assert_rows(found: Sequence[tuple[float, ...]], expected: Sequence[tuple[float, ...]]) -> None:
    assert [row[0] for row in found] == [row[0] for row in expected]
    for row, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(row, other, atol=0.0051, rtol=0)


@given(
    hnp.arrays(np.uint32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=20), elements=st.integers(0, 12)),
    st.integers(1, 14), st.integers(2, 30),
)  # fmt: skip
@deterministic
def test_a_table_does_not_depend_on_blocks_and_ranges_of_ids(labels: np.ndarray, ids: int, side: int) -> None:
    source = ArraySource(labels, pixel_size=(0.5, 0.25))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table, "_IDS", ids)
        patch.setattr(table, "_SIDE", side)
        patch.setattr(table, "_ROWS", 3)
        found = list(table.measure(source))
    assert_rows(found, rows_of(labels, 0.5, 0.25))
    assert found == list(table.measure(source)), "to the last digit"


def test_ids_may_be_in_any_order_and_far_apart(monkeypatch) -> None:
    monkeypatch.setattr(table, "_SIDE", 4)
    labels = np.zeros((9, 12), np.uint32)
    labels[0, 0], labels[0:9, 5], labels[8, 11], labels[3, 2:4] = 2**32 - 1, 40_000_000, 7, 3
    found = list(table.measure(ArraySource(labels)))
    assert_rows(found, [row[:8] for row in rows_of(labels, 1, 1)])
    assert [row[0] for row in found] == [3, 7, 40_000_000, 2**32 - 1]


def test_a_further_range_of_ids_is_read_only_where_it_occurs(monkeypatch) -> None:
    monkeypatch.setattr(table, "_SIDE", 10)
    monkeypatch.setattr(table, "_IDS", 40)
    labels = np.zeros((200, 10), np.uint32)
    labels[::2, 4] = np.arange(1, 101)
    source = Watched(labels)
    assert len(list(table.measure(source))) == 100
    assert len(source.regions) == 20 + 8 + 4, "all, those with 41 .. 80, those with 81 .. 100"


def test_rows_are_made_as_they_are_asked_for(monkeypatch) -> None:
    monkeypatch.setattr(table, "_IDS", 2)
    monkeypatch.setattr(table, "_SIDE", 10)
    labels = np.repeat(np.arange(1, 6, dtype=np.uint32), 10)[:, None]
    source = Watched(labels)
    rows = table.measure(source)
    assert [next(rows)[0], next(rows)[0], len(source.regions)] == [1, 2, 5]
    assert [next(rows)[0], len(source.regions)] == [3, 7]


@pytest.mark.parametrize("size", [None, (0.5, 0.25)])
def test_the_columns_of_a_table(size: tuple[float, float] | None, tmp_path: Path) -> None:
    labels = np.zeros((6, 8), np.uint16)
    labels[1:3, 2:7] = 9
    labels[4, 1:3] = 4
    source = ArraySource(labels, pixel_size=size)
    table.TABLE.export(tmp_path / "a.csv", Exported(source, source, "labels"))
    with (tmp_path / "a.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    first = {"id": "4", "area": "2", "y": "4.0", "x": "1.5", "top": "4", "left": "1", "bottom": "5", "right": "3"}
    micrometres = {"area_um2": "0.25", "y_um": "2.25", "x_um": "0.5"}
    micrometres |= {"top_um": "2.0", "left_um": "0.25", "bottom_um": "2.5", "right_um": "0.75"}
    assert rows[0] == (first | micrometres if size else first)
    assert [row["id"] for row in rows] == ["4", "9"] and rows[1]["right"] == "7"


@pytest.mark.parametrize("size", [None, (0.5, 0.25)])
def test_class_and_score_are_behind_the_id_where_a_detector_knows_them(size: tuple[float, float] | None, tmp_path: Path) -> None:
    result = scenes.exported(pixel_size=size)
    found = scenes.instances()
    table.TABLE.export(tmp_path / "a.csv", result)
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0])[:5] == ["id", "class", "score", "area", "y"] and ("right_um" in rows[0]) == bool(size)
    assert_rows([[float(value) for name, value in row.items() if name not in ("class", "score")] for row in rows],
                [row if size else row[:8] for row in rows_of(scenes.drawn(found, (160, 240)), *(size or (1, 1)))])  # fmt: skip
    for row in rows:
        place = int(row["id"]) - 1
        assert row["class"] == scenes.NAMES[int(found.classes[place])]
        assert float(row["score"]) == round(float(found.scores[place]), 6)


def test_an_image_without_objects_has_a_table_without_rows() -> None:
    assert not list(table.measure(ArraySource(np.zeros((5, 6), np.uint16))))
