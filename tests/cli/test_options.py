"""Options that change how an image is computed, or where the options come from."""

from __future__ import annotations

import hashlib
import json
import subprocess

import numpy as np
import pytest
import torch

from i2i import estimate, loading
from i2i.backends import has_bf16
from tests.cli.kit import done, files, load, picture, refused, save


def _bytes(folder, *names):
    return [hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names]


# -------------------------------------------------------------------------------------------------------- determinism


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("kind", ["labels", "probabilities"])
def test_the_same_command_gives_the_same_bytes(segment, folder, kind, suffix):
    save("a.png")
    for name in ("x", "y"):
        done(segment("a.png", "--as", kind, "-o", f"{name}{suffix}"))
    assert len(set(_bytes(folder, f"x{suffix}", f"y{suffix}"))) == 1


def test_the_same_seed_gives_the_same_bytes_where_an_image_is_too_large_to_be_measured_whole(segment, folder):
    save("a.tif", np.tile(picture(256, 256), (9, 8)))
    plans = [done(segment("a.tif", "-o", f"{name}.tif", "--seed", "1", "--json")).run["plan"] for name in ("x", "y")]
    assert len(set(_bytes(folder, "x.tif", "y.tif"))) == 1 and plans[0] == plans[1]


def test_several_threads_find_what_one_finds(segment, monkeypatch):
    save("a.png", picture(200, 300))
    one = done(segment("a.png", "-o", "one.png", "--json")).run
    monkeypatch.setattr("i2i.planner.available_cores", lambda: 3)
    try:
        three = done(segment("a.png", "-o", "three.png", "--json")).run
        assert (one["plan"]["threads"], three["plan"]["threads"], torch.get_num_threads()) == (1, 3, 3)
    finally:
        torch.set_num_threads(1)
    assert np.mean(load("one.png") == load("three.png")) > 0.999


@pytest.mark.parametrize("words", [["--tile", "64"], ["--tile", "64", "--batch", "3"], ["--tile", "80", "--memory", "1.5GB"]])
def test_the_tiling_does_not_change_the_labels(segment, words):
    save("a.png", picture(200, 300))
    done(segment("a.png", "-o", "whole.png", "--tile", "512"))
    run = done(segment("a.png", "-o", "tiled.png", "--json", *words)).run
    assert run["plan"]["tiles"] > 1 and run["plan"]["exact"]
    assert np.array_equal(load("whole.png"), load("tiled.png"))


def test_jobs_side_by_side_give_the_same_bytes_with_one_model(segment, folder, monkeypatch):
    loaded = []
    original = loading.find_model
    monkeypatch.setattr(loading, "find_model", lambda *given: loaded.append(given) or original(*given))
    names = [f"{number}.png" for number in range(5)]
    for number, name in enumerate(names):
        save(f"set/{name}", picture(seed=number))
    done(segment("set", "-o", "one", "--jobs", "1"))
    assert len(loaded) == 1
    done(segment("set", "-o", "two", "--jobs", "2"))
    assert len(loaded) == 2
    assert _bytes(folder / "one", *names) == _bytes(folder / "two", *names)


# ---------------------------------------------------------------------------------------------------------- precision


def test_bf16_finds_the_foreground_that_fp32_finds(i2i):
    if not has_bf16("cpu"):
        pytest.skip("this processor has no bf16")
    save("a.png", picture(256, 256))
    for precision in ("fp32", "bf16"):
        run = done(i2i("segment", "a.png", "-o", f"{precision}.png", "--precision", precision, "--json", "--device", "cpu")).run
        assert run["plan"]["precision"] == precision
    agree = (load("fp32.png") > 0) == (load("bf16.png") > 0)
    assert agree.mean() >= 0.995 and (load("fp32.png") > 0).mean() > 0.05


def test_a_file_without_a_card_runs_in_fp32_for_nobody_vouches_for_more(i2i, model):
    save("a.png")
    assert done(i2i("segment", "a.png", "--model", model, "--json")).run["plan"]["precision"] == "fp32"


# ------------------------------------------------------------------------------------------------------------- verify


def test_verify_reports_a_small_difference(segment):
    save("a.png", picture(200, 300))
    result = done(segment("a.png", "--tile", "64", "--verify", "3", "--json"))
    assert 0 <= result.run["verified"] < 1e-4
    assert "verified: another tiling differs by " in result.err


