"""Images that nobody can read right: one line that names the file and the cure, whatever was to be done with it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.cli.kit import save
from tests.faults.images import BAD
from tests.faults.program import Call, Ended, Program
from tests.faults.uses import USES, image_of, prepare, tree

FAULTS = {f"{group}: {case}": fault for group, cases in BAD.items() for case, fault in cases.items()}


def assert_one_line(ended: Ended, code: int, start: str, told: str, *cures: str) -> None:
    """It failed with ``code`` and one line, which begins with a name, and says what is wrong and what to do."""
    assert (ended.code, len(ended.lines), ended.stdout) == (code, 1, b""), ended
    assert ended.err.startswith(f"error: {start}") and told in ended.err, ended
    assert not cures or any(cure in ended.err for cure in cures), ended


@pytest.mark.parametrize("name", FAULTS)
def test_a_bad_image_is_one_line_and_nothing_else(name: str, program: Program, networks: Path, folder: Path) -> None:
    fault, calls, before = FAULTS[name], {}, {}
    for use in USES:
        place = folder / str(len(calls))
        place.mkdir()
        path = prepare(place, use, f"image{fault.suffix}")
        fault.make(path)
        calls[use] = Call(place, USES[use].words(networks, path.relative_to(place).as_posix()), fault.before)
        before[use] = tree(place)
    for use, ended in zip(USES, program.run_all(list(calls.values())), strict=True):
        place = USES[use].place(f"image{fault.suffix}")
        assert_one_line(ended, 1, place, fault.told, *fault.cure)
        assert tree(calls[use].folder) == before[use], use


@pytest.mark.parametrize("use", USES)
def test_a_good_image_is_read_in_each_of_these_ways(use: str, program: Program, networks: Path, folder: Path) -> None:
    """Else the errors above would prove nothing of the images."""
    path = prepare(folder, use, "image.tif")
    save(path, image_of(use))
    ended = program.run(folder, *USES[use].words(networks, path.relative_to(folder).as_posix()))
    assert ended.code == 0, ended.err
    shutil.rmtree(folder)
