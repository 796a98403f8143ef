"""The border weight map of the U-Net paper, computed once for each mask and kept on disk."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from i2i.contracts import Array
from i2i.files import replacing

Floats = npt.NDArray[np.float32]
_REACH = 4.5
"""In sigmas: where d1 + d2 is more, the weight is below 5e-5 of w0."""


def border_map(labels: Array, sigma: float) -> Floats:
    """exp(-(d1 + d2)^2 / (2 sigma^2)) of each pixel (H, W), 0 .. 1, for labels (H, W), 0 background (Ronneberger et al. 2015,
    equation 2, without w0 and w_c).

    d1 and d2: distances in pixels to the nearest and the second nearest object (to the centre of their nearest pixel); in an
    object d1 is 0. Each object is looked at in its own box and ``4.5 sigma`` around it: what is farther weighs nothing.
    """
    nearest = np.full((2, *labels.shape), np.inf, np.float32)
    reach = math.ceil(_REACH * sigma)
    for number, box in enumerate(ndimage.find_objects(labels), start=1):
        if box is not None:
            _add_distances(nearest, labels, number, _grown(box, reach, labels.shape))
    return np.exp(-((nearest[0] + nearest[1]) ** 2) / (2 * sigma**2)).astype(np.float32)


def _grown(box: tuple[slice, ...], reach: int, shape: tuple[int, ...]) -> tuple[slice, ...]:
    return tuple(slice(max(0, s.start - reach), min(n, s.stop + reach)) for s, n in zip(box, shape, strict=True))


def _add_distances(nearest: Floats, labels: Array, number: int, box: tuple[slice, ...]) -> None:
    """Among the two nearest distances of each pixel of ``box``, those to the object ``number``."""
    distances = ndimage.distance_transform_edt(labels[box] != number)
    first, second = nearest[0][box], nearest[1][box]
    second[...] = np.minimum(second, np.maximum(first, distances))
    first[...] = np.minimum(first, distances)


def kept_border_map(labels: Array, sigma: float, folder: Path) -> npt.NDArray[np.float16]:
    """:func:`border_map` in float16, computed once and kept in ``folder``."""
    digest = hashlib.sha256(repr((labels.shape, sigma)).encode() + np.ascontiguousarray(labels, np.int32).tobytes())
    path = folder / f"{digest.hexdigest()[:24]}.npy"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary, temporary.open("wb") as stream:
            np.save(stream, border_map(labels, sigma).astype(np.float16))
    kept: npt.NDArray[np.float16] = np.load(path, allow_pickle=False)
    return kept
