"""Mask R-CNN as torchvision has it: weights without a header, known by their names."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor
from torchvision.models.detection import MaskRCNN_ResNet50_FPN_V2_Weights

from i2i.contracts import Model
from i2i.errors import ModelError
from i2i.normalize import Normalization
from i2i_maskrcnn.config import IMAGENET_MEAN, IMAGENET_STD, MaskRCNNConfig
from i2i_maskrcnn.header import Header

_VIEW = (800, 1333)
"""torchvision brings the shorter side of an image to the first, unless the longer side gets above the second."""
_OBJECT_SIZE = 512
"""In pixels of that view."""
_CLASSES = "roi_heads.box_predictor.cls_score.weight"
_V1, _V2 = "roi_heads.box_head.fc6.weight", "roi_heads.box_head.0.0.weight"


_RENAMED = (
    (r"(backbone\.fpn\.(?:inner|layer)_blocks\.\d+)\.(weight|bias)", r"\1.0.\2"),
    (r"(rpn\.head\.conv)\.(weight|bias)", r"\1.0.0.\2"),
)
_MASK_LAYER = re.compile(r"(roi_heads\.mask_head)\.mask_fcn(\d+)\.(weight|bias)")
"""The file of 2020 has the names of that time."""


def renamed(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same with the names that torchvision has since 0.13."""
    return {_name(name): tensor for name, tensor in weights.items()}


def _name(name: str) -> str:
    if old := _MASK_LAYER.fullmatch(name):
        return f"{old[1]}.{int(old[2]) - 1}.0.{old[3]}"
    for pattern, new in _RENAMED:
        if old := re.fullmatch(pattern, name):
            return old.expand(new)
    return name


def header_of(model: Model) -> Header:
    """What is known of the weights of ``maskrcnn_resnet50_fpn`` and ``maskrcnn_resnet50_fpn_v2``. Raises ``ModelError`` for
    others."""
    weights = model.tensors()
    config = _config(weights)
    if config is None:
        raise ModelError(
            f"{model.path}: weights without a header, and not those of torchvision's maskrcnn_resnet50_fpn or _v2; "
            "give a model that i2i train instances wrote, or one of `i2i models list`"
        )
    return Header(
        config, Normalization(method="range"), _names(config.classes),
        overlap=1.0, object_size=_OBJECT_SIZE, gray_as_rgb=True, view=_VIEW,
    )  # fmt: skip


def _config(weights: dict[str, Tensor]) -> MaskRCNNConfig | None:
    if _CLASSES not in weights or not (_V1 in weights or _V2 in weights):
        return None
    common = {"backbone": "resnet50", "classes": weights[_CLASSES].shape[0] - 1, "mean": IMAGENET_MEAN, "std": IMAGENET_STD}
    if _V1 in weights:
        return MaskRCNNConfig(**common, frozen_norm=True, norm_eps=0.0)  # type: ignore[arg-type]  # as torchvision reads these weights
    return MaskRCNNConfig(**common, box_convolutions=4, rpn_depth=2, head_norm=True)  # type: ignore[arg-type]


def _names(classes: int) -> dict[int, str]:
    """COCO's, whose numbers have gaps, for 90 classes; else numbers."""
    known = MaskRCNN_ResNet50_FPN_V2_Weights.COCO_V1.meta["categories"]
    if classes != len(known) - 1:
        return {number: f"class {number}" for number in range(1, classes + 1)}
    return {number: name for number, name in enumerate(known) if number and name != "N/A"}
