"""Arrays as sources, views of one plane, and what --level, --plane and --channels name."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from i2i.contracts import Array, ImageSpec
from i2i.errors import UsageError
from i2i.formats import ArraySource, Noted, View, missing_tiles, select
from i2i.formats.views import Described
from i2i.geometry import Region

PATH = Path("image.tif")


class Stack:
    """Planes t = 2 by z = 3 of 8 x 6 pixels and two channels, with a second level; a value says where it is from."""

    missing_tiles = 7

    def __init__(self) -> None:
        self.closed = False
        self.spec = ImageSpec(
            8, 6, 2, "uint16", (0.5, 0.25), ("DAPI", "GFP"), (("t", 2), ("z", 3)), ((8, 6), (4, 3)), ("a note",)
        )

    def read(self, region: Region, plane: int = 0, level: int = 0) -> Array:
        y, x = np.mgrid[region.y : region.bottom, region.x : region.right]
        grey = 10_000 * level + 1000 * plane + 10 * y + x
        return np.stack([grey, grey + 500], axis=-1).astype(np.uint16)

    def close(self) -> None:
        self.closed = True


def test_an_array_is_a_source() -> None:
    array = np.arange(5 * 7 * 2, dtype=np.int16).reshape(5, 7, 2)
    source = ArraySource(array, pixel_size=(1.0, 2.0))
    assert source.spec == ImageSpec(5, 7, 2, "int16", pixel_size=(1.0, 2.0))
    np.testing.assert_array_equal(source.read(Region(1, 2, 3, 4)), array[1:4, 2:6])
    assert ArraySource(array[..., 0]).read(Region(0, 0, 5, 7)).shape == (5, 7, 1)


def test_a_view_is_one_plane_of_one_level() -> None:
    stack = Stack()
    view = View(stack, plane=4, level=1, channels=[1])
    assert view.spec == ImageSpec(4, 3, 1, "uint16", (1.0, 0.5), ("GFP",), notes=("a note",))
    pixels = view.read(Region(2, 1, 1, 2))
    assert pixels.tolist() == [[[14_521], [14_522]]]
    assert missing_tiles(view) == 7
    view.close()
    assert stack.closed


def test_a_noted_source_is_the_source_with_a_note() -> None:
    noted = Noted(Stack(), "another")
    assert noted.spec.notes == ("a note", "another")
    assert missing_tiles(noted) == 7
    assert noted.read(Region(0, 0, 1, 1), 5, 0)[0, 0, 0] == 5000


def test_a_described_source_says_something_else_of_the_same_pixels() -> None:
    described = Described(Stack(), pixel_size=(2.0, 2.0))
    assert described.spec == dataclasses.replace(Stack().spec, pixel_size=(2.0, 2.0))
    assert described.read(Region(0, 0, 1, 1), 2, 1)[0, 0, 0] == 12_000 and missing_tiles(described) == 7


@pytest.mark.parametrize("text", ["far red", "DAPI,far red", " far red , 0", "488"])
def test_channels_are_chosen_by_names_with_spaces_and_names_that_are_numbers(text: str) -> None:
    pixels = np.arange(3, dtype=np.uint8)[None, None]
    source = select(ArraySource(pixels, channel_names=("DAPI", "far red ", "488")), 0, None, text, PATH)
    wanted = {"DAPI": 0, "0": 0, "far red": 1, "488": 2}
    assert source.read(source.spec.region).ravel().tolist() == [wanted[part.strip()] for part in text.split(",")]


def test_channels_that_are_not_chosen_need_not_be_read() -> None:
    class Frugal(Stack):
        def read_channels(self, channels: Sequence[int], region: Region, plane: int = 0, level: int = 0) -> Array:
            asked.append(list(channels))
            return super().read(region, plane, level)[..., list(channels)]

    asked: list[list[int]] = []
    for source in (Frugal(), Noted(Frugal(), "a note"), Described(Frugal(), pixel_size=None)):
        chosen = select(source, 1, "z=1,t=1", "1,0", PATH)
        assert chosen.read(Region(2, 1, 1, 1)).tolist() == [[[14_521, 14_021]]]
    assert asked == [[1, 0]] * 3
    everything = select(Frugal(), 0, "z=0,t=0", None, PATH)
    assert everything.read(Region(0, 0, 1, 1)).tolist() == [[[0, 500]]] and len(asked) == 3


def test_sources_that_count_no_tiles_miss_none() -> None:
    assert missing_tiles(ArraySource(np.zeros((2, 2)))) == 0


@pytest.mark.parametrize(
    ("plane", "channels", "value"),
    [
        ("z=0,t=0", None, 0),
        ("z=2,t=1", "0", 5000),
        (" T = 1 , z=1", "GFP", 4500),
        ("t=0,z=2", "GFP,DAPI", 2500),
        ("t=0,z=2", "1,0", 2500),
    ],
)
def test_selection(plane: str, channels: str | None, value: int) -> None:
    source = select(Stack(), 0, plane, channels, PATH)
    assert source.spec.plane_count == 1
    assert source.read(Region(0, 0, 1, 1))[0, 0, 0] == value


def test_selection_of_a_level_and_of_everything() -> None:
    assert select(Stack(), 1, "z=0,t=0", None, PATH).spec.region == Region(0, 0, 4, 3)
    array = np.zeros((5, 7, 3))
    assert select(ArraySource(array), 0, None, None, PATH).spec == ArraySource(array).spec


@pytest.mark.parametrize(
    ("text", "planes", "numbers"),
    [
        (None, (("t", 2), ("z", 3)), [0, 1, 2, 3, 4, 5]),
        ("", (("t", 2), ("z", 3)), [0, 1, 2, 3, 4, 5]),
        ("z=*, t=*", (("t", 2), ("z", 3)), [0, 1, 2, 3, 4, 5]),
        ("z=2,t=*", (("t", 2),), [2, 5]),
        ("t=1", (("z", 3),), [3, 4, 5]),
        ("z=1-2", (("t", 2), ("z", 2)), [1, 2, 4, 5]),
        ("t=0,z=0 - 1", (("z", 2),), [0, 1]),
        ("t=1-1,z=2", (), [5]),
    ],
)
def test_axes_of_which_one_plane_is_chosen_vanish_and_the_others_stay(text, planes, numbers) -> None:
    source = select(Stack(), 0, text, "1", PATH)
    assert source.spec.planes == planes and source.spec.plane_count == len(numbers)
    read = [int(source.read(Region(1, 2, 1, 1), plane)[0, 0, 0]) for plane in range(len(numbers))]
    assert read == [1000 * number + 512 for number in numbers]
    assert View(source, len(numbers) - 1).read(Region(0, 0, 1, 1))[0, 0, 0] == 1000 * numbers[-1] + 500


@pytest.mark.parametrize(
    ("level", "plane", "channels", "pattern"),
    [
        (2, "z=0,t=0", None, r"--level 2: image\.tif has levels 0 \.\. 1"),
        (-1, "z=0,t=0", None, "--level -1"),
        (0, "z=1,z=2", None, "names z twice; a range is z=0-2"),
        (0, "z=2-1", None, "a range such as 0-2"),
        (0, "z=1-3", None, "from 0 to 2"),
        (0, "z=1-", None, "from 0 to 2"),
        (0, "z=3,t=0", None, r"z of image\.tif is a number from 0 to 2"),
        (0, "z=-1,t=0", None, "from 0 to 2"),
        (0, "z,t=0", None, "from 0 to 2"),
        (0, "q=0", None, "has the axes t, z"),
        (0, "z=0,t=0", "2", r"has the channels 0 \.\. 1 \(DAPI, GFP\)"),
        (0, "z=0,t=0", "dapi2", "has the channels"),
        (0, "z=0,t=0", "", "has the channels"),
    ],
)
def test_what_the_image_does_not_have(level: int, plane: str, channels: str | None, pattern: str) -> None:
    with pytest.raises(UsageError, match=pattern) as caught:
        select(Stack(), level, plane, channels, PATH)
    assert "\n" not in str(caught.value)


def test_messages_for_an_image_of_one_plane() -> None:
    source = ArraySource(np.zeros((4, 4, 1)))
    with pytest.raises(UsageError, match="has one level, 0"):
        select(source, 1, None, None, PATH)
    with pytest.raises(UsageError, match="has one plane: leave --plane out"):
        select(source, 0, "z=0", None, PATH)
    with pytest.raises(UsageError, match=r"has the channels 0 \.\. 0$"):
        select(source, 0, None, "1", PATH)
