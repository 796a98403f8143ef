"""Generators, discriminators and their losses: shapes, what they see, and the paper's formulas."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from i2i.errors import ModelError, UsageError
from i2i_pix2pix.discriminators import PATCHES, Discriminator, layers_of
from i2i_pix2pix.generators import GeneratorConfig, Noise, build, halo
from i2i_pix2pix.losses import discriminator_loss, distance, generator_loss

CONFIGS = [
    GeneratorConfig(kind, 2, 3, depth, 4, norm, up, 0.5, blocks=2)
    for kind, depth in (("unet", 3), ("encoder-decoder", 2), ("unet", 1), ("resnet", 2))
    for norm, up in (("batch", "transposed"), ("instance", "resize"), ("group", "transposed"))
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: f"{config.kind}-{config.depth}-{config.norm}")
def test_as_many_pixels_out_as_in_between_minus_one_and_one(config):
    torch.manual_seed(0)
    network = build(config)
    answer = network(torch.randn((2, 2, 3 * config.stride, 4 * config.stride)))
    assert answer.shape == (2, 3, 3 * config.stride, 4 * config.stride)
    assert float(answer.detach().abs().max()) <= 1


@pytest.mark.parametrize("up", ["transposed", "resize"])
@pytest.mark.parametrize(
    ("kind", "depth", "blocks"), [("unet", 1, 0), ("unet", 3, 0), ("encoder-decoder", 4, 0), ("resnet", 2, 2)]
)
def test_a_core_sees_no_farther_than_the_halo(kind, depth, blocks, up):
    """In float64, evaluated with batch norm: the gradient of a core is zero beyond the halo, and is not everywhere within."""
    torch.manual_seed(1)
    config = GeneratorConfig(kind, 1, 1, depth, 2, "batch", up, 0.0, blocks)
    network = build(config).double().eval()
    reach, stride = halo(config), config.stride
    first = (reach // stride + 2) * stride
    side = 2 * first + stride
    x = torch.rand((1, 1, side, side), dtype=torch.float64, requires_grad=True)
    network(x)[0, 0, first : first + stride, first : first + stride].sum().backward()
    rows = torch.nonzero(x.grad[0, 0].abs().sum(1))[:, 0]
    assert rows.min() >= first - reach and rows.max() <= first + stride - 1 + reach
    assert rows.min() < first - reach // 3, "it does see far"


def test_the_papers_unet_halves_256_pixels_to_one():
    config = GeneratorConfig()
    assert (config.stride, halo(config), config.widths) == (256, 511, [64, 128, 256, 512, 512, 512, 512, 512])
    with torch.device("meta"):
        network = build(config)
    assert sum(isinstance(layer, Noise) for layer in network.modules()) == 3
    assert sum(parameter.numel() for parameter in network.parameters()) == pytest.approx(54.4e6, rel=0.01)


def test_an_instance_of_a_single_pixel_is_not_normalised_away():
    """The layer with the fewest pixels has no normalisation: of one pixel it would give 0 whatever it is."""
    torch.manual_seed(0)
    network = build(GeneratorConfig("unet", 1, 1, 5, 4, "instance", dropout=0.0)).eval()
    images = torch.rand((2, 1, 32, 32))
    with torch.no_grad():
        bottom = images
        for layer in network.down:
            bottom = layer(bottom)
    assert bottom.shape[2:] == (1, 1) and not torch.allclose(bottom[0], bottom[1])


def test_values_that_are_impossible_are_told():
    good = GeneratorConfig().as_mapping()
    assert GeneratorConfig.from_mapping(good) == GeneratorConfig()
    for change in (
        {"kind": "x"},
        {"depth": 0},
        {"depth": True},
        {"filters": 10**6},
        {"dropout": 1.0},
        {"norm": "none"},
        {"more": 1},
    ):
        with pytest.raises(ModelError, match="no generator that this version knows"):
            GeneratorConfig.from_mapping(good | change)


@pytest.mark.parametrize("patch", list(PATCHES))
def test_a_discriminator_sees_patches_of_its_size(patch):
    torch.manual_seed(0)
    network = Discriminator(2, patch, filters=2, norm="batch").double().eval()
    side = max(8, 2 * patch + 40)
    x = torch.rand((1, 2, side, side), dtype=torch.float64, requires_grad=True)
    answer = network(x)
    middle = answer.shape[2] // 2
    answer[0, 0, middle, middle].backward()
    rows = torch.nonzero(x.grad[0].abs().sum((0, 2)))[:, 0]
    assert int(rows.max() - rows.min()) + 1 == patch


def test_a_patch_that_no_discriminator_sees_is_refused():
    assert layers_of(70) == [(4, 2)] * 3 + [(4, 1)] * 2
    with pytest.raises(UsageError, match="--patch 64: choose one of 1, 16, 34, 70, 142, 286"):
        layers_of(64)


def test_the_losses_are_the_papers():
    real, made = torch.randn((2, 1, 3, 3)), torch.randn((2, 1, 3, 3))
    ones, zeros = torch.ones_like(real), torch.zeros_like(real)
    told = discriminator_loss("vanilla", real, made)
    assert float(told["D_real"]) == pytest.approx(float(functional.binary_cross_entropy_with_logits(real, ones)) / 2)
    assert float(told["D_made"]) == pytest.approx(float(functional.binary_cross_entropy_with_logits(made, zeros)) / 2)
    assert float(generator_loss("vanilla", made)) == pytest.approx(float(-torch.log(torch.sigmoid(made)).mean()), rel=1e-5)
    told = discriminator_loss("lsgan", real, made)
    assert float(told["D_real"]) == pytest.approx(float((real - 1).square().mean()) / 2)
    assert float(told["D_made"]) == pytest.approx(float(made.square().mean()) / 2)
    assert float(generator_loss("hinge", made)) == pytest.approx(-float(made.mean()))
    assert float(discriminator_loss("hinge", 2 * ones, -2 * ones)["D_real"]) == 0
    assert float(distance("l1", made, real)) == pytest.approx(float((made - real).abs().mean()))
    assert float(distance("l2", made, real)) == pytest.approx(float((made - real).square().mean()))
