"""SynFlow conserves what flows, looks at no data, and prunes in exact counts without cutting the network."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from torch import nn

from sparsify_cli.criteria.synflow import Synflow
from sparsify_cli.errors import Anomalous, BadRequest, NonFinite
from sparsify_cli.maths.keep import top_k
from sparsify_cli.values.network import Network
from sparsify_cli.values.stats import Stats


def mlp(sparsity=Fraction(0), inputs=None, bias=False):
    """6-8-7-3 without biases."""
    torch.manual_seed(3)
    module = nn.Sequential(nn.Linear(6, 8, bias=bias), nn.ReLU(), nn.Linear(8, 7, bias=bias), nn.ReLU(), nn.Linear(7, 3, bias=bias))
    names = {"a": "0.weight", "b": "2.weight", "c": "4.weight"}
    inputs = torch.zeros(2, 6) if inputs is None else inputs
    return Network(module.eval(), names, inputs, torch.arange(len(inputs)) % 3, sparsity=sparsity)


def scored(network, rounds=100):
    """Scores of a network's own weights."""
    return Synflow(rounds).scores(network.weights(), Stats(network=network))


def survivors(scores, count):
    """Masks of the `count` highest scores of all tensors together."""
    flat = torch.cat([score.flatten() for score in scores.values()])
    parts = top_k(flat, count).split([score.numel() for score in scores.values()])
    return {name: part.view_as(score) for (name, score), part in zip(scores.items(), parts, strict=True)}


def test_by_hand():
    """Weights 2, -3 into one unit, then 5: R = 5 (2 + 3) = 25, scores 10, 15 and 25."""
    module = nn.Sequential(nn.Linear(2, 1, bias=False), nn.ReLU(), nn.Linear(1, 1, bias=False)).eval()
    network = Network(module, {"a": "0.weight", "b": "2.weight"}, torch.zeros(1, 2), torch.zeros(1, dtype=torch.int64))
    given = {"a": torch.tensor([[2.0, -3.0]]), "b": torch.tensor([[5.0]])}
    scores = Synflow().scores(given, Stats(network=network))
    assert {name: score.tolist() for name, score in scores.items()} == {"a": [[10.0, 15.0]], "b": [[25.0]]}


def test_flow_is_conserved():
    """What enters a hidden unit leaves it, and every layer carries R, to 1e-9."""
    scores = scored(mlp())
    for into, out_of in (("a", "b"), ("b", "c")):
        torch.testing.assert_close(scores[into].sum(1), scores[out_of].sum(0), rtol=1e-9, atol=0)
    total = scores["c"].sum()
    assert all(float(scores[name].sum()) == pytest.approx(float(total), rel=1e-9) for name in "ab")


@pytest.mark.parametrize("sparsity", [Fraction(0), Fraction(4, 5)])
def test_data_do_not_matter(sparsity):
    """Equal scores for other samples, other labels, more of them, and samples that are NaN."""
    first = scored(mlp(sparsity, torch.randn(5, 6)))
    for inputs in (torch.rand(9, 6) * 100, torch.full((1, 6), torch.nan), torch.zeros(0, 6)):
        assert all(torch.equal(first[name], score) for name, score in scored(mlp(sparsity, inputs)).items())


def rounds_by_hand(weights, counts):
    """Masks of one round after another by matrix products, in plain float64."""
    masks = {name: torch.ones_like(weight) for name, weight in weights.items()}
    for count in counts:
        a, b, c = (weights[name].double().abs() * masks[name] for name in "abc")
        forward = [torch.ones(6, dtype=torch.float64), a.sum(1), b @ a.sum(1)]
        backward = [(c @ b).sum(0), c.sum(0), torch.ones(3, dtype=torch.float64)]
        flow = {n: w * back[:, None] * ahead for n, w, ahead, back in zip("abc", (a, b, c), forward, backward, strict=True)}
        masks = {name: mask.double() for name, mask in survivors(flow, count).items()}
        yield masks


