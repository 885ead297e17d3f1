"""Ratios of totals as means over samples."""

import math

import pytest
import torch

from sparsify_cli.maths.ratios import EXPONENTIAL, RATIO, ROOT, contributions

G = torch.Generator().manual_seed(0)
BELOW = torch.randint(1, 30, (400,), generator=G).double()
ABOVE = BELOW * (1 + 0.2 * torch.randn(400, generator=G).double()) + 3 * torch.randn(400, generator=G).double()


@pytest.mark.parametrize(("shape", "value"), [(RATIO, lambda r: r), (EXPONENTIAL, math.exp), (ROOT, math.sqrt)])
def test_mean_is_the_function_of_the_ratio(shape, value):
    """Of totals, not the mean of ratios."""
    ratio = float(ABOVE.sum() / BELOW.sum())
    assert float(contributions(ABOVE, BELOW, shape).mean()) == pytest.approx(value(ratio), rel=1e-12)


@pytest.mark.parametrize(("shape", "value"), [(RATIO, torch.clone), (EXPONENTIAL, torch.exp), (ROOT, torch.sqrt)])
def test_spread_is_that_of_resampled_ratios(shape, value):
    """Standard error against 4,000 resampled test sets, within 5 %."""
    drawn = torch.randint(400, (4000, 400), generator=torch.Generator().manual_seed(1))
    wanted = value(ABOVE[drawn].sum(1) / BELOW[drawn].sum(1)).std()
    assert float(contributions(ABOVE, BELOW, shape).std() / 20) == pytest.approx(float(wanted), rel=0.05)


def test_equal_denominators_give_plain_means():
    """As many tokens in every text: each text's own number."""
    one = contributions(ABOVE, torch.full_like(BELOW, 4.0))
    torch.testing.assert_close(one, ABOVE / 4)


def test_nothing_below_is_no_number():
    """Texts without a token that counts."""
    assert bool(contributions(torch.zeros(3), torch.zeros(3)).isnan().all())
