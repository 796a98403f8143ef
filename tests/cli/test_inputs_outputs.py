"""What can be put in, where it comes out, and what is refused before anything is written."""

from __future__ import annotations

import errno
import io
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
from PIL import Image

from tests.cli.kit import blobs, done, files, load, picture, refused, save

# ------------------------------------------------------------------------------------------------------ names of outputs


def test_a_file_gets_the_task_in_its_name_beside_it(segment, folder):
    save("deep/photo.one.png")
    done(segment("deep/photo.one.png"))
    assert files(folder) == ["deep/photo.one-segment.png", "deep/photo.one.png"]


@pytest.mark.parametrize("name", ["x.ome.tif", "x.OME.TIFF"])
def test_ome_and_what_follows_is_one_suffix(segment, folder, name):
    save(f"set/{name.lower()}").rename(folder / "set" / name)
    suffix = "." + name.rsplit(".", 1)[1].lower()
    done(segment(f"set/{name}", "-o", f"a{suffix}"))
    done(segment(f"set/{name}"))
    (folder / f"set/x-segment{suffix}").rename(folder / f"b{suffix}")
    done(segment("set", "--csv", "tables"))
    assert files(folder) == sorted([f"a{suffix}", f"b{suffix}", f"set/{name}", f"set-segment/x{suffix}", "tables/x.csv"])


def test_a_jpeg_gives_a_png_for_labels_must_not_be_lossy(segment, folder):
    save("photo.jpg")
    done(segment("photo.jpg"))
    assert files(folder) == ["photo-segment.png", "photo.jpg"]


@pytest.mark.parametrize(("name", "suffix"), [("a.tif", ".tif"), ("a.TIFF", ".tiff"), ("a.webp", ".png"), ("a.bmp", ".png")])
def test_the_suffix_is_the_inputs_where_it_can_be_written_without_loss(segment, folder, name, suffix):
    Image.fromarray(picture()).convert("L").save(folder / name)
    result = segment(name, *(["--channels", "0"] if name.endswith("webp") else []))
    done(result)
    assert f"a-segment{suffix}" in files(folder)


def test_several_inputs_go_to_a_folder_beside_theirs_and_keep_their_structure(segment, folder):
    save("set/a.png"), save("set/sub/deeper/a.tif")
    result = done(segment("set"))
    assert files(folder / "set-segment") == ["a.png", "sub/deeper/a.tif"]
    assert "set/sub/deeper/a.tif -> set-segment/sub/deeper/a.tif" in result.err


def test_files_of_the_current_folder_go_to_one_beside_it(segment, folder, monkeypatch):
    save("set/a.png"), save("set/b.png")
    monkeypatch.chdir(folder / "set")
    done(segment("a.png", "b.png"))
    assert files(folder) == ["set-segment/a.png", "set-segment/b.png", "set/a.png", "set/b.png"]


def test_a_folder_is_searched_for_images_only(segment, folder):
    save("set/a.png"), save("set/.hidden.png"), save("set/.git/b.png"), save("set/x.i2i-partial/c.png")
    (folder / "set/notes.txt").write_text("none")
    done(segment("set", "-o", "out"))
    assert files(folder / "out") == ["a.png"]


def test_results_in_the_input_folder_are_no_inputs_of_the_next_run(segment, folder):
    save("set/a.png")
    for extra in ([], ["--overwrite"]):
        done(segment("set", "-o", "set/out", *extra))
    assert files(folder) == ["set/a.png", "set/out/a.png"]


def test_a_quoted_glob_names_files_below_its_first_wildcard(segment, folder):
    save("set/a.png"), save("set/sub/b.png"), save("set/sub/c.tif")
    done(segment("set/**/*.png", "-o", "out"))
    assert files(folder / "out") == ["a.png", "sub/b.png"]


def test_a_file_whose_name_looks_like_a_glob_is_that_file(segment, folder):
    save("a[1].png")
    done(segment("a[1].png"))
    assert "a[1]-segment.png" in files(folder)


