"""Whether three channels are a picture's red, green and blue, or three signals that have only their number in common with it."""

from __future__ import annotations

import re
from collections.abc import Sequence

_RGB = (("r", "g", "b"), ("red", "green", "blue"))
_SAYS_NOTHING = re.compile(r"(channel|ch|c)?[\s_:#.-]*\d+([\s_:#.-]+\d+)*")
"""Names that writers make up, such as ``Channel 0``, ``C1`` and ``Channel:0:2``."""


def is_rgb(channels: int, names: Sequence[str], stored_so: bool) -> bool | None:
    """Whether the channels are red, green and blue: what their ``names`` say, else what their place in the file says
    (``stored_so``). None where there are not three."""
    if channels != 3:
        return None
    told = tuple(name.strip().casefold() for name in names)
    if told in _RGB:
        return True
    return stored_so and says_nothing(names)


def says_nothing(names: Sequence[str]) -> bool:
    """Whether all the names are empty, or such as writers make up."""
    told = [name.strip().casefold() for name in names]
    return not any(told) or all(_SAYS_NOTHING.fullmatch(name) for name in told)
