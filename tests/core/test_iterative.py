"""Methods that own the image: a size of their own, what they hold chosen by the room, pictures and frames on the way, files
besides the input."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from i2i import api, batch, loading
from i2i.canvas import DiskCanvas, partial_folder
from i2i.contracts import Array, Footprint, ImageSpec, Model, Output, Predictor, Runtime, Task
from i2i.errors import I2IError, InputError, OutputError, PluginError, UsageError
from i2i.formats import open_image
from i2i.formats.resample import at_size, level_for
from i2i.formats.views import ArraySource
from i2i.options import RunOptions
from i2i.planner import Plan, make_plan
from i2i.report import RunReport
from i2i.session import Session
from i2i.testing import assert_task_contract, blobs
from tests import toys

PIXELS = blobs(60, 90, 3)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test here is about a power cut."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tifffile.imwrite(tmp_path / "in.tif", PIXELS, photometric="rgb", resolution=(5000, 5000), resolutionunit="CENTIMETER")
    return tmp_path


def session(task: Task = toys.SKETCH, *, run: dict[str, object] | None = None, **options: object) -> Session:
    common = {"device": "cpu", "tile": "64", "memory": "4GB"} | (run or {})
    return Session(task, task.options(**options), RunOptions(**common), toys.Toys())


def process(folder: Path, output: str = "out.png", task: Task = toys.SKETCH, flip: str = "", **settings: object) -> RunReport:
    """One run on the image in ``folder``; ``settings``: the run's options by ``run=``, and the task's."""
    current = session(task, **settings)
    (item,) = batch.plan_items(
        current, [str(folder / "in.tif")], str(folder / output), {"flip": str(folder / flip)} if flip else {}
    )
    return batch.process_one(current, item)


def load(path: Path) -> Array:
    with Image.open(path) as image:
        return np.asarray(image)


@contextmanager
def interrupting(saves: int) -> Iterator[None]:
    """A run inside is interrupted when it has kept so many arrays: checkpoints and frames."""
    left, store = [saves], DiskCanvas.store

    def counting(canvas: DiskCanvas, stage: str, block: int, arrays: dict[str, Array]) -> None:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        store(canvas, stage, block, arrays)

    with mock.patch.object(DiskCanvas, "store", counting):
        yield


@contextmanager
def killed_after(saves: int) -> Iterator[None]:
    """The same; it must happen."""
    with interrupting(saves), pytest.raises(KeyboardInterrupt):
        yield


# ---------------------------------------------------------------------------------------------------------- their size


@settings(deadline=None, max_examples=25)
@given(*(st.integers(1, 200) for _ in range(4)))
def test_an_image_is_brought_to_any_size_and_covers_as_much(height: int, width: int, new_height: int, new_width: int) -> None:
    source = ArraySource(np.full((height, width), 7, np.uint8), pixel_size=(2.0, 3.0))
    made = at_size(source, (new_height, new_width))
    assert (made.spec.height, made.spec.width) == (new_height, new_width)
    assert made.spec.pixel_size == pytest.approx((2 * height / new_height, 3 * width / new_width))
    assert (made.read(made.spec.region) == 7).all()
    assert (made is source) == ((height, width) == (new_height, new_width))


@pytest.mark.parametrize(
    ("size", "least", "level"),
    [((100, 80), 0, 0), ((50, 40), 0, 1), ((49, 40), 0, 1), ((50, 41), 0, 0), ((1, 1), 0, 2), ((25, 20), 2, 2), ((200, 9), 1, 1)],
)
def test_the_smallest_level_is_read_that_is_large_enough(size: tuple[int, int], least: int, level: int) -> None:
    assert level_for(((100, 80), (50, 40), (25, 20)), size, least) == level
    assert level_for((), size) == 0


def test_the_result_has_the_size_that_the_method_works_on(folder: Path) -> None:
    report = process(folder, "out.tif", width=45)
    assert (report.size, report.resampled, report.plan["window"]) == ((30, 45), None, [30, 45])
    made = open_image(folder / "out.tif")
    assert (made.spec.height, made.spec.width, made.spec.pixel_size) == (30, 45, pytest.approx((4.0, 4.0)))
    smaller = at_size(ArraySource(PIXELS), (30, 45))
    tifffile.imwrite(folder / "in.tif", smaller.read(smaller.spec.region), photometric="rgb")
    assert process(folder, "same.png", width=45).size is None
    np.testing.assert_array_equal(made.read(made.spec.region), load(folder / "same.png"))
    made.close()


def test_an_array_is_brought_to_the_size_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    process(folder, width=120)
    monkeypatch.setattr(api, "Registry", toys.Toys)
    loaded = api.load("sketch", width=120, device="cpu", memory="4GB")
    np.testing.assert_array_equal(loaded(PIXELS), load(folder / "out.png"))


def test_exporters_see_the_input_at_the_size_of_the_result(folder: Path) -> None:
    process(folder, flip="out.npz", width=45)
    with np.load(folder / "out.npz") as told:
        assert told["scale"].tolist() == [2, 2] and told["source"].shape == (30, 45, 3)


def pyramid(path: Path) -> None:
    """Full size black, half size gray 100, quarter size gray 200."""
    with tifffile.TiffWriter(path) as file:
        sides = (1024, 512, 256)
        for number, side in enumerate(sides):
            pixels = np.full((side, side), 100 * number, np.uint8)
            file.write(pixels, tile=(64, 64), subifds=0 if number else 2, subfiletype=1 if number else 0)


@pytest.mark.parametrize(
    ("width", "level", "gray"), [(0, 0, 0), (1024, 0, 0), (513, 0, 0), (512, 0, 100), (257, 0, 100), (256, 0, 200), (60, 0, 200),
                                 (600, 1, 100), (200, 1, 200)],
)  # fmt: skip
def test_of_a_pyramid_the_level_is_read_that_suffices(tmp_path: Path, width: int, level: int, gray: int) -> None:
    pyramid(tmp_path / "in.tif")
    process(tmp_path, width=width, run={"level": level, "tile": "1024"})
    made = load(tmp_path / "out.png")
    assert made.shape == (width or 1024, width or 1024) and (made == gray).all()


def test_a_network_may_have_a_size_too(folder: Path) -> None:
    class Sized(toys.Mirrored):
        size = (20, 30)

    task = replace(toys.CONVOLVE, load=lambda *_: Sized(), lossy=True)
    tifffile.imwrite(folder / "in.tif", PIXELS[..., 0])
    report = process(folder, "out.tif", task, run={"tile": "32"})
    assert report.size == (20, 30) and tifffile.imread(folder / "out.tif").shape == (20, 30)


def test_the_contract_kit_takes_them() -> None:
    assert_task_contract(toys.SKETCH, options=toys.SketchOptions(width=50, save_every=2))


# ---------------------------------------------------------------------------------------------------------- their room


def test_the_plan_gives_the_method_the_room_that_is_left_and_takes_off_what_it_holds() -> None:
    rooms: list[int] = []

    class Holding(toys.Smoother):
        window_bytes = 1000
        share = 0.0

        def within(self, spec: ImageSpec, room: int) -> Predictor:
            rooms.append(room)
            chosen = copy.copy(self)
            chosen.held_bytes = int(room * self.share)
            return chosen

    def plan(share: float, jobs: int = 1) -> Plan:
        predictor = Holding()
        predictor.share = share
        return make_plan(ImageSpec(20_000, 20_000), predictor, 8, RunOptions(memory="2GB", jobs=jobs), Runtime())

    free, tight = plan(0), plan(0.7)
    assert [free.room, tight.room] == rooms == [2_000_000_000 - 750_000_000 - 100_000_000] * 2
    assert np.prod(tight.tile) < np.prod(free.tile) and max(free.memory, tight.memory) <= 2_000_000_000
    assert plan(0, 2).room == (2_000_000_000 - 750_000_000) // 2 - 100_000_000
    assert plan(0.9).memory <= 2_000_000_000, "what is held while it iterates is gone when files are written"
    with pytest.raises(UsageError, match="--memory"):
        plan(1.01)


def test_a_resumed_run_has_the_room_of_the_killed_one_and_its_bytes(folder: Path) -> None:
    report = process(folder, "small.png", run={"memory": "2GB"})
    assert report.notes == ["smaller steps: --memory is small"]
    assert process(folder, "large.png").notes == []
    small, large = (load(folder / f"{name}.png") for name in ("small", "large"))
    assert (small != large).any()
    with killed_after(6):
        process(folder, run={"memory": "2GB"})
    manifest = partial_folder(folder / "out.png") / "manifest.json"
    assert json.loads(manifest.read_text())["plan"]["room"] == report.plan["room"]
    resumed = process(folder, run={"memory": "8GB", "resume": True})
    assert resumed.notes == report.notes and resumed.blocks_reused == 1
    np.testing.assert_array_equal(load(folder / "out.png"), small)


def test_a_manifest_without_the_room_is_of_another_version(folder: Path) -> None:
    with killed_after(3):
        process(folder)
    path = partial_folder(folder / "out.png") / "manifest.json"
    told = json.loads(path.read_text())
    del told["plan"]["room"]
    path.write_text(json.dumps(told))
    with pytest.raises(OutputError, match="unreadable; --overwrite starts again"):
        process(folder, run={"resume": True})
    process(folder, run={"overwrite": True})


def test_a_dry_run_tells_what_is_chosen_and_writes_nothing(folder: Path) -> None:
    report = process(folder, flip="out.npz", width=45, save_every=4, run={"memory": "2GB", "dry_run": True})
    assert (report.size, report.plan["seconds"]) == ((30, 45), None)
    assert report.notes == ["smaller steps: --memory is small"]
    assert [path.name for path in folder.iterdir()] == ["in.tif"]


# --------------------------------------------------------------------------------------------- pictures on the way


def test_pictures_on_the_way_are_files_beside_the_output_at_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with killed_after(5):
        process(folder, "a.ome.tif", save_every=2)
    steps = folder / "a.ome.tif-steps"
    assert sorted(path.name for path in steps.iterdir()) == ["step-00002.png", "step-00004.png", "step-00006.png"]
    shown = load(steps / "step-00002.png")
    assert shown.shape == (60, 90, 3) and shown.dtype == np.uint8
    (steps / "mine.txt").write_text("kept")
    process(folder, "a.ome.tif", save_every=2, run={"resume": True})
    assert sorted(path.name for path in steps.iterdir()) == [
        "mine.txt", *(f"step-{step:05d}.png" for step in (2, 4, 6, 8))
    ]  # fmt: skip
    process(folder, "b.tif", save_every=2)
    for step in (2, 4, 6, 8):
        name = f"step-{step:05d}.png"
        assert (folder / "b.tif-steps" / name).read_bytes() == (steps / name).read_bytes()
    process(folder, "c.tif", save_every=8)
    np.testing.assert_array_equal(load(folder / "c.tif-steps/step-00008.png"), tifffile.imread(folder / "c.tif"))


def test_each_plane_has_pictures_of_its_own(folder: Path) -> None:
    planes = np.stack([PIXELS[..., 0], PIXELS[..., 1], PIXELS[..., 2]])
    tifffile.imwrite(folder / "in.tif", planes, photometric="minisblack", metadata={"axes": "ZYX"})
    process(folder, "out.tif", save_every=8)
    result = tifffile.imread(folder / "out.tif")
    for plane in range(3):
        np.testing.assert_array_equal(load(folder / f"out.tif-steps/step-00008-z{plane}.png"), result[plane])


def test_chosen_planes_keep_their_numbers(folder: Path) -> None:
    tifffile.imwrite(folder / "in.tif", np.stack([PIXELS[..., 0]] * 4), photometric="minisblack", metadata={"axes": "ZYX"})
    process(folder, "out.tif", save_every=8, run={"plane": "z=2-3"})
    assert sorted(path.name for path in (folder / "out.tif-steps").iterdir()) == ["step-00008-z2.png", "step-00008-z3.png"]


def test_pictures_of_another_run_are_replaced_only_when_asked(folder: Path) -> None:
    process(folder, save_every=2)
    (folder / "out.png").unlink()
    with pytest.raises(OutputError, match=r"out.png-steps: holds the pictures of another run; --overwrite replaces them"):
        process(folder, save_every=4)
    steps = folder / "out.png-steps"
    assert len(list(steps.iterdir())) == 4
    process(folder, save_every=4, run={"overwrite": True})
    assert sorted(path.name for path in steps.iterdir()) == ["step-00004.png", "step-00008.png"]


def test_outputs_that_differ_in_their_suffix_have_pictures_of_their_own(folder: Path) -> None:
    process(folder, "a.png", save_every=4)
    process(folder, "a.tif", save_every=4)
    assert sorted(path.name for path in folder.iterdir()) == ["a.png", "a.png-steps", "a.tif", "a.tif-steps", "in.tif"]


def test_a_picture_on_the_way_replaces_no_input(folder: Path) -> None:
    (folder / "out.png-steps").mkdir()
    tone = folder / "out.png-steps/step-00002.png"
    with tone.open("wb") as stream:
        np.save(stream, np.zeros(3))
    before = tone.read_bytes()
    with pytest.raises(OutputError, match=r"step-00002.png: is an input"):
        process(folder, save_every=2, tone=[str(tone)], run={"overwrite": True})
    assert tone.read_bytes() == before and not (folder / "out.png").exists()


# --------------------------------------------------------------------------------------------------------------- frames


def test_the_frames_are_those_of_the_steps_in_their_order(folder: Path) -> None:
    process(folder, flip="out.npz", save_every=2)
    with np.load(folder / "out.npz") as told:
        frames = told["frames"]
    for frame, step in zip(frames, range(2, 9, 2), strict=True):
        np.testing.assert_array_equal(frame, load(folder / f"out.png-steps/step-{step:05d}.png"))
    assert not partial_folder(folder / "out.png").exists()


@pytest.mark.parametrize("saves", [1, 4, 6, 7, 11])
def test_a_killed_run_goes_on_to_the_same_result_and_frames(folder: Path, saves: int) -> None:
    process(folder, "whole.png", flip="whole.npz")
    with killed_after(saves):
        process(folder, flip="out.npz")
    assert not (folder / "out.png").exists() and not (folder / "out.npz").exists()
    process(folder, flip="out.npz", run={"resume": True})
    assert (folder / "out.png").read_bytes() == (folder / "whole.png").read_bytes()
    assert (folder / "out.npz").read_bytes() == (folder / "whole.npz").read_bytes()


def test_a_run_begun_without_frames_does_not_go_on_with_some_of_them(folder: Path) -> None:
    with killed_after(5):
        process(folder)
    with pytest.raises(OutputError, match="another input, model, option or version"):
        process(folder, flip="out.npz", run={"resume": True})
    process(folder, run={"resume": True})


def test_frames_of_a_method_in_one_pass_are_refused(folder: Path) -> None:
    class Once(toys.Mirrored):
        footprint = Footprint(halo=3, border="mirror", channels_in=3, channels_out=3)

        def __init__(self) -> None:
            self.outputs = (Output("image", 3, "float32", "image"),)

    with pytest.raises(UsageError, match="--flip: shows the steps to a result, and this one is made in one pass"):
        process(folder, "out.tif", replace(toys.SKETCH, load=lambda *_: Once()), flip="out.npz")
    assert [path.name for path in folder.iterdir()] == ["in.tif"]


def test_a_stage_that_is_called_frames_is_refused(folder: Path) -> None:
    class Clashing(toys.Sketch):
        def stages(self, spec: object) -> tuple[str, ...]:
            return ("frames",)

    with pytest.raises(PluginError, match="a name of its own"):
        process(folder, task=replace(toys.SKETCH, load=lambda options, *_: Clashing(options)))


# ---------------------------------------------------------------------------------------------- files besides the input


@pytest.fixture
def tone(folder: Path) -> Path:
    np.save(folder / "tone.npy", np.full(4, 20))
    return folder / "tone.npy"


def test_the_content_of_the_files_is_part_of_the_run(folder: Path, tone: Path) -> None:
    with killed_after(5):
        process(folder, tone=[str(tone)])
    np.save(tone, np.full(4, 21))
    with pytest.raises(OutputError, match="another input, model, option or version"):
        process(folder, tone=[str(tone)], run={"resume": True})
    np.save(tone, np.full(4, 20))
    process(folder, tone=[str(tone)], run={"resume": True})
    process(folder, "plain.png")
    assert load(folder / "out.png").mean() > load(folder / "plain.png").mean() + 15


def test_a_file_that_is_not_there_is_named_before_anything_is_loaded(folder: Path) -> None:
    def never(*_: object) -> Predictor:
        raise AssertionError("loaded")

    with pytest.raises(InputError, match=r"gone\.npy: no such file"):
        process(folder, task=replace(toys.SKETCH, load=never), tone=[str(folder / "gone.npy")])


@pytest.mark.parametrize("how", ["itself", "symlink", "hard link"])
@pytest.mark.parametrize("export", [False, True])
def test_no_file_is_written_over(folder: Path, tone: Path, how: str, export: bool) -> None:
    name = {"itself": "tone.npy"}.get(how, "link.npy")
    target = (folder / name).rename(folder / "kept.npz") if how == "itself" else tone
    link = folder / ("kept.npz" if export else "kept.png")
    if how == "itself":
        target = target.rename(link)
    elif how == "symlink":
        link.symlink_to(target)
    else:
        os.link(target, link)
    output, flip = ("out.png", "kept.npz") if export else ("kept.png", "")
    before = target.read_bytes()
    with pytest.raises(UsageError, match=r"kept.*: the output is the input .*; choose another path"):
        process(folder, output, flip=flip, tone=[str(target)], run={"overwrite": True})
    assert target.read_bytes() == before


def test_a_fallback_is_no_file_either(folder: Path, tone: Path) -> None:
    """The result goes to a TIFF where the input's own format cannot hold it."""

    class Deep(toys.Sketch):
        def fitted(self, spec: ImageSpec) -> Deep:
            fitted = super().fitted(spec)
            fitted.outputs = (Output("image", spec.channels, "float32", "image"),)
            return fitted

    Image.fromarray(PIXELS).save(folder / "in.png")
    kept = tone.rename(folder / "in-sketch.tif")
    before = kept.read_bytes()
    current = session(replace(toys.SKETCH, load=lambda options, *_: Deep(options)), tone=[str(kept)], run={"overwrite": True})
    (item,) = batch.plan_items(current, [str(folder / "in.png")], "", {})
    assert item.fallback == kept
    with pytest.raises(UsageError, match=r"in-sketch.tif: the output is an input"):
        batch.process_one(current, item)
    assert kept.read_bytes() == before


