"""The minimisers: the same curves as torch's, states that go on bit for bit, a way back from bad steps, and what they hold."""

from __future__ import annotations

import gc
import itertools
import math

import numpy as np
import pytest
import torch
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from i2i.errors import UsageError
from i2i_style.encoder import Encoder, EncoderConfig
from i2i_style.losses import gram, style_loss
from i2i_style.optimizers import Adam, Descent, Lbfgs, make_optimizer, vectors

SHAPE = (1, 3, 14, 18)
NAMES = ["lbfgs", "adam", "gd"]


def random(seed=0, shape=SHAPE):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def quadratic(x):
    """Ill conditioned: the largest curvature is 200 times the smallest."""
    curvature = torch.linspace(0.05, 10, x.numel()).reshape(x.shape)
    difference = x - 0.5
    return float((curvature * difference.square()).double().sum()) / 2, curvature * difference


def style_function(shape=(1, 3, 40, 48)):
    """The style loss of a small random encoder, and the squared difference to a picture."""
    torch.manual_seed(3)
    encoder = Encoder(EncoderConfig(((8, 8), (12,)))).eval().requires_grad_(False)
    layers = ["conv1_1", "conv2_1"]
    wanted = {name: gram(values)[0] for name, values in encoder(random(1, shape), layers).items()}
    content = functional.interpolate(random(2, (1, 3, 5, 6)), shape[2:], mode="bicubic").clamp(0, 1)

    def evaluate(x):
        variable = x.detach().clone().requires_grad_()
        loss = 0.01 * (variable - content).square().mean()
        for name, values in encoder(variable, layers).items():
            loss = loss + style_loss(gram(values)[0], wanted[name])
        (gradient,) = torch.autograd.grad(loss, variable)
        return float(loss.detach()), gradient

    return evaluate, content


def curve(optimizer, x, evaluate, steps):
    return [optimizer.step(x, evaluate) for _ in range(steps)]


def torch_curve(x, evaluate, steps, history, first):
    """The losses of torch's L-BFGS without line search, whose first step has the root mean square ``first``."""
    x = x.clone().requires_grad_()
    losses = []

    def closure():
        loss, x.grad = evaluate(x.detach())
        losses.append(loss)
        return torch.tensor(loss)

    _, gradient = evaluate(x.detach())
    rate = first * float(gradient.abs().sum()) / float(gradient.square().mean().sqrt())
    optimizer = torch.optim.LBFGS([x], lr=rate / min(1.0, float(gradient.abs().sum())), max_iter=1, history_size=history)
    optimizer.param_groups[0].update(
        lr=first / float(gradient.square().mean().sqrt()) / min(1.0, 1 / float(gradient.abs().sum()))
    )
    optimizer.param_groups[0].update(tolerance_grad=0, tolerance_change=0)
    for _ in range(steps):
        optimizer.step(closure)
        optimizer.param_groups[0]["lr"] = 1.0
    return losses


# ------------------------------------------------------------------------------------------------------------- L-BFGS


@pytest.mark.parametrize("history", [1, 3, 10])
def test_lbfgs_is_torchs_on_a_quadratic(history):
    wanted = torch_curve(random(), quadratic, 25, history, 0.01)
    found = curve(Lbfgs(1.0, history), random(), quadratic, 25)
    assert np.allclose(found[:12], wanted[:12], rtol=2e-3)
    assert found[-1] < 0.05 * found[0]


def test_lbfgs_is_torchs_on_a_style_loss():
    evaluate, content = style_function()
    wanted = torch_curve(content, evaluate, 20, 10, 0.01)
    found = curve(Lbfgs(1.0, 10), content.clone(), evaluate, 20)
    assert np.allclose(found, wanted, rtol=1e-2)
    assert found[-1] < 0.5 * found[0]


def test_lbfgs_ends_at_the_minimum():
    x = random()
    losses = curve(Lbfgs(1.0, 10), x, quadratic, 80)
    assert losses[-1] < 1e-6 * losses[0] and torch.allclose(x, torch.tensor(0.5), atol=1e-3)


