"""The fault table, README.md beside this file, is what the tests are: it names none that is missing, and leaves out none."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.faults.test_bad_images import FAULTS
from tests.faults.test_read_images import PICTURES
from tests.faults.test_warnings import WARNED

TABLE = Path(__file__).with_name("README.md").read_text("utf-8")
LIST = Path(__file__).parents[3] / "shared" / "faults.md"
ROW = re.compile(r"^\| (?P<case>.+) \| (?P<ends>read|warn|error|goes on) \| (?P<tests>`.+`) \|$", re.MULTILINE)
PLACE = re.compile(r"(?P<file>[\w/]+)\.py(?:::(?P<name>\w+)(?:\[(?P<parameter>.+)\])?)?")
IMAGES: dict[str, Mapping[str, Any]] = {"test_bad_images": FAULTS, "test_read_images": PICTURES, "test_warnings": WARNED}
"""The tables of cases of files, whose rows here name no test."""
CONTROLS = {"test_a_good_image_is_read_in_each_of_these_ways", "test_another_picture_has_another_result", "test_the_trap_works"}
"""Without them the other tests would prove nothing."""


def places() -> Iterator[tuple[str, str, str]]:
    """File, test and parameter of each test that the table names; of a case in a table of files: the file, nothing, the case."""
    group = ""
    for line in TABLE.splitlines():
        group = line.removeprefix("## ") if line.startswith("## ") else group
        row = ROW.match(line)
        for text in row["tests"].strip("`").split("`, `") if row else ():
            found = PLACE.fullmatch(text)
            assert found, line
            yield found["file"], found["name"] or "", (found["parameter"] or "") if found["name"] else f"{group}: {row['case']}"


def module_of(file: str) -> ModuleType:
    return import_module(f"tests.{file.replace('/', '.')}" if "/" in file else f"tests.faults.{file}")


def parameters(test: Any) -> set[str]:
    """What stands in brackets behind a test's name, in any of its lists of parameters."""
    marks = [mark for mark in getattr(test, "pytestmark", []) if mark.name == "parametrize"]
    return {str(value[0] if isinstance(value, tuple) else value) for mark in marks for value in mark.args[1]}


def test_every_row_can_be_read() -> None:
    rows = [line for line in TABLE.splitlines() if line.startswith("| ") and not line.startswith("| case ")]
    assert len(rows) == len(ROW.findall(TABLE)) > 100


def test_every_test_and_every_case_that_the_table_names_is_there() -> None:
    for file, name, parameter in places():
        if not name:
            assert parameter in IMAGES[file], f"{file} has no {parameter}"
            continue
        test = getattr(module_of(file), name, None)
        assert callable(test), f"{file} has no {name}"
        assert not parameter or parameter in parameters(test), f"{name} has no case {parameter}"


def test_every_case_and_every_test_of_the_suite_is_in_the_table() -> None:
    named = set(places())
    for file, cases in IMAGES.items():
        assert [case for case in cases if (file, "", case) not in named] == []
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        names = re.findall(r"^def (test_\w+)\(", path.read_text("utf-8"), re.MULTILINE)
        for name in [name for name in names if path.name != Path(__file__).name and name not in CONTROLS]:
            told = {parameter for file, test, parameter in named if (file, test) == (path.stem, name)}
            given = parameters(getattr(module_of(path.stem), name))
            assert "" in told or (told and given <= told) or given <= IMAGES.get(path.stem, {}).keys(), (name, given - told)


def test_a_case_in_a_table_of_files_ends_as_that_file_says() -> None:
    ends = {"test_bad_images": "error", "test_read_images": "read", "test_warnings": "warn"}
    rows = [
        (place.partition(".")[0], row["ends"])
        for row in ROW.finditer(TABLE)
        for place in [row["tests"].strip("`")]
        if "::" not in place
    ]
    assert [row for row in rows if row[0] in ends and ends[row[0]] != row[1]] == []


def test_the_sum_is_that_of_the_rows() -> None:
    ends = Counter(row["ends"] for row in ROW.finditer(TABLE))
    told = "{read} are read, {warn} warn, {error} are errors, {goes on} go on.".format_map(ends)
    assert TABLE.splitlines()[-1] == f"{ends.total()} cases: {told}"


@pytest.mark.skipif(not LIST.is_file(), reason="the list of faults that the project was given (../shared/faults.md) is not there")
def test_every_group_of_the_list_has_its_part() -> None:
    groups = re.findall(r"^\| ([\w, ]+?) \|", LIST.read_text("utf-8"), re.MULTILINE)[1:]
    assert groups == re.findall(r"^## (.+)$", TABLE, re.MULTILINE) and len(groups) == 14