@pytest.mark.parametrize(
    ("output", "place"), [("there", "there/a.png"), ("new/", "new/a.png"), ("new/deep/b.tif", "new/deep/b.tif")]
)
def test_the_output_is_a_file_or_a_folder_and_missing_folders_are_made(segment, folder, output, place):
    save("a.png"), (folder / "there").mkdir()
    done(segment("a.png", "-o", output))
    assert files(folder) == sorted(["a.png", place])


def test_format_chooses_the_suffix_of_outputs_that_i2i_names(segment, folder):
    save("set/a.png")
    done(segment("set", "--format", "tif"))
    assert files(folder / "set-segment") == ["a.tif"]
    refused(segment("set/a.png", "-o", "b.png", "--format", "tif"), 2, "--format tif", "b.png")


def test_a_name_without_suffix_is_refused_with_the_two_cures(segment, folder):
    save("a.png")
    refused(segment("a.png", "-o", "result"), 2, "result.png", "/ for a folder")
    assert files(folder) == ["a.png"]


@pytest.mark.parametrize("name", ["x.xyz", "x.bmp", "x.svs"])
def test_a_suffix_that_is_not_written_is_refused_with_those_that_are(segment, folder, name):
    save("a.png")
    refused(segment("a.png", "-o", name), 2, name, ".tif", ".png")


@pytest.mark.parametrize("option", ["--csv", "--geojson", "--overlay", "--crops", "--coco"])
def test_an_export_does_not_go_to_stdout(segment, folder, option):
    save("a.png")
    refused(segment("a.png", option, "-"), 2, f"{option} -: ", "give a name")
    assert files(folder) == ["a.png"]


def test_the_table_of_an_evaluation_does_not_go_to_stdout(i2i, folder):
    save("a.png"), save("b.png")
    refused(i2i("eval", "segment", "a.png", "b.png", "--csv", "-"), 2, "--csv -: ", "give a name")
    assert files(folder) == ["a.png", "b.png"]


@pytest.mark.parametrize("name", ["list.txt", "-"])
def test_a_list_names_inputs_one_a_line(segment, folder, name):
    save("a.png"), save("with space.png"), save("set/c.png"), save("d.png")
    text = b"\xef\xbb\xbfa.png\r\n\r\nwith space.png\r\nset\n  \nnope.png"
    (folder / "list.txt").write_bytes(text)
    result = segment("d.png", "--inputs-from", name, "-o", "out", stdin=text)
    assert result.code == 3 and "error: nope.png: no such file; check the name\n" in result.err
    assert files(folder / "out") == ["a.png", "c.png", "d.png", "with space.png"]


def test_a_list_of_one_is_several_inputs_all_the_same(segment, folder):
    save("a.png"), (folder / "list.txt").write_text("a.png\n")
    done(segment("--inputs-from", "list.txt", "-o", "out"))
    assert files(folder) == ["a.png", "list.txt", "out/a.png"]


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"\r\n \n", ["names no input"]), ("a.png".encode("utf-16"), ["UTF-8"]), (None, ["no such file"])],
)
def test_a_list_that_names_nothing_is_a_usage_error(segment, folder, content, words):
    if content is not None:
        (folder / "list.txt").write_bytes(content)
    refused(segment("--inputs-from", "list.txt"), 2, "--inputs-from list.txt: ", *words)


@pytest.mark.parametrize("name", ["x.tif", "x.zarr", "new/x.png"])
def test_one_file_for_several_inputs_is_refused(segment, folder, name):
    save("a.png"), save("b.png"), save("set/c.png")
    refused(segment("a.png", "b.png", "-o", name), 2, f"-o {name}: names one file", "2 inputs", "give a folder")
    refused(segment("set", "-o", name), 2, f"-o {name}: names one file", "a folder, pattern or list")
    assert files(folder) == ["a.png", "b.png", "set/c.png"]


def test_a_folder_may_be_named_like_a_file(segment, folder):
    save("a.png"), save("b.png"), (folder / "x.tif").mkdir()
    done(segment("a.png", "b.png", "-o", "x.tif"))
    done(segment("a.png", "b.png", "-o", "y.tif/"))
    assert files(folder / "x.tif") == files(folder / "y.tif") == ["a.png", "b.png"]


