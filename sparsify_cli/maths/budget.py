"""The most that may stay under a budget of weights, multiply-accumulates or bytes.

An amount says what a layer takes when it keeps so many units; it never falls when more are kept. How much stays is found by
bisection: the largest total whose counts, as the allocation shares them out, fit.

Source: none; bytes are those of the forms of `values/packed.py`, expected for positions at random.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import TypeVar

import numpy as np
import torch

from sparsify_cli.errors import Infeasible
from sparsify_cli.maths.allocate import Sized, for_many_totals
from sparsify_cli.recipes.budget import KINDS, Budget
from sparsify_cli.values.packed import GAPS, OVERHEAD, SAME_SIZE, smallest_of

Amount = Callable[[int], int]
"""Units (weights, or blocks) that a layer keeps -> what they take, in whole numbers; never falls when more are kept."""

SizedLayer = TypeVar("SizedLayer", bound=Sized)


def parameters(block: int = 1) -> Amount:
    """Weights, of which each unit has `block`."""
    return lambda kept: kept * block


def multiply_accumulates(uses: int, block: int = 1) -> Amount:
    """Multiply-accumulates of one sample, when each weight is used so many times (see `macs.py`)."""
    return lambda kept: kept * block * uses


def packed_bytes(weights: int, width: int, block: int = 1) -> Amount:
    """Bytes of a layer in its smallest form, header included: exact for dense and bitmask, expected for gaps.

    Args:
        weights: the layer has.
        width: bytes of a value.
        block: weights of a unit.
    """

    def amount(kept: int) -> int:
        found = expected_sizes(weights, kept * block, width)
        form = smallest_of(found)
        return found[form] + (0 if form == "dense" else OVERHEAD)

    return amount


def expected_sizes(weights: int, kept: int, width: int) -> dict[str, int]:
    """Bytes that each form takes, headers not counted, when `kept` of the weights are not zero, anywhere; see `packed.sizes`."""
    found = {"dense": weights * width}
    if width in SAME_SIZE:
        found["bitmask"] = -(-weights // 8) + kept * width
    if width in SAME_SIZE and kept * 8 < weights:
        for form, kind in GAPS.items():
            escapes = expected_escapes(weights, kept, int(np.iinfo(kind).max))
            found[form] = kept * width + (kept + math.ceil(escapes)) * np.dtype(kind).itemsize
    return found


def expected_escapes(weights: int, kept: int, longest: int) -> float:
    """How many full runs of `longest` zeros lie in the gaps before, between and after values at random positions, on average.

    The kept + 1 gaps are alike, and one is at least m long with probability C(weights - m, kept) / C(weights, kept).
    """
    # Beyond 40 times the mean gap a gap is as probable as e^-40.
    far = min(weights - kept, 40 * weights // max(1, kept))
    m = longest * torch.arange(1, far // longest + 1, dtype=torch.float64)
    every = torch.tensor(float(weights), dtype=torch.float64)
    chance = (_log_choose(every - m, kept) - _log_choose(every, kept)).exp()
    return (kept + 1) * float(chance.sum())


def _log_choose(n: torch.Tensor, k: int) -> torch.Tensor:
    """The part of log C(n, k) that depends on n."""
    return torch.lgamma(n + 1) - torch.lgamma(n - k + 1)


def room_for(layers: Sequence[Sized], amounts: Sequence[Amount], budget: Budget, *, fixed: int = 0) -> int:
    """What the layers may take together under a budget.

    Args:
        layers: whose floors must fit.
        amounts: of each layer.
        budget: a share of what the layers and `fixed` take when dense, or an amount.
        fixed: what everything else takes, which stays as it is.

    Raises:
        Infeasible: floors and the rest take more, with the nearest budget that can be met.
    """
    dense = fixed + sum(amount(layer.units) for layer, amount in zip(layers, amounts, strict=True))
    least = fixed + sum(amount(layer.floor) for layer, amount in zip(layers, amounts, strict=True))
    limit = budget.limit(dense)
    if least > limit:
        raise Infeasible(
            f"The budget {budget} cannot be met: it allows {limit} {KINDS[budget.kind]}, and at least {least} stay.",
            f"Of these, {fixed} are in what is not pruned, the rest is what layers must keep." if fixed else "So much layers must keep.",
            f"The nearest that can be met is {Budget(budget.kind, Fraction(max(2, least)))}.",
        )
    return limit - fixed


def largest(
    layers: Sequence[SizedLayer],
    allocation: Callable[[Sequence[SizedLayer], int], list[int]],
    amounts: Sequence[Amount],
    budget: Budget,
    *,
    fixed: int = 0,
) -> list[int]:
    """Counts of the largest total that fits the budget.

    Args:
        layers: as the allocation takes them.
        allocation: shares a total out among them.
        amounts: of each layer.
        budget: a share of what the layers and `fixed` take when dense, or an amount.
        fixed: what everything else takes, which stays as it is.

    Returns:
        How many units each layer keeps. Where an allocation is not monotone in its total (remainders may go to another
        layer), a slightly larger total may fit too; that of the counts always does.

    Raises:
        Infeasible: floors and the rest take more, with the nearest budget that can be met.
    """
    limit = room_for(layers, amounts, budget, fixed=fixed)
    share_out = for_many_totals(allocation, layers)

    def taken(total: int) -> int:
        return sum(amount(count) for amount, count in zip(amounts, share_out(total), strict=True))

    low, high = sum(layer.floor for layer in layers), sum(layer.cap for layer in layers)
    return share_out(most_within(taken, low, high, limit))


def most_within(amount: Amount, low: int, high: int, limit: int) -> int:
    """The largest number from `low` to `high` that takes at most the limit, by bisection; `low` is known to."""
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if amount(middle) <= limit else (low, middle - 1)
    return low
