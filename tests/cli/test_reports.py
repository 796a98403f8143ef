"""What a run says: on stdout, on stderr, as JSON, in pictures and tables."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from i2i.version import __version__
from tests.cli.kit import done, files, load, picture, refused, save


def _rows(path):
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def _failures(lines):
    """The line of numbers at the end of a run's messages, and the inputs that the lines below it name, with their reasons."""
    (place,) = [i for i, line in enumerate(lines) if line.endswith(" failed")]
    named = [line.removeprefix("failed: ").split(": ", 1) for line in lines[place + 1 :]]
    assert all(reason for _, reason in named)
    return lines[place], [name for name, _ in named]


@pytest.fixture
def broken(folder):
    """A folder of four images, two of which are damaged."""
    for number, name in enumerate("abcd"):
        save(f"set/{name}.png", picture(seed=number))
    (folder / "set/b.png").write_bytes((folder / "set/b.png").read_bytes()[:300])
    (folder / "set/c.png").write_bytes(b"")
    return folder / "set"


# -------------------------------------------------------------------------------------------------------------- batch


def test_a_damaged_image_does_not_stop_the_others(segment, folder, broken):
    result = segment("set", "-o", "out")
    assert result.code == 3 and result.stdout == b""
    assert files(folder / "out") == ["a.png", "d.png"]
    lines = result.err.splitlines()
    assert _failures(lines) == ("2 done, 2 failed", ["set/b.png", "set/c.png"])
    assert [line for line in lines if line.startswith("error: ")][1] == "error: set/c.png: the file is empty; get a complete copy"
    done(segment("set/a.png", "-o", "alone.png"))
    assert (folder / "alone.png").read_bytes() == (folder / "out/a.png").read_bytes()


@pytest.mark.parametrize("jobs", [1, 2])
def test_when_all_fail_the_exit_code_is_one(segment, folder, broken, jobs):
    result = segment("set/b.png", "set/c.png", "-o", "out", "--jobs", jobs)
    assert result.code == 1 and files(folder / "out") == []
    assert _failures(result.err.splitlines()) == ("2 failed", ["set/b.png", "set/c.png"])


def test_a_failed_image_names_itself_whatever_the_reason(i2i):
    for name in ("a.tif", "b.tif"):
        save(f"set/{name}", np.stack([picture(), picture()]), metadata={"axes": "CYX"}, ome=True)
    result = i2i("segment", "set", "--json")
    assert result.code == 1
    assert all(run["error"].startswith(run["input"]) for run in result.json["runs"])


# --------------------------------------------------------------------------------------------------------------- JSON


def test_json_is_one_document_with_all_that_the_contract_names(segment, folder):
    save("a.png", picture(200, 300))
    result = done(segment("a.png", "--json", "--tile", "64", "--overlay", "o.png"))
    assert set(result.json) == {"version", "exit_code", "error", "runs"} and result.json["error"] is None
    assert result.json["version"] == __version__
    run = result.run
    assert (run["status"], run["input"], run["output"]) == ("done", "a.png", "a-segment.png")
    assert (run["model"], len(run["sha256"]), run["kind"], run["error"], run["warnings"]) == ("grey", 64, "labels", None, [])
    assert run["plan"]["window"] == [64, 64] and run["plan"]["tiles"] > 1
    assert run["blocks_computed"] >= run["plan"]["blocks"] and run["blocks_reused"] == 0
    assert run["objects"] == load("a-segment.png").max()
    assert run["exports"] == {"overlay": "o.png"}
    assert min(run["seconds"].values()) >= 0 and run["peak_memory"] > 50e6


def test_json_says_which_options_are_not_the_defaults(segment, model):
    save("a.png")
    words = ["--tta", "--tile", "64", "--nan", "error"]
    run = done(segment("a.png", "--json", *words)).run
    assert run["options"] == {"tta": True, "model": [str(model)], "precision": "fp32", "tile": "64"}


def test_json_says_which_images_failed_and_why(segment, broken):
    result = segment("set", "-o", "out", "--json", "-q")
    assert result.code == result.json["exit_code"] == 3
    assert [run["status"] for run in result.json["runs"]] == ["done", "failed", "failed", "done"]
    assert "truncated" in result.json["runs"][1]["error"]


def test_json_is_there_even_when_nothing_is_begun(segment):
    save("a.png"), save("a-segment.png")
    result = segment("a.png", "--json")
    assert result.code == 1 and result.json["runs"] == []
    assert result.json["error"] in result.err and "exists" in result.json["error"]


# ------------------------------------------------------------------------------------------------------------- stderr


