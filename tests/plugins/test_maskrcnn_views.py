"""Detections of flipped and turned windows are brought back and joined; suppression by falling scores."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.ops import box_iou

from i2i_maskrcnn.heads import Detections
from i2i_maskrcnn.masks import instances
from i2i_maskrcnn.suppress import soft_suppressed
from i2i_maskrcnn.views import VIEWS, joined, seen, upright

SIDE = 8


def drawn(objects: Detections, shape: tuple[int, int]) -> np.ndarray:
    """(H, W) of numbers from 1."""
    found = instances(objects, shape)
    labels = np.zeros(shape, int)
    for number, ((top, left, bottom, right), mask) in enumerate(zip(found.boxes, found.masks, strict=True), 1):
        labels[top:bottom, left:right][mask] = number
    return labels


def detections(boxes: list[list[float]], scores: list[float], labels: list[int] | None = None, seed: int = 0) -> Detections:
    """With masks that are the same from no two sides."""
    masks = torch.rand(len(boxes), SIDE, SIDE, generator=torch.Generator().manual_seed(seed))
    numbers = torch.tensor(labels or [1] * len(boxes))
    return Detections(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), torch.tensor(scores), numbers, masks)


def turned(found: Detections, view: tuple[int, bool], shape: tuple[int, int]) -> Detections:
    """What a network finds in the view: each corner's place there, by turning an image of coordinates."""
    boxes = []
    for left, top, right, bottom in found.boxes.tolist():
        image = torch.zeros(1, 1, *shape)
        image[..., int(top) : int(bottom), int(left) : int(right)] = 1
        rows, columns = torch.nonzero(seen(image, view)[0, 0], as_tuple=True)
        boxes.append([int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1])
    masks = seen(found.masks[:, None], view)[:, 0]
    return Detections(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), found.scores, found.labels, masks)


@pytest.mark.parametrize("view", VIEWS)
def test_views_are_brought_back(view):
    shape = (20, 31)
    found = detections([[2, 3, 9, 15], [20, 0, 31, 4]], [0.9, 0.8])
    back = upright(turned(found, view, shape), view, shape)
    assert torch.equal(back.boxes, found.boxes)
    assert torch.equal(back.masks, found.masks)
    assert np.array_equal(drawn(back, shape), drawn(found, shape))


def test_the_views_are_all_eight():
    image = torch.arange(6.0).reshape(1, 1, 2, 3)
    square = torch.arange(9.0).reshape(1, 1, 3, 3)
    assert len({tuple(seen(square, view).flatten().tolist()) for view in VIEWS}) == 8
    assert {tuple(seen(image, view).shape[2:]) for view in VIEWS} == {(2, 3), (3, 2)}


def test_objects_of_several_views_are_one():
    views = [detections([[0, 0, 10, 10], [50, 50, 60, 60]], [0.8, 0.6]), detections([[1, 0, 11, 10]], [0.4], seed=1)]
    found = joined(views, 0.25, 10)
    assert torch.allclose(found.scores, torch.tensor([0.6, 0.3]))
    assert torch.allclose(found.boxes[0], torch.tensor([1 / 3, 0, 10 + 1 / 3, 10]), atol=1e-5)
    assert torch.allclose(found.masks[0], (2 * views[0].masks[0] + views[1].masks[0]) / 3, atol=1e-6)
    assert torch.equal(joined(views, 0.5, 10).boxes, found.boxes[:1])
    assert (len(joined(views, 0.25, 1).scores), joined(views, 0.25, 1).beyond) == (1, 1)


def test_a_view_counts_once_and_classes_apart():
    twice = detections([[0, 0, 10, 10], [0, 0, 10, 9]], [0.8, 0.7])
    assert torch.allclose(joined([twice, twice], 0.1, 10).scores, torch.tensor([0.8]))
    two = detections([[0, 0, 10, 10], [0, 0, 10, 10]], [0.8, 0.7], [1, 2])
    assert joined([two, two], 0.1, 10).labels.tolist() == [1, 2]


def test_nothing_is_joined_to_nothing():
    nothing = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64), torch.zeros(0, SIDE, SIDE))
    found = joined([nothing] * 8, 0.5, 10)
    assert (len(found.boxes), found.masks.shape) == (0, (0, SIDE, SIDE))


def one_by_one(boxes: Tensor, scores: Tensor, labels: Tensor, threshold: float, least: float) -> list[tuple[int, float]]:
    """Soft-NMS as the paper's figure 2 has it, with the linear penalty."""
    left, kept = {number: float(score) for number, score in enumerate(scores)}, []
    while left:
        best = max(left, key=lambda number: left[number])
        score = left.pop(best)
        if score < least:
            break
        kept.append((best, score))
        for number in left:
            overlap = float(box_iou(boxes[best : best + 1], boxes[number : number + 1]))
            if labels[number] == labels[best] and overlap > threshold:
                left[number] *= 1 - overlap
    return kept


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 30), st.sampled_from([0.05, 0.3, 0.5]), st.sampled_from([0.05, 0.4]))
def test_soft_suppression_is_the_papers(seed, count, threshold, least):
    torch.manual_seed(seed)
    corners = torch.rand(count, 2) * 20
    boxes = torch.cat([corners, corners + 5 + 10 * torch.rand(count, 2)], 1)
    scores, labels = torch.rand(count), torch.randint(1, 3, (count,))
    places, found = soft_suppressed(boxes, scores, labels, threshold, least)
    wanted = one_by_one(boxes, scores, labels, threshold, least)
    assert places.tolist() == [place for place, _ in wanted]
    assert found.tolist() == pytest.approx([score for _, score in wanted], abs=1e-5)


def test_soft_suppression_ends_where_no_score_is_too_low() -> None:
    """A box that is another's twin falls to 0, which is still as high as asked for."""
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 6]])
    places, found = soft_suppressed(boxes, torch.tensor([0.9, 0.8, 0.5]), torch.ones(3, dtype=torch.int64), 0.5, 0.0)
    assert sorted(places.tolist()) == [0, 1, 2]
    assert found.tolist() == pytest.approx([0.9, 0.2, 0.0])