# --------------------------------------------------------------------------------- parts, meanings, precisions, refusals


def test_the_models_that_a_method_is_made_of_are_recorded(folder: Path) -> None:
    def task(digest: str) -> Task:
        class Made(toys.Sketch):
            parts = tuple(Model(name, Path(f"{name}.safetensors"), digest * 64, {}, dict) for name in ("eye", "hand"))

        return replace(toys.SKETCH, load=lambda options, *_: Made(options))

    report = process(folder, "out.tif", task("a"))
    assert (report.model, report.sha256) == ("eye+hand", "a" * 64 + "+" + "a" * 64)
    with tifffile.TiffFile(folder / "out.tif") as file:
        assert "eye+hand" in str(file.pages[0].tags) + str(file.ome_metadata)
    with killed_after(5):
        process(folder, task=task("a"))
    with pytest.raises(OutputError, match="another input, model"):
        process(folder, task=task("b"), run={"resume": True})


def test_exporters_that_take_nothing_of_a_task_are_not_offered(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offered = [exporter.name for exporter in toys.Toys().exporters("sketch")]
    assert offered == ["overlay", "flip"]
    assert {"overlay", "csv", "coco", "flip"} <= {exporter.name for exporter in toys.Toys().exporters("convolve")}
    monkeypatch.setattr(api, "Registry", toys.Toys)
    with pytest.raises(UsageError, match="csv"):
        api.run("sketch", folder / "in.tif", folder / "out.png", csv=folder / "out.csv")
    report = api.run("sketch", folder / "in.tif", folder / "out.png", flip=folder / "out.npz", width=45, memory="4GB")
    assert report.exports == {"flip": str(folder / "out.npz")} and report.size == (30, 45)


def test_a_task_vouches_for_precisions_where_there_is_no_model() -> None:
    assert loading._vouched([], ("fp32", "bf16")) == ("fp32", "bf16")
    asked: list[tuple[str, ...]] = []

    def pick(precision: str, device: str, vouched: tuple[str, ...]) -> str:
        asked.append(vouched)
        return "fp32"

    with mock.patch.object(loading, "pick_precision", pick):
        session().loader.predictor()
        session(toys.SMOOTH).loader.predictor()
    assert asked == [("fp32", "bf16"), ("fp32",)]


@pytest.mark.parametrize("task", [toys.SKETCH, toys.FIND])
def test_verify_is_refused_before_anything_is_computed(folder: Path, task: Task) -> None:
    tifffile.imwrite(folder / "in.tif", PIXELS[..., 0])
    with pytest.raises(UsageError, match=f"--verify recomputes single pixels, which {task.name} cannot; leave it out"):
        process(folder, "out.png", task, run={"verify": 2, "tile": "96"})
    assert [path.name for path in folder.iterdir()] == ["in.tif"]


def test_images_side_by_side_are_those_one_after_the_other(folder: Path) -> None:
    (folder / "in").mkdir()
    for number in range(3):
        Image.fromarray(np.roll(PIXELS, 9 * number, axis=1)).save(folder / f"in/{number}.png")
    for jobs in (1, 2):
        current = session(save_every=4, width=45, run={"jobs": jobs, "memory": "8GB"})
        items = batch.plan_items(current, [str(folder / "in")], str(folder / f"out{jobs}"), {})
        assert [report.status for report in batch.process(current, items)] == ["done"] * 3
    names = [
        f"{number}{rest}" for number in range(3) for rest in (".png", ".png-steps/step-00004.png", ".png-steps/step-00008.png")
    ]
    for name in names:
        assert (folder / "out1" / name).read_bytes() == (folder / "out2" / name).read_bytes()


def test_an_error_of_a_files_function_is_told_as_it_is(folder: Path) -> None:
    def wrong(options: object) -> list[Path]:
        raise UsageError("--tone x: no number")

    with pytest.raises(I2IError, match="--tone x: no number"):
        process(folder, task=replace(toys.SKETCH, files=wrong))