def test_quiet_prints_nothing_on_success_and_errors_on_failure(segment, broken):
    assert segment("set/a.png", "-o", "x.png", "-q").err == ""
    save("nan.tif", np.full((50, 50), np.nan, np.float32))
    assert segment("nan.tif", "--nan", "zero", "-q").err == ""
    result = segment("set", "-o", "out", "-q")
    assert result.code == 3 and all(line.startswith("error: ") for line in result.err.splitlines())


def test_a_finished_image_is_one_line_with_its_output_objects_time_and_model(segment):
    save("a.png")
    line, _hint = done(segment("a.png")).err.splitlines()
    assert line.startswith("a.png -> a-segment.png: ") and " objects, " in line and line.endswith(" s with grey")


def test_after_one_image_of_objects_a_hint_says_why_it_looks_black(segment):
    save("a.png"), save("set/a.png"), save("set/b.png")
    assert "--overlay" in done(segment("a.png", "-o", "1.png")).err.splitlines()[-1]
    shown = [
        done(segment("a.png", "-o", "2.png", "--overlay", "o.png")),
        done(segment("a.png", "-o", "3.png", "--json")),
        done(segment("a.png", "-o", "4.png", "-q")),
        done(segment("a.png", "-o", "5.png", "--as", "classes")),
        done(segment("a.png", "-o", "-", "--format", "png")),
        done(segment("set")),
    ]
    assert not any("--overlay" in result.err for result in shown)


_LOUD = """
import os
from i2i_unet.predictor import UNetPredictor
stdout, quiet = sys.stdout, UNetPredictor.normalize
def loud(self, pixels):
    print("printed")
    stdout.write("kept\\n")
    os.system("echo child")
    return quiet(self, pixels)
UNetPredictor.normalize = loud
"""


@pytest.mark.parametrize("words", [["--json"], ["-o", "-", "--format", "png"]])
def test_what_a_plugin_prints_does_not_touch_the_data_on_stdout(process, model, words):
    save("a.png")
    with process("segment", "a.png", "--model", model, *words, before=_LOUD) as running:
        out, err = running.communicate(timeout=60)
    assert running.returncode == 0 and {"printed", "kept", "child"} <= set(err.decode().split())
    assert out.startswith(b"\x89PNG") if "-o" in words else json.loads(out)["exit_code"] == 0


def test_what_a_plugin_prints_does_not_touch_the_data_in_this_process_either(segment, monkeypatch):
    from i2i_unet.predictor import UNetPredictor

    quiet = UNetPredictor.normalize
    monkeypatch.setattr(UNetPredictor, "normalize", lambda self, pixels: print("printed") or quiet(self, pixels))
    save("a.png")
    result = done(segment("a.png", "--json"))
    assert result.run["status"] == "done" and "printed" in result.err


def test_verbose_shows_where_an_error_came_from(segment, broken, caplog):
    with caplog.at_level("DEBUG", "i2i"):
        result = segment("set/c.png", "-v")
    assert result.code == 1 and "Traceback" in caplog.text and "error: set/c.png" in result.err
    result = segment("nope*.png", "-v")
    assert result.code == 2 and "Traceback" in result.err and result.err.splitlines()[-1].startswith("error: nope*.png")


