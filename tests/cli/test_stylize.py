"""``i2i stylize`` from the command line, with what is bundled, and killed by the system."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

import i2i_style

SAMPLES = Path(i2i_style.__file__).parent / "samples"
PHOTO, STYLE = SAMPLES / "astronaut.jpg", SAMPLES / "starry_night.jpg"
QUICK = ("--size", "64", "--steps", "3")


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def test_a_photograph_and_a_style_are_enough(i2i, folder):
    (folder / "photo.jpg").write_bytes(PHOTO.read_bytes())
    done = i2i("stylize", "photo.jpg", "--style", STYLE, *QUICK)
    assert done.code == 0, done.err
    assert pixels(folder / "photo-stylize.jpg").shape == (64, 64, 3)


def test_the_report_says_what_was_done(i2i, folder):
    done = i2i("stylize", PHOTO, "--style", STYLE, *QUICK, "-o", "out.png", "--animate", "out.gif", "--save-every", "2", "--json")
    assert done.code == 0, done.err
    (run,) = json.loads(done.out)["runs"]
    assert run["model"] == "vgg-compact" and len(run["sha256"]) == 64 and run["exports"]["animate"] == "out.gif"
    steps = sorted(path.name for path in (folder / "out.png-steps").iterdir())
    assert steps and all(name.startswith("step-") and name.endswith(".png") for name in steps)
    with Image.open(folder / "out.gif") as animation:
        assert animation.n_frames >= 2 and animation.size == (64, 64)


def test_one_pass_for_any_style_and_any_size(i2i, folder):
    done = i2i("stylize", PHOTO, "--style", STYLE, "--fast", "-o", "fast.png")
    assert done.code == 0, done.err
    found, photo = pixels(folder / "fast.png"), pixels(PHOTO)
    assert found.shape == photo.shape and np.abs(found - photo).mean() > 10
    other = i2i("stylize", PHOTO, "--style", SAMPLES / "great_wave.jpg", "--fast", "-o", "wave.png")
    assert other.code == 0 and np.abs(found - pixels(folder / "wave.png")).mean() > 5


def test_windows_of_the_fast_method_are_the_whole(i2i, folder):
    Image.open(PHOTO).resize((260, 230)).save("small.png")
    for name, tile in (("whole.png", "auto"), ("tiled.png", "192")):
        done = i2i("stylize", "small.png", "--style", STYLE, "--fast", "-o", name, "--tile", tile, "--precision", "fp32")
        assert done.code == 0, done.err
    assert np.abs(pixels(folder / "whole.png") - pixels(folder / "tiled.png")).max() <= 1


def test_a_folder_goes_to_a_folder(i2i, folder):
    (folder / "frames").mkdir()
    for number in range(2):
        Image.open(PHOTO).resize((48, 40)).rotate(90 * number, expand=True).save(folder / "frames" / f"{number}.png")
    done = i2i("stylize", "frames", "--style", STYLE, "--steps", "2", "-o", "out")
    assert done.code == 0, done.err
    assert pixels(folder / "out/0.png").shape == (40, 48, 3) and pixels(folder / "out/1.png").shape == (48, 40, 3)


def test_images_side_by_side_are_what_they_are_in_turn(i2i, folder):
    (folder / "frames").mkdir()
    for number in range(4):
        Image.open(PHOTO).resize((64, 56)).rotate(90 * number, expand=True).save(folder / "frames" / f"{number}.png")
    for jobs in ("1", "3"):
        words = ("--style", STYLE, "--style", SAMPLES / "great_wave.jpg", "--fast", "--precision", "fp32")
        done = i2i("stylize", "frames", *words, "--jobs", jobs, "-o", jobs)
        assert done.code == 0, done.err
    for path in (folder / "1").iterdir():
        assert np.abs(pixels(path) - pixels(folder / "3" / path.name)).max() <= 1


def test_floats_that_are_no_picture_are_told_with_their_file(i2i, folder):
    """One of a folder, which the plugin is given as pixels alone."""
    (folder / "mix").mkdir()
    tifffile.imwrite(
        folder / "mix/bad.tif", np.linspace(0, 254, 3 * 40 * 40, dtype=np.float32).reshape(40, 40, 3), photometric="rgb"
    )
    Image.open(PHOTO).resize((40, 40)).save(folder / "mix/good.png")
    done = i2i("stylize", "mix", "--style", STYLE, "--fast", "-o", "out")
    assert done.code == 3 and (folder / "out/good.png").exists()
    assert "bad.tif: has float samples up to 254, where 1 is white" in done.err


def test_pictures_on_the_way_keep_the_colours_that_the_result_keeps(i2i, folder):
    done = i2i("stylize", PHOTO, "--style", STYLE, *QUICK, "--keep-colors", "luminance", "--save-every", "3", "-o", "out.png")
    assert done.code == 0, done.err
    *_, last = sorted((folder / "out.png-steps").iterdir())
    assert np.abs(pixels(last) - pixels(folder / "out.png")).max() <= 1


def test_a_dry_run_shows_the_plan_and_writes_nothing(i2i, folder):
    done = i2i("stylize", PHOTO, "--style", STYLE, "--size", "2048", "--dry-run")
    assert done.code == 0, done.err
    assert not list(folder.glob("*stylize*"))
    assert "2048" in done.out


def test_a_run_killed_by_the_system_goes_on_to_the_same_bytes(i2i, process, folder):
    words = ["stylize", PHOTO, "--style", STYLE, "--size", "256", "--steps", "6", "-o", "out.png"]
    before = "from i2i_style import gatys; gatys._KEEP_SECONDS = 0"
    child = process(*words, before=before)
    partial = folder / "out.png.i2i-partial"
    limit = time.monotonic() + 60
    while not list(partial.glob("blocks/**/checkpoint-256px*.npz")) and child.poll() is None and time.monotonic() < limit:
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert partial.exists() and not (folder / "out.png").exists()
    refused = i2i(*words)
    assert refused.code == 1 and "--resume" in refused.err
    for more in ([*words, "--resume"], [*words[:-1], "whole.png"]):
        child = process(*more)
        _, told = child.communicate()
        assert child.returncode == 0, told
    assert (folder / "out.png").read_bytes() == (folder / "whole.png").read_bytes()


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        ((), 2, "--style is required"),
        (("--style", "none.jpg"), 1, "none.jpg: no such file"),
        (("--style", STYLE, "--size", "many"), 2, "--size many"),
        (("--style", STYLE, "--fast", "--steps", "5"), 2, "--steps: belongs to the method that optimises"),
        (("--style", STYLE, "--encoder", "vgg19"), 1, "give that file in place of the name"),
        (("--style", STYLE, "--model", "vgg-compact"), 1, "vgg-compact is a part of a method, and has an option of its own"),
        (("--style", STYLE, "--model", "vgg19"), 1, "models for stylize: style-swap"),
        (("--style", STYLE, "--encoder", "nope"), 1, "models for stylize: vgg-compact, vgg19"),
        (("--style", STYLE, "--strength", "0.5"), 2, "--strength: belongs to --fast"),
        (("--style", STYLE, "--style-scale", "inf"), 2, "--style-scale inf: give a finite number"),
        (("--style", STYLE, "--rate", "nan"), 2, "--rate nan: give a finite number"),
        (("--style", STYLE, "--animate", "x.mp4"), 2, "x.mp4: end it with .gif"),
        (("--style", STYLE, "--mask", "none.png"), 1, "none.png: no such file"),
        (("--style", STYLE, "--mask", PHOTO, "--mask", PHOTO), 2, "--mask: 2 for 1"),
        (("--style", STYLE, "--style-layers", "conv7_1"), 2, "no layer conv7_1"),
    ],
)
def test_what_is_wrong_is_told_in_a_line(i2i, folder, words, code, told):
    done = i2i("stylize", PHOTO, "-o", "out.png", *words)
    assert done.code == code and told in done.err, done.err
    assert "Traceback" not in done.err and len(done.err.strip().splitlines()) == 1
    assert not list(folder.glob("out*"))


def test_a_style_is_never_written_over(i2i, folder):
    (folder / "style.jpg").write_bytes(STYLE.read_bytes())
    done = i2i("stylize", PHOTO, "--style", "style.jpg", "-o", "style.jpg", "--overwrite", *QUICK)
    assert done.code != 0 and "style.jpg" in done.err
    assert (folder / "style.jpg").read_bytes() == STYLE.read_bytes()


def test_the_help_offers_no_exporters_of_objects(i2i):
    done = i2i("stylize", "--help")
    assert done.code == 0 and "--animate" in done.out and "--geojson" not in done.out
