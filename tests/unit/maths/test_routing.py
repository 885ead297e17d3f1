"""Which samples are sent to another model, and how many have to be."""

import pytest
import torch

from sparsify_cli.maths.routing import below, least_share, routed

SURE = torch.tensor([0.9, 0.5, 0.7, 0.5, 0.6], dtype=torch.float64)


def test_the_least_sure_go():
    """Of five the two at 0.5; then the one at 0.6; all at share 1."""
    assert routed(SURE, 0.4).tolist() == [0, 1, 0, 1, 0] and routed(SURE, 0.6).tolist() == [0, 1, 0, 1, 1]
    assert routed(SURE, 0.0).tolist() == [0] * 5 and routed(SURE, 1.0).tolist() == [1] * 5


def test_equally_sure_samples_go_in_part():
    """One of two at 0.5: half of each."""
    assert routed(SURE, 0.2).tolist() == [0, 0.5, 0, 0.5, 0]


@pytest.mark.parametrize("share", [0.0, 0.03, 0.2, 0.31, 0.5, 0.77, 1.0])
def test_as_many_go_as_were_asked(share):
    """Whatever the ties."""
    sure = torch.randint(4, (37,), generator=torch.Generator().manual_seed(0)).double()
    assert float(routed(sure, share).sum()) == pytest.approx(share * 37)


def test_where_the_cut_falls():
    """At the confidence of the first that stays, or of those that go in part."""
    assert below(SURE, 0.4) == 0.6 and below(SURE, 0.2) == 0.5 and below(SURE, 1.0) == 0.9


def test_share_that_is_needed():
    """The other model is right on all; ours is wrong on the two least sure: two fifths. Where it is as good already, none."""
    ours = torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0], dtype=torch.float64)
    other = torch.ones(5, dtype=torch.float64)
    assert least_share(SURE, ours, other, aim=1.0, steps=10) == 0.4 and least_share(SURE, ours, other, aim=0.6) == 0.0
    assert least_share(SURE, ours, 0 * other, aim=0.7) is None


def test_a_lucky_share_is_not_enough():
    """The least sure sample alone makes 3 of 5, the next one takes it away again: the aim holds for good from the fourth on."""
    ours, other = (torch.tensor(row, dtype=torch.float64) for row in ([0, 1, 1, 0, 0], [1, 0, 1, 1, 0]))
    order = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5], dtype=torch.float64)
    shares = [float((ours + routed(order, step / 5) * (other - ours)).sum()) for step in range(5)]
    assert shares == [2, 3, 2, 2, 3] and least_share(order, ours, other, aim=0.6, steps=5) == 0.8
