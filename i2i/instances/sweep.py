"""Objects are finished block by block; what a later block may still meet is held."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from i2i.contracts import Array
from i2i.geometry import Block, Grid, Tile
from i2i.instances.candidates import Candidates
from i2i.instances.joining import join_parts
from i2i.instances.overlap import Pairs, TileOf, related
from i2i.instances.packed import Finished

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Held:
    """Candidates near seams that are still open, and the pairs (K, 2) of them that show one object."""

    candidates: Candidates
    pairs: Pairs

    @staticmethod
    def nothing() -> Held:
        return Held(Candidates.empty(), np.zeros((0, 2), np.int64))

    def arrays(self) -> dict[str, Array]:
        """As plain arrays: what is kept on disk."""
        return self.candidates.columns() | {"bits": self.candidates.bits(), "pairs": self.pairs}

    @staticmethod
    def of_arrays(arrays: Mapping[str, Array]) -> Held:
        """The inverse of :meth:`arrays`."""
        return Held(Candidates.of_arrays(arrays, arrays["bits"]), arrays["pairs"])


def sweep(held: Held, found: Candidates, grid: Grid, block: Block, overlap: float) -> tuple[Finished, Held]:
    """Go on by one block, in raster order: what is finished, and what is held now.

    ``held``: by the block before; ``found``: the candidates of this one. Candidates that show one object are finished
    together, when no later block can meet any of them: what becomes of them does not depend on the order of the blocks.
    """

    def tile_of(number: int) -> Tile:
        return grid.tile(*divmod(number, grid.columns.count))

    table = Candidates.join([held.candidates, found])
    pairs = np.concatenate([held.pairs, related(table, len(held.candidates), overlap, tile_of)])
    waits = _with_all_related(_meets_later(table, grid, block), pairs)
    places = np.cumsum(waits) - 1
    kept = waits[pairs[:, 0]]
    done = np.cumsum(~waits) - 1
    finished = _finish(table.take(~waits), done[pairs[~kept]], tile_of)
    return finished, Held(table.take(waits), places[pairs[kept]])


def _meets_later(table: Candidates, grid: Grid, block: Block) -> Flags:
    """Whether candidates reach into the windows of blocks to come."""
    bottom, right = table.boxes[:, 2:].T
    row, column = block.row * grid.cores, block.column * grid.cores
    later = np.zeros(len(table), bool)
    if block.row + 1 < grid.shape[0]:
        later |= bottom > grid.rows.window_start(row + grid.cores)
    if block.column + 1 < grid.shape[1]:
        later |= (right > grid.columns.window_start(column + grid.cores)) & (bottom > grid.rows.window_start(row))
    return later


def _sets(count: int, pairs: Pairs) -> npt.NDArray[np.int64]:
    """The number of the set of each of ``count`` members, when those of each pair are in one set."""
    links = coo_array((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    return connected_components(links, directed=False)[1].astype(np.int64)


def _with_all_related(flags: Flags, pairs: Pairs) -> Flags:
    """``flags``, true for all of a set when it is for one."""
    if not len(pairs):
        return flags
    sets = _sets(len(flags), pairs)
    return np.bincount(sets, flags)[sets] > 0


def _finish(table: Candidates, pairs: Pairs, tile_of: TileOf) -> Finished:
    """The objects that candidates show, in no order that matters."""
    complete = table.cuts == 0
    kept = _first(table, pairs[complete[pairs].all(axis=1)]) & complete
    covered = np.zeros(len(table), bool)
    covered[pairs[kept[pairs].any(axis=1)]] = True
    whole = table.take(kept)
    objects = Finished(whole.boxes, whole.scores, whole.classes, whole.masks, np.zeros(len(whole), bool))
    parts = ~complete & ~covered
    return Finished.join([objects, *_joined(table, parts, pairs, tile_of)])


def _first(table: Candidates, pairs: Pairs) -> Flags:
    """Those that stay when in the order (score, y, x), the highest score first, each stays that is paired with none that does."""
    boxes = table.boxes
    order = np.lexsort((table.tiles, boxes[:, 3], boxes[:, 2], boxes[:, 1], boxes[:, 0], -table.scores))
    ranks = np.empty(len(table), np.int64)
    ranks[order] = np.arange(len(table))
    swapped = ranks[pairs[:, 0]] > ranks[pairs[:, 1]]
    pairs = np.where(swapped[:, None], pairs[:, ::-1], pairs)
    stays, open_ = np.ones(len(table), bool), pairs
    while len(open_):
        leads = np.ones(len(table), bool)
        leads[open_[:, 1]] = False
        beaten = open_[leads[open_[:, 0]], 1]
        stays[beaten] = False
        open_ = open_[stays[open_[:, 1]] & stays[open_[:, 0]]]
    return stays


def _joined(table: Candidates, parts: Flags, pairs: Pairs, tile_of: TileOf) -> list[Finished]:
    """The objects that parts show."""
    places = np.flatnonzero(parts)
    numbers = np.cumsum(parts) - 1
    sets = _sets(len(places), numbers[pairs[parts[pairs].all(axis=1)]])
    order = np.argsort(sets, kind="stable")
    groups = np.split(places[order], np.flatnonzero(np.diff(sets[order])) + 1) if len(places) else []
    return [join_parts(table.take(group), tile_of) for group in groups]
