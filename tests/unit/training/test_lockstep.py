"""Lockstep: visits show what hooks in separate passes show, changes count from the next layer on, and nothing is left behind."""

from __future__ import annotations

import threading
from contextlib import closing

import pytest
import torch
from torch import nn

from sparsify_cli.training.lockstep import calls, lockstep, parted


class Branched(nn.Module):
    """Two branches, a residual, a layer that is called twice and one that is never run; registered in no order of running."""

    def __init__(self):
        super().__init__()
        self.never = nn.Linear(4, 4)
        self.last = nn.Linear(4, 2)
        self.left, self.right, self.twice = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        x = x + self.left(x).relu() * self.right(x).sigmoid()
        x = self.twice(self.twice(x).tanh())
        return self.last(input=x)


def layers_of(net):
    """The linear layers of a network by their paths."""
    return {path: layer for path, layer in net.named_modules() if isinstance(layer, nn.Linear)}


def first_inputs(net, batch):
    """What each layer is first called with in an ordinary pass."""
    seen = {}

    def hook(name):
        def note(_, args, kwargs):
            seen.setdefault(name, (args[0] if args else kwargs["input"]).detach())

        return note

    handles = [layer.register_forward_pre_hook(hook(name), with_kwargs=True) for name, layer in layers_of(net).items()]
    with torch.no_grad():
        net(batch)
    for handle in handles:
        handle.remove()
    return seen


def left_behind(net, threads):
    """Threads that were not there before, and hooks."""
    return set(threading.enumerate()) - threads, [part for part in net.modules() if part._forward_pre_hooks or part._forward_hooks]


def test_visits_see_what_separate_passes_see():
    """Bit for bit, in the order of running; a layer that is called twice is visited once, one that never runs is not."""
    net, batches = Branched(), torch.randn(10, 4).split(4)
    visits = list(lockstep(net, batches, layers_of(net)))
    assert [visit.name for visit in visits] == ["left", "right", "twice", "last"]
    for visit in visits:
        assert visit.layer is layers_of(net)[visit.name]
        for seen, batch in zip(visit.inputs, batches, strict=True):
            assert torch.equal(seen, first_inputs(net, batch)[visit.name])


def test_calls_are_counted():
    """The shared layer runs twice, the others once, in order of first calls; a layer that never runs is absent."""
    net = Branched()
    counted = calls(net, torch.randn(2, 4), layers_of(net))
    assert list(counted.items()) == [("left", 1), ("right", 1), ("twice", 2), ("last", 1)]
    assert not any(part._forward_pre_hooks for part in net.modules())


def test_a_change_is_seen_by_later_layers_alone():
    """Each layer is doubled when it is visited: from then on inputs are those of the network with the layers before it doubled."""
    net, before, batches = Branched(), Branched(), torch.randn(6, 4).split(3)
    before.load_state_dict(net.state_dict())
    for visit in lockstep(net, batches, layers_of(net)):
        for seen, batch in zip(visit.inputs, batches, strict=True):
            torch.testing.assert_close(seen, first_inputs(before, batch)[visit.name], rtol=0, atol=0)
        for changed in (visit.layer, layers_of(before)[visit.name]):
            changed.weight.data *= 2


def test_a_layer_that_is_changed_runs_changed():
    """A visit stands in front of the layer: zeroed there, its own outputs are its bias, and the next layer sees that."""
    net = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    visits = lockstep(net, [torch.randn(5, 3)], layers_of(net))
    next(visits).layer.weight.data.zero_()
    assert torch.equal(next(visits).inputs[0], net[0].bias.detach().expand(5, 2))
    assert next(visits, None) is None


