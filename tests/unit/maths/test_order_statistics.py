"""Medians, spreads and their exact interval, by counting."""

import pytest

from sparsify_cli.maths.intervals import Estimate
from sparsify_cli.maths.order_statistics import median_interval, spread
from tests import metric_checks as checks


def test_median_of_an_even_number_lies_between_the_middle_ones():
    """Neither the lower nor the upper middle value."""
    checks.check_median_of_even_number(lambda values: spread(values).value)


def test_spread_is_the_middle_ninety_percent():
    """0 to 100 in steps of one: 5, 50, 95."""
    found = spread([float(i) for i in range(101)])
    assert (found.low, found.value, found.high) == pytest.approx((5.0, 50.0, 95.0))


def test_median_interval_of_nine_leaves_out_one_at_each_end():
    """P(at most 1 of 9 below) = 10/512 = 2.0 % fits under 2.5 %, P(at most 2) = 46/512 = 9 % does not: second smallest and largest."""
    assert median_interval([9.0, 1.0, 8.0, 2.0, 7.0, 3.0, 6.0, 4.0, 5.0]) == Estimate(5.0, 2.0, 8.0)


def test_median_interval_needs_six_values():
    """The extremes of 5 hold the median in 1 - 2/32 = 93.75 %, too rarely; those of 6 in 1 - 2/64 = 96.9 %."""
    assert median_interval([1.0, 2.0, 3.0, 4.0, 5.0]) is None
    assert median_interval([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]) == Estimate(3.5, 1.0, 6.0)
