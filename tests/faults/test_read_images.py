"""Images that look odd and are right: a network sees the pixels that are in the file, whatever the task."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

from tests.faults.pictures import GOOD, Picture, Pixels, gray
from tests.faults.program import Call, Ended, Program
from tests.faults.uses import IMAGE_TASKS, image_words

PICTURES = {f"{group}: {case}": picture for group, cases in GOOD.items() for case, picture in cases.items()}
TASKS = [task for task in IMAGE_TASKS if task != "bioimage"]


def read_planes(path: Path) -> Pixels:
    """A TIFF as (P, H, W, C), by tifffile."""
    with tifffile.TiffFile(path) as file:
        pixels, axes = file.series[0].asarray(), file.series[0].axes
    channel = next((axes.index(axis) for axis in "CS" if axis in axes), None)
    pixels = pixels[..., np.newaxis] if channel is None else np.moveaxis(pixels, channel, -1)
    return pixels.reshape(-1, *pixels.shape[-3:])


def write_plain(path: Path, pixels: Pixels) -> None:
    """(H, W, C) as a TIFF that nobody can read wrongly: raw strips; three channels as RGB, or where that is not for such numbers
    as an axis that is named."""
    path.parent.mkdir(exist_ok=True)
    if pixels.shape[2] == 1:
        tifffile.imwrite(path, pixels[..., 0], photometric="minisblack")
    elif pixels.dtype in (np.uint8, np.uint16):
        tifffile.imwrite(path, pixels, photometric="rgb")
    else:
        tifffile.imwrite(path, pixels.transpose(2, 0, 1), ome=True, photometric="minisblack", metadata={"axes": "CYX"})


def warnings(ended: Ended, name: str) -> list[str]:
    return [line for line in ended.lines if line.startswith(f"warning: {name}")]


def assert_told(ended: Ended, name: str, picture: Picture) -> None:
    told = warnings(ended, name)
    assert len(told) == bool(picture.told) and all(picture.told in line for line in told), ended


@pytest.mark.parametrize("name", PICTURES)
def test_a_network_sees_the_pixels_of_an_odd_image(name: str, program: Program, networks: Path, folder: Path) -> None:
    """``i2i bioimage`` runs a network that gives what it is given. Of the other tasks the result is that of the same pixels,
    plane by plane, in the plainest of files."""
    picture = PICTURES[name]
    case = f"case{picture.suffix}"
    (folder / "in").mkdir()
    expected = picture.make(folder / "in" / case)
    channels = expected.shape[3]
    few = [] if channels in (1, 3) else ["--channels", "7"]
    for number, plane in enumerate(expected):
        write_plain(folder / f"in/plain-{number}.tif", np.where(np.arange(channels) == 7, plane, 0) if few else plane)
    identity = ["bioimage", "--package", networks / f"identity-{channels}", "--allow-code", f"in/{case}", "-o", "seen.tif"]
    calls = [Call(folder, identity)]
    for task in TASKS:
        words = [*image_words(networks, task, 1 if few else channels), "in", *few, "-o", task, "--format", "tif"]
        calls.append(Call(folder, words))
    for task, ended in zip(["bioimage", *TASKS], program.run_all(calls), strict=True):
        assert ended.code == 0, ended
        assert_told(ended, f"in/{case}", picture)
        if task != "bioimage":
            plain = [read_planes(folder / task / f"plain-{number}.tif") for number in range(len(expected))]
            np.testing.assert_array_equal(read_planes(folder / task / "case.tif"), np.concatenate(plain), task)
    np.testing.assert_array_equal(read_planes(folder / "seen.tif"), expected.astype(np.float32))


@pytest.mark.parametrize("task", TASKS)
def test_another_picture_has_another_result(task: str, program: Program, networks: Path, folder: Path) -> None:
    """Else the comparisons above would prove nothing."""
    pixels = gray()
    write_plain(folder / "in/a.tif", pixels[..., None])
    pixels[10:14, 20:25] += 40
    write_plain(folder / "in/b.tif", pixels[..., None])
    ended = program.run(folder, *image_words(networks, task), "in", "-o", "out", "--format", "tif")
    assert ended.code == 0, ended
    first, second = (read_planes(folder / f"out/{name}.tif") for name in "ab")
    assert np.ptp(first) > 0 and (first != second).any()