def test_a_lossy_format_is_refused_for_labels(segment):
    save("a.png")
    refused(segment("a.png", "-o", "x.jpg"), 2, "x.jpg", "loses", ".tif")


# ------------------------------------------------------------------------------------------------------- stdin and stdout


def test_an_image_goes_through_pipes(segment, folder):
    save("a.png")
    result = done(segment("-", "-o", "-", "--format", "png", stdin=(folder / "a.png").read_bytes()))
    done(segment("a.png", "-o", "file.png"))
    assert result.stdout == (folder / "file.png").read_bytes()
    assert result.err == ""


def test_a_closed_stdin_is_told(segment, i2i, monkeypatch):
    from i2i.cli import streams

    monkeypatch.setattr(streams, "sys", SimpleNamespace(stdin=None))
    for call in (lambda: segment("-", "-o", "x.png"), lambda: i2i("info", "-")):
        refused(call(), 1, "error: -: standard input is closed; pipe an image into it")


def test_info_takes_stdin(i2i, folder):
    data = save("a.png", picture(20, 30)).read_bytes()
    found = done(i2i("info", "-", "--json", stdin=data)).json
    assert (found["file"], found["format"], found["width"], found["height"]) == ("-", "PNG", 30, 20)
    refused(i2i("info", "-", stdin=data[:20]), 1, "error: -: ")
    refused(i2i("info", "-", stdin=b"text"), 1, "error: -: not an image")


def test_stdin_can_go_to_a_file_and_messages_call_it_by_its_dash(segment, folder):
    save("a.tif")
    data = (folder / "a.tif").read_bytes()
    assert done(segment("-", "-o", "x.png", stdin=data)).err.startswith("- -> x.png: ")
    refused(segment("-", "-o", "y.png", stdin=data[:200]), 1, "error: -: ")
    refused(segment("-", "-o", "y.png", stdin=b""), 1, "error: -: the file is empty")


def test_a_warning_reaches_stderr_when_the_image_goes_to_stdout(segment):
    save("nan.tif", np.where(blobs() == 1, np.nan, 1).astype(np.float32))
    result = done(segment("nan.tif", "-o", "-", "--format", "tif", "--nan", "zero"))
    assert result.err.splitlines() == [line for line in result.err.splitlines() if line.startswith("warning: nan.tif: ")]
    assert tifffile.imread(io.BytesIO(result.stdout)).shape == (96, 128)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["-"], ["-o FILE"]),
        (["-", "a.png", "-o", "out"], ["alone"]),
        (["a.png", "-o", "-"], ["--format"]),
        (["a.png", "-o", "-", "--format", "xyz"], ["--format xyz", "png", "tif"]),
        (["a.png", "-o", "-", "--format", "zarr"], ["--format zarr", "png", "tif"]),
        (["set", "-o", "-", "--format", "png"], ["set", "2 images"]),
        (["a.png", "-o", "-", "--format", "png", "--json"], ["--json", "-o -"]),
    ],
)
def test_pipes_that_cannot_be_are_refused(segment, words, told):
    save("a.png"), save("set/a.png"), save("set/b.png")
    refused(segment(*words, stdin=b""), 2, *told)


# --------------------------------------------------------------------------------------------------- refused beforehand


def test_two_inputs_with_one_output_stop_the_run_before_it_starts(segment, folder):
    save("x/a.png"), save("y/a.png")
    refused(segment("x/a.png", "y/a.png", "-o", "out"), 2, "x/a.png", "y/a.png", "out/a.png")
    save("set/b.jpg"), save("set/b.png")
    refused(segment("set", "-o", "out"), 2, "set/b.jpg", "set/b.png")
    assert not (folder / "out").exists()


def test_two_results_in_one_file_are_refused(segment):
    save("a.png")
    refused(segment("a.png", "-o", "x.png", "--overlay", "x.png"), 2, "x.png", "two results")