def test_verify_fails_above_the_tolerance_and_writes_nothing(segment, folder, monkeypatch):
    monkeypatch.setattr("i2i.planes.verify", lambda job, count: 0.5)
    save("a.png")
    refused(segment("a.png", "--verify", "1"), 1, "--verify", "5.0e-01")
    assert files(folder) == ["a.png"]


# ------------------------------------------------------------------------------------------------------------- config


def test_options_come_from_a_file_and_those_of_the_command_line_come_first(segment, folder):
    save("a.png")
    lines = ['as = "classes"', "tile = 64", "jobs = 2", "skip-existing = true", 'overlay = "o.png"', "json = true"]
    (folder / "run.toml").write_text("\n".join(lines))
    run = done(segment("a.png", "--config", "run.toml", "-o", "x.png")).run
    assert (run["kind"], run["plan"]["tile"], run["exports"]) == ("classes", [64, 64], {"overlay": "o.png"})
    (folder / "o.png").unlink()
    run = done(segment("a.png", "--config", "run.toml", "-o", "y.png", "--tile", "auto", "--as", "labels")).run
    assert (run["kind"], run["objects"] is not None) == ("labels", True) and run["plan"]["tile"] != [64, 64]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("colour = 1", ["run.toml", "no option --colour"]),
        ("tile = ", ["run.toml", "not a TOML file"]),
        ('jobs = "many"', ["--jobs"]),
        ("jobs = 0", ["--jobs 0", "at least 1"]),
        ('nan = "maybe"', ["--nan maybe", "zero, error"]),
        ("[model]\nname = 1", ["run.toml: model"]),
    ],
)
def test_a_bad_config_is_a_usage_error_that_names_it(segment, folder, text, words):
    save("a.png")
    (folder / "run.toml").write_text(text)
    refused(segment("a.png", "--config", "run.toml"), 2, *words)


def test_a_config_of_a_windows_editor_is_read(segment, folder):
    save("a.png"), (folder / "run.toml").write_bytes(b'\xef\xbb\xbfas = "classes"\r\n')
    assert done(segment("a.png", "--config", "run.toml", "--json")).run["kind"] == "classes"


def test_a_missing_config_is_named(segment):
    save("a.png")
    refused(segment("a.png", "--config", "none.toml"), 2, "--config none.toml: no such file")


# ------------------------------------------------------------------------------------------------------------ dry run


def test_a_dry_run_writes_nothing_and_prints_the_plan(segment, folder):
    save("set/a.png", picture(200, 300)), save("set/b.png"), save("set-segment/b.png")
    before = files(folder)
    result = done(segment("set", "--dry-run", "--tile", "64", "--csv", "tables"))
    assert files(folder) == before and not (folder / "tables").exists()
    lines = result.out.splitlines()
    assert lines[0] == "set/a.png -> set-segment/a.png"
    assert [line.split()[0] for line in lines[1:6]] == ["result", "tiles", "computing", "memory", "disk"]
    assert "windows of 64 x 64" in lines[2] and "the same as the whole image" in lines[2]
    assert result.err == "2 planned\n"


def test_a_dry_run_measures_images_that_are_alike_once_and_ends_with_the_total(segment, monkeypatch):
    measured = []
    monkeypatch.setattr(estimate, "seconds", lambda job, planes, write: measured.append(job.source.spec) or 7.0)
    for name in ("a", "b", "c"):
        save(f"set/{name}.png")
    save("set/d.png", picture(97, 128)), save("set/e.tif")
    lines = done(segment("set", "--dry-run")).out.splitlines()
    assert [(spec.height, spec.width) for spec in measured] == [(96, 128), (97, 128), (96, 128)], "a TIFF is written otherwise"
    times = [line for line in lines if line.startswith("  time ")]
    assert len(times) == 5 and all(7 <= float(line.split()[2]) < 20 for line in times)
    assert lines[-1].startswith("total: 5 images, about ") and lines[-1].endswith(" kB of disk")


