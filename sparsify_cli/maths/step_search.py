"""The shortest step that does enough, without doing harm.

A trial of a step length says whether the target is `reached` and whether the damage is `acceptable`. Lengths grow from
1/1024 of a limit by factors of two; between the last that was too short and the first that was long enough (or too much)
bisection narrows it down. Growing from below, not bisecting from the start, makes no assumption about what happens far out.

A step that does enough may still be short of where it is best: `lowest_step` then goes on from it.

With a guess, which a slope can give, and a trial that says how much is `missing`, lengths follow straight lines through what is known
until one is long enough, the target is expected within a sixteenth below it, and three quarters of it are not enough; the damage is asked
for at the end alone. Only where that is too large the search from below is made.

Source: ours (a backtracking line search run forwards).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from typing import Generic, Literal, Protocol, TypeVar, runtime_checkable

HALVINGS = 10
"""The shortest length tried is 2^-10 of the limit."""
FURTHER = 1.25
"""Times a length that is taken anyway, where it is asked whether going on pays."""
REFINEMENTS = 4
"""Bisections: the length is right to 1/16 of the interval."""
WIDTH = 16
"""A length is good enough when the target is expected in its last sixteenth."""
CLOSE, LOOSE = 8, 3 / 4
"""It is surely good enough when the last that was not is within an eighth below it, and not good enough before one is at three quarters."""
HAIR = 1e-9
"""Lengths are tried exactly at those shares, where rounding must not decide."""
TRIALS = 40
"""After so many the search from below is made instead."""
BEYOND = 1 + 1 / (2 * WIDTH)
"""Times the length where the target is expected, so that one trial is long enough."""


@runtime_checkable
class Trial(Protocol):
    """What a step of some length did."""

    @property
    def reached(self) -> bool:
        """It was long enough."""

    @property
    def acceptable(self) -> bool:
        """It did no more harm than allowed."""

    @property
    def missing(self) -> tuple[float, ...]:
        """What is missing to each part of the target, best in measures that fall in a straight line; at most 0 where it is reached."""


T = TypeVar("T", bound=Trial)


@dataclass(frozen=True)
class Found(Generic[T]):
    """A step length and why the search ended there.

    Args:
        length: of the step.
        trial: what it does.
        ending: `reached` the target; `harm` stopped it before; the `limit` did.
    """

    length: float
    trial: T
    ending: Literal["reached", "harm", "limit"]


def shortest_step(attempt: Callable[[float], T], start: T, limit: float) -> Found[T]:
    """The shortest length that reaches the target acceptably, or else the longest acceptable one before the first harm.

    Args:
        attempt: tries a length.
        start: the trial of length 0, not reached, acceptable.
        limit: longest length allowed, > 0.
    """
    short = (0.0, start)
    for halving in range(HALVINGS, -1, -1):
        length = limit / 2**halving
        trial = attempt(length)
        if trial.reached or not trial.acceptable:
            return _between(attempt, short, (length, trial))
        short = (length, trial)
    return Found(*short, "limit")


def guided_step(attempt: Callable[[float], T], start: T, limit: float, guess: float) -> Found[T]:
    """As `shortest_step`, in fewer trials where the guess is good and what is missing falls about in a straight line with the length.

    Where everything from some length on is enough, the length is at most a third too long, whatever is said to be missing, and at most a
    seventh where that is a straight line; lengths below 1/1024 of the limit are not tried.

    Args:
        attempt: tries a length.
        start: the trial of length 0, not reached, acceptable.
        limit: longest length allowed, > 0.
        guess: a length, > 0.
    """
    between, shortest = Bracket((0.0, start)), limit / 2**HALVINGS
    length = min(max(guess, shortest), limit) if isfinite(guess) else limit
    for _ in range(TRIALS):
        between = between.told(length, attempt(length))
        if between.long is None and length >= limit:
            return Found(*between.short, "limit") if between.short[1].acceptable else shortest_step(attempt, start, limit)
        if between.long is not None and (between.narrow or between.long[0] <= shortest):
            return Found(*between.long, "reached") if between.long[1].acceptable else shortest_step(attempt, start, limit)
        length = min(max(between.next, shortest), limit)
    return shortest_step(attempt, start, limit)


@dataclass(frozen=True)
class Bracket(Generic[T]):
    """What is known of where the target is.

    Args:
        short: the longest length that is not enough, and its trial.
        long: the shortest that is enough; None while there is none.
        before: of the lengths that were not enough the one before the last.
    """

    short: tuple[float, T]
    long: tuple[float, T] | None = None
    before: tuple[float, T] | None = None

    def told(self, length: float, trial: T) -> Bracket[T]:
        """With another trial."""
        return Bracket(self.short, (length, trial), self.before) if trial.reached else Bracket((length, trial), self.long, self.short)

    @property
    def narrow(self) -> bool:
        """Whether the long end is at most a third too long, and expected to be hardly too long; or surely hardly too long."""
        assert self.long is not None
        near = self.short[0] / self.long[0]
        return near >= 1 - 1 / CLOSE - HAIR or (near >= LOOSE - HAIR and self._fits)

    @property
    def next(self) -> float:
        """The length to try: a little beyond what is expected, and away from both ends; or one that shows that the long end is needed."""
        if self.long is None:
            return self._further
        if self._fits:
            return max(LOOSE * self.long[0], (self.short[0] + self.long[0]) / 2)
        margin = (self.long[0] - self.short[0]) / 8
        return min(max(BEYOND * self.expected, self.short[0] + margin), self.long[0] - margin)

    @property
    def _fits(self) -> bool:
        return self.long is not None and self.expected >= (1 - 1 / WIDTH) * self.long[0]

    @property
    def expected(self) -> float:
        """Where nothing is missing any more: each part on a straight line between both ends; halfway where they tell nothing."""
        assert self.long is not None
        (a, near), (b, far) = self.short, self.long
        parts = [_crossing(n, f) for n, f in zip(near.missing, far.missing, strict=True)]
        known = [part for part in parts if part is not None]
        return a + (b - a) * (max(known) if known else 0.5)

    @property
    def _further(self) -> float:
        """On straight lines through the last two, 1.125 to 4 times as long; without such lines, or after a small step, at least twice."""
        (a, one), (b, two) = self.before or self.short, self.short
        ways = [_ahead(o, t) for o, t in zip(one.missing, two.missing, strict=True)]
        known = [way for way in ways if way is not None]
        least = 1.125 if known and (not a or b >= 2 * a) else 2.0
        return min(max(BEYOND * (b + (b - a) * max(known)) if known else 0.0, least * b), 4 * b)


def _crossing(near: float, far: float) -> float | None:
    """The part of the way from one end to the other at which nothing is missing; None where that cannot be told."""
    return near / (near - far) if isfinite(near) and isfinite(far) and near > 0 >= far else None


def _ahead(before: float, now: float) -> float | None:
    """The same beyond two ends at both of which something is missing."""
    return now / (before - now) if isfinite(before) and isfinite(now) and before > now > 0 else None


def lowest_step(loss: Callable[[float], float], top: float, *, pull: float, bend: float = 0.0, least: float = 0.0) -> float:
    """The length from `least` to `top` that brings down the loss of a whole whose slope at 0 is known, of which only a part is evaluated.

    It minimises loss(e) - loss(0) - e loss'(0) + bend e^2 - e pull: the part says how the loss bends, the whole how steeply it falls.
    Halvings of `top` are tried until it rises again, then the parabola through the last three; `least` where nothing lowers it, which
    a length a quarter larger tells where `least` is not 0.

    Args:
        loss: of the part, at a length.
        top: longest length, > 0.
        pull: minus the slope of the whole at 0.
        bend: half the second derivative of what is known besides.
        least: a length that is taken anyway, <= top.
    """
    if top <= least:
        return least
    start, h = loss(0.0), top / 256
    slope = (loss(h) - loss(-h)) / (2 * h)

    def rise(length: float) -> float:
        return loss(length) - start - length * slope + bend * length**2 - length * pull

    if least and rise(min(FURTHER * least, top)) >= rise(least):
        return least
    lengths = [top]
    values = [rise(top)]
    while len(lengths) <= HALVINGS and (len(values) < 3 or values[-1] <= values[-2]):
        lengths.append(lengths[-1] / 2)
        values.append(rise(lengths[-1]))
    best = min(range(len(values)), key=values.__getitem__)
    if values[best] >= 0:
        return least
    middle = min(max(best, 1), len(values) - 2)
    found = _vertex(lengths[middle - 1 : middle + 2], values[middle - 1 : middle + 2])
    return max(least, min(found, top) if found > 0 else lengths[best])


def _vertex(x: list[float], y: list[float]) -> float:
    """Where the parabola through three points is lowest; -1 where it has no lowest point."""
    bend = ((y[2] - y[1]) / (x[2] - x[1]) - (y[1] - y[0]) / (x[1] - x[0])) / (x[2] - x[0])
    return (x[0] + x[1]) / 2 - (y[1] - y[0]) / (x[1] - x[0]) / (2 * bend) if bend > 0 else -1.0


def longest_step(attempt: Callable[[float], T], start: T, length: float) -> Found[T]:
    """The longest acceptable of length, length/2, length/4, ...; 0 when none of eleven is."""
    for halving in range(HALVINGS + 1):
        trial = attempt(length / 2**halving)
        if trial.acceptable:
            return Found(length / 2**halving, trial, "reached" if halving == 0 else "harm")
    return Found(0.0, start, "harm")


def _between(attempt: Callable[[float], T], short: tuple[float, T], long: tuple[float, T]) -> Found[T]:
    for _ in range(REFINEMENTS):
        middle = (short[0] + long[0]) / 2
        trial = attempt(middle)
        if trial.reached or not trial.acceptable:
            long = (middle, trial)
        else:
            short = (middle, trial)
    return Found(*long, "reached") if long[1].acceptable else Found(*short, "harm")
