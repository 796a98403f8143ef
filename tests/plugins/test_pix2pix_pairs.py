"""Pairs from files, crops of them, and the numbers between files and networks."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from i2i.data import generator
from i2i.errors import ModelError, TrainingError
from i2i_pix2pix.pairs import Pair, check_alike, crop, crops, load_folders, load_side_by_side
from i2i_pix2pix.ranges import Ranges


def picture(height, width, seed, dtype="uint8", channels=3):
    random = np.random.default_rng(seed)
    top = 1.0 if dtype == "float32" else np.iinfo(dtype).max
    return (random.random((height, width, channels)) * top).astype(dtype)


def test_halves_of_a_file_are_a_pair_in_either_direction(tmp_path):
    both = picture(20, 60, 1)
    Image.fromarray(both).save(tmp_path / "a.png")
    (forth,), (back,) = (load_side_by_side(tmp_path, direction) for direction in ("AtoB", "BtoA"))
    assert np.array_equal(forth.source, both[:, :30]) and np.array_equal(forth.target, both[:, 30:])
    assert np.array_equal(back.source, forth.target) and np.array_equal(back.target, forth.source)
    Image.fromarray(both[:, :59]).save(tmp_path / "b.png")
    with pytest.raises(TrainingError, match=r"b.png: is 59 pixels wide"):
        load_side_by_side(tmp_path, "AtoB")


def test_folders_of_equal_names_and_any_channels_and_depths(tmp_path):
    for name in ("s", "t"):
        (tmp_path / name).mkdir()
    tifffile.imwrite(tmp_path / "s/a.tif", picture(30, 40, 1, "uint16", 5).transpose(2, 0, 1), metadata={"axes": "CYX"})
    Image.fromarray(picture(30, 40, 2, channels=1)[..., 0]).save(tmp_path / "t/a.png")
    (pair,) = load_folders(tmp_path / "s", tmp_path / "t")
    assert pair.source.shape == (30, 40, 5) and pair.source.dtype == np.uint16 and pair.target.shape == (30, 40, 1)
    Image.fromarray(picture(30, 41, 2)).save(tmp_path / "t/a.png")
    with pytest.raises(TrainingError, match=r"a.png: its size differs"):
        load_folders(tmp_path / "s", tmp_path / "t")


def test_pairs_of_different_kinds_are_told():
    one, other = Pair(picture(8, 8, 1), picture(8, 8, 2), "a"), Pair(picture(8, 8, 1, channels=1), picture(8, 8, 2), "b")
    with pytest.raises(TrainingError, match=r"sources of 3 x uint8 \(a\) and of 1 x uint8 \(b\)"):
        check_alike([one, other], "folder")


def test_a_crop_shows_the_same_place_of_both():
    source = picture(90, 120, 3)
    pair = Pair(source, 255 - source, "a")
    for seed in range(6):
        first, second = crop(pair, 64, 286 / 256, True, generator(seed))
        assert first.shape == (3, 64, 64) and torch.equal(255 - first, second)
    small = Pair(picture(40, 50, 1), 255 - picture(40, 50, 1), "b")
    first, second = crop(small, 64, 286 / 256, False, generator(1))
    assert first.shape == (3, 64, 64) and float((255 - first - second).abs().max()) < 2
    assert all(
        torch.equal(a, b)
        for a, b in zip(crop(pair, 64, 1.1, True, generator(4)), crop(pair, 64, 1.1, True, generator(4)), strict=True)
    )


def test_crops_depend_on_their_key_alone():
    pairs = [Pair(picture(70, 70, seed), picture(70, 70, seed + 9), str(seed)) for seed in range(3)]
    one, other, third = (crops(pairs, 64, 4, 1.0, True, key) for key in ((1, 5), (1, 5), (1, 6)))
    assert one[0] == other[0] and torch.equal(one[1], other[1]) and not torch.equal(one[1], third[1])


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("units", ["own", "input"])
def test_what_is_wanted_comes_back_as_the_targets_numbers(dtype, units):
    pairs = [Pair(picture(16, 18, seed, dtype), picture(16, 18, seed + 5, dtype), str(seed)) for seed in range(2)]
    ranges = Ranges.of(pairs, "percentile", units).frozen(pairs[0].source)
    target = torch.from_numpy(pairs[0].target.astype(np.float32)).permute(2, 0, 1)
    numbers = ranges.numbers(ranges.wanted(target).permute(1, 2, 0).numpy())
    assert np.allclose(numbers, pairs[0].target, rtol=1e-4, atol=1e-4 * float(pairs[0].target.max()))
    source = torch.from_numpy(pairs[0].source.astype(np.float32)).permute(2, 0, 1)
    assert np.allclose(ranges.apply(pairs[0].source), ranges.seen(source).permute(1, 2, 0).numpy(), atol=1e-4)


def test_signed_targets_keep_their_sign():
    target = np.linspace(-500, 700, 64).reshape(8, 8, 1).astype(np.int16)
    ranges = Ranges.of([Pair(picture(8, 8, 1), target, "a")], "range", "own")
    assert (ranges.dtype, ranges.low, ranges.high) == ("float32", -500, 700)


def test_headers_of_ranges_are_checked():
    good = Ranges.of([Pair(picture(8, 8, 1), picture(8, 8, 2), "a")], "range", "own").as_mapping()
    assert Ranges.from_mapping(good).as_mapping() == good
    for change in ({"units": "x"}, {"dtype": "int7"}, {"low": 5, "high": 5}, {"source": 3}, {"more": 1}):
        with pytest.raises(ModelError, match="ranges"):
            Ranges.from_mapping(good | change)