def test_nothing_in_a_pipe_is_coloured(segment, i2i, broken, monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    for result in (segment("set", "-o", "out"), i2i("--help"), i2i("segment", "--help"), i2i("segment", "--nope")):
        assert "\x1b" not in result.out + result.err


def test_long_runs_tell_how_far_they_are_on_stderr_only(segment, monkeypatch):
    monkeypatch.setattr("i2i.cli.progress._EVERY", -1.0)
    save("a.png", picture(64, 3000))
    result = done(segment("a.png", "--tile", "64"))
    assert "a.png: infer " in result.err and result.stdout == b""


# ----------------------------------------------------------------------------------------------------------- exporters


@pytest.mark.parametrize("name", ["o.png", "o.jpg", "o.webp"])
@pytest.mark.parametrize("kind", ["labels", "classes", "probabilities"])
def test_an_overlay_is_a_small_picture_in_the_format_of_its_name(segment, kind, name):
    from PIL import Image

    save("a.tif", picture(64, 2500))
    done(segment("a.tif", "--as", kind, "--overlay", name))
    with Image.open(name) as image:
        assert image.format == {"png": "PNG", "jpg": "JPEG", "webp": "WEBP"}[name[2:]]
        assert image.mode == "RGB" and max(image.size) <= 2048 and image.size[1] >= 20


@pytest.mark.parametrize("name", ["o.bmp", "o", "o.gif"])
def test_an_overlay_that_is_no_picture_is_refused_before_anything_is_computed(segment, folder, name):
    save("a.png")
    refused(segment("a.png", "--overlay", name), 2, f"--overlay {name}", ".png, .jpg, .jpeg, .webp, .tif or .tiff")
    assert files(folder) == ["a.png"]


@pytest.mark.parametrize("scale", [1, 2, 4])
@pytest.mark.parametrize("shape", [(30, 40), (500, 1001), (2100, 60)])
@pytest.mark.parametrize("meaning", ["image", "labels"])
def test_an_overlay_of_a_scaled_result_shows_the_whole_input_beside_or_below(scale, shape, meaning):
    from i2i.contracts import Exported
    from i2i.exporters.overlay import draw
    from i2i.formats.views import ArraySource

    pixels = np.zeros((*shape, 1), np.uint8)
    pixels[-shape[0] // 5 :, -shape[1] // 5 :] = 255
    result = pixels.repeat(scale, 0).repeat(scale, 1)
    result = result if meaning == "image" else np.zeros_like(result, np.uint16)
    shown = draw(Exported(ArraySource(pixels), ArraySource(result), meaning))
    assert max(shown.shape) <= 2048
    below = shown[:, : shown.shape[1] // 2] if meaning == "image" else shown
    assert below[-1, -1].min() > 250 and below[0, 0].max() == 0
    assert abs(below.shape[0] / below.shape[1] / (shape[0] / shape[1]) - 1) < 0.05


def test_an_overlay_shows_the_input_where_there_is_no_object(segment):
    save("a.png", picture(96, 128))
    done(segment("a.png", "--overlay", "o.png"))
    shown, labels = load("o.png").astype(int), load("a-segment.png")
    grey = shown.max(2) == shown.min(2)
    assert grey[labels == 0].all() and not grey.all()


def test_a_table_has_a_row_for_each_object_and_agrees_with_the_labels(segment, folder):
    save("a.png")
    count = done(segment("a.png", "--csv", "a.csv", "--json")).run["objects"]
    rows, labels = _rows(folder / "a.csv"), load("a-segment.png")
    assert list(rows[0]) == ["id", "area", "y", "x", "top", "left", "bottom", "right"]
    assert [int(row["id"]) for row in rows] == list(range(1, count + 1))
    for row in rows:
        ys, xs = np.nonzero(labels == int(row["id"]))
        assert int(row["area"]) == len(ys)
        assert abs(float(row["y"]) - ys.mean()) < 0.01 and abs(float(row["x"]) - xs.mean()) < 0.01
        assert [int(row[k]) for k in ("top", "left", "bottom", "right")] == [ys.min(), xs.min(), ys.max() + 1, xs.max() + 1]


def test_several_images_have_their_tables_and_overlays_in_folders(segment, folder):
    save("set/a.png"), save("set/sub/b.tif")
    done(segment("set", "-o", "out", "--csv", "tables", "--overlay", "pictures"))
    assert files(folder / "tables") == ["a.csv", "sub/b.csv"] and files(folder / "pictures") == ["a.png", "sub/b.png"]


def test_an_image_without_objects_has_a_table_with_a_head_only(segment, folder):
    save("a.tif", np.zeros((64, 64), np.uint8))
    if done(segment("a.tif", "--csv", "a.csv", "--json")).run["objects"] == 0:
        assert len((folder / "a.csv").read_text().splitlines()) == 1


def test_a_table_of_classes_is_refused_before_anything_is_written(segment, folder):
    save("a.png")
    refused(segment("a.png", "--as", "classes", "--csv", "a.csv"), 2, "--csv takes labels", "--as")
    assert files(folder) == ["a.png"]


def test_an_exporter_that_fails_leaves_no_output_behind(segment, folder, monkeypatch):
    from i2i.errors import OutputError

    def fail(labels, scale):
        raise OutputError("a.csv: no room")

    monkeypatch.setattr("i2i.exporters.table.measure", fail)
    save("a.png")
    refused(segment("a.png", "--csv", "a.csv", "--overlay", "o.png"), 1, "a.csv: no room")
    assert files(folder) == ["a.png"]


def test_the_output_records_what_made_it(segment):
    from PIL import Image

    save("a.png")
    done(segment("a.png"))
    with Image.open("a-segment.png") as image:
        made = json.loads(image.text["i2i"])
    assert made["meaning"] == "labels" and made["record"]["model"] == "grey" and made["record"]["precision"] == "fp32"
