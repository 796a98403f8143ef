"""How many threads a process may run."""

from __future__ import annotations

import pytest

from i2i.cores import available_cores


@pytest.mark.parametrize(
    ("asked", "cores"), [("1", 1), (" 1 ", 1), ("1,4", 1), ("", 3), ("0", 3), ("many", 3), ("-1", 3), ("2", 2), ("100", 3)]
)
def test_no_more_than_asked_for_and_than_there_are(monkeypatch: pytest.MonkeyPatch, asked: str, cores: int) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {2, 3, 5}, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert available_cores() == cores
