"""The U-Net plugin: its network, its footprint, what it learns, and what it gives."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import i2i
from i2i.contracts import Runtime
from i2i.errors import InputError, ModelError
from i2i.formats import open_image
from i2i.metrics import object_figures
from i2i.models import find_model, open_model, save_model
from i2i.testing import ContractError, assert_task_contract
from i2i_unet import i2i_models, i2i_tasks, targets
from i2i_unet.losses import pixel_weights, soft_dice, weighted_cross_entropy
from i2i_unet.network import UNet, UNetConfig, forward_window, halo, margin, original, valid_size
from i2i_unet.options import SegmentOptions

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "plugins/i2i_unet/samples"
TRUTH = ROOT / "examples/data/nuclei-truth"
SMALL = UNetConfig(channels=1, classes=3, depth=2, filters=4)
RULE = {"interior": 1, "border": 2, "dilate": 2, "min_area": 4}


def settle(network: UNet) -> UNet:
    """Running statistics that are not those of initialisation, so that batch norm does something."""
    generator = torch.Generator().manual_seed(3)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean = 0.1 * torch.randn(layer.num_features, generator=generator)
            layer.running_var = 0.5 + torch.rand(layer.num_features, generator=generator)
    return network.eval()


def write_model(path: Path, config: UNetConfig, **changes: object) -> Path:
    torch.manual_seed(5)
    header = {
        "task": "segment",
        "network": config.as_mapping(),
        "normalization": {"method": "percentile"},
        "class_names": [f"class {i}" for i in range(config.classes)],
        "label_rule": RULE,
    }
    save_model(path, settle(UNet(config)).state_dict(), header | changes)
    return path


# ------------------------------------------------------------------------------------------------------------ network


def test_the_original_is_the_papers_network():
    network = UNet(original())
    convolutions = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)]
    assert len(convolutions) == 23
    assert margin(original()) == 92
    assert valid_size(original(), 388) == 572
    small = replace(original(), filters=2)
    assert UNet(small).eval()(torch.zeros(1, 1, 572, 572)).shape == (1, 2, 388, 388)


def test_parameters_of_the_original_are_those_of_the_paper():
    assert sum(parameter.numel() for parameter in UNet(original()).parameters()) == 31_030_658


def test_weights_are_drawn_as_he_et_al_say():
    layer = UNet(UNetConfig(filters=32)).down[1][0]
    assert float(layer.weight.detach().std()) == pytest.approx((2 / layer.weight[0].numel()) ** 0.5, rel=0.05)


@pytest.mark.parametrize(("depth", "expected"), [(2, 22), (3, 46), (4, 94)])
def test_halo_follows_from_the_layers(depth, expected):
    assert halo(UNetConfig(depth=depth)) == expected


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_valid_network_gives_the_core_of_its_window(depth):
    config = UNetConfig(depth=depth, filters=2, padding="valid", norm="none")
    stride, network = config.stride, UNet(config).eval()
    context = -(-margin(config) // stride) * stride
    window = torch.rand(1, 1, 3 * stride + 2 * context, 5 * stride + 2 * context)
    assert forward_window(network, window).shape == (1, 2, 3 * stride, 5 * stride)


@pytest.mark.parametrize(
    "change",
    [
        {"norm": "layer"},
        {"norm": []},
        {"padding": "full"},
        {"padding": "valid", "up": "resize"},
        {"classes": 1},
        {"classes": 257},
        {"depth": 0},
        {"depth": 2.0},
        {"depth": "2"},
        {"filters": 1025},
        {"filters": 1024, "depth": 5},
        {"channels": 2000},
        {"dropout": 1.5},
    ],
    ids=str,
)
def test_impossible_networks_are_refused(change):
    with pytest.raises(ModelError):
        UNetConfig.from_mapping(SMALL.as_mapping() | change)


def test_unknown_settings_are_refused():
    with pytest.raises(ModelError, match="no U-Net"):
        UNetConfig.from_mapping({"attention": True})


# ----------------------------------------------------------------------------------------------------------- contract


@pytest.mark.parametrize(
    "config",
    [
        SMALL,
        replace(SMALL, up="resize"),
        replace(SMALL, norm="none", padding="valid"),
        replace(SMALL, norm="instance"),
        replace(SMALL, norm="group", filters=8),
    ],
    ids=["batch", "resize", "valid", "instance", "group"],
)
def test_every_kind_of_network_keeps_the_contract(config, tmp_path):
    (task,) = i2i_tasks()
    assert_task_contract(task, model=write_model(tmp_path / "m.safetensors", config))


def test_the_kit_catches_a_group_norm_that_the_plugin_does_not_declare(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "i2i_unet.predictor.footprint", lambda config: replace(_footprint(config), norm_scope="pixel", merge="crop")
    )
    (task,) = i2i_tasks()
    with pytest.raises(ContractError):
        assert_task_contract(task, model=write_model(tmp_path / "m.safetensors", replace(SMALL, norm="group", filters=8)))


def test_the_kit_catches_a_halo_one_stride_too_small(tmp_path, monkeypatch):
    def narrow(config):
        honest = _footprint(config)
        return replace(honest, halo=honest.halo - config.stride)

    monkeypatch.setattr("i2i_unet.predictor.footprint", narrow)
    (task,) = i2i_tasks()
    with pytest.raises(ContractError, match="too small"):
        assert_task_contract(task, model=write_model(tmp_path / "m.safetensors", SMALL))


def _footprint(config):
    from i2i_unet import network

    return network.footprint(config)


def test_a_network_that_cannot_tile_exactly_says_so(tmp_path):
    model = write_model(tmp_path / "m.safetensors", replace(SMALL, norm="instance"))
    image = SAMPLES / "nuclei.png"
    tiled = i2i.run("segment", image, tmp_path / "tiled.png", model=model, tile=128)
    assert any("not the same as the whole image" in warning for warning in tiled.warnings)
    assert not i2i.run("segment", image, tmp_path / "whole.png", model=model).warnings
    with pytest.raises(InputError, match="--strict"):
        i2i.run("segment", image, tmp_path / "strict.png", model=model, tile=128, strict=True)


# ------------------------------------------------------------------------------------------------- targets and losses


def test_border_is_only_between_objects():
    labels = torch.zeros(1, 12, 20, dtype=torch.int64)
    labels[0, 2:10, 1:6] = 1
    labels[0, 2:10, 7:12] = 2
    labels[0, 5, 17] = 3
    classes = targets.interior_border(labels)[0]
    assert classes[5, 17] == targets.INTERIOR
    assert classes[5, 6] == targets.BORDER
    assert classes[5, 5] == classes[5, 7] == targets.BORDER
    assert classes[5, 1] == classes[5, 11] == targets.INTERIOR
    assert classes[0, 0] == targets.BACKGROUND


def test_objects_that_touch_are_parted():
    labels = torch.ones(1, 8, 8, dtype=torch.int64)
    labels[..., 4:] = 2
    classes = targets.interior_border(labels)[0]
    assert (classes[:, 3:5] == targets.BORDER).all()
    assert (classes[:, :3] == targets.INTERIOR).all()


def test_weights_stand_between_objects():
    labels = torch.zeros(1, 9, 15, dtype=torch.int64)
    labels[0, :, :4] = 1
    labels[0, :, 7:10] = 2
    between = targets.between_objects(labels)[0]
    assert between[4, 5]
    assert not between[4, 13]
    assert pixel_weights(between, 3.0)[4, 5] == 3.0


def test_cross_entropy_is_the_weighted_sum_of_the_paper():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 4, 5, generator=generator)
    classes = torch.randint(3, (2, 4, 5), generator=generator)
    weights = torch.rand(2, 4, 5, generator=generator)
    total = 0.0
    for n, y, x in np.ndindex(2, 4, 5):
        p = torch.exp(logits[n, :, y, x]) / torch.exp(logits[n, :, y, x]).sum()
        total -= float(weights[n, y, x] * torch.log(p[classes[n, y, x]]))
    assert float(weighted_cross_entropy(logits, classes, weights)) == pytest.approx(total / float(weights.sum()), rel=1e-5)


def test_dice_is_zero_for_the_truth_and_one_for_its_opposite():
    classes = torch.zeros(1, 32, 32, dtype=torch.int64)
    classes[:, :16] = 1
    right = torch.stack([1 - classes, classes], 1).float() * 200 - 100
    assert float(soft_dice(right, classes)) == pytest.approx(0, abs=1e-4)
    assert float(soft_dice(-right, classes)) > 0.99


# -------------------------------------------------------------------------------------------------------------- files


def test_weights_that_do_not_fit_are_refused(tmp_path):
    path = write_model(tmp_path / "m.safetensors", SMALL, network=replace(SMALL, filters=8).as_mapping())
    (task,) = i2i_tasks()
    with pytest.raises(ModelError, match="do not fit"):
        task.load(SegmentOptions(), open_model(path), Runtime())


def test_tensors_that_are_missing_or_too_many_are_named(tmp_path):
    header = open_model(write_model(tmp_path / "m.safetensors", SMALL)).config
    tensors = UNet(SMALL).state_dict()
    (task,) = i2i_tasks()
    for name, changed in (
        ("head.bias is missing", {key: value for key, value in tensors.items() if key != "head.bias"}),
        ("head.scale is not part of it", tensors | {"head.scale": torch.ones(3)}),
        ("head.bias is 4, should be 3", tensors | {"head.bias": torch.ones(4)}),
    ):
        save_model(tmp_path / "n.safetensors", changed, header)
        with pytest.raises(ModelError, match=name) as caught:
            task.load(SegmentOptions(), open_model(tmp_path / "n.safetensors"), Runtime())
        assert "n.safetensors" in str(caught.value) and "\n" not in str(caught.value)


def test_a_header_of_an_enormous_network_takes_no_memory(tmp_path, monkeypatch):
    enormous = replace(SMALL, depth=8, filters=64)  # 2 billion parameters
    path = write_model(tmp_path / "m.safetensors", SMALL, network=enormous.as_mapping())
    (task,) = i2i_tasks()
    built = []
    monkeypatch.setattr("i2i_unet.predictor.UNet", lambda config: built.append(UNet(config)) or built[-1])
    with pytest.raises(ModelError, match="do not fit"):
        task.load(SegmentOptions(), open_model(path), Runtime())
    assert all(parameter.is_meta for parameter in built[0].parameters())


@pytest.mark.parametrize("norm", ["batch", "instance", "none"])
def test_a_loaded_network_is_the_files_in_full_precision(tmp_path, norm):
    """Batch norm is folded into the convolutions: the same function."""
    config = replace(SMALL, norm=norm)
    model = open_model(write_model(tmp_path / "m.safetensors", config))
    (task,) = i2i_tasks()
    loaded = task.load(SegmentOptions(), model, Runtime()).network
    plain = UNet(config).eval()
    plain.load_state_dict({name: tensor.to(plain.state_dict()[name].dtype) for name, tensor in model.tensors().items()})
    assert all(weight.dtype == torch.float32 for weight in loaded.state_dict().values() if weight.is_floating_point())
    assert not any(isinstance(layer, torch.nn.BatchNorm2d) for layer in loaded.modules())
    batch = torch.rand(1, config.channels, 64, 48)
    with torch.inference_mode():
        expected, found = plain(batch), loaded(batch)
    assert (expected - found).abs().max() <= 1e-5 * (expected.max() - expected.min())


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"network": 5}, "no U-Net"),
        ({"network": {"depth": 400}}, "depth 400"),
        ({"normalization": None}, "normalization is missing"),
        ({"normalization": {"method": "magic"}}, "magic"),
        ({"normalization": {"low": "dark"}}, "percentiles"),
        ({"class_names": None}, "3 names"),
        ({"class_names": ["one", "two"]}, "3 names"),
        ({"class_names": [1, 2, 3]}, "3 names"),
        ({"label_rule": []}, "label_rule must be an object"),
        ({"label_rule": {"colour": 1}}, "label_rule must be an object"),
        ({"label_rule": {"interior": 3}}, "interior 3 must be"),
        ({"label_rule": {"interior": None}}, "interior None must be"),
        ({"label_rule": {"dilate": "far"}}, "dilate 'far' must be"),
    ],
    ids=str,
)
def test_a_header_that_cannot_be_used_is_one_line(change, told, tmp_path):
    path = write_model(tmp_path / "m.safetensors", SMALL, **change)
    (task,) = i2i_tasks()
    with pytest.raises(ModelError) as caught:
        task.load(SegmentOptions(), open_model(path), Runtime())
    text = str(caught.value)
    assert text.startswith(f"{path}: ") and told in text and "i2i train segment" in text and "\n" not in text


def test_a_model_of_another_task_is_refused(tmp_path):
    path = write_model(tmp_path / "m.safetensors", SMALL, task="translate")
    with pytest.raises(ModelError, match="translate"):
        find_model(path, "segment", i2i_models())


# ------------------------------------------------------------------------------------------------------ bundled model


@pytest.mark.parametrize("card", i2i_models(), ids=lambda card: card.name)
def test_bundled_models_are_what_their_cards_say(card):
    model = open_model(card.file, card)
    assert card.file.stat().st_size < 10_000_000
    assert model.config["network"]["channels"] == card.channels
    for field in (card.summary, card.licence, card.data, card.made_by, card.not_for):
        assert field, "a card says what the model is, what it is made from and what it is not for"
    assert card.metrics
    assert (ROOT / card.made_by).exists()


def test_the_bundled_model_keeps_the_contract():
    (task,) = i2i_tasks()
    card = next(card for card in i2i_models() if card.name == "nuclei-fluo")
    assert_task_contract(task, model=card.name, cards=[card])


@pytest.mark.parametrize("name", ["nuclei", "nuclei-dense"])
def test_the_bundled_model_finds_the_nuclei_of_the_samples(name, tmp_path):
    report = i2i.run("segment", SAMPLES / f"{name}.png", tmp_path / "labels.png", precision="fp32")
    found, truth = (
        open_image(path).read(open_image(path).spec.region)[..., 0] for path in (tmp_path / "labels.png", TRUTH / f"{name}.png")
    )
    figures = object_figures(found, truth)
    assert report.objects == len(np.unique(found)) - 1
    assert figures["ap50"] > 0.8
