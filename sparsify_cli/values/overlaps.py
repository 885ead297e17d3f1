"""Tensors that share numbers in a file without being one: a matrix and its transpose, a part of a fused one, a flat buffer and its views.

Whoever changes one of them changes the others. What is shared is found exactly: spans of bytes first, then, where a
tensor's numbers lie apart, byte for byte.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sparsify_cli.values.layout import Place, row_major

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Overlap:
    """Two tensors that share numbers.

    Args:
        first, second: their names.
        holds_second: every byte of the second one is one of the first.
        holds_first: every byte of the first one is one of the second.
    """

    first: str
    second: str
    holds_second: bool
    holds_first: bool


def overlaps(places: Mapping[str, Place]) -> list[Overlap]:
    """Pairs of tensors that share a byte; those at one and the same place are one tensor, and only its first name is looked at."""
    first: dict[Place, str] = {}
    for name, place in places.items():
        if place.size:
            first.setdefault(place, name)
    ordered = sorted(first.items(), key=lambda item: (item[0].file, item[0].offset, -item[0].end))
    return [found for pair in _near(ordered) if (found := _overlap(*pair)) is not None]


def _near(ordered: list[tuple[Place, str]]) -> Iterator[tuple[tuple[Place, str], tuple[Place, str]]]:
    """Pairs whose spans of bytes meet."""
    open_: list[tuple[Place, str]] = []
    for item in ordered:
        open_ = [other for other in open_ if other[0].file == item[0].file and other[0].end > item[0].offset]
        yield from ((other, item) for other in open_)
        open_.append(item)


def _overlap(one: tuple[Place, str], two: tuple[Place, str]) -> Overlap | None:
    (a, first), (b, second) = one, two
    if a.is_contiguous and b.is_contiguous:
        return Overlap(first, second, b.end <= a.end, a.offset >= b.offset and a.end <= b.end)
    start, end = min(a.offset, b.offset), max(a.end, b.end)
    touched = np.zeros((2, end - start), dtype=np.bool_)
    for row, place in zip(touched, (a, b), strict=True):
        bytes_of(row[place.offset - start :], place)[...] = True
    both = int(np.count_nonzero(touched[0] & touched[1]))
    of_first, of_second = (int(np.count_nonzero(row)) for row in touched)
    return Overlap(first, second, both == of_second, both == of_first) if both else None


def bytes_of(memory: Array, place: Place) -> Array:
    """The bytes of a tensor, [*shape, width], in memory that begins where it begins; a view.

    Args:
        memory: one byte (or flag) for each byte of the file.
        place: of the tensor.
    """
    strides = place.strides or row_major(place.shape)
    return np.lib.stride_tricks.as_strided(memory, (*place.shape, place.width), (*(step * place.width for step in strides), 1))


def repeats_itself(place: Place) -> bool:
    """True when a number of the tensor stands for several of its elements, as after `expand`."""
    if place.is_contiguous:
        return False
    span = place.end - place.offset
    if span < place.nbytes:
        return True
    touched = np.zeros(span, dtype=np.bool_)
    bytes_of(touched, place)[...] = True
    return int(np.count_nonzero(touched)) < place.nbytes
