"""Copies of networks that keep what they computed, and other types with complex numbers whole."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from sparsify_cli.values.copies import copy_of, in_float64, in_type


def normed(kind):
    """A layer whose weight old torch code computes before each pass, after a pass with gradients."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = nn.Sequential(kind(nn.Linear(4, 3)), nn.ReLU())
    net(torch.randn(2, 4))
    return net


@pytest.mark.parametrize("kind", [nn.utils.weight_norm, nn.utils.spectral_norm], ids=["weight", "spectral"])
def test_computed_weights_are_copied_as_numbers(kind):
    """The copy answers alike, also after its own parameters moved, which the original does not notice."""
    net, x = normed(kind), torch.randn(5, 4)
    net.eval()
    twin = copy_of(net)
    assert torch.equal(twin(x), net(x))
    before = net(x)
    with torch.no_grad():
        twin[0].bias.add_(1)
        for parameter in twin.parameters():
            parameter.mul_(2)
    assert torch.equal(net(x), before) and not torch.allclose(twin(x), before)


def test_whatever_a_network_has_kept_is_copied():
    """A tensor with a history that lies beside the parameters."""
    net = nn.Linear(2, 2)
    net.last = net(torch.ones(1, 2))
    twin = copy_of(net)
    assert torch.equal(twin.last, net.last) and twin.last.is_leaf and not net.last.is_leaf


def test_complex_numbers_keep_both_parts():
    """Floating tensors become float64, complex ones complex128, integers stay."""
    net = nn.Module()
    net.real, net.both = nn.Parameter(torch.ones(2)), nn.Parameter(torch.tensor([1 + 2j], dtype=torch.complex64))
    net.register_buffer("count", torch.tensor(3))
    assert in_float64(net) is net
    assert [t.dtype for t in (net.real, net.both, net.count)] == [torch.float64, torch.complex128, torch.int64]
    assert net.both.tolist() == [1 + 2j]
    in_type(net, torch.float32)
    assert (net.real.dtype, net.both.dtype) == (torch.float32, torch.complex64)
