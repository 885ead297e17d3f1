"""Layer after layer: the better target, exact biases, padding left out, layers stored the other way, and nothing left behind."""

from __future__ import annotations

import copy
import threading

import pytest
import torch
from torch import nn

from sparsify_cli.contracts.listener import Listener
from sparsify_cli.contracts.solver import LayerSolver
from sparsify_cli.errors import NonFinite
from sparsify_cli.recipes.pattern import Pattern
from sparsify_cli.solvers.sparsegpt import SparseGPT
from sparsify_cli.stages.layerwise import Held, Pass
from tests.layer_passes import Largest, half, run


class Conv1D(nn.Module):
    """A linear layer that stores [in, out], called as transformers calls it."""

    def __init__(self, weight, bias):
        super().__init__()
        self.nf, self.weight, self.bias = len(bias), nn.Parameter(weight), nn.Parameter(bias)

    def forward(self, x):
        return x @ self.weight + self.bias


class Language(nn.Module):
    """Token ids -> embedding -> two layers with a residual -> logits of every token; each layer the one way or the other."""

    def __init__(self, turned, padding=0):
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.embedding = nn.Embedding(11, 6, padding_idx=padding)
        self.embedding.weight.data = torch.randn(11, 6, generator=generator)
        shapes = {"up": (8, 6), "down": (6, 8)}
        for name, (out, columns) in shapes.items():
            weight, bias = torch.randn(out, columns, generator=generator), torch.randn(out, generator=generator)
            linear = nn.Linear(columns, out)
            linear.weight.data, linear.bias.data = weight, bias
            self.add_module(name, Conv1D(weight.T.contiguous(), bias.clone()) if turned else linear)

    def forward(self, ids):
        x = self.embedding(ids)
        return x + self.down(self.up(x).relu())


def chain():
    """Three linear layers with ReLU."""
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))


CHAIN = ("0.weight", "2.weight", "4.weight")


@pytest.mark.parametrize("pattern", [Pattern(), Pattern.parse("1:2")], ids=str)
def test_a_layer_stored_the_other_way_is_solved_as_its_transpose(pattern):
    """Weights, masks and biases of [in, out] layers are those of nn.Linear, transposed, whatever runs along inputs."""
    ids = torch.randint(0, 11, (10, 5))
    for target in ("dense", "own"):
        plain, found = run(Language(False), ids, "up.weight", "down.weight", pattern=pattern, target=target)
        turned, other = run(Language(True), ids, "up.weight", "down.weight", pattern=pattern, target=target)
        assert list(found) == list(other) == ["up.weight", "down.weight"]
        for name, layer in found.items():
            path = name.removesuffix(".weight")
            assert torch.equal(other[name].mask, layer.mask.T) and int(layer.mask.sum()) == 24
            torch.testing.assert_close(other[name].weight, layer.weight.T, rtol=0, atol=1e-5)
            torch.testing.assert_close(turned.get_submodule(path).bias, plain.get_submodule(path).bias, rtol=0, atol=1e-5)
            assert (other[name].change, other[name].size) == (pytest.approx(layer.change, abs=1e-6), layer.size)
            assert torch.equal(turned.get_parameter(name), other[name].weight)


def test_padding_does_not_count():
    """Where the embedding has a padding id, its positions are no rows: the result is that of the other tokens alone."""
    ids = torch.randint(1, 11, (12, 1))
    padded = torch.cat([ids, torch.zeros(12, 4, dtype=torch.int64)], dim=1)
    alone, one = run(Language(False), ids, "up.weight", "down.weight")
    among, other = run(Language(False), padded, "up.weight", "down.weight")
    counted, _ = run(Language(False, padding=None), padded, "up.weight", "down.weight")
    assert [layer.rows for layer in one.values()] == [layer.rows for layer in other.values()] == [12, 12]
    for name, parameter in alone.named_parameters():
        torch.testing.assert_close(among.get_parameter(name), parameter, rtol=0, atol=1e-5)
    assert not torch.allclose(counted.up.weight, alone.up.weight, atol=1e-3)


def test_mean_outputs_are_those_of_the_dense_network():
    """After each layer, on calibration samples; without the correction they are not."""
    net, x = chain(), torch.randn(30, 6)
    for bias, most in ((True, 1e-5), (False, None)):
        module, _ = run(net, x, *CHAIN, bias=bias)
        off = [(module[: i + 1](x) - net[: i + 1](x)).mean(0).abs().max().item() for i in (0, 2, 4)]
        assert all(one < most for one in off) if most else all(one > 1e-3 for one in off)
        assert all(torch.equal(module[i].bias, net[i].bias) for i in (0, 2, 4)) is not bias


