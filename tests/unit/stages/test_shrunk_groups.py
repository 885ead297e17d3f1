"""Convolutions in groups: whole groups go, with what makes them and what reads them, and outputs stay."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

from sparsify_cli.maths.channel_groups import channel_groups
from tests.shrunk_networks import shapes, shrunk_alike, trained_looking, zero


class Block(nn.Module):
    """A stem, a bottleneck in groups that is added to it, and a classifier; `inside` and `outside` are its widths at the groups."""

    def __init__(self, inside: int, outside: int, groups: int, *, padding: int = 1, convolution: type = nn.Conv2d) -> None:
        super().__init__()
        wide = {nn.Conv2d: nn.BatchNorm2d, nn.Conv1d: nn.BatchNorm1d}[convolution]
        self.stem, self.first = convolution(3, 10, 1), convolution(10, inside, 1, bias=False)
        self.before, self.after = wide(inside), wide(outside)
        self.inner = convolution(inside, outside, 3, padding=padding, groups=groups, bias=False)
        self.last, self.head = convolution(outside, 10, 1), nn.Linear(10, 4)

    def forward(self, x):
        x = self.stem(x)
        y = self.after(self.inner(self.before(self.first(x)).relu())).relu()
        y = self.last(y) + x
        return self.head(y.flatten(2).mean(2))


def about(network: Block) -> tuple[int, ...]:
    """Groups and widths of the convolution in groups."""
    assert tuple(network.inner.weight.shape[:2]) == (network.inner.out_channels, network.inner.in_channels // network.inner.groups)
    return network.inner.groups, network.inner.in_channels, network.inner.out_channels


@pytest.mark.parametrize(("inside", "outside", "groups"), [(12, 12, 4), (12, 24, 4), (24, 8, 4), (6, 12, 6), (6, 6, 6), (8, 8, 2)])
@pytest.mark.parametrize("part", ["made", "grouped", "read"])
def test_a_group_goes_wherever_it_is_zero(inside, outside, groups, part):
    """Zero in what makes it, in the convolution itself, or in what reads it; other groups keep their numbers."""
    network = trained_looking(Block(inside, outside, groups))
    before, after = inside // groups, outside // groups
    if part == "made":
        zero(network.first.weight, *range(before, 2 * before))
        network.before.bias.data[before : 2 * before] = -1  # below zero, so that nothing passes the rectifier
        network.before.running_mean.zero_()
    elif part == "grouped":
        zero(network.inner.weight, *range(after, 2 * after))
    else:
        network.last.weight.data[:, after : 2 * after] = 0
    small, found = shrunk_alike(network, 3, 6, 6)
    assert about(small) == (groups - 1, inside - before, outside - after)
    assert len(small.first.weight) == inside - before and small.last.weight.shape[1] == outside - after
    assert found.channels == before


def test_sequences_too():
    """One axis of space."""
    network = trained_looking(Block(12, 12, 3, convolution=nn.Conv1d))
    zero(network.inner.weight, *range(4))
    assert about(shrunk_alike(network, 3, 9)[0]) == (2, 8, 8)


def test_single_zero_channels_stay_and_it_is_said():
    """Two of a group's four; the sentence names the layer that makes them."""
    network = trained_looking(Block(12, 12, 3))
    zero(network.first.weight, 1, 2)
    network.before.bias.data[1:3] = -1
    network.before.running_mean.zero_()
    small, found = shrunk_alike(network, 3, 6, 6)
    assert about(small) == (3, 12, 12)
    assert [note for note in found.notes if note.startswith("2 zero channels of first stay: a convolution in groups")]


def test_what_makes_constants_at_borders_stays():
    """A group of zeros whose batch norm puts out something before a convolution that pads: its outputs differ at the border."""
    network = trained_looking(Block(12, 12, 3))
    zero(network.first.weight, *range(4))
    network.before.bias.data[:4] = 2
    assert about(shrunk_alike(network, 3, 6, 6)[0]) == (3, 12, 12)
    network.inner.padding = (0, 0)
    network.last.padding = (1, 1)  # sizes fit the sum again, and constants meet a border there
    assert about(shrunk_alike(network, 3, 6, 6)[0]) == (3, 12, 12)


def test_constants_of_a_group_go_into_a_bias():
    """Where nothing pads, what a group of zeros still adds is in the bias behind it."""
    network = trained_looking(
        nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 12, 3, groups=4), nn.ReLU(), nn.Conv2d(12, 5, 1), nn.Flatten())
    )
    zero(network[0].weight, 0, 1)
    network[0].bias.data[:2] = 1
    network[1].bias.data[:3] = 2
    small, found = shrunk_alike(network, 3, 6, 6)
    assert (small[1].groups, found.channels, shapes(small)["3.weight"]) == (3, 2, [5, 9, 1, 1])


