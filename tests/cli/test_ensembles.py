"""Several models, the mean over flips and rotations, float results, gray images for colour models: from the command line on."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

import i2i as package
from i2i import api, loading
from i2i.errors import ModelError, UsageError
from i2i.loading import Loader
from i2i.models import save_model
from i2i.options import RunOptions
from i2i.registry import Registry
from tests import toys
from tests.cli.conftest import tiny_network
from tests.cli.kit import done, files, load, picture, refused, save


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Two models that go together: ``a`` and ``b``."""
    folder, paths = tmp_path_factory.mktemp("pair"), []
    for number, name in enumerate("ab"):
        header, weights = tiny_network(depth=number + 1)
        paths.append(folder / f"{name}.safetensors")
        save_model(paths[-1], weights, header)
    return paths


@pytest.fixture(scope="module")
def colour(tmp_path_factory):
    """A model of three channels that takes gray images."""
    header, weights = tiny_network(channels=3, gray_as_rgb=True)
    path = tmp_path_factory.mktemp("colour") / "colour.safetensors"
    save_model(path, weights, header)
    return path


def both(pair):
    return [word for path in pair for word in ("--model", path)]


# ------------------------------------------------------------------------------------------------------- several models


def test_two_models_give_the_mean_of_what_each_gives(i2i, pair):
    save("a.png", picture(64, 96))
    words = ["--as", "probabilities", "--float", "--precision", "fp32"]
    for name, model in zip("ab", pair, strict=True):
        done(i2i("segment", "a.png", "--model", model, "-o", f"{name}.tif", *words))
    run = done(i2i("segment", "a.png", *both(pair), "-o", "both.tif", "--json", *words)).run
    hashes = [hashlib.sha256(path.read_bytes()).hexdigest() for path in pair]
    assert (run["model"], run["sha256"]) == ("a+b", "+".join(hashes))
    np.testing.assert_allclose(load("both.tif"), (load("a.tif") + load("b.tif")) / 2, atol=1e-6)
    assert np.abs(load("a.tif") - load("b.tif")).max() > 0.01


def test_all_models_and_hashes_are_in_the_written_file_and_on_the_terminal(i2i, pair):
    import tifffile

    save("a.png")
    result = done(i2i("segment", "a.png", *both(pair), "-o", "x.tif"))
    assert "with a+b" in result.err
    with tifffile.TiffFile("x.tif") as written:
        text = str(written.pages[0].tags) + str(written.ome_metadata)
    assert "a+b" in text and all(hashlib.sha256(path.read_bytes()).hexdigest() in text for path in pair)
    assert "a+b" in done(i2i("segment", "a.png", *both(pair), "-o", "y.tif", "--dry-run")).out


def test_one_model_is_told_as_before(segment, model):
    save("a.png")
    run = done(segment("a.png", "--json")).run
    assert (run["model"], run["sha256"]) == ("grey", hashlib.sha256(model.read_bytes()).hexdigest())


def test_the_tiling_does_not_change_what_two_models_give(i2i, pair):
    save("a.png", picture(150, 200))
    words = [*both(pair), "--precision", "fp32"]
    done(i2i("segment", "a.png", "-o", "whole.png", "--tile", "512", *words))
    run = done(i2i("segment", "a.png", "-o", "tiled.png", "--tile", "80", "--json", *words)).run
    assert run["plan"]["tiles"] > 1 and run["plan"]["exact"]
    assert np.array_equal(load("whole.png"), load("tiled.png"))


def test_models_that_do_not_go_together_are_an_error_that_says_why(i2i, models, folder):
    save("a.png")
    words = ["--model", models / "grey.safetensors", "--model", models / "rgb.safetensors"]
    refused(i2i("segment", "a.png", *words), 1, "grey and rgb do not go together", "channels: 1, and 3")
    assert files(folder) == ["a.png"]


def test_models_made_for_other_pixels_are_refused(i2i, folder):
    for name, size in (("fine", 0.25), ("coarse", 0.5)):
        header, weights = tiny_network(pixel_size=size)
        save_model(folder / f"{name}.safetensors", weights, header)
    save("a.png")
    words = ["--model", "fine.safetensors", "--model", "coarse.safetensors", "--pixel-size", "0.25"]
    refused(i2i("segment", "a.png", *words), 1, "fine and coarse", "pixels of different sizes")


def test_a_task_without_join_takes_one_model():
    with pytest.raises(UsageError, match="convolve takes one model, and 2 are given"):
        Loader(toys.CONVOLVE, toys.NoOptions(), RunOptions(model=["a", "b"]), Registry())
    Loader(toys.CONVOLVE, toys.NoOptions(), RunOptions(model=["a"]), Registry())


