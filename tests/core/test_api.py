"""i2i from Python."""

from __future__ import annotations

import os
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

import i2i
from i2i import manifest
from i2i.errors import InputError, ModelError, OutputError, UsageError
from i2i.formats import open_image

SAMPLE = Path(__file__).parents[2] / "plugins/i2i_unet/samples/nuclei.png"


def sample() -> np.ndarray:
    source = open_image(SAMPLE)
    try:
        return source.read(source.spec.region)[..., 0]
    finally:
        source.close()


@pytest.fixture(scope="module")
def segment():
    return i2i.load("segment", precision="fp32")


def test_an_array_gives_the_labels_of_its_file(segment, tmp_path):
    i2i.run("segment", SAMPLE, tmp_path / "labels.png", precision="fp32")
    written = open_image(tmp_path / "labels.png")
    assert np.array_equal(segment(sample()), written.read(written.spec.region)[..., 0])
    written.close()


def test_a_folder_is_run_with_exporters(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.png").write_bytes(SAMPLE.read_bytes())
    (tmp_path / "in/b.png").write_bytes(b"no image")
    done, failed = i2i.api.run_many("segment", [tmp_path / "in"], tmp_path / "out", csv=tmp_path / "tables", tile=256)
    assert (tmp_path / "tables/a.csv").read_text("utf-8").startswith("id,") and not done.error
    assert "b.png" in failed.error and not (tmp_path / "tables/b.csv").exists()


@pytest.mark.parametrize("dtype", ["uint16", "int32", "float32", "float64"])
def test_the_dtype_of_an_array_changes_nothing(segment, dtype):
    assert np.array_equal(segment(sample().astype(dtype)), segment(sample()))


def test_nan_in_an_array_is_refused_or_read_as_zero(segment):
    pixels = sample().astype(np.float32)
    pixels[3, 4] = np.nan
    with pytest.raises(InputError, match="1 sample is NaN or Inf"):
        segment(pixels)
    lenient = i2i.load("segment", precision="fp32", nan="zero")
    pixels_zero = np.nan_to_num(pixels)
    assert np.array_equal(lenient(pixels), segment(pixels_zero))


@pytest.mark.parametrize("shape", [(5,), (0, 5), (2, 3, 4, 5), (8, 8, 0)])
def test_arrays_that_are_no_image_are_refused(segment, shape):
    with pytest.raises(InputError, match="expected"):
        segment(np.zeros(shape, np.uint8))


def test_an_array_with_other_channels_is_refused(segment):
    with pytest.raises(InputError, match="has 3 channels, the model takes 1"):
        segment(np.zeros((32, 32, 3), np.uint8))


def test_kinds_of_result_are_chosen_as_on_the_command_line():
    probabilities = i2i.load("segment", as_="probabilities", precision="fp32")(sample())
    assert probabilities.shape == (*sample().shape, 3)
    assert np.abs(probabilities.astype(int).sum(2) - 255).max() <= 2


def test_options_of_files_and_unknown_ones_are_refused():
    with pytest.raises(UsageError, match="about files"):
        i2i.load("segment", plane="z=1")
    with pytest.raises(UsageError, match="unknown option"):
        i2i.load("segment", tiles=3)
    with pytest.raises(UsageError, match="no task"):
        i2i.load("colourise")
    with pytest.raises(ModelError, match="channels"):
        i2i.load("segment", channels_in=7)


def test_values_of_the_wrong_type_are_one_line():
    with pytest.raises(UsageError, match="--jobs 'x': expected int"):
        i2i.run("segment", SAMPLE, jobs="x")


def test_run_reports_and_refuses_what_exists(tmp_path):
    output = tmp_path / "labels.tif"
    report = i2i.run("segment", SAMPLE, output, precision="fp32", tile=320, overlay=tmp_path / "look.png")
    assert (report.status, report.model, report.objects) == ("done", "nuclei-fluo", 24)
    assert (tmp_path / "look.png").exists()
    with pytest.raises(OutputError, match="exists"):
        i2i.run("segment", SAMPLE, output)


def test_a_large_input_changed_in_its_middle_is_another(tmp_path):
    large = tmp_path / "large.bin"
    with large.open("wb") as stream:
        stream.truncate(70 * 2**20)
    before = manifest._stamp(large)
    with large.open("r+b") as stream:
        stream.seek(35 * 2**20)
        stream.write(b"changed")
    os.utime(large, ns=(1, 2))
    assert before and manifest._stamp(large) != before


def test_load_computes_on_the_backend_that_was_asked_for():
    pytest.importorskip("openvino", reason="the extra openvino is not installed")
    from i2i.backends import openvino

    pixels = sample()[:96, :128]
    with mock.patch.object(openvino, "compile_window", wraps=openvino.compile_window) as compiled:
        found = i2i.load("segment", precision="fp32", backend="openvino")(pixels)
        assert compiled.call_count
    assert np.array_equal(found > 0, i2i.load("segment", precision="fp32")(pixels) > 0)


def test_a_detector_tells_what_it_knows_of_its_objects():
    loaded = i2i.load("instances", precision="fp32", score=0.3)
    labels, objects = loaded.with_objects(sample()[:128, :160].tolist())
    assert np.array_equal(labels, loaded(sample()[:128, :160])) and labels.max() > 3
    assert len(objects.scores) == len(objects.classes) >= labels.max() and (objects.scores >= 0.3).all()
    assert set(objects.classes.tolist()) <= set(objects.class_names)


def test_a_network_that_is_no_detector_knows_nothing_more(segment):
    labels, objects = segment.with_objects(sample()[:96, :96])
    assert labels.shape == (96, 96) and objects is None


def test_mistakes_are_told_with_what_there_is(segment):
    with pytest.raises(UsageError, match="run takes the path of an image, not ndarray; load"):
        i2i.run("segment", sample())
    with pytest.raises(UsageError, match="unknown option 'tiles'; there are: .*overwrite.*tile, .*tta"):
        i2i.run("segment", SAMPLE, tiles=3)
    with pytest.raises(InputError, match=r"channels_in=3\) chooses"):
        segment(np.zeros((32, 32, 3), np.uint8))
    assert i2i.load("segment", channels_in=3).models[0].name == "nuclei-brightfield"
