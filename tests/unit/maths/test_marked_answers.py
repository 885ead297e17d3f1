"""Shares of marked answers by hand, and that their intervals hold the truth where answers of a sample hang together."""

from __future__ import annotations

import pytest
import torch

from sparsify_cli.maths.intervals import wilson
from sparsify_cli.maths.marked_answers import by_sample, count, lift, share

ANSWERS = 20


def marks(*rows: str) -> torch.Tensor:
    """One string of 0 and 1 a sample."""
    return torch.tensor([[letter == "1" for letter in row] for row in rows])


def test_by_hand():
    """Of six answers four changed, three of those among the five at risk: 3/4, and 3/4 over 5/6."""
    at_risk, changed = marks("110", "111"), marks("101", "110")
    assert share(at_risk, changed).value == 3 / 4 and share(changed, at_risk).value == 3 / 5
    assert lift(at_risk, changed).value == pytest.approx(0.75 / (5 / 6))
    assert count(changed).value == 4
    assert by_sample(changed.flatten(), 2).equal(changed) and by_sample(changed.flatten()[:0], 0).shape == (0, 1)


def test_one_answer_a_sample_has_wilsons_interval():
    """Three of ten."""
    top = torch.arange(10)[:, None] < 3
    assert share(top, torch.ones_like(top)) == wilson(3, 10)


def test_no_spread_is_no_certainty():
    """Each of twelve samples changed in both answers: as twelve of twelve, not 100 % for sure."""
    every = torch.ones(12, 2, dtype=torch.bool)
    assert share(every, every) == wilson(12, 12)


def test_order_of_samples_does_not_matter():
    """The same bits whatever comes first."""
    draw = torch.Generator().manual_seed(0)
    top, of, order = torch.rand(30, 3, generator=draw) < 0.4, torch.rand(30, 3, generator=draw) < 0.5, torch.randperm(30, generator=draw)
    assert share(top, of) == share(top[order], of[order]) and lift(top, of) == lift(top[order], of[order])


def hanging(seed: int, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Answers at risk and changed, both by a chance that belongs to the sample; apart from that without any link."""
    draw = torch.Generator().manual_seed(seed)
    chance = torch.rand(n, 2, 1, generator=draw)
    found = torch.rand(n, 2, ANSWERS, generator=draw) < chance**2
    return found[:, 0], found[:, 1]


@pytest.mark.slow
def test_intervals_hold_the_truth_where_answers_hang_together():
    """150 samples of twenty answers, a third marked: share 1/3 and lift 1 are in 90 to 99 of 100 intervals."""
    found = [hanging(seed, 150) for seed in range(100)]
    for truth, rule in ((1 / 3, share), (1.0, lift)):
        held = sum(rule(*one).low <= truth <= rule(*one).high for one in found)
        assert 90 <= held <= 99, (rule.__name__, held)
