"""One server of the program for all fault tests of a process, tiny networks, and an empty folder for each test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.networks import make_networks
from tests.faults.program import Program, serving


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    if not hasattr(os, "fork"):
        pytest.skip("each call of the program is a forked process")
    with serving(tmp_path_factory.mktemp("streams")) as running:
        yield running


@pytest.fixture(scope="session")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("networks")
    make_networks(folder)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "work"
    place.mkdir()
    return place
