"""Answers that are computed once are those of `predict`, of the network and the inputs that were meant."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sparsify_cli.errors import BadData
from sparsify_cli.stages.asked_once import AskedOnce
from sparsify_cli.stages.measure import predict
from sparsify_cli.values.samples import Samples


class Counting(nn.Linear):
    """A network that counts the rows that go through it."""

    rows = 0

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Logits."""
        self.rows += len(inputs)
        return super().forward(inputs)


def drawn(n: int, seed: int) -> Samples:
    """Samples whose ids are 0, 1, ..., whatever their inputs."""
    generator = torch.Generator().manual_seed(seed)
    return Samples(torch.randn(n, 4, generator=generator), torch.arange(n) % 3, tuple(map(str, range(n))))


def test_overlapping_splits_are_computed_once() -> None:
    """Of a split that holds samples asked about before, only the others go through the network."""
    network, samples, ask = Counting(4, 3), drawn(20, 0), AskedOnce()
    part = samples.take([7, 3, 19])
    whole = ask(network, samples)
    assert torch.equal(whole.logits, predict(network, samples).logits)
    network.rows = 0
    found = ask(network, part)
    assert network.rows == 0
    assert torch.equal(found.logits, whole.logits[[7, 3, 19]])
    assert found.ids == part.ids
    assert torch.equal(found.targets, part.targets)
    assert len(ask(network, drawn(5, 1))) == network.rows == 5


def test_other_inputs_of_the_same_ids_are_others() -> None:
    """Training and test samples may both be called 0, 1, ...; an answer belongs to an input."""
    network, ask = Counting(4, 3), AskedOnce()
    for seed in (0, 1):
        assert torch.equal(ask(network, drawn(6, seed)).logits, predict(network, drawn(6, seed)).logits)


def test_a_network_that_changed_is_asked_again() -> None:
    """Weights are part of the question, whichever object holds them."""
    network, samples, ask = Counting(4, 3), drawn(6, 0), AskedOnce()
    ask(network, samples)
    with torch.no_grad():
        network.weight[0, 0] += 1
    assert torch.equal(ask(network, samples).logits, predict(network, samples).logits)


def test_repeated_inputs_and_none_at_all() -> None:
    """Two samples of one input have one answer; no samples are refused as `predict` refuses them."""
    network, ask = Counting(4, 3), AskedOnce()
    twice = Samples(torch.ones(2, 4), torch.tensor([0, 1]), ("a", "b"))
    assert torch.equal(ask(network, twice).logits[0], ask(network, twice).logits[1])
    with pytest.raises(BadData, match="no samples"):
        ask(network, twice.take([]))
