"""Schedules: the learning-rate factor and the sparsity of a step, as pure functions of the step.

Nothing here remembers anything, so a resumed run needs only its step. A learning-rate factor multiplies the base
rate; with `warmup` > 0 it climbs linearly from 1/warmup to 1 over the first `warmup` steps.

Source: cosine: Loshchilov and Hutter 2017 (arXiv 1608.03983), eq. 5, one cycle, no restart. Warm-up: Goyal et al. 2017
(arXiv 1706.02677), section 2.2, from 1/warmup instead of 1/workers. Cubic: Zhu and Gupta 2017 (arXiv 1710.01878), eq. 1,
in exact fractions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction


def constant(step: int, *, total: int, warmup: int = 0) -> float:
    """1 after the warm-up.

    Args:
        step: optimizer steps already done, 0 at the first.
        total: optimizer steps of the whole run; not used, so that all schedules are called alike.
        warmup: steps of the linear climb.
    """
    del total
    return _climb(step, warmup)


def cosine(step: int, *, total: int, warmup: int = 0, floor: float = 0.0) -> float:
    """Half a cosine from 1 down to (just above) `floor` over the steps after the warm-up."""
    if step < warmup:
        return _climb(step, warmup)
    return floor + (1 - floor) * (1 + math.cos(math.pi * _share(step, total, warmup))) / 2


def falling(step: int, *, total: int, warmup: int = 0, floor: float = 0.0) -> float:
    """A straight line from 1 down to (just above) `floor` over the steps after the warm-up."""
    if step < warmup:
        return _climb(step, warmup)
    return 1 - (1 - floor) * _share(step, total, warmup)


def multistep(
    step: int, *, total: int, warmup: int = 0, milestones: Sequence[float | str | Fraction] = ("0.5", "0.75"), gamma: float = 0.1
) -> float:
    """`gamma` to the number of milestones passed.

    Args:
        step: optimizer steps already done.
        total: optimizer steps of the whole run.
        warmup: steps of the linear climb.
        milestones: shares of the run in [0, 1]; one is passed at the first step >= share * total, counted exactly.
        gamma: factor at each milestone.
    """
    passed = sum(step >= Fraction(str(share)) * total for share in milestones)
    return _climb(step, warmup) * math.prod([gamma] * passed)


SCHEDULES: Mapping[str, Callable[..., float]] = {"constant": constant, "cosine": cosine, "linear": falling, "multi-step": multistep}
"""Learning-rate schedules by the name a person types; all take (step, *, total, warmup)."""


def cubic(step: int, begin: int, end: int, initial: Fraction, final: Fraction) -> Fraction:
    """Sparsity of `step`: fast at first, when there is much to drop, slow near the end.

    s_t = s_f + (s_i - s_f) (1 - (t - t_0) / (t_end - t_0))^3

    Args:
        step: t, optimizer steps already done.
        begin: t_0; before it the sparsity is `initial`.
        end: t_end >= begin; from it on the sparsity is exactly `final`.
        initial: s_i, in [0, 1].
        final: s_f, in [0, 1].
    """
    if step >= end:
        return final
    if step <= begin:
        return initial
    return final + (initial - final) * (1 - Fraction(step - begin, end - begin)) ** 3


def linear(step: int, begin: int, end: int, initial: Fraction, final: Fraction) -> Fraction:
    """Sparsity of `step`, by the same amount every time; arguments as those of `cubic`."""
    if step >= end:
        return final
    if step <= begin:
        return initial
    return initial + (final - initial) * Fraction(step - begin, end - begin)


def exponential(step: int, begin: int, end: int, initial: Fraction, final: Fraction) -> Fraction:
    """Sparsity of `step`, when the share of weights left that is dropped is the same every time; arguments as those of `cubic`.

    d_t = d_i (d_f / d_i)^((t - t_0) / (t_end - t_0)), d = 1 - s; in millionths. A target without weights is reached at the end only.
    """
    if step >= end or step <= begin:
        return final if step >= end else initial
    if final == 1:
        return initial
    share = Fraction(step - begin, end - begin)
    density = float(1 - initial) * (float(1 - final) / float(1 - initial)) ** float(share)
    return 1 - Fraction(round(density * 1_000_000), 1_000_000)


SPARSITIES: Mapping[str, Callable[[int, int, int, Fraction, Fraction], Fraction]] = {
    "cubic": cubic,
    "linear": linear,
    "exponential": exponential,
}
"""How sparsity climbs, by the name a person types."""


def _share(step: int, total: int, warmup: int) -> float:
    """Which part of the steps after the warm-up is over, in [0, 1]."""
    return min(1.0, (step - warmup) / max(1, total - warmup))


def _climb(step: int, warmup: int) -> float:
    return min(1.0, (step + 1) / warmup) if warmup else 1.0
