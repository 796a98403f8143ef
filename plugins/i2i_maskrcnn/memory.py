"""Memory that a network takes, for the planner: formulas that stay 1.3 to 1.9 times above what single windows of 512 to 2048
pixels took, empty and dense, in fp32 and bf16."""

from __future__ import annotations

import math

from i2i_maskrcnn.heads import BOXES_AT_A_TIME, MASKS_AT_A_TIME
from i2i_maskrcnn.network import MaskRCNN

_OBJECTS = 2 * 4 * 28**2 / 200
"""Masks of as many objects as a window may hold, as the network gives them, twice."""
_VIEWS = 250
"""Those of eight views, and what joins them."""
_PIECES = 1.15
"""The allocator's memory falls into pieces over many windows: a run took up to 0.15 GB more than its first window."""


def window_bytes(network: MaskRCNN, several_views: bool = False) -> int:
    """For each pixel that the network sees. The stem, the first stage and the pyramid are alive together; a resnet50's blocks
    hold more."""
    config = network.config
    finest = 1 / config.stem_stride**2  # pixels of the pyramid's finest level for one of the image
    stage = 3 * 256 if config.backbone == "resnet50" else 2 * 64
    proposals = 15 * len(config.aspect_ratios)
    values = 2 * 64 / 4 + stage * finest + (3 * config.width + proposals) * finest * 4 / 3
    return math.ceil(_PIECES * (values * network.dtype.itemsize + _OBJECTS + (_VIEWS if several_views else 0)))


def held_bytes(network: MaskRCNN) -> int:
    """Whatever the window: the weights, and the heads on as many regions as they take at a time."""
    config = network.config
    boxes = BOXES_AT_A_TIME * config.width * 7**2 * 4 * 6
    masks = MASKS_AT_A_TIME * 28**2 * (2 * network.dtype.itemsize * config.mask_width + 12 * (config.classes + 1))
    return boxes + masks + sum(weight.nbytes for weight in network.parameters())
