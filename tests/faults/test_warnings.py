"""Images that are read with a warning, once on stderr and once in ``--json``; with ``--strict`` it is an error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tifffile

from tests.cli.kit import picture
from tests.faults.images import circular, missing_tile, png_named_tif
from tests.faults.pictures import Pixels, gray, planes
from tests.faults.program import Call, Program
from tests.faults.test_bad_images import assert_one_line
from tests.faults.test_read_images import read_planes, write_plain
from tests.faults.uses import IMAGE_TASKS, image_words, tree


@dataclass(frozen=True)
class Warned:
    """``make`` writes the file; ``pixels`` are its (H, W). ``told``: words of the warning; ``words``: further ones of a call."""

    make: Callable[[Path], object]
    pixels: Callable[[], Pixels]
    told: str
    words: tuple[str, ...] = ()


def without_tile() -> Pixels:
    pixels = picture(64, 80) + 1
    pixels[:32, 32:64] = 0
    return pixels


def infinite(path: Path) -> None:
    pixels = gray("float32", 1)
    pixels[3, 4:9], pixels[5, 6], pixels[7, 8] = np.nan, np.inf, -np.inf
    tifffile.imwrite(path, pixels)


def finite() -> Pixels:
    pixels = gray("float32", 1)
    pixels[3, 4:9], pixels[5, 6], pixels[7, 8] = 0, 0, 0
    return pixels


WARNED = {
    "structure: missing tile": Warned(missing_tile, without_tile, "1 tile is missing in the file and read as 0"),
    "structure: circular IFD": Warned(
        circular, lambda: (np.arange(256) % 64).astype(np.uint8).reshape(16, 16), "circle: each page is read once"
    ),
    "structure: a PNG named .tif": Warned(png_named_tif, lambda: picture(64, 80), "its content is PNG: read as PNG"),
    "values: NaN and Inf, read as zero": Warned(infinite, finite, "7 samples are NaN or Inf, read as 0", ("--nan", "zero")),
}


@pytest.mark.parametrize("name", WARNED)
def test_it_is_read_with_one_warning_that_strict_makes_an_error(
    name: str, program: Program, networks: Path, folder: Path
) -> None:
    case, calls = WARNED[name], []
    case.make(folder / "case.tif")
    write_plain(folder / "plain.tif", case.pixels()[..., None])
    before = tree(folder)
    for task in IMAGE_TASKS:
        words = [*image_words(networks, task), *case.words]
        calls += [
            Call(folder, [*words, "case.tif", "-o", f"{task}-strict.tif", "--strict"]),
            Call(folder, [*words, "case.tif", "-o", f"{task}-case.tif", "--json"]),
            Call(folder, [*words, "plain.tif", "-o", f"{task}-plain.tif"]),
        ]
    ended = program.run_all(calls)
    for number, task in enumerate(IMAGE_TASKS):
        strict, told, plain = ended[3 * number : 3 * number + 3]
        assert_one_line(strict, 1, "case.tif: ", case.told, "--strict")
        assert (told.code, plain.code) == (0, 0), (told, plain)
        (line,) = [line for line in told.lines if line.startswith("warning: ")]
        assert line.startswith("warning: case.tif: ") and case.told in line
        (run,) = told.json["runs"]
        assert run["warnings"] == [line.removeprefix("warning: case.tif: ")] and "warning" not in plain.err
        case_pixels, plain_pixels = (read_planes(folder / f"{task}-{kind}.tif") for kind in ("case", "plain"))
        np.testing.assert_array_equal(case_pixels, plain_pixels, task)
    written = {f"{task}-{kind}.tif" for task in IMAGE_TASKS for kind in ("case", "plain")}
    assert tree(folder).keys() == before.keys() | written, "nothing else, of the strict runs least of all"


@pytest.mark.parametrize("task", IMAGE_TASKS)
def test_nan_and_inf_are_an_error_with_their_number(task: str, program: Program, networks: Path, folder: Path) -> None:
    infinite(folder / "case.tif")
    before = tree(folder)
    ended = program.run(folder, *image_words(networks, task), "case.tif", "-o", "out.tif")
    assert_one_line(ended, 1, "case.tif: ", "7 samples are NaN or Inf", "--nan zero")
    assert tree(folder) == before


def test_the_pixels_of_a_missing_tile_are_what_a_network_sees(program: Program, networks: Path, folder: Path) -> None:
    missing_tile(folder / "case.tif")
    words = ["bioimage", "--package", networks / "identity-1", "--allow-code", "case.tif", "-o", "seen.tif"]
    assert program.run(folder, *words).code == 0
    np.testing.assert_array_equal(read_planes(folder / "seen.tif"), planes(without_tile()).astype(np.float32))
