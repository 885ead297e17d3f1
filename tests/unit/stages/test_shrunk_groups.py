"""Convolutions in groups: whole groups go, with what makes them and what reads them, and outputs stay."""

from __future__ import annotations

from copy import deepcopy
from itertools import pairwise

import pytest
import torch
from torch import nn

from sparsify_cli.maths.channel_groups import channel_groups
from sparsify_cli.maths.resize import resized
from sparsify_cli.values.mask_set import MaskSet
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
    assert [note for note in found.notes if note.startswith("2 zero channels of first stay: they only go together")]


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


class Expanding(nn.Module):
    """Four channels that a padded layer reads as they are, and another one behind a convolution that makes two of each."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.plain, self.inner = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 5, 3, padding=1), nn.Conv2d(4, 8, 1, groups=4)
        self.wide, self.head = nn.Conv2d(8, 5, 3, padding=1), nn.Linear(5, 2)

    def forward(self, x):
        x = self.one(x).relu()
        return self.head((self.plain(x) + self.wide(self.inner(x))).relu().mean((2, 3)))


@pytest.mark.parametrize("unread", [(0, 4), (4, 8), (0, 0)])
@pytest.mark.parametrize("gone", [(0, 1), (2, 3), (1, 2, 3)])
def test_one_channel_carries_others_in_both_widths(gone, unread):
    """Constants at borders go into one of them, at a layer that reads two columns of each channel, too; its mask says so."""
    network = trained_looking(Expanding())
    zero(network.one.weight, *gone)
    network.wide.weight.data[:, slice(*unread)] = 0
    small, found = shrunk_alike(network, 3, 6, 6)
    assert (small.inner.groups, found.channels) == (5 - len(gone), len(gone) - 1)
    masks = found.surgery.masks(MaskSet({name: tensor != 0 for name, tensor in network.named_parameters() if tensor.ndim > 1}))
    assert all(bool((tensor[~masks[name]] == 0).all()) for name, tensor in small.named_parameters() if tensor.ndim > 1)
    assert any(note.startswith("1 zero channel of one stays: it carries the constant") for note in found.notes)


def test_the_same_weight_in_groups_and_not():
    """What one layer does not read, the other one does: its columns stay."""

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.inner = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 12, 1), nn.Conv2d(12, 12, 1, groups=4)
            self.head, self.inner.weight = nn.Linear(12, 2), self.two.weight

        def forward(self, x):
            return self.head(self.inner(self.two(self.one(x).relu()).relu()).relu().mean((2, 3)))

    network = trained_looking(Tied())
    network.two.weight.data[:, 0] = 0
    assert shrunk_alike(network, 3, 4, 4)[1].channels == 0


def test_rows_that_go_read_nothing_any_more():
    """A channel that only the first group reads goes with it; once more finds nothing."""
    layers = nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 12, 1), nn.ReLU(), nn.Conv2d(12, 12, 3, groups=4, bias=False), nn.Conv2d(12, 4, 1)
    network = trained_looking(nn.Sequential(*layers, nn.Flatten()))
    zero(network[4].weight, 0, 1, 2)
    network[2].weight.data[3:, 0] = 0
    small, found = shrunk_alike(network, 3, 4, 4)
    assert (found.channels, small[0].out_channels, shrunk_alike(small, 3, 4, 4)[1].channels) == (4, 7, 0)


def test_the_last_group_is_an_ordinary_convolution():
    """Single rows of it go when the network is shrunk again; built anew from the dense one it has one group."""
    network = trained_looking(Block(8, 12, 2))
    zero(network.inner.weight, *range(6))
    once, _ = shrunk_alike(network, 3, 6, 6)
    zero(once.inner.weight, 1, 2)
    once.first.weight.data[[0, 1]] = 0
    once.before.bias.data[:2] = -1
    once.before.running_mean.zero_()
    twice, _ = shrunk_alike(once, 3, 6, 6)
    assert (once.inner.groups, twice.inner.groups, twice.inner.in_channels, twice.inner.out_channels) == (1, 1, 2, 4)
    sizes = {name: tuple(tensor.shape) for name, tensor in twice.state_dict().items()}
    again = resized(deepcopy(network), sizes)
    again.load_state_dict(twice.state_dict())
    assert about(again) == about(twice)


def test_widths_are_those_of_each_layer():
    """A sum of what is made in groups of two and of what is not: three channels there are six rows here."""

    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.inner, self.other = nn.Conv2d(3, 12, 1), nn.Conv2d(12, 24, 1, groups=4), nn.Conv2d(3, 24, 1)
            self.head = nn.Linear(24, 2)

        def forward(self, x):
            return self.head((self.inner(self.one(x)) + self.other(x)).mean((2, 3)))

    network = trained_looking(Sum())
    network.head.weight.data[:, :6] = 0
    _, found = shrunk_alike(network, 3, 4, 4)
    [removed] = found.removed
    assert dict(zip(removed.writers, removed.widths, strict=True)) == {"one.weight": 3, "other.weight": 6}
    assert (removed.channels, removed.removed, found.channels) == (4, 1, 3)
    assert found.layers == {"one.weight": (12, 9), "inner.weight": (24, 18), "other.weight": (24, 18)}


def test_tokens_of_a_convolution_in_groups_are_no_heads():
    """Channels that attention reads two by two."""

    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.inner = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1, groups=4)
            self.attention, self.head = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 2)

        def forward(self, x):
            tokens = self.inner(self.one(x)).flatten(2).transpose(1, 2)
            return self.head(self.attention(tokens, tokens, tokens, need_weights=False)[0].mean(1))

    network = trained_looking(Tokens())
    network.attention.in_proj_weight.data[:, :2] = 0
    _, found = shrunk_alike(network, 3, 4, 4)
    assert (found.channels, found.heads, found.removed[0].writers) == (2, 0, ("one.weight",))


def test_what_stays_is_counted_in_rows():
    """Two rows of a group at a border, and a whole group of the convolution itself behind a group norm."""
    layers = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1, groups=4), nn.Conv2d(8, 4, 3, padding=1)
    network = trained_looking(nn.Sequential(*layers, nn.Flatten()))
    zero(network[0].weight, 0, 1)
    notes = shrunk_alike(network, 3, 5, 5)[1].notes
    assert [note for note in notes if note.startswith("2 zero channels of 0 stay: its constant is not zero")]
    network = trained_looking(nn.Sequential(*layers[:2], nn.GroupNorm(2, 8), nn.Conv2d(8, 4, 1), nn.Flatten()))
    zero(network[1].weight, 0, 1)
    notes = shrunk_alike(network, 3, 5, 5)[1].notes
    assert [note for note in notes if note.startswith("2 zero channels of 1 stay") and "GroupNorm" in note]


def test_transposed_convolutions_in_groups_stay():
    """They are not followed."""
    layers = nn.Conv2d(3, 8, 1), nn.ConvTranspose2d(8, 8, 2, groups=4), nn.Conv2d(8, 4, 1)
    network = trained_looking(nn.Sequential(*layers, nn.Flatten()))
    network[2].weight.data[:, :2] = 0
    zero(network[0].weight, 0, 1)
    small, found = shrunk_alike(network, 3, 5, 5)
    assert small[1].groups == 4 and found.channels == 0 and any("4 groups" in note for note in found.notes)


def test_random_chains():
    """Layers of random widths, groups and kernels with random zero groups: outputs stay, and groups times width are the channels."""
    gone = 0
    for seed in range(30):
        torch.manual_seed(seed)
        counts = [int(2 ** torch.randint(0, 4, ())) for _ in range(4)]
        widths = [3, *(8 * int(torch.randint(1, 4, ())) for _ in range(4))]
        wide: list[nn.Module] = []
        for (one, two), count in zip(pairwise(widths), counts, strict=True):
            kernel = 1 + 2 * int(torch.randint(0, 2, ()))
            wide.append(nn.Conv2d(one, two, kernel, padding=kernel // 2, groups=count if one % count == 0 else 1))
            wide += [nn.BatchNorm2d(two)] * int(torch.randint(0, 2, ()))
        network = trained_looking(nn.Sequential(*wide, nn.ReLU(), nn.Conv2d(widths[-1], 2, 1), nn.Flatten()))
        for layer in (layer for layer in wide if isinstance(layer, nn.Conv2d)):
            size = layer.out_channels // max(layer.groups, 4)
            start = torch.randperm(layer.out_channels // size)[0] * size
            layer.weight.data[start : start + size] = 0
            layer.bias.data[start : start + size] = 0
        small, found = shrunk_alike(network, 3, 3, 3)
        gone += found.channels
        for before, after in zip(wide, small, strict=False):
            if isinstance(before, nn.Conv2d) and after.groups > 1:
                assert after.out_channels == after.groups * (before.out_channels // before.groups)
                assert after.in_channels == after.groups * after.weight.shape[1] == after.groups * before.weight.shape[1]
    assert gone > 150
