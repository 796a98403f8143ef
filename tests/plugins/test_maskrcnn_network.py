"""The parts of Mask R-CNN that learn: features of regions, proposals, losses, anchors."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.ops import MultiScaleRoIAlign, box_iou, roi_pool

from i2i.data import NO_AUGMENTATION, Augmentation, Example
from i2i.errors import ModelError, TrainingError
from i2i_maskrcnn.anchors import anchors_from
from i2i_maskrcnn.config import MaskRCNNConfig
from i2i_maskrcnn.examples import CROWD, ObjectExample, crops, known_boxes, objects_of, of_one_class, targets
from i2i_maskrcnn.heads import Rules, filled
from i2i_maskrcnn.masks import find_objects
from i2i_maskrcnn.network import MaskRCNN, build
from i2i_maskrcnn.proposals import Target, in_crowd, match_anchors
from i2i_maskrcnn.regions import RegionFeatures, roi_warp

TINY = MaskRCNNConfig(
    channels=1, stem_stride=2, stages=2, width=8, box_width=16, mask_width=8, mask_convolutions=1, anchor_sizes=(8, 12, 18)
)
LOSSES = {"cls", "box", "mask", "rpn_objectness", "rpn_box"}


def network(config: MaskRCNNConfig = TINY, seed: int = 0) -> MaskRCNN:
    torch.manual_seed(seed)
    return build(config).train()


def target(boxes: list[list[float]], side: int = 32, crowds: list[list[float]] | None = None, label: int = 1) -> Target:
    """Objects that fill their boxes."""
    masks = torch.zeros(len(boxes), side, side, dtype=torch.uint8)
    for mask, (left, top, right, bottom) in zip(masks, boxes, strict=True):
        mask[int(top) : math.ceil(bottom), int(left) : math.ceil(right)] = 1
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "labels": torch.full((len(boxes),), label),
        "masks": masks,
        "crowds": torch.tensor(crowds or [], dtype=torch.float32).reshape(-1, 4),
    }


# ------------------------------------------------------------------------------------------------- features of regions


def pyramid(count: int = 2) -> dict[str, Tensor]:
    torch.manual_seed(1)
    return {str(level): torch.randn(count, 3, 64 >> level, 48 >> level) for level in range(3)}


def some_boxes(count: int, width: float, height: float, seed: int = 2) -> Tensor:
    """From a pixel to the whole image."""
    torch.manual_seed(seed)
    first, second = torch.rand(count, 2), torch.rand(count, 2)
    corners = torch.cat([torch.minimum(first, second), torch.maximum(first, second) + 0.01], 1).clamp_max(1)
    return corners * torch.tensor([width, height, width, height])


def test_aligned_features_are_those_of_torchvision() -> None:
    features, boxes = pyramid(), [some_boxes(40, 192, 256), some_boxes(3, 192, 256, 3)]
    boxes[0][0] = torch.tensor([0.0, 0.0, 192.0, 256.0])
    ours = RegionFeatures(["0", "1", "2"], (4, 8, 16), 7, "align")(features, boxes)
    theirs = MultiScaleRoIAlign(["0", "1", "2"], 7, 2)(features, boxes, [(256, 192)] * 2)
    torch.testing.assert_close(ours, theirs)
    assert len({int(level) for level in RegionFeatures(["0", "1", "2"], (4, 8, 16), 7, "align")._levels(
        torch.cat([torch.zeros(43, 1), torch.cat(boxes)], 1))}) > 1  # fmt: skip


def test_pooled_features_are_those_of_torchvision() -> None:
    features, boxes = pyramid(), [some_boxes(9, 48, 64), some_boxes(2, 48, 64, 3)]
    ours = RegionFeatures(["0"], (1,), 4, "pool")({"0": features["0"]}, boxes)
    torch.testing.assert_close(ours, roi_pool(features["0"], boxes, 4, 1.0))


def bilinear(sheet: Tensor, x: float, y: float) -> Tensor:
    """(C,) at a place where the centre of the first pixel is 0.5; the edge goes on beyond."""
    height, width = sheet.shape[1:]
    x, y = min(max(x - 0.5, 0), width - 1), min(max(y - 0.5, 0), height - 1)
    left, top = min(int(x), width - 2), min(int(y), height - 2)
    across, down = x - left, y - top
    upper = (1 - across) * sheet[:, top, left] + across * sheet[:, top, left + 1]
    lower = (1 - across) * sheet[:, top + 1, left] + across * sheet[:, top + 1, left + 1]
    return (1 - down) * upper + down * lower


def test_warped_features_are_maxima_of_what_is_sampled_in_the_box() -> None:
    torch.manual_seed(0)
    features = torch.randn(2, 3, 9, 11, dtype=torch.float64)
    regions = torch.tensor(
        [[1, 3.0, 2.5, 19.0, 16.0], [0, -2.0, 0.0, 7.0, 5.0], [1, 20.0, 17.0, 22.0, 18.0]], dtype=torch.float64
    )
    found = roi_warp(features, regions, 3, 0.5)
    for one, (number, left, top, right, bottom) in zip(found, regions.tolist(), strict=True):
        for row in range(3):
            for column in range(3):
                sampled = [
                    bilinear(
                        features[int(number)],
                        (left + (right - left) * (2 * column + across + 0.5) / 6) / 2,
                        (top + (bottom - top) * (2 * row + down + 0.5) / 6) / 2,
                    )
                    for down in range(2)
                    for across in range(2)
                ]
                torch.testing.assert_close(one[:, row, column], torch.stack(sampled).amax(0))


def test_warping_has_the_gradient_of_boxes_and_features() -> None:
    torch.manual_seed(0)
    features = torch.randn(2, 2, 8, 8, dtype=torch.float64, requires_grad=True)
    boxes = torch.tensor([[2.3, 3.1, 11.2, 12.9], [1.7, 0.4, 13.3, 9.1]], dtype=torch.float64, requires_grad=True)
    numbers = torch.tensor([[1.0], [0.0]], dtype=torch.float64)

    def warped(sheets: Tensor, corners: Tensor) -> Tensor:
        return roi_warp(sheets, torch.cat([numbers, corners], 1), 3, 0.5)

    assert torch.autograd.gradcheck(warped, (features, boxes))
    warped(features, boxes).sum().backward()
    assert bool((boxes.grad != 0).all())


@pytest.mark.parametrize("kind", ["align", "warp", "pool"])
@pytest.mark.parametrize("counts", [(0, 0), (0, 2)])
def test_regions_may_be_none_and_every_level_has_a_gradient(kind: str, counts: tuple[int, int]) -> None:
    features = {name: level.requires_grad_() for name, level in pyramid().items()}
    boxes = [torch.tensor([[1.0, 2.0, 5.0, 9.0]]).repeat(count, 1) for count in counts]
    found = RegionFeatures(["0", "1", "2"], (4, 8, 16), 7, kind)(features, boxes)
    assert found.shape == (sum(counts), 3, 7, 7)
    found.sum().backward()
    assert all(level.grad is not None for level in features.values())
    assert bool(features["0"].grad.any()) == (sum(counts) > 0) and not features["2"].grad.any()


# ------------------------------------------------------------------------------------------------------------ proposals


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 40), st.integers(0, 10**6))
def test_anchors_are_matched_as_torchvision_matches_them(count: int, seed: int) -> None:
    torch.manual_seed(seed)
    corner = torch.rand(300, 2) * 60
    anchors = torch.cat([corner, corner + 4 + torch.rand(300, 2) * 20], 1)
    boxes = anchors[:count] + torch.rand(count, 4)
    labels, numbers = match_anchors(anchors, boxes)
    theirs, matched = RegionProposalNetwork.assign_targets_to_anchors(network().rpn, [anchors], [{"boxes": boxes}])
    assert torch.equal(labels, theirs[0])
    assert torch.equal(boxes[numbers][labels == 1], matched[0][labels == 1])


def test_an_object_between_all_anchors_makes_none_of_them_an_object() -> None:
    anchors = torch.tensor([[0.0, 0.0, 4.0, 4.0], [8.0, 0.0, 12.0, 4.0]])
    labels, _ = match_anchors(anchors, torch.tensor([[5.0, 1.0, 6.0, 2.0]]))
    assert labels.tolist() == [0, 0]


def test_nothing_in_a_crowd_is_background() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [10, 0, 20, 10], [5, 0, 15, 10]])
    crowds = torch.tensor([[0.0, 0, 11, 10]])
    assert in_crowd(boxes, crowds).tolist() == [True, False, True]
    assert not in_crowd(boxes, torch.zeros(0, 4)).any()
    net = network()
    labels, _ = net.rpn.assign_targets_to_anchors([boxes], [target([], crowds=[[0, 0, 11, 10]])])
    assert labels[0].tolist() == [-1, 0, -1]


# --------------------------------------------------------------------------------------------------------------- losses


def project(mask: Tensor, box: Tensor, side: int) -> Tensor:
    """(side, side) of a mask that is constant within each cell of the box."""
    left, top, right, bottom = (int(value) for value in box)
    return mask[top:bottom, left:right].double().reshape(side, (bottom - top) // side, side, (right - left) // side).mean((1, 3))


def test_the_sigmoid_loss_is_the_binary_cross_entropy_of_the_true_class_alone() -> None:
    torch.manual_seed(0)
    heads = network(replace(TINY, classes=3)).roi_heads
    masks = torch.zeros(2, 32, 32, dtype=torch.uint8)
    masks[0, 8:16, :] = 1
    masks[1, :, 4:28] = 1
    truth = {"masks": masks, "labels": torch.tensor([2, 3])}
    logits = torch.randn(2, 4, 8, 8, requires_grad=True)
    boxes = torch.tensor([[0.0, 0, 32, 32], [0, 0, 32, 32]])
    loss = heads._mask_loss(logits, [boxes], [torch.tensor([0, 1])], [truth])
    loss.backward()
    assert sorted({int(place) for place in torch.nonzero(logits.grad.abs().sum((2, 3)))[:, 1]}) == [2, 3]
    assert not logits.grad[0, 3].any() and not logits.grad[1, 2].any(), "the other masks add nothing"
    with torch.no_grad():
        wanted = torch.stack([project(mask, box, 8) for mask, box in zip(masks, boxes, strict=True)]).float()
        smooth = torch.stack([logits[0, 2], logits[1, 3]])
        direct = (smooth.exp() + 1).log() - wanted * smooth
        other = logits.clone()
        other[:, [0, 1]] += 5
        assert torch.equal(heads._mask_loss(other, [boxes], [torch.tensor([0, 1])], [truth]), loss)
        assert float(loss) == pytest.approx(float(direct.mean()), abs=0.02)  # masks are sampled between pixels


def test_the_softmax_loss_is_the_cross_entropy_over_classes_and_background() -> None:
    torch.manual_seed(0)
    heads = network(replace(TINY, classes=3, mask_loss="softmax")).roi_heads
    mask = torch.zeros(1, 32, 32, dtype=torch.uint8)
    mask[0, 8:16, 4:20] = 1
    logits, box = torch.randn(1, 4, 8, 8), torch.tensor([[0.0, 0, 32, 32]])
    loss = heads._mask_loss(logits, [box], [torch.tensor([0])], [{"masks": mask, "labels": torch.tensor([2])}])
    classes = 2 * (project(mask[0], box[0], 8) >= 0.5).long()
    chances = logits[0].softmax(0)
    direct = -torch.stack([chances[classes[row, column], row, column].log() for row in range(8) for column in range(8)]).mean()
    torch.testing.assert_close(loss, direct)


SCENES = {
    "one pixel, and at the border": [target([[0, 0, 1, 1], [28, 20, 32, 32], [31, 31, 32, 32]]), target([[4, 4, 12, 14]])],
    "one image without objects": [target([]), target([[4, 4, 12, 14]])],
    "no objects at all": [target([]), target([])],
    "a crowd everywhere": [target([], crowds=[[-99, -99, 199, 199]])] * 2,
    "a crowd and an object": [target([[4, 4, 12, 14]], crowds=[[0, 0, 32, 32]])] * 2,
}


@pytest.mark.parametrize("config", [TINY, replace(TINY, head_norm=True, box_convolutions=1), replace(TINY, roi="warp")])
@pytest.mark.parametrize("joined", [False, True])
@pytest.mark.parametrize("scene", SCENES)
def test_losses_and_gradients_are_finite_whatever_an_image_holds(config: MaskRCNNConfig, joined: bool, scene: str) -> None:
    net = network(config)
    net.rpn.joined = joined
    losses = net(torch.randn(2, 1, 32, 32), SCENES[scene])
    assert losses.keys() == LOSSES
    sum(losses.values()).backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    assert all(bool(value.isfinite().all()) for value in net.state_dict().values())
    objects = any(len(one["boxes"]) for one in SCENES[scene])
    assert (float(losses["mask"].detach()) > 0) == (float(losses["box"].detach()) > 0) == objects
    if "everywhere" in scene:
        assert not any(float(loss.detach()) for loss in losses.values())


def test_a_batch_of_one_and_bf16_give_finite_losses() -> None:
    net = network(replace(TINY, backbone="mobilenet_v3", stem_stride=4, anchor_sizes=(8, 12, 18)))
    with torch.autocast("cpu", torch.bfloat16):
        losses = net(torch.randn(1, 1, 32, 32), [target([[4, 4, 12, 14]])])
    assert all(value.dtype == torch.float32 and value.isfinite() for value in losses.values())
    sum(losses.values()).backward()
    assert all(parameter.grad.isfinite().all() for parameter in net.parameters())


def test_losses_fall_while_one_image_is_learnt_by_heart_until_its_objects_are_found() -> None:

    image = torch.zeros(1, 32, 32)
    boxes = [[3, 4, 13, 12], [18, 16, 28, 29]]
    for left, top, right, bottom in boxes:
        image[0, top:bottom, left:right] = 1
    net = network(replace(TINY, width=16, mask_width=16))
    learning = torch.optim.Adam(net.parameters(), 2e-3)
    history = []
    for _ in range(60):
        losses = net(image[None], [target(boxes)])
        learning.zero_grad()
        sum(losses.values()).backward()
        learning.step()
        history.append({name: float(value.detach()) for name, value in losses.items()})
    for name in LOSSES:
        early, late = (np.mean([one[name] for one in part]) for part in (history[:5], history[-5:]))
        assert late < 0.6 * early, (name, early, late)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the mean over what follows
            module.reset_running_stats()
    with torch.no_grad():
        net(image[None], [target(boxes)])
        found = find_objects(net.eval(), image, Rules(0.3))
    corners = torch.from_numpy(found.boxes[:, [1, 0, 3, 2]]).float()
    assert bool((box_iou(torch.tensor(boxes).float(), corners).amax(1) > 0.6).all())


# ------------------------------------------------------------------------------------------------- objects and anchors


def test_objects_are_numbered_from_one_and_negative_ids_are_a_crowd() -> None:
    labels = torch.zeros(8, 9, dtype=torch.int16)
    labels[1:3, 1:4], labels[5, 5], labels[6:, :2] = 32767, 7, -1
    example = of_one_class(Example(torch.zeros(1, 8, 9), labels, "a"))
    assert example.truth.shape == (1, 8, 9) and example.truth.dtype == torch.int16 and int(example.truth.max()) == 3
    found = objects_of(example.truth, example.classes)
    assert sorted(zip(found.boxes.tolist(), found.classes.tolist(), strict=True)) == [
        ([1, 1, 3, 4], 1), ([5, 5, 6, 6], 1), ([6, 0, 8, 2], CROWD),
    ]  # fmt: skip
    assert sorted(known_boxes(example).tolist()) == [[1, 1, 4, 3], [5, 5, 6, 6]]


def scene() -> ObjectExample:
    """Two objects that overlap, one of the second class, and a crowd."""
    layers = torch.zeros(2, 40, 48, dtype=torch.int16)
    layers[0, 4:20, 4:20], layers[1, 10:30, 10:40], layers[0, 30:, :8] = 1, 2, 3
    return ObjectExample(torch.rand(1, 40, 48), layers, "a", classes=torch.tensor([0, 1, 2, CROWD]))


def test_crops_hold_the_objects_that_are_in_them() -> None:
    batch = crops([scene()], 64, 2, NO_AUGMENTATION, (0, 0))
    images, boxes, labels, masks = batch
    assert images.shape == (2, 1, 64, 64) and boxes.dtype == torch.float32 and masks.dtype == torch.uint8
    for one in targets(boxes, labels, masks):
        for box, mask in zip(one["boxes"].long().tolist(), one["masks"], strict=True):
            rows, columns = torch.nonzero(mask.any(1))[:, 0], torch.nonzero(mask.any(0))[:, 0]
            assert box == [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]
        assert set(one["labels"].tolist()) == {1, 2} and len(one["crowds"])


def test_crops_are_a_function_of_their_key_and_parts_make_the_whole() -> None:
    examples = [scene(), of_one_class(Example(torch.rand(1, 30, 30), torch.zeros(30, 30, dtype=torch.int16), "empty"))]
    whole = crops(examples, 32, 5, Augmentation(), (7, 2))
    again = crops(examples, 32, 5, Augmentation(), (7, 2))
    assert all(torch.equal(one, other) for one, other in zip(whole, again, strict=True))
    parts = [crops(examples, 32, 5, Augmentation(), (7, 2), (number, 2)) for number in range(2)]
    assert torch.equal(parts[0][0], whole[0][0::2]) and torch.equal(parts[1][0], whole[0][1::2])
    empty = crops(examples[1:], 32, 2, Augmentation(), (0, 0))
    assert empty[3].shape == (2, 1, 32, 32) and not empty[2].any()


def test_the_rest_of_an_object_that_is_cut_off_is_not_to_be_learnt() -> None:
    layers = torch.zeros(1, 4, 4, dtype=torch.int16)
    layers[0, 0, :3], layers[0, 2:, :2] = 1, 2
    assert objects_of(layers, torch.tensor([0, 1, 1]), least=4).classes.tolist() == [CROWD, 1]


def of_sizes(sides: list[tuple[int, int]]) -> ObjectExample:
    """Objects of these heights and widths, side by side."""
    labels = torch.zeros(max(height for height, _ in sides), sum(width + 1 for _, width in sides), dtype=torch.int16)
    left = 0
    for number, (height, width) in enumerate(sides, 1):
        labels[:height, left : left + width] = number
        left += width + 1
    return of_one_class(Example(torch.zeros(1, *labels.shape), labels, "a"))


def test_anchors_are_of_the_sizes_and_shapes_of_the_objects() -> None:
    example = of_sizes([(side, 2 * side) for side in range(10, 50)])
    sizes, ratios = anchors_from([example], 4)
    areas = np.sqrt([2 * side**2 for side in range(10, 50)])
    assert sizes[0] == pytest.approx(np.quantile(areas, 0.05), abs=0.1)
    assert sizes[-1] == pytest.approx(np.quantile(areas, 0.95), abs=0.1)
    steps = np.array(sizes[1:]) / np.array(sizes[:-1])
    assert steps == pytest.approx(steps[0], rel=0.02) and ratios == (0.5,)
    assert replace(TINY, stages=3, anchor_sizes=sizes, aspect_ratios=ratios).checked()


def test_anchors_of_odd_objects_have_an_area() -> None:
    for sides in ([(1, 1)], [(1, 60), (1, 50)], [(60, 1), (1, 60), (1, 1)]):
        sizes, ratios = anchors_from([of_sizes(sides)], 3)
        net = network(replace(TINY, anchor_sizes=sizes, aspect_ratios=ratios))
        for cells in net.rpn.anchor_generator.cell_anchors:
            assert bool(((cells[:, 2:] - cells[:, :2]) >= 1).all())
    with pytest.raises(TrainingError, match="hold no object"):
        anchors_from([of_one_class(Example(torch.zeros(1, 4, 4), torch.zeros(4, 4, dtype=torch.int16)))], 3)


@pytest.mark.parametrize(
    "wrong",
    [{"backbone": "vgg"}, {"stages": 5}, {"anchor_sizes": (8.0,)}, {"aspect_ratios": ()}, {"mean": (1.0,)}, {"roi": "crop"},
     {"classes": 0}, {"anchor_sizes": (8.0, math.nan, 9.0)}, {"norm_eps": math.nan}, {"norm_eps": -1.0},
     {"mean": (math.nan,), "std": (1.0,)}],
)  # fmt: skip
def test_what_is_no_network_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ModelError, match="network: "):
        replace(TINY, **wrong).checked()


# ------------------------------------------------------------------------------------------------------ batches of regions


def test_the_heads_are_given_batches_of_few_sizes() -> None:
    """What computes convolutions keeps something for each size: memory would grow with the number of windows."""
    boxes = torch.rand(700, 4)
    sizes = {len(filled(boxes[:count], 512)) for count in range(513)}
    assert sizes == {8, 16, 32, 64, 128, 256, 512}
    assert torch.equal(filled(boxes[:100], 512)[:100], boxes[:100])
    assert torch.equal(filled(boxes[:100], 512)[100:], torch.tensor([[0.0, 0.0, 1.0, 1.0]]).expand(28, -1))


def test_idle_regions_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    net = network().eval()
    images = torch.rand(1, TINY.channels, 64, 64)
    with torch.inference_mode():
        found = net.detect(images, Rules(score=0.0, most=50))[0]
        monkeypatch.setattr("i2i_maskrcnn.heads.filled", lambda boxes, most: boxes)
        plain = net.detect(images, Rules(score=0.0, most=50))[0]
    assert len(found.scores) == 50
    for name in ("boxes", "scores", "labels", "masks"):
        torch.testing.assert_close(getattr(found, name), getattr(plain, name), rtol=1e-5, atol=1e-5)


def test_a_header_with_endless_numbers_is_refused() -> None:
    with pytest.raises(ModelError, match="anchor_sizes must be a list of numbers"):
        MaskRCNNConfig.from_mapping(TINY.as_mapping() | {"anchor_sizes": [10**400] * 3})
