"""`prune --criterion channels`, then `shrink`: what was asked to be zero is gone, and what would tear channels apart is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.cli.conftest import Run

NET = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.inner, self.outer = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 24, 3, padding=1), nn.Conv2d(24, 16, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in (16, 24, 16))
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        x = torch.relu(self.norms[0](self.stem(x)))
        y = self.norms[2](self.outer(torch.relu(self.norms[1](self.inner(x)))))
        return self.head(torch.relu(x + y).amax((2, 3)))
"""
DENSE = "--arch net.py:Net --data digits"


@pytest.fixture
def trained(here: Path, run: Run) -> Path:
    """A residual network that tells digits apart."""
    (here / "net.py").write_text(NET)
    assert run(f"train {DENSE} --epochs 3 --lr 0.05 --out dense").code == 0
    return here


def numbers(folder: str) -> dict[tuple[str, str], float]:
    """Numbers of an artifact, by name and whose they are."""
    manifest = json.loads((Path(folder) / "manifest.json").read_text())
    return {(one["name"], one["of"]): one["value"] for one in manifest["numbers"] if one["scope"] == "all"}


GROUPS = """
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.first = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 32, 1, bias=False)
        self.inner, self.last = nn.Conv2d(32, 48, 3, padding=1, groups=8, bias=False), nn.Conv2d(48, 16, 1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in (32, 48))
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        x = self.stem(x).relu()
        y = self.norms[1](self.inner(self.norms[0](self.first(x)).relu())).relu()
        return self.head((x + self.last(y)).relu().amax((2, 3)))
"""


def test_groups_of_a_convolution_go(here: Path, run: Run) -> None:
    """As ResNeXt has them: whole groups are zero, `shrink` takes them out, and what is built anew from the folder computes the same."""
    (here / "net.py").write_text(GROUPS)
    assert run(f"train {DENSE} --epochs 3 --lr 0.05 --out dense").code == 0
    assert run("prune dense --criterion channels --budget macs=0.5 --solver auto --out half").code == 0
    assert run("shrink half --out small").code == 0
    shape = load_file(next(Path("small").glob("*.safetensors")))["inner.weight"].shape
    assert shape[1] == 4 and shape[0] % 6 == 0 and 6 <= shape[0] < 48
    found = numbers("small")
    assert found["macs", "compressed"] < 0.56 * found["macs", "dense"]
    assert run("export small --to onnx --out small.onnx").code == 0
    assert found["accuracy", "compressed"] == pytest.approx(numbers("half")["accuracy", "compressed"], abs=0.003)
    assert run("prune small --sparsity 0.5 --out sparse").code == 0


@pytest.mark.parametrize("how", ["", "--set criterion.by=norm", "--solver alps", "--solver auto --effort high"])
def test_what_is_zero_goes(trained: Path, run: Run, how: str) -> None:
    """Half of the weights are zero, and a tenth at most of what was asked stays behind; the solver repairs what is left of the layers."""
    del trained
    said = run(f"prune dense --criterion channels --sparsity 0.5 {how} --out half")
    assert said.code == 0 and "sparsify shrink half" in said.err
    assert run("shrink half --out small").code == 0
    found = numbers("small")
    assert found["sparsity", "compressed"] < 0.1
    assert found["parameters", "compressed"] < 0.56 * found["parameters", "dense"]
    assert found["accuracy", "compressed"] == pytest.approx(numbers("half")["accuracy", "compressed"], abs=0.01)


def test_a_budget_of_multiply_adds_holds_for_the_small_network(trained: Path, run: Run) -> None:
    """Channels are ranked until half of the multiply-adds are left, and the network without them has as many."""
    del trained
    assert run("prune dense --criterion channels --budget macs=0.5 --out half").code == 0
    assert run("shrink half --out small").code == 0
    found = numbers("small")
    assert 0.4 < found["macs", "compressed"] / found["macs", "dense"] < 0.53


def test_pruning_again_goes_on(trained: Path, run: Run) -> None:
    """Channels that are gone stay gone; more go with them."""
    del trained
    assert run("prune dense --criterion channels --sparsity 0.3 --out less").code == 0
    assert run("prune less --criterion channels --sparsity 0.6 --out more").code == 0
    less, more = (load_file(f"{name}/model.safetensors") for name in ("less", "more"))
    assert all(bool((more[name][tensor == 0] == 0).all()) for name, tensor in less.items() if tensor.ndim > 1)
    assert run("shrink more --out small").code == 0
    assert numbers("small")["sparsity", "compressed"] < 0.1


def test_more_than_can_go_is_refused(trained: Path, run: Run) -> None:
    """Classes and one channel in each place stay; the sentence says how much can go, and that much can."""
    said = run("prune dense --criterion channels --sparsity 0.999 --out half")
    assert said.code == 5 and "At most" in said.sentence and not (trained / "half").exists()
    most = re.search(r"at most (0\.\d+)", said.sentence)
    assert most and run(f"prune dense --criterion channels --sparsity {most[1]} --out half").code == 0
    assert run("shrink half --out small").code == 0


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        ("--allocation erk", "--allocation erk"),
        ("--pattern 2:4", "--pattern 2:4"),
        ("--solver cap", "cap"),
    ],
)
def test_what_tears_channels_apart_is_refused(trained: Path, run: Run, flags: str, word: str) -> None:
    """Exit 2, one sentence, and nothing is written."""
    said = run(f"prune dense --criterion channels --sparsity 0.5 {flags} --out half")
    assert said.code == 2 and word in said.sentence and not (trained / "half").exists()


def test_training_does_not_choose_channels(trained: Path, run: Run) -> None:
    """`finetune` ranks while it trains, and does not calibrate: the sentence says what does."""
    del trained
    said = run("finetune dense --regime gmp --criterion channels --sparsity 0.5 --epochs 1")
    assert said.code == 2 and "prune --criterion channels" in said.sentence


def test_analyze_follows_the_one_ranking_there_is(trained: Path, run: Run) -> None:
    """No rule is recommended that `prune` refuses."""
    del trained
    said = run("analyze dense --criterion channels --sparsity 0.5")
    assert said.code == 0 and "erk" not in said.err and "uniform" not in said.out
