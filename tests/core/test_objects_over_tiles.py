"""Objects over tiles, from image to labels: tiled is whole, nothing is lost or found twice, memory stays."""

from __future__ import annotations

import gc
import time
import weakref
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from i2i import begin as beginning
from i2i.canvas import DiskCanvas, MemoryCanvas, partial_folder
from i2i.contracts import Exporter, Instances
from i2i.engine import Job, run_job
from i2i.engine import objects as engine
from i2i.engine.objects import ObjectsOutcome
from i2i.errors import NotFinite, UsageError
from i2i.formats.views import ArraySource
from i2i.options import RunOptions
from i2i.planes import for_exporters, plane_jobs, run_planes
from i2i.planner import Plan
from i2i.publish import check_export
from i2i.registry import Registry
from i2i.session import Item, Session
from i2i.testing import assert_predictor_contract
from tests import toys

slow = settings(derandomize=True, deadline=None, max_examples=12)


def plan(tile: int | tuple[int, int], cores: int = 1, batch: int = 1) -> Plan:
    sides = (tile, tile) if isinstance(tile, int) else tile
    return Plan(sides, cores, batch, 1, "cpu", "fp32", "torch", "memory", 0, True)


WHOLE = plan(4096)


def run(predictor: toys.Shapes, image: np.ndarray, how: Plan) -> ObjectsOutcome:
    source = ArraySource(image[..., None])
    outcome = run_job(Job(source, predictor, predictor.outputs[0], how, MemoryCanvas()))
    assert isinstance(outcome, ObjectsOutcome)
    return outcome


def labels(outcome: ObjectsOutcome) -> np.ndarray:
    return outcome.result.read(outcome.result.spec.region)[..., 0]


def same(tiled: ObjectsOutcome, whole: ObjectsOutcome) -> None:
    """The same labels, scores, classes and masks, and nothing to warn of."""
    np.testing.assert_array_equal(labels(tiled), labels(whole))
    np.testing.assert_allclose(tiled.found().scores, whole.found().scores, rtol=1e-6)
    np.testing.assert_array_equal(tiled.found().classes, whole.found().classes)
    one, other = (Instances.join([masks for _, masks in outcome.found().masks()]) for outcome in (tiled, whole))
    np.testing.assert_array_equal(one.boxes, other.boxes)
    assert all(np.array_equal(a, b) for a, b in zip(one.masks, other.masks, strict=True))
    assert tiled.warnings == whole.warnings == []


def discs(shape: tuple[int, int], count: int, largest: int, seed: int) -> np.ndarray:
    """Discs of random size, place and brightness (1 to 250), none touching another; some are cut by the image's edge."""
    random = np.random.default_rng(seed)
    image, y, x = np.zeros(shape, np.uint8), *np.ogrid[: shape[0], : shape[1]]
    for _ in range(count):
        distance = (y - random.uniform(0, shape[0])) ** 2 + (x - random.uniform(0, shape[1])) ** 2
        radius = random.uniform(1, largest / 2)
        if not image[distance <= (radius + 2) ** 2].any():
            image[distance <= radius**2] = random.integers(1, 251)
    return image


# ------------------------------------------------------------------------------------------------------ tiled is whole


@given(st.integers(0, 99), st.integers(90, 150), st.integers(95, 150), st.integers(1, 4), st.integers(1, 3))
@slow
def test_discs_no_larger_than_the_halo_are_those_of_the_whole(seed: int, height: int, width: int, cores: int, batch: int) -> None:
    image = discs((301, 260), 120, 32, seed)
    whole = run(toys.Shapes(32), image, WHOLE)
    assert whole.objects > 20
    same(run(toys.Shapes(32), image, plan((height, width), cores, batch)), whole)


@given(st.integers(0, 999), st.integers(3, 20), st.integers(14, 60), st.integers(0, 9), st.integers(1, 3))
@slow
def test_any_shapes_are_those_of_the_whole_however_large(seed: int, halo: int, core: int, wider: int, cores: int) -> None:
    """Level sets of smoothed noise: rings, hooks and mazes that cross many windows."""
    random = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(random.standard_normal((110, 125)), random.uniform(1, 6))
    shapes, count = ndimage.label(noise > np.quantile(noise, random.uniform(0.3, 0.9)))
    image = np.concatenate([[0], random.integers(1, 251, count)]).astype(np.uint8)[shapes]
    same(run(toys.Shapes(halo), image, plan((2 * halo + core, 2 * halo + core + wider), cores)), run(toys.Shapes(), image, WHOLE))


