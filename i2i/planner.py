"""The plan of a run: windows, batches, blocks and memory, chosen from what is declared and from the budget.

A plan depends on the machine's total memory, not on what is free at the moment, and goes into the manifest: the same
run has the same plan, and a resumed one uses it as it stands.
"""

from __future__ import annotations

import copy
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any

from i2i.backends import activation_share, available_cores, overhead_bytes
from i2i.contracts import Footprint, ImageSpec, Predictor, Runtime
from i2i.errors import UsageError
from i2i.geometry import Grid, make_grid, round_up
from i2i.memory import total_memory
from i2i.options import RunOptions

BASE_BYTES = 750_000_000
"""What torch and the libraries take before any work (measured)."""
LEAST_BYTES = 1_500_000_000
READ_BYTES = 100_000_000
"""Decoded tiles of the input, and those that are being decoded."""
LATER_BYTES = 200_000_000
"""What numbering, drawing and writing take, when the network is done."""
AHEAD = 2
"""Batches that are read while one is computed."""
_SIDES = tuple(range(256, 2561, 128))
_LARGEST = 2560
_DOUBLE_BYTES = 12_000_000_000
"""Memory of a window from which its pixels take twice the time: fresh pages and their tables (measured: a window of 1 GB does
1.2 MP/s, one of 6 GB 0.7 to 0.8)."""
_WINDOW_BYTES = 30_000_000
"""What a window costs besides (a block, its files, threads that wait), in bytes of activations of the same time."""
_BATCH_PIXELS = 1024**2
_BLOCK_SIDE = 1024
_BLOCK_WINDOWS = 3072
_UNITS = {"": 1, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}


@dataclass(frozen=True)
class Plan:
    """How a run is done. ``tile``: height and width of the window asked for; ``cores``: along each side of a block;
    ``canvas``: memory or disk; ``memory``: the estimate for the whole process, in bytes; ``room``: the bytes that were left for
    the work, by which the predictor chooses what it holds (:meth:`~i2i.contracts.Predictor.within`)."""

    tile: tuple[int, int]
    cores: int
    batch: int
    threads: int
    device: str
    precision: str
    backend: str
    canvas: str
    memory: int
    exact: bool
    room: int = sys.maxsize

    @property
    def runtime(self) -> Runtime:
        return Runtime(self.device, self.precision, self.backend)

    def grid(self, spec: ImageSpec, footprint: Footprint) -> Grid:
        """The tiles and blocks of an image."""
        return grid_of(spec, footprint, self.tile, self.cores)

    def as_mapping(self) -> dict[str, Any]:
        return asdict(self) | {"tile": list(self.tile)}

    @staticmethod
    def from_mapping(values: dict[str, Any]) -> Plan:
        """Raises ``LookupError`` or ``TypeError`` for the values of another version."""
        return Plan(**values | {"tile": tuple(values["tile"]), "room": int(values["room"])})


def grid_of(spec: ImageSpec, footprint: Footprint, tile: tuple[int, int], cores: int = 1) -> Grid:
    """The grid that a footprint asks for. Raises ``UsageError`` when the window is too small for the halo."""
    try:
        return make_grid(
            (spec.height, spec.width),
            tile,
            halo=footprint.halo,
            stride=footprint.multiple_of,
            border=footprint.border,
            fixed=footprint.fixed_tile is not None,
            cores=cores,
        )
    except ValueError as error:
        raise UsageError(f"--tile: {error}") from error


