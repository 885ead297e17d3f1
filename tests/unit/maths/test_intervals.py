"""Intervals against brute force, enumeration and published numbers."""

import itertools
import math

import pytest
import torch

from sparsify_cli.maths import intervals
from sparsify_cli.maths.intervals import Estimate, bootstrap_mean, independent_difference, paired_difference, tango, wilson
from tests import metric_checks as checks


def ends(estimate):
    """Low and high."""
    return estimate.low, estimate.high


@pytest.mark.parametrize(("k", "n"), [(0, 10), (3, 10), (10, 10), (7, 20), (1, 3)])
def test_wilson_holds_exactly_the_shares_the_score_test_accepts(k, n):
    """Scanning p in steps of 1e-4 for |k/n - p| <= 1.96 sqrt(p (1 - p) / n) finds the same ends."""
    accepted = [i / 10_000 for i in range(10_001) if abs(k / n - i / 10_000) <= 1.959964 * math.sqrt(i / 10_000 * (1 - i / 10_000) / n)]
    assert ends(wilson(k, n)) == pytest.approx((min(accepted), max(accepted)), abs=1.1e-4)


def test_wilson_covers_on_average():
    """Enumerating all outcomes of 20 samples, the mean coverage over p is 95 % within a point and a half; it never falls below 80 %."""
    shares = [i / 200 for i in range(10, 191)]
    binomial = [[math.comb(20, k) * p**k * (1 - p) ** (20 - k) for k in range(21)] for p in shares]
    held = [[wilson(k, 20).low <= p <= wilson(k, 20).high for k in range(21)] for p in shares]
    coverage = [sum(w for w, h in zip(ws, hs, strict=True) if h) for ws, hs in zip(binomial, held, strict=True)]
    assert sum(coverage) / len(coverage) == pytest.approx(0.95, abs=0.015) and min(coverage) > 0.80


def test_wilson_at_the_edge():
    """Nothing seen in ten samples still allows 27.75 %."""
    checks.check_share_is_honest_at_the_edge(lambda k, n: ends(wilson(k, n)))


def test_wilson_agrees_with_scipy():
    """The interval of scipy.stats is the same."""
    stats = pytest.importorskip("scipy.stats")
    for k, n in ((0, 7), (5, 13), (90, 100), (13, 13)):
        oracle = stats.binomtest(k, n).proportion_ci(method="wilson")
        assert ends(wilson(k, n)) == pytest.approx((oracle.low, oracle.high), abs=1e-12)


@pytest.mark.parametrize(("gained", "lost", "n"), [(5, 2, 20), (0, 4, 15), (3, 3, 9), (6, 0, 6)])
def test_paired_interval_holds_exactly_the_differences_the_score_test_accepts(gained, lost, n):
    """Just inside both ends the slowly done test accepts, just outside it rejects."""
    found = tango(gained, lost, n)
    for end, outwards in ((found.low, -1), (found.high, 1)):
        assert checks.score_test_accepts(gained, lost, n, end - outwards * 2e-3)
        assert abs(end + outwards * 2e-3) > 1 or not checks.score_test_accepts(gained, lost, n, end + outwards * 2e-3)


@pytest.mark.parametrize(("gained", "lost", "n", "published"), [(6, 16, 161, (-0.1240, -0.0054)), (1, 7, 21, (-0.517, -0.026))])
def test_paired_interval_is_the_published_one(gained, lost, n, published):
    """Cavo et al. 2012 and Bentur et al. 2009 as worked out with Tango's interval by Fagerland, Lydersen, Laake 2014."""
    assert ends(tango(gained, lost, n)) == pytest.approx(published, abs=5.1e-4 if n == 21 else 5.1e-5)


def test_paired_interval_covers_by_enumeration():
    """All outcomes of 15 pairs, three pairs of true cells: coverage is at least 93 %."""
    for p_gained, p_lost in ((0.2, 0.1), (0.3, 0.3), (0.05, 0.15)):
        covered = 0.0
        for gained, lost in itertools.product(range(16), range(16)):
            if gained + lost <= 15:
                ways = math.comb(15, gained) * math.comb(15 - gained, lost)
                weight = ways * p_gained**gained * p_lost**lost * (1 - p_gained - p_lost) ** (15 - gained - lost)
                found = tango(gained, lost, 15)
                covered += weight * (found.low <= p_gained - p_lost <= found.high)
        assert covered >= 0.93


