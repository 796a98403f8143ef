"""Exactness at scale: hundreds of U-Nets, images and windows, each against the whole-image run written out here from its text.

The whole-image run: normalise, pad the bottom and right to the stride, run, crop; a network of valid convolutions is given the
mirrored image instead. Nothing of the engine's geometry is used for it, nor of what a plugin does to its network when it loads
it. The negative controls at the end show that the comparison sees what it should.
"""

from __future__ import annotations

import copy
import functools
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import i2i_unet
from i2i.canvas import MemoryCanvas
from i2i.components import label_array
from i2i.contracts import DensePredictor, LabelRule, Model, Runtime
from i2i.engine import Job, compute_region, run_job
from i2i.errors import PluginError
from i2i.formats import open_image
from i2i.formats.views import ArraySource
from i2i.geometry import AxisGrid, Grid
from i2i.models import open_model
from i2i.planner import Plan
from i2i_unet.network import UNet, UNetConfig, footprint, original
from i2i_unet.predictor import load, read_header

TOLERANCE = 1e-4
RULE = LabelRule(interior=1, border=2, dilate=3, min_area=4)
TRAINED = Path(i2i_unet.__file__).parent / "models/nuclei-fluo.safetensors"
NUCLEI = Path(i2i_unet.__file__).parent / "samples/nuclei.png"


# -------------------------------------------------------------------------------------------------------- configurations


@dataclass(frozen=True)
class Case:
    """One network, one image, one tiling."""

    config: UNetConfig
    shape: tuple[int, int]
    tile: tuple[int, int]
    cores: int
    batch: int
    normalize: str
    seed: int

    @property
    def whole_run(self) -> bool:
        """Whether stages and labels are checked as well as the blocks' logits: in every second case."""
        return self.seed % 2 == 0

    @property
    def plan(self) -> Plan:
        return plan(self.tile, self.cores, self.batch)

    @property
    def grid(self) -> Grid:
        return self.plan.grid(ArraySource(np.zeros((*self.shape, 1), np.uint8)).spec, footprint(self.config))


def plan(tile: tuple[int, int], cores: int = 1, batch: int = 1) -> Plan:
    return Plan(tile, cores, batch, 1, "cpu", "fp32", "torch", "memory", 0, True)


KINDS = [
    ("same", "transposed", "batch"), ("same", "transposed", "none"), ("same", "resize", "batch"),
    ("same", "resize", "none"), ("valid", "transposed", "batch"), ("valid", "transposed", "none"),
]  # fmt: skip
STRATA = list(product(KINDS, (1, 2, 3, 4)))
EACH = 21
_MOST_WORK = 120_000
"""Pixels of all windows of a case, of which there are at most ``_MOST_TILES``: what keeps this file quick."""
_MOST_TILES = 20


