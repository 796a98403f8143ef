"""Pixel sizes: an image whose pixels are not the model's is resampled for the network, and its result brought back."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

import i2i as package
from i2i.formats import open_image
from i2i.formats.resample import resampled
from i2i.formats.views import ArraySource
from i2i.models import open_model, save_model
from tests.cli.conftest import tiny_network
from tests.cli.kit import done, load, picture, refused, save

ROOT = Path(__file__).parents[2] / "plugins/i2i_unet"
UM = {"PhysicalSizeXUnit": "µm", "PhysicalSizeYUnit": "µm"}


@pytest.fixture(scope="module")
def sized(tmp_path_factory):
    """The tiny network, made for pixels of 0.5 um."""
    header, weights = tiny_network(pixel_size=0.5)
    path = tmp_path_factory.mktemp("sized") / "half.safetensors"
    save_model(path, weights, header)
    return path


@pytest.fixture(scope="module")
def nuclei(tmp_path_factory):
    """The bundled model, as if made for pixels of 0.5 um."""
    model = open_model(ROOT / "models/nuclei-fluo.safetensors")
    path = tmp_path_factory.mktemp("sized") / "nuclei.safetensors"
    save_model(path, model.tensors(), dict(model.config) | {"pixel_size": 0.5})
    return path


@pytest.fixture
def run(i2i):
    def call(model, *words):
        return i2i("segment", "--model", model, "--precision", "fp32", *words)

    return call


def _sized(name, pixels, tall, wide):
    return save(name, pixels, ome=True, metadata={"axes": "YX", "PhysicalSizeX": wide, "PhysicalSizeY": tall} | UM)


@pytest.mark.parametrize("size", [0.5, 0.51, 0.485])
def test_pixels_of_about_the_models_size_are_taken_as_they_are(run, sized, model, size):
    _sized("a.tif", picture(), size, size)
    reported = done(run(sized, "a.tif", "-o", "x.tif", "--json")).run
    assert (reported["resampled"], reported["warnings"]) == (None, [])
    done(run(model, "a.tif", "-o", "y.tif"))
    assert np.array_equal(load("x.tif"), load("y.tif"))


@pytest.mark.parametrize(("tall", "wide"), [(1.0, 1.0), (0.25, 0.25), (0.3, 0.7), (2.0, 0.125)])
@pytest.mark.parametrize("kind", ["labels", "classes", "probabilities"])
def test_the_result_is_on_the_grid_of_the_input_with_its_pixel_size(run, i2i, sized, tall, wide, kind):
    _sized("a.tif", picture(90, 131), tall, wide)
    reported = done(run(sized, "a.tif", "--as", kind, "--json", "--tile", "64")).run
    assert reported["resampled"] == pytest.approx([tall / 0.5, wide / 0.5]) and reported["warnings"] == []
    told = done(i2i("info", "a-segment.tif", "--json")).json
    assert (told["height"], told["width"]) == (90, 131) and told["pixel_size"] == pytest.approx([tall, wide])
    assert told["dtype"] == ("uint16" if kind == "labels" else "uint8")


def test_the_tiling_changes_nothing_of_a_resampled_image(run, sized, folder):
    _sized("a.tif", picture(200, 300), 0.8, 0.8)
    for name, tile in (("x", "64"), ("y", "512")):
        done(run(sized, "a.tif", "-o", f"{name}.tif", "--tile", tile, "--verify", "2"))
    assert np.array_equal(load("x.tif"), load("y.tif"))


def test_the_network_sees_the_resampled_image_and_its_statistics(run, sized, model):
    """What the model gives is what it gives for the image made smaller beforehand."""
    _sized("a.tif", picture(200, 300), 0.25, 0.25)
    small = resampled(ArraySource(picture(200, 300)), (0.5, 0.5))
    save("small.tif", small.read(small.spec.region)[..., 0])
    done(run(sized, "a.tif", "--as", "classes", "-o", "x.tif"))
    done(run(model, "small.tif", "--as", "classes", "-o", "y.tif"))
    assert np.array_equal(load("x.tif"), load("y.tif").repeat(2, 0).repeat(2, 1))


@pytest.mark.parametrize("factor", [2.0, 0.8])
def test_the_objects_of_an_image_scanned_finer_or_coarser_are_the_same(run, nuclei, folder, factor):
    source = open_image(ROOT / "samples/nuclei.png")
    pixels = source.read(source.spec.region)
    source.close()
    scanned = resampled(ArraySource(pixels), (factor, factor))
    _sized("a.tif", pixels[..., 0], 0.5, 0.5)
    _sized("b.tif", scanned.read(scanned.spec.region)[..., 0], 0.5 / factor, 0.5 / factor)
    first = done(run(nuclei, "a.tif", "-o", "x.tif", "--json")).run
    second = done(run(nuclei, "b.tif", "-o", "y.tif", "--csv", "y.csv", "--overlay", "y.png", "--json")).run
    assert first["resampled"] is None and second["resampled"] == pytest.approx([1 / factor] * 2)
    assert abs(first["objects"] - second["objects"]) <= 1
    back = resampled(ArraySource(load("y.tif") > 0), (1 / factor, 1 / factor))
    found, expected = back.read(back.spec.region)[..., 0], load("x.tif") > 0
    assert (found & expected).sum() / (found | expected).sum() > 0.93
    with (folder / "y.csv").open() as stream:
        areas = [float(row["area_um2"]) for row in csv.DictReader(stream)]
    assert sum(areas) == pytest.approx(0.25 * expected.sum(), rel=0.05)


def test_the_option_stands_in_for_metadata_and_wins_over_it_with_a_warning(run, i2i, sized):
    save("a.png", picture()), _sized("b.tif", picture(), 0.25, 0.25), _sized("c.tif", picture(), 1.002, 1.002)
    for name, warnings in (("a.png", 0), ("b.tif", 1), ("c.tif", 0)):
        reported = done(run(sized, name, "-o", f"out-{name}", "--pixel-size", "1", "--json")).run
        assert reported["resampled"] == [2.0, 2.0] and len(reported["warnings"]) == warnings
        assert done(i2i("info", f"out-{name}", "--json")).json["pixel_size"] == pytest.approx([1.0, 1.0], rel=1e-3)
    warned = done(run(sized, "b.tif", "-o", "x.tif", "--pixel-size", "1")).err
    assert "warning: b.tif: its pixel size is 0.25 um in the file; 1 um is used" in warned
    refused(run(sized, "b.tif", "-o", "y.tif", "--pixel-size", "1", "--strict"), 1, "b.tif", "0.25 um", "--strict")


def test_an_unknown_pixel_size_is_one_warning_that_names_the_option(run, sized, model):
    save("a.png", picture())
    result = done(run(sized, "a.png", "-o", "x.png", "--json"))
    assert result.run["resampled"] is None and len(result.run["warnings"]) == 1
    assert "give --pixel-size UM" in result.err and "0.5 um" in result.err
    done(run(model, "a.png", "-o", "y.png"))
    assert np.array_equal(load("x.png"), load("y.png"))
    refused(run(sized, "a.png", "-o", "z.png", "--strict"), 1, "a.png", "--pixel-size", "--strict")


def test_a_level_of_a_pyramid_has_larger_pixels(run, sized, folder):
    import tifffile

    pixels = picture(256, 256)
    with tifffile.TiffWriter(folder / "p.tif") as file:
        file.write(pixels, tile=(64, 64), subifds=1)
        file.write(pixels[::2, ::2], tile=(64, 64), subfiletype=1)
    words = ["p.tif", "--pixel-size", "0.25", "--json"]
    assert done(run(sized, *words, "-o", "a.tif", "--level", "1")).run["resampled"] is None
    assert done(run(sized, *words, "-o", "b.tif")).run["resampled"] == [0.5, 0.5]


def test_planes_are_resampled_each(run, sized):
    stack = np.stack([picture(seed=seed) for seed in range(3)])
    save("z.tif", stack, metadata={"axes": "ZYX", "PhysicalSizeX": 1.0, "PhysicalSizeY": 1.0} | UM, ome=True)
    reported = done(run(sized, "z.tif", "--json")).run
    assert (reported["planes"], reported["resampled"]) == (3, [2.0, 2.0]) and load("z-segment.tif").shape == stack.shape
    _sized("one.tif", stack[1], 1.0, 1.0)
    done(run(sized, "one.tif"))
    assert np.array_equal(load("z-segment.tif")[1], load("one-segment.tif"))


@pytest.mark.parametrize("size", ["100", "0.001"])
def test_a_pixel_size_that_cannot_be_meant_is_refused(run, sized, size):
    save("a.png")
    refused(run(sized, "a.png", "--pixel-size", size), 2, "a.png", "--pixel-size", "0.5 um")


@pytest.mark.parametrize("size", ["-1", "nan", "inf", "x"])
def test_what_is_no_pixel_size_is_a_usage_error(run, sized, size):
    save("a.png")
    refused(run(sized, "a.png", "--pixel-size", size), 2, "--pixel-size")


@pytest.mark.parametrize("size", ["0.5", -1, 0, True, [1], 10**400])
def test_a_model_that_says_no_size_is_refused(run, folder, tmp_path_factory, size):
    header, weights = tiny_network(pixel_size=size)
    path = tmp_path_factory.mktemp("bad") / "bad.safetensors"
    save_model(path, weights, header)
    save("a.png")
    refused(run(path, "a.png"), 1, "bad.safetensors", "pixel_size")


def test_an_array_is_resampled_like_its_file(run, sized):
    _sized("a.tif", picture(90, 120), 0.25, 0.4)
    done(run(sized, "a.tif"))
    loaded = package.load("segment", model=str(sized), precision="fp32")
    assert np.array_equal(loaded(picture(90, 120), pixel_size=(0.25, 0.4)), load("a-segment.tif"))


def test_a_dry_run_warns_of_what_the_run_will_warn_of(run, sized):
    save("a.png")
    told = done(run(sized, "a.png", "--dry-run", "--json")).run["warnings"]
    assert told == done(run(sized, "a.png", "--json")).run["warnings"] and "its pixel size is unknown" in told[0]


def test_a_dry_run_says_that_the_image_is_resampled(run, sized):
    _sized("a.tif", picture(), 0.25, 0.25)
    assert "resampled  0.5 x 0.5 times" in done(run(sized, "a.tif", "--dry-run")).out


def test_zoom_is_the_rescaling_that_pixel_sizes_ask_for(run, sized, model):
    """A model that knows no size, told to zoom, gives what one gives whose size says so; over tiles, and for an array, too."""
    _sized("a.tif", picture(200, 300), 0.25, 0.25)
    done(run(sized, "a.tif", "-o", "x.tif"))
    save("a.png", picture(200, 300))
    reported = done(run(model, "a.png", "--zoom", "0.5", "-o", "y.tif", "--tile", "64", "--verify", "2", "--json")).run
    assert (reported["resampled"], reported["warnings"]) == ([0.5, 0.5], [])
    assert np.array_equal(load("x.tif"), load("y.tif"))
    loaded = package.load("segment", model=str(model), precision="fp32", zoom=0.5)
    assert np.array_equal(loaded(picture(200, 300)), load("y.tif"))


def test_zoom_overrides_what_pixel_sizes_say(run, sized, model):
    _sized("a.tif", picture(), 0.25, 0.25), save("a.png", picture())
    done(run(model, "a.png", "-o", "plain.png"))
    for name, zoom, factors in (("a.tif", "1", None), ("a.png", "1", None), ("a.tif", "2", [2.0, 2.0])):
        reported = done(run(sized, name, "--zoom", zoom, "-o", "x.png", "--overwrite", "--json")).run
        assert (reported["resampled"], reported["warnings"]) == (factors, [])
        assert np.array_equal(load("x.png"), load("plain.png")) == (factors is None)


def test_zoom_of_instances_overrides_what_pixel_sizes_say(i2i, folder):
    bundled = open_model(ROOT.parent / "i2i_maskrcnn/models/nuclei.safetensors")
    save_model(folder / "m.safetensors", bundled.tensors(), dict(bundled.config) | {"pixel_size": 0.5})
    _sized("a.tif", picture(64, 64), 1.0, 1.0)
    words = ["instances", "a.tif", "--model", "m.safetensors", "--overwrite", "--json", "-o", "x.tif"]
    assert done(i2i(*words)).run["resampled"] == [2.0, 2.0]
    assert done(i2i(*words, "--zoom", "1")).run["resampled"] is None


@pytest.mark.parametrize(("zoom", "words"), [("0.01", "0.03125 to 32"), ("100", "0.03125 to 32"), ("-1", "0"), ("nan", "finite")])
def test_a_zoom_that_cannot_be_meant_is_refused(run, model, zoom, words):
    save("a.png")
    refused(run(model, "a.png", "--zoom", zoom), 2, "--zoom", words)
