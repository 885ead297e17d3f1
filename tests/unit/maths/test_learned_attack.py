"""The attack that learns, against scikit-learn, and how often its interval holds the truth."""

from __future__ import annotations

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from sparsify_cli.maths.learned_attack import fitted_logits, learned_auc
from sparsify_cli.maths.membership import features


def audited(side: int, more: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What is seen of answers to `side` forgotten and as many unseen samples of ten classes, the forgotten ones by `more` surer."""
    generator, forgotten = torch.Generator().manual_seed(seed), torch.arange(2 * side) < side
    logits, targets = 2 * torch.randn(2 * side, 10, generator=generator), torch.randint(10, (2 * side,), generator=generator)
    logits[torch.arange(2 * side), targets] += 3 + more * forgotten
    return features(logits, targets), forgotten


@pytest.mark.parametrize("more", [0.0, 3.0, 300.0])
def test_the_regression_is_that_of_scikit_learn(more: float):
    """Nothing to learn, something, sides that lie apart; a feature that never varies is no harm."""
    rows, forgotten = audited(50, more, 0)
    rows = torch.cat([rows, torch.full((100, 1), 7.0, dtype=torch.float64)], dim=1)
    learned = torch.rand(2, 100, generator=torch.Generator().manual_seed(1)) < 0.8
    for said, used in zip(fitted_logits(rows, forgotten, learned), learned, strict=True):
        scaled = StandardScaler().fit(rows[used].numpy())
        theirs = LogisticRegression(tol=1e-10, max_iter=10_000).fit(scaled.transform(rows[used].numpy()), forgotten[used].numpy())
        expected = torch.tensor(theirs.decision_function(scaled.transform(rows.numpy())))
        torch.testing.assert_close(said, expected, atol=1e-4, rtol=1e-4)


def test_interval_holds_one_half_where_nothing_can_be_told():
    """Of 150 draws of 40 and 40 samples at least 135 hold it, as 95 % promise within chance, and the mean is 0.5."""
    draws = [learned_auc(*audited(40, 0.0, seed), seed) for seed in range(150)]
    assert sum(one.low <= 0.5 <= one.high for one in draws) >= 135
    assert sum(one.value for one in draws) / 150 == pytest.approx(0.5, abs=0.02)


def test_what_can_be_told_is_found():
    """Surer by five units on the logit scale: the interval lies above 0.5 in every one of ten draws."""
    draws = [learned_auc(*audited(40, 5.0, seed), seed) for seed in range(10)]
    assert all(one.low > 0.5 for one in draws)
    assert all(0.5 < one.value <= one.high <= 1 for one in draws)


def test_what_it_learned_is_judged_on_other_samples():
    """Sixty features of pure noise for sixty samples, which a fit separates: nothing is told."""
    generator = torch.Generator().manual_seed(3)
    found = learned_auc(torch.randn(60, 60, generator=generator, dtype=torch.float64), torch.arange(60) < 30, 0)
    assert found.low < 0.5 < found.high


def test_the_same_seed_gives_the_same_parts():
    """Another seed, other parts."""
    rows, forgotten = audited(20, 1.0, 0)
    assert learned_auc(rows, forgotten, 4) == learned_auc(rows, forgotten, 4) != learned_auc(rows, forgotten, 5)
