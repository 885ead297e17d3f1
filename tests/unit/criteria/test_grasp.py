"""GraSP's scores against differences of gradients, and how it draws its samples."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sparsify_cli.criteria.grasp import Grasp
from sparsify_cli.errors import BadRequest
from sparsify_cli.values.network import Network
from sparsify_cli.values.stats import Stats


def network(n=12, batch=64, seed=0):
    """Two smooth layers in float64; labels 0 1 2 0 1 2 ..."""
    torch.manual_seed(7)
    module = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double().eval()
    inputs = torch.randn(n, 4, dtype=torch.float64)
    return Network(module, {"a": "0.weight", "b": "2.weight"}, inputs, torch.arange(n) % 3, seed=seed, batch=batch)


def scored(criterion, given):
    """Scores of a network's own weights."""
    return criterion.scores(given.weights(), Stats(network=given))


def gradient(given, weights, temperature):
    """Of the mean cross-entropy of logits / temperature over all samples."""
    given.put(weights)
    loss = nn.functional.cross_entropy(given.module(given.inputs) / temperature, given.targets)
    return dict(zip(weights, torch.autograd.grad(loss, list(given.parameters().values())), strict=True))


@pytest.mark.parametrize("temperature", [1.0, 200.0])
@pytest.mark.parametrize("batch", [64, 5])
def test_equals_theta_times_the_change_of_the_gradient_along_itself(temperature, batch):
    """Hg = (g(theta + e g) - g(theta - e g)) / 2e to 1e-5; every sample is drawn; sign: kept is theta * Hg."""
    given = network(batch=batch)
    weights = given.weights()
    scores = scored(Grasp(samples=4, temperature=temperature), given)
    g = gradient(given, weights, temperature)
    step = 1e-4 / max(float(part.abs().max()) for part in g.values())
    ahead = gradient(given, {name: weights[name] + step * g[name] for name in weights}, temperature)
    behind = gradient(given, {name: weights[name] - step * g[name] for name in weights}, temperature)
    for name, weight in weights.items():
        expected = weight * (ahead[name] - behind[name]) / (2 * step)
        torch.testing.assert_close(scores[name], expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


def test_removal_of_a_high_score_lowers_the_gradient_norm():
    """Shrinking weight i by a share e changes |g|^2 by -2 e score_i: the sign by which flow is preserved."""
    given = network()
    weights = given.weights()
    scores = scored(Grasp(samples=4, temperature=1.0), given)["b"]
    before = sum(float(part.square().sum()) for part in gradient(given, weights, 1.0).values())
    for i in (int(scores.argmax()), int(scores.argmin())):
        less = weights["b"].clone()
        less.view(-1)[i] *= 1 - 1e-6
        after = sum(float(part.square().sum()) for part in gradient(given, weights | {"b": less}, 1.0).values())
        assert (after - before) / 1e-6 == pytest.approx(-2 * float(scores.flatten()[i]), rel=1e-3)


def test_samples_of_each_class_are_drawn_by_the_seed():
    """One of each class is another three than all; the same seed draws the same, another seed others; too few is all there are."""
    few = scored(Grasp(samples=1), network())["a"]
    assert torch.equal(few, scored(Grasp(samples=1), network())["a"])
    assert not torch.equal(few, scored(Grasp(samples=1), network(seed=1))["a"])
    assert torch.equal(scored(Grasp(samples=4), network())["a"], scored(Grasp(samples=99), network())["a"])
    assert not torch.equal(few, scored(Grasp(samples=4), network())["a"])


def test_classes_are_drawn_equally():
    """Of 9 samples of class 0 and one each of 1 and 2, samples = 1 looks at three: scores equal those of a set of three."""
    given = network(11)
    given = Network(given.module, given.names, given.inputs, torch.tensor([0] * 9 + [1, 2]))
    alone = [
        Network(given.module, given.names, given.inputs[[i, 9, 10]], torch.tensor([0, 1, 2]))  # one of the nine is drawn
        for i in range(9)
    ]
    drawn = scored(Grasp(samples=1), given)["a"]
    assert sum(torch.allclose(drawn, scored(Grasp(samples=1), one)["a"], rtol=1e-9, atol=0) for one in alone) == 1


def test_the_head_is_renewed_when_asked():
    """Scores change, the network does not, and the global generator is not used; without a linear layer it is refused."""
    given = network()
    before = given.weights()
    torch.manual_seed(1)
    renewed = scored(Grasp(fresh_head=True), given)
    torch.manual_seed(2)
    assert torch.equal(renewed["a"], scored(Grasp(fresh_head=True), given)["a"])
    assert not torch.allclose(renewed["a"], scored(Grasp(), given)["a"])
    assert all(torch.equal(before[name], weight) for name, weight in given.weights().items())
    headless = Network(nn.Sequential(nn.Conv1d(1, 2, 3), nn.Flatten()), {"a": "0.weight"}, torch.randn(4, 1, 3), torch.arange(4) % 2)
    with pytest.raises(BadRequest, match="no linear layer"):
        scored(Grasp(fresh_head=True), headless)