@pytest.mark.parametrize("counts", [(4, 8), (8, 4), (8, 2), (4, 16), (16, 4)])
def test_convolutions_in_groups_one_after_the_other(counts):
    """Of different counts: as many of the finer go as the coarser has channels in one group."""
    layers = nn.Conv2d(3, 16, 1), *(nn.Conv2d(16, 16, 3, padding=1, groups=count, bias=False) for count in counts), nn.Conv2d(16, 3, 1)
    network = trained_looking(nn.Sequential(*layers, nn.Flatten()))
    width = 16 // min(counts)
    zero(network[1].weight, *range(width, 2 * width))
    small, _ = shrunk_alike(network, 3, 5, 5)
    assert [layer.groups for layer in small[1:3]] == [count * (16 - width) // 16 for count in counts]


def test_counts_that_do_not_divide_each_other_stay():
    """Two groups and three of one row of six channels have nothing in common, and it is said."""
    layers = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 1, groups=2, bias=False), nn.Conv2d(6, 6, 1, groups=3, bias=False), nn.Conv2d(6, 2, 1)
    network = trained_looking(nn.Sequential(*layers, nn.Flatten()))
    zero(network[0].weight, 0, 1)
    small, found = shrunk_alike(network, 3, 4, 4)
    assert [layer.groups for layer in small[1:3]] == [2, 3]
    assert any(note.startswith("2 zero channels of 0 stay") and "two shapes" in note for note in found.notes)


def test_single_zero_channels_of_the_convolution_itself_are_told():
    """Neither made nor read elsewhere as zero; the sentence names the convolution."""
    network = trained_looking(Block(12, 12, 3))
    zero(network.inner.weight, 4, 5, 6)
    notes = shrunk_alike(network, 3, 6, 6)[1].notes
    assert [note for note in notes if note.startswith("3 zero channels of inner stay")]


class Beside(nn.Module):
    """Two branches side by side, read in groups; `counts` of channels, one after the other."""

    def __init__(self, counts: tuple[int, int], groups: int) -> None:
        super().__init__()
        self.one, self.two = (nn.Conv2d(3, count, 1) for count in counts)
        self.inner, self.last = nn.Conv2d(sum(counts), 12, 3, padding=1, groups=groups, bias=False), nn.Conv2d(12, 2, 1)

    def forward(self, x):
        return self.last(self.inner(torch.cat([self.one(x), self.two(x)], 1)).relu()).flatten(1)


@pytest.mark.parametrize(("counts", "left"), [((4, 8), 2), ((8, 4), 2), ((2, 10), 3)])
def test_groups_of_what_lies_side_by_side(counts, left):
    """A branch of whole groups loses them; where a group takes from both branches all stay."""
    network = trained_looking(Beside(counts, 3))
    zero(network.inner.weight, 4, 5, 6, 7)
    assert shrunk_alike(network, 3, 4, 4)[0].inner.groups == left


def test_a_sum_of_a_group_and_its_input():
    """The result of f in groups, added to what it was given: both have the groups' order, and a classifier behind."""

    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.inner, self.head = nn.Conv2d(3, 12, 1), nn.Conv2d(12, 12, 3, padding=1, groups=4), nn.Linear(12, 3)

        def forward(self, x):
            y = self.one(x)
            return self.head((y + self.inner(y)).mean((2, 3)))

    network = trained_looking(Sum())
    network.head.weight.data[:, 3:6] = 0
    small, found = shrunk_alike(network, 3, 5, 5)
    assert (small.inner.groups, small.one.out_channels, small.head.in_features, found.channels) == (3, 9, 9, 3)


def test_in_groups_only_on_demand():
    """Reordering for N:M leaves convolutions in groups alone."""
    network = Block(12, 12, 3)
    with_groups, without = (channel_groups(network, torch.randn(2, 3, 6, 6), in_groups=one) for one in (True, False))
    assert [group.channels for group in with_groups.groups if "first.weight" in group.writers] == [3]
    assert next(group.blocked for group in without.groups if "first.weight" in group.writers)


def test_random_chains():
    """Layers of random widths and groups with random zero groups: outputs stay, and groups times width are the channels."""
    gone = 0
    for seed in range(30):
        torch.manual_seed(seed)
        counts = [int(2 ** torch.randint(0, 4, ())) for _ in range(4)]
        widths = [3, *(8 * int(torch.randint(1, 4, ())) for _ in range(4))]
        wide = [
            nn.Conv2d(one, two, 1, groups=count if one % count == 0 else 1)
            for (one, two), count in zip(pairwise(widths), counts, strict=True)
        ]
        network = trained_looking(nn.Sequential(*wide, nn.ReLU(), nn.Conv2d(widths[-1], 2, 1), nn.Flatten()))
        for layer in wide:
            size = layer.out_channels // max(layer.groups, 4)
            start = torch.randperm(layer.out_channels // size)[0] * size
            layer.weight.data[start : start + size] = 0
            layer.bias.data[start : start + size] = 0
        gone += shrunk_alike(network, 3, 3, 3)[1].channels
    assert gone > 200
