"""What looks as if channels could go, and other things that a network's code can do to them: outputs stay, whatever is zero."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.shrunk_networks import shrunk_alike, trained_looking, zero


class Of(nn.Module):
    """A layer, something between, and a layer that does not read two of eight channels."""

    def __init__(self, one: nn.Module, between: Callable[[Any, Tensor], Tensor], two: nn.Module, **extra: Any) -> None:
        super().__init__()
        self.one, self.two, self.between = one, two, [between]
        for name, value in extra.items():
            setattr(self, name, value)

    def forward(self, x: Tensor) -> Tensor:
        """What the last layer makes of it."""
        return self.two(self.between[0](self, self.one(x)))


def unread(module: Of) -> Of:
    """Random everywhere, and columns 1 and 6 of the last layer zero."""
    module = trained_looking(module)
    module.two.weight.data[:, [1, 6]] = 0
    return module


LINES = nn.Linear, (5, 5)


@pytest.mark.parametrize(
    "between",
    [
        lambda net, y: y * y.shape[-1] ** 0.5, lambda net, y: y / y.size(2), lambda net, y: y + y.shape[2],
        lambda net, y: functional.avg_pool2d(y, 3, 1, 1), lambda net, y: functional.pad(y, (2, 2), mode="reflect")[:, :, 2:-2],
        lambda net, y: functional.pad(y, (1, -1)), lambda net, y: nn.functional.max_pool1d(y, 3, 1, 1),
    ],
)  # fmt: skip
def test_code_that_counts_channels_or_looks_at_neighbours(between: Callable[[Any, Tensor], Tensor]):
    """On tokens [n, t, 8]: what a layer takes for space are the channels."""
    assert shrunk_alike(unread(Of(nn.Linear(4, 8), between, nn.Linear(8, 3))), 6, 4)[1].channels == 0


def test_an_instance_norm_over_what_it_takes_for_space():
    """On [n, 8] it is about one sample: 8 positions of n channels."""
    module = unread(Of(nn.Linear(4, 8), lambda net, y: net.norm(y), nn.Linear(8, 3), norm=nn.InstanceNorm1d(8)))
    assert shrunk_alike(module, 4)[1].channels == 0


def test_a_size_that_gives_a_shape_does_no_harm():
    """`view` with the tensor's own size: both channels go."""
    between = lambda net, y: y.view(y.size(0), y.size(1), -1).mean(2)  # noqa: E731
    assert shrunk_alike(unread(Of(nn.Conv2d(3, 8, 3), between, nn.Linear(8, 3))), 3, 6, 6)[1].channels == 2


def test_a_resize_to_the_size_of_another_tensor():
    """`interpolate(size=other.shape[2:])`, as U-Nets do: both channels go."""
    between = lambda net, y: functional.interpolate(net.down(y), size=y.shape[2:]) + y  # noqa: E731
    down = nn.Conv2d(8, 8, 3, stride=2, groups=8, padding=1)
    assert shrunk_alike(unread(Of(nn.Conv2d(3, 8, 3), between, nn.Conv2d(8, 2, 1), down=down)), 3, 7, 7)[1].channels == 2


def test_a_reshape_by_keyword_names_sizes_too():
    """8 channels of 16 positions, said in numbers."""
    between = lambda net, y: torch.reshape(y, shape=(-1, 128))  # noqa: E731
    module = trained_looking(Of(nn.Conv2d(3, 8, 3), between, nn.Linear(128, 3)))
    zero(module.one.weight, 2)
    assert shrunk_alike(module, 3, 6, 6)[1].channels == 0


def constant(module: Of) -> Of:
    """Random everywhere, and two filters zero, so that they are constants."""
    module = trained_looking(module)
    zero(module.one.weight, 1, 6)
    return module


@pytest.mark.parametrize("bias", [True, False])
def test_a_batch_norm_over_tokens_takes_no_constants(bias: bool):
    """Behind a linear layer on tokens its mean is of tokens, not of the layer's outputs."""
    module = Of(nn.Linear(4, 8), lambda net, y: torch.relu(y), nn.Linear(8, 6, bias=bias), norm=nn.BatchNorm1d(6))
    assert shrunk_alike(constant(nn.Sequential(module, module.norm)[0]), 6, 4)[1].channels == 2

    class Normed(Of):
        def forward(self, x: Tensor) -> Tensor:
            return self.norm(super().forward(x))

    again = Normed(nn.Linear(4, 8), lambda net, y: torch.relu(y), nn.Linear(8, 6, bias=bias), norm=nn.BatchNorm1d(6))
    assert shrunk_alike(constant(again), 6, 4)[1].channels == 2


def test_a_layer_of_two_names_is_folded_into_under_both():
    """What is loaded under the second name is not what was before."""
    module = Of(nn.Linear(4, 8), lambda net, y: torch.relu(y), nn.Linear(8, 3))
    module.alias = module.two
    assert shrunk_alike(constant(module), 4)[1].channels == 2


def test_a_bias_of_two_layers_takes_no_constants():
    """What one layer owes is not owed by the other."""
    module = Of(nn.Linear(4, 8), lambda net, y: torch.relu(y) + 0 * net.other(torch.relu(y)).sum(), nn.Linear(8, 3), other=nn.Linear(8, 3))
    module.other.bias = module.two.bias
    module = constant(module)
    with torch.no_grad():
        found = shrunk_alike(module, 4)[1]
    assert found.channels == 0
    assert "what their readers see of them is no constant" in " ".join(found.notes)


def test_an_unknown_change_in_place_is_no_constant():
    """`exp_` changes what the name before it stands for."""

    class Changed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 3), nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            y = self.a(x)
            y.exp_()
            return self.c(torch.relu(self.b(y)))

    module = trained_looking(Changed())
    zero(module.a.weight, 1)
    module.b.weight.data[0, [0, 2]] = 0
    found = shrunk_alike(module, 4)[1]
    assert found.channels == 0
    assert "`exp_`, which is not followed" in " ".join(found.notes)


def test_an_embedding_with_a_largest_norm_keeps_its_width():
    """Its rows are scaled by all of their columns."""
    soft = trained_looking(nn.Sequential(nn.Linear(4, 5), nn.Softmax(1), nn.Linear(5, 3)))
    soft[2].weight.data[:, [1, 3]] = 0
    assert shrunk_alike(soft, 4)[1].channels == 0
    from sparsify_cli.stages.shrunk import shrinking

    words = trained_looking(nn.Sequential(nn.Embedding(9, 8, max_norm=1.0), nn.Linear(8, 3)))
    words[1].weight.data[:, [1, 6]] = 0
    assert shrinking(words, torch.randint(9, (2, 4))).channels == 0
