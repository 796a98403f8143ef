"""What a user can get wrong, and what can go wrong: one line that names the file and the cure, and an honest exit code."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys

import numpy as np
import pytest

from i2i import batch
from tests.cli.kit import done, files, load, on_disk, picture, refused, save

# -------------------------------------------------------------------------------------------------------------- usage


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["frobnicate"], ["frobnicate", "i2i --help"]),
        (["models", "burn"], ["burn", "i2i models --help"]),
        (["train", "nothing"], ["nothing", "i2i train --help"]),
        (["--frob"], ["--frob"]),
        (["segment"], ["INPUT", "i2i segment --help"]),
        (["segment", "a.png", "--frob"], ["--frob", "i2i segment --help"]),
        (["segment", "a.png", "--device"], ["--device"]),
        (["models", "info"], ["NAME"]),
        (["info"], ["FILE"]),
        (["info", "a.png", "b.png"], ["b.png"]),
        (["eval", "segment", "a.png"], ["TRUTH"]),
        (["train", "segment", "-o", "x.safetensors", "--images", "x"], ["--masks"]),
    ],
)
def test_a_wrong_call_is_one_line_that_says_where_the_help_is(i2i, words, told):
    refused(i2i(*words), 2, *told)


def test_a_suggestion_ends_as_a_question(i2i):
    assert "Did you mean 'segment'? See" in i2i("segmnt").err


# --------------------------------------------------------------------------------------------------------------- files


def _cut(path, share):
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.jpg"])
@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.9])
def test_a_truncated_file_is_an_error_that_names_it(segment, folder, name, share):
    _cut(save(name, picture(200, 300)), share)
    refused(segment(name, "--channels", "0"), 1, f"{name}: ", "empty" if share == 0 else "")
    assert files(folder) == [name]


def test_what_is_no_image_is_refused_by_its_content(segment, folder):
    (folder / "a.png").write_text("a picture of a cat")
    refused(segment("a.png"), 1, "a.png: not an image", "TIFF or PNG")
    (folder / "dir.png").mkdir()
    refused(segment("dir.png"), 1, "dir.png")


def test_an_image_with_another_name_is_read_with_a_warning_that_strict_makes_an_error(segment, folder, monkeypatch):
    save("a.png").rename(folder / "a.tif")
    result = done(segment("a.tif"))
    assert result.err.splitlines()[0] == "warning: a.tif: named .tif but its content is PNG: read as PNG"
    monkeypatch.setattr("i2i.planes.run_job", None)  # strict fails before anything is computed
    refused(segment("a.tif", "-o", "b.tif", "--strict"), 1, "a.tif: named .tif", "--strict")
    assert files(folder) == ["a-segment.tif", "a.tif"]


# -------------------------------------------------------------------------------------------------------------- models


class _Bomb:
    def __reduce__(self):
        return (print, ("executed",))


@pytest.mark.parametrize("name", ["a.safetensors", "a.pt"])
def test_a_pickle_is_never_opened(segment, folder, name):
    save("a.png"), (folder / name).write_bytes(pickle.dumps(_Bomb()))
    refused(segment("a.png", "--model", name), 1, f"{name}: ", "pickle", "safetensors")
    assert not (folder / "a-segment.png").exists()


def test_a_damaged_model_is_named(segment, folder, model):
    save("a.png"), (folder / "cut.safetensors").write_bytes(model.read_bytes()[:5000])
    refused(segment("a.png", "--model", "cut.safetensors"), 1, "cut.safetensors: damaged or cut short")
    (folder / "none.safetensors").touch()
    refused(segment("a.png", "--model", "none.safetensors"), 1, "none.safetensors: an empty file")
    refused(segment("a.png", "--model", "folder/none.safetensors"), 1, "none.safetensors: no such file")


def test_a_model_whose_weights_or_settings_do_not_fit_is_named(segment, folder, models):
    from safetensors.numpy import save_file

    save("a.png")
    refused(segment("a.png", "--model", models / "wrong.safetensors"), 1, "wrong.safetensors: its weights do not fit")
    save_file({"weight": picture()}, folder / "plain.safetensors")
    refused(segment("a.png", "--model", "plain.safetensors"), 1, "plain.safetensors", "not a model of segment")


def test_a_model_of_another_task_is_refused(segment, models):
    save("a.png")
    refused(segment("a.png", "--model", models / "other.safetensors"), 1, "other.safetensors", "translate", "segment")


@pytest.mark.parametrize("name", ["zebra", "nuclei-fluo2"])
def test_an_unknown_model_is_refused_with_those_that_there_are(segment, name):
    save("a.png")
    refused(segment("a.png", "--model", name), 1, repr(name), "nuclei-fluo")


def test_a_model_that_cannot_be_used_stops_each_image_of_a_batch_with_the_same_line(segment, folder):
    save("set/a.png"), save("set/b.png")
    result = segment("set", "--model", "zebra", "--json")
    assert result.code == 1 and len({run["error"] for run in result.json["runs"]}) == 1
    assert files(folder) == ["set/a.png", "set/b.png"]


def test_a_bug_in_a_plugin_fails_its_image_in_one_line(segment, folder, monkeypatch):
    from i2i_unet.predictor import UNetPredictor

    def fail(self, pixels):
        raise ZeroDivisionError("by nothing")

    monkeypatch.setattr(UNetPredictor, "normalize", fail)
    save("a.png")
    refused(segment("a.png"), 1, "a.png: ", "a bug in segment", "ZeroDivisionError: by nothing", "-v")
    assert files(folder) == ["a.png"]


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ZeroDivisionError("by nothing"), ["a bug in i2i: ZeroDivisionError: by nothing", "-v"]),
        (MemoryError("Unable to allocate 9 GB"), ["needs more memory than there is (Unable to allocate 9 GB)", "smaller image"]),
    ],
)
def test_what_nobody_foresaw_is_one_line_in_any_command(i2i, monkeypatch, error, told):
    def fail(*given, **options):
        raise error

    monkeypatch.setattr("i2i.api.evaluate", fail)
    refused(i2i("eval", "segment", "a.png", "b.png"), 1, *told)
    assert "Traceback" in i2i("eval", "segment", "a.png", "b.png", "-v").err


# ----------------------------------------------------------------------------------------------- signals, pipes, disks

_SLOW = """
import time
from i2i import planes
def slow(job):
    sys.stderr.write("started\\n")
    sys.stderr.flush()
    for _ in range(600):
        time.sleep(0.1)
        job.progress("infer", 0)
