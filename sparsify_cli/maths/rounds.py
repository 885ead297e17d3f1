"""Iterative pruning: how many rounds a sparsity takes, how sparse each is, and how long each training.

Rounds that drop a share p of what is left reach density (1 - p)^r; the last one drops what is missing to the target, no more.
A first training lasts T steps, each of the R others T - k, since it starts at step k: T + R (T - k) = total.

Source: Frankle and Carbin 2019 (arXiv 1803.03635), section 2; rewinding to step k: Frankle et al. 2020 (arXiv 1912.05671).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction


def densities(target: Fraction, drop: Fraction, *, begin: Fraction = Fraction(1), most: Fraction = Fraction(1)) -> tuple[Fraction, ...]:
    """Density after each round, ending exactly at that of the target.

    Args:
        target: sparsity, in [0, 1).
        drop: share of what is left that a round drops, in (0, 1).
        begin: density before the first round.
        most: density that the pattern allows: rounds above it are one.

    Raises:
        ValueError: the target keeps no weight.
    """
    if target >= 1:
        raise ValueError("no number of rounds drops every weight")
    goal, found = 1 - target, []
    left = begin
    while left > goal:
        left = max(goal, left * (1 - drop))
        found.append(max(goal, min(left, most)))
    return tuple(dict.fromkeys(found))


@dataclass(frozen=True)
class Rounds:
    """Trainings of a run.

    Args:
        first: steps of the first one, T.
        others: steps of each later one, T - k.
        start: step of the schedule they start at, k.
    """

    first: int
    others: int
    start: int

    def at(self, step: int) -> tuple[int, int]:
        """Which training a step of the run belongs to (0 = the first), and its place in the schedule of T steps."""
        if step < self.first:
            return 0, step
        number, inside = divmod(step - self.first, self.others)
        return 1 + number, self.start + inside


def divided(total: int, count: int, *, start: Fraction, is_share: bool) -> Rounds:
    """Trainings of a run with `count` prunings.

    Steps that do not divide evenly go to the first training.

    Args:
        total: steps of the run.
        count: prunings, R.
        start: where later trainings start: k in steps, or a share of T.
        is_share: which of the two.

    Raises:
        ValueError: there is not a step for each training.
    """
    full = Fraction(total) / (count + 1 - count * start) if is_share else (total + count * start) / (count + 1)
    skipped = math.floor(full * start) if is_share else int(start)
    others = math.floor(full) - skipped
    first = total - count * others
    if others < 1 or first < skipped:
        raise ValueError("too few steps for the rounds")
    return Rounds(first, others, skipped)
