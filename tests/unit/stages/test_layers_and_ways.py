"""Layers that several sequences, some of the samples, or other layers with the same weight come to."""

from __future__ import annotations

import copy
from contextlib import closing

import pytest
import torch
from torch import nn

from sparsify_cli.contracts.listener import Listener
from sparsify_cli.contracts.solver import Keep
from sparsify_cli.maths.keep import top_k
from sparsify_cli.maths.paired_moments import sampled_gram
from sparsify_cli.recipes.pattern import Pattern
from sparsify_cli.solvers.sparsegpt import SparseGPT
from sparsify_cli.stages.calibrate import watchable
from sparsify_cli.stages.layerwise import Pass
from sparsify_cli.training.twins import Twins
from tests.layer_passes import Largest, run


class Decoder(nn.Module):
    """Attention from one sequence to another, packed."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(4)
        self.attend = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        other = x.flip(1)[:, :3].cumsum(2)
        return self.attend(x, other, other, need_weights=False)[0]


def test_attention_between_sequences_is_three_layers():
    """Each third of the packed matrix is what the solver makes of it with the Gram matrix of what it multiplies, and its bias follows."""
    net, x = Decoder().eval(), torch.randn(64, 6, 8)
    dense, solver = copy.deepcopy(net), SparseGPT()
    mask = torch.cat([top_k(part.abs().flatten(), 32).view_as(part) for part in net.attend.in_proj_weight.detach().chunk(3)])
    found = Pass(solver, Pattern(), {}).run(net, dense, x, {"attend.in_proj_weight": mask}, Listener())
    other = x.flip(1)[:, :3].cumsum(2)
    parts, biases = dense.attend.in_proj_weight.detach().chunk(3), net.attend.in_proj_bias.detach().chunk(3)
    for i, (weight, seen) in enumerate(zip(parts, (x, other, other), strict=True)):
        rows = seen.reshape(-1, 8).double()
        expected, kept = solver.solve(weight.double(), rows.T @ rows / len(rows), Keep(32, Pattern()))
        torch.testing.assert_close(net.attend.in_proj_weight.detach().chunk(3)[i].double(), expected, rtol=1e-4, atol=1e-5)
        assert torch.equal(found["attend.in_proj_weight"].mask.chunk(3)[i], kept)
        torch.testing.assert_close(biases[i].double(), rows.mean(0) @ (weight.double() - expected).T, rtol=1e-3, atol=1e-4)
    assert 0 < found["attend.in_proj_weight"].change < 0.5


class Experts(nn.Module):
    """A layer that decides which of two experts answers; the second gets no sample of some batches."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(5)
        self.norm, self.gate, self.experts = nn.Linear(6, 6), nn.Linear(6, 2), nn.ModuleList(nn.Linear(6, 4) for _ in range(2))

    def forward(self, x):
        x = torch.relu(self.norm(x))
        way, out = self.gate(x).argmax(1), x.new_zeros(len(x), 4)
        for number, expert in enumerate(self.experts):
            out[way == number] = expert(x[way == number])
        return out


def test_experts_are_solved_on_what_comes_to_them():
    """Of other samples than in the dense network: for the expert's own outputs on them; which is told."""
    net, x = Experts().eval(), torch.randn(60, 6)
    module, found = run(net, x, "norm.weight", "experts.0.weight", "experts.1.weight", bias=False)
    hidden = torch.relu(module.norm(x))
    way, before = module.gate(hidden).argmax(1), net.gate(torch.relu(net.norm(x))).argmax(1)
    assert not torch.equal(way, before)
    for number in range(2):
        layer, seen = found[f"experts.{number}.weight"], hidden[way == number].detach().double()
        weight = net.experts[number].weight.detach().double()
        count = int(layer.mask.sum())
        expected, kept = SparseGPT().solve(weight, seen.T @ seen / len(seen), Keep(count, Pattern()))
        assert layer.apart and layer.rows == len(seen)
        assert torch.equal(layer.mask, kept)
        torch.testing.assert_close(module.experts[number].weight.detach().double(), expected, rtol=1e-4, atol=1e-5)
    assert not found["norm.weight"].apart


