"""The four ways to train proposals and detector: where the gradient flows, and what each step changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from i2i.errors import UsageError
from i2i_maskrcnn.config import MaskRCNNConfig
from i2i_maskrcnn.heads import Rules
from i2i_maskrcnn.network import MaskRCNN, build
from i2i_maskrcnn.options import SCHEMES as NAMES
from i2i_maskrcnn.options import TrainOptions
from i2i_maskrcnn.schemes import SCHEMES, begin
from i2i_maskrcnn.settings import steps_of
from tests.plugins.test_maskrcnn_network import TINY, target

PARTS = ("backbone", "proposal_backbone", "rpn", "roi_heads")


def start(config: MaskRCNNConfig = TINY) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {name: value.clone() for name, value in build(config).state_dict().items()}


def learn(net: MaskRCNN, seed: int = 0) -> dict[str, Tensor]:
    """One step of training; gives the losses."""
    torch.manual_seed(seed)
    images = torch.randn(2, 1, 32, 32)
    learning = torch.optim.SGD([parameter for parameter in net.parameters() if parameter.requires_grad], 0.05)
    losses = net.train()(images, [target([[3, 4, 13, 12], [18, 16, 28, 29]])] * 2)
    sum(losses.values()).backward()
    learning.step()
    return losses


def weights(net: MaskRCNN) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in net.state_dict().items()}


def part(values: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key.removeprefix(f"{name}."): value for key, value in values.items() if key.split(".")[0] == name}


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# ------------------------------------------------------------------------------------------------------- the gradient


def gradient_of_the_heads(scheme: str) -> Tensor | None:
    """Of L_cls + L_box + L_mask, with respect to the weights that move the proposals' boxes."""
    net = begin(SCHEMES[scheme][0], replace(TINY, roi="warp"), start(), start()).train()
    torch.manual_seed(1)
    losses = net(torch.randn(2, 1, 32, 32), [target([[3, 4, 13, 12], [18, 16, 28, 29]])] * 2)
    weight = net.rpn.head.bbox_pred.weight
    heads = losses["cls"] + losses["box"] + losses["mask"]
    (found,) = torch.autograd.grad(heads, weight, allow_unused=True)
    return found


def test_only_non_approximate_joint_training_has_the_gradient_of_the_proposals() -> None:
    assert gradient_of_the_heads("approximate-joint") is None
    found = gradient_of_the_heads("non-approximate-joint")
    assert found is not None and bool(found.isfinite().all()) and float(found.abs().max()) > 1e-8


def test_the_gradient_of_the_proposals_is_that_of_finite_differences() -> None:
    """Of the features of one proposal: how they change when its box is moved by the network."""
    net = begin(SCHEMES["non-approximate-joint"][0], replace(TINY, roi="warp"), start(), start()).eval()
    torch.manual_seed(1)
    image, bias = torch.randn(1, 1, 32, 32), net.rpn.head.bbox_pred.bias

    def seen() -> Tensor:
        features = net.backbone(image)
        proposals, _ = net.rpn.propose(image, features, None)
        inner = proposals[0][(proposals[0][:, :2] > 1).all(1) & (proposals[0][:, 2:] < 31).all(1)][:1]
        return net.roi_heads.box_roi_pool(features, [inner]).mean()

    (gradient,) = torch.autograd.grad(seen(), bias)
    place = int(gradient.abs().argmax())
    with torch.no_grad():
        values = []
        for step in (1e-3, -2e-3):
            bias[place] += step
            values.append(float(seen()))
    assert (values[0] - values[1]) / 2e-3 == pytest.approx(float(gradient[place]), rel=0.05)


def test_a_proposal_is_drawn_to_where_the_box_head_has_less_to_say() -> None:
    """Of features that are equal everywhere, the gradient of L_box is that of what is wanted of the proposal alone: finite
    differences again. A proposal on nothing has none."""
    net = begin(SCHEMES["non-approximate-joint"][0], replace(TINY, roi="warp"), start(), start()).train()
    features = {name: torch.zeros_like(level) for name, level in net.backbone(torch.zeros(1, 1, 32, 32)).items()}
    places = torch.tensor([[4.0, 5.0, 13.0, 13.0], [24.0, 1.0, 30.0, 7.0]])

    def lost(proposals: Tensor) -> Tensor:
        return net.roi_heads.losses(features, [proposals], [target([[3, 4, 13, 12]])])["box"]

    moving = places.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(lost(moving), moving)
    assert float(gradient[0].abs().min()) > 1e-4 and not gradient[1].any()
    for column in range(4):
        step = torch.zeros_like(places)
        step[0, column] = 1e-2
        with torch.no_grad():
            slope = float(lost(places + step) - lost(places - step)) / 2e-2
        assert slope == pytest.approx(float(gradient[0, column]), rel=0.02)


@pytest.mark.parametrize("roi", ["align", "pool"])
def test_without_warping_there_is_no_gradient_and_the_scheme_is_refused(roi: str) -> None:
    options = TrainOptions(images="a", masks="b", scheme="non-approximate-joint")
    with pytest.raises(UsageError, match="--scheme non-approximate-joint: only --roi warp"):
        steps_of(options, replace(TINY, roi=roi))
    assert len(steps_of(options, replace(TINY, roi="warp"))) == 1


# ----------------------------------------------------------------------------------------------- what each step changes


