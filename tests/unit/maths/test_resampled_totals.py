"""Totals of resampled test sets: their centre, spread, order and pairing."""

import pytest
import torch

from sparsify_cli.maths.resampled_totals import BLOCKS, content_order, resampled_totals, with_interval
from sparsify_cli.values.report import Finding


def bits(n, share=0.3, columns=2, seed=0) -> torch.Tensor:
    """Random answers."""
    return torch.rand(n, columns, generator=torch.Generator().manual_seed(seed)) < share


@pytest.mark.parametrize("n", [400, BLOCKS, 2 * BLOCKS + 17], ids=["few", "as many as blocks", "blocks"])
def test_totals_vary_as_sums_of_samples_do(n):
    """Mean n p and variance n p (1 - p) of the total of each column, with blocks as without."""
    values = bits(n)
    totals, p = resampled_totals(values, content_order(values)), values.double().mean(dim=0)
    assert totals.mean(dim=0).tolist() == pytest.approx((n * p).tolist(), rel=0.02)
    shares = totals if n <= BLOCKS else totals - p * resampled_totals(torch.ones_like(values), content_order(values))
    assert shares.var(dim=0).tolist() == pytest.approx((n * p * (1 - p)).tolist(), rel=0.15)


@pytest.mark.parametrize("n", [50, BLOCKS + 1])
def test_order_of_samples_does_not_matter(n):
    """The same rows elsewhere give the same totals, bit by bit; whole numbers as well as bits."""
    for values in (bits(n, columns=11), torch.randint(5, (n, 3), generator=torch.Generator().manual_seed(1)).to(torch.int16)):
        other = values[torch.randperm(n)]
        assert torch.equal(resampled_totals(values, content_order(values)), resampled_totals(other, content_order(other)))


def test_columns_are_drawn_together():
    """A column and its complement add up to all samples in every resample, however many columns are between them."""
    values = bits(300, columns=400)
    totals = resampled_totals(torch.cat([values, ~values], dim=1), content_order(values))
    assert (totals[:, :400] + totals[:, 400:] == 300).all()


def test_intervals_and_why_there_is_none():
    """2.5 and 97.5 % of the resamples around the value; none without spread, or where too many resamples are undefined."""
    one = Finding(name="x", value=0.5)
    found = with_interval(one, torch.linspace(0, 1, 1001).double())
    assert (found.low, found.high) == pytest.approx((0.025, 0.975))
    assert with_interval(one, torch.full((1000,), 0.5).double()).note.startswith("no spread")
    many, some = (torch.arange(1000).double().where(torch.arange(1000) >= k, torch.nan) for k in (26, 25))
    assert "too few" in with_interval(one, many).note and with_interval(one, some).high is not None
