"""Many comparisons at once: p-values that stay honest when the most striking of several differences is looked at.

With m tests of true null hypotheses one in twenty falls below 0.05 by chance alone. Adjusted values are compared with the usual level:

    Holm    p'_(i) = max over j <= i of min(1, (m - j + 1) p_(j))       chance of any false alarm, whatever the dependence

with p_(1) <= ... <= p_(m).

Source: Holm 1979 (Scandinavian Journal of Statistics 6, 65). `p_value`: Altman and Bland 2011 (BMJ 343, d2304) for symmetric intervals;
that the half towards zero is used is ours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate

from sparsify_cli.maths.intervals import Estimate, Z


def p_value(estimate: Estimate) -> float | None:
    """Two-sided p-value of "there is no difference", from the difference and its 95 % interval.

    The difference is taken as normal, its standard error as the half of the interval that points to zero, divided by 1.96. So p is below
    0.05 exactly where the interval leaves zero out, also for the lopsided intervals of shares. None where that half has no width.

    Args:
        estimate: a difference; not a gap that cannot be negative, whose null value is no interior point.
    """
    if estimate.value == 0:
        return 1.0
    half = estimate.value - estimate.low if estimate.value > 0 else estimate.high - estimate.value
    return math.erfc(Z * abs(estimate.value) / half / math.sqrt(2)) if half > 0 else None


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted values in the order given: rejecting those below a level keeps the chance of any false rejection below it."""
    order = _rising(p_values)
    scaled = (min(1.0, (len(order) - i) * p_values[at]) for i, at in enumerate(order))
    return _put_back(order, list(accumulate(scaled, max)))


def _rising(p_values: Sequence[float]) -> list[int]:
    """Positions by rising p-value.

    Raises:
        ValueError: a number outside [0, 1], or none at all (NaN).
    """
    if not all(0 <= p <= 1 for p in p_values):
        raise ValueError("a p-value lies outside [0, 1]")
    return sorted(range(len(p_values)), key=lambda at: p_values[at])


def _put_back(order: list[int], adjusted: list[float]) -> list[float]:
    return [value for _, value in sorted(zip(order, adjusted, strict=True))]
