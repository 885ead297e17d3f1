"""Which of several weights that share numbers in their file is pruned: what is to stay dense loses none, and none is counted twice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from sparsify_cli.maths.prunable import is_called_otherwise
from sparsify_cli.stages.rows import Row
from sparsify_cli.values.layout import Place
from sparsify_cli.values.overlaps import Overlap, overlaps, repeats_itself


def without_shared(rows: Sequence[Row], places: Mapping[str, Place], *, asked: bool) -> list[Row]:
    """The plan in which no two matched tensors share a number.

    A tensor that shares numbers with one that somebody skipped, or that is an embedding, stays dense; so does one that holds
    those of a tensor that is no weight (a bias inside a fused matrix). Of the others the largest goes, and its parts with it.

    Args:
        rows: the plan so far.
        places: where each tensor lies.
        asked: somebody named what is to be pruned.
    """
    matched = {row.name: places[row.name] for row in rows if row.matched and row.name in places}
    pairs, first = overlaps(_distinct(rows, places)), {place: name for name, place in reversed(matched.items())}
    why = {name: f"is {first[place]}" for name, place in matched.items() if first[place] != name}
    why |= {name: "repeats its own numbers" for name, place in matched.items() if repeats_itself(place)}
    why |= _blocked(pairs, {row.name: row for row in rows}, _embeddings(rows, places), asked)
    why |= _parts(pairs, [row for row in rows if row.matched and row.name not in why])
    return [replace(row, matched=False, why=why[row.name]) if row.name in why else row for row in rows]


def sharing(rows: Sequence[Row], places: Mapping[str, Place]) -> list[Row]:
    """Tensors that are not pruned themselves and share numbers with one that is."""
    matched = {row.name for row in rows if row.matched}
    pairs = [(pair.first, pair.second) for pair in overlaps(_distinct(rows, places))]
    touched = {one for pair in pairs for one, other in (pair, pair[::-1]) if other in matched}
    return [row for row in rows if row.name in touched - matched]


def _distinct(rows: Sequence[Row], places: Mapping[str, Place]) -> dict[str, Place]:
    """Places by name; of names of one place a matched one comes first, and stands for them."""
    ordered = sorted((row for row in rows if row.name in places), key=lambda row: not row.matched)
    return {row.name: places[row.name] for row in ordered}


def _embeddings(rows: Sequence[Row], places: Mapping[str, Place]) -> frozenset[str]:
    """Tensors that are an embedding, a norm or the like under one of their names."""
    called = {places[row.name] for row in rows if row.name in places and is_called_otherwise(row.name)}
    return frozenset(name for name, place in places.items() if place in called)


def _blocked(pairs: Sequence[Overlap], rows: Mapping[str, Row], embeddings: frozenset[str], asked: bool) -> dict[str, str]:
    """Matched tensors that have to stay dense because of what they share numbers with, and why."""
    sides = [(p.first, p.second, p.holds_first) for p in pairs] + [(p.second, p.first, p.holds_second) for p in pairs]
    return {
        one: f"shares numbers with {other}, {rows[other].why}"
        for one, other, inside in sides
        if rows[one].matched and not rows[other].matched and _stays(rows[other], embeddings, asked, inside=inside)
    }


def _stays(other: Row, embeddings: frozenset[str], asked: bool, *, inside: bool) -> bool:
    """True when an unmatched tensor must not lose a number to one that may lie `inside` it, as a weight does in a flat buffer."""
    return other.why == "skipped" or (not asked and (other.name in embeddings or not inside))


def _parts(pairs: Sequence[Overlap], free: Sequence[Row]) -> dict[str, str]:
    """Tensors that go with a larger one that they share numbers with."""
    neighbours: dict[str, list[str]] = {row.name: [] for row in free}
    for pair in pairs:
        if pair.first in neighbours and pair.second in neighbours:
            neighbours[pair.first].append(pair.second)
            neighbours[pair.second].append(pair.first)
    taken: dict[str, str] = {}
    for row in sorted(free, key=lambda row: -row.weights):
        if row.name not in taken:
            taken |= {name: f"shares numbers with {row.name}" for name in neighbours[row.name] if name not in taken}
    return taken