def test_a_dry_run_prints_each_plan_when_it_is_known(process, folder, model):
    save("a.png"), save("b.png")
    before = """
from i2i import batch
begun = batch._compute
def compute(session, item, progress):
    if item.name == "b.png":
        sys.stdin.read()  # until the test has seen the first plan
    return begun(session, item, progress)
batch._compute = compute
"""
    words = ["segment", "a.png", "b.png", "--model", model, "--dry-run"]
    with process(*words, before=before, stdin=subprocess.PIPE) as running:
        assert running.stdout.readline().startswith(b"a.png -> ")
        out, _ = running.communicate(timeout=60)
    assert running.returncode == 0 and out.decode().splitlines()[-1].startswith("total: 2 images, about ")


def test_a_dry_run_as_json_has_the_plan_and_the_seconds(segment, folder):
    save("a.png")
    run = done(segment("a.png", "--dry-run", "--json")).run
    assert run["status"] == "planned" and files(folder) == ["a.png"]
    assert {"window", "tiles", "blocks", "memory", "seconds", "exact", "device", "precision"} <= set(run["plan"])


# ------------------------------------------------------------------------------------------------------ wrong numbers


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--tile", "abc"], ["--tile abc", "whole number"]),
        (["--tile", "0"], ["--tile 0", "from 1"]),
        (["--tile", "20"], ["--tile", "20 pixels is too small", "at least"]),
        (["--batch", "0"], ["--batch 0", "from 1"]),
        (["--batch", "-1"], ["--batch"]),
        (["--memory", "100MB"], ["--memory 100MB", "1.5GB"]),
        (["--memory", "4"], ["--memory 4", "4GB"]),
        (["--memory", "abc"], ["--memory abc", "2GB"]),
        (["--jobs", "0"], ["--jobs 0", "at least 1"]),
        (["--jobs", "two"], ["--jobs"]),
        (["--level", "-1"], ["--level -1"]),
        (["--verify", "-1"], ["--verify -1"]),
        (["--seed", "x"], ["--seed"]),
        (["--device", "abacus"], ["--device abacus", "cpu"]),
        (["--precision", "fp8"], ["--precision fp8", "bf16"]),
        (["--backend", "none"], ["--backend none", "torch"]),
        (["--nan", "keep"], ["--nan keep", "zero"]),
    ],
)
def test_an_impossible_value_is_a_usage_error_that_names_the_option(segment, folder, words, told):
    save("a.png", picture(200, 300))
    refused(segment("a.png", *words), 2, *told)
    assert files(folder) == ["a.png"]


def test_a_window_too_small_for_the_bundled_model_says_what_it_needs(i2i):
    save("a.png", picture(300, 400))
    refused(i2i("segment", "a.png", "--tile", "100"), 2, "--tile", "100 pixels is too small", "at least")


def test_a_device_that_is_not_there_is_refused_with_those_that_are(segment):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    save("a.png")
    refused(segment("a.png", "--device", "cuda"), 2, "--device cuda", "cpu")


def test_options_are_refused_before_outputs_are_looked_at(segment):
    save("a.png"), save("a-segment.png")
    refused(segment("a.png", "--tile", "abc"), 2, "--tile abc")


def test_an_option_that_fits_only_some_images_fails_only_the_others(segment):
    save("set/a.tif"), save("set/b.tif", np.stack([picture(), picture()]), metadata={"axes": "CYX"}, ome=True)
    result = segment("set", "--channels", "1", "--json")
    assert result.code == 3
    assert [run["status"] for run in json.loads(result.stdout)["runs"]] == ["failed", "done"]


# ------------------------------------------------------------------------------------------------------------ empty text


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("INPUT", ["segment", ""]),
        ("INPUT", ["segment", "a.png", ""]),
        ("-o", ["segment", "a.png", "-o", ""]),
        ("--csv", ["segment", "a.png", "--csv="]),
        ("--config", ["segment", "a.png", "--config", ""]),
        ("--model", ["segment", "a.png", "--model", ""]),
        ("--as", ["segment", "a.png", "--config", "empty.toml"]),
        ("PREDICTION", ["eval", "segment", "", ""]),
        ("--images", ["train", "segment", "--images", "", "--masks", "", "-o", "x.safetensors"]),
        ("FILE", ["info", ""]),
        ("FOLDER", ["demo", ""]),
    ],
)
def test_an_empty_text_is_no_value(i2i, folder, name, words):
    save("a.png"), (folder / "empty.toml").write_text('as = ""\n')
    refused(i2i(*words), 2, f"error: {name}: is empty (an unset variable?)")
    assert files(folder) == ["a.png", "empty.toml"]