def test_models_come_from_a_config_as_one_or_as_a_list(i2i, folder, pair):
    save("a.png")
    cases = ((f'model = "{pair[0]}"', "a"), (f'model = ["{pair[0]}", "{pair[1]}"]', "a+b"))
    for number, (text, name) in enumerate(cases):
        (folder / "run.toml").write_text(text)
        assert done(i2i("segment", "a.png", "--config", "run.toml", "-o", f"{number}.png", "--json")).run["model"] == name


def test_another_set_of_models_is_another_run(i2i, pair, monkeypatch, folder):
    from i2i import manifest
    from i2i.contracts import Output
    from i2i.models import open_model

    save("a.png")
    first, second = (open_model(path) for path in pair)
    found = {
        manifest.fingerprint(
            "t", toys.NoOptions(), RunOptions(), folder / "a.png", chosen, Output("classes", 1, "uint8", "classes")
        )
        for chosen in ((first,), (second,), (first, second), (second, first), ())
    }
    assert len(found) == 5


def test_auto_precision_is_what_all_models_vouch_for(pair, monkeypatch):
    from dataclasses import replace

    from i2i.models import open_model
    from i2i_unet import i2i_models

    card = next(card for card in i2i_models() if card.name == "nuclei-fluo")
    vouching, silent = open_model(card.file, card), open_model(pair[0])
    less = replace(vouching, card=replace(card, precisions=("fp32", "fp16")))
    assert loading._vouched([vouching]) == ("fp32", "bf16")
    assert loading._vouched([vouching, less]) == loading._vouched([vouching, silent]) == loading._vouched([]) == ("fp32",)


def test_python_takes_one_name_a_path_or_several(pair):
    pixels = picture(48, 64)
    options = {"precision": "fp32", "as_": "probabilities", "float_": True}
    alone = [package.load("segment", path, **options)(pixels) for path in pair]
    together = package.load("segment", [str(pair[0]), pair[1]], **options)
    np.testing.assert_allclose(together(pixels), (alone[0] + alone[1]) / 2, atol=1e-6)
    assert [model.name for model in together.models] == ["a", "b"]
    save("a.png")
    assert package.run("segment", "a.png", "x.png", model=tuple(pair)).model == "a+b"
    assert package.run("segment", "a.png", "y.png", model=str(pair[0])).model == "a"
    assert package.run("segment", "a.png", "z.png", model="nuclei-fluo").model == "nuclei-fluo"
    (report,) = api.run_many("segment", ["a.png"], "w.png", model=list(pair))
    assert report.model == "a+b" and report.status == "done"


# ------------------------------------------------------------------------------------------------------- tta and float


def test_tta_runs_from_the_command_line_and_changes_the_run(segment):
    save("a.png", picture(80, 100))
    words = ["--as", "probabilities", "--float"]
    done(segment("a.png", "-o", "plain.tif", *words))
    run = done(segment("a.png", "-o", "tta.tif", "--tta", "--json", "--tile", "64", *words)).run
    assert run["plan"]["exact"] and run["plan"]["tiles"] > 1
    assert np.abs(load("plain.tif") - load("tta.tif")).max() > 1e-3
    assert (
        load("tta.tif").dtype == np.float32
        and abs(float(load("tta.tif").sum(-1 if load("tta.tif").shape[-1] == 3 else 0).mean()) - 1) < 1e-5
    )


def test_float_goes_where_a_format_holds_it(segment, folder):
    save("a.png")
    words = ["--as", "probabilities", "--float"]
    refused(segment("a.png", "-o", "x.png", *words), 1, "x.png: PNG cannot hold 3 x float32", ".tif")
    assert files(folder) == ["a.png"]
    assert done(segment("a.png", "--json", *words)).run["output"] == "a-segment.tif"


def test_float_means_probabilities_and_nothing_else(segment, folder):
    save("a.png")
    done(segment("a.png", "-o", "x.tif", "--float"))
    assert load("x.tif").dtype == np.float32
    refused(segment("a.png", "--float", "--as", "labels"), 2, "--as labels: with these options", "gives probabilities")
    assert files(folder) == ["a.png", "x.tif"]


# ------------------------------------------------------------------------------------------------------------ channels


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_a_gray_image_is_three_equal_channels_to_a_model_trained_on_such(i2i, colour, suffix):
    pixels = picture()
    save(f"gray{suffix}", pixels), save("rgb.png", np.stack([pixels] * 3, 2))
    result = done(i2i("segment", f"gray{suffix}", "--model", colour, "-o", "a.png", "--strict", "--as", "probabilities"))
    assert f"note: gray{suffix}: gray: the model sees it as three equal channels" in result.err and "warning" not in result.err
    plain = done(i2i("segment", "rgb.png", "--model", colour, "-o", "b.png", "--as", "probabilities"))
    assert "note" not in plain.err
    assert np.array_equal(load("a.png"), load("b.png")) and load("a.png").std() > 5


