"""Which order of the input channels lets N:M keep most: exhaustive search over pairs of stripes, taken greedily.

A stripe is M neighbouring columns. N:M keeps the N largest of each row in each stripe; what is retained is their sum of |w|.
Only which columns share a stripe matters, so 2M columns have C(2M, M)/2 different orders: 3 for M = 2, 10 for 3, 35 for 4.

    map       for every pair of stripes, the gain of the best of these orders
    round     apply pairs by falling gain, each stripe at most once; search again only the pairs with a changed stripe
              (pairs that gain less than `SHARE` of the best wait for the next round, when something better may have come up)
    escape    swap two columns of different stripes at random, converge again, keep it if more is retained

    efficacy = 100 (retained - as it was) / (retained by the best N/M of each whole row - as it was), in %

Above M = 4 a pair has too many orders (6,435 for M = 8); its best swap of one column against one is searched instead.
Where the map of all pairs costs more than `WORK`, each round searches random pairs, every stripe in one, until
`PATIENCE` rounds in a row gain next to nothing.

Source: Pool and Yu 2021, "Channel permutations for N:M sparsity" (NeurIPS), algorithm 1; official code NVIDIA/apex,
contrib/sparsity/permutation_search_kernels/exhaustive_search.py. Differs: any N:M; the least gain is relative to what is
retained (theirs is 1e-4 whatever the scale of the weights); small gains wait (theirs are all applied; on uniform 128 x 64 matrices
the efficacy is 0.4 points higher so, as high as one pair a round); float64; random pairs for wide layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import combinations
from math import comb

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sparsify_cli.errors import BadRequest

EXHAUSTIVE = 4
"""Largest M for which all orders of a pair of stripes are searched."""
LEAST = 1e-8
"""Gains below this share of what is retained are taken for rounding."""
SHARE = 0.8
"""Of the best gain, what a pair must gain to be applied in the same round."""
WORK = 5 * 10**8
"""Numbers compared for one map of all pairs, above which random pairs are searched: a few seconds of one core."""
PATIENCE = 16
"""Rounds of random pairs in a row that gain less than `SLOW` before the search ends."""
SLOW = 1e-5
"""Share of what is retained that a round of random pairs should gain."""
CHUNK = 2**22
"""Numbers held at once."""


@dataclass(frozen=True, eq=False)
class Found:
    """An order of the columns and what it is worth.

    Args:
        order: new column j is old column order[j].
        before, after: sum of what N:M retains, in the old and in the new order.
        ceiling: sum of the best N/M of each whole row, which no order exceeds.
    """

    order: Int[Tensor, " columns"]
    before: float
    after: float
    ceiling: float

    @property
    def efficacy(self) -> float:
        """Share of the possible gain that was reached, in %; 0 where none is possible."""
        room = self.ceiling - self.before
        return 100 * (self.after - self.before) / room if room > 0 else 0.0


def retained(scores: Float[Tensor, "rows columns"], keep: int, group: int) -> float:
    """The sum of the `keep` highest of every `group` consecutive scores of a row."""
    return float(_best_of_first(scores.double().unflatten(1, (-1, group)).movedim(2, 0), keep).sum())


def row_share(scores: Float[Tensor, "rows columns"], keep: int, group: int) -> float:
    """The sum of the best keep/group of each whole row: the most that any order of columns retains."""
    best = scores.double().topk(scores.shape[1] * keep // group, dim=1)
    return float(best.values.sum())


@cache
def canonical_orders(group: int) -> tuple[tuple[int, ...], ...]:
    """All orders of 2 * `group` columns that differ in which columns share a stripe; the first leaves them as they are."""
    rest = range(1, 2 * group)
    firsts = [(0, *others) for others in combinations(rest, group - 1)]
    return tuple((*first, *(column for column in rest if column not in first)) for first in firsts)


@cache
def single_swaps(group: int) -> tuple[tuple[int, ...], ...]:
    """The order as it is, and all in which one column of the first stripe changes places with one of the second."""
    start = list(range(2 * group))
    orders = [tuple(start)]
    for i in range(group):
        for j in range(group, 2 * group):
            swapped = start.copy()
            swapped[i], swapped[j] = j, i
            orders.append(tuple(swapped))
    return tuple(orders)


def best_order(scores: Float[Tensor, "rows columns"], keep: int, group: int, *, escapes: int = 0, seed: int = 0) -> Found:
    """The order of columns for which `keep`:`group` retains most, as far as the search finds it; never worse than as it was.

    Args:
        scores: >= 0, such as |w|; layers that share their columns are stacked.
        keep, group: N and M.
        escapes: random swaps that may fail before the search ends; none in layers too wide for a map.
        seed: of escapes, and of random pairs in wide layers.

    Raises:
        BadRequest: the columns are no whole number of groups.
    """
    columns = scores.shape[1]
    if columns % group or not 0 < keep < group:
        raise BadRequest(f"{columns} columns cannot be ordered for {keep}:{group}: they are no whole number of groups of {group}.")
    search = _Search(scores.detach().double().cpu(), keep, group, torch.Generator().manual_seed(seed))
    before, order = retained(scores, keep, group), search.found(torch.arange(columns), escapes)
    after = search.value(order)
    if after <= before:  # ties and rounding leave the channels where they are
        order, after = torch.arange(columns), before
    return Found(order, before, after, row_share(scores, keep, group))


def _best_of_first(values: Float[Tensor, "size ..."], keep: int) -> Float[Tensor, "..."]:
    size = len(values)
    if (keep, size) == (2, 4):
        a, b, c, d = values
        return torch.maximum(torch.maximum(a, b) + torch.maximum(c, d), torch.maximum(a + b, c + d))
    if keep == 1:
        return values.amax(0)
    if keep == size - 1:
        return values.sum(0) - values.amin(0)
    return values.topk(keep, dim=0).values.sum(0)


@cache
def _halves(group: int) -> tuple[Tensor, Tensor]:
    """Sets of columns that any candidate puts into a stripe [sets, group], and the two sets of each candidate [orders, 2]."""
    orders = canonical_orders(group) if group <= EXHAUSTIVE else single_swaps(group)
    pairs = [(tuple(sorted(order[:group])), tuple(sorted(order[group:]))) for order in orders]
    sets = sorted({half for pair in pairs for half in pair})
    number = {half: i for i, half in enumerate(sets)}
    return torch.tensor(sets), torch.tensor([[number[first], number[second]] for first, second in pairs])


@dataclass(frozen=True, eq=False)
class _Map:
    """An order, and of every pair of stripes the gain of its best candidate and which that is."""

    order: Int[Tensor, " columns"]
    gains: Float[Tensor, " pairs"]
    best: Int[Tensor, " pairs"]


class _Search:
    """What the search keeps: the scores one column a row, and its random numbers."""

    def __init__(self, scores: Tensor, keep: int, group: int, generator: torch.Generator) -> None:
        self.columns = scores.T.contiguous()
        self.keep, self.group, self.generator = keep, group, generator
        self.sets, self.orders = _halves(group)
        self.stripes = len(self.columns) // group
        self.pairs = torch.combinations(torch.arange(self.stripes))
        self.least = LEAST * self.value(torch.arange(len(self.columns)))

    def value(self, order: Tensor) -> float:
        return retained(self.columns[order].T, self.keep, self.group)

    def found(self, order: Tensor, escapes: int) -> Tensor:
        """The order where the search ends."""
        if self.stripes < 2:
            return order
        if comb(self.stripes, 2) * self.columns.shape[1] * self.sets.numel() > WORK:
            return self._by_random_pairs(order)
        best = self._converged(_Map(order, *self._gains(order, self.pairs)))
        while escapes:
            tried = self._escaped(best)
            if self.value(tried.order) > self.value(best.order) + self.least:
                best = tried
            else:
                escapes -= 1
        return best.order

    def _converged(self, known: _Map) -> _Map:
        """Rounds until no pair gains."""
        while bool((known.gains > self.least).any()):
            order, changed = self._applied(known.order, self.pairs, known.gains, known.best, SHARE)
            known = self._renewed(known, order, changed)
        return known

    def _escaped(self, known: _Map) -> _Map:
        """Where a random swap of columns of two stripes leads to."""
        stripes = torch.randperm(self.stripes, generator=self.generator)[:2]
        places = stripes * self.group + torch.randint(self.group, (2,), generator=self.generator)
        order = known.order.clone()
        order[places] = known.order[places.flip(0)]
        changed = torch.zeros(self.stripes, dtype=torch.bool)
        changed[stripes] = True
        return self._converged(self._renewed(known, order, changed))

    def _renewed(self, known: _Map, order: Tensor, changed: Tensor) -> _Map:
        """The map of an order in which some stripes changed."""
        stale = changed[self.pairs].any(1)
        gains, best = known.gains.clone(), known.best.clone()
        gains[stale], best[stale] = self._gains(order, self.pairs[stale])
        return _Map(order, gains, best)

    def _by_random_pairs(self, order: Tensor) -> Tensor:
        idle, total = 0, self.value(order)
        while idle < PATIENCE:
            shuffled = torch.randperm(self.stripes, generator=self.generator)
            pairs = shuffled[: self.stripes // 2 * 2].view(-1, 2)
            gains, best = self._gains(order, pairs)
            order, _ = self._applied(order, pairs, gains, best, 0.0)
            gained = float(gains.clamp(min=0).sum())
            idle = 0 if gained > SLOW * total else idle + 1
        return order

    def _gains(self, order: Tensor, pairs: Tensor) -> tuple[Tensor, Tensor]:
        """The gain of each pair's best candidate, and which it is."""
        rows = self.columns.shape[1]
        size = max(1, CHUNK // (rows * self.sets.numel()))
        stripes = order.view(-1, self.group)
        parts = [self._gains_of(stripes[part].flatten(1)) for part in pairs.split(size)]
        return torch.cat([gains for gains, _ in parts]), torch.cat([best for _, best in parts])

    def _gains_of(self, columns: Tensor) -> tuple[Tensor, Tensor]:
        gathered = self.columns[columns.T]  # column of the pair, pair, row
        worth = [_best_of_first(gathered[half], self.keep).sum(-1) for half in self.sets.tolist()]
        totals = torch.stack(worth, 1)[:, self.orders].sum(-1)
        best = totals.max(1)
        return best.values - totals[:, 0], best.indices

    def _applied(self, order: Tensor, pairs: Tensor, gains: Tensor, best: Tensor, share: float) -> tuple[Tensor, Tensor]:
        """The order after a round, and which stripes changed."""
        candidates = canonical_orders(self.group) if self.group <= EXHAUSTIVE else single_swaps(self.group)
        stripes, changed = order.view(-1, self.group).clone(), torch.zeros(self.stripes, dtype=torch.bool)
        bar = max(self.least, share * float(gains.max()))
        for at in gains.argsort(descending=True, stable=True).tolist():
            if gains[at] < bar:
                break
            pair = pairs[at]
            if not bool(changed[pair].any()):
                columns = stripes[pair].flatten()
                stripes[pair] = columns[list(candidates[int(best[at])])].view(2, -1)
                changed[pair] = True
        return stripes.flatten(), changed
