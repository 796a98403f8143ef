"""The engine: one prepared predictor over one image, stage by stage, block by block.

A stage is a list of blocks, each computed by a pure function of the source and the canvas, written to a layer and
journaled. What the journal names is not computed again; how blocks are grouped or ordered changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from i2i.backends import is_out_of_memory
from i2i.engine.dense import compute_region, run_dense
from i2i.engine.iterate import run_image
from i2i.engine.job import Job, Outcome, Progress, Snapshot, convert, network_for
from i2i.engine.objects import compute_objects, run_instances
from i2i.errors import NotFinite
from i2i.planner import Plan, smaller

__all__ = [
    "DeviceFull", "Job", "Outcome", "Progress", "Snapshot", "compute_objects", "compute_region", "convert", "network_for",
    "run_job",
]  # fmt: skip

_RUNNERS: dict[str, Callable[[Job], Outcome]] = {"dense": run_dense, "instances": run_instances, "image": run_image}


class DeviceFull(RuntimeError):
    """The memory of an accelerator is too small for the plan's windows, and what was done with them cannot go on with others.
    ``plan``: with smaller ones, for a new beginning."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(f"the memory of {plan.device} was full")
        self.plan = plan


def run_job(job: Job) -> Outcome:
    """Do all stages that are not yet done. The canvas holds the result afterwards; publishing it is the caller's. The predictor
    that runs is the one that fits the plan's room. Raises ``NotFinite``, and ``DeviceFull``; dense networks go on with smaller
    windows by themselves."""
    fitting = replace(job, predictor=job.predictor.within(job.source.spec, job.plan.room))
    try:
        return _RUNNERS[job.predictor.kind](fitting)
    except NotFinite as error:
        raise NotFinite(f"{error}; {_cure(job.plan.precision)}") from error
    except RuntimeError as error:
        plan = smaller(job.plan, job.predictor.footprint) if is_out_of_memory(error) and job.predictor.kind != "dense" else None
        if plan is None:
            raise
        raise DeviceFull(plan) from error


def _cure(precision: str) -> str:
    """Against NaN and Inf."""
    if precision == "fp32":
        return "is the model file damaged?"
    return f"is the model file damaged, or --precision {precision} too small? try --precision fp32"
