"""``--verify``: two tilings of the same image, compared where tiles meet."""

from __future__ import annotations

import numpy as np

from i2i.contracts import DensePredictor
from i2i.engine import Job, compute_region, network_for
from i2i.errors import PluginError, UsageError
from i2i.geometry import Region
from i2i.planner import grid_of


def verify(job: Job, count: int) -> float:
    """Recompute ``count`` places where tiles meet in another tiling. The largest difference, as a share of the raw output's
    range there, 0 included: noise in a flat output counts against its size."""
    predictor = job.predictor
    if not isinstance(predictor, DensePredictor):
        raise PluginError("--verify compares pixels: this task gives none that can be recomputed one by one")
    if predictor.footprint.fixed_tile is not None:
        raise UsageError("--verify: this model takes windows of one size only, so there is no other tiling to compare with")
    grid, spec = job.grid, job.source.spec
    stride = predictor.footprint.multiple_of
    side = (grid.rows.window + 2 * stride, grid.columns.window + 2 * stride)
    other = grid_of(spec, predictor.footprint, side)
    own, others = (network_for(predictor, one, job.plan) for one in (grid, other))
    random = np.random.default_rng(job.seed)
    worst, low, high = 0.0, 0.0, 0.0
    for _ in range(count):
        y, x = (axis.core(int(random.integers(min(1, axis.count - 1), axis.count)))[0] for axis in (grid.rows, grid.columns))
        region = Region(y - 32, x - 32, 64, 64).intersect(spec.region)
        first = compute_region(job.source, predictor, grid, region, job.plan, network=own)
        second = compute_region(job.source, predictor, other, region, job.plan, network=others)
        worst = max(worst, float(np.abs(first - second).max()))
        low, high = min(low, float(first.min())), max(high, float(first.max()))
    return worst / (high - low) if high > low else worst