def test_every_plane_of_a_gray_stack_is_taken(i2i, colour):
    stack = np.stack([picture(seed=seed) for seed in (1, 2)])
    save("z.tif", stack, metadata={"axes": "ZYX"}, ome=True)
    for z in (0, 1):
        save(f"{z}.png", np.stack([stack[z]] * 3, 2))
        done(i2i("segment", f"{z}.png", "--model", colour, "-o", f"z{z}.png", "--as", "classes"))
    done(i2i("segment", "z.tif", "--model", colour, "-o", "out.tif", "--as", "classes"))
    assert np.array_equal(load("out.tif"), np.stack([load("z0.png"), load("z1.png")]))


def test_a_gray_image_is_refused_by_a_model_that_never_saw_one(i2i, models):
    save("gray.png")
    refused(i2i("segment", "gray.png", "--model", models / "rgb.safetensors"), 1, "gray.png: has 1 channel, rgb takes 3")


def test_two_channels_are_not_taken_for_gray(i2i, colour):
    save("two.tif", np.stack([picture(), picture()]), metadata={"axes": "CYX"}, ome=True)
    refused(i2i("segment", "two.tif", "--model", colour), 1, "two.tif: has 2 channels, colour takes 3")


def test_a_gray_array_is_taken_too(colour):
    loaded = package.load("segment", colour, precision="fp32", as_="classes")
    pixels = picture()
    assert np.array_equal(loaded(pixels), loaded(np.stack([pixels] * 3, 2)))


def test_four_channels_have_a_cure(i2i, models):
    pixels = np.stack([picture(seed=seed) for seed in range(4)])
    save("four.tif", pixels, metadata={"axes": "CYX"}, ome=True)
    result = i2i("segment", "four.tif", "--model", models / "rgb.safetensors")
    refused(result, 1, "four.tif: has 4 channels, rgb takes 3", "--channels 0,1,2")
    done(i2i("segment", "four.tif", "--model", models / "rgb.safetensors", "--channels", "0,1,2"))


def test_an_image_that_no_default_takes_is_told_which_would_do_with_fewer_channels(monkeypatch):
    from dataclasses import replace

    from i2i.contracts import ImageSpec
    from i2i_unet import i2i_models, i2i_tasks
    from i2i_unet.options import SegmentOptions

    gray = next(card for card in i2i_models() if card.name == "nuclei-fluo")
    registry = Registry()
    monkeypatch.setattr(registry, "models", lambda task: [gray, replace(gray, name="stained", channels=3)])
    loader = Loader(i2i_tasks()[0], SegmentOptions(), RunOptions(), registry)
    with pytest.raises(ModelError) as caught:
        loader.for_image(ImageSpec(8, 8, 4), "rgba.tif")
    text = str(caught.value)
    assert text.startswith("rgba.tif: no default model for segment takes 4 channels") and "\n" not in text
    assert "nuclei-fluo (1), stained (3)" in text and text.endswith("; --channels 0,1,2 would do for stained")


# --------------------------------------------------------------------------------------------------- models info FILE


def test_a_model_file_tells_what_its_header_says(i2i, colour):
    text = done(i2i("models", "info", colour)).out
    lines = text.splitlines()
    digest = hashlib.sha256(colour.read_bytes()).hexdigest()
    assert f"file: {colour}" in lines and f"sha256: {digest}" in lines and "gray_as_rgb: yes" in lines
    assert "class_names: background, interior, border" in lines and "  channels: 3" in lines and "task: segment" in lines
    assert any(line.startswith("size: ") and line.endswith(" kB") for line in lines)
    told = done(i2i("models", "info", colour, "--json")).json
    assert told["size"] == colour.stat().st_size and told["network"]["channels"] == 3


def test_what_a_header_says_cannot_command_the_terminal(i2i, folder):
    header, weights = tiny_network(class_names=["\x1b[31mred", "b\nc", "d"])
    save_model(folder / "odd.safetensors", weights, header)
    assert "class_names:  [31mred, b c, d" in done(i2i("models", "info", "odd.safetensors")).out.splitlines()
    save("a.png")
    refused(i2i("segment", "a.png", "--model", "odd.safetensors"), 1, "odd.safetensors", "3 names, one for each class")


def test_a_file_that_is_no_model_is_refused_in_one_line(i2i, folder):
    save("a.png")
    refused(i2i("models", "info", "a.png"), 1, "a.png: not a safetensors file")
    refused(i2i("models", "info", "none.safetensors"), 1, "none.safetensors: no such file")
    (folder / "nuclei-fluo").write_text("a file of a model's name")
    assert "name: nuclei-fluo" in done(i2i("models", "info", "nuclei-fluo")).out.splitlines()
