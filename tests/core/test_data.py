"""Training data: files and what is refused of them, sets of examples, and crops whose image and truth are warped as one."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from i2i.data import (
    IGNORED,
    NO_AUGMENTATION,
    Augmentation,
    Data,
    Example,
    Pair,
    batch,
    crop,
    digest,
    find_pairs,
    generator,
    hold_back,
    load_image,
    load_labels,
    load_pairs,
    of_equal_channels,
)
from i2i.errors import TrainingError
from i2i.normalize import Normalization

deterministic = settings(derandomize=True, deadline=None, max_examples=30)
GEOMETRY = replace(Augmentation(), gray=0, noise=0, blur=0)


def coordinates(height: int, width: int) -> Example:
    """An image that holds each pixel's own x and y, and a truth that is the pixel's number in raster order."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return Example(torch.stack([x, y]).float(), y * width + x)


def scene(seed: int = 0, height: int = 60, width: int = 70) -> Example:
    """Noise, and three classes."""
    random = torch.Generator().manual_seed(seed)
    image = torch.randn((2, height, width), generator=random)
    return Example(image, torch.randint(3, (height, width), generator=random))


# -------------------------------------------------------------------------------------------------------------- pairs


def make_files(folder: Path, *names: str) -> Path:
    folder.mkdir()
    for name in names:
        (folder / name).touch()
    return folder


def test_files_of_one_stem_are_a_pair(tmp_path: Path) -> None:
    images = make_files(tmp_path / "images", "b.tif", "a.PNG", "notes.txt")
    truths = make_files(tmp_path / "truths", "a.tif", "b.png", ".hidden")
    found = find_pairs(images, truths, (".png", ".tif"))
    assert found == [Pair(images / "a.PNG", truths / "a.tif"), Pair(images / "b.tif", truths / "b.png")]


def test_a_suffix_of_two_parts_is_one_as_everywhere_in_i2i(tmp_path: Path) -> None:
    images = make_files(tmp_path / "images", "a.ome.tif", "b.OME.TIFF", "c.1.png", "._a.tif")
    truths = make_files(tmp_path / "truths", "a.tif", "b.ome.tif", "c.1.tif")
    found = find_pairs(images, truths, (".png", ".tif", ".tiff"))
    assert [(pair.image.name, pair.truth.name) for pair in found] == [
        ("a.ome.tif", "a.tif"),
        ("b.OME.TIFF", "b.ome.tif"),
        ("c.1.png", "c.1.tif"),
    ]


def test_masks_with_an_ending_may_lie_among_their_images(tmp_path: Path) -> None:
    images = make_files(tmp_path / "images", "a.tif", "a_masks.png", "b.ome.tif", "b_masks.tif")
    found = find_pairs(images, images, (".png", ".tif"), "_masks")
    assert found == [Pair(images / "a.tif", images / "a_masks.png"), Pair(images / "b.ome.tif", images / "b_masks.tif")]
    masks = make_files(tmp_path / "masks", "a_masks.png", "b_masks.tif", "a_flows.tif")
    assert [pair.truth.parent.name for pair in find_pairs(images, masks, (".png", ".tif"), "_masks")] == ["masks"] * 2


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (["a.png", "b.png", "b_masks.png"], r"a.png: no file named a_masks in .*images \(1 such"),
        (["a.png", "a_masks.png", "c_masks.png"], r"c_masks.png: no file named c in .*images \(1 such"),
        (["a.png"], "images: holds no image whose name ends in _masks"),
        (["a_masks.png"], "images: holds no image whose name does not end in _masks"),
    ],
)
def test_images_and_masks_with_an_ending_that_make_no_pairs_are_named(tmp_path: Path, names: list[str], text: str) -> None:
    images = make_files(tmp_path / "images", *names)
    with pytest.raises(TrainingError, match=text):
        find_pairs(images, images, (".png",), "_masks")


@pytest.mark.parametrize(
    ("images", "truths", "text"),
    [
        (["a.png", "b.png", "c.png"], ["a.png"], r"images/b.png: no file of that name in .*truths \(2 such in all\)"),
        (["a.png"], ["a.png", "b.png"], r"truths/b.png: no file of that name in .*images \(1 such"),
        (["a.png", "a.tif"], ["a.png"], r"images/a.tif: a.png has the same name"),
        (["a.txt"], ["a.png"], r"images: holds no image \(.png, .tif\)"),
    ],
)
def test_files_that_make_no_pairs_are_named(tmp_path: Path, images: list[str], truths: list[str], text: str) -> None:
    folders = make_files(tmp_path / "images", *images), make_files(tmp_path / "truths", *truths)
    with pytest.raises(TrainingError, match=text) as caught:
        find_pairs(*folders, (".png", ".tif"))
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="missing: no such folder"):
        find_pairs(tmp_path / "missing", tmp_path, (".png",))


