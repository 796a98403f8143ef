"""Drop-out as noise: the same wherever windows lie; and the generators' short cuts of training."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import i2i_pix2pix.predictor
from i2i.contracts import Runtime
from i2i.errors import ModelError, UsageError
from i2i.formats.views import ArraySource
from i2i.models import open_model, save_model
from i2i.normalize import Normalization
from i2i.testing import assert_predictor_contract, blobs
from i2i_pix2pix.generators import GeneratorConfig, build
from i2i_pix2pix.noise import _mixed, kept, mixed_key
from i2i_pix2pix.options import TranslateOptions
from i2i_pix2pix.predictor import TranslatePredictor, load
from i2i_pix2pix.ranges import Ranges


def lowbias(numbers: np.ndarray) -> np.ndarray:
    numbers = numbers ^ (numbers >> np.uint32(16))
    numbers = numbers * np.uint32(0x7FEB352D)
    numbers = numbers ^ (numbers >> np.uint32(15))
    numbers = numbers * np.uint32(0x846CA68B)
    return numbers ^ (numbers >> np.uint32(16))


def test_the_hash_is_that_of_unsigned_numbers():
    numbers = torch.randint(-(2**31), 2**31, (5000,), generator=torch.Generator().manual_seed(0)).to(torch.int32)
    assert np.array_equal(_mixed(numbers).numpy().view(np.uint32), lowbias(numbers.numpy().view(np.uint32)))


def drawn(row: int, column: int, side: int = 64, seed: int = 3, number: int = 0, share: float = 0.5) -> torch.Tensor:
    corners = torch.tensor([[row, column]], dtype=torch.int32)
    return kept(torch.zeros((1, 48, side // 4, side // 4)), share, mixed_key(seed, number), corners, side)[0]


def test_windows_draw_the_same_where_they_overlap_and_anew_for_each_seed_and_layer():
    first, second = drawn(0, 64), drawn(32, 96)
    assert torch.equal(first[:, 8:, 8:], second[:, :8, :8])
    for other in (drawn(0, 64, seed=4), drawn(0, 64, number=1), drawn(64, 0)):
        assert 0.45 < float((first == other).float().mean()) < 0.55


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_as_many_are_dropped_as_asked_and_none_depends_on_its_neighbours(share):
    values = drawn(0, 0, 256, share=share)
    assert values.unique().tolist() == pytest.approx([0, 1 / (1 - share)])
    assert float((values == 0).float().mean()) == pytest.approx(share, abs=0.01)
    flat = values.double() - values.double().mean()
    for shifted in (flat[1:] * flat[:-1], flat[:, 1:] * flat[:, :-1], flat[..., 1:] * flat[..., :-1]):
        assert abs(float(shifted.mean() / flat.var())) < 0.01


# ----------------------------------------------------------------------------------------------------------- predictors


def predictor(config: GeneratorConfig, **options: object) -> TranslatePredictor:
    torch.manual_seed(0)
    network = build(config)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(layer.weight, 0.2)
    return TranslatePredictor(network, Ranges(Normalization("range")), Runtime(), TranslateOptions(**options))


CONFIGS = [
    GeneratorConfig("unet", 1, 2, 3, 4, "batch"),
    GeneratorConfig("unet", 1, 1, 2, 8, "group"),
    GeneratorConfig("resnet", 1, 1, 2, 4, "instance", blocks=1),
]


@pytest.mark.parametrize("samples", [0, 2])
@pytest.mark.parametrize("statistics", ["sampled", "exact"])
@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: f"{config.kind}-{config.norm}")
def test_tiles_are_the_whole_with_noise_and_without(config, statistics, samples):
    assert_predictor_contract(predictor(config, statistics=statistics, samples=samples), images=[blobs(150, 210, 1)])


def test_samples_differ_by_their_seeds_alone():
    image = ArraySource(blobs(64, 64, 1))
    sampled = predictor(CONFIGS[0], samples=1)
    places = np.stack(np.meshgrid(np.arange(64), np.arange(64), indexing="ij"))
    pixels = sampled.prepare(image, 0).normalize(blobs(64, 64, 1))
    seen = torch.from_numpy(np.concatenate([np.moveaxis(pixels, 2, 0), places])[None]).float()
    answers = [sampled.prepare(image, seed)(seen) for seed in (0, 1, 0)]
    assert torch.equal(answers[0], answers[2]) and float((answers[0] - answers[1]).abs().mean()) > 0.01
    again = sampled.with_statistics(sampled.prepare(image, 1).statistics())
    assert torch.equal(again(seen), answers[1])
    plain = predictor(CONFIGS[0]).prepare(image, 0)
    assert torch.equal(plain(seen[:, :1]), plain(seen[:, :1]))


def test_samples_without_noise_are_refused(tmp_path):
    network = build(GeneratorConfig("unet", 1, 1, 1, 4, dropout=0.0))
    header = {
        "task": "translate",
        "generator": network.config.as_mapping(),
        "ranges": Ranges(Normalization("range")).as_mapping(),
    }
    save_model(tmp_path / "m.safetensors", network.state_dict(), header)
    with pytest.raises(UsageError, match="--samples: m was made without drop-out"):
        load(open_model(tmp_path / "m.safetensors"), Runtime(), TranslateOptions(samples=1))
    with pytest.raises(ModelError, match="not a model of translate"):
        save_model(tmp_path / "n.safetensors", network.state_dict(), {"task": "segment"})
        load(open_model(tmp_path / "n.safetensors"), Runtime())


def test_a_deep_generator_is_blended_unless_it_is_to_be_exact():
    config = GeneratorConfig("unet", 1, 1, 7, 1)
    blended, exact = (predictor(config, statistics=name).footprint for name in ("sampled", "exact"))
    assert (blended.merge, blended.halo, exact.merge, exact.halo) == ("blend", 128, "crop", 255)


@pytest.mark.parametrize(("side", "depth", "exactly"), [(40, 2, False), (1100, 2, True), (1100, 7, False)])
def test_statistics_are_exact_by_default_where_that_costs_little(monkeypatch, side, depth, exactly):
    """Neither of an image that is measured as one window, nor of a generator whose windows would be context for the most part."""
    passes = []
    monkeypatch.setattr(i2i_pix2pix.predictor, "measure_exactly", lambda *given: passes.append(given) or {})
    monkeypatch.setattr(i2i_pix2pix.predictor, "measure", lambda *given: {})
    monkeypatch.setattr(TranslatePredictor, "with_statistics", lambda self, statistics: self)
    made = predictor(GeneratorConfig("unet", 1, 1, depth, 2, "instance"))
    made.prepare(ArraySource(np.zeros((side, 1000, 1), np.uint8)), 0)
    assert bool(passes) == exactly
    monkeypatch.setattr(i2i_pix2pix.predictor, "_MEASURED", 1000 * side - 1)
    made.prepare(ArraySource(np.zeros((side, 1000, 1), np.uint8)), 0)
    assert len(passes) == exactly


# -------------------------------------------------------------------------------------------------- short cuts of training


@pytest.mark.parametrize("side", [1, 2, 8])
@pytest.mark.parametrize("up", [False, True])
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_layers_of_few_pixels_are_the_convolutions(side, up, memory):
    """In training, the answer and all gradients are those of torch's own layers."""
    from i2i_pix2pix.generators import _Doubling, _Halving

    torch.manual_seed(0)
    layer = (_Doubling if up else _Halving)(3, 5, bias=True).double().to(memory_format=memory)
    torch.nn.init.normal_(layer.bias)
    pixels = torch.randn((2, 3, side, side) if up else (2, 3, 2 * side, 2 * side), dtype=torch.float64, requires_grad=True)
    own = partial(functional.conv_transpose2d if up else functional.conv2d, stride=2, padding=1)
    answers = layer.train()(pixels), own(pixels, layer.weight, layer.bias)
    assert torch.allclose(*answers, atol=1e-12)
    weights = torch.randn_like(answers[0])
    gradients = [torch.autograd.grad((answer * weights).sum(), [pixels, layer.weight, layer.bias]) for answer in answers]
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(*gradients, strict=True))


def test_a_head_of_half_precision_answers_in_single():
    network = predictor(GeneratorConfig("unet", 1, 1, 2, 4, "batch", head="linear")).network
    made = TranslatePredictor(network, Ranges(Normalization("range")), Runtime(precision="bf16"))
    ready = made.prepare(ArraySource(blobs(32, 32, 1)), 0)
    answer = ready(torch.rand((1, 1, 32, 32)))
    assert answer.dtype == torch.float32 and not torch.equal(answer, answer.bfloat16().float())
