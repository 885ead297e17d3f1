"""Temperature against a grid and against what it must be by construction; thresholds count exactly."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from sparsify_cli.maths.recalibration import temperature, threshold
from sparsify_cli.values.choices import choices


def drawn(n: int = 20_000, outputs: int = 4):
    """Logits, and labels drawn from their own softmax: they are calibrated as they are."""
    draw = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(n, outputs, generator=draw, dtype=torch.float64)
    return logits, torch.multinomial(logits.softmax(1), 1, generator=draw)[:, 0]


@pytest.mark.parametrize("scale", [0.2, 1.0, 7.0])
def test_logits_that_are_too_large_by_a_factor_are_divided_by_it(scale):
    """T is the factor, to the noise of 20,000 samples; scaling scales it exactly."""
    logits, labels = drawn()
    found = temperature(logits * scale, labels)
    assert found == pytest.approx(scale, rel=0.03)
    assert found == pytest.approx(scale * temperature(logits, labels), rel=1e-6)


@pytest.mark.parametrize("attributes", [False, True])
def test_it_is_the_minimum(attributes):
    """No temperature of a fine grid has a lower likelihood; for labels and for attributes."""
    logits, labels = drawn(500)
    targets = (torch.rand(500, 4, generator=torch.Generator().manual_seed(1)) < logits.sigmoid()).long() if attributes else labels
    found = temperature(logits, targets)

    def nll(t: float) -> float:
        return float(cross_entropy(*choices(logits / t, targets)))

    assert all(nll(found) <= nll(found * factor) for factor in (0.5, 0.9, 0.999, 1.001, 1.1, 2.0))


def test_where_no_temperature_is_the_likeliest_there_is_none():
    """All right, all wrong, or one logit for everything: the likelihood has no least place inside."""
    logits = torch.eye(3, dtype=torch.float64).repeat(5, 1)
    right = torch.arange(3).repeat(5)
    assert temperature(logits, right) is None
    assert temperature(logits, (right + 1) % 3) is None
    assert temperature(torch.zeros(6, 3, dtype=torch.float64), torch.arange(6) % 3) is None


def test_as_many_answers_are_yes_as_are_true():
    """Exactly, whatever the logits are; and the order of samples does not matter."""
    draw = torch.Generator().manual_seed(3)
    logits, targets = torch.randn(101, generator=draw, dtype=torch.float64) - 2, (torch.rand(101, generator=draw) < 0.3).long()
    found = threshold(logits, targets)
    assert int((logits > found).sum()) == int(targets.sum())
    assert threshold(logits.flip(0), targets.flip(0)) == found


def test_a_threshold_that_cannot_be_found():
    """One value only, or the same logit everywhere."""
    assert threshold(torch.tensor([1.0, 2.0]), torch.tensor([1, 1])) is None
    assert threshold(torch.tensor([1.0, 2.0]), torch.tensor([0, 0])) is None
    assert threshold(torch.tensor([1.0, 1.0]), torch.tensor([0, 1])) is None


def test_equal_logits_stand_in_the_way():
    """Three of ten are yes, but the largest logit stands five times: the cut below it is nearer than none, and order does not matter."""
    logits = torch.tensor([2.0] * 5 + [1.0, 0, -1, -2, -3])
    targets = torch.tensor([1, 1, 1, 0, 0, 0, 0, 0, 0, 0])
    assert threshold(logits, targets) == 1.5
    assert threshold(logits.flip(0), targets.flip(0)) == 1.5
