"""Weights that are stored inputs first: patterns run along their inputs and filters are their outputs, in every verb that chooses masks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.cli.conftest import Run

NET = """
import torch
from torch import nn


class Conv1D(nn.Module):
    # as GPT-2 has it: [in, out]
    def __init__(self, nf, nx):
        super().__init__()
        self.nf, self.weight, self.bias = nf, nn.Parameter(torch.randn(nx, nf) / nx**0.5), nn.Parameter(torch.zeros(nf))

    def forward(self, x):
        return x @ self.weight + self.bias


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.down, self.up, self.mix = nn.Conv2d(1, 16, 2, stride=2), nn.ConvTranspose2d(16, 6, 2, stride=2), Conv1D(8, 8)
        self.head = nn.Linear(6 * 8 * 8, 10)

    def forward(self, x):
        return self.head(self.mix(torch.relu(self.up(torch.relu(self.down(x))))).flatten(1))
"""
NEW = "--arch net.py:Net --data digits"


@pytest.fixture
def there(here: Path, run: Run) -> Path:
    """A network with a transposed convolution [16, 6, 2, 2] and a layer of GPT-2's kind [8, 8]."""
    (here / "net.py").write_text(NET)
    assert run(f"train {NEW} --epochs 1 --lr 0.01 --out dense").code == 0
    return here


def most_in_four(weight: torch.Tensor) -> int:
    """The most numbers that are not zero in four inputs in a row."""
    groups = (weight != 0).movedim(0, -1).reshape(-1, weight.shape[0] // 4, 4).sum(-1)
    return int(groups.max())


@pytest.mark.parametrize(
    "line",
    [
        "finetune dense --regime asp --pattern 2:4 --epochs 1",
        "finetune dense --regime gmp --pattern 2:4 --sparsity 0.5 --epochs 1",
        "finetune dense --regime ste --pattern 2:4 --epochs 1",
        "prune dense --pattern 2:4",
        "prune dense --pattern 2:4 --solver alps",
        f"train {NEW} --regime sr-ste --pattern 2:4 --epochs 1",
    ],
)
def test_patterns_run_along_inputs(there: Path, run: Run, line: str) -> None:
    """2:4 holds along the first axis, not the second, which has 6 entries and could not hold it."""
    del there
    said = run(f"{line} --include up.weight --include mix.weight --out out")
    found = load_file("out/model.safetensors")
    assert said.code == 0 and "input channel" not in said.err
    assert most_in_four(found["up.weight"]) == 2 and most_in_four(found["mix.weight"]) == 2


def test_levels_of_a_nest_do_too(there: Path, run: Run) -> None:
    """`embed --pattern 2:4`, and what is taken out of it."""
    del there
    assert run("embed dense --pattern 2:4 --levels 0.5,0 --epochs 1 --out nest").code == 0
    assert run("extract nest --level 1 --out out").code == 0
    assert most_in_four(load_file("out/model.safetensors")["up.weight"]) == 2


def test_cram_multi_compresses_along_inputs(there: Path, run: Run) -> None:
    """Patterns that are drawn in training are those `prune` leaves: a transposed convolution of 6 outputs carries 2:4."""
    del there
    said = run("finetune dense --regime cram-multi --set regime.patterns=2:4 --sparsity 0.5 --epochs 1 --out out")
    assert said.code == 0 and "carry" not in said.err


def test_filters_are_outputs(there: Path, run: Run) -> None:
    """`group-norm` zeroes outputs of a transposed convolution, which `shrink` takes out."""
    del there
    assert run("prune dense --sparsity 0.5 --criterion group-norm --include up.weight --out out").code == 0
    weight = load_file("out/model.safetensors")["up.weight"]
    assert [bool(part.any()) for part in weight.transpose(0, 1)].count(False) == 3
    assert all(bool(part.any()) for part in weight)
    found = json.loads(run("inspect out --format json").out)["facts"]["tensors"]["up.weight"]
    assert (found["dead_rows"], found["dead_columns"]) == (3, 0)


def test_wanda_weighs_inputs(there: Path, run: Run) -> None:
    """In a square layer stored inputs first each output, a column, keeps half of its inputs: outputs compete among themselves."""
    del there
    line = "prune dense --criterion wanda --set criterion.scope=row --sparsity 0.5 --include mix.weight --allocation uniform"
    assert run(f"{line} --out out").code == 0
    assert (load_file("out/model.safetensors")["mix.weight"] != 0).sum(0).tolist() == [4] * 8


def test_filters_of_a_grouped_transposed_convolution(there: Path, run: Run) -> None:
    """Stored [in, out / groups]: the outputs of smallest norm go, whichever group they are in."""
    (there / "grouped.py").write_text(
        "from torch import nn\ndef net():\n    return nn.Sequential(nn.Conv2d(1, 8, 1), nn.ConvTranspose2d(8, 12, 2, 2, groups=4),"
        " nn.Flatten(), nn.Linear(12 * 256, 10))\n"
    )
    assert run("train --arch grouped.py:net --data digits --epochs 1 --lr 0.001 --out new").code == 0
    assert run("prune new --criterion group-norm --sparsity 0.5 --include 1.weight --out out").code == 0
    old, new = (load_file(f"{name}/model.safetensors")["1.weight"].unflatten(0, (4, 2)) for name in ("new", "out"))
    norms = old.transpose(1, 2).flatten(0, 1).flatten(1).norm(dim=1)
    gone = ~new.transpose(1, 2).flatten(0, 1).flatten(1).any(1)
    assert set(gone.nonzero().flatten().tolist()) == set(norms.argsort()[:6].tolist())
