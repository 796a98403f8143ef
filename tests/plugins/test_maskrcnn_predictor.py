"""The detector as the engine runs it: masks, zoom, memory, rules, views; RoIAlign and proposals without gradients."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from torch import Tensor, nn
from torchvision.models.detection.roi_heads import project_masks_on_boxes
from torchvision.ops import roi_align

from i2i.contracts import ImageSpec, Instances, Runtime
from i2i.errors import UsageError
from i2i.normalize import Normalization
from i2i.options import RunOptions
from i2i.planner import make_plan
from i2i_maskrcnn.config import MaskRCNNConfig
from i2i_maskrcnn.header import Header
from i2i_maskrcnn.heads import Detections, Rules
from i2i_maskrcnn.masks import centred, instances
from i2i_maskrcnn.network import MaskRCNN, build
from i2i_maskrcnn.options import InstancesOptions
from i2i_maskrcnn.predictor import MaskRCNNPredictor
from i2i_maskrcnn.propose import proposed
from i2i_maskrcnn.sampling import aligned

TINY = MaskRCNNConfig(
    channels=1, classes=2, stem_stride=2, stages=2, width=8, box_width=16, mask_width=8, mask_convolutions=1,
    anchor_sizes=(8, 12, 18),
)  # fmt: skip
NONE = Normalization("none", offset=(0.0,), scale=(1.0,))
NAMES = {1: "dark", 2: "bright"}


class Shapes(nn.Module):
    """Finds bright shapes as a network would, with masks as large as their boxes allow; ``unsure``: it sees what lies in the left
    half of its view with a lower score, and a pixel further left: from each side something else."""

    def __init__(self, unsure: bool = False) -> None:
        super().__init__()
        self.config, self.dtype, self.unsure = TINY, torch.float32, unsure
        self.seen: list[tuple[tuple[int, ...], tuple[int, int]]] = []

    def detect(self, images: Tensor, rules: Rules, shape: tuple[int, int]) -> list[Detections]:
        self.seen.append((tuple(images.shape), shape))
        return [self._find(image[0].numpy(), rules, shape) for image in images]

    def _find(self, image: np.ndarray, rules: Rules, shape: tuple[int, int]) -> Detections:
        labels, _ = ndimage.label(image > 0.5)
        boxes, scores, masks = [], [], []
        for number, (rows, columns) in enumerate(ndimage.find_objects(labels), 1):
            whole = torch.from_numpy((labels == number).astype(np.float32))
            own = torch.tensor([[columns.start, rows.start, columns.stop, rows.stop]], dtype=torch.float32)
            far = self.unsure and columns.start < shape[1] / 2
            boxes.append([columns.start - far, rows.start, columns.stop - far, rows.stop])
            scores.append(float(image[rows, columns].max()) * (0.6 if far else 1))
            masks.append(project_masks_on_boxes(whole[None], own, torch.zeros(1, dtype=torch.int64), 28)[0])
        order = [i for i in np.argsort(scores)[::-1].tolist() if scores[i] >= rules.score]
        kept = order[: rules.most]
        found = torch.tensor([boxes[i] for i in kept], dtype=torch.float32).reshape(-1, 4)
        chosen = torch.stack([masks[i] for i in kept]) if kept else torch.zeros(0, 28, 28)
        ones = torch.ones(len(kept), dtype=torch.int64)
        return Detections(found, torch.tensor([scores[i] for i in kept]), ones, chosen, len(order) - len(kept))


def predictor(network: Any = None, header: dict[str, Any] | None = None, **options: Any) -> MaskRCNNPredictor:
    known: dict[str, Any] = {"class_names": NAMES, "score": 0.2, "overlap": 1.0} | (header or {})
    return MaskRCNNPredictor(network or Shapes(), Header(TINY, NONE, **known), InstancesOptions(**options))


def scene(height: int, width: int, seed: int = 0) -> np.ndarray:
    """(H, W) float32 of rectangles that do not touch, 0.6 to 1 bright, more than 6 pixels wide and high."""
    random, image = np.random.default_rng(seed), np.zeros((height, width), np.float32)
    for top in range(2, height - 18, 20):
        for left in range(3, width - 18, 20):
            size = random.integers(7, 16, 2)
            image[top : top + size[0], left : left + size[1]] = random.uniform(0.6, 1)
    return image


def find(detector: MaskRCNNPredictor, image: np.ndarray) -> Instances:
    with torch.inference_mode():
        (found,) = detector(torch.from_numpy(image)[None, None])
    return found


def drawn(found: Instances, shape: tuple[int, ...]) -> np.ndarray:
    """(H, W) bool."""
    image = np.zeros(shape, bool)
    for (top, left, bottom, right), mask in zip(found.boxes, found.masks, strict=True):
        image[top:bottom, left:right] |= mask
    return image


# ------------------------------------------------------------------------------------------------------------------ masks


def test_masks_are_drawn_where_they_lie():
    image = scene(64, 90)
    found = find(predictor(), image)
    assert len(found) == ndimage.label(image > 0)[1]
    assert np.mean(drawn(found, image.shape) != (image > 0)) < 0.01
    assert all(mask.shape == (b - t, r - left) for (t, left, b, r), mask in zip(found.boxes, found.masks, strict=True))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_boxes_are_tight_and_inside_the_image(seed):
    torch.manual_seed(seed)
    corners = torch.rand(5, 2) * torch.tensor([50.0, 30.0]) - 5
    boxes = torch.cat([corners, corners + 0.3 + 30 * torch.rand(5, 2)], 1)
    given = Detections(boxes, torch.rand(5), torch.ones(5, dtype=torch.int64), torch.rand(5, 14, 14))
    found = instances(given, (30, 50))
    for (top, left, bottom, right), mask in zip(found.boxes, found.masks, strict=True):
        assert 0 <= top < bottom <= 30
        assert 0 <= left < right <= 50
        assert mask[0].any()
        assert mask[-1].any()
        assert mask[:, 0].any()
        assert mask[:, -1].any()


def test_small_objects_go_and_what_is_beyond_is_told():
    image = np.zeros((40, 60), np.float32)
    image[5:9, 5:9], image[20:32, 20:32] = 0.9, 0.8
    assert len(find(predictor(min_area=0), image)) == 2
    assert find(predictor(min_area=40), image).boxes.tolist() == [[20, 20, 32, 32]]
    assert len(find(predictor(header={"min_area": 40}), image)) == 1
    capped = find(predictor(max_per_tile=1, min_area=0), image)
    assert (len(capped), capped.beyond) == (1, 1)


def test_what_better_ones_cover_goes():
    boxes = torch.tensor([[0.0, 0, 20, 20], [10, 0, 30, 20], [2, 2, 18, 18]])
    found = Detections(boxes, torch.tensor([0.9, 0.8, 0.7]), torch.ones(3, dtype=torch.int64), torch.ones(3, 28, 28))
    assert len(instances(found, (40, 40), overlap=0.6)) == 2
    assert len(instances(found, (40, 40), overlap=0.4)) == 1
    assert len(instances(found, (40, 40))) == 3
    other = replace(found, labels=torch.tensor([1, 1, 2]))
    assert len(instances(other, (40, 40), overlap=0.6)) == 3


# ------------------------------------------------------------------------------------------------------------------- zoom


@pytest.mark.parametrize("zoom", [0.5, 1.7, 3.0])
def test_masks_have_the_images_size_whatever_the_zoom(zoom):
    image = scene(80, 100)
    detector = predictor(zoom=zoom)
    found = find(detector, image)
    (padded, seen), = detector.network.seen  # fmt: skip
    assert seen == (int(80 * zoom), int(100 * zoom))
    assert [length % 4 for length in padded[2:]] == [0, 0]
    assert len(found) == ndimage.label(image > 0)[1]
    assert np.mean(drawn(found, image.shape) != (image > 0)) < 0.06


def test_the_halo_grows_with_objects_and_with_smaller_views():
    plain = predictor(header={"object_size": 40})
    assert plain.footprint.halo == 72  # 20 + 48, up to a multiple of 8
    assert predictor(header={"object_size": 40}, object_size=400).footprint.halo == 248
    half = predictor(header={"object_size": 40}, zoom=0.5)
    assert (half.footprint.halo, half.footprint.multiple_of) == (40 + 96, 1)


def test_a_photo_is_one_window():
    spec = ImageSpec(3000, 4000, 1)
    detector = predictor(header={"view": (800, 1333)}).fitted(spec)
    assert detector.zoom == pytest.approx(800 / 3000)
    assert detector.remarks == ("the model sees it at 0.27 times its size, as it was trained to; --zoom 1: in full detail",)
    plan = make_plan(spec, detector, 4, RunOptions(memory="4GB"), Runtime())
    assert plan.grid(spec, detector.footprint).tile_count == 1
    assert make_plan(spec, detector, 4, RunOptions(memory="1.5GB"), Runtime()).grid(spec, detector.footprint).tile_count > 1
    assert predictor(header={"view": (800, 1333)}, zoom=1.0).fitted(spec).remarks == ()


def test_what_a_network_holds_besides_is_planned():
    spec, options = ImageSpec(2000, 2000, 1), RunOptions(memory="2GB")
    detector = predictor()
    before = make_plan(spec, detector, 4, options, Runtime())
    detector.held_bytes += 300_000_000
    assert np.prod(make_plan(spec, detector, 4, options, Runtime()).tile) < np.prod(before.tile)
    detector.held_bytes += 900_000_000
    with pytest.raises(UsageError, match=r"this model needs more than 2\.0 GB; raise it"):
        make_plan(spec, detector, 4, options, Runtime())


# ------------------------------------------------------------------------------------------------------------------ views


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_with_views_the_result_of_a_turned_image_is_turned(turns):
    image = scene(70, 90, seed=3)
    detector = predictor(Shapes(unsure=True), tta=True)
    once, again = find(detector, image), find(detector, np.ascontiguousarray(np.rot90(image, turns)))
    assert len(once) == len(again) == ndimage.label(image > 0)[1]
    assert sorted(once.scores) == pytest.approx(sorted(again.scores), abs=1e-5)
    difference = np.rot90(drawn(once, image.shape), turns) != drawn(again, np.rot90(image, turns).shape)
    assert difference.mean() < 0.002
    plain = predictor(Shapes(unsure=True))
    assert sorted(find(plain, image).scores) != pytest.approx(sorted(once.scores), abs=1e-3)


def test_what_some_views_are_unsure_of_counts_too():
    image = np.zeros((60, 60), np.float32)
    image[5:15, 8:18] = 0.7  # half of the views say 0.42
    found = find(predictor(Shapes(unsure=True), tta=True, score=0.5), image)
    assert found.scores.tolist() == pytest.approx([0.56], abs=1e-5)
    assert len(find(predictor(Shapes(unsure=True), tta=True, score=0.6), image)) == 0


# ------------------------------------------------------------------------------------------------------------------ rules


def test_wrong_rules_are_refused():
    for options, words in (
        ({"classes": ["cat"]}, "--classes cat: the model knows dark, bright"),
        ({"score": 1.5}, "--score 1.5: must be from 0 to 1"),
        ({"nms": -0.5}, "--nms -0.5: must be from 0 to 1"),
        ({"overlap": 2.0}, "--overlap 2: must be from 0 to 1"),
    ):
        with pytest.raises(UsageError, match=words):
            predictor(**options)


def test_rules_are_the_models_or_the_users():
    header = {"score": 0.7, "nms": 0.3}
    assert predictor(header=header).rules == Rules(0.7, 0.3, False, 0, ())
    options = {"score": 0.0, "nms": 1.0, "soft_nms": True, "max_per_tile": 7, "classes": ["bright"]}
    assert predictor(header=header, **options).rules == Rules(0.0, 1.0, True, 7, (2,))


# ------------------------------------------------------------------------------------------- regions, proposals, precision


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([7, 14]), st.sampled_from([1.0, 0.5, 0.125]))
def test_align_by_rows_is_roi_align(seed, size, scale):
    torch.manual_seed(seed)
    features = torch.randn(2, 5, 13, 17)
    corners = torch.rand(9, 2) * torch.tensor([17.0, 13.0]) * 1.4 / scale - 3
    boxes = torch.cat([corners, corners + torch.rand(9, 2) * 12 / scale], 1)
    regions = torch.cat([torch.randint(0, 2, (9, 1)).float(), boxes], 1)
    with torch.inference_mode():
        found = aligned(features, regions, size, scale, 2)
    torch.testing.assert_close(found, roi_align(features, regions, size, scale, 2), atol=1e-4, rtol=1e-4)


def tiny(seed: int = 0) -> MaskRCNN:
    torch.manual_seed(seed)
    network = build(TINY).eval().requires_grad_(False)
    for name, weight in network.rpn.head.named_parameters():
        weight.data *= 20 if name.endswith("weight") else 1
    return network


def test_proposals_are_torchvisions():
    network, images = tiny(), torch.rand(2, 1, 64, 96)
    features = network.backbone(images)
    found = proposed(network.rpn, list(features.values()), (64, 96), (64, 96), 1)
    for (boxes, scores), wanted in zip(found, network.rpn.propose(images, features, None)[0], strict=True):
        assert len(wanted) > 100
        torch.testing.assert_close(boxes, wanted)
        assert bool((scores.diff() <= 0).all())


def test_a_dense_image_has_more_proposals():
    network, images = tiny(), torch.rand(1, 1, 256, 256)
    network.rpn.head.cls_logits.bias.data += 3  # all are likely
    levels = list(network.backbone(images).values())
    few, many = (proposed(network.rpn, levels, (256, 256), (256, 256), most)[0] for most in (100, 4000))
    assert len(few[0]) == 1000 < len(many[0])
    network.rpn.head.cls_logits.bias.data -= 30  # none is
    levels = list(network.backbone(images).values())
    assert len(proposed(network.rpn, levels, (256, 256), (256, 256), 4000)[0][0]) == 1000


def test_boxes_stay_inside_what_is_not_padding():
    network = tiny()
    for boxes in network.propose(torch.rand(1, 1, 64, 64), 100, (50, 41))[1]:
        assert float(boxes[:, 2].max()) <= 41
        assert float(boxes[:, 3].max()) <= 50
    network.roi_heads.box_predictor.cls_score.bias.data[1] = 4
    found = network.detect(torch.rand(1, 1, 64, 64), Rules(0.1), (50, 41))[0]
    assert len(found.boxes) > 0
    assert float(found.boxes[:, 2].max()) <= 41


def test_bf16_finds_nearly_the_same():
    network = tiny(2)
    network.roi_heads.box_predictor.cls_score.bias.data = torch.tensor([0.0, 1.5, -3])
    image = torch.from_numpy(scene(96, 96, 4))[None, None]
    both = [one.propose(image, 50)[0]["0"].float() for one in (network, tiny(2).to(torch.bfloat16))]
    assert float((both[0] - both[1]).abs().max() / both[0].abs().max()) < 0.05
    half = tiny(2).to(torch.bfloat16)
    half.roi_heads.box_predictor.cls_score.bias.data = torch.tensor([0.0, 1.5, -3]).to(torch.bfloat16)
    one, other = (each.detect(image, Rules(0.5, 0.3, most=50))[0] for each in (network, half))
    assert one.masks.dtype == other.masks.dtype == torch.float32
    assert abs(len(one.boxes) - len(other.boxes)) <= 0.2 * len(one.boxes)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (14, 9), (25, 40), (90, 61)])
def test_masks_as_they_are_learnt_come_back_where_they_were(height: int, width: int) -> None:
    """What training asks of the network, drawn again, is the object: not half a pixel beside it."""
    image = np.zeros((128, 120), bool)
    rows, columns = np.mgrid[: height + 1, : width + 1] - 0.5 * np.array([height - 1, width - 1])[:, None, None]
    disc = ((rows / height) ** 2 + (columns / width) ** 2 <= 0.25)[:height, :width]
    image[21 : 21 + height, 33 : 33 + width] = disc
    box = torch.tensor([[33.0, 21.0, 33 + width, 21 + height]])
    masks = project_masks_on_boxes(torch.from_numpy(image)[None].float(), box, torch.zeros(1, dtype=torch.int64), 28)
    found = Detections(box, torch.ones(1), torch.ones(1, dtype=torch.int64), masks)
    drawn = np.zeros_like(image)
    (top, left, bottom, right), (mask,) = (
        instances(centred(found), image.shape).boxes[0],
        instances(centred(found), image.shape).masks,
    )
    drawn[top:bottom, left:right] = mask
    assert (drawn & image).sum() > 0.95 * (drawn | image).sum()
