"""The patch classifier: its layers, whole images pixel by pixel, and the patches that it is trained on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from i2i.contracts import Runtime
from i2i.errors import ModelError, TrainingError
from i2i.geometry import mirror
from i2i.models import open_model, save_model
from i2i.testing import assert_task_contract
from i2i_unet import i2i_tasks, patch
from i2i_unet.architectures import adapt, build, config_from_mapping, footprint, forward_window, traceable, window_bytes
from i2i_unet.network import UNet, UNetConfig
from i2i_unet.options import SegmentOptions
from i2i_unet.patch import PatchConfig, PatchNet, kernels, patch_batch

SMALL = PatchConfig(channels=1, classes=3, patch_size=9, filters=4)


def settled(config: PatchConfig) -> PatchNet:
    torch.manual_seed(5)
    return PatchNet(config).eval().requires_grad_(False)


def write_model(path: Path, config: PatchConfig) -> Path:
    header = {
        "task": "segment",
        "network": config.as_mapping(),
        "normalization": {"method": "percentile"},
        "class_names": [f"class {i}" for i in range(config.classes)],
        "label_rule": {"interior": 1, "border": 2, "dilate": 2, "min_area": 4},
    }
    save_model(path, settled(config).state_dict(), header)
    return path


# ------------------------------------------------------------------------------------------------------------ network


def test_95_is_the_papers_n4():
    network = PatchNet(PatchConfig(patch_size=95))
    sides = []
    for layer in network.features:
        if isinstance(layer, nn.Conv2d | nn.MaxPool2d):
            layer.register_forward_hook(lambda layer, given, answer: sides.append(answer.shape[-1]))
    assert network(torch.zeros(1, 1, 95, 95)).shape == (1, 2)
    assert sides == [92, 46, 42, 21, 18, 9, 6, 3]
    assert kernels(95) == (4, 5, 4, 4)
    layers = [48 * 16 + 48, 48 * 48 * 25 + 48, *2 * [48 * 48 * 16 + 48], 9 * 48 * 200 + 200, 400 + 2]
    assert sum(parameter.numel() for parameter in network.parameters()) == sum(layers)


@pytest.mark.parametrize("size", range(9, 128, 2))
def test_every_pooling_meets_an_even_map_and_the_last_is_small(size):
    side = size
    for kernel in kernels(size):
        side = side - kernel + 1
        assert side % 2 == 0
        side //= 2
    assert 3 <= side <= 8
    network = PatchNet(PatchConfig(channels=2, classes=5, patch_size=size, filters=1))
    assert network(torch.rand(2, 2, size, size)).shape == (2, 5)


def test_weights_are_drawn_as_he_et_al_say():
    torch.manual_seed(1)
    network = PatchNet(PatchConfig(patch_size=65))
    for layer in (network.features[3], network.hidden):
        assert float(layer.weight.detach().std()) == pytest.approx((2 / layer.weight[0].numel()) ** 0.5, rel=0.05)


@pytest.mark.parametrize(
    "change",
    [
        {"patch_size": 16},
        {"patch_size": 7},
        {"patch_size": 129},
        {"patch_size": 33.0},
        {"filters": 0},
        {"classes": 1},
        {"channels": "1"},
        {"norm": "batch"},
        {"depth": 4},
    ],
    ids=str,
)
def test_impossible_networks_are_refused(change):
    with pytest.raises(ModelError, match="no patch classifier"):
        config_from_mapping(SMALL.as_mapping() | change)


def test_a_header_says_which_kind_of_network_it_is():
    other = UNetConfig(depth=2, filters=3)
    for config in (SMALL, other):
        assert config_from_mapping(config.as_mapping()) == config
    assert config_from_mapping(other.as_mapping() | {"arch": "unet"}) == other
    assert "arch" not in other.as_mapping()
    assert isinstance(build(SMALL), PatchNet) and isinstance(build(other), UNet)
    with pytest.raises(ModelError, match="'transformer'"):
        config_from_mapping({"arch": "transformer"})
    with pytest.raises(ModelError, match="must be an object"):
        config_from_mapping([("arch", "patch")])


# ------------------------------------------------------------------------------------------------------- whole images


@settings(deadline=None, max_examples=15, derandomize=True)
@given(
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    images=st.integers(1, 2),
    channels=st.integers(1, 2),
    most=st.sampled_from([1, 3, 8, 20, 4096]),
)
def test_each_pixel_is_classified_by_its_own_patch(height, width, images, channels, most):
    config = replace(SMALL, channels=channels)
    network, size = settled(config), config.patch_size
    window = torch.rand(images, channels, height + size - 1, width + size - 1)
    calls = []
    hook = network.register_forward_hook(lambda layer, given, answer: calls.append(len(answer)))
    with pytest.MonkeyPatch.context() as changed:
        changed.setattr(patch, "_CHUNK_MOST", most)
        found = forward_window(network, window)
    hook.remove()
    assert found.shape == (images, config.classes, height, width)
    assert max(calls) <= most and sum(calls) == images * height * width
    for y in range(height):
        for x in range(width):
            alone = network(window[..., y : y + size, x : x + size])
            assert torch.allclose(found[..., y, x], alone, atol=1e-5)


@pytest.mark.parametrize("size", [9, 17, 33, 65, 127])
def test_chunks_take_little_memory(size):
    config = PatchConfig(channels=3, patch_size=size)
    for itemsize in (2, 4):
        patches = patch._chunk(config, itemsize)
        assert 1 <= patches <= 4096
        assert patches * patch._patch_bytes(config, itemsize) <= patch._CHUNK_BYTES
    assert window_bytes(config, 4) * 128**2 >= patch._chunk(config, 4) * patch._patch_bytes(config, 4)


@pytest.mark.parametrize(
    "config",
    [SMALL, replace(SMALL, patch_size=15, filters=2), replace(SMALL, channels=3, classes=4)],
    ids=["plain", "larger", "rgb"],
)
def test_a_patch_classifier_keeps_the_contract(config, tmp_path):
    (task,) = i2i_tasks()
    assert_task_contract(task, model=write_model(tmp_path / "m.safetensors", config))


def test_the_image_is_mirrored_beyond_its_border(tmp_path):
    (task,) = i2i_tasks()
    predictor = task.load(SegmentOptions(), open_model(write_model(tmp_path / "m.safetensors", SMALL)), Runtime())
    assert predictor.footprint == footprint(SMALL)
    assert (predictor.footprint.halo, predictor.footprint.multiple_of, predictor.footprint.border) == (4, 1, "mirror")
    assert not traceable(SMALL) and traceable(UNetConfig())
    image = torch.rand(1, 1, 12, 14)
    padded = functional.pad(image, (4, 4, 4, 4), mode="reflect")
    corner, _ = patch_batch([image[0]], [torch.zeros(12, 14, dtype=torch.int64)], 9, 400, torch.Generator().manual_seed(0), False)
    at_corner = corner[(corner[:, 0, 4, 4] == image[0, 0, 0, 0])]
    assert len(at_corner)
    with torch.inference_mode():
        assert torch.allclose(predictor(padded)[..., 0, 0], predictor.network(at_corner[:1]), atol=1e-5)


# ----------------------------------------------------------------------------------------------------------- training


def numbered(*shapes: tuple[int, int]) -> tuple[list[Tensor], list[Tensor]]:
    """Images of which each pixel is another number (its second channel the negative), and classes that follow from it."""
    images, start = [], 0
    for height, width in shapes:
        values = torch.arange(start, start + height * width).reshape(1, height, width).float()
        images.append(torch.cat([values, -values]))
        start += height * width
    return images, [(image[0] % 10 == 3).long() for image in images]


def mirrored_patch(image: Tensor, centre: float, size: int) -> Tensor:
    """The patch around the pixel whose first channel is ``centre``, by :func:`i2i.geometry.mirror`."""
    ((y, x),) = (image[0] == centre).nonzero().tolist()
    rows, columns = (
        torch.tensor([mirror(i, length) for i in range(at - size // 2, at + size // 2 + 1)])
        for at, length in ((y, image.shape[1]), (x, image.shape[2]))
    )
    return image[:, rows][..., columns]


@settings(deadline=None, max_examples=10, derandomize=True)
@given(
    shapes=st.lists(st.tuples(st.integers(1, 20), st.integers(1, 20)), min_size=1, max_size=3),
    size=st.sampled_from([9, 11, 17]),
    seed=st.integers(0, 99),
)
def test_patches_are_centred_on_pixels_of_their_class_and_mirrored(shapes, size, seed):
    images, classes = numbered(*shapes)
    patches, labels = patch_batch(images, classes, size, 40, torch.Generator().manual_seed(seed), False)
    assert patches.shape == (40, 2, size, size) and patches.dtype == torch.float32
    assert labels.shape == (40,) and labels.dtype == torch.int64
    for found, label in zip(patches, labels, strict=True):
        centre = float(found[0, size // 2, size // 2])
        (image,) = (image for image in images if bool((image[0] == centre).any()))
        assert int(label) == int(centre % 10 == 3)
        assert torch.equal(found, mirrored_patch(image, centre, size))


def symmetries(pixels: Tensor) -> list[Tensor]:
    turned = [torch.rot90(pixels, turns, (1, 2)) for turns in range(4)]
    return [*turned, *(each.flip(2) for each in turned)]


def test_augmented_patches_are_all_of_the_8_rotations_and_mirrorings():
    images, classes = numbered((30, 40))
    patches, _ = patch_batch(images, classes, 9, 400, torch.Generator().manual_seed(0), True)
    seen = set()
    for found in patches:
        plain = mirrored_patch(images[0], float(found[0, 4, 4]), 9)
        seen |= {number for number, each in enumerate(symmetries(plain)) if torch.equal(each, found)}
        assert any(torch.equal(each, found) for each in symmetries(plain))
    assert seen == set(range(8))


def test_classes_are_balanced_when_asked():
    truth = torch.zeros(100, 100, dtype=torch.int64)
    truth[:5], truth[5:6] = 1, 2
    image = torch.rand(1, 100, 100)
    shares = {}
    for balance in (True, False):
        _, labels = patch_batch([image], [truth], 9, 3000, torch.Generator().manual_seed(1), False, balance)
        shares[balance] = (labels.bincount(minlength=3) / 3000).tolist()
    assert shares[True] == pytest.approx([1 / 3] * 3, abs=0.03)
    assert shares[False] == pytest.approx([0.94, 0.05, 0.01], abs=0.015)


@pytest.mark.parametrize("balance", [True, False])
def test_pixels_without_a_class_are_never_a_centre(balance):
    images, classes = numbered((20, 30), (10, 10))
    classes[0][:, 5:] = -1
    classes[1][:] = -1
    patches, labels = patch_batch(images, classes, 9, 500, torch.Generator().manual_seed(1), True, balance)
    assert int(labels.min()) == 0 and int(labels.max()) == 1
    assert set(patches[:, 0, 4, 4].tolist()) <= set(images[0][0, :, :5].flatten().tolist())


def test_masks_without_a_class_are_refused():
    images, classes = numbered((20, 30))
    with pytest.raises(TrainingError, match="without a class"):
        patch_batch(images, [torch.full_like(classes[0], -1)], 9, 5, torch.Generator().manual_seed(1), True)


def test_the_same_generator_gives_the_same_batch():
    images, classes = numbered((20, 30), (25, 15))
    first, again, other = (patch_batch(images, classes, 9, 16, torch.Generator().manual_seed(seed), True) for seed in (1, 1, 2))
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])


def recall(network: PatchNet, image: Tensor, classes: Tensor) -> float:
    """The mean over both classes of the share of their pixels that are found."""
    with torch.inference_mode():
        found = forward_window(network.eval(), functional.pad(image[None], (4, 4, 4, 4), mode="reflect"))[0].argmax(0)
    return sum(float((found[classes == each] == each).float().mean()) for each in (0, 1)) / 2


def test_it_learns_to_tell_bright_spots_from_the_rest():
    torch.manual_seed(0)
    random = torch.Generator().manual_seed(0)
    smooth = [functional.avg_pool2d(torch.randn((1, 1, 52, 52), generator=random), 13, 1)[0] for _ in range(3)]
    images = [image / image.std() for image in smooth]
    classes = [(image[0] > 0.5).long() for image in images]
    network = PatchNet(PatchConfig(patch_size=9, filters=8))
    assert recall(network, images[2], classes[2]) < 0.6
    optimizer = torch.optim.AdamW(network.train().parameters(), 3e-3)
    for _ in range(40):
        patches, labels = patch_batch(images[:2], classes[:2], 9, 64, random, True)
        optimizer.zero_grad()
        functional.cross_entropy(network(patches), labels).backward()
        optimizer.step()
    assert recall(network, images[2], classes[2]) > 0.8


# --------------------------------------------------------------------------------------------------------- fine-tuning


KINDS = pytest.mark.parametrize(
    "config", [SMALL, UNetConfig(classes=3, depth=1, filters=2), UNetConfig(classes=3, depth=2, filters=2, norm="none")], ids=str
)


@KINDS
def test_a_network_takes_the_weights_of_another(config):
    torch.manual_seed(1)
    start, network = build(config), build(config)
    half = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in start.state_dict().items()}
    assert adapt(network, half) == []
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, half[name].to(tensor.dtype)) and tensor.dtype == start.state_dict()[name].dtype


@KINDS
def test_a_head_of_other_classes_stays_fresh(config):
    torch.manual_seed(1)
    start, network = build(config), build(replace(config, classes=5))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    assert adapt(network, start.state_dict()) == ["head.bias", "head.weight"]
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name] if name.startswith("head.") else start.state_dict()[name])


@pytest.mark.parametrize(
    ("config", "other", "named"),
    [
        (SMALL, replace(SMALL, filters=8), "features.0.weight is 8 x 1 x 4 x 4, should be 4 x 1 x 4 x 4"),
        (SMALL, replace(SMALL, patch_size=15, classes=4), "hidden.weight is 200 x 144, should be 200 x 36"),
        (SMALL, UNetConfig(depth=1, filters=2), "down.0.0.weight is not part of it"),
        (UNetConfig(depth=1, filters=2), UNetConfig(depth=2, filters=2, classes=4), "down.2.0.weight is not part of it"),
        (UNetConfig(depth=1, filters=2), UNetConfig(depth=1, filters=2, channels=3), "down.0.0.weight is 2 x 3 x 3 x 3"),
        (UNetConfig(depth=2, filters=2), UNetConfig(depth=1, filters=2), "down.2.0.weight is missing"),
    ],
)
def test_weights_of_another_architecture_are_refused_and_change_nothing(config, other, named):
    network = build(config)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(ModelError) as caught:
        adapt(network, build(other).state_dict())
    assert named in str(caught.value) and "\n" not in str(caught.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