planes.run_job = slow
"""


@pytest.mark.parametrize(("number", "jobs"), [(signal.SIGINT, 1), (signal.SIGTERM, 2)])
def test_an_interrupted_run_says_so_and_leaves_nothing(process, folder, model, number, jobs):
    save("set/a.png"), save("set/b.png")
    with process("segment", "set", "-o", "out", "--model", model, "--jobs", jobs, before=_SLOW) as running:
        assert running.stderr.readline() == b"started\n"
        running.send_signal(number)
        out, err = running.communicate(timeout=60)
    lines = [line for line in err.decode().splitlines() if line != "started"]
    assert (running.returncode, out, lines) == (130, b"", ["interrupted"])
    assert files(folder) == ["set/a.png", "set/b.png"]


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_interrupted_run_reports_what_it_has_done(segment, monkeypatch, jobs):
    def stop(item):
        if item.name == "set/c.png":
            raise KeyboardInterrupt
        return begun(item)

    begun = batch.check_folders
    monkeypatch.setattr(batch, "check_folders", stop)
    save("set/a.png"), save("set/b.png").write_bytes(b""), save("set/c.png"), save("set/d.png")
    result = segment("set", "--json", "--jobs", jobs)
    assert (result.code, result.json["exit_code"], result.json["error"]) == (130, 130, "interrupted")
    ended = {run["input"]: run["status"] for run in result.json["runs"]}
    assert ended == {"set/a.png": "done", "set/b.png": "failed"} if jobs == 1 else "set/c.png" not in ended


def test_an_interrupted_run_that_kept_work_says_how_to_go_on(segment, folder, monkeypatch):
    from i2i import planes

    def stop(job):
        raise KeyboardInterrupt

    run = planes.run_job
    monkeypatch.setattr(planes, "run_job", stop)
    on_disk(monkeypatch)
    save("a.tif", np.tile(picture(100, 100), (9, 9)))
    result = segment("a.tif")
    assert result.code == 130 and "--resume" in result.err and result.err.endswith("\ninterrupted\n")
    assert (folder / "a-segment.tif.i2i-partial/manifest.json").exists() and not (folder / "a-segment.tif").exists()
    monkeypatch.setattr(planes, "run_job", run)
    refused(segment("a.tif"), 1, "a-segment.tif.i2i-partial", "--resume", "--overwrite")
    refused(segment("a.tif", "--resume", "--seed", "1"), 1, "a-segment.tif.i2i-partial", "another", "--overwrite")
    done(segment("a.tif", "--resume", "--csv", "a.csv"))
    assert files(folder) == ["a-segment.tif", "a.csv", "a.tif"]
    assert load("a-segment.tif").shape == (900, 900)


def test_an_interrupted_run_to_stdout_does_not_promise_what_is_gone(segment, monkeypatch):
    from i2i import planes

    def stop(job):
        raise KeyboardInterrupt

    monkeypatch.setattr(planes, "run_job", stop)
    on_disk(monkeypatch)
    save("a.png")
    result = segment("a.png", "-o", "-", "--format", "png")
    assert (result.code, result.stdout, result.err) == (130, b"", "interrupted\n")


def test_a_reader_that_goes_away_ends_the_program_quietly(process, folder, model):
    save("a.png", picture(600, 600))
    for words in (["segment", "a.png", "-o", "-", "--format", "tif", "--model", model], ["models", "list", "--json"]):
        with process(*words) as running:
            running.stdout.close()
            assert running.stderr.read() == b"" and running.wait(60) == 0


def test_a_reader_of_a_help_text_that_goes_away_is_no_failure(process):
    with process("models", "--help") as running:
        running.stdout.close()
        assert running.stderr.read() == b"" and running.wait(60) == 0


def test_a_full_disk_behind_stdout_is_an_error(process):
    with open("/dev/full", "wb") as full, process("models", "list", "--json", stdout=full) as running:
        assert running.stderr.read().decode().splitlines()[-1].startswith("error: stdout: cannot be written: No space left")
        assert running.wait(60) == 1


def test_the_program_ends_with_the_code_and_streams_that_scripts_rely_on(process, folder, model):
    save("set/a.png"), (folder / "set/b.png").touch()
    with process("segment", "set", "-o", "out", "--json", "--model", model) as running:
        out, err = running.communicate(timeout=60)
    assert running.returncode == json.loads(out)["exit_code"] == 3
    assert err.decode().splitlines()[-1].startswith("failed: set/b.png: ")


@pytest.mark.parametrize("verbose", [False, True])
def test_what_zarr_leaves_of_a_failed_write_is_told_once(process, verbose):
    """A disk that fills up while several chunks are written leaves tasks, of which asyncio tells at the process's end."""
    left = "import atexit, logging; atexit.register(lambda: logging.getLogger('asyncio').error('Task was destroyed'))"
    words = ["segment", "none.png", "-o", "x.png", *(["-v"] if verbose else [])]
    _, err = process(*words, before=left).communicate(timeout=300)
    assert ("Task was destroyed" in err.decode()) == verbose and "error: none.png" in err.decode()
    assert verbose or len(err.decode().splitlines()) == 1


def test_a_file_torch_where_it_is_started_is_not_meant(folder):
    """``python -m`` puts the folder before all that is installed."""
    save("a.png", picture(32, 40))
    for name in ("torch", "numpy"):
        (folder / f"{name}.py").write_text("raise RuntimeError('not this one')")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    ended = subprocess.run(
        [sys.executable, "-m", "i2i", "info", "a.png"], env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr


_SWALLOWED = """
import contextlib, signal
from i2i_unet.predictor import UNetPredictor
normalize = UNetPredictor.normalize
def swallowing(self, pixels):
    with contextlib.suppress(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    return normalize(self, pixels)
UNetPredictor.normalize = swallowing
signal.signal(signal.SIGINT, signal.default_int_handler)
"""


def test_an_interrupt_that_a_library_swallows_ends_the_run_all_the_same(process, folder, model):
    """As torch does while it imports what may be missing."""
    save("a.png", picture(64, 80))
    with process("segment", "a.png", "-o", "out.png", "--model", model, before=_SWALLOWED) as running:
        out, err = running.communicate(timeout=60)
    assert (running.returncode, out, err.splitlines()[-1:]) == (130, b"", [b"interrupted"])
    assert files(folder) == ["a.png"]
