"""Error curves: clean-up and interpolation by hand."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsify_cli.errors import BadRequest, NonFinite
from sparsify_cli.maths.error_curves import Curve, isotonic, levels


def test_measurements_in_any_order():
    """Levels descend from dense, which costs nothing unless measured; an error below zero is zero."""
    curve = Curve.measured("a", 10, [(2, 9.0), (5, 1.0), (8, -0.5)])
    assert curve.kept == (10, 8, 5, 2)
    assert curve.costs == (0.0, 0.0, 1.0, 9.0)


def test_falls_are_pooled():
    """1, 3, 2, 4: the middle two are 2.5 each; 4, 2, 0 pools to 2."""
    assert isotonic([1.0, 3.0, 2.0, 4.0]) == [1.0, 2.5, 2.5, 4.0]
    assert isotonic([4.0, 2.0, 0.0]) == [2.0, 2.0, 2.0]


@given(values=st.lists(st.floats(0, 1e6), min_size=1, max_size=12))
def test_pooled_values_rise_and_keep_their_sum(values):
    """Isotonic regression never falls, keeps the sum, and leaves what rises alone."""
    found = isotonic(values)
    assert all(low <= high for low, high in pairwise(found))
    assert sum(found) == pytest.approx(sum(values), rel=1e-9, abs=1e-12)
    assert isotonic(sorted(values)) == pytest.approx(sorted(values))


def test_between_levels_the_logarithm_is_linear():
    """Half way between 1 and 100 is 10; next to zero the error itself is; below the last level the last two go on."""
    curve = Curve.measured("a", 100, [(60, 1.0), (40, 100.0)])
    assert curve.cost(50) == pytest.approx(10)
    assert curve.cost(80) == 0.5
    assert (curve.cost(100), curve.cost(60), curve.cost(40)) == (0.0, 1.0, 100.0)
    assert curve.cost(30) == pytest.approx(1000)


@given(
    errors=st.dictionaries(st.integers(0, 40), st.floats(-1e-3, 1e12, allow_subnormal=True), min_size=1, max_size=8),
    kept=st.integers(0, 40),
)
def test_keeping_more_never_costs_more(errors, kept):
    """Costs fall, or stay, with every weight that is kept, between, at and below levels, and are finite."""
    errors = {k: e for k, e in errors.items() if k < 40} or {0: 1.0}
    curve = Curve.measured("a", 40, errors.items())
    costs = [curve.cost(k) for k in range(41)]
    assert all(fewer >= more >= 0 for fewer, more in pairwise(costs))
    assert all(math.isfinite(cost) for cost in costs)
    assert curve.within(min(kept, 7), 33)[-1] == min(kept, 7)


def test_the_grid_of_levels():
    """Densities 1, .9, .81 ... down to .01: 44 of them and the last, whole counts, none below one."""
    found = levels(100_000)
    assert found[:3] == [100_000, 90_000, 81_000]
    assert (len(found), found[-1]) == (45, 1000)
    assert levels(10)[-1] == 1
    assert levels(8, step=Fraction(1, 2), least=Fraction(1, 8)) == [8, 4, 2, 1]


def test_what_is_refused():
    """Errors that are not finite, levels that the layer does not have, curves that fall, and a curve of one point."""
    with pytest.raises(NonFinite, match="`a` with 5"):
        Curve.measured("a", 10, [(5, float("nan"))])
    with pytest.raises(BadRequest, match="11 weights kept, of 10"):
        Curve.measured("a", 10, [(11, 1.0)])
    with pytest.raises(BadRequest, match="does not rise"):
        Curve("a", 10, (10, 5), (1.0, 0.5))
    with pytest.raises(BadRequest, match="no level but dense"):
        Curve.measured("a", 10, []).cost(5)
