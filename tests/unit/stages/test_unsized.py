"""Networks and data that cannot be worked with, told before any work: lazy layers, several inputs, a class for each pixel."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from sparsify_cli.errors import BadData, BrokenPlugin
from sparsify_cli.stages.resolve import build_architecture
from sparsify_cli.values.arrays import samples_from
from sparsify_cli.values.checkpoint import Spec


def lazy() -> nn.Module:
    """A network whose sizes are not known."""
    return nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(3))


def run_once() -> nn.Module:
    """The same after an example."""
    module = lazy()
    module(torch.zeros(2, 1, 8, 8))
    return module


def test_lazy_layers_are_named():
    """The sentence names the first and says what to do; a network that saw an example is built."""
    with pytest.raises(BrokenPlugin, match=r"0\.weight .*lazy\. .*Run the network once"):
        build_architecture(Spec(f"{__name__}:lazy"))
    assert build_architecture(Spec(f"{__name__}:run_once"))[0].weight.shape == (4, 1, 3, 3)


@pytest.mark.parametrize(
    "inputs", [(np.zeros((9, 4)), np.zeros((9, 2))), {"a": np.zeros((9, 4))}, [torch.zeros(9, 1, 2, 2), torch.zeros(9, 3)]]
)
def test_several_inputs_are_refused(inputs):
    """One array is given to a network; a list of samples is one."""
    with pytest.raises(BadData, match="by name or in a list"):
        samples_from(inputs, np.arange(9) % 3, split="train", where="data")
    assert len(samples_from([np.zeros((4, 4)) for _ in range(9)], np.arange(9) % 3, split="train", where="data")) == 9


def test_a_class_for_each_pixel_is_refused():
    """The advice is about what the network puts out."""
    with pytest.raises(BadData, match=r"A class for each position .* as float32"):
        samples_from(np.zeros((9, 1, 4, 4), np.float32), np.zeros((9, 4, 4), np.int64), split="train", where="data")


def test_a_single_label_is_refused_as_before():
    """A number without a length is no labels."""
    with pytest.raises(BadData, match="labels"):
        samples_from(np.zeros((4, 2)), np.array(3), split="train", where="data")
