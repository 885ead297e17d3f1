"""Claim: two processes train the network that one process trains, with the same masks, in every regime and with both optimizers.

Source: house rule, masks are decided once and are identical on every rank; batches over all processes are the same samples.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sparsify_cli.shelf import Shelf

ROOT = Path(__file__).parents[2]

SCRIPT = """
import json, torch
from fractions import Fraction
from pathlib import Path
from torch import nn
from sparsify_cli.objectives.cross_entropy import CrossEntropy
from sparsify_cli.shelf import Shelf
from sparsify_cli.training.engine import engine, setup
from sparsify_cli.training.loop import train
from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.run import Run
from sparsify_cli.values.samples import Samples

start = engine("cpu", "64-true")
inputs = torch.randn(96, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
samples = Samples(inputs, (inputs[:, 0] > 0).long(), tuple(map(str, range(96))))

def smallest(weights, sparsity, *, within=None):
    score = weights["0.weight"].abs() * (1 if within is None else within["0.weight"])
    mask = torch.ones(48, dtype=torch.bool)
    mask[score.flatten().argsort(stable=True)[: round(48 * sparsity)]] = False
    return MaskSet({"0.weight": mask.reshape(8, 6)})

found = {}
for name in Shelf("regimes").names():
    for make in (lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), lambda p: torch.optim.AdamW(p, lr=0.02)):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2)).double()
        regime = Shelf("regimes").load(name)()
        forward, optimizer = setup(start, model, make(model.parameters()))
        run = Run(model, forward, optimizer, start.backward, total=24, per_epoch=3, target=Fraction(1, 2), seed=7,
                  sparsify=start.agreed(smallest) if regime.aims else None)
        if start.world > 1:
            run.settle = start.from_first
        if not regime.prunes:
            run.masks = smallest(run.weights(), Fraction(1, 4))
        torch.manual_seed(start.rank)  # what comes of the global generator differs
        train(run, regime, CrossEntropy().prepare(nn.Module), samples, batch_size=32, seed=3, learning_rate=lambda *_: 0.05,
              rank=start.rank, world=start.world, stop_requested=start.everywhere(lambda: False))
        weights = torch.cat([p.flatten() for p in run.weights().values()]).tolist()
        found[f"{name} {type(optimizer).__name__}"] = [weights, run.masks.digest(), run.masks.kept]
Path(f"rank{start.rank}of{start.world}.json").write_text(json.dumps(found))
start.close()
"""


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, list[object]], ...]:
    """What one process, and each of two, ended with."""
    folder = tmp_path_factory.mktemp("processes")
    (folder / "both.py").write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    for launcher in ([], ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]):
        command = [sys.executable, *launcher, str(folder / "both.py")]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=500)
        assert done.returncode == 0, done.stderr[-2000:]
    return tuple(json.loads((folder / name).read_text()) for name in ("rank0of1.json", "rank0of2.json", "rank1of2.json"))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_processes_train_the_network_of_one(ends: tuple[dict[str, list[object]], ...]) -> None:
    """Masks are the same bit for bit on 1 and 2 processes and on both ranks; weights of both ranks too, and those of one up to 1e-9."""
    alone, first, second = ends
    assert len(alone) == 2 * len(Shelf("regimes").names())
    assert first == second
    for name, (weights, digest, kept) in alone.items():
        assert first[name][1:] == [digest, kept], name
        assert first[name][0] == pytest.approx(weights, abs=1e-9), name
