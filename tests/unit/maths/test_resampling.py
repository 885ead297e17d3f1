"""Resampling by counts: the same distribution as resampling samples."""

import pytest
import torch

from sparsify_cli.maths.comparison import Comparison
from sparsify_cli.maths.intervals import bootstrap_mean
from sparsify_cli.maths.resampling import resampled_findings, resampled_mean, without_empty_interval
from sparsify_cli.values.report import Finding
from tests import metric_checks as checks

ABOUT = Finding(name="thing", value=None, definition="A thing.")


def test_drawing_counts_is_drawing_samples():
    """Three distinct numbers among 90: the interval of the slow bootstrap within a tenth of its width."""
    values = torch.tensor([0.0] * 60 + [1.0] * 20 + [5.0] * 10, dtype=torch.float64)
    fast, slow = resampled_mean(values), bootstrap_mean(values)
    width = slow.high - slow.low
    assert fast.value == pytest.approx(slow.value) and abs(fast.low - slow.low) < width / 10 and abs(fast.high - slow.high) < width / 10


def test_many_distinct_numbers_are_drawn_as_samples():
    """400 different numbers: exactly the slow bootstrap."""
    values = torch.randn(400, dtype=torch.float64)
    assert resampled_mean(values) == bootstrap_mean(values)


def test_the_order_and_the_global_generator_do_not_matter():
    """The same values in another order, after other random draws."""
    values = torch.tensor([0.0, 1.0, 1.0, 2.0] * 10, dtype=torch.float64)
    first = resampled_mean(values)
    torch.rand(5)
    assert resampled_mean(values.flip(0)) == first


def test_it_covers_the_mean():
    """300 samples of 60 of an exponential number, rounded so that few numbers differ, hold its mean in 90 to 98 %."""
    checks.check_covers_the_mean(lambda values: (found := resampled_mean((values * 20).round() / 20)) and (found.low, found.high))


def test_one_sample_has_no_width():
    """A single number is its mean, and says no more."""
    found = resampled_mean(torch.tensor([2.0]))
    assert (found.value, found.low, found.high) == (2.0, 2.0, 2.0)


def test_no_spread_is_no_interval():
    """Ten times the same number: value, no interval, a note; a finding with width keeps its own."""
    same = torch.full((10,), 0.5, dtype=torch.float64)
    found = resampled_findings(Comparison(ABOUT), same, same)
    assert [f.of for f in found] == ["compressed", "dense", "change"] and [f.value for f in found] == [0.5, 0.5, 0.0]
    assert all(f.low is None and "no spread" in f.note for f in found)
    kept = Finding(name="a", value=0.5, low=0.4, high=0.6)
    assert without_empty_interval(kept) == kept


def test_intervals_stay_inside_the_range():
    """A share close to 1 whose contributions go beyond it: cut to 1, the change is not cut."""
    values = torch.tensor([0.0] + [1.02] * 50, dtype=torch.float64)
    compressed, _, change = resampled_findings(Comparison(ABOUT, 1, (0.0, 1.0)), values, torch.zeros(51, dtype=torch.float64))
    assert compressed.value == pytest.approx(1.0) and compressed.high == 1.0 and change.high > 1.0
    assert compressed.low <= compressed.value
