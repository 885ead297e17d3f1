"""The shortest step that does enough, without doing harm.

A trial of a step length says whether the target is `reached` and whether the damage is `acceptable`. Lengths grow from
1/1024 of a limit by factors of two; between the last that was too short and the first that was long enough (or too much)
bisection narrows it down. Growing from below, not bisecting from the start, makes no assumption about what happens far out.

A step that does enough may still be short of where it is best: `lowest_step` then goes on from it.

With a guess, which a slope can give, lengths go up or down from there by factors of two until one is long enough and one is not; the
damage is asked for at the end alone. Only where that is too large the search from below is made.

Source: ours (a backtracking line search run forwards).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Literal, Protocol, TypeVar, runtime_checkable

HALVINGS = 10
"""The shortest length tried is 2^-10 of the limit."""
FURTHER = 1.25
"""Times a length that is taken anyway, where it is asked whether going on pays."""
REFINEMENTS = 4
"""Bisections: the length is right to 1/16 of the interval."""


@runtime_checkable
class Trial(Protocol):
    """What a step of some length did."""

    @property
    def reached(self) -> bool:
        """It was long enough."""

    @property
    def acceptable(self) -> bool:
        """It did no more harm than allowed."""


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
    """As `shortest_step`, in fewer trials where the guess is good.

    Args:
        attempt: tries a length.
        start: the trial of length 0, not reached, acceptable.
        limit: longest length allowed, > 0.
        guess: a length, > 0.
    """
    shortest = limit / 2**HALVINGS
    length = min(max(guess, shortest), limit)
    short, long = (0.0, start), (length, attempt(length))
    while long[1].reached and long[0] > shortest:
        half = (long[0] / 2, attempt(long[0] / 2))
        if not half[1].reached:
            short = half
            break
        long = half
    while not long[1].reached and long[0] < limit:
        short, length = long, min(2 * long[0], limit)
        long = (length, attempt(length))
    if not long[1].reached:
        return Found(*long, "limit") if long[1].acceptable else shortest_step(attempt, start, limit)
    long = _narrowed(attempt, short, long)
    return Found(*long, "reached") if long[1].acceptable else shortest_step(attempt, start, limit)


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


def _narrowed(attempt: Callable[[float], T], short: tuple[float, T], long: tuple[float, T]) -> tuple[float, T]:
    """The shortest that is long enough, to 1/8 of the interval."""
    for _ in range(REFINEMENTS - 1):
        middle = (short[0] + long[0]) / 2
        trial = attempt(middle)
        short, long = (short, (middle, trial)) if trial.reached else ((middle, trial), long)
    return long


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
