"""Twins: the changing network and the dense one side by side, layer by layer, with every call of a layer."""

from __future__ import annotations

import copy
import threading

import pytest
import torch
from torch import nn

from sparsify_cli.training.attention import projections, tell_apart
from sparsify_cli.training.modes import evaluating
from sparsify_cli.training.twins import Twins, all_inputs


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


@pytest.mark.parametrize("paths", [("gate", "a", "b"), ("gate", "b")])
def test_another_way_after_pruning_has_no_counterpart(paths):
    """Where pruning turns the way, the layer it leads to is seen with its own inputs on both sides, and the dense weight."""
    threads, net = set(threading.enumerate()), Routed()
    dense, seen = copy.deepcopy(net), []
    for now, before in Twins.of(net, dense, torch.ones(2, 2), weights(net, *paths)).visits():
        now.layer.weight.data.zero_()
        seen.append((now.name, now.inputs is before.inputs))
        assert before.layer is dense.get_submodule(now.name.removesuffix(".weight"))
    assert seen == [("gate.weight", False), ("b.weight", True)]
    assert not any(part._forward_pre_hooks for both in (net, dense) for part in both.modules())
    assert set(threading.enumerate()) == threads


class Experts(nn.Module):
    """Each sample goes to one of three experts, which a gate chooses."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.gate, self.experts, self.out = nn.Linear(4, 3), nn.ModuleList(nn.Linear(4, 5) for _ in range(3)), nn.Linear(5, 2)

    def forward(self, x):
        way, mixed = self.gate(x).argmax(1), x.new_zeros(len(x), 5)
        for number, expert in enumerate(self.experts):
            if bool((way == number).any()):
                mixed[way == number] = expert(x[way == number])
        return self.out(mixed)


def test_experts_see_the_samples_that_come_to_them():
    """Batches of two, of which few reach all experts: each sees all of its samples once, beside the dense ones where they agree."""
    net, x = Experts(), torch.randn(30, 4)
    way = net.gate(x).argmax(1)
    dense, seen = copy.deepcopy(net), {}
    for now, before in Twins.of(net, dense, x, weights(net, "gate", "experts.0", "experts.1", "experts.2", "out"), batch=2).visits():
        seen[now.name] = torch.cat(list(now.inputs))
        assert now.inputs is not before.inputs and len(now.inputs) == len(now.batches)
    assert list(seen) == ["gate.weight", "experts.0.weight", "experts.1.weight", "experts.2.weight", "out.weight"]
    for number in range(3):
        assert torch.equal(seen[f"experts.{number}.weight"], x[way == number])
    with torch.no_grad():
        for now, before in Twins.of(net, dense, x, weights(net, "gate", "experts.1"), batch=10).visits():
            if now.name == "gate.weight":
                now.layer.weight[2] = 0
            else:
                expected, moved = x[net.gate(x).argmax(1) == 1], x[way == 1]
                assert not torch.equal(expected, moved)
                assert torch.equal(torch.cat(list(now.inputs)), expected) and before.inputs is now.inputs


class Takes(nn.Module):
    """The expert takes the quarter of samples that a gate likes most: always as many."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.gate, self.expert = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        liked = self.gate(x).sum(1).topk(-(-len(x) // 4)).indices.sort().values
        return x.index_add(0, liked, self.expert(x[liked]))


def test_as_many_other_samples_are_not_taken_for_the_same():
    """An expert that chooses: on what the changed gate gives it, on both sides; where nothing changed, beside the dense ones."""
    net, x = Takes(), torch.randn(64, 4)
    dense = copy.deepcopy(net)
    for change, apart in ((0, False), (1, True)):
        for now, before in Twins.of(net, dense, x, weights(net, "gate", "expert")).visits():
            if now.name == "gate.weight" and change:
                now.layer.weight.data.copy_(torch.randn(4, 4))
            if now.name == "expert.weight":
                assert (now.inputs is before.inputs) is apart
                assert [len(seen) for seen in before.inputs] == [16]


class Adding(nn.Module):
    """One of two layers by the sign of a gate, then layers whose outputs are added in place."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.gate, self.ways, self.rest = nn.Linear(4, 1, bias=False), nn.ModuleList(nn.Linear(4, 4) for _ in range(2)), nn.Linear(4, 4)
        self.last = nn.Linear(4, 4)
        self.gate.weight.data.fill_(1)

    def forward(self, x):
        x = self.ways[int(self.gate(x).sum() > 0)](x)
        x.add_(self.rest(x))
        x.add_(self.last(x))
        return x


def test_the_dense_network_waits_where_the_other_takes_another_way():
    """Behind the place where they part, each layer stands beside its own inputs in the dense network, though these are written into."""
    net, x = Adding(), torch.ones(2, 4)
    dense, wanted, found = copy.deepcopy(net), {}, {}
    paths = ("gate", "ways.0", "ways.1", "rest", "last")
    for path in paths:
        dense.get_submodule(path).register_forward_pre_hook(lambda _, seen, path=path: wanted.update({path: seen[0].clone()}))
    dense(x.clone())
    for now, before in Twins.of(net, dense, x, weights(net, *paths)).visits():
        found[now.name.removesuffix(".weight")] = before.inputs[0].clone()
        if now.name == "gate.weight":
            now.layer.weight.data.neg_()
    assert list(found) == ["gate", "ways.0", "rest", "last"]
    assert torch.equal(found["rest"], wanted["rest"]) and torch.equal(found["last"], wanted["last"])


def test_projections_stand_in_as_many_groups_on_both_sides():
    """Of an attention between sequences, told apart in one network."""

    class Across(nn.Module):
        def __init__(self):
            super().__init__()
            self.attend = nn.MultiheadAttention(4, 2, batch_first=True)

        def forward(self, x):
            return self.attend(x, x[:, :2], x[:, :2])[0]

    net, x = Across(), torch.randn(6, 3, 4)
    tell_apart(net, x)
    (now, before), *_ = Twins.of(net, copy.deepcopy(Across()), x, projections(net)).visits()
    assert now.layer.inputs_side_by_side == before.layer.inputs_side_by_side == 3
    assert before.inputs is not now.inputs and torch.equal(now.inputs[0], before.inputs[0])


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


def test_inputs_of_calls_are_kept_as_they_were():
    """A network that adds to its own inputs in place: each call of the shared layer saw something else."""

    class Adding(nn.Module):
        def __init__(self):
            super().__init__()
            self.shared = nn.Linear(4, 4)

        def forward(self, x):
            x = x.clone()
            for _ in range(3):
                x += self.shared(x).relu()
            return x

    net, x = Adding(), torch.randn(6, 4)
    with torch.no_grad():
        first, second, third = all_inputs(net, net.shared, x)
        assert torch.equal(first, x) and torch.equal(second, x + net.shared(x).relu())
        torch.testing.assert_close(third, second + net.shared(second).relu())
