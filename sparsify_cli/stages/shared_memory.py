"""Which of several weights that share numbers in their file is pruned: what is to stay dense loses none, and none is counted twice."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from sparsify_cli.maths.prunable import is_called_otherwise
from sparsify_cli.stages.rows import Row
from sparsify_cli.values.layout import Place
from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.overlaps import Overlap, meeting, overlaps, repeats_itself
from sparsify_cli.values.painted import bytes_of

SKIPPED = "skipped"
"""Why a tensor stays dense that somebody named."""


def without_shared(
    rows: Sequence[Row], places: Mapping[str, Place], *, asked: bool, skipped: Mapping[str, Place] | None = None
) -> list[Row]:
    """The plan in which no two matched tensors share a number.

    A tensor that shares numbers with one that somebody skipped, or that is an embedding, stays dense; so does one that holds
    those of a tensor that is no weight (a bias inside a fused matrix). Of the others the largest goes, and its parts with it.

    Args:
        rows: the plan so far.
        places: where each tensor lies.
        asked: somebody named what is to be pruned.
        skipped: where the tensors lie that somebody skipped, whatever they are, by name.
    """
    kept = {place: name for name, place in (skipped or {}).items()}
    rows = [replace(row, matched=False, why=SKIPPED) if row.matched and places.get(row.name) in kept else row for row in rows]
    matched = {row.name: places[row.name] for row in rows if row.matched and row.name in places}
    pairs, first = overlaps({**_distinct(rows, places), **(skipped or {})}), {place: name for name, place in reversed(matched.items())}
    why = {name: f"is {first[place]}" for name, place in matched.items() if first[place] != name}
    why |= {name: "repeats its own numbers" for name, place in matched.items() if repeats_itself(place)}
    why |= _blocked(pairs, {row.name: row for row in rows}, _embeddings(rows, places), asked)
    why |= _protected(pairs, {**places, **(skipped or {})}, kept)
    why |= _parts(pairs, [row for row in rows if row.matched and row.name not in why])
    return [replace(row, matched=False, why=why[row.name]) if row.matched and row.name in why else row for row in rows]


def sharing(rows: Sequence[Row], places: Mapping[str, Place]) -> list[Row]:
    """Tensors that are not pruned themselves and share numbers with one that is."""
    matched = {row.name for row in rows if row.matched}
    touched = set().union(*meeting(sorted(matched), places).values())
    return [row for row in rows if row.name in touched - matched]


def apart(names: Sequence[str], chosen: Collection[str], places: Mapping[str, Place]) -> list[str]:
    """Names of tensors that share no number with a chosen one, nor are it.

    Args:
        names: of some tensors, no two of which share a number.
        chosen: of others.
        places: of all, by name.
    """
    near = meeting([name for name in chosen if name in places], places)
    taken = set(chosen).union(*near.values())
    return [name for name in names if name not in taken]


def inherited(masks: MaskSet, chosen: Sequence[str], places: Mapping[str, Place], tensors: Mapping[str, Tensor]) -> MaskSet:
    """What was pruned before, said of the tensors that are pruned now: what a mask leaves out of memory that they share is zero.

    Args:
        masks: of the network as it is; those of tensors that share numbers with chosen ones go.
        chosen: names of what is pruned now.
        places: of all tensors, by name.
        tensors: all of them, by name.
    """
    near = {name: others for name, others in _masked_near(masks, chosen, places).items() if others}
    gone = set().union(*near.values()) - set(chosen)
    found = {name: mask for name, mask in masks.masks.items() if name not in gone}
    for name, others in near.items():
        same = next((other for other in others if places[other] == places[name]), None)
        if same is not None:
            found[name] = masks[same]
        elif any(not bool(masks[other].all()) for other in others):
            found[name] = tensors[name] != 0
    return MaskSet(found)


def seen_through(masks: MaskSet, chosen: Sequence[str], places: Mapping[str, Place]) -> MaskSet:
    """Masks in which a chosen tensor stands for all that share numbers with it.

    Args:
        masks: of any tensors.
        chosen: names of tensors of which no two share a number.
        places: of all tensors, by name.
    """
    near = {name: others - set(chosen) for name, others in _masked_near(masks, chosen, places).items()}
    gone = set().union(*near.values())
    told = {name: _through(masks, name, others, places) for name, others in near.items() if others}
    return MaskSet({**{name: mask for name, mask in masks.masks.items() if name not in gone}, **told})


def _masked_near(masks: MaskSet, chosen: Sequence[str], places: Mapping[str, Place]) -> dict[str, set[str]]:
    """Of each chosen tensor, the others with a mask that share numbers with it."""
    near = meeting([name for name in chosen if name in places], places)
    return {name: {other for other in others if other in masks.masks} for name, others in near.items()}


def _through(masks: MaskSet, name: str, others: Collection[str], places: Mapping[str, Place]) -> Tensor:
    """The mask of a tensor of which other masks say what is gone."""
    told = [*others, *([name] if name in masks.masks else [])]
    start = min(places[one].offset for one in (name, *told))
    gone = np.zeros(max(places[one].end for one in (name, *told)) - start, dtype=np.bool_)
    for one in told:
        bytes_of(gone[places[one].offset - start :], places[one])[~masks[one].numpy()] = True
    return torch.from_numpy(~bytes_of(gone[places[name].offset - start :], places[name]).all(axis=-1))


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
    known = ((one, other, inside) for one, other, inside in sides if one in rows and other in rows)
    return {
        one: f"shares numbers with {other}, {rows[other].why}"
        for one, other, inside in known
        if rows[one].matched and not rows[other].matched and _stays(rows[other], embeddings, asked, inside=inside)
    }


def _protected(pairs: Sequence[Overlap], places: Mapping[str, Place], kept: Mapping[Place, str]) -> dict[str, str]:
    """Tensors that share numbers with one that was skipped, and why."""
    sides = [(p.first, p.second) for p in pairs] + [(p.second, p.first) for p in pairs]
    return {one: f"shares numbers with {kept[places[other]]}, {SKIPPED}" for one, other in sides if places[other] in kept}


def _stays(other: Row, embeddings: frozenset[str], asked: bool, *, inside: bool) -> bool:
    """True when an unmatched tensor must not lose a number to one that may lie `inside` it, as a weight does in a flat buffer."""
    return other.why == SKIPPED or (not asked and (other.name in embeddings or not inside))


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
