"""The step search against functions whose answer is known."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest

from sparsify_cli.maths.step_search import guided_step, longest_step, lowest_step, shortest_step


@dataclass(frozen=True)
class Mark:
    """A trial that remembers its length."""

    length: float
    reached: bool
    acceptable: bool
    missing: tuple[float, ...] = (1.0,)


def track(reach, harm, missing=lambda to_go: 1.0 if to_go > 0 else -1.0):
    """Lengths from `reach` on are enough, lengths from `harm` on are too much; what is missing hangs on what is left to go."""
    return lambda length: Mark(length, length >= reach, length < harm, (missing(reach - length),))


MEASURES = {
    "nothing but the sign": lambda to_go: 1.0 if to_go > 0 else -1.0,
    "linear": lambda to_go: 3 * to_go,
    "convex": lambda to_go: to_go if to_go > 0 else -(to_go**2) * 50,
    "saturated": lambda to_go: min(to_go, 0.01),
    "wrong sign": lambda to_go: -1.0,
    "flat beyond": lambda to_go: 1.0 if to_go > 0 else -1e-3,
    "nothing at all": lambda to_go: float("nan"),
    "infinite": lambda to_go: float("inf") if to_go > 0 else -float("inf"),
}


@pytest.mark.parametrize("reach", [0.003, 0.1, 1.0, 5.0, 8.0])
def test_finds_the_shortest_sufficient_length(reach):
    """The length found reaches the target and is at most 1/16 of its interval (8/1024 at least) too long."""
    found = shortest_step(track(reach, 100), Mark(0, False, True), 8.0)
    assert found.ending == "reached"
    assert reach <= found.length <= reach + max(reach, 8 / 1024) / 16
    assert found.trial.length == found.length


def test_stops_before_harm():
    """When harm comes at 0.75 before the target at 3, the longest harmless length of the bisection is taken."""
    found = shortest_step(track(3.0, 0.75), Mark(0, False, True), 8.0)
    assert found.ending == "harm"
    assert 0.7 < found.length < 0.75


def test_target_inside_the_last_interval_is_found():
    """Enough from 1.2 and too much from 1.4: the interval (1, 2) that ends in harm is searched for it."""
    found = shortest_step(track(1.2, 1.4), Mark(0, False, True), 8.0)
    assert found.ending == "reached"
    assert 1.2 <= found.length < 1.4


def test_limit_is_never_passed():
    """A target beyond the limit ends at the limit, exactly."""
    found = shortest_step(track(9.0, 10.0), Mark(0, False, True), 8.0)
    assert (found.length, found.ending) == (8.0, "limit")


def test_halves_until_acceptable():
    """8, 4 and 2 are too much for a limit of 1.5; 1 is the longest halving below it."""
    found = longest_step(track(0.0, 1.5), Mark(0, True, True), 8.0)
    assert (found.length, found.ending) == (1.0, "harm")


def test_gives_up_at_zero():
    """When every length does harm nothing is done."""
    start = Mark(0, True, True)
    found = longest_step(track(0.0, -1.0), start, 8.0)
    assert (found.length, found.trial) == (0.0, start)


@pytest.mark.parametrize("reach", [0.003, 0.1, 1.0, 5.0, 8.0])
@pytest.mark.parametrize("guess", [1e-6, 0.01, 0.9, 7.0, 1e6])
@pytest.mark.parametrize("measure", MEASURES)
def test_a_guess_finds_the_same(reach, guess, measure):
    """From any guess, whatever is said to be missing: the length reaches the target and is at most a third too long."""
    tried = []

    def attempt(length):
        tried.append(length)
        return track(reach, 100, MEASURES[measure])(length)

    found = guided_step(attempt, attempt(0.0), 8.0, guess)
    assert found.ending == "reached"
    assert reach <= found.length <= max(reach, 8 / 1024) * (1 + (1 / 7 if measure == "linear" else 1 / 3))
    assert found.trial.length == found.length
    assert len(tried) <= 40


@pytest.mark.parametrize(("guess", "trials"), [(0.5, 3), (0.3, 3), (0.91, 2), (0.95, 2), (4.0, 3), (0.05, 4)])
def test_what_is_missing_tells_where_to_go(guess, trials):
    """Linear: a trial a little beyond the target, one at three quarters of it, and those that led there."""
    tried = []

    def attempt(length):
        tried.append(length)
        return track(0.9, 100, MEASURES["linear"])(length)

    guided_step(attempt, track(0.9, 100, MEASURES["linear"])(0.0), 8.0, guess)
    assert len(tried) == trials


def test_parts_of_a_target_have_lines_of_their_own():
    """One part is far from reached at first and far beyond at the end, the other nearly reached all the way: the later one counts."""

    def attempt(length):
        parts = (9.4 * (1 - length / 0.5), 0.034 * (1 - length / 0.3))
        return Mark(length, max(parts) <= 0, True, parts)

    found = guided_step(attempt, attempt(0.0), 2.0, 0.86)
    assert 0.5 <= found.length <= 0.5 * 17 / 16


def test_a_guess_that_is_no_number_ends():
    """The search begins at the limit."""
    assert 3.0 <= guided_step(track(3.0, 100), Mark(0, False, True), 8.0, float("nan")).length <= 4.0


def test_a_guess_beyond_harm_falls_back_to_the_careful_search():
    """Where the shortest length that is enough does harm, the longest harmless one is taken, as without a guess."""
    careful = shortest_step(track(3.0, 0.75), Mark(0, False, True), 8.0)
    assert guided_step(track(3.0, 0.75), Mark(0, False, True), 8.0, 2.0) == careful
    assert guided_step(track(9.0, 0.75), Mark(0, False, True), 8.0, 2.0).ending == "harm"
    assert guided_step(track(9.0, 99.0), Mark(0, False, True), 8.0, 2.0).ending == "limit"


@pytest.mark.parametrize("best", [0.9, 0.4, 0.11, 0.02])
def test_lowest_is_the_minimum_of_a_parabola(best):
    """A part that bends like 3 e^2 and slopes anyhow, a whole that pulls with 6 best: the minimum is at `best`."""
    for slope in (0.0, 5.0, -5.0):
        found = lowest_step(lambda e, slope=slope: 7 + slope * e + 3 * e**2, 1.0, pull=6 * best)
        assert found == pytest.approx(best, rel=1e-6)


def test_a_length_that_is_taken_anyway_is_left_where_going_on_pays():
    """The lowest lies at 0.4: from 0.1 the search goes there, from 0.5 it stays, and asks for one length beyond."""
    asked = []

    def loss(e: float) -> float:
        asked.append(e)
        return 7 + 2 * e

    assert lowest_step(loss, 1.0, pull=2.4, bend=3.0, least=0.1) == pytest.approx(0.4)
    asked.clear()
    assert lowest_step(loss, 1.0, pull=2.4, bend=3.0, least=0.5) == 0.5
    assert sorted(set(asked)) == [-1 / 256, 0.0, 1 / 256, 0.5, 0.625]
    asked.clear()
    assert lowest_step(loss, 0.5, pull=2.4, bend=3.0, least=0.5) == 0.5 and not asked


def test_lowest_knows_what_bends_besides():
    """With 3 e^2 told as `bend` instead of measured, the same; beyond the top it is the top; uphill it is nothing."""
    assert lowest_step(lambda e: 7 + 2 * e, 1.0, pull=2.4, bend=3.0) == pytest.approx(0.4)
    assert lowest_step(lambda e: e**2, 1.0, pull=6.0) == 1.0
    assert lowest_step(lambda e: e**2, 1.0, pull=-1.0) == 0.0


def test_rounding_of_the_guess_decides_nothing():
    """Lengths are tried at fixed shares of others; a guess larger by a ten-millionth finds the same length, nearly."""
    draw = random.Random(0)
    for _ in range(300):
        reach, bend = draw.uniform(0.05, 0.95), draw.uniform(-0.3, 0.3)
        guess = reach * draw.uniform(0.8, 1.25)

        def attempt(length, reach=reach, bend=bend):
            return Mark(length, length >= reach, True, ((reach - length) * (1 + bend * length),))

        one, other = (guided_step(attempt, attempt(0.0), 1.0, first).length for first in (guess, guess * (1 + 1e-7)))
        assert one == pytest.approx(other, rel=1e-4)
