"""Networks that tell several yes-or-no attributes of a sample, through every verb."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from sparsify_cli.stages.measure import predict
from sparsify_cli.stages.subject import open_path
from tests.cli.conftest import Run

CONTEXT = "--arch mlp --arch-arg classes=3 --data npz:digits.npz"
NAMES = ["even", "large", "loop"]
HOW = ("--solver auto", "--solver woodfisher", "--criterion grasp")


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder with digits by attribute and a network trained on them."""
    from sparsify_cli.cli.app import main

    folder = tmp_path_factory.mktemp("attributes")
    x, y = load_digits(return_X_y=True)
    targets = np.stack([y % 2 == 0, y >= 5, np.isin(y, [0, 6, 8, 9])], axis=1).astype(np.int64)
    order = np.random.default_rng(0).permutation(len(y))
    np.savez(folder / "digits.npz", x=(x[order] / 16).astype(np.float32), y=targets[order], classes=NAMES, groups_half=order < 900)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(f"train {CONTEXT} --epochs 12 --lr 0.1 --out dense --format quiet".split()) == 0
    return folder


@pytest.fixture(autouse=True)
def _inside(trained, tmp_path, monkeypatch):
    """Run beside a copy of the data and the network."""
    shutil.copytree(trained, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")


def numbers(folder: str, name: str) -> dict[str, float]:
    """A number of a manifest by scope."""
    found = json.loads(Path(folder, "manifest.json").read_text())["numbers"]
    return {f["scope"]: f["value"] for f in found if f["name"] == name and f["of"] == "compressed"}


def test_training_learns_every_attribute():
    """Each far above guessing; the whole is their mean."""
    accuracy = numbers("dense", "accuracy")
    assert {f"attribute:{name}" for name in NAMES} <= set(accuracy)
    assert min(accuracy[f"attribute:{name}"] for name in NAMES) > 0.85
    assert accuracy["all"] == pytest.approx(sum(accuracy[f"attribute:{name}"] for name in NAMES) / 3)


def test_an_attribute_tells_groups_apart(run: Run):
    """Even digits as a group: the others are paired with it, it is not with itself; a forecast knows the same pairs; a typo is told."""
    assert run("prune dense --sparsity 0.9 --out pruned").code == 0
    assert run("report pruned --identity even --out page").code == 0
    assert run("report dense --identity even --forecast --out told").code == 0
    for name in ("bias_amplification", "cooccurrence"):
        pairs = [scope for scope in numbers("page", name) if "@even=" in scope]
        assert pairs and not any(scope.startswith("attribute:even@") for scope in pairs)
    assert {one["scope"] for one in json.loads(Path("told/forecast.json").read_text())["risks"]} >= set(pairs)
    said = run("report pruned --identity odd --out other")
    assert (said.code, "'odd'" in said.sentence, "even, large, loop" in said.sentence) == (2, True, True)


@pytest.mark.parametrize("how", HOW)
def test_pruning_looks_at_attributes(run: Run, how: str):
    """Methods that look at the loss or at predictions take them as they are."""
    assert run(f"prune dense --sparsity 0.5 {how} --samples 128 --out pruned").code == 0
    assert numbers("pruned", "accuracy")["all"] > (0.4 if "grasp" in how else 0.8)


@pytest.mark.slow
def test_finetuning_distils_and_embeds(run: Run):
    """Both objectives, a nest, and a level out of it."""
    assert run("prune dense --sparsity 0.8 --out pruned").code == 0
    assert run("finetune pruned --epochs 2 --objective distill --teacher dense --out tuned").code == 0
    assert numbers("tuned", "accuracy")["all"] > 0.85
    assert run("embed dense --levels 0.8,0.5 --epochs 1 --out nest").code == 0
    assert run("extract nest --level 0.8 --out level").code == 0


def test_the_report_asks_by_attribute(run: Run):
    """Gates, the page, and a line for the attribute that pays most."""
    assert run("prune dense --sparsity 0.95 --out pruned").code == 0
    assert run("report pruned --gate change.accuracy@attribute:even>=-1 --out page").code == 0
    page = Path("page/report.html").read_text(encoding="utf-8")
    assert "Accuracy per attribute" in page and "Accuracy per class" not in page
    assert "of 5 attributes and groups" in page
    assert run("report pruned --gate accuracy@attribute:even>=0.999").code == 3


@pytest.mark.parametrize("method", ["ssse", "salun", "scrub", "fisher-forgetting"])
def test_forgetting_by_attribute(run: Run, method: str):
    """Samples that have an attribute go; the certificate counts them."""
    assert run(f"unlearn dense --forget random:3% --unlearner {method} --out gone --most-harm 1").code == 0
    assert json.loads(Path("gone/unlearning.json").read_text())["forgotten"]["samples"] == 38


def test_one_attribute_can_be_trained(run: Run):
    """A network with one output, from a function that returns one column of 0 and 1."""
    Path("one.py").write_text(ONE, encoding="utf-8")
    assert run("train --arch one.py:net --data one.py:data --epochs 2 --out one").code == 0
    assert run("report one --forecast --out told").code == 0


def test_forgetting_those_that_have_an_attribute(run: Run):
    """With the audit; unseen samples are mixed alike, so that an attack cannot tell by the attribute alone."""
    said = run("unlearn dense --forget attribute:loop --audit --out gone")
    assert said.code == 0
    assert 0.3 < numbers("gone", "membership_before")["all"] < 0.7


def test_thresholds_make_the_shares_of_yes_the_true_ones(run: Run):
    """On validation samples as many answers are `yes` as are true, of every attribute; confidences alone move by temperature."""
    assert run("prune dense --sparsity 0.95 --out pruned").code == 0
    assert run("recalibrate pruned --method thresholds --out even").code == 0
    subject = open_path(Path("even"))
    seen = predict(subject.module(), subject.samples("validation"))
    assert seen.labels.sum(dim=0).tolist() == seen.targets.sum(dim=0).tolist()
    assert run("recalibrate pruned --out cool").code == 0
    assert numbers("cool", "ece")["all"] < numbers("pruned", "ece")["all"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("unlearn dense --forget class:loop", "There is no class 'loop'. The data is labelled by attribute: even, large, loop."),
        ("unlearn dense --forget attribute:tall", "There is no attribute 'tall'."),
        ("train --arch mlp --arch-arg classes=4 --data npz:digits.npz --epochs 1", "3 attributes"),
    ],
)
def test_what_does_not_fit_is_told(run: Run, line: str, words: str):
    """One sentence each, exit 2."""
    said = run(line)
    assert (said.code, words in said.sentence) == (2, True), said.sentence


ONE = """
import torch
from torch import nn
from sparsify_cli.values.samples import Samples

def net():
    return nn.Linear(2, 1)

def data(split):
    x = torch.randn(200, 2, generator=torch.Generator().manual_seed(len(split)))
    return Samples(x, (x[:, :1] > 0).long(), tuple(f"{split}-{i}" for i in range(200)), classes=("right",))
"""
