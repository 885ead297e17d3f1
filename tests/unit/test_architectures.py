"""The built-in networks: shapes, names, sizes, and options that make no network."""

from __future__ import annotations

import pytest
import torch

from sparsify_cli.architectures.cnn import Cnn
from sparsify_cli.architectures.mlp import Mlp
from sparsify_cli.errors import BadRequest


def parameters(module):
    """Numbers an optimizer would move."""
    return sum(p.numel() for p in module.parameters())


def test_cnn_parameters():
    """Width 16: convolutions 144 + 4608 + 9216 + 18432, batch norms 2 (16 + 32 + 32 + 64), linear 64 * 10 + 10."""
    assert parameters(Cnn().build()) == 144 + 4608 + 9216 + 18432 + 288 + 650


def test_cnn_names():
    """Weights carry the names people write in globs; convolutions have no bias."""
    names = [name for name, _ in Cnn().build().named_parameters()]
    assert [name for name in names if not name.startswith("bn")] == [*(f"conv{i}.weight" for i in range(1, 5)), "fc.weight", "fc.bias"]


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (28, 28), (33, 17)])
def test_cnn_takes_any_size(size):
    """Average pooling makes the network independent of the image's size."""
    assert Cnn(in_channels=3, classes=7).build()(torch.zeros(2, 3, *size)).shape == (2, 7)


@pytest.mark.parametrize(
    ("hidden", "shapes"), [("64,32", [(64, 64), (32, 64), (10, 32)]), (5, [(5, 64), (10, 5)]), ((8,), [(8, 64), (10, 8)])]
)
def test_mlp_layers(hidden, shapes):
    """Hidden sizes may be written as text, as one number or as a tuple; inputs are flattened."""
    module = Mlp(hidden=hidden).build()
    assert [tuple(p.shape) for name, p in module.named_parameters() if name.endswith("weight")] == shapes
    assert module(torch.zeros(3, 1, 8, 8)).shape == (3, 10)


def test_mlp_names():
    """Layers are fc1, fc2 and fc."""
    assert list(Mlp().build().state_dict()) == [f"{layer}.{kind}" for layer in ("fc1", "fc2", "fc") for kind in ("weight", "bias")]


@pytest.mark.parametrize(
    "make", [lambda: Cnn(width=0), lambda: Cnn(classes=-1), lambda: Mlp(hidden="8,0"), lambda: Mlp(hidden="8;8"), lambda: Mlp(inputs=0)]
)
def test_sizes_that_make_no_network(make):
    """Sizes below one, and hidden layers that are not numbers, are refused."""
    with pytest.raises(BadRequest):
        make()


def test_cnn_learns_digits():
    """Four epochs of plain SGD on the embedded digits reach 95 % on the test split (20 epochs reach 98 %)."""
    from sparsify_cli.datasets.digits import Digits

    train, test = Digits().load("train"), Digits().load("test")
    module = Cnn().build()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9)
    for _ in range(4):
        for batch in torch.randperm(len(train)).split(64):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(module(train.inputs[batch]), train.targets[batch]).backward()
            optimizer.step()
    accuracy = (module.eval()(test.inputs).argmax(1) == test.targets).float().mean()
    assert float(accuracy) > 0.95
