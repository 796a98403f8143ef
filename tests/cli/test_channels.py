"""Three channels are a colour picture, or three signals: what is chosen by their number alone must know which."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import zarr

from i2i.formats import open_image
from tests.cli.kit import done, picture, refused, save

SIGNALS = ["DAPI", "GFP", "RFP"]


def signals(count: int = 3) -> np.ndarray:
    """(C, H, W) uint16."""
    return np.stack([picture(48, 64, seed=seed, dtype="uint16") for seed in range(count)])


def named(path: str, names: list[str], pixels: np.ndarray | None = None) -> str:
    """An OME-TIFF whose channels have names."""
    pixels = signals(len(names)) if pixels is None else pixels
    save(path, pixels, ome=True, photometric="minisblack", metadata={"axes": "CYX", "Channel": {"Name": names}})
    return path


def store(path: str, axes: str, pixels: np.ndarray, names: list[str] | None = None) -> str:
    """An OME-Zarr 0.5."""
    group = zarr.create_group(path, zarr_format=3)
    group.create_array("0", shape=pixels.shape, dtype=pixels.dtype)[:] = pixels
    scale = [{"type": "scale", "scale": [1.0] * len(axes)}]
    kinds = {"c": "channel", "y": "space", "x": "space"}
    ome = {
        "version": "0.5",
        "multiscales": [
            {
                "axes": [{"name": axis, "type": kinds[axis]} for axis in axes],
                "datasets": [{"path": "0", "coordinateTransformations": scale}],
            }
        ],
    }
    omero = {"omero": {"channels": [{"label": name} for name in names]}} if names else {}
    group.update_attributes({"ome": ome | omero})
    return path


def told_rgb(path: str) -> bool | None:
    with closing(open_image(Path(path))) as source:
        return source.spec.rgb


@pytest.mark.parametrize("task", ["segment", "instances"])
def test_three_signals_are_not_given_to_a_model_of_rgb_that_nobody_chose(i2i, task):
    named("c3.ome.tif", SIGNALS)
    cure = "choose with --channels DAPI, or say --channels 0,1,2"
    refused(i2i(task, "c3.ome.tif"), 1, f"c3.ome.tif: its 3 channels (DAPI, GFP, RFP) are no RGB picture; {cure}")
    save("ij.tif", signals(), imagej=True, metadata={"axes": "CYX", "mode": "composite"})
    refused(i2i(task, "ij.tif", "--dry-run"), 1, "ij.tif: its 3 channels are no RGB picture; choose with --channels 0, or")
    store("c.zarr", "cyx", signals(), ["Nuclei (405)", "b", "c"])
    refused(i2i(task, "c.zarr"), 1, "c.zarr: its 3 channels (Nuclei (405), b, c)", "--channels 0, or")


def test_what_the_user_chooses_is_taken(i2i, models):
    named("c3.ome.tif", SIGNALS)
    for words, model in ((["--channels", "dapi"], "nuclei-fluo"), (["--channels", "0,1,2"], "nuclei-brightfield")):
        result = done(i2i("segment", "c3.ome.tif", "--strict", "--dry-run", "--json", *words))
        assert (result.run["model"], result.run["warnings"]) == (model, [])
    own = done(i2i("segment", "c3.ome.tif", "--strict", "--dry-run", "--json", "--model", models / "rgb.safetensors"))
    assert own.run["warnings"] == []
    given = done(i2i("segment", "c3.ome.tif", "--dry-run", "--json", "--model", "nuclei-brightfield"))
    assert given.run["warnings"][0].startswith("its 3 channels (DAPI, GFP, RFP) are no RGB picture, and are taken as red")


def test_a_method_without_a_model_tells_that_it_takes_signals_as_colours(i2i):
    named("c3.ome.tif", SIGNALS), save("style.png", signals()[0].astype("uint8"))
    result = done(i2i("stylize", "c3.ome.tif", "--style", "style.png", "--dry-run", "--json"))
    assert [text for text in result.run["warnings"] if "no RGB picture, and are taken as red" in text]


def test_what_is_rgb_and_what_is_not(i2i):
    deep = signals()
    small, beside = deep.astype("uint8"), np.ascontiguousarray(deep.transpose(1, 2, 0))
    save("plain.tif", beside, photometric="rgb"), save("plain.png", beside.astype("uint8"))
    save("planes.tif", deep, photometric="rgb", planarconfig="separate")
    save("floats.tif", beside.astype("float32"), photometric="minisblack", planarconfig="contig")
    save("apart.tif", deep, photometric="minisblack", planarconfig="separate")
    rgb = [
        "plain.tif", "plain.png", "planes.tif", "floats.tif", named("rgb.ome.tif", ["Red", "green", "BLUE"]),
        store("small.zarr", "cyx", small), store("beside.zarr", "yxc", beside), store("r.zarr", "cyx", deep, ["R", "G", "B"]),
        store("made-up.zarr", "cyx", small, ["Channel 0", "Channel 1", "Channel 2"]),
    ]  # fmt: skip
    other = [
        "apart.tif", named("c.ome.tif", SIGNALS), named("bgr.ome.tif", ["B", "G", "R"]), store("deep.zarr", "cyx", deep),
        store("named.zarr", "cyx", small, SIGNALS),
    ]  # fmt: skip
    found = {name: told_rgb(name) for name in rgb + other}
    assert found == dict.fromkeys(rgb, True) | dict.fromkeys(other, False)
    assert told_rgb(named("four.ome.tif", [*SIGNALS, "Cy5"])) is None
    assert "channels    3 (not RGB): DAPI, GFP, RFP" in done(i2i("info", "c.ome.tif")).out
    assert "channels    3 (RGB)" in done(i2i("info", "plain.png")).out


def test_names_of_channels_are_found_in_any_case_where_only_one_can_be_meant(i2i):
    named("c.ome.tif", ["DAPI", "gfp", "GFP"])
    done(i2i("segment", "c.ome.tif", "--channels", "Dapi", "--dry-run"))
    done(i2i("segment", "c.ome.tif", "--channels", "GFP", "--dry-run"))
    refused(i2i("segment", "c.ome.tif", "--channels", "Gfp", "--dry-run"), 2, "--channels Gfp", "DAPI, gfp, GFP")


def test_the_cure_for_too_few_channels_works(i2i, models):
    save("two.tif", signals(2), photometric="minisblack", imagej=True, metadata={"axes": "CYX"})
    cures = {
        ("segment",): "--channels 0 would do for nuclei-fluo",
        ("instances",): "--channels 0 would do for nuclei",
        ("translate",): "--channels 0 would do for denoise-fluo",
        ("segment", "--model", "nuclei-brightfield"): "choose with --channels, such as --channels 0",
        ("segment", "--model", models / "rgb.safetensors"): "--model nuclei-fluo --channels 0 fits",
    }
    for words, cure in cures.items():
        refused(i2i(words[0], "two.tif", *words[1:]), 1, "two.tif: ", "2 channels", cure)
    done(i2i("segment", "two.tif", "--model", "nuclei-brightfield", "--channels", "0", "--dry-run"))
