"""The tiled result is the whole-image result, whatever the windows and blocks; a killed run goes on to the same bytes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from i2i import begin as beginning
from i2i import session as sessions
from i2i.canvas import Canvas, DiskCanvas, MemoryCanvas, partial_folder
from i2i.contracts import DensePredictor, Footprint, LabelRule, Output, Predictor, Task
from i2i.engine import Job, compute_region, run_job
from i2i.errors import I2IError, OutputError, PluginError, UsageError
from i2i.formats.views import ArraySource
from i2i.geometry import round_up
from i2i.normalize import Normalization
from i2i.options import RunOptions
from i2i.planner import Plan
from i2i.registry import Registry
from i2i.session import Item, Session
from i2i.testing import blobs
from i2i.verify import verify
from i2i_unet.network import UNet, UNetConfig, footprint, halo, margin, valid_size
from i2i_unet.predictor import UNetPredictor
from tests import toys

slow = settings(derandomize=True, deadline=None, max_examples=25)
ROOT = Path(__file__).parents[2]


def plan(tile: int | tuple[int, int], cores: int = 1, batch: int = 1) -> Plan:
    sides = (tile, tile) if isinstance(tile, int) else tile
    return Plan(sides, cores, batch, 1, "cpu", "fp32", "torch", "memory", 0, True)


def raw(pixels: np.ndarray, predictor: DensePredictor, how: Plan, by_block: bool = True) -> np.ndarray:
    """The raw output of a prepared predictor, (H, W, C), computed block by block."""
    source, scale = ArraySource(pixels), predictor.footprint.scale
    grid = how.grid(source.spec, predictor.footprint)
    if not by_block:
        return compute_region(source, predictor, grid, grid.image, how)
    result = np.full((pixels.shape[0] * scale, pixels.shape[1] * scale, predictor.footprint.channels_out), np.nan, np.float32)
    for block in grid.blocks():
        result[block.region.scaled(scale).slices] = compute_region(source, predictor, grid, block.region, how)
    return result


def whole(pixels: np.ndarray, predictor: DensePredictor) -> np.ndarray:
    """The whole-image run, without the engine: normalise, pad (or mirror), run, crop."""
    foot, (height, width) = predictor.footprint, pixels.shape[:2]
    below, right = (round_up(length, foot.multiple_of) - length for length in (height, width))
    if isinstance(predictor, UNetPredictor) and foot.border == "mirror":
        return whole_valid(pixels, predictor)
    if foot.border == "mirror":
        context = round_up(foot.halo, foot.multiple_of)
        mirrored = np.pad(pixels, ((context, context + below), (context, context + right), (0, 0)), mode="reflect")
        seen = predictor.normalize(mirrored)
    else:
        seen = np.pad(predictor.normalize(pixels), ((0, below), (0, right), (0, 0)), constant_values=foot.pad)
    with torch.inference_mode():
        answer = predictor(torch.from_numpy(seen).permute(2, 0, 1)[None])
    return answer[0].permute(1, 2, 0).numpy()[: height * foot.scale, : width * foot.scale]


def whole_valid(pixels: np.ndarray, predictor: UNetPredictor) -> np.ndarray:
    """The paper's way (figure 2): mirror by what the valid convolutions lose, run the plain network once."""
    config, (height, width) = predictor.network.config, pixels.shape[:2]
    lost, sizes = margin(config), [valid_size(config, length) for length in (height, width)]
    after = [size - lost - length for size, length in zip(sizes, (height, width), strict=True)]
    seen = predictor.normalize(np.pad(pixels, ((lost, after[0]), (lost, after[1]), (0, 0)), mode="reflect"))
    with torch.inference_mode():
        answer = predictor.network(torch.from_numpy(seen).permute(2, 0, 1)[None])
    return answer[0].permute(1, 2, 0).numpy()[:height, :width]


def assert_close(tiled: np.ndarray, expected: np.ndarray) -> None:
    assert tiled.shape == expected.shape
    assert np.isfinite(tiled).all()
    assert np.abs(tiled - expected).max() <= 1e-4 * (expected.max() - expected.min())


