"""Claim: killed twice at any moment (SIGKILL, nothing can be tidied up) and resumed, a run ends with the bits of one that was never killed.

Every regime, with SGD and with AdamW, in processes of their own: a convolutional network with batch norm and dropout, augmented images,
batches prepared by workers, averaged weights. The moments are drawn, other ones for every case.

Source: house rule, everything is seeded, atomic and resumable.
"""

from __future__ import annotations

import contextlib
import random
import subprocess
import time
from pathlib import Path

import pytest

from sparsify_cli.cli.app import main
from sparsify_cli.shelf import Shelf

NET = """
from torch import nn

def net():
    return nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.2), nn.Conv2d(8, 8, 3), nn.ReLU(),
                         nn.Flatten(), nn.Linear(288, 10))
"""
COMMON = "--data digits --batch-size 64 --augment flip --workers 2 --average 0.9 --save-every 3it --seed 5 --epochs 12"
AIMED = "--sparsity 0.75"
OWN = {
    "fixed": "finetune pruned",
    "asp": "finetune dense --regime asp --pattern 2:4",
    "imp": f"train --arch net.py:net --regime imp {AIMED} --set regime.drop=0.4",
}
"""Regimes that start from something, or need something of their own."""


def line_of(regime: str, optimizer: str) -> str:
    """The command that trains."""
    aimed = AIMED if Shelf("regimes").load(regime).aims else ""
    return f"{OWN.get(regime, f'train --arch net.py:net --regime {regime} {aimed}')} {COMMON} --optimizer {optimizer} --lr 0.01"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a dense and a pruned network."""
    found = tmp_path_factory.mktemp("killed")
    with contextlib.chdir(found):
        Path("net.py").write_text(NET)
        for line in (f"train --arch net.py:net {COMMON} --out dense", f"prune dense {AIMED} --out pruned"):
            assert main([*line.split(), "--format", "quiet"]) == 0
    return found


def killed(python: str, line: str, state: Path, delay: float) -> bool:
    """Start a command, kill it `delay` seconds after it saved a state; False where it came to its end before."""
    began = time.time_ns()
    process = subprocess.Popen([python, "-m", "sparsify_cli", *line.split()], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not (state.exists() and state.stat().st_mtime_ns > began):
        time.sleep(0.002)
    time.sleep(delay)
    ended = process.poll() is not None
    process.kill()
    process.wait()
    return not ended


def written(folder: str) -> dict[str, bytes]:
    """Every file of a run but its manifest, which has times in it."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in Path(folder).rglob("*") if p.is_file() and p.name != "manifest.json"}


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("regime", Shelf("regimes").names())
def test_a_killed_run_is_the_run(made: Path, monkeypatch: pytest.MonkeyPatch, python: str, regime: str, optimizer: str) -> None:
    """Weights, masks, averages, companions and the log: the same bytes as those of the run that nobody killed."""
    monkeypatch.chdir(made)
    line, name, draw = line_of(regime, optimizer), f"{regime}-{optimizer}", random.Random(f"{regime} {optimizer}")
    assert main([*f"{line} --out {name}-whole".split(), "--format", "quiet"]) == 0
    assert killed(python, f"{line} --out {name}", Path(name, "run.pt"), draw.uniform(0, 0.4)), "nothing was killed"
    killed(python, f"{line.split()[0]} --resume {name}", Path(name, "run.pt"), draw.uniform(0, 0.4))
    if Path(name, "run.pt").exists():
        assert main([*f"{line.split()[0]} --resume {name}".split(), "--format", "quiet"]) == 0
    assert written(name) == written(f"{name}-whole")
