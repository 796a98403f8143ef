"""The U-Net plugin: its network, its footprint, what it learns, and what it gives."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import i2i
from i2i.contracts import Runtime
from i2i.errors import InputError, ModelError
from i2i.formats import open_image
from i2i.metrics import object_figures
from i2i.models import find_model, open_model, save_model
from i2i.testing import ContractError, assert_task_contract
from i2i_unet import i2i_models, i2i_tasks
from i2i_unet.network import UNet, UNetConfig, footprint, forward_window, halo, initialise, margin, original, valid_size
from i2i_unet.options import SegmentOptions

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "plugins/i2i_unet/samples"
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


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv2d(64, 48, 3, padding=1), (1, 64, 9, 9)),
        (nn.ConvTranspose2d(128, 64, 2, stride=2), (1, 128, 5, 5)),
        (nn.ConvTranspose2d(64, 48, 4, stride=2, padding=1), (1, 64, 5, 5)),
        (nn.Linear(256, 128), (1, 256)),
    ],
    ids=["convolution", "up-convolution", "overlapping up-convolution", "fully connected"],
)
def test_weights_are_drawn_as_he_et_al_say(layer, shape):
    """N, the incoming nodes of one neuron, is counted by the gradient: one for each input that the neuron is a sum of."""
    torch.manual_seed(2)
    initialise(layer)
    seen = torch.ones(shape, requires_grad=True)
    answer = layer(seen)
    neuron = answer[0, 0] if answer.dim() == 2 else answer[0, 0, answer.shape[2] // 2, answer.shape[3] // 2]
    neuron.backward()
    incoming = int((seen.grad != 0).sum())
    assert float(layer.weight.detach().std()) == pytest.approx((2 / incoming) ** 0.5, rel=0.05)
    assert abs(float(layer.weight.detach().mean())) < 0.05 * (2 / incoming) ** 0.5
    assert not layer.bias.detach().any()


def test_every_layer_of_the_network_is_drawn_so():
    network = UNet(UNetConfig(filters=32, depth=2, norm="none"))
    assert float(network.down[1][0].weight.detach().std()) == pytest.approx((2 / (32 * 9)) ** 0.5, rel=0.05)
    assert float(network.up[0].weight.detach().std()) == pytest.approx((2 / 128) ** 0.5, rel=0.05)


def test_drop_out_is_at_the_end_of_the_contracting_path():
    network = UNet(UNetConfig(depth=3, filters=4, dropout=0.5))
    seen = []
    network.dropout.register_forward_hook(
        lambda layer, given, answer: seen.append((given[0].shape[1], (answer == 0).float().mean()))
    )
    pixels = torch.rand(1, 1, 32, 32)
    network(pixels)
    assert [channels for channels, _ in seen] == [16, 32]
    assert all(share > 0.4 for _, share in seen)
    assert torch.equal(network.eval()(pixels), network(pixels))


@pytest.mark.parametrize(("depth", "expected"), [(2, 22), (3, 46), (4, 94)])
def test_halo_follows_from_the_layers(depth, expected):
    assert halo(UNetConfig(depth=depth)) == expected


def valid_network(depth: int, up: str) -> UNet:
    """In float64, with biases, so that no ReLU is dead by chance."""
    torch.manual_seed(depth)
    network = UNet(UNetConfig(depth=depth, filters=2, padding="valid", norm="none", up=up)).double().eval()
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            nn.init.constant_(parameter, 0.3)
    return network


UPS = pytest.mark.parametrize("up", ["transposed", "resize"])


@UPS
@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_a_valid_network_loses_its_margin(depth, up):
    network = valid_network(depth, up)
    size = valid_size(network.config, 1)
    assert network(torch.zeros(1, 1, size, size, dtype=torch.float64)).shape[-1] == size - 2 * margin(network.config) >= 1


@UPS
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_valid_network_gives_the_core_of_its_window(depth, up):
    network = valid_network(depth, up)
    stride, context = network.config.stride, footprint(network.config).halo
    window = torch.rand(1, 1, 3 * stride + 2 * context, 5 * stride + 2 * context, dtype=torch.float64)
    assert forward_window(network, window).shape == (1, 2, 3 * stride, 5 * stride)


@settings(deadline=None, max_examples=12, derandomize=True)
@given(
    depth=st.integers(1, 3),
    up=st.sampled_from(["transposed", "resize"]),
    start=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    core=st.tuples(st.integers(1, 3), st.integers(1, 3)),
)
def test_any_window_of_a_valid_network_gives_the_pixels_of_the_whole(depth, up, start, core):
    network = valid_network(depth, up)
    stride, context = network.config.stride, footprint(network.config).halo
    whole = torch.rand(1, 1, *(6 * stride + 2 * context,) * 2, dtype=torch.float64)
    rows, columns = (slice(stride * first, stride * (first + count)) for first, count in zip(start, core, strict=True))
    window = whole[..., rows.start : rows.stop + 2 * context, columns.start : columns.stop + 2 * context]
    with torch.inference_mode():
        expected, found = forward_window(network, whole)[..., rows, columns], forward_window(network, window)
    assert float((found - expected).abs().max()) <= 1e-12 * float(expected.max() - expected.min())


@UPS
@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_nothing_beyond_the_halo_of_a_valid_network_matters(depth, up):
    """The gradient of a core of one stride, in float64; and nearly all of the halo does matter."""
    network = valid_network(depth, up)
    stride, context = network.config.stride, footprint(network.config).halo
    before = 2 * -(-context // stride) * stride  # on each side of the core that is looked at
    length = stride + 2 * before
    seen = torch.rand(1, 1, stride + 2 * context, length + 2 * context, dtype=torch.float64, requires_grad=True)
    forward_window(network, seen)[..., before : before + stride].abs().sum().backward()
    columns = seen.grad.abs().sum((0, 1, 2)).nonzero()[:, 0]
    left, right = context + before - int(columns[0]), int(columns[-1]) + 1 - (context + before + stride)
    assert margin(network.config) <= max(left, right) <= context
    assert min(left, right) > context - stride


@pytest.mark.parametrize(
    "change",
    [
        {"norm": "layer"},
        {"norm": []},
        {"padding": "full"},
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
        replace(SMALL, norm="batch", padding="valid", up="resize"),
        replace(SMALL, depth=3, filters=2, norm="none", padding="valid", up="resize"),
        replace(SMALL, norm="instance"),
        replace(SMALL, norm="group", filters=8),
    ],
    ids=["batch", "resize", "valid", "valid-resize", "valid-resize-3", "instance", "group"],
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
    monkeypatch.setattr("i2i_unet.predictor.build", lambda config: built.append(UNet(config)) or built[-1])
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
        ({"class_names": ["a", "b", "\x00"]}, "in one line each"),
        ({"class_names": ["a", "b", "c" * 201]}, "in one line each"),
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


@pytest.mark.parametrize(
    ("image", "truth", "model"),
    [
        ("samples/nuclei.png", "nuclei-truth", "nuclei-fluo"),
        ("samples/nuclei-dense.png", "nuclei-truth", "nuclei-fluo"),
        ("samples_brightfield/tissue.png", "tissue-truth", "nuclei-brightfield"),
    ],
)
def test_the_bundled_models_find_the_nuclei_of_the_samples(image, truth, model, tmp_path):
    report = i2i.run("segment", ROOT / "plugins/i2i_unet" / image, tmp_path / "labels.png", precision="fp32")
    assert report.model == model, "the default for its channels"
    true = ROOT / "examples/data" / truth / Path(image).name
    pixels = [open_image(path).read(open_image(path).spec.region)[..., 0] for path in (tmp_path / "labels.png", true)]
    assert report.objects == len(np.unique(pixels[0])) - 1
    assert object_figures(*pixels)["ap50"] > 0.75
