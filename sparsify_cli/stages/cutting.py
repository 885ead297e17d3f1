"""Where each streamed tensor is cut: zeros and oddities are counted first, then keys are selected exactly, digit by digit.

The same counts, the same ties and the same refusals as when everything is held in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from sparsify_cli.contracts.listener import Listener
from sparsify_cli.errors import NonFinite
from sparsify_cli.maths.allocate import BY_SIZE, Counted
from sparsify_cli.maths.choose_masks import carrying, check_forced, check_room, units_to_keep
from sparsify_cli.maths.keep import zeros_count
from sparsify_cli.maths.magnitude_keys import BITS, INFINITE, common_type, magnitude_keys
from sparsify_cli.maths.radix_select import Cut, Race, Trimmed, counts_of_digit, digits
from sparsify_cli.recipes.allocation import parse_allocation
from sparsify_cli.recipes.pattern import Pattern
from sparsify_cli.recipes.shared import SparsityFields
from sparsify_cli.stages.slices import Meter, Target, over_slices, summed
from sparsify_cli.stages.sparsifier import below_pruned, no_target
from sparsify_cli.stages.support import SHARE

Array = npt.NDArray[Any]
JOINED = 4
"""Slices that are counted at once."""


@dataclass(frozen=True)
class Census:
    """What was counted in every tensor before anything is chosen.

    Args:
        zeros: name -> exact zeros.
        nonfinite: name -> NaN and infinite numbers.
        tops: name -> how often each value of the highest digit of its keys occurs, where that was counted on the way.
    """

    zeros: Mapping[str, int]
    nonfinite: Mapping[str, int]
    tops: Mapping[str, Trimmed] = field(default_factory=dict)

    def require_finite(self, path: Path) -> None:
        """Refuse NaN and infinite weights by name.

        Raises:
            NonFinite: with the first offending tensors and counts.
        """
        bad = {name: count for name, count in self.nonfinite.items() if count}
        if bad:
            first = ", ".join(f"{name} ({count})" for name, count in list(bad.items())[:3])
            raise NonFinite(
                f"{len(bad)} tensors of {path} hold NaN or infinite values: {first}.",
                "No score can rank them.",
                "Repair or retrain the checkpoint, or add --allow-nonfinite to rank them below all others.",
            )


def census(root: Path, targets: Sequence[Target], listener: Listener, *, ranked: frozenset[str] = frozenset()) -> Census:
    """Zeros and non-finite numbers of every tensor.

    Args:
        root: folder of the files.
        targets: the tensors.
        listener: hears progress.
        ranked: names of those whose highest digits are counted in the same pass (see `ranked_alone`).
    """
    meter = Meter(listener, "counting", sum(target.place.nbytes for target in targets))
    zeros = dict.fromkeys((target.name for target in targets), 0)
    nonfinite = dict(zeros)

    def job(target: Target, raw: Array) -> tuple[int, int, Array | None]:
        return _counted(target.place.dtype, raw, tops=target.name in ranked)

    def tops() -> Iterator[tuple[Target, Array]]:
        for target, (none, bad, counts) in over_slices(root, targets, job, meter, joined=JOINED):
            zeros[target.name] += none
            nonfinite[target.name] += bad
            if counts is not None:
                yield target, counts

    return Census(zeros, nonfinite, _no_tops(targets, ranked) | dict(_trimmed(tops())))


def _no_tops(targets: Sequence[Target], ranked: frozenset[str]) -> dict[str, Trimmed]:
    """Counts of ranked tensors without numbers, of which no slice comes."""
    empty = {target.name: digits(BITS[target.place.dtype])[0][1] for target in targets if target.name in ranked and not target.weights}
    return {name: Trimmed.of(np.zeros(1 << width, dtype=np.int64)) for name, width in empty.items()}


def _counted(word: str, raw: Array, *, tops: bool) -> tuple[int, int, Array | None]:
    """Zeros and non-finite numbers of a slice, and how often each value of the highest digit occurs; `raw` is overwritten."""
    keys = magnitude_keys(raw, word, word, out=raw)
    zeros = keys.size - int(np.count_nonzero(keys))
    if not tops:
        return zeros, int(np.count_nonzero(keys >= keys.dtype.type(INFINITE[word]))), None
    shift, width = digits(BITS[word])[0]
    counts = counts_of_digit(keys, shift, width)
    return zeros, int(counts[INFINITE[word] >> shift :].sum()), counts


def ranked_alone(targets: Sequence[Target], recipe: SparsityFields) -> frozenset[str]:
    """Names of the tensors whose weights compete one by one through the bits of their own type: the census can begin to rank them."""
    words = {target.place.dtype for target in targets}
    plain = recipe.pattern == Pattern() and recipe.sparsity is not None
    whole = all(INFINITE[word] < 1 << BITS[word] for word in words)  # the formats without a sign of zero need a bit more for NaN
    return frozenset(target.name for target in targets) if plain and whole and len(words) == 1 else frozenset()


@dataclass(frozen=True)
class Cuts:
    """What stays of every target.

    Args:
        cuts: name -> where it is cut; a name that is absent keeps all that may stay.
        common: the type through whose bits tensors are compared.
        zeros_go: names of tensors whose zeros were pruned before and do not come back.
        lenient: infinite and NaN numbers rank like zeros.
        target: the sparsity meant, over all targets.
        kept: name -> weights that stay.
        given: masks of tensors that are not pruned now and were before.
    """

    cuts: Mapping[str, Cut]
    common: str
    zeros_go: frozenset[str] = frozenset()
    lenient: bool = False
    target: Fraction = Fraction(0)
    kept: Mapping[str, int] = field(default_factory=dict)
    given: Mapping[str, Tensor] = field(default_factory=dict)

    def units(self, target: Target, raw: Array) -> tuple[Array, Array | None]:
        """Keys of a slice's units, and which of them may stay (None = all)."""
        units = target.view.units(raw, self.common, lenient=self.lenient)
        if target.name not in self.zeros_go:
            return units.keys, units.present
        there = target.view.all_nonzero(raw)
        return units.keys, there if units.present is None else units.present & there


