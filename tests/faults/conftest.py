"""One server of the program for all fault tests of a process, tiny networks, and an empty folder for each test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.kit import picture, save
from tests.faults.networks import make_networks
from tests.faults.program import Program, serving
from tests.faults.uses import IMAGE_TASKS, image_words


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory, networks: Path) -> Iterator[Program]:
    if not hasattr(os, "fork"):
        pytest.skip("each call of the program is a forked process")
    streams = tmp_path_factory.mktemp("streams")
    save(streams / "warm.tif", picture(64, 80))
    tasks = [[*image_words(networks, task), "warm.tif", "-o", f"{task}.tif"] for task in IMAGE_TASKS]
    others = [["eval", task, "segment.tif", "segment.tif"] for task in ("segment", "instances", "translate")]
    others += [["train", task, "--help"] for task in ("segment", "instances", "translate", "stylize")]
    with serving(streams, [*tasks, *others]) as running:
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