def disc(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    return (y - 300) ** 2 + (x - 310) ** 2 < 260**2


def bar(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    return (np.abs(y - 0.4 * x - 150) < 12) & (x > 15) & (x < 600)


def ring(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    distance = np.hypot(y - 300, x - 310)
    return (distance < 280) & (distance > 255)


def rings(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    return ring(y, x) | (np.hypot(y - 300, x - 310) < 200)


@pytest.mark.parametrize("shape", [disc, bar, ring, rings])
@pytest.mark.parametrize("jitter", [0, 1])
@pytest.mark.parametrize("tile", [110, 143])
def test_shapes_much_larger_than_the_window_come_out_whole(shape, jitter: int, tile: int) -> None:
    truth = shape(*np.ogrid[:620, :640])
    image = truth * np.uint8(200)
    whole = run(toys.Shapes(), image, WHOLE)
    tiled = run(toys.Shapes(32, jitter=jitter), image, plan(tile, 2))
    assert tiled.objects == whole.objects == (2 if shape is rings else 1) and not tiled.warnings
    for number in range(1, whole.objects + 1):
        one, other = labels(whole) == number, labels(tiled) == number
        share = (one & other).sum() / (one | other).sum()
        assert share == 1 if not jitter else share > (0.98 if shape is disc else 0.8)


def test_large_and_small_of_two_classes_are_told_apart() -> None:
    image = discs((400, 420), 60, 30, 3)
    image[ndimage.binary_dilation(ring(*np.ogrid[100:500, 100:520]), iterations=3)] = 0
    image[ring(*np.ogrid[100:500, 100:520])] = 250
    whole = run(toys.Shapes(), image, WHOLE)
    assert {*whole.found().classes} == {1, 2}
    same(run(toys.Shapes(20), image, plan(90)), whole)


@pytest.mark.parametrize("side", [80, 84, 90, 97, 110])
def test_what_jitters_from_window_to_window_is_neither_lost_nor_found_twice(side: int) -> None:
    y, x = np.mgrid[:312, :288]
    image = (254 * ((y % 24 - 12) ** 2 + (x % 24 - 12) ** 2 < 64)).astype(np.uint8)
    whole = run(toys.Shapes(), image, WHOLE)
    tiled = run(toys.Shapes(32, jitter=2), image, plan(side, 2))
    assert tiled.objects == tiled.highest == whole.objects and not tiled.warnings
    assert ((labels(tiled) > 0) != (labels(whole) > 0)).mean() < 0.2


def test_the_kit_finds_nothing_to_blame() -> None:
    assert_predictor_contract(toys.Blobs())


# ------------------------------------------------------------------------------------------------------- what is counted


class Blind(toys.Shapes):
    """Sees nothing in a window that is full from edge to edge: there is no outline to go by."""

    def _find(self, image: np.ndarray) -> Instances:
        return Instances.empty() if image.all() else super()._find(image)


def test_an_object_with_windows_that_miss_it_is_kept_and_counted_as_incomplete() -> None:
    image = discs((620, 640), 0, 1, 0)
    image[disc(*np.ogrid[:620, :640])] = 200
    image[5:15, 5:15] = 100
    outcome = run(Blind(20), image, plan(100))
    assert outcome.warnings == ["1 object reaches beyond its window and is incomplete; raise --tile or --object-size"]
    assert outcome.objects == 2 and not run(Blind(20), image, plan(700)).warnings


def test_parts_without_a_common_area_are_incomplete_and_counted() -> None:
    image = np.zeros((100, 100), np.uint8)
    image[20:40, 10:90] = image[60:80, 10:90] = 99
    outcome = run(toys.Shapes(0), image, plan(50))
    assert outcome.objects == 4
    assert outcome.warnings == ["4 objects reach beyond their windows and are incomplete; raise --tile or --object-size"]


def test_what_is_beyond_a_windows_cap_is_counted_over_all_windows() -> None:
    image = np.zeros((100, 300), np.uint8)
    image[10:90:10, 5:80:10] = 50  # 64 of one pixel
    image[50, 250] = 60
    predictor = toys.Shapes(0, most=60)
    assert run(predictor, image, plan(100)).warnings == ["4 objects were beyond --max-per-tile in 1 window; raise it"]
    image[10:90:10, 105:180:10] = 50
    assert run(predictor, image, plan(100)).warnings == ["8 objects were beyond --max-per-tile in 2 windows; raise it"]
    assert run(replace_most(predictor, 64), image, plan(100)).warnings == []


def replace_most(predictor: toys.Shapes, most: int) -> toys.Shapes:
    return toys.Shapes(predictor.footprint.halo, most)


class Stacked(toys.Shapes):
    """Gives each shape twice: as it is, and one pixel larger with a score of half as much. The larger lies below."""

    def _find(self, image: np.ndarray) -> Instances:
        found = super()._find(image)
        grown = tuple(np.ones(np.add(mask.shape, 2), bool) for mask in found.masks)
        below = Instances(found.boxes + np.array([-1, -1, 1, 1]), found.scores / 2, found.classes, grown)
        hidden = Instances(found.boxes, found.scores / 4, found.classes, found.masks)
        return Instances.join([found, below, hidden])


def test_only_what_has_a_pixel_on_top_is_counted_and_ids_go_to_the_last() -> None:
    image = np.zeros((120, 130), np.uint8)
    image[10:110:20, 10:120:20] = 200
    for how in (WHOLE, plan(60)):
        outcome = run(Stacked(20), image, how)
        seen = np.unique(labels(outcome))[1:]
        assert outcome.objects == len(seen) == 60 and outcome.highest == 90 > seen.max()
        assert len(outcome.found().scores) == 90


# ----------------------------------------------------------------------------------------------------- memory and speed


def held(image: np.ndarray, how: Plan) -> tuple[int, int]:
    """The most candidates that were held between two blocks, and the objects found."""
    most, sweep = [0], engine.sweep

    def counting(*arguments):
        finished, left = sweep(*arguments)
        most[0] = max(most[0], len(left.candidates))
        return finished, left

    with mock.patch.object(engine, "sweep", counting):
        outcome = run(toys.Shapes(16), image, how)
    return most[0], outcome.objects


def test_what_is_held_does_not_grow_with_the_height() -> None:
    y, x = np.mgrid[:1200, :150]
    image = (200 * ((y % 15 - 7) ** 2 + (x % 15 - 7) ** 2 < 30)).astype(np.uint8)
    (some, few), (most, many) = (held(image[:height], plan(60)) for height in (300, 1200))
    assert few == 200 and many == 800
    assert some == most < 80
    assert held(np.zeros((100, 100), np.uint8), plan(60)) == (0, 0)


def test_two_hundred_thousand_objects_are_no_matter_of_minutes() -> None:
    """A tenth of them, in a twentieth of the time allowed."""
    tile = (np.hypot(*np.ogrid[-5:5, -5:5]) < 4) * np.uint8(200)
    image = np.tile(tile, (100, 200))
    source, predictor = ArraySource(image[..., None]), toys.Shapes(32)
    told: dict[str, float] = {}
    job = Job(source, predictor, predictor.outputs[0], plan(564), MemoryCanvas())
    clocked = replace(job, progress=lambda stage, share: told.update({stage: time.process_time()}))
    assert run_job(clocked).objects == 20_000
    assert told["draw"] - told["detect"] < 12, "seconds of the processor, in which 4 are usual at most"


# ------------------------------------------------------------------------------------------------------ killed and resumed


FIND = replace(toys.FIND, load=lambda options, model, runtime: toys.Shapes(32))


def scene() -> np.ndarray:
    image = discs((330, 240), 90, 30, 1)
    image[148:172] = 0
    image[150:170, 3:230] = 77
    return image


def process(folder: Path, name: str, **options: object):
    chosen = RunOptions(**{"tile": "100", "device": "cpu", **options})
    return Session(FIND, FIND.options(), chosen, Registry()).process(Item(folder / "in.tif", folder / name, "in.tif"))


@pytest.mark.parametrize("stage", ["detect", "merge", "draw"])
@pytest.mark.parametrize("when", ["store", "mark"])
def test_a_run_killed_in_any_stage_goes_on_to_the_same_bytes(stage: str, when: str, tmp_path: Path) -> None:
    make_plan, mark, store = beginning.make_plan, DiskCanvas.mark, DiskCanvas.store
    what = {"merge": "masks"}.get(stage, stage)

    def on_disk(*arguments):
        return replace(make_plan(*arguments), canvas="disk", cores=1, threads=1)

    left = [3]

    def killed(act, canvas: DiskCanvas, name: str, *values) -> None:
        """Before it is done the third time."""
        hit = name == (what if act is store else stage) and (act is store) == (when == "store")
        left[0] -= hit
        if hit and not left[0]:
            raise KeyboardInterrupt
        act(canvas, name, *values)

    tifffile.imwrite(tmp_path / "in.tif", scene())
    with mock.patch.object(beginning, "make_plan", on_disk):
        undisturbed = process(tmp_path, "whole.tif")
        with (
            mock.patch.object(DiskCanvas, "mark", lambda *values: killed(mark, *values)),
            mock.patch.object(DiskCanvas, "store", lambda *values: killed(store, *values)),
            pytest.raises(KeyboardInterrupt),
        ):
            process(tmp_path, "out.tif")
        assert partial_folder(tmp_path / "out.tif").exists()
        resumed = process(tmp_path, "out.tif", resume=True)
    assert (tmp_path / "out.tif").read_bytes() == (tmp_path / "whole.tif").read_bytes()
    assert resumed.objects == undisturbed.objects > 20 and resumed.warnings == undisturbed.warnings
    assert resumed.blocks_reused + resumed.blocks_computed == undisturbed.blocks_computed
    assert resumed.blocks_reused >= {"detect": 2, "merge": 20, "draw": 25}[stage]


# ----------------------------------------------------------------------------------------------------------- exporters


def test_exporters_are_told_what_the_detector_knows(tmp_path: Path) -> None:
    given_out = []
    image = scene()
    tifffile.imwrite(tmp_path / "in.tif", image)
    session = Session(FIND, FIND.options(), RunOptions(tile="100", device="cpu"), Registry())
    exporter = Exporter("told", ".txt", "", lambda path, exported: given_out.append(told(exported, path)))
    with mock.patch.object(Session, "_exporter", lambda self, name: exporter):
        report = session.process(
            Item(tmp_path / "in.tif", tmp_path / "out.tif", "the input", exports={"told": tmp_path / "x.txt"})
        )
    ((exported, ids, found),) = given_out
    assert exported.plane == {} and list(exported.each()) == [exported]
    assert exported.name == "the input" and dict(exported.objects.class_names) == {1: "dark", 2: "bright"}
    assert ids.tolist() == list(range(1, report.objects + 1))
    assert exported.objects.scores.shape == exported.objects.classes.shape == ids.shape
    result = tifffile.imread(tmp_path / "out.tif")
    for i in range(len(found)):
        top, left, bottom, right = found.boxes[i]
        np.testing.assert_array_equal(result[top:bottom, left:right] == i + 1, found.masks[i])
        inside = image[top:bottom, left:right][found.masks[i]]
        assert exported.objects.classes[i] == found.classes[i] == (2 if inside.max() > 128 else 1)
        assert exported.objects.scores[i] == pytest.approx(inside.max() / 256)


def told(exported, path: Path):
    path.write_text("done")
    parts = list(exported.objects.masks())
    return exported, np.concatenate([ids for ids, _ in parts]), Instances.join([found for _, found in parts])


class Stack(ArraySource):
    """Several images as the planes of one."""

    def __init__(self, images: np.ndarray) -> None:
        super().__init__(images[0], planes=(("z", len(images)),))
        self._images = images

    def read(self, region, plane=0, level=0):
        return self._images[plane][region.slices][..., None]


def test_an_exporter_of_one_plane_is_refused_for_several() -> None:
    exporter, predictor = Exporter("told", ".txt", "", lambda path, exported: None), toys.Shapes()
    with pytest.raises(UsageError, match=r"--told takes one plane; choose one, such as --plane z=0"):
        check_export(exporter, predictor, predictor.outputs[0], (("z", 3),))
    check_export(replace(exporter, planes=True), predictor, predictor.outputs[0], (("z", 3),))


def test_of_many_planes_what_is_known_of_the_objects_is_fetched_for_one_at_a_time() -> None:
    source, predictor = Stack(np.stack([discs((90, 100), count, 16, 5) for count in (9, 30)])), toys.Shapes()
    job = Job(source, predictor, predictor.outputs[0], plan(80), MemoryCanvas())
    done = run_planes(plane_jobs(job, [predictor] * 2), source.spec)
    exported = for_exporters(source, done.result, done, own_masks=True, meaning="labels")
    assert exported.objects is None and exported.axes == ("z",)
    kept = [weakref.ref(one.objects.scores) for one in exported.each()]
    gc.collect()
    assert [one() for one in kept] == [None, None], "nothing holds them"
    for number, one in enumerate(exported.each()):
        alone = run(predictor, source._images[number], WHOLE)
        assert one.plane == {"z": number}
        np.testing.assert_array_equal(one.result.read(one.result.spec.region)[..., 0], labels(alone))
        np.testing.assert_allclose(one.objects.scores, alone.found().scores, rtol=1e-6)
    assert done.most == labels(run(predictor, source._images[1], WHOLE)).max() < done.objects


def test_scores_that_are_no_numbers_are_an_error() -> None:
    class Damaged(toys.Shapes):
        def _find(self, image: np.ndarray) -> Instances:
            found = super()._find(image)
            return replace(found, scores=np.where(np.arange(len(found)) == 1, np.nan, found.scores))

    with pytest.raises(NotFinite, match="the network answers NaN or Inf; is the model file damaged"):
        run(Damaged(), discs((90, 100), 9, 16, 5), WHOLE)