class Tied(nn.Module):
    """Two layers of one weight, the second named first, each with its bias; and one that uses it in another way."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(6)
        self.late, self.soon, self.wide, self.other = nn.Linear(4, 4), nn.Linear(4, 4), nn.Conv1d(1, 2, 3), nn.Conv1d(1, 2, 3, stride=2)
        self.soon.weight, self.other.weight = self.late.weight, self.wide.weight

    def forward(self, x):
        y = self.late(self.soon(x).relu())[:, None]
        return self.wide(y).sum(2) + self.other(y).sum(2)


def test_tied_weights_are_solved_on_all_that_comes_to_them():
    """Rows of both layers count, their biases stay; a layer that strides otherwise does not count."""
    net, x = Tied(), torch.randn(40, 4)
    module, found = run(net, x, "late.weight", "wide.weight", solver=Largest(sequential=False))
    assert {name: layer.rows for name, layer in found.items()} == {"late.weight": 80, "wide.weight": 80}
    assert module.soon.weight is module.late.weight
    assert torch.equal(module.late.bias, net.late.bias) and torch.equal(module.soon.bias, net.soon.bias)
    assert not torch.equal(module.wide.bias, net.wide.bias)
    module, found = run(net, x, "late.weight", solver=SparseGPT(sequential=False))
    rows = torch.cat([x, net.soon(x).relu()]).detach().double()
    expected, kept = SparseGPT().solve(net.late.weight.detach().double(), rows.T @ rows / 80, Keep(8, Pattern()))
    assert torch.equal(found["late.weight"].mask, kept)
    torch.testing.assert_close(module.soon.weight.detach().double(), expected, rtol=1e-4, atol=1e-5)


class Skipping(nn.Module):
    """Token ids: samples that begin with an odd id skip a layer; padding is 0."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(7)
        self.embedding = nn.Embedding(9, 4, padding_idx=0)
        self.some, self.all = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, ids):
        x = self.embedding(ids)
        return self.all(self.some(x) if int(ids[0, 0]) % 2 == 0 else x)


def test_padding_belongs_to_the_batches_that_come_to_a_layer():
    """Three batches of four, of which the last two come to the first layer, with other padding in each."""
    ids = torch.randint(1, 9, (12, 3))
    ids[:4, 0], ids[4:, 0] = 1, 2
    ids[0, 1:], ids[4:8, 2], ids[8, 1] = 0, 0, 0
    net = Skipping()
    _, found = run(net, ids, "some.weight", "all.weight", solver=Largest(sequential=False))
    real = ids != 0
    assert {name: layer.rows for name, layer in found.items()} == {"some.weight": int(real[4:].sum()), "all.weight": int(real.sum())}
    seen = net.embedding(ids[4:])[real[4:]].detach().double()
    lost = net.some.weight.detach().double() * ~found["some.weight"].mask
    share = (seen @ lost.T).square().sum() / (seen @ net.some.weight.detach().double().T).square().sum()
    assert found["some.weight"].change == pytest.approx(float(share), rel=1e-6)


class Forcing(nn.Module):
    """Queries are all tokens but the last, keys and values all; padding is 0."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(8)
        self.embedding, self.attend = nn.Embedding(9, 4, padding_idx=0), nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, ids):
        x = self.embedding(ids)
        return self.attend(x[:, :-1], x, x)[0]


def test_padding_of_a_shorter_sequence_does_not_count_where_it_stands():
    """Embeddings of padding are zeros: every token counts once, and no padding does."""
    ids = torch.randint(1, 9, (8, 5))
    ids[:, 3:] = 0
    net = Forcing()
    layers = watchable(net, ["attend.in_proj_weight"], ids)
    with closing(Twins.of(net, copy.deepcopy(net), ids, layers, batch=3).visits()) as visits:
        now, _ = next(visits)
    assert now.layer.inputs_side_by_side == 3
    real = [mask for mask in (ids.split(3)[i] != 0 for i in now.batches)]
    gram = sampled_gram(now.layer, now.inputs, real=real)
    seen = net.embedding(ids)[:, :3].flatten(0, 1).detach().double()
    assert torch.allclose(gram, (seen.T @ seen / 24).expand(3, 4, 4), atol=1e-6)