def steep(x):
    """Almost flat up to a wall: a step made for the flat part goes far beyond."""
    distance = x - 0.6
    wall = torch.relu(distance) ** 2 * 400
    return float((0.05 * (x - 0.7).square() + wall).double().sum()), 0.1 * (x - 0.7) + 800 * torch.relu(distance)


def test_lbfgs_steps_back_from_where_it_became_much_worse():
    x = random(4) * 0.3
    optimizer = Lbfgs(1.0, 5)
    losses = curve(optimizer, x, steep, 60)
    worse = [i for i in range(1, 60) if losses[i] > 1.5 * min(losses[:i])]
    assert worse, "the wall was met"
    assert min(losses[-4:]) <= 1.5 * min(losses) and min(losses) < 0.05 * losses[0]
    assert float(x.max()) < 0.65


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_left_by_the_way_one_came(bad):
    def evaluate(x):
        loss, gradient = quadratic(x)
        outside = float(x.max()) > 1.02
        return (bad, torch.full_like(gradient, math.nan)) if outside else (loss, gradient)

    x = random()
    curvature_of_a_guess = Lbfgs(12.0, 5)  # steps far too long
    losses = curve(curvature_of_a_guess, x, evaluate, 60)
    assert all(math.isfinite(loss) for loss in losses) and bool(torch.isfinite(x).all())
    assert min(losses[-4:]) <= 1.5 * min(losses) and min(losses) < 1e-3 * losses[0]


def test_the_half_way_point_is_evaluated_next():
    points = []

    def evaluate(x):
        points.append(x.clone())
        return (1.0 if len(points) == 1 else 100.0), torch.ones_like(x)

    x = random()
    curve(Lbfgs(1.0, 5), x, evaluate, 6)
    steps = [float((points[0] - point).mean()) for point in points]
    assert np.allclose(steps, [0, 0.01, 0.005, 0.0025, 0.00125, 0.01 / 16], atol=1e-6)


def test_nothing_moves_without_a_way():
    """A first loss that is not finite is told; at a minimum nothing changes."""
    x = random()
    assert math.isnan(Lbfgs(1.0, 5).step(x, lambda x: (math.nan, torch.ones_like(x))))
    assert torch.equal(x, random())
    for name in NAMES:
        assert make_optimizer(name, 0, 3).step(x, lambda x: (0.0, torch.zeros_like(x))) == 0
        assert torch.equal(x, random())


def test_pairs_with_too_small_curvature_are_skipped():
    """On a concave function y's is below 0: every step is one down the gradient, and all stays finite."""

    def concave(x):
        return -float(x.double().square().sum()) / 2, -x

    x = random()
    optimizer = Lbfgs(1.0, 5)
    losses = curve(optimizer, x, concave, 10)
    assert all(after < before for before, after in itertools.pairwise(losses))
    assert not [name for name in optimizer.state() if name.startswith("y")]


# ------------------------------------------------------------------------------------------------------ Adam, descent


def test_adam_is_torchs():
    x, other = random(), random().requires_grad_()
    found = curve(Adam(0.03), x, quadratic, 30)
    reference, wanted = torch.optim.Adam([other], lr=0.03), []
    for _ in range(30):
        loss, other.grad = quadratic(other.detach())
        wanted.append(loss)
        reference.step()
    assert np.allclose(found, wanted, rtol=1e-4) and torch.allclose(x, other.detach(), atol=1e-5)


def test_descent_goes_down_the_gradient_with_one_rate():
    x, points = random(), [random()]
    optimizer = Descent(0.02)
    for _ in range(3):
        optimizer.step(x, quadratic)
        points.append(x.clone())
    gradients = [quadratic(point)[1] for point in points]
    first = points[0] - points[1]
    assert float(first.square().mean().sqrt()) == pytest.approx(0.02, rel=1e-4)
    for k in range(3):
        assert torch.allclose(points[k] - points[k + 1], gradients[k] * (0.02 / gradients[0].square().mean().sqrt()), atol=1e-6)


