"""Schedules against values worked out by hand."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise

import pytest

from sparsify_cli.maths.schedules import SCHEDULES, SPARSITIES, constant, cosine, cubic, exponential, falling, linear, multistep


def test_constant_stays_at_one() -> None:
    """Without warm-up the factor is 1 at every step."""
    assert [constant(step, total=3) for step in range(3)] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_every_schedule_warms_up_linearly(schedule: object) -> None:
    """Four warm-up steps give quarters, and the step after them is still at the full rate."""
    assert callable(schedule)
    assert [schedule(step, total=100, warmup=4) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]


def test_cosine_by_hand() -> None:
    """cos(pi/3) = 1/2 at a third of the way, 0 at half, -1/2 at two thirds; the warm-up shifts the start."""
    assert [cosine(step, total=6) for step in (0, 2, 3, 4)] == pytest.approx([1, 0.75, 0.5, 0.25], abs=1e-15)
    assert cosine(7, total=10, warmup=4) == pytest.approx(0.5, abs=1e-15)
    assert 0 < cosine(99, total=100) < 0.001


def test_a_straight_fall_by_hand() -> None:
    """By the same amount every step, from 1 towards the floor, which a step after the last would have; the warm-up shifts the start."""
    assert [falling(step, total=4) for step in range(5)] == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert [falling(step, total=6, warmup=2, floor=0.5) for step in range(7)] == [0.5, 1.0, 1.0, 0.875, 0.75, 0.625, 0.5]
    assert [cosine(step, total=2, floor=0.5) for step in range(3)] == pytest.approx([1.0, 0.75, 0.5])


def test_cosine_survives_a_run_that_is_all_warm_up() -> None:
    """No division by zero when warm-up takes every step."""
    assert cosine(3, total=4, warmup=4) == 1.0
    assert cosine(4, total=4, warmup=4) == 1.0


def test_multistep_drops_exactly_at_its_milestones() -> None:
    """0.1 of 30 steps is step 3 exactly, although 0.1 * 30 is not 3 in binary."""
    factors = [multistep(step, total=30, milestones=(0.1, 0.5), gamma=0.5) for step in (2, 3, 14, 15, 29)]
    assert factors == [1.0, 0.5, 0.5, 0.25, 0.25]


def test_cubic_by_hand() -> None:
    """At the start s_i, at the end s_f exactly, half-way an eighth of the climb is left."""
    initial, final = Fraction(1, 10), Fraction(9, 10)
    assert cubic(10, 10, 30, initial, final) == initial
    assert cubic(0, 10, 30, initial, final) == initial
    assert cubic(20, 10, 30, initial, final) == final - Fraction(8, 10) / 8
    assert cubic(30, 10, 30, initial, final) == final
    assert cubic(99, 10, 30, initial, final) == final


def test_cubic_never_falls() -> None:
    """Monotone in the step, and steepest at first."""
    path = [cubic(step, 0, 50, Fraction(0), Fraction(4, 5)) for step in range(60)]
    climbs = [b - a for a, b in pairwise(path)]
    assert min(climbs) >= 0
    assert climbs[0] == max(climbs)


def test_cubic_without_length_is_a_step() -> None:
    """Where begin = end it jumps from s_i to s_f at that step."""
    assert [cubic(step, 5, 5, Fraction(0), Fraction(1, 2)) for step in (4, 5)] == [0, Fraction(1, 2)]


def test_cosine_is_never_negative() -> None:
    """Not even by rounding, at or after the end."""
    assert all(cosine(step, total=7) >= 0 for step in range(9))
    assert math.isclose(cosine(7, total=7), 0, abs_tol=1e-15)


def test_other_curves_by_hand() -> None:
    """Half of the way from 0.2 to 0.8: linear 0.5; exponential drops from density 0.8 to 0.2 by halves, to 0.4, so sparsity 0.6."""
    initial, final = Fraction(1, 5), Fraction(4, 5)
    assert linear(20, 10, 30, initial, final) == Fraction(1, 2)
    assert exponential(20, 10, 30, initial, final) == Fraction(3, 5)
    for curve in (linear, exponential):
        assert [curve(step, 10, 30, initial, final) for step in (0, 10, 30, 99)] == [initial, initial, final, final]
    assert exponential(29, 10, 30, initial, Fraction(1)) == initial and exponential(30, 10, 30, initial, Fraction(1)) == 1


def test_no_curve_falls() -> None:
    """Sparsity climbs all the way."""
    for curve in SPARSITIES.values():
        path = [curve(step, 0, 50, Fraction(0), Fraction(4, 5)) for step in range(60)]
        assert path == sorted(path) and path[25] < path[49] < path[50] == Fraction(4, 5)