@pytest.mark.parametrize("link", ["a.png", "symbolic.png", "hard.png", "sub/../a.png"])
def test_an_output_that_is_the_input_is_refused_and_the_input_unharmed(segment, folder, link):
    before = save("a.png").read_bytes()
    (folder / "sub").mkdir()
    os.symlink("a.png", "symbolic.png"), os.link("a.png", "hard.png")
    refused(segment("a.png", "-o", link, "--overwrite"), 2, link, "is the input")
    refused(segment("a.png", "-o", "x.png", "--csv", link, "--overwrite"), 2, link, "is the input")
    assert (folder / "a.png").read_bytes() == before and not (folder / "x.png").exists()


def test_an_existing_output_is_refused_with_both_cures(segment, folder):
    save("a.png"), save("out.png")
    before = (folder / "out.png").read_bytes()
    refused(segment("a.png", "-o", "out.png"), 1, "out.png: exists", "--overwrite", "--skip-existing")
    refused(segment("a.png", "-o", "new.png", "--overlay", "out.png"), 1, "out.png: exists")
    assert (folder / "out.png").read_bytes() == before and not (folder / "new.png").exists()


def test_overwrite_replaces_and_skip_existing_leaves(segment, folder):
    save("set/a.png"), save("set/b.png"), save("out/a.png")
    old = (folder / "out/a.png").read_bytes()
    result = done(segment("set", "-o", "out", "--skip-existing"))
    assert (folder / "out/a.png").read_bytes() == old and (folder / "out/b.png").exists()
    assert "out/a.png: complete already, left alone" in result.err and "1 done, 1 skipped" in result.err
    done(segment("set", "-o", "out", "--overwrite", "-q"))
    assert (folder / "out/a.png").read_bytes() != old


def test_resume_leaves_complete_outputs_and_does_the_others(segment, folder):
    save("set/a.png"), save("set/b.png")
    done(segment("set"))
    (folder / "set-segment/b.png").unlink()
    runs = done(segment("set", "--resume", "--json")).json["runs"]
    assert [run["status"] for run in runs] == ["skipped", "done"]


@pytest.mark.parametrize("keeping", ["--skip-existing", "--resume"])
def test_an_export_that_is_there_is_not_written_over_for_an_output_that_is_not(segment, folder, keeping):
    save("a.png"), (folder / "keep.csv").write_text("mine")
    refused(segment("a.png", "-o", "new.png", "--csv", "keep.csv", keeping), 1, "keep.csv: exists", "--overwrite")
    assert (folder / "keep.csv").read_text() == "mine" and not (folder / "new.png").exists()
    done(segment("a.png", "-o", "new.png", "--csv", "keep.csv", "--overwrite"))
    assert "left alone" in done(segment("a.png", "-o", "new.png", "--csv", "keep.csv", keeping)).err


@pytest.mark.parametrize("keeping", ["--skip-existing", "--resume"])
def test_an_output_without_an_export_that_is_asked_for_is_not_complete(segment, folder, keeping):
    save("a.png"), done(segment("a.png"))
    refused(segment("a.png", "--csv", "a.csv", keeping), 1, "a-segment.png: complete", "a.csv is missing", "--overwrite")
    assert files(folder) == ["a-segment.png", "a.png"]


def test_an_image_that_fails_leaves_no_new_folder(segment, folder):
    (folder / "bad.png").write_text("no image")
    refused(segment("bad.png", "-o", "new/deep/x.png", "--overlay", "shown/x.png"), 1, "bad.png")
    assert [path.name for path in folder.iterdir()] == ["bad.png"]


def _many_labels(monkeypatch):
    """From now on labels do not fit into 16 bits."""
    monkeypatch.setattr("i2i.publish.np", SimpleNamespace(iinfo=lambda dtype: SimpleNamespace(max=0), uint16=np.uint16))