def test_the_scale_of_the_loss_does_not_matter():
    """With the optimisers' own rates: the weights of the losses may have any size."""
    for name in NAMES:
        pictures = []
        for factor in (1e-6, 1.0, 1e6):
            x = random()
            curve(make_optimizer(name, 0, 5), x, lambda x, factor=factor: tuple(factor * part for part in quadratic(x)), 5)
            pictures.append(x)
        assert torch.allclose(pictures[0], pictures[1], atol=5e-3) and torch.allclose(pictures[1], pictures[2], atol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_the_default_rates_lower_a_style_loss(name):
    evaluate, content = style_function()
    losses = curve(make_optimizer(name, 0, 10), content.clone(), evaluate, 40)
    assert losses[-1] < 0.6 * losses[0]


def test_a_name_that_is_none():
    with pytest.raises(UsageError, match="lbfgs, adam or gd"):
        make_optimizer("sgd", 0, 3)


# --------------------------------------------------------------------------------------------------- state and memory


@pytest.mark.parametrize("function", [quadratic, steep, "style"])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("done", [0, 1, 2, 7])
def test_a_restored_run_is_the_same_bit_for_bit(name, done, function):
    start = random(4) * 0.3
    if function == "style":
        function, start = style_function()
    x = start.clone()
    optimizer = make_optimizer(name, 0, 4)
    curve(optimizer, x, function, done)
    saved, picture = {key: array.copy() for key, array in optimizer.state().items()}, x.clone()
    assert all(array.dtype == np.float32 for array in saved.values() if array.size > 99)
    losses = curve(optimizer, x, function, 6)

    again = make_optimizer(name, 0, 4)
    again.restore(saved, picture)
    assert not saved, "what was restored is taken out"
    assert curve(again, picture, function, 6) == losses and torch.equal(picture, x)


@pytest.mark.parametrize("name", NAMES)
def test_a_state_is_no_copy_of_what_it_saves(name):
    optimizer, x = make_optimizer(name, 0, 3), random()
    curve(optimizer, x, quadratic, 4)
    first, second = optimizer.state(), optimizer.state()
    large = [key for key in first if first[key].size == x.numel()]
    assert len(large) == {"lbfgs": 6, "adam": 2, "gd": 0}[name]
    assert all(np.shares_memory(first[key], second[key]) for key in large)


class Counted(TorchDispatchMode):
    """Sees every tensor that an operation gives, and remembers the largest number of bytes that were held at once: storages that
    exist, found by the garbage collector, are counted after each operation."""

    def __init__(self, least):
        super().__init__()
        self.least, self.held, self.peak = least, {}, 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        given = function(*arguments, **(keywords or {}))
        for tensor in tree_leaves(given):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().nbytes() >= self.least:
                storage = tensor.untyped_storage()
                self.held[storage._cdata] = storage._weak_ref()
        self.held = {key: weak for key, weak in self.held.items() if not torch.UntypedStorage._expired(weak)}
        self.peak = max(self.peak, len(self.held))
        return given


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("history", [1, 3, 8])
def test_no_more_vectors_are_held_than_said(name, history):
    x = random(0, (1, 3, 64, 64))
    optimizer = make_optimizer(name, 0, history)

    def evaluate(x):
        gradient = torch.empty_like(x)  # without temporaries
        torch.sub(x, 0.5, out=gradient)
        return float(torch.dot(gradient.flatten(), gradient.flatten())) / 2 + 1, gradient.mul_(torch.linspace(1, 5, 64))

    gc.collect()
    with Counted(x.numel() * 4) as counted:
        curve(optimizer, x, evaluate, 2 * history + 6)
    assert counted.peak == vectors(name, history) + 1, "and the picture"
