"""What a run says of itself: for one image, and for all of them."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

DONE, SKIPPED, PLANNED, FAILED = "done", "skipped", "planned", "failed"


@dataclass
class RunReport:
    """One image. ``status``: done, skipped (a complete output was there), planned (dry run) or failed, with ``error``.

    ``blocks_reused``: those that the journal of a killed run named. ``seconds``: by phase. ``objects``: None where there are none.
    """

    task: str
    input: str
    output: str
    status: str = DONE
    model: str | None = None
    sha256: str | None = None
    kind: str | None = None
    plan: Mapping[str, Any] = field(default_factory=dict)
    blocks_computed: int = 0
    blocks_reused: int = 0
    objects: int | None = None
    verified: float | None = None
    exports: Mapping[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    peak_memory: int = 0
    warnings: list[str] = field(default_factory=list)
    error: str | None = None

    def as_mapping(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


def exit_code(reports: Sequence[RunReport]) -> int:
    """0 when all is done, 1 when all failed, 3 when some did."""
    failed = sum(report.status == FAILED for report in reports)
    if not failed:
        return 0
    return 1 if failed == len(reports) else 3


def peak_memory() -> int:
    """The largest resident size that this process has had, in bytes; 0 where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