def walk(scheme: str) -> list[tuple[MaskRCNN, dict[str, Tensor], dict[str, Tensor], set[str]]]:
    """Of each step the network, the weights before and after, and the losses."""
    found = []
    first = last = start()
    for number, step in enumerate(SCHEMES[scheme]):
        net = begin(step, replace(TINY, shared=number % 2 == 0), first, last)  # whatever the step before had
        before = weights(net)
        losses = set(learn(net, number))
        last = weights(net)
        found.append((net, before, last, losses))
    return found


EXPECTED = {
    "alternating": [{"backbone", "rpn"}, {"backbone", "roi_heads"}, {"proposal_backbone", "rpn"}, {"backbone", "roi_heads"}],
    "four-step": [{"backbone", "rpn"}, {"backbone", "roi_heads"}, {"rpn"}, {"roi_heads"}],
}
RPN, HEADS = {"rpn_objectness", "rpn_box"}, {"cls", "box", "mask"}


@pytest.mark.parametrize("scheme", EXPECTED)
def test_each_step_changes_its_parts_and_nothing_else(scheme: str) -> None:
    """Weights and batch statistics: a frozen part is the same to the bit."""
    for number, (net, before, after, losses) in enumerate(walk(scheme)):
        changed = {name for name in PARTS if not same(part(before, name), part(after, name))}
        assert changed == EXPECTED[scheme][number], number
        assert losses == (HEADS if number % 2 else RPN)
        for name in changed:
            trained = {key for key, value in getattr(net, name).named_parameters() if value.requires_grad}
            assert trained == {key for key, _ in getattr(net, name).named_parameters()}
        if any("backbone" in name for name in changed):
            (backbone,) = (name for name in changed if "backbone" in name)
            moving = [key for key in part(after, backbone) if key.endswith("running_mean")]
            assert moving and not any(torch.equal(part(before, backbone)[key], part(after, backbone)[key]) for key in moving)


def test_joint_training_changes_everything_in_one_step() -> None:
    for scheme in ("approximate-joint", "non-approximate-joint"):
        (step,) = SCHEMES[scheme]
        net = begin(step, TINY, start(), start())
        before = weights(net)
        assert learn(net).keys() == RPN | HEADS
        assert not any(same(part(before, name), part(weights(net), name)) for name in ("backbone", "rpn", "roi_heads"))


@pytest.mark.parametrize("scheme", EXPECTED)
def test_the_detector_of_step_2_starts_from_the_first_weights_and_shares_nothing(scheme: str) -> None:
    (_, before, one, _), (net, two, after, _), *_ = walk(scheme)
    assert same(part(two, "backbone"), part(start(), "backbone")), "not from those that the proposals learnt"
    assert not same(part(two, "backbone"), part(one, "backbone"))
    for weight in (two, after):
        assert same(part(weight, "proposal_backbone"), part(one, "backbone")) and same(part(weight, "rpn"), part(one, "rpn"))
    assert not net.config.shared and same(part(before, "roi_heads"), part(two, "roi_heads"))


def test_four_step_training_ends_with_one_backbone_that_steps_3_and_4_leave_alone() -> None:
    *_, (_, _, two, _), (third, before, three, _), (fourth, _, four, _) = walk("four-step")
    assert third.config.shared and fourth.config.shared and not part(four, "proposal_backbone")
    assert same(part(before, "rpn"), part(two, "rpn"))
    for weight in (before, three, four):
        assert same(part(weight, "backbone"), part(two, "backbone")), "the detector's of step 2"
    assert same(part(three, "rpn"), part(four, "rpn"))


def test_alternating_training_goes_on_from_the_other_network() -> None:
    *_, (_, _, two, _), (third, before, three, _), (fourth, last, _, _) = walk("alternating")
    assert not third.config.shared and not fourth.config.shared
    assert same(part(before, "proposal_backbone"), part(two, "backbone")), "the proposals from the detector's"
    assert same(part(three, "backbone"), part(two, "backbone")), "the detector fits its own meanwhile"
    for name in ("backbone", "proposal_backbone"):
        assert same(part(last, name), part(three, "proposal_backbone")), "the detector from the proposals'"


@pytest.mark.parametrize("scheme", EXPECTED)
def test_after_each_step_but_the_first_the_network_finds_objects(scheme: str) -> None:
    for net, *_ in walk(scheme)[1:]:
        again = build(net.config).eval()
        again.load_state_dict(net.state_dict())
        with torch.inference_mode():
            (found,) = again.detect(torch.randn(1, 1, 32, 32), Rules(0.0))
        assert len(found.boxes) and found.masks.shape[1:] == (28, 28)


# -------------------------------------------------------------------------------------------------------- the options


def test_every_scheme_of_the_options_is_there() -> None:
    assert set(NAMES) == set(SCHEMES)


@pytest.mark.parametrize(
    ("scheme", "until", "told"),
    [
        ("four-step", 5, "choose 2 to 4"),
        ("four-step", 1, "choose 2 to 4"),
        ("alternating", 5, "choose 2 to 4"),
        ("approximate-joint", 2, "has one step; leave it out"),
    ],
)
def test_steps_that_a_scheme_has_not_are_refused(scheme: str, until: int, told: str) -> None:
    with pytest.raises(UsageError, match=f"--until-step {until}: .*{told}"):
        steps_of(TrainOptions(images="a", masks="b", scheme=scheme, until_step=until), TINY)


def test_steps_until_one() -> None:
    options = TrainOptions(images="a", masks="b", scheme="four-step")
    assert len(steps_of(options, TINY)) == 4 and len(steps_of(replace(options, until_step=2), TINY)) == 2
