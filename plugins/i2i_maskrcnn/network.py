"""Mask R-CNN (He et al. 2017) on torchvision's parts, with torchvision's names of weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, TwoMLPHead

from i2i_maskrcnn.config import MaskRCNNConfig
from i2i_maskrcnn.heads import Detections, Rules, heads
from i2i_maskrcnn.proposals import Target, proposal_network
from i2i_maskrcnn.propose import proposed

_MOBILE_LAYERS = {"3": 24, "6": 40, "12": 112, "16": 960}
"""The last layer of each stage of MobileNetV3 large, strides 4 to 32, and its channels."""


class MaskRCNN(nn.Module):
    """``backbone`` gives the pyramid, ``rpn`` the proposals, ``roi_heads`` the objects. ``proposal_backbone``: a backbone of the
    proposals' own, where the two networks are not shared. ``learns``: of ``rpn`` and ``heads``, what training gives losses of;
    ``fixed``: the parts that keep their batch statistics in training."""

    def __init__(self, config: MaskRCNNConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = _backbone(config)
        self.rpn = proposal_network(config)
        self.roi_heads = heads(config, [str(stage) for stage in range(config.stages)], _box_head(config))
        self.proposal_backbone = None if config.shared else _backbone(config)
        self.learns: tuple[str, ...] = ("rpn", "heads")
        self.fixed: tuple[str, ...] = ()

    def forward(self, images: Tensor, targets: Sequence[Target]) -> dict[str, Tensor]:
        """The losses by name, of images (N, channels, H, W) with sides that are multiples of the stride: ``cls``, ``box`` and
        ``mask``, whose sum is L (section 3), and the RPN's ``rpn_objectness`` and ``rpn_box``."""
        images, proposing = self._centred(images), "rpn" in self.learns
        features = self.backbone(images) if "heads" in self.learns or self.proposal_backbone is None else {}
        with torch.set_grad_enabled(proposing and torch.is_grad_enabled()):
            seen = self.proposal_backbone(images) if self.proposal_backbone is not None else features
            proposals, losses = self.rpn.propose(images, seen, targets if proposing else None)
        if "heads" in self.learns:
            losses |= self.roi_heads.losses(features, proposals, targets)
        return losses

    def propose(
        self, images: Tensor, most: int, shape: tuple[int, int] | None = None
    ) -> tuple[dict[str, Tensor], list[Tensor], list[Tensor]]:
        """The features of images (N, channels, H, W), and the proposals of each, best first, with their scores: enough for
        ``most`` objects. ``shape``: height and width of what is not padding."""
        images, shape = self._centred(images), shape or (images.shape[2], images.shape[3])
        images[:, :, shape[0] :] = 0
        images[:, :, :, shape[1] :] = 0
        features = self.backbone(images)
        seen = self.proposal_backbone(images) if self.proposal_backbone is not None else features
        found = proposed(self.rpn, list(seen.values()), (images.shape[2], images.shape[3]), shape, most)
        return features, [boxes for boxes, _ in found], [scores for _, scores in found]

    def detect(self, images: Tensor, rules: Rules, shape: tuple[int, int] | None = None) -> list[Detections]:
        """The objects of each of the images (N, channels, H, W). ``shape``: height and width of what is not padding."""
        features, proposals, _ = self.propose(images, rules.most, shape)
        return self.roi_heads.detect(features, proposals, shape or (images.shape[2], images.shape[3]), rules)

    def _centred(self, images: Tensor) -> Tensor:
        """A copy in the network's number format, its channels centred in fp32."""
        mean, std = (images.new_tensor(values)[:, None, None] for values in (self.config.mean, self.config.std))
        return ((images - mean) / std).to(self.dtype) if self.config.mean else images.to(self.dtype, copy=True)

    @property
    def dtype(self) -> torch.dtype:
        """The number format of the weights."""
        return self.roi_heads.box_predictor.cls_score.weight.dtype

    def train(self, mode: bool = True) -> MaskRCNN:
        super().train(mode)
        for name, part in self.named_children():
            if name in self.fixed or (self.config.frozen_norm and "backbone" in name):
                for module in part.modules():
                    if isinstance(module, nn.BatchNorm2d):
                        module.eval()
        return self


def _backbone(config: MaskRCNNConfig) -> BackboneWithFPN:
    norm = nn.BatchNorm2d if config.head_norm else None
    if config.backbone == "mobilenet_v3":
        body = torchvision.models.mobilenet_v3_large(weights=None).features
        layers = dict(list(_MOBILE_LAYERS.items())[: config.stages])
        _take_channels(body[0], "0", config.channels)
    else:
        body = getattr(torchvision.models, config.backbone)(weights=None)
        _take_channels(body, "conv1", config.channels)
        if config.stem_stride == 2:
            body.maxpool = nn.Identity()
        first = 64 if config.backbone == "resnet18" else 256
        layers = {f"layer{stage + 1}": first * 2**stage for stage in range(config.stages)}
    for module in body.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = config.norm_eps if config.backbone != "mobilenet_v3" else module.eps
    names = {name: str(stage) for stage, name in enumerate(layers)}
    return BackboneWithFPN(body, names, list(layers.values()), config.width, norm_layer=norm)


def _take_channels(parent: nn.Module, name: str, channels: int) -> None:
    """Replace the first convolution, where images have not three channels."""
    old = getattr(parent, name)
    if channels != 3:
        setattr(parent, name, nn.Conv2d(channels, old.out_channels, old.kernel_size, old.stride, old.padding, bias=False))


def _box_head(config: MaskRCNNConfig) -> nn.Module:
    if not config.box_convolutions:
        return TwoMLPHead(config.width * 49, config.box_width)
    norm = nn.BatchNorm2d if config.head_norm else None
    return FastRCNNConvFCHead((config.width, 7, 7), [config.width] * config.box_convolutions, [config.box_width], norm)


def build(config: MaskRCNNConfig) -> MaskRCNN:
    """With fresh weights."""
    return MaskRCNN(config.checked())


__all__ = ["Detections", "MaskRCNN", "Rules", "build"]
