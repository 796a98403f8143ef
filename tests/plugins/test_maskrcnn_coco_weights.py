"""torchvision's Mask R-CNN as a model: its files are known by their names of weights; it finds what torchvision finds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN, backbone_utils, maskrcnn_resnet50_fpn_v2

from i2i.contracts import ImageSpec, Runtime
from i2i.errors import ModelError
from i2i.models import open_model
from i2i_maskrcnn.heads import Detections
from i2i_maskrcnn.masks import centred
from i2i_maskrcnn.options import InstancesOptions
from i2i_maskrcnn.predictor import MaskRCNNPredictor, load

MOST, SCORE = 100, 0.02
CLASSES = 91


def photo(height: int, width: int) -> np.ndarray:
    """(H, W, 3) uint8, smooth."""
    torch.manual_seed(0)
    coarse = torch.rand(1, 3, max(2, height // 8), max(2, width // 8))
    return (nn.functional.interpolate(coarse, (height, width), mode="bilinear")[0] * 255).byte().permute(1, 2, 0).numpy()


def networks_own(v2: bool) -> MaskRCNN:
    torch.manual_seed(3)
    if v2:
        return maskrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None, num_classes=CLASSES)
    body = torchvision.models.resnet50(weights=None)
    return MaskRCNN(backbone_utils._resnet_fpn_extractor(body, 5), CLASSES)


def reference(v2: bool, image: Tensor) -> MaskRCNN:
    """With random weights under which something is found in ``image``, and found everywhere: statistics of batch normalisation
    are the image's, scores and shifts are spread."""
    model = networks_own(v2)
    model.transform.min_size, model.transform.max_size = (min(image.shape[1:]),), max(image.shape[1:])
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    for name, weight in model.rpn.head.named_parameters():
        weight.data *= 5 if name.endswith("weight") else 1
    model.eval()
    for part in (model.backbone, model.roi_heads.box_head, model.roi_heads.mask_head):
        part.train()
    told: list[tuple[Tensor, Tensor]] = []
    hook = model.roi_heads.box_predictor.register_forward_hook(lambda module, given, found: told.append(found))
    most = model.rpn._post_nms_top_n
    model.rpn._post_nms_top_n = dict.fromkeys(most, 200)  # of a thousand, enough to measure
    with torch.inference_mode():
        model([image])
        model.eval()([image])
    model.rpn._post_nms_top_n = most
    hook.remove()
    (logits, shifts), predictor = told[1], model.roi_heads.box_predictor
    more = 3 / logits.std(0).mean()
    predictor.cls_score.weight.data *= more
    predictor.cls_score.bias.data = -(logits * more).mean(0)
    predictor.bbox_pred.weight.data /= shifts.std(0).mean()
    return as_torchvision_reads(model, v2)


def as_torchvision_reads(model: MaskRCNN, v2: bool) -> MaskRCNN:
    """``maskrcnn_resnet50_fpn`` sets the epsilon of its frozen normalisation to 0 for its COCO weights."""
    for module in model.backbone.modules():
        if isinstance(module, nn.BatchNorm2d) and not v2:
            module.eps = 0.0
    model.roi_heads.score_thresh = SCORE
    model.transform.postprocess = lambda found, sizes, originals: found  # boxes and masks as the network has them
    order, batched = torch.channels_last, model.transform.batch_images
    model.transform.batch_images = lambda *given, **named: batched(*given, **named).contiguous(memory_format=order)
    return model.to(memory_format=order)


OLD_NAMES = {"mask_fcn1": "0.0", "mask_fcn2": "1.0", "mask_fcn3": "2.0", "mask_fcn4": "3.0"}