def test_mean_outputs_of_convolutions_too():
    """Grouped, padded and strided: every output channel has its dense mean."""
    net = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 6, 3, groups=2, stride=2))
    x = torch.randn(9, 2, 7, 7)
    module, layers = run(net, x, "0.weight", "2.weight")
    for depth in (1, 3):
        torch.testing.assert_close(module[:depth](x).mean((0, 2, 3)), net[:depth](x).mean((0, 2, 3)), rtol=0, atol=1e-5)
    assert [int(layer.mask[half].sum()) for half in (slice(0, 3), slice(3, 6)) for layer in [layers["2.weight"]]] == [27, 27]


@pytest.mark.slow
def test_dense_targets_beat_own_targets():
    """Summed over five networks, final outputs are nearer to the dense ones when these are imitated than when inputs are taken as given."""
    off = {"dense": 0.0, "own": 0.0}
    for seed in range(5):
        torch.manual_seed(seed)
        net, x = chain(), torch.randn(200, 6)
        for target in off:
            module, _ = run(net, x, *CHAIN, target=target, bias=False)
            off[target] += float((module(x) - net(x)).detach().square().mean())
    assert off["dense"] < off["own"]


def test_own_targets_are_the_weights_as_they_were():
    """With `target=own`, or a solver that is not sequential, the solver gets the dense weight; else another past the first layer."""
    net, x = chain(), torch.randn(30, 6)
    for options, same in (({"target": "own"}, True), ({"solver": Largest(sequential=False)}, True), ({}, False)):
        _, layers = run(net, x, *CHAIN, **{"solver": Largest(), **options})
        dense = [net.get_parameter(name) for name in CHAIN]
        equal = [torch.equal(layer.weight, weight * layer.mask) for layer, weight in zip(layers.values(), dense, strict=True)]
        torch.testing.assert_close(layers["0.weight"].weight, dense[0] * layers["0.weight"].mask, rtol=0, atol=1e-5)
        assert equal[1:] == [same, same]


def test_what_was_pruned_stays_pruned():
    """Only weights within the earlier masks stay."""
    net, x = chain(), torch.randn(30, 6)
    pruned = {"2.weight": torch.rand(8, 8) < 0.8}
    net[2].weight.data.mul_(pruned["2.weight"])
    for solver in (SparseGPT(), SparseGPT(sequential=False)):
        _, layers = run(net, x, *CHAIN, pruned=pruned, solver=solver)
        assert not bool((layers["2.weight"].mask & ~pruned["2.weight"]).any()) and int(layers["2.weight"].mask.sum()) == 32


def test_batch_norm_follows():
    """With a layer before it that is set to half of itself, statistics halve and quarter: the dense network's outputs come out."""

    class Halved(LayerSolver):
        def solve(self, weight, gram, keep):
            return weight / 2, torch.ones_like(weight, dtype=torch.bool)

    net = nn.Sequential(nn.Linear(6, 8, bias=False), nn.BatchNorm1d(8, eps=0.0)).eval()
    net[1].running_mean.normal_()
    x = torch.randn(30, 6)
    module, _ = run(net, x, "0.weight", solver=Halved())
    torch.testing.assert_close(module(x), net(x), rtol=0, atol=1e-4)
    torch.testing.assert_close(module[1].running_var, net[1].running_var / 4)
    still, _ = run(net, x, "0.weight", solver=Halved(), batchnorm=False)
    assert torch.equal(still[1].running_mean, net[1].running_mean)


def test_a_layer_that_is_called_twice_is_solved_on_both():
    """Rows of both calls count, and its mean outputs over both are the dense ones."""

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x):
            return self.layer(self.layer(x).relu())

    net, x = Twice(), torch.randn(10, 4)
    _, layers = run(net, x, "layer.weight")
    assert layers["layer.weight"].rows == 20


def test_few_rows_are_known():
    """Fewer rows than inputs have no full rank."""
    net = chain()
    assert [run(net, torch.randn(n, 6), "0.weight")[1]["0.weight"].is_short for n in (5, 6)] == [True, False]


