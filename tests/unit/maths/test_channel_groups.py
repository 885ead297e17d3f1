"""Which parameters share an order of channels, on networks small enough to say by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from sparsify_cli.maths.channel_groups import channel_groups
from sparsify_cli.maths.channel_spaces import Place


class Of(nn.Module):
    """Two convolutions with something of our own between them."""

    def __init__(self, between, writes=8, reads=8, **extra):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, writes, 3, padding=1), nn.Conv2d(reads, 4, 3, padding=1)
        for name, value in extra.items():
            setattr(self, name, value)
        self.between = [between]

    def forward(self, x):
        return self.b(self.between[0](self, self.a(x)))


def read_by(module, name, sample=None):
    """The group whose channels are the inputs of a weight."""
    groups = channel_groups(module, torch.rand(2, 3, 8, 8) if sample is None else sample).groups
    return next(group for group in groups if Place(name, 1) in group.readers or any(reader.name == name for reader in group.readers))


def test_a_group_is_the_writers_rows_its_bias_the_norm_and_the_readers_columns():
    """Convolution, batch norm, convolution: rows, bias and four vectors of the norm go with the second one's columns."""
    module = Of(lambda net, y: functional.relu(net.norm(y)), norm=nn.BatchNorm2d(8))
    group = read_by(module, "b.weight")
    vectors = {"a.bias", "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var"}
    assert {(place.name, place.dim) for place in group.places} == {("a.weight", 0), ("b.weight", 1), *((name, 0) for name in vectors)}
    assert (group.channels, group.writers, group.blocked) == (8, ("a.weight",), ())


def test_a_residual_sum_joins_its_branches():
    """What is added has one order: both writers and the reader are in one group."""
    group = read_by(Of(lambda net, y: y + net.c(y), c=nn.Conv2d(8, 8, 1)), "b.weight")
    assert set(group.writers) == {"a.weight", "c.weight"}
    assert {place.name for place in group.readers} == {"b.weight", "c.weight"}
    assert not group.blocked


@pytest.mark.parametrize(
    ("between", "extra", "passes"),
    [
        (lambda net, y: functional.max_pool2d(y, 2), {}, True),
        (lambda net, y: y[:, :, ::2, ::2], {}, True),
        (lambda net, y: functional.pad(y, (1, 1, 1, 1)), {}, True),
        (lambda net, y: y.permute(0, 2, 3, 1).transpose(1, 3), {}, True),
        (lambda net, y: y * net.gain, {"gain": nn.Parameter(torch.rand(8, 1, 1))}, True),
        (lambda net, y: y * net.c(y.mean((2, 3), keepdim=True)), {"c": nn.Conv2d(8, 8, 1)}, True),
        (lambda net, y: y * net.c(y).sigmoid(), {"c": nn.Conv2d(8, 1, 1)}, True),
        (lambda net, y: net.c(y), {"c": nn.PReLU(8)}, True),
        (lambda net, y: net.c(y), {"c": nn.Conv2d(8, 8, 3, padding=1, groups=8)}, False),
        (lambda net, y: net.c(y), {"c": nn.GroupNorm(2, 8)}, False),
        (lambda net, y: y.roll(1, 1), {}, False),
        (lambda net, y: y.flip(1), {}, False),
        (lambda net, y: y[:, [1, 0, 2, 3, 4, 5, 6, 7]], {}, False),
        (lambda net, y: torch.cat([y[:, :4], y[:, 4:]], 1), {}, True),
        (lambda net, y: torch.cat(y.chunk(4, 1)[::-1], 1), {}, True),
        (lambda net, y: y[:, ::2].repeat_interleave(2, 1), {}, False),
        (lambda net, y: torch.cat(y.chunk(2, 2), 3).chunk(2, 3)[0], {}, True),
        (lambda net, y: functional.interpolate(y, scale_factor=2), {}, True),
        (lambda net, y: net.c(y), {"c": nn.InstanceNorm2d(8, affine=True)}, True),
        (lambda net, y: net.c(y), {"c": nn.Sequential(nn.Upsample(scale_factor=2), nn.ReflectionPad2d(1))}, True),
        (lambda net, y: y.cumsum(1), {}, False),
        (lambda net, y: y * torch.arange(8.0).view(8, 1, 1), {}, False),
        (lambda net, y: y.transpose(1, 2), {}, False),
        (lambda net, y: functional.conv2d(y, net.b.weight.transpose(0, 1)[:, :4].repeat(1, 2, 1, 1), padding=1), {}, False),
        (lambda net, y: y + functional.max_pool2d(y.transpose(1, 2), 3, 1, 1).transpose(1, 2), {}, False),
    ],
)
def test_operations_pass_or_block(between, extra, passes):
    """Operations that treat channels alike pass; those that tell them apart, or are not known, block with a reason."""
    group = read_by(Of(between, **extra), "b.weight")
    assert (group.blocked == ()) is passes
    assert all(isinstance(reason, str) and reason for reason in group.blocked)


