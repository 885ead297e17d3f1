"""Tensors that share numbers in a file without being one: a matrix and its transpose, a part of a fused one, a flat buffer and its views.

Whoever changes one of them changes the others. What is shared is found exactly: by arithmetic where tensors fill their
spans of bytes or are windows of columns of one matrix, else byte for byte, in one pass over the memory that they meet in.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from sparsify_cli.values.layout import Place, row_major
from sparsify_cli.values.painted import Shared, bytes_of, painted

Window = tuple[int, int, int]
"""Rows of bytes that lie apart equally: bytes of a row, number of rows, bytes from one row to the next."""

NOTHING = Shared(False, False, False)
"""What tensors share that share nothing."""


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
    return [Overlap(first[a], first[b], *held) for a, b, held in _found(tuple(sorted(first, key=_order)))]


def meeting(names: Sequence[str], places: Mapping[str, Place]) -> dict[str, set[str]]:
    """Of each of some tensors, the others that share a byte with it; those at the same place too.

    Args:
        names: of some tensors.
        places: of all of them, by name.
    """
    at: dict[Place, set[str]] = {}
    for name, place in places.items():
        if place.size:
            at.setdefault(place, set()).add(name)
    found = {name: at.get(places[name], set()) - {name} for name in names}
    wanted = {places[name] for name in names}
    near: dict[Place, set[str]] = {place: set() for place in wanted}
    for a, b, _ in _found(tuple(sorted(at, key=_order))):
        for one, other in ((a, b), (b, a)):
            if one in wanted:
                near[one] |= at[other]
    return {name: others | near[places[name]] for name, others in found.items()}


def _order(place: Place) -> tuple[object, ...]:
    return place.file, place.offset, -place.end, place.dtype, place.shape, place.strides


@lru_cache(maxsize=4)
def _found(ordered: tuple[Place, ...]) -> list[tuple[Place, Place, tuple[bool, bool]]]:
    """Pairs of places that share a byte, and whether the first holds the second, and the second the first."""
    sure: list[tuple[Place, Place, tuple[bool, bool]]] = []
    unsure: list[tuple[Place, Place]] = []
    for a, b in _near([_span(place) for place in ordered]):
        shared = _by_spans(a, b) if a.solid or b.solid else _by_windows(a, b)
        if shared is None:
            unsure.append((a.place, b.place))
        elif shared.some:
            sure.append((a.place, b.place, (shared.holds_second, shared.holds_first)))
    looked = painted(unsure)
    return sure + [(a, b, (found.holds_second, found.holds_first)) for (a, b), found in looked.items()]


@dataclass(frozen=True, slots=True)
class _Span:
    """A place: its first byte, the one behind its last, its rows, if there are; whether it fills what lies between, or has gaps."""

    place: Place
    start: int
    end: int
    window: Window | None
    solid: bool
    gaps: bool


def _span(place: Place) -> _Span:
    solid = _is_solid(place)
    return _Span(place, place.offset, place.end, _window(place), solid, not solid and not _may_repeat(place))


def _near(ordered: Sequence[_Span]) -> Iterator[tuple[_Span, _Span]]:
    """Pairs whose spans of bytes meet."""
    open_: list[_Span] = []
    for span in ordered:
        open_ = [other for other in open_ if other.end > span.start and other.place.file == span.place.file]
        yield from ((other, span) for other in open_)
        open_.append(span)


def _by_spans(a: _Span, b: _Span) -> Shared | None:
    """What is shared, where the spans alone say it; they meet."""
    a_holds, b_holds = a.start <= b.start and b.end <= a.end, b.start <= a.start and a.end <= b.end
    if a.solid and b.solid:
        return Shared(True, a_holds, b_holds)
    if a.solid and a_holds and b.gaps:
        return Shared(True, True, False)
    return Shared(True, False, True) if b.solid and b_holds and a.gaps else None


def _by_windows(a: _Span, b: _Span) -> Shared | None:
    """What is shared by windows of columns of matrices with rows of the same length; `a` begins first."""
    if a.window is None or b.window is None or a.window[2] != b.window[2]:
        return None
    (run, rows, step), (other, count, _) = a.window, b.window
    down, right = divmod(b.start - a.start, step)
    wraps = right + other > step  # the end of a row of `b` lies in what is the next row of `a`
    if not ((right < run and down < rows) or (wraps and down + 1 < rows)):
        return NOTHING
    holds = not wraps and right + other <= run and down + count <= rows
    held = not wraps and right == 0 and run <= other and down == 0 and rows <= count
    return Shared(True, holds, held)


def _steps(place: Place) -> list[tuple[int, int]]:
    """Stride in bytes and size of every axis that is longer than one, the smallest stride first."""
    strides = place.strides or row_major(place.shape)
    return sorted((stride * place.width, size) for stride, size in zip(strides, place.shape, strict=True) if size > 1)


def _is_solid(place: Place) -> bool:
    """True when its numbers fill its span, in whatever order."""
    return place.is_contiguous or _rows(place)[1] == []


def _window(place: Place) -> Window | None:
    """The tensor as rows that lie apart equally; None for others."""
    run, rest = _rows(place)
    if len(rest) == 1:
        (step, rows) = rest[0]
        return (run, rows, step) if step > run else None
    return None


def _rows(place: Place) -> tuple[int, list[tuple[int, int]]]:
    """Bytes that lie one after the other, and the axes along which they repeat, merged where two are one."""
    run, rest = place.width, list[tuple[int, int]]()
    for step, size in _steps(place):
        if not rest and step == run:
            run *= size
        elif rest and step == rest[-1][0] * rest[-1][1]:
            rest[-1] = (rest[-1][0], rest[-1][1] * size)
        else:
            rest.append((step, size))
    return run, rest


def repeats_itself(place: Place) -> bool:
    """True when a number of the tensor stands for several of its elements, as after `expand`."""
    if not place.size or not _may_repeat(place):
        return False
    if place.end - place.offset < place.nbytes:
        return True
    touched = np.zeros(place.end - place.offset, dtype=np.bool_)
    bytes_of(touched, place)[...] = True
    return int(np.count_nonzero(touched)) < place.nbytes


def _may_repeat(place: Place) -> bool:
    """False when every step is longer than all that lies below it: then no number stands for two elements."""
    reach = 0
    for step, size in _steps(place):
        if step < reach + place.width:
            return True
        reach += step * (size - 1)
    return False
