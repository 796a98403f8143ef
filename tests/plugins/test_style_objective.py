"""The loss of a picture and its gradient: the formulas against autograd, and tiled against whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from i2i.geometry import Region
from i2i_style.convolve import can_winograd
from i2i_style.encoder import COMPACT, VGG19, Encoder, EncoderConfig, load_torchvision, normalized
from i2i_style.losses import blended, content_gradient, content_loss, gram, style_derivative, style_loss, total_variation
from i2i_style.objective import Objective, StyleTarget, Weights, grams_of, tiles_of

WEIGHTS = Path(__file__).parents[3] / "shared/weights/vgg19_features_conv1_1-conv3_4.safetensors"
LAYERS = ("conv1_1", "conv1_2", "conv2_1", "conv2_2", "conv3_1", "conv3_2")
SMALL = EncoderConfig(((8, 8), (12, 12), (16, 16)))


def picture(height, width, seed=0):
    """(1, 3, H, W): smooth shapes with noise."""
    random = torch.Generator().manual_seed(seed)
    coarse = torch.rand((1, 3, max(2, height // 9), max(2, width // 9)), generator=random)
    smooth = functional.interpolate(coarse, (height, width), mode="bicubic", align_corners=False)
    return (smooth + 0.1 * torch.randn(smooth.shape, generator=random)).clamp(0, 1)


def encoder(config, seed=0):
    torch.manual_seed(seed)
    return Encoder(config).eval().requires_grad_(False)


def reader(image):
    def read(region: Region):
        return image[(..., *region.slices)]

    return read


def objective(net, x, window, weights, targets, content):
    size = tuple(x.shape[2:])
    return Objective(net, size, tiles_of(size, net.config, (window, window)), weights, targets, reader(content))


def direct_loss(net, x, weights, targets, content):
    """The paper's formulas written out for the whole picture, for autograd."""
    found, wanted = net(x, weights.layers), net(content, weights.layers)
    total = x.new_zeros(())
    for name, weight in weights.content.items():
        squares = (found[name] - wanted[name]).square()
        total = total + weight * (squares.sum() if weights.summed else squares.mean()) / 2
    for target in targets:
        for name, weight in weights.style.items():
            features = found[name][0].flatten(1)
            if target.mask is None:
                own = features @ features.T / features.shape[1]
            else:
                guide = functional.adaptive_avg_pool2d(target.mask, found[name].shape[2:]).flatten()
                own = (features * guide) @ (features * guide).T / guide.square().sum()
            total = total + target.weight * weight * ((own - target.grams[name]) ** 2).sum() / (4 * own.numel())
    if weights.variation:
        down, right = x[..., 1:, :] - x[..., :-1, :], x[..., :, 1:] - x[..., :, :-1]
        total = total + weights.variation * (down.square().sum() + right.square().sum()) / 2 / (x.shape[2] * x.shape[3])
    return total


def targets_of(net, weights, seed=5, mask=None):
    style = picture(61, 83, seed)
    size = tuple(style.shape[2:])
    grams = grams_of(net, reader(style), size, tiles_of(size, net.config, (999, 999)), tuple(weights.style))
    return [StyleTarget(grams, mask)]


def relative(found, wanted):
    return float((found - wanted).norm() / wanted.norm())


def test_each_formula_is_the_derivative_of_its_loss():
    random = torch.Generator().manual_seed(1)
    values = torch.rand((50, 6), generator=random, dtype=torch.float64, requires_grad=True)
    wanted = gram(torch.rand((9, 6), generator=random, dtype=torch.float64))
    (auto,) = torch.autograd.grad(style_loss(gram(values), wanted), values)
    assert torch.allclose(auto, values.detach() @ style_derivative(gram(values.detach()), wanted, 50), atol=1e-12)
    target = torch.rand((50, 6), generator=random, dtype=torch.float64)
    (auto,) = torch.autograd.grad(content_loss(values, target), values)
    assert torch.allclose(auto, content_gradient(values.detach(), target))


def test_gram_and_style_loss_are_the_papers_sums():
    values = torch.tensor([[1.0, 2.0], [3.0, 0.0], [0.5, 1.0]])
    by_hand = (
        np.array([[sum(a * b for a, b in zip(values[:, i], values[:, j], strict=True)) for j in range(2)] for i in range(2)]) / 3
    )
    assert np.allclose(gram(values).numpy(), by_hand)
    other = torch.eye(2)
    assert float(style_loss(gram(values), other)) == pytest.approx(sum((by_hand - np.eye(2)).ravel() ** 2) / (4 * 2**2))


