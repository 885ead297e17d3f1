"""Claims about bias on real people: UCI Adult (income above 50,000; groups sex and race), five seeds, with the tool's own commands.

Accuracy is flat to 95 % zeros while answers become less sure; rare answers are given too rarely, the more so the sparser the network is;
thresholds put that right. Not claimed, because it does not come out here: that bias amplification grows, or that thresholds lessen it.

Source: Iofinova, Peste, Alistarh 2023 (arXiv 2304.12622); data of Kohavi and Becker 1996; set-up and margins ours.
"""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean

import pytest

from sparsify_cli.cli.app import main

ADULT = Path(__file__).resolve().parents[2] / "../shared/data/adult"
needs_files = pytest.mark.skipif(not (ADULT / "adult.data").is_file(), reason="the UCI Adult data is not here")
pytestmark = [pytest.mark.slow, needs_files, pytest.mark.timeout(1800)]
SEEDS = range(5)

CODE = """
import csv
import functools
from pathlib import Path

import torch
from torch import nn

FOLDER = Path({folder!r})
NUMBERS, WORDS = [0, 2, 4, 10, 11, 12], [1, 3, 5, 6, 7, 8, 9, 13]


def rows(name):
    kept = ([cell.strip().rstrip(".") for cell in row] for row in csv.reader((FOLDER / name).open()))
    return [row for row in kept if len(row) == 15 and "?" not in row]


@functools.cache
def table():
    train, test = rows("adult.data"), rows("adult.test")
    known = torch.tensor([[float(row[i]) for i in NUMBERS] for row in train])
    values = [sorted({{row[i] for row in train}}) for i in WORDS]

    def packed(some):
        numbers = (torch.tensor([[float(row[i]) for i in NUMBERS] for row in some]) - known.mean(0)) / known.std(0)
        words = [torch.tensor([[float(row[i] == v) for v in there] for row in some]) for i, there in zip(WORDS, values)]
        groups = {{"sex": [row[9] for row in some], "race": [row[8] for row in some]}}
        return {{"x": torch.cat([numbers, *words], 1), "y": torch.tensor([int(row[14] == ">50K") for row in some]), "groups": groups}}

    return {{"train": packed(train), "test": packed(test)}}


def data():
    return table()


def net():
    width = table()["train"]["x"].shape[1]
    return nn.Sequential(nn.Linear(width, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 2))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Every network of every seed."""
    here = tmp_path_factory.mktemp("adult")
    (here / "adult.py").write_text(CODE.format(folder=str(ADULT.resolve())))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        for seed in SEEDS:
            told(f"train --arch adult.py:net --data adult.py:data --epochs 8 --lr 0.05 --seed {seed} --out dense{seed}")
            for level in ("0.95", "0.98"):
                told(f"prune dense{seed} --sparsity {level} --out pruned{seed}-{level}")
                told(f"finetune pruned{seed}-{level} --epochs 2 --lr 0.02 --seed {seed} --out tuned{seed}-{level}")
                told(f"validate tuned{seed}-{level} --out seen{seed}-{level}")
            told(f"validate dense{seed} --out seen{seed}")
            told(f"recalibrate tuned{seed}-0.98 --method thresholds --out cured{seed}")
    return here


def told(command: str) -> None:
    """Run a command."""
    assert main([*command.split(), "--format", "quiet"]) == 0


def number(folder: Path, name: str, of: str = "compressed") -> float:
    """A number about all test samples."""
    found = json.loads((folder / "manifest.json").read_text())["numbers"]
    [value] = [f["value"] for f in found if (f["name"], f["of"], f["scope"]) == (name, of, "all")]
    return value


def test_accuracy_is_flat_while_answers_are_less_sure(folder):
    """Within half a point at 95 %, in every seed; at 98 % more answers are unsure, on average by a point or more."""
    lost = [number(folder / f"seen{s}", "accuracy") - number(folder / f"seen{s}-0.95", "accuracy") for s in SEEDS]
    unsure = [number(folder / f"seen{s}-0.98", "uncertainty") - number(folder / f"seen{s}", "uncertainty") for s in SEEDS]
    assert max(lost) <= 0.005 and fmean(unsure) >= 0.01 and min(unsure) > 0


def test_rare_answers_become_rarer_and_thresholds_put_them_right(folder):
    """Given, against true, at 98 %: below the dense network's on average, and within 0.05 of 1 with thresholds, in every seed."""
    before, pruned = ([number(folder / f"seen{s}{tail}", "threshold_bias") for s in SEEDS] for tail in ("", "-0.98"))
    cured = [number(folder / f"cured{s}", "threshold_bias") for s in SEEDS]
    assert fmean(pruned) < fmean(before) - 0.02 < 0.9 and all(abs(value - 1) <= 0.05 for value in cured)