def test_labels_too_many_for_the_format_that_was_asked_for_go_to_a_tiff_beside(segment, folder, monkeypatch):
    save("a.png")
    _many_labels(monkeypatch)
    result = done(segment("a.png", "-o", "x.png", "--json"))
    assert result.run["output"] == "x.tif" and "too many objects for x.png; written to x.tif" in result.err
    assert files(folder) == ["a.png", "x.tif"] and load("x.tif").max() == result.run["objects"]
    refused(segment("a.png", "-o", "x.png"), 1, "x.png: PNG cannot hold", "x.tif is there already")
    done(segment("a.png", "-o", "x.png", "--overwrite", "-q"))
    refused(segment("a.png", "-o", "y.png", "--strict"), 1, "y.png: PNG cannot hold")
    piped = segment("a.png", "-o", "-", "--format", "png")
    assert (piped.code, piped.stdout) == (1, b"") and "error: stdout: too many objects for --format png" in piped.err


def test_a_tiff_beside_is_never_the_input(segment, folder, monkeypatch):
    before = save("a.tif").read_bytes()
    (folder / "sub").mkdir()
    _many_labels(monkeypatch)
    refused(segment("a.tif", "-o", "a.png", "--overwrite"), 1, "a.tif is there already")
    refused(segment("a.tif", "-o", "sub/../a.png", "--overwrite"), 1, "a.tif is there already")
    assert (folder / "a.tif").read_bytes() == before


@pytest.mark.parametrize("other", ["--skip-existing", "--resume"])
def test_overwriting_and_keeping_exclude_each_other(segment, other):
    save("a.png")
    refused(segment("a.png", "--overwrite", other), 2, "--overwrite", other)


def test_missing_and_empty_inputs_are_named(segment, folder):
    (folder / "empty").mkdir()
    refused(segment("nope.png"), 1, "nope.png: no such file")
    refused(segment("empty"), 2, "empty: no image there")
    refused(segment("none*.png"), 2, "none*.png: matches no file")
    assert files(folder) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read and write everything")
def test_files_that_may_not_be_read_or_written_are_named(segment, folder):
    save("a.png"), save("b.png").chmod(0)
    refused(segment("b.png"), 1, "b.png", "permission")
    (folder / "locked").mkdir(mode=0o555)
    refused(segment("a.png", "-o", "locked/x.png"), 1, "locked/x.png", "cannot be written")
    refused(segment("a.png", "-o", "locked/new/x.png"), 1, "locked/new", "cannot be made")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything; the next test has a stand-in")
def test_a_folder_that_may_not_be_read_is_a_failed_input(segment, folder):
    save("set/a.png"), save("set/sub/b.png").parent.chmod(0)
    try:
        result = segment("set", "-o", "out")
    finally:
        (folder / "set/sub").chmod(0o755)
    assert result.code == 3 and "error: set/sub: cannot be searched: Permission denied" in result.err


@pytest.mark.parametrize("closed", ["sub", "."])
def test_a_folder_that_cannot_be_searched_is_a_failed_input(segment, folder, monkeypatch, closed):
    def scan(place):
        if Path(place) == Path("set", closed):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(place))
        return scandir(place)

    scandir = os.scandir
    save("set/a.png"), save("set/sub/b.png")
    monkeypatch.setattr(os, "scandir", scan)
    result = segment("set", "-o", "out", "--json")
    place = str(Path("set", closed))
    told = f"{place}: cannot be searched: Permission denied; what is in it is left out"
    assert result.code == (3 if closed == "sub" else 1) and f"error: {told}\n" in result.err
    assert [(run["input"], run["error"]) for run in result.json["runs"] if run["status"] == "failed"] == [(place, told)]
    assert files(folder / "out") == (["a.png"] if closed == "sub" else [])


def test_a_file_where_a_folder_should_be_is_named_and_nothing_is_written(segment, folder):
    save("a.png"), (folder / "file").touch()
    refused(segment("a.png", "-o", "file/x.png"), 1, "file: cannot be made")
    refused(segment("a.png", "-o", "x.png", "--csv", "file/x.csv"), 1, "file: cannot be made")
    assert files(folder) == ["a.png", "file"]


