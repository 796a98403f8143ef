"""``--animate``: a GIF of all frames in one palette, the result at its end, the same bytes each time."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageSequence

from i2i.contracts import Exported
from i2i.errors import UsageError
from i2i.formats.views import ArraySource
from i2i_style import animation
from i2i_style.animation import ANIMATE


def scene(height, width, colour=(200, 80, 30)):
    """Smooth gradients in one colour."""
    y, x = np.mgrid[:height, :width]
    shade = (0.3 + 0.7 * (x / width))[..., None] * (0.5 + 0.5 * np.cos(6 * y / height))[..., None]
    return (np.array(colour) * shade).astype(np.uint8)


def exported(frames, result):
    return Exported(ArraySource(result), ArraySource(result), "image", frames=None if frames is None else lambda: iter(frames))


def written(path, frames, result):
    ANIMATE.export(path, exported(frames, result))
    with Image.open(path) as image:
        found = [(np.asarray(frame.convert("RGB")), frame.info["duration"]) for frame in ImageSequence.Iterator(image)]
        return found, image.info.get("loop")


def local_tables(data: bytes) -> list[bool]:
    """For each frame of a GIF whether it has colours of its own, by its blocks."""
    found, at = [], 13 + 3 * 2 ** ((data[10] & 7) + 1)
    while data[at] != 0x3B:
        if data[at] == 0x2C:
            found.append(bool(data[at + 9] & 0x80))
            at += 10 + (3 * 2 ** ((data[at + 9] & 7) + 1) if found[-1] else 0) + 1
        else:
            at += 2
        while data[at]:
            at += data[at] + 1
        at += 1
    return found


def test_frames_and_result_in_order_the_last_one_held(tmp_path):
    colours = [(250, 20, 20), (20, 250, 20), (20, 20, 250)]
    frames = [scene(40, 60, colour) for colour in colours]
    found, loop = written(tmp_path / "a.gif", frames, scene(80, 120, (250, 250, 20)))
    assert [duration for _, duration in found] == [80, 80, 80, 2000] and loop == 0
    assert all(picture.shape == (80, 120, 3) for picture, _ in found)
    for (picture, _), colour in zip(found, [*colours, (250, 250, 20)], strict=True):
        assert np.abs(picture.mean((0, 1)) - scene(80, 120, colour).mean((0, 1))).max() < 6


def test_one_palette_for_all(tmp_path):
    written(tmp_path / "a.gif", [scene(40, 60), scene(40, 60, (9, 90, 200))], scene(40, 60, (90, 9, 200)))
    assert local_tables((tmp_path / "a.gif").read_bytes()) == [False, False, False]


def test_what_does_not_change_does_not_flicker(tmp_path):
    """Half of the picture stays: it is the same in every frame."""
    random = np.random.default_rng(0)
    frames = [scene(64, 96) for _ in range(5)]
    for frame in frames:
        frame[:, 48:] = random.integers(0, 256, (64, 48, 3))
    found, _ = written(tmp_path / "a.gif", frames, frames[-1])
    first = found[0][0]
    assert len(found) >= 5
    assert all(np.array_equal(picture[:, :48], first[:, :48]) for picture, _ in found)
    assert not np.array_equal(found[1][0][:, 48:], first[:, 48:])


def test_colours_are_near_those_of_the_frames(tmp_path):
    frames = [scene(120, 160), scene(120, 160, (30, 90, 220))]
    found, _ = written(tmp_path / "a.gif", frames, frames[1])
    for (picture, _), frame in zip(found, frames, strict=False):
        assert np.abs(picture.astype(int) - frame).mean() < 8
        local = (picture.astype(float) - frame).reshape(15, 8, 20, 8, 3).mean((1, 3))
        assert np.abs(local).max() < 8, "the dither's mean is the colour"


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_a_result_of_any_depth_and_size_is_made_smaller(tmp_path, dtype):
    small = scene(330, 500)
    result = small.repeat(2, 0).repeat(2, 1)
    if dtype != "uint8":
        result = (result / 255 * (65535 if dtype == "uint16" else 1)).astype(dtype)
    found, _ = written(tmp_path / "a.gif", [scene(66, 100), small], result)
    assert [picture.shape for picture, _ in found] == [(317, 480, 3)] * len(found)
    assert np.abs(found[-1][0].mean((0, 1)) - small.mean((0, 1))).max() < 6


def test_a_tall_one_and_a_gray_one(tmp_path):
    found, _ = written(tmp_path / "a.gif", [scene(900, 30)], scene(900, 30, (99, 99, 99)))
    assert found[0][0].shape == (480, 16, 3)
    found, _ = written(tmp_path / "b.gif", [np.full((1, 1, 3), 7, np.uint8)], np.full((3, 2, 3), 200, np.uint8))
    assert [int(picture[0, 0, 0]) for picture, _ in found] == [7, 200]


def test_the_same_run_gives_the_same_bytes(tmp_path):
    frames = [scene(50, 70, (k * 40, 99, 200)) for k in range(6)]
    for name in "ab":
        written(tmp_path / f"{name}.gif", frames, frames[-1])
    assert (tmp_path / "a.gif").read_bytes() == (tmp_path / "b.gif").read_bytes()


def test_of_many_frames_some_are_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(animation, "_MOST", 5)
    frames = [np.full((8, 8, 3), 20 * k, np.uint8) for k in range(12)]
    found, _ = written(tmp_path / "a.gif", frames, np.full((8, 8, 3), 255, np.uint8))
    assert len(found) == 6 and [duration for _, duration in found] == [80] * 5 + [2000]
    values = [int(picture.mean()) for picture, _ in found]
    assert values[0] < 12 and values[-2] > 205 and values == sorted(values) and values[-1] > 240


@pytest.mark.parametrize("frames", [None, []])
def test_a_method_without_pictures_on_its_way_has_no_animation(tmp_path, frames):
    with pytest.raises(UsageError, match="leave --animate out"):
        ANIMATE.export(tmp_path / "a.gif", exported(frames, scene(9, 9)))


def test_the_option(tmp_path):
    assert (ANIMATE.name, ANIMATE.suffixes, ANIMATE.meanings, ANIMATE.frames) == ("animate", (".gif",), ("image",), True)
