"""One thread a process, before torch and numpy are imported: the tests' networks are too small for two, the bytes of a result
depend on how many there are, and ``make test`` has a worker on each core. A test of several threads asks for them itself."""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"
