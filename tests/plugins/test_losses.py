"""What the U-Net learns: the classes made of masks, the losses, and the weights of pixels in them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor, nn

from i2i.data import IGNORED, Example
from i2i.errors import TrainingError
from i2i_unet import targets
from i2i_unet.borders import border_map
from i2i_unet.losses import balance, soft_dice, weighted_cross_entropy
from i2i_unet.options import LOSSES
from i2i_unet.targets import CLASS_NAMES, Target
from i2i_unet.train import Criterion
from i2i_unet.validate import class_counts, known_classes

BORDER = Target(CLASS_NAMES, True)
FOREGROUND = Target(CLASS_NAMES[:2], True)
FOUR = Target(("class 0", "class 1", "class 2", "class 3"), False)


class Given(nn.Module):
    """A network whose answer is given: the logits are its only weights."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, images: Tensor) -> Tensor:
        return self.logits


def criterion(target: Target, loss: str, **changes: Any) -> Criterion:
    plain = Criterion(target, tuple(loss.split("+")), torch.ones(len(target.class_names)), 10.0, 0.5)
    return replace(plain, **changes)


def ids(seed: int = 0, side: int = 12) -> Tensor:
    """(2, side, side): objects that touch and ones that do not."""
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 4, (2, side // 3, side // 3)).repeat(3, 1).repeat(3, 2))


def random_logits(classes: int, shape: tuple[int, ...] = (2, 12, 12), seed: int = 0) -> Tensor:
    return torch.randn((shape[0], classes, *shape[1:]), generator=torch.Generator().manual_seed(seed))


# ------------------------------------------------------------------------------------------------------------ targets


def test_border_is_only_between_objects() -> None:
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


def test_objects_that_touch_are_parted() -> None:
    labels = torch.ones(1, 8, 8, dtype=torch.int64)
    labels[..., 4:] = 2
    classes = targets.interior_border(labels)[0]
    assert (classes[:, 3:5] == targets.BORDER).all()
    assert (classes[:, :3] == targets.INTERIOR).all()


def masked(*values: int) -> Example:
    """A mask of squares of these values."""
    truth = torch.tensor(values, dtype=torch.int16).repeat_interleave(4).expand(4, -1).clone()
    return Example(torch.zeros(1, *truth.shape), truth)


def test_a_target_has_the_classes_of_its_masks() -> None:
    assert Target.of("border", [masked(0, 1, 2)]) == BORDER
    assert Target.of("foreground", [masked(0, 1)]) == FOREGROUND
    assert Target.of("classes", [masked(0, 1), masked(3)]) == FOUR
    for kind, example, told in (("border", masked(0, 7), "two ids"), ("classes", masked(0, 256), "ids up to 256")):
        with pytest.raises(TrainingError, match=told):
            Target.of(kind, [example])


def test_classes_are_what_the_masks_say() -> None:
    truth = torch.tensor([[[0, 1, 2, IGNORED]]])
    assert FOUR.classes(truth).tolist() == [[[0, 1, 2, 0]]]
    assert known_classes(FOUR, Example(torch.zeros(1, 1, 4), truth[0])).tolist() == [[0, 1, 2, IGNORED]]
    assert FOREGROUND.classes(truth).tolist() == [[[0, 0, 1, 0]]], "a line between objects that touch"


def test_objects_that_touch_are_parted_by_a_line_and_no_others() -> None:
    truth = torch.tensor([[[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 0, 4]]])
    assert FOREGROUND.classes(truth).tolist() == [[[1, 0, 1, 1], [0, 0, 1, 0], [1, 1, 0, 1]]]
    found, count = ndimage.label(FOREGROUND.classes(ids(1)[:1])[0].numpy())
    assert count >= len(np.unique(ids(1)[0])) - 1
    for number in range(1, count + 1):
        assert len(np.unique(ids(1)[0].numpy()[found == number])) == 1, "no part belongs to two objects"


def test_pixels_of_each_class_are_counted_but_those_that_are_ignored() -> None:
    examples = [masked(0, 1, 1, IGNORED), masked(0, 0, 3)]
    assert class_counts(FOUR, examples).tolist() == [48, 32, 0, 16]


# ------------------------------------------------------------------------------------------------------------- losses


def test_cross_entropy_is_the_weighted_sum_of_the_paper() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 4, 5, generator=generator)
    classes = torch.randint(3, (2, 4, 5), generator=generator)
    weights = torch.rand(2, 4, 5, generator=generator)
    total = 0.0
    for n, y, x in np.ndindex(2, 4, 5):
        p = torch.exp(logits[n, :, y, x]) / torch.exp(logits[n, :, y, x]).sum()
        total -= float(weights[n, y, x] * torch.log(p[classes[n, y, x]]))
    assert float(weighted_cross_entropy(logits, classes, weights)) == pytest.approx(total / float(weights.sum()), rel=1e-5)
    assert float(weighted_cross_entropy(logits, classes, 0 * weights)) == 0


