"""How many weights stay, and which: counted once in exact integers, selected by stable order of the score.

zeros = n*s rounded half to even, computed exactly on fractions; kept = n - zeros. Selection never compares with a
threshold alone, so equal scores cannot push the count off. Five properties hold for every (n, s); the tests state them
as code: within one weight of n*s; exact at 0 and 1; monotone in s; ties do not matter; asking k/n gives exactly k.

Source: none; seven of nine published rules break one of the five (thresholds with `<=`, `int` and `ceil` of floats).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction

import numpy as np
import torch
from jaxtyping import Bool, Shaped
from torch import Tensor

from sparsify_cli.errors import BadRequest, Infeasible, NonFinite
from sparsify_cli.maths.n_of_m import WIDEST, best_of_groups

NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,3})?|[+-]?\d+/0*[1-9]\d*")
"""A decimal, with at most a three-digit exponent (a longer one would take forever to expand), or a ratio such as 1/3."""


def as_fraction(value: str | int | float | Fraction | Decimal, *, name: str = "sparsity") -> Fraction:
    """Read a fraction exactly; a float is read through its shortest decimal text, so 0.1 is 1/10.

    Args:
        value: a number in [0, 1]; text such as `0.9`, `9e-1` or `1/3`.
        name: what the number is, for the message.

    Raises:
        BadRequest: not a number, or outside [0, 1].
    """
    if isinstance(value, (Fraction, int)):
        exact = Fraction(value)
    else:
        # float.__repr__ and not repr: NumPy's float is a float whose repr reads np.float64(0.9).
        exact = _read(float.__repr__(value) if isinstance(value, float) else str(value), name)
    if not 0 <= exact <= 1:
        raise BadRequest(
            f"The {name} {value} is outside [0, 1].", "It is a fraction, never a percentage.", "Write 0.9 for nine weights in ten."
        )
    return exact


def _read(text: str, name: str) -> Fraction:
    if NUMBER.fullmatch(text.strip()):
        return Fraction(text.strip())
    raise BadRequest(f"The {name} {text!r} is not a number.", "It is a fraction in [0, 1].", "Write 0.9 for nine weights in ten.")


def zeros_count(n: int, sparsity: Fraction) -> int:
    """Zeros among `n` weights: n*s rounded half to even, exactly."""
    return round(n * Fraction(sparsity))


def keep_count(n: int, sparsity: Fraction) -> int:
    """Weights of `n` that stay: what `zeros_count` leaves."""
    return n - zeros_count(n, sparsity)


def top_k(scores: Shaped[Tensor, " n"], keep: int) -> Bool[Tensor, " n"]:
    """The `keep` highest scores; among equal scores the earlier position stays.

    Args:
        scores: one number a position; +inf always comes first, -inf last.
        keep: how many to select, 0 to n.

    Returns:
        True at exactly `keep` positions.

    Raises:
        NonFinite: a score is NaN.
        BadRequest: `keep` is negative or above n.
    """
    n = scores.numel()
    _check_request(scores, keep)
    if keep in (0, n):
        return torch.full_like(scores, keep > 0, dtype=torch.bool)
    threshold = kth_highest(scores, keep)
    kept = scores >= threshold
    surplus = int(kept.count_nonzero()) - keep
    if surplus:
        kept[(scores == threshold).nonzero()[-surplus:, 0]] = False
    return kept


def kth_highest(scores: Shaped[Tensor, " n"], k: int) -> Shaped[Tensor, ""]:
    """The k-th highest of n scores, 1 <= k <= n, none of them NaN; numpy finds it in a tenth of torch's time."""
    if scores.device.type != "cpu":
        return scores.kthvalue(len(scores) - k + 1).values
    place = len(scores) - k
    return torch.from_numpy(np.partition(_plain(scores).numpy(), place)[place : place + 1])[0].to(scores.dtype)


def _plain(scores: Tensor) -> Tensor:
    """Numbers of a type that numpy has."""
    return scores.detach().float() if scores.dtype in (torch.bfloat16, torch.float16) else scores.detach()


