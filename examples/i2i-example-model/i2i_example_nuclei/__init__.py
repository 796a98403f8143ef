"""A small model of nuclei for i2i segment."""

from __future__ import annotations

from pathlib import Path

import i2i
from i2i.contracts import ModelCard

I2I_API = 1


@i2i.hookimpl
def i2i_models() -> list[ModelCard]:
    """The models that this package holds: a card each, beside its weights."""
    return [ModelCard.from_toml(path) for path in sorted(Path(__file__).parent.glob("*.toml"))]
