"""How many threads this process may run."""

from __future__ import annotations

import os


def available_cores() -> int:
    """The cores that this process may use: those it is bound to, and no more than ``OMP_NUM_THREADS`` where that is set."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()  # "4,2": four, of which each may start two
    return min(cores, int(asked)) if asked.isdecimal() and int(asked) else cores
