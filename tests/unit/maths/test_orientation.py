"""Weights turned so that outputs come first: of a transposed convolution in groups, the convolution that each output is."""

import numpy as np
import pytest
import torch
from torch import nn

from sparsify_cli.maths.orientation import inputs_first, outputs_first, turned_shape


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_turned_weights_multiply_the_inputs_of_their_group(groups):
    """With kernels of one position a transposed convolution is the convolution with the turned weight."""
    layer = nn.ConvTranspose1d(8, 12, 1, groups=groups, bias=False)
    turned = outputs_first(layer.weight, groups)
    same = nn.Conv1d(8, 12, 1, groups=groups, bias=False)
    assert turned.shape == same.weight.shape == turned_shape(tuple(layer.weight.shape), groups)
    same.weight.data = turned.detach().contiguous()
    x = torch.randn(5, 8, 3)
    torch.testing.assert_close(same(x), layer(x))


@pytest.mark.parametrize("groups", [None, 1, 3])
def test_turning_back_gives_what_was_stored(groups):
    """Tensors and arrays, to the bit."""
    weight = torch.randn(6, 5, 2)
    assert torch.equal(inputs_first(outputs_first(weight, groups), groups), weight)
    array = weight.numpy()
    assert np.array_equal(inputs_first(outputs_first(array, groups), groups), array)
    assert np.array_equal(outputs_first(array, groups), outputs_first(weight, groups).numpy())
    assert turned_shape(turned_shape((6, 5, 2), groups), groups) == (6, 5, 2)
