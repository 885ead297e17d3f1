"""Scores from the activity of input channels, done by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sparsify_cli.criteria.activation_mean import ActivationMean
from sparsify_cli.criteria.activation_variance import ActivationVariance
from sparsify_cli.criteria.apoz import Apoz
from sparsify_cli.maths.activity import Activity
from sparsify_cli.values.stats import Stats

WEIGHT = torch.tensor([[1.0, -9.0, 2.0], [8.0, 3.0, 0.0]])
ROWS = torch.tensor([[0.0, -4.0, 0.0], [6.0, -4.0, 0.0], [0.0, -4.0, 0.0], [2.0, -4.0, 2.0]])
"""Channel means 2, -4, 1/2; variances 6, 0, 3/4; active in 2, 4 and 1 of 4 rows."""

METHODS = [
    (Apoz(), [1 / 2, 1, 1 / 4], [1, 4, 3, 0, 2, 5]),
    (ActivationMean(), [2, 4, 1 / 2], [1, 4, 3, 0, 2, 5]),
    (ActivationVariance(), [6, 0, 3 / 4], [3, 0, 2, 5, 1, 4]),
]
EACH = pytest.mark.parametrize(("criterion", "values", "order"), METHODS, ids=["apoz", "mean", "variance"])


def scores(criterion, layer, inputs, weight):
    """Its scores of a layer that saw such inputs."""
    activity = Activity()
    activity.add(layer, inputs)
    return criterion.score("a", weight, Stats(inputs={"a": activity.result()}))


@EACH
def test_linear_by_hand(criterion, values, order):
    """Each weight scores what its channel does, to a millionth of the largest; from the highest: channel by channel, then by |w|."""
    found = scores(criterion, nn.Linear(3, 2), ROWS, WEIGHT)
    assert found.flatten().tolist() == pytest.approx(values * 2, abs=1e-6 * max(values))
    assert found.flatten().argsort(descending=True).tolist() == order


@EACH
def test_kernel_positions_are_one_channel(criterion, values, order):
    """A kernel of one position over four steps sees the same rows; with two positions, weights still follow their channel alone."""
    found = scores(criterion, nn.Conv1d(3, 2, 1), ROWS.T[None], WEIGHT[..., None])
    assert found.flatten().tolist() == pytest.approx(values * 2, abs=1e-6 * max(values))
    wide = scores(criterion, nn.Conv1d(3, 2, 2), ROWS.T[None], torch.randn(2, 3, 2))
    spread = wide.amax((0, 2)) - wide.amin((0, 2))
    assert float(spread.max()) < 1e-5
    assert float(wide.mean((0, 2)).sort().values.diff().min()) > 0.1


def test_two_kernel_positions_by_hand():
    """Channel 0, 0 6 0 2, is 0 6 0 at the first position and 6 0 2 at the second: mean 14/6. The others: -4, and 0 0 0 with 0 0 2."""
    found = scores(ActivationMean(), nn.Conv1d(3, 2, 2), ROWS.T[None], torch.randn(2, 3, 2))
    torch.testing.assert_close(found[0, :, 1], torch.tensor([14 / 6, 4, 1 / 3], dtype=torch.float64), rtol=0, atol=1e-5)


@EACH
def test_groups_read_their_own_channels(criterion, values, order):
    """Depthwise: output c reads channel c alone."""
    found = scores(criterion, nn.Conv1d(3, 3, 1, groups=3), ROWS.T[None], torch.ones(3, 1, 1))
    assert found.flatten().tolist() == pytest.approx(values, abs=1e-6 * max(values))


@EACH
def test_channels_that_are_never_active_go_first(criterion, values, order):
    """Their weights score below all others, the larger ones higher, and nothing is NaN."""
    found = scores(criterion, nn.Linear(2, 2), torch.tensor([[0.0, 1.0], [0.0, 3.0], [0.0, 0.0]]), torch.tensor([[50.0, 0.1], [40.0, 0.0]]))
    assert found[1, 0] < found[0, 0] < found[1, 1] < found[0, 1]


@EACH
def test_all_dead_inputs_leave_the_order_to_size(criterion, values, order):
    """No channel is ever active: |w| ranks, and every score is finite."""
    found = scores(criterion, nn.Linear(3, 2), torch.zeros(4, 3), WEIGHT)
    assert found.flatten().argsort(descending=True).tolist() == WEIGHT.abs().flatten().argsort(descending=True).tolist()