# ------------------------------------------------------------------------------------------------------------ loading


def save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, pixels, photometric="rgb" if pixels.shape[-1] == 3 else "minisblack")
    return path


def shape_of(dtype: str = "uint8", value: int = 1) -> np.ndarray:
    """(20, 30): background, and a square of ``value``."""
    pixels = np.zeros((20, 30), dtype)
    pixels[5:15, 8:20] = value
    return pixels


def test_an_image_is_normalised_by_its_own_statistics(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(100, 4000, (20, 30, 3)).astype(np.uint16)
    image, _ = load_image(save(tmp_path / "a.tif", pixels), Normalization(low=0, high=100))
    assert image.shape == (3, 20, 30) and image.dtype == torch.float32 and image.is_contiguous()
    low, high = pixels.min((0, 1)), pixels.max((0, 1))
    np.testing.assert_allclose(image.permute(1, 2, 0).numpy(), (pixels - low) / (high - low), atol=1e-6)


@pytest.mark.parametrize(
    ("dtype", "value", "kind"), [("uint8", 255, torch.int16), ("uint16", 40000, torch.int32), ("int32", 9, torch.int16)]
)
def test_labels_are_the_numbers_of_the_mask_but_for_those_ignored(
    tmp_path: Path, dtype: str, value: int, kind: torch.dtype
) -> None:
    path = save(tmp_path / "a.tif", shape_of(dtype, value))
    labels = load_labels(path, (20, 30))
    assert labels.dtype == kind and np.array_equal(labels.numpy(), shape_of(dtype, value))
    assert torch.equal(load_labels(path, (20, 30), ignore=value), torch.where(labels > 0, IGNORED, labels))
    assert torch.equal(load_labels(path, (20, 30), ignore=value + 1), labels)


def test_a_mask_may_be_a_pixel_wide(tmp_path: Path) -> None:
    pixels = np.arange(9, dtype=np.uint8)[:, None] // 4
    assert np.array_equal(load_labels(save(tmp_path / "a.tif", pixels), (9, 1)).numpy(), pixels)


def test_a_restless_mask_of_few_classes_is_one(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 12, (20, 30)).astype(np.uint8)
    assert np.array_equal(load_labels(save(tmp_path / "a.tif", pixels), (20, 30)).numpy(), pixels)


@pytest.mark.parametrize(
    ("pixels", "text"),
    [
        (shape_of()[:, 1:], r"its size differs from the image's \(20 x 30 and 20 x 29\)"),
        (np.stack([shape_of()] * 3, -1), "a mask has one channel, this has 3"),
        (shape_of("float32"), "a mask holds whole numbers, this is float32"),
        (shape_of("int16", -2), "holds values from -2 to 0"),
        (shape_of("uint32", 2**24), "holds values from 0 to 16777216; number what it shows from 1 on, below 16777216"),
        (np.random.default_rng(0).integers(0, 255, (20, 30)).astype(np.uint8), "looks like an image, not like a mask"),
        (np.stack([shape_of()] * 2), "holds 2 planes, its image 1; save the mask of each plane"),
    ],
)
def test_what_is_no_mask_is_named(tmp_path: Path, pixels: np.ndarray, text: str) -> None:
    with pytest.raises(TrainingError, match=rf"a\.tif: {text}") as caught:
        load_labels(save(tmp_path / "a.tif", pixels), (20, 30))
    assert "\n" not in str(caught.value)


def test_what_cannot_be_learnt_from_is_named(tmp_path: Path) -> None:
    for pixels, text in (
        (np.full((9, 9), np.nan, np.float32), "holds NaN or Inf"),
        (np.ones((2, 9, 9), np.uint8), "holds 2 planes"),
    ):
        with pytest.raises(TrainingError, match=rf"a\.tif: {text}"):
            load_image(save(tmp_path / "a.tif", pixels), Normalization("none"))


def test_pairs_are_loaded_by_name(tmp_path: Path) -> None:
    for number, name in enumerate("ba"):
        save(tmp_path / f"images/{name}.tif", shape_of(value=10 + number))
        save(tmp_path / f"masks/{name}.tif", shape_of(value=1 + number))
    found = load_pairs(tmp_path / "images", tmp_path / "masks", Normalization("none"), ignore=1)
    assert [(one.name, float(one.image.max()), int(one.truth[7, 9])) for one in found] == [
        ("a.tif", 11, 2),
        ("b.tif", 10, IGNORED),
    ]


# --------------------------------------------------------------------------------------------------------------- sets


def numbered(count: int, channels: int = 1) -> list[Example]:
    return [Example(torch.full((channels, 4, 4), float(i)), torch.full((4, 4), i), f"{i}.png") for i in range(count)]


@pytest.mark.parametrize(("count", "held"), [(2, [1]), (9, [8]), (10, [9]), (25, [9, 19])])
def test_every_tenth_is_held_back(count: int, held: list[int]) -> None:
    data = hold_back(numbered(count), "images", "give more")
    assert [int(one.truth[0, 0]) for one in data.held] == held
    assert [int(one.truth[0, 0]) for one in data.learn] == [i for i in range(count) if i not in held]
    assert data.all == data.learn + data.held and not data.gray_as_rgb


@pytest.mark.parametrize(("files", "held"), [([3, 2], [3, 4]), ([25], [23, 24]), ([2], [1])])
def test_planes_of_a_stack_are_held_back_together(files: list[int], held: list[int]) -> None:
    names = [f"{number}.tif" for number, planes in enumerate(files) for _ in range(planes)]
    stacks = [replace(one, name=name) for one, name in zip(numbered(len(names)), names, strict=True)]
    data = hold_back(stacks, "images", "give more")
    assert [int(one.truth[0, 0]) for one in data.held] == held and len(data.all) == len(names)


def test_one_image_alone_is_refused() -> None:
    with pytest.raises(TrainingError, match="^images: one image alone; give more$"):
        hold_back(numbered(1), "images", "give more")


def test_gray_images_become_three_channels_where_others_have_them() -> None:
    gray, colours = Data(numbered(2), numbered(1)), Data(numbered(2), numbered(1, 3))
    assert of_equal_channels(gray, "images") is gray
    for data in (of_equal_channels(colours, "images"), of_equal_channels(gray, "images", gray_as_rgb=True)):
        assert data.gray_as_rgb and [tuple(one.image.shape) for one in data.all] == [(3, 4, 4)] * 3
        assert [float(one.image.mean()) for one in data.all] == [0, 1, 0]
    with pytest.raises(TrainingError, match=r"images: images of 1 \(0.png\) and 2 \(0.png\) channels; train on one kind"):
        of_equal_channels(Data(numbered(1), numbered(1, 2)), "images")


@dataclass(frozen=True)
class Classed(Example):
    classes: Tensor = field(default_factory=lambda: torch.zeros(1, dtype=torch.int64))


def test_a_digest_changes_with_everything_but_weights() -> None:
    """The first digest is what kept trainings were stored with."""
    first = Classed(torch.ones(1, 4, 4), torch.arange(16).reshape(4, 4), "a")
    assert digest([Example(first.image, first.truth.short(), "a")]) == "1 images (9cab73540fb5ea19)"
    others = [
        replace(first, image=first.image + 1),
        replace(first, truth=first.truth + 1),
        replace(first, truth=torch.stack([first.truth, first.truth])),
        replace(first, name="b"),
        replace(first, classes=torch.ones(1, dtype=torch.int64)),
    ]
    assert len({digest([one]) for one in [first, *others]}) == 6
    assert digest([replace(first, weights=torch.ones(4, 4))]) == digest([first])


# ------------------------------------------------------------------------------------------------------------ warping


@given(st.integers(0, 999), st.integers(20, 60), st.integers(20, 60), st.sampled_from([16, 31, 64]))
@deterministic
def test_image_and_truth_are_warped_alike(seed: int, height: int, width: int, side: int) -> None:
    """Where the image was read between pixels, the truth is that of the nearest one."""
    image, truth = crop(coordinates(height, width), side, GEOMETRY, generator(seed))
    nearest = torch.stack([truth % width, truth // width])
    assert (image - nearest).abs().max() <= 0.5 + 1e-3


def test_a_mask_as_an_image_stays_the_mask_away_from_edges() -> None:
    y, x = torch.meshgrid(torch.arange(80.0), torch.arange(90.0), indexing="ij")
    mask = ((x - 40) ** 2 / 2 + (y - 35) ** 2 < 500).long()
    for seed in range(5):
        image, truth = crop(Example(mask[None].float(), mask), 64, replace(GEOMETRY, elastic=0), generator(seed))
        around = torch.nn.functional.max_pool2d(torch.stack([truth, 1 - truth]).float(), 5, 1, 2)
        inner = around.min(0).values == 0
        inner[[0, 1, -2, -1], :] = inner[:, [0, 1, -2, -1]] = False
        assert inner.float().mean() > 0.5
        torch.testing.assert_close(image[0][inner], truth[inner].float(), atol=1e-4, rtol=0)


def test_without_augmentation_a_crop_of_the_images_size_is_the_image() -> None:
    example = scene(height=40, width=40)
    image, truth = crop(example, 40, NO_AUGMENTATION, generator(3))
    assert torch.equal(image, example.image) and torch.equal(truth, example.truth)


@given(st.integers(0, 999), st.integers(20, 60), st.integers(20, 60), st.sampled_from([16, 17]), st.booleans(), st.booleans())
@deterministic
def test_crops_whose_pixels_are_not_moved_are_pixels_of_the_image(
    seed: int, height: int, width: int, side: int, shift: bool, flip: bool
) -> None:
    """To the bit, and of one rectangle, whichever way round."""
    example = replace(scene(seed, height, width), truth=coordinates(height, width).truth)
    image, truth = crop(example, side, replace(NO_AUGMENTATION, shift=shift, flip=flip), generator(seed))
    rows, columns = truth // width, truth % width
    assert torch.equal(image, example.image[:, rows, columns])
    down, along = int(rows[1, 0] - rows[0, 0]), int(columns[0, 1] - columns[0, 0])
    assert abs(down) == abs(along) == 1 and (flip or (down, along) == (1, 1))
    assert torch.equal(rows, (rows[0, 0] + down * torch.arange(side))[:, None].expand(side, side))
    assert torch.equal(columns, (columns[0, 0] + along * torch.arange(side))[None].expand(side, side))


def test_beyond_the_image_a_crop_is_mirrored_whether_or_not_pixels_are_moved() -> None:
    """Of one that is turned by nothing, as by next to nothing: the outermost pixel comes twice."""
    example = coordinates(7, 5)
    image, _ = crop(example, 23, NO_AUGMENTATION, generator(0))
    nearly, _ = crop(example, 23, replace(NO_AUGMENTATION, rotate=1e-4), generator(0))
    torch.testing.assert_close(image, nearly, atol=1e-3, rtol=0)
    assert image[0, 0, 7:19].tolist() == [1, 0, 0, 1, 2, 3, 4, 4, 3, 2, 1, 0]


def test_weights_go_with_the_truth() -> None:
    truth = (coordinates(40, 50).truth * 7919) % 11
    example = Example(truth[None].float(), truth, weights=truth.half())
    for augmentation in (NO_AUGMENTATION, GEOMETRY):
        image, _, weights = crop(example, 24, augmentation, generator(2))
        assert weights.dtype == torch.float32 and torch.equal(weights, image[0])
    images, truths, weights = batch([example], 24, 3, NO_AUGMENTATION, (1,))
    assert weights.shape == truths.shape == (3, 24, 24) and torch.equal(weights, images[:, 0])


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("augmentation", [NO_AUGMENTATION, replace(NO_AUGMENTATION, flip=True, shift=True), GEOMETRY])
def test_each_layer_of_the_truth_is_cropped_like_a_truth_of_its_own(augmentation: Augmentation, count: int) -> None:
    plain = coordinates(40, 50)
    layers = torch.stack([(plain.truth * factor).to(torch.int32) % 1009 for factor in (1, 7919, 31)[:count]])
    image, truth = crop(replace(plain, truth=layers), 24, augmentation, generator(4))
    assert truth.shape == (count, 24, 24) and truth.dtype == torch.int64
    for layer, found in zip(layers, truth, strict=True):
        alone = crop(replace(plain, truth=layer), 24, augmentation, generator(4))
        assert torch.equal(image, alone[0]) and torch.equal(found, alone[1])
    assert batch([replace(plain, truth=layers)], 24, 2, augmentation, (1,))[1].shape == (2, count, 24, 24)


def test_an_image_smaller_than_a_crop_is_mirrored() -> None:
    image, truth = crop(coordinates(10, 6), 30, NO_AUGMENTATION, generator(0))
    assert image.shape == (2, 30, 30) and truth.shape == (30, 30)
    assert set((truth % 6).unique().tolist()) == set(range(6)) and set((truth // 6).unique().tolist()) == set(range(10))
    rows = image[0].diff(dim=1).abs()
    assert rows.max() <= 1 + 1e-3, "neighbours stay neighbours"


def test_a_crop_keeps_its_shape_and_types_for_images_of_one_pixel() -> None:
    image, truth = crop(Example(torch.ones(3, 1, 1), torch.full((1, 1), 7)), 8, Augmentation(), generator(0))
    assert image.shape == (3, 8, 8) and image.dtype == torch.float32
    assert truth.dtype == torch.int64 and (truth == 7).all()


def test_crops_reach_every_part_of_an_image() -> None:
    crops = (crop(coordinates(6, 9), 4, NO_AUGMENTATION, generator(seed))[1] for seed in range(400))
    assert {int(value) for truth in crops for value in truth.unique()} == set(range(54))


# --------------------------------------------------------------------------------------------------- each augmentation


def jacobian(augmentation: Augmentation, seed: int) -> np.ndarray:
    """(2, 2): how x and y of the image change along x and along y of the crop, which is somewhere within it."""
    image, _ = crop(coordinates(400, 400), 16, replace(augmentation, shift=True), generator(seed))
    return np.array([[float(image[axis].diff(dim=along).mean()) for along in (1, 0)] for axis in (0, 1)])


@pytest.mark.parametrize("seed", range(8))
def test_rotation_keeps_lengths_and_its_limit(seed: int) -> None:
    found = jacobian(replace(NO_AUGMENTATION, rotate=20), seed)
    np.testing.assert_allclose(found @ found.T, np.eye(2), atol=1e-3)
    assert abs(np.degrees(np.arctan2(found[1, 0], found[0, 0]))) <= 20.1


def test_a_flip_mirrors_half_of_the_crops() -> None:
    sides = [np.sign(np.linalg.det(jacobian(replace(NO_AUGMENTATION, flip=True), seed))) for seed in range(40)]
    assert 8 < sides.count(-1) < 32 and sides.count(1) > 8


def test_flips_are_along_each_axis_on_its_own() -> None:
    found = [np.sign(np.diag(jacobian(replace(NO_AUGMENTATION, flip=True), seed))) for seed in range(60)]
    counts = [sum(tuple(signs) == pair for signs in found) for pair in ((1, 1), (1, -1), (-1, 1), (-1, -1))]
    assert sum(counts) == 60 and min(counts) >= 6
    assert all((np.diag(jacobian(NO_AUGMENTATION, seed)) == 1).all() for seed in range(5))


@pytest.mark.parametrize(("length", "starts"), [(32, {0}), (33, {0, 1}), (64, {0, 32}), (80, {0, 24, 48}), (20, {-6})])
def test_without_shift_crops_lie_side_by_side_and_cover_the_image(length: int, starts: set[int]) -> None:
    """A small image is in the middle of its one crop, mirrored around."""
    image = torch.arange(length).float().expand(1, 32, length)
    example = Example(image, torch.zeros(32, length, dtype=torch.int64))
    crops = [crop(example, 32, NO_AUGMENTATION, generator(seed))[0][0, 0] for seed in range(40)]
    at = {int(one[0]) if length >= 32 else -int((one == 0).nonzero()[-1]) for one in crops}
    assert at == starts


def test_with_shift_crops_are_anywhere() -> None:
    image = torch.arange(64).float().expand(1, 32, 64)
    example = Example(image, torch.zeros(32, 64, dtype=torch.int64))
    shift = replace(NO_AUGMENTATION, shift=True)
    assert len({float(crop(example, 32, shift, generator(seed))[0][0, 0, 0]) for seed in range(60)}) > 15


def test_scale_goes_either_way_up_to_its_factor() -> None:
    factors = [jacobian(replace(NO_AUGMENTATION, scale=1.5), seed)[0, 0] for seed in range(40)]
    assert 1 / 1.501 <= min(factors) < 0.8 and 1.25 < max(factors) <= 1.501


def test_elastic_displacements_are_smooth_and_of_the_size_asked_for() -> None:
    shifts = []
    for seed in range(30):
        image, _ = crop(coordinates(400, 400), 64, replace(NO_AUGMENTATION, elastic=5), generator(seed))
        rows = image[0] - torch.arange(64)
        shifts.append(float((rows - rows.mean()).std()))
        assert image[0].diff(dim=1).std() < 1
    assert 1 < np.mean(shifts) < 8


def test_gray_values_change_while_the_truth_does_not() -> None:
    example = scene()
    plain_image, plain_truth = crop(example, 70, GEOMETRY, generator(1))
    image, truth = crop(example, 70, Augmentation(), generator(1))
    assert torch.equal(truth, plain_truth)
    assert not torch.allclose(image, plain_image)


def test_a_blurred_image_keeps_its_mean_and_loses_contrast() -> None:
    example = scene()
    blurred = [crop(example, 60, replace(NO_AUGMENTATION, blur=2), generator(seed))[0] for seed in range(30)]
    plain = [crop(example, 60, NO_AUGMENTATION, generator(seed))[0] for seed in range(30)]
    changed = [(b, p) for b, p in zip(blurred, plain, strict=True) if not torch.equal(b, p)]
    assert 2 < len(changed) < 20, "about a quarter"
    for after, before in changed:
        assert abs(after.mean() - before.mean()) < 0.05 and after.std() <= before.std()


# ------------------------------------------------------------------------------------------------------------- batches


def test_a_batch_is_a_function_of_its_key_alone() -> None:
    examples = [scene(seed) for seed in range(4)]
    first = batch(examples, 32, 3, Augmentation(), (7, 2))
    state = torch.manual_seed(12345).get_state()
    batch(examples, 32, 3, Augmentation(), (7, 1))
    second = batch(examples, 32, 3, Augmentation(), (7, 2))
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    assert torch.equal(torch.get_rng_state(), state), "the random state of the network is its own"
    assert first[0].shape == (3, 2, 32, 32) and first[1].shape == (3, 32, 32)


@pytest.mark.parametrize("other", [(7, 3), (8, 2), (7,), (2, 7)])
def test_another_key_gives_another_batch(other: tuple[int, ...]) -> None:
    examples = [scene()]
    one, two = (batch(examples, 32, 2, Augmentation(), key) for key in ((7, 2), other))
    assert not torch.equal(one[0], two[0])


def test_crops_of_a_batch_differ_and_come_from_all_examples() -> None:
    examples = [Example(torch.full((1, 20, 20), float(i)), torch.full((20, 20), i)) for i in range(4)]
    images, truths = batch(examples, 8, 40, NO_AUGMENTATION, (0,))
    assert set(truths.unique().tolist()) == {0, 1, 2, 3}
    torch.testing.assert_close(images[:, 0], truths.float())
    images, _ = batch([scene()], 16, 6, Augmentation(), (0,))
    assert len({image.numpy().tobytes() for image in images}) == 6


@pytest.mark.parametrize("processes", [2, 3, 5])
def test_the_parts_of_several_processes_are_the_batch_of_one(processes: int) -> None:
    examples = [scene(seed) for seed in range(3)]
    whole = batch(examples, 16, 5, Augmentation(), (7, 2))
    parts = [batch(examples, 16, 5, Augmentation(), (7, 2), (number, processes)) for number in range(processes)]
    assert [len(part[0]) for part in parts] == [len(range(number, 5, processes)) for number in range(processes)]
    for place, every in enumerate(whole):
        for number in range(processes):
            assert torch.equal(parts[number][place], every[number::processes])


def test_gray_values_of_channels_vary_together_and_a_little_on_their_own() -> None:
    """Of three equal channels: each is moved the same way, not by the same amount."""
    example = Example(torch.full((3, 20, 20), 0.5), torch.zeros(20, 20, dtype=torch.int64))
    moved = torch.stack([
        crop(example, 8, replace(NO_AUGMENTATION, gray=0.15), generator(seed))[0].mean((1, 2)) - 0.5 for seed in range(60)
    ])  # fmt: skip
    assert (moved[:, 0] != moved[:, 1]).all()
    assert torch.corrcoef(moved.T)[0, 1:].min() > 0.75
    gray = Example(example.image[:1], example.truth)
    assert crop(gray, 8, replace(NO_AUGMENTATION, gray=0.15), generator(0))[0].shape == (1, 8, 8)


def test_each_part_of_the_augmentation_is_off_at_its_zero() -> None:
    off = {item.name: getattr(NO_AUGMENTATION, item.name) for item in fields(Augmentation)}
    assert off == {"shift": False, "rotate": 0, "flip": False, "scale": 1, "elastic": 0, "gray": 0, "noise": 0, "blur": 0}