def cases(kind: tuple[str, str, str], depth: int) -> list[Case]:
    """``EACH`` different ones, the same each time; most have a window that is cut off from the image on two sides at least."""
    draw = random.Random(f"{kind} {depth}")
    found: list[Case] = []
    while len(found) < EACH:
        case = _draw(draw, kind, depth)
        height, width = case.grid.window_shape
        quick = case.grid.tile_count <= min(_MOST_TILES, _MOST_WORK // (height * width))
        if quick and (len(found) % 5 == 0 or inner(case.grid)) and case not in found:
            found.append(case)
    return found


def _draw(draw: random.Random, kind: tuple[str, str, str], depth: int) -> Case:
    padding, up, norm = kind
    config = UNetConfig(draw.randint(1, 4), draw.randint(2, 4), depth, draw.randint(2, 4), padding, norm, up)
    if kind == ("valid", "transposed", "none") and depth == 4:
        config = replace(original(config.channels, config.classes), filters=config.filters)
    (height, top), (width, left) = (_axis(draw, config) for _ in "yx")
    tile = (max(top, left), max(top, left)) if draw.random() < 0.4 else (top, left)
    normalize = draw.choice(["percentile", "range", "none"])
    return Case(config, (height, width), tile, draw.randint(1, 3), draw.randint(1, 5), normalize, draw.randrange(1000))


def _axis(draw: random.Random, config: UNetConfig) -> tuple[int, int]:
    """Lengths of the image and of the window along one axis: one pixel, less than a stride, up to 150, or as long as it takes
    to have several windows; the window not always a multiple of the stride."""
    least, stride = 2 * footprint(config).halo + config.stride, config.stride
    lengths = [1, draw.randint(2, stride + 1), draw.randint(1, 60), draw.randint(1, 150), draw.randint(1, 150)]
    if least < 150 or config.padding == "valid":
        lengths += [draw.randint(100, 150)] * 3
    else:
        lengths += [draw.randint(least + 2 * stride, least + 5 * stride)] * 3
    length = draw.choice(lengths)
    core = draw.choice([1, length // draw.randint(2, 6)])
    return length, 2 * footprint(config).halo + max(1, -(-core // stride)) * stride + draw.randrange(stride)


def inner(grid: Grid) -> bool:
    """Whether a window has no more than its halo on both sides of its core, and ends inside the image: what a wrong halo or
    phase would show in."""
    return any(
        (axis.border == "mirror" and axis.count > 1)
        or any(0 < axis.window_start(i) < axis.padded - axis.window for i in range(1, axis.count))
        for axis in (grid.rows, grid.columns)
    )


def picture(height: int, width: int, channels: int, seed: int) -> np.ndarray:
    """(height, width, channels) uint8: patches of several brightnesses under noise, so that every pixel matters."""
    dice = np.random.default_rng(seed)
    patches = dice.integers(0, 180, (-(-height // 7), -(-width // 9), channels)).repeat(7, 0).repeat(9, 1)
    return (patches[:height, :width] + dice.integers(0, 70, (height, width, channels))).astype(np.uint8)


def build(config: UNetConfig, seed: int) -> UNet:
    """A He-initialised network with biases and batch statistics that are not those of a new one, as after training."""
    torch.manual_seed(seed)
    network = UNet(config)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.3)
            layer.running_var.uniform_(0.5, 2)
            nn.init.uniform_(layer.weight, 0.6, 1.6)
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.BatchNorm2d) and layer.bias is not None:
            nn.init.normal_(layer.bias, 0, 0.2)
    return network.eval().requires_grad_(False)


def loaded(network: UNet, normalize: str = "none") -> DensePredictor:
    """What i2i makes of a file with the weights of ``network``."""
    config = network.config
    names = [f"class {number}" for number in range(config.classes)]
    rule = {"interior": 1, "border": 2, "dilate": RULE.dilate, "min_area": RULE.min_area} if config.classes > 2 else None
    header = {"network": config.as_mapping(), "normalization": {"method": normalize}, "class_names": names, "label_rule": rule}
    model = Model("test", Path("test"), "", {"task": "segment", **header}, network.state_dict)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("i2i_unet.network.initialise", lambda layer: None)  # half of the time of loading, for weights not kept
        return load(model, Runtime())


# ------------------------------------------------------------------------------------------------- the whole-image run


def whole(network: UNet, normalize: str, pixels: np.ndarray) -> np.ndarray:
    """Logits (height, width, classes) of the image in one piece."""
    seen = (_same_input if network.config.padding == "same" else _valid_input)(network.config, normalized(pixels, normalize))
    with torch.inference_mode():
        answer = network(torch.from_numpy(seen.transpose(2, 0, 1).copy())[None])
    return answer[0].numpy().transpose(1, 2, 0)[: pixels.shape[0], : pixels.shape[1]]


def normalized(pixels: np.ndarray, method: str) -> np.ndarray:
    low, high = np.zeros(pixels.shape[2]), np.ones(pixels.shape[2])
    if method == "range":
        high = 255 * high
    if method == "percentile":
        low, high = (np.percentile(pixels.reshape(-1, pixels.shape[2]), percent, axis=0) for percent in (1, 99.8))
    return ((pixels - low) / np.where(high > low, high - low, 1)).astype(np.float32)


def _same_input(config: UNetConfig, pixels: np.ndarray) -> np.ndarray:
    """With zeros below and on the right, up to a multiple of the stride."""
    height, width, channels = pixels.shape
    seen = np.zeros(
        (-(-height // config.stride) * config.stride, -(-width // config.stride) * config.stride, channels), np.float32
    )
    seen[:height, :width] = pixels
    return seen


def _valid_input(config: UNetConfig, pixels: np.ndarray) -> np.ndarray:
    """The overlap-tile strategy (figure 2 of the paper): context beyond the image is the mirrored image."""
    rows, columns = (_mirrored(length, *_valid_lengths(config.depth, length)) for length in pixels.shape[:2])
    return pixels[np.ix_(rows, columns)]


def _valid_lengths(depth: int, length: int) -> tuple[int, int]:
    """What a valid network has to be given to answer at least ``length`` pixels, and what it answers: from the deepest level
    up, two convolutions take 4 pixels, a pooling halves, an up-convolution doubles."""
    deepest = 0
    while True:
        deepest += 1
        given, answered = deepest + 4, deepest
        for _ in range(depth):
            given, answered = 2 * given + 4, 2 * answered - 4
        if answered >= length:
            return given, answered


def _mirrored(length: int, given: int, answered: int) -> list[int]:
    """The pixel of the image that stands at each of ``given`` places, of which ``answered`` are in the middle and the first of
    those is pixel 0: to the end, back again, and so on."""
    there_and_back = [*range(length), *range(length - 2, 0, -1)]
    first = -((given - answered) // 2)
    return [there_and_back[place % len(there_and_back)] for place in range(first, first + given)]


# --------------------------------------------------------------------------------------------------------- the comparison


def in_blocks(predictor: DensePredictor, pixels: np.ndarray, how: Plan, grid: Grid | None = None) -> np.ndarray:
    """Logits of a prepared predictor from ``compute_region``, the blocks in an order of their own."""
    source = ArraySource(pixels)
    grid = grid or how.grid(source.spec, predictor.footprint)
    result = np.full((*pixels.shape[:2], predictor.footprint.channels_out), np.nan, np.float32)
    for block in random.Random(grid.block_count).sample(list(grid.blocks()), grid.block_count):
        result[block.region.slices] = compute_region(source, predictor, grid, block.region, how)
    return result


def unlike(tiled: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference as a share of the range of the logits; infinite where a value is missing."""
    assert tiled.shape == expected.shape
    return float(np.abs(np.nan_to_num(tiled, nan=np.inf) - expected).max() / (expected.max() - expected.min()))


def assert_classes(classes: np.ndarray, expected: np.ndarray) -> float:
    """Equal wherever the margin exceeds twice the tolerance. Returns the share of such pixels."""
    second, first = np.moveaxis(np.sort(expected, 2)[..., -2:], 2, 0)
    clear = first - second > 2 * TOLERANCE * (expected.max() - expected.min())
    np.testing.assert_array_equal(classes[clear], expected.argmax(2)[clear])
    return float(clear.mean())


def run(predictor: DensePredictor, pixels: np.ndarray, how: Plan, rule: LabelRule | None) -> tuple[np.ndarray, np.ndarray | None]:
    """Classes, and with a rule labels, as a run gives them."""
    outputs = {output.name: output for output in predictor.outputs}
    job = Job(ArraySource(pixels), predictor, outputs["classes"], how, MemoryCanvas())
    classes, region = run_job(job).result, job.source.spec.region
    if rule is None:
        return classes.read(region)[..., 0], None
    outcome = run_job(replace(job, output=outputs["labels"]))
    labels = outcome.result.read(region)[..., 0]
    assert outcome.objects == labels.max()
    return classes.read(region)[..., 0], labels


def check(case: Case) -> dict[str, float]:
    """One configuration, all of it. Returns what :func:`test_tiles_are_the_whole` sums up."""
    pixels = picture(*case.shape, case.config.channels, case.seed)
    network = build(case.config, case.seed)
    predictor = loaded(network, case.normalize).prepare(ArraySource(pixels), 0)
    assert predictor.footprint.exact
    expected = whole(network, case.normalize, pixels)
    assert unlike(in_blocks(predictor, pixels, case.plan), expected) <= TOLERANCE, case
    varied = bool(expected.std((0, 1)).max() > 0.01 * (expected.max() - expected.min()))
    return {"inner": inner(case.grid), "varied": varied} | (
        check_run(case, predictor, pixels, expected) if case.whole_run else {}
    )


def check_run(case: Case, predictor: DensePredictor, pixels: np.ndarray, expected: np.ndarray) -> dict[str, float]:
    """The classes and labels of a run are those of the whole image."""
    classes, labels = run(predictor, pixels, case.plan, RULE if case.config.classes > 2 else None)
    clear = assert_classes(classes, expected)
    same = bool((classes == expected.argmax(2)).all())
    if labels is not None:
        np.testing.assert_array_equal(labels, label_array(expected.argmax(2) if same else classes, RULE))
    return {
        "run": 1,
        "clear": clear,
        "same": same,
        "labelled": labels is not None,
        "objects": labels is not None and labels.any(),
    }


@pytest.mark.parametrize(("kind", "depth"), STRATA, ids=["-".join((*kind, str(depth))) for kind, depth in STRATA])
def test_tiles_are_the_whole(kind: tuple[str, str, str], depth: int) -> None:
    found = [check(case) for case in cases(kind, depth)]
    assert len(found) == EACH
    seen = {name: np.mean([one[name] for one in found if name in one]) for one in found for name in one}
    assert seen["inner"] > 0.7 and seen["varied"] > 0.7 and seen["clear"] > 0.9 and seen["same"] > 0.6 and seen["labelled"], seen


def test_there_are_500_configurations_of_every_kind() -> None:
    everything = [case for kind, depth in STRATA for case in cases(kind, depth)]
    assert len(set(everything)) == len(everything) >= 500
    several = [case for case in everything if case.grid.tile_count > 1]
    asked: list[tuple[int, Callable[[Case], bool]]] = [
        (20, lambda case: 1 in case.shape),
        (20, lambda case: min(case.shape) < case.config.stride),
        (100, lambda case: case.shape[0] % 2 == 1 and case.shape[1] % 2 == 1),
        (50, lambda case: case.tile[0] == case.tile[1]),
        (100, lambda case: case.tile[0] != case.tile[1]),
        (50, lambda case: case.cores > 1 and case.grid.block_count > 1),
        (100, lambda case: case.batch > 1),
        (60, lambda case: case.grid.rows.count > 1 and case.grid.columns.count > 1),
        *[(40, lambda case, n=n: case.config.channels == n) for n in (1, 2, 3, 4)],
    ]
    assert [sum(map(holds, several)) >= least for least, holds in asked] == [True] * len(asked)
    assert sum(case.grid.tile_count == 1 for case in everything) >= 20, "images smaller than a window are among them"


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_the_deepest_network_in_tiles_along_both_axes_is_that_of_the_whole(padding: str) -> None:
    config = UNetConfig(1, 3, 4, 2, padding, "batch")
    assert check(Case(config, (273, 350), (272, 256), 2, 2, "percentile", 0))["inner"]


@pytest.mark.parametrize(
    ("place", "tile"), [((40, 100, 33, 250), (208, 208)), ((7, 3, 230, 90), (224, 512)), ((60, 60, 1, 225), (300, 215))]
)
def test_the_trained_network_in_tiles_is_that_of_the_whole(place: tuple[int, int, int, int], tile: tuple[int, int]) -> None:
    y, x, height, width = place
    image = open_image(NUCLEI)
    pixels = image.read(image.spec.region)[y : y + height, x : x + width]
    image.close()
    model = open_model(TRAINED)
    header = read_header(model)
    network = UNet(header.network).eval().requires_grad_(False)
    network.load_state_dict({name: value.float() for name, value in model.tensors().items()})
    predictor = load(model, Runtime()).prepare(ArraySource(pixels), 0)
    expected, how = whole(network, header.normalization.method, pixels), plan(tile, 2, 3)
    assert unlike(in_blocks(predictor, pixels, how), expected) <= TOLERANCE
    classes, labels = run(predictor, pixels, how, header.rule)
    assert assert_classes(classes, expected) > 0.99
    np.testing.assert_array_equal(labels, label_array(classes, header.rule))
    assert height == 1 or labels.max() > 2


# ------------------------------------------------------------------------------------------------------ negative controls


@dataclass(frozen=True)
class Control:
    """A configuration with windows inside the image, a predictor that sees all that is in its reach, and the whole-image run."""

    case: Case
    predictor: DensePredictor
    pixels: np.ndarray
    expected: np.ndarray


@functools.cache
def controls(depth: int, count: int = 6, **changes: Any) -> list[Control]:
    found = []
    for seed in range(count):
        config = UNetConfig(1 + seed % 2, 3, depth, 4, **changes)
        least, stride = 2 * footprint(config).halo + config.stride, config.stride
        shape = (least + 4 * stride + 3, least + 3 * stride) if depth == 1 else (least + 4 * stride + 3, 2 * stride)
        case = Case(config, shape, (least, least), 2, 2, "percentile", seed)
        assert inner(case.grid)
        network, pixels = build(config, seed), picture(*shape, config.channels, seed)
        predictor = loaded(network, case.normalize).prepare(ArraySource(pixels), 0)
        found.append(Control(case, predictor, pixels, whole(network, case.normalize, pixels)))
    return found


def caught(one: Control, grid: Grid | None = None, **declared: Any) -> bool:
    """Whether the comparison sees what a wrong grid does, or a footprint with the fields ``declared``."""
    predictor = copy.copy(one.predictor)
    predictor.footprint = replace(predictor.footprint, **declared)
    try:
        return unlike(in_blocks(predictor, one.pixels, one.case.plan, grid), one.expected) > TOLERANCE
    except PluginError:
        return True


def out_of_phase(axis: AxisGrid, stride: int) -> AxisGrid:
    """Windows with more context than needed, that begin half a stride off: poolings meet other pixels."""
    return replace(axis, step=axis.step - stride // 2) if axis.count > 1 else axis


@pytest.mark.parametrize("up", ["transposed", "resize"])
@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_a_halo_one_stride_too_small_is_caught(depth: int, up: str) -> None:
    all_of_them = controls(depth, up=up)
    halos = [one.predictor.footprint.halo - one.predictor.footprint.multiple_of for one in all_of_them]
    wrong = [caught(one, halo=halo) for one, halo in zip(all_of_them, halos, strict=True)]
    assert np.mean(wrong) >= 0.75 and not any(caught(one) for one in all_of_them)


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_windows_out_of_phase_are_caught(depth: int) -> None:
    found = []
    for one in controls(depth, up="transposed"):
        grid = one.case.grid
        rows, columns = (out_of_phase(axis, one.case.config.stride) for axis in (grid.rows, grid.columns))
        found.append(caught(one, Grid(rows, columns, 1)))
    assert np.mean(found) >= 0.75


@pytest.mark.parametrize("norm", ["group", "instance"])
@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_a_norm_over_the_window_that_is_not_declared_is_caught(depth: int, norm: str) -> None:
    assert np.mean([caught(one, merge="crop", norm_scope="pixel") for one in controls(depth, norm=norm)]) >= 0.75


def test_a_valid_network_cut_at_the_papers_388_pixels_is_caught() -> None:
    """A core that is no multiple of the stride (388 is none of 16) puts the poolings of each window elsewhere."""
    found = []
    for one in controls(2, padding="valid", norm="none"):
        uneven = [replace(axis, step=axis.step - 2, window=axis.window) for axis in (one.case.grid.rows, one.case.grid.columns)]
        found.append(caught(one, Grid(*uneven)))
    assert np.mean(found) >= 0.75
