"""Claim: two processes train the network that one process trains, with the same masks, in every regime and with both optimizers.

Source: house rule, masks are decided once and are identical on every rank; batches over all processes are the same samples.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sparsify_cli.shelf import Shelf

ROOT = Path(__file__).parents[2]

SCRIPT = """
import copy, json, os, torch
from fractions import Fraction
from pathlib import Path
from torch import nn
from sparsify_cli.objectives.cross_entropy import CrossEntropy
from sparsify_cli.shelf import Shelf
from sparsify_cli.training import guard, kept_weights
from sparsify_cli.training.engine import engine, setup
from sparsify_cli.training.loop import train
from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.run import Run
from sparsify_cli.values.samples import Samples
from sparsify_cli.values.shards import here, whole

start = engine("cpu", "64-true", os.environ["PARALLEL"])
inputs = torch.randn(96, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
samples = Samples(inputs, (inputs[:, 0] > 0).long(), tuple(map(str, range(96))))

def smallest(weights, sparsity, *, within=None):
    score = weights["0.weight"].abs() * (1 if within is None else within["0.weight"])
    mask = torch.ones(42, dtype=torch.bool)
    mask[score.flatten().argsort(stable=True)[: round(42 * sparsity)]] = False
    return MaskSet({"0.weight": mask.reshape(7, 6)})

def begun(regime, make):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 2)).double()
    forward, optimizer = setup(start, model, lambda m: make(m.parameters()))
    run = Run(model, forward, optimizer, start.backward, total=24, per_epoch=3, target=Fraction(1, 2), seed=7,
              sparsify=start.agreed(smallest) if regime.aims else None)
    if start.world > 1:
        run.settle = start.from_first
    if not regime.prunes:
        run.masks = smallest(whole(run.weights()), Fraction(1, 4))
    frozen = torch.zeros(2, 7, dtype=torch.bool)
    frozen[1, 3:5] = True
    run.frozen = guard.freeze(run.weights(), {"2.weight": frozen})
    return run

def go_on(run, regime, after_step=None):
    torch.manual_seed(start.rank)  # what comes of the global generator differs
    train(run, regime, CrossEntropy().prepare(nn.Module), samples, batch_size=32, seed=3, learning_rate=lambda *_: 0.05,
          rank=start.rank, world=start.world, stop_requested=start.everywhere(lambda: False), after_step=after_step)
    kept_weights.average(run, 0.5)
    numbers = [*whole(run.weights()).values(), *whole(kept_weights.averaged(run)).values()]
    return [torch.cat([p.flatten() for p in numbers]).tolist(), run.masks.digest(), run.masks.kept]

def held(run):
    tensors = [*run.model.parameters(), *(v for s in run.optimizer.state.values() for v in s.values() if v.ndim)]
    return sum(here(tensor).numel() for tensor in tensors), sum(tensor.numel() for tensor in tensors)

found = {}
with start.together():
    for name in Shelf("regimes").names():
        for make in (lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), lambda p: torch.optim.AdamW(p, lr=0.02)):
            regime, saved = Shelf("regimes").load(name)(), []
            run = begun(regime, make)
            keep = lambda run, _: saved.append(copy.deepcopy(run.state())) if run.step == 13 else None
            key = f"{name} {type(run.optimizer).__name__}"
            found[key] = go_on(run, regime, keep)
            sizes = held(run)
            again = begun(regime, make)
            again.restore(saved[0])
            found[key + " resumed"] = go_on(again, regime)
Path(f"held-{os.environ['PARALLEL']}{start.rank}").write_text(json.dumps(sizes))
Path(f"{os.environ['PARALLEL']}{start.rank}of{start.world}.json").write_text(json.dumps(found))
start.close()
"""


TWO = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
Ends = dict[str, Any]


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ends]:
    """What one process, each of two, and each of two that share the network ended with."""
    folder = tmp_path_factory.mktemp("processes")
    (folder / "both.py").write_text(SCRIPT)
    for launcher, parallel in (([], "ddp"), (TWO, "ddp"), (TWO, "fsdp")):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PARALLEL": parallel}
        command = [sys.executable, *launcher, str(folder / "both.py")]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=500)
        assert done.returncode == 0, done.stderr[-2000:]
    return {path.stem: json.loads(path.read_text()) for path in folder.iterdir() if path.suffix != ".py"}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_train_the_network_of_one(ends: dict[str, Ends], parallel: str) -> None:
    """Masks are the same bit for bit on 1 and 2 processes and on both ranks; weights of both ranks too, and those of one up to 1e-9.

    So they are where each process holds some rows of every weight (seven rows: the processes hold four and three of them).
    """
    alone, first, second = ends["ddp0of1"], ends[f"{parallel}0of2"], ends[f"{parallel}1of2"]
    assert len(alone) == 4 * len(Shelf("regimes").names())
    assert first == second
    for name, (weights, digest, kept) in alone.items():
        assert first[name][1:] == [digest, kept], name
        assert first[name][0] == pytest.approx(weights, abs=1e-9), name


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_resumed_run_is_the_run(ends: dict[str, Ends]) -> None:
    """Every regime, resumed at step 13 of 24, ends with the same bits: alone, on two processes, and where they share the network."""
    for ending in [ending for ending in ends if "of" in ending]:
        found = ends[ending]
        for name in found:
            assert found[name.removesuffix(" resumed") + " resumed"] == found[name.removesuffix(" resumed")], name


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_processes_share_a_network(ends: dict[str, Any]) -> None:
    """With fsdp what two processes hold of weights and of the optimizer's memory adds up to one network, four rows of seven to three."""
    (first, total), (second, same) = ends["held-fsdp0"], ends["held-fsdp1"]
    assert first + second == total == same == ends["held-ddp0"][0]
    assert second < first < 0.6 * total
