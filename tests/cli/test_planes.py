"""Images of several planes: each an image of its own, all in one output."""

from __future__ import annotations

import errno
from contextlib import closing
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile

from i2i import canvas
from i2i.formats import open_image
from i2i.formats.views import one_series
from tests.cli.kit import done, files, load, on_disk, picture, refused, save

TIMES, DEPTHS = 2, 3


def _plane(number):
    """Each darker than the last, and with a picture of its own: neither statistics nor labels of one fit another."""
    return (picture(seed=number) // (1 + number)).astype(np.uint8)


@pytest.fixture
def stack(folder):
    """``tz.tif``: planes of 96 x 128, t = 2 by z = 3; and each plane as an image, ``0.png`` to ``5.png``."""
    planes = [save(f"planes/{number}.png", _plane(number)) and _plane(number) for number in range(TIMES * DEPTHS)]
    return save("tz.tif", np.stack(planes).reshape(TIMES, DEPTHS, 96, 128), metadata={"axes": "TZYX"}, ome=True)


def _read(path):
    """The axes of an image, and its planes (N, H, W, C)."""
    source = open_image(path)
    try:
        return source.spec.planes, np.stack([source.read(source.spec.region, i) for i in range(source.spec.plane_count)])
    finally:
        source.close()


@pytest.fixture
def alone(segment, stack, folder):
    """The labels of each plane run as an image of its own, and the number of objects in all."""
    done(segment("planes", "-o", "alone", "-q"))
    labels = np.stack([load(f"alone/{number}.png") for number in range(TIMES * DEPTHS)])[..., None]
    return labels, sum(int(plane.max()) for plane in labels)


def test_every_plane_has_the_labels_that_it_has_as_an_image_of_its_own(segment, alone):
    labels, objects = alone
    run = done(segment("tz.tif", "--json")).run
    axes, planes = _read("tz-segment.tif")
    assert axes == (("t", TIMES), ("z", DEPTHS)) and planes.dtype == np.uint16
    assert np.array_equal(planes, labels)
    assert (run["planes"], run["objects"], run["resampled"]) == (TIMES * DEPTHS, objects, None)
    assert run["blocks_computed"] >= TIMES * DEPTHS


@pytest.mark.parametrize(
    ("text", "axes", "numbers"),
    [("z=2", (("t", 2),), [2, 5]), ("t=1,z=*", (("z", 3),), [3, 4, 5]), ("z=1-2", (("t", 2), ("z", 2)), [1, 2, 4, 5])],
)
def test_chosen_planes_are_run_and_axes_of_one_plane_vanish(segment, alone, text, axes, numbers):
    done(segment("tz.tif", "--plane", text, "-o", "x.tif"))
    found, planes = _read("x.tif")
    assert found == axes and np.array_equal(planes, alone[0][numbers])


def test_one_plane_is_an_image_like_any_other(segment, alone, folder):
    done(segment("tz.tif", "--plane", "t=1,z=0", "-o", "x.png", "--csv", "x.csv"))
    assert np.array_equal(load("x.png"), alone[0][3, ..., 0]) and (folder / "x.csv").exists()
    refused(segment("tz.tif", "--plane", "z=3"), 2, "--plane z=3", "0 to 2")
    refused(segment("planes/0.png", "--plane", "z=0"), 2, "leave --plane out")


def test_planes_go_to_zarr_and_from_there_to_zarr(segment, alone, folder):
    done(segment("tz.tif", "-o", "x.ome.zarr"))
    axes, planes = _read("x.ome.zarr")
    assert dict(axes) == {"t": TIMES, "z": DEPTHS} and np.array_equal(planes, alone[0])
    done(segment("x.ome.zarr", "--as", "classes"))
    assert dict(_read("x-segment.zarr")[0]) == {"t": TIMES, "z": DEPTHS}


def test_a_format_of_one_plane_is_refused_before_anything_is_computed(segment, stack, folder, monkeypatch):
    before = files(folder)
    monkeypatch.setattr("i2i.planes.run_job", None)
    refused(segment("tz.tif", "-o", "x.png"), 1, "x.png: PNG holds one plane, and there are 6", "--plane t=0,z=0", ".tif")
    refused(segment("tz.tif", "--format", "png"), 1, "tz-segment.png: PNG holds one plane", "--plane t=0,z=0")
    assert files(folder) == before


def test_the_suffix_is_tif_where_that_of_the_input_is_not_written(segment, stack, folder):
    (folder / "tz.tif").rename(folder / "tz.lsm")
    assert done(segment("tz.lsm", "--plane", "t=0", "--json")).run["output"] == "tz-segment.tif"


def test_the_plan_is_that_of_one_plane_and_the_time_that_of_all(segment, stack):
    run = done(segment("tz.tif", "--dry-run", "--json", "--tile", "64")).run
    alone = done(segment("tz.tif", "--plane", "z=0,t=0", "--dry-run", "--json", "--tile", "64")).run
    assert (run["status"], run["planes"], alone["planes"]) == ("planned", 6, 1)
    assert run["plan"]["tiles"] == alone["plan"]["tiles"]
    assert run["plan"]["disk"] == pytest.approx(6 * alone["plan"]["disk"], rel=0.01)
    shown = done(segment("tz.tif", "--dry-run")).out
    assert "6 planes" in shown and "disk " in shown


def test_nan_in_any_plane_is_found(segment):
    pixels = np.stack([picture(dtype="float32"), picture(dtype="float32")])
    pixels[1, 3, 4:6] = np.nan
    save("z.tif", pixels, metadata={"axes": "ZYX"}, ome=True)
    refused(segment("z.tif"), 1, "z.tif: 2 samples are NaN or Inf")
    done(segment("z.tif", "--plane", "z=0", "-o", "x.tif"))
    assert done(segment("z.tif", "--nan", "zero", "--json")).run["warnings"] == ["2 samples are NaN or Inf, read as 0"]


@pytest.mark.parametrize("count", [1, 2, 7])
def test_verify_is_spread_over_the_planes(segment, stack, count, monkeypatch):
    from i2i import planes

    told, verify = [], planes.verify
    monkeypatch.setattr(planes, "verify", lambda job, here: told.append((job.source, here)) or verify(job, here))
    run = done(segment("tz.tif", "--tile", "64", "--verify", count, "--json")).run
    assert 0 <= run["verified"] < 1e-4
    assert sum(here for _, here in told) == count and len({id(source) for source, _ in told}) == min(count, 6)


# ------------------------------------------------------------------------------------------------------------- resume


@pytest.mark.parametrize("marks", [1, 7, 30])
def test_a_killed_run_over_planes_goes_on_to_the_same_bytes(segment, stack, folder, monkeypatch, marks):
    on_disk(monkeypatch, cores=1)
    words = ["tz.tif", "--tile", "96", "--json"]
    total = done(segment(*words, "-o", "whole.tif")).run["blocks_computed"]
    left, mark = [marks], canvas.DiskCanvas.mark

    def counting(self, stage, block):
        mark(self, stage, block)
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(canvas.DiskCanvas, "mark", counting)
        assert segment(*words, "-o", "x.tif").code == 130
    assert (folder / "x.tif.i2i-partial/manifest.json").exists() and not (folder / "x.tif").exists()
    monkeypatch.setattr("i2i.normalize.Normalization.freeze", None)  # statistics are those of the manifest
    run = done(segment(*words, "-o", "x.tif", "--resume")).run
    assert run["blocks_reused"] >= marks and run["blocks_reused"] + run["blocks_computed"] >= total
    assert (folder / "x.tif").read_bytes() == (folder / "whole.tif").read_bytes()
    assert not (folder / "x.tif.i2i-partial").exists()


def test_a_run_killed_while_it_publishes_planes_computes_nothing_again(segment, stack, folder, monkeypatch):
    on_disk(monkeypatch)
    done(segment("tz.tif", "-o", "whole.tif"))
    with monkeypatch.context() as patched:
        patched.setattr("i2i.session.narrow_labels", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert segment("tz.tif", "-o", "x.tif").code == 130
    monkeypatch.setattr("i2i_unet.predictor.UNetPredictor.__call__", None)
    assert done(segment("tz.tif", "-o", "x.tif", "--resume", "--json")).run["blocks_computed"] == 0
    assert (folder / "x.tif").read_bytes() == (folder / "whole.tif").read_bytes()


@pytest.mark.parametrize("change", [["--plane", "z=0"], ["--pixel-size", "2"], ["--channels", "0"]])
def test_planes_begun_with_another_choice_are_not_resumed(segment, stack, folder, monkeypatch, change):
    on_disk(monkeypatch)
    with monkeypatch.context() as patched:
        patched.setattr("i2i.planes.run_job", lambda job: (_ for _ in ()).throw(KeyboardInterrupt))
        assert segment("tz.tif", "-o", "x.tif").code == 130
    refused(segment("tz.tif", "-o", "x.tif", "--resume", *change), 1, "x.tif.i2i-partial", "another input, model, option")


def test_what_was_begun_on_another_device_is_not_gone_on_with_here(segment, stack, folder, monkeypatch):
    """Where ``auto`` means something else, as on another node of a cluster: half of the result would be of other bytes."""
    on_disk(monkeypatch, device="cuda:0", precision="bf16")
    with monkeypatch.context() as patched:
        patched.setattr("i2i.planes.run_job", lambda job: (_ for _ in ()).throw(KeyboardInterrupt))
        assert segment("tz.tif", "-o", "x.tif").code == 130
    words = ["was begun on cuda:0 in bf16", "cpu in fp32", "--overwrite"]
    refused(segment("tz.tif", "-o", "x.tif", "--resume"), 1, "x.tif.i2i-partial", *words)


def test_a_dry_run_does_not_touch_what_another_run_has_done(segment, stack, folder, monkeypatch):
    on_disk(monkeypatch)
    with monkeypatch.context() as patched:
        patched.setattr("i2i.session.narrow_labels", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert segment("tz.tif", "-o", "x.tif").code == 130
    journal = folder / "x.tif.i2i-partial/journal.jsonl"
    journal.write_bytes(journal.read_bytes() + b"half a line")
    before = {path: path.stat().st_mtime_ns for path in journal.parent.rglob("*")}
    done(segment("tz.tif", "-o", "x.tif", "--resume", "--dry-run"))
    assert {path: path.stat().st_mtime_ns for path in journal.parent.rglob("*")} == before
    assert journal.read_bytes().endswith(b"half a line")


# --------------------------------------------------------------------------------------------------- claims and disks


def test_two_runs_on_one_output_exclude_each_other_also_in_memory(segment, folder, monkeypatch):
    from i2i import planes

    save("a.png")
    run, told = planes.run_job, []

    def nested(job):
        with monkeypatch.context() as patched:
            patched.setattr(planes, "run_job", run)
            told.append(segment("a.png", "--overwrite"))
        return run(job)

    monkeypatch.setattr(planes, "run_job", nested)
    assert done(segment("a.png", "-o", "a-segment.png")).code == 0
    refused(told[0], 1, "a-segment.png.i2i-partial: another run is writing this output", "wait for it")
    assert files(folder) == ["a-segment.png", "a.png"]


def test_what_a_killed_run_in_memory_left_holds_nobody_up(segment, folder):
    save("a.png"), (folder / "a-segment.png.i2i-partial").mkdir(), (folder / "a-segment.png.i2i-partial/lock").touch()
    done(segment("a.png"))
    assert files(folder) == ["a-segment.png", "a.png"] and not (folder / "a-segment.png.i2i-partial").exists()
    (folder / "a-segment.png.i2i-partial").mkdir()
    assert "left alone" in done(segment("a.png", "--skip-existing")).err
    assert "left alone" not in done(segment("a.png", "--resume")).err


def _free(monkeypatch, size):
    """From now on every disk has so many bytes free."""
    monkeypatch.setattr("i2i.disk.shutil", SimpleNamespace(disk_usage=lambda path: SimpleNamespace(free=size)))


@pytest.mark.parametrize("canvas_place", ["memory", "disk"])
def test_too_little_room_on_the_disk_is_refused_before_anything_is_computed(segment, folder, monkeypatch, canvas_place):
    save("a.png", picture(400, 500))
    needed = done(segment("a.png", "--dry-run", "--json")).run["plan"]["disk"]
    assert needed == 400 * 500 * 2 // 10
    if canvas_place == "disk":
        on_disk(monkeypatch)
        needed += 400 * 500 * 5 // 10
    _free(monkeypatch, needed - 1)
    monkeypatch.setattr("i2i.planes.run_job", None)
    refused(segment("a.png", "-o", "new/x.png"), 1, f"{folder}/new: too little room", "needed", "free", "another -o")
    assert files(folder) == ["a.png"] and not (folder / "new").exists()


def test_enough_room_is_enough(segment, monkeypatch):
    save("a.png", picture(400, 500))
    _free(monkeypatch, 400 * 500 * 2 // 10)
    done(segment("a.png"))


def test_a_disk_that_runs_full_keeps_what_is_done_and_says_how_to_go_on(segment, folder, monkeypatch):
    save("a.png", picture(150, 150))
    on_disk(monkeypatch, cores=1)
    done(segment("a.png", "--tile", "64", "-o", "whole.png"))
    write, left = canvas.Layer.write, [5]

    def full(self, region, pixels):
        left[0] -= 1
        if left[0] < 0:
            with canvas.writing(self._folder):
                raise OSError(errno.ENOSPC, "No space left on device")
        write(self, region, pixels)

    with monkeypatch.context() as patched:
        patched.setattr(canvas.Layer, "write", full)
        refused(segment("a.png", "--tile", "64", "-o", "x.png"), 1, "x.png: no room is left on the disk", "--resume")
    assert not (folder / "x.png").exists() and (folder / "x.png.i2i-partial/manifest.json").exists()
    run = done(segment("a.png", "--tile", "64", "-o", "x.png", "--resume", "--json")).run
    assert run["blocks_reused"] >= 4 and (folder / "x.png").read_bytes() == (folder / "whole.png").read_bytes()


def test_a_disk_for_scratch_files_that_runs_full_is_named(segment, folder, monkeypatch):
    from i2i.formats.scratch import Scratch
    from i2i.formats.views import ArraySource

    save("a.png", picture(300, 300))
    on_disk(monkeypatch)

    def full(self, region, plane=0, level=0):
        with closing(Scratch(self.spec)) as scratch, scratch._writing():
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("tempfile.tempdir", str(folder))
        patched.setattr("i2i_unet.predictor.UNetPredictor.prepare", lambda self, source, seed: self)
        patched.setattr("i2i.session.open_image", lambda *_: ArraySource(picture(300, 300)))
        patched.setattr(ArraySource, "read", full)
        result = segment("a.png", "-o", "out/x.png")
    refused(result, 1, f"out/x.png: no room is left on the disk of {folder};", "--resume goes on")


# ------------------------------------------------------------------------------------------------------- compression


def test_a_compression_is_that_of_the_file_and_changes_no_pixel(segment, folder):
    import tifffile

    save("a.png", picture(200, 300))
    done(segment("a.png", "-o", "auto.tif"))
    for name, number in (("zlib", 8), ("zstd", 50000), ("none", 1)):
        done(segment("a.png", "-o", f"{name}.tif", "--compression", name))
        with tifffile.TiffFile(f"{name}.tif") as file:
            assert file.pages[0].compression in (number, 32946) if name == "zlib" else file.pages[0].compression == number
        assert np.array_equal(load(f"{name}.tif"), load("auto.tif"))


def test_a_compression_that_the_format_does_not_know_is_refused_before_anything_is_computed(segment, folder, monkeypatch):
    save("a.png")
    monkeypatch.setattr("i2i.session.open_image", None)
    refused(segment("a.png", "--compression", "zstd"), 2, "--compression zstd", "a-segment.png", "PNG", ".tif")
    refused(segment("a.png", "--compression", "brotli"), 2, "--compression")
    assert files(folder) == ["a.png"]


def test_jpeg_is_refused_for_what_must_be_exact(segment, folder):
    save("a.png")
    for kind in ("labels", "classes", "probabilities"):
        refused(segment("a.png", "--as", kind, "-o", "x.tif", "--compression", "jpeg"), 2, "--compression jpeg", kind, "zlib")
    assert files(folder) == ["a.png"]


def test_an_image_of_a_file_of_several_is_chosen_by_its_number(segment, i2i, folder):
    first, second = picture(48, 64), picture(32, 40, seed=1)
    with tifffile.TiffWriter(folder / "two.ome.tif", ome=True) as file:
        for pixels in (first, second):
            file.write(pixels, photometric="minisblack", metadata={"axes": "YX"})
    result = done(segment("two.ome.tif", "-o", "a.tif"))
    assert "1 more image(s) in the file: only the first is read; --series 1 reads another" in result.err
    save("second.tif", second), done(segment("second.tif", "-o", "b.tif"))
    done(segment("two.ome.tif", "-o", "c.tif", "--series", "1", "--strict"))
    assert np.array_equal(load("c.tif"), load("b.tif"))
    done(segment("two.ome.tif", "-o", "d.tif", "--series", "0", "--strict"))
    assert np.array_equal(load("d.tif"), load("a.tif"))
    refused(segment("two.ome.tif", "--series", "2"), 2, "--series 2: two.ome.tif has the images 0 .. 1")
    refused(segment("two.ome.tif", "--series", "x"), 2, "--series x: two.ome.tif has the images 0 .. 1")
    refused(segment("second.tif", "--series", "1"), 2, "--series 1: second.tif has one image, 0")
    done(segment("second.tif", "-o", "e.tif", "--series", "0"))


def test_an_image_of_several_has_its_own_pixel_size_and_names(folder):
    """Though the first has as many pixels."""
    with tifffile.TiffWriter(folder / "two.ome.tif", ome=True) as file:
        for number, dtype in enumerate(("uint8", "uint16")):
            told = {"axes": "YX", "PhysicalSizeX": 0.5 + number, "PhysicalSizeY": 0.5 + number, "Name": f"image {number}"}
            file.write(picture(48, 64, dtype=dtype), photometric="minisblack", metadata=told)
    with closing(open_image(folder / "two.ome.tif")) as image:
        for number, size in enumerate((0.5, 1.5)):
            with closing(one_series(image, str(number), folder / "two.ome.tif")) as one:
                assert (one.spec.pixel_size, one.spec.name) == ((size, size), f"image {number}")