def parse_size(text: str) -> int:
    """Bytes in ``2GB``, ``1500 MiB``. Raises ``UsageError``."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]I?)?B?\s*", text.upper())
    if not match:
        raise UsageError(f"--memory {text}: expected a size such as 2GB or 1500MB")
    return int(float(match[1]) * _UNITS[match[2] or ""])


def budget(options: RunOptions) -> int:
    """The bytes that a run may take: ``--memory``, or half of the machine's and at least 2 GB. ``UsageError`` below 1.5 GB."""
    if options.memory == "auto":
        return max(2_000_000_000, total_memory() // 2)
    size = parse_size(options.memory)
    if size < LEAST_BYTES:
        unit = f"is a number of bytes; for gigabytes give {options.memory}GB" if options.memory.isdecimal() and size else ""
        raise UsageError(f"--memory {options.memory}: {unit or 'below 1.5GB nothing can run (the libraries alone take 0.75 GB)'}")
    return size


def _number(text: str, flag: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(f"{flag} {text}: expected auto or a whole number from 1")
    return int(text)


def make_plan(spec: ImageSpec, predictor: Predictor, outputs_bytes: int, options: RunOptions, runtime: Runtime) -> Plan:
    """The plan of one image. ``outputs_bytes``: of a pixel in all layers of the canvas. Raises ``UsageError`` when an asked-for
    window is too small, or nothing fits the budget."""
    allowed, jobs = budget(options), options.jobs
    canvas_bytes = spec.height * spec.width * predictor.footprint.scale**2 * outputs_bytes
    on_disk = canvas_bytes > allowed // jobs // 16 or predictor.kind == "image"
    fixed = READ_BYTES + overhead_bytes(runtime.backend) + (0 if on_disk else canvas_bytes)
    room, later = (allowed - BASE_BYTES) // jobs - fixed, predictor.held_bytes + LATER_BYTES
    if room < later:
        raise UsageError(_no_room(jobs, runtime.backend, allowed))
    predictor = copy.copy(predictor.within(spec, room))
    predictor.window_bytes = int(predictor.window_bytes * activation_share(runtime.backend))
    left = room - predictor.held_bytes
    tile = _tile(spec, predictor, options, left)
    grid = grid_of(spec, predictor.footprint, tile)
    batch = _batch(predictor, grid, options, left)
    needed = window_cost(predictor, grid.window_shape, batch)
    if needed > left:
        raise UsageError(_too_large(predictor, options, left, grid.window_shape, batch))
    return Plan(
        tile, _cores(grid), batch, max(1, available_cores() // jobs), runtime.device, runtime.precision, runtime.backend,
        "disk" if on_disk else "memory", BASE_BYTES + jobs * (fixed + max(predictor.held_bytes + needed, later)),
        predictor.footprint.exact or grid.tile_count == 1, room,
    )  # fmt: skip


def smaller(plan: Plan, footprint: Footprint) -> Plan | None:
    """The plan with half the batch, or with half the window along its longer side; None when there is no smaller one."""
    if plan.batch > 1:
        return replace(plan, batch=plan.batch // 2)
    least = 2 * round_up(footprint.halo, footprint.multiple_of) + footprint.multiple_of
    height, width = plan.tile
    half = (max(least, height // 2), width) if height > width else (height, max(least, width // 2))
    return None if footprint.fixed_tile is not None or half == plan.tile else replace(plan, tile=half)


def _cores(grid: Grid) -> int:
    """Cores along each side of a block: about 1024 pixels, unless their windows together would be too many to hold."""
    side = max(grid.window_shape)
    return max(1, min(_BLOCK_SIDE // max(grid.rows.step, grid.columns.step), _BLOCK_WINDOWS // side))


def _no_room(jobs: int, backend: str, allowed: int) -> str:
    """Why not even the libraries and the model fit the budget."""
    if jobs > 1:
        return f"--jobs {jobs}: too many for {allowed / 1e9:.1f} GB; give fewer, or more --memory"
    if backend != "torch":
        return f"--backend {backend}: needs more than {allowed / 1e9:.1f} GB; give more --memory, or --backend torch"
    return f"--memory: this model needs more than {allowed / 1e9:.1f} GB; raise it"


def _too_large(predictor: Predictor, options: RunOptions, left: int, window: tuple[int, int], batch: int) -> str:
    """Why what was asked for does not fit the budget, and what would."""
    needed = (window_cost(predictor, window, batch) - left + budget(options)) / 1e9
    asked = f"{batch} x {window[0]} x {window[1]} pixels need about {needed:.1f} GB"
    if batch > 1:
        return f"--batch {batch}: {asked}; give fewer, or more --memory"
    return f"--tile {max(window)}: {asked}; give a smaller one, or more --memory"


def window_cost(predictor: Predictor, window: tuple[int, int], batch: int) -> int:
    """Bytes that a batch takes: the network's activations, its input and those ahead, its answer on its way."""
    footprint = predictor.footprint
    passed = 4 * footprint.channels_in * (2 + AHEAD) + 8 * footprint.channels_out * footprint.scale**2
    return batch * window[0] * window[1] * (predictor.window_bytes + passed)


def _tile(spec: ImageSpec, predictor: Predictor, options: RunOptions, left: int) -> tuple[int, int]:
    footprint = predictor.footprint
    if footprint.fixed_tile is not None:
        return footprint.fixed_tile, footprint.fixed_tile
    if options.tile != "auto":
        side = _number(options.tile, "--tile")
        grid_of(spec, footprint, (side, side))
        return side, side
    whole = _whole(spec, footprint)
    if not footprint.exact and window_cost(predictor, whole, 1) <= left:
        return whole
    heights, widths = (_sides(length, footprint, predictor.zoom) for length in (spec.height, spec.width))
    tiles = list(product(heights, widths))
    fitting = [tile for tile in tiles if window_cost(predictor, tile, 1) <= left]
    if not fitting:
        seen = f"which sees {footprint.halo} pixels around each"
        raise UsageError(f"--memory: too small for one window of this model, {seen}; raise it, or give a smaller --tile")
    return _cheapest(spec, predictor, fitting)


def _cheapest(spec: ImageSpec, predictor: Predictor, tiles: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The smallest window that costs within 3 % of the least: pixels that the network computes, each the dearer the more memory
    its window takes; and what each window costs besides, which counts for a light network."""

    def cost(tile: tuple[int, int]) -> float:
        grid = grid_of(spec, predictor.footprint, tile)
        height, width = grid.window_shape
        pixels, taken = height * width, window_cost(predictor, (height, width), 1)
        return grid.tile_count * pixels * (1 + taken / _DOUBLE_BYTES + _WINDOW_BYTES / taken)

    costs = {tile: cost(tile) for tile in tiles}
    least = min(costs.values())
    return min((tile for tile, cost in costs.items() if cost <= 1.03 * least), key=lambda tile: (tile[0] * tile[1], tile))


def _whole(spec: ImageSpec, footprint: Footprint) -> tuple[int, int]:
    margin = 2 * round_up(footprint.halo, footprint.multiple_of) if footprint.border == "mirror" else 0
    height, width = (round_up(length, footprint.multiple_of) + margin for length in (spec.height, spec.width))
    return height, width


def _sides(length: int, footprint: Footprint, zoom: float) -> list[int]:
    """Window sides worth a try along an axis of ``length`` pixels: those that cut it into equal cores, up to ``_LARGEST`` pixels
    of the network, which sees them ``zoom`` times as large."""
    stride, halo = footprint.multiple_of, round_up(footprint.halo, footprint.multiple_of)
    margin = 2 * halo if footprint.border == "mirror" else 0
    sides = {round_up(length, stride) + margin}
    for side in _SIDES:
        core = max(stride, round(side / zoom) - 2 * halo)
        if footprint.border == "mirror":
            sides.add(round_up(-(-length // -(-length // core)), stride) + 2 * halo)
        else:  # the first core and the last have a halo on one side only
            count = max(1, -(-(length - 2 * halo) // core))
            sides.add(round_up(-(-(length - 2 * halo) // count), stride) + 2 * halo)
    fitting = {side for side in sides if side <= max(_LARGEST / zoom, 3 * halo + stride)}
    return sorted(fitting or {min(sides)})


def _batch(predictor: Predictor, grid: Grid, options: RunOptions, left: int) -> int:
    if options.batch != "auto":
        return _number(options.batch, "--batch")
    if predictor.kind == "image":
        return 1
    height, width = grid.window_shape
    wanted = min(grid.tile_count, int(_BATCH_PIXELS / (height * width * predictor.zoom**2)))
    return max(1, min(wanted, left // max(1, window_cost(predictor, grid.window_shape, 1))))
