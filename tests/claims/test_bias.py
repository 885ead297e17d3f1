"""What pruning does to attributes, as the pruning-bias paper describes it, on digits with a planted cue; with the tool's own commands.

Four attributes of a digit; a bright corner (the group `cue`) goes with loops in four of five cases and with others in one of five. Five
seeds of data order, cue and training; pruned once, by magnitude, to 80 and 90 %.

Source: Iofinova, Peste, Alistarh 2023 (arXiv 2304.12622) for the claims; set-up and margins ours. That bias amplification grows is not
claimed here: 270 test samples do not show it.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
from sklearn.datasets import load_digits

from sparsify_cli.cli.app import main

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
SEEDS, LEVELS = range(5), ("0.8", "0.9")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where everything is made, once."""
    return tmp_path_factory.mktemp("bias")


@pytest.fixture
def numbers(folder, monkeypatch):
    """A function of a folder's name, of a number, its side and scope: its finding."""
    monkeypatch.chdir(folder)
    if not Path("cool4-0.9").exists():
        for seed in SEEDS:
            made(seed)

    @cache
    def known(name: str) -> dict:
        found = json.loads(Path(name, "manifest.json").read_text())["numbers"]
        return {(f["name"], f["of"], f["scope"]): f for f in found}

    def number(name: str, metric: str, of: str = "compressed", scope: str = "all") -> dict:
        return known(name)[metric, of, scope]

    return number


def planted(seed: int) -> None:
    """Digits with four attributes and the cue, as a file."""
    x, y = load_digits(return_X_y=True)
    draw = np.random.default_rng(seed)
    order = draw.permutation(len(y))
    images, labels = (x[order] / 16).reshape(-1, 8, 8), y[order]
    loop = np.isin(labels, [0, 6, 8, 9])
    cue = draw.random(len(labels)) < np.where(loop, 0.8, 0.2)
    images[cue, :2, :2] = 1.0
    targets = np.stack([labels >= 5, loop, labels == 8, labels % 2 == 0], axis=1).astype(np.int64)
    names = ["large", "loop", "eight", "even"]
    groups = np.where(cue, "cue", "plain")
    np.savez(f"digits{seed}.npz", x=images.reshape(-1, 64).astype(np.float32), y=targets, classes=names, groups_cue=groups)


def made(seed: int) -> None:
    """A dense network, its forecast, and at each sparsity a pruned network, its score and what thresholds make of it."""
    planted(seed)
    train = f"train --arch mlp --arch-arg classes=4 --data npz:digits{seed}.npz --epochs 15 --lr 0.1 --seed {seed} --out dense{seed}"
    lines = [train, f"report dense{seed} --forecast --out told{seed}"]
    for level in LEVELS:
        name = f"{seed}-{level}"
        lines += [f"prune dense{seed} --sparsity {level} --out pruned{name}", f"report pruned{name} --score told{seed} --out page{name}"]
        lines += [f"recalibrate pruned{name} --method thresholds --out even{name}", f"recalibrate pruned{name} --out cool{name}"]
    for line in lines:
        assert main([*line.split(), "--format", "quiet"]) == 0, line


@pytest.mark.parametrize("level", LEVELS)
def test_answers_that_change_are_those_the_dense_model_was_unsure_of(numbers, level):
    """Three times as often as answers at large, foretold before pruning; above one in every seed by its whole interval."""
    found = [numbers(f"page{seed}-{level}", "forecast_lift") for seed in SEEDS]
    assert fmean(f["value"] for f in found) >= 3
    assert all(f["low"] > 1 for f in found)


@pytest.mark.parametrize("level", LEVELS)
def test_uncertainty_rises_more_than_accuracy_falls(numbers, level):
    """In every seed the share of unsure answers rises by at least twice the points that accuracy loses."""
    for seed in SEEDS:
        rise, fall = (numbers(f"page{seed}-{level}", name, "change")["value"] for name in ("uncertainty", "accuracy"))
        assert rise > 0.05 and rise > -2 * fall


@pytest.mark.parametrize("level", LEVELS)
def test_rare_answers_vanish_and_thresholds_bring_them_back(numbers, level):
    """The rare attribute is predicted less often than it is true, less than by the dense network; thresholds halve the distance to 1."""
    scope = "attribute:eight"
    pruned, even = (
        [numbers(f"{name}{seed}-{level}", "threshold_bias", "compressed", scope)["value"] for seed in SEEDS] for name in ("page", "even")
    )
    dense = [numbers(f"page{seed}-{level}", "threshold_bias", "dense", scope)["value"] for seed in SEEDS]
    assert fmean(pruned) < fmean(dense) < 1
    assert fmean(abs(1 - value) for value in even) < 0.5 * fmean(abs(1 - value) for value in pruned)


def test_temperature_makes_confidence_honest(numbers):
    """The calibration error falls in every seed, and no answer changes."""
    for seed in SEEDS:
        before, after = (numbers(f"cool{seed}-0.9", "ece", of)["value"] for of in ("dense", "compressed"))
        assert after < 0.7 * before
        assert numbers(f"cool{seed}-0.9", "churn")["value"] == 0