def test_a_file_system_that_is_mounted_read_only_is_called_so(segment, folder, monkeypatch):
    save("a.png")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    refused(segment("a.png", "-o", "x.png"), 1, "x.png: cannot be written: Permission denied; choose another place")
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_flag=os.ST_RDONLY))
    refused(segment("a.png", "-o", "x.png"), 1, "x.png: cannot be written: Read-only file system; choose another place")


# ----------------------------------------------------------------------------------------------------- kinds of images


@pytest.mark.parametrize("shape", [(1, 100), (100, 1), (1, 1), (3, 5)])
def test_an_image_of_any_shape_gives_one_of_the_same(segment, shape):
    save("a.tif", picture(*shape))
    done(segment("a.tif", "--as", "classes"))
    assert load("a-segment.tif").shape == shape


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_the_dtype_of_the_input_does_not_change_the_result(segment, dtype):
    save("a.tif", picture(dtype=dtype)), save("b.tif", picture(dtype="uint8"))
    done(segment("a.tif", "b.tif", "-o", "out"))
    assert np.array_equal(load("out/a.tif"), load("out/b.tif"))


def test_nan_is_an_error_with_its_number_or_zero_with_a_warning(segment, folder):
    pixels = picture(dtype="float32")
    pixels[3, 4], pixels[5, 6:8] = np.nan, np.inf
    save("a.tif", pixels)
    refused(segment("a.tif"), 1, "a.tif", "3 samples", "--nan zero")
    assert files(folder) == ["a.tif"]
    result = done(segment("a.tif", "--nan", "zero", "--json"))
    assert result.run["warnings"] == ["3 samples are NaN or Inf, read as 0"]
    assert "warning: a.tif: 3 samples" in result.err
    pixels[5, 6:8] = 0
    refused(segment(save("one.tif", pixels)), 1, "1 sample is NaN or Inf; --nan zero reads it as 0")
    (folder / "one.tif").unlink()
    refused(segment("a.tif", "-o", "b.tif", "--nan", "zero", "--strict"), 1, "a.tif", "3 samples", "--strict")
    assert files(folder) == ["a-segment.tif", "a.tif"]


def test_an_rgb_image_needs_a_model_for_three_channels_or_a_choice_of_channels(segment, i2i, models):
    save("rgb.png", np.stack([picture(), picture(seed=1), picture(seed=2)], 2))
    refused(segment("rgb.png"), 1, "rgb.png: has 3 channels, grey takes 1", "--channels 0")
    done(segment("rgb.png", "--channels", "1", "-o", "one.png"))
    save("grey.png", picture(seed=1))
    done(segment("grey.png", "-o", "two.png"))
    assert np.array_equal(load("one.png"), load("two.png"))
    done(i2i("segment", "rgb.png", "--model", models / "rgb.safetensors", "-o", "three.png"))
    refused(
        i2i("segment", "grey.png", "--model", models / "rgb.safetensors"),
        1,
        "grey.png: has 1 channel,",
        "takes 3",
        "--model nuclei-fluo fits",
    )


def test_without_a_model_an_image_that_no_default_fits_is_an_error_that_names_it_and_the_models(i2i):
    save("two.tif", np.stack([picture(), picture()]), metadata={"axes": "CYX"}, ome=True)
    refused(i2i("segment", "two.tif"), 1, "two.tif", "2 channels", "nuclei-fluo (1)", "--channels")


def test_a_channel_is_chosen_by_number_or_name(segment):
    pixels = np.stack([picture(), picture(seed=1)])
    save("c.tif", pixels, ome=True, metadata={"axes": "CYX", "Channel": {"Name": ["DAPI", "GFP"]}})
    done(segment("c.tif", "--channels", "1", "-o", "a.tif"))
    done(segment("c.tif", "--channels", "GFP", "-o", "b.tif"))
    assert np.array_equal(load("a.tif"), load("b.tif"))
    refused(segment("c.tif", "--channels", "RFP", "-o", "d.tif"), 2, "--channels RFP", "DAPI, GFP")


