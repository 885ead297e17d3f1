"""Claim: on image networks, weights that compete in the whole layer beat weights that compete in their output row.

The paper's Wanda prunes an equal share of every row, which pays in language models; in a perceptron rows differ in use, and inputs have no
outliers that magnitude would miss. One shot, no repair, the last layer dense, each layer sees inputs from those already pruned.

Source: Sun et al. 2023, arXiv 2306.11695 (rows against layers, on language models); that layers win on images is our own observation.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from sparsify_cli.architectures.mlp import Mlp
from sparsify_cli.criteria.magnitude import Magnitude
from sparsify_cli.criteria.ria import Ria
from sparsify_cli.criteria.wanda import Wanda
from sparsify_cli.datasets.idx import Idx
from sparsify_cli.maths.choose_masks import choose_masks
from sparsify_cli.recipes.pattern import Pattern
from sparsify_cli.stages.calibrate import calibrate

FASHION = Path(__file__).parents[2] / "../shared/data/fashion_mnist"
METHODS = {"magnitude": Magnitude(), "wanda": Wanda(), "wanda-row": Wanda(scope="row"), "ria": Ria()}
SPARSITIES = (50, 70, 80, 90, 95)


def pixels(samples, mean, deviation):
    """Rows of standardised pixels."""
    return (samples.inputs.flatten(1) - mean) / deviation


@pytest.fixture(scope="module")
def fashion():
    """A perceptron 784-256-128-10 after six epochs, its training inputs, and test inputs and labels."""
    if not FASHION.exists():
        pytest.skip("Fashion-MNIST is not here")
    train, test = (Idx(path=str(FASHION)).load(split) for split in ("train", "test"))
    mean, deviation = train.inputs.mean(), train.inputs.std()
    inputs = pixels(train, mean, deviation)
    torch.manual_seed(0)
    net = Mlp(inputs=784, hidden="256,128").build()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 6 * -(-len(inputs) // 128))
    for _ in range(6):
        for rows in torch.randperm(len(inputs)).split(128):
            optimizer.zero_grad()
            functional.cross_entropy(net(inputs[rows]), train.targets[rows]).backward()
            optimizer.step()
            schedule.step()
    return net, inputs, pixels(test, mean, deviation), test.targets


@torch.no_grad()
def accuracy(fashion, criterion, percent):
    """Test accuracy in percent, layers pruned in order."""
    net, train, inputs, targets = fashion
    before = {name: value.clone() for name, value in net.state_dict().items()}
    for name in [name for name, value in net.named_parameters() if value.ndim == 2][:-1]:
        weight = dict(net.named_parameters())[name]
        stats = calibrate(net, train[:1024], [name])
        scores = criterion.scores({name: weight}, stats)
        weight *= choose_masks(scores, pattern=Pattern(), sparsity=Fraction(percent, 100), allocation="uniform")[name]
    right = 100 * float((net(inputs).argmax(1) == targets).double().mean())
    net.load_state_dict(before)
    return right


@pytest.mark.slow
def test_rows_lose_against_layers(fashion):
    """At 70 to 95 % Wanda in rows is below magnitude in the layer by three points and more, and in the mean so far below Wanda there.

    At one level, 90 %, it may be above Wanda in the layer (67.8 % beside 65.4 % with these weights).
    """
    found = {name: [accuracy(fashion, criterion, percent) for percent in SPARSITIES] for name, criterion in METHODS.items()}
    rows, layers, sizes = (found[name][1:] for name in ("wanda-row", "wanda", "magnitude"))
    assert all(row < size - 3 for row, size in zip(rows, sizes, strict=True))
    assert sum(rows) / len(rows) < sum(layers) / len(layers) - 3
