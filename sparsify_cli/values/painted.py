"""Memory painted with the tensors that lie in it: which bytes belong to which of them, exactly, in one pass.

Every unit of memory holds the number of a set of tensors, and painting one more tensor replaces each set that it meets by
one with itself added. In the end the sets that are left, and how many units each has, say what every two tensors share.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from sparsify_cli.values.layout import Place, row_major

Array = npt.NDArray[Any]
PIECE = 1 << 22
"""Units that are looked at at a time."""


@dataclass(frozen=True)
class Shared:
    """What two tensors share: some bytes; all of the second; all of the first."""

    some: bool
    holds_second: bool
    holds_first: bool


def painted(pairs: Sequence[tuple[Place, Place]]) -> dict[tuple[Place, Place], Shared]:
    """What each of some pairs shares; pairs that share nothing are left out."""
    found: dict[tuple[Place, Place], Shared] = {}
    wanted = set(pairs)
    for cluster in _clusters(sorted({place for pair in pairs for place in pair}, key=lambda place: (place.file, place.offset))):
        units, both = _counted(cluster)
        for (i, j), count in both.items():
            for one, other in ((i, j), (j, i)):
                if (pair := (cluster[one], cluster[other])) in wanted:
                    found[pair] = Shared(True, count == units[other], count == units[one])
    return {pair: found[pair] for pair in pairs if pair in found}


def bytes_of(memory: Array, place: Place, unit: int = 1) -> Array:
    """The bytes of a tensor, [*shape, width / unit], in memory that begins where it begins; a view.

    Args:
        memory: one item for each `unit` bytes of the file.
        place: of the tensor.
        unit: bytes an item stands for; the width is a multiple of it.
    """
    steps = (step * place.width // unit * memory.itemsize for step in place.strides or row_major(place.shape))
    return np.lib.stride_tricks.as_strided(memory, (*place.shape, place.width // unit), (*steps, memory.itemsize))


def _clusters(ordered: Sequence[Place]) -> Iterator[list[Place]]:
    """Places whose spans hang together."""
    cluster: list[Place] = []
    end = 0
    for place in ordered:
        if cluster and (place.file != cluster[0].file or place.offset >= end):
            yield cluster
            cluster, end = [], 0
        cluster.append(place)
        end = max(end, place.end)
    if cluster:
        yield cluster


def _counted(places: Sequence[Place]) -> tuple[Counter[int], Counter[tuple[int, int]]]:
    """Units of each place, and of each two that share some, by their position in the list."""
    sets, amounts = _sets(places)
    alone: Counter[int] = Counter()
    both: Counter[tuple[int, int]] = Counter()
    for members, amount in zip(sets, amounts, strict=True):
        if amount:
            alone.update(dict.fromkeys(members, int(amount)))
            both.update(dict.fromkeys(combinations(members, 2), int(amount)))
    return alone, both


def _sets(places: Sequence[Place]) -> tuple[list[tuple[int, ...]], Array]:
    """The sets of places (by position) that some unit belongs to, and how many units each has."""
    start, end = min(place.offset for place in places), max(place.end for place in places)
    unit = math.gcd(*(place.offset - start for place in places), *(place.width for place in places))
    cells = np.zeros((end - start) // unit, dtype=np.uint8)
    sets: list[tuple[int, ...]] = [()]
    for number, place in enumerate(places):
        if 2 * len(sets) > np.iinfo(cells.dtype).max:
            cells = cells.astype(np.min_scalar_type(2 * len(sets)))
        view = bytes_of(cells[(place.offset - start) // unit :], place, unit)
        met = np.flatnonzero(_amounts(view, len(sets)))
        _replace(view, met, sets)
        sets += [(*sets[old], number) for old in met]
    return sets, _amounts(cells, len(sets))


def _replace(view: Array, met: Array, sets: Sequence[tuple[int, ...]]) -> None:
    """Give what is seen new numbers, those behind the ones in use; a unit that is seen twice keeps its new one."""
    table = np.arange(len(sets) + len(met), dtype=view.dtype)
    table[met] = np.arange(len(sets), len(sets) + len(met))
    for piece in _pieces(view):
        piece[...] = table[piece]


def _amounts(view: Array, most: int) -> Array:
    """How often each number below `most` occurs."""
    total = np.zeros(most, dtype=np.int64)
    for piece in _pieces(view):
        total += np.bincount(piece.reshape(-1), minlength=most)
    return total


def _pieces(view: Array) -> Iterator[Array]:
    """Parts of an array, each small enough to be copied."""
    axis = int(np.argmax(view.shape))
    rows = max(1, PIECE * view.shape[axis] // view.size)
    for first in range(0, view.shape[axis], rows):
        yield view[(*(slice(None),) * axis, slice(first, first + rows))]