@pytest.mark.parametrize("x", [torch.full((6, 6), torch.nan), torch.full((6, 6), 1e30)], ids=["nan", "overflow"])
def test_infinite_inputs_name_the_layer(x):
    """NaN, and numbers whose activations overflow further on."""
    net = chain()
    net[0].weight.data *= 1e20
    with pytest.raises(NonFinite, match=r"The inputs of [02]\.weight"):
        run(net, x, *CHAIN)


def test_an_error_leaves_nothing_behind():
    """When a solver fails, even while the error is being looked at: no thread is alive, no hook is left, modes are back."""

    class Failing(LayerSolver):
        def solve(self, weight, gram, keep):
            raise KeyError("no")

    net, dense, threads = chain().train(), chain(), set(threading.enumerate())
    with pytest.raises(KeyError) as caught:
        Pass(Failing(), Pattern(), {}, batch=4).run(net, dense, torch.randn(9, 6), half(net, *CHAIN), Listener())
    assert set(threading.enumerate()) == threads and caught.value.args == ("no",)
    assert all(part.training for part in net.modules())
    assert not any(part._forward_pre_hooks for both in (net, dense) for part in both.modules())


def beside(kept, *, count, solver=None):
    """A linear layer of 5 outputs and 6 inputs with `kept` weights held at half their value: before, after, the layer, inputs."""
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(6, 5, bias=False)), torch.randn(200, 6)
    dense = copy.deepcopy(net)
    mask = (torch.rand(5, 6).flatten().argsort().argsort() < kept).view(5, 6)
    held = Held(torch.where(mask, net[0].weight.detach() / 2, 0), mask)
    wanted = (torch.arange(30) < count).view(5, 6)
    work = Pass(solver or Largest(), Pattern(), {}, bias=False, held={"0.weight": held})
    layer = work.run(net, dense, x, {"0.weight": wanted}, Listener())["0.weight"]
    return dense[0].weight.detach(), held, layer, x


def test_held_weights_stay_bit_for_bit_and_count():
    """As many weights as were asked for stay, those that are held among them and as they were."""
    _, held, layer, _ = beside(6, count=15)
    assert int(layer.mask.sum()) == 15 and bool(layer.mask[held.mask].all())
    assert torch.equal(layer.weight[held.mask], held.values[held.mask])
    assert bool((layer.weight[~layer.mask] == 0).all())


def test_what_is_added_is_the_best_beside_what_is_held():
    """With every weight kept the free ones are the least-squares fit on what the held ones leave: the gradient there is nought."""
    dense, held, layer, x = beside(6, count=30)
    error = (layer.weight - dense).double() @ (x.double().T @ x.double() / len(x))
    assert float(error[~held.mask].abs().max()) < 1e-2 * float(error[held.mask].abs().max())


def test_nothing_is_added_where_nothing_may_be():
    """A level that adds nothing to a layer leaves it as the sparser one has it."""
    _, held, layer, _ = beside(6, count=6, solver=SparseGPT())
    assert torch.equal(layer.weight, held.values) and torch.equal(layer.mask, held.mask)


def test_a_solver_sees_only_free_positions():
    """Of 15 weights the 9 that are added are the ones that lower the error most, as far as the solver knows; none is held twice."""
    dense, held, layer, x = beside(6, count=15, solver=SparseGPT())
    worse = beside(6, count=15)[2]
    gram = x.double().T @ x.double()

    def error(weight):
        change = (weight - dense).double()
        return float(((change @ gram) * change).sum())

    assert error(layer.weight) < error(worse.weight)
    assert error(layer.weight) < error(held.values)


def test_what_was_pruned_before_is_made_up_for():
    """Where all that is left stays, it gives the dense network's outputs as well as it can: no change of it does better."""
    dense = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3, bias=False))
    left = torch.rand(3, 8) < 0.6
    dense[2].weight.data *= left
    net, x = copy.deepcopy(dense), torch.randn(400, 6)
    masks = {"0.weight": torch.rand(8, 6) < 0.5, "2.weight": left}
    Pass(Largest(), Pattern(), {"2.weight": left}).run(net, dense, x, masks, Listener())
    with torch.no_grad():
        inputs = net[1](net[0](x)).double()
        away = net[2](inputs.float()).double() - dense(x).double()
        slopes = (away.T @ inputs / len(x))[left]
        cut = (inputs @ dense[2].weight.double().T - dense(x).double()).T @ inputs / len(x)
    assert bool((net[2].weight[~left] == 0).all()) and float(slopes.norm()) < 0.05 * float(cut[left].norm())
