"""What all methods of the plugin take and give: RGB pictures, as deep as the input."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from i2i.contracts import Array, ImageSpec, Output
from i2i.errors import UsageError

_DEPTHS = {"image8": "uint8", "image16": "uint16", "float": "float32"}


def outputs(spec: ImageSpec) -> tuple[Output, ...]:
    """``image``, of 16 bits where the input has more than 8, and by name the three depths that ``--as`` chooses from."""
    own = "uint8" if spec.dtype in ("uint8", "bool") else "uint16"
    return (
        Output("image", 3, own, "image"),
        *(Output(name, 3, dtype, "image") for name, dtype in _DEPTHS.items()),
    )


def as_output(raw: npt.NDArray[np.float32], output: Output) -> Array:
    """RGB (H, W, 3) in 0 .. 1, cut off there, as ``output`` has it: integers up to the largest of their dtype."""
    inside = np.clip(raw, 0, 1)
    if np.dtype(output.dtype).kind == "f":
        return inside.astype(output.dtype)
    return np.rint(inside * np.float32(np.iinfo(output.dtype).max)).astype(output.dtype)


def working_size(text: str, spec: ImageSpec, largest: int = 0) -> tuple[int, int]:
    """Height and width of the result for an image of ``spec``, as ``--size`` says. ``largest``: the longer side at most where
    that is auto; 0: its own. Raises ``UsageError``."""
    longest = max(spec.height, spec.width)
    if text not in {"auto", "full"} and not (text.isdecimal() and int(text) > 0):
        raise UsageError(f"--size {text}: expected auto, full, or a number of pixels")
    wanted = int(text) if text.isdecimal() else min(longest, largest or longest) if text == "auto" else longest
    return max(1, round(spec.height * wanted / longest)), max(1, round(spec.width * wanted / longest))
