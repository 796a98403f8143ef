"""What ``--skip-existing`` and ``--resume`` take for a complete output, and what they say of anything else."""

from __future__ import annotations

import numpy as np
import pytest

from i2i.provenance import record_of
from i2i.registry import Registry
from tests.cli.kit import done, files, picture, refused, save

KEEPING = pytest.mark.parametrize("keeping", ["--skip-existing", "--resume"])


@pytest.fixture
def other(folder, model):
    """Another model than ``model``: the same network, of other bytes."""
    from i2i.models import open_model, save_model

    known = open_model(model)
    weights = {name: tensor * 1.5 for name, tensor in known.tensors().items()}
    save_model(folder / "other.safetensors", weights, known.config)
    return folder / "other.safetensors"


@KEEPING
@pytest.mark.parametrize("content", [b"", b"junk that is no image at all", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"])
def test_what_is_no_image_is_no_complete_output_and_stops_no_other(segment, folder, keeping, content):
    save("set/a.png"), save("set/b.png")
    (folder / "out").mkdir(), (folder / "out/a.png").write_bytes(content)
    result = segment("set", "-o", "out", keeping)
    assert result.code == 3 and "1 done, 1 failed" in result.err
    assert "error: out/a.png: exists, and is no complete result; --overwrite replaces it\n" in result.err
    assert (folder / "out/a.png").read_bytes() == content and (folder / "out/b.png").exists()


@KEEPING
def test_an_empty_folder_is_no_complete_store(segment, folder, keeping):
    save("a.png"), (folder / "x.zarr").mkdir()
    refused(segment("a.png", "-o", "x.zarr", keeping), 1, "x.zarr: exists, and is no complete result")
    assert (folder / "x.zarr").is_dir()


@pytest.mark.parametrize("name", ["x.png", "x.tif", "x.zarr"])
def test_a_result_of_another_model_is_refused_by_resume_and_told_by_skip_existing(segment, i2i, other, name):
    save("a.png"), done(segment("a.png", "-o", name))
    assert "left alone" in done(segment("a.png", "-o", name, "--resume")).err
    words = ["segment", "a.png", "-o", name, "--model", other]
    refused(i2i(*words, "--resume"), 1, f"{name}: exists, and was made by another model (grey ", "--overwrite")
    refused(i2i(*words, "--skip-existing", "--strict"), 1, f"{name}: exists, and was made by another model")
    told = done(i2i(*words, "--skip-existing", "--json"))
    assert told.run["status"] == "skipped" and "was made by another model (grey " in told.run["warnings"][0]
    assert f"warning: a.png: {name} is left as it is: it was made by another model" in told.err


def test_a_result_of_several_models_is_not_that_of_the_first(segment, i2i, model, other):
    save("a.png"), done(i2i("segment", "a.png", "-o", "x.png", "--model", model, "--model", other, "--precision", "fp32"))
    refused(segment("a.png", "-o", "x.png", "--resume"), 1, "x.png: exists, and was made by another model (grey+other ")


def test_a_result_of_a_model_of_one_s_own_is_not_that_of_the_default(segment, i2i):
    save("a.png"), done(segment("a.png"))
    refused(i2i("segment", "a.png", "--resume"), 1, "a-segment.png: exists, and was made by another model (grey ")


def test_a_result_of_another_kind_is_told_whichever_was_asked_for(segment):
    save("a.png"), done(segment("a.png", "-o", "x.png", "--as", "probabilities")), done(segment("a.png", "-o", "y.png"))
    refused(segment("a.png", "-o", "x.png", "--resume"), 1, "x.png: exists, and holds probabilities, not labels")
    refused(segment("a.png", "-o", "y.png", "--resume", "--as", "classes"), 1, "y.png: exists, and holds labels, not classes")
    done(segment("a.png", "-o", "x.png", "--as", "probabilities", "--resume"))


def test_a_result_of_another_task_is_told(segment, i2i):
    save("a.png"), done(segment("a.png", "-o", "x.png"))
    refused(i2i("instances", "a.png", "-o", "x.png", "--resume"), 1, "x.png: exists, and was made by segment")


@KEEPING
def test_a_missing_export_fails_its_own_image_only(segment, folder, keeping):
    save("set/a.png"), save("set/b.png"), save("set/c.png")
    done(segment("set", "-o", "out", "--csv", "tables"))
    (folder / "out/a.png").unlink(), (folder / "tables/a.csv").unlink(), (folder / "tables/b.csv").unlink()
    result = segment("set", "-o", "out", "--csv", "tables", keeping)
    assert result.code == 3 and "1 done, 1 skipped, 1 failed" in result.err
    assert "error: out/b.png: complete, but tables/b.csv is missing; --overwrite computes both again\n" in result.err
    assert files(folder / "tables") == ["a.csv", "c.csv"]


@pytest.mark.parametrize("name", ["x.jpg", "x.webp", "x.png", "x.tif", "x.ome.zarr"])
def test_the_record_is_read_from_every_format_that_is_written(folder, name):
    from i2i.contracts import Metadata
    from i2i.formats import ArraySource, format_for_output

    record, formats = {"task": "stylize", "kind": "image"}, Registry().formats()
    source = ArraySource(np.stack([picture()] * 3, axis=-1))
    format_for_output(folder / name, formats).write(folder / name, source, Metadata("image", record, "ab"))
    assert record_of(folder / name, formats) == record


def test_a_picture_without_a_record_says_nothing(folder):
    formats = Registry().formats()
    for name in ("a.png", "a.jpg", "a.tif"):
        assert record_of(save(name), formats) == {}
