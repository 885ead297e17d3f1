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


class Hidden(nn.Module):
    """A network with a buffer that is not saved."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.register_buffer("value", torch.full((3,), value), persistent=False)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Logits that hang on it."""
        return inputs[:, :3].float() * self.value


def test_what_is_not_saved_is_part_of_the_network() -> None:
    """Two networks of one state give their own answers."""
    samples, ask = drawn(4, 0), AskedOnce()
    assert not torch.equal(ask(Hidden(1.0), samples).logits, ask(Hidden(2.0), samples).logits)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bfloat16, torch.float64, torch.bool])
def test_inputs_of_any_type(dtype: torch.dtype) -> None:
    """Of odd numbers of bytes too, and of one number a sample; every one has its own answer."""
    inputs = torch.tensor([[1, 0, 1, 0, 0], [0, 1, 1, 0, 0], [1, 1, 1, 0, 0]]).to(dtype)
    samples = Samples(inputs, torch.zeros(3, dtype=torch.long), ("a", "b", "c"))
    ask, network = AskedOnce(), Hidden(1.0)
    assert torch.equal(ask(network, samples).logits, predict(network, samples).logits)
    assert torch.equal(ask(network, samples.take([2, 0])).logits, predict(network, samples).logits[[2, 0]])


def test_labels_are_checked_of_known_rows_too() -> None:
    """A label that the network has no output for is refused, whether its answer is known or not."""
    network, samples, ask = Counting(4, 3), drawn(3, 0), AskedOnce()
    ask(network, samples)
    with pytest.raises(BadData, match="beyond the model's 3 outputs"):
        ask(network, Samples(samples.inputs, torch.tensor([0, 1, 9]), samples.ids))
