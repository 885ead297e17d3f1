"""Ways through a network: seen to be chosen, put in order, and samples told from others."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sparsify_cli.training.routes import Choices, in_order, same_samples


@pytest.mark.parametrize(
    ("way", "chooses"),
    [
        (lambda x: x[x.sum(1) > 0], True), (lambda x: x[x.sum(1).topk(2).indices], True), (lambda x: x if float(x.sum()) > 0 else -x, True),
        (lambda x: x[x[:, :4].max(1).indices], True), (lambda x: x[x.argsort(0)[:, 0]], True), (lambda x: x[torch.tensor([1, 0])], False),
        (lambda x: x.relu().amax(1), False), (lambda x: nn.functional.max_pool1d(x, 2), False), (lambda x: x.max(), False),
        (lambda x: x.softmax(1) @ x.T, False),
    ],
)  # fmt: skip
def test_operations_that_may_choose_are_seen(way, chooses):
    """Largest places, true and false, and numbers that code looks at; not pooling, nor indexing by what is known."""
    with torch.no_grad(), Choices() as choices:
        way(torch.randn(4, 6))
    assert choices.seen is chooses


def test_order_agrees_with_every_pass():
    """Whatever is left out of some; what passes do not agree about stands in the order of the first."""
    assert list(in_order([["gate", "b", "out"], ["gate", "a", "out"], ["gate", "a", "b", "out"]])) == ["gate", "a", "b", "out"]
    assert list(in_order([["a", "b"], ["b", "c"], ["a", "c"]])) == ["a", "b", "c"]
    assert sorted(in_order([["b", "a"], ["a", "b"]]).values()) == [0, 1]
    assert in_order([]) == {} and in_order([[], ["a"]]) == {"a": 0}


def test_samples_are_known_again_when_damaged_and_others_are_not():
    """Noise of half their size is the same samples; others, or one left out in front, are not; equal ones are nearest to themselves."""
    torch.manual_seed(0)
    x = torch.randn(40, 3, 4)
    assert same_samples([x], [x]) and same_samples([x], [x + torch.randn_like(x) / 2])
    assert not same_samples([x], [torch.randn_like(x)])
    assert not same_samples([x[1:]], [x[:-1]])
    assert same_samples([torch.ones(5, 2)], [torch.ones(5, 2)])
    assert same_samples([x[:1]], [x[1:2]])  # of one nothing is known


def test_of_long_samples_some_numbers_are_compared():
    """All over them: what tells them apart may be anywhere, and both ends count."""
    torch.manual_seed(0)
    x = torch.zeros(20, 50_000)
    x[:, 40_000:] = torch.randn(20, 10_000)
    assert same_samples([x], [x + torch.randn_like(x) / 100])
    assert not same_samples([x], [x.roll(1, 0)])