def test_a_level_of_a_pyramid_is_chosen(segment, folder):
    pixels = picture(256, 256)
    with tifffile.TiffWriter(folder / "p.tif") as file:
        file.write(pixels, tile=(64, 64), subifds=1)
        file.write(pixels[::2, ::2], tile=(64, 64), subfiletype=1)
    done(segment("p.tif", "--level", "1", "-o", "a.png"))
    assert load("a.png").shape == (128, 128)
    refused(segment("p.tif", "--level", "2", "-o", "b.png"), 2, "--level 2", "0 .. 1")


# ------------------------------------------------------------------------------------------------------ kinds of results


def test_labels_are_numbered_without_gaps_from_one_in_raster_order(segment):
    save("a.png")
    count = done(segment("a.png", "--json")).run["objects"]
    labels = load("a-segment.png")
    ids, _first = np.unique(labels, return_index=True)
    assert labels.dtype == np.uint16 and count > 5
    assert ids.tolist() == list(range(count + 1))
    done(segment("a.png", "-o", "a.tif"))
    assert np.array_equal(load("a.tif"), labels) and load("a.tif").dtype == np.uint16


def test_classes_are_small_numbers_and_probabilities_sum_to_one(segment):
    save("a.png")
    done(segment("a.png", "--as", "classes", "-o", "c.png"))
    done(segment("a.png", "--as", "probabilities", "-o", "p.tif"))
    classes, shares = load("c.png"), load("p.tif").astype(int)
    assert classes.dtype == np.uint8 and set(np.unique(classes)) <= {0, 1, 2}
    assert shares.shape == (3, *classes.shape) and abs(shares.sum(0) - 255).max() <= 2
    assert (shares.argmax(0) == classes).mean() > 0.95


def test_a_kind_that_the_model_does_not_give_is_refused_with_those_that_it_does(segment, folder):
    save("a.png")
    refused(segment("a.png", "--as", "masks"), 2, "--as masks", "labels, classes, probabilities")
    assert files(folder) == ["a.png"]


def test_what_a_chosen_png_cannot_hold_becomes_a_tiff_and_a_named_one_is_refused(i2i, folder, tmp_path_factory):
    from i2i.models import save_model
    from tests.cli.conftest import tiny_network

    header, weights = tiny_network()
    header["network"]["classes"], header["class_names"], header["label_rule"] = 4, ["a", "b", "c", "d"], None
    weights["head.weight"], weights["head.bias"] = (
        weights["head.weight"].repeat(2, 1, 1, 1)[:4],
        weights["head.bias"].repeat(2)[:4],
    )
    model = tmp_path_factory.mktemp("four") / "four.safetensors"
    save_model(model, weights, header)
    save("a.png")
    words = ["segment", "a.png", "--as", "probabilities", "--model", model]
    assert done(i2i(*words, "--json")).run["output"] == "a-segment.tif"
    refused(i2i(*words), 1, "a-segment.tif: exists", "--overwrite")
    assert "left alone" in done(i2i(*words, "--skip-existing")).err
    refused(i2i(*words, "-o", "x.png"), 1, "x.png", "PNG cannot hold 4 x uint8", ".tif")
    assert files(folder) == ["a-segment.tif", "a.png"]


def test_the_pixel_size_goes_from_the_input_to_the_output_and_the_table(segment, i2i, folder):
    size = {"PhysicalSizeX": 0.25, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": 0.5, "PhysicalSizeYUnit": "µm"}
    save("a.ome.tif", metadata={"axes": "YX"} | size, ome=True)
    done(segment("a.ome.tif", "-o", "b.tif", "--csv", "b.csv"))
    assert done(i2i("info", "b.tif", "--json")).json["pixel_size"] == [0.5, 0.25]
    assert (folder / "b.csv").read_text().splitlines()[0].endswith("area_um2,y_um,x_um,top_um,left_um,bottom_um,right_um")
    done(segment("a.ome.tif", "-o", "b.png"))
    assert done(i2i("info", "b.png", "--json")).json["pixel_size"] == [0.5, 0.25]