def test_rounds_equal_matrix_products():
    """125 weights at 80 % in 4 rounds keep 84, 56, 37 and 25; a weight pruned earlier ranks below every later one."""
    network = mlp(Fraction(4, 5))
    assert sum(weight.numel() for weight in network.weights().values()) == 125
    scores = scored(network, rounds=4)
    for count, masks in zip((84, 56, 37, 25), rounds_by_hand(network.weights(), (84, 56, 37, 25)), strict=True):
        ours = survivors(scores, count)
        assert all(torch.equal(ours[name], masks[name].bool()) for name in "abc")


@pytest.mark.parametrize("kept", [3, 4, 6, 20])
def test_no_layer_is_emptied(kept):
    """Down to one weight a layer, 100 rounds leave a path from input to output, where one round does not."""
    network = mlp(1 - Fraction(kept, 125))
    masks = survivors(scored(network), kept)
    network.put({name: weight.abs() * masks[name] for name, weight in network.weights().items()})
    assert all(mask.any() for mask in masks.values())
    assert bool(network.module(torch.ones(1, 6)).sum() > 0)
    assert sum(int(mask.sum()) for mask in masks.values()) == kept


def test_the_network_stays_as_it_is():
    """Signs, dtype, buffers and modes."""
    network = mlp(Fraction(1, 2), bias=True)
    before = {name: tensor.clone() for name, tensor in network.module.state_dict().items()}
    scored(network)
    assert all(torch.equal(before[name], tensor) for name, tensor in network.module.state_dict().items())
    assert all(parameter.requires_grad for parameter in network.module.parameters())


def test_trained_batch_norm_does_not_stop_the_flow():
    """Running means far above what flows leave every score positive; at initial statistics they change nothing."""
    module = nn.Sequential(nn.Linear(4, 5, bias=False), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 2, bias=False)).eval()
    network = Network(module, {"a": "0.weight", "b": "3.weight"}, torch.zeros(1, 4), torch.zeros(1, dtype=torch.int64))
    fresh = scored(network)
    torch.testing.assert_close(fresh["a"].sum(1), fresh["b"].sum(0), rtol=1e-9, atol=0)
    module[1].running_mean.copy_(torch.tensor([50.0, -50.0, 1.0, 0.0, 9.0]))
    assert all(bool((score > 0).all()) for score in scored(network).values())


@pytest.mark.parametrize("depth", [60, 300])
def test_deep_networks_stay_within_float64_or_say_so(depth):
    """Sixty layers of 64 go far beyond float32 and are scored; three hundred go beyond float64 and are refused by name."""
    module = nn.Sequential(*(nn.Linear(64, 64, bias=False) for _ in range(depth))).eval()
    names = {f"{i:03d}": f"{i}.weight" for i in range(depth)}
    network = Network(module, names, torch.zeros(1, 64), torch.zeros(1, dtype=torch.int64))
    for layer in module:
        nn.init.constant_(layer.weight, 1.0)
    if depth == 60:
        assert all(bool((score == score[0, 0]).all()) and float(score[0, 0]) > 1e100 for score in scored(network).values())
    else:
        with pytest.raises(NonFinite, match=r"flow of \d{3} is NaN or infinite"):
            scored(network)


def test_zero_weights_and_everything_or_nothing():
    """All weights zero score zero; sparsity 1 asks for no rounds."""
    network = mlp(Fraction(1, 2))
    zeros = {name: torch.zeros_like(weight) for name, weight in network.weights().items()}
    assert all(score.isfinite().all() for score in Synflow().scores(zeros, Stats(network=network)).values())
    assert all(torch.equal(score, scored(mlp())[name]) for name, score in scored(mlp(Fraction(1))).items())


def test_outputs_that_always_sum_to_one_are_refused():
    """Behind a softmax nothing flows; what cannot run in float64 is refused too."""
    softmax = Network(nn.Sequential(nn.Linear(4, 1), nn.Softmax(1)), {"a": "0.weight"}, torch.zeros(1, 4), torch.zeros(1))
    with pytest.raises(Anomalous, match="Nothing flows"):
        scored(softmax)
    wrong = Network(nn.Sequential(nn.Linear(4, 1)), {"a": "0.weight"}, torch.zeros(1, 5), torch.zeros(1))
    with pytest.raises(BadRequest, match="cannot be run on an input of ones"):
        scored(wrong)