def test_paired_interval_uses_the_pairing():
    """30 discordant pairs of 1000 give a half-width of 1.1 points, not 4.4."""
    checks.check_pairs_use_their_pairing(lambda after, before: ends(paired_difference(after, before)))


def test_paired_interval_without_any_change():
    """Two models that agree everywhere on 40 samples may still differ by 8.8 points."""
    checks.check_no_change_is_not_certainty(lambda after, before: ends(paired_difference(after, before)))


def test_paired_interval_turns_around_with_its_arguments():
    """Swapping before and after mirrors the interval."""
    there, back = tango(7, 2, 30), tango(2, 7, 30)
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low))


def test_independent_difference_is_newcombes_published_example():
    """56 of 70 against 48 of 80: .0524 to .3339 (Newcombe 1998, table II, method 10)."""
    assert ends(independent_difference(wilson(56, 70), wilson(48, 80))) == pytest.approx((0.0524, 0.3339), abs=5e-5)


def test_bootstrap_of_three_values_by_enumeration():
    """Of the 27 resamples of {0, 1, 5} 1/27 = 3.7 % are all 0 and all 5, so the quantiles are 0 and 5, widened by sqrt(3/2) about 2."""
    found = bootstrap_mean(torch.tensor([5.0, 0.0, 1.0]), resamples=5000)
    assert (found.value, found.low, found.high) == pytest.approx((2.0, 2 - 2 * math.sqrt(1.5), 2 + 3 * math.sqrt(1.5)))


def test_bootstrap_meets_the_normal_interval():
    """400 values with standard deviation 1 and mean 0: half-width 1.96 / 20 = .098 within a tenth."""
    values = torch.tensor([-1.0, 1.0]).repeat(200)
    found = bootstrap_mean(values)
    assert found.value == 0 and (found.high - found.low) / 2 == pytest.approx(0.098, rel=0.1)


def test_bootstrap_covers_skewed_means():
    """The interval of a skewed mean holds the truth about 95 times in 100."""
    checks.check_covers_the_mean(lambda values: ends(bootstrap_mean(values)))


def test_bootstrap_ignores_the_order_of_samples_and_repeats_itself():
    """The same values in another order, asked twice, give the same bits."""
    values = torch.linspace(0, 1, 101).square()
    assert bootstrap_mean(values) == bootstrap_mean(values.flip(0)) == bootstrap_mean(values)
    assert bootstrap_mean(values, seed=1) != bootstrap_mean(values)


def test_large_samples_take_the_normal_interval_without_a_jump():
    """At 20 000 (resampled) and 20 002 (normal) values of +-1 the half-width is 1.96 / sqrt(20 000) = .01386 within a tenth."""
    for n in (intervals.RESAMPLED_UP_TO, intervals.RESAMPLED_UP_TO + 2):
        found = bootstrap_mean(torch.tensor([-1.0, 1.0]).repeat(n // 2))
        assert (found.high - found.low) / 2 == pytest.approx(0.01386, rel=0.1)


def test_constant_values_have_no_spread():
    """A number that is the same for every sample has an interval of width zero around it, up to rounding."""
    found = bootstrap_mean(torch.full((17,), 0.1))
    assert found.low <= found.value <= found.high and found.high - found.low < 1e-12
    assert bootstrap_mean(torch.tensor([3.0])) == Estimate(3.0, 3.0, 3.0)


@pytest.mark.parametrize("scale", [1e-46, 1e39, 1e-300])
def test_bootstrap_grows_with_its_values(scale):
    """Where float32 holds no such number, the interval is that of the same values in other units."""
    values = torch.linspace(0, 1, 101, dtype=torch.float64).square()
    one, other = bootstrap_mean(values), bootstrap_mean(values * scale)
    assert (other.low / scale, other.high / scale) == pytest.approx((one.low, one.high), rel=1e-6)


def test_bootstrap_moves_with_its_values():
    """Far from zero, where float32 would keep nothing of the spread, the interval is that around zero, moved."""
    values = torch.linspace(0, 1, 101, dtype=torch.float64).square()
    near, far = bootstrap_mean(values), bootstrap_mean(values + 1e9)
    assert (far.low - 1e9, far.high - 1e9) == pytest.approx((near.low, near.high), rel=1e-5)