def test_total_variation_counts_each_pair_of_neighbours_once():
    image = torch.tensor([[[[1.0, 3.0], [2.0, 7.0]]]])
    assert float(total_variation(image, 2, 2)) == (1 + 16 + 4 + 25) / 2
    assert float(total_variation(image, 1, 1)) == (1 + 4) / 2


def test_one_blended_matrix_has_the_gradient_of_several_styles():
    random = torch.Generator().manual_seed(2)
    values = torch.rand((40, 5), generator=random)
    grams, shares = [torch.rand((5, 5), generator=random) for _ in range(3)], [0.5, 0.3, 0.2]
    several = sum(share * style_derivative(gram(values), each, 40) for share, each in zip(shares, grams, strict=True))
    assert torch.allclose(several, style_derivative(gram(values), blended(grams, shares), 40), atol=1e-6)


@settings(max_examples=15, deadline=None)
@given(
    st.integers(9, 90), st.integers(9, 90), st.integers(0, 5), st.sampled_from(["avg", "max"]), st.booleans(), st.booleans(),
    st.lists(st.sampled_from(LAYERS), min_size=1, max_size=4, unique=True),
    st.data(),
)  # fmt: skip
def test_the_tiled_gradient_is_the_whole_pictures(height, width, more, pooling, masked, summed, layers, data):
    """In float64: in fp32 an answer within rounding of 0 may pass its ReLU in a window and not in the whole, or the other way."""
    content_layer = data.draw(st.sampled_from(layers))
    config = EncoderConfig(SMALL.blocks, pooling).upto(layers)
    net = encoder(config, height).double()
    weights = Weights({content_layer: 0.7}, {name: 20.0 / (i + 1) for i, name in enumerate(layers)}, 0.3, summed)
    mask = None
    if masked:
        stride = config.layers[-1].stride
        mask = (picture(height // stride * stride or 1, width // stride * stride or 1, 9)[:, :1] > 0.4).float()
        mask = functional.pad(mask, (0, width - mask.shape[3], 0, height - mask.shape[2]), mode="replicate")
    targets = targets_of(net, weights, mask=mask)
    x, content = picture(height, width, 1).double(), picture(height, width, 2).double()
    loss, gradient = objective(net, x, window_of(config, more), weights, targets, content)(x)
    whole_loss, whole = objective(net, x, 10**6, weights, targets, content)(x)
    assert relative(gradient, whole) < 1e-5
    assert loss == pytest.approx(whole_loss, rel=1e-5)
    if not masked:
        variable = x.clone().requires_grad_()
        wanted = direct_loss(net, variable, weights, targets, content)
        (auto,) = torch.autograd.grad(wanted, variable)
        assert relative(whole, auto) < 1e-5 and whole_loss == pytest.approx(float(wanted.detach()), rel=1e-5)


def window_of(config, more):
    """Its side: cores of one position of the last layer, and ``more``."""
    last = config.layers[-1]
    return 2 * -(-last.reach // last.stride) * last.stride + last.stride * (1 + more)


def test_in_fp32_the_tiled_gradient_is_the_whole_pictures_but_for_single_answers():
    """Twelve random sizes, windows and sets of layers: mostly equal to a millionth; where an answer within rounding of 0 passes
    its ReLU in one of the two alone, a small picture's gradient differs more."""
    random = np.random.default_rng(0)
    found = []
    for number in range(12):
        height, width = (int(side) for side in random.integers(20, 120, 2))
        layers = [str(name) for name in random.choice(LAYERS, random.integers(1, 5), replace=False)]
        net = encoder(SMALL.upto(layers), number)
        weights = Weights({layers[0]: 0.7}, {name: 20.0 / (i + 1) for i, name in enumerate(layers)}, 0.3)
        targets, x, content = targets_of(net, weights), picture(height, width, 1), picture(height, width, 2)
        _, gradient = objective(net, x, window_of(net.config, int(random.integers(6))), weights, targets, content)(x)
        found.append(relative(gradient, objective(net, x, 10**6, weights, targets, content)(x)[1]))
    assert np.median(found) < 1e-6 and sum(each < 1e-4 for each in found) >= 11 and max(found) < 1e-2, found


def test_a_guided_gradient_is_that_of_the_formulas():
    net = encoder(SMALL)
    weights = Weights({}, {"conv2_1": 1.0, "conv3_1": 2.0})
    mask = torch.zeros((1, 1, 64, 96))
    mask[..., 8:48, 16:70] = 1.0
    targets = targets_of(net, weights, mask=mask)
    x = picture(64, 96, 3)
    loss, gradient = objective(net, x, 10**6, weights, targets, x)(x)
    variable = x.clone().requires_grad_()
    wanted = direct_loss(net, variable, weights, targets, x)
    (auto,) = torch.autograd.grad(wanted, variable)
    assert loss == pytest.approx(float(wanted.detach()), rel=1e-4) and relative(gradient, auto) < 1e-4
    assert float(gradient[..., 60:, 90:].abs().max()) == 0


@pytest.mark.parametrize("pooling", ["avg", "max"])
def test_back_propagation_by_hand_is_autograds(pooling):
    """Over odd sizes, down to one pixel; all layers say something."""
    net = encoder(EncoderConfig(SMALL.blocks, pooling)).double()
    names = [layer.name for layer in net.config.layers]
    for height, width in ((1, 1), (1, 7), (5, 2), (13, 18)):
        x = torch.rand((1, 3, height, width), dtype=torch.float64, requires_grad=True)
        answers = net(x, names)
        given = {name: torch.randn_like(values) for name, values in answers.items()}
        total = sum((values * given[name]).sum() for name, values in answers.items())
        (auto,) = torch.autograd.grad(total, x)

        def add(name, gradient, given=given):
            gradient += given[name]

        with torch.no_grad():
            found = net.backward({name: values.detach() for name, values in answers.items()}, add)
        assert relative(found, auto.float()) < 1e-6


def test_in_bf16_the_gradient_is_nearly_that_of_fp32():
    net, weights = encoder(SMALL), Weights({"conv3_1": 1.0}, {"conv1_1": 5.0, "conv2_1": 5.0})
    x, content = picture(70, 90, 1), picture(70, 90, 2)
    targets = targets_of(net, weights)
    loss, gradient = objective(net, x, 999, weights, targets, content)(x)
    half_loss, half = objective(net.to(torch.bfloat16), x, 999, weights, targets, content)(x)
    assert half_loss == pytest.approx(loss, rel=0.02) and relative(half, gradient) < 0.05


def test_a_halo_that_is_too_small_is_seen():
    net = encoder(SMALL)
    weights = Weights({}, {"conv3_2": 1.0})
    x = picture(96, 96, 1)
    targets = targets_of(net, weights)
    size = (96, 96)
    tiles = [
        type(tile)(tile.core, tile.core.grow(4).intersect(Region(0, 0, *size))) for tile in tiles_of(size, net.config, (64, 64))
    ]
    assert len(tiles) > 1
    _, wrong = Objective(net, size, tiles, weights, targets, reader(x))(x)
    _, right = objective(net, x, 10**6, weights, targets, x)(x)
    assert relative(wrong, right) > 1e-3


@pytest.mark.skipif(not can_winograd(torch.device("cpu"), torch.float32), reason="needs a build of torch with NNPACK")
@pytest.mark.parametrize("pooling", ["avg", "max"])
def test_by_winograd_the_gradient_is_nearly_the_same(pooling):
    """Some ReLUs near zero are on the other side, for answers are right to a few millionths."""
    net = encoder(EncoderConfig(((64, 64), (64, 96)), pooling))
    weights = Weights({"conv2_2": 1.0}, {"conv1_1": 100.0, "conv2_1": 100.0}, 0.1)
    x, content = picture(75, 110, 1), picture(75, 110, 2)
    targets = targets_of(net, weights)
    found = objective(net, x, 10**6, weights, targets, content)
    loss, gradient = found(x)
    found.winograd = True
    quick_loss, quick = found(x)
    assert quick_loss == pytest.approx(loss, rel=1e-5) and 0 < relative(quick, gradient) < 2e-3


def test_winograd_is_not_used_in_windows():
    net = encoder(EncoderConfig(((32, 32), (32,))))
    weights = Weights({"conv2_1": 1.0}, {"conv1_2": 100.0})
    x, content = picture(70, 90, 1), picture(70, 90, 2)
    targets = targets_of(net, weights)
    found = objective(net, x, 40, weights, targets, content)
    assert len(found.tiles) > 1
    _, gradient = found(x)
    found.winograd = True
    assert torch.equal(found(x)[1], gradient)


def test_all_sixteen_layers_of_vgg19():
    """At random weights; the deepest sees 118 pixels to each side."""
    net = encoder(VGG19)
    weights = Weights({"conv4_2": 1.0}, dict.fromkeys(("conv1_1", "conv2_1", "conv3_1", "conv4_1", "conv5_1", "conv5_4"), 0.2))
    x, content = picture(80, 330, 4), picture(80, 330, 6)
    targets = targets_of(net, weights)
    found = objective(net, x, 272, weights, targets, content)
    assert len(found.tiles) > 1
    loss, gradient = found(x)
    whole_loss, whole = objective(net, x, 10**6, weights, targets, content)(x)
    assert relative(gradient, whole) < 1e-4 and loss == pytest.approx(whole_loss, rel=1e-5)


@pytest.mark.skipif(not WEIGHTS.exists(), reason="needs VGG-19's real first three blocks, which are no part of the project")
def test_the_real_blocks_of_vgg19_normalised():
    from safetensors.torch import load_file

    config = EncoderConfig(VGG19.blocks[:3])
    net = load_torchvision(config, load_file(WEIGHTS), "vgg19").eval().requires_grad_(False)
    images = [picture(96, 96, 7)]
    before = net(images[0], ["conv3_4"])["conv3_4"]
    normalized(net, images)
    answers = net(images[0], [layer.name for layer in config.layers])
    for values in answers.values():
        means = values.mean((0, 2, 3))  # below one for filters that hardly ever answer
        assert float(((means - 1).abs() < 1e-2).float().mean()) > 0.85 and float(means.max()) < 1.01
    after = answers["conv3_4"]
    scale = (before * after).sum((0, 2, 3)) / after.square().sum((0, 2, 3)).clamp_min(1e-9)
    assert relative(after * scale[None, :, None, None], before) < 1e-3  # the same but for a factor of each filter
    weights = Weights({"conv3_2": 1.0}, {"conv1_1": 0.3, "conv2_1": 0.3, "conv3_1": 0.3})
    x, targets = picture(150, 170, 1), targets_of(net, weights)
    _, gradient = objective(net, x, 80, weights, targets, images[0].new_zeros((1, 3, 150, 170)))(x)
    _, whole = objective(net, x, 10**6, weights, targets, images[0].new_zeros((1, 3, 150, 170)))(x)
    assert relative(gradient, whole) < 1e-4


def test_gram_matrices_are_summed_over_windows():
    net = encoder(COMPACT.upto(["conv3_1"]))
    image, layers = picture(133, 201, 8), ("conv1_1", "conv2_2", "conv3_1")
    size = (133, 201)
    tiled = grams_of(net, reader(image), size, tiles_of(size, net.config, (64, 80)), layers)
    answers = net(image, layers)
    for name in layers:
        assert relative(tiled[name], gram(answers[name])[0]) < 1e-5


def test_the_reach_of_a_layer_is_what_it_sees():
    """In float64, the gradient of one position is exactly zero beyond its reach, and not within."""
    net = encoder(EncoderConfig(((4, 4), (4, 4), (4,)))).double()
    for layer in net.config.layers:
        x = torch.rand((1, 3, 64, 64), dtype=torch.float64, requires_grad=True)
        place = 32 // layer.stride
        net(x, [layer.name])[layer.name][0, :, place, place].sum().backward()
        rows = torch.nonzero(x.grad[0].abs().sum((0, 2)))[:, 0]
        first, last = 32 - layer.reach, 32 + layer.stride - 1 + layer.reach
        assert rows.min() >= first and rows.max() <= last
        assert rows.max() - rows.min() >= layer.reach  # it does see far


def test_what_is_kept_of_the_content_changes_nothing():
    net = encoder(SMALL)
    weights = Weights({"conv3_1": 1.0}, {"conv1_1": 1.0})
    x, content = picture(70, 90, 1), picture(70, 90, 2)
    targets = targets_of(net, weights)
    kept = objective(net, x, 64, weights, targets, content)
    again = Objective(net, kept.size, kept.tiles, weights, targets, reader(content), keep=False)
    for _ in range(2):
        (loss, gradient), (other, same) = kept(x), again(x)
        assert loss == other and torch.equal(gradient, same)
