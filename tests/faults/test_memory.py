"""Memory that is too small: of an accelerator, whose windows are made smaller; of the machine, which is never filled."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

from tests.cli.kit import picture, save
from tests.faults.program import Call, Program
from tests.faults.test_bad_images import assert_one_line
from tests.faults.test_read_images import read_planes
from tests.faults.uses import IMAGE_TASKS, USES, image_words, prepare, tree

_CRAMPED = """
import torch
from i2i.engine import dense, objects

def cramped(call):
    def called(network, windows, *given):
        if len(windows) * windows[0].shape[0] * windows[0].shape[1] > {room}:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return call(network, windows, *given)
    return called

for module in (dense, objects):
    module.run_batch = cramped(module.run_batch)
"""
"""As on an accelerator that holds so many pixels at once: torch's own error is raised for more."""


@pytest.mark.parametrize("task", IMAGE_TASKS)
def test_where_a_devices_memory_is_full_the_windows_are_halved(task: str, program: Program, networks: Path, folder: Path) -> None:
    save(folder / "a.tif", picture(160, 300))
    words = [*image_words(networks, task), "a.tif", "--json"]
    limit = _CRAMPED.format(room=170 * 170)
    side = "144" if task == "instances" else "288"  # a detector of random weights finds other objects in other windows
    whole, tight, strict, none = program.run_all([
        Call(folder, [*words, "-o", "whole.tif", "--tile", side]),
        Call(folder, [*words, "-o", "tight.tif", "--tile", "288"], limit),
        Call(folder, [*words, "-o", "strict.tif", "--tile", "288", "--strict"], limit),
        Call(folder, [*words[:-1], "-o", "none.tif", "--tile", "288"], _CRAMPED.format(room=1)),
    ])  # fmt: skip
    assert (whole.code, tight.code) == (0, 0), (whole, tight)
    (run,) = tight.json["runs"]
    assert all("the memory of cpu was full" in text for text in run["warnings"]) and run["warnings"]
    assert "x 144 pixels" in run["warnings"][-1]
    first, second = (read_planes(folder / f"{name}.tif") for name in ("whole", "tight"))
    assert np.ptp(first) > 0
    if task in ("segment", "instances"):
        np.testing.assert_array_equal(first, second)
    else:
        assert np.abs(first.astype(float) - second).max() <= 1e-3 * np.ptp(first) + (first.dtype == np.uint8)
    assert strict.code == 1 and "the memory of cpu was full" in strict.err and "--strict" in strict.err
    assert_one_line(none, 1, "a.tif: the device has too little memory", "CUDA out of memory", "--device cpu")
    assert set(tree(folder)) == {"a.tif", "whole.tif", "tight.tif"}


_CRAMPED_OPTIMISER = """
import torch
from i2i_style.gatys import GatysPredictor
run = GatysPredictor.run

def cramped(self, stage, work):
    if work.grid.tile_count < 2:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")
    run(self, stage, work)

GatysPredictor.run = cramped
"""


def test_a_method_that_optimises_begins_again_with_smaller_windows(program: Program, networks: Path, folder: Path) -> None:
    save(folder / "a.tif", picture(160, 300)), save(folder / "style.tif", picture(40, 50))
    words = ["stylize", "a.tif", "--style", "style.tif", "--encoder", networks / "encoder.safetensors", "--steps", "2", "--json"]
    whole, tight = program.run_all([
        Call(folder, [*words, "-o", "whole.tif", "--size", "full"]),
        Call(folder, [*words, "-o", "tight.tif", "--size", "full"], _CRAMPED_OPTIMISER),
    ])  # fmt: skip
    assert (whole.code, tight.code) == (0, 0), (whole, tight)
    (run,) = tight.json["runs"]
    assert "the memory of cpu was full; began again with windows of" in run["warnings"][-1]
    assert whole.json["runs"][0]["plan"]["tiles"] == 1 < run["plan"]["tiles"]
    first, second = (read_planes(folder / f"{name}.tif").astype(int) for name in ("whole", "tight"))
    assert np.abs(first - second).max() <= 2


@pytest.mark.parametrize(
    "use", ["eval segment", "eval instances", "eval translate", "train segment, an image", "train translate, a source"]
)
def test_an_image_too_large_to_be_read_as_a_whole_is_refused_before_it_is(
    use: str, program: Program, networks: Path, folder: Path
) -> None:
    """A constant image compresses 1000 : 1, and is honest. As on a machine of 100 MB, for which 16 megapixels are too many."""
    path = prepare(folder, use, "image.tif")
    mask = folder / "masks" / path.name  # which has its image's size
    for one in (path, *([mask] if mask.exists() else [])):
        tifffile.imwrite(one, np.zeros((4000, 4000), np.uint8), tile=(1024, 1024), compression="zlib")
    before = tree(folder)
    words = USES[use].words(networks, path.relative_to(folder).as_posix())
    small = "from i2i import memory; memory.total_memory = lambda: 100_000_000"
    ended = program.run(folder, *words, before=small)
    assert_one_line(ended, 1, path.relative_to(folder).as_posix(), "is read as a whole here", "give a smaller image")
    assert tree(folder) == before


def test_the_declared_size_of_an_image_proves_nothing(program: Program, folder: Path) -> None:
    """900 megapixels of background in a megabyte are honest."""
    tile = np.zeros((1024, 1024), np.uint8)
    settings = {"shape": (30_000, 30_000), "dtype": "uint8", "tile": tile.shape, "compression": "zlib"}
    tifffile.imwrite(folder / "a.tif", (tile for _ in range(30 * 30)), **settings)
    assert (folder / "a.tif").stat().st_size < 2_000_000
    ended = program.run(folder, "info", "a.tif")
    assert ended.code == 0 and "30000 x 30000 pixels" in ended.stdout.decode(), ended
