"""What a run says of itself: for one image, and for all of them."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from i2i.contracts import Model, Source
    from i2i.engine import Job
    from i2i.planner import Plan

DONE, SKIPPED, PLANNED, FAILED = "done", "skipped", "planned", "failed"


@dataclass
class RunReport:
    """One image. ``status``: done, skipped (a complete output was there), planned (dry run) or failed, with ``error`` and the
    ``exit_code`` that it would have alone.

    ``model`` and ``sha256``: of several models joined by ``+``, in the order given, those that the method is made of at the end;
    None where there are none. ``plan``: what
    :func:`plan_of` says, in a dry run also the ``seconds`` expected. ``blocks_computed``: of all stages together;
    ``blocks_reused``: those that the journal of a killed run named. ``verified``: the largest difference that ``--verify`` found,
    as a share of the output's range. ``seconds``: by phase. ``objects``: of all planes, None where there are none;
    ``objects_by_plane``: of each of several planes, by its name, such as ``t=0,z=3``. ``planes``: how many there are.
    ``resampled``: how many times as high and wide the network saw the image, where its pixel size is not the
    model's. ``size``: height and width that the method works on and gives, where they are not the input's own. ``notes``: what
    cost time or room and changed nothing, unlike ``warnings``. ``options``: those of the task and of every run that are not the
    defaults, by their names in ``--config``; the seed of each of several results.
    """

    task: str
    input: str
    output: str
    status: str = DONE
    model: str | None = None
    sha256: str | None = None
    kind: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    planes: int = 1
    resampled: tuple[float, float] | None = None
    size: tuple[int, int] | None = None
    plan: Mapping[str, Any] = field(default_factory=dict)
    blocks_computed: int = 0
    blocks_reused: int = 0
    objects: int | None = None
    objects_by_plane: Mapping[str, int] = field(default_factory=dict)
    verified: float | None = None
    exports: Mapping[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    peak_memory: int = 0
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    error: str | None = None
    exit_code: int = 0

    def as_mapping(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


def exit_code(reports: Sequence[RunReport]) -> int:
    """0 when all is done, 3 when some failed; when all did, 2 if each was a wrong call, else 1."""
    codes = [report.exit_code for report in reports if report.status == FAILED]
    if not codes:
        return 0
    return min(codes) if len(codes) == len(reports) else 3


def peak_memory() -> int:
    """The largest resident size that this process has had, in bytes; 0 where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


class Clock:
    """Seconds by phase: ``laps``."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, name: str) -> None:
        """The phase ``name`` ends now."""
        now = time.monotonic()
        self.laps[name], self._last = round(now - self._last, 3), now

    def go_on(self) -> None:
        """After a pause that belongs to no phase."""
        self._last = time.monotonic()


def recorded(models: Sequence[Model]) -> dict[str, str]:
    """The names and hashes of the models, those of several joined by ``+``."""
    if not models:
        return {}
    return {"model": "+".join(model.name for model in models), "sha256": "+".join(model.sha256 for model in models)}


def inexact(plan: Plan) -> list[str]:
    """A warning when no tiling of this network can be the whole-image result."""
    if plan.exact:
        return []
    return ["this model depends on all it sees, so its windows are blended: not the same as the whole image in one window"]


def read_as_zeros(source: Source) -> list[str]:
    """A warning when tiles that the file leaves out were read as zeros."""
    from i2i.formats.views import missing_tiles

    count = missing_tiles(source)
    return [f"{count} {'tile is' if count == 1 else 'tiles are'} missing in the file and read as 0"] if count else []


def plan_of(job: Job) -> dict[str, Any]:
    """The plan, with the ``window`` (height, width) that the network sees and the numbers of ``tiles`` and ``blocks``; of an
    iterative method also its ``stages``, and it is ``exact`` in one window: in several, sums are rounded in another order."""
    grid = job.grid
    numbers = {"window": list(grid.window_shape), "tiles": grid.tile_count, "blocks": grid.block_count}
    if job.predictor.kind == "image":
        from i2i.contracts import ImagePredictor

        assert isinstance(job.predictor, ImagePredictor)
        numbers |= {"stages": list(job.predictor.stages(job.source.spec)), "exact": grid.tile_count == 1}
    return job.plan.as_mapping() | numbers
