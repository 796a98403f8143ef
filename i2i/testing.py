"""The contract kit: what every task must keep, as one call for a plugin's tests.

    from i2i.testing import assert_task_contract

    def test_contract():
        assert_task_contract(my_task, model="weights.safetensors")

It finds a halo that is too small, a normalisation over the window that is not declared, up-sampling that depends on the
window's size, shapes and dtypes other than declared, results that change from run to run, with the tiling, or after
a resume. Give trained or He-initialised weights: default-initialised networks hide a wrong halo.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from i2i.backends import TOLERANCE
from i2i.canvas import Canvas, MemoryCanvas
from i2i.contracts import (
    Array,
    DensePredictor,
    InstancePredictor,
    Model,
    ModelCard,
    Output,
    Predictor,
    Runtime,
    Source,
    Task,
)
from i2i.engine import Job, compute_region, run_job
from i2i.errors import I2IError
from i2i.formats.resample import at_size
from i2i.formats.views import ArraySource
from i2i.geometry import Region, round_up
from i2i.models import find_model
from i2i.planner import Plan
from i2i.stitch import placed

_SEED = 7

if TYPE_CHECKING:
    import torch


class ContractError(AssertionError):
    """What a plugin breaks, in a sentence."""


def _require(kept: bool, text: str) -> None:
    if not kept:
        raise ContractError(text)


def assert_task_contract(
    task: Task,
    *,
    model: str | Path | None = None,
    options: Any = None,
    images: Sequence[Array] = (),
    cards: Sequence[ModelCard] = (),
    runtime: Runtime | None = None,
) -> None:
    """Check all that a task promises. ``model``: a file, or a name among ``cards``; ``options``: the task's (its defaults if
    None); ``images``: arrays (H, W, C) to use besides the kit's own, which are seeded noise with blobs, uint8.

    Raises ``ContractError`` that says what is broken.
    """
    _check_declaration(task)
    chosen: Model | None = find_model(model, task.name, cards) if model is not None else None
    _require(chosen is not None or not task.needs_model, f"{task.name} needs a model: pass model=")
    predictor = task.load(task.options() if options is None else options, chosen, runtime or Runtime())
    assert_predictor_contract(predictor, images=images, runtime=runtime)


def _check_declaration(task: Task) -> None:
    _require(task.name.isidentifier() and task.name.islower(), f"the task's name {task.name!r} is no lower-case word")
    _require(0 < len(task.summary) <= 100 and "\n" not in task.summary, "the summary is one line of at most 100 characters")
    frozen = dataclasses.is_dataclass(task.options) and task.options.__dataclass_params__.frozen  # type: ignore[attr-defined]
    _require(bool(frozen), f"{task.name}: options is no frozen dataclass")
    for item in dataclasses.fields(task.options):
        _require("help" in item.metadata, f"{task.name}: the option {item.name} was not made by i2i.options.option")


def assert_predictor_contract(predictor: Predictor, *, images: Sequence[Array] = (), runtime: Runtime | None = None) -> None:
    """The part of :func:`assert_task_contract` that is about a predictor."""
    try:
        _check_predictor(_Kit(predictor, runtime or Runtime()), images)
    except ContractError:
        raise
    except Exception as error:
        raise ContractError(f"{type(predictor).__name__} raises {type(error).__name__}: {error}") from error


def _check_predictor(kit: _Kit, images: Sequence[Array]) -> None:
    sources = [kit.sized(ArraySource(image)) for image in (*images, *kit.images())]
    outputs = kit.predictor.fitted(sources[0].spec).outputs
    _require(bool(outputs), "the predictor declares no output")
    _require(len({output.name for output in outputs}) == len(outputs), "two outputs have one name")
    for source in sources:
        kit.check_prepare(source)
        kit.check_outputs(source)
    kit.check_tiling(sources[0] if images else kit.large())


def blobs(height: int, width: int, channels: int, seed: int = _SEED) -> Array:
    """A test image (height, width, channels) uint8: smooth bright spots of many sizes over noise."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    image = random.uniform(0, 30, (height, width, channels))
    for _ in range(max(1, height * width // 900)):
        radius = random.uniform(2, 7)
        distance = (y - random.uniform(0, height)) ** 2 + (x - random.uniform(0, width)) ** 2
        image += (random.uniform(80, 200, channels) * np.exp(-distance / (2 * radius**2))[..., None]).astype(image.dtype)
    return np.clip(image, 0, 255).astype(np.uint8)


@dataclasses.dataclass(frozen=True)
class _Kit:
    predictor: Predictor
    runtime: Runtime

    # --------------------------------------------------------------------------------------------------------- images

    @property
    def _least(self) -> int:
        """The smallest window."""
        footprint = self.predictor.footprint
        return footprint.fixed_tile or 2 * round_up(footprint.halo, footprint.multiple_of) + footprint.multiple_of

    def images(self) -> Iterator[Array]:
        """Odd sizes: smaller than a window, one row, one column, no multiple of the stride."""
        channels, stride = self.predictor.footprint.channels_in, self.predictor.footprint.multiple_of
        for height, width in ((2 * stride + 3, 3 * stride + 5), (1, stride + 7), (stride + 7, 1)):
            yield blobs(height, width, channels)
        if type(self.predictor).fitted is not Predictor.fitted:
            colour = blobs(2 * stride + 5, stride + 9, 3).astype(np.uint16) * 200
            two = blobs(stride + 9, 2 * stride + 5, 2).astype(np.float32) / 255
            yield from (image for image in (colour, two) if self._fits(image))

    def _fits(self, image: Array) -> bool:
        """Whether the predictor, fitted to it, takes an image's channels."""
        return self.predictor.fitted(ArraySource(image).spec).footprint.channels_in == image.shape[2]

    def large(self) -> Source:
        """Several windows along each axis, and an odd size."""
        stride = self.predictor.footprint.multiple_of
        step = max(stride, 32)
        side = self._least + 2 * round_up(step, stride) + stride + 3
        return self.sized(ArraySource(blobs(side, side + 5, self.predictor.footprint.channels_in)))

    def sized(self, source: Source) -> Source:
        """At the size that the predictor works on."""
        size = self.predictor.fitted(source.spec).size
        return at_size(source, size) if size else source

    def _prepared(self, source: Source) -> Predictor:
        return self.predictor.fitted(source.spec).prepare(source, _SEED)

    def _recorded(self, source: Source) -> Predictor:
        """The predictor that a resumed run has: from the statistics as the manifest keeps them."""
        return self.predictor.fitted(source.spec).with_statistics(json.loads(json.dumps(self._prepared(source).statistics())))

    def _plan(self, tile: int, cores: int = 1, batch: int = 1) -> Plan:
        runtime = self.runtime
        sides = (tile, tile)
        return Plan(sides, cores, batch, 0, runtime.device, runtime.precision, runtime.backend, "memory", 0, True)

    def _whole(self, source: Source) -> int:
        """A window that holds the image."""
        footprint = self.predictor.footprint
        if footprint.fixed_tile:
            return footprint.fixed_tile
        return round_up(max(source.spec.height, source.spec.width), footprint.multiple_of) + 2 * self._least

    def run(
        self, source: Source, output: Output, plan: Plan, canvas: Canvas | None = None, prepared: Predictor | None = None
    ) -> Array:
        """The result of a run, (H, W, C)."""
        predictor = prepared or self._prepared(source)
        outcome = run_job(Job(source, predictor, output, plan, canvas or MemoryCanvas(), _SEED))
        return outcome.result.read(outcome.result.spec.region)

    # --------------------------------------------------------------------------------------------------------- checks

    def check_prepare(self, source: Source) -> None:
        """Statistics are JSON and give the same predictor again; normalisation looks at one pixel at a time."""
        prepared = self._prepared(source)
        statistics = prepared.statistics()
        try:
            recorded = json.loads(json.dumps(statistics))
        except (TypeError, ValueError) as error:
            raise ContractError(f"statistics() holds what JSON cannot: {error}") from error
        again = self.predictor.fitted(source.spec).with_statistics(recorded)
        whole = source.read(source.spec.region)
        normal = prepared.normalize(whole)
        _require(normal.dtype == np.float32, f"normalize gives {normal.dtype}, not float32")
        expected = (*whole.shape[:2], prepared.footprint.channels_in)
        _require(normal.shape == expected, f"normalize gives {normal.shape} where the footprint promises {expected}")
        _require(np.array_equal(again.normalize(whole), normal), "with_statistics(statistics()) normalises differently")
        half = whole[: -(-whole.shape[0] // 2)]
        same = np.array_equal(prepared.normalize(half), normal[: half.shape[0]])
        _require(same, "normalize depends on more than the pixel: freeze its statistics in prepare")

    def check_outputs(self, source: Source) -> None:
        """Shapes and dtypes as declared, finite, and the same from run to run."""
        for output in self.predictor.fitted(source.spec).outputs:
            plan = self._plan(self._whole(source))
            try:
                first, second = self.run(source, output, plan), self.run(source, output, plan)
                recorded = self.run(source, output, plan, prepared=self._recorded(source))
            except I2IError as error:
                raise ContractError(f"{source.spec.height} x {source.spec.width}, {output.name}: {error}") from error
            scale = self.predictor.footprint.scale
            declared = (source.spec.height * scale, source.spec.width * scale, output.channels)
            _require(first.shape == declared, f"{output.name}: {first.shape} where {declared} is declared")
            _require(first.dtype == output.dtype, f"{output.name}: {first.dtype} where {output.dtype} is declared")
            _require(bool(np.isfinite(first).all()), f"{output.name}: holds NaN or Inf")
            _require(first.tobytes() == second.tobytes(), f"{output.name}: two runs give different results: not deterministic")
            same = recorded.tobytes() == first.tobytes()
            _require(same, f"{output.name}: with_statistics(statistics()) gives another result: a resumed run would differ")
            if output.meaning == "labels" and self.predictor.kind != "instances":  # an object may be below others
                ids = np.unique(first[first > 0])
                _require(np.array_equal(ids, np.arange(1, len(ids) + 1)), f"{output.name}: labels are not 1 .. N without gaps")

    def check_tiling(self, source: Source) -> None:
        """Tiled equals whole, as far as the footprint promises it."""
        checks: dict[str, Callable[[Source], None]] = {
            "dense": self._check_dense,
            "instances": self._check_instances,
            "image": self._check_image,
        }
        checks[self.predictor.kind](source)

    def _tilings(self, source: Source) -> list[Plan]:
        """The smallest windows one by one, larger ones in blocks and batches."""
        stride = self.predictor.footprint.multiple_of
        if self.predictor.footprint.fixed_tile:
            return [self._plan(self._least, 1, 1), self._plan(self._least, 2, 3)]
        step = round_up(32, stride)
        return [self._plan(self._least + step - stride, 1, 1), self._plan(self._least + step, 2, 3)]

    def _check_dense(self, source: Source) -> None:
        predictor = self._prepared(source)
        assert isinstance(predictor, DensePredictor)
        region = source.spec.region
        raws = [self._raw(source, predictor, plan, region) for plan in (self._plan(self._whole(source)), *self._tilings(source))]
        if predictor.footprint.exact:
            self._check_context(source, predictor)
            spread = float(raws[0].max() - raws[0].min())
            for plan, raw in zip(self._tilings(source), raws[1:], strict=True):
                worst = float(np.abs(raw - raws[0]).max())
                allowed = TOLERANCE[self.runtime.precision] * spread
                _require(
                    worst <= allowed,
                    f"windows of {plan.tile[0]} differ from the whole image by {worst:.2e} (allowed {allowed:.2e}): "
                    "the halo is too small, or the network depends on the window's size or on all it sees",
                )
        self._check_grouping(source, predictor)
        if predictor.footprint.exact:
            self._check_labels(source, predictor)

    def _raw(self, source: Source, predictor: DensePredictor, plan: Plan, region: Region) -> Array:
        return compute_region(source, predictor, plan.grid(source.spec, predictor.footprint), region, plan)

    def _check_grouping(self, source: Source, predictor: DensePredictor) -> None:
        """Whatever the footprint promises, blocks are only a way of grouping the work."""
        plan = self._tilings(source)[0]
        grid = plan.grid(source.spec, predictor.footprint)
        whole = compute_region(source, predictor, grid, source.spec.region, plan)
        for block in grid.blocks():
            part = compute_region(source, predictor, grid, block.region, plan)
            scaled = block.region.scaled(predictor.footprint.scale)
            worst = float(np.abs(part - whole[scaled.slices]).max())
            _require(worst <= 1e-5 * max(1.0, float(np.abs(whole).max())), f"a block computed alone differs by {worst:.2e}")

    def _check_context(self, source: Source, predictor: DensePredictor) -> None:
        """The gradient of a core with respect to the input outside its window is exactly zero."""
        import torch

        plan = self._tilings(source)[0]
        grid = plan.grid(source.spec, predictor.footprint)
        tile = grid.tile(grid.rows.count // 2, grid.columns.count // 2)
        whole = self._plan(self._whole(source)).grid(source.spec, predictor.footprint).tile(0, 0).window
        random = torch.Generator().manual_seed(_SEED)
        shape = (1, predictor.footprint.channels_in, whole.height, whole.width)
        seen = torch.rand(shape, generator=random).to(self.runtime.device).requires_grad_(True)
        answer = predictor(self._with_places(seen, whole) if predictor.positions else seen)
        if not answer.requires_grad:
            return
        shrink = -grid.rows.halo if predictor.footprint.border == "mirror" else 0
        rows, columns = tile.core.relative_to(whole.grow(shrink)).scaled(predictor.footprint.scale).slices
        core = answer[:, :, rows, columns]
        weights = torch.rand(core.shape, generator=random).to(core.device)
        (core * weights).sum().backward()  # type: ignore[no-untyped-call]
        assert seen.grad is not None
        outside = seen.grad.abs().sum((0, 1))
        rows, columns = tile.window.relative_to(whole).intersect(Region(0, 0, whole.height, whole.width)).slices
        outside[rows, columns] = 0
        count = int((outside > 0).sum())
        _require(
            count == 0, f"a core depends on {count} pixels outside its window: the halo {predictor.footprint.halo} is too small"
        )

    def _with_places(self, seen: torch.Tensor, window: Region) -> torch.Tensor:
        """A batch of one window with the row and the column of each pixel."""
        import torch

        places = placed(np.zeros((window.height, window.width, 0), np.float32), window)
        return torch.cat([seen, torch.from_numpy(places).permute(2, 0, 1)[None].to(seen.device)], 1)

    def _check_labels(self, source: Source, predictor: DensePredictor) -> None:
        for output in predictor.outputs:
            if output.meaning not in ("labels", "classes"):
                continue
            whole = self.run(source, output, self._plan(self._whole(source)), prepared=predictor)
            for plan in self._tilings(source):
                share = float((self.run(source, output, plan, prepared=predictor) != whole).mean())
                _require(share <= 1e-3, f"{output.name}: {100 * share:.2f} % of pixels change with windows of {plan.tile[0]}")

    def _check_instances(self, source: Source) -> None:
        """Every object of the whole image is found once in every tiling."""
        assert isinstance(self.predictor, InstancePredictor)
        output = self.predictor.fitted(source.spec).outputs[0]
        whole = self.run(source, output, self._plan(self._whole(source)))[..., 0]
        _require(bool(whole.any()), "no object is found in the test image; pass images= with some")
        for plan in self._tilings(source):
            tiled = self.run(source, output, plan)[..., 0]
            all_, found = (np.count_nonzero(np.unique(labels)) for labels in (whole, tiled))
            _require(
                found == all_,
                f"{all_} objects in the whole image, {found} with windows of {plan.tile[0]}: lost or counted twice",
            )
            share = float(((tiled > 0) != (whole > 0)).mean())
            _require(
                share <= 1e-2,
                f"{100 * share:.1f} % of pixels change between object and background with windows of {plan.tile[0]}",
            )

    def _check_image(self, source: Source) -> None:
        """The same for every grid, and after a stop at any checkpoint."""
        output = self.predictor.fitted(source.spec).outputs[0]
        plans = [self._plan(self._whole(source)), *self._tilings(source)]
        results = [self.run(source, output, plan).astype(np.float64) for plan in plans]
        spread = max(1e-9, float(results[0].max() - results[0].min()))
        for plan, result in zip(plans[1:], results[1:], strict=True):
            worst = float(np.abs(result - results[0]).max()) / spread
            allowed = TOLERANCE["fp32"] if np.dtype(output.dtype).kind == "f" else 1.01 / spread
            _require(worst <= allowed, f"windows of {plan.tile[0]} change the result by {worst:.2e} of its range")
        for stops in (1, 2):
            canvas = _Stopping(stops)
            try:
                self.run(source, output, plans[1], canvas)
            except _Stop:
                resumed = self.run(source, output, plans[1], canvas)
                _require(np.array_equal(resumed, results[1].astype(resumed.dtype)), "a resumed run gives another result")
                continue
            _require(stops > 1, "no checkpoint is ever saved: a killed run would start again")


class _Stop(Exception):
    pass


class _Stopping(MemoryCanvas):
    """A canvas on which the run is killed after so many checkpoints."""

    def __init__(self, stops: int) -> None:
        super().__init__()
        self._left = stops

    def store(self, stage: str, block: int, arrays: Mapping[str, Array]) -> None:
        super().store(stage, block, {name: np.array(value) for name, value in arrays.items()})
        if stage.startswith("checkpoint-"):
            self._left -= 1
            if self._left == 0:
                raise _Stop


__all__ = ["ContractError", "assert_predictor_contract", "assert_task_contract", "blobs"]
