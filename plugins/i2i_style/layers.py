"""Which layers tell style and content, and how much each counts: ``--style-layers``, ``--content-layers``."""

from __future__ import annotations

from collections.abc import Sequence

from i2i.errors import UsageError

STYLE = ("conv1_1", "conv2_1", "conv3_1", "conv4_1", "conv5_1")
"""Those of the paper, section 3; each counts one over their number."""
STYLE_OF_THREE_BLOCKS = ("conv1_1", "conv1_2", "conv2_1", "conv2_2", "conv3_1", "conv3_2", "conv3_3", "conv3_4")
"""For an encoder that ends before the last of the paper's: all layers of its first three blocks, which tell style better than
one or two of each."""
CONTENT = ("conv4_2", "conv3_4", "conv3_1", "conv2_1", "conv1_1")
"""The paper's; where an encoder ends before it, the next that it has."""


def parse_layers(text: str, flag: str) -> dict[str, float]:
    """``conv3_2:1,conv4_1:0.5`` -> weights by layer, 1 where none is said. Raises ``UsageError``."""
    found: dict[str, float] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        name, _, weight = part.partition(":")
        try:
            value = float(weight) if weight else 1.0
        except ValueError:
            value = -1.0
        if not 0 < value < float("inf"):
            raise UsageError(f"{flag} {text}: the weight of {name} must be a number above 0")
        found[name] = value
    if not found:
        raise UsageError(f"{flag}: names no layer; give some such as conv3_1,conv4_1:0.5")
    return found


def style_layers(text: str, known: Sequence[str]) -> dict[str, float]:
    """Weights by layer, of an encoder that has the layers ``known``."""
    if text != "auto":
        return parse_layers(text, "--style-layers")
    names = [name for name in (STYLE if STYLE[-1] in known else STYLE_OF_THREE_BLOCKS) if name in known]
    return {name: 1 / len(names) for name in names}


def content_layers(text: str, known: Sequence[str]) -> dict[str, float]:
    """Weights by layer, of an encoder that has the layers ``known``."""
    if text != "auto":
        return parse_layers(text, "--content-layers")
    return {next(name for name in CONTENT if name in known): 1.0}
