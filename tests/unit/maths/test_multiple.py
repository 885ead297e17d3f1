"""Adjusted p-values by hand, and against a slow obvious loop."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsify_cli.maths.intervals import Estimate, Z, paired_difference
from sparsify_cli.maths.multiple import holm, p_value

LISTS = st.lists(st.floats(0, 1), max_size=12)


def slow_holm(values):
    """For each p: the largest (number of values not below it) * value among those up to it, at most 1."""
    scaled = {p: min(1.0, sum(q >= p for q in values) * p) for p in values}
    return [max(scaled[q] for q in values if q <= p) for p in values]


def test_holm_by_hand():
    """.01, .04, .03: 3 x .01; 2 x .03; then .04, lifted to .06."""
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


@given(LISTS)
def test_it_agrees_with_a_slow_loop(values):
    """Any list, ties included."""
    assert holm(values) == pytest.approx(slow_holm(values))


@given(LISTS, st.randoms(use_true_random=False))
def test_the_order_does_not_matter_and_adjusting_never_lowers(values, random):
    """Each value keeps its adjusted value in any order; p <= adjusted <= 1, up to rounding."""
    order = list(range(len(values)))
    random.shuffle(order)
    assert holm([values[i] for i in order]) == [holm(values)[i] for i in order]
    for p, found in zip(values, holm(values), strict=True):
        assert p <= found + 1e-12 and found <= 1


def test_what_is_no_probability_is_refused():
    """1.2, -.1 and NaN."""
    for bad in (1.2, -0.1, math.nan):
        with pytest.raises(ValueError, match="outside"):
            holm([0.5, bad])


def test_holm_keeps_its_promise_where_nothing_is_true():
    """Of 2000 families of ten true null hypotheses about one in twenty has an alarm, and four in ten without adjustment."""
    p = torch.rand(2000, 10, generator=torch.Generator().manual_seed(1), dtype=torch.float64).tolist()
    assert 0.03 < sum(min(holm(family)) < 0.05 for family in p) / 2000 < 0.07
    assert sum(min(family) < 0.05 for family in p) / 2000 > 0.35


def test_p_value_of_a_symmetric_interval():
    """Two standard errors: 4.55 %; none: 1; either sign alike."""
    assert p_value(Estimate(2.0, 2 - Z, 2 + Z)) == pytest.approx(0.0455, abs=1e-4)
    assert p_value(Estimate(-2.0, -2 - Z, -2 + Z)) == pytest.approx(0.0455, abs=1e-4)
    assert p_value(Estimate(0.0, -1.0, 1.0)) == 1.0


def test_p_value_says_what_the_interval_says():
    """Below .05 exactly where a lopsided interval leaves zero out; .05 where it ends there."""
    assert p_value(Estimate(0.3, 0.0, 0.35)) == pytest.approx(0.05)
    assert p_value(Estimate(0.3, 0.01, 9.0)) < 0.05 < p_value(Estimate(0.3, -0.01, 0.31))


def test_no_width_is_no_p_value():
    """A difference without spread is not infinitely sure; no difference is none."""
    assert p_value(Estimate(0.3, 0.3, 0.3)) is None and p_value(Estimate(0.0, 0.0, 0.0)) == 1.0


def test_p_value_of_pairs_is_near_the_exact_test():
    """20 gained, 5 lost of 200: the sign test of 25 discordant pairs gives 2 P(X <= 5) = .0041."""
    before = torch.arange(200) < 100
    after = before.clone()
    after[:5], after[-20:] = False, True
    exact = 2 * sum(math.comb(25, k) for k in range(6)) / 2**25
    assert p_value(paired_difference(after, before)) == pytest.approx(exact, rel=0.6)
