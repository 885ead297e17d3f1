"""One small trained network for all tests of the command line, and ways to run it and to check what it left behind."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sparsify_cli.cli.app import main

NAMES = {
    "dense": "001-train-mlp",
    "pruned": "002-prune-mlp",
    "tuned": "003-finetune-mlp",
    "nest": "004-embed-mlp",
    "memo": "005-unlearn-mlp-prepared",
}
MADE = (
    "train --arch mlp --data digits --epochs 3 --batch-size 32",
    "prune runs/001-train-mlp --sparsity 0.9 --pattern 2:4",
    "finetune runs/002-prune-mlp --epochs 2",
    "embed runs/001-train-mlp --levels 0.9,0.5 --epochs 2",
    "unlearn runs/001-train-mlp --prepare",
)


@dataclass(frozen=True)
class Said:
    """What a command said and returned."""

    code: int
    out: str
    err: str

    @property
    def sentence(self) -> str:
        """The one error sentence; fails unless there is exactly one and no traceback."""
        lines = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, self.err
        assert "Traceback" not in self.err + self.out
        return lines[0]


Run = Callable[..., Said]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """A function that runs a command line, `prune model.pt --sparsity 0.9`, in this process; further words as they are."""

    def go(line: str, *words: str) -> Said:
        capsys.readouterr()
        code = main([*line.split(), *words])
        said = capsys.readouterr()
        return Said(code, said.out, said.err)

    return go


def network() -> nn.Module:
    """A small convolutional network with batch norm."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.BatchNorm2d(16), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10),
    )  # fmt: skip


def state() -> dict[str, Tensor]:
    """The seeded state of `network`."""
    torch.manual_seed(0)
    return dict(network().state_dict())


def names(folder: str | Path) -> list[str]:
    """Names of everything in a folder, hidden ones too, sorted."""
    return sorted(path.name for path in Path(folder).iterdir())


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with model.pt and runs/ as in NAMES: trained, pruned, fine-tuned, embedded, prepared for unlearning."""
    folder = tmp_path_factory.mktemp("made")
    before = Path.cwd()
    os.chdir(folder)
    try:
        torch.save(state(), "model.pt")
        assert [main([*line.split(), "--format", "quiet"]) for line in MADE] == [0] * len(MADE)
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def here(made: Path, tmp_path: Path) -> Path:
    """A fresh copy of `made`, the current folder of the test."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return tmp_path


def content(folder: Path) -> dict[str, str]:
    """Every path below a folder with the sha256 of its content; folders count too."""
    found = sorted(folder.rglob("*"))
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() if p.is_file() else "folder" for p in found}


@pytest.fixture
def untouched(here: Path) -> Iterator[Callable[[], None]]:
    """Call it once inputs are in place; when the test ends nothing may have changed, come or gone."""
    before: list[Mapping[str, str]] = []
    yield lambda: before.append(content(here))
    assert before, "the test never said when its inputs were ready"
    assert content(here) == before[0]


@pytest.fixture
def start(python: str) -> Callable[..., subprocess.Popen[str]]:
    """Start `sparsify` in a process of its own."""

    def go(line: str, **options: object) -> subprocess.Popen[str]:
        command = [python, "-m", "sparsify_cli", *line.split()]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)  # type: ignore[call-overload]

    return go