@st.composite
def tilings(draw: st.DrawFn, foot: Footprint, pixels: np.ndarray) -> Plan:
    """At most five windows along each axis, of any sides that leave a core."""
    least = 2 * round_up(foot.halo, foot.multiple_of) + foot.multiple_of
    sides = (draw(st.integers(least + length // 5, least + length // 5 + 40)) for length in pixels.shape[:2])
    return plan(tuple(sides), draw(st.integers(1, 3)), draw(st.integers(1, 4)))


@st.composite
def pictures(draw: st.DrawFn, channels: int = 1, largest: int = 150) -> np.ndarray:
    """Images of one row, of one column, smaller than any window, and of several windows."""
    side = st.sampled_from([1, 7, 16, 60, 75, largest - 31, largest - 1, largest])
    return blobs(draw(side), draw(side), channels, draw(st.integers(0, 9)))


# ------------------------------------------------------------------------------------------------- tiled equals whole


@pytest.mark.parametrize("toy", [toys.Convolution(), toys.Enlarge(), toys.Mirrored()], ids=["convolution", "enlarge", "mirrored"])
@given(st.data())
@slow
def test_a_toy_in_windows_is_the_toy_of_the_whole(toy: DensePredictor, data: st.DataObject) -> None:
    pixels = data.draw(pictures())
    how, by_block = data.draw(tilings(toy.footprint, pixels)), data.draw(st.booleans())
    predictor = toy.prepare(ArraySource(pixels), 0)
    assert_close(raw(pixels, predictor, how, by_block), whole(pixels, predictor))


def unet(config: UNetConfig, seed: int = 0, method: str = "none") -> UNetPredictor:
    """As built (He-initialised), with biases and running statistics that are not those of a new network."""
    torch.manual_seed(seed)
    network = UNet(config)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.3)
            layer.running_var.uniform_(0.5, 2)
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.BatchNorm2d) and layer.bias is not None:
            nn.init.normal_(layer.bias, 0, 0.2)
    names = tuple(f"class {i}" for i in range(config.classes))
    rule = LabelRule(1, 2, 3, 4) if config.classes == 3 else None
    return UNetPredictor(network.eval().requires_grad_(False), Normalization(method), names, rule)


@st.composite
def unet_configs(draw: st.DrawFn) -> UNetConfig:
    padding = draw(st.sampled_from(["same", "same", "valid"]))
    return UNetConfig(
        channels=draw(st.integers(1, 2)), classes=draw(st.integers(2, 3)), depth=draw(st.integers(1, 3)),
        filters=draw(st.integers(2, 4)), padding=padding, norm=draw(st.sampled_from(["batch", "none"])),
        up="transposed" if padding == "valid" else draw(st.sampled_from(["transposed", "resize"])),
    )  # fmt: skip


@given(unet_configs(), st.sampled_from(["none", "percentile"]), st.data())
@settings(slow, max_examples=60)
def test_a_u_net_in_windows_is_the_u_net_of_the_whole(config: UNetConfig, method: str, data: st.DataObject) -> None:
    pixels = data.draw(pictures(config.channels, 200))
    predictor = unet(config, data.draw(st.integers(0, 9)), method).prepare(ArraySource(pixels), 0)
    assert predictor.footprint.exact
    assert_close(raw(pixels, predictor, data.draw(tilings(predictor.footprint, pixels))), whole(pixels, predictor))


@pytest.mark.parametrize("depth", [2, 3])
@pytest.mark.parametrize("shape", [(150, 141), (1, 90), (7, 3)])
def test_the_papers_network_in_windows_is_that_of_the_mirrored_whole(depth: int, shape: tuple[int, int]) -> None:
    config = UNetConfig(1, 2, depth, 3, "valid", "none")
    pixels = blobs(*shape, 1)
    predictor = unet(config, method="percentile").prepare(ArraySource(pixels), 0)
    least = 2 * predictor.footprint.halo + config.stride
    for how in (plan(least + 2 * config.stride), plan(least + 5 * config.stride + 1, 2, 3)):
        assert_close(raw(pixels, predictor, how), whole(pixels, predictor))


def test_windows_without_enough_context_are_noticed() -> None:
    """The negative control: the comparison above fails for a halo one stride too small."""
    pixels = blobs(90, 90, 1)
    predictor = unet(UNetConfig(1, 2, 2, 4, norm="none")).prepare(ArraySource(pixels), 0)
    predictor.footprint = replace(predictor.footprint, halo=predictor.footprint.halo - 4)
    with pytest.raises(AssertionError):
        assert_close(raw(pixels, predictor, plan(48)), whole(pixels, predictor))


def test_a_network_that_is_not_exact_is_blended_the_same_in_all_blocks() -> None:
    pixels = blobs(90, 100, 1)
    predictor = toys.Renormalised()
    single, several = raw(pixels, predictor, plan(40, 1, 1)), raw(pixels, predictor, plan(40, 3, 4))
    np.testing.assert_allclose(single, several, rtol=1e-5, atol=1e-5)
    assert np.abs(single - whole(pixels, predictor)).max() > 1e-3, "or this toy is no test"


# ----------------------------------------------------------------------------------------------------- the declared halo


def dependence(config: UNetConfig, context: int, seed: int) -> int:
    """How many input pixels further than ``context`` from a core (aligned to the stride) change the core, in float64."""
    network = unet(config, seed).network.double()
    start = round_up(halo(config), config.stride) + 2 * config.stride
    side = 2 * start + config.stride
    random = torch.Generator().manual_seed(seed)
    seen = torch.rand((1, config.channels, side, side), generator=random, dtype=torch.float64).requires_grad_(True)
    core = network(seen)[..., start : start + config.stride, start : start + config.stride]
    (core * torch.rand(core.shape, generator=random)).sum().backward()
    outside = seen.grad.abs().sum((0, 1))
    outside[start - context : side - start + context, start - context : side - start + context] = 0
    return int((outside > 0).sum())


@pytest.mark.parametrize("up", ["transposed", "resize"])
@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_the_declared_halo_is_enough_and_one_stride_less_is_not(depth: int, up: str) -> None:
    config = UNetConfig(1, 2, depth, 2, norm="none", up=up)
    declared = footprint(config).halo
    assert [dependence(config, declared, seed) for seed in (0, 1)] == [0, 0]
    assert max(dependence(config, declared - config.stride, seed) for seed in (0, 1, 2)) > 0


def test_a_u_net_of_depth_4_needs_96_pixels() -> None:
    assert footprint(UNetConfig(depth=4)).halo == 96
    assert footprint(UNetConfig(depth=4, padding="valid")).halo == 96


# -------------------------------------------------------------------------------------------------------------- labels


def run(predictor: Predictor, pixels: np.ndarray, how: Plan, output: int = 0, canvas: Canvas | None = None) -> np.ndarray:
    """The result of a run in memory, (H, W, C)."""
    source = ArraySource(pixels)
    job = Job(source, predictor.prepare(source, 0), predictor.outputs[output], how, canvas or MemoryCanvas())
    outcome = run_job(job)
    result = outcome.result.read(outcome.result.spec.region)
    assert outcome.objects in (None, result.max())
    return result


class Summed(toys.Mirrored):
    """Sums of 5 x 5 pixels, which are whole numbers: the same in every tiling to the bit, and so are the classes."""

    label_rule = LabelRule(interior=1, border=2, dilate=3, min_area=6)

    def __init__(self) -> None:
        self.footprint = Footprint(halo=2)
        self.outputs = (Output("labels", 1, "uint32", "labels"), Output("classes", 1, "uint8", "classes"))

    def __call__(self, batch):
        return nn.functional.conv2d(batch, torch.ones(1, 1, 5, 5), padding=2)

    def convert(self, raw, output):
        return np.array([0, 2, 1], np.uint8)[np.digitize(raw, [1500, 2500])]


@given(st.data(), st.integers(0, 5))
@slow
def test_labels_are_the_same_for_every_tiling(data: st.DataObject, seed: int) -> None:
    pixels = blobs(150, 133, 1, seed)
    expected = run(Summed(), pixels, plan(2048))
    assert expected.max() > 8
    np.testing.assert_array_equal(run(Summed(), pixels, data.draw(tilings(Summed().footprint, pixels))), expected)


@pytest.mark.parametrize("seed", [0, 5, 7])
def test_classes_are_the_same_wherever_the_margin_exceeds_twice_the_tolerance(seed: int) -> None:
    pixels = blobs(150, 133, 1)
    predictor = unet(UNetConfig(1, 3, 2, 4), seed, "percentile")
    logits = whole(pixels, predictor.prepare(ArraySource(pixels), 0))
    second, first = np.sort(logits, 2)[..., -2:].transpose(2, 0, 1)
    clear = first - second > 2e-4 * (logits.max() - logits.min())
    tiled = run(predictor, pixels, plan((80, 96), 2, 2), 1)[..., 0]
    assert clear.mean() > 0.99 and len(np.unique(tiled)) > 1
    np.testing.assert_array_equal(tiled[clear], logits.argmax(2)[clear])


class EnlargedLabels(toys.Enlarge):
    """Labels on a grid twice as fine as the input's."""

    label_rule = LabelRule(1, 2, 2, 3)

    def __init__(self) -> None:
        super().__init__()
        self.outputs = (Output("labels", 1, "uint32", "labels"), Output("classes", 1, "uint8", "classes"))

    def convert(self, raw, output):
        return np.digitize(raw, [0, 60]).astype(np.uint8)


def test_labels_on_a_finer_grid_are_the_same_for_every_tiling() -> None:
    pixels = blobs(60, 47, 1)
    expected = run(EnlargedLabels(), pixels, plan(2048))
    assert expected.shape == (120, 94, 1) and expected.max() > 5
    for how in (plan(16), plan((20, 31), 2, 3)):
        np.testing.assert_array_equal(run(EnlargedLabels(), pixels, how), expected)


def test_more_labels_than_the_output_can_hold_are_refused() -> None:
    class Small(toys.Blobs):
        def __init__(self) -> None:
            super().__init__()
            self.outputs = (Output("labels", 1, "uint8", "labels"),)

    pixels = np.zeros((40, 80, 1), np.uint8)
    pixels[::2, ::2] = 255
    with pytest.raises(PluginError, match="800 objects do not fit the output labels of uint8"):
        run(Small(), pixels, plan(256))


# ------------------------------------------------------------------------------------------------------------- objects


@given(st.integers(70, 99), st.integers(90, 110), st.integers(1, 3), st.integers(1, 4), st.integers(0, 5))
@slow
def test_each_object_is_found_once_in_every_tiling(height: int, width: int, cores: int, batch: int, seed: int) -> None:
    pixels = blobs(230, 211, 1, seed)
    expected = run(toys.Blobs(), pixels, plan(2048))
    assert expected.max() > 20
    np.testing.assert_array_equal(run(toys.Blobs(), pixels, plan((height, width), cores, batch)), expected)


class Jittering(toys.Blobs):
    """Places objects up to two rows off, differently in each window: detectors do."""

    def _find(self, image):
        found = super()._find(image)
        return found.shift(int(image.sum()) % 5 - 2, 0)


def test_objects_whose_place_jitters_from_tile_to_tile_are_counted_once() -> None:
    y, x = np.mgrid[:240, :240]
    pixels = (254 * ((y % 22 - 11) ** 2 + (x % 22 - 11) ** 2 < 30)).astype(np.uint8)[..., None]
    assert [run(Jittering(), pixels, plan(side)).max() for side in (2048, 80, 84, 90, 97)] == [121] * 5


def test_objects_larger_than_a_window_are_joined() -> None:
    pixels = np.zeros((300, 300, 1), np.uint8)
    pixels[100:200, 20:280] = 255
    source, predictor = ArraySource(pixels), toys.Blobs()
    job = Job(source, predictor, predictor.outputs[0], plan(128), MemoryCanvas())
    outcome = run_job(job)
    assert outcome.objects == 1 and not outcome.warnings
    whole_image = run_job(replace(job, plan=plan(512), canvas=MemoryCanvas()))
    assert whole_image.objects == 1 and not whole_image.warnings


def test_an_image_without_objects_has_none() -> None:
    assert not run(toys.Blobs(), np.zeros((100, 90, 1), np.uint8), plan(80)).any()


# -------------------------------------------------------------------------------------------------------------- stages


def test_a_stage_of_an_iterative_method_is_not_done_twice() -> None:
    class Counting(toys.Smoother):
        stages_run: tuple[str, ...] = ()

        def run(self, stage, work):
            Counting.stages_run += (stage,)
            super().run(stage, work)

    pixels, canvas = blobs(40, 50, 1), MemoryCanvas()
    first = run(Counting(), pixels, plan(24), canvas=canvas)
    np.testing.assert_array_equal(run(Counting(), pixels, plan(24), canvas=canvas), first)
    assert Counting.stages_run == ("coarse", "fine")


@pytest.mark.parametrize("names", [("convert",), ("same", "same")])
def test_stages_whose_names_meet_in_the_journal_are_refused(names: tuple[str, ...]) -> None:
    class Clashing(toys.Smoother):
        def stages(self, spec):
            return names

    with pytest.raises(PluginError, match="a name of its own"):
        run(Clashing(), blobs(20, 20, 1), plan(24))


@pytest.mark.parametrize("name", ["raw", "components"])
def test_an_output_may_have_any_name(name: str) -> None:
    smoother, labels = toys.Smoother(), EnlargedLabels()
    smoother.outputs = (Output(name, 1, "uint8", "image"),)
    smoother.convert = lambda raw, output: raw.round().astype(np.uint8)
    labels.outputs = (replace(labels.outputs[0], name=name), labels.outputs[1])
    pixels = blobs(40, 50, 1)
    assert run(smoother, pixels, plan(24)).dtype == np.uint8
    np.testing.assert_array_equal(run(labels, pixels, plan(24)), run(EnlargedLabels(), pixels, plan(24)))


def test_progress_rises_to_one_in_each_stage() -> None:
    told: dict[str, list[float]] = {}
    source, predictor = ArraySource(blobs(70, 60, 1)), toys.Convolution()
    job = Job(source, predictor.prepare(source, 0), predictor.outputs[0], plan(40), MemoryCanvas())
    run_job(replace(job, progress=lambda stage, share: told.setdefault(stage, []).append(share)))
    assert list(told) == ["infer", "components", "labels"]
    for shares in told.values():
        assert shares == sorted(shares) and shares[-1] == 1


def test_labels_without_a_rule_are_a_fault_of_the_plugin() -> None:
    predictor = toys.Convolution()
    predictor.label_rule = None
    with pytest.raises(PluginError, match="no label_rule"):
        run(predictor, blobs(20, 20, 1), plan(64))


# ---------------------------------------------------------------------------------------------------------- --verify


def verified(predictor: Predictor, pixels: np.ndarray, how: Plan) -> float:
    source = ArraySource(pixels)
    return verify(Job(source, predictor.prepare(source, 0), predictor.outputs[0], how, MemoryCanvas()), 4)


def test_verifying_an_exact_tiling_finds_no_difference() -> None:
    assert verified(toys.Convolution(), blobs(200, 150, 1), plan(40)) < 1e-4
    assert verified(toys.Convolution(), np.full((200, 150, 1), 9, np.uint8), plan(40)) < 1e-4
    assert verified(toys.Convolution(), blobs(9, 5, 1), plan(40)) < 1e-4


def test_noise_in_a_flat_output_is_no_difference() -> None:
    class Flat(toys.Enlarge):
        def __call__(self, batch):
            return 1 + 1e-6 * torch.linspace(0, 1, 2 * batch.shape[-1]).expand(len(batch), 1, 2 * batch.shape[-2], -1)

    assert 0 < verified(Flat(), blobs(200, 150, 1), plan(40)) < 1e-4


def test_verifying_a_halo_that_is_too_small_finds_it() -> None:
    predictor = toys.Convolution(footprint=Footprint(halo=2, multiple_of=2, channels_out=2))
    assert verified(predictor, blobs(200, 150, 1), plan(40)) > 1e-3


def test_verifying_one_place_of_a_large_image_looks_where_tiles_meet() -> None:
    predictor = toys.Convolution(footprint=Footprint(halo=0, multiple_of=2, channels_out=2))
    source = ArraySource(blobs(300, 300, 1))
    for seed in range(5):
        job = Job(source, predictor.prepare(source, 0), predictor.outputs[0], plan(150), MemoryCanvas(), seed)
        assert verify(job, 1) > 1e-3


def test_what_cannot_be_verified_says_so() -> None:
    with pytest.raises(PluginError, match="--verify"):
        verified(toys.Blobs(), blobs(20, 20, 1), plan(80))
    fixed = toys.Convolution(footprint=Footprint(halo=6, multiple_of=2, channels_out=2, fixed_tile=64))
    with pytest.raises(UsageError, match="--verify: this model takes windows of one size only"):
        verified(fixed, blobs(100, 100, 1), plan(64))


# ------------------------------------------------------------------------------------------------ memory of the device


class Cramped(toys.Convolution):
    """A network on a device whose memory holds so many pixels of a batch, and is full from the ``after``-th call on."""

    def __init__(self, room: int, after: int = 0) -> None:
        super().__init__()
        self.room, self.after = room, [after]

    def __call__(self, batch):
        self.after[0] -= 1
        if self.after[0] < 0 and batch.shape[0] * batch.shape[2] * batch.shape[3] > self.room:
            raise torch.cuda.OutOfMemoryError("out of memory")
        return super().__call__(batch)


class Unlucky(toys.Convolution):
    """A network with a fault of its own."""

    def __call__(self, batch):
        raise RuntimeError("out of luck")


@pytest.mark.parametrize("after", [0, 3])
def test_where_a_devices_memory_is_full_windows_are_halved_and_the_result_is_the_same(after: int) -> None:
    pixels = blobs(150, 170, 1)
    source = ArraySource(pixels)
    results = []
    for predictor in (toys.Convolution(), Cramped(40 * 40, after)):
        job = Job(source, predictor.prepare(source, 0), predictor.outputs[0], plan(64, batch=4), MemoryCanvas())
        outcome = run_job(job)
        results.append(outcome.result.read(outcome.result.spec.region))
    np.testing.assert_array_equal(*results)
    assert [text.split("windows of ")[1] for text in outcome.warnings] == [
        f"{size} pixels" for size in ("2 x 64 x 64", "1 x 64 x 64", "1 x 64 x 32", "1 x 32 x 32")
    ]
    assert outcome.computed == 3 * job.grid.block_count, "each block once in each of the stages"


def test_a_device_too_small_for_any_window_and_other_errors_are_told() -> None:
    source = ArraySource(blobs(60, 60, 1))
    for predictor in (Cramped(10), Dying()):
        job = Job(source, predictor.prepare(source, 0), predictor.outputs[0], plan(40), MemoryCanvas())
        with (
            mock.patch.object(Dying, "__call__", side_effect=RuntimeError("out of luck")),
            pytest.raises(RuntimeError, match="out of"),
        ):
            run_job(job)


# -------------------------------------------------------------------------------------------------- killed and resumed


@contextmanager
def small_blocks_on_disk(**changes: object) -> Iterator[None]:
    """Sessions plan as for a large image: a canvas on disk, one window a block; one thread."""
    make_plan = beginning.make_plan

    def make(*arguments: object) -> Plan:
        return replace(make_plan(*arguments), **{"canvas": "disk", "cores": 1, "threads": 1, **changes})

    with mock.patch.object(beginning, "make_plan", make):
        yield


@pytest.fixture
def disk() -> Iterator[None]:
    with small_blocks_on_disk():
        yield


TILES = {"convolve": "64", "findblobs": "96", "smooth": "64"}
TASKS = {task.name: task for task in (toys.CONVOLVE, toys.FIND, toys.SMOOTH)}


def process(task: Task, folder: Path, name: str = "out.tif", **options: object):
    """One run of a task on the image in ``folder``."""
    chosen = RunOptions(**{"tile": TILES[task.name], "device": "cpu", **options})
    item = Item(folder / "in.tif", folder / name, "in.tif")
    return Session(task, task.options(), chosen, Registry()).process(item)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tifffile.imwrite(tmp_path / "in.tif", blobs(130, 110, 1)[..., 0])
    return tmp_path


@contextmanager
def killed_after(marks: int, before: bool = False) -> Iterator[None]:
    """The run is interrupted when so many blocks are journaled, or ``before`` the next is although its pixels are written."""
    left, mark = [marks], DiskCanvas.mark

    def counting(canvas: DiskCanvas, stage: str, block: int) -> None:
        if before and not left[0]:
            raise KeyboardInterrupt
        mark(canvas, stage, block)
        left[0] -= 1
        if not before and not left[0]:
            raise KeyboardInterrupt

    with mock.patch.object(DiskCanvas, "mark", counting):
        yield


@pytest.mark.usefixtures("disk")
@pytest.mark.parametrize("name", TASKS)
def test_a_killed_run_goes_on_to_the_same_bytes_and_computes_no_block_twice(name: str, folder: Path) -> None:
    undisturbed = process(TASKS[name], folder, "whole.tif")
    expected = (folder / "whole.tif").read_bytes()
    assert undisturbed.blocks_reused == 0 and not partial_folder(folder / "whole.tif").exists()
    total = undisturbed.blocks_computed
    assert total >= 8
    for marks in sorted({1, 2, total // 2, total - 1, total}):
        for before in (False, True):
            out = folder / f"{marks}-{before}.tif"
            with pytest.raises(KeyboardInterrupt), killed_after(marks - before, before):
                process(TASKS[name], folder, out.name)
            assert not out.exists() and partial_folder(out).exists()
            resumed = process(TASKS[name], folder, out.name, resume=True)
            assert out.read_bytes() == expected
            assert resumed.blocks_reused + resumed.blocks_computed == total
            assert 0 <= resumed.blocks_reused - (marks - before) <= 1, "the block that waited to be written may be, too"
            assert resumed.objects == undisturbed.objects
            assert not partial_folder(out).exists()


class Interrupted(toys.Convolution):
    """A network that is interrupted in its nth call."""

    def __init__(self, calls: list[int]) -> None:
        super().__init__()
        self.calls = calls

    def __call__(self, batch):
        self.calls[0] -= 1
        if not self.calls[0]:
            raise KeyboardInterrupt
        return super().__call__(batch)


@contextmanager
def interrupted(folder: Path, calls: int = 4, **options: object) -> Iterator[None]:
    """A run of CONVOLVE that stops in the given call of the network."""
    task = replace(toys.CONVOLVE, load=lambda *_: Interrupted([calls]))
    with pytest.raises(KeyboardInterrupt):
        process(task, folder, **options)
    yield


@pytest.mark.usefixtures("disk")
def test_a_torn_journal_costs_the_block_whose_line_is_torn(folder: Path) -> None:
    process(toys.CONVOLVE, folder, "whole.tif")
    with interrupted(folder):
        journal = partial_folder(folder / "out.tif") / "journal.jsonl"
        journal.write_bytes(journal.read_bytes()[:-5])
    assert process(toys.CONVOLVE, folder, resume=True).blocks_reused == 2
    assert (folder / "out.tif").read_bytes() == (folder / "whole.tif").read_bytes()


@pytest.mark.usefixtures("disk")
def test_a_resumed_run_keeps_its_plan_and_its_statistics(folder: Path) -> None:
    process(toys.CONVOLVE, folder, "whole.tif")
    with interrupted(folder), mock.patch.object(Normalization, "freeze", side_effect=AssertionError("frozen again")):
        resumed = process(toys.CONVOLVE, folder, resume=True, tile="128", batch="7", memory="3GB")
    assert resumed.plan["tile"] == [64, 64]
    assert (folder / "out.tif").read_bytes() == (folder / "whole.tif").read_bytes()


@pytest.mark.usefixtures("disk")
@pytest.mark.parametrize("change", [{"as_": "classes"}, {"seed": 1}, {"nan": "zero"}, {"input": True}])
def test_a_run_begun_with_something_else_is_not_resumed(folder: Path, change: dict[str, object]) -> None:
    with interrupted(folder):
        kept = (partial_folder(folder / "out.tif") / "journal.jsonl").read_bytes()
        if change.pop("input", False):
            tifffile.imwrite(folder / "in.tif", blobs(130, 110, 1, seed=1)[..., 0])
        with pytest.raises(OutputError, match="was begun with another input, model, option or version") as caught:
            process(toys.CONVOLVE, folder, resume=True, **change)
        assert "\n" not in str(caught.value) and "out.tif" in str(caught.value)
    assert (partial_folder(folder / "out.tif") / "journal.jsonl").read_bytes() == kept, "the refusal costs nothing"


@pytest.mark.usefixtures("disk")
@pytest.mark.parametrize("text", ["", "{", "[]", "{}"])
def test_a_damaged_manifest_is_one_line(folder: Path, text: str) -> None:
    with interrupted(folder):
        (partial_folder(folder / "out.tif") / "manifest.json").write_text(text)
        with pytest.raises(OutputError, match=r"manifest.json: unreadable; --overwrite starts again"):
            process(toys.CONVOLVE, folder, resume=True)


@pytest.mark.usefixtures("disk")
def test_an_unfinished_run_is_neither_lost_nor_taken_for_done(folder: Path) -> None:
    with interrupted(folder):
        with pytest.raises(OutputError, match="did not finish; --resume goes on with it, --overwrite starts again"):
            process(toys.CONVOLVE, folder)
        assert not (folder / "out.tif").exists()
    assert process(toys.CONVOLVE, folder, overwrite=True).blocks_reused == 0
    assert (folder / "out.tif").exists() and not partial_folder(folder / "out.tif").exists()


@pytest.mark.usefixtures("disk")
def test_a_run_killed_while_it_publishes_computes_nothing_again(folder: Path) -> None:
    process(toys.CONVOLVE, folder, "whole.tif")
    (folder / "out.tif").write_bytes(b"an older result")
    with mock.patch.object(sessions, "narrow_labels", side_effect=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
        process(toys.CONVOLVE, folder, overwrite=True)
    assert (folder / "out.tif").read_bytes() == b"an older result"
    assert process(toys.CONVOLVE, folder, resume=True).blocks_computed == 0
    assert (folder / "out.tif").read_bytes() == (folder / "whole.tif").read_bytes()


def test_memory_and_disk_give_the_same_bytes(folder: Path) -> None:
    for name, task in TASKS.items():
        process(task, folder, f"{name}-1.tif")
        with small_blocks_on_disk():
            process(task, folder, f"{name}-2.tif")
        assert (folder / f"{name}-1.tif").read_bytes() == (folder / f"{name}-2.tif").read_bytes()


@pytest.mark.usefixtures("disk")
def test_two_runs_on_one_output_exclude_each_other(folder: Path) -> None:
    class Nested(toys.Convolution):
        def __call__(self, batch):
            with pytest.raises(I2IError) as caught:
                process(toys.CONVOLVE, folder, overwrite=True)
            refusals.append(str(caught.value))
            return super().__call__(batch)

    refusals: list[str] = []
    process(replace(toys.CONVOLVE, load=lambda *_: Nested()), folder)
    assert refusals and all("another run is writing this output" in text for text in refusals)
    assert (folder / "out.tif").exists()


# ---------------------------------------------------------------------------------------------- killed by the system


class Dying(toys.Convolution):
    """Its process is killed in its fifth call, as by the system: nothing is flushed, closed or removed."""

    left = 5

    def __call__(self, batch):
        Dying.left -= 1
        if not Dying.left:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(batch)


class DyingSmoother(toys.Smoother):
    """The same in the second stage of an iterative method, between two checkpoints."""

    left = 17

    def _descend(self, x, image, work):
        DyingSmoother.left -= 1
        if not DyingSmoother.left:
            os.kill(os.getpid(), signal.SIGKILL)
        return super()._descend(x, image, work)


DYING = {"convolve": Dying, "smooth": DyingSmoother}


def die(name: str, folder: str) -> None:
    """What the subprocess of the next test does."""
    with small_blocks_on_disk():
        process(replace(TASKS[name], load=lambda *_: DYING[name]()), Path(folder))


@pytest.mark.usefixtures("disk")
@pytest.mark.parametrize("name", DYING)
def test_a_process_killed_by_the_system_is_resumed_to_the_same_bytes(name: str, folder: Path) -> None:
    script = f"from tests.core import test_engine; test_engine.die({name!r}, {str(folder)!r})"
    dead = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert dead.returncode == -signal.SIGKILL, dead.stderr
    manifest = json.loads((partial_folder(folder / "out.tif") / "manifest.json").read_text())
    assert manifest["plan"]["threads"] == 1
    assert not (folder / "out.tif").exists()
    resumed = process(TASKS[name], folder, resume=True)
    reused = resumed.blocks_reused
    assert reused == 1 if name == "smooth" else reused in (3, 4), "one block may have waited to be written"
    process(TASKS[name], folder, "whole.tif")
    assert (folder / "out.tif").read_bytes() == (folder / "whole.tif").read_bytes()
    assert not partial_folder(folder / "out.tif").exists()


def test_a_job_does_not_keep_its_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is a job for each plane, and a compiled network takes hundreds of megabytes."""
    alive: list[weakref.ref[object]] = []

    class Compiled:
        def __init__(self, predictor: DensePredictor) -> None:
            self.predictor = predictor
            alive.append(weakref.ref(self))

        def __call__(self, batch: torch.Tensor) -> torch.Tensor:
            return self.predictor(batch)

    monkeypatch.setattr("i2i.engine.job.compile_network", lambda predictor, *_: Compiled(predictor))
    source = ArraySource(np.random.default_rng(0).integers(0, 255, (70, 90), np.uint8))
    predictor = toys.Convolution().prepare(source, 0)
    job = Job(source, predictor, predictor.outputs[0], plan(64), MemoryCanvas())
    run_job(job)
    assert len(alive) == 1 and alive[0]() is None
    run_job(job)
    assert len(alive) == 1, "nothing is compiled where nothing is left to do"
