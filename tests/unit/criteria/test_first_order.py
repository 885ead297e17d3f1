"""Taylor, SNIP and OBD by hand, and OBD against brute force."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sparsify_cli.criteria.obd import Obd
from sparsify_cli.criteria.snip import Snip
from sparsify_cli.criteria.taylor import Taylor
from sparsify_cli.errors import BadRequest, MissingContext
from sparsify_cli.values.network import Network
from sparsify_cli.values.stats import Stats


def two_weights(w=2.0, v=2.0):
    """Logits w x and v x of two samples, x = 1 of class 0 and x = 3 of class 1; at w = v, p = 1/2.

    Gradients at w = v: sample one (-1/2, 1/2), sample two (3/2, -3/2), their mean (1/2, -1/2).
    """
    module = nn.Linear(1, 2, bias=False)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[w], [v]]))
    return Network(module.eval(), {"a": "weight"}, torch.tensor([[1.0], [3.0]]), torch.tensor([0, 1]))


def scored(criterion, network, weights=None):
    """Scores of a network's own weights or of others."""
    return criterion.scores(weights or network.weights(), Stats(network=network))


@pytest.mark.parametrize(
    ("criterion", "expected"),
    [
        (Taylor(), [[1.0], [1.0]]),  # one batch: (1/2 * 2)^2
        (Taylor(kind="absolute"), [[1.0], [1.0]]),
        (Taylor(batch=1), [[5.0], [5.0]]),  # ((1/2 * 2)^2 + (3/2 * 2)^2) / 2
        (Taylor(batch=1, kind="absolute"), [[2.0], [2.0]]),  # (1 + 3) / 2
        (Snip(), [[1.0], [1.0]]),  # |1/2 * 2|
        (Snip(samples=1), [[1.0], [1.0]]),  # |-1/2 * 2|
        (Snip(samples=0), [[1.0], [1.0]]),
        (Obd(), [[2.5], [2.5]]),  # 4 / 2 * (1/4 + 9/4) / 2
    ],
    ids=str,
)
def test_by_hand(criterion, expected):
    """A linear model of two weights, both 2."""
    torch.testing.assert_close(scored(criterion, two_weights())["a"], torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("criterion", [Taylor(), Snip(), Obd()], ids=str)
def test_the_weights_given_are_scored(criterion):
    """Not those in the module, which stay; zero weights score zero."""
    network = two_weights(5.0, -7.0)
    given = scored(criterion, network, {"a": torch.tensor([[2.0], [2.0]])})
    assert torch.equal(given["a"], scored(criterion, two_weights())["a"])
    assert network.module.weight.tolist() == [[5.0], [-7.0]]
    assert scored(criterion, network, {"a": torch.zeros(2, 1)})["a"].tolist() == [[0.0], [0.0]]


def convolutional():
    """Convolution, batch norm with statistics of its own, linear head; seven samples."""
    module = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 3))
    module(torch.randn(8, 1, 4, 4))
    names = {"c": "0.weight", "f": "4.weight"}
    return Network(module.eval(), names, torch.randn(7, 1, 4, 4), torch.arange(7) % 3)


def test_obd_equals_one_backward_pass_a_sample():
    """w^2 / 2 times the mean of squared gradients, by a loop over samples."""
    network = convolutional()
    squares = {name: torch.zeros(weight.shape, dtype=torch.float64) for name, weight in network.weights().items()}
    for i in range(7):
        network.module.zero_grad()
        network.loss(network.inputs[i : i + 1], network.targets[i : i + 1]).backward()
        for name, parameter in network.parameters().items():
            squares[name] += parameter.grad.double().square()
    for name, score in scored(Obd(), network).items():
        torch.testing.assert_close(score, network.weights()[name].double() ** 2 * squares[name] / 14, rtol=1e-5, atol=1e-12)


def test_batch_norm_of_snip_sees_the_batch_or_the_training():
    """The two give other scores; statistics of the network stay; with running ones the mean over parts is that of the whole."""
    network = convolutional()
    before = network.module[1].running_mean.clone()
    batch, running = scored(Snip(), network), scored(Snip(batch_norm="running"), network)
    assert not torch.allclose(batch["c"], running["c"])
    assert torch.equal(network.module[1].running_mean, before)
    parts = Network(network.module, network.names, network.inputs, network.targets, batch=2)
    torch.testing.assert_close(scored(Snip(batch_norm="running"), parts), running, rtol=1e-4, atol=1e-7)


def test_a_batch_without_variance_is_refused_in_a_sentence():
    """Batch norm over one sample of one position has none."""
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).eval()
    network = Network(module, {"a": "0.weight"}, torch.randn(5, 3), torch.arange(5) % 4)
    with pytest.raises(BadRequest, match="cannot be differentiated: Expected more than 1 value per channel"):
        scored(Snip(samples=1), network)


@pytest.mark.parametrize("criterion", [Taylor(), Snip(), Obd()], ids=str)
def test_without_a_network_there_is_nothing_to_differentiate(criterion):
    """The sentence names the flags."""
    with pytest.raises(MissingContext, match="--data and --arch"):
        criterion.scores({"a": torch.zeros(2, 1)}, Stats())
