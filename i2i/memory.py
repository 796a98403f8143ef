"""How much memory there is, and what is too large for it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from i2i.errors import InputError


def check_fits(samples: int, each: int, name: object) -> None:
    """Raises ``InputError`` where ``samples`` numbers that are worked on at once, at ``each`` bytes for one, are more than this
    process may hold. A file of a few kilobytes may honestly hold thousands of megapixels."""
    needed, there = samples * each, total_memory()
    if needed > there:
        sizes = f"about {needed / 1e9:.3g} GB, and there are {there / 1e9:.3g} GB"
        raise InputError(f"{name}: is read as a whole here, which takes {sizes}; give a smaller image, such as a part of it")


def total_memory() -> int:
    """Bytes of memory that this process may use: the machine's, or the limit of a control group around it if that is lower."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in _limits():
        try:
            total = min(total, int(path.read_text()))
        except (OSError, ValueError):  # not there; or "max"
            continue
    return total


def _limits() -> Iterator[Path]:
    """The files (version 2 and 1) with the memory limits of this process's control group and of all above it."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, place = line.split(":", 2)
        if controllers in ("", "memory"):
            name = "memory.limit_in_bytes" if controllers else "memory.max"
            group = Path("/sys/fs/cgroup", controllers, place.lstrip("/"))
            yield from (above / name for above in (group, *group.parents) if above.is_relative_to("/sys/fs/cgroup"))
