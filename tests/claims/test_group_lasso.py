"""Claims: group lasso makes whole filters and channels exactly zero, more of them the larger `lam`, and they can be taken out.

Source: Wen et al. 2016 (SSL, arXiv 1608.03665), section 3 and table 1 (LeNet: filters and channels). Here: digits, convolutions of 20
and 50 channels, 25 epochs, penalties on filters and channels of both, proximal (exact) and as published (subgradient and threshold).
"""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from torch import nn

from sparsify_cli.contracts.listener import Listener
from sparsify_cli.recipes.option import Choice
from sparsify_cli.recipes.verbs import ShrinkRecipe, TrainRecipe
from sparsify_cli.stages.shrink import shrink
from sparsify_cli.stages.subject import open_path
from sparsify_cli.stages.train import train

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

HERE = f"{Path(__file__).resolve()}:lenet"


def lenet() -> nn.Module:
    """Digits [n, 1, 8, 8] -> logits: two convolutions, 20 and 50 channels."""
    layers = [nn.Conv2d(1, 20, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(20, 50, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(200, 10))


def run(folder, variant, lam, seed=0, groups="filters,channels"):
    """Outcome of 25 epochs with the penalty on both convolutions to the end, where the learning rate is zero."""
    options = {"variant": variant, "lam": lam, "groups": groups, "only": "0.weight,3.weight", "finetune": "0run"}
    recipe = TrainRecipe(
        arch=HERE, data="digits", epochs=25, seed=seed, weight_decay=0.0, regime=Choice("ssl", options),
        out=str(folder / f"{variant}-{lam}-{seed}"),
    )  # fmt: skip
    return train(recipe, Listener())


def alive(outcome):
    """Filters of both convolutions, and inputs of the second, that are not exactly zero."""
    first, second = (open_path(outcome.artifact).checkpoint.tensors[name] for name in ("0.weight", "3.weight"))
    filters = [int((weight.flatten(1) != 0).any(1).sum()) for weight in (first, second)]
    return (*filters, int((second.transpose(0, 1).flatten(1) != 0).any(1).sum()))


def accuracy(outcome):
    """Test accuracy, percent."""
    return 100 * outcome.report.get("accuracy").value


@pytest.mark.parametrize(("variant", "lams"), [("proximal", (0.0, 0.03, 0.1, 0.2)), ("subgradient", (0.0, 0.003, 0.01, 0.03))])
@pytest.mark.parametrize("seed", [0, 1])
def test_fewer_groups_with_larger_lambda(tmp_path, variant, lams, seed):
    """Everything lives at 0, at most half of both layers at the largest; never more than at the smaller lambda; accuracy above 92 %."""
    outcomes = [run(tmp_path, variant, lam, seed) for lam in lams]
    left = [alive(outcome) for outcome in outcomes]
    print(variant, seed, left, [round(accuracy(one), 1) for one in outcomes])
    assert left[0] == (20, 50, 20)
    for larger, smaller in itertools.pairwise(left):
        assert all(now <= then for then, now in zip(larger, smaller, strict=True)), left
    assert left[-1][0] <= 10 and left[-1][1] <= 25, left
    assert min(accuracy(outcome) for outcome in outcomes) > 92


def test_momentum_amplifies_the_subgradient_only(tmp_path):
    """Lam = 0.1 of the proximal step leaves about what lam = 0.01 of the subgradient does at momentum 0.9: within 4 of 20 and of 50."""
    proximal, published = alive(run(tmp_path, "proximal", 0.1)), alive(run(tmp_path, "subgradient", 0.01))
    print(proximal, published)
    assert abs(proximal[0] - published[0]) <= 4 and abs(proximal[1] - published[1]) <= 4


def test_what_is_zero_comes_out(tmp_path):
    """`shrink` takes out as many channels as are dead, and the network answers as before."""
    outcome = run(tmp_path, "proximal", 0.1)
    first, second, _ = alive(outcome)
    small = shrink(ShrinkRecipe(model=str(outcome.artifact), out=str(tmp_path / "small")), Listener())
    tensors = open_path(small.artifact).checkpoint.tensors
    assert len(tensors["0.weight"]) <= first and len(tensors["3.weight"]) <= second
    assert small.report.get("output_change").value < 1e-5
    assert torch.isfinite(tensors["3.weight"]).all()


def test_zero_columns_become_smaller_products(tmp_path):
    """Shape-wise: kernel positions that no filter reads go from the product; its work is the share of rows times that of columns."""
    outcome = run(tmp_path, "proximal", 0.1, groups="filters,shapes")
    weight = open_path(outcome.artifact).checkpoint.tensors["3.weight"].flatten(1) != 0
    small = shrink(ShrinkRecipe(model=str(outcome.artifact), compact=0.9, out=str(tmp_path / "small")), Listener())
    product = open_path(small.artifact).checkpoint.tensors["3.product.weight"]
    print(accuracy(outcome), product.shape, int(weight.any(0).sum()))
    assert product.shape[1] <= int(weight.any(0).sum()) < 120 and product.shape[0] <= int(weight.any(1).sum())
    assert small.report.get("output_change").value < 1e-5
    assert small.report.get("macs").value < small.report.get("macs", of="dense").value / 2
