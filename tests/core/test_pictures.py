"""Pictures for the eye: stretched images, objects in colours, and sheets of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from i2i.errors import OutputError
from i2i.pictures import colours, outlined, outlines, picture_of, tinted, write_sheet

SIZES = st.tuples(st.integers(1, 9), st.integers(1, 9))


def plain(height: int, width: int, grey: int) -> np.ndarray:
    return np.full((height, width, 3), grey, np.uint8)


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_a_picture_has_three_channels_and_the_whole_range(channels: int) -> None:
    pixels = np.random.default_rng(0).normal(-3, 0.01, (30, 40, channels)).astype(np.float32)
    picture = picture_of(pixels)
    assert picture.shape == (30, 40, 3) and picture.dtype == np.uint8
    assert picture.min() == 0 and picture.max() == 255
    assert channels >= 3 or np.array_equal(picture[..., 0], picture[..., 2])


def test_a_picture_of_one_value_is_black() -> None:
    assert not picture_of(np.full((4, 5, 1), 7, np.uint16)).any()


def test_the_colour_of_an_object_depends_on_its_id_alone() -> None:
    labels = np.array([[1, 2, 3], [257, 258, 70_000]])
    found = colours(labels)
    assert np.array_equal(found[0, 0], colours(np.array([[1]]))[0, 0]) and np.array_equal(found[0, 0], found[1, 0])
    assert len({tuple(colour) for colour in found[0]}) == 3


@given(st.integers(0, 999), SIZES)
@settings(derandomize=True, deadline=None, max_examples=30)
def test_an_outline_is_where_one_of_four_neighbours_is_of_another_object(seed: int, size: tuple[int, int]) -> None:
    labels = np.random.default_rng(seed).integers(0, 3, size)
    found = outlines(labels)
    for y, x in np.ndindex(*size):
        around = [
            labels[j, i] for j, i in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)) if 0 <= j < size[0] and 0 <= i < size[1]
        ]
        assert found[y, x] == (labels[y, x] > 0 and any(other != labels[y, x] for other in around))


def test_only_objects_are_tinted_and_only_their_outlines_drawn() -> None:
    labels = np.zeros((8, 8), np.int32)
    labels[2:7, 2:7] = 3
    below = plain(8, 8, 100)
    mixed, drawn = tinted(labels, below), outlined(labels, below)
    assert np.array_equal((mixed != 100).any(2), labels > 0)
    assert np.array_equal((drawn != 100).any(2), outlines(labels))
    assert np.array_equal(drawn[2, 2], colours(labels)[2, 2]) and (below == 100).all()
    assert np.array_equal(mixed[4, 4], (60 + 0.4 * colours(labels)[4, 4]).astype(np.uint8))


@given(st.lists(st.lists(SIZES, min_size=1, max_size=3), min_size=1, max_size=3))
@settings(derandomize=True, deadline=None, max_examples=20)
def test_a_sheet_holds_every_picture_with_white_around_it(tmp_path_factory: pytest.TempPathFactory, sizes: list) -> None:
    path = tmp_path_factory.mktemp("sheet") / "s.png"
    rows = [[plain(*size, 10 * (1 + 3 * y + x)) for x, size in enumerate(row)] for y, row in enumerate(sizes)]
    write_sheet(path, rows)
    sheet = np.asarray(Image.open(path))
    tall = [max(height for height, _ in row) for row in sizes]
    wide = [max(row[i][1] for row in sizes if i < len(row)) for i in range(max(map(len, sizes)))]
    assert sheet.shape == (sum(tall) + 8 * (len(tall) + 1), sum(wide) + 8 * (len(wide) + 1), 3)
    left = np.ones(sheet.shape[:2], bool)
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            top, start = sum(tall[:y]) + 8 * (y + 1), sum(wide[:x]) + 8 * (x + 1)
            place = slice(top, top + picture.shape[0]), slice(start, start + picture.shape[1])
            assert np.array_equal(sheet[place], picture)
            left[place] = False
    assert (sheet[left] == 255).all()


def test_a_sheet_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "s.png"
    write_sheet(path, [[plain(4, 4, 0)]])
    before = path.read_bytes()

    def torn(image: Image.Image, target: Path, **_: object) -> None:
        Path(target).write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(Image.Image, "save", torn)
    with pytest.raises(OutputError):
        write_sheet(path, [[plain(5, 5, 9)]])
    assert path.read_bytes() == before and [found.name for found in tmp_path.iterdir()] == ["s.png"]
