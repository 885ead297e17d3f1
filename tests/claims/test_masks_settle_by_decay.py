"""Claim: the decay of dropped weights settles N:M masks: the larger `lam`, the fewer mask bits change; below zero they churn.

Source: Zhou et al. 2021 (SR-STE, arXiv 2102.04010), section 3.2 and figure 2b: SAD falls monotonically in lambda. Here: Fashion-MNIST,
perceptron 784-300-100-10, hidden layers 2:4, three epochs.
"""

from __future__ import annotations

import itertools

import pytest

from sparsify_cli.contracts.listener import Listener
from sparsify_cli.recipes.duration import Duration
from sparsify_cli.recipes.option import Choice
from sparsify_cli.recipes.pattern import Pattern
from sparsify_cli.recipes.verbs import TrainRecipe
from sparsify_cli.stages.train import train
from sparsify_cli.stages.training_log import read_log
from tests.claims.fashion import FOLDER, accuracy, needs_fashion

pytestmark = [pytest.mark.slow, needs_fashion, pytest.mark.timeout(1800)]

LAMBDAS = (-2e-3, 0.0, 2e-4, 2e-3, 2e-2)


def run(lam, seed, folder):
    """Three epochs at 2:4; SAD is measured at every step."""
    recipe = TrainRecipe(
        arch="mlp", arch_arg=("inputs=784", "hidden=300,100"), data=f"idx:{FOLDER}", data_arg=("mean=0.2860", "std=0.3530"),
        epochs=3, batch_size=128, lr=0.1, weight_decay=0.0, warmup=Duration.parse("0it"), seed=seed, pattern=Pattern.parse("2:4"),
        regime=Choice("sr-ste", {"lam": lam, "sad_every": "1it"}), out=str(folder / f"{lam}-{seed}"),
    )  # fmt: skip
    return train(recipe, Listener())


@pytest.mark.parametrize("seed", [0, 1])
def test_sad_falls_in_lambda(tmp_path, seed):
    """Mask bits that change over the whole run, by weight: strictly fewer with each lambda, ten times as many below zero."""
    flips = []
    for lam in LAMBDAS:
        outcome = run(lam, seed, tmp_path)
        log = read_log(outcome.artifact)
        flips.append(sum(entry["sad"] for entry in log if "sad" in entry) / 266_200)
        assert accuracy(outcome) > 84, lam
    print(flips)
    assert all(fewer < more for more, fewer in itertools.pairwise(flips)), flips
    assert flips[0] > 10 * flips[1], flips