def as_of_2020(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The names of the published file of v1, which has no counters of batches."""
    old = {}
    for name, tensor in weights.items():
        for level in range(4):
            name = name.replace(f"_blocks.{level}.0.", f"_blocks.{level}.")
        name = name.replace("rpn.head.conv.0.0.", "rpn.head.conv.")
        for before, after in OLD_NAMES.items():
            name = name.replace(f"mask_head.{after}.", f"mask_head.{before}.")
        if not name.endswith("num_batches_tracked"):
            old[name] = tensor
    return old


def saved(folder: Path, weights: dict[str, Tensor]) -> Path:
    path = folder / "weights.pth"
    torch.save(weights, path)
    return path


def predictor_of(path: Path, **options: object) -> MaskRCNNPredictor:
    return load(open_model(path), Runtime(), InstancesOptions(score=SCORE, max_per_tile=MOST, **options))


@pytest.mark.parametrize(("v2", "height", "width"), [(True, 100, 140), (False, 128, 192)])
def test_it_finds_what_torchvision_finds(tmp_path, v2, height, width):
    pixels = photo(height, width)
    image = torch.from_numpy(pixels).permute(2, 0, 1) / 255
    model = reference(v2, image)
    path = saved(tmp_path, model.state_dict() if v2 else as_of_2020(model.state_dict()))
    predictor = predictor_of(path)
    predictor._see(1 + 1e-9)  # at the image's size, without the engine's padding to the pyramid's stride
    with torch.inference_mode():
        wanted = model([image])[0]
        batch = image[None].contiguous(memory_format=torch.channels_last)
        found = predictor._found(predictor._zoomed(batch), replace(predictor.rules, most=MOST), (height, width))[0]
    assert len(wanted["boxes"]) > 20
    assert len(found.boxes) == len(wanted["boxes"])
    torch.testing.assert_close(found.scores, wanted["scores"], atol=1e-3, rtol=0)
    torch.testing.assert_close(found.boxes, wanted["boxes"], atol=1e-2, rtol=0)
    assert torch.equal(found.labels, wanted["labels"])
    same = centred(Detections(wanted["boxes"], wanted["scores"], wanted["labels"], wanted["masks"][:, 0]))
    torch.testing.assert_close(found.masks, same.masks, atol=1e-3, rtol=0)


def test_a_photo_is_seen_as_torchvision_sees_it(tmp_path):
    predictor = predictor_of(saved(tmp_path, networks_own(True).state_dict()))
    for height, width, zoom in ((480, 640, 800 / 480), (3000, 4000, 800 / 3000), (400, 4000, 1333 / 4000)):
        fitted = predictor.fitted(ImageSpec(height, width, 3))
        assert fitted.zoom == pytest.approx(zoom)
        batch = torch.zeros(1, 3, height, width)
        seen = networks_own(True).transform.resize(batch[0])[0].shape[1:] if height < 1000 else None
        if seen is not None:
            assert fitted._zoomed(batch).shape[2:] == seen
        assert bool(fitted.remarks) == (zoom < 1)
        assert fitted.footprint.multiple_of == 1
    assert predictor.fitted(ImageSpec(9000, 9000, 3)).zoom == 1
    assert predictor_of(tmp_path / "weights.pth", zoom=0.5).fitted(ImageSpec(480, 640, 3)).zoom == 0.5


def test_pixels_beyond_the_image_are_centred(tmp_path):
    """They are 0 for the network, as in torchvision: the mean of the channels, before they are centred."""
    predictor = predictor_of(saved(tmp_path, networks_own(True).state_dict()))
    beyond = torch.tensor(predictor.footprint.pad)[None, :, None, None].expand(1, 3, 2, 2)
    assert torch.equal(predictor.network._centred(beyond), torch.zeros(1, 3, 2, 2))


def test_classes_have_the_names_of_coco(tmp_path):
    names = predictor_of(saved(tmp_path, networks_own(True).state_dict())).class_names
    assert (len(names), names[1], names[90], 12 in names) == (80, "person", "toothbrush", False)


def test_other_weights_are_refused(tmp_path):
    weights = torchvision.models.resnet18(weights=None).state_dict()
    with pytest.raises(ModelError, match="not those of torchvision's maskrcnn_resnet50_fpn"):
        predictor_of(saved(tmp_path, weights))
    weights = networks_own(True).state_dict()
    del weights["rpn.head.bbox_pred.bias"]
    with pytest.raises(ModelError, match="rpn.head.bbox_pred.bias is missing"):
        predictor_of(saved(tmp_path, weights))
