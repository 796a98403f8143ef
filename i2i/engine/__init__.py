"""The engine: one prepared predictor over one image, stage by stage, block by block.

A stage is a list of blocks, each computed by a pure function of the source and the canvas, written to a layer and
journaled. What the journal names is not computed again; how blocks are grouped or ordered changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable

from i2i.engine.dense import compute_region, run_dense
from i2i.engine.iterate import run_image
from i2i.engine.job import Job, Outcome, Progress, convert, network_for
from i2i.engine.objects import compute_objects, run_instances

__all__ = ["Job", "Outcome", "Progress", "compute_objects", "compute_region", "convert", "network_for", "run_job"]

_RUNNERS: dict[str, Callable[[Job], Outcome]] = {"dense": run_dense, "instances": run_instances, "image": run_image}


def run_job(job: Job) -> Outcome:
    """Do all stages that are not yet done. The canvas holds the result afterwards; publishing it is the caller's."""
    return _RUNNERS[job.predictor.kind](job)
