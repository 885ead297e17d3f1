"""Twins: the changing network and the dense one side by side, layer by layer, with every call of a layer."""

from __future__ import annotations

import copy
import threading

import pytest
import torch
from torch import nn

from sparsify_cli.errors import BadRequest
from sparsify_cli.training.modes import evaluating
from sparsify_cli.training.twins import Twins


def chain():
    """Linear, batch norm, dropout, linear."""
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2))


def weights(net, *paths):
    """Weight name -> layer."""
    return {f"{path}.weight": net.get_submodule(path) for path in paths}


def test_the_dense_twin_stays_dense():
    """After the first layer is zeroed, the second sees its bias in one network and what it always saw in the other."""
    net, x = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), torch.randn(5, 3)
    dense = copy.deepcopy(net)
    visits = Twins.of(net, dense, x, weights(net, "0", "1"), batch=2).visits()
    first, _ = next(visits)
    assert torch.equal(torch.cat(list(first.inputs)), x)
    first.layer.weight.data.zero_()
    now, before = next(visits)
    assert torch.equal(torch.cat(list(now.inputs)), net[0].bias.detach().expand(5, 4))
    assert torch.equal(torch.cat(list(before.inputs)), torch.cat([dense[0](part) for part in x.split(2)]).detach())
    assert before.layer is dense[1] and next(visits, None) is None


def test_batch_norms_are_watched_when_they_follow():
    """Under their paths, between the layers; eval mode inside, the modes of before afterwards."""
    net = chain().train()
    net[2].eval()
    dense = copy.deepcopy(net)
    for follows, names in ((True, ["0.weight", "1", "3.weight"]), (False, ["0.weight", "3.weight"])):
        twins, seen = Twins.of(net, dense, torch.randn(6, 3), weights(net, "0", "3"), follows=follows), []
        for now, before in twins.visits():
            seen.append(now.name)
            assert not any(part.training for both in (net, dense) for part in both.modules())
            assert torch.equal(now.inputs[0], before.inputs[0])
        assert seen == names
        assert [part.training for part in net] == [part.training for part in dense] == [True, True, False, True]
        assert twins.reached(["3.weight", "no.weight", "0.weight"]) == ["0.weight", "3.weight"]
    assert int(net[1].num_batches_tracked) == 0


def test_every_call_of_a_shared_layer_is_seen():
    """A layer on two feature maps of different size, as in a pyramid: one visit with four inputs for two batches, batch after batch."""

    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.head, self.last = nn.Conv2d(2, 2, 1), nn.Linear(2, 2)

        def forward(self, x):
            big, small = self.head(x), self.head(nn.functional.avg_pool2d(x, 2))
            return self.last(big.mean((2, 3)) + small.mean((2, 3)))

    net, x = Shared(), torch.randn(4, 2, 4, 4)
    (now, before), (last, _) = Twins.of(net, copy.deepcopy(net), x, weights(net, "head", "last"), batch=2).visits()
    expected = [view for part in x.split(2) for view in (part, nn.functional.avg_pool2d(part, 2))]
    assert (now.name, last.name) == ("head.weight", "last.weight")
    for visit in (now, before):
        assert all(torch.equal(seen, one) for seen, one in zip(visit.inputs, expected, strict=True))


class Routed(nn.Module):
    """The first layer decides which of two is next."""

    def __init__(self):
        super().__init__()
        self.gate, self.a, self.b = nn.Linear(2, 1, bias=False), nn.Linear(2, 2), nn.Linear(2, 2)
        self.gate.weight.data.fill_(1)

    def forward(self, x):
        return self.a(x) if float(self.gate(x).sum()) > 0 else self.b(x)


def test_another_way_after_pruning_is_refused():
    """Where pruning turns the way, layers are not compared with others: refused in words, and no thread or hook is left."""
    threads = set(threading.enumerate())
    for paths in (("gate", "a", "b"), ("gate", "a")):
        net = Routed()
        dense = copy.deepcopy(net)
        with pytest.raises(BadRequest, match=r"takes another way than the dense one, at .*a\.weight"):
            for now, _ in Twins.of(net, dense, torch.ones(2, 2), weights(net, *paths)).visits():
                now.layer.weight.data.zero_()
        assert not any(part._forward_pre_hooks for both in (net, dense) for part in both.modules())
    assert set(threading.enumerate()) == threads


def test_padding_is_known_from_the_embedding():
    """Token ids equal to the one padding id are no rows; nothing is known without one, or with two different ones."""
    ids = torch.tensor([[5, 7, 0], [0, 1, 2]])
    nets = [nn.ModuleList([nn.Embedding(9, 2, padding_idx=pad) for pad in pads]) for pads in ((0,), (None,), (0, 1), (0, 0))]
    found = [Twins(net, net, [ids], {}, {}).real[0] for net in nets]
    real = [[True, True, False], [False, True, True]]
    assert [one if one is None else one.tolist() for one in found] == [real, None, None, real]
    assert Twins(nets[0], nets[0], [torch.zeros(2, 3)], {}, {}).real == [None]


def test_evaluating_puts_every_mode_back():
    """Submodules in different modes, and an error inside."""
    net = chain().train()
    net[1].eval()
    with pytest.raises(KeyError), evaluating(net):
        assert not any(part.training for part in net.modules())
        raise KeyError
    assert [part.training for part in net.modules()] == [True, True, False, True, True]
