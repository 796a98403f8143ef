"""A network of one style: its statistics are those of the whole image, and with these its tiles are exact."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from i2i.contracts import DensePredictor, Footprint, ImageSpec, Runtime
from i2i.errors import ModelError, PluginError, UsageError
from i2i.formats.views import ArraySource
from i2i.frozen import frozen, measure, sample_regions, sample_windows, seen
from i2i.geometry import Region, round_up
from i2i.models import open_model, save_model
from i2i.testing import assert_predictor_contract, blobs
from i2i_style.colours import luminance
from i2i_style.feedforward import TransferPredictor, load_transfer
from i2i_style.options import StylizeOptions
from i2i_style.transformer import STRIDE, Transformer, TransformerConfig, folded

TINY = TransformerConfig(channels=4, blocks=1)


def network(config: TransformerConfig = TINY, seed: int = 0) -> Transformer:
    """With random weights, normalisation included: none of them is at its neutral value."""
    torch.manual_seed(seed)
    found = Transformer(config).eval().requires_grad_(False)
    for part in found.modules():
        if isinstance(part, nn.InstanceNorm2d):
            part.weight.copy_(0.5 + torch.rand_like(part.weight))
            part.bias.copy_(torch.rand_like(part.bias) - 0.2)
    return found


def predictor(**options: object) -> TransferPredictor:
    return TransferPredictor(network(), StylizeOptions(**options), Runtime(), "waves")


def written(folder, **header):
    path = folder / "m.safetensors"
    known = {"task": "stylize", "kind": "transfer", "transformer": TINY.as_mapping(), "style": "waves"}
    save_model(path, network().state_dict(), known | header)
    return open_model(path)


# ------------------------------------------------------------------------------------------------------------------ statistics


def test_of_one_window_they_are_those_of_instance_normalisation():
    plain, seen = network().double(), torch.rand((1, 3, 36, 44), dtype=torch.float64)
    fixed = frozen(plain, measure(plain, seen))
    assert torch.allclose(fixed(seen), plain(seen), atol=1e-12)
    assert not any(isinstance(part, nn.InstanceNorm2d) for part in fixed.modules())
    other = torch.rand((1, 3, 36, 44), dtype=torch.float64) ** 2
    assert float((fixed(other) - plain(other)).abs().max()) > 1e-3, "another image's own statistics are others"


def test_of_several_windows_they_are_over_all_positions_of_all():
    plain, seen = network().double(), torch.rand((3, 3, 16, 24), dtype=torch.float64)
    seen[0] *= 0.1
    known = measure(plain, seen)
    first = plain.down[0][0](seen - 0.5)
    assert np.allclose(known["down.0.1"]["mean"], first.mean((0, 2, 3)))
    assert np.allclose(known["down.0.1"]["variance"], first.var((0, 2, 3), correction=0))
    second = plain.down[1][0](torch.relu(_normalised(first, plain.down[0][1])))
    assert np.allclose(known["down.1.1"]["mean"], second.mean((0, 2, 3))), "what comes after sees the common statistics"


def _normalised(values: torch.Tensor, layer: nn.InstanceNorm2d) -> torch.Tensor:
    mean, variance = values.mean((0, 2, 3), keepdim=True), values.var((0, 2, 3), correction=0, keepdim=True)
    scaled = (values - mean) / (variance + layer.eps).sqrt()
    return scaled * layer.weight[None, :, None, None] + layer.bias[None, :, None, None]


def test_any_network_can_be_frozen_and_no_other_networks_statistics():
    plain = nn.Sequential(nn.Conv2d(2, 3, 3), nn.InstanceNorm2d(3), nn.ReLU()).double()
    seen = torch.rand((1, 2, 9, 9), dtype=torch.float64)
    known = json.loads(json.dumps(measure(plain, seen)))
    assert torch.allclose(frozen(plain, known).double()(seen), plain(seen), atol=1e-6)
    with pytest.raises(ModelError, match="another network"):
        frozen(network(), known)


@given(height=st.integers(1, 9000), width=st.integers(1, 9000), seed=st.integers(0, 3))
@settings(derandomize=True, deadline=None, max_examples=60)
def test_the_windows_that_stand_for_an_image_lie_in_it_and_apart(height, width, seed):
    spec = ImageSpec(height, width, 3)
    regions = sample_regions(spec, seed)
    assert regions == sample_regions(spec, seed)
    assert all(spec.region.contains(region) for region in regions)
    pixels = sum(region.area for region in regions)
    assert pixels <= 2**20 and pixels >= min(spec.region.area, 2**20) / 2
    if spec.region.area <= 2**20:
        assert regions == [spec.region]


def test_windows_are_spread_over_a_large_image_and_small_images_are_mirrored():
    regions = sample_regions(ImageSpec(4000, 8000, 3), 0)
    quarters = {(region.y // 2000, region.x // 2000) for region in regions}
    assert len(quarters) == 8 and sample_regions(ImageSpec(4000, 8000, 3), 1) != regions
    seeing = DensePredictor()
    seeing.footprint = Footprint(pad="mirror", channels_in=3)
    (window,) = sample_windows(ArraySource(blobs(1, 45, 3)), seeing, 0, 4)
    assert window.shape == (3, 32, 48)
    assert torch.equal(window[:, 0], window[:, 31]) and torch.equal(window[:, :, 43], window[:, :, 45])


# --------------------------------------------------------------------------------------------------------------------- tiles


@pytest.mark.parametrize("blocks", [1, 2, 5])
def test_the_halo_is_as_far_as_a_core_sees(blocks):
    plain = network(TransformerConfig(2, blocks)).double()
    halo, side = plain.config.halo, 2 * plain.config.halo + 40 - 2 * plain.config.halo % 4
    fixed = folded(frozen(plain, measure(plain, torch.rand((1, 3, 32, 32), dtype=torch.float64))))
    first = side // 8 * 4
    seen = torch.rand((1, 3, side, side), dtype=torch.float64, requires_grad=True)
    core = fixed(seen)[..., first : first + 4, first : first + 4]
    (core * torch.rand_like(core)).sum().backward()
    for rows in (seen.grad.abs().sum((0, 1, 3)), seen.grad.abs().sum((0, 1, 2))):
        reached = rows.nonzero().flatten()
        assert max(first - int(reached[0]), int(reached[-1]) - first - 3) == halo


def test_folding_changes_nothing_within_the_halo():
    plain = network().double()
    fixed = frozen(plain, measure(plain, torch.rand((2, 3, 32, 32), dtype=torch.float64)))
    margin = plain.config.halo
    seen = torch.rand((1, 3, 2 * margin + 16, 2 * margin + 20), dtype=torch.float64)
    expected = fixed(seen)[..., margin:-margin, margin:-margin]
    found = folded(fixed)(seen)[..., margin:-margin, margin:-margin]
    assert torch.allclose(found, expected, atol=1e-12)
    assert not any(isinstance(part, nn.BatchNorm2d) for part in fixed.modules())


def test_it_keeps_the_contract():
    assert_predictor_contract(predictor(), images=[blobs(61, 90, 3)])


def test_with_the_colours_kept_only_the_luminance_changes():
    source = ArraySource(blobs(40, 48, 3))
    made, plain = (predictor(keep_colors=kept).prepare(source, 0) for kept in ("luminance", "none"))
    margin = -(-TINY.halo // 4) * 4
    seen = 0.4 + 0.2 * torch.rand((1, 3, 2 * margin + 16, 2 * margin + 16))
    core = seen[..., margin:-margin, margin:-margin]
    found, whole = made(seen), plain(seen)
    inside = ((found > 0) & (found < 1)).all(1, keepdim=True).expand_as(found)
    assert float(inside.float().mean()) > 0.5
    difference = (found - core)[inside].reshape(3, -1)
    assert torch.allclose(difference[0], difference[1], atol=1e-5) and torch.allclose(difference[0], difference[2], atol=1e-5)
    clear = inside[:, :1]
    assert torch.allclose(luminance(found)[clear], luminance(whole)[clear], atol=1e-5)


def test_it_is_called_when_it_is_prepared():
    with pytest.raises(PluginError, match="prepare"):
        predictor()(torch.zeros((1, 3, 64, 64)))


def test_size_asks_the_engine_for_another_and_depth_follows_the_input():
    spec = ImageSpec(300, 600, 3, dtype="uint16")
    assert predictor(size="200").fitted(spec).size == (100, 200)
    assert predictor().fitted(spec).size is None and predictor(size="full").fitted(spec).size is None
    assert predictor().fitted(spec).outputs[0].dtype == "uint16"


# ---------------------------------------------------------------------------------------------------------------- model files


def test_a_model_file_gives_the_network_that_was_saved(tmp_path):
    found = load_transfer(written(tmp_path), StylizeOptions(), Runtime())
    source, seen = ArraySource(blobs(40, 48, 3)), torch.rand((1, 3, 96, 96))
    expected = predictor().prepare(source, 0)(seen)
    assert found.remarks == ("style: waves",)
    assert float((found.prepare(source, 0)(seen) - expected).abs().max()) < 5e-3, "weights are kept in 16 bits"


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ({"task": "segment"}, "not a network of one style"),
        ({"kind": "decoder"}, "not a network of one style"),
        ({"transformer": None}, "must be an object of channels and blocks"),
        ({"transformer": {"channels": 4, "blocks": True}}, "blocks True must be a whole number from 1 to 32"),
        ({"transformer": {"channels": 100000, "blocks": 1}}, "from 1 to 256"),
        ({"transformer": {"channels": 8, "blocks": 1}}, "do not fit the network"),
        ({"transformer": {"channels": 4, "blocks": 2}}, r"do not fit the network its header describes \(blocks.1"),
        ({"style": "a\nb"}, "style must be a name"),
    ],
)
def test_a_header_that_cannot_be_used_is_said_with_the_file(tmp_path, header, words):
    with pytest.raises(ModelError, match=words) as raised:
        load_transfer(written(tmp_path, **header), StylizeOptions(), Runtime())
    assert str(raised.value).startswith(str(tmp_path)) and "i2i train stylize" in str(raised.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"style": ["a.jpg"]}, "--style: .* leave out --style, or --model"),
        ({"mask": ["a.png", "b.png"]}, "--mask: 2 for 1 of --style"),
        ({"strength": 0.5}, "--strength: .* leave out"),
        ({"style_scale": 2.0}, "--style-scale: .* leave out"),
        ({"keep_colors": "histogram"}, "take luminance"),
    ],
)
def test_options_that_a_network_of_one_style_has_no_use_for_are_refused(tmp_path, options, words):
    with pytest.raises(UsageError, match=words):
        load_transfer(written(tmp_path), StylizeOptions(**options), Runtime())


def test_outside_of_a_mask_the_photograph_stays_as_it_is(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (72, 96, 3), np.uint8)
    inside = np.zeros((72, 96), np.uint8)
    inside[:, 48:] = 255
    Image.fromarray(inside).save(tmp_path / "mask.png")
    source = ArraySource(pixels)
    kept, alone = (predictor(mask=mask).fitted(source.spec).prepare(source, 0) for mask in ([str(tmp_path / "mask.png")], []))
    margin = round_up(alone.footprint.halo, STRIDE)
    window = Region(0, 0, 72, 96).grow(margin)
    one, other = (
        each(torch.from_numpy(seen(source, each, window)).permute(2, 0, 1)[None])[0].permute(1, 2, 0).numpy()
        for each in (kept, alone)
    )
    assert np.allclose(one[:, :48], pixels[:, :48] / 255, atol=1e-6) and np.allclose(one[:, 48:], other[:, 48:], atol=1e-5)


def test_by_default_the_colours_are_the_styles():
    batch = torch.rand((1, 3, 160, 160), generator=torch.Generator().manual_seed(3))
    pixels = (255 * batch[0].permute(1, 2, 0)).numpy().astype(np.uint8)
    found, kept = (predictor(**options).prepare(ArraySource(pixels), 0)(batch) for options in ({}, {"keep_colors": "luminance"}))
    assert not torch.allclose(found, kept, atol=1e-2)
