"""Training data: pairs of files, what is learnt from and what validates, and augmented crops."""

from i2i.data.crops import NO_AUGMENTATION, Augmentation, Example, batch, crop, generator
from i2i.data.described import described
from i2i.data.pairs import IGNORED, Pair, find_pairs, load_image, load_labels, load_pairs, masks_beside
from i2i.data.sets import Data, digest, hold_back, of_equal_channels

__all__ = [
    "IGNORED",
    "NO_AUGMENTATION",
    "Augmentation",
    "Data",
    "Example",
    "Pair",
    "batch",
    "crop",
    "described",
    "digest",
    "find_pairs",
    "generator",
    "hold_back",
    "load_image",
    "load_labels",
    "load_pairs",
    "masks_beside",
    "of_equal_channels",
]