def test_dice_is_zero_for_the_truth_and_one_for_its_opposite() -> None:
    classes = torch.zeros(1, 32, 32, dtype=torch.int64)
    classes[:, :16] = 1
    right = torch.stack([1 - classes, classes], 1).float() * 200 - 100
    assert float(soft_dice(right, classes)) == pytest.approx(0, abs=1e-4)
    assert float(soft_dice(-right, classes)) > 0.99


def test_dice_is_the_mean_of_the_foreground_classes_over_the_batch() -> None:
    logits, classes = random_logits(4), ids()
    each = []
    for number in (1, 2, 3):
        p, t = logits.softmax(1)[:, number], (classes == number).float()
        each.append(float((2 * (p * t).sum() + 2) / (p.sum() + t.sum() + 2)))
    assert float(soft_dice(logits, classes)) == pytest.approx(1 - np.mean(each), rel=1e-5)


def test_balanced_classes_weigh_the_same_in_all_and_one_on_the_mean() -> None:
    counts = torch.tensor([900, 90, 0, 10])
    weights = balance(counts)
    assert (weights * counts).tolist() == pytest.approx([1000 / 3, 1000 / 3, 0, 1000 / 3])
    assert float((weights * counts).sum()) == pytest.approx(1000)


# ---------------------------------------------------------------------------------------------------------- criterion


@pytest.mark.parametrize("target", [BORDER, FOREGROUND, FOUR], ids=["border", "foreground", "classes"])
def test_the_weight_of_a_pixel_is_that_of_its_class_and_of_its_border(target: Target) -> None:
    """w_c + w0 exp(-(d1 + d2)^2 / 2 sigma^2), the second part for pixels that are not inside an object."""
    truth, w_c = ids(1), torch.tensor([0.5, 2.0, 3.0, 4.0])[: len(target.class_names)]
    between = torch.from_numpy(np.stack([border_map(labels.numpy(), 5) for labels in truth]))
    logits = random_logits(len(target.class_names))
    found = criterion(target, "weighted", class_weights=w_c)(Given(logits), (logits, truth, between))
    classes = target.classes(truth)
    inside = {BORDER: classes == 1, FOREGROUND: classes == 1, FOUR: truth > 0}[target]
    weights = w_c[classes] + torch.where(inside, 0, 10 * between)
    expected = nn.functional.cross_entropy(logits, classes, reduction="none")
    assert list(found) == ["cross_entropy"]
    assert float(found["cross_entropy"].detach()) == pytest.approx(float((weights * expected).sum() / weights.sum()), rel=1e-5)
    assert between[~inside].max() > 0.5, "there are pixels between objects"


def test_each_loss_is_the_sum_of_its_terms() -> None:
    logits, truth = random_logits(4), ids()
    plain, dice = nn.functional.cross_entropy(logits, truth), soft_dice(logits, truth)
    found = {loss: criterion(FOUR, loss)(Given(logits), (logits, truth)) for loss in LOSSES}
    for loss in LOSSES:
        both = {"cross_entropy": float(plain), "dice": float(dice) * (1 if loss == "dice" else 0.5)}
        names = {"dice"} if loss == "dice" else {"cross_entropy", "dice"} if "dice" in loss else {"cross_entropy"}
        assert {name: float(value.detach()) for name, value in found[loss].items()} == pytest.approx(
            {name: both[name] for name in names}
        )


@pytest.mark.parametrize("target", [BORDER, FOREGROUND, FOUR], ids=["border", "foreground", "classes"])
@pytest.mark.parametrize("loss", LOSSES)
def test_pixels_that_are_ignored_change_nothing(loss: str, target: Target) -> None:
    """No gradient comes from them, and the others' is the same whatever the network says there."""
    truth = ids(2)
    truth[0, 3:7, 2:9] = IGNORED
    ignored = (truth == IGNORED)[:, None]
    between = torch.rand(truth.shape, generator=torch.Generator().manual_seed(3))
    parts = (truth, between) if "weighted" in loss else (truth,)
    gradients = []
    for logits in (random_logits(len(target.class_names)), random_logits(len(target.class_names), seed=9)):
        logits = torch.where(ignored, logits, random_logits(len(target.class_names)))
        network = Given(logits)
        torch.stack(list(criterion(target, loss)(network, (logits, *parts)).values())).sum().backward()
        assert network.logits.grad is not None
        gradients.append(network.logits.grad)
    assert torch.equal(gradients[0], gradients[1])
    assert not gradients[0][ignored.expand_as(gradients[0])].any() and gradients[0].any()


def test_the_truth_is_cropped_to_what_a_valid_network_gives() -> None:
    truth = torch.zeros(2, 20, 22, dtype=torch.int64)
    truth[:, 4:16, 5:17] = ids()
    logits = random_logits(4)
    found = criterion(FOUR, "cross-entropy")(Given(logits), (logits, truth))
    assert float(found["cross_entropy"].detach()) == pytest.approx(float(nn.functional.cross_entropy(logits, ids())))
