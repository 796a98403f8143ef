"""The warping error: what is wrong about a segmentation's topology, not about where exactly its borders run.

Jain et al., CVPR 2010 ("Boundary learning by optimization with topological constraints"): the truth is warped towards the
prediction by flipping pixels one by one, each only where the two disagree, and only if it is a *simple point*: flipping it
neither joins, cuts, makes nor removes a cell, nor a hole in one. What still differs in the end is the error.

Cells have 4 neighbours, their background 8, as in the ISBI 2012 challenge and in i2i's labels: a membrane one pixel wide parts
two cells where it runs diagonally too. A point is simple for these if, of its 8 neighbours, the cell pixels make one
4-connected component that it shares a side with, and the background pixels one 8-connected component (Bertrand and
Malandain, Pattern Recognition Letters 15, 1994). Beyond the image lies background.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from i2i.contracts import Array
from i2i.metrics.sets import check_shapes

Mask = npt.NDArray[np.bool_]
_Places = npt.NDArray[np.int64]

_AROUND = ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1))
"""The 8 neighbours; the one of number n is the bit n in the code of a neighbourhood."""
_EIGHT = np.ones((3, 3), bool)
_SIGHT = 20
"""How far around a pixel is looked at to tell whether it splits a cell: the radius of the challenge's own script."""


def warp(truth: Array, prediction: Array) -> Mask:
    """The truth, warped towards the prediction as far as its topology allows: masks (H, W) of cells, bool in and out.

    There may be several such ends; this one is found by going over the pixels that differ again and again until none can be
    flipped, each time in four passes over pixels that are not neighbours. The challenge's program begins with the pixels whose
    probability is farthest from the threshold: on noisy maps of EM sections it ended with 1 % fewer pixels, and with 5 to 10 %
    fewer splits and mergers. Raises ``InputError`` for differing shapes.
    """
    check_shapes(prediction, truth)
    warped = np.pad(truth.astype(bool), 1)
    wanted = np.pad(prediction.astype(bool), 1).ravel()
    flat, width = warped.reshape(-1), warped.shape[1]
    passes = _passes(flat != wanted, width)
    flipped = True
    while flipped:
        flipped = False
        for number, places in enumerate(passes):
            simple = _simple()[_codes(flat, places, width)]
            flat[places[simple]] ^= True
            passes[number] = places[~simple]
            flipped = flipped or bool(simple.any())
    return warped[1:-1, 1:-1]


def warping_error(prediction: Array, truth: Array) -> float:
    """The share of pixels that still differ when the truth has been warped to the prediction (see :func:`warp`), 0 .. 1.

    Jain et al. 2010. A border that is shifted or thicker costs nothing, as long as it touches the true one; a gap in a membrane
    costs the pixels of a thin line that would close it, a membrane through a cell those of a thin bridge across it, an
    invented cell or hole all its pixels, a missed one a single pixel. Raises ``InputError`` for differing shapes.
    """
    return int(np.count_nonzero(warp(truth, prediction) != prediction)) / max(1, truth.size)


def splits_and_mergers(warped: Array, prediction: Array) -> int:
    """How many of the pixels that still differ after :func:`warp` would join or cut cells: masks (H, W), bool.

    Divided by the number of pixels this is what the ISBI 2012 challenge reported as warping error ("minimum splits and
    mergers", Arganda-Carreras et al. 2015): invented, missed and filled holes and cells are left out. A background pixel
    merges if its 8 neighbours belong to two cells or more; a cell's pixel splits if the neighbours that it shares a side
    with are no longer connected once it is taken out, as far as 20 pixels around show.
    """
    warped, room = warped.astype(bool), np.pad(warped.astype(bool), 1)
    cells = np.pad(ndimage.label(warped)[0], 1)
    flat, width = room.reshape(-1), room.shape[1]
    differ = np.flatnonzero(room != np.pad(prediction.astype(bool), 1))
    added, taken = differ[~flat[differ]], differ[flat[differ]]
    around = np.sort(cells.reshape(-1)[added[:, None] + _steps(width)], axis=1)
    kinds = np.count_nonzero(np.diff(around, axis=1), axis=1) + (around[:, 0] > 0)
    cuts = taken[_pieces()[_codes(flat, taken, width)] > 1]  # those that could, as far as their neighbours show
    return int(np.count_nonzero(kinds > 1)) + sum(_splits(room, *divmod(int(place), width)) for place in cuts)


def _splits(room: Mask, y: int, x: int) -> bool:
    """Whether the cell around a pixel is in pieces, as far as can be seen from it, once that pixel is taken out."""
    top, left = max(0, y - _SIGHT), max(0, x - _SIGHT)
    window = room[top : y + _SIGHT + 1, left : x + _SIGHT + 1].copy()
    window[y - top, x - left] = False
    near = ndimage.label(window)[0][y - top - 1 : y - top + 2, x - left - 1 : x - left + 2]
    return _touching(near) > 1


def _passes(differ: Mask, width: int) -> list[_Places]:
    """The places of what differs, in four lots of which none holds two neighbours."""
    places = np.flatnonzero(differ)
    lot = 2 * (places // width % 2) + places % width % 2
    return [places[lot == number] for number in range(4)]


def _steps(width: int) -> _Places:
    return np.array([y * width + x for y, x in _AROUND])


def _codes(flat: Mask, places: _Places, width: int) -> npt.NDArray[np.uint8]:
    """The neighbourhoods of flat places in an image of that width."""
    codes = np.zeros(len(places), np.uint8)
    for bit, step in enumerate(_steps(width)):
        codes |= flat[places + step].astype(np.uint8) << bit
    return codes


def _neighbourhood(code: int) -> Mask:
    window = np.zeros((3, 3), bool)
    for bit, (y, x) in enumerate(_AROUND):
        window[1 + y, 1 + x] = code >> bit & 1
    return window


@cache
def _pieces() -> npt.NDArray[np.int64]:
    """(256,) by code: how many 4-connected components of the neighbouring cell pixels share a side with the point."""
    return np.array([_touching(ndimage.label(_neighbourhood(code))[0]) for code in range(256)])


def _touching(labels: Array) -> int:
    beside = labels[[0, 1, 1, 2], [1, 0, 2, 1]]
    return len(np.unique(beside[beside > 0]))


@cache
def _simple() -> Mask:
    """(256,) by code: whether the point may be flipped."""
    ring = np.array([[True, True, True], [True, False, True], [True, True, True]])
    grounds = [ndimage.label(~_neighbourhood(code) & ring, _EIGHT)[1] for code in range(256)]
    return (_pieces() == 1) & (np.array(grounds) == 1)
