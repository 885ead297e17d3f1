"""Scores of a forecast by hand, rank correlation beside scipy's."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import spearmanr

from sparsify_cli.maths.forecast import foretold, lift, precision, rank_correlation, recall, susceptible


def flags(*positions: int, n: int = 40) -> torch.Tensor:
    """True at some positions of n."""
    found = torch.zeros(n, dtype=torch.bool)
    found[list(positions)] = True
    return found[:, None]


def test_susceptible_answers_are_unsure():
    """Below nine tenths, and exactly nine tenths is sure."""
    p = torch.tensor([[0.95, 0.05], [0.9, 0.1], [0.2, 0.8], [0.5, 0.5]])
    assert susceptible(p.double(), below=0.9).tolist() == [False, bool(p.double()[1, 0] < 0.9), True, True]


def test_scores_by_hand():
    """20 of 40 at risk, 12 changed, 9 of them at risk: precision 9/20, recall 9/12, lift 1.5."""
    at_risk, changed = flags(*range(20)), flags(*range(9), *range(30, 33))
    assert precision(at_risk, changed).value == 9 / 20
    assert recall(at_risk, changed).value == 9 / 12
    found = lift(at_risk, changed)
    assert found.value == pytest.approx(1.5)
    assert 2 * recall(at_risk, changed).low - 0.3 < found.low < 1.5 < found.high


def test_a_blind_forecast_has_lift_one_and_the_order_does_not_matter():
    """Everything at risk foretells nothing; a permutation of answers changes no score."""
    changed, order = flags(*range(12)), torch.randperm(40, generator=torch.Generator().manual_seed(0))
    assert lift(flags(*range(40)), changed).value == 1
    at_risk = flags(*range(5, 25))
    for rule in (precision, recall, lift):
        assert rule(at_risk, changed) == rule(at_risk[order], changed[order])


def test_too_few_answers_have_no_score():
    """Nine changed ones, or nobody at risk."""
    assert recall(flags(*range(20)), flags(*range(9))) is None
    assert lift(flags(), flags(*range(12))) is None
    assert precision(flags(), flags(*range(12))) is None


def test_the_riskier_half_is_foretold():
    """At least the median, and no pair without any risk."""
    assert foretold([0.4, 0.3, 0.2, 0.1]) == [True, True, False, False]
    assert foretold([0.1, 0.0, 0.0]) == [True, False, False] and foretold([]) == []


def test_rank_correlation_is_spearmans():
    """With ties, as scipy computes it; order reversed is minus one; too few or equal values are none."""
    one, other = [1.0, 2, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11], [2.0, 1, 4, 4, 3, 9, 5, 7, 7, 12, 11, 10]
    assert rank_correlation(one, other).value == pytest.approx(spearmanr(one, other).statistic)
    assert rank_correlation(one, [-v for v in one]).value == pytest.approx(-1)
    assert rank_correlation(one[:9], other[:9]) is None
    assert rank_correlation(one, [1.0] * 12) is None


def test_its_interval_holds_the_truth():
    """Of 300 normal samples of 25 pairs with Spearman's 0.5 some 95 % of the intervals do."""
    draw = torch.Generator().manual_seed(1)
    truth, hits = 0.5, 0
    rho = 2 * torch.sin(torch.tensor(torch.pi * truth / 6)).item()
    for _ in range(300):
        a, b = torch.randn(2, 25, generator=draw, dtype=torch.float64)
        found = rank_correlation(a.tolist(), (rho * a + (1 - rho**2) ** 0.5 * b).tolist())
        hits += found.low <= truth <= found.high
    assert 0.92 <= hits / 300 <= 0.98
