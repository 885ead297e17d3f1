"""Channels as terms, against the outputs themselves; gates against gated inputs."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sparsify_cli.maths.channel_gates import ChannelView, standing
from sparsify_cli.maths.channel_terms import by_channel, channel_counts, channel_terms
from sparsify_cli.maths.gram import gram_sum
from sparsify_cli.maths.matrix_view import to_matrix


def test_terms_are_products_of_outputs():
    """Of a 3x3 convolution: M_ij, c_i and E|F|^2 are means over positions of what channels 4 phi_i put out, one at a time."""
    torch.manual_seed(0)
    layer, inputs = nn.Conv2d(4, 5, 3, padding=1, bias=False).double(), torch.randn(2, 4, 6, 6, dtype=torch.float64)
    gram, rows = gram_sum(layer, inputs)
    known = channel_terms(to_matrix(layer.weight.detach()), gram / rows, positions=9)
    alone = [inputs * (torch.arange(4) == i)[:, None, None] for i in range(4)]
    phi = torch.stack([4 * layer(one).detach().movedim(1, -1).flatten() for one in alone])
    whole = layer(inputs).detach().movedim(1, -1).flatten()
    torch.testing.assert_close(known.products, phi @ phi.T / rows, rtol=0, atol=1e-10)
    torch.testing.assert_close(known.towards, phi @ whole / rows, rtol=0, atol=1e-10)
    assert known.power == pytest.approx(float(whole @ whole / rows), abs=1e-10)
    assert known.error(torch.full((4,), 0.25, dtype=torch.float64)) == pytest.approx(0, abs=1e-10)


def test_channels_that_are_zero_do_not_count():
    """With the third of three channels zero, the other two with 1/2 each are the whole layer."""
    weight = torch.tensor([[1.0, 2.0, 0.0]], dtype=torch.float64)
    known = channel_terms(weight, torch.eye(3, dtype=torch.float64))
    assert known.products.tolist() == [[4.0, 0.0, 0.0], [0.0, 16.0, 0.0], [0.0, 0.0, 0.0]]
    assert known.error(torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64)) == 0


def test_columns_are_positions_times_channels():
    """Channels are fastest: two channels at three positions are columns 0, 2, 4 and 1, 3, 5."""
    assert by_channel(torch.tensor([1.0, 2.0]), positions=3).tolist() == [1, 2, 1, 2, 1, 2]
    places = torch.tensor([[True, False, True, False, False, True]])
    assert channel_counts(places, positions=3).tolist() == [2, 1]


@pytest.mark.parametrize("groups", [1, 2])
def test_gated_weights_are_gated_inputs(groups):
    """A convolution with gated weights puts out what it does for gated inputs; in groups, each group has the same gates."""
    torch.manual_seed(0)
    layer, inputs, gates = nn.Conv2d(4, 6, 3, groups=groups, bias=False), torch.randn(2, 4, 5, 5), torch.rand(4 // groups)
    wanted = layer(inputs * gates.repeat(groups)[:, None, None])
    layer.weight.data = ChannelView(tuple(layer.weight.shape)).gated(layer.weight.data, gates)
    torch.testing.assert_close(layer(inputs), wanted)


def test_a_turned_weight_has_inputs_first():
    """[in, out]: gates multiply rows."""
    view = ChannelView((2, 3), turned=True)
    assert view.gated(torch.ones(2, 3), torch.tensor([2.0, 5.0])).tolist() == [[2.0] * 3, [5.0] * 3]
    assert view.sizes(torch.tensor([[1.0, 0.0, 3.0], [0.0, 0.0, 0.0]])).tolist() == [2, 0]


def test_places_go_down_from_the_first():
    """First 2, as it was given, then by score 9, 5, 1; the earlier of equal ones first; inside a channel by magnitude."""
    places = standing([2], torch.tensor([5.0, 1.0, 3.0, 9.0]))
    assert places.tolist() == [2, 1, 4, 3]
    assert standing([], torch.ones(3)).tolist() == [3, 2, 1]
    scores = ChannelView((2, 2)).ranked(torch.tensor([[100.0, 1.0], [-50.0, 2.0]]), torch.tensor([1.0, 2.0]))
    assert scores.flatten().argsort(descending=True).tolist() == [3, 1, 0, 2] and float(scores.max()) <= 1