class Forked(nn.Module):
    """What is positive passes `a`, and `b` as everything does; `b` twice, once before `c`, for what is large."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, x):
        if float(x.sum()) > 9:
            return self.b(self.c(x))
        return self.c(self.b(self.a(x) if float(x.sum()) > 0 else x))


@pytest.mark.parametrize("turned", [False, True])
def test_batches_that_take_different_ways_wait_for_one_another(turned):
    """Whichever comes first; one that comes to a layer that is done passes it, as it is by then, and nothing is left."""
    net, threads = Forked(), set(threading.enumerate())
    few = [torch.ones(1, 2), -torch.ones(1, 2)]
    places = [1, 0] if turned else [0, 1]
    seen = [(visit.name, list(visit.batches)) for visit in lockstep(net, [few[i] for i in places], layers_of(net))]
    assert seen == [("a", [places.index(0)]), ("b", [0, 1]), ("c", [0, 1])]
    assert list(lockstep(net, [few[1]], {"a": net.a})) == []
    late = [(visit.name, list(visit.batches)) for visit in lockstep(net, [9 * few[0], few[1]], layers_of(net))]
    assert late == [("c", [0]), ("b", [0, 1])]
    assert left_behind(net, threads) == (set(), [])


class HeadFirst(nn.Module):
    """The head is defined before the layer in front of it, which only what is positive passes."""

    def __init__(self):
        super().__init__()
        self.head, self.early = nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, x):
        return self.head(self.early(x) if float(x.sum()) > 0 else x)


def test_what_runs_last_is_visited_last():
    """In whatever order a network defines its layers: the head sees every batch, those that passed the layer in front of it too."""
    few = [-torch.ones(1, 2), torch.ones(1, 2), -torch.ones(1, 2)]
    net = HeadFirst()
    seen = [(visit.name, list(visit.batches)) for visit in lockstep(net, few, layers_of(net))]
    assert seen == [("early", [1]), ("head", [0, 1, 2])]


def test_an_error_inside_reaches_the_caller():
    """What a forward raises comes out of the generator, from a batch in the middle too, and nothing is left."""

    class Failing(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(2, 2)

        def forward(self, x):
            x = self.a(x)
            if float(x.isnan().sum()):
                raise KeyError("seven")
            return x

    net, threads = Failing(), set(threading.enumerate())
    visits = lockstep(net, [torch.ones(1, 2), torch.full((1, 2), torch.nan), torch.ones(1, 2)], layers_of(net))
    assert next(visits).name == "a"
    with pytest.raises(KeyError, match="seven"):
        next(visits)
    assert left_behind(net, threads) == (set(), [])


def test_closed_early_nothing_is_left():
    """After the first of four visits: no thread is alive and no hook is registered."""
    net, threads = Branched(), set(threading.enumerate())
    with closing(lockstep(net, torch.randn(9, 4).split(2), layers_of(net))) as visits:
        assert next(visits).name == "left"
        assert len(set(threading.enumerate()) - threads) == 5
    assert left_behind(net, threads) == (set(), [])


def test_the_end_leaves_nothing():
    """When the generator says that it is over, its threads have ended."""
    net, threads = Branched(), set(threading.enumerate())
    assert len(list(lockstep(net, torch.randn(40, 4).split(1), layers_of(net)))) == 4
    assert left_behind(net, threads) == (set(), [])


@pytest.mark.timeout(20)
def test_a_network_that_catches_everything_can_be_left():
    """Closed early, a forward that swallows every exception and goes on to more layers does not keep its thread."""

    class Stubborn(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(2, 2) for _ in range(3))

        def forward(self, x):
            for layer in self.layers:
                try:
                    x = layer(x)
                except BaseException:
                    x = x + 1
            return x

    net, threads = Stubborn(), set(threading.enumerate())
    with closing(lockstep(net, [torch.ones(1, 2)], layers_of(net))) as visits:
        next(visits)
    assert left_behind(net, threads) == (set(), [])


def test_gradients_are_off_inside():
    """Inputs carry no graph although parameters want gradients and the caller's gradients are on."""
    net, enabled = Branched(), []
    net.last.register_forward_hook(lambda *_: enabled.append(torch.is_grad_enabled()))
    for visit in lockstep(net, torch.randn(4, 4).split(2), layers_of(net)):
        assert not any(seen.requires_grad for seen in visit.inputs)
    assert enabled == [False, False]
    assert torch.is_grad_enabled()


def test_as_many_threads_as_the_caller_has():
    """A batch's thread computes with the number of threads that was set, so sums have the same order."""
    net, counts = nn.Sequential(nn.Linear(2, 2)), []
    net.register_forward_hook(lambda *_: counts.append(torch.get_num_threads()))
    for _ in lockstep(net, [torch.ones(1, 2)], layers_of(net)):
        pass
    assert counts == [torch.get_num_threads()] == [1]


def test_no_batches_and_no_layers():
    """Nothing to visit is no error."""
    net = Branched()
    assert list(lockstep(net, [], layers_of(net))) == []
    assert list(lockstep(net, [torch.ones(1, 4)], {})) == []


class Remembering(nn.Module):
    """Keeps a gate of the batch on itself, from before one layer to behind it."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        self.gate = x.sum(1, keepdim=True).sigmoid()
        return self.second(self.first(x) * self.gate)


def test_a_network_that_keeps_something_of_a_batch_gets_all_samples_as_one():
    """Side by side its batches would take each other's gates; one that keeps nothing is split."""
    x = torch.randn(20, 4)
    for net, sizes in ((Remembering(), [20]), (Branched(), [8, 8, 4])):
        parts = parted(net, x, dict(net.named_children()), 8)
        assert [len(part) for part in parts] == sizes
        assert left_behind(net, set(threading.enumerate())) == (set(), [])
