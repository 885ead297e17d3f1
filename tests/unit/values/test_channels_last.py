"""Channels last: taken where the network answers alike, there and back, and left where it does not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sparsify_cli.values.channels_last import channels_last, order_for

IMAGES = torch.randn(3, 2, 6, 6, generator=torch.Generator().manual_seed(0))


class Flattened(nn.Module):
    """Flattens what a convolution puts out by `view`, as LeNet and VGG often do."""

    def __init__(self) -> None:
        """One convolution."""
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Of channels-last outputs there is no such view."""
        out = self.conv(x)
        return out.view(len(x), -1)


class Memory(nn.Module):
    """Looks at memory, whatever order it is in."""

    def __init__(self) -> None:
        """A layer that would gain."""
        super().__init__()
        self.pool = nn.MaxPool2d(1)

    def forward(self, x: Tensor) -> Tensor:
        """The first numbers there."""
        x = self.pool(x)
        return torch.as_strided(x, (len(x), 5), (x.stride(0), 1))


class Backwards(torch.autograd.Function):
    """Takes any order on the way there and one on the way back."""

    @staticmethod
    def forward(ctx, x):
        """As it is."""
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        """By `view`."""
        return gradient.view(-1).view(gradient.shape)


class Stubborn(nn.Module):
    """Cannot be differentiated in another order."""

    def __init__(self) -> None:
        """Two convolutions."""
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        """What comes back between the two has the order of what went there."""
        return self.second(Backwards.apply(self.first(x))).flatten(1)


def test_a_convolutional_network_takes_its_images_channels_last():
    """The same numbers, in another order in memory."""
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.MaxPool2d(2), nn.Flatten()).eval()
    found = order_for(net, IMAGES)(IMAGES)
    assert torch.equal(found, IMAGES) and found.is_contiguous(memory_format=torch.channels_last) and not found.is_contiguous()


class Picky(Flattened):
    """Says what it wants."""

    def forward(self, x: Tensor) -> Tensor:
        """In words of its own."""
        assert x.is_contiguous(), "contiguous images, please"
        return self.conv(x).flatten(1)


@pytest.mark.parametrize("net", [Flattened(), Memory(), Stubborn(), Picky()], ids=["view", "memory", "backward", "assertion"])
def test_a_network_that_counts_on_the_usual_order_keeps_it(net):
    """Nothing is copied."""
    assert order_for(net.eval(), IMAGES)(IMAGES) is IMAGES


@pytest.mark.parametrize(
    "inputs",
    [torch.randn(4, 7), torch.arange(12).reshape(3, 4), torch.zeros(0, 2, 6, 6), torch.ones(2, 2, 6, 6, dtype=torch.int64)],
    ids=["rows", "ids", "none", "grid"],
)
def test_what_is_no_image_stays_as_it_is(inputs):
    """The network is not even asked; neither about a grid of ids, which noise would make no grid of ids."""
    assert order_for(nn.Conv2d(2, 4, 3).eval(), inputs)(inputs) is inputs


def test_of_a_single_channel_the_strides_tell():
    """Torch calls both orders contiguous; layers go by the strides."""
    grey = channels_last(torch.randn(2, 1, 5, 4))
    assert grey.stride() == (20, 1, 4, 1)


def test_trying_leaves_no_gradient():
    """Neither on the weights nor on the images."""
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten()).eval()
    order_for(net, IMAGES)
    assert net[0].weight.grad is None and not IMAGES.requires_grad


class InPlace(Flattened):
    """Normalises the very images it is given."""

    def forward(self, x: Tensor) -> Tensor:
        """In place."""
        return self.conv(x.sub_(0.5).mul_(2)).flatten(1)


class BackwardsAstray(torch.autograd.Function):
    """Takes any order on the way there, and mistakes it on the way back."""

    @staticmethod
    def forward(ctx, x):
        """As it is."""
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        """Read as if the width came last."""
        return torch.as_strided(gradient, gradient.shape, torch.empty(gradient.shape).stride())


class Astray(Stubborn):
    """Answers alike, and gives other gradients."""

    def forward(self, x: Tensor) -> Tensor:
        """Between the two."""
        return self.second(BackwardsAstray.apply(self.first(x))).flatten(1)


class Tuple(nn.Conv2d):
    """Puts out more than its answers."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Twice."""
        return super().forward(x), x


class Blinded(nn.Module):
    """Looks at memory, and adds what hides it: an offset that all share."""

    def __init__(self) -> None:
        """A layer, so that there are gradients."""
        super().__init__()
        self.conv, self.line = nn.Conv2d(2, 2, 1), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Of the first numbers there."""
        return self.line(torch.as_strided(self.conv(x), (len(x), 5), (x.stride(0), 1))) + 1e6


@pytest.mark.parametrize("net", [Astray(), Tuple(2, 4, 3), Blinded(), Memory()], ids=["gradients", "tuple", "offset", "memory"])
def test_a_network_that_does_not_answer_alike_keeps_the_usual_order(net):
    """Also where it raises nothing, and where blank images hide it."""
    blank = torch.zeros_like(IMAGES)
    assert order_for(net.eval(), IMAGES)(IMAGES) is IMAGES
    assert order_for(net.eval(), blank)(blank) is blank


def test_trying_changes_neither_images_nor_random_numbers():
    """Of a network that writes into its inputs, and draws in eval mode."""
    net, images = nn.Sequential(InPlace(), nn.Dropout()).train(), IMAGES.clone()
    state = torch.get_rng_state()
    order_for(net, images)
    assert torch.equal(images, IMAGES)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("net", [nn.Sequential(nn.Flatten(), nn.Linear(72, 3)), nn.Conv2d(2, 4, 3).double()], ids=["linear", "float64"])
def test_what_gains_nothing_stays_as_it_is(net):
    """Networks without convolutions and pools, and those in double precision, which can be twice as slow."""
    assert order_for(net.eval(), IMAGES)(IMAGES) is IMAGES
