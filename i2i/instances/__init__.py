"""Objects over tiles: found in windows, counted once, drawn as labels, in bounded memory.

1. ``candidates``: what one window gives. An object that stays clear of its window's edges inside the image is complete. One
   that does not is a part, and is kept where it has a pixel in the tile's core.
2. ``overlap``: which candidates of two tiles are one object, by their masks.
3. ``sweep``: block by block in raster order. Only candidates that a later block may still meet are held; the others are
   finished. ``joining`` makes one object of the parts of an object that is larger than a window.
4. ``catalogue``: the finished objects get their numbers, and are drawn from the parts that touch a block.

Masks are bits all the way (``packed``).
"""

from __future__ import annotations

from i2i.instances.candidates import Candidates, Detected, select_candidates
from i2i.instances.catalogue import Catalogue, draw, make_catalogue
from i2i.instances.packed import Finished, Packed
from i2i.instances.sweep import Held, sweep

__all__ = [
    "Candidates", "Catalogue", "Detected", "Finished", "Held", "Packed", "draw", "make_catalogue", "select_candidates", "sweep",
]  # fmt: skip
