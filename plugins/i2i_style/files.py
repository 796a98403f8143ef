"""The files that the options of ``i2i stylize`` name."""

from __future__ import annotations

from pathlib import Path

from i2i_style.options import StylizeOptions
from i2i_style.styles import parse_styles


def files(options: StylizeOptions) -> list[Path]:
    """Pictures of style, masks, the one to start from, the encoder where it is a file. They need not exist."""
    found = [style.path for style in parse_styles(options.style)] if options.style else []
    found += [Path(text.removeprefix("not:")) for text in options.mask]
    if options.init not in ("content", "noise"):
        found.append(Path(options.init))
    if Path(options.encoder).is_file():
        found.append(Path(options.encoder))
    return found