def top_k_by_sorting(scores: Shaped[Tensor, " n"], keep: int) -> Bool[Tensor, " n"]:
    """The slow and obvious reference of `top_k`: a stable sort."""
    order = sorted(range(scores.numel()), key=lambda position: -float(scores[position]))
    kept = torch.zeros(scores.numel(), dtype=torch.bool)
    kept[order[:keep]] = True
    return kept


def top_k_of_groups(scores: Shaped[Tensor, "groups size"], keep: int) -> Bool[Tensor, "groups size"]:
    """The `keep` highest scores of each row; among equal scores the earlier position stays.

    Args:
        scores: one group a row, not NaN.
        keep: how many of each row to select, at most its length.
    """
    if scores.device.type == "cpu" and scores.shape[1] <= WIDEST:
        return torch.from_numpy(best_of_groups(_plain(scores).contiguous().numpy(), keep, scores.shape[1])).view(scores.shape)
    best = scores.sort(dim=1, descending=True, stable=True).indices[:, :keep]
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(1, best, True)


def _check_request(scores: Tensor, keep: int) -> None:
    if not 0 <= keep <= scores.numel():
        raise BadRequest(f"Cannot keep {keep} of {scores.numel()} weights.")
    if bool(scores.isnan().any()):
        raise NonFinite(f"{int(scores.isnan().sum())} of {scores.numel()} scores are NaN.", "They cannot be ranked.")


def apportion(shares: Sequence[Fraction], total: int, caps: Sequence[int], *, floors: Sequence[int] | None = None) -> list[int]:
    """Whole counts in proportion to `shares` that sum to exactly `total`, by largest remainder; ties by order.

    Args:
        shares: proportions, >= 0; only their ratios matter.
        total: what the counts sum to.
        caps: the most each may get.
        floors: the least each may get; 0 where not given.

    Returns:
        Counts between floor and cap, each within one of its exact quota (see `quotas`), which is its share when the
        shares sum to `total` and no bound is met.

    Raises:
        Infeasible: the bounds leave no room for `total`.
    """
    exact = quotas(shares, total, caps, floors=floors)
    counts = [int(quota) for quota in exact]
    by_remainder = sorted(range(len(exact)), key=lambda i: counts[i] - exact[i])
    for i in by_remainder[: total - sum(counts)]:
        counts[i] += 1
    return counts


def quotas(shares: Sequence[Fraction], total: int, caps: Sequence[int], *, floors: Sequence[int] | None = None) -> list[Fraction]:
    """Exact quotas clamp(lambda * share, floor, cap), with the lambda for which they sum to `total`.

    Each round computes lambda for the entries still free; those that meet the bound on the side that is off are fixed
    there, all at once, and the rest is shared again. An entry of share 0 gets something only when all others are full.

    Raises:
        Infeasible: the bounds leave no room for `total`.

    Source: variable fixing for the continuous knapsack, Bitran and Hax 1981; with caps alone it is the loop of RigL's
    Erdos-Renyi-Kernel densities, which fixes layers that would be more than dense.
    """
    lows = list(floors) if floors is not None else [0] * len(caps)
    _check_room(total, lows, caps)
    exact = [Fraction(low) for low in lows]
    free = list(range(len(caps)))
    rest = Fraction(total)
    while free:
        wanted = _proportional([shares[i] for i in free], rest)
        for i, want in zip(free, wanted, strict=True):
            exact[i] = min(max(want, Fraction(lows[i])), Fraction(caps[i]))
        excess = sum(exact[i] for i in free) - rest
        if not excess:
            break
        met = {i for i, want in zip(free, wanted, strict=True) if (exact[i] - want) * excess > 0}
        rest -= sum(exact[i] for i in met)
        free = [i for i in free if i not in met]
    return exact


def _proportional(shares: Sequence[Fraction], total: Fraction) -> list[Fraction]:
    if not sum(shares):
        return [total / len(shares)] * len(shares)
    unit = total / Fraction(sum(shares))
    return [unit * share for share in shares]


def _check_room(total: int, floors: Sequence[int], caps: Sequence[int]) -> None:
    if not sum(floors) <= total <= sum(caps) or any(low > cap for low, cap in zip(floors, caps, strict=True)):
        raise Infeasible(f"Cannot keep {total} weights: the layers must keep {sum(floors)} and may keep {sum(caps)}.")
