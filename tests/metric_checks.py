"""What a metric or an interval must do, as checks that take the implementation: right ones pass, known-wrong ones are rejected."""

from __future__ import annotations

import math
from statistics import NormalDist

import pytest
import torch

from tests.predictions import answering, said


def check_top_bin_is_shared(contributions) -> None:
    """One sample at p = .9 right, one at p = 1 wrong share the last bin: |(.9 - 1) + (1 - 0)| / 2 = .45, and not .1 / 2 + 1 / 2 = .55."""
    confidence, correct = torch.tensor([0.9, 1.0], dtype=torch.float64), torch.tensor([True, False])
    assert float(contributions(confidence, correct).mean()) == pytest.approx(0.45)


def check_gaps_cancel_inside_a_bin(contributions) -> None:
    """Two samples at p = .5, one right and one wrong, are calibrated: 0, and not the mean of .5 and .5."""
    confidence, correct = torch.tensor([0.5, 0.5], dtype=torch.float64), torch.tensor([True, False])
    assert float(contributions(confidence, correct).mean()) == pytest.approx(0.0)


def check_bins_are_weighted_by_size(contributions) -> None:
    """Three samples with gap .25 - 0 and one with gap .75 - 1: (3 * .25 + 1 * .25) / 4 = .25; four with 0 shift it to .125."""
    confidence = torch.tensor([0.25] * 3 + [0.75] + [1.0] * 4, dtype=torch.float64)
    correct = torch.tensor([False] * 3 + [True] + [True] * 4)
    assert float(contributions(confidence, correct).mean()) == pytest.approx(0.125)


def check_accuracy_counts_samples(accuracy) -> None:
    """Three of class 0 right, one of class 1 wrong: 3 / 4, and not the class mean 1 / 2."""
    assert accuracy(answering([0, 0, 0, 0], [0, 0, 0, 1])) == pytest.approx(0.75)


def check_brier_sums_over_classes(brier) -> None:
    """With p = (.6, .3, .1), truth 0: .16 + .09 + .01 = .26, and not its mean over classes."""
    assert brier(said([[0.6, 0.3, 0.1]], [0])) == pytest.approx(0.26)


def check_nll_is_in_nats(nll) -> None:
    """With p = 1/4 for the truth: ln 4 = 1.386 nats, and not 2 bits."""
    assert nll(said([[0.25, 0.75]], [0])) == pytest.approx(1.3862943611, abs=1e-9)


def check_auc_halves_ties(auc) -> None:
    """Positive scores {.5, .5}, negative {.5, .2}: of 4 pairs 2 are won and 2 tied: 3 / 4."""
    scores, positive = torch.tensor([0.5, 0.5, 0.5, 0.2], dtype=torch.float64), torch.tensor([True, True, False, False])
    assert auc(scores, positive) == pytest.approx(0.75)


def check_uncertainty_is_two_sided(uncertain) -> None:
    """With p = .05, .5, .95 of an attribute: only the middle one is unsure, a confident "no" is not: 1 / 3."""
    assert uncertain(said([[0.95, 0.05], [0.5, 0.5], [0.05, 0.95]], [0, 0, 1])) == pytest.approx(1 / 3)


def check_median_of_even_number(median) -> None:
    """1, 2, 3, 10: 2.5, neither of the middle ones."""
    assert median([10.0, 1.0, 3.0, 2.0]) == pytest.approx(2.5)


def check_share_is_honest_at_the_edge(interval) -> None:
    """0 of 10 does not prove 0: the test p^2 = z^2 p (1 - p) / 10 accepts up to z^2 / (10 + z^2) = 3.8415 / 13.8415 = .2775."""
    low, high = interval(0, 10)
    assert low == 0 and high == pytest.approx(0.2775, abs=1e-4)


def check_pairs_use_their_pairing(interval) -> None:
    """20 gained, 10 lost of 1000 at 50 %: se = sqrt(30) / 1000 = .0055, while two independent shares would have .0224."""
    before = torch.arange(1000) < 500
    after = before.clone()
    after[:10], after[-20:] = False, True
    low, high = interval(after, before)
    assert low < 0.010 < high and (high - low) / 2 == pytest.approx(1.96 * 0.0055, rel=0.08)


def check_no_change_is_not_certainty(interval) -> None:
    """No discordant pair of 40: the score test accepts up to z^2 / (40 + z^2) = 3.8415 / 43.8415 = .0876 either way."""
    same = torch.arange(40) < 30
    assert interval(same, same) == pytest.approx((-0.0876, 0.0876), abs=1e-4)


def check_covers_the_mean(interval) -> None:
    """Over 300 skewed samples of 60 (exponential, mean 1) the interval holds 1 in 90 to 98 % of them."""
    generator = torch.Generator().manual_seed(7)
    draws = -torch.rand(300, 60, generator=generator, dtype=torch.float64).log()
    hits = sum(low <= 1 <= high for low, high in map(interval, draws))
    assert 0.90 <= hits / 300 <= 0.98


def score_test_accepts(gained: int, lost: int, n: int, difference: float) -> bool:
    """Tango's test done slowly: the likelihood under `difference` is maximised on a grid, then |z| <= 1.96 is asked."""
    floor, ceiling = max(0.0, -difference), (1 - difference) / 2
    grid = [floor + (ceiling - floor) * i / 20_000 for i in range(20_001)]
    q = max(grid, key=lambda q: _log_likelihood(gained, lost, n, q + difference, q))
    variance = 2 * q + difference - difference**2
    return abs(gained - lost - n * difference) <= NormalDist().inv_cdf(0.975) * math.sqrt(n * max(variance, 0.0)) + 1e-9


def _log_likelihood(gained: int, lost: int, n: int, p_gained: float, p_lost: float) -> float:
    cells = ((gained, p_gained), (lost, p_lost), (n - gained - lost, 1 - p_gained - p_lost))
    return sum(count * math.log(p) if p > 0 else -math.inf for count, p in cells if count)