def seen_as_pruned(targets: Sequence[Target], zeros: Mapping[str, int]) -> frozenset[str]:
    """Names of the tensors whose zeros were pruned before: of a sparse file, all but those that are zero everywhere.

    Args:
        targets: every prunable tensor, skipped ones too.
        zeros: exact zeros of each.
    """
    trained = [t for t in targets if zeros[t.name] < t.weights]
    share = sum(zeros[t.name] for t in trained) / max(1, sum(t.weights for t in trained))
    return frozenset(t.name for t in trained) if share >= SHARE else frozenset()


def cuts_of(
    root: Path, targets: Sequence[Target], recipe: SparsityFields, counted: Census, listener: Listener, *, zeros_go: frozenset[str]
) -> Cuts:
    """Where each target is cut.

    Args:
        root: folder of the files.
        targets: prunable tensors.
        recipe: sparsity, pattern and allocation; the criterion is magnitude.
        counted: their census.
        listener: hears progress.
        zeros_go: names of tensors whose zeros were pruned before.

    Raises:
        BadRequest, Infeasible: as for masks chosen in memory.
    """
    shapes = {target.name: target.view.oriented for target in targets}
    able = set(carrying(shapes, recipe.pattern))
    common = "float64" if recipe.pattern.block_size > 1 else common_type(t.place.dtype for t in targets)
    free = Cuts({}, common, zeros_go, lenient=bool(sum(counted.nonfinite.values())))
    caps = _caps(root, targets, free, counted, listener)
    layers = [
        Counted(t.name, shapes[t.name], t.weights // recipe.pattern.block_size, caps[t.name])
        for t in sorted(targets, key=_name)
        if t.name in able
    ]
    dense = {t.name: caps[t.name] for t in targets if t.name not in able}
    sparsity = _sparsity(recipe, targets, caps, able, was_pruned=any(t.name in zeros_go for t in targets))
    check_forced(shapes, recipe.pattern, sparsity)
    total = units_to_keep(shapes, recipe.pattern, sparsity, sum(dense.values()))
    check_room(layers, total)
    tops = {name: _tops_that_may_stay(name, counted, free) for name in counted.tops}
    cuts = _selected(root, [t for t in targets if t.name in able], layers, total, recipe, free, tops, listener)
    kept = {layer.name: cuts[layer.name].kept if layer.name in cuts else layer.cap for layer in layers}
    size = recipe.pattern.block_size
    return Cuts(cuts, common, free.zeros_go, free.lenient, sparsity, {**dense, **{name: count * size for name, count in kept.items()}})


def _name(target: Target) -> str:
    return target.name


def _sparsity(recipe: SparsityFields, targets: Sequence[Target], caps: Mapping[str, int], able: set[str], *, was_pruned: bool) -> Fraction:
    """The sparsity that is meant, once it is sure that it is not below what is pruned already."""
    total = sum(t.weights for t in targets)
    most = sum(caps[t.name] * (recipe.pattern.block_size if t.name in able else 1) for t in targets)
    least = 1 - Fraction(most, max(1, total))
    if recipe.sparsity is None:
        if recipe.pattern.implied_sparsity == 0:
            raise no_target(recipe.pattern)
        return least
    if was_pruned and zeros_count(total, recipe.sparsity) < zeros_count(total, least):
        raise below_pruned(recipe.sparsity, recipe.pattern, least)
    return recipe.sparsity


def _caps(root: Path, targets: Sequence[Target], free: Cuts, counted: Census, listener: Listener) -> dict[str, int]:
    """Units of each target that may stay; weights, for those that cannot carry the pattern."""
    caps = {t.name: _cap(t, counted.zeros[t.name] if t.name in free.zeros_go else 0) for t in targets}
    unsure = [t for t in targets if t.carries and t.name in free.zeros_go and (t.view.pattern.is_grouped or t.view.pattern.block_size > 1)]
    meter = Meter(listener, "counting groups", sum(t.place.nbytes for t in unsure))

    def job(target: Target, raw: Array) -> dict[str, int]:
        keys, present = free.units(target, raw)
        return {"cap": keys.size if present is None else int(np.count_nonzero(present))}

    return caps | {name: counts["cap"] for name, counts in summed(over_slices(root, unsure, job, meter)).items()}


def _cap(target: Target, zeros: int) -> int:
    pattern = target.view.pattern
    if not target.carries:
        return target.weights - zeros
    if pattern.is_grouped:
        return target.weights // pattern.group * pattern.keep
    return target.weights // pattern.block_size - zeros if pattern.block_size == 1 else target.weights // pattern.block_size


def _tops_that_may_stay(name: str, counted: Census, free: Cuts) -> Trimmed:
    """The census of highest digits without weights that were pruned before, and with those that rank like zeros among the zeros."""
    if not free.lenient and name not in free.zeros_go:
        return counted.tops[name]
    counts = counted.tops[name].whole()
    if free.lenient:
        least = INFINITE[free.common] >> digits(BITS[free.common])[0][0]
        counts[0] += counts[least:].sum()
        counts[least:] = 0
    counts[0] -= counted.zeros[name] if name in free.zeros_go else 0
    return Trimmed.of(counts)


def _selected(
    root: Path,
    targets: Sequence[Target],
    layers: Sequence[Counted],
    total: int,
    recipe: SparsityFields,
    free: Cuts,
    tops: Mapping[str, Trimmed],
    listener: Listener,
) -> dict[str, Cut]:
    """The cut of each target; nothing when all that may stay does."""
    if total == sum(layer.cap for layer in layers):
        return {}
    allocation = parse_allocation(recipe.allocation)
    if allocation in BY_SIZE:
        shares = BY_SIZE[allocation](layers, total)
        races = [Race.of((layer.name,), count) for layer, count in zip(layers, shares, strict=True)]
    else:
        races = [Race.of(tuple(layer.name for layer in layers), total)]
    return _run(root, targets, races, free, tops, listener)


def _run(
    root: Path, targets: Sequence[Target], races: list[Race], free: Cuts, tops: Mapping[str, Trimmed], listener: Listener
) -> dict[str, Cut]:
    """All races at once, digit by digit: each digit is one pass over the files, but the first, where the census counted it."""
    steps = digits(BITS[free.common])
    counts = tops
    for number, (shift, width) in enumerate(steps):
        if number or not tops:
            prefixes = {name: race.prefix for race in races for name in race.names} if number else {}
            label = "ranking" if len(steps) == 1 else f"ranking {number + 1}/{len(steps)}"
            meter = Meter(listener, label, sum(t.place.nbytes for t in targets))
            counts = _digit_counts(root, targets, (shift, width), prefixes, free, meter)
        races = [race.narrowed(counts, width) for race in races]
    return {name: cut for race in races for name, cut in race.cuts(counts, steps[-1][1]).items()}


def _digit_counts(
    root: Path, targets: Sequence[Target], digit: tuple[int, int], prefixes: Mapping[str, int], free: Cuts, meter: Meter
) -> dict[str, Trimmed]:
    """By name, how often each value of a digit occurs among the keys that may stay and agree with the prefix."""
    shift, width = digit

    def job(target: Target, raw: Array) -> Array:
        keys, present = free.units(target, raw)
        return counts_of_digit(keys if present is None else keys[present], shift, width, prefixes.get(target.name))

    nothing = Trimmed.of(np.zeros(1 << width, dtype=np.int64))
    return {t.name: nothing for t in targets} | dict(_trimmed(over_slices(root, targets, job, meter)))


def _trimmed(found: Iterable[tuple[Target, Array]]) -> Iterable[tuple[str, Trimmed]]:
    """Counts of slices added up, one target after the other, so that only one is held whole."""
    name, total = "", np.zeros(0, dtype=np.int64)
    for target, counts in found:
        if target.name != name and name:
            yield name, Trimmed.of(total)
        total = counts if target.name != name else np.add(total, counts, out=total)
        name = target.name
    if name:
        yield name, Trimmed.of(total)
