"""Channels as a whole: pooled over kernel positions, and weights inside them told apart without crossing."""

from __future__ import annotations

import pytest
import torch

from sparsify_cli.maths.channel_activity import of_channels, ranked_by_channel
from sparsify_cli.values.stats import Inputs


def columns(mean, variance, active):
    """Activity of columns from lists."""
    return Inputs(*(torch.tensor(values, dtype=torch.float64) for values in (mean, variance, active)))


def test_kernel_positions_are_one_sample():
    """Two positions of two channels, channels fastest: means 1, 3 of channel 0 and 5, 5 of channel 1; their spread adds 1 and 0."""
    found = of_channels(columns([1, 5, 3, 5], [2, 0, 4, 6], [1, 0.5, 0, 0.5]), torch.zeros(3, 2, 1, 2))
    assert found.mean.tolist() == [[2, 5]]
    assert found.variance.tolist() == [[4, 3]]
    assert found.active.tolist() == [[0.5, 0.5]]


def test_groups_keep_their_own_channels():
    """Two groups of one channel each at two positions: [groups, channels]; a linear layer's columns are its channels."""
    found = of_channels(columns([[1, 3], [5, 7]], [[0, 0], [0, 0]], [[1, 1], [0, 0]]), torch.zeros(4, 1, 2))
    assert (found.mean.tolist(), found.variance.tolist(), found.active.tolist()) == ([[2], [6]], [[1], [1]], [[1], [0]])
    assert of_channels(columns([1, 2, 3], [0, 0, 0], [1, 1, 1]), torch.zeros(2, 3)).mean.tolist() == [[1, 2, 3]]


def test_order_is_channel_first_then_size():
    """Channels 2, 8, 5 read by |w| = 4 1 1 and 3 9 2: 9, 1 of channel 8, then 2, 1 of channel 5, then 4, 3 of channel 2."""
    scores = ranked_by_channel(torch.tensor([[2.0, 8.0, 5.0]], dtype=torch.float64), torch.tensor([[4.0, -1.0, 1.0], [-3.0, 9.0, 2.0]]))
    assert scores.flatten().argsort(descending=True).tolist() == [4, 1, 5, 2, 0, 3]
    torch.testing.assert_close(scores, torch.tensor([[2.0, 8.0, 5.0]] * 2, dtype=torch.float64), rtol=0, atol=2e-6)


@pytest.mark.parametrize("values", [[0.0, 1e-300], [1.0, 1 + 2**-52], [0.0, 0.0], [-1e-9, 5e8]], ids=str)
def test_channels_never_cross(values):
    """The smallest weight of the higher channel scores at least as much as the largest of the lower one, however near they are."""
    weight = torch.tensor([[1e9, 0.0], [0.0, 1e9]], dtype=torch.float64)
    scores = ranked_by_channel(torch.tensor([values], dtype=torch.float64), weight)
    assert bool(scores.isfinite().all())
    if values[0] < values[1]:
        assert float(scores[:, 0].max()) < float(scores[:, 1].min())
    else:
        assert scores.tolist() == scores.T.tolist()  # equal channels compete as one, by |w|


def test_outputs_of_a_group_read_its_channels():
    """Four outputs in two groups of one channel each: the first two read channel 7, the others channel 1."""
    scores = ranked_by_channel(torch.tensor([[7.0], [1.0]], dtype=torch.float64), torch.zeros(4, 1, 2))
    assert scores.squeeze(1).tolist() == [[7, 7], [7, 7], [1, 1], [1, 1]]


def test_kernel_positions_of_a_channel_are_neighbours_in_memory():
    """[out, channels, kernel]: both positions of channel 0 score 7, both of channel 1 score 1."""
    scores = ranked_by_channel(torch.tensor([[7.0, 1.0]], dtype=torch.float64), torch.zeros(2, 2, 2))
    assert scores.tolist() == [[[7, 7], [1, 1]]] * 2