def test_padding_with_channels_leaves_those_in_the_middle_free():
    """8 channels between 4 and 4 of zeros: the reader's columns 4 to 11 go with the writer, the others are the code's."""
    groups = channel_groups(Of(lambda net, y: functional.pad(y, (0, 0, 0, 0, 4, 4)), reads=16), torch.rand(2, 3, 8, 8)).groups
    read = {place.start: group for group in groups for place in group.readers if place.name == "b.weight"}
    assert {start: (group.channels, group.blocked == ()) for start, group in read.items()} == {0: (4, False), 4: (8, True), 12: (4, False)}
    assert read[4].writers == ("a.weight",) and "pads the 8 channels to 16" in read[0].blocked[0]


def test_concatenated_channels_are_read_side_by_side():
    """Twice the same tensor: each channel is two columns of the reader, 8 apart."""
    group = read_by(Of(lambda net, y: torch.cat([y, y], 1), reads=16), "b.weight")
    assert group.readers == (Place("b.weight", 1), Place("b.weight", 1, 1, 8)) and not group.blocked
    assert [heard.start for heard in group.heard] == [0, 8]


def test_a_sum_splits_spaces_where_the_other_side_has_a_boundary():
    """Layer c makes 12 channels that are added to those of a (8) beside those of d (4): two groups, c's rows in both."""
    layers = {"c": nn.Conv2d(8, 12, 1), "d": nn.Conv2d(8, 4, 1)}
    groups = channel_groups(Of(lambda net, y: torch.cat([y, net.d(y)], 1) + net.c(y), reads=12, **layers), torch.rand(2, 3, 8, 8)).groups
    wide, narrow = (next(g for g in groups if Place("b.weight", 1, 1, start) in g.readers) for start in (0, 8))
    assert (wide.channels, set(wide.writers)) == (8, {"a.weight", "c.weight"})
    assert (narrow.channels, set(narrow.writers)) == (4, {"d.weight", "c.weight"})
    assert Place("c.weight", 0, 1, 8) in narrow.places and Place("c.bias", 0, 1, 8) in narrow.places
    assert not (wide.blocked or wide.mixed or narrow.blocked or narrow.mixed)


def test_pieces_may_be_reordered_but_not_lose_channels():
    """A gate: half of the channels times the sigmoid of the others. One order for both halves, and the code counts on their size."""

    def gated(net, y):
        one, other = y.chunk(2, 1)
        return one * other.sigmoid()

    group = read_by(Of(gated, reads=4), "b.weight")
    assert group.channels == 4 and not group.blocked and "where to divide" in group.mixed[0]
    assert {place for place in group.places if place.name == "a.weight"} == {Place("a.weight", 0), Place("a.weight", 0, 1, 4)}


def test_a_transposed_convolution_reads_rows_and_makes_columns():
    """Its weight is [in, out, ...]."""
    module = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ConvTranspose2d(8, 6, 2, 2), nn.Conv2d(6, 2, 1))
    read, made = read_by(module, "1.weight"), read_by(module, "2.weight")
    assert read.readers == (Place("1.weight", 0),) and made.writers == ("1.weight",) and Place("1.weight", 1) in made.places


def test_inputs_and_outputs_keep_their_order():
    """The first layer's inputs and the last one's outputs are blocked, and the reason says which."""
    groups = channel_groups(Of(lambda net, y: y), torch.rand(2, 3, 8, 8)).groups
    reasons = {place.name: group.blocked for group in groups for place in group.readers}
    assert reasons == {"a.weight": ("they are the network's input",), "b.weight": ()}
    assert [group.blocked for group in groups if "b.weight" in group.writers] == [("they are the network's output",)]


@pytest.mark.parametrize("flat", [nn.Flatten(), None])
def test_flattening_makes_blocks_of_columns(flat):
    """After flattening 4 x 4 positions each channel is 16 neighbouring columns of the linear layer."""

    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.flat, self.b = nn.Conv2d(3, 8, 3, padding=1), flat, nn.Linear(128, 5)

        def forward(self, x):
            y = self.a(x)
            return self.b(self.flat(y) if self.flat else y.view(y.size(0), -1))

    group = read_by(Flat(), "b.weight", torch.rand(2, 3, 4, 4))
    assert Place("b.weight", 1, 16) in group.readers
    assert group.channels == 8 and not group.blocked


def test_a_weight_under_two_names_goes_along_under_both():
    """Tied layers are one tensor: all its names are places, and its two uses are one group."""
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    net[4].weight = net[2].weight
    group = read_by(net, "2.weight", torch.rand(3, 4))
    assert {("2.weight", 0), ("2.weight", 1), ("4.weight", 0), ("4.weight", 1)} <= {(place.name, place.dim) for place in group.places}
    assert group is not None and not group.blocked


def test_a_network_that_cannot_be_traced_has_no_groups_and_a_reason():
    """Control flow that depends on numbers stops the tracing; the reason names it."""

    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(4, 4)

        def forward(self, x):
            return self.a(x) if x.sum() > 0 else x

    found = channel_groups(Branches(), torch.rand(2, 4))
    assert not found.groups and "cannot trace" in found.untraced
