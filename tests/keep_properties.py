"""The five properties of a rule for how many weights are pruned, as a check any rule can be put to.

A rule maps (scores, sparsity as a binary float) to the number of zeros it makes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction

Rule = Callable[[Sequence[float], float], int]
"""Scores of n weights (higher = keep) and the sparsity asked for -> the number of zeros."""

Case = tuple[int, Fraction]
"""How many weights, and the sparsity asked for."""

CASES: tuple[Case, ...] = tuple((n, Fraction(k, n)) for n in (*range(1, 21), 49, 100) for k in range(n + 1))
"""Every k of n weights up to 20, and of 49 and 100, where binary floats already bite (49 * (1/49), 100 * 0.07, 10 * (1 - 0.9))."""


def _zeros(rule: Rule, n: int, sparsity: Fraction) -> int:
    return rule(range(1, n + 1), float(sparsity))


def _within_one(rule: Rule, n: int, sparsity: Fraction) -> bool:
    return abs(_zeros(rule, n, sparsity) - n * sparsity) < 1


def _exact_at_ends(rule: Rule, n: int, _: Fraction) -> bool:
    return _zeros(rule, n, Fraction(0)) == 0 and _zeros(rule, n, Fraction(1)) == n


def _monotone(rule: Rule, n: int, sparsity: Fraction) -> bool:
    return _zeros(rule, n, sparsity / 2) <= _zeros(rule, n, sparsity) <= _zeros(rule, n, (sparsity + 1) / 2)


def _blind_to_ties(rule: Rule, n: int, sparsity: Fraction) -> bool:
    return rule([1.0] * n, float(sparsity)) == _zeros(rule, n, sparsity)


def _exact_on_counts(rule: Rule, n: int, sparsity: Fraction) -> bool:
    k = round(n * sparsity)
    return _zeros(rule, n, Fraction(k, n)) == k


PROPERTIES: dict[str, Callable[[Rule, int, Fraction], bool]] = {
    "within one weight of n*s": _within_one,
    "exact at 0 and 1": _exact_at_ends,
    "monotone in s": _monotone,
    "ties do not matter": _blind_to_ties,
    "asking k/n gives exactly k": _exact_on_counts,
}


def violations(rule: Rule, cases: Iterable[Case] = CASES) -> list[str]:
    """Which of the five properties the rule breaks on some case; a rule that raises breaks what was being checked."""
    tried = list(cases)
    return [name for name, holds in PROPERTIES.items() if not all(_safely(holds, rule, n, sparsity) for n, sparsity in tried)]


def _safely(holds: Callable[[Rule, int, Fraction], bool], rule: Rule, n: int, sparsity: Fraction) -> bool:
    try:
        return holds(rule, n, sparsity)
    except (IndexError, ValueError, RuntimeError):
        return False
