"""Calibration error by hand."""

import math

import pytest
import torch

from sparsify_cli.maths.calibration_error import (
    Bin,
    calibrated_level,
    equal_mass,
    equal_width,
    gap_contributions,
    reliability_bins,
)
from tests import metric_checks as checks


def ten_bins(confidence, correct):
    """Contributions over ten equal-width bins."""
    return gap_contributions(confidence, correct, equal_width(confidence, 10))


@pytest.mark.parametrize(
    "check", [checks.check_top_bin_is_shared, checks.check_gaps_cancel_inside_a_bin, checks.check_bins_are_weighted_by_size]
)
def test_calibration_error_by_hand(check):
    """The three small tables of `metric_checks` come out as computed by hand."""
    check(ten_bins)


def test_bins_are_closed_on_the_left():
    """0, .1 and .55 open bins 0, 1 and 5; 1 belongs to the last of ten, not to an eleventh."""
    assert equal_width(torch.tensor([0.0, 0.1, 0.55, 1.0], dtype=torch.float64), 10).tolist() == [0, 1, 5, 9]


def test_equal_mass_bins_hold_as_many_samples_each():
    """Six different confidences in three bins: two each, by rank and not by place."""
    assert equal_mass(torch.tensor([0.99, 0.2, 0.98, 0.3, 0.4, 0.97]), 3).tolist() == [2, 0, 2, 0, 1, 1]


def test_equal_mass_never_splits_equal_confidences():
    """Five equal values and one larger: the five stay together whatever the order."""
    assert equal_mass(torch.tensor([0.5, 0.5, 0.9, 0.5, 0.5, 0.5]), 3).tolist() == [0, 0, 2, 0, 0, 0]


def test_a_perfect_model_still_shows_an_error():
    """100 samples at p = .5 in one bin: the gap is normal with sd .05, so |gap| has mean .05 sqrt(2/pi) = .0399."""
    mean, most = calibrated_level(torch.full((100,), 0.5), torch.full((100,), 5))
    assert mean == pytest.approx(0.0399, abs=1e-4)
    assert most == pytest.approx(0.0399 + 1.645 * 0.05 * math.sqrt(1 - 2 / math.pi), abs=1e-3)


def test_calibrated_level_is_what_simulation_shows():
    """2000 simulated perfect models: mean within 3 % and 95 % quantile within 5 % of the formula."""
    generator = torch.Generator().manual_seed(3)
    confidence = torch.linspace(0.3, 0.99, 400, dtype=torch.float64)
    bin_of = equal_width(confidence, 10)
    answers = torch.rand(2000, 400, generator=generator, dtype=torch.float64) < confidence
    shown = torch.stack([gap_contributions(confidence, row, bin_of).mean() for row in answers])
    mean, most = calibrated_level(confidence, bin_of)
    assert float(shown.mean()) == pytest.approx(mean, rel=0.03) and float(shown.quantile(0.95)) == pytest.approx(most, rel=0.05)


def test_reliability_bins_skip_empty_ones():
    """Two samples at .5, one right, and one at 1.0, right: two bars."""
    bars = reliability_bins(torch.tensor([0.5, 1.0, 0.5]), torch.tensor([True, True, False]))
    assert bars == [Bin(0.5, 0.5, 2), Bin(1.0, 1.0, 1)]
